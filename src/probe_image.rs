//! The demo's image as an archive in the OCI image layout: one layer with one static program.

use anyhow::Result;
use aws_lc_rs::digest::{SHA256, digest};
use serde_json::{Value, json};

/// The archive's bytes: `program` at `path`, named `reference`.
pub(crate) fn archive(reference: &str, path: &str, program: &[u8]) -> Result<Vec<u8>> {
    let mut layer = tar::Builder::new(Vec::new());
    // A container wants these to exist; everything else is mounted over or made.
    for directory in ["etc/", "tmp/"] {
        let mode = if directory == "tmp/" { 0o1777 } else { 0o755 };
        add(&mut layer, directory, tar::EntryType::Directory, mode, &[])?;
    }
    add(&mut layer, path.trim_start_matches('/'), tar::EntryType::Regular, 0o755, program)?;
    let layer = layer.into_inner()?;

    let config = serde_json::to_vec(&json!({
        "architecture": architecture(),
        "os": "linux",
        "config": { "Entrypoint": [path], "Cmd": ["report"], "WorkingDir": "/" },
        "rootfs": { "type": "layers", "diff_ids": [sha256(&layer)] },
    }))?;
    let manifest = serde_json::to_vec(&json!({
        "schemaVersion": 2,
        "mediaType": "application/vnd.oci.image.manifest.v1+json",
        "config": descriptor("application/vnd.oci.image.config.v1+json", &config),
        "layers": [descriptor("application/vnd.oci.image.layer.v1.tar", &layer)],
    }))?;
    let mut named = descriptor("application/vnd.oci.image.manifest.v1+json", &manifest);
    named["annotations"] = json!({ "io.containerd.image.name": reference });
    let index = serde_json::to_vec(&json!({ "schemaVersion": 2, "manifests": [named] }))?;

    let mut archive = tar::Builder::new(Vec::new());
    let marker = br#"{"imageLayoutVersion":"1.0.0"}"#;
    add(&mut archive, "oci-layout", tar::EntryType::Regular, 0o644, marker)?;
    add(&mut archive, "index.json", tar::EntryType::Regular, 0o644, &index)?;
    for blob in [&layer, &config, &manifest] {
        let name = format!("blobs/sha256/{}", sha256(blob).trim_start_matches("sha256:"));
        add(&mut archive, &name, tar::EntryType::Regular, 0o644, blob)?;
    }
    Ok(archive.into_inner()?)
}

/// The architecture's name in the OCI specifications, which is Go's.
fn architecture() -> &'static str {
    match std::env::consts::ARCH {
        "x86_64" => "amd64",
        "aarch64" => "arm64",
        other => other,
    }
}

fn add(
    archive: &mut tar::Builder<Vec<u8>>,
    path: &str,
    kind: tar::EntryType,
    mode: u32,
    content: &[u8],
) -> std::io::Result<()> {
    let mut header = tar::Header::new_gnu();
    header.set_entry_type(kind);
    header.set_mode(mode);
    header.set_size(content.len() as u64);
    archive.append_data(&mut header, path, content)
}

fn descriptor(media_type: &str, content: &[u8]) -> Value {
    json!({ "mediaType": media_type, "digest": sha256(content), "size": content.len() })
}

fn sha256(content: &[u8]) -> String {
    let sum = digest(&SHA256, content);
    let mut text = String::from("sha256:");
    for byte in sum.as_ref() {
        text += &format!("{byte:02x}");
    }
    text
}
