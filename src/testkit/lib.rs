//! Tools of the tests: a throwaway node, a CRI client, images made from nothing, waiting without sleeping.
//!
//! A dev-dependency of every room and of the whole-node tests, never part of a program we ship. The exception is
//! `probe/`, the program that runs inside the containers of the tests and of the demo. Here a failure is a panic with a
//! full account, since every caller is a test.
//! Owns: what tests share. Never knows: how anything under test works.

#![allow(clippy::unwrap_used, clippy::print_stderr, reason = "only tests use this room, and they read its panics")]

mod client;
mod debian_registry;
mod eventually;
mod family;
mod image;
mod jwt;
mod leak;
mod member;
mod node;
mod other_release;
mod plugin;
mod proxy;
mod random;
mod registry;
mod tls;

pub use client::{Cri, Operator, container, pod};
pub use debian_registry::{DebianRegistry, Guard, HOSTS};
pub use eventually::{eventually, eventually_async, patience};
pub use family::{Process, descendants};
pub use image::{BuiltImage, ImageBuilder, Layer, digest_of};
pub use leak::Leaks;
pub use member::{Form, Member, archive, mend, pax_records};
pub use node::{NodeOptions, RootSize, TempNode, programs};
pub use other_release::{is_other_release, other_release};
pub use plugin::{Call, Plugin};
pub use proxy::TinyProxy;
pub use random::{Random, seed};
pub use registry::{Access, Gate, TinyRegistry, Trouble};
pub use tls::{Authority, Identity};
