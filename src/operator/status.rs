//! The only place where an error becomes a gRPC status: its class a code, its chain of causes one line.

use model::{Class, with_causes_within};
use tonic::{Code, Status};

use crate::error::Error;

/// Longest message, bytes. It travels percent-encoded in a trailer, and HTTP/2 peers bound all headers together.
const LONGEST: usize = 4096;

/// The status that a client gets.
pub(crate) fn status(error: &Error) -> Status {
    Status::new(code(error.class()), with_causes_within(error, LONGEST))
}

/// Codes as the CRI has them, but that a registry which is away is what it is: no kubelet looks at these.
fn code(class: Class) -> Code {
    match class {
        Class::NotFound => Code::NotFound,
        Class::Conflict => Code::AlreadyExists,
        Class::Invalid => Code::InvalidArgument,
        Class::Precondition => Code::FailedPrecondition,
        Class::Exhausted => Code::ResourceExhausted,
        Class::Unavailable => Code::Unavailable,
        Class::Cancelled => Code::Cancelled,
        Class::TimedOut => Code::DeadlineExceeded,
        Class::Unsupported => Code::Unimplemented,
        Class::Denied => Code::PermissionDenied,
        Class::Internal => Code::Internal,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_message_tells_every_cause_and_never_too_much() {
        let source = std::io::Error::other("disk is on fire");
        let error = images::Error::Disk { act: "read", path: "/x".into(), source };
        let told = status(&error.into());
        assert_eq!((told.code(), told.message()), (Code::Internal, "read /x: disk is on fire"));
        let error = images::Error::NotFound { what: "ü".repeat(100_000) };
        let told = status(&error.into());
        assert_eq!(told.code(), Code::NotFound);
        assert!(told.message().len() < LONGEST + 8);
    }
}
