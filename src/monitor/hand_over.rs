//! Puts another program in this one's place: the same process, and so the same children, descriptors and connection.
//!
//! Between two requests a monitor is little more than its descriptors. What it knows besides is written into a memfd,
//! the descriptors are let through exec, and the new program reads what it is now ([`crate::take_over`]). Before that,
//! a child of ours tries out whether the new program can: after exec there is no way back.

use std::{
    io,
    os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd},
};

use engine::launch::Failure;
use kernel::{
    descriptor, memfd,
    process::{self, CStringArray, Ended, exit_now},
};
use link::{PROTOCOL, wire};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use prost::Message;

use crate::{
    asker::Asker,
    pod::{Pod, SetUp, report},
    take_over,
};

/// How long the rehearsal may take, in milliseconds: it reads one file. No container's output is read meanwhile.
const REHEARSAL_MS: u16 = 2000;

/// The descriptors that pass, by the numbers under which the new program finds them.
#[derive(Debug, Default)]
pub(crate) struct Passing<'a>(Vec<BorrowedFd<'a>>);

impl<'a> Passing<'a> {
    /// Lets one pass.
    pub(crate) fn pass(&mut self, fd: &'a impl AsFd) -> u32 {
        self.pass_borrowed(fd.as_fd())
    }

    /// Lets one pass whose owner is not at hand.
    pub(crate) fn pass_borrowed(&mut self, fd: BorrowedFd<'a>) -> u32 {
        self.0.push(fd);
        fd.as_raw_fd().unsigned_abs()
    }
}

impl Pod {
    /// Replaces this program. What is answered here is why it has not been: the new program answers otherwise.
    pub(crate) fn replace(&mut self, asker: Asker, order: &wire::Replace, fds: Vec<OwnedFd>) {
        self.tell_last_of_logs();
        let failure = match fds.get(order.program_fd as usize) {
            Some(program) if memfd::is_sealed(program.as_fd()) => self.hand_over(asker, order, program),
            Some(_) => Failure::wrong("the program is not a sealed file in memory"),
            None => Failure::wrong("no program came with the order"),
        };
        self.answer(asker, Err(failure));
    }

    /// Returns only when it failed, with everything as it was.
    fn hand_over(&self, asker: Asker, order: &wire::Replace, program: &OwnedFd) -> Failure {
        let mut passing = Passing::default();
        let handed = match self.handed(asker, order, &mut passing) {
            Ok(handed) => handed.encode_to_vec(),
            Err(why) => return Failure::wrong(format!("the program is not replaced now: {why}")),
        };
        let failed = |error: io::Error| Failure::new("replace the program", &error);
        let state = match memfd::sealed(c"coracle-hand-over", &handed) {
            Ok(state) => state,
            Err(error) => return failed(error),
        };
        passing.pass(&state);
        let failure = match passing.0.iter().try_for_each(|fd| descriptor::keep_on_exec(*fd)) {
            Ok(()) => match rehearse(program, &state) {
                Ok(()) => failed(exec(program, take_over::ROLE, &state)),
                Err(failure) => failure,
            },
            Err(error) => failed(error),
        };
        match descriptor::close_others_on_exec() {
            Ok(()) => failure,
            // No container may inherit what has been let through: better no monitor than that.
            Err(_) => exit_now(1),
        }
    }

    /// Everything that the new program has to know, or what stands in its way.
    fn handed<'a>(
        &'a self,
        asker: Asker,
        order: &wire::Replace,
        passing: &mut Passing<'a>,
    ) -> Result<wire::HandOver, &'static str> {
        if self.ending {
            return Err("the pod is ending");
        }
        if !self.commands.is_empty() {
            return Err("a command of a runtime is under way");
        }
        let daemon = self.daemon.socket().ok_or("the connection is in the middle of a message")?;
        let places = match &self.set_up {
            SetUp::No => None,
            SetUp::Failed => return Err("the pod's set-up has failed"),
            SetUp::Done(ready) => Some(wire::HandedPlaces {
                netns_fd: ready.places.netns.as_ref().map(|fd| passing.pass(fd)),
                own_pid_fd: passing.pass(&ready.places.own_pid),
                records_fd: passing.pass(&ready.records),
                init_pid: ready.init.as_ref().map_or(0, |init| init.pid.0),
                init_fd: ready.init.as_ref().map(|init| passing.pass(&init.pidfd)),
            }),
        };
        let containers = self.containers.iter().map(|container| container.handed(passing));
        let containers = containers.collect::<Option<_>>().ok_or("a container is being made, started or ended")?;
        let execs = self.execs.iter().map(|exec| {
            let container = self.containers.iter().find(|container| container.number == exec.container);
            exec.handed(container.map(|container| &container.id), passing)
        });
        let execs = execs.collect::<Option<_>>().ok_or("an exec is being started")?;
        Ok(wire::HandOver {
            protocol: PROTOCOL,
            pod_id: self.id.clone(),
            program: order.program.clone(),
            listener_fd: passing.pass(&self.listener),
            daemon_fd: passing.pass_borrowed(daemon),
            request: asker.request(),
            places,
            containers,
            execs,
        })
    }

    /// The new program begins to count anew: nothing may be left untold.
    fn tell_last_of_logs(&mut self) {
        for container in &mut self.containers {
            if let Some(change) = container.log_health.take_last() {
                report(&mut self.daemon, &self.epoll, &container.id, change);
            }
        }
    }
}

/// Has a child try whether `program` understands what it would be handed.
fn rehearse(program: &OwnedFd, state: &OwnedFd) -> Result<(), Failure> {
    const STEP: &str = "try out the new program";
    let failed = |error: io::Error| Failure::new(STEP, &error);
    let (_, child) = process::fork(|| {
        exec(program, take_over::REHEARSAL, state);
        exit_now(127)
    })
    .map_err(failed)?;
    let mut asked = [PollFd::new(child.as_fd(), PollFlags::POLLIN)];
    // Whatever poll says: one that has not ended is killed, and has then not ended well.
    let _ = poll(&mut asked, PollTimeout::from(REHEARSAL_MS));
    let _ = process::pidfd_send_signal(child.as_fd(), nix::libc::SIGKILL);
    match process::wait_blocking(child.as_fd()).map_err(failed)? {
        Ended::Code(take_over::REHEARSED) => Ok(()),
        other => Err(Failure::wrong(format!("{STEP}: it ended with {other:?}"))),
    }
}

/// Executes `program` in a role, with the number of the descriptor that holds what it is handed. Returns only an error.
fn exec(program: &OwnedFd, role: &str, state: &OwnedFd) -> io::Error {
    let argv = CStringArray::new(["coracle-monitor", role, &state.as_raw_fd().to_string()]);
    let env = std::env::vars().map(|(name, value)| format!("{name}={value}"));
    match (argv, CStringArray::new(env)) {
        (Ok(argv), Ok(env)) => process::exec_fd(program.as_fd(), &argv, &env),
        (Err(error), _) | (_, Err(error)) => error.into(),
    }
}
