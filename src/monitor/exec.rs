//! A process that was started inside a container, and all it starts.
//!
//! Each has a cgroup of its own below the container's, so that ending it ends its children too. What an exec leaves
//! running when its first process ends belongs to the container from then on. The container sees that cgroup, where it
//! sees its own: on version 2 as one directory more (`exec-7`) in `/sys/fs/cgroup` while the exec runs, on version 1 in
//! the freezer's hierarchy.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use engine::{
    cgroup::{Tree, remove_tree},
    enter::{Door, enter},
    launch::{Failure, Heard, PidSpace, hear},
};
use kernel::{
    poll::{Epoll, Interest},
    process::{Ended, Pid, pidfd_open, pidfd_send_signal},
};
use link::wire;
use model::{ContainerId, Exit};
use wire::monitor_reply::Result as Reply;

use crate::{
    asker::Asker,
    container::Phase,
    event::Numbered,
    hand_over::Passing,
    kill,
    pod::{Pod, SetUp},
    reap::exit,
    runtime::{Stray, kill_session},
    take_over::{Error, take},
};

/// How many of those that a failed exec has left are moved with their trees: each move may take a while, see there.
const GATHERED_STRAYS: usize = 4;

/// An exec.
#[derive(Debug)]
pub(crate) struct Exec {
    number: u64,
    /// The daemon's name for it.
    id: u64,
    pub(crate) container: u64,
    pub(crate) pid: Pid,
    /// Its own cgroup directory.
    dir: OwnedFd,
    is_v2: bool,
    word: Option<OwnedFd>,
    /// Another runtime puts it into its container: `pid` is the runtime's until it has.
    by_runtime: bool,
    phase: ExecPhase,
}

#[derive(Debug)]
enum ExecPhase {
    /// On its way to exec.
    Starting {
        asker: Asker,
    },
    /// It could not exec; its end is awaited.
    Failed {
        asker: Asker,
        failure: Failure,
    },
    Running,
}

impl Pod {
    /// Starts a process inside a container. The answer comes when its program runs, or cannot.
    pub(crate) fn exec(&mut self, asker: Asker, order: &wire::Exec, fds: &[OwnedFd]) {
        if self.execs.iter().any(|exec| exec.id == order.exec_id) {
            return self.answer(asker, Err(Failure::wrong(format!("exec {} exists already", order.exec_id))));
        }
        match self.begin_exec(asker, order, fds) {
            Ok(exec) => self.execs.push(exec),
            Err(failure) => {
                let container = self.position(&order.container_id).map(|index| &self.containers[index]);
                if let Some(runtime) = container.and_then(|container| container.runtime.as_ref()) {
                    // The daemon has described it in the bundle, and no command ends that would take that away.
                    runtime.tidy(&directory_name(order.exec_id));
                }
                self.answer(asker, Err(failure));
            }
        }
    }

    fn begin_exec(&mut self, asker: Asker, order: &wire::Exec, fds: &[OwnedFd]) -> Result<Exec, Failure> {
        let number = self.number();
        let SetUp::Done(ready) = &self.set_up else { return Err(Failure::wrong("the pod is not set up")) };
        let container = self.position(&order.container_id).map(|index| &self.containers[index]);
        let running = container.filter(|container| matches!(container.phase, Phase::Running { .. }));
        let (Some(container), Some(live)) = (running, running.and_then(|container| container.live.as_ref())) else {
            return Err(Failure::wrong("the container is not running"));
        };
        let kept = &live.kept;
        let name = directory_name(order.exec_id);
        let step = |error: &std::io::Error| Failure::new("make the exec's cgroup", error);
        nix::sys::stat::mkdirat(&kept.kill_dir, name.as_str(), nix::sys::stat::Mode::from_bits_truncate(0o755))
            .map_err(|errno| step(&errno.into()))?;
        if let Some(runtime) = &container.runtime {
            let name = directory_name(order.exec_id);
            let begun =
                kill::open_directory(kept.kill_dir.as_fd(), &name).map_err(|error| step(&error)).and_then(|dir| {
                    // The last step that can fail: from here on the runtime is at work, and somebody has to know of
                    // it. What it says is heard at its end.
                    let run = runtime.exec(container.id.as_str(), &name, order, fds)?;
                    Ok((run, dir))
                });
            let (run, dir) = begun.inspect_err(|_| _ = remove_tree(kept.kill_dir.as_fd(), &name))?;
            let (container, is_v2) = (container.number, kept.kill_dir_is_v2);
            self.await_exec(container, &name, run.pid, number);
            let phase = ExecPhase::Starting { asker };
            let (word, by_runtime) = (Some(run.word), true);
            return Ok(Exec {
                number,
                id: order.exec_id,
                container,
                pid: run.pid,
                dir,
                is_v2,
                word,
                by_runtime,
                phase,
            });
        }
        let entered =
            kill::open_directory(kept.kill_dir.as_fd(), &name).map_err(|error| step(&error)).and_then(|dir| {
                let mut tasks: Vec<_> = kept.tasks.iter().map(AsFd::as_fd).collect();
                let own = match kept.kill_dir_is_v2 {
                    true => None,
                    false => Some(kill::open_file(dir.as_fd(), "tasks").map_err(|error| step(&error))?),
                };
                tasks.extend(own.as_ref().map(AsFd::as_fd));
                let cgroup = match kept.kill_dir_is_v2 {
                    true => Some(dir.as_fd()),
                    false => kept.cgroup_dir.as_ref().map(AsFd::as_fd),
                };
                let pid_space = match container.pid_space {
                    wire::launch::Pid::Host => PidSpace::Host,
                    _ => PidSpace::Of(live.pidfd.as_fd()),
                };
                let door = Door { process: live.pidfd.as_fd(), pid_space, tasks, cgroup };
                let entered = enter(order, fds, &door, &ready.places)?;
                Ok((entered, dir))
            });
        match entered {
            Ok((entered, dir)) => {
                let token = Numbered::ExecWord(number).token();
                let phase = match self.epoll.add(entered.word.as_fd(), token, Interest::READ) {
                    Ok(()) => ExecPhase::Starting { asker },
                    Err(error) => {
                        // Nobody would see it begin. Answered when it has gone, as whatever else fails.
                        let _ = pidfd_send_signal(entered.pidfd.as_fd(), nix::libc::SIGKILL);
                        ExecPhase::Failed { asker, failure: Failure::new("watch the exec", &error) }
                    }
                };
                Ok(Exec {
                    number,
                    id: order.exec_id,
                    container: container.number,
                    pid: entered.pid,
                    dir,
                    is_v2: kept.kill_dir_is_v2,
                    word: Some(entered.word),
                    by_runtime: false,
                    phase,
                })
            }
            Err(failure) => {
                let _ = remove_tree(kept.kill_dir.as_fd(), &name);
                Err(failure)
            }
        }
    }

    /// An exec's child has said something.
    pub(crate) fn hear_exec(&mut self, number: u64) {
        let Some(index) = self.execs.iter().position(|exec| exec.number == number) else { return };
        self.hear_exec_at(index);
    }

    fn hear_exec_at(&mut self, index: usize) {
        let exec = &mut self.execs[index];
        let ExecPhase::Starting { asker } = exec.phase else { return };
        let Some(word) = &exec.word else { return };
        match hear(word.as_fd()) {
            Heard::Nothing | Heard::Ready { .. } => {}
            Heard::Failed(failure) => {
                // Answered when it has gone, so that nothing of it is left then.
                exec.phase = ExecPhase::Failed { asker, failure };
                exec.drop_word(&self.epoll);
            }
            // The runtime runs, and not yet what it puts into the container.
            Heard::Closed if exec.by_runtime => exec.drop_word(&self.epoll),
            Heard::Closed => {
                exec.phase = ExecPhase::Running;
                exec.drop_word(&self.epoll);
                let pid = exec.pid.0;
                self.answer(asker, Ok(Reply::ExecStarted(wire::ExecStarted { pid })));
            }
        }
    }

    /// What has become of an exec that another runtime was to put into its container; and its end, if it has ended.
    pub(crate) fn exec_entered(&mut self, number: u64, entered: Result<Pid, Failure>, early_end: Option<Ended>) {
        let Some(index) = self.execs.iter().position(|exec| exec.number == number) else { return };
        self.hear_exec_at(index);
        let exec = &mut self.execs[index];
        exec.drop_word(&self.epoll);
        match (entered, &exec.phase) {
            (Ok(pid), ExecPhase::Starting { asker }) => {
                let asker = *asker;
                exec.pid = pid;
                exec.phase = ExecPhase::Running;
                // Now, and not by the runtime, which knows no directories of execs: what it starts from here on is in
                // it. The number of one that has been reaped may be anybody's.
                if early_end.is_none() {
                    self.gather(index);
                }
                self.answer(asker, Ok(Reply::ExecStarted(wire::ExecStarted { pid: pid.0 })));
                if let Some(ended) = early_end {
                    self.exec_ended(index, exit(ended));
                }
            }
            (Err(failure), ExecPhase::Starting { asker }) => {
                exec.phase = ExecPhase::Failed { asker: *asker, failure };
                self.exec_ended(index, Exit::Code(0));
            }
            // Its own word has said why.
            _ => self.exec_ended(index, Exit::Code(0)),
        }
    }

    /// What another runtime has left of an exec that failed is killed, `strays` and all that they start. Answered when
    /// the first that is a child of ours has been reaped; the others are as dead then.
    pub(crate) fn exec_astray(&mut self, number: u64, failure: Failure, strays: &[Stray]) {
        let Some(index) = self.execs.iter().position(|exec| exec.number == number) else { return };
        self.hear_exec_at(index);
        // The number of a child of ours is its own. A runtime leaves one; whoever else was found is killed all the
        // same.
        for stray in strays.iter().filter(|stray| stray.is_child).take(GATHERED_STRAYS) {
            self.execs[index].pid = stray.pid;
            self.gather(index);
        }
        let exec = &mut self.execs[index];
        // Errors here end in a second try by whoever asks for it, or with the container.
        let _ = exec.tree().signal(nix::libc::SIGKILL);
        for stray in strays {
            let _ = pidfd_send_signal(stray.pidfd.as_fd(), nix::libc::SIGKILL);
        }
        match strays.iter().find(|stray| stray.is_child) {
            Some(stray) => {
                exec.pid = stray.pid;
                exec.drop_word(&self.epoll);
                if let ExecPhase::Starting { asker } = exec.phase {
                    exec.phase = ExecPhase::Failed { asker, failure };
                }
            }
            None => self.exec_entered(number, Err(failure), None),
        }
    }

    /// Moves an exec's process and what it has started into the exec's own cgroup.
    fn gather(&mut self, index: usize) {
        let exec = &self.execs[index];
        let container = self.numbered(exec.container).map(|index| &self.containers[index]);
        let Some((container, tree)) = container.and_then(|container| Some((container, container.tree()?))) else {
            return;
        };
        if let Err(error) = kill::move_tree(tree, exec.dir.as_fd(), exec.pid) {
            let text = format!("exec {}: move all of it into its own cgroup: {error}", exec.id);
            self.daemon.trouble(&self.epoll, Some(&container.id), &text);
        }
    }

    /// An exec's first process has been reaped.
    pub(crate) fn exec_ended(&mut self, index: usize, how: Exit) {
        // Its last word may lie unread beside the news of its end.
        self.hear_exec_at(index);
        let mut exec = self.execs.swap_remove(index);
        exec.drop_word(&self.epoll);
        if let Some(index) = self.numbered(exec.container) {
            self.containers[index].drop_exec_directory(directory_name(exec.id));
        }
        match exec.phase {
            ExecPhase::Failed { asker, failure } => self.answer(asker, Err(failure)),
            ExecPhase::Starting { asker } => {
                self.answer(asker, Err(Failure::wrong(format!("the exec ended before its program ran: {how:?}"))));
            }
            ExecPhase::Running => {
                let ending = Some(link::ending_to_wire(&how));
                let news = Reply::ExecExited(wire::ExecExited { exec_id: exec.id, ending });
                self.daemon.tell(&self.epoll, news);
            }
        }
    }

    /// Kills an exec and everything it started. One that is gone is fine.
    pub(crate) fn kill_exec(&mut self, asker: Asker, id: u64) {
        let killed = match self.execs.iter().find(|exec| exec.id == id) {
            Some(exec) if exec.by_runtime && matches!(exec.phase, ExecPhase::Starting { .. }) => {
                kill_session(exec.pid);
                Ok(())
            }
            Some(exec) => {
                let tree = exec.tree().signal(nix::libc::SIGKILL);
                // One that another runtime has put in may not have come into its own cgroup. It has not been reaped, so
                // the number is still its own.
                let first = pidfd_open(exec.pid).and_then(|first| pidfd_send_signal(first.as_fd(), nix::libc::SIGKILL));
                tree.and(first)
            }
            None => Ok(()),
        };
        match killed {
            Ok(()) => self.done(asker),
            Err(error) => self.answer(asker, Err(Failure::new("kill the exec", &error))),
        }
    }
}

impl Exec {
    /// What the next program has to know; `None` while somebody waits for what this one does with it.
    pub(crate) fn handed<'a>(
        &'a self,
        container: Option<&ContainerId>,
        passing: &mut Passing<'a>,
    ) -> Option<wire::HandedExec> {
        matches!(self.phase, ExecPhase::Running).then(|| wire::HandedExec {
            exec_id: self.id,
            container_id: container.map(ContainerId::to_string).unwrap_or_default(),
            pid: self.pid.0,
            dir_fd: passing.pass(&self.dir),
            dir_is_v2: self.is_v2,
        })
    }

    /// Takes over one that runs.
    pub(crate) fn taken(number: u64, container: u64, handed: &wire::HandedExec) -> Result<Exec, Error> {
        Ok(Exec {
            number,
            id: handed.exec_id,
            container,
            pid: Pid(handed.pid),
            dir: take(handed.dir_fd, "an exec's cgroup")?,
            is_v2: handed.dir_is_v2,
            word: None,
            by_runtime: false,
            phase: ExecPhase::Running,
        })
    }

    /// Its cgroup: all that it owns while it runs.
    pub(crate) fn directory(&self) -> BorrowedFd<'_> {
        self.dir.as_fd()
    }

    fn tree(&self) -> Tree<'_> {
        Tree { dir: self.dir.as_fd(), is_v2: self.is_v2 }
    }

    /// Whether it has this number.
    pub(crate) fn is(&self, number: u64) -> bool {
        self.number == number
    }

    fn drop_word(&mut self, epoll: &Epoll) {
        if let Some(word) = self.word.take() {
            let _ = epoll.remove(word.as_fd());
        }
    }
}

/// Also the name of the command that starts it, where another runtime does.
fn directory_name(id: u64) -> String {
    link::exec_name(id)
}

/// Whether a directory below a container's cgroup is an exec's.
pub(crate) fn is_directory_name(name: &str) -> bool {
    name.strip_prefix("exec-").is_some_and(|id| id.parse().is_ok_and(|id| directory_name(id) == name))
}
