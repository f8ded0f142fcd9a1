//! Fuzz targets: whatever comes from outside as bytes, and must end as a value or an error.
//!
//! Each target replays its seeds and its corpus (`corpus/<target>/`, inputs that once went wrong or reach far), then
//! mutates them for `CORACLE_FUZZ_SECONDS` (3 by default). The seed of the run is printed; `CORACLE_FUZZ_SEED` repeats
//! it. An input that fails is written into the corpus directory, to be committed with the repair. Plain Rust on the
//! stable compiler, so that anybody's `cargo test` runs them: they find what careless code does, not what only coverage
//! guides to.

#![allow(clippy::unwrap_used, clippy::print_stderr, reason = "this is a test")]

mod bytes;
mod cni;
#[allow(dead_code, reason = "shared with the tests of unpackers, which use all of it")]
#[path = "../unpackers/corpus.rs"]
mod corpus;
mod images;
mod mutate;
mod registry;
mod runner;
