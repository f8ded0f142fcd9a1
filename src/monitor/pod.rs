//! A pod's monitor: what it holds, and its loop.
//!
//! The loop waits for one of: a daemon that connects or asks ([`crate::request`]), a child's word about its beginning,
//! output of a container ([`crate::output`]), the end of a process ([`crate::reap`]). Each is handled at once and
//! without waiting, so no container ever waits for another, and none for the daemon.

use std::{
    io,
    os::fd::{AsFd, BorrowedFd, OwnedFd},
    time::{Duration, Instant},
};

use engine::launch::{Failure, PodPlaces};
use kernel::{
    descriptor, identity,
    poll::{Epoll, Events, Interest},
    process::{Never, Pid, exit_now},
    signal::{self, SignalFd},
    socket,
};
use link::wire;
use model::ContainerId;
use nix::libc;
use wire::monitor_reply::Result as Reply;

use crate::{
    asker::{Asker, Daemon},
    container::{Container, Phase},
    event::{self, Numbered},
    exec::Exec,
    log::Change,
    runtime::Commands,
    say,
};

/// Quiet time after which free memory is given back: not in the middle of a burst.
const QUIET: Duration = Duration::from_millis(50);

/// How long the first daemon may take to greet us. It does so as soon as it knows that we are there, in milliseconds;
/// where the launcher died before it said so, another monitor has our socket's name, and nobody will ever find us.
const GREETING_PATIENCE: Duration = Duration::from_secs(10);

/// One pod's monitor.
pub(crate) struct Pod {
    pub(crate) id: String,
    /// What the daemon calls the program that runs here.
    pub(crate) program: String,
    pub(crate) epoll: Epoll,
    pub(crate) daemon: Daemon,
    pub(crate) set_up: SetUp,
    pub(crate) containers: Vec<Container>,
    pub(crate) execs: Vec<Exec>,
    /// Of other runtimes.
    pub(crate) commands: Commands,
    /// Number for the next container or exec.
    next: u64,
    pub(crate) listener: OwnedFd,
    pub(crate) signals: SignalFd,
    /// The daemon has ended the pod: go when nothing is left to do.
    pub(crate) ending: bool,
    /// Who asked for the end and hears when the init is gone, and every command of a runtime.
    pub(crate) end_asker: Option<Asker>,
    /// When we go unless somebody has greeted us; `None` from the first greeting on.
    pub(crate) forsaken_at: Option<Instant>,
}

/// Whether the pod has what its containers need.
#[derive(Debug)]
pub(crate) enum SetUp {
    /// Not asked for yet.
    No,
    /// Tried, and not to be tried again: what was unshared cannot be taken back.
    Failed,
    /// Done.
    Done(Ready),
}

/// What the pod's containers share.
#[derive(Debug)]
pub(crate) struct Ready {
    pub(crate) places: PodPlaces,
    pub(crate) records: OwnedFd,
    pub(crate) init: Option<PodInit>,
}

/// The pod's init, while it lives.
#[derive(Debug)]
pub(crate) struct PodInit {
    pub(crate) pid: Pid,
    pub(crate) pidfd: OwnedFd,
}

/// A monitor's life, in a fork of the launcher that holds the launcher's descriptors only by memory.
pub(crate) fn run(id: &str, program: &str, listener: &OwnedFd) -> Never {
    let code = match begin(id, program, listener.as_fd()).and_then(|mut pod| pod.serve()) {
        Ok(()) => 0,
        Err(error) => {
            say(&format!("monitor of pod {id}: {error}"));
            1
        }
    };
    exit_now(code)
}

fn begin(id: &str, program: &str, listener: BorrowedFd<'_>) -> io::Result<Pod> {
    let listener = listener.try_clone_to_owned()?;
    descriptor::close_all_but(&[listener.as_fd()])?;
    socket::set_nonblocking(listener.as_fd())?;
    // The daemon made it: whoever connects must find us behind it, even when we do not answer any more.
    socket::own_listener(listener.as_fd(), link::BACKLOG)?;
    let mut pod = bare(id, program, listener)?;
    pod.forsaken_at = Some(Instant::now() + GREETING_PATIENCE);
    Ok(pod)
}

/// A monitor that knows of nothing yet, in a process that is as a monitor's has to be.
pub(crate) fn bare(id: &str, program: &str, listener: OwnedFd) -> io::Result<Pod> {
    signal::reset()?;
    signal::ignore(libc::SIGPIPE)?;
    identity::set_name(c"coracle-monitor")?;
    identity::dumpable(false)?;
    // Processes that a container of the host's pid namespace leaves behind come to us.
    identity::child_subreaper()?;
    let signals = SignalFd::new(&[libc::SIGCHLD])?;
    let epoll = Epoll::new()?;
    epoll.add(listener.as_fd(), event::LISTENER, Interest::READ)?;
    epoll.add(signals.as_fd(), event::SIGNALS, Interest::READ)?;
    Ok(Pod {
        id: id.to_owned(),
        program: program.to_owned(),
        epoll,
        daemon: Daemon::default(),
        set_up: SetUp::No,
        containers: Vec::new(),
        execs: Vec::new(),
        commands: Commands::default(),
        next: 1,
        listener,
        signals,
        ending: false,
        end_asker: None,
        forsaken_at: None,
    })
}

impl Pod {
    /// Serves until the daemon ends the pod.
    pub(crate) fn serve(&mut self) -> io::Result<()> {
        let mut events = Events::with_room(16);
        let mut tidy = true;
        while !(self.is_over() || self.is_forsaken()) {
            match self.next_deadline() {
                Some(deadline) => {
                    self.epoll.wait(&mut events, Some(deadline.saturating_duration_since(Instant::now())))?;
                }
                None if tidy => self.epoll.rest(&mut events)?,
                None => self.epoll.wait(&mut events, Some(QUIET))?,
            }
            let mut quiet = true;
            for event in events.iter() {
                quiet = false;
                self.handle(event.token, event.writable);
            }
            self.end_overdue();
            self.commands.kill_overdue();
            self.answer_end();
            self.report_logs();
            if quiet && !tidy {
                kernel::memory::give_back_free_pages();
                kernel::memory::give_back_unused_stack();
            }
            tidy = quiet;
        }
        Ok(())
    }

    fn handle(&mut self, token: u64, writable: bool) {
        match token {
            event::LISTENER => {
                if let Ok(socket) = socket::accept(self.listener.as_fd()) {
                    self.daemon.replace(&self.epoll, socket);
                }
            }
            event::PEER => {
                if writable {
                    self.daemon.flush(&self.epoll);
                }
                while let Some((asker, request, fds)) = self.daemon.next(&self.epoll) {
                    self.serve_request(asker, request.act, fds);
                }
            }
            event::SIGNALS => self.reap(),
            _ => match Numbered::of(token) {
                Some(Numbered::Word(number)) => self.hear_container(number),
                Some(Numbered::ExecWord(number)) => self.hear_exec(number),
                Some(Numbered::Stdout(number)) => self.pump(number, 0),
                Some(Numbered::Stderr(number)) => self.pump(number, 1),
                Some(Numbered::Leftover(number)) => self.leftover_ended(number),
                None => {}
            },
        }
    }

    /// A number that no container or exec has had.
    pub(crate) fn number(&mut self) -> u64 {
        self.next += 1;
        self.next
    }

    /// Takes the next signals; what they say is asked of the kernel anew.
    pub(crate) fn drain_signals(&self) {
        while let Ok(Some(_)) = self.signals.receive() {}
    }

    /// Answers a request.
    pub(crate) fn answer(&mut self, asker: Asker, result: Result<Reply, Failure>) {
        self.daemon.answer(&self.epoll, asker, result);
    }

    /// Answers a request that has nothing to say.
    pub(crate) fn done(&mut self, asker: Asker) {
        self.answer(asker, Ok(Reply::Done(wire::Done {})));
    }

    /// The position of a container by its identity.
    pub(crate) fn position(&self, id: &str) -> Option<usize> {
        self.containers.iter().position(|container| container.id.as_str() == id)
    }

    /// The position of a container by its number.
    pub(crate) fn numbered(&self, number: u64) -> Option<usize> {
        self.containers.iter().position(|container| container.number == number)
    }

    fn pump(&mut self, number: u64, stream: usize) {
        let Some(index) = self.numbered(number) else { return };
        let mut changes = Vec::new();
        let container = &mut self.containers[index];
        container.pump(&self.epoll, stream, &mut |change| changes.push(change));
        changes.into_iter().for_each(|change| container.log_health.note(change));
        self.report_logs();
    }

    /// Tells the daemon how containers' logs fare, as far as it is time to.
    fn report_logs(&mut self) {
        let now = Instant::now();
        for container in &mut self.containers {
            if let Some(change) = container.log_health.take_due(now) {
                report(&mut self.daemon, &self.epoll, &container.id, change);
            }
        }
    }

    fn next_deadline(&self) -> Option<Instant> {
        let ends = self.containers.iter().filter_map(|container| container.deadline());
        let reports = self.containers.iter().filter_map(|container| container.log_health.due());
        ends.chain(reports).chain(self.forsaken_at).chain(self.commands.deadline()).min()
    }

    /// Whether the pod has been ended, and whoever asked for it told.
    fn is_over(&self) -> bool {
        self.ending && self.end_asker.is_none() && self.daemon.is_flushed()
    }

    /// Whether nobody has spoken to us in all the time that somebody should have needed for it.
    fn is_forsaken(&self) -> bool {
        self.forsaken_at.is_some_and(|at| Instant::now() >= at)
    }

    /// Ends containers whose last processes will not go in time: they are stuck in the kernel, and say no more.
    fn end_overdue(&mut self) {
        let now = Instant::now();
        while let Some(index) =
            self.containers.iter().position(|container| container.deadline().is_some_and(|deadline| deadline <= now))
        {
            self.finish(index);
        }
    }

    fn leftover_ended(&mut self, number: u64) {
        let Some(index) = self.numbered(number) else { return };
        if self.containers[index].drop_ended_leftover(&self.epoll) {
            self.finish(index);
        }
    }

    /// The pod's init, where it has one that lives.
    pub(crate) fn init(&self) -> Option<&PodInit> {
        match &self.set_up {
            SetUp::Done(ready) => ready.init.as_ref(),
            SetUp::No | SetUp::Failed => None,
        }
    }

    /// Whether a container is there that has not ended.
    pub(crate) fn is_alive(&self) -> bool {
        self.containers.iter().any(|container| !matches!(container.phase, Phase::Ended { .. }))
    }
}

/// Tells the daemon's log how a container's log fares.
pub(crate) fn report(daemon: &mut Daemon, epoll: &Epoll, id: &ContainerId, change: Change) {
    let text = match change {
        Change::Failing => "the log cannot be written: entries are dropped".to_owned(),
        Change::Resumed { dropped } => format!("the log is written again: {dropped} entries were dropped"),
    };
    daemon.trouble(epoll, Some(id), &text);
}
