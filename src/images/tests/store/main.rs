//! The image store against a registry on loopback and the real disk. One binary, a module per subject.

mod authorization;
mod content;
mod life;
mod mirrors;
mod names;
mod node;
