//! The launcher: forks a monitor for each pod, runs short programs for the daemon, reaps them all, and stays out of
//! everything else.
//!
//! Steps of its beginning, in order: take the listening socket from standard input; a session of its own (the daemon's
//! terminal must not end it); adopt orphans; own cgroup, while the host's mounts are in sight; small root; serve.
//! A killed launcher hurts nobody: monitors live on, and the daemon starts another.

use std::{
    io,
    os::fd::{AsFd, OwnedFd},
    process::exit,
};

use engine::launch::Failure;
use kernel::{
    descriptor, identity,
    poll::{Epoll, Events, Interest},
    process::{self, Pid},
    signal::{self, SignalFd},
    socket,
};
use link::{Error, PROTOCOL, Peer, RELEASE, wire};
use nix::libc;
use wire::{launcher_reply::Result as Reply, launcher_request::Act};

use crate::{
    event,
    own_cgroup::OwnCgroup,
    pod,
    program::{Answer, Programs},
    prune::prune,
    say,
};

/// Exit code when it could not begin.
const NO_START: i32 = 70;

/// A monitor that lives.
struct Child {
    pod_id: String,
    pid: Pid,
}

struct Launcher {
    /// What the daemon calls the program that runs here, and in our monitors.
    program: String,
    epoll: Epoll,
    listener: OwnedFd,
    signals: SignalFd,
    peer: Option<Peer>,
    /// Counts connections, so that an answer never reaches another daemon than the one that asked.
    connection: u64,
    monitors: Vec<Child>,
    programs: Programs,
    retired: bool,
}

/// Runs the launcher's role to its end.
pub(crate) fn run(program: &str) -> ! {
    let listener = match take_listener() {
        Ok(listener) => listener,
        Err(error) => fail("take the listening socket from standard input", &error),
    };
    // Fails for the leader of a process group, which needs it least.
    let _ = process::new_session();
    let _ = identity::set_name(c"coracle-launch");
    // Containers are forked from here: nobody inside may look into this memory before they exec.
    let begun = identity::dumpable(false)
        .and_then(|()| identity::child_subreaper())
        .and_then(|()| signal::ignore(libc::SIGPIPE))
        .and_then(|()| SignalFd::new(&[libc::SIGCHLD]));
    let signals = match begun {
        Ok(signals) => signals,
        Err(error) => fail("begin", &error),
    };
    let cgroup = OwnCgroup::enter();
    if let Err((step, error)) = prune() {
        cgroup.leave();
        fail(step, &error);
    }
    let served = Launcher::new(program, listener, signals).and_then(|mut launcher| launcher.serve());
    cgroup.leave();
    match served {
        Ok(()) => exit(0),
        Err(error) => fail("wait for the daemon", &error),
    }
}

/// Lifts the socket off standard input and puts the null device there and on standard output.
fn take_listener() -> io::Result<OwnedFd> {
    let listener = descriptor::duplicate_from(io::stdin().as_fd(), 3)?;
    socket::set_nonblocking(listener.as_fd())?;
    // The daemon made it: whoever connects must find us behind it, even when we do not answer any more.
    socket::own_listener(listener.as_fd(), link::BACKLOG)?;
    let null = std::fs::File::options().read(true).write(true).open("/dev/null")?;
    descriptor::place_stdio(null.as_fd(), null.as_fd(), io::stderr().as_fd())?;
    Ok(listener)
}

fn fail(step: &str, error: &io::Error) -> ! {
    say(&format!("launcher: {step}: {error}"));
    exit(NO_START)
}

impl Launcher {
    fn new(program: &str, listener: OwnedFd, signals: SignalFd) -> io::Result<Launcher> {
        let epoll = Epoll::new()?;
        epoll.add(listener.as_fd(), event::LISTENER, Interest::READ)?;
        epoll.add(signals.as_fd(), event::SIGNALS, Interest::READ)?;
        let program = program.to_owned();
        let (monitors, programs) = (Vec::new(), Programs::default());
        Ok(Launcher {
            program,
            epoll,
            listener,
            signals,
            peer: None,
            connection: 0,
            monitors,
            programs,
            retired: false,
        })
    }

    /// Serves until it is retired and no monitor is left.
    fn serve(&mut self) -> io::Result<()> {
        let mut events = Events::with_room(8);
        while !(self.retired && self.monitors.is_empty() && self.programs.is_empty()) {
            match self.programs.patience() {
                None => self.epoll.rest(&mut events)?,
                patience => self.epoll.wait(&mut events, patience)?,
            }
            for event in events.iter() {
                match event.token {
                    event::LISTENER => self.accept(),
                    event::SIGNALS => self.reap()?,
                    token if Programs::is_leash(token) => self.programs.let_go(&self.epoll, token),
                    _ if event.writable => self.flush(),
                    _ => self.hear(),
                }
            }
            self.programs.kill_overdue();
            // Idle for minutes between two pods: what one took is given back at once.
            kernel::memory::give_back_free_pages();
        }
        Ok(())
    }

    fn accept(&mut self) {
        let Ok(socket) = socket::accept(self.listener.as_fd()) else { return };
        self.drop_peer();
        let ready = socket::set_nonblocking(socket.as_fd())
            .and_then(|()| self.epoll.add(socket.as_fd(), event::PEER, Interest::READ));
        if ready.is_ok() {
            self.connection += 1;
            self.peer = Some(Peer::new(socket));
        }
    }

    fn reap(&mut self) -> io::Result<()> {
        while self.signals.receive()?.is_some() {}
        while let Some((pid, ended)) = process::reap_any()? {
            self.monitors.retain(|monitor| monitor.pid != pid);
            if let Some(Answer { connection, request, reply }) = self.programs.ended(&self.epoll, pid, ended)
                && connection == self.connection
            {
                self.send(&wire::LauncherReply { id: request, result: Some(reply) });
            }
        }
        Ok(())
    }

    fn flush(&mut self) {
        let Some(peer) = &mut self.peer else { return };
        if peer.flush().is_err() {
            self.drop_peer();
        } else if !peer.is_waiting() {
            let _ = self.epoll.modify(peer.as_fd(), event::PEER, Interest::READ);
        }
    }

    fn hear(&mut self) {
        while let Some(peer) = &mut self.peer {
            let (request, fds) = match peer.receive::<wire::LauncherRequest>() {
                Ok(Some(received)) => received,
                Ok(None) => return,
                Err(Error::Malformed { .. }) => continue,
                Err(_) => return self.drop_peer(),
            };
            let result = match request.act {
                Some(Act::Hello(_)) => self.greet(),
                Some(Act::Spawn(spawn)) => self.spawn(&spawn, fds),
                Some(Act::Run(order)) => {
                    match self.programs.start(&self.epoll, (self.connection, request.id), &order, fds) {
                        // Answered at its end.
                        Ok(()) => continue,
                        Err(Failure { step, errno }) => failure(&step, errno),
                    }
                }
                Some(Act::Retire(_)) => {
                    self.retired = true;
                    Reply::Done(wire::Done {})
                }
                None => failure("an act that this release does not know", 0),
            };
            self.send(&wire::LauncherReply { id: request.id, result: Some(result) });
        }
    }

    fn greet(&mut self) -> Reply {
        self.retired = false;
        Reply::Hello(wire::LauncherHello {
            protocol: PROTOCOL,
            release: RELEASE.to_owned(),
            pid: process::own_pid().0,
            pods: self.monitors.iter().map(|monitor| monitor.pod_id.clone()).collect(),
            program: self.program.clone(),
        })
    }

    fn spawn(&mut self, spawn: &wire::SpawnMonitor, fds: Vec<OwnedFd>) -> Reply {
        let Some(listener) = fds.into_iter().nth(spawn.listener_fd as usize) else {
            return failure("spawn a monitor: no listening socket came with the order", 0);
        };
        if spawn.pod_id.parse::<model::PodId>().is_err() {
            return failure("spawn a monitor: the pod's id is none", 0);
        }
        match process::fork(|| pod::run(&spawn.pod_id, &self.program, &listener)) {
            Ok((pid, _)) => {
                self.monitors.push(Child { pod_id: spawn.pod_id.clone(), pid });
                Reply::Spawned(wire::Spawned { pid: pid.0 })
            }
            Err(error) => failure("fork a monitor", error.raw_os_error().unwrap_or(libc::EIO)),
        }
    }

    fn send(&mut self, reply: &wire::LauncherReply) {
        let Some(peer) = &mut self.peer else { return };
        if peer.send(reply).is_err() {
            self.drop_peer();
        } else if peer.is_waiting() {
            let _ = self.epoll.modify(peer.as_fd(), event::PEER, Interest::READ | Interest::WRITE);
        }
    }

    fn drop_peer(&mut self) {
        if let Some(peer) = self.peer.take() {
            // Fails only for a descriptor that was never added.
            let _ = self.epoll.remove(peer.as_fd());
        }
    }
}

fn failure(step: &str, errno: i32) -> Reply {
    Reply::Failure(wire::Failure { step: step.to_owned(), errno })
}
