//! The launcher and the monitors as the daemon meets them: real processes, real namespaces, real cgroups.

mod life;
mod memory;
mod node;
