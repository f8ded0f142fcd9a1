//! Looks at everything in the store, and mends what can be mended from what is there.
//!
//! In this order, each thing by itself, so that nobody waits for the whole: the images' records against what the daemon
//! knows; names in `blobs/` and `layers/` that nobody knows, and names that are missing; each blob against its digest;
//! each layer against what its blob unpacks to, the lowest first, since the others are made on top of them. A layer is
//! made anew from its blob in the workplace and compared name by name, content and attributes included; one that is
//! missing or differs is replaced by that. Nothing is looked at while somebody makes it, nothing on top of a layer that
//! is not well, since it would be made wrong itself, and nothing is replaced beneath a container.
//!
//! A layer's blob that was here when its image was listed, and is not now, is told as well, lost while the daemon ran
//! or while it did not. Nothing is fetched: its image goes without, as one whose layers were made of other blobs.
//!
//! One check at a time: two that mend would each make what the other replaces, and each takes the memory of a large
//! layer. What cannot be mended has no source here any more: then the image is to be removed and pulled again.

mod difference;

use std::{
    collections::{HashSet, VecDeque},
    fmt,
    path::PathBuf,
    sync::Arc,
};

use model::{Digest, with_causes};
use tokio::sync::OwnedSemaphorePermit;
use tokio_util::sync::{CancellationToken, DropGuard};

pub(crate) use self::difference::difference;
use crate::{Error, Result, record::LayerRecord, shelf::Shelf};

/// Whether what is found is mended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Repair {
    /// Only tell.
    No,
    /// Mend.
    Yes,
}

/// Something that is not as it should be.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Finding {
    /// What.
    pub object: Object,
    /// What is wrong with it.
    pub wrong: Wrong,
    /// The images that need it: a name of each, or its id.
    pub owners: Vec<String>,
    /// What came of it.
    pub end: End,
}

/// A thing in the store.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Object {
    /// The record of the image with this id.
    Record(Digest),
    /// A blob, by digest.
    Blob(Digest),
    /// A layer, by chain id.
    Layer(Digest),
    /// Something that has no business there.
    File(PathBuf),
}

/// What can be wrong.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Wrong {
    /// It is not there.
    Missing,
    /// It is there, and nobody knows it.
    Extra,
    /// It is not what it should be.
    Damaged {
        /// In what.
        why: String,
    },
}

/// What comes of a finding.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum End {
    /// It is well now.
    Mended {
        /// What was done.
        how: &'static str,
    },
    /// It would be, with [`Repair::Yes`].
    Mendable {
        /// What would be done.
        how: &'static str,
    },
    /// It stays as it is.
    Stays {
        /// Why, and what may help.
        why: String,
    },
}

/// A check under way. Dropped, it stops.
pub struct Check {
    shelf: Arc<Shelf>,
    repair: Repair,
    steps: VecDeque<Step>,
    /// Chain ids of layers that are not well.
    unwell: HashSet<Digest>,
    /// That no other is under way. A step has it too, and goes on to its end when the check is dropped.
    turn: Arc<OwnedSemaphorePermit>,
    cancel: CancellationToken,
    _cancel: DropGuard,
}

/// One thing to look at.
#[derive(Debug)]
enum Step {
    Records,
    Names,
    Blob(Digest),
    Layer(LayerPlace),
}

/// A layer and what it lies on.
#[derive(Debug, Clone)]
pub(crate) struct LayerPlace {
    pub(crate) record: LayerRecord,
    /// Chain ids of the layers below, the topmost first.
    pub(crate) below: Vec<Digest>,
}

/// Plans to look at everything that is here now, if nobody else does.
pub(crate) fn begin(shelf: &Arc<Shelf>, repair: Repair) -> Result<Check> {
    let turn = shelf.checking.clone().try_acquire_owned().map_err(|_| Error::CheckUnderWay)?;
    let index = shelf.index();
    let blobs = index.blobs().into_iter().map(Step::Blob);
    let layers = index.layer_places().into_iter().map(Step::Layer);
    let steps = [Step::Records, Step::Names].into_iter().chain(blobs).chain(layers).collect();
    drop(index);
    let cancel = CancellationToken::new();
    let _cancel = cancel.clone().drop_guard();
    let (shelf, turn) = (shelf.clone(), Arc::new(turn));
    Ok(Check { shelf, repair, steps, unwell: HashSet::new(), turn, cancel, _cancel })
}

impl Check {
    /// Things still to be looked at.
    pub fn left(&self) -> usize {
        self.steps.len()
    }

    /// Looks at the next thing; `None` after the last.
    pub async fn next(&mut self) -> Result<Option<Vec<Finding>>> {
        let Some(step) = self.steps.pop_front() else { return Ok(None) };
        if let Step::Layer(place) = &step
            && place.below.iter().any(|chain_id| self.unwell.contains(chain_id))
        {
            return Ok(Some(Vec::new()));
        }
        let (repair, cancel, turn) = (self.repair, self.cancel.clone(), self.turn.clone());
        let look = move |shelf: &Arc<Shelf>| {
            let _turn = turn;
            match step {
                Step::Records => shelf.check_records(repair),
                Step::Names => shelf.check_names(repair),
                Step::Blob(digest) => shelf.check_blob(&digest, repair),
                Step::Layer(place) => shelf.check_layer(&place, repair, &cancel),
            }
        };
        let findings = self.shelf.working(look).await?;
        for finding in &findings {
            if let (Object::Layer(chain_id), End::Mendable { .. } | End::Stays { .. }) = (&finding.object, &finding.end)
            {
                self.unwell.insert(chain_id.clone());
            }
        }
        Ok(Some(findings))
    }
}

impl fmt::Debug for Check {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Check({} things left)", self.steps.len())
    }
}

impl Repair {
    /// What comes of a finding that can be mended so.
    pub(crate) fn mend(self, how: &'static str, act: impl FnOnce() -> Result<()>) -> End {
        match self {
            Repair::No => End::Mendable { how },
            Repair::Yes => match act() {
                Ok(()) => End::Mended { how },
                Err(error) => End::Stays { why: with_causes(&error) },
            },
        }
    }
}
