//! What anyone may know of pods and containers without asking their keeper: immutable, replaced as a whole.

use std::{
    net::IpAddr,
    path::PathBuf,
    sync::{Arc, OnceLock},
    time::SystemTime,
};

use bytes::Bytes;
use engine::LaunchPlan;
use model::{ContainerId, ContainerPlan, Digest, Exit, Phase, PodId, PodPlan, Signal};
use network::{Attachment, Choice};
use serde::{Deserialize, Serialize};

/// A pod sandbox as it is now.
#[derive(Debug, Clone)]
pub struct PodView {
    /// Its id.
    pub id: PodId,
    /// What was asked.
    pub plan: Arc<PodPlan>,
    /// When it was accepted.
    pub created_at: SystemTime,
    /// Whether containers can be made in it.
    pub ready: bool,
    /// Its addresses and what its networks made of it; kept after a stop, for people.
    pub attachment: Option<Arc<Attachment>>,
    /// The networks that were chosen for it.
    pub choice: Choice,
    /// Its network namespace, while it has one of its own.
    pub netns: Option<PathBuf>,
    /// Its monitor.
    pub monitor_pid: Option<i32>,
    /// Its init process, where the pod shares its pid namespace.
    pub init_pid: Option<i32>,
    /// Its containers, oldest first.
    pub containers: Vec<Arc<ContainerView>>,
    /// What is wrong with it, if anything: what a stop or remove still has to finish.
    pub trouble: Option<String>,
}

impl PodView {
    /// Its addresses, the primary one first.
    pub fn ips(&self) -> &[IpAddr] {
        self.attachment.as_ref().map_or(&[], |attachment| &attachment.ips)
    }
}

/// The image of a container under all its names. Kept as text, since the image may be deleted before the container.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ImageNames {
    /// The image's id.
    pub id: Digest,
    /// One of its tags.
    pub tag: Option<String>,
    /// One of its digest references.
    pub digest: Option<String>,
}

/// A container as it is now.
#[derive(Debug, Clone)]
pub struct ContainerView {
    /// Its id.
    pub id: ContainerId,
    /// Its pod.
    pub pod: PodId,
    /// What was asked.
    pub plan: Arc<ContainerPlan>,
    /// Its image.
    pub image: ImageNames,
    /// When it was accepted.
    pub created_at: SystemTime,
    /// Where it is in its life.
    pub phase: Phase,
    /// Its log, absolute; `None` keeps none.
    pub log_path: Option<PathBuf>,
    /// What it was launched from.
    pub launch: Arc<LaunchPlan>,
    /// Why it has not ended though it was to.
    pub trouble: Option<String>,
    /// What a list tells of it.
    pub listed: Encoded,
}

/// What a door has made of a view for its callers. It is made once, since a view is never changed; a copy has none,
/// since it may be.
#[derive(Debug, Default)]
pub struct Encoded(OnceLock<Bytes>);

impl Encoded {
    /// It, made now if nobody has asked before.
    pub fn get_or_make(&self, make: impl FnOnce() -> Vec<u8>) -> Bytes {
        self.0.get_or_init(|| make().into()).clone()
    }
}

impl Clone for Encoded {
    fn clone(&self) -> Self {
        Self::default()
    }
}

impl ContainerView {
    /// One CamelCase word for why it is not running: `Completed`, `Error`, `OOMKilled`, `StartError`, `Unknown`.
    pub fn reason(&self) -> &'static str {
        match &self.phase {
            Phase::Exited { record, .. } => match &record.how {
                Exit::StartFailed { .. } => "StartError",
                Exit::Unknown { .. } => "Unknown",
                _ if record.oom_killed && record.how.code() == 137 => "OOMKilled",
                Exit::Code(0) => "Completed",
                Exit::Code(_) | Exit::Signal(_) => "Error",
            },
            Phase::Created | Phase::Running { .. } | Phase::Unsettled { .. } => "",
        }
    }

    /// What to tell people beside the reason; empty on an ordinary life and an ordinary exit.
    pub fn message(&self) -> &str {
        match &self.phase {
            Phase::Exited { record, .. } => match &record.how {
                Exit::StartFailed { why } | Exit::Unknown { why } => why,
                Exit::Code(_) | Exit::Signal(_) => "",
            },
            _ => self.trouble.as_deref().unwrap_or_default(),
        }
    }

    /// Process id of its first process, while it runs.
    pub fn pid(&self) -> Option<i32> {
        match self.phase {
            Phase::Running { pid, .. } => Some(pid),
            _ => None,
        }
    }

    /// The signal of a polite stop.
    pub fn stop_signal(&self) -> Signal {
        self.launch.stop_signal
    }
}
