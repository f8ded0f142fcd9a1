//! The room's face: pull, list, find, lease, remove, import.

use std::{
    io::Read,
    path::Path,
    sync::{Arc, atomic::Ordering},
    time::{Duration, SystemTime},
};

use link::Programs;
use model::{Digest, ImageRef};

use crate::{
    Asking, Config, Credentials, Error, Explanation, FsUsage, Image, Leased, Result, flight::Flights, import, open,
    pull, registry::Caller, shelf::Shelf,
};

/// How long a removal waits until the disk is really free. Well under the two seconds that crictl waits for an answer.
const WAIT_FOR_TRASH: Duration = Duration::from_secs(1);

/// The image store of a node. Cheap to clone; all clones are the same store.
#[derive(Debug, Clone)]
pub struct Images {
    shelf: Arc<Shelf>,
    flights: Arc<Flights>,
    programs: Programs,
}

impl Images {
    /// Opens the store below `root`, making what is missing. Reads the records, walks nothing; call it once a process,
    /// under the daemon's lock on `root`.
    pub fn open(config: Config, root: &Path) -> Result<Self> {
        Ok(Self { shelf: Arc::new(open::open(config, root)?), flights: Arc::default(), programs: Programs::none() })
    }

    /// Where credential helpers are run; without it none is, and whoever needs one is anonymous.
    pub fn with_programs(self, programs: Programs) -> Self {
        Self { programs, ..self }
    }

    /// Makes an image present and answers its id. Always asks the registry, with these credentials, even when the image
    /// is here: the caller may not be allowed to have it. Pulls of the same image share the work, not the permission.
    /// Dropping the future cancels; what was fetched and verified stays for the next attempt.
    pub async fn pull(&self, reference: &str, credentials: Option<Credentials>) -> Result<Digest> {
        pull::pull(&self.shelf, &self.flights, self.caller(reference, credentials)?).await
    }

    /// Tells how a pull would go, and changes nothing: whom it would ask, in which order and with what, by which file.
    /// With [`Asking::Everybody`] each host is asked, with these credentials, and its answer told; otherwise nobody is.
    pub async fn explain(
        &self,
        reference: &str,
        credentials: Option<Credentials>,
        asking: Asking,
    ) -> Result<Explanation> {
        let registry = pull::open(&self.shelf, self.caller(reference, credentials)?).await?;
        Ok(registry.explain(asking).await)
    }

    fn caller(&self, reference: &str, credentials: Option<Credentials>) -> Result<Caller> {
        let reference: ImageRef = reference.parse()?;
        Ok(Caller { reference, credentials, programs: self.programs.clone() })
    }

    /// Every image, in a stable order. Never waits for a disk.
    pub fn list(&self) -> Vec<Arc<Image>> {
        self.shelf.index().list()
    }

    /// The image that a text means: id with or without `sha256:`, name, or the unambiguous beginning of an id of at
    /// least four digits. A text that cannot name an image names none.
    pub fn find(&self, what: &str) -> Result<Option<Arc<Image>>> {
        self.shelf.index().find(what)
    }

    /// Takes an image out for use, by whatever `find` understands.
    pub fn lease(&self, what: &str) -> Result<Leased> {
        let mut index = self.shelf.index();
        let image = index.find(what)?.ok_or_else(|| Error::NotFound { what: what.to_owned() })?;
        index.lease(&image.id);
        drop(index);
        Ok(self.shelf.lease(&image))
    }

    /// Takes an image out again for a container that was found after a restart, even if it was removed meanwhile.
    pub fn lease_by_id(&self, id: &Digest) -> Result<Leased> {
        let mut index = self.shelf.index();
        let Some(image) = index.with_removed(id) else {
            // Its record is lost, and its layers are in use.
            self.shelf.unread.store(true, Ordering::Relaxed);
            return Err(Error::NotFound { what: id.to_string() });
        };
        index.lease(&image.id);
        drop(index);
        Ok(self.shelf.lease(&image))
    }

    /// Says that every container that was found after a restart has its lease: images that were removed while in use
    /// and have no user left are deleted, and so are layers of no image.
    pub async fn recovered(&self) {
        let collected = self.shelf.blocking(|shelf| {
            let left_over = shelf.index().left_over();
            left_over.iter().for_each(|id| shelf.collect(id));
            if shelf.unread.load(Ordering::Relaxed) { Ok(()) } else { open::throw_unknown_layers(shelf) }
        });
        if let Err(error) = collected.await {
            tracing::warn!(%error, "delete layers of no image: the next start does it");
        }
    }

    /// Removes an image with all its names, by whatever `find` understands. That it is gone already is fine. It is
    /// unlisted when this returns, and off the disk too unless containers use it or deleting takes very long.
    pub async fn remove(&self, what: &str) -> Result<()> {
        let what = what.to_owned();
        let remove = move |shelf: &Arc<Shelf>| {
            shelf.remove(&what)?;
            Ok(shelf.trash().emptied())
        };
        let emptied = self.shelf.blocking(remove).await?;
        // The kubelet measures the disk right after it removed something.
        let _ = tokio::time::timeout(WAIT_FOR_TRASH, emptied).await;
        Ok(())
    }

    /// What the store takes of its file system.
    pub fn usage(&self) -> FsUsage {
        let (bytes, inodes) = self.shelf.index().usage();
        FsUsage { at: SystemTime::now(), mountpoint: self.shelf.layers().to_owned(), bytes, inodes }
    }

    /// Takes in the images of an archive: an OCI image layout, or what `docker save` writes; as a plain tar.
    pub async fn import(&self, archive: impl Read + Send + 'static) -> Result<Vec<Arc<Image>>> {
        import::import(&self.shelf, archive).await
    }
}
