//! Limits and weights: zero means "not set", and every number is one that the kernel would take.

use std::collections::BTreeMap;

use api::cri::v1;
use model::{HugepageLimit, Resources};

use super::{environment, text};
use crate::{error::Error, field::Field};

/// Longest value of a cgroup file, bytes: `kernfs` takes a page at a time.
const CGROUP_VALUE_MAX: usize = 4095;
/// Sizes of huge pages a host can have: no architecture has a dozen.
const HUGEPAGE_SIZES_MAX: usize = 64;
/// Files of one cgroup: there are about a hundred.
const UNIFIED_MAX: usize = 512;

/// Resources as a model, from the message at `field`.
pub(crate) fn resources(field: &Field<'_>, wire: v1::LinuxContainerResources) -> Result<Resources, Error> {
    // The kernel's bounds, kernel/sched/core.c: a period of 1 ms to 1 s and a quota of at least 1 ms.
    let cpu_period = set(&field.at("cpu_period"), wire.cpu_period, 1_000, 1_000_000, " µs, or 0 to leave it")?;
    let cpu_quota =
        limit(&field.at("cpu_quota"), wire.cpu_quota, 1_000, "at least 1000 µs, -1 for none, 0 to leave it")?;
    let cpu_shares = set(&field.at("cpu_shares"), wire.cpu_shares, 2, 262_144, ", or 0 to leave it")?;
    let memory = limit(
        &field.at("memory_limit_in_bytes"),
        wire.memory_limit_in_bytes,
        1,
        "a number of bytes, -1 for no limit, 0 to leave it",
    )?;
    let swap = swap_limit(&field.at("memory_swap_limit_in_bytes"), wire.memory_swap_limit_in_bytes, memory)?;
    let oom_score_adj = text::within(&field.at("oom_score_adj"), wire.oom_score_adj, -1000, 1000, "")?;
    Ok(Resources {
        cpu_period_us: cpu_period,
        cpu_quota_us: cpu_quota,
        cpu_shares,
        memory_limit_bytes: memory,
        memory_swap_limit_bytes: swap,
        // Zero is a score like any other: where resources are given, so is this.
        oom_score_adj: Some(i32::try_from(oom_score_adj).expect("checked to be within -1000 and 1000")),
        cpuset_cpus: cpu_list(&field.at("cpuset_cpus"), wire.cpuset_cpus)?,
        cpuset_mems: cpu_list(&field.at("cpuset_mems"), wire.cpuset_mems)?,
        hugepages: hugepages(&field.at("hugepage_limits"), wire.hugepage_limits)?,
        unified: unified(&field.at("unified"), wire.unified)?,
    })
}

/// A number that 0 leaves unset.
fn set(field: &Field<'_>, value: i64, least: i64, most: i64, unit: &str) -> Result<Option<u64>, Error> {
    if value == 0 {
        return Ok(None);
    }
    Ok(Some(text::within(field, value, least, most, unit)?.unsigned_abs()))
}

/// A limit that 0 leaves unset and -1 takes away.
fn limit(field: &Field<'_>, value: i64, least: i64, want: &'static str) -> Result<Option<i64>, Error> {
    match value {
        0 => Ok(None),
        -1 => Ok(Some(-1)),
        _ if value >= least => Ok(Some(value)),
        _ => Err(Error::invalid(field, value, want)),
    }
}

fn swap_limit(field: &Field<'_>, value: i64, memory: Option<i64>) -> Result<Option<i64>, Error> {
    let swap = limit(field, value, 1, "a number of bytes, -1 for no limit, 0 to leave it")?;
    match (swap, memory) {
        (Some(swap), Some(memory)) if swap > 0 && memory > 0 && swap < memory => {
            let want = format!("at least memory_limit_in_bytes ({memory}): it counts memory and swap together");
            Err(Error::invalid(field, value, want))
        }
        (Some(swap), Some(-1)) if swap > 0 => {
            Err(Error::invalid(field, value, "-1 or 0 while memory_limit_in_bytes is unlimited"))
        }
        _ => Ok(swap),
    }
}

/// A list of CPUs or memory nodes in the kernel's form; empty leaves it unset.
fn cpu_list(field: &Field<'_>, value: String) -> Result<Option<String>, Error> {
    const WANT: &str = "a list such as 0-2,4";
    let value = text::text(field, value, CGROUP_VALUE_MAX)?;
    if value.is_empty() {
        return Ok(None);
    }
    let number = |text: &str| {
        if text.bytes().all(|b| b.is_ascii_digit()) { text.parse::<u16>().ok() } else { None }
    };
    let part = |part: &str| match part.split_once('-') {
        Some((first, last)) => matches!((number(first), number(last)), (Some(a), Some(b)) if a <= b),
        None => number(part).is_some(),
    };
    if value.split(',').all(part) { Ok(Some(value)) } else { Err(Error::invalid(field, value, WANT)) }
}

fn hugepages(field: &Field<'_>, limits: Vec<v1::HugepageLimit>) -> Result<Vec<HugepageLimit>, Error> {
    let limits = text::at_most(field, limits, HUGEPAGE_SIZES_MAX)?;
    let mut known: Vec<HugepageLimit> = Vec::with_capacity(limits.len());
    for (i, limit) in limits.into_iter().enumerate() {
        let (element, size) = (field.index(i), limit.page_size);
        let digits = ["KB", "MB", "GB"].iter().find_map(|unit| size.strip_suffix(unit)).unwrap_or_default();
        if digits.is_empty()
            || digits.len() > 6
            || digits.starts_with('0')
            || !digits.bytes().all(|b| b.is_ascii_digit())
        {
            return Err(Error::invalid(&element.at("page_size"), size, "a size as the kernel spells it, 2MB or 1GB"));
        }
        if known.iter().any(|other| other.page_size == size) {
            return Err(Error::invalid(&element.at("page_size"), size, "each size once"));
        }
        known.push(HugepageLimit { page_size: size, limit_bytes: limit.limit });
    }
    Ok(known)
}

fn unified(
    field: &Field<'_>,
    files: BTreeMap<String, String>,
) -> Result<std::collections::BTreeMap<String, String>, Error> {
    if files.len() > UNIFIED_MAX {
        return Err(Error::invalid(field, format_args!("{} files", files.len()), format!("at most {UNIFIED_MAX}")));
    }
    let pairs = environment::pairs(field, files, CGROUP_VALUE_MAX)?;
    for (name, _) in &pairs {
        // A slash would leave the container's cgroup; `cgroup.procs` and its kin move or kill processes.
        let plain = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || matches!(b, b'.' | b'_');
        let file = name.contains('.') && name.bytes().all(plain) && !name.starts_with('.') && !name.contains("..");
        if !file || name.starts_with("cgroup.") {
            return Err(Error::invalid(&field.key(name), name, "the name of a controller's file, such as memory.high"));
        }
    }
    Ok(pairs.into_iter().collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(wire: v1::LinuxContainerResources) -> Result<Resources, Error> {
        resources(&Field::root("resources"), wire)
    }

    #[test]
    fn zeros_leave_everything_as_it_is() {
        let read = read(v1::LinuxContainerResources::default()).unwrap();
        assert_eq!(read, Resources { oom_score_adj: Some(0), ..Resources::default() });
    }

    #[test]
    fn numbers_that_the_kernel_would_refuse_are_refused_by_name() {
        type Change = fn(&mut v1::LinuxContainerResources);
        let wrong: [(&str, Change); 14] = [
            ("cpu_period", |r| r.cpu_period = 999),
            ("cpu_period", |r| r.cpu_period = -1),
            ("cpu_quota", |r| r.cpu_quota = -2),
            ("cpu_quota", |r| r.cpu_quota = 10),
            ("cpu_shares", |r| r.cpu_shares = 1),
            ("cpu_shares", |r| r.cpu_shares = i64::MAX),
            ("memory_limit_in_bytes", |r| r.memory_limit_in_bytes = i64::MIN),
            ("memory_swap_limit_in_bytes", |r| (r.memory_limit_in_bytes, r.memory_swap_limit_in_bytes) = (10, 9)),
            ("oom_score_adj", |r| r.oom_score_adj = 1001),
            ("cpuset_cpus", |r| r.cpuset_cpus = "0-".into()),
            ("cpuset_cpus", |r| r.cpuset_cpus = "3-1".into()),
            ("cpuset_mems", |r| r.cpuset_mems = "0\n1".into()),
            ("page_size", |r| r.hugepage_limits = vec![v1::HugepageLimit { page_size: "../x".into(), limit: 1 }]),
            ("unified", |r| r.unified = [("../cgroup.procs".to_owned(), "1".to_owned())].into()),
        ];
        for (name, change) in wrong {
            let mut wire = v1::LinuxContainerResources::default();
            change(&mut wire);
            let error = read(wire).expect_err(name);
            assert!(error.to_string().contains(name), "{error}");
        }
    }

    #[test]
    fn what_a_kubelet_sends_passes() {
        let read = read(v1::LinuxContainerResources {
            cpu_period: 100_000,
            cpu_quota: -1,
            cpu_shares: 2,
            memory_limit_in_bytes: 15 << 20,
            memory_swap_limit_in_bytes: 15 << 20,
            oom_score_adj: -997,
            cpuset_cpus: "0,2-3".into(),
            hugepage_limits: vec![
                v1::HugepageLimit { page_size: "2MB".into(), limit: 0 },
                v1::HugepageLimit { page_size: "1GB".into(), limit: 0 },
            ],
            unified: [("memory.oom.group".to_owned(), "1".to_owned())].into(),
            ..v1::LinuxContainerResources::default()
        })
        .unwrap();
        assert_eq!(read.hugepages.len(), 2);
        assert_eq!(read.cpu_quota_us, Some(-1));
        assert_eq!(read.oom_score_adj, Some(-997));
    }
}
