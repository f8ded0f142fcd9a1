//! Limits of whole pods, through cgroups-rs: set once a pod and on no hot path.

use std::io;

use cgroups_rs::fs::{Cgroup, MaxValue, hierarchies, pid::PidController};

use super::{failed, relative};
use crate::Result;

/// Most processes and threads of the whole pod.
pub(super) fn set_pids(path: &str, most: u64) -> Result<()> {
    let most = i64::try_from(most).unwrap_or(i64::MAX);
    let cgroup = Cgroup::load(hierarchies::auto(), relative(path));
    let pids: &PidController = cgroup.controller_of().ok_or_else(|| {
        failed("limit processes", path)(io::Error::new(io::ErrorKind::NotFound, "no pids controller"))
    })?;
    pids.set_pid_max(MaxValue::Value(most)).map_err(|error| failed("limit processes", path)(io::Error::other(error)))
}
