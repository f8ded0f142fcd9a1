//! Tokens from an authorization server, as the distribution specification and OAuth 2 have them.
//!
//! With credentials a POST is tried first; servers that know only the older GET answer it with an error of a few known
//! statuses. The anonymous use GET, which every server knows.

use reqwest::{Client, RequestBuilder, StatusCode};
use serde::Deserialize;
use url::Url;

use crate::{
    Outcome,
    credentials::Proof,
    registry::{hosts::is_loopback, outcome, unreachable},
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
}

#[derive(Deserialize)]
struct Answer {
    token: Option<String>,
    access_token: Option<String>,
}

/// Asks for a token.
pub(crate) async fn token(client: &Client, wanted: &Wanted<'_>, proof: Option<&Proof>) -> Result<String, Outcome> {
    let realm = wanted.realm;
    let plain = realm.scheme() == "http" && !is_loopback(realm.host_str().unwrap_or_default());
    if proof.is_some() && plain && wanted.from_https {
        let why = format!("its token server {realm} wants the credentials in the clear");
        return Err(Outcome::Unreachable { why });
    }
    if let Some(proof) = proof {
        match ask(post(client, wanted, proof)).await {
            Err(Outcome::Refused { status: 400 | 401 | 404 | 405, .. }) if matches!(proof, Proof::Password { .. }) => {}
            decided => return decided,
        }
    }
    ask(get(client, wanted, proof)).await
}

fn post(client: &Client, wanted: &Wanted<'_>, proof: &Proof) -> RequestBuilder {
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
    client.post(wanted.realm.clone()).form(&form)
}

fn get(client: &Client, wanted: &Wanted<'_>, proof: Option<&Proof>) -> RequestBuilder {
    let mut query = vec![("scope", wanted.scope)];
    query.extend(wanted.service.map(|service| ("service", service)));
    let request = client.get(wanted.realm.clone());
    match proof {
        Some(Proof::Password { username, password }) => {
            query.push(("account", username));
            request.query(&query).basic_auth(username, Some(password))
        }
        _ => request.query(&query),
    }
}

async fn ask(request: RequestBuilder) -> Result<String, Outcome> {
    let response = request.send().await.map_err(unreachable)?;
    if response.status() != StatusCode::OK {
        return Err(outcome(response).await);
    }
    let bytes = super::body(response, LARGEST).await?;
    let odd = || Outcome::Unreachable { why: "its token server's answer holds no token".to_owned() };
    let answer: Answer = serde_json::from_slice(&bytes).map_err(|_| odd())?;
    answer.access_token.or(answer.token).filter(|token| !token.is_empty()).ok_or_else(odd)
}
