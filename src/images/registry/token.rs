//! Tokens from an authorization server, as the distribution specification and OAuth 2 have them.
//!
//! With credentials a POST is tried first; servers that know only the older GET answer it with an error of a few known
//! statuses. The anonymous use GET, which every server knows.

use std::time::Duration;

use reqwest::{RequestBuilder, Response, StatusCode};
use serde::Deserialize;
use url::Url;

use crate::{
    Outcome,
    credentials::Proof,
    registry::{
        answer::{self, unanswered},
        hosts::is_loopback,
        session::{REDIRECTS, next, place},
        tls::HostClients,
        tokens::UNTOLD,
    },
};

/// How we name ourselves to the server.
const CLIENT_ID: &str = "coracle";
/// The largest answer, bytes. Tokens of large clouds have a few KiB.
const LARGEST: usize = 1 << 20;

/// What a token is asked for.
#[derive(Debug)]
pub(crate) struct Wanted<'a> {
    pub(crate) realm: &'a Url,
    pub(crate) service: Option<&'a str>,
    pub(crate) scope: &'a str,
    /// The registry itself speaks HTTPS.
    pub(crate) from_https: bool,
    /// How long the answer may take.
    pub(crate) patience: Duration,
}

/// A token, and for how long it is good from when it was asked for.
pub(crate) struct Token {
    pub(crate) text: String,
    pub(crate) lifetime: Duration,
}

#[derive(Deserialize)]
struct Answer {
    token: Option<String>,
    access_token: Option<String>,
    /// Seconds. Some servers write them as text.
    expires_in: Option<serde_json::Value>,
}

/// Asks for a token. What goes wrong is told of the server by name: it need not be the registry.
pub(crate) async fn token(clients: &HostClients, wanted: &Wanted<'_>, proof: Option<&Proof>) -> Result<Token, Outcome> {
    let who = format!("its token server {}", place(wanted.realm));
    got(clients, wanted, proof).await.map_err(|outcome| match outcome {
        Outcome::Refused { status, detail, wait } if detail.is_empty() => {
            Outcome::Refused { status, detail: format!("from {who}"), wait }
        }
        Outcome::Refused { status, detail, wait } => {
            Outcome::Refused { status, detail: format!("{who}: {detail}"), wait }
        }
        Outcome::Unreachable { why } => Outcome::Unreachable { why: format!("{who}: {why}") },
        Outcome::Broken { why } => Outcome::Broken { why: format!("{who}: {why}") },
        Outcome::Spoiled { why } => Outcome::Spoiled { why: format!("{who}: {why}") },
    })
}

async fn got(clients: &HostClients, wanted: &Wanted<'_>, proof: Option<&Proof>) -> Result<Token, Outcome> {
    let realm = wanted.realm;
    if !matches!(realm.scheme(), "http" | "https") || !realm.has_host() {
        return Err(Outcome::Spoiled { why: "it is no address of HTTP or HTTPS".to_owned() });
    }
    let plain = realm.scheme() == "http" && !is_loopback(realm.host_str().unwrap_or_default());
    if proof.is_some() && plain && wanted.from_https {
        return Err(Outcome::Spoiled { why: "it wants the credentials in the clear".to_owned() });
    }
    if let Some(proof) = proof {
        match ask(clients, wanted, |url| post(clients, url, wanted, proof)).await {
            Err(Outcome::Refused { status: 400 | 401 | 404 | 405, .. }) if matches!(proof, Proof::Password { .. }) => {}
            decided => return decided,
        }
    }
    ask(clients, wanted, |url| get(clients, url, wanted, proof)).await
}

fn post(clients: &HostClients, url: Url, wanted: &Wanted<'_>, proof: &Proof) -> RequestBuilder {
    let mut form = vec![("client_id", CLIENT_ID), ("scope", wanted.scope)];
    form.extend(wanted.service.map(|service| ("service", service)));
    match proof {
        Proof::Password { username, password } => {
            form.extend([("grant_type", "password"), ("username", username), ("password", password)]);
        }
        Proof::IdentityToken(token) | Proof::RegistryToken(token) => {
            form.extend([("grant_type", "refresh_token"), ("refresh_token", token.as_str())]);
        }
    }
    clients.to(&url).post(url).form(&form)
}

fn get(clients: &HostClients, url: Url, wanted: &Wanted<'_>, proof: Option<&Proof>) -> RequestBuilder {
    let mut query = vec![("scope", wanted.scope)];
    query.extend(wanted.service.map(|service| ("service", service)));
    let request = clients.to(&url).get(url);
    match proof {
        Some(Proof::Password { username, password }) => {
            query.push(("account", username));
            request.query(&query).basic_auth(username, Some(password))
        }
        _ => request.query(&query),
    }
}

/// Asks, at another address too if the server sends us on to itself by HTTPS: it is the one that the registry has
/// named, and nobody else gets to see what it is shown.
async fn ask(
    clients: &HostClients,
    wanted: &Wanted<'_>,
    request: impl Fn(Url) -> RequestBuilder,
) -> Result<Token, Outcome> {
    let mut url = wanted.realm.clone();
    for _ in 0..=REDIRECTS {
        let response = request(url.clone()).send().await.map_err(unanswered)?;
        match next(&response)? {
            None => return read(clients, response, wanted.patience).await,
            Some(next) if next.scheme() == "https" && next.host_str() == url.host_str() => url = next,
            Some(next) => return Err(Outcome::Spoiled { why: format!("it sends us on to {}", place(&next)) }),
        }
    }
    Err(Outcome::Spoiled { why: format!("it sends us on more than {REDIRECTS} times") })
}

async fn read(clients: &HostClients, response: Response, patience: Duration) -> Result<Token, Outcome> {
    if response.status() != StatusCode::OK {
        // Another server's words are between it and us: whoever made the registry name it may not be allowed to ask it.
        let is_itself = clients.is_itself(response.url());
        return Err(if is_itself { answer::refusal(response).await } else { answer::refusal_by_code(response).await });
    }
    let bytes = answer::body(response, LARGEST, patience).await?;
    let odd = || Outcome::Spoiled { why: "its answer holds no token".to_owned() };
    let answer: Answer = serde_json::from_slice(&bytes).map_err(|_| odd())?;
    let seconds = answer.expires_in.and_then(|told| told.as_u64().or_else(|| told.as_str()?.parse().ok()));
    let text = answer.access_token.or(answer.token).filter(|token| !token.is_empty()).ok_or_else(odd)?;
    Ok(Token { text, lifetime: seconds.map_or(UNTOLD, Duration::from_secs) })
}
