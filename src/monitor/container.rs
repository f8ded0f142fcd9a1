//! One container, as its monitor knows it.
//!
//! ```text
//!  Preparing ──ready──▶ Waiting ──start──▶ Starting ──exec──▶ Running ──▶ Ending ──▶ Ended
//!      │ failed            │ forgotten         │ failed          reaped     drained
//!      ▼                   ▼                   └─────────────────────────▶
//!   (gone)             Forgotten ──reaped──▶ Dismissed ──▶ (gone)
//! ```
//! *Ending* lasts while processes that outlived the first one are killed; then the streams are drained, the exit is
//! recorded, and told. *Dismissed* lasts while another runtime, where one has made it, lets go of it.

use std::{
    collections::VecDeque,
    io,
    os::fd::{AsFd, BorrowedFd, OwnedFd},
    time::{Duration, Instant},
};

use engine::{
    cgroup::{Tree, remove_tree},
    launch::{Failure, Kept, Launched, hear},
    runtime::Runtime,
};
use kernel::{
    poll::{Epoll, Interest},
    process::{Ended, Pid, pidfd_send_signal},
};
use link::wire;
use model::{ContainerId, ExitRecord};

use crate::{
    asker::Asker,
    event::Numbered,
    log::{Change, Log, Stream},
    log_health::LogHealth,
    output::{Found, Output, of_terminal},
    runtime::Left,
};

mod hand_over;

/// How many directories of execs are looked at when one ends: more than one, so that those that something still ran in
/// become fewer again; few, so that no end takes long, however many there are.
const EXECS_AT_ONCE: usize = 8;

/// How long processes that outlived the first one may take to die of SIGKILL before we go on without them.
const LAST_GRACE: Duration = Duration::from_secs(5);

/// A container.
#[derive(Debug)]
pub(crate) struct Container {
    /// For epoll.
    pub(crate) number: u64,
    pub(crate) id: ContainerId,
    pub(crate) pid: Pid,
    pub(crate) phase: Phase,
    /// Its own pid namespace: the kernel kills everything in it with the first process.
    pub(crate) pid_space: wire::launch::Pid,
    /// What is needed only while it lives.
    pub(crate) live: Option<Live>,
    pub(crate) log_health: LogHealth,
    /// The other runtime that runs it, where one does.
    pub(crate) runtime: Option<Runtime>,
    /// How and when its process ended, while its runtime has not yet said that it had begun.
    pub(crate) early_end: Option<(Ended, i64)>,
    /// Who hears when it is forgotten.
    pub(crate) leave: Vec<Then>,
}

/// Who hears that a container is forgotten.
#[derive(Debug)]
pub(crate) enum Then {
    /// Whoever wanted it so.
    Done(Asker),
    /// Whoever wanted it made.
    Failed(Asker, Failure),
}

/// What a container needs while it lives.
#[derive(Debug)]
pub(crate) struct Live {
    pub(crate) pidfd: OwnedFd,
    pub(crate) kept: Kept,
    pub(crate) log: Log,
    /// Between child and us, until exec.
    pub(crate) word: Option<OwnedFd>,
    /// Why it cannot be started, once it has said so.
    pub(crate) failure: Option<Failure>,
    /// Held open, so that a program that reads waits and does not see an end.
    #[allow(dead_code, reason = "holding it is the use")]
    stdin: Option<OwnedFd>,
    /// The terminal's other end, held so that a program may close it and open it again without the terminal's end.
    #[allow(dead_code, reason = "holding it is the use")]
    slave: Option<OwnedFd>,
    outputs: [Option<Output>; 2],
    line_limit: usize,
    /// Directories of execs that have ended, and have left something running in them.
    left_by_execs: VecDeque<String>,
}

/// Where it is in its life.
#[derive(Debug)]
pub(crate) enum Phase {
    /// The child is at work.
    Preparing { asker: Asker },
    /// The child waits just before exec.
    Waiting,
    /// The child has been told to exec.
    Starting { asker: Asker },
    /// Its program runs; since when, nanoseconds since 1970.
    Running { since: i64 },
    /// It is to leave no trace; its end is awaited.
    Forgotten,
    /// Nothing of it is awaited any more but that its runtime lets go of it. Its number may be somebody else's.
    Dismissed,
    /// The first process has ended; others are being killed.
    Ending { started: Option<i64>, record: ExitRecord, leftover: Vec<OwnedFd>, until: Instant },
    /// All of it has ended, and is on record.
    Ended { started: Option<i64>, record: ExitRecord },
}

impl Container {
    /// A launched container.
    pub(crate) fn new(
        number: u64,
        id: ContainerId,
        launched: Launched,
        order: &wire::Launch,
        asker: Asker,
    ) -> Container {
        let Launched { pid, pidfd, word, stdin, stdout, stderr, mut kept } = launched;
        // An entry of no length would never end a line.
        let line_limit = order.log_line_bytes.max(1) as usize;
        let output = |source: Option<OwnedFd>, stream| source.map(|pipe| Output::new(pipe, stream, line_limit, false));
        let outputs = [output(stdout, Stream::Stdout), output(stderr, Stream::Stderr)];
        let log = Log::new(kept.log.take());
        let word = Some(word);
        let live = Live {
            pidfd,
            kept,
            log,
            word,
            failure: None,
            stdin,
            slave: None,
            outputs,
            line_limit,
            left_by_execs: VecDeque::new(),
        };
        Container {
            number,
            id,
            pid,
            phase: Phase::Preparing { asker },
            pid_space: order.pid(),
            live: Some(live),
            log_health: LogHealth::default(),
            runtime: None,
            early_end: None,
            leave: Vec::new(),
        }
    }

    /// Has epoll tell what its child says and writes.
    pub(crate) fn watch(&self, epoll: &Epoll) -> io::Result<()> {
        self.live.as_ref().map_or(Ok(()), |live| live.watch(self.number, epoll))
    }

    /// A handle on its first process, while that has not been reaped.
    pub(crate) fn process(&self) -> Option<BorrowedFd<'_>> {
        match self.phase {
            Phase::Ending { .. } | Phase::Ended { .. } | Phase::Dismissed => None,
            _ => self.live.as_ref().map(|live| live.pidfd.as_fd()),
        }
    }

    /// Where its processes are found.
    pub(crate) fn tree(&self) -> Option<Tree<'_>> {
        let kept = &self.live.as_ref()?.kept;
        Some(Tree { dir: kept.kill_dir.as_fd(), is_v2: kept.kill_dir_is_v2 })
    }

    /// Takes what its runtime has made: from now on that is its process.
    pub(crate) fn adopt(&mut self, epoll: &Epoll, left: Left) -> Result<(), Failure> {
        let (pid, pidfd) = match left {
            Left::Alive { pid, pidfd } => (pid, pidfd),
            Left::Ended { ended, .. } => {
                return Err(Failure::wrong(format!("the container ended too early: {ended:?}")));
            }
        };
        // First of all: whatever fails from here on, this is what has to be killed.
        self.pid = pid;
        if let Some(live) = &mut self.live {
            live.pidfd = pidfd;
        }
        match self.runtime.as_ref().and_then(Runtime::terminal).transpose()? {
            Some(both) => self.take_terminal(epoll, both).map_err(|error| Failure::new("watch the terminal", &error)),
            None => Ok(()),
        }
    }

    /// Kills every process of it that can be found.
    pub(crate) fn kill_whole(&self) {
        // Errors here end in a deadline: what cannot be killed cannot be waited for.
        if let Some(tree) = self.tree() {
            let _ = tree.signal(nix::libc::SIGKILL);
        }
        if let Some(process) = self.process() {
            let _ = pidfd_send_signal(process, nix::libc::SIGKILL);
        }
    }

    /// Whether its first process runs no more, reaped or not.
    pub(crate) fn has_ended(&self) -> bool {
        self.process().is_none_or(|process| !has_not_ended(process))
    }

    /// Reads its output for one turn. A stream that has ended is closed.
    pub(crate) fn pump(&mut self, epoll: &Epoll, stream: usize, report: &mut impl FnMut(Change)) {
        let Some(live) = &mut self.live else { return };
        let Some(output) = &mut live.outputs[stream] else { return };
        if output.pump(&mut live.log, report) == Found::Open {
            return;
        }
        let _ = epoll.remove(output.as_fd());
        // Before the program runs, a terminal or pipe has no writer yet that counts; after, none is left.
        if let Some(output) = live.outputs[stream].take() {
            output.drain(&mut live.log, report);
        }
    }

    /// Takes the terminal that its child has opened.
    pub(crate) fn take_terminal(&mut self, epoll: &Epoll, (master, slave): (OwnedFd, OwnedFd)) -> io::Result<()> {
        let Some(live) = &mut self.live else { return Ok(()) };
        let output = of_terminal(master, live.line_limit)?;
        epoll.add(output.as_fd(), Numbered::Stdout(self.number).token(), Interest::READ)?;
        live.outputs[0] = Some(output);
        live.slave = Some(slave);
        Ok(())
    }

    /// What its child says now.
    pub(crate) fn hear(&self) -> Option<engine::launch::Heard> {
        let word = self.live.as_ref()?.word.as_ref()?;
        Some(hear(word.as_fd()))
    }

    /// Lets go of the socket to its child.
    pub(crate) fn drop_word(&mut self, epoll: &Epoll) {
        if let Some(word) = self.live.as_mut().and_then(|live| live.word.take()) {
            let _ = epoll.remove(word.as_fd());
        }
    }

    /// Begins its end: kills what outlived the first process where the kernel does not. Says whether all are gone.
    pub(crate) fn begin_end(&mut self, epoll: &Epoll, started: Option<i64>, record: ExitRecord) -> bool {
        self.drop_word(epoll);
        let mut leftover = Vec::new();
        if self.pid_space != wire::launch::Pid::Container
            && let Some(tree) = self.tree()
        {
            leftover = tree.handles().unwrap_or_default();
            // Errors here end in the deadline: what cannot be killed cannot be waited for.
            let _ = tree.signal(nix::libc::SIGKILL);
            // Born between the two looks.
            leftover.extend(tree.handles().unwrap_or_default());
        }
        let token = Numbered::Leftover(self.number).token();
        leftover.retain(|process| epoll.add(process.as_fd(), token, Interest::READ).is_ok());
        let all_gone = leftover.is_empty();
        self.phase = Phase::Ending { started, record, leftover, until: Instant::now() + LAST_GRACE };
        all_gone
    }

    /// Lets go of leftover processes that have ended. Says whether none is left.
    pub(crate) fn drop_ended_leftover(&mut self, epoll: &Epoll) -> bool {
        let Phase::Ending { leftover, .. } = &mut self.phase else { return false };
        leftover.retain(|process| {
            let alive = has_not_ended(process.as_fd());
            if !alive {
                let _ = epoll.remove(process.as_fd());
            }
            alive
        });
        leftover.is_empty()
    }

    /// Removes the directory of an exec that has ended, or else keeps it for the end of a later one; and tries some of
    /// those that were kept. Whatever an exec leaves running may end unseen: its parent is then the container's first
    /// process.
    pub(crate) fn drop_exec_directory(&mut self, name: String) {
        let Some(live) = &mut self.live else { return };
        live.left_by_execs.push_front(name);
        for _ in 0..live.left_by_execs.len().min(EXECS_AT_ONCE) {
            let Some(name) = live.left_by_execs.pop_front() else { return };
            if remove_tree(live.kept.kill_dir.as_fd(), &name).is_err() {
                live.left_by_execs.push_back(name);
            }
        }
    }

    /// Drains its streams, lets go of everything that only the living need.
    pub(crate) fn let_go(&mut self, epoll: &Epoll, report: &mut impl FnMut(Change)) {
        self.drop_word(epoll);
        if let Phase::Ending { leftover, .. } = &mut self.phase {
            leftover.drain(..).for_each(|process| drop(epoll.remove(process.as_fd())));
        }
        if let Some(tree) = self.tree() {
            tree.remove_children();
        }
        let Some(mut live) = self.live.take() else { return };
        for output in live.outputs.iter_mut().filter_map(Option::take) {
            let _ = epoll.remove(output.as_fd());
            output.drain(&mut live.log, report);
        }
    }

    /// When its end is to be declared over, whoever is left.
    pub(crate) fn deadline(&self) -> Option<Instant> {
        match &self.phase {
            Phase::Ending { until, .. } => Some(*until),
            _ => None,
        }
    }

    /// What the greeting says of it; nothing while it is not yet, or no longer, the daemon's.
    pub(crate) fn now(&self) -> Option<wire::ContainerNow> {
        let (started, exited) = match &self.phase {
            Phase::Preparing { .. } | Phase::Forgotten | Phase::Dismissed => return None,
            Phase::Waiting | Phase::Starting { .. } => (None, None),
            Phase::Running { since } => (Some(*since), None),
            // Not told as ended before its output is in the log: it runs until then.
            Phase::Ending { started, .. } => (*started, None),
            Phase::Ended { started, record } => (*started, Some(link::exit_to_wire(&self.id, record))),
        };
        let pid = if exited.is_some() { 0 } else { self.pid.0 };
        Some(wire::ContainerNow { container_id: self.id.to_string(), pid, started_at_ns: started.unwrap_or(0), exited })
    }
}

/// A pidfd becomes readable when its process has ended, reaped or not.
fn has_not_ended(process: BorrowedFd<'_>) -> bool {
    use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
    let mut asked = [PollFd::new(process, PollFlags::POLLIN)];
    poll(&mut asked, PollTimeout::ZERO) == Ok(0)
}
