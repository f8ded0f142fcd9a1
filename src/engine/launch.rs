//! From a decoded order to a container that waits just before `exec`, on the monitor's side.
//!
//! Everything that can be refused without a child is refused here: a descriptor that did not come, a text with a zero
//! byte, a filter that is none. Then one `clone3`; what the child does is in [`crate::child`], and what it says is read
//! with [`hear`]. Nothing here waits: the caller watches the socket and the pidfd.

use std::{
    ffi::CString,
    fmt, io,
    os::{
        fd::{AsFd, BorrowedFd, OwnedFd},
        unix::ffi::OsStrExt,
    },
    path::PathBuf,
};

use kernel::{
    capability::{CapSet, Capabilities},
    limit::{Limit, Resource},
    namespace::{Namespaces, setns},
    process::{CStringArray, CloneArgs, Pid, clone3},
    seccomp::SockFilter,
};
use link::wire;

use crate::child;

/// Where the launcher's small root filesystem has room for a container's root on its way to being one.
pub const LANDING: &str = "/root";
/// Where a monitor mounts the shared memory of its pod.
pub const POD_SHM: &str = "/shm";
/// The null device in the launcher's root: what masks the files that nobody may read.
pub const NULL_DEVICE: &str = "/null";

/// Searched when the environment has no PATH.
const DEFAULT_PATH: &[u8] = b"/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// Largest seccomp filter in bytes: what the kernel takes.
const MAX_FILTER: usize = kernel::seccomp::MAX_INSTRUCTIONS * SockFilter::SIZE;

/// Why something could not be done: the step, and the kernel's reason.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Failure {
    /// What was being done.
    pub step: String,
    /// The kernel's error number; 0 when the order itself was wrong.
    pub errno: i32,
}

impl Failure {
    /// The kernel said no.
    pub fn new(step: impl Into<String>, error: &io::Error) -> Failure {
        Failure { step: step.into(), errno: error.raw_os_error().unwrap_or(nix::libc::EIO) }
    }

    /// The order is wrong; nothing was tried.
    pub fn wrong(step: impl Into<String>) -> Failure {
        Failure { step: step.into(), errno: 0 }
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.step)?;
        if self.errno != 0 {
            write!(f, ": {}", nix::errno::Errno::from_raw(self.errno).desc().to_lowercase())?;
        }
        Ok(())
    }
}

/// Gives an `io::Result` the step that it belongs to.
pub(crate) trait During<T> {
    fn during(self, step: impl FnOnce() -> String) -> Result<T, Failure>;
}

impl<T> During<T> for io::Result<T> {
    fn during(self, step: impl FnOnce() -> String) -> Result<T, Failure> {
        self.map_err(|error| Failure::new(step(), &error))
    }
}

impl<T> During<T> for nix::Result<T> {
    fn during(self, step: impl FnOnce() -> String) -> Result<T, Failure> {
        self.map_err(|errno| Failure { step: step(), errno: errno as i32 })
    }
}

/// What a pod's children get from its monitor.
#[derive(Debug)]
pub struct PodPlaces {
    /// The pod's network namespace; the monitor's own (the host's) when absent.
    pub netns: Option<OwnedFd>,
    /// The monitor's own pid namespace, to come back to.
    pub own_pid: OwnedFd,
}

/// Whose process numbers a new process sees.
#[derive(Debug, Clone, Copy)]
pub enum PidSpace<'a> {
    /// New ones: it becomes process 1.
    New,
    /// The monitor's, which are the host's.
    Host,
    /// Those of the process of this pidfd.
    Of(BorrowedFd<'a>),
}

/// A container that is being prepared, and what its monitor keeps of the order.
#[derive(Debug)]
pub struct Launched {
    /// Its process in the host's pid namespace.
    pub pid: Pid,
    /// The same, for ever.
    pub pidfd: OwnedFd,
    /// The socket on which it says how far it is, and hears its start.
    pub word: OwnedFd,
    /// The end of its standard input that it reads what we write to; held open.
    pub stdin: Option<OwnedFd>,
    /// What it writes, unless it has a terminal.
    pub stdout: Option<OwnedFd>,
    /// What it writes, unless it has a terminal.
    pub stderr: Option<OwnedFd>,
    /// Its cgroups and its log.
    pub kept: Kept,
}

/// What outlives the launch.
#[derive(Debug)]
pub struct Kept {
    /// v1: `tasks` of each hierarchy, for processes that join later.
    pub tasks: Vec<OwnedFd>,
    /// v2: the directory, for processes that join later.
    pub cgroup_dir: Option<OwnedFd>,
    /// Where all processes are found and killed.
    pub kill_dir: OwnedFd,
    /// Whether that is a v2 directory.
    pub kill_dir_is_v2: bool,
    /// The counter of out-of-memory kills.
    pub oom: Option<OwnedFd>,
    /// The log.
    pub log: Option<OwnedFd>,
}

/// What a child said.
#[derive(Debug)]
pub enum Heard {
    /// Nothing yet.
    Nothing,
    /// It waits just before `exec`. Its terminal, where it has one.
    Ready {
        /// Master and slave. Whoever holds the slave is spared the hang-up between two programs that use it.
        terminal: Option<(OwnedFd, OwnedFd)>,
    },
    /// It could not go on, and exits.
    Failed(Failure),
    /// The socket is closed: its program runs, or it was killed.
    Closed,
}

/// Reads the next word of a child; the socket must not block.
pub fn hear(word: BorrowedFd<'_>) -> Heard {
    let mut text = [0; child::MAX_WORD];
    match kernel::socket::receive(word, &mut text, 2) {
        Ok((length, fds)) => match text[..length].split_first() {
            Some((&child::READY, _)) => {
                let mut fds = fds.into_iter();
                Heard::Ready { terminal: fds.next().zip(fds.next()) }
            }
            Some((&child::FAILED, [a, b, c, d, step @ ..])) => Heard::Failed(Failure {
                step: String::from_utf8_lossy(step).into_owned(),
                errno: i32::from_le_bytes([*a, *b, *c, *d]),
            }),
            Some(_) => Heard::Failed(Failure::wrong("the child said something that is no word")),
            None => Heard::Closed,
        },
        Err(error) if error.kind() == io::ErrorKind::WouldBlock => Heard::Nothing,
        Err(_) => Heard::Closed,
    }
}

/// Lets a waiting child `exec`.
pub fn say_start(word: BorrowedFd<'_>) -> io::Result<()> {
    kernel::socket::send(word, &[child::START], &[])
}

/// Begins a container. On return the child is at work; [`hear`] tells how it went.
pub fn launch(
    order: &wire::Launch,
    fds: Vec<OwnedFd>,
    pod: &PodPlaces,
    pid_space: PidSpace<'_>,
) -> Result<Launched, Failure> {
    let beside = Beside(&fds);
    let process = order.process.as_ref().ok_or_else(|| Failure::wrong("the order has no process"))?;
    let process = ReadyProcess::new(process, &beside)?;
    let tasks = beside.many(&order.cgroup_tasks_fd, "cgroup_tasks_fd")?;
    let cgroup = beside.maybe(order.cgroup_dir_fd, "cgroup_dir_fd")?;
    let root = beside.one(order.rootfs_fd, "rootfs_fd")?;
    for index in order.steps.iter().filter_map(|step| match &step.act {
        Some(wire::step::Act::Attach(attach)) => Some(attach.mount_fd),
        _ => None,
    }) {
        beside.one(index, "mount_fd")?;
    }

    let (word, childs_word) = word_pair()?;
    let streams = if order.tty { Streams::default() } else { Streams::new(order.stdin())? };

    let (pid, pidfd) = {
        let _back = enter_pid_space(pid_space, pod)?;
        let namespaces = match pid_space {
            PidSpace::New => Namespaces::MOUNT | Namespaces::PID,
            PidSpace::Host | PidSpace::Of(_) => Namespaces::MOUNT,
        };
        let work = child::ContainerWork {
            order,
            fds: &fds,
            root,
            tasks: &tasks,
            netns: pod.netns.as_ref().map(AsFd::as_fd),
            process: &process,
            stdin: streams.theirs[0].as_ref().map(AsFd::as_fd),
            stdout: streams.theirs[1].as_ref().map(AsFd::as_fd),
            stderr: streams.theirs[2].as_ref().map(AsFd::as_fd),
            word: childs_word.as_fd(),
        };
        clone3(CloneArgs { namespaces, cgroup }, || child::container(&work)).during(|| "clone the container".into())?
    };

    let kept = keep(order, fds)?;
    let [stdin, stdout, stderr] = streams.ours;
    Ok(Launched { pid, pidfd, word, stdin, stdout, stderr, kept })
}

/// Takes what outlives the launch out of the descriptors; the rest is closed.
pub(crate) fn keep(order: &wire::Launch, fds: Vec<OwnedFd>) -> Result<Kept, Failure> {
    let mut fds: Vec<Option<OwnedFd>> = fds.into_iter().map(Some).collect();
    let mut take = |index: u32, field: &str| {
        let slot = fds.get_mut(index as usize).and_then(Option::take);
        slot.ok_or_else(|| Failure::wrong(format!("{field}: no descriptor {index}, or it is used twice")))
    };
    Ok(Kept {
        tasks: order.cgroup_tasks_fd.iter().map(|index| take(*index, "cgroup_tasks_fd")).collect::<Result<_, _>>()?,
        kill_dir: take(order.kill_dir_fd, "kill_dir_fd")?,
        cgroup_dir: order.cgroup_dir_fd.map(|index| take(index, "cgroup_dir_fd")).transpose()?,
        kill_dir_is_v2: order.kill_dir_is_v2,
        oom: order.oom_fd.map(|index| take(index, "oom_fd")).transpose()?,
        log: order.log_fd.map(|index| take(index, "log_fd")).transpose()?,
    })
}

/// The socket between monitor and child; the monitor's end does not block.
pub(crate) fn word_pair() -> Result<(OwnedFd, OwnedFd), Failure> {
    let step = || "make the child's socket".to_owned();
    let (ours, theirs) = kernel::socket::pair().during(step)?;
    kernel::socket::set_nonblocking(ours.as_fd()).during(step)?;
    Ok((ours, theirs))
}

/// Makes the next children be born in a pid space, until the guard is dropped.
pub(crate) fn enter_pid_space<'a>(space: PidSpace<'_>, pod: &'a PodPlaces) -> Result<Option<BackHome<'a>>, Failure> {
    match space {
        PidSpace::New | PidSpace::Host => Ok(None),
        PidSpace::Of(process) => {
            setns(process, Namespaces::PID).during(|| "join the pid namespace".into())?;
            Ok(Some(BackHome(pod.own_pid.as_fd())))
        }
    }
}

/// Brings the monitor's later children back to its own pid namespace.
pub(crate) struct BackHome<'a>(BorrowedFd<'a>);

impl Drop for BackHome<'_> {
    fn drop(&mut self) {
        // Cannot fail: one may always return to the namespace one is in. Were it to, the next child would be born in
        // another container's namespace, so there is nothing safe left to do.
        if setns(self.0, Namespaces::PID).is_err() {
            kernel::process::exit_now(70);
        }
    }
}

/// The pipes of a container without a terminal: our ends, and the child's.
#[derive(Debug, Default)]
pub(crate) struct Streams {
    pub(crate) ours: [Option<OwnedFd>; 3],
    pub(crate) theirs: [Option<OwnedFd>; 3],
}

impl Streams {
    pub(crate) fn new(stdin: wire::launch::Stdin) -> Result<Streams, Failure> {
        use nix::{fcntl::OFlag, unistd::pipe2};
        let pipe = || pipe2(OFlag::O_CLOEXEC).during(|| "make a pipe for its streams".into());
        let quiet = |end: &OwnedFd| {
            kernel::socket::set_nonblocking(end.as_fd()).during(|| "make a pipe for its streams".into())
        };
        let mut streams = Streams::default();
        if stdin != wire::launch::Stdin::Null {
            let (read, write) = pipe()?;
            quiet(&write)?;
            (streams.ours[0], streams.theirs[0]) = (Some(write), Some(read));
        }
        for number in [1, 2] {
            let (read, write) = pipe()?;
            quiet(&read)?;
            (streams.ours[number], streams.theirs[number]) = (Some(read), Some(write));
        }
        Ok(streams)
    }
}

/// The descriptors beside a message, by index.
pub(crate) struct Beside<'a>(pub(crate) &'a [OwnedFd]);

impl<'a> Beside<'a> {
    pub(crate) fn one(&self, index: u32, field: &str) -> Result<BorrowedFd<'a>, Failure> {
        let fd = self.0.get(index as usize).map(AsFd::as_fd);
        fd.ok_or_else(|| Failure::wrong(format!("{field}: no descriptor {index} came with the order")))
    }

    pub(crate) fn maybe(&self, index: Option<u32>, field: &str) -> Result<Option<BorrowedFd<'a>>, Failure> {
        index.map(|index| self.one(index, field)).transpose()
    }

    pub(crate) fn many(&self, indexes: &[u32], field: &str) -> Result<Vec<BorrowedFd<'a>>, Failure> {
        indexes.iter().map(|index| self.one(*index, field)).collect()
    }
}

/// A process as the child needs it: texts for `execve`, sets as sets, the filter in memory.
#[derive(Debug)]
pub(crate) struct ReadyProcess {
    /// What the user called the program, for the message when it cannot be started.
    pub(crate) name: String,
    pub(crate) argv: CStringArray,
    pub(crate) env: CStringArray,
    /// The paths to try, in order; one when the name has a slash.
    pub(crate) programs: Vec<CString>,
    pub(crate) searched: bool,
    pub(crate) cwd: PathBuf,
    pub(crate) uid: u32,
    pub(crate) gid: u32,
    pub(crate) groups: Vec<u32>,
    pub(crate) bounding: CapSet,
    pub(crate) ambient: CapSet,
    pub(crate) capabilities: Capabilities,
    pub(crate) no_new_privs: bool,
    pub(crate) filter: Option<Vec<SockFilter>>,
    pub(crate) limits: Vec<(Resource, Limit)>,
    pub(crate) oom_score_adj: Option<i32>,
    pub(crate) umask: u32,
}

impl ReadyProcess {
    pub(crate) fn new(process: &wire::Process, beside: &Beside<'_>) -> Result<ReadyProcess, Failure> {
        let zero = |field: &str| Failure::wrong(format!("{field} holds a zero byte"));
        let name = process.argv.first().filter(|name| !name.is_empty());
        let name = name.ok_or_else(|| Failure::wrong("no command is given"))?;
        let programs = if name.contains(&b'/') { vec![name.clone()] } else { search(name, &process.env) };
        let limits = process.rlimits.iter().map(|limit| {
            let resource = u32::try_from(limit.resource).ok().and_then(Resource::numbered);
            let resource =
                resource.ok_or_else(|| Failure::wrong(format!("no resource limit has number {}", limit.resource)))?;
            Ok((resource, Limit { soft: limit.soft, hard: limit.hard }))
        });
        Ok(ReadyProcess {
            name: String::from_utf8_lossy(name).into_owned(),
            searched: !name.contains(&b'/'),
            programs: programs.into_iter().map(CString::new).collect::<Result<_, _>>().map_err(|_| zero("argv"))?,
            argv: CStringArray::new(process.argv.iter().cloned()).map_err(|_| zero("argv"))?,
            env: CStringArray::new(process.env.iter().cloned()).map_err(|_| zero("env"))?,
            cwd: inside_path(&process.cwd, "cwd")?,
            uid: process.uid,
            gid: process.gid,
            groups: process.groups.clone(),
            bounding: CapSet(process.bounding),
            ambient: CapSet(process.ambient),
            capabilities: Capabilities {
                effective: CapSet(process.effective),
                permitted: CapSet(process.permitted),
                inheritable: CapSet(process.inheritable),
            },
            no_new_privs: process.no_new_privs,
            filter: beside.maybe(process.seccomp_fd, "seccomp_fd")?.map(read_filter).transpose()?,
            limits: limits.collect::<Result<_, Failure>>()?,
            oom_score_adj: process.oom_score_adj,
            umask: if process.umask == 0 { 0o022 } else { process.umask },
        })
    }
}

/// A path inside the container: absolute and without a zero byte. An empty one is the root.
pub(crate) fn inside_path(bytes: &[u8], field: &str) -> Result<PathBuf, Failure> {
    if bytes.contains(&0) {
        return Err(Failure::wrong(format!("{field} holds a zero byte")));
    }
    let path = PathBuf::from(std::ffi::OsStr::from_bytes(if bytes.is_empty() { b"/" } else { bytes }));
    if !path.is_absolute() {
        return Err(Failure::wrong(format!("{field} {} is not absolute", path.display())));
    }
    Ok(path)
}

/// Where PATH says that a program may be. Entries that are not absolute are passed over: what they mean would depend on
/// the working directory, which an image chooses.
fn search(name: &[u8], env: &[Vec<u8>]) -> Vec<Vec<u8>> {
    let path = env.iter().rev().find_map(|variable| variable.strip_prefix(b"PATH=")).unwrap_or(DEFAULT_PATH);
    path.split(|byte| *byte == b':').filter(|dir| dir.starts_with(b"/")).map(|dir| [dir, b"/", name].concat()).collect()
}

pub(crate) fn read_filter(memfd: BorrowedFd<'_>) -> Result<Vec<SockFilter>, Failure> {
    use std::os::unix::fs::FileExt;
    let step = || "read the seccomp filter".to_owned();
    let file = std::fs::File::from(memfd.try_clone_to_owned().during(step)?);
    let about = file.metadata().during(step)?;
    if !about.is_file() || about.len() > MAX_FILTER as u64 {
        return Err(Failure::wrong("the seccomp filter is no memfd, or too long"));
    }
    let mut bytes = vec![0; about.len() as usize];
    file.read_exact_at(&mut bytes, 0).during(step)?;
    kernel::seccomp::from_bytes(&bytes).ok_or_else(|| Failure::wrong("the seccomp filter is not a filter"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn path_is_searched_in_order_and_only_where_it_is_absolute() {
        let env = vec![b"HOME=/".to_vec(), b"PATH=/a::bin:/b/".to_vec()];
        assert_eq!(search(b"sh", &env), [b"/a/sh".to_vec(), b"/b//sh".to_vec()]);
        assert!(search(b"sh", &[]).contains(&b"/usr/bin/sh".to_vec()));
    }

    #[test]
    fn an_order_that_cannot_be_is_refused_before_there_is_a_child() {
        let beside = Beside(&[]);
        let good = wire::Process { argv: vec![b"sh".to_vec()], ..Default::default() };
        assert!(ReadyProcess::new(&good, &beside).is_ok());
        for bad in [
            wire::Process::default(),
            wire::Process { argv: vec![b"a\0b".to_vec()], ..good.clone() },
            wire::Process { env: vec![b"a\0".to_vec()], ..good.clone() },
            wire::Process { cwd: b"relative".to_vec(), ..good.clone() },
            wire::Process { seccomp_fd: Some(3), ..good.clone() },
            wire::Process { rlimits: vec![wire::Rlimit { resource: -1, soft: 0, hard: 0 }], ..good.clone() },
        ] {
            assert_eq!(ReadyProcess::new(&bad, &beside).unwrap_err().errno, 0);
        }
    }
}
