//! What a caller gives to prove itself to a registry. Never printed, never kept after the pull; tokens that are got for
//! it are, for a while (see `registry::tokens`).

use std::fmt;

use base64::{Engine, engine::general_purpose::STANDARD};

use crate::{Error, Result};

/// The fields of the CRI's `AuthConfig`, as they came.
#[derive(Clone, Default)]
pub struct AuthFields {
    /// User name.
    pub username: String,
    /// Password.
    pub password: String,
    /// Base 64 of `user:password`, as a docker configuration file has it.
    pub auth: String,
    /// Host, perhaps with scheme and path, that the credentials are for; empty is the host of the reference.
    pub server_address: String,
    /// Refresh token of OAuth 2.
    pub identity_token: String,
    /// Token that the registry itself takes.
    pub registry_token: String,
}

/// How a caller proves itself.
#[derive(Clone, PartialEq, Eq, Hash)]
pub(crate) enum Proof {
    Password { username: String, password: String },
    IdentityToken(String),
    RegistryToken(String),
}

/// Credentials for one registry.
#[derive(Clone, PartialEq, Eq, Hash)]
pub struct Credentials {
    pub(crate) proof: Proof,
    /// Host and port that they are for; `None` is the host of the reference.
    server: Option<String>,
}

impl Credentials {
    /// Reads the fields; `None` when they are all empty: the caller is anonymous.
    pub fn read(fields: AuthFields) -> Result<Option<Self>> {
        let AuthFields { username, password, auth, server_address, identity_token, registry_token } = fields;
        let proof = if !registry_token.is_empty() {
            Proof::RegistryToken(registry_token)
        } else if !identity_token.is_empty() {
            Proof::IdentityToken(identity_token)
        } else if !username.is_empty() {
            Proof::Password { username, password }
        } else if !auth.is_empty() {
            decode(&auth)?
        } else {
            return Ok(None);
        };
        let server = (!server_address.is_empty()).then(|| host_of(&server_address));
        Ok(Some(Self { proof, server }))
    }

    /// Whether they may be shown to `host`, asked for a name of `domain`. To the host they were made for and no other:
    /// a mirror never sees them.
    pub(crate) fn are_for(&self, host: &str, domain: &str) -> bool {
        let wanted = self.server.as_deref().unwrap_or(domain);
        canonical(wanted) == canonical(host)
    }
}

impl fmt::Debug for Credentials {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Credentials(…)")
    }
}

impl fmt::Debug for Proof {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Proof(…)")
    }
}

impl fmt::Debug for AuthFields {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("AuthFields(…)")
    }
}

fn decode(auth: &str) -> Result<Proof> {
    let bytes = STANDARD
        .decode(auth.trim())
        .map_err(|_| Error::Credentials { why: "the field auth is not base 64 of user:password" })?;
    let text = String::from_utf8(bytes)
        .map_err(|_| Error::Credentials { why: "the field auth does not hold text after base 64" })?;
    match text.split_once(':') {
        // Some tools pad the password with NULs.
        Some((username, password)) => {
            Ok(Proof::Password { username: username.to_owned(), password: password.trim_end_matches('\0').to_owned() })
        }
        None => Err(Error::Credentials { why: "the field auth has no colon after base 64" }),
    }
}

/// `https://index.docker.io/v1/` → `index.docker.io`.
fn host_of(address: &str) -> String {
    let rest = address.split_once("://").map_or(address, |(_, rest)| rest);
    rest.split(['/', '?']).next().unwrap_or_default().to_ascii_lowercase()
}

/// The many spellings of Docker's registry are one.
pub(crate) fn canonical(host: &str) -> &str {
    match host {
        "docker.io" | "index.docker.io" | "registry-1.docker.io" | "www.docker.io" => "docker.io",
        other => other.strip_suffix(":443").unwrap_or(other),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(change: impl FnOnce(&mut AuthFields)) -> Option<Credentials> {
        let mut fields = AuthFields::default();
        change(&mut fields);
        Credentials::read(fields).unwrap()
    }

    #[test]
    fn the_fields_of_a_request_become_one_proof() {
        assert_eq!(read(|_| {}), None);
        let password = Proof::Password { username: "u".into(), password: "p:q".into() };
        let encoded = STANDARD.encode("u:p:q\0\0");
        assert_eq!(read(|f| f.auth = encoded).unwrap().proof, password);
        assert_eq!(read(|f| f.registry_token = "t".into()).unwrap().proof, Proof::RegistryToken("t".into()));
        for wrong in ["%", "dXNlcg==", "//79"] {
            let fields = AuthFields { auth: wrong.to_owned(), ..AuthFields::default() };
            assert!(Credentials::read(fields).is_err(), "{wrong}");
        }
    }

    #[test]
    fn credentials_are_shown_only_to_the_host_they_are_for() {
        let free = read(|f| f.username = "u".into()).unwrap();
        assert!(free.are_for("r.io:5000", "r.io:5000"));
        assert!(free.are_for("registry-1.docker.io", "docker.io"));
        assert!(!free.are_for("mirror.io", "r.io"));
        let bound = read(|f| {
            f.username = "u".into();
            f.server_address = "https://index.docker.io/v1/".into();
        })
        .unwrap();
        assert!(bound.are_for("registry-1.docker.io", "docker.io"));
        assert!(!bound.are_for("r.io", "r.io"));
    }

    #[test]
    fn secrets_are_not_printed() {
        let secret = read(|f| {
            f.username = "u".into();
            f.password = "hunter2".into();
        });
        assert!(!format!("{secret:?}").contains("hunter2"));
    }
}
