//! The whole node through its CRI socket: one module a subject. Each test has a node of its own.

#![allow(
    clippy::unwrap_used,
    clippy::cloned_ref_to_slice_refs,
    reason = "these are tests, and a list of one reads as a list"
)]

mod log_file;
mod scene;
mod support;

mod container;
mod demo;
mod exec;
mod fault;
mod full_disk;
mod image;
mod log;
mod monitor;
mod network;
mod pod;
mod program;
mod program_bounds;
mod restart;
mod security;
