//! Filters that were compiled once: by profile, capabilities and machine.

use std::{
    collections::{HashMap, hash_map::DefaultHasher},
    hash::{Hash, Hasher},
    os::fd::{AsFd, OwnedFd},
    sync::{Arc, Mutex, PoisonError},
};

use kernel::{memfd, seccomp::to_bytes};

use super::{Arch, Circumstances, Profile, compile, default_profile, resolve};
use crate::{Error, Result, capability::CapabilitySet, launch_plan::SeccompChoice};

/// Filters kept at most. A node has a handful of profiles; a tenant who makes thousands only loses the cache's help.
const CAPACITY: usize = 64;

/// Makes filters, and keeps them as sealed memory files: what a child maps can be changed by nobody.
#[derive(Debug)]
pub struct Filters {
    native: Arch,
    kernel: (u32, u32),
    default: Profile,
    kept: Mutex<HashMap<Key, Arc<OwnedFd>>>,
}

/// What a filter depends on. The profile itself is kept, not its hash alone: a collision must not weaken a container.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Key {
    profile: Option<Box<Profile>>,
    bounding: CapabilitySet,
}

impl Hash for Key {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.bounding.hash(state);
        if let Some(profile) = &self.profile {
            // The profile's own written form: it has no order-free parts.
            let mut inner = DefaultHasher::new();
            serde_json::to_string(profile).unwrap_or_default().hash(&mut inner);
            inner.finish().hash(state);
        }
    }
}

impl Filters {
    /// For this machine and this kernel (major, minor).
    pub fn new(kernel: (u32, u32)) -> Self {
        Self { native: Arch::NATIVE, kernel, default: default_profile(), kept: Mutex::default() }
    }

    /// The filter for a choice and a bounding set: a sealed memfd of `struct sock_filter`; `None` where none is asked.
    pub fn filter(&self, choice: &SeccompChoice, bounding: CapabilitySet) -> Result<Option<OwnedFd>> {
        let (name, profile) = match choice {
            SeccompChoice::Unconfined => return Ok(None),
            SeccompChoice::Default => ("default".to_owned(), None),
            SeccompChoice::Profile { path, profile } => (path.display().to_string(), Some(profile.clone())),
        };
        let key = Key { profile, bounding };
        let found = self.kept.lock().unwrap_or_else(PoisonError::into_inner).get(&key).cloned();
        let filter = match found {
            Some(filter) => filter,
            None => {
                let filter = Arc::new(self.make(&name, &key)?);
                let mut kept = self.kept.lock().unwrap_or_else(PoisonError::into_inner);
                if kept.len() >= CAPACITY {
                    kept.clear();
                }
                kept.insert(key, filter.clone());
                filter
            }
        };
        let copy = filter.as_fd().try_clone_to_owned();
        copy.map(Some).map_err(|source| Error::Host { act: "duplicate a seccomp filter", source })
    }

    /// Whether a profile can be compiled: asked when a container is planned, so that its creation fails, not its start.
    pub fn check(&self, name: &str, profile: &Profile, bounding: CapabilitySet) -> Result<()> {
        self.program(name, profile, bounding).map(|_| ())
    }

    fn make(&self, name: &str, key: &Key) -> Result<OwnedFd> {
        let bytes = self.program(name, key.profile.as_deref().unwrap_or(&self.default), key.bounding)?;
        memfd::sealed(c"coracle-seccomp", &bytes).map_err(|source| Error::Host { act: "keep a seccomp filter", source })
    }

    fn program(&self, name: &str, profile: &Profile, bounding: CapabilitySet) -> Result<Vec<u8>> {
        let here = Circumstances { bounding, native: self.native, kernel: self.kernel };
        let program = resolve(profile, &here).and_then(|resolved| compile(&resolved));
        program.map(|program| to_bytes(&program)).map_err(|why| Error::SeccompProfile { name: name.to_owned(), why })
    }
}
