//! What this room is given, and how it opens.

use std::{os::fd::OwnedFd, path::PathBuf, sync::Arc};

use engine::{Engine, RuntimeConfig};
use fault::{Faults, Steps};
use images::Images;
use link::Launcher;
use network::Network;
use tokio::sync::watch;

use crate::{
    bundles,
    error::Error,
    exec::Budget,
    home::{BUNDLES, Home},
    index::Index,
    launcher::LauncherKeeper,
    log_file::FreshLogs,
    record::Records,
    trash::TrashBin,
};

/// The rooms that pods stand on.
pub struct Rooms {
    /// Containers.
    pub engine: Arc<Engine>,
    /// Images.
    pub images: Arc<Images>,
    /// Networks.
    pub network: Network,
    /// The monitor program, in a sealed memfd.
    pub monitor_program: OwnedFd,
    /// Where it is told which launcher there is, for those who want programs run.
    pub launcher: watch::Sender<Option<Launcher>>,
}

/// Settings of this room.
#[derive(Debug, Clone)]
pub struct Config {
    /// Directory of what survives a reboot.
    pub root: PathBuf,
    /// Directory of what does not.
    pub state: PathBuf,
    /// Runtime handlers that pods may name.
    pub handlers: RuntimeConfig,
    /// Faults to inject; none in ordinary life.
    pub faults: Faults,
}

/// Makes the directories and opens the records.
pub(crate) async fn open(rooms: Rooms, config: Config) -> Result<Arc<Home>, Error> {
    use std::os::unix::fs::DirBuilderExt;
    let Config { root, state, handlers, faults } = config;
    let bundles = state.join(BUNDLES);
    for dir in [root.join("containers"), root.join("records"), state.join("pods"), bundles.clone()] {
        // Containers' layers hold other people's set-uid programs: nobody but root passes through here.
        let made = std::fs::DirBuilder::new().recursive(true).mode(0o700).create(&dir);
        made.map_err(|error| Error::file("make directory", dir, error))?;
    }
    if bundles::are_wanted(&handlers) {
        bundles::make_ready(&bundles)?;
    }
    let trash = root.join("trash");
    let trash_bin = TrashBin::start(trash.clone()).map_err(|error| Error::file("open the trash", trash, error))?;
    let flusher = disk::Flusher::start().map_err(|error| Error::file("start the flusher of", &root, error))?;
    let boot = kernel::clock::boot_id().map_err(|error| Error::file("read the boot id for", &state, error))?;
    Ok(Arc::new(Home {
        engine: rooms.engine,
        images: rooms.images,
        network: rooms.network,
        launcher: LauncherKeeper::start(rooms.monitor_program, &state, rooms.launcher).await?,
        records: Records::open(&root)?,
        flusher,
        trash_bin,
        index: Index::default(),
        steps: Steps::new(faults),
        handlers,
        root,
        state,
        boot,
        fresh_logs: FreshLogs::default(),
        outputs: Budget::default(),
        unread_containers: Default::default(),
        unread_images: Default::default(),
    }))
}
