//! Which runtime runs a pod's containers: the `[runtime]` table, and what a container's record keeps of it.
//!
//! A pod names a handler (a RuntimeClass's `handler`). Without one, or by the name `coracle`, its containers are run by
//! this engine itself; a handler of the table names a program of the host that keeps to the OCI runtime specification.

use std::{
    collections::BTreeMap,
    fs,
    path::{Path, PathBuf},
};

use nix::unistd::AccessFlags;
use serde::{Deserialize, Serialize};

use crate::{Error, Result};

/// The name by which pods may ask for this engine itself.
const NATIVE: &str = "coracle";

/// Longest name of a handler, bytes: Kubernetes takes DNS labels.
const LONGEST_NAME: usize = 63;

/// The `[runtime]` table of the configuration file.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct RuntimeConfig {
    /// Handlers by the name that a RuntimeClass gives.
    pub handlers: BTreeMap<String, Handler>,
}

/// Another runtime.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Handler {
    /// How it is spoken to.
    #[serde(rename = "type")]
    pub kind: Kind,
    /// Its program. Absolute.
    pub path: PathBuf,
}

/// How a runtime is spoken to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Kind {
    /// The command line of runc: create, start, kill, delete, exec.
    Oci,
}

/// What runs a container. Goes into its record, where a missing one is `Native`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Backend {
    /// This engine.
    #[default]
    Native,
    /// The runtime at this path.
    Oci(PathBuf),
}

impl RuntimeConfig {
    /// Refuses what can never work, naming the setting.
    pub fn check(&self) -> Result<()> {
        self.handlers.iter().try_for_each(|(name, handler)| {
            let invalid = |value: &Path, want| {
                Err(Error::Handler { name: name.clone(), value: value.display().to_string(), want })
            };
            let is_label = !name.is_empty()
                && name.len() <= LONGEST_NAME
                && name.bytes().all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-')
                && !name.starts_with('-')
                && !name.ends_with('-');
            let path = handler.path.as_path();
            if !is_label {
                invalid(Path::new(name), "a name of lower case letters, digits and hyphens, at most 63 of them")
            } else if name == NATIVE {
                invalid(Path::new(name), "another name: this one stands for the engine itself")
            } else if !path.is_absolute() {
                invalid(path, "an absolute path")
            } else if !fs::metadata(path).is_ok_and(|about| about.is_file()) {
                invalid(path, "a program that is there")
            } else if nix::unistd::access(path, AccessFlags::X_OK).is_err() {
                invalid(path, "a program that may be executed")
            } else {
                Ok(())
            }
        })
    }

    /// What runs the containers of a pod with this handler. A handler that was configured when the pod was made may not
    /// be any more.
    pub fn backend(&self, handler: &str) -> Result<Backend> {
        match self.handlers.get(handler) {
            Some(found) => Ok(Backend::Oci(found.path.clone())),
            None if handler.is_empty() || handler == NATIVE => Ok(Backend::Native),
            None => Err(Error::Invalid {
                field: "runtime_handler",
                value: handler.to_owned(),
                want: "the pod's handler is not configured any more",
            }),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn config(name: &str, path: &str) -> RuntimeConfig {
        RuntimeConfig { handlers: BTreeMap::from([(name.into(), Handler { kind: Kind::Oci, path: path.into() })]) }
    }

    #[test]
    fn a_handler_that_cannot_be_is_named() {
        config("runc", "/bin/sh").check().unwrap();
        for (name, path) in [
            ("", "/bin/sh"),
            ("Runc", "/bin/sh"),
            ("-", "/bin/sh"),
            (NATIVE, "/bin/sh"),
            ("runc", "sh"),
            ("runc", "/nowhere/runc"),
            ("runc", "/bin"),
            ("runc", "/etc/passwd"),
        ] {
            let refused = config(name, path).check();
            assert!(matches!(refused, Err(Error::Handler { .. })), "{name} {path}: {refused:?}");
        }
    }

    #[test]
    fn a_pods_handler_says_what_runs_its_containers() {
        let config = config("other", "/bin/sh");
        assert_eq!(config.backend("").unwrap(), Backend::Native);
        assert_eq!(config.backend(NATIVE).unwrap(), Backend::Native);
        assert_eq!(config.backend("other").unwrap(), Backend::Oci("/bin/sh".into()));
        assert!(config.backend("gone").is_err());
    }
}
