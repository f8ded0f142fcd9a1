//! How far an image in the making is: counted by those who make it, looked at by whoever wants to know.
//!
//! Pulls that share their work share its progress too. Nobody waits for a look, and a look waits for nobody.

use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};

use model::Digest;

use crate::manifest::LayerPlan;

/// What is being done with a layer.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Stage {
    /// Nothing yet: others are before it.
    #[default]
    Waiting,
    /// Its blob is coming.
    Fetching,
    /// Its blob is here and verified.
    Fetched,
    /// Its blob is being unpacked.
    Unpacking,
    /// It is unpacked and verified.
    Done,
    /// It was here before, for another image.
    WasHere,
}

/// How far one layer is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LayerProgress {
    /// Digest of its blob.
    pub blob: Digest,
    /// Bytes of its blob, as the manifest has it.
    pub bytes: u64,
    /// Bytes of its blob that are here. Falls back when another host has to be asked from the beginning.
    pub fetched: u64,
    /// What is being done with it.
    pub stage: Stage,
}

/// Somebody who looks on while an image is made: pass it along with the act, and ask it from elsewhere.
#[derive(Debug, Clone, Default)]
pub struct Watch(Arc<Mutex<Arc<Progress>>>);

impl Watch {
    /// Every layer of the image that is being made now, lowest first. Empty before it is known what it is made of, and
    /// to the end when nothing had to be made.
    pub fn layers(&self) -> Vec<LayerProgress> {
        let progress = self.lock().clone();
        progress.layers()
    }

    /// From now on, looks at this work.
    pub(crate) fn follow(&self, progress: &Arc<Progress>) {
        *self.lock() = progress.clone();
    }

    fn lock(&self) -> MutexGuard<'_, Arc<Progress>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// How far one image is.
#[derive(Debug, Default)]
pub(crate) struct Progress(OnceLock<Vec<Arc<Meter>>>);

impl Progress {
    /// Says what the image is made of, once: a meter for each layer.
    pub(crate) fn plan(&self, layers: &[LayerPlan]) -> Vec<Arc<Meter>> {
        let meters = || layers.iter().map(|layer| Arc::new(Meter::of(&layer.blob, layer.bytes))).collect();
        self.0.get_or_init(meters).clone()
    }

    /// Where every layer is now; none before it is known which there are.
    pub(crate) fn layers(&self) -> Vec<LayerProgress> {
        self.0.get().into_iter().flatten().map(|meter| meter.read()).collect()
    }
}

/// Counts for one blob.
#[derive(Debug)]
pub(crate) struct Meter(Mutex<LayerProgress>);

impl Meter {
    /// Of a blob that nothing is known of but this.
    pub(crate) fn of(blob: &Digest, bytes: u64) -> Self {
        Self(Mutex::new(LayerProgress { blob: blob.clone(), bytes, fetched: 0, stage: Stage::Waiting }))
    }

    /// The blob comes, from its beginning.
    pub(crate) fn begin(&self) {
        let mut seen = self.lock();
        (seen.stage, seen.fetched) = (Stage::Fetching, 0);
    }

    /// More bytes of it have come.
    pub(crate) fn add(&self, bytes: u64) {
        let mut seen = self.lock();
        seen.fetched = seen.fetched.saturating_add(bytes);
    }

    /// What is done with it now. From [`Stage::Fetched`] on, all of it is here.
    pub(crate) fn enter(&self, stage: Stage) {
        let mut seen = self.lock();
        seen.stage = stage;
        if !matches!(stage, Stage::Waiting | Stage::Fetching) {
            seen.fetched = seen.bytes;
        }
    }

    fn read(&self) -> LayerProgress {
        self.lock().clone()
    }

    fn lock(&self) -> MutexGuard<'_, LayerProgress> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn whoever_looks_on_sees_the_work_that_is_waited_for() {
        let digest = Digest::from_sha256([7; 32]);
        let plan = LayerPlan {
            blob: digest.clone(),
            bytes: 10,
            media_type: String::new(),
            diff_id: digest.clone(),
            chain_id: digest.clone(),
        };
        let (watch, work) = (Watch::default(), Arc::<Progress>::default());
        assert!(watch.layers().is_empty());
        watch.follow(&work);
        let meters = work.plan(std::slice::from_ref(&plan));
        let seen = |fetched, stage| [LayerProgress { blob: digest.clone(), bytes: 10, fetched, stage }];
        assert_eq!(watch.layers(), seen(0, Stage::Waiting));
        meters[0].begin();
        meters[0].add(7);
        assert_eq!(watch.layers(), seen(7, Stage::Fetching));
        // Another host, from the beginning.
        meters[0].begin();
        assert_eq!(watch.layers(), seen(0, Stage::Fetching));
        meters[0].enter(Stage::Unpacking);
        assert_eq!(watch.layers(), seen(10, Stage::Unpacking));
        watch.follow(&Arc::default());
        assert!(watch.layers().is_empty());
    }
}
