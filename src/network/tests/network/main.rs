//! The room against the real kernel: links, namespaces, nftables. Every test has its own bridge and directories.

#![allow(clippy::unwrap_used, reason = "helpers of tests are tests")]

mod bench;
mod check;
mod hosts;
mod node;
mod pods;
mod ports;
mod sctp;
