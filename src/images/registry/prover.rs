//! What we prove ourselves with to one host, and where it comes from: the caller, the node's own file, a helper.
//!
//! A helper is asked when the host demands something, not before. One that fails makes us anonymous; that is told if
//! the host then does not let us in.

use link::Programs;
use tokio::sync::OnceCell;

use crate::{
    CredentialSource, Credentials, Result,
    credentials::Proof,
    docker_config::{DockerConfig, Entry, Helper},
    helper,
    registry::{
        hosts::Host,
        session::Name,
        tokens::{Tokens, Who},
    },
};

/// See the head of this file.
#[derive(Debug)]
pub(crate) struct Prover {
    source: CredentialSource,
    helper: Option<(Helper, Programs)>,
    proof: OnceCell<(Option<Proof>, Option<String>)>,
}

impl Prover {
    /// For a host that is asked for a name. The caller's credentials come first, if they are for this very host.
    pub(crate) fn new(
        host: &Host,
        name: Name<'_>,
        credentials: Option<&Credentials>,
        node: Option<&DockerConfig>,
        programs: &Programs,
    ) -> Result<Self> {
        if let Some(credentials) = credentials.filter(|credentials| credentials.are_for(&host.name(), name.domain)) {
            return Ok(Self::known(CredentialSource::Request, Some(credentials.proof.clone())));
        }
        let Some(node) = node else { return Ok(Self::known(CredentialSource::None, None)) };
        let file = node.path().to_owned();
        Ok(match node.find(&host.name(), name.repository)? {
            None => Self::known(CredentialSource::None, None),
            Some(Entry::Proof { proof, key }) => Self::known(CredentialSource::Entry { file, key }, Some(proof)),
            Some(Entry::Helper(helper)) => {
                let source = CredentialSource::Helper { file, name: helper.name.clone() };
                Self { source, helper: Some((helper, programs.clone())), proof: OnceCell::new() }
            }
        })
    }

    fn known(source: CredentialSource, proof: Option<Proof>) -> Self {
        Self { source, helper: None, proof: OnceCell::new_with(Some((proof, None))) }
    }

    /// Where it comes from.
    pub(crate) fn source(&self) -> &CredentialSource {
        &self.source
    }

    /// A token that the host itself takes, and that no server has to give for something else.
    pub(crate) fn own_token(&self) -> Option<&str> {
        match self.proof.get() {
            Some((Some(Proof::RegistryToken(token)), _)) => Some(token),
            _ => None,
        }
    }

    /// Who it is that proves himself, told apart by `tokens`; without asking a helper.
    pub(crate) fn who(&self, tokens: &Tokens) -> Option<Who> {
        match (&self.helper, self.proof.get()) {
            (Some((helper, _)), _) => tokens.who_is_helped(helper),
            (None, proof) => tokens.who(proof.and_then(|(proof, _)| proof.as_ref())),
        }
    }

    /// What there is to show, asking a helper the first time.
    pub(crate) async fn proof(&self) -> Option<&Proof> {
        let ask = || async {
            let Some((helper, programs)) = &self.helper else { return (None, None) };
            match helper::ask(programs, helper).await {
                Ok(proof) => (proof, None),
                Err(why) => {
                    tracing::warn!(server = helper.server, why, "go on without credentials");
                    (None, Some(why))
                }
            }
        };
        self.proof.get_or_init(ask).await.0.as_ref()
    }

    /// Why there is nothing to show, if there should be.
    pub(crate) fn trouble(&self) -> Option<&str> {
        self.proof.get().and_then(|(_, trouble)| trouble.as_deref())
    }
}
