//! Limits of whole pods, through cgroups-rs: set once a pod.
//!
//! Its controllers are given the place that is known already. Left to find it, the crate reads the table of mounts,
//! which grows with the number of pods: 3 µs for each network namespace that is kept by a mount.

use std::{
    io,
    os::fd::{AsFd, AsRawFd},
    path::PathBuf,
};

use cgroups_rs::fs::{MaxValue, pid::PidController};

use super::{Cgroups, Layout, failed, make::open_dir};
use crate::Result;

impl Cgroups {
    /// Sets the most processes and threads of the whole pod.
    pub(super) fn limit_pids(&self, path: &str, most: u64) -> Result<()> {
        let act = "limit processes";
        let (root, is_v2) = match &self.layout {
            Layout::V2(v2) => (v2.root.as_fd(), true),
            Layout::V1(v1) => match v1.hierarchies.iter().find(|hierarchy| hierarchy.has("pids")) {
                Some(hierarchy) => (hierarchy.root.as_fd(), false),
                None => return Err(failed(act, path)(io::Error::new(io::ErrorKind::NotFound, "no pids controller"))),
            },
        };
        let dir = open_dir(root, path).map_err(failed(act, path))?;
        // The crate knows places by their paths alone. This one is the descriptor itself: it leads to the directory
        // that was found beneath the hierarchy's root, whatever has been mounted or moved since on the way there.
        let place = PathBuf::from(format!("/proc/self/fd/{}", dir.as_raw_fd()));
        let most = i64::try_from(most).unwrap_or(i64::MAX);
        let pids = PidController::new(place.clone(), place, is_v2);
        pids.set_pid_max(MaxValue::Value(most)).map_err(|error| failed(act, path)(io::Error::other(error)))
    }
}

#[cfg(test)]
mod tests {
    use std::fs::{self, File};

    use super::*;
    use crate::cgroup::V2;

    #[test]
    fn a_limit_is_written_beneath_the_root_that_was_opened_whatever_its_path_leads_to_now() {
        let dir = tempfile::tempdir().unwrap();
        let (opened, other) = (dir.path().join("opened"), dir.path().join("other"));
        for place in [&opened, &other] {
            fs::create_dir_all(place.join("pod")).unwrap();
            fs::write(place.join("pod/pids.max"), "max").unwrap();
        }
        let root = File::open(&opened).unwrap().into();
        let cgroups = Cgroups { layout: Layout::V2(V2 { mount: other.clone(), root, on_v1: Vec::new() }) };
        cgroups.limit_pids("/pod", 500).unwrap();
        assert_eq!(fs::read_to_string(opened.join("pod/pids.max")).unwrap(), "500");
        assert_eq!(fs::read_to_string(other.join("pod/pids.max")).unwrap(), "max");
    }
}
