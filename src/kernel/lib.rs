//! Safe doors to Linux: one module per subject, each function one thing the kernel does.
//!
//! What every door keeps:
//! * Errors are `io::Error` with the kernel's errno in it; nothing is retried except `EINTR` and what its page names.
//! * Descriptors are [`std::os::fd::OwnedFd`] or [`std::os::fd::BorrowedFd`], always close-on-exec, never bare numbers.
//! * A path inside a container is resolved beneath a root descriptor ([`path_in_root`]), never joined as a string.
//! * Doors meant for the child between clone and exec do not allocate; their pages say so.
//!
//! The oldest kernel is 6.1; a door that needs a newer one says so, and a question beside it tells what this kernel can
//! ([`mount::overlay_takes_layers_one_by_one`], [`seccomp::knows_action`]).
//! Owns: system calls. Does not own: what to call in which order (`engine`, `monitor`, `disk`).
#![allow(unsafe_code, reason = "system calls are foreign functions; this is the room that makes them safe")]

pub mod bpf;
pub mod capability;
pub mod clock;
pub mod descriptor;
pub mod file;
pub mod identity;
pub mod limit;
pub mod memfd;
pub mod memory;
pub mod mount;
pub mod mount_table;
pub mod namespace;
pub mod path_in_root;
pub mod poll;
pub mod priority;
pub mod process;
pub mod seccomp;
pub mod signal;
pub mod socket;
pub mod tty;
pub mod xattr;

mod sys;
