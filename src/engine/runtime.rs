//! Another OCI runtime at work, on the monitor's side: a short child for each of its commands.
//!
//! A child joins the daemon's mount namespace, where the runtime and the bundle are, and becomes the runtime. For
//! `create` it first takes a copy of that namespace and places the container's root and the pod's shared memory in the
//! bundle: the runtime and the container see them there, and nobody else does. Since the monitor adopts orphans, what
//! the runtime leaves behind when it exits is the monitor's own child: its streams, its end and its exit code are seen
//! as ever.
//!
//! Each command has a name of its own. By it the bundle holds what belongs to the command: `<name>.log`, where the
//! runtime says what went wrong, and `<name>.pid`, the number of the process that it left.

use std::{
    convert::Infallible,
    ffi::CString,
    io,
    os::{
        fd::{AsFd, BorrowedFd, OwnedFd},
        unix::ffi::OsStrExt,
    },
    path::{Path, PathBuf},
};

use kernel::{
    descriptor, identity, mount,
    namespace::{self, Namespaces},
    path_in_root::{OpenFlags, open_beneath, read_limited},
    process::{self, CStringArray, CloneArgs, Pid, clone3},
    socket, tty,
};
use link::wire;
use nix::{
    fcntl::OFlag,
    sys::stat::Mode,
    unistd::{UnlinkatFlags, unlinkat},
};

use crate::{
    child,
    launch::{Beside, During, Failure, Launched, NULL_DEVICE, POD_SHM, Streams, inside_path, keep, word_pair},
};

/// The name of the command that makes the container, and of its files in the bundle.
pub const CREATE: &str = "create";

/// Longest that is read of a runtime's log, and longest that is repeated of it.
const MAX_LOG: usize = 64 * 1024;
const MAX_COMPLAINT: usize = 600;

/// Where a runtime finds the programs that it may need.
const ENVIRONMENT: [&str; 1] = ["PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"];

/// A runtime and the bundle of one container.
#[derive(Debug)]
pub struct Runtime {
    program: CString,
    path: PathBuf,
    bundle: OwnedFd,
    mounts: OwnedFd,
    console: Option<OwnedFd>,
}

/// A command under way.
#[derive(Debug)]
pub struct Run {
    /// The runtime's process.
    pub pid: Pid,
    /// The same, for ever.
    pub pidfd: OwnedFd,
    /// On which it says why it could not become the runtime.
    pub word: OwnedFd,
}

/// What a child needs on its way to becoming the runtime.
struct Work<'a> {
    runtime: &'a Runtime,
    argv: &'a CStringArray,
    env: &'a CStringArray,
    /// The root filesystem, for `create`.
    root: Option<BorrowedFd<'a>>,
    attach_shm: bool,
    streams: [Option<BorrowedFd<'a>>; 3],
    word: BorrowedFd<'a>,
}

/// Has another runtime bring a container up to just before its program. On return the command is at work, and stands in
/// for the container's process: when it ends well, [`Runtime::child`] is that process.
pub fn create(order: &wire::Launch, fds: Vec<OwnedFd>) -> Result<(Launched, Runtime), Failure> {
    let about = order.runtime.as_ref().ok_or_else(|| Failure::wrong("the order names no runtime"))?;
    let runtime = Runtime::new(about, &fds)?;
    let root = Beside(&fds).one(order.rootfs_fd, "rootfs_fd")?;
    let root = root.try_clone_to_owned().during(|| "hold the root filesystem".into())?;
    let kept = keep(order, fds)?;
    let (word, childs_word) = word_pair()?;
    let streams = if order.tty { Streams::default() } else { Streams::new(order.stdin())? };
    let mut arguments =
        vec!["--bundle".to_owned(), text(&about.bundle), "--pid-file".to_owned(), runtime.pid_file(CREATE)];
    if runtime.console.is_some() {
        // Relative to the bundle: the longest name of a socket is shorter than paths may be.
        arguments.extend(["--console-socket".to_owned(), "console".to_owned()]);
    }
    arguments.push(order.container_id.clone());
    let (argv, env) = runtime.command_line(CREATE, &[CREATE], &arguments)?;
    let work = Work {
        runtime: &runtime,
        argv: &argv,
        env: &env,
        root: Some(root.as_fd()),
        attach_shm: about.attach_shm,
        streams: [0, 1, 2].map(|number| streams.theirs[number].as_ref().map(AsFd::as_fd)),
        word: childs_word.as_fd(),
    };
    // Last of all, so that nothing can fail once it is at work.
    let (pid, pidfd) = spawn(&work)?;
    let [stdin, stdout, stderr] = streams.ours;
    Ok((Launched { pid, pidfd, word, stdin, stdout, stderr, kept }, runtime))
}

impl Runtime {
    fn new(about: &wire::Runtime, fds: &[OwnedFd]) -> Result<Runtime, Failure> {
        let beside = Beside(fds);
        let own = |index, field| {
            let fd = beside.one(index, field)?;
            fd.try_clone_to_owned().during(|| "keep what belongs to the runtime".into())
        };
        let console = about.console_fd.map(|index| own(index, "console_fd")).transpose()?;
        if let Some(console) = &console {
            socket::set_nonblocking(console.as_fd()).during(|| "watch the console's socket".into())?;
        }
        let (bundle, mounts) =
            (own(about.bundle_fd, "bundle_fd")?, own(about.mount_namespace_fd, "mount_namespace_fd")?);
        Ok(Runtime { console, ..Runtime::retold(about, bundle, mounts)? })
    }

    /// What another program has to be told to go on with it, with the numbers of its descriptors.
    pub fn told(&self, bundle_fd: u32, mount_namespace_fd: u32) -> wire::Runtime {
        wire::Runtime {
            program: self.program.as_bytes().to_vec(),
            bundle: self.path.as_os_str().as_bytes().to_vec(),
            bundle_fd,
            mount_namespace_fd,
            attach_shm: false,
            console_fd: None,
        }
    }

    /// The same runtime again, from what was told and its descriptors.
    pub fn retold(told: &wire::Runtime, bundle: OwnedFd, mounts: OwnedFd) -> Result<Runtime, Failure> {
        let program = CString::new(told.program.clone()).map_err(|_| Failure::wrong("program holds a zero byte"))?;
        Ok(Runtime { program, path: inside_path(&told.bundle, "bundle")?, bundle, mounts, console: None })
    }

    /// Its descriptors: the bundle, and the mount namespace. A terminal's socket is not needed once the container is
    /// made.
    pub fn descriptors(&self) -> [BorrowedFd<'_>; 2] {
        [self.bundle.as_fd(), self.mounts.as_fd()]
    }

    /// Lets the container that waits go on.
    pub fn start(&self, container: &str, name: &str) -> Result<Run, Failure> {
        self.run(name, &["start"], &[container.to_owned()], [None; 3])
    }

    /// Sends the container's first process a signal.
    pub fn kill(&self, container: &str, name: &str, signal: i32) -> Result<Run, Failure> {
        self.run(name, &["kill"], &[container.to_owned(), signal.to_string()], [None; 3])
    }

    /// Has the runtime drop what it keeps of the container, and kill what is left of it.
    pub fn delete(&self, container: &str, name: &str) -> Result<Run, Failure> {
        self.run(name, &["delete", "--force"], &[container.to_owned()], [None; 3])
    }

    /// Starts a process inside the container, as the bundle's `<name>.json` describes it. When the command ends well,
    /// [`Runtime::child`] is that process.
    pub fn exec(&self, container: &str, name: &str, order: &wire::Exec, fds: &[OwnedFd]) -> Result<Run, Failure> {
        let beside = Beside(fds);
        let streams = [
            beside.maybe(order.stdin_fd, "stdin_fd")?,
            beside.maybe(order.stdout_fd, "stdout_fd")?,
            beside.maybe(order.stderr_fd, "stderr_fd")?,
        ];
        let process = self.file(name, "json");
        let arguments =
            ["--process".to_owned(), process, "--pid-file".to_owned(), self.pid_file(name), container.to_owned()];
        self.run(name, &["exec", "--detach"], &arguments, streams)
    }

    /// The process that a command has left, by the number that the runtime wrote down.
    pub fn child(&self, name: &str) -> io::Result<Pid> {
        let file = open_beneath(self.bundle.as_fd(), Path::new(&format!("{name}.pid")), OpenFlags::O_RDONLY, 0)?;
        let text = read_limited(file, 32)?;
        let number = std::str::from_utf8(&text).ok().and_then(|text| text.trim().parse().ok());
        number.map(Pid).ok_or_else(|| io::ErrorKind::InvalidData.into())
    }

    /// The terminal that the runtime has handed over: master, and the other end, opened from it.
    pub fn terminal(&self) -> Option<Result<(OwnedFd, OwnedFd), Failure>> {
        let console = self.console.as_ref()?;
        let receive = || -> io::Result<(OwnedFd, OwnedFd)> {
            let connection = socket::accept(console.as_fd())?;
            socket::set_nonblocking(connection.as_fd())?;
            let (_, fds) = socket::receive(connection.as_fd(), &mut [0; 4096], 1)?;
            let master = fds.into_iter().next().ok_or(io::ErrorKind::InvalidData)?;
            let slave = tty::other_end(master.as_fd())?;
            Ok((master, slave))
        };
        Some(receive().during(|| "take the terminal from the runtime".into()))
    }

    /// Why a command failed, in the runtime's own words.
    pub fn complaint(&self, name: &str) -> Option<String> {
        let log = open_beneath(self.bundle.as_fd(), Path::new(&format!("{name}.log")), OpenFlags::O_RDONLY, 0).ok()?;
        last_error(&String::from_utf8_lossy(&read_limited(log, MAX_LOG).ok()?))
    }

    /// Removes the files of a command that has ended.
    pub fn tidy(&self, name: &str) {
        for kind in ["log", "pid", "json"] {
            // What is not there, or cannot go, goes with the bundle.
            let _ = unlinkat(&self.bundle, format!("{name}.{kind}").as_str(), UnlinkatFlags::NoRemoveDir);
        }
    }

    /// What people call it.
    pub fn name(&self) -> String {
        let path = Path::new(std::ffi::OsStr::from_bytes(self.program.as_bytes()));
        path.file_name().unwrap_or_default().to_string_lossy().into_owned()
    }

    fn run(
        &self,
        name: &str,
        verb: &[&str],
        arguments: &[String],
        streams: [Option<BorrowedFd<'_>>; 3],
    ) -> Result<Run, Failure> {
        let (word, childs_word) = word_pair()?;
        let (argv, env) = self.command_line(name, verb, arguments)?;
        let (argv, env, word_end) = (&argv, &env, childs_word.as_fd());
        let work = Work { runtime: self, argv, env, root: None, attach_shm: false, streams, word: word_end };
        let (pid, pidfd) = spawn(&work)?;
        Ok(Run { pid, pidfd, word })
    }

    /// What the runtime keeps of the container stays in the bundle too, and goes with it.
    fn command_line(
        &self,
        name: &str,
        verb: &[&str],
        arguments: &[String],
    ) -> Result<(CStringArray, CStringArray), Failure> {
        let log = self.file(name, "log");
        let state = self.path.join("state").to_string_lossy().into_owned();
        let program = self.program.to_string_lossy().into_owned();
        let global = [program.as_str(), "--root", &state, "--log", &log, "--log-format", "json"];
        let argv = global.into_iter().chain(verb.iter().copied()).chain(arguments.iter().map(String::as_str));
        let zero = |_| Failure::wrong("an argument of the runtime holds a zero byte");
        Ok((CStringArray::new(argv).map_err(zero)?, CStringArray::new(ENVIRONMENT).map_err(zero)?))
    }

    fn pid_file(&self, name: &str) -> String {
        self.file(name, "pid")
    }

    fn file(&self, name: &str, kind: &str) -> String {
        self.path.join(format!("{name}.{kind}")).to_string_lossy().into_owned()
    }
}

fn spawn(work: &Work<'_>) -> Result<(Pid, OwnedFd), Failure> {
    clone3(CloneArgs::default(), || {
        let Err(failure) = steps(work);
        child::fail(work.word, &failure)
    })
    .during(|| "clone the runtime".into())
}

/// Keeps the law of [`crate::child`] but for one point: it looks up paths of the host. The runtime and its bundle are
/// in the daemon's mount namespace, and a descriptor from before the copy of that namespace would lead to the daemon's
/// mounts, not to the copy's. Each of these paths comes from the settings or lies in the daemon's state, where only
/// root may look: no container has a say in them.
fn steps(work: &Work<'_>) -> Result<Infallible, Failure> {
    let runtime = work.runtime;
    let mut needed = vec![work.word, runtime.mounts.as_fd()];
    needed.extend(work.root.into_iter().chain(work.streams.into_iter().flatten()));
    child::newborn(&needed)?;
    // Not the host's: runtimes give a container's streams to its user, and all the host would have a null device of
    // that user. On ours nobody can change anything.
    let null = nix::fcntl::open(NULL_DEVICE, OFlag::O_RDWR | OFlag::O_CLOEXEC, Mode::empty());
    let null = null.during(|| "open the null device".into())?;
    let shm = match work.attach_shm {
        true => Some(shared_memory().during(|| "find the pod's shared memory".into())?),
        false => None,
    };
    namespace::setns(runtime.mounts.as_fd(), Namespaces::MOUNT).during(|| "join the host's mounts".into())?;
    if let Some(root) = work.root {
        namespace::unshare(Namespaces::MOUNT).during(|| "copy the host's mounts".into())?;
        place(root, &runtime.path.join("rootfs")).during(|| "place the root filesystem".into())?;
        if let Some(shm) = &shm {
            place(shm.as_fd(), &runtime.path.join("shm")).during(|| "place the pod's shared memory".into())?;
        }
    }
    // Of a session of its own, so that it can be ended with all it starts.
    process::new_session().during(|| "begin a session".into())?;
    let [stdin, stdout, stderr] = work.streams.map(|stream| stream.unwrap_or(null.as_fd()));
    descriptor::place_stdio(stdin, stdout, stderr).during(|| "place the standard streams".into())?;
    nix::unistd::chdir(&runtime.path).during(|| "enter the bundle".into())?;
    identity::umask(0o022);
    descriptor::close_all_but(&[work.word]).during(|| "close what is not the runtime's".into())?;
    let error = process::exec(&runtime.program, work.argv, work.env);
    Err(Failure::new(format!("start the runtime {}", runtime.program.to_string_lossy()), &error))
}

fn shared_memory() -> io::Result<OwnedFd> {
    let root = nix::fcntl::open("/", OFlag::O_PATH | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC, Mode::empty())?;
    mount::open_tree_clone(root.as_fd(), Path::new(&POD_SHM[1..]), false)
}

fn place(mount: BorrowedFd<'_>, target: &Path) -> io::Result<()> {
    let flags = OFlag::O_PATH | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC | OFlag::O_NOFOLLOW;
    let target = nix::fcntl::open(target, flags, Mode::empty())?;
    mount::move_mount(mount, target.as_fd())
}

/// The last error in a runtime's log, one JSON object a line; where there is none, the last thing that it said.
fn last_error(log: &str) -> Option<String> {
    let lines = log.lines().rev().map(|line| serde_json::from_str::<serde_json::Value>(line).ok());
    let said = lines.map_while(|line| line).filter_map(|line| {
        let message = line.get("msg")?.as_str()?.trim().to_owned();
        let is_error = line.get("level").and_then(|level| level.as_str()).is_some_and(|level| level != "warning");
        Some((message, is_error))
    });
    let said: Vec<_> = said.collect();
    let (message, _) = said.iter().find(|(_, is_error)| *is_error).or(said.first())?;
    Some(message.chars().filter(|letter| !letter.is_control()).take(MAX_COMPLAINT).collect())
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_error_of_a_log_is_what_is_repeated() {
        let log = "{\"level\":\"error\",\"msg\":\"first\"}\n{\"level\":\"error\",\"msg\":\"second\\u0007\"}\n\
                   {\"level\":\"warning\",\"msg\":\"by the way\"}\n";
        assert_eq!(last_error(log).unwrap(), "second");
        assert_eq!(last_error("{\"level\":\"warning\",\"msg\":\"only this\"}").unwrap(), "only this");
        assert_eq!(last_error("not json"), None);
        assert_eq!(last_error(""), None);
        let long = format!("{{\"msg\":\"{}\"}}", "x".repeat(5000));
        assert_eq!(last_error(&long).unwrap().len(), MAX_COMPLAINT);
    }
}
