//! Whose a cgroup is: an attribute on its directory. Instances may share the cgroup they put their pods in, and one
//! that finds a pod which it has no record of must not take another's for its own.

use std::{
    os::{fd::AsFd, unix::ffi::OsStrExt},
    path::Path,
};

use kernel::xattr;

use super::{Cgroups, make::open_dir};

/// Holds the root directory of the instance. Only root may see it or set it.
const OWNER: &std::ffi::CStr = c"trusted.coracle.root";

impl Cgroups {
    /// Marks a cgroup, in every hierarchy. Where that cannot be done (a node inside a user namespace), what a lost
    /// record leaves behind stays, which is the lesser harm.
    pub(super) fn mark(&self, path: &str, owner: &Path) {
        for root in self.roots() {
            let marked =
                open_dir(root, path).and_then(|dir| xattr::set(dir.as_fd(), OWNER, owner.as_os_str().as_bytes()));
            if let Err(error) = marked {
                tracing::debug!(path, %error, "mark a cgroup");
            }
        }
    }

    /// Whether a cgroup is marked with this owner, in any hierarchy.
    pub(crate) fn is_of(&self, path: &str, owner: &Path) -> bool {
        self.roots().any(|root| {
            let mark = open_dir(root, path).and_then(|dir| xattr::get(dir.as_fd(), OWNER));
            mark.is_ok_and(|mark| mark.as_deref() == Some(owner.as_os_str().as_bytes()))
        })
    }
}
