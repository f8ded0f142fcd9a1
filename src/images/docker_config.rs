//! The node's own credentials: a configuration file as Docker and its kin write it.
//!
//! `auths` holds credentials, `credHelpers` and `credsStore` name programs that do. Keys are matched as the kubelet
//! matches those of pull secrets: by host, port and the beginning of the path, `*` in a label of the host; the longest
//! path wins. An entry for a host comes before its helper, that before the store for all hosts.

use std::{
    cmp::Reverse,
    collections::BTreeMap,
    fmt, fs, io,
    path::{Path, PathBuf},
};

use serde::Deserialize;

use crate::{
    Error, Result,
    credentials::{AuthFields, Credentials, Proof, canonical},
};

/// The largest such file, bytes.
const LARGEST: u64 = 1 << 20;
/// What Docker calls its own registry where it asks a helper for it.
const DOCKERS_OWN: &str = "https://index.docker.io/v1/";

/// A file that was read.
#[derive(Debug)]
pub(crate) struct DockerConfig {
    path: PathBuf,
    content: Content,
}

/// What a file has for a host.
#[derive(Debug)]
pub(crate) enum Entry {
    /// Credentials.
    Proof {
        proof: Proof,
        /// Under which key.
        key: String,
    },
    /// A program that has them.
    Helper(Helper),
}

/// A credential helper to be asked for one host.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Helper {
    /// The end of its program's name: `docker-credential-<name>`.
    pub(crate) name: String,
    /// What it is asked for.
    pub(crate) server: String,
}

#[derive(Deserialize, Default)]
#[serde(default, rename_all = "camelCase")]
struct Content {
    auths: BTreeMap<String, Auth>,
    cred_helpers: BTreeMap<String, String>,
    creds_store: String,
}

#[derive(Deserialize, Default)]
#[serde(default, rename_all = "lowercase")]
struct Auth {
    username: String,
    password: String,
    auth: String,
    identitytoken: String,
    registrytoken: String,
}

impl fmt::Debug for Content {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Content(…)")
    }
}

impl DockerConfig {
    /// Reads a file; `None` when there is none. It is read again at each pull.
    pub(crate) fn read(path: &Path) -> Result<Option<Self>> {
        let refuse = |why: String| Error::Hosts { path: path.to_owned(), why };
        let text = match fs::metadata(path) {
            Ok(meta) if meta.len() > LARGEST => return Err(refuse("it is larger than 1 MiB".to_owned())),
            Ok(_) => fs::read(path).map_err(|error| refuse(error.to_string()))?,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(refuse(error.to_string())),
        };
        // Of the parser's own words only the place: they may repeat a secret.
        let content = serde_json::from_slice(&text).map_err(|error: serde_json::Error| {
            let (line, column) = (error.line(), error.column());
            refuse(format!("line {line}, column {column}: it is not a Docker configuration file"))
        })?;
        Ok(Some(Self { path: path.to_owned(), content }))
    }

    /// Where it lies.
    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// What it has for a repository at a host.
    pub(crate) fn find(&self, host: &str, repository: &str) -> Result<Option<Entry>> {
        let mut matching: Vec<_> = self
            .content
            .auths
            .iter()
            .filter_map(|(key, auth)| Some((Key::of(key).rank(host, repository)?, key, auth)))
            .collect();
        matching.sort_by_key(|(rank, ..)| Reverse(*rank));
        for (_, key, auth) in matching {
            // Beside a store Docker leaves an empty entry for each host.
            if let Some(proof) = self.proof(key, auth)? {
                return Ok(Some(Entry::Proof { proof, key: key.clone() }));
            }
        }
        let named = self.content.cred_helpers.iter().find(|(key, _)| canonical(&Key::of(key).host) == canonical(host));
        let helper = named.map(|(_, helper)| helper).unwrap_or(&self.content.creds_store);
        if helper.is_empty() {
            return Ok(None);
        }
        if !helper.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-_.".contains(&byte)) {
            return Err(self.refuse(format!("{helper:?} cannot be the name of a credential helper")));
        }
        let server = if canonical(host) == "docker.io" { DOCKERS_OWN.to_owned() } else { host.to_owned() };
        Ok(Some(Entry::Helper(Helper { name: helper.clone(), server })))
    }

    fn proof(&self, key: &str, auth: &Auth) -> Result<Option<Proof>> {
        let fields = AuthFields {
            username: auth.username.clone(),
            password: auth.password.clone(),
            auth: auth.auth.clone(),
            server_address: String::new(),
            identity_token: auth.identitytoken.clone(),
            registry_token: auth.registrytoken.clone(),
        };
        match Credentials::read(fields) {
            Ok(read) => Ok(read.map(|credentials| credentials.proof)),
            Err(Error::Credentials { why }) => Err(self.refuse(format!("auths.{key:?}: {why}"))),
            Err(other) => Err(other),
        }
    }

    fn refuse(&self, why: String) -> Error {
        Error::Hosts { path: self.path.clone(), why }
    }
}

/// A key of `auths`, taken apart.
struct Key {
    host: String,
    /// Without slashes at its ends; empty is every path.
    path: String,
}

impl Key {
    fn of(text: &str) -> Self {
        let rest = text.split_once("://").map_or(text, |(_, rest)| rest);
        let (host, path) = rest.split_once('/').unwrap_or((rest, ""));
        // Docker's oldest form names the API instead of a path.
        let path = match path.trim_matches('/') {
            "v1" | "v2" => "",
            path => path,
        };
        Self { host: host.to_ascii_lowercase(), path: path.to_owned() }
    }

    /// How well it fits; `None` if it does not. More is better.
    fn rank(&self, host: &str, repository: &str) -> Option<(usize, bool)> {
        let below = repository.strip_prefix(&self.path)?;
        let path_fits = self.path.is_empty() || below.is_empty() || below.starts_with('/');
        let exact = canonical(&self.host) == canonical(host);
        (path_fits && (exact || globs(&self.host, host))).then_some((self.path.len(), exact))
    }
}

/// Whether a host fits a pattern such as `*.example.io:5000`: label by label, the port as it stands.
fn globs(pattern: &str, host: &str) -> bool {
    if !pattern.contains('*') {
        return false;
    }
    let split = |text: &str| -> (Vec<String>, String) {
        let (name, port) = text.split_once(':').unwrap_or((text, ""));
        (name.split('.').map(str::to_owned).collect(), port.to_owned())
    };
    let ((patterns, pattern_port), (labels, port)) = (split(pattern), split(host));
    pattern_port == port
        && patterns.len() == labels.len()
        && patterns.iter().zip(&labels).all(|(pattern, label)| label_globs(pattern, label))
}

/// Whether a label fits one with `*` in it.
fn label_globs(pattern: &str, label: &str) -> bool {
    let mut parts = pattern.split('*');
    let Some(mut rest) = parts.next().and_then(|first| label.strip_prefix(first)) else { return false };
    let parts: Vec<_> = parts.collect();
    let Some((last, middle)) = parts.split_last() else { return rest.is_empty() };
    for part in middle {
        match rest.find(part) {
            Some(at) => rest = &rest[at + part.len()..],
            None => return false,
        }
    }
    rest.ends_with(last)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn config(text: &str) -> DockerConfig {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("config.json");
        fs::write(&path, text).unwrap();
        DockerConfig::read(&path).unwrap().unwrap()
    }

    fn found(config: &DockerConfig, host: &str, repository: &str) -> Option<String> {
        match config.find(host, repository).unwrap()? {
            Entry::Proof { proof: Proof::Password { username, .. }, .. } => Some(username),
            Entry::Proof { key, .. } => Some(key),
            Entry::Helper(Helper { name, server }) => Some(format!("{name} for {server}")),
        }
    }

    #[test]
    fn the_entry_that_fits_best_is_found() {
        let config = config(
            r#"{"auths": {
                "r.io": {"username": "all", "password": "x"},
                "r.io/team": {"username": "team", "password": "x"},
                "https://r.io/team/inner/": {"username": "inner", "password": "x"},
                "*.cloud.io:5000": {"username": "glob", "password": "x"},
                "a.cloud.io:5000": {"username": "exact", "password": "x"},
                "https://index.docker.io/v1/": {"auth": "aHViOng="},
                "token.io": {"identitytoken": "t"},
                "empty.io": {}
            }, "HttpHeaders": {"x": "y"}}"#,
        );
        for (host, repository, wanted) in [
            ("r.io", "x", Some("all")),
            ("r.io", "team/x", Some("team")),
            ("r.io", "team", Some("team")),
            ("r.io", "teams/x", Some("all")),
            ("r.io", "team/inner/x", Some("inner")),
            ("r.io:443", "x", Some("all")),
            ("r.io:5000", "x", None),
            ("b.cloud.io:5000", "x", Some("glob")),
            ("a.cloud.io:5000", "x", Some("exact")),
            ("a.b.cloud.io:5000", "x", None),
            ("b.cloud.io", "x", None),
            ("registry-1.docker.io", "library/x", Some("hub")),
            ("docker.io", "library/x", Some("hub")),
            ("token.io", "x", Some("token.io")),
            ("empty.io", "x", None),
            ("other.io", "x", None),
        ] {
            assert_eq!(found(&config, host, repository).as_deref(), wanted, "{host}/{repository}");
        }
    }

    #[test]
    fn helpers_stand_in_for_what_no_entry_has() {
        let config = config(
            r#"{"auths": {"a.io": {}, "b.io": {"username": "b", "password": "x"}},
                "credHelpers": {"a.io": "one", "b.io": "one", "docker.io": "hub"}, "credsStore": "all"}"#,
        );
        for (host, wanted) in [
            ("a.io", "one for a.io"),
            ("b.io", "b"),
            ("c.io:5000", "all for c.io:5000"),
            ("registry-1.docker.io", "hub for https://index.docker.io/v1/"),
        ] {
            assert_eq!(found(&config, host, "x").as_deref(), Some(wanted), "{host}");
        }
        for name in ["../../bin/sh", "a b", "x/y"] {
            let config = super::tests::config(&serde_json::json!({ "credsStore": name }).to_string());
            assert!(config.find("r.io", "x").is_err(), "{name}");
        }
    }

    #[test]
    fn what_is_wrong_is_named_and_no_secret_repeated() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("config.json");
        assert!(DockerConfig::read(&path).unwrap().is_none());
        for text in [r#"{"auths": "hunter2"}"#, r#"{"auths": {"r.io": {"auth": ["hunter2"]}}}"#, "hunter2", ""] {
            fs::write(&path, text).unwrap();
            let error = DockerConfig::read(&path).unwrap_err().to_string();
            assert!(error.contains("config.json: line ") && !error.contains("hunter2"), "{error}");
        }
        fs::write(&path, r#"{"auths": {"r.io": {"auth": "hunter2!"}}}"#).unwrap();
        let error = DockerConfig::read(&path).unwrap().unwrap().find("r.io", "x").unwrap_err().to_string();
        assert!(error.contains("r.io") && !error.contains("hunter2"), "{error}");
    }

    #[test]
    fn a_star_stands_for_a_part_of_a_label() {
        for (pattern, label, fits) in [
            ("*", "x", true),
            ("a*", "abc", true),
            ("*c", "abc", true),
            ("a*c", "abc", true),
            ("a*b*c", "a1b2c", true),
            ("a*b*c", "a1c", false),
            ("a*a", "a", false),
            ("a*", "b", false),
        ] {
            assert_eq!(label_globs(pattern, label), fits, "{pattern} {label}");
        }
    }
}
