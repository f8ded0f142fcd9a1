//! Generates the wire types from `proto/` at build time, with no compiler to install.

use std::{env, error::Error, fs, path::PathBuf};

use prost_types::{FileDescriptorSet, field_descriptor_proto::Type};

/// Every contract, relative to the repository's `proto/`. What these import comes along.
const CONTRACTS: &[&str] = &[
    "cri/v1/runtime_service.proto",
    "cri/v1/image_service.proto",
    "coracle/v1/images.proto",
    "coracle/v1/system.proto",
    "monitor/v1/monitor.proto",
    "monitor/v1/hand_over.proto",
];

/// Answers whose elements are kept encoded: a list of all containers is asked for every second, and nearly all of it is
/// what it was a second ago. On the wire such an element looks the same as its bytes.
const ENCODED: [(&str, &str); 2] =
    [("ListContainersResponse", "containers"), ("StreamContainersResponse", "containers")];

fn main() -> Result<(), Box<dyn Error>> {
    let proto = PathBuf::from(env::var("CARGO_MANIFEST_DIR")?).join("../../proto");
    println!("cargo::rerun-if-changed={}", proto.display());
    let mut descriptors = protox::compile(CONTRACTS, [&proto])?;
    fs::write(
        PathBuf::from(env::var("OUT_DIR")?).join("descriptors.bin"),
        prost::Message::encode_to_vec(&descriptors),
    )?;
    let mut builder = tonic_prost_build::configure().btree_map(".").build_client(true).build_server(true);
    for (message, field) in ENCODED {
        keep_encoded(&mut descriptors, message, field);
        builder = builder.bytes(format!(".runtime.v1.{message}.{field}"));
    }
    builder.compile_fds(descriptors)?;
    Ok(())
}

/// Has the elements of a field be bytes in Rust.
fn keep_encoded(descriptors: &mut FileDescriptorSet, message: &str, field: &str) {
    let messages = descriptors.file.iter_mut().flat_map(|file| &mut file.message_type);
    let fields = messages.filter(|one| one.name() == message).flat_map(|one| &mut one.field);
    for field in fields.filter(|one| one.name() == field) {
        field.set_type(Type::Bytes);
        field.type_name = None;
    }
}
