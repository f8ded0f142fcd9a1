//! An image as the rest of the node sees it.

use std::{
    io,
    path::{Path, PathBuf},
    sync::Arc,
    time::SystemTime,
};

use model::{Digest, ImageFacts};
use nix::sys::statvfs::statvfs;
use oci_spec::image::ImageConfiguration;

use crate::{Lease, record::ImageRecord};

/// Who the image's configuration says its processes are, split as the CRI wants it. A group beside it is left out.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ImageUser {
    /// It does not say: root.
    Unset,
    /// By number.
    Uid(i64),
    /// By name.
    Name(String),
}

impl ImageUser {
    /// Reads `user`, `uid`, `user:group`, `uid:group`.
    pub(crate) fn read(text: &str) -> Self {
        match text.split(':').next().unwrap_or_default() {
            "" => ImageUser::Unset,
            user => match user.parse::<i64>() {
                Ok(uid) if uid >= 0 => ImageUser::Uid(uid),
                _ => ImageUser::Name(user.to_owned()),
            },
        }
    }
}

/// An image that is whole, on disk and on the medium.
#[derive(Debug)]
pub struct Image {
    /// The digest of its configuration: the same wherever it was pulled from.
    pub id: Digest,
    /// Every `host/path:tag` that points to it, sorted.
    pub tags: Vec<String>,
    /// Every `host/path@digest` that it was pulled as, sorted. The digest is the one that the registry gave for the
    /// reference: the index's, where there is one.
    pub digests: Vec<String>,
    /// Bytes of its manifest, configuration and compressed layers. Never 0.
    pub size: u64,
    /// Its configuration.
    pub config: ImageConfiguration,
    /// Who its processes are.
    pub user: ImageUser,
    /// The kubelet's garbage collection must leave it alone.
    pub pinned: bool,
    /// Chain id of its topmost layer; its own id when it has no layer.
    pub chain_id: Digest,
    pub(crate) facts: ImageFacts,
    pub(crate) record: ImageRecord,
}

impl Image {
    /// What it says about the containers made from it.
    pub fn facts(&self) -> &ImageFacts {
        &self.facts
    }
}

/// An image that cannot go away while this is held.
#[derive(Debug)]
pub struct Leased {
    /// The image.
    pub image: Arc<Image>,
    /// What it says about containers.
    pub facts: ImageFacts,
    /// Its layers' directories, topmost first, as overlay wants them. Empty when it has none.
    pub layers: Vec<PathBuf>,
    /// Keeps the layers on disk until it is dropped.
    pub lease: Lease,
}

/// What the store takes of its file system. Summed when things change, never walked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FsUsage {
    /// When it was so.
    pub at: SystemTime,
    /// The directory that holds the layers.
    pub mountpoint: PathBuf,
    /// Bytes of layers and blobs.
    pub bytes: u64,
    /// Inodes of layers and blobs.
    pub inodes: u64,
}

impl FsUsage {
    /// What everything on the filesystem of this directory takes. For directories that are not the store's.
    pub fn of_filesystem(directory: &Path) -> io::Result<Self> {
        let found = statvfs(directory)?;
        Ok(Self {
            at: SystemTime::now(),
            mountpoint: directory.to_owned(),
            bytes: found.blocks().saturating_sub(found.blocks_free()) * found.fragment_size(),
            inodes: found.files().saturating_sub(found.files_free()),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_user_is_split_as_the_cri_wants_it() {
        for (text, user) in [
            ("", ImageUser::Unset),
            (":5", ImageUser::Unset),
            ("1002", ImageUser::Uid(1002)),
            ("1003:www-data", ImageUser::Uid(1003)),
            ("www-data", ImageUser::Name("www-data".into())),
            ("www-data:www-data", ImageUser::Name("www-data".into())),
            ("-1", ImageUser::Name("-1".into())),
        ] {
            assert_eq!(ImageUser::read(text), user, "{text:?}");
        }
    }
}
