//! The face for people: the calls of `coracle.v1`, one file per call, on the socket where the kubelet has its own.
//!
//! A call is a straight walk: `door` (span, one log line, a task whose news are streamed) → the call's own file → the
//! room that does it → `answer` spells the outcome, or `status` its error. What is long is streamed in small messages,
//! and whoever is not waited for any more stops. Never knows: how anything is done; what a terminal looks like.

mod answer;
mod chunks;
mod door;
mod error;
mod status;

mod check_node;
mod check_store;
mod disk_usage;
mod explain_pull;
mod list_images;
mod load_images;
mod pull_image;
mod remove_image;
mod save_images;
mod tag_image;

mod serve;

pub use error::Error;
pub use serve::{Operator, Pods};
