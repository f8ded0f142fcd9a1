//! Starts a container: lets the process that waits just before `exec` go on.

use std::time::SystemTime;

use model::ContainerId;

use crate::{error::Error, run::Sandbox, step::Step};

/// Answers when the program has begun. After [`Error::MonitorGone`] it may have; it is safe to ask again.
pub(crate) async fn start(sandbox: &Sandbox, id: &ContainerId) -> Result<SystemTime, Error> {
    sandbox.monitor.start(id).await.map_err(|error| match error {
        link::Error::Refused { .. } => Error::StartFailed { container: id.short().to_owned(), why: error.to_string() },
        error if error.is_lost() => Error::MonitorGone { pod: sandbox.id.to_string() },
        error => Error::at(Step::StartExec, error.class(), error),
    })
}
