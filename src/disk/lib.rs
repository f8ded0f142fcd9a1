//! Records that survive a crash: one small self-describing file per object, written by rename.
//!
//! A record carries its kind, its version and a checksum, so that whatever is found after a power loss is either the
//! whole value or named as damaged, never half of one. [`Store`] keeps a directory of them, [`encode`] and [`decode`]
//! are the same form for whoever holds only a descriptor, [`Flusher`] makes records durable in the background and in
//! groups, [`DirLock`] keeps two daemons out of one directory.
//! Owns: the form on disk. Never knows: what a record means.

mod at;
mod dir_lock;
mod error;
mod flusher;
mod record;
mod store;

pub use at::{read_at, remove_at, write_at};
pub use dir_lock::DirLock;
pub use error::{Damage, Error};
pub use flusher::Flusher;
pub use record::{LARGEST, decode, encode};
pub use store::{Quarantined, Scan, Store};

/// What the acts of this room return.
pub type Result<T, E = Error> = std::result::Result<T, E>;
