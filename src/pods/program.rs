//! The monitor program, and how monitors of other releases come to run it.
//!
//! A daemon that has been upgraded finds monitors that were started from another program, by another daemon. Each is
//! asked to go on as the new one, in place: its pod notices nothing. One that is busy is asked again; one that refuses
//! to the end keeps its program, which the link's rules allow for, until the next start of a daemon.

use std::{
    fs::File,
    io::{self, Read, Seek},
    os::fd::OwnedFd,
    sync::Arc,
    time::Duration,
};

use aws_lc_rs::digest;
use link::Monitor;
use model::PodId;

use crate::home::Home;

/// What is waited for before each try.
const PAUSES: [Duration; 5] = [
    Duration::ZERO,
    Duration::from_millis(100),
    Duration::from_secs(1),
    Duration::from_secs(10),
    Duration::from_secs(60),
];

/// The monitor program in a sealed memfd: no container can reach or change what is executed.
pub(crate) struct Program {
    pub(crate) file: OwnedFd,
    /// The SHA-256 of its bytes: what launchers and monitors say in their greetings.
    pub(crate) name: String,
}

impl Program {
    pub(crate) fn new(file: OwnedFd) -> io::Result<Self> {
        let mut bytes = File::from(file);
        let mut context = digest::Context::new(&digest::SHA256);
        let mut buffer = vec![0; 64 * 1024];
        loop {
            match bytes.read(&mut buffer)? {
                0 => break,
                length => context.update(&buffer[..length]),
            }
        }
        bytes.rewind()?;
        let name = context.finish().as_ref().iter().map(|byte| format!("{byte:02x}")).collect();
        Ok(Self { file: bytes.into(), name })
    }
}

/// Has a monitor that runs another program go on as ours.
pub(crate) async fn renew(home: Arc<Home>, pod: PodId, monitor: Monitor) {
    let program = home.launcher.program();
    for pause in PAUSES {
        tokio::time::sleep(pause).await;
        match monitor.replace(&program.file, &program.name).await {
            Ok(()) => return tracing::info!(%pod, "the pod's monitor runs this release's program now"),
            Err(error @ link::Error::Refused { .. }) => {
                tracing::debug!(%pod, %error, "replace the program of the pod's monitor");
            }
            Err(error) => return tracing::warn!(%pod, %error, "replace the program of the pod's monitor"),
        }
    }
    tracing::warn!(%pod, "the pod's monitor keeps the program of another release until the daemon's next start");
}
