//! What a new process does between clone and exec: a container's first process, and a process that enters a container.
//!
//! The law of this file:
//! - It runs in a copy of a process with one thread (the monitor; a test counts its threads), so every lock is free and
//!   ordinary code is sound. It still touches little: each page written is a page copied.
//! - It never returns: it ends in `exec` or with `_exit`, and nothing of the parent's is dropped on the way.
//! - It says how it went on its one socket: ready; or the step that failed, with its errno. Its end of that socket
//!   closes by itself at `exec`, which is how the monitor knows.
//! - It does not log, does not resolve a host path, and holds no descriptor that it was not given.
//!
//! A container's steps, in order: signals, parent-death signal, keys, descriptors, cgroups, cgroup namespace, network
//! namespace, root (see [`crate::place`]), terminal, working directory made, root read-only, pivot, streams, limits,
//! working directory entered, identity; *ready, wait for the start*; seccomp, last capabilities, exec.

use std::{
    convert::Infallible,
    ffi::CStr,
    fs::File,
    io::Write,
    os::fd::{AsFd, BorrowedFd, OwnedFd},
    path::Path,
};

use kernel::{
    capability::{self, CapSet, Capabilities},
    descriptor, identity,
    limit::{self, Limit},
    mount::{self, MountAttrs},
    namespace::{self, Namespaces},
    process::{self, Never},
    seccomp, signal, socket,
    tty::{self, Pty, WindowSize},
};
use link::wire;
use nix::{
    errno::Errno,
    fcntl::OFlag,
    sys::stat::{Mode, SFlag},
    unistd::AccessFlags,
};

use crate::{
    launch::{During, Failure, LANDING, ReadyProcess},
    place,
};

/// First byte of "I wait just before exec".
pub(crate) const READY: u8 = b'R';
/// First byte of "this step failed": errno and text follow.
pub(crate) const FAILED: u8 = b'F';
/// What the monitor says to let it exec.
pub(crate) const START: u8 = b'S';
/// Longest word, bytes. A step's text is cut to fit.
pub(crate) const MAX_WORD: usize = 1024;

/// What a terminal's size is until somebody says otherwise: programs print oddly at 0 × 0.
pub(crate) const FIRST_SIZE: WindowSize = WindowSize { rows: 24, columns: 80 };

/// A container's first process.
pub(crate) struct ContainerWork<'a> {
    pub(crate) order: &'a wire::Launch,
    pub(crate) fds: &'a [OwnedFd],
    pub(crate) root: BorrowedFd<'a>,
    pub(crate) tasks: &'a [BorrowedFd<'a>],
    pub(crate) netns: Option<BorrowedFd<'a>>,
    pub(crate) process: &'a ReadyProcess,
    pub(crate) stdin: Option<BorrowedFd<'a>>,
    pub(crate) stdout: Option<BorrowedFd<'a>>,
    pub(crate) stderr: Option<BorrowedFd<'a>>,
    pub(crate) word: BorrowedFd<'a>,
}

/// A process that enters a running container.
pub(crate) struct EnterWork<'a> {
    /// A process of the container, whose namespaces are joined.
    pub(crate) container: BorrowedFd<'a>,
    pub(crate) tasks: &'a [BorrowedFd<'a>],
    pub(crate) process: &'a ReadyProcess,
    pub(crate) stdin: Option<BorrowedFd<'a>>,
    pub(crate) stdout: Option<BorrowedFd<'a>>,
    pub(crate) stderr: Option<BorrowedFd<'a>>,
    pub(crate) word: BorrowedFd<'a>,
}

/// Runs a container's first process.
pub(crate) fn container(work: &ContainerWork<'_>) -> Never {
    let Err(failure) = container_steps(work);
    fail(work.word, &failure)
}

/// Runs a process that enters a container.
pub(crate) fn enter(work: &EnterWork<'_>) -> Never {
    let Err(failure) = enter_steps(work);
    fail(work.word, &failure)
}

fn container_steps(work: &ContainerWork<'_>) -> Result<Infallible, Failure> {
    let order = work.order;
    let streams = [work.stdin, work.stdout, work.stderr, work.netns];
    let mut keep: Vec<BorrowedFd<'_>> = work.fds.iter().map(AsFd::as_fd).collect();
    keep.extend(streams.into_iter().flatten());
    keep.push(work.word);
    newborn(&keep)?;
    join_cgroups(work.tasks)?;
    // While /proc is still the host's and we are still root.
    score_for_oom(work.process)?;
    if order.private_cgroup_namespace {
        // After joining, or the namespace's root would be the monitor's cgroup.
        namespace::unshare(Namespaces::CGROUP).during(|| "make a cgroup namespace".into())?;
    }
    if let Some(netns) = work.netns {
        namespace::setns(netns, Namespaces::NET).during(|| "join the pod's network namespace".into())?;
    }

    // The pruned mount table of the launcher, now copied: the container's root comes to stand in it, then replaces it.
    let old_root = open_directory("/")?;
    let landing = open_directory(LANDING)?;
    mount::move_mount(work.root, landing.as_fd()).during(|| "place the root filesystem".into())?;
    let mask = identity::umask(0);
    place::steps(&order.steps, work.fds, work.root, old_root.as_fd())?;
    let terminal = if order.tty { Some(open_terminal(work.root, work.process.uid)?) } else { None };
    // May be impossible (a read-only volume); entering it will then say so, as the user that matters.
    let _ = place::make_directories(work.root, &work.process.cwd);
    identity::umask(mask);
    if order.readonly_rootfs {
        mount::mount_setattr(work.root, false, MountAttrs::RDONLY, MountAttrs::empty(), None)
            .during(|| "make the root filesystem read-only".into())?;
    }
    nix::unistd::fchdir(work.root).during(|| "enter the root filesystem".into())?;
    mount::pivot_root_here().during(|| "make it the root".into())?;
    if let Some(kind) = place::propagation(order.root_propagation)? {
        // After the pivot, which refuses to move a shared mount.
        mount::set_propagation(Path::new("/"), kind, false).during(|| "set the propagation of the root".into())?;
    }

    process::new_session().during(|| "begin a session".into())?;
    match &terminal {
        Some(pty) => {
            let slave = pty.slave.as_fd();
            tty::set_controlling(slave).during(|| "make it the controlling terminal".into())?;
            descriptor::place_stdio(slave, slave, slave).during(|| "place the terminal".into())?;
        }
        None => place_streams(work.stdin, work.stdout, work.stderr, work.process.uid)?,
    }
    drop((landing, old_root));
    let mut last: Vec<BorrowedFd<'_>> = Vec::new();
    if let Some(pty) = &terminal {
        last.extend([pty.master.as_fd(), pty.slave.as_fd()]);
    }
    // Before the working directory is entered: it may name one of our descriptors in /proc/self/fd.
    let keep: Vec<BorrowedFd<'_>> = last.iter().copied().chain([work.word]).collect();
    descriptor::close_all_but(&keep).during(|| "close what is not the container's".into())?;
    set_limits(work.process)?;
    become_user_at_work(work.process)?;

    socket::send(work.word, &[READY], &last).during(|| "report to the monitor".into())?;
    drop(terminal);
    wait_for_start(work.word);
    run(work.process)
}

fn enter_steps(work: &EnterWork<'_>) -> Result<Infallible, Failure> {
    let streams = [work.stdin, work.stdout, work.stderr];
    let mut keep: Vec<BorrowedFd<'_>> = work.tasks.to_vec();
    keep.extend(streams.into_iter().flatten());
    keep.extend([work.word, work.container]);
    newborn(&keep)?;
    join_cgroups(work.tasks)?;
    score_for_oom(work.process)?;
    let all = Namespaces::MOUNT | Namespaces::UTS | Namespaces::IPC | Namespaces::NET | Namespaces::CGROUP;
    namespace::setns(work.container, all).during(|| "join the container's namespaces".into())?;
    process::new_session().during(|| "begin a session".into())?;
    place_streams(work.stdin, work.stdout, work.stderr, work.process.uid)?;
    descriptor::close_all_but(&[work.word]).during(|| "close what is not the container's".into())?;
    set_limits(work.process)?;
    become_user_at_work(work.process)?;
    run(work.process)
}

/// From a copy of the monitor to a process that stands for itself.
pub(crate) fn newborn(keep: &[BorrowedFd<'_>]) -> Result<(), Failure> {
    signal::reset().during(|| "reset signals".into())?;
    identity::parent_death_signal(nix::libc::SIGKILL).during(|| "ask for the parent-death signal".into())?;
    leave_keys()?;
    descriptor::close_all_but(keep).during(|| "close the monitor's descriptors".into())
}

/// A container without a filter could otherwise read keys of the session in which the daemon was started, and those
/// that other containers put there.
fn leave_keys() -> Result<(), Failure> {
    match identity::new_session_keyring() {
        // A kernel without keys, or a node inside a container whose filter keeps everybody below from them.
        Err(error) if matches!(error.raw_os_error(), Some(nix::libc::ENOSYS | nix::libc::EPERM)) => Ok(()),
        left => left.during(|| "leave the daemon's keys".into()),
    }
}

/// v1: this thread moves itself, for which the kernel need not wait; writing a process's number would cost 7 ms.
pub(crate) fn join_cgroups(tasks: &[BorrowedFd<'_>]) -> Result<(), Failure> {
    for file in tasks {
        nix::unistd::write(file, b"0").during(|| "join the cgroup".into())?;
    }
    Ok(())
}

fn score_for_oom(process: &ReadyProcess) -> Result<(), Failure> {
    let Some(score) = process.oom_score_adj else { return Ok(()) };
    let step = || format!("set the out-of-memory score to {score}");
    let mut file = File::options().write(true).open("/proc/self/oom_score_adj").during(step)?;
    match file.write_all(score.to_string().as_bytes()) {
        // Lowering it takes CAP_SYS_RESOURCE, which a node inside a container lacks; the daemon has said so at its
        // start.
        Err(error) if matches!(error.raw_os_error(), Some(nix::libc::EACCES | nix::libc::EPERM)) => Ok(()),
        written => written.during(step),
    }
}

fn set_limits(process: &ReadyProcess) -> Result<(), Failure> {
    for (resource, wanted) in &process.limits {
        let step = || format!("set {}", resource.name());
        match limit::set_limit(*resource, *wanted) {
            // Without CAP_SYS_RESOURCE the hard limit cannot grow: as much as there is.
            Err(error) if error.raw_os_error() == Some(nix::libc::EPERM) => {
                let now = limit::limit(*resource).during(step)?;
                let hard = wanted.hard.min(now.hard);
                limit::set_limit(*resource, Limit { soft: wanted.soft.min(hard), hard }).during(step)?;
            }
            set => set.during(step)?,
        }
    }
    Ok(())
}

/// Becomes the user, with the capabilities it will have, and CAP_SYS_ADMIN where loading the filter still needs it.
pub(crate) fn take_identity(process: &ReadyProcess) -> Result<(), Failure> {
    identity::umask(process.umask);
    // All before the change of user: each of these needs what root has.
    let held = capability::capabilities().during(|| "read capabilities".into())?.permitted;
    capability::limit_bounding(process.bounding).during(|| "limit the bounding set".into())?;
    identity::keep_capabilities().during(|| "keep capabilities".into())?;
    identity::set_groups(&process.groups).during(|| "set supplementary groups".into())?;
    identity::set_group(process.gid).during(|| format!("become group {}", process.gid))?;
    identity::set_user(process.uid).during(|| format!("become user {}", process.uid))?;
    // The change of user has cleared it. A parent that died meanwhile is noticed at the socket.
    identity::parent_death_signal(nix::libc::SIGKILL).during(|| "ask for the parent-death signal".into())?;
    identity::dumpable(false).during(|| "hide from other processes".into())?;
    let sets = final_sets(process, held);
    let extra = if loads_by_privilege(process) { CapSet::SYS_ADMIN.intersection(held) } else { CapSet::empty() };
    capability::set_capabilities(Capabilities {
        effective: sets.effective.union(extra),
        permitted: sets.permitted.union(extra),
        inheritable: sets.inheritable,
    })
    .during(|| "set capabilities".into())?;
    let ambient = process.ambient.intersection(sets.permitted).intersection(sets.inheritable);
    capability::clear_ambient().during(|| "clear ambient capabilities".into())?;
    capability::raise_ambient(ambient).during(|| "raise ambient capabilities".into())?;
    if process.no_new_privs {
        identity::no_new_privs().during(|| "set no_new_privs".into())?;
    }
    Ok(())
}

/// The sets of the process, less what this machine does not have to give (CAP_SYS_RESOURCE inside a container).
fn final_sets(process: &ReadyProcess, held: CapSet) -> Capabilities {
    let wanted = process.capabilities;
    Capabilities {
        effective: wanted.effective.intersection(wanted.permitted).intersection(held),
        permitted: wanted.permitted.intersection(held),
        inheritable: wanted.inheritable.intersection(held),
    }
}

/// Without no_new_privs only CAP_SYS_ADMIN may load a filter, so the last capabilities are dropped after it.
fn loads_by_privilege(process: &ReadyProcess) -> bool {
    process.filter.is_some() && !process.no_new_privs
}

/// Enters the working directory and becomes the user. As root first: images name directories that only root may enter,
/// such as `/root`, and other runtimes take their users there. As the user where root may not: a share may trust no
/// root, only its owner.
fn become_user_at_work(process: &ReadyProcess) -> Result<(), Failure> {
    let cwd = &process.cwd;
    let step = || format!("enter the working directory {}", cwd.display());
    let as_root = nix::unistd::chdir(cwd);
    take_identity(process)?;
    match as_root {
        Err(Errno::EACCES | Errno::EPERM) => nix::unistd::chdir(cwd),
        entered => entered,
    }
    .during(step)?;
    // A path through a descriptor of ours would lead out of the container; none is left, and this would show it.
    match nix::unistd::getcwd() {
        Ok(here) if here.is_absolute() => Ok(()),
        Ok(_) => Err(Failure::wrong(format!("the working directory {} is outside the container", cwd.display()))),
        Err(errno) => Err(Failure { step: step(), errno: errno as i32 }),
    }
}

/// The last words before the program: filter, capabilities, exec.
fn run(process: &ReadyProcess) -> Result<Infallible, Failure> {
    // Again, lest anything was opened meanwhile without the flag.
    descriptor::close_others_on_exec().during(|| "mark descriptors".into())?;
    let held = if loads_by_privilege(process) {
        Some(capability::capabilities().during(|| "read capabilities".into())?.permitted)
    } else {
        None
    };
    if let Some(filter) = &process.filter {
        seccomp::load(filter).during(|| "load the seccomp filter".into())?;
    }
    if let Some(held) = held {
        // The one system call that the filter already sees.
        capability::set_capabilities(final_sets(process, held)).during(|| "drop the last capabilities".into())?;
    }
    Err(exec(process))
}

fn exec(process: &ReadyProcess) -> Failure {
    let mut refused = None;
    for program in &process.programs {
        let error = process::exec(program, &process.argv, &process.env);
        match error.raw_os_error() {
            // Not here: the next directory may have it. A program that is here lacks its interpreter, which is another
            // story.
            Some(nix::libc::ENOENT | nix::libc::ENOTDIR) if process.searched && !is_there(program) => {}
            Some(nix::libc::EACCES) if process.searched => refused = Some(error),
            _ => return Failure::new(format!("exec: {:?}", process.name), &error),
        }
    }
    match refused {
        Some(error) => Failure::new(format!("exec: {:?}", process.name), &error),
        // The words say it all: a number would only repeat them.
        None => Failure::wrong(format!("exec: {:?}: executable file not found in $PATH", process.name)),
    }
}

fn is_there(program: &CStr) -> bool {
    nix::unistd::access(program, AccessFlags::F_OK).is_ok()
}

/// Standard streams from pipes; those that are absent are the container's own null device.
fn place_streams(
    stdin: Option<BorrowedFd<'_>>,
    stdout: Option<BorrowedFd<'_>>,
    stderr: Option<BorrowedFd<'_>>,
    uid: u32,
) -> Result<(), Failure> {
    // So that the user may open /dev/stdout by name, which is this pipe again. Refused for what is not a pipe of ours.
    for stream in [stdin, stdout, stderr].into_iter().flatten() {
        let _ = nix::unistd::fchown(stream, Some(uid.into()), None);
    }
    let null = match (stdin, stdout, stderr) {
        (Some(_), Some(_), Some(_)) => None,
        // After pivot_root: opened earlier, this would be the host's.
        _ => Some(open_null()?),
    };
    let or_null = |stream: Option<BorrowedFd<'_>>| match (stream, &null) {
        (Some(stream), _) => stream.try_clone_to_owned(),
        (None, Some(null)) => null.try_clone(),
        (None, None) => Err(std::io::Error::from_raw_os_error(nix::libc::EBADF)),
    };
    let step = || "place the standard streams".to_owned();
    let (stdin, stdout, stderr) =
        (or_null(stdin).during(step)?, or_null(stdout).during(step)?, or_null(stderr).during(step)?);
    descriptor::place_stdio(stdin.as_fd(), stdout.as_fd(), stderr.as_fd()).during(step)
}

/// `/dev/null` of the container, if it is what it says: an image could have put anything there.
fn open_null() -> Result<OwnedFd, Failure> {
    let step = || "open the container's /dev/null".to_owned();
    let flags = OFlag::O_RDWR | OFlag::O_CLOEXEC | OFlag::O_NOFOLLOW | OFlag::O_NOCTTY | OFlag::O_NONBLOCK;
    let null = nix::fcntl::open("/dev/null", flags, Mode::empty()).during(step)?;
    let about = nix::sys::stat::fstat(&null).during(step)?;
    let is_char = SFlag::from_bits_truncate(about.st_mode) & SFlag::S_IFMT == SFlag::S_IFCHR;
    if !is_char || about.st_rdev != nix::sys::stat::makedev(1, 3) {
        return Err(Failure::wrong("the container's /dev/null is not the null device"));
    }
    Ok(null)
}

/// A terminal in the container's own devpts, shown at `/dev/console` too.
fn open_terminal(root: BorrowedFd<'_>, uid: u32) -> Result<Pty, Failure> {
    let step = || "open a terminal".to_owned();
    let devpts = place::devpts(root)?;
    let pty = tty::open(devpts.as_fd()).during(step)?;
    tty::set_window_size(pty.slave.as_fd(), FIRST_SIZE).during(step)?;
    nix::unistd::fchown(&pty.slave, Some(uid.into()), None).during(step)?;
    let name = pty.number.to_string();
    let console = mount::open_tree_clone(devpts.as_fd(), Path::new(&name), false).during(step)?;
    place::place_file(root, Path::new("/dev/console"), console.as_fd())?;
    Ok(pty)
}

fn open_directory(path: &str) -> Result<OwnedFd, Failure> {
    nix::fcntl::open(path, OFlag::O_PATH | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC, Mode::empty())
        .during(|| format!("open the monitor's {path}"))
}

/// Sleeps until the monitor says start. A monitor that is gone, or let go of the socket, ends this process.
fn wait_for_start(word: BorrowedFd<'_>) {
    let mut said = [0; 1];
    match socket::receive(word, &mut said, 0) {
        Ok((1, _)) if said == [START] => {}
        _ => process::exit_now(0),
    }
}

pub(crate) fn fail(word: BorrowedFd<'_>, failure: &Failure) -> Never {
    let mut text = Vec::with_capacity(MAX_WORD);
    text.push(FAILED);
    text.extend_from_slice(&failure.errno.to_le_bytes());
    text.extend_from_slice(failure.step.as_bytes());
    text.truncate(MAX_WORD);
    // Nobody to tell it to when this fails: the monitor sees the end of the process.
    let _ = socket::send(word, &text, &[]);
    process::exit_now(1)
}
