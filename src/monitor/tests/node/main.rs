//! The launcher and the monitors as the daemon meets them: real processes, real namespaces, real cgroups.

#[allow(clippy::module_inception)]
mod node;

mod life;
mod memory;
