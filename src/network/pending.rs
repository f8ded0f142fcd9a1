//! Attachments that could not be given back when their pods went: written down, and tried again until they are.
//!
//! A pod is never held up by a plugin that fails. What is owed to the plugin is one record a pod, and a task that works
//! them off, each with pauses that grow.

use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
    sync::{Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant, SystemTime},
};

use cni::Conflist;
use disk::Store;
use model::{PodId, with_causes};
use serde::{Deserialize, Serialize};
use tokio::sync::Notify;

use crate::{Attachment, Choice, Error, Joined, Request, Result, attachment::Chosen};

const KIND: &str = "detach";
const VERSION: u32 = 1;
/// The pause after the first failure; it doubles with each.
const FIRST_PAUSE: Duration = Duration::from_secs(2);
const LONGEST_PAUSE: Duration = Duration::from_secs(300);

/// What a pod that is gone has left to be given back.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Pending {
    /// The pod.
    pub pod: PodId,
    /// Its networks.
    pub(crate) choice: Choice,
    pub(crate) request: Request,
    pub(crate) attachment: Option<Attachment>,
    pub(crate) netns: PathBuf,
    /// How many plugins of each network may have done something, where that is known.
    #[serde(default)]
    pub(crate) reach: Option<Vec<usize>>,
    /// Since when.
    pub since: SystemTime,
    /// How often it was tried.
    pub tries: u32,
    /// What came of the last time.
    pub error: String,
}

impl Pending {
    /// Of a pod without a record, by what is found of it.
    pub(crate) fn of_nobody(pod: PodId, netns: PathBuf) -> Self {
        Self {
            pod,
            choice: Choice::default(),
            request: Request::default(),
            attachment: None,
            netns,
            reach: None,
            since: SystemTime::now(),
            tries: 0,
            error: "it is not tried yet".into(),
        }
    }

    /// One more network to leave, and what came of it.
    pub(crate) fn add(&mut self, chosen: Chosen, joined: Option<Joined>) {
        self.choice.networks.push(chosen);
        let attachment = self.attachment.get_or_insert_with(|| Attachment { ips: Vec::new(), networks: Vec::new() });
        attachment.networks.extend(joined);
    }

    /// Names of its networks, in order; one whose list cannot be read any more has none.
    pub fn networks(&self) -> Vec<String> {
        let name = |chosen: &Chosen| Conflist::parse(chosen.list.as_bytes()).map(|list| list.name).unwrap_or_default();
        self.choice.networks.iter().map(name).collect()
    }
}

/// All of it.
#[derive(Debug)]
pub(crate) struct Queue {
    store: Store<Pending>,
    /// Something new has come, which may be due before the rest.
    added: Notify,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    all: BTreeMap<PodId, Entry>,
    worked_off: bool,
}

#[derive(Debug, Clone)]
struct Entry {
    pending: Pending,
    due: Instant,
    /// It is being tried right now.
    is_tried: bool,
}

impl Queue {
    /// Finds what an earlier life of the daemon has left. What cannot be read is set aside and named.
    pub(crate) fn open(dir: &Path) -> Result<Self> {
        let failed = |source| Error::Pending { source };
        let store: Store<Pending> = Store::open(dir, KIND, VERSION).map_err(failed)?;
        let scan = store.scan().map_err(failed)?;
        for disk::Quarantined { path, why, .. } in &scan.quarantined {
            let error = with_causes(why);
            tracing::error!(path = %path.display(), error, "an attachment that is to be given back cannot be read");
        }
        let now = Instant::now();
        let all = scan
            .good
            .into_iter()
            .map(|(_, pending)| (pending.pod.clone(), Entry { pending, due: now, is_tried: false }))
            .collect();
        Ok(Self { store, added: Notify::new(), state: Mutex::new(State { all, worked_off: false }) })
    }

    /// Notes what is to be given back, in place of what the pod had there. Blocks.
    ///
    /// It is tried in this life of the daemon in any case. Where it cannot be written down (a full disk), the next life
    /// finds the attachment in the cache.
    pub(crate) fn add(&self, pending: Pending) {
        // Rare, and a reboot does not make it meaningless.
        if let Err(error) = self.store.put_durable(pending.pod.as_str(), &pending) {
            tracing::warn!(pod = %pending.pod, error = with_causes(&error), "write down what a pod's network is owed");
        }
        let due = Instant::now() + pause(pending.tries);
        self.state().all.insert(pending.pod.clone(), Entry { pending, due, is_tried: false });
        self.added.notify_one();
    }

    /// A try has come to nothing, not even to a failure.
    pub(crate) fn put_off(&self, pod: &PodId) {
        if let Some(entry) = self.state().all.get_mut(pod) {
            (entry.is_tried, entry.due) = (false, Instant::now() + LONGEST_PAUSE);
        }
        self.added.notify_one();
    }

    /// Waits for something new, or for the end of a try.
    pub(crate) async fn added(&self) {
        self.added.notified().await;
    }

    /// Given back at last.
    pub(crate) fn remove(&self, pod: &PodId) {
        self.state().all.remove(pod);
        self.added.notify_one();
        if let Err(error) = self.store.remove(pod.as_str()) {
            // It is tried once more after the next start, which harms nobody.
            tracing::warn!(%pod, %error, "forget an attachment that has been given back");
        }
    }

    /// Whether the pod has anything there.
    pub(crate) fn has(&self, pod: &PodId) -> bool {
        self.state().all.contains_key(pod)
    }

    /// Whether this namespace is kept for what is still to be given back.
    pub(crate) fn keeps(&self, netns: &Path) -> bool {
        self.state().all.values().any(|entry| entry.pending.netns == netns)
    }

    /// Everything, for people.
    pub(crate) fn all(&self) -> Vec<Pending> {
        self.state().all.values().map(|entry| entry.pending.clone()).collect()
    }

    /// Whether there is work that nobody does. Whoever is told so does it from now on.
    pub(crate) fn wants_worker(&self) -> bool {
        let mut state = self.state();
        !state.all.is_empty() && !std::mem::replace(&mut state.worked_off, true)
    }

    /// Takes what is due, to be tried. `Err` is the moment of the next, if that is known; `None` lets the worker go.
    pub(crate) fn take_due(&self) -> Option<std::result::Result<Pending, Option<Instant>>> {
        let mut state = self.state();
        if state.all.is_empty() {
            state.worked_off = false;
            return None;
        }
        let next = state.all.values_mut().filter(|entry| !entry.is_tried).min_by_key(|entry| entry.due);
        Some(match next {
            Some(entry) if entry.due <= Instant::now() => {
                entry.is_tried = true;
                Ok(entry.pending.clone())
            }
            Some(entry) => Err(Some(entry.due)),
            None => Err(None),
        })
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The pause after so many failures.
fn pause(tries: u32) -> Duration {
    if tries == 0 {
        return Duration::ZERO;
    }
    let doubled = 2_u32.saturating_pow(tries.saturating_sub(1).min(16));
    FIRST_PAUSE.saturating_mul(doubled).min(LONGEST_PAUSE)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pending(tries: u32) -> Pending {
        Pending {
            pod: PodId::from_random([7; 32]),
            choice: Choice::default(),
            request: Request::default(),
            attachment: None,
            netns: "/run/netns/a".into(),
            reach: None,
            since: SystemTime::UNIX_EPOCH,
            tries,
            error: "no".into(),
        }
    }

    #[test]
    fn what_is_owed_survives_a_restart_and_is_worked_off_by_one() {
        let dir = tempfile::tempdir().unwrap();
        let queue = Queue::open(dir.path()).unwrap();
        assert!(!queue.wants_worker() && queue.take_due().is_none());
        queue.add(pending(1));
        let queue = Queue::open(dir.path()).unwrap();
        assert!(queue.wants_worker() && !queue.wants_worker());
        let found = queue.take_due().unwrap().unwrap();
        assert_eq!(found, pending(1), "at once after a restart");
        assert_eq!(queue.take_due(), Some(Err(None)), "one try at a time");
        queue.add(pending(2));
        assert!(queue.take_due().unwrap().unwrap_err().unwrap() > Instant::now());
        queue.remove(&found.pod);
        assert!(queue.take_due().is_none() && !queue.has(&found.pod));
        assert!(Queue::open(dir.path()).unwrap().all().is_empty());
        queue.add(pending(1));
        assert!(queue.wants_worker(), "the worker has gone");
    }

    #[test]
    fn pauses_grow_and_end_at_the_longest() {
        assert_eq!([0, 1, 2, 3].map(|tries| pause(tries).as_secs()), [0, 2, 4, 8]);
        assert_eq!(pause(u32::MAX), LONGEST_PAUSE);
    }
}
