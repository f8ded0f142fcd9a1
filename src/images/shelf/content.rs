//! Layers and blobs on the shelf: how they get their names, who is given them, and when they are on the medium.

use std::{
    fs, io,
    path::Path,
    sync::{Arc, MutexGuard, atomic::Ordering},
};

use model::Digest;

use super::Shelf;
use crate::{
    Error, Result,
    blob::Finished,
    claim::Claim,
    early::Writing,
    index::{Garbage, Index, Stay},
    record::LayerSize,
    step::Step,
};

impl Shelf {
    /// Renames away what the index has just forgotten. Takes the index's guard as proof that nobody can be making the
    /// same thing anew.
    pub(crate) fn discard(&self, _index: &MutexGuard<'_, Index>, garbage: Vec<Garbage>) {
        for garbage in garbage {
            let path = match &garbage {
                Garbage::Layer(chain_id) => self.layer(chain_id),
                Garbage::Blob(digest) => self.blobs.path(digest),
            };
            let throw = || self.trash.throw(&path).map_err(Error::disk("move away", &path));
            if let Err(error) = self.pass(Step::Discarded, throw) {
                // Unreferenced, so nothing believes it; the next start sees it and tries again.
                tracing::warn!(path = %path.display(), %error, "unneeded content stays");
            }
        }
    }

    /// Claims a layer, if it is there.
    pub(crate) fn claim_layer(self: &Arc<Self>, chain_id: &Digest) -> Option<(Claim, LayerSize)> {
        let size = self.index().claim_layer(chain_id)?;
        Some((Claim { shelf: self.clone(), what: Garbage::Layer(chain_id.clone()) }, size))
    }

    /// Gives a layer that was made and verified in `workplace` its name. Where another was made meanwhile, that one is
    /// claimed, and this one stays where it is: containers may use the other.
    pub(crate) fn keep_layer(self: &Arc<Self>, workplace: &Path, chain_id: &Digest, size: LayerSize) -> Result<Claim> {
        let path = self.layer(chain_id);
        let mut index = self.index();
        if index.claim_layer(chain_id).is_some() {
            drop(index);
            return Ok(Claim { shelf: self.clone(), what: Garbage::Layer(chain_id.clone()) });
        }
        self.pass(Step::Layer, || match fs::rename(workplace, &path) {
            Ok(()) => Ok(()),
            // A layer that the index does not know has this name: nobody can vouch for it.
            Err(error) if matches!(error.kind(), io::ErrorKind::DirectoryNotEmpty | io::ErrorKind::AlreadyExists) => {
                self.trash.throw(&path).map_err(Error::disk("move away", &path))?;
                fs::rename(workplace, &path).map_err(Error::disk("rename to", &path))
            }
            Err(error) => Err(Error::disk("rename to", &path)(error)),
        })?;
        index.made_layer(chain_id, size);
        drop(index);
        Ok(Claim { shelf: self.clone(), what: Garbage::Layer(chain_id.clone()) })
    }

    /// Claims a blob, if it is there and is what its name says. Blocks while a blob of unknown state is read: bulk
    /// work.
    pub(crate) fn claim_blob(self: &Arc<Self>, digest: &Digest) -> Result<Option<Claim>> {
        let Some(verified) = self.index().claim_blob(digest) else { return Ok(None) };
        let claim = Claim { shelf: self.clone(), what: Garbage::Blob(digest.clone()) };
        if verified {
            return Ok(Some(claim));
        }
        if self.blobs.is_whole(digest)? {
            self.index().verified_blob(digest);
            Ok(Some(claim))
        } else {
            tracing::warn!(%digest, "a blob rotted on disk; it is fetched again");
            self.index().doom_blob(digest);
            Ok(None)
        }
    }

    /// Gives a blob that was written and verified its name, unless another has it that was verified too: that one may
    /// be on the medium already, as an image's record promises.
    pub(crate) fn keep_blob(self: &Arc<Self>, finished: Finished, stay: Stay) -> Result<Claim> {
        let (digest, bytes) = (finished.digest.clone(), finished.bytes);
        let mut index = self.index();
        if !index.is_verified(&digest) {
            self.pass(Step::Blob, || self.blobs.keep(&finished))?;
        }
        index.made_blob(&digest, bytes, stay);
        drop(index);
        Ok(Claim { shelf: self.clone(), what: Garbage::Blob(digest) })
    }

    /// Keeps bytes at hand as a blob.
    pub(crate) fn keep_bytes(self: &Arc<Self>, bytes: &[u8], stay: Stay) -> Result<Claim> {
        let mut incoming = self.blobs.begin()?;
        incoming.write(bytes)?;
        self.keep_blob(incoming.finish(), stay)
    }

    /// How often writes have been lost so far.
    pub(crate) fn losses(&self) -> u64 {
        self.losses.load(Ordering::Acquire)
    }

    /// Puts everything that was written so far on the medium. The kernel tells once that it could not, and drops what
    /// it tried to write: nothing is believed any more that no image vouches for, and no image that is in the making is
    /// listed.
    pub(crate) fn sync(&self, writing: &Writing) -> Result<()> {
        let synced = self.pass(Step::Sync, || writing.sync());
        if synced.is_err() {
            let mut index = self.index();
            self.losses.fetch_add(1, Ordering::AcqRel);
            let garbage = index.doubt();
            self.discard(&index, garbage);
        }
        synced
    }
}
