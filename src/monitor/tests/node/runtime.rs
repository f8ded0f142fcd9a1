//! Containers of another runtime, in whose place a script stands: what comes of its commands, however they end.

use std::{
    fs::{self, File},
    io::Write,
    os::{
        fd::OwnedFd,
        unix::{
            ffi::OsStrExt,
            fs::PermissionsExt,
            process::{CommandExt, ExitStatusExt},
        },
    },
    path::{Path, PathBuf},
    process::{Child, Command},
    time::Duration,
};

use kernel::{
    mount,
    namespace::{self, Namespaces},
};
use link::{ExecOrder, News, NowState, Whole, wire};
use model::{ContainerId, Exit, Signal};
use nix::{libc, sys::stat::Mode};
use testkit::eventually;

use crate::node::{Node, PATIENCE, Pod, container_id, kill_dir, open_dir};

/// Makes a process in the container's cgroup and tells its number, as a runtime's `create` does. The file `kept` holds
/// the number for later.
const MAKE: &str = "sh -c 'echo $$ > $CGROUP/cgroup.procs; exec sleep 1000' & echo $! > \"$5\"; echo $! > kept";

/// One container's bundle, and the script that is its runtime.
struct Bundle {
    dir: PathBuf,
    id: ContainerId,
}

impl Bundle {
    /// `verbs`: what the script does when it is told to. It works in the bundle; `$5` is where `create` tells a number,
    /// `$6` where `exec` does. Of other verbs it does nothing, and well.
    fn new(node: &Node, verbs: &[(&str, &str)]) -> Bundle {
        let id = container_id();
        let dir = node.dir.join(format!("bundle-{}", id.as_str()));
        fs::create_dir_all(dir.join("rootfs")).unwrap();
        // What the script's own copy of the mounts has below it is nobody else's.
        engine::make_private(&dir).unwrap();
        nix::unistd::mkfifo(&dir.join("go"), Mode::S_IRWXU).unwrap();
        let cases: String = verbs.iter().map(|(verb, act)| format!("{verb}) {act} ;;\n")).collect();
        let script =
            format!("#!/bin/sh\nCGROUP={}\nexport CGROUP\nshift 6\ncase $1 in\n{cases}esac\n", kill_dir(&id).display());
        fs::write(dir.join("runtime"), script).unwrap();
        fs::set_permissions(dir.join("runtime"), fs::Permissions::from_mode(0o755)).unwrap();
        Bundle { dir, id }
    }

    /// Makes an order one for the script.
    fn change(&self, launch: &mut wire::Launch, fds: &mut Vec<OwnedFd>) {
        let mut place = |fd| {
            fds.push(fd);
            fds.len() as u32 - 1
        };
        launch.runtime = Some(wire::Runtime {
            program: self.dir.join("runtime").as_os_str().as_bytes().to_vec(),
            mount_namespace_fd: place(namespace::own(Namespaces::MOUNT).unwrap()),
            bundle: self.dir.as_os_str().as_bytes().to_vec(),
            bundle_fd: place(open_dir(&self.dir)),
            attach_shm: false,
            console_fd: None,
        });
        (launch.steps, launch.process) = (Vec::new(), None);
    }

    /// Begins to make the container.
    fn make(
        &self,
        pod: &mut Pod,
        special: impl FnOnce(&mut wire::Launch),
    ) -> tokio::task::JoinHandle<Result<i32, link::Error>> {
        let (launch, fds) = pod.order(&self.id, &[], |launch, fds| {
            self.change(launch, fds);
            special(launch);
        });
        let monitor = pod.monitor.clone();
        tokio::spawn(async move { monitor.create(launch, fds).await })
    }

    /// Waits until the script has come to `read word < go`. It goes on when what is answered is written to, or dropped.
    async fn reached(&self) -> File {
        let go = self.dir.join("go");
        let opened = tokio::task::spawn_blocking(move || File::options().write(true).open(go).unwrap());
        tokio::time::timeout(PATIENCE, opened).await.expect("the runtime comes that far").unwrap()
    }

    /// The process whose number the script writes, or one that it starts.
    fn made(&self, file: &str) -> testkit::Process {
        eventually(PATIENCE, "it is there", || {
            let number = fs::read_to_string(self.dir.join(file)).unwrap_or_default();
            number.trim().parse().ok().and_then(testkit::Process::of).ok_or(number)
        })
    }

    /// A number that the script has written.
    fn number(&self, file: &str) -> i32 {
        fs::read_to_string(self.dir.join(file)).unwrap().trim().parse().unwrap()
    }
}

impl Drop for Bundle {
    fn drop(&mut self) {
        let _ = mount::umount_detach(&self.dir);
    }
}

/// Waits until the monitor has heard all that it has been asked so far.
async fn heard(pod: &Pod) {
    assert!(pod.monitor.kill(&container_id(), Signal::KILL, Whole::Every).await.is_err_and(|error| !error.is_lost()));
}

/// The order for an exec that the bundle describes.
fn nothing_to_tell() -> ExecOrder {
    ExecOrder { process: None, seccomp: None, stdin: None, stdout: None, stderr: None }
}

/// The children of a process, ended ones too.
fn children(pid: i32) -> String {
    fs::read_to_string(format!("/proc/{pid}/task/{pid}/children")).unwrap()
}

/// A process with a number that was another's.
fn successor(pid: i32) -> Child {
    eventually(PATIENCE, "a process has the number", || {
        fs::write("/proc/sys/kernel/ns_last_pid", (pid - 1).to_string()).unwrap();
        let mut child = Command::new("sleep").arg("1000").process_group(0).spawn().unwrap();
        if child.id() == pid as u32 {
            return Ok(child);
        }
        child.kill().unwrap();
        child.wait().unwrap();
        Err(child.id())
    })
}

/// Ends a process, and sees that nobody has killed it before.
fn end_unharmed(mut process: Child) {
    nix::sys::signal::kill(nix::unistd::Pid::from_raw(process.id() as i32), nix::sys::signal::Signal::SIGTERM).unwrap();
    assert_eq!(process.wait().unwrap().signal(), Some(libc::SIGTERM));
}

#[tokio::test]
#[ignore = "needs root: namespaces, mounts and cgroups"]
async fn whoever_forgets_a_container_that_its_runtime_is_deleting_is_answered_and_kills_nobody() {
    let node = Node::start().await;
    let mut pod = node.pod().await;
    let bundle = Bundle::new(&node, &[("create", "echo $$ > was; exit 3"), ("delete", "read word < go")]);
    let making = bundle.make(&mut pod, |_| ());
    let go = bundle.reached().await;
    // The command that was to make it has been reaped, and its number is somebody else's.
    let successor = successor(bundle.number("was"));
    let ((), forgotten) = tokio::join!(biased;
        async {
            heard(&pod).await;
            heard(&pod).await;
            drop(go);
        },
        pod.monitor.forget(&bundle.id),
    );
    forgotten.unwrap();
    let refused = making.await.unwrap().unwrap_err().to_string();
    assert!(refused.contains("exit code 3"), "{refused}");
    end_unharmed(successor);
    assert!(pod.reconnect().await.containers.is_empty());
    pod.end().await;
    drop(bundle);
    node.end().await;
}

#[tokio::test]
#[ignore = "needs root: namespaces, mounts and cgroups"]
async fn a_container_that_is_forgotten_while_its_runtime_makes_it_leaves_nothing() {
    let node = Node::start().await;
    let mut pod = node.pod().await;
    let bundle = Bundle::new(&node, &[("create", &format!("{MAKE}; read word < go"))]);
    let making = bundle.make(&mut pod, |_| ());
    let _go = bundle.reached().await;
    let made = testkit::Process::of(bundle.number("kept")).expect("it was made");
    let (one, other) = tokio::join!(pod.monitor.forget(&bundle.id), pod.monitor.forget(&bundle.id));
    one.unwrap();
    other.unwrap();
    assert!(making.await.unwrap().is_err_and(|error| !error.is_lost()));
    eventually(PATIENCE, "it goes", || if made.alive() { Err("it lives") } else { Ok(()) });
    assert!(pod.reconnect().await.containers.is_empty());
    pod.end().await;
    drop(bundle);
    node.end().await;
}

/// Less than any command is given that sets something up.
const SOON: Duration = Duration::from_secs(20);

#[tokio::test]
#[ignore = "needs root: namespaces, mounts and cgroups"]
async fn a_start_that_hangs_ends_soon_after_its_container_is_killed() {
    let node = Node::start().await;
    let mut pod = node.pod().await;
    let bundle = Bundle::new(&node, &[("create", MAKE), ("start", "echo $$ > hangs; read word < go")]);
    bundle.make(&mut pod, |_| ()).await.unwrap().unwrap();
    let (monitor, id) = (pod.monitor.clone(), bundle.id.clone());
    let starting = tokio::spawn(async move { monitor.start(&id).await });
    let _go = bundle.reached().await;
    let hangs = bundle.made("hangs");
    let ended = async {
        pod.monitor.kill(&bundle.id, Signal::KILL, Whole::Every).await.unwrap();
        let why = starting.await.unwrap().unwrap_err().to_string();
        assert!(why.contains("runtime start: no end in time"), "{why}");
        let how = pod.exited(&bundle.id).await.how;
        assert!(matches!(how, Exit::StartFailed { .. }), "{how:?}");
    };
    tokio::time::timeout(SOON, ended).await.expect("it ends soon");
    assert!(!hangs.alive());
    pod.end().await;
    drop(bundle);
    node.end().await;
}

#[tokio::test]
#[ignore = "needs root: namespaces, mounts and cgroups"]
async fn an_exec_that_hangs_holds_no_end_of_its_pod() {
    let node = Node::start().await;
    let mut pod = node.pod().await;
    let bundle = Bundle::new(&node, &[("create", MAKE), ("exec", "echo $$ > hangs; read word < go")]);
    bundle.make(&mut pod, |_| ()).await.unwrap().unwrap();
    pod.monitor.start(&bundle.id).await.unwrap();
    let (monitor, id, exec) = (pod.monitor.clone(), bundle.id.clone(), pod.monitor.next_exec());
    let starting = tokio::spawn(async move { monitor.exec(&id, exec, nothing_to_tell()).await.map(drop) });
    let _go = bundle.reached().await;
    let hangs = bundle.made("hangs");
    // By itself, so that nobody has killed the container when the pod ends.
    bundle.made("kept").kill();
    pod.exited(&bundle.id).await;
    tokio::time::timeout(SOON, pod.end()).await.expect("it ends soon");
    assert!(starting.await.unwrap().is_err());
    assert!(!hangs.alive());
    drop(bundle);
    node.end().await;
}

#[tokio::test]
#[ignore = "needs root: namespaces, mounts and cgroups"]
async fn a_number_that_a_runtime_wrote_down_is_nothing_until_it_is_a_child_of_ours() {
    let node = Node::start().await;
    let mut pod = node.pod().await;
    let bundle = Bundle::new(&node, &[("create", MAKE), ("exec", ". ./exec")]);
    bundle.make(&mut pod, |_| ()).await.unwrap().unwrap();
    pod.monitor.start(&bundle.id).await.unwrap();
    for (whose, code) in
        [("a stranger's", 1), ("a stranger's", 0), ("the container's own", 1), ("the container's own", 0)]
    {
        let stranger = Command::new("sleep").arg("1000").spawn().unwrap();
        let number = if whose == "a stranger's" { stranger.id() as i32 } else { bundle.number("kept") };
        fs::write(bundle.dir.join("exec"), format!("echo {number} > \"$6\"; exit {code}\n")).unwrap();
        let refused = pod.start_exec(&bundle.id, &["any"]).await;
        assert!(refused.is_err_and(|error| !error.is_lost()), "{whose}, {code}");
        end_unharmed(stranger);
        let now = pod.reconnect().await.containers;
        assert!(matches!(now[0].state, NowState::Running { .. }), "{whose}, {code}: {now:?}");
    }
    // What is left when a command fails after its work was done is the command's, and goes.
    fs::write(bundle.dir.join("exec"), "sleep 1000 & echo $! > \"$6\"; echo $! > left; exit 1\n").unwrap();
    assert!(pod.start_exec(&bundle.id, &["any"]).await.is_err_and(|error| !error.is_lost()));
    let left = bundle.number("left");
    eventually(PATIENCE, "it goes", || if Path::new(&format!("/proc/{left}")).exists() { Err(left) } else { Ok(()) });
    pod.monitor.kill(&bundle.id, Signal::KILL, Whole::Every).await.unwrap();
    assert_eq!(pod.exited(&bundle.id).await.how, Exit::Signal(Signal::KILL));
    pod.end().await;
    drop(bundle);
    node.end().await;
}

#[tokio::test]
#[ignore = "needs root: namespaces, mounts and cgroups"]
async fn an_order_that_is_refused_has_started_no_runtime() {
    let node = Node::start().await;
    let mut pod = node.pod().await;
    for bad in [
        |launch: &mut wire::Launch| launch.log_fd = Some(99),
        |launch: &mut wire::Launch| launch.log_fd = Some(launch.kill_dir_fd),
        |launch: &mut wire::Launch| launch.rootfs_fd = 99,
    ] {
        let bundle = Bundle::new(&node, &[("create", "exec sleep 1000")]);
        assert!(bundle.make(&mut pod, bad).await.unwrap().is_err_and(|error| !error.is_lost()));
        assert_eq!(children(pod.pid), "");
    }
    pod.end().await;
    node.end().await;
}

#[tokio::test]
#[ignore = "needs root: namespaces, mounts and cgroups"]
async fn a_runtime_that_was_told_to_join_a_process_which_has_ended_has_made_nothing() {
    let node = Node::start().await;
    let mut pod = node.pod().await;
    let target = pod.run(&["probe", "sleep", "forever"]).await;
    let joins = |launch: &mut wire::Launch| {
        launch.set_pid(wire::launch::Pid::Target);
        launch.pid_target = target.to_string();
    };
    let bundle = Bundle::new(&node, &[("create", &format!("read word < go; {MAKE}"))]);
    let making = bundle.make(&mut pod, joins);
    let go = bundle.reached().await;
    pod.monitor.kill(&target, Signal::KILL, Whole::Every).await.unwrap();
    pod.exited(&target).await;
    // From here on the number that the runtime has been told may be anybody's.
    writeln!(&go).unwrap();
    let refused = making.await.unwrap().unwrap_err().to_string();
    assert!(refused.contains("has ended meanwhile"), "{refused}");
    let made = bundle.number("kept");
    eventually(PATIENCE, "it goes", || if Path::new(&format!("/proc/{made}")).exists() { Err(made) } else { Ok(()) });

    let late = Bundle::new(&node, &[("create", "exec sleep 1000")]);
    let refused = late.make(&mut pod, joins).await.unwrap().unwrap_err().to_string();
    assert!(refused.contains("the target container does not run"), "{refused}");
    assert_eq!(children(pod.pid), "");
    pod.end().await;
    drop((bundle, late));
    node.end().await;
}

#[tokio::test]
#[ignore = "needs root: namespaces, mounts and cgroups"]
async fn a_process_that_its_runtime_has_put_elsewhere_is_killed_too() {
    let node = Node::start().await;
    let mut pod = node.pod().await;
    let bundle = Bundle::new(&node, &[("create", "sleep 1000 & echo $! > \"$5\"")]);
    bundle.make(&mut pod, |_| ()).await.unwrap().unwrap();
    pod.monitor.start(&bundle.id).await.unwrap();
    assert_eq!(fs::read_to_string(kill_dir(&bundle.id).join("cgroup.procs")).unwrap(), "", "it is not in the cgroup");
    pod.monitor.kill(&bundle.id, Signal::KILL, Whole::Every).await.unwrap();
    assert_eq!(pod.exited(&bundle.id).await.how, Exit::Signal(Signal::KILL));
    pod.end().await;
    drop(bundle);
    node.end().await;
}

#[tokio::test]
#[ignore = "needs root: namespaces, mounts and cgroups"]
async fn why_a_runtime_has_not_deleted_a_container_is_told() {
    let node = Node::start().await;
    let mut pod = node.pod().await;
    let bundle = Bundle::new(&node, &[("create", MAKE), ("delete", "exit 7")]);
    bundle.make(&mut pod, |_| ()).await.unwrap().unwrap();
    pod.monitor.forget(&bundle.id).await.unwrap();
    match pod.next().await {
        News::Trouble { container: Some(container), text } => {
            assert!(container == bundle.id && text.contains("delete: exit code 7"), "{container:?}: {text}");
        }
        other => panic!("{other:?}"),
    }
    pod.end().await;
    drop(bundle);
    node.end().await;
}

#[tokio::test]
#[ignore = "needs root: namespaces, mounts and cgroups"]
async fn an_exec_that_is_refused_leaves_the_bundle_as_it_was() {
    let node = Node::start().await;
    let mut pod = node.pod().await;
    let bundle = Bundle::new(&node, &[("create", MAKE), ("exec", "echo began > began")]);
    bundle.make(&mut pod, |_| ()).await.unwrap().unwrap();
    let names = || {
        let names = fs::read_dir(&bundle.dir).unwrap().map(|entry| entry.unwrap().file_name());
        names.collect::<std::collections::BTreeSet<_>>()
    };
    // A command's files go after its answer.
    heard(&pod).await;
    let before = names();
    for why in ["the container does not run", "the exec's cgroup is there"] {
        let exec = pod.monitor.next_exec();
        if why == "the exec's cgroup is there" {
            pod.monitor.start(&bundle.id).await.unwrap();
            fs::create_dir(kill_dir(&bundle.id).join(exec.name())).unwrap();
        }
        fs::write(bundle.dir.join(format!("{}.json", exec.name())), "{}").unwrap();
        let refused = pod.monitor.exec(&bundle.id, exec, nothing_to_tell()).await;
        assert!(refused.is_err_and(|error| !error.is_lost()), "{why}");
        heard(&pod).await;
        assert_eq!(names(), before, "{why}");
    }
    pod.end().await;
    drop(bundle);
    node.end().await;
}

#[tokio::test]
#[ignore = "needs root: namespaces, mounts and cgroups"]
async fn an_exec_that_is_killed_while_its_runtime_is_at_work_leaves_nothing() {
    let node = Node::start().await;
    let mut pod = node.pod().await;
    let act = "setsid sh -c 'echo $$ > $CGROUP/cgroup.procs; echo $$ > stray; \
               sleep 1000 & echo $! > child; exec sleep 1000' & read word < go";
    let elder = "setsid sh -c 'echo $$ > $CGROUP/cgroup.procs; echo $$ > elder; exec sleep 1000' &";
    let bundle = Bundle::new(&node, &[("create", &format!("{elder} {MAKE}")), ("exec", act)]);
    bundle.make(&mut pod, |_| ()).await.unwrap().unwrap();
    pod.monitor.start(&bundle.id).await.unwrap();
    // An orphan that the container has had before: it is told from a stray by its age, in clock ticks.
    let elder = bundle.made("elder");
    eventually(PATIENCE, "a tick passes", || {
        let mut young = Command::new("true").spawn().unwrap();
        let started = testkit::Process::of(young.id() as i32).unwrap().started;
        young.wait().unwrap();
        if started > elder.started { Ok(()) } else { Err(started) }
    });
    let exec = pod.monitor.next_exec();
    let (monitor, id) = (pod.monitor.clone(), bundle.id.clone());
    let starting = tokio::spawn(async move { monitor.exec(&id, exec, nothing_to_tell()).await.map(drop) });
    let _go = bundle.reached().await;
    let (stray, child) = (bundle.made("stray"), bundle.made("child"));
    pod.monitor.kill_exec(exec).await.unwrap();
    assert!(starting.await.unwrap().is_err_and(|error| !error.is_lost()));
    assert!(!stray.alive(), "it is gone when the exec has been answered");
    eventually(PATIENCE, "what it has started goes", || if child.alive() { Err("it lives") } else { Ok(()) });
    assert!(elder.alive(), "whoever was there before stays");
    let now = pod.reconnect().await.containers;
    assert!(matches!(now[0].state, NowState::Running { .. }), "{now:?}");
    pod.end().await;
    elder.kill();
    drop(bundle);
    node.end().await;
}

#[tokio::test]
#[ignore = "needs root: namespaces, mounts and cgroups"]
async fn what_an_exec_has_started_is_moved_with_it_when_it_is_the_containers() {
    let node = Node::start().await;
    let mut pod = node.pod().await;
    let act = "sh -c 'sleep 1000 & echo $! > stranger; echo $$ > $CGROUP/cgroup.procs; \
               sleep 1000 & echo $! > own; exec sleep 1000' & echo $! > \"$6\"; until [ -s own ]; do :; done";
    let bundle = Bundle::new(&node, &[("create", MAKE), ("exec", act)]);
    bundle.make(&mut pod, |_| ()).await.unwrap().unwrap();
    pod.monitor.start(&bundle.id).await.unwrap();
    let exec = pod.monitor.next_exec();
    let mut running = pod.monitor.exec(&bundle.id, exec, nothing_to_tell()).await.unwrap();
    let (own, stranger) = (bundle.made("own"), bundle.made("stranger"));
    let inside = fs::read_to_string(kill_dir(&bundle.id).join(exec.name()).join("cgroup.procs")).unwrap();
    let inside: Vec<i32> = inside.lines().map(|line| line.parse().unwrap()).collect();
    assert!(inside.contains(&running.pid) && inside.contains(&own.pid), "{inside:?}");
    assert!(!inside.contains(&stranger.pid), "{inside:?}");
    pod.monitor.kill_exec(exec).await.unwrap();
    assert_eq!(running.exited().await.unwrap(), Exit::Signal(Signal::KILL));
    eventually(PATIENCE, "it goes", || if own.alive() { Err("it lives") } else { Ok(()) });
    assert!(stranger.alive());
    stranger.kill();
    pod.end().await;
    drop(bundle);
    node.end().await;
}

#[tokio::test]
#[ignore = "needs root: namespaces, mounts and cgroups"]
async fn an_exec_that_did_not_come_into_its_cgroup_is_told_and_can_be_killed() {
    let node = Node::start().await;
    let mut pod = node.pod().await;
    let bundle =
        Bundle::new(&node, &[("create", MAKE), ("exec", "rmdir $CGROUP/exec-*; sleep 1000 & echo $! > \"$6\"")]);
    bundle.make(&mut pod, |_| ()).await.unwrap().unwrap();
    pod.monitor.start(&bundle.id).await.unwrap();
    let exec = pod.monitor.next_exec();
    let mut running = pod.monitor.exec(&bundle.id, exec, nothing_to_tell()).await.unwrap();
    match pod.next().await {
        News::Trouble { container: Some(container), text } => {
            assert!(container == bundle.id && text.contains("its own cgroup"), "{container:?}: {text}");
        }
        other => panic!("{other:?}"),
    }
    // Whatever is answered of the cgroup, which is gone.
    let _ = pod.monitor.kill_exec(exec).await;
    assert_eq!(tokio::time::timeout(PATIENCE, running.exited()).await.unwrap().unwrap(), Exit::Signal(Signal::KILL));
    pod.end().await;
    drop(bundle);
    node.end().await;
}
