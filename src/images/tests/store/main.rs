//! The image store against a registry on loopback and the real disk. One binary, a module per subject.
#![allow(clippy::unwrap_used, reason = "what fails in a helper of a test fails the test")]

mod archives;
mod authorization;
mod broken;
mod busy;
mod check;
mod content;
mod crowd;
mod explain;
mod full;
mod hostile;
mod interleaving;
mod life;
mod lost;
mod mirrors;
mod names;
mod node;
mod pipeline;
mod policy;
mod priority;
mod redirect;
mod resume;
