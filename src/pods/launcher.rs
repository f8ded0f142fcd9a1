//! Keeps the node's launcher at hand: finds the one that runs, starts one when none does.

use std::{
    os::fd::{AsFd, OwnedFd},
    path::Path,
    sync::{Mutex as StdMutex, PoisonError},
};

use futures_util::FutureExt;
use link::Launcher;
use model::{Class, PodId, with_causes};
use tokio::sync::{Mutex, watch};

use crate::{error::Error, monitor_process, program::Program, step::Step};

/// The launcher, and how to get another.
pub(crate) struct LauncherKeeper {
    program: Program,
    /// Directory of the launcher's socket.
    state: OwnedFd,
    current: Mutex<Option<Launcher>>,
    /// Tells those who want programs run which one it is.
    tell: watch::Sender<Option<Launcher>>,
    /// Why the last attempt to have a launcher failed, if it did.
    trouble: StdMutex<Option<String>>,
}

impl LauncherKeeper {
    /// Finds or starts the launcher whose socket is in `state`.
    pub(crate) async fn start(
        program: OwnedFd,
        state: &Path,
        tell: watch::Sender<Option<Launcher>>,
    ) -> Result<Self, Error> {
        let dir = std::fs::File::open(state).map_err(|error| Error::file("open", state, error))?;
        let program =
            Program::new(program).map_err(|error| Error::file("read the monitor program for", state, error))?;
        let keeper = Self { program, state: dir.into(), current: Mutex::new(None), tell, trouble: StdMutex::default() };
        keeper.launcher().await?;
        Ok(keeper)
    }

    /// What launcher and monitors are to run.
    pub(crate) fn program(&self) -> &Program {
        &self.program
    }

    /// Why no launcher could be had when one was last wanted. Waits for nobody.
    pub(crate) fn trouble(&self) -> Option<String> {
        self.trouble.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Sees to it that there is a launcher, unless somebody does so already.
    pub(crate) async fn look_after(&self) {
        if let Ok(mut current) = self.current.try_lock() {
            // What comes of it is in `trouble`.
            let _ = self.renewed(&mut current).await;
        }
    }

    /// The launcher, started anew when it died.
    async fn launcher(&self) -> Result<Launcher, Error> {
        let mut current = self.current.lock().await;
        self.renewed(&mut current).await
    }

    async fn renewed(&self, current: &mut Option<Launcher>) -> Result<Launcher, Error> {
        let found = self.alive(current).await;
        let trouble = found.as_ref().err().map(|error| with_causes(error));
        *self.trouble.lock().unwrap_or_else(PoisonError::into_inner) = trouble;
        found
    }

    async fn alive(&self, current: &mut Option<Launcher>) -> Result<Launcher, Error> {
        let failed = |error: link::Error| Error::at(Step::RunMonitor, error.class(), error);
        if let Some(launcher) = current.as_ref().filter(|launcher| launcher.closed().now_or_never().is_none()) {
            return Ok(launcher.clone());
        }
        let found = match Launcher::connect(self.state.as_fd()).await {
            Ok(found) if found.program() == self.program.name => Some(found),
            Ok(other) => {
                tracing::info!("the launcher is of another release: it is replaced (running pods are not touched)");
                self.end().await?;
                other.closed().await;
                None
            }
            Err(error) => {
                if error.is_silent() {
                    self.end_silent().await?;
                } else if current.is_some() {
                    tracing::warn!("the launcher died; starting another (running pods are not touched)");
                }
                None
            }
        };
        let launcher = match found {
            Some(found) => found,
            None => {
                let Program { file, name } = &self.program;
                Launcher::start(file, name, self.state.as_fd()).await.map_err(failed)?
            }
        };
        self.tell.send_replace(Some(launcher.clone()));
        *current = Some(launcher.clone());
        Ok(launcher)
    }

    /// Has a monitor forked for a pod, listening in `pod_dir`. Answers its process.
    pub(crate) async fn spawn_monitor(&self, pod: &PodId, pod_dir: &Path) -> Result<i32, Error> {
        let dir = std::fs::File::open(pod_dir).map_err(|error| Error::file("open", pod_dir, error))?;
        let launcher = self.launcher().await?;
        match launcher.spawn_monitor(pod, dir.as_fd()).await {
            Ok(pid) => Ok(pid),
            // It died under our hands, or must not do later what nobody waits for any more: a new one may do it.
            Err(error) if error.is_lost() || error.is_silent() => {
                if error.is_silent() {
                    self.end_silent().await?;
                    launcher.closed().await;
                }
                let launcher = self.launcher().await?;
                launcher
                    .spawn_monitor(pod, dir.as_fd())
                    .await
                    .map_err(|error| Error::at(Step::RunMonitor, Class::Unavailable, error))
            }
            Err(error) => Err(Error::at(Step::RunMonitor, error.class(), error)),
        }
    }

    /// Kills a launcher that lives and does not answer.
    async fn end_silent(&self) -> Result<(), Error> {
        tracing::error!("the launcher does not answer: it is killed (running pods are not touched)");
        self.end().await
    }

    /// Kills the launcher, if there is one. Nobody misses it: monitors live on.
    async fn end(&self) -> Result<(), Error> {
        match Launcher::process(self.state.as_fd()) {
            Ok(handle) => monitor_process::kill(handle).await.map(|_| ()),
            Err(link::Error::Absent { .. }) => Ok(()),
            Err(error) => Err(Error::at(Step::RunMonitor, error.class(), error)),
        }
    }

    /// The daemon stops cleanly: the launcher may go once no pod is left.
    pub(crate) async fn retire(&self) {
        if let Some(launcher) = self.current.lock().await.as_ref()
            && let Err(error) = launcher.retire().await
        {
            tracing::debug!(%error, "retire the launcher");
        }
    }
}
