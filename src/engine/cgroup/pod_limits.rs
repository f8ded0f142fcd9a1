//! Limits of whole pods, through cgroups-rs: set once a pod.
//!
//! Its controllers are given the place that is known already. Left to find it, the crate reads the table of mounts,
//! which grows with the number of pods: 3 µs for each network namespace that is kept by a mount.

use std::{io, path::Path};

use cgroups_rs::fs::{MaxValue, pid::PidController};

use super::{Cgroups, Layout, failed, relative};
use crate::Result;

impl Cgroups {
    /// Sets the most processes and threads of the whole pod.
    pub(super) fn limit_pids(&self, path: &str, most: u64) -> Result<()> {
        let refuse = failed("limit processes", path);
        let (mount, is_v2): (&Path, bool) = match &self.layout {
            Layout::V2(v2) => (&v2.mount, true),
            Layout::V1(v1) => match v1.hierarchies.iter().find(|hierarchy| hierarchy.has("pids")) {
                Some(hierarchy) => (&hierarchy.mount, false),
                None => return Err(refuse(io::Error::new(io::ErrorKind::NotFound, "no pids controller"))),
            },
        };
        let most = i64::try_from(most).unwrap_or(i64::MAX);
        let pids = PidController::new(mount.join(relative(path)), mount.to_owned(), is_v2);
        pids.set_pid_max(MaxValue::Value(most)).map_err(|error| refuse(io::Error::other(error)))
    }
}
