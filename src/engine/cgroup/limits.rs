//! Which values go into which files, for both versions. Pure.

use model::Resources;

use crate::{Error, Result};

/// One value for one file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Write {
    /// Who asks for it: a field as the CRI spells it, or a setting.
    pub field: &'static str,
    /// Controller whose hierarchy (v1) has the file, or that makes the file (v2).
    pub controller: String,
    /// File name.
    pub file: String,
    /// What is written.
    pub value: String,
    /// When the file is not there.
    pub if_missing: IfMissing,
}

impl Write {
    /// What is asked for, in words.
    pub(super) fn asked(&self) -> String {
        format!("{} ({} {})", self.field, self.file, self.value)
    }
}

/// What a missing file means.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum IfMissing {
    /// The limit cannot be kept: refuse.
    Refuse,
    /// The kernel was built or started without it, and everyone lives with that: huge pages, swap accounting. Or
    /// nothing is to be limited.
    PassOver,
}

/// The setting that limits processes of a container.
const CONTAINER_PIDS: &str = "engine.container_pids";

/// Length of a CPU period when only a quota is given, microseconds: the kernel's default.
const DEFAULT_PERIOD: u64 = 100_000;

/// Version 1. The order matters: the memory limit before the one of memory and swap together, the period before its
/// quota.
pub fn v1(resources: &Resources, pids: Option<u64>) -> Result<Vec<Write>> {
    if let Some((key, value)) = resources.unified.first_key_value() {
        return Err(Error::Unsupported {
            field: "linux.resources.unified (this host has cgroup v1)",
            value: format!("{key}={value}"),
        });
    }
    let mut writes = Writes::default();
    writes.number("linux.resources.cpu_shares", "cpu", "cpu.shares", positive(resources.cpu_shares));
    writes.number("linux.resources.cpu_period", "cpu", "cpu.cfs_period_us", positive(resources.cpu_period_us));
    let quota = resources.cpu_quota_us.filter(|quota| *quota != 0);
    writes.most("linux.resources.cpu_quota", "cpu", "cpu.cfs_quota_us", quota, "-1");
    writes.text("linux.resources.cpuset_cpus", "cpuset", "cpuset.cpus", resources.cpuset_cpus.as_deref());
    writes.text("linux.resources.cpuset_mems", "cpuset", "cpuset.mems", resources.cpuset_mems.as_deref());
    let memory = resources.memory_limit_bytes.filter(|limit| *limit != 0);
    writes.most("linux.resources.memory_limit_in_bytes", "memory", "memory.limit_in_bytes", memory, "-1");
    // Nobody asked for swap: the container gets none, where the kernel counts it.
    let with_swap = resources.memory_swap_limit_bytes.filter(|limit| *limit != 0).or(memory);
    let (field, with_swap) = ("linux.resources.memory_swap_limit_in_bytes", with_swap.map(|limit| limit.to_string()));
    writes.optional(field, "memory", "memory.memsw.limit_in_bytes", with_swap);
    writes.number(CONTAINER_PIDS, "pids", "pids.max", pids);
    for page in &resources.hugepages {
        for file in ["limit_in_bytes", "rsvd.limit_in_bytes"] {
            let file = format!("hugetlb.{}.{file}", page_size(&page.page_size)?);
            writes.optional("linux.resources.hugepage_limits", "hugetlb", &file, Some(page.limit_bytes.to_string()));
        }
    }
    Ok(writes.0)
}

/// Version 2. What the request says in the kernel's own words (`unified`) comes last and wins.
pub fn v2(resources: &Resources, pids: Option<u64>) -> Result<Vec<Write>> {
    let mut writes = Writes::default();
    writes.number("linux.resources.cpu_shares", "cpu", "cpu.weight", positive(resources.cpu_shares).map(weight));
    let (quota, period) = (resources.cpu_quota_us.filter(|quota| *quota != 0), positive(resources.cpu_period_us));
    if quota.is_some() || period.is_some() {
        let most = quota.filter(|quota| *quota > 0).map_or_else(|| "max".to_owned(), |quota| quota.to_string());
        let limit = format!("{most} {}", period.unwrap_or(DEFAULT_PERIOD));
        match quota {
            Some(1..) => writes.text("linux.resources.cpu_quota", "cpu", "cpu.max", Some(&limit)),
            _ => writes.optional("linux.resources.cpu_period", "cpu", "cpu.max", Some(limit)),
        }
    }
    writes.text("linux.resources.cpuset_cpus", "cpuset", "cpuset.cpus", resources.cpuset_cpus.as_deref());
    writes.text("linux.resources.cpuset_mems", "cpuset", "cpuset.mems", resources.cpuset_mems.as_deref());
    let memory = resources.memory_limit_bytes.filter(|limit| *limit != 0);
    writes.most("linux.resources.memory_limit_in_bytes", "memory", "memory.max", memory, "max");
    let swap = swap(memory, resources.memory_swap_limit_bytes)?;
    writes.optional("linux.resources.memory_swap_limit_in_bytes", "memory", "memory.swap.max", swap);
    writes.number(CONTAINER_PIDS, "pids", "pids.max", pids);
    for page in &resources.hugepages {
        for file in ["max", "rsvd.max"] {
            let file = format!("hugetlb.{}.{file}", page_size(&page.page_size)?);
            writes.optional("linux.resources.hugepage_limits", "hugetlb", &file, Some(page.limit_bytes.to_string()));
        }
    }
    for (file, value) in &resources.unified {
        let is_file = !file.is_empty()
            && file.contains('.')
            && !file.starts_with('.')
            && file.bytes().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'_' | b'-'));
        if !is_file {
            return Err(Error::Invalid {
                field: "linux.resources.unified",
                value: file.chars().take(80).collect(),
                want: "the name of a cgroup v2 file, such as memory.high",
            });
        }
        // The kernel names each file after its controller.
        let controller = file.split('.').next().unwrap_or_default();
        writes.text("linux.resources.unified", controller, file, Some(value));
    }
    Ok(writes.0)
}

/// v2's weight for v1's shares: the curve of runc 1.3 and crun, on which the defaults meet (1024 is 100), and both
/// ends.
pub fn weight(shares: u64) -> u64 {
    match shares {
        ..=2 => 1,
        262_144.. => 10_000,
        _ => {
            let log = (shares as f64).log2();
            let exponent = (log * log + 125.0 * log) / 612.0 - 7.0 / 34.0;
            // Rounded a hair down first: the curve meets its fixed points only up to the float's last digit.
            (10f64.powf(exponent) - 1e-9).ceil() as u64
        }
    }
}

/// v2 counts swap alone where the request counts memory and swap together.
fn swap(memory: Option<i64>, both: Option<i64>) -> Result<Option<String>> {
    Ok(match (memory, both.filter(|both| *both != 0)) {
        (_, Some(..0)) => Some("max".to_owned()),
        (Some(memory @ 0..), Some(both)) if both >= memory => Some((both - memory).to_string()),
        (Some(0..), Some(both)) => {
            return Err(Error::Invalid {
                field: "linux.resources.memory_swap_limit_in_bytes",
                value: both.to_string(),
                want: "at least memory_limit_in_bytes",
            });
        }
        // Without a limit of memory there is nothing to take the swap from.
        (None | Some(_), Some(_)) => None,
        (Some(0..), None) => Some("0".to_owned()),
        (_, None) => None,
    })
}

fn positive(number: Option<u64>) -> Option<u64> {
    number.filter(|number| *number > 0)
}

/// Part of a file's name, so nothing else may be in it.
fn page_size(text: &str) -> Result<&str> {
    if !text.is_empty() && text.len() < 16 && text.bytes().all(|byte| byte.is_ascii_alphanumeric()) {
        return Ok(text);
    }
    Err(Error::Invalid {
        field: "linux.resources.hugepage_limits[].page_size",
        value: text.chars().take(80).collect(),
        want: "a size such as 2MB or 1GB",
    })
}

#[derive(Default)]
struct Writes(Vec<Write>);

impl Writes {
    fn text(&mut self, field: &'static str, controller: &str, file: &str, value: Option<&str>) {
        self.push(field, controller, file, value.map(str::to_owned), IfMissing::Refuse);
    }

    fn number(&mut self, field: &'static str, controller: &str, file: &str, value: Option<u64>) {
        self.push(field, controller, file, value.map(|value| value.to_string()), IfMissing::Refuse);
    }

    /// A negative number asks for no limit, which needs nothing to keep it.
    fn most(&mut self, field: &'static str, controller: &str, file: &str, value: Option<i64>, unlimited: &str) {
        match value {
            Some(..0) => self.optional(field, controller, file, Some(unlimited.to_owned())),
            value => self.push(field, controller, file, value.map(|value| value.to_string()), IfMissing::Refuse),
        }
    }

    fn optional(&mut self, field: &'static str, controller: &str, file: &str, value: Option<String>) {
        self.push(field, controller, file, value, IfMissing::PassOver);
    }

    fn push(
        &mut self,
        field: &'static str,
        controller: &str,
        file: &str,
        value: Option<String>,
        if_missing: IfMissing,
    ) {
        if let Some(value) = value {
            self.0.push(Write { field, controller: controller.to_owned(), file: file.to_owned(), value, if_missing });
        }
    }
}

#[cfg(test)]
mod tests {
    use model::HugepageLimit;

    use super::*;

    fn lines(writes: Result<Vec<Write>>) -> Vec<String> {
        writes.unwrap().iter().map(|write| format!("{} = {}", write.file, write.value)).collect()
    }

    fn full() -> Resources {
        Resources {
            cpu_period_us: Some(100_000),
            cpu_quota_us: Some(50_000),
            cpu_shares: Some(1024),
            memory_limit_bytes: Some(1 << 20),
            cpuset_cpus: Some("0-1".into()),
            cpuset_mems: Some("0".into()),
            hugepages: vec![HugepageLimit { page_size: "2MB".into(), limit_bytes: 0 }],
            ..Resources::default()
        }
    }

    #[test]
    fn version_1_takes_each_limit_in_its_own_file() {
        assert_eq!(
            lines(v1(&full(), Some(7))),
            [
                "cpu.shares = 1024",
                "cpu.cfs_period_us = 100000",
                "cpu.cfs_quota_us = 50000",
                "cpuset.cpus = 0-1",
                "cpuset.mems = 0",
                "memory.limit_in_bytes = 1048576",
                "memory.memsw.limit_in_bytes = 1048576",
                "pids.max = 7",
                "hugetlb.2MB.limit_in_bytes = 0",
                "hugetlb.2MB.rsvd.limit_in_bytes = 0",
            ]
        );
        let unified = Resources { unified: [("memory.high".into(), "1".into())].into(), ..Resources::default() };
        assert!(matches!(v1(&unified, None), Err(Error::Unsupported { .. })));
    }

    #[test]
    fn version_2_counts_swap_alone_and_lets_the_kernels_words_win() {
        let resources = Resources {
            memory_swap_limit_bytes: Some(3 << 20),
            unified: [("memory.oom.group".to_owned(), "1".to_owned())].into(),
            ..full()
        };
        assert_eq!(
            lines(v2(&resources, Some(7))),
            [
                "cpu.weight = 100",
                "cpu.max = 50000 100000",
                "cpuset.cpus = 0-1",
                "cpuset.mems = 0",
                "memory.max = 1048576",
                "memory.swap.max = 2097152",
                "pids.max = 7",
                "hugetlb.2MB.max = 0",
                "hugetlb.2MB.rsvd.max = 0",
                "memory.oom.group = 1",
            ]
        );
    }

    #[test]
    fn each_limit_says_who_asks_for_it_and_which_controller_keeps_it() {
        let resources = Resources { unified: [("io.max".to_owned(), "8:0 rbps=1".to_owned())].into(), ..full() };
        let told = |writes: Result<Vec<Write>>| -> Vec<String> {
            writes.unwrap().iter().map(|write| format!("{}: {}", write.controller, write.asked())).collect()
        };
        assert_eq!(
            told(v2(&resources, Some(7))),
            [
                "cpu: linux.resources.cpu_shares (cpu.weight 100)",
                "cpu: linux.resources.cpu_quota (cpu.max 50000 100000)",
                "cpuset: linux.resources.cpuset_cpus (cpuset.cpus 0-1)",
                "cpuset: linux.resources.cpuset_mems (cpuset.mems 0)",
                "memory: linux.resources.memory_limit_in_bytes (memory.max 1048576)",
                "memory: linux.resources.memory_swap_limit_in_bytes (memory.swap.max 0)",
                "pids: engine.container_pids (pids.max 7)",
                "hugetlb: linux.resources.hugepage_limits (hugetlb.2MB.max 0)",
                "hugetlb: linux.resources.hugepage_limits (hugetlb.2MB.rsvd.max 0)",
                "io: linux.resources.unified (io.max 8:0 rbps=1)",
            ]
        );
        let of_v1 = told(v1(&full(), None));
        assert_eq!(of_v1[1], "cpu: linux.resources.cpu_period (cpu.cfs_period_us 100000)");
        assert_eq!(of_v1[5], "memory: linux.resources.memory_limit_in_bytes (memory.limit_in_bytes 1048576)");
    }

    #[test]
    fn nothing_asked_is_nothing_written_and_minus_one_is_no_limit() {
        assert!(lines(v1(&Resources::default(), None)).is_empty());
        assert!(lines(v2(&Resources::default(), None)).is_empty());
        let unlimited = Resources {
            cpu_quota_us: Some(-1),
            memory_limit_bytes: Some(-1),
            memory_swap_limit_bytes: Some(-1),
            ..Resources::default()
        };
        assert_eq!(lines(v2(&unlimited, None)), ["cpu.max = max 100000", "memory.max = max", "memory.swap.max = max"]);
        let zero = Resources { cpu_quota_us: Some(0), memory_limit_bytes: Some(0), ..Resources::default() };
        assert!(lines(v2(&zero, None)).is_empty());
    }

    #[test]
    fn files_outside_the_directory_cannot_be_named() {
        for key in ["../memory.max", "memory/max", "", ".", "cgroup procs"] {
            let unified = [(key.to_owned(), "1".to_owned())].into();
            let resources = Resources { unified, ..Resources::default() };
            assert!(matches!(v2(&resources, None), Err(Error::Invalid { .. })), "{key:?}");
        }
        let hugepages = vec![HugepageLimit { page_size: "../x".into(), limit_bytes: 1 }];
        assert!(v1(&Resources { hugepages, ..Resources::default() }, None).is_err());
    }

    #[test]
    fn weights_meet_the_default_and_both_ends() {
        for (shares, want) in
            [(0, 1), (2, 1), (3, 2), (102, 17), (512, 59), (1024, 100), (2048, 174), (262_144, 10_000)]
        {
            assert_eq!(weight(shares), want, "{shares}");
        }
    }
}
