//! A process that has been killed and does not end: what the kernel says that it waits for.

use std::fs;

/// For people: the process, its state, and where in the kernel it is (`proc_pid_status(5)`, `proc_pid_wchan(5)`).
pub(super) fn describe(pid: i32) -> String {
    let read = |file: &str| fs::read_to_string(format!("/proc/{pid}/{file}")).unwrap_or_default();
    let status = read("status");
    let state = status.lines().find_map(|line| line.strip_prefix("State:")).map_or("unknown", str::trim);
    let place = read("wchan");
    match place.trim() {
        // Nothing to be told, or not told to us.
        "" | "0" => format!("process {pid} was killed and has not ended: {state}"),
        place => format!("process {pid} was killed and has not ended: {state} in {place}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_process_and_its_state_are_named() {
        let pid = std::process::id() as i32;
        let told = describe(pid);
        assert!(told.contains(&pid.to_string()) && told.contains('('), "{told}");
        assert!(describe(i32::MAX).contains("unknown"), "one that is gone is nobody's mistake");
    }
}
