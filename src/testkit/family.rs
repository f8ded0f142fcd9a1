//! Processes and their descendants, as `/proc` shows them.

use std::{collections::BTreeMap, fs};

/// A process that a reused number cannot be mistaken for.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Process {
    /// Its number in our pid namespace.
    pub pid: i32,
    /// Its parent at the time of the look.
    pub parent: i32,
    /// Clock ticks between boot and its start.
    pub started: u64,
    /// Its short name.
    pub name: String,
    /// It has ended and waits to be reaped.
    pub zombie: bool,
}

impl Process {
    /// The process with this number now.
    pub fn of(pid: i32) -> Option<Process> {
        let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
        // The name is in brackets and may itself hold brackets and spaces.
        let (head, tail) = stat.rsplit_once(')')?;
        let name = head.split_once('(')?.1.to_owned();
        let fields: Vec<_> = tail.split_whitespace().collect();
        Some(Process {
            pid,
            parent: fields.get(1)?.parse().ok()?,
            started: fields.get(19)?.parse().ok()?,
            name,
            zombie: fields.first() == Some(&"Z"),
        })
    }

    /// Whether this very process still runs.
    pub fn alive(&self) -> bool {
        Process::of(self.pid).is_some_and(|now| now.started == self.started && !now.zombie)
    }

    /// Ends it, if it still is this very process.
    pub fn kill(&self) {
        if self.alive() {
            let _ = nix::sys::signal::kill(nix::unistd::Pid::from_raw(self.pid), nix::sys::signal::Signal::SIGKILL);
        }
    }
}

/// All that descend from these processes now, themselves not among them.
pub fn descendants(of: &[i32]) -> Vec<Process> {
    let numbers = fs::read_dir("/proc").into_iter().flatten().flatten();
    let all = numbers.filter_map(|entry| Process::of(entry.file_name().to_str()?.parse().ok()?));
    let mut children: BTreeMap<i32, Vec<Process>> = BTreeMap::new();
    for process in all {
        children.entry(process.parent).or_default().push(process);
    }
    let mut found = Vec::new();
    let mut next: Vec<i32> = of.to_vec();
    while let Some(parent) = next.pop() {
        for child in children.remove(&parent).unwrap_or_default() {
            next.push(child.pid);
            found.push(child);
        }
    }
    found
}
