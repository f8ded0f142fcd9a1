//! One client of a storm: makes a pod, uses it, removes it, and begins again. It looks before it repeats what it does
//! not know the outcome of, as a kubelet does.

use std::{
    error::Error as _,
    future::Future,
    path::{Path, PathBuf},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use api::cri::v1::{
    ContainerConfig, ContainerState, ContainerStatus, ContainerStatusRequest, ListPodSandboxRequest, PodSandboxConfig,
    PodSandboxState, PodSandboxStatusRequest, RemoveContainerRequest, RemovePodSandboxRequest, StartContainerRequest,
    StopContainerRequest, StopPodSandboxRequest,
};
use testkit::{Cri, Random, TempNode, container, eventually_async, patience, pod};
use tonic::{Code, Status};

use super::Storm;
use crate::{log_file, support::PROBE};

/// How long an answer may take to come, over all the daemons that are asked for it. Each lives less than a second, and
/// what it does not finish the next one takes back: on a busy machine many die before one of twenty clients has its
/// turn.
const ANSWERED: Duration = Duration::from_secs(300);

/// How long one daemon may take for one call.
const ONE_CALL: Duration = Duration::from_secs(20);

/// How long a daemon may take to hear that a monitor has died.
const LOST: Duration = Duration::from_secs(20);

/// What the clients have done.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Tally {
    /// Pods that lived to their end.
    pub(crate) pods: usize,
    /// Pods that ended with their monitor.
    pub(crate) lost_pods: usize,
    /// Containers whose end was known to the client, and was told right.
    pub(crate) containers: usize,
}

impl Tally {
    pub(crate) fn add(&mut self, other: &Tally) {
        self.pods += other.pods;
        self.lost_pods += other.lost_pods;
        self.containers += other.containers;
    }
}

/// The pod's monitor has died: nothing more can be expected of it.
struct Lost;

/// What a container does, and so how it ends.
#[derive(Debug, Clone, Copy)]
enum Kind {
    /// Writes so many lines and ends.
    Writes(u32),
    /// Ends with this code.
    Exits(i32),
    /// Waits until it is asked, for so long, to end.
    Waits { grace: i64 },
    /// Waits until its pod ends.
    Stays,
}

struct Made {
    id: String,
    config: ContainerConfig,
    kind: Kind,
}

/// See the head of this file.
pub(crate) struct Client {
    cri: Cri,
    dir: PathBuf,
    number: usize,
    storm: Storm,
    random: Random,
    tally: Tally,
}

/// What a call has come to: `Err` when it is to be asked again, since the daemon died with the question, or asks for
/// that.
pub(crate) async fn answer<T>(call: impl Future<Output = Result<T, Status>>) -> Result<Result<T, Status>, String> {
    match tokio::time::timeout(patience(ONE_CALL), call).await {
        Err(_) => Err(format!("no answer within {ONE_CALL:?}")),
        // What the client itself says has a source: the connection, which ended.
        Ok(Err(status)) if status.source().is_some() || status.code() == Code::Unavailable => {
            Err(format!("{status:?}"))
        }
        Ok(answer) => Ok(answer),
    }
}

impl Client {
    pub(crate) async fn new(node: &TempNode, number: usize, storm: Storm, random: Random) -> Client {
        let dir = node.dir().to_owned();
        Client { cri: node.client().await, dir, number, storm, random, tally: Tally::default() }
    }

    /// One pod after the other, until it is over; the last one to its end.
    pub(crate) async fn live_until(mut self, over: Arc<AtomicBool>) -> Tally {
        while !over.load(Ordering::Relaxed) {
            let config = pod(&format!("storm-{}-{}", self.number, self.tally.pods + self.tally.lost_pods), &self.dir);
            match self.live(&config).await {
                Ok(()) => self.tally.pods += 1,
                Err(Lost) => self.tally.lost_pods += 1,
            }
            let _ = std::fs::remove_dir_all(&config.log_directory);
        }
        self.tally
    }

    /// The life of a pod. However it goes, nothing of it is there afterwards.
    async fn live(&mut self, config: &PodSandboxConfig) -> Result<(), Lost> {
        let pod_id = self.run(config).await;
        let lived = self.use_pod(&pod_id, config).await;
        self.remove(&pod_id).await;
        lived
    }

    async fn use_pod(&mut self, pod_id: &str, config: &PodSandboxConfig) -> Result<(), Lost> {
        let mut made = Vec::new();
        for number in 0..=self.random.below(2) {
            made.push(self.start(pod_id, config, number).await?);
        }
        for container in &made {
            self.end(pod_id, config, container).await?;
        }
        if self.random.below(2) == 0 {
            for Made { id, .. } in &made {
                let request = RemoveContainerRequest { container_id: id.clone() };
                self.ask(pod_id, "RemoveContainer", |mut cri| {
                    let request = request.clone();
                    async move { cri.runtime.remove_container(request).await }
                })
                .await?;
            }
        }
        Ok(())
    }

    /// Asks until there is an answer. What a daemon refuses for good is a mistake, unless the pod's monitor is dead.
    async fn ask<T, F>(&mut self, pod_id: &str, what: &str, act: impl Fn(Cri) -> F) -> Result<T, Lost>
    where
        F: Future<Output = Result<T, Status>>,
    {
        // A launcher or monitor that dies during a call may be heard of as a refusal before the pod is known to be
        // lost.
        loop {
            let cri = &self.cri;
            match eventually_async(ANSWERED, what, || answer(act(cri.clone()))).await {
                Ok(answer) => return Ok(answer),
                Err(status) if self.storm == Storm::Daemons => panic!("{what} in pod {pod_id}: {status}"),
                Err(status) => self.must_be_lost(pod_id, &format!("{what}: {status}")).await?,
            }
        }
    }

    /// Waits until the pod is not ready. Something in it was not as it should be, for which there is no other excuse.
    async fn must_be_lost(&mut self, pod_id: &str, why: &str) -> Result<(), Lost> {
        assert_eq!(self.storm, Storm::Everything, "pod {pod_id}: {why}");
        let cri = &self.cri;
        eventually_async(LOST, why, || async {
            match answer(pod_state(cri.clone(), pod_id)).await? {
                Ok(PodSandboxState::SandboxReady) => Err("its pod is ready".to_owned()),
                Ok(PodSandboxState::SandboxNotready) => Ok(()),
                Err(status) => Err(status.to_string()),
            }
        })
        .await;
        Err(Lost)
    }

    async fn run(&mut self, config: &PodSandboxConfig) -> String {
        let cri = &self.cri;
        eventually_async(ANSWERED, "RunPodSandbox", || async {
            let mut cri = cri.clone();
            match answer(cri.run(config)).await? {
                Ok(id) => Ok(id),
                Err(status) if self.storm == Storm::Daemons => panic!("RunPodSandbox: {status}"),
                // Its monitor or the launcher died meanwhile. What could not be taken back has the name until it is
                // removed.
                Err(status) => {
                    let listed = answer(cri.runtime.list_pod_sandbox(ListPodSandboxRequest::default())).await?;
                    let listed = listed.map_err(|status| status.to_string())?.into_inner().items;
                    for left in listed.into_iter().filter(|pod| pod.metadata == config.metadata) {
                        assert_eq!(left.state(), PodSandboxState::SandboxNotready, "{status}");
                        let _ = answer(cri.remove(&left.id)).await?;
                    }
                    Err(status.to_string())
                }
            }
        })
        .await
    }

    async fn start(&mut self, pod_id: &str, pod: &PodSandboxConfig, number: usize) -> Result<Made, Lost> {
        let kind = match self.random.below(4) {
            0 => Kind::Writes(1 + self.random.below(2000) as u32),
            1 => Kind::Exits(self.random.below(100) as i32),
            2 => Kind::Waits { grace: 20 * self.random.below(2) as i64 },
            _ => Kind::Stays,
        };
        let arguments = match kind {
            Kind::Writes(lines) => vec!["write-lines".to_owned(), "0".to_owned(), lines.to_string()],
            Kind::Exits(code) => vec!["exit".to_owned(), code.to_string()],
            Kind::Waits { .. } | Kind::Stays => vec!["sleep".to_owned(), "forever".to_owned()],
        };
        let mut config = container(&format!("{number}"), PROBE, &[]);
        config.args = arguments;
        let id = self
            .ask(pod_id, "CreateContainer", |mut cri| {
                let (config, pod) = (config.clone(), pod.clone());
                async move { cri.create(pod_id, &pod, &config).await }
            })
            .await?;
        self.ask(pod_id, "StartContainer", |mut cri| {
            let id = id.clone();
            async move {
                // Whether the last one who was asked has done it, the container says.
                match status(&mut cri, &id).await?.state() {
                    ContainerState::ContainerCreated => {
                        let request = StartContainerRequest { container_id: id };
                        cri.runtime.start_container(request).await.map(drop)
                    }
                    _ => Ok(()),
                }
            }
        })
        .await?;
        Ok(Made { id, config, kind })
    }

    /// Sees a container to its end, which must be the one that it was to have.
    async fn end(&mut self, pod_id: &str, pod: &PodSandboxConfig, made: &Made) -> Result<(), Lost> {
        let code = match made.kind {
            Kind::Writes(_) => 0,
            Kind::Exits(code) => code,
            Kind::Waits { grace } => {
                self.runs(pod_id, made).await?;
                let request = StopContainerRequest { container_id: made.id.clone(), timeout: grace };
                self.ask(pod_id, "StopContainer", |mut cri| {
                    let request = request.clone();
                    async move { cri.runtime.stop_container(request).await }
                })
                .await?;
                if grace == 0 { 137 } else { 143 }
            }
            Kind::Stays => return self.runs(pod_id, made).await,
        };
        let cri = &self.cri;
        let ended = eventually_async(ANSWERED, "the container has ended", || async {
            let mut cri = cri.clone();
            let status = answer(status(&mut cri, &made.id)).await?.map_err(|status| status.to_string())?;
            if status.state() == ContainerState::ContainerExited { Ok(status) } else { Err(format!("{status:?}")) }
        })
        .await;
        if ended.exit_code != code {
            assert_eq!((ended.exit_code, ended.reason.as_str()), (255, "Unknown"), "{:?}: {ended:?}", made.kind);
            return self.must_be_lost(pod_id, &format!("{:?}: {ended:?}", made.kind)).await;
        }
        if let Kind::Writes(lines) = made.kind {
            let log = log_file::read(&Path::new(&pod.log_directory).join(&made.config.log_path));
            assert_eq!(log.len(), lines as usize, "lines of {ended:?}");
            for (number, entry) in log.iter().enumerate() {
                assert_eq!(entry.content, format!("line {number}").into_bytes(), "{ended:?}");
            }
        }
        self.tally.containers += 1;
        Ok(())
    }

    /// A container that nobody has stopped runs, and a command in it does.
    async fn runs(&mut self, pod_id: &str, made: &Made) -> Result<(), Lost> {
        let id = made.id.as_str();
        let status = self.ask(pod_id, "ContainerStatus", |mut cri| async move { status(&mut cri, id).await }).await?;
        if status.state() != ContainerState::ContainerRunning {
            return self.must_be_lost(pod_id, &format!("it was to run: {status:?}")).await;
        }
        let done =
            self.ask(pod_id, "ExecSync", |mut cri| async move { cri.exec(id, &["/probe", "print", "here"], 10).await });
        let done = done.await?;
        if (done.exit_code, done.stdout.as_slice()) != (0, b"here\n") {
            return self.must_be_lost(pod_id, &format!("a command: {done:?}")).await;
        }
        Ok(())
    }

    /// Stops and removes the pod: whatever has become of it, that works.
    async fn remove(&mut self, pod_id: &str) {
        let cri = &self.cri;
        eventually_async(ANSWERED, "the pod is removed", || async {
            let mut cri = cri.clone();
            let pod_sandbox_id = pod_id.to_owned();
            let stop = cri.runtime.stop_pod_sandbox(StopPodSandboxRequest { pod_sandbox_id: pod_sandbox_id.clone() });
            answer(stop).await?.unwrap_or_else(|status| panic!("StopPodSandbox {pod_id}: {status}"));
            let remove = cri.runtime.remove_pod_sandbox(RemovePodSandboxRequest { pod_sandbox_id });
            answer(remove).await?.unwrap_or_else(|status| panic!("RemovePodSandbox {pod_id}: {status}"));
            match answer(pod_state(cri, pod_id)).await? {
                Err(status) if status.code() == Code::NotFound => Ok::<_, String>(()),
                other => panic!("a pod that was removed: {other:?}"),
            }
        })
        .await;
    }
}

async fn status(cri: &mut Cri, id: &str) -> Result<ContainerStatus, Status> {
    let request = ContainerStatusRequest { container_id: id.to_owned(), verbose: false };
    Ok(cri.runtime.container_status(request).await?.into_inner().status.expect("a status"))
}

async fn pod_state(mut cri: Cri, id: &str) -> Result<PodSandboxState, Status> {
    let request = PodSandboxStatusRequest { pod_sandbox_id: id.to_owned(), verbose: false };
    Ok(cri.runtime.pod_sandbox_status(request).await?.into_inner().status.expect("a status").state())
}
