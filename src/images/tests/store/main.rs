//! The image store against a registry on loopback and the real disk. One binary, a module per subject.
#![allow(clippy::unwrap_used, reason = "what fails in a helper of a test fails the test")]

mod authorization;
mod busy;
mod content;
mod explain;
mod hostile;
mod life;
mod mirrors;
mod names;
mod node;
mod redirect;
