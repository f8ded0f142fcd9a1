//! Every named step of every act made to fail, and the daemon killed before and after each.
//!
//! Whatever happens: nothing half-made stays, the same request works afterwards, as a kubelet repeats it, how a
//! container ended stays known, and nothing is leaked. A pod beside it notices nothing, and none of its lines is lost.

use std::{
    fs,
    path::PathBuf,
    time::{Duration, Instant},
};

use api::cri::v1::{
    ContainerConfig, ContainerState, ContainerStatus, ContainerStatusRequest, LinuxPodSandboxConfig,
    ListContainersRequest, ListPodSandboxRequest, PodSandboxConfig, PodSandboxState, RemoveContainerRequest,
    RemovePodSandboxRequest, ReopenContainerLogRequest, StartContainerRequest, StopContainerRequest,
    StopPodSandboxRequest,
};
use pods::Step;
use testkit::{Cri, NodeOptions, TempNode, container, eventually, eventually_async, patience, pod};
use tonic::Status;

use crate::{
    support::{PROBE, node, node_with, prepared},
    witness::Witness,
};

/// The variable that injects faults.
const FAULTS: &str = "CORACLED_FAULTS";

/// Patience with what takes milliseconds.
const SOON: Duration = Duration::from_secs(20);

/// After this a call counts as one that its client gave up.
const GIVEN_UP: Duration = Duration::from_secs(1);

/// From the start of the daemon after a crash until all is settled: it answers, what was cut short is taken back, and
/// what was asked for is done when it is asked for again.
const SETTLED: Duration = Duration::from_secs(1);

/// What the witness writes, megabytes a second: a little more than the ten of a busy program.
const LINES: &str = "12";

/// What a kubelet asks in the life of a pod with one container.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Act {
    Run,
    Create,
    Start,
    Exec,
    ReopenLog,
    StopContainer,
    RemoveContainer,
    StopPod,
    RemovePod,
}

/// A daemon that is ended while it takes back what has failed: what fails, and where it ends.
const IN_UNDO: [(Act, &str); 10] = [
    (Act::Run, "run.ready=fail,stop-pod.monitor=kill-before"),
    (Act::Run, "run.ready=fail,stop-pod.cgroup=kill-before"),
    (Act::Run, "run.ready=fail,remove-pod.files=kill-before"),
    (Act::Run, "run.ready=fail,stop-pod.detach=kill-before"),
    (Act::Run, "run.ready=fail,stop-pod.netns=kill-before"),
    (Act::Run, "run.ready=fail,remove-pod.record=kill-before"),
    (Act::Create, "create.done=fail,remove.forget=kill-before"),
    (Act::Create, "create.log=fail,exit.cgroup=kill-before"),
    (Act::Create, "create.log=fail,remove.rootfs=kill-before"),
    (Act::Create, "create.log=fail,remove.record=kill-before"),
];

/// A daemon that is ended at steps which a life passes twice: when a container has ended, and when it is removed.
const AGAIN: [(Act, &str); 4] = [
    (Act::RemoveContainer, "remove.forget=kill-before@2"),
    (Act::RemoveContainer, "remove.forget=kill-after@2"),
    (Act::RemoveContainer, "exit.cgroup=kill-before@2"),
    (Act::RemoveContainer, "exit.cgroup=kill-after@2"),
];

/// A daemon that is ended during an act, and the next one while it takes back what that has left.
const IN_RECOVERY: [(Act, &str, &str); 10] = [
    (Act::Run, "run.ready=kill-before", "stop-pod.monitor=kill-after"),
    (Act::Run, "run.ready=kill-before", "stop-pod.detach=kill-after"),
    (Act::Run, "run.ready=kill-before", "stop-pod.netns=kill-after"),
    (Act::Run, "run.ready=kill-before", "stop-pod.cgroup=kill-after"),
    (Act::Run, "run.ready=kill-before", "remove-pod.files=kill-after"),
    (Act::Create, "create.done=kill-before", "remove.forget=kill-before"),
    (Act::Create, "create.done=kill-before", "remove.forget=kill-after"),
    (Act::Create, "create.done=kill-before", "exit.cgroup=kill-after"),
    (Act::Create, "create.done=kill-before", "remove.rootfs=kill-after"),
    (Act::Create, "create.done=kill-before", "remove.record=kill-after"),
];

/// A life, in its order.
const LIFE: [Act; 9] = [
    Act::Run,
    Act::Create,
    Act::Start,
    Act::Exec,
    Act::ReopenLog,
    Act::StopContainer,
    Act::RemoveContainer,
    Act::StopPod,
    Act::RemovePod,
];

/// The first act that passes a step. A step without its line does not compile, so each has its case.
fn act_of(step: Step) -> Act {
    match step {
        Step::RunIntent
        | Step::RunFiles
        | Step::RunNetns
        | Step::RunAttach
        | Step::RunCgroup
        | Step::RunMonitor
        | Step::RunSetUp
        | Step::RunReady => Act::Run,
        Step::CreateImage
        | Step::CreateIntent
        | Step::CreateRootfs
        | Step::CreateCgroup
        | Step::CreatePlan
        | Step::CreateVolumes
        | Step::CreateLog
        | Step::CreatePrepare
        | Step::CreateLaunch
        | Step::CreateDone => Act::Create,
        Step::StartExec | Step::StartDone => Act::Start,
        Step::Exec => Act::Exec,
        Step::ReopenLog => Act::ReopenLog,
        Step::StopSignal | Step::ExitRecord | Step::ExitCgroup | Step::RemoveForget => Act::StopContainer,
        Step::RemoveRootfs | Step::RemoveRecord => Act::RemoveContainer,
        Step::StopPodIntent
        | Step::StopPodDetach
        | Step::StopPodMonitor
        | Step::StopPodNetns
        | Step::StopPodCgroup
        | Step::StopPodDone => Act::StopPod,
        Step::RemovePodFiles | Step::RemovePodRecord => Act::RemovePod,
    }
}

/// Whether a step's failure is only told to the log: what it would have written down, the kernel and the monitor know.
fn is_only_logged(step: Step) -> bool {
    matches!(step, Step::StartDone | Step::ExitRecord | Step::StopPodIntent | Step::StopPodDone)
}

/// What happens at a step.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum How {
    Fail,
    KillBefore,
    KillAfter,
}

impl How {
    const ALL: [How; 3] = [How::Fail, How::KillBefore, How::KillAfter];

    fn name(self) -> &'static str {
        match self {
            How::Fail => "fail",
            How::KillBefore => "kill-before",
            How::KillAfter => "kill-after",
        }
    }
}

fn faults(text: impl Into<String>) -> Vec<(String, String)> {
    vec![(FAULTS.to_owned(), text.into())]
}

async fn node_that(faulty: &str) -> TempNode {
    node_with(NodeOptions { environment: faults(faulty), ..NodeOptions::default() }).await
}

/// The same pod and container, from one daemon to the next.
struct Life<'w> {
    /// Another pod of the node, whose log is the one that is swapped: it is written to without a pause.
    witness: Option<&'w mut Witness>,
    /// The runtime handler of its pod; our own engine where it is empty.
    handler: &'static str,
    cri: Cri,
    config: PodSandboxConfig,
    pod: String,
    container: String,
    attempt: u32,
}

impl<'w> Life<'w> {
    async fn new(node: &TempNode) -> Life<'w> {
        let config = pod("again", node.dir());
        let cri = node.client().await;
        Life { witness: None, handler: "", cri, config, pod: String::new(), container: String::new(), attempt: 0 }
    }

    fn main(&self) -> ContainerConfig {
        let mut main = container("main", PROBE, &["sleep", "forever"]);
        main.metadata.as_mut().expect("metadata").attempt = self.attempt;
        main
    }

    /// Does an act as a kubelet does, which looks before it repeats one.
    async fn perform(&mut self, act: Act) -> Result<(), Status> {
        let (container_id, pod_sandbox_id) = (self.container.clone(), self.pod.clone());
        match act {
            Act::Run => self.pod = self.cri.run_by(self.handler, &self.config).await?,
            Act::Create => self.container = self.cri.create(&self.pod, &self.config, &self.main()).await?,
            Act::Start => match self.status().await?.state() {
                ContainerState::ContainerRunning => {}
                ContainerState::ContainerExited => {
                    self.attempt += 1;
                    self.container = self.cri.start(&self.pod, &self.config, &self.main()).await?;
                }
                _ => _ = self.cri.runtime.start_container(StartContainerRequest { container_id }).await?,
            },
            Act::Exec => {
                let done = self.cri.exec(&container_id, &["/probe", "print", "here"], 10).await?;
                assert_eq!(done.stdout, b"here\n");
            }
            Act::ReopenLog => match &mut self.witness {
                Some(witness) => witness.rotate(&mut self.cri).await?,
                None => {
                    self.cri.runtime.reopen_container_log(ReopenContainerLogRequest { container_id }).await?;
                }
            },
            Act::StopContainer => {
                self.cri.runtime.stop_container(StopContainerRequest { container_id, timeout: 0 }).await?;
                let ended = self.status().await?;
                assert_eq!((ended.state(), ended.exit_code), (ContainerState::ContainerExited, 137), "{ended:?}");
            }
            Act::RemoveContainer => {
                self.cri.runtime.remove_container(RemoveContainerRequest { container_id }).await?;
            }
            Act::StopPod => _ = self.cri.runtime.stop_pod_sandbox(StopPodSandboxRequest { pod_sandbox_id }).await?,
            Act::RemovePod => {
                self.cri.runtime.remove_pod_sandbox(RemovePodSandboxRequest { pod_sandbox_id }).await?;
            }
        }
        Ok(())
    }

    async fn status(&mut self) -> Result<ContainerStatus, Status> {
        let request = ContainerStatusRequest { container_id: self.container.clone(), verbose: false };
        Ok(self.cri.runtime.container_status(request).await?.into_inner().status.expect("a status"))
    }

    /// After an act that was refused and taken back: nothing of it is seen, and its name is free, since the same
    /// request fails at the same step again.
    async fn is_taken_back(&mut self, act: Act, step: Step, refused: &Status) {
        assert!(refused.message().contains(step.name()), "{step}: {refused}");
        match act {
            Act::Run => assert_eq!(self.others().await, [], "{step}"),
            Act::Create => {
                let listed = self.cri.runtime.list_containers(ListContainersRequest::default()).await.unwrap();
                let listed = api::cri::containers(listed.into_inner().containers).unwrap();
                let in_pod: Vec<_> =
                    listed.into_iter().filter(|container| container.pod_sandbox_id == self.pod).collect();
                assert_eq!(in_pod, [], "{step}");
            }
            _ => return,
        }
        let again = self.perform(act).await.unwrap_err();
        assert!(again.message().contains(step.name()), "{step}: {again}");
    }
}

impl Life<'_> {
    /// The pods that are listed, and how they are; but for the witness's.
    async fn others(&mut self) -> Vec<(String, PodSandboxState)> {
        let witness = self.witness.as_ref().map(|witness| witness.pod().to_owned());
        let listed = pods(&mut self.cri).await.into_iter();
        listed.filter(|(id, _)| Some(id) != witness.as_ref()).collect()
    }
}

/// The pods that are listed, and how they are.
async fn pods(cri: &mut Cri) -> Vec<(String, PodSandboxState)> {
    let listed = cri.runtime.list_pod_sandbox(ListPodSandboxRequest::default()).await.unwrap().into_inner().items;
    listed.into_iter().map(|pod| (pod.id.clone(), pod.state())).collect()
}

/// Lives a whole life on a node whose daemon does not run, with something happening at `step`; where that stops an act,
/// the next daemon is asked for it again. The node's daemon does not run afterwards. Answers how long it took to
/// settle.
async fn live(node: &mut TempNode, witness: &mut Witness, handler: &'static str, step: Step, how: How) -> Duration {
    let case = format!("{step}={}", how.name());
    node.set_environment(faults(&case));
    node.start_daemon();
    let mut life = Life { witness: Some(witness), handler, ..Life::new(node).await };
    let mut settled = None;
    for act in LIFE {
        // A signal that is never sent holds its caller until that one has enough.
        let patience = if (step, how) == (Step::StopSignal, How::Fail) { GIVEN_UP } else { SOON };
        let failed = match tokio::time::timeout(patience, life.perform(act)).await {
            Ok(Ok(())) => continue,
            Ok(Err(status)) => Some(status),
            Err(_) => None,
        };
        assert!(settled.is_none(), "{case}: {act:?} after the fault: {failed:?}");
        match (how, failed) {
            (How::Fail, failed) => {
                if let Some(refused) = failed {
                    life.is_taken_back(act, step, &refused).await;
                }
                node.kill_daemon();
            }
            (How::KillBefore | How::KillAfter, _) => node.await_death(),
        }
        settled = Some(settle(node, &mut life, &case, act).await);
    }
    assert_eq!(settled.is_some(), how != How::Fail || !is_only_logged(step), "{case}: whether anybody heard of it");
    is_over(node, life, &case).await;
    settled.unwrap_or_default()
}

/// The same with more than one thing that happens: `faults` end the daemon during `act`, and those of `in_recovery` the
/// next one before it has settled what is left.
async fn live_twice(node: &mut TempNode, witness: &mut Witness, act: Act, fault: &str, in_recovery: Option<&str>) {
    let case = format!("{fault} {}", in_recovery.unwrap_or_default());
    node.set_environment(faults(fault));
    node.start_daemon();
    let mut life = Life { witness: Some(witness), ..Life::new(node).await };
    for now in LIFE {
        let done = tokio::time::timeout(patience(SOON), life.perform(now)).await;
        let done = done.unwrap_or_else(|_| panic!("{case}: {now:?} does not end"));
        if now != act {
            done.unwrap_or_else(|status| panic!("{case}: {now:?}: {status}"));
            continue;
        }
        assert!(done.is_err(), "{case}: {now:?} is the daemon's last");
        node.await_death();
        if let Some(in_recovery) = in_recovery {
            node.set_environment(faults(in_recovery));
            node.launch_daemon();
            node.await_death();
        }
        settle(node, &mut life, &case, act).await;
    }
    is_over(node, life, &case).await;
}

/// At the end of a life: nothing of it is left. The daemon does not run afterwards.
async fn is_over(node: &mut TempNode, mut life: Life<'_>, case: &str) {
    assert_eq!(life.others().await, [], "{case}");
    let Life { witness: Some(witness), .. } = life else { unreachable!("it was given one") };
    eventually(SOON, "nothing but the witness is left", || {
        let left = witness.others(node);
        if left.is_empty() { Ok(()) } else { Err((case.to_owned(), left)) }
    });
    node.kill_daemon();
}

/// After the daemon's death during an act: the witness lives on without one, and the next one settles everything.
async fn settle(node: &mut TempNode, life: &mut Life<'_>, case: &str, act: Act) -> Duration {
    if let Some(witness) = &life.witness {
        witness.lives_without_a_daemon();
    }
    node.set_environment(Vec::new());
    let begun = Instant::now();
    node.start_daemon();
    life.cri = node.client().await;
    if let Some(witness) = &life.witness {
        witness.is_unharmed(&mut life.cri).await;
    }
    life.perform(act).await.unwrap_or_else(|status| panic!("{case}: {act:?} again: {status}"));
    let settled = begun.elapsed();
    assert!(settled < patience(SETTLED), "{case}: settled after {settled:?}");
    if let Some(witness) = &mut life.witness {
        witness.tells_how_it_ended(&mut life.cri).await;
    }
    settled
}

/// Lives once for each step that belongs to one of `acts`, and each of the ways in which it goes wrong.
async fn live_through(acts: &[Act]) {
    live_through_by("", node().await, acts, &How::ALL).await;
}

/// The same by a runtime handler.
async fn live_through_by(handler: &'static str, mut node: TempNode, acts: &[Act], ways: &[How]) {
    let mut witness = Witness::begin(&node, LINES).await;
    node.kill_daemon();
    let mut slowest = Duration::ZERO;
    for step in Step::ALL.iter().filter(|step| acts.contains(&act_of(**step))) {
        for how in ways {
            slowest = slowest.max(live(&mut node, &mut witness, handler, *step, *how).await);
        }
    }
    let rate = none_is_lost(node, witness).await;
    println!("the slowest settled after {slowest:?}; lines came at {rate:.1} MB/s, and none is lost");
}

/// The end of a witness and its node. Answers the rate of its lines, megabytes a second.
async fn none_is_lost(mut node: TempNode, witness: Witness) -> f64 {
    node.set_environment(Vec::new());
    node.start_daemon();
    let rate = witness.end(&mut node.client().await).await;
    node.finish().await;
    rate
}

/// Lives once for each case.
async fn live_twice_through(cases: impl IntoIterator<Item = (Act, &str, Option<&str>)>) {
    let mut node = node().await;
    let mut witness = Witness::begin(&node, LINES).await;
    node.kill_daemon();
    for (act, fault, in_recovery) in cases {
        live_twice(&mut node, &mut witness, act, fault, in_recovery).await;
    }
    none_is_lost(node, witness).await;
}

#[ignore = "needs root: runs a node"]
#[tokio::test]
async fn every_step_of_making_a_pod_may_fail_or_be_the_daemons_last() {
    live_through(&[Act::Run]).await;
}

#[ignore = "needs root: runs a node"]
#[tokio::test]
async fn every_step_of_making_a_container_may_fail_or_be_the_daemons_last() {
    live_through(&[Act::Create]).await;
}

#[ignore = "needs root: runs a node"]
#[tokio::test]
async fn every_step_of_a_containers_life_may_fail_or_be_the_daemons_last() {
    live_through(&[Act::Start, Act::Exec, Act::ReopenLog, Act::StopContainer]).await;
}

#[ignore = "needs root: runs a node"]
#[tokio::test]
async fn every_step_of_stopping_and_removing_may_fail_or_be_the_daemons_last() {
    live_through(&[Act::RemoveContainer, Act::StopPod, Act::RemovePod]).await;
}

/// Where runc is the parent of a container for a while, more can be left half-made.
#[ignore = "needs root: runs a node with runc"]
#[tokio::test]
async fn every_step_of_a_containers_life_by_runc_may_be_the_daemons_last() {
    let config = "[runtime.handlers.runc]\ntype = \"oci\"\npath = \"/usr/sbin/runc\"\n".to_owned();
    let node = node_with(NodeOptions { config, ..NodeOptions::default() }).await;
    let acts = [Act::Create, Act::Start, Act::StopContainer, Act::RemoveContainer];
    live_through_by("runc", node, &acts, &[How::KillBefore, How::KillAfter]).await;
}

#[ignore = "needs root: runs a node"]
#[tokio::test]
async fn the_daemon_may_end_while_it_takes_back_what_has_failed() {
    live_twice_through(IN_UNDO.map(|(act, fault)| (act, fault, None))).await;
}

#[ignore = "needs root: runs a node"]
#[tokio::test]
async fn the_daemon_may_end_at_a_step_that_it_has_passed_before() {
    live_twice_through(AGAIN.map(|(act, fault)| (act, fault, None))).await;
}

#[ignore = "needs root: runs a node"]
#[tokio::test]
async fn the_next_daemon_may_end_while_it_settles_what_the_one_before_has_left() {
    live_twice_through(IN_RECOVERY.map(|(act, fault, then)| (act, fault, Some(then)))).await;
}

#[ignore = "needs root: runs a node"]
#[tokio::test]
async fn a_container_that_cannot_be_removed_fails_its_pods_removal_once_and_is_tried_again_when_asked() {
    let node = node_that("remove.rootfs=fail-once").await;
    let mut life = Life::new(&node).await;
    for act in [Act::Run, Act::Create, Act::Start, Act::StopPod] {
        life.perform(act).await.unwrap();
    }
    let refused = life.perform(Act::RemovePod).await.unwrap_err();
    assert!(refused.message().contains("remove.rootfs"), "{refused}");
    assert_eq!(pods(&mut life.cri).await, [(life.pod.clone(), PodSandboxState::SandboxNotready)]);
    life.perform(Act::RemovePod).await.unwrap();
    assert_eq!(pods(&mut life.cri).await, []);
    node.finish().await;
}

#[ignore = "needs root: runs a node"]
#[tokio::test]
async fn a_container_that_could_not_be_taken_back_leaves_its_name_soon_after() {
    let node = node_that("create.log=fail-once,remove.rootfs=fail-once").await;
    let mut life = Life::new(&node).await;
    life.perform(Act::Run).await.unwrap();
    life.perform(Act::Create).await.unwrap_err();
    let life = tokio::sync::Mutex::new(life);
    eventually_async(SOON, "the name is free again", || async { life.lock().await.perform(Act::Create).await }).await;
    life.into_inner().perform(Act::Start).await.unwrap();
    node.finish().await;
}

#[ignore = "needs root: runs a node"]
#[tokio::test]
async fn a_pod_that_could_not_be_taken_back_is_shown_and_leaves_its_name_when_removed() {
    let node = node_that("run.ready=fail-once,remove-pod.files=fail-once").await;
    let mut life = Life::new(&node).await;
    life.perform(Act::Run).await.unwrap_err();
    let shown = pods(&mut life.cri).await;
    let [(id, PodSandboxState::SandboxNotready)] = shown.as_slice() else { panic!("one that is not ready: {shown:?}") };
    life.cri.remove(id).await.unwrap();
    for act in LIFE {
        life.perform(act).await.unwrap();
    }
    node.finish().await;
}

#[ignore = "needs root: runs a node"]
#[tokio::test]
async fn an_exit_whose_phase_cannot_be_written_is_known_to_the_next_daemon() {
    let mut node = node_that("exit.record=fail").await;
    let mut life = Life::new(&node).await;
    life.perform(Act::Run).await.unwrap();
    life.container = life.cri.start(&life.pod, &life.config, &container("main", PROBE, &["exit", "7"])).await.unwrap();
    let ended = exited(&mut life).await;
    assert_eq!(ended.exit_code, 7);
    node.set_environment(Vec::new());
    node.restart_daemon();
    life.cri = node.client().await;
    let known = life.status().await.unwrap();
    assert_eq!((known.state(), known.exit_code), (ContainerState::ContainerExited, 7));
    assert_eq!(known.finished_at, ended.finished_at);
    node.finish().await;
}

async fn exited(life: &mut Life<'_>) -> ContainerStatus {
    let life = tokio::sync::Mutex::new(life);
    eventually_async(SOON, "the container has exited", || async {
        let status = life.lock().await.status().await.unwrap();
        if status.state() == ContainerState::ContainerExited { Ok(status) } else { Err(status.state()) }
    })
    .await
}

/// A pod that is to live in a parent cgroup of its kubelet's.
fn below(parent: &str, node: &TempNode) -> PodSandboxConfig {
    let linux = LinuxPodSandboxConfig { cgroup_parent: parent.to_owned(), ..Default::default() };
    PodSandboxConfig { linux: Some(linux), ..pod("again", node.dir()) }
}

/// Where a cgroup is in every hierarchy.
fn directories(cgroup: &str) -> Vec<PathBuf> {
    let mounts = fs::read_to_string("/proc/self/mountinfo").unwrap();
    let directory = |line: &str| {
        let (left, right) = line.split_once(" - ")?;
        let root = PathBuf::from(left.split(' ').nth(4).filter(|_| right.starts_with("cgroup"))?);
        Some(root.join(cgroup.trim_start_matches('/')))
    };
    mounts.lines().filter_map(directory).collect()
}

#[ignore = "needs root: runs a node"]
#[tokio::test]
async fn a_parent_cgroup_is_removed_after_a_crash_by_whoever_made_it() {
    let mut node = prepared(NodeOptions::default()).await;
    let parent = format!("{}/kubepods/pod-again", node.cgroup_root());
    for step in [Step::RunCgroup, Step::RunSetUp] {
        for is_the_kubelets in [false, true] {
            if is_the_kubelets {
                directories(&parent).iter().for_each(|dir| fs::create_dir_all(dir).unwrap());
            }
            node.set_environment(faults(format!("{step}=kill-after")));
            node.start_daemon();
            let config = below(&parent, &node);
            node.client().await.run(&config).await.unwrap_err();
            node.await_death();
            assert!(directories(&parent).iter().any(|dir| dir.is_dir()), "{step}: made before the crash");
            node.set_environment(Vec::new());
            node.start_daemon();
            if is_the_kubelets {
                for dir in directories(&parent) {
                    let inside = fs::read_dir(&dir).unwrap().flatten().filter(|entry| entry.path().is_dir()).count();
                    assert_eq!(inside, 0, "{step}: the init's is gone from {}", dir.display());
                    fs::remove_dir(&dir).unwrap();
                    fs::remove_dir(dir.parent().unwrap()).unwrap();
                }
            }
            node.assert_no_leaks();
            node.kill_daemon();
        }
    }
    node.start_daemon();
    node.finish().await;
}
