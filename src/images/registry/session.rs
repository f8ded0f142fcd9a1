//! One host for the time of one pull: its client, and what it takes to be let in.

use std::sync::{Mutex, PoisonError};

use base64::{Engine, engine::general_purpose::STANDARD};
use reqwest::{
    Client, Method, Response, StatusCode,
    header::{ACCEPT, AUTHORIZATION, HeaderName, HeaderValue, WWW_AUTHENTICATE},
};
use url::Url;

use crate::{
    Outcome,
    credentials::Proof,
    registry::{
        challenge::{Challenge, challenges},
        hosts::Host,
        outcome,
        token::{Wanted, token},
        unreachable,
    },
};

/// What is asked for.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Ask<'a> {
    pub(crate) method: &'a Method,
    /// Below the repository: `manifests/latest`.
    pub(crate) what: &'a str,
    pub(crate) accept: &'a str,
}

/// A host, ready to be asked for one repository.
#[derive(Debug)]
pub(crate) struct Session {
    pub(crate) host: Host,
    client: Client,
    repository: String,
    /// Tells a mirror which registry is meant.
    namespace: Option<String>,
    proof: Option<Proof>,
    authorization: Mutex<Option<HeaderValue>>,
}

impl Session {
    /// `proof` only if it is meant for this very host.
    pub(crate) fn new(host: Host, client: Client, repository: &str, domain: &str, proof: Option<Proof>) -> Self {
        let name = host.name();
        let itself = name == domain || (domain == "docker.io" && name == "registry-1.docker.io");
        let authorization = match &proof {
            // Made for the registry itself: there is nothing to exchange it for.
            Some(Proof::RegistryToken(token)) => secret("Bearer", token),
            _ => None,
        };
        Self {
            host,
            client,
            repository: repository.to_owned(),
            namespace: (!itself).then(|| domain.to_owned()),
            proof,
            authorization: Mutex::new(authorization),
        }
    }

    /// Asks, proving ourselves once if the host demands it. Any answer but 401 is an answer.
    pub(crate) async fn ask(&self, ask: Ask<'_>) -> Result<Response, Outcome> {
        let response = self.send(ask).await?;
        if response.status() != StatusCode::UNAUTHORIZED {
            return Ok(response);
        }
        if !self.prove(&response).await? {
            return Ok(response);
        }
        self.send(ask).await
    }

    async fn send(&self, ask: Ask<'_>) -> Result<Response, Outcome> {
        let mut url = self.host.base.clone();
        url.set_path(&format!("{}/{}/{}", self.host.base.path(), self.repository, ask.what));
        if let Some(namespace) = &self.namespace {
            url.query_pairs_mut().append_pair("ns", namespace);
        }
        let mut request = self.client.request(ask.method.clone(), url).header(ACCEPT, ask.accept);
        for (name, value) in &self.host.headers {
            if let (Ok(name), Ok(value)) = (name.parse::<HeaderName>(), value.parse::<HeaderValue>()) {
                request = request.header(name, value);
            }
        }
        let authorization = self.authorization.lock().unwrap_or_else(PoisonError::into_inner).clone();
        if let Some(authorization) = authorization {
            request = request.header(AUTHORIZATION, authorization);
        }
        request.send().await.map_err(unreachable)
    }

    /// Gets what the host demands; whether there is anything new to show it.
    async fn prove(&self, response: &Response) -> Result<bool, Outcome> {
        let headers = response.headers().get_all(WWW_AUTHENTICATE);
        let demands: Vec<Challenge> =
            headers.iter().filter_map(|header| header.to_str().ok()).flat_map(challenges).collect();
        for demand in demands {
            let authorization = match (demand, &self.proof) {
                (Challenge::Bearer { realm, service, scope }, proof) => {
                    let Ok(realm) = realm.parse::<Url>() else { continue };
                    let default = format!("repository:{}:pull", self.repository);
                    let wanted = Wanted {
                        realm: &realm,
                        service: service.as_deref(),
                        scope: scope.as_deref().filter(|scope| !scope.is_empty()).unwrap_or(&default),
                        from_https: self.host.base.scheme() == "https",
                    };
                    // A token that the registry itself refused is nothing for its token server.
                    if matches!(proof, Some(Proof::RegistryToken(_))) {
                        return Ok(false);
                    }
                    secret("Bearer", &token(&self.client, &wanted, proof.as_ref()).await?)
                }
                (Challenge::Basic, Some(Proof::Password { username, password })) => {
                    secret("Basic", &STANDARD.encode(format!("{username}:{password}")))
                }
                (Challenge::Basic, _) => continue,
            };
            let Some(authorization) = authorization else { continue };
            let mut held = self.authorization.lock().unwrap_or_else(PoisonError::into_inner);
            let new = held.as_ref() != Some(&authorization);
            *held = Some(authorization);
            return Ok(new);
        }
        Ok(false)
    }

    /// What a refusal says. Of another server, to which the host sent us on, only the status is told: what it answers
    /// is between it and us, and whoever made the host name it may not be allowed to ask it.
    pub(crate) async fn refusal(&self, response: Response) -> Outcome {
        let place = |url: &Url| (url.host_str().map(str::to_owned), url.port_or_known_default());
        if place(response.url()) != place(&self.host.base) {
            return Outcome::Refused { status: response.status().as_u16(), detail: String::new() };
        }
        outcome(response).await
    }
}

fn secret(scheme: &str, text: &str) -> Option<HeaderValue> {
    let mut value = HeaderValue::from_str(&format!("{scheme} {text}")).ok()?;
    value.set_sensitive(true);
    Some(value)
}
