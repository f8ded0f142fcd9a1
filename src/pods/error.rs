//! Everything that can go wrong with a pod or container, as whoever asked must hear it.

use std::{io, path::PathBuf, sync::Arc};

use model::Class;

use crate::step::Step;

/// Why an act on a pod or container did not happen.
#[derive(Debug, Clone, thiserror::Error)]
pub enum Error {
    /// No pod sandbox has this id or prefix.
    #[error("pod sandbox {id:?} does not exist")]
    NoPod {
        /// As the caller gave it.
        id: String,
    },
    /// No container has this id or prefix.
    #[error("container {id:?} does not exist")]
    NoContainer {
        /// As the caller gave it.
        id: String,
    },
    /// Several ids begin like this.
    #[error("id prefix {prefix:?} is ambiguous: {count} {what} begin with it")]
    Ambiguous {
        /// As the caller gave it.
        prefix: String,
        /// `pod sandboxes` or `containers`.
        what: &'static str,
        /// How many match.
        count: usize,
    },
    /// The name belongs to another object that is not the same request.
    #[error("name {name:?} is reserved for {id}, which {why}")]
    NameTaken {
        /// The reserved name.
        name: String,
        /// Who has it.
        id: String,
        /// What keeps the request from having it too.
        why: String,
    },
    /// The object's phase does not allow this.
    #[error("{what} {id} is {phase}, and must be {wanted}")]
    WrongPhase {
        /// `pod sandbox` or `container`.
        what: &'static str,
        /// Its id.
        id: String,
        /// Where it is in its life.
        phase: &'static str,
        /// Where it would have to be.
        wanted: &'static str,
    },
    /// The pod is being removed, or the daemon is going away: ask again.
    #[error("pod sandbox {id} is going away")]
    Gone {
        /// Its id.
        id: String,
    },
    /// The command did not end in the time it was given, and was killed with all it had started.
    #[error("a command in container {container} timed out after {seconds} s and was killed")]
    ExecTimedOut {
        /// Id of the container. Not a word of the command: it may hold a secret, and errors are logged.
        container: String,
        /// The time it was given.
        seconds: f32,
    },
    /// The program of a container could not be started.
    #[error("start container {container}: {why}")]
    StartFailed {
        /// Its id.
        container: String,
        /// The step and the kernel's reason.
        why: String,
    },
    /// A step failed in the room that does it; what was done before it has been undone.
    #[error("{step}")]
    Step {
        /// Which.
        step: Step,
        /// What the caller may do about it.
        class: Class,
        /// The room's own error.
        source: Arc<dyn std::error::Error + Send + Sync>,
    },
    /// So few descriptors are left that nothing new is begun: ending what is there needs them.
    #[error("the daemon has {left} file descriptors left, and keeps them for stopping and removing")]
    FewDescriptors {
        /// How many more it may open.
        left: u64,
    },
    /// The container keeps no log that could be opened again.
    #[error("container {container} keeps no log")]
    NoLog {
        /// Its id.
        container: String,
    },
    /// The pod's monitor does not answer any more.
    #[error("monitor of pod sandbox {pod} is gone")]
    MonitorGone {
        /// The pod's id.
        pod: String,
    },
    /// A monitor, or the launcher, that was killed has not gone: the kernel holds it.
    #[error("the process has not ended for {seconds} s after it was killed")]
    ProcessStuck {
        /// How long it was waited for.
        seconds: u64,
    },
    /// A record or file of ours could not be written or read.
    #[error("{act} {}", path.display())]
    File {
        /// What was being done.
        act: &'static str,
        /// To what.
        path: PathBuf,
        /// The kernel's reason.
        source: Arc<io::Error>,
    },
}

impl Error {
    /// What the caller may do about it; `cri` turns this into a gRPC code.
    pub fn class(&self) -> Class {
        match self {
            Error::NoPod { .. } | Error::NoContainer { .. } => Class::NotFound,
            Error::Ambiguous { .. } => Class::Invalid,
            Error::NameTaken { .. } => Class::Conflict,
            Error::WrongPhase { .. } | Error::NoLog { .. } => Class::Precondition,
            Error::Gone { .. } | Error::MonitorGone { .. } | Error::ProcessStuck { .. } => Class::Unavailable,
            Error::ExecTimedOut { .. } => Class::TimedOut,
            Error::FewDescriptors { .. } => Class::Exhausted,
            Error::File { source, .. } => Class::of_kernel(source),
            Error::StartFailed { .. } => Class::Internal,
            Error::Step { class, .. } => *class,
        }
    }

    /// `source` met while doing `step`.
    pub(crate) fn at(
        step: Step,
        class: Class,
        source: impl Into<Box<dyn std::error::Error + Send + Sync + 'static>>,
    ) -> Self {
        Error::Step { step, class, source: Arc::from(source.into()) }
    }

    pub(crate) fn file(act: &'static str, path: impl Into<PathBuf>, source: io::Error) -> Self {
        Error::File { act, path: path.into(), source: Arc::new(source) }
    }
}
