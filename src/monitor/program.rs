//! Short programs of the host's, which the launcher runs for a daemon that never forks.
//!
//! Each has a deadline and a leash: while somebody holds the leash's other end, the program is wanted. At the deadline,
//! or when the leash is let go (the daemon gave up, or died), it is killed with its session. Its end is the answer.

use std::{
    io,
    os::fd::{AsFd, OwnedFd},
    time::{Duration, Instant},
};

use engine::launch::{Failure, Heard, hear};
use kernel::{
    poll::{Epoll, Interest},
    process::{Ended, Pid},
};
use link::wire;
use wire::launcher_reply::Result as Reply;

use crate::{reap::exit, runtime::kill_session};

/// Most at a time. The daemon asks for few, and waits with the rest.
const MOST: usize = 64;
/// Longest that any may take.
const LONGEST: Duration = Duration::from_secs(600);
/// Where the tokens of leashes begin, for epoll. Below are those of the launcher itself.
const TOKENS: u64 = 1 << 32;

/// The programs under way.
#[derive(Debug, Default)]
pub(crate) struct Programs {
    under_way: Vec<Program>,
    number: u64,
}

#[derive(Debug)]
struct Program {
    number: u64,
    pid: Pid,
    /// The connection that it was asked for on, and the request.
    asker: (u64, u64),
    /// On which it says why it could not be started.
    word: OwnedFd,
    leash: OwnedFd,
    /// `None` once it has been killed.
    deadline: Option<Instant>,
    overdue: bool,
}

/// An answer, and to whom.
#[derive(Debug)]
pub(crate) struct Answer {
    pub(crate) connection: u64,
    pub(crate) request: u64,
    pub(crate) reply: Reply,
}

impl Programs {
    /// Whether none is under way.
    pub(crate) fn is_empty(&self) -> bool {
        self.under_way.is_empty()
    }

    /// How long until the first has to be ended.
    pub(crate) fn patience(&self) -> Option<Duration> {
        let deadline = self.under_way.iter().filter_map(|program| program.deadline).min()?;
        Some(deadline.saturating_duration_since(Instant::now()))
    }

    /// Whether an event is a leash's.
    pub(crate) fn is_leash(token: u64) -> bool {
        token >= TOKENS
    }

    /// Starts one. Its answer comes with its end.
    pub(crate) fn start(
        &mut self,
        epoll: &Epoll,
        asker: (u64, u64),
        order: &wire::RunProgram,
        fds: Vec<OwnedFd>,
    ) -> Result<(), Failure> {
        if self.under_way.len() == MOST {
            return Err(Failure::wrong(format!("run a program: {MOST} are running")));
        }
        let leash = fds.get(order.leash_fd as usize).map(|fd| fd.try_clone());
        let leash = leash.ok_or_else(|| Failure::wrong("run a program: no leash came with the order"))?;
        let leash = leash.map_err(|error| Failure::new("take the leash", &error))?;
        let run = engine::program::start(order, &fds)?;
        self.number += 1;
        let patience = Duration::from_millis(order.patience_ms).min(LONGEST);
        let (deadline, number) = (Some(Instant::now() + patience), self.number);
        self.under_way.push(Program { number, pid: run.pid, asker, word: run.word, leash, deadline, overdue: false });
        if let Some(program) = self.under_way.last_mut()
            && let Err(error) = watch(epoll, program)
        {
            // Nobody could end it early: it ends now, and its end is the answer.
            crate::say(&format!("launcher: watch the leash of a program: {error}"));
            program.kill();
        }
        Ok(())
    }

    /// The leash of a program was let go: nobody waits for it any more.
    pub(crate) fn let_go(&mut self, epoll: &Epoll, token: u64) {
        if let Some(program) = self.under_way.iter_mut().find(|program| TOKENS + program.number == token) {
            // Fails only for a descriptor that was never added.
            let _ = epoll.remove(program.leash.as_fd());
            program.kill();
        }
    }

    /// Kills those that have taken too long. Their ends say so.
    pub(crate) fn kill_overdue(&mut self) {
        let now = Instant::now();
        for program in &mut self.under_way {
            if program.deadline.is_some_and(|deadline| deadline <= now) {
                program.overdue = true;
                program.kill();
            }
        }
    }

    /// If this process was one of them: the answer that was waited for.
    pub(crate) fn ended(&mut self, epoll: &Epoll, pid: Pid, ended: Ended) -> Option<Answer> {
        let at = self.under_way.iter().position(|program| program.pid == pid)?;
        let program = self.under_way.swap_remove(at);
        // Let go already, or never added: both are fine.
        let _ = epoll.remove(program.leash.as_fd());
        let reply = match hear(program.word.as_fd()) {
            Heard::Failed(Failure { step, errno }) => Reply::Failure(wire::Failure { step, errno }),
            _ => Reply::Ended(wire::ProgramEnded {
                ending: Some(link::ending_to_wire(&exit(ended))),
                overdue: program.overdue,
            }),
        };
        let (connection, request) = program.asker;
        Some(Answer { connection, request, reply })
    }
}

impl Program {
    fn kill(&mut self) {
        self.deadline = None;
        // Not reaped, so the number is still its own.
        kill_session(self.pid);
    }
}

fn watch(epoll: &Epoll, program: &Program) -> io::Result<()> {
    // Nothing is ever written: only the end of the other side is told.
    epoll.add(program.leash.as_fd(), TOKENS + program.number, Interest::empty())
}
