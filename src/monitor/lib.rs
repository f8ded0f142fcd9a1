//! The processes that outlive the daemon: the node's launcher, and for each pod a monitor that it forks.
//!
//! One program, `coracle-monitor`, started once from a sealed memfd. The **launcher** lives in a mount namespace that
//! holds next to nothing, forks a monitor when the daemon asks, runs short programs of the host's for it ([`program`]),
//! reaps them all, and exits when it is retired and alone. A **monitor** is the parent of one pod's processes: it makes
//! the pod's namespaces, launches containers (`engine`), holds their streams, writes their logs, reaps them, records
//! their exits, starts execs. A container may be made by another OCI runtime instead ([`runtime`]): the monitor is its
//! parent all the same.
//!
//! Both have one thread and no runtime: epoll, and SIGCHLD as a descriptor. Neither ever waits for the daemon, and
//! neither resolves a path of the host: all it needs comes as descriptors. Only a child that is about to become another
//! program does.
//! Never knows: images, networks, the CRI, why a pod is what it is.

mod asker;
mod container;
mod event;
mod exec;
mod hand_over;
mod kill;
mod launcher;
mod log;
mod log_health;
mod log_line;
mod output;
mod own_cgroup;
mod pod;
mod program;
mod prune;
mod reap;
mod request;
mod rfc3339;
mod runtime;
mod set_up;
mod take_over;

use std::process::exit;

/// Exit code for a command line that names no role.
const USAGE: i32 = 64;

/// Runs the role that the first argument names. `coracled` starts `coracle-monitor launcher`; monitors are forks of it.
pub fn run() -> ! {
    let mut words = std::env::args_os().skip(1).map(|word| word.to_string_lossy().into_owned());
    match (words.next().as_deref(), words.next()) {
        (Some("launcher"), program) => launcher::run(&program.unwrap_or_default()),
        (Some(take_over::ROLE), Some(place)) => take_over::run(&place),
        (Some(take_over::REHEARSAL), Some(place)) => take_over::rehearse(&place),
        (Some("--version"), _) => {
            say(concat!("coracle-monitor ", env!("CARGO_PKG_VERSION")));
            exit(0)
        }
        _ => {
            say("coracle-monitor is started by coracled: coracle-monitor launcher");
            exit(USAGE)
        }
    }
}

/// Writes a line where the daemon keeps what a launcher can tell nobody: standard error is its log in the state
/// directory. For the rare thing that ends a process or concerns no container.
#[allow(clippy::print_stderr)]
fn say(text: &str) {
    eprintln!("{text}");
}
