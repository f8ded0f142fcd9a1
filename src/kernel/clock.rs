//! Time as the kernel counts it, and which boot this is.

use std::{fs, io, time::Duration};

use nix::{sys::time::TimeSpec, time::ClockId};

/// The id of this boot, a UUID text. Everything keyed by it means nothing after the next boot.
pub fn boot_id() -> io::Result<String> {
    Ok(fs::read_to_string("/proc/sys/kernel/random/boot_id")?.trim().to_owned())
}

/// Nanoseconds since 1970 UTC. May jump when somebody sets the clock. Does not allocate.
pub fn realtime_ns() -> i64 {
    let now = read(ClockId::CLOCK_REALTIME);
    i64::try_from(now.as_nanos()).unwrap_or(i64::MAX)
}

/// Time since boot, sleep included; never jumps. Does not allocate.
pub fn since_boot() -> Duration {
    read(ClockId::CLOCK_BOOTTIME)
}

/// How many of the clock ticks of `/proc/<pid>/stat` make a second (100 on every Linux we know).
pub fn ticks_per_second() -> u64 {
    nix::unistd::sysconf(nix::unistd::SysconfVar::CLK_TCK).ok().flatten().map_or(100, |ticks| ticks as u64)
}

fn read(clock: ClockId) -> Duration {
    // Cannot fail: these clocks exist on every kernel we support.
    Duration::from(nix::time::clock_gettime(clock).unwrap_or(TimeSpec::new(0, 0)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_clocks_agree_with_the_standard_library() {
        let ours = realtime_ns();
        let theirs = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap().as_nanos() as i64;
        assert!((theirs - ours).abs() < 10_000_000_000, "{ours} and {theirs}");
        assert!(since_boot() <= since_boot());
        assert_eq!(boot_id().unwrap().len(), 36);
    }
}
