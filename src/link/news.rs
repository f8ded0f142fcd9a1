//! What monitors say: the greeting at every connection, and news that nobody asked for.

use std::time::SystemTime;

use model::{ContainerId, Exit, ExitRecord};

use crate::{ExecId, exit, wire};

/// What a monitor tells whoever connects: all that it knows.
#[derive(Debug, Clone)]
pub struct Greeting {
    /// The protocol it speaks.
    pub protocol: u32,
    /// Its release, for logs.
    pub release: String,
    /// Its process.
    pub pid: i32,
    /// Which program it runs, in the words of the daemon that started its launcher or replaced it; empty: it was not
    /// told.
    pub program: String,
    /// Whether the pod has been set up.
    pub set_up: bool,
    /// The pod's init, where the pod shares its pid namespace.
    pub init_pid: Option<i32>,
    /// Its containers, in no order.
    pub containers: Vec<Now>,
}

/// What a monitor knows of one container.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Now {
    /// Which one.
    pub id: ContainerId,
    /// Where it is in its life.
    pub state: NowState,
}

/// A container's state as its monitor knows it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum NowState {
    /// It waits just before `exec`.
    Waiting {
        /// Process id in the host's pid namespace.
        pid: i32,
    },
    /// Its program runs.
    Running {
        /// Process id in the host's pid namespace.
        pid: i32,
        /// When `exec` succeeded.
        since: SystemTime,
    },
    /// It has ended and has not been forgotten.
    Exited {
        /// When `exec` had succeeded.
        started: Option<SystemTime>,
        /// How and when.
        record: ExitRecord,
    },
}

/// What happens by itself. Each is told at most once a connection; the greeting repeats what matters.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum News {
    /// A container has ended: its record is on disk and its output in its log.
    Exited {
        /// Which one.
        container: ContainerId,
        /// How and when.
        record: ExitRecord,
    },
    /// A program runs whose start an earlier connection asked for.
    Started {
        /// Which one.
        container: ContainerId,
        /// When `exec` succeeded.
        at: SystemTime,
    },
    /// The pod's init has ended by itself, and with it every container that shares its processes.
    InitExited,
    /// An exec of an earlier connection has ended. (Those of this connection tell their own [`crate::Exec`].)
    ExecExited {
        /// Which one.
        exec: ExecId,
        /// How.
        how: Exit,
    },
    /// Something that the daemon's log should hold.
    Trouble {
        /// Whom it concerns.
        container: Option<ContainerId>,
        /// What happened.
        text: String,
    },
    /// The connection has ended; always the last item. The monitor is dead unless a new connection can be made.
    Lost,
}

impl Greeting {
    pub(crate) fn from_wire(hello: wire::MonitorHello) -> Greeting {
        Greeting {
            protocol: hello.protocol,
            release: hello.release,
            pid: hello.pid,
            program: hello.program,
            set_up: hello.set_up,
            init_pid: (hello.init_pid > 0).then_some(hello.init_pid),
            // A name that is no id cannot be a container of ours.
            containers: hello.containers.into_iter().filter_map(Now::from_wire).collect(),
        }
    }
}

impl Now {
    fn from_wire(now: wire::ContainerNow) -> Option<Now> {
        let id = now.container_id.parse().ok()?;
        let started = (now.started_at_ns > 0).then(|| exit::from_ns(now.started_at_ns));
        let state = match (now.exited, started) {
            (Some(exited), started) => NowState::Exited { started, record: exit::record_from_wire(&exited) },
            (None, Some(since)) => NowState::Running { pid: now.pid, since },
            (None, None) => NowState::Waiting { pid: now.pid },
        };
        Some(Now { id, state })
    }
}
