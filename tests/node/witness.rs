//! A pod that must notice nothing of what happens to the daemon, and that sees whether it does.
//!
//! One container writes numbered lines as fast as a busy program does, one waits, one has ended, and one ends while
//! there is no daemon.

use std::{
    collections::BTreeMap,
    fs::{self, File},
    io::Read,
    path::{Path, PathBuf},
};

use api::cri::v1::{
    ContainerConfig, ContainerState, ContainerStatus, ContainerStatusRequest, PodSandboxConfig, PodSandboxState,
    PodSandboxStatus, PodSandboxStatusRequest, RemoveContainerRequest, ReopenContainerLogRequest, StopContainerRequest,
};
use nix::sys::signal::{Signal, kill};
use serde_json::Value;
use testkit::{Cri, Leaks, TempNode, container, eventually, eventually_async, pod};
use tonic::Status;

use crate::{scene::SOON, support::PROBE};

/// Length of a line of the probe's `pour` in the log: `<time> stdout F <12 digits> <filler>\n`.
const ENTRY: usize = 40 + 1000;

/// Where in it the number stands.
const NUMBER: std::ops::Range<usize> = 40..52;

/// See the head of this file.
pub(crate) struct Witness {
    config: PodSandboxConfig,
    pod: String,
    poured: Poured,
    /// Statuses that must not change: of the writer, the one that waits, and the one that has ended.
    before: Vec<ContainerStatus>,
    pod_before: PodSandboxStatus,
    /// Ends while there is no daemon.
    mortal: String,
    mortal_attempt: u32,
    mortal_pid: i32,
    /// All that belongs to the pod as a look for leaks finds it, but for the container that ends.
    belongings: Leaks,
}

impl Witness {
    /// Begins on a node whose daemon runs, and which has no other pod. `rate`: what the writer writes, as an argument
    /// of the probe, megabytes a second.
    pub(crate) async fn begin(node: &TempNode, rate: &str) -> Witness {
        let mut cri = node.client().await;
        let config = pod("witness", node.dir());
        let pod = cri.run(&config).await.expect("the witness's pod");
        let mut before = Vec::new();
        let writer = container("writes", PROBE, &["pour", rate]);
        let log = log_of(&config, &writer);
        for config_of in
            [writer, container("waits", PROBE, &["sleep", "forever"]), container("ended", PROBE, &["exit", "7"])]
        {
            let id = cri.start(&pod, &config, &config_of).await.expect("a container of the witness");
            before.push(if config_of.args[0] == "exit" {
                exited(&cri, &id).await
            } else {
                status(&mut cri, &id).await
            });
        }
        assert_eq!(before[2].exit_code, 7);
        let pod_before = pod_status(&mut cri, &pod).await;
        let poured = Poured { container: before[0].id.clone(), log, next: 0, turns: 0 };
        let mut witness = Witness {
            config,
            pod,
            poured,
            before,
            pod_before,
            mortal: String::new(),
            mortal_attempt: 0,
            mortal_pid: 0,
            belongings: node.leaks(),
        };
        witness.bear(&mut cri).await;
        witness
    }

    /// Its pod's id.
    pub(crate) fn pod(&self) -> &str {
        &self.pod
    }

    /// Its pod's monitor.
    pub(crate) async fn monitor(&self, cri: &mut Cri) -> i32 {
        let request = PodSandboxStatusRequest { pod_sandbox_id: self.pod.clone(), verbose: true };
        let told = cri.runtime.pod_sandbox_status(request).await.expect("it is known").into_inner();
        number(&told.info, "monitorPid")
    }

    /// What is on the node beside the witness and the daemon.
    pub(crate) fn others(&self, node: &TempNode) -> Leaks {
        let is_ours = |found: &String| self.belongings.0.contains(found) || found.contains(&self.mortal);
        Leaks(node.leaks().0.into_iter().filter(|found| !is_ours(found)).collect())
    }

    /// While no daemon runs: lines are written on, and a container ends.
    pub(crate) fn lives_without_a_daemon(&self) {
        kill(nix::unistd::Pid::from_raw(self.mortal_pid), Signal::SIGTERM).expect("the container that is to end runs");
        self.writes_on();
        let exit = |pid| fs::read_to_string(format!("/proc/{pid}/cmdline")).map_or(Ok(()), Err);
        eventually(SOON, "the container has ended without a daemon", || exit(self.mortal_pid));
    }

    /// By a daemon that has just been started: everything is as it was, and how the container ended is known.
    pub(crate) async fn is_unharmed(&self, cri: &mut Cri) {
        for before in &self.before {
            assert_eq!(&status(cri, &before.id).await, before, "nothing about it changes");
        }
        let now = pod_status(cri, &self.pod).await;
        assert_eq!(now.state(), PodSandboxState::SandboxReady);
        assert_eq!(now, self.pod_before, "nothing about the pod changes");
    }

    /// How the container ended that did so without a daemon; another takes its place.
    pub(crate) async fn tells_how_it_ended(&mut self, cri: &mut Cri) {
        let ended = exited(cri, &self.mortal).await;
        assert_eq!((ended.exit_code, ended.reason.as_str()), (143, "Error"), "{ended:?}");
        let request = RemoveContainerRequest { container_id: self.mortal.clone() };
        cri.runtime.remove_container(request).await.expect("an ended container is removed");
        self.bear(cri).await;
    }

    /// Has the log swapped as a kubelet does, and looks at the old file: no line is missing. Safe to repeat after a
    /// call that failed.
    pub(crate) async fn rotate(&mut self, cri: &mut Cri) -> Result<(), Status> {
        self.poured.rotate(cri).await
    }

    /// Stops the writer: it has ended as it should, and from its first line to its last none is missing. Answers the
    /// rate in megabytes a second.
    pub(crate) async fn end(mut self, cri: &mut Cri) -> f64 {
        let writer = self.poured.container.clone();
        let request = StopContainerRequest { container_id: writer.clone(), timeout: 20 };
        cri.runtime.stop_container(request).await.expect("the writer stops");
        let ended = status(cri, &writer).await;
        assert_eq!((ended.state(), ended.exit_code), (ContainerState::ContainerExited, 0), "{ended:?}");
        self.poured.complete()
    }

    /// Waits until more lines have been written.
    pub(crate) fn writes_on(&self) {
        let before = self.poured.bytes();
        eventually(SOON, "lines are written", || {
            let now = self.poured.bytes();
            if now > before { Ok(()) } else { Err(now) }
        });
    }

    async fn bear(&mut self, cri: &mut Cri) {
        let mut mortal = container("mortal", PROBE, &["sleep", "forever"]);
        mortal.metadata.as_mut().expect("metadata").attempt = self.mortal_attempt;
        self.mortal_attempt += 1;
        self.mortal = cri.start(&self.pod, &self.config, &mortal).await.expect("the container that is to end");
        let request = ContainerStatusRequest { container_id: self.mortal.clone(), verbose: true };
        let info = cri.runtime.container_status(request).await.expect("a status").into_inner().info;
        self.mortal_pid = number(&info, "pid");
    }
}

/// The log of a container that pours.
pub(crate) struct Poured {
    container: String,
    log: PathBuf,
    /// Number of the next line.
    next: u64,
    /// How often the log was swapped.
    turns: u32,
}

impl Poured {
    /// Bytes of the file that is written to: the old one too, while a swap is not over.
    fn bytes(&self) -> u64 {
        let bytes = |path: &Path| fs::metadata(path).map_or(0, |found| found.len());
        bytes(&self.log) + bytes(&self.old())
    }

    /// What the log is called once it is swapped.
    fn old(&self) -> PathBuf {
        self.log.with_extension(format!("log.{}", self.turns))
    }

    async fn rotate(&mut self, cri: &mut Cri) -> Result<(), Status> {
        let old = self.old();
        if !old.exists() {
            fs::rename(&self.log, &old).expect("the log can be renamed");
        }
        let request = ReopenContainerLogRequest { container_id: self.container.clone() };
        cri.runtime.reopen_container_log(request).await?;
        assert!(self.log.exists(), "the new file is there");
        self.turns += 1;
        assert_eq!(self.follow(&old), b"", "the log ends within a line");
        fs::remove_file(old).unwrap();
        Ok(())
    }

    /// Looks through what is left of the log of a container that has ended. Answers its rate.
    fn complete(&mut self) -> f64 {
        let last = self.follow(&self.log.clone());
        let last = String::from_utf8(last[NUMBER.start..].to_vec()).unwrap();
        let words: Vec<&str> = last.split_whitespace().collect();
        let ["poured", lines, "in", milliseconds, "ms"] = words.as_slice() else { panic!("last words: {last:?}") };
        let (lines, milliseconds): (u64, f64) = (lines.parse().unwrap(), milliseconds.parse().unwrap());
        assert_eq!(lines, self.next, "lines that were written, and lines in the log");
        lines as f64 / milliseconds
    }

    /// Takes note of a file's lines, which must go on where the last file ended. Answers what is not one of them.
    fn follow(&mut self, file: &Path) -> Vec<u8> {
        let mut file = File::open(file).unwrap();
        let mut entry = Vec::with_capacity(ENTRY);
        let mut lines = std::io::BufReader::with_capacity(1 << 20, &mut file);
        loop {
            entry.clear();
            (&mut lines).take(ENTRY as u64).read_to_end(&mut entry).unwrap();
            let whole = entry.len() == ENTRY && entry.ends_with(b"x\n") && &entry[30..40] == b" stdout F ";
            if !whole {
                return entry;
            }
            let number: u64 = std::str::from_utf8(&entry[NUMBER]).unwrap().parse().unwrap();
            assert_eq!(number, self.next, "a line is lost, or there twice");
            self.next += 1;
        }
    }
}

/// A number in a verbose status.
fn number(info: &BTreeMap<String, String>, name: &str) -> i32 {
    let info: Value = serde_json::from_str(&info["info"]).expect("JSON");
    info[name].as_i64().unwrap_or_else(|| panic!("{name} is told: {info}")) as i32
}

fn log_of(pod: &PodSandboxConfig, container: &ContainerConfig) -> PathBuf {
    PathBuf::from(&pod.log_directory).join(&container.log_path)
}

async fn status(cri: &mut Cri, id: &str) -> ContainerStatus {
    let request = ContainerStatusRequest { container_id: id.to_owned(), verbose: false };
    cri.runtime.container_status(request).await.expect("it is known").into_inner().status.expect("a status")
}

async fn pod_status(cri: &mut Cri, id: &str) -> PodSandboxStatus {
    let request = PodSandboxStatusRequest { pod_sandbox_id: id.to_owned(), verbose: false };
    cri.runtime.pod_sandbox_status(request).await.expect("it is known").into_inner().status.expect("a status")
}

async fn exited(cri: &Cri, id: &str) -> ContainerStatus {
    eventually_async(SOON, "the container has exited", || {
        let mut cri = cri.clone();
        async move {
            let status = status(&mut cri, id).await;
            if status.state() == ContainerState::ContainerExited { Ok(status) } else { Err(status.state()) }
        }
    })
    .await
}
