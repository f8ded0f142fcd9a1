//! The launcher and the monitors as the daemon meets them: real processes, real namespaces, real cgroups.

#![allow(clippy::unwrap_used, clippy::print_stdout, reason = "a failure here is a panic with its place")]

mod life;
mod memory;
mod node;
mod program;
mod replace;
mod runtime;
mod v1;
