//! The kubelet's face: every call of the Container Runtime Interface, one file per call.
//!
//! A call is a straight walk: `door` (span, deadline, one log line) → the call's own file, which has `request` turn the
//! message into nouns or refuse it by field → the room that does it → `answer` spells the outcome, or `status` its
//! error. List and Status calls never leave memory. What each field of each request comes to stands in `field_table`.
//! Never knows: how anything is done; what a stream carries.

mod about;
mod answer;
mod config;
mod door;
mod error;
mod field;
mod field_table;
mod request;
mod status;

// The calls, as the contract groups them: the runtime, pods, containers, programs, images.
mod runtime_config;
mod runtime_status;
mod update_runtime_config;
mod version;

mod list_pod_sandbox;
mod pod_sandbox_status;
mod remove_pod_sandbox;
mod run_pod_sandbox;
mod stop_pod_sandbox;
mod stream_pod_sandboxes;

mod container_status;
mod create_container;
mod list_containers;
mod remove_container;
mod reopen_container_log;
mod start_container;
mod stop_container;
mod stream_containers;

mod exec_sync;

mod image_fs_info;
mod image_status;
mod list_images;
mod pull_image;
mod remove_image;
mod stream_images;

mod image_service;
mod kept_out;
mod runtime_service;
mod serve;
mod unbuilt;

pub use config::Config;
pub use error::Error;
pub use field_table::{FATES, Fate, Row};
pub use serve::Cri;
