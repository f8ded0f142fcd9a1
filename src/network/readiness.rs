//! Whether the network can take pods, in words an operator can act on.

/// The answer to "is the network ready?", as the kubelet asks it every few seconds.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Readiness {
    /// Pods can be attached.
    Ready,
    /// They cannot.
    NotReady {
        /// What is in the way and what would help.
        why: String,
    },
}
