//! ImageFsInfo: what images take of the disk. Asked by every client when it connects, so it comes from accounting.
//!
//! The kubelet compares the mount points of images and of containers, as text: equal ones mean one filesystem, whose
//! space it frees by deleting images. Writable layers lie beside the images below one root; they are told apart only
//! where an operator has given the images, or the containers, a filesystem of their own.

use std::{io, os::unix::fs::MetadataExt, path::Path};

use api::cri::v1::{FilesystemIdentifier, FilesystemUsage, ImageFsInfoRequest, ImageFsInfoResponse, UInt64Value};
use images::{FsUsage, Images};

use crate::{answer::time::nanoseconds, error::Error};

/// What the store takes now, and what the filesystem of the writable layers holds where that is another one.
pub(crate) fn answer(_: ImageFsInfoRequest, images: &Images, root: &Path) -> Result<ImageFsInfoResponse, Error> {
    let of_images = images.usage();
    let of_containers = of_containers(&of_images, &root.join("containers")).unwrap_or_else(|error| {
        tracing::warn!(error = %error, "the filesystem of writable layers is told as that of the images");
        of_images.clone()
    });
    Ok(ImageFsInfoResponse {
        image_filesystems: vec![told(of_images)],
        container_filesystems: vec![told(of_containers)],
    })
}

fn of_containers(of_images: &FsUsage, writable_layers: &Path) -> io::Result<FsUsage> {
    match writable_layers.metadata() {
        Ok(found) if found.dev() != of_images.mountpoint.metadata()?.dev() => FsUsage::of_filesystem(writable_layers),
        Ok(_) => Ok(of_images.clone()),
        // No container has been made yet.
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(of_images.clone()),
        Err(error) => Err(error),
    }
}

fn told(usage: FsUsage) -> FilesystemUsage {
    FilesystemUsage {
        timestamp: nanoseconds(usage.at),
        fs_id: Some(FilesystemIdentifier { mountpoint: usage.mountpoint.to_string_lossy().into_owned() }),
        used_bytes: Some(UInt64Value { value: usage.bytes }),
        inodes_used: Some(UInt64Value { value: usage.inodes }),
    }
}

#[cfg(test)]
mod tests {
    use std::time::SystemTime;

    use super::*;

    #[test]
    fn containers_have_a_filesystem_of_their_own_only_where_they_have_one() {
        let here = std::env::temp_dir().join(format!("crt-fs-info-{}", std::process::id()));
        std::fs::create_dir(&here).unwrap();
        let images = FsUsage { at: SystemTime::now(), mountpoint: here.clone(), bytes: 5, inodes: 1 };
        let beside = here.join("containers");
        assert_eq!(of_containers(&images, &beside).unwrap(), images, "before the first container");
        std::fs::create_dir(&beside).unwrap();
        assert_eq!(of_containers(&images, &beside).unwrap(), images);
        // Every Linux has a filesystem at /proc that is not the one of temporary files.
        let elsewhere = of_containers(&images, Path::new("/proc")).unwrap();
        assert_eq!(elsewhere.mountpoint, Path::new("/proc"));
        std::fs::remove_dir_all(&here).unwrap();
    }
}
