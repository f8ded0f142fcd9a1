//! Manifests, indexes and configurations: read from bounded bytes, refused by name when they are not for us.

use model::Digest;
use oci_spec::image::{Descriptor, ImageConfiguration, ImageIndex, ImageManifest};
use serde::Deserialize;

use crate::{Error, Fault, Limits, Result, bounded_json::read_json, chain::chain_ids};

/// The largest manifest, index or configuration, bytes. The distribution specification allows 4 MiB, containerd 8.
pub(crate) const LARGEST_DOCUMENT: u64 = 8 << 20;

pub(crate) const OCI_INDEX: &str = "application/vnd.oci.image.index.v1+json";
pub(crate) const OCI_MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";
pub(crate) const DOCKER_INDEX: &str = "application/vnd.docker.distribution.manifest.list.v2+json";
pub(crate) const DOCKER_MANIFEST: &str = "application/vnd.docker.distribution.manifest.v2+json";
const DOCKER_SCHEMA_1: [&str; 2] = [
    "application/vnd.docker.distribution.manifest.v1+json",
    "application/vnd.docker.distribution.manifest.v1+prettyjws",
];
const CONFIGURATIONS: [&str; 2] =
    ["application/vnd.oci.image.config.v1+json", "application/vnd.docker.container.image.v1+json"];
/// Layers. How one is compressed is seen from its first bytes, since media types are often wrong about it.
const LAYERS: [&str; 6] = [
    "application/vnd.oci.image.layer.v1.tar",
    "application/vnd.oci.image.layer.v1.tar+gzip",
    "application/vnd.oci.image.layer.v1.tar+zstd",
    "application/vnd.docker.image.rootfs.diff.tar",
    "application/vnd.docker.image.rootfs.diff.tar.gzip",
    "application/vnd.docker.image.rootfs.diff.tar.zstd",
];
/// Beginnings of the media types of layers that their maker keeps to itself: they are to be had from addresses that the
/// manifest names, which is to let whoever writes a manifest choose what this node connects to. Only bases of Windows
/// ever were such.
const FOREIGN: [&str; 2] =
    ["application/vnd.oci.image.layer.nondistributable.", "application/vnd.docker.image.rootfs.foreign."];

/// What a reference leads to.
#[derive(Debug)]
pub(crate) enum Document {
    /// Several images, one a platform.
    Index(Box<ImageIndex>),
    /// One image.
    Manifest(Box<ImageManifest>),
}

/// One layer as the manifest and the configuration agree on it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct LayerPlan {
    pub(crate) blob: Digest,
    pub(crate) bytes: u64,
    pub(crate) media_type: String,
    pub(crate) diff_id: Digest,
    pub(crate) chain_id: Digest,
}

/// The fields that tell the kinds of documents apart.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Shape {
    schema_version: Option<u64>,
    media_type: Option<String>,
    manifests: Option<serde::de::IgnoredAny>,
    layers: Option<serde::de::IgnoredAny>,
}

/// Reads what lies at `digest`. `told` is the media type that came with it, if any; the document's own word and shape
/// must not contradict each other, or one digest could mean two things.
pub(crate) fn read_document(digest: &Digest, told: Option<&str>, bytes: &[u8]) -> Result<Document> {
    let refuse = |why: String| Error::Content { what: "manifest", digest: digest.clone(), why };
    let shape: Shape = read_json(bytes).map_err(|error| refuse(error.to_string()))?;
    let media_type = shape.media_type.as_deref().or(told).unwrap_or_default();
    if shape.schema_version == Some(1) || DOCKER_SCHEMA_1.contains(&media_type) {
        let media_type = if media_type.is_empty() { DOCKER_SCHEMA_1[0] } else { media_type };
        let why = "Docker image manifest version 2, schema 1 is obsolete; push the image again with a current tool";
        return Err(Error::MediaType { media_type: media_type.to_owned(), why });
    }
    if shape.manifests.is_some() && shape.layers.is_some() {
        return Err(refuse("it has both manifests and layers".to_owned()));
    }
    let index = match media_type {
        OCI_INDEX | DOCKER_INDEX => true,
        OCI_MANIFEST | DOCKER_MANIFEST => false,
        // Old layouts name no media type, and some servers tell a generic one.
        "" | "application/json" | "application/octet-stream" | "text/plain" => shape.manifests.is_some(),
        other => {
            let why = "want an image manifest or index of OCI or Docker";
            return Err(Error::MediaType { media_type: other.chars().take(200).collect(), why });
        }
    };
    if index {
        serde_json::from_slice(bytes).map(Box::new).map(Document::Index).map_err(|error| refuse(error.to_string()))
    } else {
        serde_json::from_slice(bytes).map(Box::new).map(Document::Manifest).map_err(|error| refuse(error.to_string()))
    }
}

/// Reads an image's configuration.
pub(crate) fn read_configuration(digest: &Digest, bytes: &[u8]) -> Result<ImageConfiguration> {
    let refuse = |error: serde_json::Error| Error::Content {
        what: "configuration",
        digest: digest.clone(),
        why: error.to_string(),
    };
    read_json(bytes).map_err(refuse)
}

/// The digest of a descriptor; only those that the store keys by.
pub(crate) fn digest_of(descriptor: &Descriptor) -> Result<Digest> {
    read_digest("descriptor", descriptor.digest().as_ref())
}

/// Checks that the manifest's configuration is one of an image, not of some other artifact.
pub(crate) fn check_configuration_type(manifest: &ImageManifest) -> Result<()> {
    let media_type = manifest.config().media_type().to_string();
    if CONFIGURATIONS.contains(&media_type.as_str()) {
        return Ok(());
    }
    Err(Error::MediaType { media_type, why: "this is not a container image but some other artifact" })
}

/// The layers, lowest first, as manifest and configuration agree on them, if they can be within the limits.
pub(crate) fn plan_layers(
    id: &Digest,
    manifest: &ImageManifest,
    config: &ImageConfiguration,
    limits: &Limits,
) -> Result<Vec<LayerPlan>> {
    let refuse = |why: String| Error::Content { what: "configuration", digest: id.clone(), why };
    let layers = manifest.layers();
    let diff_ids = config.rootfs().diff_ids();
    if layers.len() != diff_ids.len() {
        let why = format!("it has {} diff ids, the manifest has {} layers", diff_ids.len(), layers.len());
        return Err(refuse(why));
    }
    let most = limits.layers;
    if layers.len() > most {
        return Err(refuse(format!("it has {} layers, more than {most} (images.limits.layers)", layers.len())));
    }
    let diff_ids: Vec<Digest> = diff_ids.iter().map(|text| read_digest("diff id", text)).collect::<Result<_>>()?;
    let (mut plans, mut blobs) = (Vec::with_capacity(layers.len()), 0_u64);
    for ((layer, diff_id), chain_id) in layers.iter().zip(&diff_ids).zip(chain_ids(&diff_ids)) {
        let media_type = layer.media_type().to_string();
        if FOREIGN.iter().any(|prefix| media_type.starts_with(prefix)) {
            let why = "a foreign (nondistributable) layer is not in the registry, and is fetched from nowhere else";
            return Err(Error::MediaType { media_type, why });
        }
        if !LAYERS.contains(&media_type.as_str()) {
            return Err(Error::MediaType { media_type, why: "want a layer of OCI or Docker: tar, tar+gzip, tar+zstd" });
        }
        // No layer is smaller than its blob, but for a few bytes. Said before the first of them is fetched.
        let blob = digest_of(layer)?;
        blobs = blobs.saturating_add(layer.size());
        for (bytes, what, limit) in
            [(layer.size(), "bytes", limits.layer_bytes), (blobs, "bytes in all layers", limits.image_bytes)]
        {
            if bytes > limit {
                return Err(Error::Layer { layer: blob, source: Fault::budget(what, limit) });
            }
        }
        plans.push(LayerPlan { blob, bytes: layer.size(), media_type, diff_id: diff_id.clone(), chain_id });
    }
    Ok(plans)
}

/// SHA-512, which the specification allows, is refused by name: an image's id is a SHA-256 to every client of the CRI,
/// chain ids are made of nothing else, and no builder or registry writes it unless told to. A store of two algorithms
/// would have two names for one content, at each of the places where one name is what keeps images apart.
fn read_digest(what: &'static str, text: &str) -> Result<Digest> {
    text.parse().map_err(|error: model::InvalidDigest| Error::MediaType {
        media_type: error.text,
        why: if what == "diff id" { "as a diff id; only sha256 is" } else { "as a digest; only sha256 is" },
    })
}

#[cfg(test)]
mod tests {
    use model::Class;
    use proptest::prelude::*;

    use super::*;

    fn read(told: Option<&str>, text: &str) -> Result<Document> {
        read_document(&Digest::from_sha256([0; 32]), told, text.as_bytes())
    }

    #[test]
    fn both_families_are_read_with_and_without_a_media_type() {
        let digest = Digest::from_sha256([1; 32]);
        let manifest = format!(
            r#"{{"schemaVersion":2,"config":{{"mediaType":"{}","digest":"{digest}","size":2}},"layers":[]}}"#,
            CONFIGURATIONS[1]
        );
        assert!(matches!(read(None, &manifest), Ok(Document::Manifest(_))));
        assert!(matches!(read(Some(DOCKER_MANIFEST), &manifest), Ok(Document::Manifest(_))));
        let index = r#"{"schemaVersion":2,"manifests":[]}"#;
        assert!(matches!(read(None, index), Ok(Document::Index(_))));
        assert!(matches!(read(Some(DOCKER_INDEX), index), Ok(Document::Index(_))));
    }

    #[test]
    fn schema_1_and_strange_documents_are_refused_by_name() {
        let old = read(Some(DOCKER_SCHEMA_1[1]), r#"{"schemaVersion":1,"fsLayers":[]}"#).unwrap_err();
        assert!(matches!(&old, Error::MediaType { media_type, .. } if media_type == DOCKER_SCHEMA_1[1]), "{old}");
        assert_eq!(old.class(), Class::Unsupported);
        assert!(read(None, r#"{"schemaVersion":1}"#).is_err());
        assert!(read(Some("text/html"), "{}").is_err());
        assert!(read(None, r#"{"schemaVersion":2,"manifests":[],"layers":[]}"#).is_err());
        for garbage in ["", "[]", "null", "{", "<html>", &"[".repeat(10_000)] {
            assert!(read(None, garbage).is_err());
        }
    }

    proptest! {
        #[test]
        fn no_bytes_panic(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            let _ = read_document(&Digest::from_sha256([0; 32]), None, &bytes);
            let _ = read_configuration(&Digest::from_sha256([0; 32]), &bytes);
        }
    }
}
