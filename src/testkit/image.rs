//! Images made from nothing: layers of given files, and the documents that name them.

use std::collections::BTreeMap;

use aws_lc_rs::digest::{SHA256, digest};
use serde_json::{Value, json};

/// Media types of the documents; the layers are plain tars.
const MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";
const CONFIG: &str = "application/vnd.oci.image.config.v1+json";
const LAYER: &str = "application/vnd.oci.image.layer.v1.tar";
const INDEX: &str = "application/vnd.oci.image.index.v1+json";

/// `sha256:…` of these bytes.
pub fn digest_of(bytes: &[u8]) -> String {
    let mut text = "sha256:".to_owned();
    for byte in digest(&SHA256, bytes).as_ref() {
        text.push_str(&format!("{byte:02x}"));
    }
    text
}

/// One layer: entries in the order given. Owner root, time 0, so that the same calls give the same digest.
#[derive(Default)]
pub struct Layer {
    tar: Option<tar::Builder<Vec<u8>>>,
}

impl Layer {
    /// An empty layer.
    pub fn new() -> Layer {
        Layer { tar: Some(tar::Builder::new(Vec::new())) }
    }

    /// A regular file.
    #[must_use]
    pub fn file(self, path: &str, mode: u32, content: &[u8]) -> Layer {
        self.entry(path, tar::EntryType::Regular, mode, content, None)
    }

    /// A directory.
    #[must_use]
    pub fn directory(self, path: &str, mode: u32) -> Layer {
        self.entry(path, tar::EntryType::Directory, mode, &[], None)
    }

    /// A symbolic link.
    #[must_use]
    pub fn link(self, path: &str, to: &str) -> Layer {
        self.entry(path, tar::EntryType::Symlink, 0o777, &[], Some(to))
    }

    /// A hard link to an earlier entry.
    #[must_use]
    pub fn hard_link(self, path: &str, to: &str) -> Layer {
        self.entry(path, tar::EntryType::Link, 0o644, &[], Some(to))
    }

    /// The layer's tar.
    pub fn tar(mut self) -> Vec<u8> {
        self.tar.take().unwrap_or_else(|| tar::Builder::new(Vec::new())).into_inner().unwrap()
    }

    fn entry(mut self, path: &str, kind: tar::EntryType, mode: u32, content: &[u8], to: Option<&str>) -> Layer {
        let mut header = tar::Header::new_gnu();
        header.set_entry_type(kind);
        header.set_mode(mode);
        header.set_uid(0);
        header.set_gid(0);
        header.set_mtime(0);
        header.set_size(content.len() as u64);
        let path = path.trim_start_matches('/');
        let tar = self.tar.get_or_insert_with(|| tar::Builder::new(Vec::new()));
        match to {
            Some(to) => tar.append_link(&mut header, path, to).unwrap(),
            None => tar.append_data(&mut header, path, content).unwrap(),
        }
        self
    }
}

/// A layer as a registry has it, and the digest of what it is when it is unpacked.
struct PackedLayer {
    diff_id: String,
    blob: Vec<u8>,
    media_type: String,
}

/// An image in the making.
#[derive(Default)]
pub struct ImageBuilder {
    layers: Vec<PackedLayer>,
    config: BTreeMap<String, Value>,
}

impl ImageBuilder {
    /// An image without layers and without settings.
    pub fn new() -> ImageBuilder {
        ImageBuilder::default()
    }

    /// An image whose only program is `/probe`, with the few files that user look-ups need.
    pub fn probe(program: &[u8]) -> ImageBuilder {
        let layer = Layer::new()
            .directory("etc", 0o755)
            .file("etc/passwd", 0o644, b"root:x:0:0:root:/root:/bin/sh\nuser:x:1000:1000::/home/user:/bin/sh\n")
            .file("etc/group", 0o644, b"root:x:0:\nuser:x:1000:\nextra:x:2000:user\n")
            .directory("tmp", 0o1777)
            .directory("root", 0o700)
            .directory("home", 0o755)
            .directory("home/user", 0o755)
            .file("probe", 0o755, program);
        ImageBuilder::new().layer(layer).set("Entrypoint", json!(["/probe"])).set("Cmd", json!(["report"]))
    }

    /// Adds a layer on top.
    #[must_use]
    pub fn layer(self, layer: Layer) -> ImageBuilder {
        self.layer_bytes(layer.tar())
    }

    /// Adds a layer that is these bytes, whatever they are.
    #[must_use]
    pub fn layer_bytes(mut self, tar: Vec<u8>) -> ImageBuilder {
        self.layers.push(PackedLayer { diff_id: digest_of(&tar), blob: tar, media_type: LAYER.to_owned() });
        self
    }

    /// Adds a layer that is this archive when it is unpacked, and this blob in a registry.
    #[must_use]
    pub fn layer_packed(mut self, tar: &[u8], blob: Vec<u8>, media_type: &str) -> ImageBuilder {
        self.layers.push(PackedLayer { diff_id: digest_of(tar), blob, media_type: media_type.to_owned() });
        self
    }

    /// Sets a key of the image configuration's `config`, as `Entrypoint`, `Env`, `User`, `Volumes`.
    #[must_use]
    pub fn set(mut self, key: &str, value: Value) -> ImageBuilder {
        self.config.insert(key.to_owned(), value);
        self
    }

    /// The finished image for this machine's architecture.
    pub fn build(self) -> BuiltImage {
        let architecture = if cfg!(target_arch = "aarch64") { "arm64" } else { "amd64" };
        let diff_ids: Vec<_> = self.layers.iter().map(|layer| &layer.diff_id).collect();
        let config = serde_json::to_vec(&json!({
            "architecture": architecture, "os": "linux", "created": "1970-01-01T00:00:00Z",
            "config": self.config, "rootfs": { "type": "layers", "diff_ids": diff_ids },
        }))
        .unwrap();
        let layers: Vec<_> = self.layers.iter().map(|layer| descriptor(&layer.media_type, &layer.blob)).collect();
        let manifest = serde_json::to_vec(&json!({
            "schemaVersion": 2, "mediaType": MANIFEST, "config": descriptor(CONFIG, &config), "layers": layers,
        }))
        .unwrap();
        BuiltImage { manifest, config, layers: self.layers.into_iter().map(|layer| layer.blob).collect() }
    }
}

fn descriptor(media_type: &str, content: &[u8]) -> Value {
    json!({ "mediaType": media_type, "digest": digest_of(content), "size": content.len() })
}

/// A finished image: what a registry serves or an archive holds.
#[derive(Debug, Clone)]
pub struct BuiltImage {
    /// The manifest document.
    pub manifest: Vec<u8>,
    /// The image configuration; its digest is the image's id.
    pub config: Vec<u8>,
    /// The layers, lowest first, as a registry has them: plain tars unless they were added otherwise.
    pub layers: Vec<Vec<u8>>,
}

impl BuiltImage {
    /// Media type of the manifest.
    pub const MEDIA_TYPE: &'static str = MANIFEST;

    /// `sha256:…` by which a registry names it.
    pub fn digest(&self) -> String {
        digest_of(&self.manifest)
    }

    /// `sha256:…` by which a node names it.
    pub fn id(&self) -> String {
        digest_of(&self.config)
    }

    /// Everything a registry must have, by digest.
    pub fn blobs(&self) -> BTreeMap<String, Vec<u8>> {
        let all = self.layers.iter().chain([&self.manifest, &self.config]);
        all.map(|blob| (digest_of(blob), blob.clone())).collect()
    }

    /// A tar of the OCI image layout in which the image has this name.
    pub fn archive(&self, reference: &str) -> Vec<u8> {
        let tag = reference.rsplit_once(':').map_or("latest", |(_, tag)| tag);
        let mut manifest = descriptor(MANIFEST, &self.manifest);
        manifest["annotations"] =
            json!({ "org.opencontainers.image.ref.name": tag, "io.containerd.image.name": reference });
        let index = json!({ "schemaVersion": 2, "mediaType": INDEX, "manifests": [manifest] });
        let mut layout = Layer::new().file("oci-layout", 0o644, br#"{"imageLayoutVersion":"1.0.0"}"#).file(
            "index.json",
            0o644,
            &serde_json::to_vec(&index).unwrap(),
        );
        for (digest, blob) in self.blobs() {
            layout = layout.file(&format!("blobs/{}", digest.replace(':', "/")), 0o644, &blob);
        }
        layout.tar()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_same_calls_make_the_same_image() {
        let make = || ImageBuilder::probe(b"program").set("User", json!("user")).build();
        assert_eq!(make().digest(), make().digest());
        assert_ne!(make().id(), ImageBuilder::probe(b"program").build().id());
    }

    #[test]
    fn an_archive_holds_every_blob_under_its_digest() {
        let image = ImageBuilder::probe(b"program").build();
        let archive = image.archive("localhost/probe:test");
        let mut tar = tar::Archive::new(archive.as_slice());
        let names: Vec<_> =
            tar.entries().unwrap().map(|entry| entry.unwrap().path().unwrap().display().to_string()).collect();
        assert_eq!(names.len(), 5);
        assert!(names.contains(&format!("blobs/{}", image.id().replace(':', "/"))));
    }
}
