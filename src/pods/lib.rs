//! Pods and their containers: who owns them, what they may do next, and how they are found again after a crash.
//!
//! One keeper task per pod owns everything about it ([`keeper`]); readers see immutable views ([`index`], [`view`]) and
//! are never blocked by a stuck pod. A multi-step act (`run`, `create`, `stop_pod`, `remove`) is a list of named steps
//! with an undo each ([`step`], [`undo`]); an intent is on disk before the act and the result after it ([`record`]),
//! and `recover` finishes at start what a crash cut short.
//! Never knows: the CRI, protobuf, how a namespace is made or a layer unpacked.

mod bundles;
mod config;
mod container;
mod create;
mod error;
mod exec;
mod home;
mod index;
mod keeper;
mod launcher;
mod log_file;
mod monitor_process;
mod pod_files;
mod program;
mod record;
mod recover;
mod remove;
mod run;
mod start;
mod step;
mod stop;
mod stop_pod;
mod trash;
mod undo;
mod view;
mod volume;

use std::{
    sync::Arc,
    time::{Duration, SystemTime},
};

use model::{ContainerId, ContainerPlan, PodId, PodPlan};
use network::{Living, Request};
use tokio::sync::{mpsc, oneshot};
use tokio_util::task::TaskTracker;

pub use config::{Config, Rooms};
pub use error::Error;
pub use exec::ExecOutput;
pub use step::Step;
pub use view::{ContainerView, Encoded, ImageNames, PodView};

use home::Home;
use index::Reserved;
use keeper::{Command, Keeper, MAILBOX, Mailbox, Reply};
use record::{PodRecord, PodStage};

/// Every pod of the node. Cheap to clone; all clones are the same.
#[derive(Clone)]
pub struct Pods {
    home: Arc<Home>,
    keepers: TaskTracker,
}

impl Pods {
    /// Opens the records, finds the launcher, and settles with the kernel what every pod and container is now.
    pub async fn start(rooms: Rooms, config: Config) -> Result<Self, Error> {
        let home = config::open(rooms, config).await?;
        let pods = Self { home, keepers: TaskTracker::new() };
        recover::recover(&pods).await?;
        if !bundles::are_wanted(&pods.home.handlers) {
            bundles::let_go(&pods.home).await;
        }
        Ok(pods)
    }

    /// Runs a pod sandbox. The same request again joins one under way, or answers with the pod that it made; whoever
    /// gives up waiting does not stop it.
    pub async fn run(&self, plan: PodPlan) -> Result<PodId, Error> {
        let plan = Arc::new(plan);
        let (mailbox, inbox) = mpsc::channel(MAILBOX);
        let id = PodId::from_random(self.home.random());
        let (reply, answer) = oneshot::channel();
        let owner = match self.home.index.reserve(&plan.metadata, &id, mailbox) {
            Reserved::New => {
                let record = PodRecord {
                    id: id.clone(),
                    plan: plan.clone(),
                    created_at: SystemTime::now(),
                    stage: PodStage::Making,
                    boot: self.home.boot.clone(),
                    netns: None,
                    choice: network::Choice::default(),
                    attachment: None,
                    cgroup: None,
                    monitor: None,
                    init_pid: None,
                    trouble: None,
                };
                self.keep(Keeper::for_new(self.home.clone(), record, reply), inbox);
                id
            }
            Reserved::Taken(owner) => {
                let gone = || Error::Gone { id: owner.to_string() };
                let mailbox = self.home.index.mailbox(&owner).ok_or_else(gone)?;
                mailbox.send(Command::Join { plan, reply }).await.map_err(|_| gone())?;
                owner
            }
        };
        answer.await.map_err(|_| Error::Gone { id: owner.to_string() })?
    }

    /// Stops a pod: ends its containers, gives back what it borrowed. Stopping what is stopped, or gone, is success.
    pub async fn stop(&self, id: &str) -> Result<(), Error> {
        self.settle(id, |reply| Command::Stop { reply }).await
    }

    /// Removes a pod and its containers, stopping it first. Removing what is gone is success.
    pub async fn remove(&self, id: &str) -> Result<(), Error> {
        self.settle(id, |reply| Command::Remove { reply }).await
    }

    /// Whether a pod could be given its monitor, as far as the last attempt tells, and why not. Waits for nobody; has
    /// the launcher looked after meanwhile, since a node that is not ready is asked for no pod that would do it.
    pub fn readiness(&self) -> Result<(), String> {
        let home = self.home.clone();
        self.keepers.spawn(async move { home.launcher.look_after().await });
        self.home.launcher.trouble().map_or(Ok(()), Err)
    }

    /// Every pod, from memory.
    pub fn list(&self) -> Vec<Arc<PodView>> {
        self.home.index.pods()
    }

    /// The pods that are in a network now, with all that says how they came to be there.
    pub fn living(&self) -> Vec<Living> {
        let ready = self.list().into_iter().filter(|pod| pod.ready && pod.attachment.is_some());
        ready
            .map(|pod| Living {
                pod: pod.id.clone(),
                choice: pod.choice.clone(),
                request: Request::from(&*pod.plan),
                attachment: pod.attachment.as_deref().cloned(),
            })
            .collect()
    }

    /// The pod with this id, or unambiguous prefix of one.
    pub fn find(&self, id: &str) -> Result<Arc<PodView>, Error> {
        self.home.index.pod(id)
    }

    /// Makes a container in a ready pod. The same request again joins one under way, or answers with what it made.
    pub async fn create(&self, pod: &str, plan: ContainerPlan) -> Result<ContainerId, Error> {
        let pod = self.find(pod)?.id.clone();
        let plan = Arc::new(plan);
        self.tell(&pod, |reply| Command::Create { plan, reply }).await
    }

    /// Starts a container that has never run. Returns when its program runs.
    pub async fn start_container(&self, id: &str) -> Result<(), Error> {
        let view = self.find_container(id)?;
        self.tell(&view.pod, |reply| Command::Start { container: view.id.clone(), reply }).await
    }

    /// Stops a container: its stop signal, `grace` to obey, then SIGKILL to all of it. Returns when its exit is
    /// recorded and its log is complete. A second call with less patience shortens the first one's.
    pub async fn stop_container(&self, id: &str, grace: Duration) -> Result<(), Error> {
        self.settle_container(id, |container, reply| Command::StopContainer { container, grace, reply }).await
    }

    /// Removes a container, killing it first if it runs. Its log stays: it belongs to the kubelet.
    pub async fn remove_container(&self, id: &str) -> Result<(), Error> {
        self.settle_container(id, |container, reply| Command::RemoveContainer { container, reply }).await
    }

    /// Every container, from memory.
    pub fn containers(&self) -> Vec<Arc<ContainerView>> {
        self.home.index.containers()
    }

    /// The container with this id, or unambiguous prefix of one.
    pub fn find_container(&self, id: &str) -> Result<Arc<ContainerView>, Error> {
        self.home.index.container(id)
    }

    /// Runs a command in a running container and waits for it, at most `timeout`.
    pub async fn exec_sync(
        &self,
        id: &str,
        argv: Vec<Vec<u8>>,
        timeout: Option<Duration>,
    ) -> Result<ExecOutput, Error> {
        let view = self.find_container(id)?;
        self.tell(&view.pod, |reply| Command::Exec { container: view.id.clone(), argv, timeout, reply }).await
    }

    /// Swaps the log of a running container for a new file, which exists on return.
    pub async fn reopen_log(&self, id: &str) -> Result<(), Error> {
        let view = self.find_container(id)?;
        self.tell(&view.pod, |reply| Command::ReopenLog { container: view.id.clone(), reply }).await
    }

    /// The daemon goes away cleanly: pods run on, the launcher may end once none is left.
    pub async fn leave(&self) {
        self.home.launcher.retire().await;
        bundles::let_go(&self.home).await;
        let home = self.home.clone();
        home.clone().blocking(move || home.flusher.settle()).await;
    }

    fn keep(&self, keeper: Keeper, inbox: mpsc::Receiver<Command>) {
        self.keepers.spawn(keeper.keep(inbox));
    }

    /// Asks the keeper of `pod`.
    async fn tell<T>(&self, pod: &PodId, command: impl FnOnce(Reply<T>) -> Command) -> Result<T, Error> {
        let mailbox = self.home.index.mailbox(pod).ok_or_else(|| Error::NoPod { id: pod.to_string() })?;
        self.ask(&mailbox, pod, command).await
    }

    async fn ask<T>(
        &self,
        mailbox: &Mailbox,
        pod: &PodId,
        command: impl FnOnce(Reply<T>) -> Command,
    ) -> Result<T, Error> {
        let gone = || Error::Gone { id: pod.to_string() };
        let (reply, answer) = oneshot::channel();
        mailbox.send(command(reply)).await.map_err(|_| gone())?;
        answer.await.map_err(|_| gone())?
    }

    /// Asks for an end: of a pod that does not exist, or whose keeper has just ended, the end has come already
    /// (CRI: StopPodSandbox and RemovePodSandbox are idempotent).
    async fn settle(&self, id: &str, command: impl FnOnce(Reply<()>) -> Command) -> Result<(), Error> {
        let pod = match self.find(id) {
            Ok(pod) => pod.id.clone(),
            Err(Error::NoPod { .. }) => return Ok(()),
            Err(error) => return Err(error),
        };
        match self.tell(&pod, command).await {
            Err(Error::Gone { .. } | Error::NoPod { .. }) => Ok(()),
            other => other,
        }
    }

    /// The same for a container (CRI: StopContainer and RemoveContainer are idempotent).
    async fn settle_container(
        &self,
        id: &str,
        command: impl FnOnce(ContainerId, Reply<()>) -> Command,
    ) -> Result<(), Error> {
        let view = match self.find_container(id) {
            Ok(view) => view,
            Err(Error::NoContainer { .. }) => return Ok(()),
            Err(error) => return Err(error),
        };
        match self.tell(&view.pod, |reply| command(view.id.clone(), reply)).await {
            Err(Error::Gone { .. } | Error::NoPod { .. }) => Ok(()),
            other => other,
        }
    }
}
