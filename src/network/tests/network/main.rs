//! The room against the real kernel: links, namespaces, nftables. Every test has its own bridge and directories.

mod bench;
mod node;
mod pods;
