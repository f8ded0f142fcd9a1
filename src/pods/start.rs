//! Starts a container: lets the process that waits just before `exec` go on.

use std::{sync::Arc, time::SystemTime};

use engine::LaunchPlan;
use model::ContainerId;

use crate::{error::Error, home::Home, run::Sandbox, step::Step};

/// Answers when the program has begun. After [`Error::MonitorGone`] it may have; it is safe to ask again.
pub(crate) async fn start(
    home: &Arc<Home>,
    sandbox: &Sandbox,
    id: &ContainerId,
    launch: &Arc<LaunchPlan>,
) -> Result<SystemTime, Error> {
    match sandbox.monitor.start(id).await {
        Ok(at) => Ok(at),
        Err(error @ link::Error::Refused { .. }) => {
            let why = lacked_memory(home, launch).await.map_or_else(|| error.to_string(), |lacked| lacked.to_string());
            Err(Error::StartFailed { container: id.short().to_owned(), why })
        }
        Err(error) if error.is_lost() => Err(Error::MonitorGone { pod: sandbox.id.to_string() }),
        Err(error) => Err(Error::at(Step::StartExec, error.class(), error)),
    }
}

/// Whether a container that did not come as far as its program was killed for want of memory: then that is the reason
/// to tell, and not the signal. Its cgroup is still there, since nobody has been told of its end yet.
pub(crate) async fn lacked_memory(home: &Arc<Home>, launch: &Arc<LaunchPlan>) -> Option<engine::Error> {
    let (engine, launch) = (home.engine.clone(), launch.clone());
    home.blocking(move || engine.lacked_memory(&launch)).await
}
