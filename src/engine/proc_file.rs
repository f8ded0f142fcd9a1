//! Files of `/proc` that a mount may cover.
//!
//! Everything else there is the kernel's word: a volume over `/proc/self/attr/exec` or the like would make what a
//! process asks of the kernel go nowhere. The planner refuses by name what the child, who sees where a path really
//! leads, refuses by filesystem.

use std::path::Path;

/// The files, cleaned and absolute. `/proc/net/dev` is not among them: it is a link to each process's own file, and a
/// mount would cover that of process 1 alone.
const COVERABLE: [&str; 10] = [
    // LXCFS shows the container's numbers in place of the machine's. They are only read.
    "/proc/cpuinfo",
    "/proc/diskstats",
    "/proc/loadavg",
    "/proc/meminfo",
    "/proc/slabinfo",
    "/proc/stat",
    "/proc/swaps",
    "/proc/uptime",
    // Restoring a checkpoint sets the number of the next process here, though `/proc/sys` is read-only.
    "/proc/sys/kernel/ns_last_pid",
    // Certified images show their libraries that the mode is on, whatever the host was started with.
    "/proc/sys/crypto/fips_enabled",
];

/// Whether a mount may cover this file.
pub(crate) fn may_be_covered(path: &Path) -> bool {
    COVERABLE.iter().any(|allowed| path == Path::new(allowed))
}
