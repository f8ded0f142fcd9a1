//! A throwaway node: the daemon as `deploy/build` made it, on directories, a bridge and address ranges of its own.
//!
//! Many run side by side. A test ends with [`TempNode::finish`], which removes the pods, stops the daemon and panics if
//! anything is left; a test that panics first is cleaned up by `Drop`, and its daemon's log is printed.

use std::{
    env,
    fs::{self, File},
    os::unix::{net::UnixStream, process::ExitStatusExt},
    path::{Path, PathBuf},
    process::{Child, Command, ExitStatus, Stdio},
    time::Duration,
};

use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};

use crate::{Cri, Leaks, Operator, Process, descendants, eventually, leak::Places};

mod clean;

/// How long a daemon may take until it answers. It takes milliseconds; a loaded machine takes longer.
const READY: Duration = Duration::from_secs(20);

/// How long a daemon may take to end after SIGTERM, and the last process to be gone.
const GONE: Duration = Duration::from_secs(20);

/// Names in the node's directory: the CRI socket, and the log of all daemons.
const SOCKET: &str = "coracle.sock";
const LOG: &str = "coracled.log";

/// Directory of the programs under test: what `CORACLE_BIN_DIR` names. Panics without it, since a program that Cargo
/// linked for a test would not be the one we ship.
pub fn programs() -> PathBuf {
    let dir = env::var_os("CORACLE_BIN_DIR").map(PathBuf::from);
    dir.expect("CORACLE_BIN_DIR is not set: run `export CORACLE_BIN_DIR=$(deploy/build)` first, or tests/run node")
}

/// Has a program find another boot id (`$0`) than the machine's, in a mount namespace of its own. `/proc` is made
/// private first, so that nobody else sees it; other mounts go both ways, as ever.
const ANOTHER_BOOT: &str =
    "mount --make-private /proc && mount --bind \"$0\" /proc/sys/kernel/random/boot_id && exec \"$@\"";

/// What a test wants of its node beyond the ordinary.
#[derive(Debug, Clone, Default)]
pub struct NodeOptions {
    /// More lines for the configuration file, as whole tables. `[network]`, `[engine]` and `[images]` are taken.
    pub config: String,
    /// More lines for the `[images]` table.
    pub images: String,
    /// More lines for the `[network]` table.
    pub network: String,
    /// More lines for the `[engine]` table.
    pub engine: String,
    /// The subnets, as lines of the `[network]` table, in place of the node's own.
    pub subnets: Option<String>,
    /// Filter of the daemon's log, as `debug`; empty is its default.
    pub log: String,
    /// Environment of the daemon, beside ours.
    pub environment: Vec<(String, String)>,
    /// The most descriptors that the daemon may open, where it is not ours.
    pub descriptors: Option<u64>,
    /// A file system of its own for `root`, which a test can fill up.
    pub root: Option<RootSize>,
    /// `state` lies in memory, as it does where `/run` is a tmpfs: on all that systemd has booted.
    pub state_in_memory: bool,
    /// Lines of a shell by which the daemon's host becomes another: in a mount namespace of its own, before the daemon
    /// takes the shell's place. A line that fails is the end of it.
    pub host: Option<String>,
    /// The network namespace that is the daemon's host, by a path that leads to it. What is made in it ends with it.
    pub netns: Option<PathBuf>,
}

/// How much fits into a node's `root`.
#[derive(Debug, Clone, Copy)]
pub struct RootSize {
    /// Of content, MiB.
    pub mib: u32,
    /// Files and directories.
    pub files: u32,
}

/// A running node. See the head of this file.
#[derive(Debug)]
pub struct TempNode {
    dir: PathBuf,
    seed: String,
    options: NodeOptions,
    daemon: Option<Child>,
    /// Everything that ever descended from the daemon, seen at each turn of its life.
    family: Vec<Process>,
    /// How often the power was lost.
    boots: u32,
    /// The daemon was told to end, and has.
    has_left: bool,
    /// `Drop` has nothing left to do.
    finished: bool,
}

impl TempNode {
    /// Starts a node with nothing in it and waits until it answers.
    pub fn start() -> TempNode {
        TempNode::start_with(NodeOptions::default())
    }

    /// As [`TempNode::start`], with options.
    pub fn start_with(options: NodeOptions) -> TempNode {
        let mut node = TempNode::prepare(options);
        node.start_daemon();
        node
    }

    /// A node whose daemon has never run: its directories and settings, for what has to be there before.
    pub fn prepare(options: NodeOptions) -> TempNode {
        assert!(nix::unistd::geteuid().is_root(), "a node needs root");
        let dir = tempfile::Builder::new().prefix("crt-").tempdir().unwrap().keep();
        let seed = dir.file_name().unwrap().to_string_lossy().trim_start_matches("crt-").to_lowercase();
        for below in ["root", "state", "netns", "certs.d", "logs"] {
            fs::create_dir(dir.join(below)).unwrap();
        }
        let (daemon, family) = (None, Vec::new());
        let node = TempNode { dir, seed, options, daemon, family, boots: 0, has_left: false, finished: false };
        let in_memory = |below: &str, data: &str| {
            let kind = Some("tmpfs");
            nix::mount::mount(kind, &node.dir.join(below), kind, nix::mount::MsFlags::empty(), Some(data)).unwrap();
        };
        if let Some(size) = node.options.root {
            in_memory("root", &format!("mode=0755,size={}m,nr_inodes={}", size.mib, size.files));
        }
        if node.options.state_in_memory {
            in_memory("state", "mode=0755");
        }
        fs::write(node.dir.join("config.toml"), node.config()).unwrap();
        node
    }

    /// The CRI socket.
    pub fn socket(&self) -> PathBuf {
        self.dir.join(SOCKET)
    }

    /// The node's directory: `root/`, `state/`, `netns/`, `certs.d/`, `logs/` for pods' logs, `coracled.log`.
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// Name of the node's bridge.
    pub fn bridge(&self) -> String {
        format!("crt-{}", self.seed)
    }

    /// cgroup below which all of the node's are.
    pub fn cgroup_root(&self) -> String {
        format!("/coracle-test-{}", self.seed)
    }

    /// The daemon's process.
    pub fn daemon_pid(&self) -> i32 {
        self.daemon.as_ref().expect("the daemon runs").id() as i32
    }

    /// All that the daemon has written to its log so far, over all of its lives.
    pub fn log(&self) -> String {
        fs::read_to_string(self.dir.join(LOG)).unwrap_or_default()
    }

    /// The launcher and the monitors that run now, whichever daemon they descend from. Not the forks of a monitor that
    /// have its name until they become somebody else: a pod's init, a container's first process.
    pub fn helpers(&mut self) -> Vec<Process> {
        self.look();
        let is_one = |process: &&Process| ["coracle-launch", "coracle-monitor"].contains(&process.name.as_str());
        let named: Vec<_> = self.family.iter().filter(is_one).cloned().collect();
        let monitors: Vec<i32> =
            named.iter().filter(|process| process.name == "coracle-monitor").map(|process| process.pid).collect();
        named.into_iter().filter(|process| !monitors.contains(&process.parent)).collect()
    }

    /// A client of its own connection.
    pub async fn client(&self) -> Cri {
        Cri::connect(&self.socket()).await.expect("the daemon answered before")
    }

    /// A client of what people ask of the daemon that runs.
    pub async fn operator(&self) -> Operator {
        Operator::connect(&self.socket()).await.expect("the daemon answered before")
    }

    /// Other lines of the `[network]` table, for the daemon's next life.
    pub fn set_network(&mut self, lines: String) {
        self.options.network = lines;
        fs::write(self.dir.join("config.toml"), self.config()).unwrap();
    }

    /// Other lines at the end of the configuration file, for the daemon's next life.
    pub fn set_config(&mut self, config: String) {
        self.options.config = config;
        fs::write(self.dir.join("config.toml"), self.config()).unwrap();
    }

    /// Another environment for the daemon's next life.
    pub fn set_environment(&mut self, environment: Vec<(String, String)>) {
        self.options.environment = environment;
    }

    /// Another limit of descriptors for the daemon's next life.
    pub fn set_descriptors(&mut self, most: Option<u64>) {
        self.options.descriptors = most;
    }

    /// Waits until the daemon has ended by itself, as one does that was made to.
    pub fn await_death(&mut self) {
        self.look();
        let mut child = self.daemon.take().expect("the daemon runs");
        eventually(GONE, "the daemon ends by itself", || child.try_wait().unwrap().ok_or("it runs"));
    }

    /// Sends pulls from `host` to a registry at `address` (as `127.0.0.1:5000`) over plain HTTP.
    pub fn mirror(&self, host: &str, address: &str) {
        let dir = self.dir.join("certs.d").join(host);
        fs::create_dir_all(&dir).unwrap();
        let hosts = format!(
            "server = \"http://{address}\"\n\n[host.\"http://{address}\"]\ncapabilities = [\"pull\", \"resolve\"]\n"
        );
        fs::write(dir.join("hosts.toml"), hosts).unwrap();
    }

    /// Starts the daemon, which must not run, and waits until it answers.
    pub fn start_daemon(&mut self) {
        self.launch_daemon();
        self.await_daemon();
    }

    /// Waits until the daemon answers.
    pub fn await_daemon(&mut self) {
        let child = self.daemon.as_mut().expect("the daemon was started");
        let (socket, log) = (self.dir.join(SOCKET), self.dir.join(LOG));
        eventually(READY, "the daemon answers", || {
            if let Some(status) = child.try_wait().unwrap() {
                let log = fs::read_to_string(&log).unwrap_or_default();
                panic!("the daemon ended with {status} before it answered:\n{log}");
            }
            answers(&socket)
        });
        self.look();
    }

    /// Starts the daemon, which must not run, and waits for nothing.
    pub fn launch_daemon(&mut self) {
        assert!(self.daemon.is_none(), "the daemon runs already");
        let log = File::options().create(true).append(true).open(self.dir.join(LOG)).unwrap();
        let program = programs().join("coracled");
        let options = &self.options;
        assert!(options.host.is_none() || (self.boots, options.descriptors) == (0, None), "one change at a time");
        assert!(options.netns.is_none() || (self.boots, options.descriptors) == (0, None), "one change at a time");
        let mut command = match (self.boots, options.descriptors, &options.host) {
            (0, None, None) => match &options.netns {
                None => Command::new(program),
                Some(netns) => {
                    let mut command = Command::new("nsenter");
                    command.arg(format!("--net={}", netns.display())).arg(program);
                    command
                }
            },
            (_, _, Some(lines)) => {
                let mut command = Command::new("unshare");
                command.args(["--mount", "--propagation", "unchanged", "sh", "-ec"]);
                command.args([format!("{lines}\nexec \"$@\""), "host".to_owned()]).arg(program);
                command
            }
            (0, Some(descriptors), _) => {
                let mut command = Command::new("prlimit");
                command.arg(format!("--nofile={descriptors}:{descriptors}")).arg(program);
                command
            }
            _ => {
                let mut command = Command::new("unshare");
                command.args(["--mount", "--propagation", "unchanged", "sh", "-c", ANOTHER_BOOT]);
                command.arg(self.dir.join("boot_id")).arg(program);
                command
            }
        };
        command
            .arg("--root")
            .arg(self.dir.join("root"))
            .arg("--state")
            .arg(self.dir.join("state"))
            .arg("--config")
            .arg(self.dir.join("config.toml"))
            .arg("--listen")
            .arg(format!("unix://{}", self.socket().display()))
            .args(if self.options.log.is_empty() { None } else { Some(format!("--log={}", self.options.log)) })
            .envs(self.options.environment.iter().cloned())
            .stdin(Stdio::null())
            .stdout(log.try_clone().unwrap())
            .stderr(log);
        let child = command.spawn().unwrap_or_else(|error| panic!("start {:?}: {error}", command.get_program()));
        (self.daemon, self.has_left) = (Some(child), false);
    }

    /// SIGKILL to the daemon, and nothing else.
    pub fn kill_daemon(&mut self) {
        self.look();
        let mut child = self.daemon.take().expect("the daemon runs");
        child.kill().unwrap();
        assert_eq!(child.wait().unwrap().signal(), Some(9));
    }

    /// SIGTERM to the daemon; how it ended.
    pub fn stop_daemon(&mut self) -> ExitStatus {
        self.look();
        let mut child = self.daemon.take().expect("the daemon runs");
        kill(Pid::from_raw(child.id() as i32), Signal::SIGTERM).unwrap();
        self.has_left = true;
        eventually(GONE, "the daemon ends after SIGTERM", || child.try_wait().unwrap().ok_or("it runs"))
    }

    /// SIGKILL to the daemon and another one in its place.
    pub fn restart_daemon(&mut self) {
        self.kill_daemon();
        self.start_daemon();
    }

    /// What a reboot does, as far as one can have it without one: every process of the node killed, mounts and the
    /// state directory gone, and another boot id from now on; `root` stays. The daemon has to be started again by the
    /// caller.
    pub fn lose_power(&mut self) {
        self.kill_everything();
        self.unmount();
        for below in ["state", "netns"] {
            fs::remove_dir_all(self.dir.join(below)).unwrap();
            fs::create_dir(self.dir.join(below)).unwrap();
        }
        let _ = fs::remove_file(self.socket());
        self.boots += 1;
        let boot_id = format!("00000000-0000-4000-8000-{:012}\n", self.boots);
        fs::write(self.dir.join("boot_id"), boot_id).unwrap();
    }

    /// Removes every pod, stops the daemon politely and panics if it did not end well or left anything.
    pub async fn finish(mut self) {
        self.client().await.remove_all().await.unwrap_or_else(|status| panic!("remove all pods: {status}"));
        // On a thread of its own: the daemon says farewell to every client, and the test's clients answer on this one.
        let ending = tokio::task::spawn_blocking(move || {
            let status = self.stop_daemon();
            assert!(status.success(), "the daemon ended with {status}:\n{}", self.log());
            self.assert_no_leaks();
            self.finished = true;
            self.clean();
        });
        if let Err(error) = ending.await {
            std::panic::resume_unwind(error.into_panic());
        }
    }

    /// Panics if anything is left of pods, or of the daemon when it does not run. Removals may take a moment.
    pub fn assert_no_leaks(&mut self) {
        self.look();
        eventually(GONE, "nothing is left of the node", || {
            let leaks = self.leaks();
            if leaks.is_empty() { Ok(()) } else { Err(leaks) }
        });
    }

    /// What is left of pods now; and of the daemon's own processes, when it does not run.
    pub fn leaks(&self) -> Leaks {
        let processes: &[Process] = if self.daemon.is_none() { &self.family } else { &[] };
        let (cgroup_root, bridge) = (self.cgroup_root(), self.bridge());
        // The daemon's last act is to take it back.
        let bundles_mounted = self.options.config.contains("[runtime.handlers.") && !self.has_left;
        Leaks::find(&Places { dir: &self.dir, cgroup_root: &cgroup_root, bridge: &bridge, bundles_mounted, processes })
    }

    /// The configuration of this node: what has to be its own, then what the test adds.
    fn config(&self) -> String {
        // Address ranges from the seed: 10.128–255.x.0/24 and a /64 of the local IPv6 range.
        let hash = self
            .seed
            .bytes()
            .fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3));
        let [a, b, c, d, e, f, g, _] = hash.to_be_bytes();
        let a = 128 | a;
        let own =
            format!("subnet_v4 = \"10.{a}.{b}.0/24\"\nsubnet_v6 = \"fd{c:02x}:{d:02x}{e:02x}:{f:02x}{g:02x}::/64\"");
        let subnets = self.options.subnets.as_ref().unwrap_or(&own);
        // Whatever the machine has in /etc/cni is not the node's.
        let conf_dir = if self.options.network.contains("conf_dir") { "" } else { "conf_dir = \"\"\n" };
        format!(
            "[network]\nbridge = \"{bridge}\"\n{subnets}\n\
             netns_dir = \"{dir}/netns\"\n{conf_dir}{network}\n\n\
             [engine]\ncgroup_root = \"{cgroup_root}\"\n{engine}\n\n\
             [images]\nconfig_path = [\"{dir}/certs.d\"]\n{images}\n{more}\n",
            bridge = self.bridge(),
            dir = self.dir.display(),
            cgroup_root = self.cgroup_root(),
            network = self.options.network,
            engine = self.options.engine,
            images = self.options.images,
            more = self.options.config,
        )
    }

    /// Remembers who descends from the daemon now: after its death they are nobody's children.
    fn look(&mut self) {
        self.family.retain(Process::alive);
        let mut roots: Vec<i32> = self.family.iter().map(|process| process.pid).collect();
        roots.extend(self.daemon.as_ref().map(|daemon| daemon.id() as i32));
        for process in descendants(&roots) {
            if !self.family.contains(&process) {
                self.family.push(process);
            }
        }
    }
}

impl Drop for TempNode {
    fn drop(&mut self) {
        if self.finished {
            return;
        }
        if std::thread::panicking() {
            let log = self.log();
            let tail: Vec<_> = log.lines().rev().take(60).collect();
            eprintln!("the end of the daemon's log:");
            tail.iter().rev().for_each(|line| eprintln!("  {line}"));
        }
        self.kill_everything();
        self.clean();
    }
}

/// Whether a call is answered: a socket that takes connections is not yet a daemon. On a thread of its own, since the
/// caller may be inside an async runtime.
fn answers(socket: &Path) -> Result<(), String> {
    // Cheaper than a runtime, and nearly always enough to say no.
    UnixStream::connect(socket).map_err(|error| error.to_string())?;
    let socket = socket.to_owned();
    let call = std::thread::spawn(move || {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
        runtime.map_err(|error| error.to_string())?.block_on(async {
            let mut cri = Cri::connect(&socket).await.map_err(|error| error.to_string())?;
            let answer = cri.runtime.version(api::cri::v1::VersionRequest::default()).await;
            answer.map(drop).map_err(|status| status.to_string())
        })
    });
    call.join().unwrap()
}
