//! The CRI over its socket: an older kubelet, and clients that send what no client should.
//!
//! The node is a real one, of the programs that `deploy/build` made.

#![allow(clippy::unwrap_used, reason = "a test's panic is its report")]

mod bad_input;
mod old_kubelet;
