//! One host for the time of one pull: its client, and what it takes to be let in.
//!
//! A host may send us on to other servers, as most do for blobs. They get the request and nothing else: neither what we
//! prove ourselves with, a certificate included, nor the headers that its configuration adds, and what they demand is
//! not answered.

use std::{
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant},
};

use base64::{Engine, engine::general_purpose::STANDARD};
use reqwest::{
    Method, RequestBuilder, Response, StatusCode,
    header::{ACCEPT, AUTHORIZATION, HeaderValue, LOCATION, RANGE, WWW_AUTHENTICATE},
};
use url::Url;

use crate::{
    Outcome,
    credentials::Proof,
    registry::{
        answer::{self, unanswered},
        challenge::{Challenge, challenges},
        hosts::Host,
        prover::Prover,
        tls::HostClients,
        token::{Wanted, token},
        tokens::{Key, Tokens},
    },
};

/// How often a request is sent on.
pub(crate) const REDIRECTS: usize = 10;

/// What is asked for.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Ask<'a> {
    pub(crate) method: &'a Method,
    /// Below the repository: `manifests/latest`.
    pub(crate) what: &'a str,
    pub(crate) accept: &'a str,
    /// The first byte that is wanted.
    pub(crate) from: u64,
}

/// A host, ready to be asked for one repository.
#[derive(Debug)]
pub(crate) struct Session {
    pub(crate) host: Host,
    /// The proxy that it is asked through, without credentials.
    pub(crate) proxy: Option<String>,
    /// How long a document may take from its first byte to its last; a blob may take any time, but has to bring
    /// something in each such while.
    pub(crate) patience: Duration,
    clients: HostClients,
    repository: String,
    /// Tells a mirror which registry is meant.
    namespace: Option<String>,
    pub(crate) prover: Prover,
    authorization: Mutex<Option<HeaderValue>>,
    /// A token of an earlier pull.
    earlier: Option<HeaderValue>,
    /// Where a token is kept that others come by, and as what.
    kept: Option<(Arc<Tokens>, Key)>,
}

/// The name for which a session is made.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Name<'a> {
    /// The registry that it names, which the host may be a mirror of.
    pub(crate) domain: &'a str,
    /// What it names there.
    pub(crate) repository: &'a str,
}

impl Session {
    /// `patience` for documents.
    pub(crate) fn new(host: Host, clients: HostClients, name: Name<'_>, prover: Prover, patience: Duration) -> Self {
        Self {
            namespace: (!host.is_itself(name.domain)).then(|| name.domain.to_owned()),
            host,
            proxy: None,
            patience,
            clients,
            repository: name.repository.to_owned(),
            // Made for the registry itself: there is nothing to exchange it for.
            authorization: Mutex::new(prover.own_token().and_then(|token| secret("Bearer", token))),
            prover,
            earlier: None,
            kept: None,
        }
    }

    /// The same with what is left of earlier pulls by the same caller, if there is anything. Where the configuration
    /// says what the host is to be shown, nothing else comes before it.
    pub(crate) fn with(mut self, tokens: &Arc<Tokens>) -> Self {
        if self.host.headers.iter().any(|(name, _)| *name == AUTHORIZATION) {
            return self;
        }
        let Some(who) = self.prover.who(tokens) else { return self };
        let (host, repository) = (self.host.base.to_string(), self.repository.clone());
        let key = Key { host, repository, namespace: self.namespace.clone(), who };
        self.earlier = tokens.find(&key, Instant::now());
        self.authorization = Mutex::new(self.earlier.clone());
        self.kept = Some((tokens.clone(), key));
        self
    }

    /// The same, told of the proxy that its client goes through.
    pub(crate) fn behind(self, proxy: Option<&Url>) -> Self {
        Self { proxy: proxy.map(|proxy| format!("{}://{}", proxy.scheme(), place(proxy))), ..self }
    }

    /// Asks, proving ourselves once if the host demands it. Any answer but 401 is an answer.
    pub(crate) async fn ask(&self, ask: Ask<'_>) -> Result<Response, Outcome> {
        let (mut shown, mut response) = (self.shown(), self.send(ask).await?);
        if self.falls_short(&response, shown.as_ref()) {
            (shown, response) = (self.shown(), self.send(ask).await?);
        }
        if self.demands(&response) && self.shown() != shown {
            // Whoever asked beside us was told the same, and has got something new to show.
            (shown, response) = (self.shown(), self.send(ask).await?);
        }
        // Apart, since it is rarely needed: what waits for an answer need not have room for all of it.
        if self.demands(&response) && Box::pin(self.prove(&response, shown)).await? {
            response = self.send(ask).await?;
        }
        Ok(response)
    }

    /// Whether the host may refuse for the age of what it was shown: a token from before the caller was let in there
    /// has too few rights, and not every host says so by 401. Then it is shown no more.
    fn falls_short(&self, response: &Response, shown: Option<&HeaderValue>) -> bool {
        let refused = matches!(response.status(), StatusCode::FORBIDDEN | StatusCode::NOT_FOUND);
        let (true, Some((tokens, key)), Some(shown)) = (refused, &self.kept, shown) else { return false };
        if self.earlier.as_ref() != Some(shown) || !self.is_itself(response.url()) {
            return false;
        }
        tokens.forget(key, shown);
        let mut authorization = self.authorization.lock().unwrap_or_else(PoisonError::into_inner);
        authorization.take_if(|now| now == shown);
        true
    }

    /// What we have to show the host now.
    fn shown(&self) -> Option<HeaderValue> {
        self.authorization.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Whether the host wants us to prove ourselves. What we do that with is its own, whoever else may want it.
    fn demands(&self, response: &Response) -> bool {
        response.status() == StatusCode::UNAUTHORIZED && self.is_itself(response.url())
    }

    /// Sends a request, and on to wherever the host says.
    async fn send(&self, ask: Ask<'_>) -> Result<Response, Outcome> {
        let mut url = self.host.base.clone();
        url.set_path(&format!("{}/{}/{}", self.host.base.path(), self.repository, ask.what));
        if let Some(namespace) = &self.namespace {
            url.query_pairs_mut().append_pair("ns", namespace);
        }
        let mut seen = Vec::new();
        loop {
            let mut request = self.clients.to(&url).request(ask.method.clone(), url.clone()).header(ACCEPT, ask.accept);
            if ask.from > 0 {
                request = request.header(RANGE, format!("bytes={}-", ask.from));
            }
            let request = if self.is_itself(&url) { self.introduce(request) } else { request };
            let response = request.send().await.map_err(|error| self.met(&url, unanswered(error)))?;
            let Some(next) = next(&response)? else { return Ok(response) };
            // The content that a digest names is looked at; what a tag leads to is believed.
            if url.scheme() == "https" && next.scheme() == "http" && !ask.what.contains("sha256:") {
                let why = format!("it sends us on from HTTPS to plain HTTP at {}", place(&next));
                return Err(Outcome::Spoiled { why });
            }
            seen.push(url);
            if seen.contains(&next) {
                return Err(Outcome::Spoiled { why: format!("it sends us in a circle by {}", place(&next)) });
            }
            if seen.len() > REDIRECTS {
                return Err(Outcome::Spoiled { why: format!("it sends us on more than {REDIRECTS} times") });
            }
            url = next;
        }
    }

    /// Adds what only the host itself may see. What it has demanded comes before what its configuration adds.
    fn introduce(&self, mut request: RequestBuilder) -> RequestBuilder {
        let authorization = self.shown();
        for (name, value) in &self.host.headers {
            if *name != AUTHORIZATION || authorization.is_none() {
                request = request.header(name, value);
            }
        }
        match authorization {
            Some(authorization) => request.header(AUTHORIZATION, authorization),
            None => request,
        }
    }

    /// Gets what the host demands; whether that is something else than what was `shown` to it.
    async fn prove(&self, response: &Response, shown: Option<HeaderValue>) -> Result<bool, Outcome> {
        if let (Some((tokens, key)), Some(shown)) = (&self.kept, &shown) {
            tokens.forget(key, shown);
        }
        let headers = response.headers().get_all(WWW_AUTHENTICATE);
        let demands: Vec<Challenge> =
            headers.iter().filter_map(|header| header.to_str().ok()).flat_map(challenges).collect();
        if demands.is_empty() {
            return Ok(false);
        }
        let proof = self.prover.proof().await;
        for demand in demands {
            let authorization = match (demand, proof) {
                (Challenge::Bearer { realm, service, scope }, proof) => {
                    let Ok(realm) = realm.parse::<Url>() else { continue };
                    let default = format!("repository:{}:pull", self.repository);
                    let wanted = Wanted {
                        realm: &realm,
                        service: service.as_deref(),
                        scope: scope.as_deref().filter(|scope| !scope.is_empty()).unwrap_or(&default),
                        from_https: self.host.base.scheme() == "https",
                        patience: self.patience,
                    };
                    // A token that the registry itself refused is nothing for its token server.
                    if matches!(proof, Some(Proof::RegistryToken(_))) {
                        return Ok(false);
                    }
                    let asked = Instant::now();
                    let got = token(&self.clients, &wanted, proof).await.map_err(|outcome| self.troubled(outcome))?;
                    let authorization = secret("Bearer", &got.text);
                    self.keep(authorization.as_ref(), asked, got.lifetime);
                    authorization
                }
                (Challenge::Basic, Some(Proof::Password { username, password })) => {
                    secret("Basic", &STANDARD.encode(format!("{username}:{password}")))
                }
                (Challenge::Basic, _) => continue,
            };
            let Some(authorization) = authorization else { continue };
            let is_new = shown.as_ref() != Some(&authorization);
            *self.authorization.lock().unwrap_or_else(PoisonError::into_inner) = Some(authorization);
            return Ok(is_new);
        }
        Ok(false)
    }

    /// Keeps a token for the pulls to come. One that was given to anybody, since a helper failed, is for this pull
    /// only.
    fn keep(&self, authorization: Option<&HeaderValue>, asked: Instant, lifetime: Duration) {
        if let (Some((tokens, key)), Some(authorization), None) = (&self.kept, authorization, self.prover.trouble()) {
            tokens.keep(key.clone(), authorization.clone(), asked, lifetime);
        }
    }

    /// What a refusal says. Of another server, to which the host sent us on, only the status is told: what it answers
    /// is between it and us, and whoever made the host name it may not be allowed to ask it.
    pub(crate) async fn refusal(&self, response: Response) -> Outcome {
        if self.is_itself(response.url()) {
            return self.troubled(answer::refusal(response).await);
        }
        let detail = format!("from {}, to which it sends us on", place(response.url()));
        Outcome::Refused { status: response.status().as_u16(), detail, wait: answer::wait(&response) }
    }

    /// Tells of a helper that failed to whoever was not let in.
    fn troubled(&self, outcome: Outcome) -> Outcome {
        match (outcome, self.prover.trouble()) {
            (Outcome::Refused { status: status @ (401 | 403), detail, wait }, Some(trouble)) => {
                let detail = if detail.is_empty() { trouble.to_owned() } else { format!("{detail}; {trouble}") };
                Outcome::Refused { status, detail, wait }
            }
            (outcome, _) => outcome,
        }
    }

    /// Tells of another server, if that is whom we have met.
    fn met(&self, url: &Url, outcome: Outcome) -> Outcome {
        match outcome {
            _ if self.is_itself(url) => outcome,
            Outcome::Unreachable { why } => {
                Outcome::Unreachable { why: format!("it sends us on to {}: {why}", place(url)) }
            }
            Outcome::Broken { why } => Outcome::Broken { why: format!("it sends us on to {}: {why}", place(url)) },
            other => other,
        }
    }

    /// Whether an address is at the host: the same protocol, name and port.
    fn is_itself(&self, url: &Url) -> bool {
        self.clients.is_itself(url)
    }
}

/// Host and port of an address: the rest may hold a signature.
pub(crate) fn place(url: &Url) -> String {
    let host = url.host_str().unwrap_or_default();
    url.port().map_or_else(|| host.to_owned(), |port| format!("{host}:{port}"))
}

/// Where an answer sends us on to, if it does.
pub(crate) fn next(response: &Response) -> Result<Option<Url>, Outcome> {
    if !matches!(response.status().as_u16(), 301 | 302 | 303 | 307 | 308) {
        return Ok(None);
    }
    let location = response.headers().get(LOCATION).and_then(|location| location.to_str().ok());
    let next = location.and_then(|location| response.url().join(location).ok());
    match next {
        Some(next) if matches!(next.scheme(), "http" | "https") && next.has_host() => Ok(Some(next)),
        _ => Err(Outcome::Spoiled { why: "it sends us on without an address of HTTP or HTTPS".to_owned() }),
    }
}

fn secret(scheme: &str, text: &str) -> Option<HeaderValue> {
    let mut value = HeaderValue::from_str(&format!("{scheme} {text}")).ok()?;
    value.set_sensitive(true);
    Some(value)
}
