//! Generates the wire types from `proto/` at build time, with no compiler to install.

use std::{env, error::Error, fs, path::PathBuf};

/// Every contract, relative to the repository's `proto/`. What these import comes along.
const CONTRACTS: &[&str] = &[
    "cri/v1/runtime_service.proto",
    "cri/v1/image_service.proto",
    "monitor/v1/monitor.proto",
    "monitor/v1/hand_over.proto",
];

fn main() -> Result<(), Box<dyn Error>> {
    let proto = PathBuf::from(env::var("CARGO_MANIFEST_DIR")?).join("../../proto");
    println!("cargo::rerun-if-changed={}", proto.display());
    let descriptors = protox::compile(CONTRACTS, [&proto])?;
    fs::write(
        PathBuf::from(env::var("OUT_DIR")?).join("descriptors.bin"),
        prost::Message::encode_to_vec(&descriptors),
    )?;
    tonic_prost_build::configure().build_client(true).build_server(true).compile_fds(descriptors)?;
    Ok(())
}
