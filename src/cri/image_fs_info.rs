//! ImageFsInfo: what images take of the disk. Asked by every client when it connects, so it comes from accounting.

use api::cri::v1::{FilesystemIdentifier, FilesystemUsage, ImageFsInfoRequest, ImageFsInfoResponse, UInt64Value};
use images::Images;

use crate::{answer::time::nanoseconds, error::Error};

/// What the store takes now. Writable layers are on the same filesystem; the kubelet takes two equal mount points for
/// that.
pub(crate) fn answer(_: ImageFsInfoRequest, images: &Images) -> Result<ImageFsInfoResponse, Error> {
    let usage = images.usage();
    let filesystem = FilesystemUsage {
        timestamp: nanoseconds(usage.at),
        fs_id: Some(FilesystemIdentifier { mountpoint: usage.mountpoint.to_string_lossy().into_owned() }),
        used_bytes: Some(UInt64Value { value: usage.bytes }),
        inodes_used: Some(UInt64Value { value: usage.inodes }),
    };
    Ok(ImageFsInfoResponse { image_filesystems: vec![filesystem.clone()], container_filesystems: vec![filesystem] })
}
