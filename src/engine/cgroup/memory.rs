//! Kills by the out-of-memory killer, as a cgroup counts them.

use std::os::fd::AsFd;

use super::{
    Cgroups, Layout,
    make::{open_dir, read},
};

/// The count in the text of `memory.oom_control` (version 1) or `memory.events` (version 2).
pub fn out_of_memory_kills(text: &str) -> u64 {
    let count = text.lines().find_map(|line| line.strip_prefix("oom_kill "));
    count.and_then(|number| number.trim().parse().ok()).unwrap_or(0)
}

impl Cgroups {
    /// Whether a process of this cgroup has been killed for want of memory. Not where nobody counts, or the cgroup is
    /// gone.
    pub(crate) fn has_lacked_memory(&self, path: &str) -> bool {
        let (root, file) = match &self.layout {
            Layout::V1(v1) => match v1.of("memory") {
                Some(hierarchy) => (hierarchy.root.as_fd(), "memory.oom_control"),
                None => return false,
            },
            Layout::V2(v2) => (v2.root.as_fd(), "memory.events"),
        };
        let text = open_dir(root, path).and_then(|dir| read(dir.as_fd(), file));
        text.is_ok_and(|text| out_of_memory_kills(&text) > 0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_count_of_kills_is_found_in_both_forms() {
        assert_eq!(out_of_memory_kills("oom_kill_disable 0\nunder_oom 0\noom_kill 3\n"), 3);
        assert_eq!(out_of_memory_kills("low 0\nhigh 0\nmax 7\noom 2\noom_kill 1\noom_group_kill 0\n"), 1);
        assert_eq!(out_of_memory_kills(""), 0);
    }
}
