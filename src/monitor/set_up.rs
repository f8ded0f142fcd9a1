//! What a pod has before its first container: namespaces, shared memory, kernel parameters, an init.
//!
//! Steps, in order: mount namespace and shared memory; IPC and UTS namespaces and the host name; kernel parameters,
//! those of the network from inside the pod's network namespace; the init. The monitor itself enters the pod's IPC and
//! UTS namespaces, so its children simply have them; it stays in the host's network and pid namespaces.

use std::{
    fs, io,
    os::fd::{AsFd, BorrowedFd, OwnedFd},
    path::Path,
};

use engine::{
    init::start_init,
    launch::{Failure, Heard, POD_SHM, PodPlaces, hear},
};
use kernel::{
    identity,
    mount::{self, FsContext, MountAttrs},
    namespace::{self, Namespaces},
    process,
};
use link::wire;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use wire::monitor_reply::Result as Reply;

use crate::{
    asker::Asker,
    pod::{Pod, PodInit, Ready, SetUp},
};

/// How long an init may take to say that it is ready, in milliseconds. It does nothing that could wait.
const INIT_PATIENCE: u16 = 5000;

impl Pod {
    /// Sets the pod up. Once: what was unshared cannot be taken back, so a failure leaves a monitor that can only end.
    pub(crate) fn set_up_pod(&mut self, asker: Asker, order: &wire::SetUpPod, fds: Vec<OwnedFd>) {
        if !matches!(self.set_up, SetUp::No) {
            return self.answer(asker, Err(Failure::wrong("the pod has been set up before")));
        }
        let result = set_up(order, fds).map(|ready| {
            let init_pid = ready.init.as_ref().map_or(0, |init| init.pid.0);
            self.set_up = SetUp::Done(ready);
            Reply::PodReady(wire::PodReady { init_pid })
        });
        if result.is_err() {
            self.set_up = SetUp::Failed;
        }
        self.answer(asker, result);
    }
}

fn set_up(order: &wire::SetUpPod, fds: Vec<OwnedFd>) -> Result<Ready, Failure> {
    let mut fds: Vec<Option<OwnedFd>> = fds.into_iter().map(Some).collect();
    let mut take = |index: u32, field: &str| {
        let slot = fds.get_mut(index as usize).and_then(Option::take);
        slot.ok_or_else(|| Failure::wrong(format!("{field}: no descriptor {index}, or it is used twice")))
    };
    let netns = order.netns_fd.map(|index| take(index, "netns_fd")).transpose()?;
    let records = take(order.records_fd, "records_fd")?;
    let tasks: Vec<OwnedFd> =
        order.cgroup_tasks_fd.iter().map(|index| take(*index, "cgroup_tasks_fd")).collect::<Result<_, _>>()?;
    let cgroup = order.cgroup_dir_fd.map(|index| take(index, "cgroup_dir_fd")).transpose()?;
    let filter = order.seccomp_fd.map(|index| take(index, "seccomp_fd")).transpose()?;

    let mut own = Namespaces::MOUNT;
    own.set(Namespaces::IPC, !order.host_ipc);
    own.set(Namespaces::UTS, !order.host_uts);
    namespace::unshare(own).map_err(|error| Failure::new("make the pod's namespaces", &error))?;
    if !order.host_ipc {
        mount_shm(order.shm_bytes).map_err(|error| Failure::new("mount the pod's shared memory", &error))?;
    }
    if !order.host_uts {
        identity::set_host_name(&order.hostname)
            .map_err(|error| Failure::new(format!("set the host name {:?}", order.hostname), &error))?;
    }
    write_sysctls(order, netns.as_ref())?;
    let own_pid = namespace::own(Namespaces::PID).map_err(|error| Failure::new("open our pid namespace", &error))?;
    let places = PodPlaces { netns, own_pid };
    let init = if order.shared_pid {
        let tasks: Vec<BorrowedFd<'_>> = tasks.iter().map(AsFd::as_fd).collect();
        let init = start_init(&places, &tasks, cgroup.as_ref().map(AsFd::as_fd), filter.as_ref())?;
        Some(await_init(init)?)
    } else {
        None
    };
    Ok(Ready { places, records, init })
}

fn mount_shm(bytes: u64) -> io::Result<()> {
    let context = FsContext::open(c"tmpfs")?;
    context.set_string(c"source", c"shm")?;
    context.set_string(c"mode", c"1777")?;
    let size = std::ffi::CString::new(bytes.to_string())?;
    context.set_string(c"size", &size)?;
    context.create()?;
    let shm = context.mount(MountAttrs::NOSUID | MountAttrs::NODEV | MountAttrs::NOEXEC)?;
    let flags = nix::fcntl::OFlag::O_PATH | nix::fcntl::OFlag::O_DIRECTORY | nix::fcntl::OFlag::O_CLOEXEC;
    let place = nix::fcntl::open(POD_SHM, flags, nix::sys::stat::Mode::empty())?;
    mount::move_mount(shm.as_fd(), place.as_fd())
}

/// Writes the pod's kernel parameters. Those below `net` show and change the namespace of whoever opens them.
fn write_sysctls(order: &wire::SetUpPod, netns: Option<&OwnedFd>) -> Result<(), Failure> {
    let (of_net, others): (Vec<_>, Vec<_>) = order.sysctls.iter().partition(|(name, _)| name.starts_with("net/"));
    write_all(&others)?;
    if of_net.is_empty() {
        return Ok(());
    }
    let Some(netns) = netns else {
        return Err(Failure::wrong("kernel parameters of the network, and no network namespace of the pod's own"));
    };
    let home = namespace::own(Namespaces::NET).map_err(|error| Failure::new("open our network namespace", &error))?;
    namespace::setns(netns.as_fd(), Namespaces::NET)
        .map_err(|error| Failure::new("enter the pod's network namespace", &error))?;
    let written = write_all(&of_net);
    namespace::setns(home.as_fd(), Namespaces::NET)
        .map_err(|error| Failure::new("leave the pod's network namespace", &error))?;
    written
}

fn write_all(sysctls: &[(&String, &String)]) -> Result<(), Failure> {
    for (name, value) in sysctls {
        let step = || format!("set the kernel parameter {}", name.replace('/', "."));
        // The daemon has checked the names; this keeps a mistake there from writing elsewhere.
        if name.split('/').any(|part| part.is_empty() || part == "." || part == "..") {
            return Err(Failure::wrong(format!("{}: not a name", step())));
        }
        fs::write(Path::new("/proc/sys").join(name), value.as_bytes()).map_err(|error| Failure::new(step(), &error))?;
    }
    Ok(())
}

fn await_init(init: engine::init::Init) -> Result<PodInit, Failure> {
    let mut asked = [PollFd::new(init.word.as_fd(), PollFlags::POLLIN)];
    // Whatever poll says, what was heard decides.
    let _ = poll(&mut asked, PollTimeout::from(INIT_PATIENCE));
    let failure = match hear(init.word.as_fd()) {
        Heard::Ready { .. } => return Ok(PodInit { pid: init.pid, pidfd: init.pidfd }),
        Heard::Failed(failure) => failure,
        Heard::Nothing | Heard::Closed => Failure::wrong("the pod's init did not begin"),
    };
    let _ = process::pidfd_send_signal(init.pidfd.as_fd(), nix::libc::SIGKILL);
    Err(failure)
}
