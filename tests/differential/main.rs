//! The same pods on this engine and on other OCI runtimes: what a container sees of itself is equal, or the difference
//! is listed with its reason.
//!
//! `compare` runs the cases of `matrix`; what differs has its reason in `differences.toml`.
//! `life`: a container's whole life by another runtime, its failures included. Needs Debian's runc and crun.

#![allow(
    clippy::unwrap_used,
    clippy::cloned_ref_to_slice_refs,
    reason = "these are tests, and a list of one reads as a list"
)]

#[allow(dead_code, reason = "shared with the tests of the whole node, which use all of it")]
#[path = "../node/log_file.rs"]
mod log_file;
#[allow(dead_code, reason = "as above")]
#[path = "../node/scene.rs"]
mod scene;
#[allow(dead_code, reason = "as above")]
#[path = "../node/support.rs"]
mod support;

mod compare;
mod handlers;
mod life;
mod list;
mod matrix;
