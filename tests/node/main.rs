//! The whole node through its CRI socket: one module a subject. Each test has a node of its own.

#![allow(
    clippy::unwrap_used,
    clippy::cloned_ref_to_slice_refs,
    clippy::print_stdout,
    reason = "these are tests, a list of one reads as a list, and what was measured is told to whoever looks"
)]

mod log_file;
mod scene;
mod support;
mod witness;

mod cni;
mod container;
mod demo;
mod exec;
mod exhausted;
mod fault;
mod full_disk;
mod handler;
mod host;
mod image;
mod image_crash;
mod image_fault;
mod image_service;
mod log;
mod metrics;
mod monitor;
mod network;
mod pod;
mod program;
mod program_bounds;
mod restart;
mod runtime_config;
mod security;
mod storm;
