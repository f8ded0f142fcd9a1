//! The daemon's handle on the node's launcher.

use std::{
    fs::File,
    io,
    os::{
        fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd},
        unix::process::CommandExt,
    },
    process::{Child, Command, Stdio},
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use kernel::process::Pid;
use model::PodId;
use nix::{
    fcntl::{OFlag, openat},
    sys::stat::Mode,
};

use crate::{
    Error, MONITOR_SOCKET, PROTOCOL, RELEASE, Result,
    conversation::{ANSWER_PATIENCE, Conversation},
    wire::{self, launcher_reply::Result as Reply, launcher_request::Act},
};

/// Name of the launcher's socket in the state directory.
pub const LAUNCHER_SOCKET: &str = "launcher.sock";

/// Where the launcher and all monitors write what they can tell nobody (a panic), in the state directory.
const LOG: &str = "launcher.log";

/// Connections that may wait to be accepted: one daemon, and its successor.
pub const BACKLOG: i32 = 8;

/// Only root talks to these sockets.
const SOCKET_MODE: u32 = 0o600;

/// A live connection to the launcher.
#[derive(Debug, Clone)]
pub struct Launcher(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    conversation: Conversation<wire::LauncherReply>,
    pid: i32,
    program: String,
    pods: Vec<PodId>,
    /// Present when this daemon started it and so must reap it.
    child: Mutex<Option<Child>>,
}

impl Launcher {
    /// Connects to the launcher that an earlier daemon started. [`Error::Absent`] when none runs.
    pub async fn connect(state_dir: BorrowedFd<'_>) -> Result<Launcher> {
        Launcher::greet(state_dir, None).await
    }

    /// A handle on the launcher, whether it answers or not. [`Error::Absent`] when none runs.
    pub fn process(state_dir: BorrowedFd<'_>) -> Result<OwnedFd> {
        process(state_dir, LAUNCHER_SOCKET, "launcher", "coracle-launch")
    }

    /// Starts a launcher from `program`, a sealed memfd of `coracle-monitor`, and connects to it. `name` is what it and
    /// its monitors say of their program.
    ///
    /// Spawns without forking this process's memory (`posix_spawn`). A socket left over by a dead launcher is replaced.
    pub async fn start(program: &OwnedFd, name: &str, state_dir: BorrowedFd<'_>) -> Result<Launcher> {
        let listener = listen(state_dir, LAUNCHER_SOCKET, "launcher")?;
        let log = openat(
            state_dir,
            LOG,
            OFlag::O_WRONLY | OFlag::O_APPEND | OFlag::O_CREAT | OFlag::O_CLOEXEC,
            Mode::from_bits_truncate(0o600),
        )
        .map_err(|errno| Error::Spawn { source: errno.into() })?;
        // The memfd is close-on-exec: the kernel opens the program by this name before it closes anything.
        let child = Command::new(format!("/proc/self/fd/{}", program.as_raw_fd()))
            .arg0("coracle-monitor")
            .args(["launcher", name])
            .env_clear()
            // Its own lists of free memory keep glibc from giving pages back; a monitor that is idle has no use for
            // them.
            .env("GLIBC_TUNABLES", "glibc.malloc.tcache_count=0")
            .stdin(Stdio::from(listener))
            .stdout(Stdio::null())
            .stderr(Stdio::from(File::from(log)))
            .spawn()
            .map_err(|source| Error::Spawn { source })?;
        Launcher::greet(state_dir, Some(child)).await
    }

    async fn greet(state_dir: BorrowedFd<'_>, child: Option<Child>) -> Result<Launcher> {
        let socket = connect(state_dir, LAUNCHER_SOCKET, "launcher")?;
        let conversation = Conversation::new("launcher", socket, |_: Option<wire::LauncherReply>| ())?;
        let hello = Act::Hello(wire::Hello { protocol: PROTOCOL, release: RELEASE.to_owned() });
        match ask(&conversation, hello, &[]).await? {
            Reply::Hello(hello) => Ok(Launcher(Arc::new(Inner {
                conversation,
                pid: hello.pid,
                program: hello.program,
                pods: hello.pods.iter().filter_map(|id| id.parse().ok()).collect(),
                child: Mutex::new(child),
            }))),
            other => Err(unexpected(&other)),
        }
    }

    /// Forks a monitor for the pod, which listens in `pod_dir`. Returns its process id in the host's pid namespace.
    pub async fn spawn_monitor(&self, pod: &PodId, pod_dir: BorrowedFd<'_>) -> Result<i32> {
        let listener = listen(pod_dir, MONITOR_SOCKET, "monitor")?;
        let spawn = Act::Spawn(wire::SpawnMonitor { pod_id: pod.to_string(), listener_fd: 0 });
        match ask(&self.0.conversation, spawn, &[listener.as_fd()]).await? {
            Reply::Spawned(spawned) => Ok(spawned.pid),
            other => Err(unexpected(&other)),
        }
    }

    /// Has a program run; the descriptors are those that the order names.
    pub(crate) async fn run_program(
        &self,
        order: wire::RunProgram,
        fds: &[BorrowedFd<'_>],
        patience: Duration,
    ) -> Result<wire::ProgramEnded> {
        // It is killed in time, and its end told then.
        match ask_for(&self.0.conversation, Act::Run(order), fds, patience + ANSWER_PATIENCE).await? {
            Reply::Ended(ended) => Ok(ended),
            other => Err(unexpected(&other)),
        }
    }

    /// Asks it to exit once no monitor is left. The next greeting takes that back.
    pub async fn retire(&self) -> Result<()> {
        match ask(&self.0.conversation, Act::Retire(wire::Retire {}), &[]).await? {
            Reply::Done(_) => Ok(()),
            other => Err(unexpected(&other)),
        }
    }

    /// Resolves when the launcher is gone; reaps it when it is ours.
    pub async fn closed(&self) {
        self.0.conversation.closed().await;
        let child = self.0.child.lock().unwrap_or_else(PoisonError::into_inner).take();
        if let Some(mut child) = child {
            // It may still be on its way out: waiting belongs on a thread that may wait.
            let _ = tokio::task::spawn_blocking(move || child.wait()).await;
        }
    }

    /// Its process.
    pub fn pid(&self) -> i32 {
        self.0.pid
    }

    /// Which program it runs, in the words of the daemon that started it; empty: it was not told.
    pub fn program(&self) -> &str {
        &self.0.program
    }

    /// The pods whose monitors it had started and that were alive when it greeted us.
    pub fn pods(&self) -> &[PodId] {
        &self.0.pods
    }
}

/// Makes a listening socket called `name`, in place of one whose owner is dead.
fn listen(dir: BorrowedFd<'_>, name: &'static str, who: &'static str) -> Result<OwnedFd> {
    kernel::socket::listen_at(dir, name, SOCKET_MODE, BACKLOG).map_err(|source| Error::Listen { who, source })
}

/// Connects to the socket called `name`. Waits for nobody, and neither does the result.
pub(crate) fn connect(dir: BorrowedFd<'_>, name: &'static str, who: &'static str) -> Result<OwnedFd> {
    kernel::socket::connect_at(dir, name).map_err(|source| match source.raw_os_error() {
        Some(nix::libc::ENOENT | nix::libc::ECONNREFUSED) => Error::Absent { who },
        _ => Error::Connect { who, source },
    })
}

/// A handle on the process that listens on the socket called `name` and is called `comm` (proc(5)).
pub(crate) fn process(dir: BorrowedFd<'_>, name: &'static str, who: &'static str, comm: &str) -> Result<OwnedFd> {
    let absent = || Error::Absent { who };
    let socket = connect(dir, name, who)?;
    let peer = kernel::socket::peer_credentials(socket.as_fd()).map_err(|source| Error::Connect { who, source })?;
    // A socket that its owner has not taken over yet names the daemon that made it, and so whoever has that number now.
    let is_it = kernel::process::name(Pid(peer.pid)).is_ok_and(|found| found == comm);
    let process = kernel::process::pidfd_open(Pid(peer.pid)).map_err(|_| absent())?;
    // The other end of the connection is open still, so the number was its owner's when the handle was opened.
    match kernel::socket::receive(socket.as_fd(), &mut [0], 0) {
        Err(error) if error.kind() == io::ErrorKind::WouldBlock && is_it => Ok(process),
        _ => Err(absent()),
    }
}

async fn ask(conversation: &Conversation<wire::LauncherReply>, act: Act, fds: &[BorrowedFd<'_>]) -> Result<Reply> {
    ask_for(conversation, act, fds, ANSWER_PATIENCE).await
}

async fn ask_for(
    conversation: &Conversation<wire::LauncherReply>,
    act: Act,
    fds: &[BorrowedFd<'_>],
    patience: Duration,
) -> Result<Reply> {
    let reply = conversation.ask(|id| wire::LauncherRequest { id, act: Some(act) }, fds, patience).await?;
    outcome(reply)
}

fn outcome(reply: wire::LauncherReply) -> Result<Reply> {
    match reply.result {
        Some(Reply::Failure(wire::Failure { step, errno })) => Err(Error::Refused { step, errno }),
        Some(result) => Ok(result),
        None => Err(Error::Malformed { who: "launcher", why: "a reply of a kind unknown to this release".into() }),
    }
}

fn unexpected(reply: &Reply) -> Error {
    Error::Malformed { who: "launcher", why: format!("an unexpected reply: {reply:?}") }
}
