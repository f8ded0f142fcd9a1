//! What a caller may do about an error: the only thing rooms' errors have in common.

/// The kind of an error, as seen by whoever asked. `cri` turns it into a gRPC code.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Class {
    /// The named object does not exist.
    NotFound,
    /// The object exists already, or another act on it is under way.
    Conflict,
    /// The request can never succeed as it is.
    Invalid,
    /// The object is in a state that does not allow this now.
    Precondition,
    /// Room, descriptors, addresses or another bounded thing ran out.
    Exhausted,
    /// A part that this needs does not answer; the same request may succeed later.
    Unavailable,
    /// The caller, or a deadline the caller set, ended the act.
    Cancelled,
    /// The time that the caller allowed has passed.
    TimedOut,
    /// This version does not do that, and says so.
    Unsupported,
    /// The caller's credentials do not allow it.
    Denied,
    /// Our own fault or the machine's.
    Internal,
}
