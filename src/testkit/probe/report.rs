//! The report: what a process sees of itself, as one JSON object.
//!
//! Read from `/proc` and by trying, not from what the runtime was told: it is the witness of the tests.

use std::{
    collections::BTreeMap,
    env, fs,
    io::{self, IsTerminal},
    os::{fd::AsFd, unix::fs::MetadataExt},
    path::Path,
};

use nix::sys::statfs::{CGROUP2_SUPER_MAGIC, statfs};
use serde_json::{Value, json};

use crate::{
    Done,
    files::{kind, name, tried},
    lossy,
};

/// Paths that a runtime hides or protects by default: the report says of each whether it can be read and written.
const GUARDED: &[&str] = &[
    "/proc/acpi",
    "/proc/asound",
    "/proc/bus",
    "/proc/fs",
    "/proc/interrupts",
    "/proc/irq",
    "/proc/kcore",
    "/proc/keys",
    "/proc/latency_stats",
    "/proc/scsi",
    "/proc/sched_debug",
    "/proc/sys",
    "/proc/sysrq-trigger",
    "/proc/timer_list",
    "/sys/devices/virtual/powercap",
    "/sys/firmware",
    "/sys/fs/cgroup",
];

/// Files of cgroups that say what a process may use: of version 1, then of version 2.
const LIMITS: &[&str] = &[
    "memory/memory.limit_in_bytes",
    "memory/memory.memsw.limit_in_bytes",
    "memory/memory.soft_limit_in_bytes",
    "memory/memory.swappiness",
    "memory/memory.use_hierarchy",
    "memory/memory.oom_control",
    "cpu/cpu.shares",
    "cpu/cpu.cfs_quota_us",
    "cpu/cpu.cfs_period_us",
    "cpuset/cpuset.cpus",
    "cpuset/cpuset.mems",
    "pids/pids.max",
    "devices/devices.list",
    "blkio/blkio.weight",
    "hugetlb/hugetlb.2MB.limit_in_bytes",
    "freezer/freezer.state",
    "memory.max",
    "memory.high",
    "memory.swap.max",
    "memory.oom.group",
    "cpu.weight",
    "cpu.max",
    "cpuset.cpus",
    "cpuset.mems",
    "pids.max",
    "io.weight",
    "hugetlb.2MB.max",
];

pub(crate) fn report(_: &[String]) -> Done {
    let status = status();
    let field = |name: &str| status.get(name).cloned().unwrap_or_default();
    let numbers = |name: &str| -> Vec<u64> { field(name).split_whitespace().filter_map(|n| n.parse().ok()).collect() };
    let report = json!({
        "args": env::args_os().map(lossy).collect::<Vec<_>>(),
        "env": env::vars_os().map(|(name, value)| (lossy(name), lossy(value))).collect::<BTreeMap<_, _>>(),
        "cwd": env::current_dir().map(|dir| dir.display().to_string()).unwrap_or_else(|error| name(&error)),
        "pid": std::process::id(),
        "parent": std::os::unix::process::parent_id(),
        "hostname": read("/proc/sys/kernel/hostname"),
        "uids": numbers("Uid"),
        "gids": numbers("Gid"),
        "groups": numbers("Groups"),
        "umask": field("Umask"),
        "capabilities": {
            "bounding": field("CapBnd"), "permitted": field("CapPrm"), "effective": field("CapEff"),
            "inheritable": field("CapInh"), "ambient": field("CapAmb"),
        },
        "no_new_privs": field("NoNewPrivs") == "1",
        "seccomp": numbers("Seccomp").first(),
        "seccomp_filters": numbers("Seccomp_filters").first(),
        "blocked_signals": field("SigBlk"),
        "ignored_signals": field("SigIgn"),
        "oom_score_adj": read("/proc/self/oom_score_adj").parse::<i64>().ok(),
        "cpus_allowed": field("Cpus_allowed_list"),
        "limits": limits(),
        "namespaces": namespaces(),
        "uid_map": read("/proc/self/uid_map"),
        "cgroups": read("/proc/self/cgroup").lines().map(str::to_owned).collect::<Vec<_>>(),
        "limits_of_cgroup": limits_of_cgroup(),
        "session": session(),
        "timerslack_ns": read("/proc/self/timerslack_ns"),
        "coredump_filter": read("/proc/self/coredump_filter"),
        "scheduling": scheduling(),
        "mounts": mounts(),
        "root": json!({ "write": tried_file("/.probe-was-here") }),
        "devices": devices(Path::new("/dev")),
        "guarded": GUARDED.iter().map(|path| ((*path).to_owned(), guarded(path))).collect::<BTreeMap<_, _>>(),
        "descriptors": descriptors(),
        "terminals": [io::stdin().is_terminal(), io::stdout().is_terminal(), io::stderr().is_terminal()],
        "interfaces": interfaces(),
        "addresses": addresses(),
    });
    println!("{report}");
    Ok(0)
}

fn read(path: &str) -> String {
    fs::read_to_string(path).unwrap_or_default().trim_end().to_owned()
}

fn status() -> BTreeMap<String, String> {
    read("/proc/self/status")
        .lines()
        .filter_map(|line| line.split_once(':'))
        .map(|(name, value)| (name.to_owned(), value.trim().to_owned()))
        .collect()
}

/// Soft and hard limit by name, as `/proc/self/limits` prints them.
fn limits() -> BTreeMap<String, [String; 2]> {
    let table = read("/proc/self/limits");
    let rows = table.lines().skip(1).filter_map(|line| {
        let (name, rest) = (line.get(..26)?.trim(), line.get(26..)?);
        let mut words = rest.split_whitespace();
        Some((name.to_owned(), [words.next()?.to_owned(), words.next()?.to_owned()]))
    });
    rows.collect()
}

fn namespaces() -> BTreeMap<String, String> {
    let Ok(links) = fs::read_dir("/proc/self/ns") else { return BTreeMap::new() };
    let links = links
        .flatten()
        .filter_map(|link| Some((lossy(link.file_name()), fs::read_link(link.path()).ok()?.display().to_string())));
    links.collect()
}

/// What the cgroup of this process is limited to, as far as a mount in the container shows it; of either version.
fn limits_of_cgroup() -> BTreeMap<String, String> {
    let files = LIMITS.iter().map(|name| format!("/sys/fs/cgroup/{name}"));
    files.filter_map(|path| Some((path.clone(), fs::read_to_string(path).ok()?.trim_end().to_owned()))).collect()
}

/// Whether it leads a session and a process group, and the size of its terminal.
fn session() -> Value {
    let own = nix::unistd::Pid::this();
    let stat = read("/proc/self/stat");
    let fields: Vec<_> = stat.rsplit_once(')').map_or("", |(_, rest)| rest).split_whitespace().collect();
    let number = |at: usize| fields.get(at).and_then(|field| field.parse::<i32>().ok());
    json!({
        "leads_session": number(3) == Some(own.as_raw()),
        "leads_group": number(2) == Some(own.as_raw()),
        "has_terminal": number(4) != Some(0),
        "size": kernel::tty::window_size(io::stdin().as_fd()).ok().map(|size| [size.rows, size.columns]),
    })
}

/// Policy, priorities and the last fields of the scheduler that a parent may hand down.
fn scheduling() -> BTreeMap<String, String> {
    let table = read("/proc/self/sched");
    let rows = table.lines().filter_map(|line| line.split_once(':'));
    rows.map(|(name, value)| (name.trim().to_owned(), value.trim().to_owned()))
        .filter(|(name, _)| matches!(name.as_str(), "policy" | "prio"))
        .collect()
}

fn mounts() -> Vec<Value> {
    let table = read("/proc/self/mountinfo");
    let rows = table.lines().filter_map(|line| {
        let (left, right) = line.split_once(" - ")?;
        let left: Vec<_> = left.split(' ').collect();
        let right: Vec<_> = right.split(' ').collect();
        Some(json!({
            "root": left.get(3)?,
            "at": left.get(4)?,
            "options": left.get(5)?.split(',').collect::<Vec<_>>(),
            // `shared:N`, `master:N`, `propagate_from:N`, `unbindable`; none of them is private.
            "propagation": left.get(6..)?,
            "type": right.first()?,
            "source": right.get(1)?,
            "super_options": right.get(2).map(|options| options.split(',').collect::<Vec<_>>()),
        }))
    });
    rows.collect()
}

/// Everything in `/dev` but the directories of other file systems, with how opening it goes.
fn devices(dir: &Path) -> BTreeMap<String, Value> {
    let mut found = BTreeMap::new();
    for entry in fs::read_dir(dir).into_iter().flatten().flatten() {
        let path = entry.path();
        let Ok(about) = path.symlink_metadata() else { continue };
        if about.is_dir() {
            if !matches!(entry.file_name().to_str(), Some("pts" | "shm" | "mqueue" | "hugepages")) {
                found.extend(devices(&path));
            }
            continue;
        }
        let mut row = json!({
            "kind": kind(&about), "mode": format!("{:04o}", about.mode() & 0o7777),
            "uid": about.uid(), "gid": about.gid(),
        });
        if about.is_symlink() {
            row["to"] = fs::read_link(&path).map(|to| json!(to)).unwrap_or_default();
        } else {
            row["major"] = json!(nix::sys::stat::major(about.rdev()));
            row["minor"] = json!(nix::sys::stat::minor(about.rdev()));
            row["open"] = tried(&path);
        }
        found.insert(path.display().to_string(), row);
    }
    found
}

/// What can be done with a path that should be hidden or protected.
fn guarded(path: &str) -> Value {
    let Ok(about) = fs::metadata(path) else { return json!({ "kind": "absent" }) };
    if about.is_dir() {
        // The cgroups below one come and go with whoever else is on the host; its files are its own.
        let files_alone = statfs(path).is_ok_and(|about| about.filesystem_type() == CGROUP2_SUPER_MAGIC);
        let counts = |entry: &io::Result<fs::DirEntry>| {
            !files_alone || entry.as_ref().is_ok_and(|entry| entry.file_type().is_ok_and(|kind| kind.is_file()))
        };
        let entries = fs::read_dir(path).map(|entries| entries.filter(counts).count()).ok();
        let trial = format!("{path}/.probe-was-here");
        return json!({ "kind": "directory", "entries": entries, "write": tried_file(&trial) });
    }
    // Only the first byte: some of these never end.
    let mut byte = [0];
    let read = fs::File::open(path).and_then(|mut file| io::Read::read(&mut file, &mut byte));
    let read = read.map(|bytes| if bytes == 0 { "empty" } else { "content" }.to_owned());
    json!({
        "kind": kind(&about),
        "read": read.unwrap_or_else(|error| name(&error)),
        "write": tried(Path::new(path))["write"],
    })
}

/// Makes a file and removes it again: `ok`, or why not.
fn tried_file(path: &str) -> String {
    match fs::OpenOptions::new().write(true).create_new(true).open(path) {
        Ok(_) => {
            let _ = fs::remove_file(path);
            "ok".to_owned()
        }
        Err(error) => name(&error),
    }
}

fn descriptors() -> BTreeMap<String, String> {
    let mut found = BTreeMap::new();
    for entry in fs::read_dir("/proc/self/fd").into_iter().flatten().flatten() {
        if let Ok(to) = fs::read_link(entry.path()) {
            // The descriptor of this very listing.
            if !to.to_string_lossy().ends_with("/fd") {
                found.insert(lossy(entry.file_name()), to.display().to_string());
            }
        }
    }
    found
}

fn interfaces() -> Vec<String> {
    let table = read("/proc/net/dev");
    let mut names: Vec<_> =
        table.lines().skip(2).filter_map(|line| Some(line.split_once(':')?.0.trim().to_owned())).collect();
    names.sort();
    names
}

/// Addresses of this network namespace: IPv4 from the local routes, IPv6 from the kernel's table.
fn addresses() -> Vec<String> {
    let mut found = Vec::new();
    let mut candidate = None;
    for line in read("/proc/net/fib_trie").lines() {
        let line = line.trim();
        if let Some(address) = line.strip_prefix("|-- ") {
            candidate = Some(address.to_owned());
        } else if line == "/32 host LOCAL" {
            found.extend(candidate.take());
        }
    }
    for line in read("/proc/net/if_inet6").lines() {
        let hex = line.split(' ').next().unwrap_or_default();
        if let Ok(bits) = u128::from_str_radix(hex, 16) {
            found.push(std::net::Ipv6Addr::from(bits).to_string());
        }
    }
    found.sort();
    found.dedup();
    found
}
