//! Filters that were compiled once: by profile and capabilities.

use std::{
    os::fd::{AsFd, OwnedFd},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
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
    kept: Mutex<Vec<Kept>>,
}

/// A filter, with all that it depends on. The profile is compared whole: a mistaken one must not weaken a container.
#[derive(Debug)]
struct Kept {
    /// `None`: our own default.
    profile: Option<Profile>,
    bounding: CapabilitySet,
    filter: Arc<OwnedFd>,
}

impl Filters {
    /// For this machine and this kernel (major, minor).
    pub fn new(kernel: (u32, u32)) -> Self {
        Self { native: Arch::NATIVE, kernel, default: default_profile(), kept: Mutex::default() }
    }

    /// The filter for a choice and a bounding set: a sealed memfd of `struct sock_filter`; `None` where none is asked.
    /// Compiled the first time, milliseconds; then only found.
    pub fn filter(&self, choice: &SeccompChoice, bounding: CapabilitySet) -> Result<Option<OwnedFd>> {
        let (name, profile) = match choice {
            SeccompChoice::Unconfined => return Ok(None),
            SeccompChoice::Default => ("default".to_owned(), None),
            SeccompChoice::Profile { path, profile } => (path.display().to_string(), Some(&**profile)),
        };
        let found = find(&self.kept(), profile, bounding);
        let filter = match found {
            Some(filter) => filter,
            None => {
                let made = Arc::new(self.make(&name, profile.unwrap_or(&self.default), bounding)?);
                let mut kept = self.kept();
                // Somebody else may have made the same meanwhile.
                find(&kept, profile, bounding).unwrap_or_else(|| {
                    if kept.len() >= CAPACITY {
                        kept.clear();
                    }
                    kept.push(Kept { profile: profile.cloned(), bounding, filter: made.clone() });
                    made
                })
            }
        };
        let copy = filter.as_fd().try_clone_to_owned();
        copy.map(Some).map_err(|source| Error::Host { act: "duplicate a seccomp filter", source })
    }

    fn kept(&self) -> MutexGuard<'_, Vec<Kept>> {
        self.kept.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn make(&self, name: &str, profile: &Profile, bounding: CapabilitySet) -> Result<OwnedFd> {
        let here = Circumstances { bounding, native: self.native, kernel: self.kernel };
        let program = resolve(profile, &here).and_then(|resolved| compile(&resolved));
        let program = program.map_err(|why| Error::SeccompProfile { name: name.to_owned(), why })?;
        memfd::sealed(c"coracle-seccomp", &to_bytes(&program))
            .map_err(|source| Error::Host { act: "keep a seccomp filter", source })
    }
}

fn find(kept: &[Kept], profile: Option<&Profile>, bounding: CapabilitySet) -> Option<Arc<OwnedFd>> {
    let same = |kept: &&Kept| kept.bounding == bounding && kept.profile.as_ref() == profile;
    kept.iter().find(same).map(|kept| kept.filter.clone())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_profile_is_compiled_once_and_another_one_by_itself() {
        let filters = Filters::new((6, 1));
        let none = CapabilitySet::default();
        let of_file = |text: &str| SeccompChoice::Profile {
            path: "/profile.json".into(),
            profile: Box::new(serde_json::from_str(text).unwrap()),
        };
        let allow = of_file(r#"{"defaultAction": "SCMP_ACT_ALLOW"}"#);
        for _ in 0..3 {
            assert!(filters.filter(&allow, none).unwrap().is_some());
        }
        assert_eq!(filters.kept().len(), 1);
        // The same file after somebody has edited it.
        filters.filter(&of_file(r#"{"defaultAction": "SCMP_ACT_LOG"}"#), none).unwrap();
        filters.filter(&SeccompChoice::Default, none).unwrap();
        assert_eq!(filters.kept().len(), 3);
        assert!(filters.filter(&SeccompChoice::Unconfined, none).unwrap().is_none());
    }
}
