//! The daemon's handle on a pod's monitor.

use std::{
    collections::{BTreeMap, HashMap},
    os::fd::{AsFd, BorrowedFd, OwnedFd},
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use model::{ContainerId, Exit, Signal};
use tokio::sync::{mpsc, oneshot};

use crate::{
    Error, Greeting, News, PROTOCOL, RELEASE, Result,
    conversation::{ANSWER_PATIENCE, CHILD_PATIENCE, Conversation},
    exit, launcher,
    wire::{self, monitor_reply::Result as Reply, monitor_request::Act},
};

/// Name of a monitor's socket in its pod's state directory.
pub const MONITOR_SOCKET: &str = "monitor.sock";

/// A live connection to a monitor; clones share it. The newest connection wins: an older one sees its end.
#[derive(Debug, Clone)]
pub struct Monitor(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    conversation: Conversation<wire::MonitorReply>,
    next_exec: AtomicU64,
    execs: Execs,
}

/// Who waits for which exec's end.
type Execs = Arc<Mutex<HashMap<u64, oneshot::Sender<Exit>>>>;

/// What a pod needs before its first container.
#[derive(Debug)]
pub struct PodSetUp {
    /// Host name of the pod's own UTS namespace.
    pub hostname: String,
    /// Use the host's UTS namespace instead of an own one.
    pub host_uts: bool,
    /// Use the host's IPC namespace instead of an own one; then the pod has no `/dev/shm` of its own.
    pub host_ipc: bool,
    /// Start our init as process 1 of a pid namespace that containers share.
    pub shared_pid: bool,
    /// Network namespace; none with host network.
    pub netns: Option<OwnedFd>,
    /// Kernel parameters by path below `/proc/sys`, checked to belong to the pod's own namespaces.
    pub sysctls: BTreeMap<String, String>,
    /// Size of the pod's `/dev/shm`, bytes.
    pub shm_bytes: u64,
    /// Directory for exit records.
    pub records: OwnedFd,
    /// cgroup v1 of the pod's init: `tasks` of each hierarchy.
    pub init_cgroup_tasks: Vec<OwnedFd>,
    /// cgroup v2 of the pod's init.
    pub init_cgroup_dir: Option<OwnedFd>,
    /// Seccomp filter of the pod's init.
    pub init_seccomp: Option<OwnedFd>,
}

/// What a pod has after its set-up.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PodReady {
    /// The pod's init in the host's pid namespace, where the pid namespace is shared.
    pub init_pid: Option<i32>,
}

/// Which processes of a container a signal is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Whole {
    /// The first process alone.
    First,
    /// Every process, execs and all they started included.
    Every,
}

/// A process to start inside a running container. `engine` makes it; streams that stay `None` are `/dev/null`.
#[derive(Debug)]
pub struct ExecOrder {
    /// What to run and as whom. Its `seccomp_fd` is filled in when it is sent. `None` in a container of another
    /// runtime, whose bundle describes the process.
    pub process: Option<wire::Process>,
    /// Compiled seccomp filter.
    pub seccomp: Option<OwnedFd>,
    /// Standard input.
    pub stdin: Option<OwnedFd>,
    /// Standard output.
    pub stdout: Option<OwnedFd>,
    /// Standard error.
    pub stderr: Option<OwnedFd>,
}

/// Identity of an exec: never used twice in a pod, by no daemon.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ExecId(u64);

impl ExecId {
    /// Its name in the bundle of a container of another runtime.
    pub fn name(self) -> String {
        exec_name(self.0)
    }
}

/// The name of an exec beside others of its container.
pub fn exec_name(id: u64) -> String {
    format!("exec-{id}")
}

/// An exec that runs.
#[derive(Debug)]
pub struct Exec {
    /// Its identity, to kill it by.
    pub id: ExecId,
    /// Its process in the host's pid namespace.
    pub pid: i32,
    exit: oneshot::Receiver<Exit>,
    _place: Place,
}

/// A place among those who wait for an exec's end; given up when dropped.
#[derive(Debug)]
struct Place {
    execs: Execs,
    id: u64,
}

impl Drop for Place {
    fn drop(&mut self) {
        self.execs.lock().unwrap_or_else(PoisonError::into_inner).remove(&self.id);
    }
}

impl Exec {
    /// Waits until its first process has ended. [`Error::Lost`] when the monitor went first. May be awaited again after
    /// a cancelled wait.
    pub async fn exited(&mut self) -> Result<Exit> {
        (&mut self.exit).await.map_err(|_| Error::Lost { who: "monitor" })
    }
}

impl Monitor {
    /// Connects to the monitor that listens in `pod_dir`. [`Error::Absent`] when it is dead.
    ///
    /// News never waits for a reader, so the channel is unbounded; a pod produces few: each container starts and ends
    /// once, and its troubles are told at most once a second.
    pub async fn connect(pod_dir: BorrowedFd<'_>) -> Result<(Monitor, Greeting, mpsc::UnboundedReceiver<News>)> {
        let socket = launcher::connect(pod_dir, MONITOR_SOCKET, "monitor")?;
        let (sender, news) = mpsc::unbounded_channel();
        let execs = Execs::default();
        let waiting = execs.clone();
        let conversation = Conversation::new("monitor", socket, move |message| {
            if let Some(item) = sort_news(message, &waiting) {
                // The receiver is gone when nobody cares for news; replies still arrive.
                let _ = sender.send(item);
            }
        })?;
        // Unique within the pod even after a restart of the daemon, without a record: no exec is started before it.
        let first = SystemTime::now().duration_since(UNIX_EPOCH).map_or(1, |now| now.as_nanos() as u64);
        let monitor = Monitor(Arc::new(Inner { conversation, next_exec: AtomicU64::new(first), execs }));
        let hello = Act::Hello(wire::Hello { protocol: PROTOCOL, release: RELEASE.to_owned() });
        match monitor.ask(hello, &[]).await? {
            Reply::Hello(hello) => Ok((monitor, Greeting::from_wire(hello), news)),
            other => Err(unexpected(&other)),
        }
    }

    /// A handle on the monitor that listens in `pod_dir`, whether it answers or not. [`Error::Absent`] when none does.
    pub fn process(pod_dir: BorrowedFd<'_>) -> Result<OwnedFd> {
        launcher::process(pod_dir, MONITOR_SOCKET, "monitor", "coracle-monitor")
    }

    /// Makes the pod's namespaces, shared memory and init. Once in a monitor's life: after a failure,
    /// [`Self::end_pod`].
    pub async fn set_up_pod(&self, pod: PodSetUp) -> Result<PodReady> {
        let mut fds = Vec::new();
        let mut place = |fd: OwnedFd| {
            fds.push(fd);
            (fds.len() - 1) as u32
        };
        let message = wire::SetUpPod {
            hostname: pod.hostname,
            host_uts: pod.host_uts,
            host_ipc: pod.host_ipc,
            shared_pid: pod.shared_pid,
            netns_fd: pod.netns.map(&mut place),
            sysctls: pod.sysctls.into_iter().collect(),
            shm_bytes: pod.shm_bytes,
            records_fd: place(pod.records),
            cgroup_tasks_fd: pod.init_cgroup_tasks.into_iter().map(&mut place).collect(),
            cgroup_dir_fd: pod.init_cgroup_dir.map(&mut place),
            seccomp_fd: pod.init_seccomp.map(&mut place),
        };
        match self.ask(Act::SetUpPod(message), &fds).await? {
            Reply::PodReady(ready) => Ok(PodReady { init_pid: (ready.init_pid > 0).then_some(ready.init_pid) }),
            other => Err(unexpected(&other)),
        }
    }

    /// Brings a container up to just before `exec`. On failure nothing of it is left. Returns the waiting process.
    pub async fn create(&self, launch: wire::Launch, fds: Vec<OwnedFd>) -> Result<i32> {
        match self.ask(Act::Create(launch), &fds).await? {
            Reply::Created(created) => Ok(created.pid),
            other => Err(unexpected(&other)),
        }
    }

    /// Lets the waiting process `exec`. Safe to repeat after [`Error::Lost`]. When it fails, the container has ended
    /// with [`Exit::StartFailed`]: the news says so too, and the error's step is the reason in the words that people
    /// know.
    pub async fn start(&self, container: &ContainerId) -> Result<SystemTime> {
        match self.ask(Act::Start(wire::Start { container_id: container.to_string() }), &[]).await? {
            Reply::Started(started) => Ok(exit::from_ns(started.started_at_ns)),
            other => Err(unexpected(&other)),
        }
    }

    /// Sends a signal. A container that has ended already is fine.
    pub async fn kill(&self, container: &ContainerId, signal: Signal, whole: Whole) -> Result<()> {
        let kill =
            wire::Kill { container_id: container.to_string(), signal: signal.number(), whole: whole == Whole::Every };
        self.done(Act::Kill(kill), &[]).await
    }

    /// The identity of an exec to come: with it, one whose start is no longer waited for can still be killed.
    pub fn next_exec(&self) -> ExecId {
        ExecId(self.0.next_exec.fetch_add(1, Ordering::Relaxed))
    }

    /// Starts a process in a running container. A program that cannot be started is [`Error::Refused`]; after
    /// [`Error::Silent`] it may still be started, unless [`Self::kill_exec`] follows.
    pub async fn exec(&self, container: &ContainerId, ExecId(id): ExecId, order: ExecOrder) -> Result<Exec> {
        let mut fds = Vec::new();
        let mut place = |fd: OwnedFd| {
            fds.push(fd);
            (fds.len() - 1) as u32
        };
        let seccomp_fd = order.seccomp.map(&mut place);
        let process = order.process.map(|process| wire::Process { seccomp_fd, ..process });
        let message = wire::Exec {
            container_id: container.to_string(),
            exec_id: id,
            process,
            stdin_fd: order.stdin.map(&mut place),
            stdout_fd: order.stdout.map(&mut place),
            stderr_fd: order.stderr.map(&mut place),
        };
        let (sender, exit) = oneshot::channel();
        // Before the request is sent: the end of a short process may arrive before we see the reply.
        self.execs().insert(id, sender);
        let place = Place { execs: self.0.execs.clone(), id };
        match self.ask(Act::Exec(message), &fds).await? {
            Reply::ExecStarted(started) => Ok(Exec { id: ExecId(id), pid: started.pid, exit, _place: place }),
            other => Err(unexpected(&other)),
        }
    }

    /// Kills an exec with everything it started. One that has ended already is fine.
    pub async fn kill_exec(&self, exec: ExecId) -> Result<()> {
        self.done(Act::KillExec(wire::KillExec { exec_id: exec.0 }), &[]).await
    }

    /// Goes on writing into `log`, from a whole entry on, for both streams. What was read before is in the old file.
    pub async fn reopen_log(&self, container: &ContainerId, log: OwnedFd) -> Result<()> {
        let reopen = wire::ReopenLog { container_id: container.to_string(), log_fd: 0 };
        self.done(Act::ReopenLog(reopen), &[log]).await
    }

    /// Drops what the monitor keeps of a container, its exit record included; one that still waits for its start is
    /// ended first, without news. Refused while it runs. Safe to repeat.
    pub async fn forget(&self, container: &ContainerId) -> Result<()> {
        self.done(Act::Forget(wire::Forget { container_id: container.to_string() }), &[]).await
    }

    /// Ends the pod's init and the monitor itself. Refused while a container is there that has not ended.
    pub async fn end_pod(&self) -> Result<()> {
        self.done(Act::EndPod(wire::EndPod {}), &[]).await
    }

    /// Puts `program`, a sealed memfd of `coracle-monitor`, in the place of the one that answers here: the same process
    /// and connection, every container as it was. `name` is what its greeting says from then on. [`Error::Refused`],
    /// with nothing changed, while something is on its way that somebody waits for, and when it could not go on from
    /// here.
    pub async fn replace(&self, program: &OwnedFd, name: &str) -> Result<()> {
        let program_fd = program.try_clone().map_err(|source| Error::Spawn { source })?;
        self.done(Act::Replace(wire::Replace { program_fd: 0, program: name.to_owned() }), &[program_fd]).await
    }

    /// Resolves when the connection has ended.
    pub async fn closed(&self) {
        self.0.conversation.closed().await;
    }

    async fn done(&self, act: Act, fds: &[OwnedFd]) -> Result<()> {
        match self.ask(act, fds).await? {
            Reply::Done(_) => Ok(()),
            other => Err(unexpected(&other)),
        }
    }

    async fn ask(&self, act: Act, fds: &[OwnedFd]) -> Result<Reply> {
        let fds: Vec<BorrowedFd<'_>> = fds.iter().map(AsFd::as_fd).collect();
        let patience = patience(&act);
        let reply = self.0.conversation.ask(|id| wire::MonitorRequest { id, act: Some(act) }, &fds, patience).await?;
        outcome(reply)
    }

    fn execs(&self) -> std::sync::MutexGuard<'_, HashMap<u64, oneshot::Sender<Exit>>> {
        self.0.execs.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// How long a request may take.
fn patience(act: &Act) -> Duration {
    match act {
        // What ends a child only signals it, or waits for the death of one that can do nothing against it.
        Act::Hello(_) | Act::Kill(_) | Act::KillExec(_) | Act::ReopenLog(_) | Act::Forget(_) | Act::EndPod(_) => {
            ANSWER_PATIENCE
        }
        Act::SetUpPod(_) | Act::Create(_) | Act::Start(_) | Act::Exec(_) | Act::Replace(_) => CHILD_PATIENCE,
    }
}

/// What a message means for whoever reads the news; an exec's end goes to who waits for it.
fn sort_news(message: Option<wire::MonitorReply>, execs: &Execs) -> Option<News> {
    let Some(message) = message else {
        execs.lock().unwrap_or_else(PoisonError::into_inner).clear();
        return Some(News::Lost);
    };
    match message.result? {
        Reply::Exited(exited) => {
            let record = exit::record_from_wire(&exited);
            exited.container_id.parse().ok().map(|container| News::Exited { container, record })
        }
        Reply::Started(started) => {
            let at = exit::from_ns(started.started_at_ns);
            started.container_id.parse().ok().map(|container| News::Started { container, at })
        }
        Reply::InitExited(_) => Some(News::InitExited),
        Reply::ExecExited(exited) => {
            let how = exit::ending_from_wire(exited.ending.as_ref());
            let waiter = execs.lock().unwrap_or_else(PoisonError::into_inner).remove(&exited.exec_id);
            match waiter {
                Some(waiter) => {
                    // Dropped by a caller that no longer cares.
                    let _ = waiter.send(how);
                    None
                }
                None => Some(News::ExecExited { exec: ExecId(exited.exec_id), how }),
            }
        }
        Reply::Trouble(trouble) => {
            Some(News::Trouble { container: trouble.container_id.parse().ok(), text: trouble.text })
        }
        _ => None,
    }
}

fn outcome(reply: wire::MonitorReply) -> Result<Reply> {
    match reply.result {
        Some(Reply::Failure(wire::Failure { step, errno })) => Err(Error::Refused { step, errno }),
        Some(result) => Ok(result),
        None => Err(Error::Malformed { who: "monitor", why: "a reply of a kind unknown to this release".into() }),
    }
}

fn unexpected(reply: &Reply) -> Error {
    Error::Malformed { who: "monitor", why: format!("an unexpected reply: {reply:?}") }
}
