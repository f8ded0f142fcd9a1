//! Tells how a pull would go, by the very sessions that it would use.

use std::time::Instant;

use crate::{
    Asking, Explanation, HostAnswer, HostExplained,
    registry::{Registry, session::Session},
};

impl Registry {
    /// See [`crate::Images::explain`]. One host after the other, each once: what is told is what it says now.
    pub(crate) async fn explain(&self, asking: Asking) -> Explanation {
        let mut hosts = Vec::new();
        for session in &self.sessions {
            let answer = match asking {
                Asking::Everybody if self.may_tell(session, None) => Some(self.answer(session).await),
                _ => None,
            };
            hosts.push(explained(session, answer));
        }
        Explanation { reference: self.reference.to_string(), from: self.from.clone(), hosts }
    }

    async fn answer(&self, session: &Session) -> HostAnswer {
        let begun = Instant::now();
        let found = self.resolve_at(session).await.map(|resolved| (resolved.digest, resolved.media_type));
        HostAnswer { found, took: begun.elapsed() }
    }
}

fn explained(session: &Session, answer: Option<HostAnswer>) -> HostExplained {
    let host = &session.host;
    HostExplained {
        host: host.name(),
        address: host.base.to_string(),
        pull: host.pull,
        resolve: host.resolve,
        skip_verify: host.skip_verify,
        authorities: host.ca.clone(),
        certificates: host.client.iter().map(|(certificate, _)| certificate.clone()).collect(),
        headers: host.headers.iter().map(|(name, _)| name.to_string()).collect(),
        proxy: session.proxy.clone(),
        credentials: session.prover.source().clone(),
        answer,
    }
}
