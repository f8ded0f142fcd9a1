//! A container for another OCI runtime: its plan as a bundle, and the orders to have the runtime run it.
//!
//! ```text
//! <bundle>/config.json   the plan as a runtime spec   rootfs/, shm/   where the runtime sees the mounts of these names
//!          exec-N.json   a process to start inside    console         the socket on which a terminal is handed over
//!          state/        what the runtime keeps       NAME.log, .pid  of each command (see `runtime`)
//! ```
//! All of it lies in one directory of the state, and nothing else of a container is anywhere in the host's sight:
//! removing the directory removes whatever a dead runtime or monitor has left.

use std::{
    fs::{self, DirBuilder, File},
    io,
    os::{
        fd::{AsRawFd, OwnedFd},
        unix::{fs::DirBuilderExt, net::UnixListener},
    },
    path::{Path, PathBuf},
};

use kernel::{
    mount::{PropagationType, bind, set_propagation, umount_detach},
    mount_table::{self, MountEntry},
    namespace::{self, Namespaces},
};
use link::{ExecOrder, wire};
use model::Propagation;

use crate::{
    Engine, Error, LaunchPlan, Prepared, Result, Rootfs,
    launch_plan::{EnvLine, Missing, MountWhat, PidNamespace},
    oci::{self, Places},
    orders::{self, Descriptors},
    prepare::{check_propagation, make_missing},
};

/// What only the container's surroundings say, and its plan does not.
#[derive(Debug, Clone, Copy)]
pub struct Surroundings<'a> {
    /// The bundle's directory, which is made.
    pub bundle: &'a Path,
    /// The runtime's program.
    pub program: &'a Path,
    /// The pod's network namespace, where it has one.
    pub netns: Option<&'a Path>,
    /// The pod's monitor, which lives in the pod's IPC and UTS namespaces.
    pub monitor: i32,
    /// The process whose pid namespace is joined: the pod's init, or a container's. The runtime is told a number; that
    /// it was this process's all the time, the monitor makes sure of when the runtime has done its work.
    pub shared_pid: Option<i32>,
}

impl Engine {
    /// As [`Engine::prepare`], for another runtime: makes the container's cgroup, without limits, which are the
    /// runtime's to set; writes the bundle; opens what the monitor needs.
    ///
    /// On failure the cgroup is removed again; the bundle is the caller's to remove.
    pub fn prepare_bundle(
        &self,
        plan: &LaunchPlan,
        rootfs: Rootfs,
        log: Option<OwnedFd>,
        around: &Surroundings<'_>,
    ) -> Result<Prepared> {
        check_tellable(plan)?;
        let cgroup = self.cgroups.make_unlimited(&plan.cgroup.path)?;
        let prepared = (|| {
            for mount in &plan.mounts {
                make_ready(&mount.what)?;
            }
            let (bundle, console) = write_bundle(plan, around)?;
            let failed = failed("find the mounts", around.bundle);
            let mounts = namespace::own(Namespaces::MOUNT).map_err(failed)?;
            let mut fds = Descriptors::default();
            let runtime = wire::Runtime {
                program: orders::bytes(around.program),
                bundle: orders::bytes(around.bundle),
                bundle_fd: fds.place(bundle.into()),
                mount_namespace_fd: fds.place(mounts),
                attach_shm: plan.mounts.iter().any(|mount| mount.what == MountWhat::PodShm),
                console_fd: console.map(|socket| fds.place(socket.into())),
            };
            let rootfs_fd = fds.place(rootfs.into_mount());
            let order = orders::frame(plan, rootfs_fd, cgroup, log, &mut fds);
            let launch = wire::Launch { runtime: Some(runtime), ..order };
            Ok(Prepared::new(launch, fds))
        })();
        prepared.inspect_err(|_| {
            if let Err(error) = self.cgroups.remove(&plan.cgroup.path) {
                tracing::warn!(container = %plan.container, %error, "a cgroup stays behind");
            }
        })
    }

    /// As [`Engine::exec_order`], for a container of another runtime: `name` is that of the exec in the bundle.
    pub fn exec_by_runtime(
        &self,
        plan: &LaunchPlan,
        bundle: &Path,
        name: &str,
        argv: Vec<Vec<u8>>,
    ) -> Result<ExecOrder> {
        if argv.first().is_none_or(Vec::is_empty) {
            return Err(Error::NoCommand);
        }
        let text = |word: Vec<u8>| {
            String::from_utf8(word).map_err(|wrong| Error::Untellable {
                field: "cmd",
                value: String::from_utf8_lossy(wrong.as_bytes()).chars().take(80).collect(),
                why: NO_BYTES,
            })
        };
        let args = argv.into_iter().map(text).collect::<Result<Vec<_>>>()?;
        let process = serde_json::to_vec(&oci::exec_process(&plan.process, args));
        let written =
            process.map_err(io::Error::from).and_then(|text| fs::write(bundle.join(format!("{name}.json")), text));
        written.map_err(failed("write a process", bundle))?;
        Ok(ExecOrder { process: None, seccomp: None, stdin: None, stdout: None, stderr: None })
    }
}

/// Removes what [`Engine::exec_by_runtime`] has written for an exec that has come to nothing. Safe to repeat.
pub fn drop_exec(bundle: &Path, name: &str) {
    // What cannot go now goes with the bundle.
    let _ = fs::remove_file(bundle.join(format!("{name}.json")));
}

/// Makes `dir` a mount that sends and receives nothing, so that what a runtime's child places below it stays in the
/// copy of the mount table where it was placed. Safe to repeat.
pub fn make_private(dir: &Path) -> Result<()> {
    let made = (|| {
        let real = dir.canonicalize()?;
        let table = mount_table::read()?;
        if mount_table::holding(&table, &real).is_none_or(|mount| mount.mount_point != real) {
            bind(&real, &real)?;
        }
        set_propagation(&real, PropagationType::Private, false)
    })();
    made.map_err(failed("make a private mount", dir))
}

/// Takes back what [`make_private`] has made of `dir`. Where that has made nothing, since somebody else's mount is
/// there, or none, all stays as it is.
pub fn unmake_private(dir: &Path) -> Result<()> {
    let unmade = (|| {
        let real = dir.canonicalize()?;
        let table = mount_table::read()?;
        let at_itself = |mount: &MountEntry| {
            let outer = real.parent().and_then(|parent| mount_table::holding(&table, parent))?;
            let place = outer.root.join(real.strip_prefix(&outer.mount_point).ok()?);
            Some(outer.device == mount.device && place == mount.root)
        };
        match mount_table::holding(&table, &real).filter(|mount| mount.mount_point == real) {
            Some(mount) if at_itself(mount) == Some(true) => umount_detach(&real),
            _ => Ok(()),
        }
    })();
    unmade.map_err(failed("take back the private mount", dir))
}

/// What the specification takes is text.
const NO_BYTES: &str = "the OCI runtime specification takes UTF-8 text only";

fn check_tellable(plan: &LaunchPlan) -> Result<()> {
    match plan.process.env.iter().find(|line| matches!(line, EnvLine::Bytes(_))) {
        None => Ok(()),
        Some(line) => Err(Error::Untellable {
            field: "envs[].value",
            value: String::from_utf8_lossy(line.name()).into_owned(),
            why: NO_BYTES,
        }),
    }
}

/// What the native way does to a mount's source while opening it.
fn make_ready(what: &MountWhat) -> Result<()> {
    let MountWhat::Bind { source, propagation, missing, .. } = what else { return Ok(()) };
    if *missing == Missing::MakeDirectory {
        make_missing(source)?;
    }
    match propagation {
        Propagation::Private => Ok(()),
        _ => check_propagation(source, *propagation),
    }
}

/// Writes the bundle. Answers its directory, opened, and the socket for a terminal.
fn write_bundle(plan: &LaunchPlan, around: &Surroundings<'_>) -> Result<(File, Option<UnixListener>)> {
    let bundle = around.bundle;
    let make = |dir: PathBuf| DirBuilder::new().recursive(true).mode(0o700).create(dir).map_err(failed("make", bundle));
    for below in ["rootfs", "shm", "state"] {
        make(bundle.join(below))?;
    }
    // Without a path the runtime would make a new namespace, and nobody would notice.
    match &plan.namespaces.pid {
        PidNamespace::Target(target) if around.shared_pid.is_none() => {
            return Err(Error::Invalid {
                field: "namespace_options.target_id",
                value: target.to_string(),
                want: "the id of a running container of the same pod",
            });
        }
        PidNamespace::Pod if around.shared_pid.is_none() => {
            return Err(failed("find the pod's init for", bundle)(io::ErrorKind::NotFound.into()));
        }
        _ => {}
    }
    let spec = plan.spec(&places(plan, around)).and_then(|spec| serde_json::to_vec(&spec));
    let written = spec.map_err(io::Error::from).and_then(|text| fs::write(bundle.join("config.json"), text));
    written.map_err(failed("write config.json", bundle))?;
    let opened = File::open(bundle).map_err(failed("open", bundle))?;
    let console = match plan.stdio.tty {
        // By the descriptor: a socket's name may be shorter than paths are.
        true => {
            let path = format!("/proc/self/fd/{}/console", opened.as_raw_fd());
            Some(UnixListener::bind(path).map_err(failed("listen on the console", bundle))?)
        }
        false => None,
    };
    Ok((opened, console))
}

fn places(plan: &LaunchPlan, around: &Surroundings<'_>) -> Places {
    let of = |pid: i32, kind: &str| Some(PathBuf::from(format!("/proc/{pid}/ns/{kind}")));
    Places {
        network: around.netns.map(Path::to_owned),
        ipc: of(around.monitor, "ipc"),
        uts: of(around.monitor, "uts"),
        pid: match plan.namespaces.pid {
            PidNamespace::Container | PidNamespace::Host => None,
            PidNamespace::Pod | PidNamespace::Target(_) => around.shared_pid.and_then(|pid| of(pid, "pid")),
        },
        shm: Some(around.bundle.join("shm")),
    }
}

fn failed(act: &'static str, bundle: &Path) -> impl FnOnce(io::Error) -> Error {
    let path = bundle.to_owned();
    move |source| Error::Bundle { act, path, source }
}
