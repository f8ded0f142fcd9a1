//! What every keeper needs: the rooms below, the records, the index, the launcher.

use std::{
    collections::BTreeSet,
    fs::File,
    io,
    os::fd::AsFd,
    path::PathBuf,
    sync::{Arc, Mutex, OnceLock, PoisonError},
};

use aws_lc_rs::rand;
use engine::{Engine, RuntimeConfig};
use fault::Steps;
use images::Images;
use link::{Monitor, News, RecordedExit};
use model::{Class, ContainerId, Digest, PodId};
use network::Network;
use tokio::sync::mpsc;

use crate::{
    error::Error,
    exec::Budget,
    index::Index,
    launcher::LauncherKeeper,
    log_file::FreshLogs,
    monitor_process::{self, MonitorProcess},
    record::{ContainerRecord, PhaseRecord, PodRecord, Records},
    step::Step,
    trash::TrashBin,
};

/// Name of the directory in the state that holds what other runtimes are told about containers.
pub(crate) const BUNDLES: &str = "bundles";

/// The shared ground of all keepers.
pub(crate) struct Home {
    pub(crate) engine: Arc<Engine>,
    pub(crate) images: Arc<Images>,
    pub(crate) network: Network,
    pub(crate) launcher: LauncherKeeper,
    pub(crate) records: Records,
    pub(crate) flusher: disk::Flusher,
    pub(crate) trash_bin: TrashBin,
    pub(crate) index: Index,
    pub(crate) steps: Steps,
    /// What runs the containers of which pods.
    pub(crate) handlers: RuntimeConfig,
    /// Survives reboots.
    pub(crate) root: PathBuf,
    /// Does not.
    pub(crate) state: PathBuf,
    /// Which boot this is.
    pub(crate) boot: String,
    /// Logs that may still be taken back.
    pub(crate) fresh_logs: FreshLogs,
    /// Room for the outputs of commands.
    pub(crate) outputs: Budget,
    /// Containers whose records cannot be read, as found at the start: nothing of them is touched.
    pub(crate) unread_containers: OnceLock<BTreeSet<String>>,
    /// Images of containers whose records cannot be read.
    pub(crate) unread_images: Mutex<Vec<images::Lease>>,
}

impl Home {
    /// 32 random bytes for an id.
    pub(crate) fn random(&self) -> [u8; 32] {
        let mut bytes = [0; 32];
        rand::fill(&mut bytes).expect("the kernel's random source cannot fail once the machine is up");
        bytes
    }

    /// What a pod keeps while it lives: its monitor's socket, exit records, hosts, hostname, resolv.conf.
    pub(crate) fn pod_dir(&self, id: &PodId) -> PathBuf {
        self.state.join("pods").join(id.as_str())
    }

    /// A container's writable layer and the storage of its image's volumes.
    pub(crate) fn container_dir(&self, id: &ContainerId) -> PathBuf {
        self.root.join("containers").join(id.as_str())
    }

    /// What another runtime is told about a container, and keeps of it.
    pub(crate) fn bundle_dir(&self, id: &ContainerId) -> PathBuf {
        self.bundles().join(id.as_str())
    }

    /// Where those are.
    pub(crate) fn bundles(&self) -> PathBuf {
        self.state.join(BUNDLES)
    }

    /// Where directories wait to be deleted, on the same filesystem as the writable layers.
    pub(crate) fn trash(&self) -> PathBuf {
        self.root.join("trash")
    }
}

/// Descriptors that nothing new may take: a stop or removal opens a few at a time, and several of them may be under
/// way.
const KEPT_DESCRIPTORS: u64 = 128;

impl Home {
    /// Refuses to begin something new while so few descriptors are left that ending what is there could fail for want
    /// of one.
    pub(crate) fn room_for_more(&self) -> Result<(), Error> {
        let left =
            kernel::descriptor::left().map_err(|error| Error::file("count the descriptors of", "/proc/self", error))?;
        if left < KEPT_DESCRIPTORS { Err(Error::FewDescriptors { left }) } else { Ok(()) }
    }
}

impl Home {
    /// Whether there is a record of this container that cannot be read.
    pub(crate) fn is_unread(&self, container: &ContainerId) -> bool {
        self.unread_containers.get().is_some_and(|unread| unread.contains(container.as_str()))
    }

    /// Keeps an image's layers for as long as the daemon lives.
    pub(crate) fn keep_image(&self, id: &Digest) {
        match self.images.lease_by_id(id) {
            Ok(leased) => self.unread_images.lock().unwrap_or_else(PoisonError::into_inner).push(leased.lease),
            Err(error) => tracing::error!(image = %id, %error, "the image of a container that is left as it is"),
        }
    }
}

/// Records and directories of pods and containers, each act safe to repeat.
impl Home {
    /// Runs work that blocks in the kernel, away from the threads that answer calls.
    pub(crate) async fn blocking<T: Send + 'static>(&self, work: impl FnOnce() -> T + Send + 'static) -> T {
        match tokio::task::spawn_blocking(work).await {
            Ok(done) => done,
            // The work panicked, which ends the process (panic = abort); or the runtime is going away with us.
            Err(_) => std::future::pending().await,
        }
    }

    /// Writes a pod's record, on the thread that asks.
    pub(crate) fn put_pod(&self, record: &PodRecord) -> Result<(), Error> {
        let (store, name) = (&self.records.pods, record.id.as_str());
        store.put_soon(name, record, &self.flusher).map_err(|error| unwritten(store.path(name), error))
    }

    /// Writes a container's record, on the thread that asks.
    pub(crate) fn put_container(&self, record: &ContainerRecord) -> Result<(), Error> {
        let (store, name) = (&self.records.containers, record.id.as_str());
        store.put_soon(name, record, &self.flusher).map_err(|error| unwritten(store.path(name), error))
    }

    /// Writes a container's phase, on the thread that asks.
    pub(crate) fn put_phase(&self, id: &ContainerId, phase: &PhaseRecord) -> Result<(), Error> {
        let (store, name) = (&self.records.phases, id.as_str());
        store.put_soon(name, phase, &self.flusher).map_err(|error| unwritten(store.path(name), error))
    }

    pub(crate) async fn save_pod(self: &Arc<Self>, record: &PodRecord) -> Result<(), Error> {
        let (home, record) = (self.clone(), record.clone());
        self.blocking(move || home.put_pod(&record)).await
    }

    pub(crate) async fn forget_pod(self: &Arc<Self>, id: &PodId) -> Result<(), Error> {
        let (home, id) = (self.clone(), id.clone());
        self.blocking(move || {
            let (store, name) = (&home.records.pods, id.as_str());
            store.remove_soon(name, &home.flusher).map_err(|error| unwritten(store.path(name), error))
        })
        .await
    }

    pub(crate) async fn save_container(self: &Arc<Self>, record: &ContainerRecord) -> Result<(), Error> {
        let (home, record) = (self.clone(), record.clone());
        self.blocking(move || home.put_container(&record)).await
    }

    pub(crate) async fn forget_container(self: &Arc<Self>, id: &ContainerId) -> Result<(), Error> {
        let (home, id) = (self.clone(), id.clone());
        self.blocking(move || {
            let (phases, containers, name) = (&home.records.phases, &home.records.containers, id.as_str());
            phases.remove_soon(name, &home.flusher).map_err(|error| unwritten(phases.path(name), error))?;
            containers.remove_soon(name, &home.flusher).map_err(|error| unwritten(containers.path(name), error))
        })
        .await
    }

    /// How a container ended, by what its monitor wrote before it told anybody: what is left of a monitor that died.
    /// `None` when it wrote nothing, or nothing that can be read.
    pub(crate) fn recorded_exit(&self, pod: &PodId, container: &ContainerId) -> Option<RecordedExit> {
        let path = self.pod_dir(pod).join(link::exit_record_name(container));
        let bytes = match std::fs::read(&path) {
            Ok(bytes) => bytes,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return None,
            Err(error) => {
                tracing::error!(path = %path.display(), %error, "read an exit record");
                return None;
            }
        };
        match disk::decode(link::EXIT_RECORD_KIND, link::EXIT_RECORD_VERSION, &bytes) {
            Ok(exit) => Some(exit),
            Err(error) => {
                tracing::error!(path = %path.display(), %error, "an exit record that cannot be read");
                None
            }
        }
    }

    pub(crate) async fn remove_pod_dir(self: &Arc<Self>, id: &PodId) -> Result<(), Error> {
        let dir = self.pod_dir(id);
        self.blocking(move || match std::fs::remove_dir_all(&dir) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => Err(Error::file("delete", dir, error)),
            _ => Ok(()),
        })
        .await
    }

    /// A monitor for the pod, and the conversation with it. One that was forked and cannot be talked to is killed.
    pub(crate) async fn spawn_monitor(
        &self,
        id: &PodId,
    ) -> Result<(Monitor, Option<MonitorProcess>, mpsc::UnboundedReceiver<News>), Error> {
        let path = self.pod_dir(id);
        let pid = self.launcher.spawn_monitor(id, &path).await?;
        // Just forked, so the number is still its own.
        let process = MonitorProcess::of(pid);
        let connected = match File::open(&path) {
            Ok(dir) => Monitor::connect(dir.as_fd()).await.map_err(|e| Error::at(Step::RunMonitor, e.class(), e)),
            Err(error) => Err(Error::file("open", path.clone(), error)),
        };
        match connected {
            Ok((monitor, _, news)) => Ok((monitor, process, news)),
            Err(error) => {
                if let Err(stuck) = monitor_process::end(process, &path).await {
                    tracing::error!(pod = %id, %stuck, "end a monitor that cannot be talked to");
                }
                Err(error)
            }
        }
    }
}

fn unwritten(path: PathBuf, error: disk::Error) -> Error {
    // Any kind that has the same class: the text is the record's own.
    let kind = if error.class() == Class::Exhausted { io::ErrorKind::StorageFull } else { io::ErrorKind::Other };
    Error::file("write the record", path, io::Error::new(kind, error))
}
