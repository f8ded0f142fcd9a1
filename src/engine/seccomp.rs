//! Seccomp: profiles as written, what they mean for a container, the filter as the kernel takes it, and a cache.
//!
//! Compiling is ours (libseccomp takes 20 ms for a profile of this size; it is the oracle in our tests). A filter is
//! compiled once for each profile and set of capabilities, and kept as the bytes that the child loads.

mod arch;
mod cache;
mod compile;
mod default;
mod profile;
mod resolve;

pub use arch::Arch;
pub use cache::Filters;
pub use compile::compile;
pub use default::profile as default_profile;
pub use profile::{Action, ArchMap, Argument, Compare, Filter, Profile, Rule};
pub use resolve::{
    ArchRules, CallRules, Circumstances, Resolved, Verdict, architectures, counting, kernel_version, resolve,
};

/// Longest profile that is read, bytes. Docker's is 17 KiB.
pub const MAX_PROFILE: usize = 4 << 20;

#[cfg(test)]
mod tests;
