//! Media types of what this room writes: always those of OCI, whatever an image was described with before.

use crate::manifest::DOCKER_MANIFEST;

/// An OCI image's configuration.
pub(crate) const CONFIGURATION: &str = "application/vnd.oci.image.config.v1+json";
/// An OCI layer: plain, by gzip, by zstd.
const LAYER: &str = "application/vnd.oci.image.layer.v1.tar";
const LAYER_GZIP: &str = "application/vnd.oci.image.layer.v1.tar+gzip";
const LAYER_ZSTD: &str = "application/vnd.oci.image.layer.v1.tar+zstd";

/// First bytes of a blob that are looked at.
pub(crate) const HEAD: u64 = 4;

/// The media type of a layer that begins like this. How it is compressed is seen, not believed.
pub(crate) fn of_layer(head: &[u8]) -> &'static str {
    match head {
        [0x1f, 0x8b, ..] => LAYER_GZIP,
        // A frame, or one to be skipped, as lazily pulled layers begin.
        [0x28, 0xb5, 0x2f, 0xfd, ..] | [0x50..=0x5f, 0x2a, 0x4d, 0x18, ..] => LAYER_ZSTD,
        _ => LAYER,
    }
}

/// Whether a manifest that calls itself this has to be written anew for an OCI layout.
pub(crate) fn is_dockers(media_type: Option<&str>) -> bool {
    media_type == Some(DOCKER_MANIFEST)
}
