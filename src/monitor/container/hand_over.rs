//! A container from one program to the next: as much of it as is no descriptor.

use std::os::fd::{AsFd, BorrowedFd};

use engine::{launch::Kept, runtime::Runtime};
use kernel::{
    poll::{Epoll, Interest},
    process::Pid,
};
use link::{record_from_wire, wire};

use super::{Container, Live, Phase};
use crate::{
    event::Numbered,
    hand_over::Passing,
    log::{Log, Stream},
    log_health::LogHealth,
    output::Output,
    take_over::{Error, take, take_any},
};

impl Container {
    /// What the next program has to know; `None` while somebody waits for what this one does with it.
    pub(crate) fn handed<'a>(&'a self, passing: &mut Passing<'a>) -> Option<wire::HandedContainer> {
        let life = match (&self.phase, &self.live) {
            (Phase::Ended { .. }, _) => None,
            // A waiting child that has been killed, or has failed, is about to end.
            (Phase::Waiting, Some(live))
                if (live.word.is_some() || self.runtime.is_some()) && live.failure.is_none() =>
            {
                Some(live.handed(self.pid, passing))
            }
            (Phase::Running { .. }, Some(live)) => Some(live.handed(self.pid, passing)),
            _ => return None,
        };
        let runtime = self.runtime.as_ref().map(|runtime| {
            let [bundle, mounts] = runtime.descriptors();
            runtime.told(passing.pass_borrowed(bundle), passing.pass_borrowed(mounts))
        });
        Some(wire::HandedContainer { now: self.now(), pid: self.pid_space.into(), life, runtime })
    }

    /// Takes it over, and watches it.
    pub(crate) fn taken(number: u64, handed: wire::HandedContainer, epoll: &Epoll) -> Result<Container, Error> {
        let pid_space = handed.pid();
        let now = handed.now.ok_or(Error::Missing { what: "a container's state" })?;
        let id = now.container_id.parse();
        let id = id.map_err(|_| Error::Wrong { what: "a container's id", value: now.container_id.clone() })?;
        let pid = Pid(handed.life.as_ref().map_or(now.pid, |life| life.pid));
        let started = (now.started_at_ns > 0).then_some(now.started_at_ns);
        let phase = match (&now.exited, &handed.life, started) {
            (Some(exited), None, _) => Phase::Ended { started, record: record_from_wire(exited) },
            (None, Some(_), Some(since)) => Phase::Running { since },
            (None, Some(life), None) if life.word_fd.is_some() || handed.runtime.is_some() => Phase::Waiting,
            _ => return Err(Error::Wrong { what: "a container's state", value: format!("{now:?}") }),
        };
        let live = handed.life.map(Live::taken).transpose()?;
        let runtime = handed.runtime.map(|told| {
            let (bundle, mounts) =
                (take(told.bundle_fd, "a bundle")?, take(told.mount_namespace_fd, "a runtime's mounts")?);
            let runtime = Runtime::retold(&told, bundle, mounts);
            runtime.map_err(|failure| Error::Wrong { what: "a runtime", value: failure.to_string() })
        });
        let runtime = runtime.transpose()?;
        if let Some(live) = &live {
            live.watch(number, epoll)?;
        }
        let log_health = LogHealth::default();
        Ok(Container {
            number,
            id,
            pid,
            phase,
            pid_space,
            live,
            log_health,
            runtime,
            early_end: None,
            leave: Vec::new(),
        })
    }

    /// Every descriptor that it owns.
    pub(crate) fn descriptors(&self) -> Vec<BorrowedFd<'_>> {
        let of_runtime = self.runtime.iter().flat_map(Runtime::descriptors);
        let Some(live) = &self.live else { return of_runtime.collect() };
        let kept = &live.kept;
        let always = [live.pidfd.as_fd(), kept.kill_dir.as_fd()];
        let optional = [&live.word, &live.stdin, &live.slave, &kept.cgroup_dir, &kept.oom];
        let outputs = live.outputs.iter().flatten().map(AsFd::as_fd);
        let others = optional.into_iter().flatten().map(AsFd::as_fd).chain(live.log.state().0);
        always
            .into_iter()
            .chain(outputs)
            .chain(others)
            .chain(kept.tasks.iter().map(AsFd::as_fd))
            .chain(of_runtime)
            .collect()
    }
}

impl Live {
    fn handed<'a>(&'a self, Pid(pid): Pid, passing: &mut Passing<'a>) -> wire::HandedLife {
        let kept = &self.kept;
        let (log, log_torn, log_dropped) = self.log.state();
        let mut output = |stream: usize| {
            let output = self.outputs[stream].as_ref()?;
            Some(wire::HandedOutput { source_fd: passing.pass(output), kept: output.kept().to_vec() })
        };
        let (stdout, stderr) = (output(0), output(1));
        wire::HandedLife {
            pid,
            process_fd: passing.pass(&self.pidfd),
            cgroup_tasks_fd: kept.tasks.iter().map(|fd| passing.pass(fd)).collect(),
            cgroup_dir_fd: kept.cgroup_dir.as_ref().map(|fd| passing.pass(fd)),
            kill_dir_fd: passing.pass(&kept.kill_dir),
            kill_dir_is_v2: kept.kill_dir_is_v2,
            oom_fd: kept.oom.as_ref().map(|fd| passing.pass(fd)),
            log_fd: log.map(|fd| passing.pass_borrowed(fd)),
            log_torn,
            log_dropped,
            log_line_bytes: u32::try_from(self.line_limit).unwrap_or(u32::MAX),
            word_fd: self.word.as_ref().map(|fd| passing.pass(fd)),
            stdin_fd: self.stdin.as_ref().map(|fd| passing.pass(fd)),
            slave_fd: self.slave.as_ref().map(|fd| passing.pass(fd)),
            stdout,
            stderr,
            left_by_execs: self.left_by_execs.iter().cloned().collect(),
        }
    }

    fn taken(handed: wire::HandedLife) -> Result<Live, Error> {
        let line_limit = handed.log_line_bytes.max(1) as usize;
        let slave = take_any(handed.slave_fd, "a terminal")?;
        let output = |handed: Option<wire::HandedOutput>, stream| -> Result<Option<Output>, Error> {
            let Some(handed) = handed else { return Ok(None) };
            let source = take(handed.source_fd, "a container's output")?;
            Ok(Some(Output::new(source, stream, line_limit, slave.is_some()).resume(handed.kept)))
        };
        let outputs = [output(handed.stdout, Stream::Stdout)?, output(handed.stderr, Stream::Stderr)?];
        let tasks = handed.cgroup_tasks_fd.iter().map(|number| take(*number, "a cgroup")).collect::<Result<_, _>>()?;
        let log = take_any(handed.log_fd, "a log")?;
        Ok(Live {
            pidfd: take(handed.process_fd, "a container's process")?,
            kept: Kept {
                tasks,
                cgroup_dir: take_any(handed.cgroup_dir_fd, "a cgroup")?,
                kill_dir: take(handed.kill_dir_fd, "a cgroup")?,
                kill_dir_is_v2: handed.kill_dir_is_v2,
                oom: take_any(handed.oom_fd, "a counter of out-of-memory kills")?,
                log: None,
            },
            log: Log::resume(log, handed.log_torn, handed.log_dropped),
            word: take_any(handed.word_fd, "the socket to a child")?,
            failure: None,
            stdin: take_any(handed.stdin_fd, "a container's input")?,
            slave,
            outputs,
            line_limit,
            left_by_execs: handed.left_by_execs.into(),
        })
    }

    /// As [`Container::watch`].
    pub(super) fn watch(&self, number: u64, epoll: &Epoll) -> std::io::Result<()> {
        let outputs = self.outputs.iter().zip([Numbered::Stdout(number), Numbered::Stderr(number)]);
        let outputs = outputs.filter_map(|(output, token)| Some((output.as_ref()?.as_fd(), token)));
        let word = self.word.iter().map(|word| (word.as_fd(), Numbered::Word(number)));
        word.chain(outputs).try_for_each(|(fd, token)| epoll.add(fd, token.token(), Interest::READ))
    }
}
