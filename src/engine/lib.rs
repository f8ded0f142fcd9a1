//! One container, from what was asked to a process that waits for its start.
//!
//! The daemon's half: [`Engine::plan`] merges request, image and host into a [`LaunchPlan`], pure data; then
//! [`Engine::prepare`] opens what belongs to the host (root filesystem, bind sources, cgroup, filter) and
//! [`Prepared::send`] hands plan and descriptors to the pod's monitor.
//! The monitor's half ([`launch`], [`enter`], [`init`]) runs a ready plan and decides nothing. The launcher's
//! ([`program`]) runs short programs of the host's.
//! The same plan can be run by another OCI runtime: the daemon renders it as a bundle instead
//! ([`Engine::prepare_bundle`]), and the monitor has the runtime do the rest ([`runtime`]).
//! Never knows: images' contents, networks, the CRI's messages.

pub mod account;
mod attributes;
mod bundle;
pub mod capability;
pub mod cgroup;
mod child;
mod config;
pub mod device;
mod engine;
pub mod enter;
mod error;
mod handler;
mod host;
pub mod init;
pub mod launch;
pub mod launch_plan;
mod oci;
mod orders;
mod place;
mod plan;
mod prepare;
mod proc_file;
pub mod program;
mod rootfs;
pub mod runtime;
pub mod seccomp;
mod sysctl;

pub use account::Accounts;
pub use attributes::copy_attributes;
pub use bundle::{Surroundings, drop_exec, make_private, unmake_private};
pub use cgroup::PodCgroup;
pub use config::Config;
pub use engine::{Engine, PodInit};
pub use error::{Error, Result};
pub use handler::{Backend, Handler, RuntimeConfig};
pub use host::HostFacts;
pub use launch_plan::LaunchPlan;
pub use plan::{PlanInput, PodFiles, Resources, Volume, clean, plan, wanted_volumes};
pub use prepare::Prepared;
pub use rootfs::Rootfs;
