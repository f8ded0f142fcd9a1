//! `<state>/bundles`, where other runtimes find their containers: a mount of its own for as long as one may need it.
//!
//! What a runtime's child places below it has to stay in that child's copy of the mounts, so it is a private mount. It
//! is made at the start of a daemon that has a handler, and outlives the daemon while containers of another runtime do.
//! It is taken back when the daemon leaves, or starts without a handler, and nothing of another runtime is left.

use std::{path::Path, sync::Arc};

use engine::{Backend, RuntimeConfig};

use crate::{error::Error, home::Home};

/// Makes it fit for a handler's containers. Safe to repeat.
pub(crate) fn make_ready(dir: &Path) -> Result<(), Error> {
    engine::make_private(dir).map_err(|error| Error::file("make ready", dir, std::io::Error::other(error)))
}

/// Takes the mount back, unless something of another runtime is left or could yet be made.
pub(crate) async fn let_go(home: &Arc<Home>) {
    let is_native = |handler: &str| matches!(home.handlers.backend(handler), Ok(Backend::Native));
    // Of a handler that is not configured any more, too.
    if home.index.pods().iter().any(|pod| !is_native(&pod.plan.runtime_handler)) {
        return;
    }
    let dir = home.bundles();
    let gone = home.blocking(move || {
        // Of containers that no pod in sight has, as those whose records cannot be read.
        match std::fs::read_dir(&dir).map(|mut entries| entries.next().is_none()) {
            Ok(true) => engine::unmake_private(&dir),
            _ => Ok(()),
        }
    });
    if let Err(error) = gone.await {
        tracing::warn!(error = &error as &(dyn std::error::Error + 'static), "take back the mount of the bundles");
    }
}

/// Whether containers of another runtime may be made.
pub(crate) fn are_wanted(handlers: &RuntimeConfig) -> bool {
    !handlers.handlers.is_empty()
}
