//! What a caller may do about an error: the only thing rooms' errors have in common.

use std::io;

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

/// Numbers of Linux errors that mean that something bounded ran out: memory, the machine's descriptors, ours, room, a
/// quota.
const RAN_OUT: [i32; 5] = [12, 23, 24, 28, 122];

impl Class {
    /// Of an error by which the kernel refuses one of our own acts: what ran out deserves another answer than a fault
    /// of the machine. An error of ours may stand for one, by its kind.
    pub fn of_kernel(error: &io::Error) -> Class {
        let ran_out = match error.raw_os_error() {
            Some(number) => RAN_OUT.contains(&number),
            None => matches!(
                error.kind(),
                io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded | io::ErrorKind::OutOfMemory
            ),
        };
        if ran_out { Class::Exhausted } else { Class::Internal }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_ran_out_is_told_apart_from_a_fault() {
        for number in RAN_OUT {
            assert_eq!(Class::of_kernel(&io::Error::from_raw_os_error(number)), Class::Exhausted, "{number}");
        }
        for number in [1, 5, 13] {
            assert_eq!(Class::of_kernel(&io::Error::from_raw_os_error(number)), Class::Internal, "{number}");
        }
        assert_eq!(Class::of_kernel(&io::Error::from(io::ErrorKind::StorageFull)), Class::Exhausted);
    }
}
