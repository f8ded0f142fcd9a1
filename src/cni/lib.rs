//! The Container Network Interface as its specification (1.1, and back to 0.3) says it: configurations, results,
//! plugins run by exec, and the cache in which other tools find what was attached.
//!
//! Everything that comes from outside (files, what plugins print) is bounded and judged here; what leaves this room is
//! well-formed. Plugins run in the launcher, each with a deadline of its own.
//! Never knows: how a link is made, which plugins somebody else replaces, what a pod is.

mod cache;
mod conflist;
mod directory;
mod error;
mod plugins;
mod result;
mod runtime;
mod watch;

pub use cache::{Cache, Cached};
pub use conflist::{Conflist, PluginConf, RUNTIME_KEYS, bounded};
pub use directory::{Directory, Fault};
pub use error::{Error, Result};
pub use plugins::{Command, Plugins};
pub use result::{Dns, Interface, Ip, Route, Success};
pub use runtime::Runtime;
pub use watch::Watch;
