//! What is kept on disk of pods and containers: one self-describing record each, rebuilt into memory by scanning.
//!
//! A record says what was *asked* and how far we *came*; what is true now the kernel and the monitors say. What a
//! reboot makes meaningless carries the boot id it belongs to.

use std::{path::PathBuf, sync::Arc, time::SystemTime};

use disk::Store;
use engine::{Backend, LaunchPlan};
use model::{ContainerId, ContainerPlan, PodId, PodPlan};
use network::{Attachment, Choice};
use serde::{Deserialize, Serialize};

use crate::{error::Error, monitor_process::MonitorProcess, view::ImageNames};

/// Version of both records' form. A newer one on disk is refused, never misread.
const VERSION: u32 = 1;

/// How far a pod has come.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum PodStage {
    /// Being made: whoever finds this after a crash takes everything back.
    Making,
    /// Acknowledged, and to be kept running.
    Ready,
    /// A stop has begun, or what held the pod together is gone: only stop and remove are left.
    Stopping,
    /// Nothing of it runs and all it borrowed is given back.
    Stopped,
}

/// A pod sandbox on disk.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct PodRecord {
    pub(crate) id: PodId,
    pub(crate) plan: Arc<PodPlan>,
    pub(crate) created_at: SystemTime,
    pub(crate) stage: PodStage,
    /// The boot that `netns`, `monitor` and `init_pid` belong to.
    pub(crate) boot: String,
    pub(crate) netns: Option<PathBuf>,
    /// Its networks, decided before anything was done in any of them.
    #[serde(default)]
    pub(crate) choice: Choice,
    pub(crate) attachment: Option<Arc<Attachment>>,
    /// The pod's cgroup, as the engine names it.
    pub(crate) cgroup: Option<engine::PodCgroup>,
    pub(crate) monitor: Option<MonitorProcess>,
    pub(crate) init_pid: Option<i32>,
    /// What a failed stop or run left to be done, for people.
    pub(crate) trouble: Option<String>,
}

impl PodRecord {
    /// The pod's init has ended by itself, and the kernel has ended all that shared its processes: no container can be
    /// made in the pod any more as it was asked for.
    pub(crate) fn lose_init(&mut self) {
        self.init_pid = None;
        if self.stage == PodStage::Ready {
            self.stage = PodStage::Stopping;
            self.trouble = Some("its init ended, and with it the containers that share its processes".to_owned());
        }
    }
}

/// A container on disk.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct ContainerRecord {
    pub(crate) id: ContainerId,
    pub(crate) pod: PodId,
    pub(crate) plan: Arc<ContainerPlan>,
    pub(crate) created_at: SystemTime,
    /// The boot in which its processes live.
    pub(crate) boot: String,
    /// What is known once it has been made; `None` while it is being made.
    pub(crate) made: Option<Made>,
}

/// The part of a container that exists once it has been made.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Made {
    pub(crate) image: ImageNames,
    pub(crate) launch: Arc<LaunchPlan>,
    /// What runs it. Records of releases that knew this engine alone do not say.
    #[serde(default)]
    pub(crate) backend: Arc<Backend>,
    pub(crate) log_path: Option<PathBuf>,
}

/// The small, often rewritten part of a container: its phase.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct PhaseRecord {
    pub(crate) phase: model::Phase,
}

/// The three stores.
#[derive(Debug)]
pub(crate) struct Records {
    pub(crate) pods: Store<PodRecord>,
    pub(crate) containers: Store<ContainerRecord>,
    pub(crate) phases: Store<PhaseRecord>,
}

impl Records {
    /// Opens (and makes) the stores below `root`.
    pub(crate) fn open(root: &std::path::Path) -> Result<Self, Error> {
        let at = |kind: &str| root.join("records").join(kind);
        let failed = |path: PathBuf| {
            move |error: disk::Error| Error::file("open the records in", path, std::io::Error::other(error))
        };
        Ok(Self {
            pods: Store::open(&at("pods"), "pod", VERSION).map_err(failed(at("pods")))?,
            containers: Store::open(&at("containers"), "container", VERSION).map_err(failed(at("containers")))?,
            phases: Store::open(&at("phases"), "phase", VERSION).map_err(failed(at("phases")))?,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_record_that_does_not_say_what_runs_its_container_is_of_this_engine() {
        let launch: LaunchPlan = serde_json::from_str(include_str!("../engine/tests/golden/plain.json")).unwrap();
        let image = ImageNames { id: model::Digest::from_sha256([0; 32]), tag: None, digest: None };
        let made =
            Made { image, launch: launch.into(), log_path: None, backend: Backend::Oci("/bin/other".into()).into() };
        let mut written = serde_json::to_value(&made).unwrap();
        let read: Made = serde_json::from_value(written.clone()).unwrap();
        assert_eq!(read.backend, made.backend);
        written.as_object_mut().unwrap().remove("backend");
        let read: Made = serde_json::from_value(written).unwrap();
        assert_eq!(*read.backend, Backend::Native);
    }
}
