//! Process 1 of a pod whose containers share one pid namespace: it does nothing, and its zombies vanish by themselves.
//!
//! No program of its own: a child of the monitor that never execs, so it costs a few copied pages. What a container
//! could see through `/proc/1` is an empty read-only root, no capability, and the null device on the three standard
//! descriptors.

use std::{
    convert::Infallible,
    os::fd::{AsFd, BorrowedFd, OwnedFd},
};

use kernel::{
    capability::{CapSet, Capabilities, limit_bounding, set_capabilities},
    descriptor, identity,
    mount::{self, FsContext, MountAttrs},
    namespace::{self, Namespaces},
    process::{CloneArgs, Never, Pid, clone3},
    seccomp, signal, socket,
};
use nix::{fcntl::OFlag, sys::stat::Mode};

use crate::{
    child,
    launch::{During, Failure, LANDING, NULL_DEVICE, PodPlaces, read_filter, word_pair},
};

/// The pod's init, from its birth on.
#[derive(Debug)]
pub struct Init {
    /// In the host's pid namespace.
    pub pid: Pid,
    /// The same, for ever; containers join its pid namespace through it.
    pub pidfd: OwnedFd,
    /// On which it says that it is ready, or what failed.
    pub word: OwnedFd,
}

struct Work<'a> {
    tasks: &'a [BorrowedFd<'a>],
    netns: Option<BorrowedFd<'a>>,
    filter: Option<&'a [seccomp::SockFilter]>,
    word: BorrowedFd<'a>,
}

/// Starts the init of a pod: `tasks` of its v1 cgroups, or its v2 directory.
pub fn start_init(
    pod: &PodPlaces,
    tasks: &[BorrowedFd<'_>],
    cgroup: Option<BorrowedFd<'_>>,
    filter: Option<&OwnedFd>,
) -> Result<Init, Failure> {
    let (word, childs_word) = word_pair()?;
    let filter = match filter {
        Some(memfd) => read_filter(memfd.as_fd()).map(Some)?,
        None => None,
    };
    let netns = pod.netns.as_ref().map(AsFd::as_fd);
    let work = Work { tasks, netns, filter: filter.as_deref(), word: childs_word.as_fd() };
    let args = CloneArgs { namespaces: Namespaces::PID | Namespaces::MOUNT, cgroup };
    let (pid, pidfd) = clone3(args, || init(&work)).during(|| "clone the pod's init".into())?;
    Ok(Init { pid, pidfd, word })
}

fn init(work: &Work<'_>) -> Never {
    let Err(failure) = steps(work);
    child::fail(work.word, &failure)
}

fn steps(work: &Work<'_>) -> Result<Infallible, Failure> {
    let keep: Vec<BorrowedFd<'_>> = work.tasks.iter().copied().chain(work.netns).chain([work.word]).collect();
    child::newborn(&keep)?;
    place_null().during(|| "place the null device".into())?;
    child::join_cgroups(work.tasks)?;
    if let Some(netns) = work.netns {
        namespace::setns(netns, Namespaces::NET).during(|| "join the pod's network namespace".into())?;
    }
    empty_root().during(|| "make the init's empty root".into())?;
    identity::set_name(c"coracle-init").during(|| "name the init".into())?;
    let step = || "drop the init's privileges".to_owned();
    limit_bounding(CapSet::empty()).during(step)?;
    set_capabilities(Capabilities::default()).during(step)?;
    identity::no_new_privs().during(step)?;
    identity::dumpable(false).during(step)?;
    // A parent that ignores SIGCHLD has its children reaped by the kernel, adopted ones too.
    signal::ignore(nix::libc::SIGCHLD).during(|| "leave reaping to the kernel".into())?;
    let step = || "close what the init does not need".to_owned();
    descriptor::close_all_but(&[work.word]).during(step)?;
    // From here on containers are let in.
    socket::send(work.word, &[child::READY], &[]).during(|| "report to the monitor".into())?;
    descriptor::close_all_but(&[]).during(step)?;
    if let Some(filter) = work.filter {
        seccomp::load(filter).during(|| "load the seccomp filter".into())?;
    }
    loop {
        nix::unistd::pause();
    }
}

/// The standard streams came from the daemon: the host's null device, and the log of the node. Whoever may trace
/// process 1 could open them again through `/proc/1/fd`. The null device of the launcher's root shows nothing of the
/// host, and the mount it is on lets nobody change it.
fn place_null() -> std::io::Result<()> {
    let null = nix::fcntl::open(NULL_DEVICE, OFlag::O_RDWR | OFlag::O_CLOEXEC | OFlag::O_NOFOLLOW, Mode::empty())?;
    descriptor::place_stdio(null.as_fd(), null.as_fd(), null.as_fd())
}

/// Stands on an empty read-only tmpfs, so that `/proc/1/root` leads nowhere.
fn empty_root() -> std::io::Result<()> {
    let context = FsContext::open(c"tmpfs")?;
    context.set_string(c"source", c"tmpfs")?;
    context.set_string(c"mode", c"0555")?;
    context.create()?;
    let root = context.mount(MountAttrs::RDONLY | MountAttrs::NOSUID | MountAttrs::NODEV | MountAttrs::NOEXEC)?;
    let landing = nix::fcntl::open(LANDING, OFlag::O_PATH | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC, Mode::empty())?;
    mount::move_mount(root.as_fd(), landing.as_fd())?;
    nix::unistd::fchdir(&root)?;
    mount::pivot_root_here()
}
