//! A launcher on throwaway directories, and pods of it, driven as the daemon drives them: through `link`.

use std::{
    collections::BTreeMap,
    env, fs,
    fs::File,
    os::{
        fd::{AsFd, OwnedFd},
        unix::fs::PermissionsExt,
    },
    path::{Path, PathBuf},
    sync::atomic::{AtomicU32, Ordering},
    time::Duration,
};

use kernel::{memfd, mount, process::Pid};
use link::{Exec, ExecOrder, Greeting, Launcher, Monitor, News, PodReady, PodSetUp, wire};
use model::{ContainerId, ExitRecord, PodId};
use tokio::sync::mpsc::UnboundedReceiver;
use wire::step::Act;

/// Longer than anything here takes on a busy machine.
pub(crate) const PATIENCE: Duration = Duration::from_secs(30);

/// What the tests call the program.
pub(crate) const PROGRAM: &str = "the first";

/// The v1 hierarchies that the tests use; v2 when there is none.
const HIERARCHIES: [&str; 3] = ["freezer", "memory", "pids"];

static COUNT: AtomicU32 = AtomicU32::new(0);

/// Bytes for an id that no other test of this run has.
fn unique() -> [u8; 32] {
    let mut bytes = [0; 32];
    bytes[..4].copy_from_slice(&std::process::id().to_le_bytes());
    bytes[4..8].copy_from_slice(&COUNT.fetch_add(1, Ordering::Relaxed).to_le_bytes());
    bytes
}

pub(crate) fn container_id() -> ContainerId {
    ContainerId::from_random(unique())
}

/// The program called `name`, as `deploy/build` made it.
pub(crate) fn built(name: &str) -> PathBuf {
    let dir = env::var_os("CORACLE_BIN_DIR").expect("CORACLE_BIN_DIR: run `export CORACLE_BIN_DIR=$(deploy/build)`");
    PathBuf::from(dir).join(name)
}

pub(crate) fn open_dir(path: &Path) -> OwnedFd {
    File::open(path).unwrap().into()
}

/// A launcher and its state directory. Retire it with [`Node::end`].
pub(crate) struct Node {
    pub(crate) dir: PathBuf,
    pub(crate) state: OwnedFd,
    pub(crate) launcher: Launcher,
    /// What it runs, sealed.
    pub(crate) program: OwnedFd,
}

impl Node {
    pub(crate) async fn start() -> Node {
        assert!(nix::unistd::geteuid().is_root(), "needs root");
        let number = COUNT.fetch_add(1, Ordering::Relaxed);
        let dir = env::temp_dir().join(format!("crt-monitor-{}-{number}", std::process::id()));
        fs::create_dir_all(&dir).unwrap();
        let state = open_dir(&dir);
        let mut file = File::open(built("coracle-monitor")).unwrap();
        let program = memfd::sealed_program(c"coracle-monitor", &mut file).unwrap();
        let launcher = Launcher::start(&program, PROGRAM, state.as_fd()).await.unwrap();
        Node { dir, state, launcher, program }
    }

    /// A pod that is set up, in the host's network.
    pub(crate) async fn pod(&self) -> Pod {
        self.pod_with(|_| ()).await
    }

    pub(crate) async fn pod_with(&self, change: impl FnOnce(&mut PodSetUp)) -> Pod {
        self.pod_behind(|_| (), change).await
    }

    /// One whose monitor stands behind what `between` puts before its socket.
    pub(crate) async fn pod_behind(&self, between: impl FnOnce(&OwnedFd), change: impl FnOnce(&mut PodSetUp)) -> Pod {
        let id = PodId::from_random(unique());
        let dir = self.dir.join(id.short());
        fs::create_dir_all(dir.join("root/bin")).unwrap();
        fs::copy(built("coracle-probe"), dir.join("root/bin/probe")).unwrap();
        fs::set_permissions(dir.join("root/bin/probe"), fs::Permissions::from_mode(0o755)).unwrap();
        let pod_dir = open_dir(&dir);
        let pid = self.launcher.spawn_monitor(&id, pod_dir.as_fd()).await.unwrap();
        between(&pod_dir);
        let (monitor, greeting, news) = Monitor::connect(pod_dir.as_fd()).await.unwrap();
        assert!(!greeting.set_up);
        let mut order = PodSetUp {
            hostname: "crt-pod".into(),
            host_uts: false,
            host_ipc: false,
            shared_pid: false,
            netns: None,
            sysctls: BTreeMap::new(),
            shm_bytes: 1 << 20,
            records: open_dir(&dir),
            init_cgroup_tasks: Vec::new(),
            init_cgroup_dir: None,
            init_seccomp: None,
        };
        change(&mut order);
        let ready = monitor.set_up_pod(order).await.unwrap();
        Pod { dir, pod_dir, pid, ready, monitor, news, cgroups: Vec::new() }
    }

    /// A monitor that nobody greets: its process.
    pub(crate) async fn unheard(&self) -> i32 {
        let id = PodId::from_random(unique());
        let dir = self.dir.join(id.short());
        fs::create_dir(&dir).unwrap();
        self.launcher.spawn_monitor(&id, open_dir(&dir).as_fd()).await.unwrap()
    }

    /// Retires the launcher, waits for its end, and leaves nothing.
    pub(crate) async fn end(self) {
        self.launcher.retire().await.unwrap();
        tokio::time::timeout(PATIENCE, self.launcher.closed()).await.expect("the launcher goes when it is alone");
        fs::remove_dir_all(&self.dir).unwrap();
    }
}

/// A pod with its monitor.
pub(crate) struct Pod {
    pub(crate) dir: PathBuf,
    pub(crate) pod_dir: OwnedFd,
    pub(crate) pid: i32,
    pub(crate) ready: PodReady,
    pub(crate) monitor: Monitor,
    pub(crate) news: UnboundedReceiver<News>,
    cgroups: Vec<PathBuf>,
}

impl Pod {
    /// What a new daemon does: connects again, and is told everything.
    pub(crate) async fn reconnect(&mut self) -> Greeting {
        let (monitor, greeting, news) = Monitor::connect(self.pod_dir.as_fd()).await.unwrap();
        (self.monitor, self.news) = (monitor, news);
        greeting
    }

    /// Orders a container that runs `argv`; `change` may say more.
    pub(crate) async fn create_with(
        &mut self,
        argv: &[&str],
        change: impl FnOnce(&mut wire::Launch, &mut Vec<OwnedFd>),
    ) -> Result<ContainerId, link::Error> {
        let id = container_id();
        let (launch, fds) = self.order(&id, argv, change);
        self.monitor.create(launch, fds).await.map(|_| id)
    }

    pub(crate) async fn create(&mut self, argv: &[&str]) -> ContainerId {
        self.create_with(argv, |_, _| ()).await.unwrap()
    }

    pub(crate) async fn run(&mut self, argv: &[&str]) -> ContainerId {
        let id = self.create(argv).await;
        self.monitor.start(&id).await.unwrap();
        id
    }

    /// An order as `engine` would write it, with little in it.
    pub(crate) fn order(
        &mut self,
        id: &ContainerId,
        argv: &[&str],
        change: impl FnOnce(&mut wire::Launch, &mut Vec<OwnedFd>),
    ) -> (wire::Launch, Vec<OwnedFd>) {
        let mut fds: Vec<OwnedFd> = Vec::new();
        let mut place = |fd: OwnedFd| {
            fds.push(fd);
            fds.len() as u32 - 1
        };
        let root = mount::open_tree_clone(open_dir(&self.dir).as_fd(), Path::new("root"), false).unwrap();
        let log = File::options().append(true).create(true).open(self.log_path(id)).unwrap();
        let mut launch = wire::Launch {
            container_id: id.to_string(),
            rootfs_fd: place(root),
            log_fd: Some(place(log.into())),
            log_line_bytes: 16384,
            process: Some(process(argv)),
            steps: vec![
                filesystem("/proc", "proc", &[]),
                filesystem("/dev", "tmpfs", &["mode=0755", "size=64k"]),
                filesystem("/dev/pts", "devpts", &["mode=0620", "ptmxmode=0666", "newinstance"]),
                step(Act::AttachShm(wire::AttachShm { target: b"/dev/shm".to_vec() })),
                step(Act::Node(wire::Node {
                    path: b"/dev/null".to_vec(),
                    mode: nix::libc::S_IFCHR | 0o666,
                    major: 1,
                    minor: 3,
                    ..Default::default()
                })),
                step(Act::Mask(b"/proc/kcore".to_vec())),
                step(Act::Mask(b"/proc/acpi".to_vec())),
                step(Act::Mask(b"/proc/nothing-here".to_vec())),
                step(Act::MakeReadonly(b"/proc/sys".to_vec())),
            ],
            ..Default::default()
        };
        if Path::new("/sys/fs/cgroup/freezer").exists() {
            for hierarchy in HIERARCHIES {
                let dir = Path::new("/sys/fs/cgroup").join(hierarchy).join(format!("crt-monitor-{}", id.as_str()));
                fs::create_dir(&dir).unwrap();
                let tasks = File::options().write(true).open(dir.join("tasks")).unwrap();
                launch.cgroup_tasks_fd.push(place(tasks.into()));
                match hierarchy {
                    "freezer" => launch.kill_dir_fd = place(open_dir(&dir)),
                    "memory" => launch.oom_fd = Some(place(open_dir(&dir.join("memory.oom_control")))),
                    _ => {}
                }
                self.cgroups.push(dir);
            }
        } else {
            let dir = Path::new("/sys/fs/cgroup").join(format!("crt-monitor-{}", id.as_str()));
            fs::create_dir(&dir).unwrap();
            launch.cgroup_dir_fd = Some(place(open_dir(&dir)));
            launch.kill_dir_fd = place(open_dir(&dir));
            launch.kill_dir_is_v2 = true;
            self.cgroups.push(dir);
        }
        change(&mut launch, &mut fds);
        (launch, fds)
    }

    pub(crate) fn log_path(&self, id: &ContainerId) -> PathBuf {
        self.dir.join(format!("log-{}", id.as_str()))
    }

    /// The entries of a container's log as (stream, tag, content).
    pub(crate) fn log(&self, id: &ContainerId) -> Vec<(String, String, String)> {
        entries(&self.log_path(id))
    }

    /// What a container wrote, streams and pieces joined.
    pub(crate) fn text(&self, id: &ContainerId) -> String {
        let entries = self.log(id).into_iter();
        entries.map(|(_, tag, content)| if tag == "F" { content + "\n" } else { content }).collect()
    }

    /// Waits for the next news.
    pub(crate) async fn next(&mut self) -> News {
        let news = tokio::time::timeout(PATIENCE, self.news.recv()).await.expect("news in time");
        news.expect("the connection's end is news too")
    }

    /// Waits for the end of a container.
    pub(crate) async fn exited(&mut self, id: &ContainerId) -> ExitRecord {
        match self.next().await {
            News::Exited { container, record } if container == *id => record,
            other => panic!("wanted the end of {id:?}, got {other:?}"),
        }
    }

    /// Runs a process in a container to its end; its exit and output.
    pub(crate) async fn exec(&self, id: &ContainerId, argv: &[&str]) -> (model::Exit, String) {
        let (read, mut exec) = self.start_exec(id, argv).await.unwrap();
        let how = tokio::time::timeout(PATIENCE, exec.exited()).await.unwrap().unwrap();
        let text = tokio::task::spawn_blocking(move || std::io::read_to_string(read).unwrap()).await.unwrap();
        (how, text)
    }

    pub(crate) async fn start_exec(&self, id: &ContainerId, argv: &[&str]) -> Result<(File, Exec), link::Error> {
        let (read, write) = nix::unistd::pipe2(nix::fcntl::OFlag::O_CLOEXEC).unwrap();
        let order = ExecOrder {
            process: Some(process(argv)),
            seccomp: None,
            stdin: None,
            stdout: Some(write.try_clone().unwrap()),
            stderr: Some(write),
        };
        let exec = self.monitor.exec(id, self.monitor.next_exec(), order).await?;
        Ok((File::from(read), exec))
    }

    /// Forgets every container, ends the pod, and sees that nothing of it is left.
    pub(crate) async fn end(mut self) {
        let greeting = self.reconnect().await;
        for now in greeting.containers {
            if matches!(now.state, link::NowState::Running { .. }) {
                self.monitor.kill(&now.id, model::Signal::KILL, link::Whole::Every).await.unwrap();
                while !matches!(self.next().await, News::Exited { container, .. } if container == now.id) {}
            }
            self.monitor.forget(&now.id).await.unwrap();
        }
        let handle = kernel::process::pidfd_open(Pid(self.pid)).unwrap();
        self.monitor.end_pod().await.unwrap();
        while self.next().await != News::Lost {}
        let gone = tokio::task::spawn_blocking(move || {
            let mut asked = [nix::poll::PollFd::new(handle.as_fd(), nix::poll::PollFlags::POLLIN)];
            nix::poll::poll(&mut asked, 30_000u16).unwrap()
        });
        assert_eq!(gone.await.unwrap(), 1, "the monitor goes");
        assert_eq!(records(&self.dir), Vec::<String>::new());
        self.remove_cgroups().await;
    }

    /// Stops whatever enters the cgroup of a container that has been ordered.
    pub(crate) fn freeze(&self, id: &ContainerId) -> Frozen {
        let dir = kill_dir(id);
        let frozen = match dir.join("freezer.state").exists() {
            true => Frozen { dir, file: "freezer.state", words: ["FROZEN", "THAWED"] },
            false => Frozen { dir, file: "cgroup.freeze", words: ["1", "0"] },
        };
        fs::write(frozen.dir.join(frozen.file), frozen.words[0]).unwrap();
        frozen
    }

    pub(crate) async fn remove_cgroups(&self) {
        // A process that is being reaped may hold its cgroup a moment longer than its parent can see it.
        for dir in &self.cgroups {
            let removed = tokio::time::timeout(PATIENCE, async {
                while let Err(error) = fs::remove_dir(dir) {
                    assert_eq!(error.raw_os_error(), Some(nix::libc::EBUSY), "{}", dir.display());
                    tokio::task::yield_now().await;
                }
            });
            removed.await.unwrap_or_else(|_| panic!("{} is still used", dir.display()));
        }
    }
}

/// The cgroup through which a container's processes are found.
pub(crate) fn kill_dir(id: &ContainerId) -> PathBuf {
    let root = Path::new("/sys/fs/cgroup");
    let of_v1 = root.join("freezer");
    let hierarchy = if of_v1.exists() { &of_v1 } else { root };
    hierarchy.join(format!("crt-monitor-{}", id.as_str()))
}

/// A cgroup in which nothing goes on.
pub(crate) struct Frozen {
    dir: PathBuf,
    file: &'static str,
    words: [&'static str; 2],
}

impl Frozen {
    pub(crate) fn is_empty(&self) -> bool {
        fs::read_to_string(self.dir.join("cgroup.procs")).unwrap().is_empty()
    }

    pub(crate) fn thaw(self) {
        fs::write(self.dir.join(self.file), self.words[1]).unwrap();
    }
}

/// Names of the exit records in a pod's directory.
pub(crate) fn records(dir: &Path) -> Vec<String> {
    let names = fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap());
    names.filter(|name| name.starts_with("exit-")).collect()
}

/// A log's entries as (stream, tag, content).
pub(crate) fn entries(path: &Path) -> Vec<(String, String, String)> {
    let text = fs::read_to_string(path).unwrap();
    let entry = |line: &str| {
        let mut fields = line.splitn(4, ' ');
        let mut field = || fields.next().unwrap_or_else(|| panic!("not an entry: {line:?}")).to_owned();
        assert_eq!(field().len(), 30, "{line:?}");
        (field(), field(), field())
    };
    text.lines().map(entry).collect()
}

pub(crate) fn process(argv: &[&str]) -> wire::Process {
    let all = kernel::capability::CapSet::all().0;
    wire::Process {
        argv: argv.iter().map(|word| word.as_bytes().to_vec()).collect(),
        env: vec![b"PATH=/nowhere:/bin".to_vec()],
        cwd: b"/".to_vec(),
        bounding: all,
        effective: all,
        permitted: all,
        ..Default::default()
    }
}

pub(crate) fn step(act: Act) -> wire::Step {
    wire::Step { act: Some(act) }
}

pub(crate) fn filesystem(target: &str, kind: &str, options: &[&str]) -> wire::Step {
    step(Act::NewFilesystem(wire::NewFilesystem {
        target: target.into(),
        r#type: kind.into(),
        options: options.iter().map(|option| option.to_string()).collect(),
        attributes: 0,
    }))
}
