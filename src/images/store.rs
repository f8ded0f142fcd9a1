//! The room's face: pull, list, find, lease, remove, import.

use std::{
    io::Read,
    path::Path,
    sync::{Arc, OnceLock, atomic::Ordering},
    time::{Duration, SystemTime},
};

use fault::{Faults, Steps};
use link::Programs;
use model::{Digest, ImageRef};
use tokio::sync::Semaphore;
use tokio_util::task::AbortOnDropHandle;

use crate::{
    Asking, Check, Config, Credentials, Error, Explanation, Export, Force, FsUsage, Holdings, Image, Import, Leased,
    Pulled, Removed, Repair, Result, Watch, check, export,
    flight::Flights,
    import, left_over, open, pull,
    registry::Caller,
    shelf::{Names, Shelf},
};

/// How long a removal waits until the disk is really free. Well under the two seconds that crictl waits for an answer.
const WAIT_FOR_TRASH: Duration = Duration::from_secs(1);
/// Archives that are read at once. Each has a thread for as long as its sender likes, apart from those that wait for
/// the disk: a slow sender keeps no pull from its work.
pub(crate) const IMPORTS: usize = 4;

/// The image store of a node. Cheap to clone; all clones are the same store.
#[derive(Debug, Clone)]
pub struct Images {
    shelf: Arc<Shelf>,
    flights: Arc<Flights>,
    /// Archives that may be read at once.
    imports: Arc<Semaphore>,
    programs: Programs,
    /// Throws away now and then what pulls have left.
    tidying: Arc<OnceLock<AbortOnDropHandle<()>>>,
}

impl Images {
    /// Opens the store below `root`, making what is missing. Reads the records, walks nothing; call it once a process,
    /// under the daemon's lock on `root`.
    pub fn open(config: Config, root: &Path) -> Result<Self> {
        Self::open_with(config, root, Faults::default())
    }

    /// The same, with faults to inject.
    pub fn open_with(config: Config, root: &Path, faults: Faults) -> Result<Self> {
        Ok(Self {
            shelf: Arc::new(open::open(config, root, Steps::new(faults))?),
            flights: Arc::default(),
            imports: Arc::new(Semaphore::new(IMPORTS)),
            programs: Programs::none(),
            tidying: Arc::default(),
        })
    }

    /// Where credential helpers are run; without it none is, and whoever needs one is anonymous.
    pub fn with_programs(self, programs: Programs) -> Self {
        Self { programs, ..self }
    }

    /// Makes an image present and answers its id. Always asks the registry, with these credentials, even when the image
    /// is here: the caller may not be allowed to have it. Pulls of the same image share the work, not the permission.
    /// Dropping the future cancels; what was fetched and verified stays for the next attempt.
    pub async fn pull(&self, reference: &str, credentials: Option<Credentials>) -> Result<Digest> {
        let reference = reference.parse()?;
        Ok(self.pull_watched(&reference, credentials, &Watch::default()).await?.id)
    }

    /// The same, while somebody looks on.
    pub async fn pull_watched(
        &self,
        reference: &ImageRef,
        credentials: Option<Credentials>,
        watch: &Watch,
    ) -> Result<Pulled> {
        pull::pull(&self.shelf, &self.flights, self.caller(reference.clone(), credentials), watch).await
    }

    /// Tells how a pull would go, and changes nothing: whom it would ask, in which order and with what, by which file.
    /// With [`Asking::Everybody`] each host is asked, with these credentials, and its answer told; otherwise nobody is.
    pub async fn explain(
        &self,
        reference: &str,
        credentials: Option<Credentials>,
        asking: Asking,
    ) -> Result<Explanation> {
        // Without the tokens that are kept: how the caller proves himself is a part of what is told.
        let registry = pull::open(&self.shelf, self.caller(reference.parse()?, credentials), Arc::default()).await?;
        Ok(registry.explain(asking).await)
    }

    fn caller(&self, reference: ImageRef, credentials: Option<Credentials>) -> Caller {
        Caller { reference, credentials, programs: self.programs.clone() }
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
    /// and have no user left are deleted, and so are layers of no image. From now on what pulls leave is looked at now
    /// and then, until the last clone is dropped.
    pub async fn recovered(&self) {
        let collected = self.shelf.blocking(|shelf| {
            let left_over = shelf.index().left_over();
            left_over.iter().for_each(|id| shelf.collect(id));
            if shelf.unread.load(Ordering::Relaxed) { Ok(()) } else { open::throw_unknown_layers(shelf) }
        });
        if let Err(error) = collected.await {
            tracing::warn!(%error, "delete layers of no image: the next start does it");
        }
        self.tidying.get_or_init(|| left_over::keep_tidy(&self.shelf));
    }

    /// Removes an image with all its names, by whatever `find` understands. That it is gone already is fine. It is
    /// unlisted when this returns, and off the disk too unless containers use it or deleting takes very long.
    pub async fn remove(&self, what: &str) -> Result<()> {
        let what = what.to_owned();
        let remove = move |shelf: &Arc<Shelf>| {
            shelf.remove(&what)?;
            // Room is wanted.
            left_over::told(shelf.tidy(Duration::ZERO));
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

    /// Gives an image, by whatever `find` understands, another tag. An image that had it before has it no longer.
    pub async fn tag(&self, what: &str, tag: &ImageRef) -> Result<Arc<Image>> {
        if tag.tag().is_none() {
            return Err(Error::NoTag { name: tag.to_string() });
        }
        let not_found = || Error::NotFound { what: what.to_owned() };
        let image = self.find(what)?.ok_or_else(not_found)?;
        let names = Names { tags: vec![tag.clone()], ..Names::default() };
        let named = self.shelf.blocking(move |shelf| shelf.rename(&image.id, &names)).await?;
        named.ok_or_else(not_found)
    }

    /// Takes a name from an image, or the image off the list when it was the last one or an id was given: what a person
    /// means. The disk is free as after [`Images::remove`].
    pub async fn untag(&self, what: &str, force: Force) -> Result<Removed> {
        let what = what.to_owned();
        let untag = move |shelf: &Arc<Shelf>| {
            let removed = shelf.untag(&what, force)?;
            left_over::told(shelf.tidy(Duration::ZERO));
            Ok((removed, shelf.trash().emptied()))
        };
        let (removed, emptied) = self.shelf.blocking(untag).await?;
        let _ = tokio::time::timeout(WAIT_FOR_TRASH, emptied).await;
        Ok(removed)
    }

    /// Takes in the images of an archive: an OCI image layout, or what `docker save` writes; plain, by gzip or by zstd.
    pub async fn import(&self, archive: impl Read + Send + 'static) -> Result<Vec<Arc<Image>>> {
        let mut import = self.read_archive(archive).await?;
        let mut images = Vec::new();
        while let Some(loaded) = import.next(&Watch::default()).await? {
            images.push(loaded.image);
        }
        Ok(images)
    }

    /// The first half of an import: reads the archive to its end, at the pace of whoever sends it. When this future is
    /// dropped the reading goes on until the archive ends or fails.
    pub async fn read_archive(&self, archive: impl Read + Send + 'static) -> Result<Import> {
        let turn = self.imports.clone().acquire_owned().await.map_err(|_| Error::Cancelled)?;
        let read = move |shelf: &Arc<Shelf>| {
            let _turn = turn;
            import::begin(shelf, archive)
        };
        self.shelf.at_last(read).await
    }

    /// What is here and for whom, from the account: walks nothing.
    pub fn holdings(&self) -> Holdings {
        self.shelf.index().holdings()
    }

    /// Begins to look at everything in the store, one thing after the other, and to mend it if that is wanted. Reads,
    /// unpacks and compares all that is here, after everybody else at the processor and at the disk.
    /// One at a time: beside another it is refused.
    pub fn check(&self, repair: Repair) -> Result<Check> {
        check::begin(&self.shelf, repair)
    }

    /// Makes ready to write these images, by whatever `find` understands, as one archive that is an OCI image layout
    /// and what `docker save` writes.
    pub async fn export(&self, names: Vec<String>) -> Result<Export> {
        self.shelf.working(move |shelf| export::begin(shelf, &names)).await
    }
}
