//! Limits and weights of a cgroup, in the units of the CRI.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

/// A limit on huge pages of one size.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct HugepageLimit {
    /// `2MB`, `1GB`, as the kernel's file names spell it.
    pub page_size: String,
    /// Bytes.
    pub limit_bytes: u64,
}

/// Limits and weights. `None` always means: not asked for, leave as it is.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Resources {
    /// Length of a CPU period, microseconds.
    pub cpu_period_us: Option<u64>,
    /// CPU time in a period, microseconds; -1 is unlimited.
    pub cpu_quota_us: Option<i64>,
    /// Relative CPU weight, 2–262144 (v1's `cpu.shares`; kept as asked, since v2's weight loses digits).
    pub cpu_shares: Option<u64>,
    /// Memory limit, bytes; -1 is unlimited.
    pub memory_limit_bytes: Option<i64>,
    /// Limit of memory and swap together, bytes; -1 is unlimited.
    pub memory_swap_limit_bytes: Option<i64>,
    /// Added to the badness score of the out-of-memory killer, -1000–1000.
    pub oom_score_adj: Option<i32>,
    /// CPUs, in the kernel's list form (`0-2,4`).
    pub cpuset_cpus: Option<String>,
    /// Memory nodes, in the kernel's list form.
    pub cpuset_mems: Option<String>,
    /// Huge pages.
    pub hugepages: Vec<HugepageLimit>,
    /// cgroup v2 files by name, written verbatim, last.
    pub unified: BTreeMap<String, String>,
}
