//! Looking whether the networks can take pods: now and then, when somebody asks, and when the directory has changed.
//!
//! The kubelet asks every five seconds and must never wait; whoever asks gets the last verdict, and an old one starts a
//! new look beside. A look mends the built-in bridge, and asks the plugins of the other networks (`STATUS`).

use std::{
    sync::{Arc, PoisonError, Weak},
    time::{Duration, Instant},
};

use model::with_causes;
use tokio::{runtime::Handle, sync::Notify};

use crate::{
    Error, Network, Readiness, Result,
    link::Links,
    network::{Inner, lock},
    thread,
};

/// How old a verdict may become before a new look is taken. The kubelet asks every five seconds.
const LOOK_AFTER: Duration = Duration::from_secs(4);

/// What the last look found.
#[derive(Debug, Default)]
pub(crate) struct Verdict {
    /// What is in the way, if anything.
    why_not: Option<String>,
    /// What an operator should know though it works.
    pub(crate) notes: Vec<String>,
}

impl Verdict {
    /// Before the plugins have been asked for the first time.
    pub(crate) fn not_asked() -> Self {
        Self { why_not: Some("the network's plugins have not been asked yet".into()), notes: Vec::new() }
    }

    pub(crate) fn readiness(&self) -> Readiness {
        match &self.why_not {
            None => Readiness::Ready,
            Some(why) => Readiness::NotReady { why: why.clone() },
        }
    }
}

impl Network {
    /// Starts a look when the last one is old. The task that looks is started by the first who asks.
    pub(crate) fn look_after(&self) {
        let mut state = self.inner.state();
        if state.dismantled {
            return;
        }
        if !state.is_looked_after {
            let Ok(runtime) = Handle::try_current() else { return };
            state.is_looked_after = true;
            runtime.spawn(look_when_asked(Arc::downgrade(&self.inner), self.inner.look.clone()));
            self.inner.look.notify_one();
        }
        if state.looked.elapsed() > LOOK_AFTER {
            // Not again for each who asks while it is looked.
            state.looked = Instant::now();
            self.inner.look.notify_one();
        }
    }
}

/// Ends with the network.
async fn look_when_asked(network: Weak<Inner>, asked: Arc<Notify>) {
    loop {
        asked.notified().await;
        let Some(inner) = network.upgrade() else { return };
        inner.look().await;
    }
}

impl Inner {
    /// One look, with its verdict.
    async fn look(self: &Arc<Self>) {
        let inner = self.clone();
        // What the watch cannot see.
        let read = thread::lent("read network configurations", move || {
            inner.read_again();
            Ok(())
        });
        // It cannot fail; a runtime that ends takes us along.
        let _ = read.await;
        let inner = self.clone();
        let ground = thread::lent("look at bridges and rules", move || {
            inner.restore_rules();
            Ok(inner.ground())
        });
        let Ok(mut verdict) = ground.await else { return };
        let chains = self.selection().chains().to_vec();
        // Nobody hears that all is well before the plugins have been asked, too.
        for chain in chains.iter().filter(|chain| !chain.builtin) {
            if verdict.why_not.is_some() {
                break;
            }
            let asked = chain.status(&self.tools.plugins).await;
            verdict.why_not =
                asked.err().map(|error| format!("network {:?}: {}", chain.list.name, with_causes(&error)));
        }
        self.judge(verdict);
    }

    /// Puts back what somebody has flushed of our rules.
    pub(crate) fn restore_rules(&self) {
        match self.tools.shared.host_ports.restore() {
            Ok(true) => tracing::warn!("somebody has flushed rules of host ports: they are put back"),
            Ok(false) => {}
            Err(error) => tracing::warn!(error = with_causes(&error), "look at the rules of host ports"),
        }
        match self.tools.shared.mac_spoof.restore() {
            Ok(true) => tracing::warn!("somebody has flushed what pods may send as: it is put back"),
            Ok(false) => {}
            Err(error) => tracing::warn!(error = with_causes(&error), "look at the rules of hardware addresses"),
        }
    }

    /// Reads the directory again, and looks at what can be seen at once.
    pub(crate) fn read_again(&self) {
        {
            // Beside: who wants a network does not wait for a slow disk.
            let _once = lock(&self.reading);
            let mut selection = self.selection().clone();
            if !selection.read_again() {
                return;
            }
            *self.selection.write().unwrap_or_else(PoisonError::into_inner) = selection;
        }
        let (names, faults) = {
            let selection = self.selection();
            let names: Vec<_> = selection.chains().iter().map(|chain| chain.list.name.clone()).collect();
            (names, selection.faults().to_vec())
        };
        tracing::info!(networks = ?names, "the network configuration has changed");
        for fault in faults {
            tracing::warn!(file = %fault.file.display(), why = fault.why, "a file gives no network");
        }
        self.judge_ground();
        self.look.notify_one();
    }

    /// Makes known what can be seen at once. That all is well is said only where there is no plugin to ask; otherwise
    /// what was said before holds until it has been.
    pub(crate) fn judge_ground(&self) {
        let mut verdict = self.ground();
        if verdict.why_not.is_none() && self.selection().chains().iter().any(|chain| chain.has_binaries()) {
            verdict.why_not.clone_from(&self.state().verdict.why_not);
        }
        self.judge(verdict);
    }

    /// What can be said without asking a plugin. Makes or mends the bridges that count.
    pub(crate) fn ground(&self) -> Verdict {
        let chains = self.selection().chains().to_vec();
        let mut verdict = Verdict::default();
        match chains.first() {
            None => verdict.why_not = Some(self.selection().why_none()),
            Some(chain) if chain.builtin => match self.prepare_builtin() {
                Ok(notes) => verdict.notes = notes,
                Err(Error::NotReady { why }) => verdict.why_not = Some(why),
                Err(error) => verdict.why_not = Some(with_causes(&error)),
            },
            Some(_) => {
                // Bridges that have pods are mended; others are made for their first pod.
                for bridge in chains.iter().flat_map(|chain| chain.bridges()).filter(|bridge| bridge.index().is_some())
                {
                    let mended = Links::open().and_then(|mut links| bridge.prepare(&mut links));
                    if let Err(error) = mended {
                        tracing::warn!(bridge = bridge.name, error = with_causes(&error), "mend a bridge");
                    }
                }
                for ptp in chains.iter().flat_map(|chain| chain.ptps()) {
                    let mended = Links::open().and_then(|mut links| ptp.mend(&mut links));
                    if let Err(error) = mended {
                        tracing::warn!(error = with_causes(&error), "mend what pods with a link each share");
                    }
                }
                // Plugins have not been asked; until they are, a binary that is missing is the only thing known.
                let missing = chains.iter().find_map(|chain| chain.missing(&self.tools.plugins).err());
                verdict.why_not = missing.map(|error| error.to_string());
            }
        }
        verdict
    }

    /// Makes or mends the bridge; gives its notes.
    fn prepare_builtin(&self) -> Result<Vec<String>> {
        let _once = lock(&self.preparing);
        if self.state().dismantled {
            return Err(Error::NotReady { why: "the network has been dismantled".into() });
        }
        let mut links = Links::open()?;
        let mut notes = Vec::new();
        for bridge in self.builtin.bridges() {
            notes.extend(bridge.prepare(&mut links)?.notes);
        }
        Ok(notes)
    }

    /// Makes it known.
    pub(crate) fn judge(&self, verdict: Verdict) {
        let mut state = self.state();
        let (before, now) = (state.verdict.why_not.clone(), verdict.why_not.clone());
        state.looked = Instant::now();
        state.verdict = verdict;
        drop(state);
        match now {
            Some(why) if before.as_ref() != Some(&why) => tracing::warn!(why, "the network is not ready"),
            None if before.is_some() => tracing::info!("the network is ready"),
            _ => {}
        }
    }
}
