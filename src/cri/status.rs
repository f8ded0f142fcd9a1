//! The only place where an error becomes a gRPC status: its class a code, its chain of causes one line.

use model::{Class, with_causes_within};
use tonic::{Code, Status};

use crate::error::Error;

/// Longest message, bytes. It travels percent-encoded in a trailer, and HTTP/2 peers bound all headers together.
const LONGEST: usize = 4096;

/// The status that a client gets.
pub(crate) fn status(error: &Error) -> Status {
    Status::new(code(error), with_causes_within(error, LONGEST))
}

/// The code that the kubelet acts on.
pub(crate) fn code(error: &Error) -> Code {
    // The kubelet's client hands on the bare message only of an error with this code, and then looks at its beginning.
    if let Error::Images(error) = error
        && error.kubelet_const().is_some()
    {
        return Code::Unknown;
    }
    match error.class() {
        Class::NotFound => Code::NotFound,
        Class::Conflict => Code::AlreadyExists,
        Class::Invalid => Code::InvalidArgument,
        Class::Precondition => Code::FailedPrecondition,
        Class::Exhausted => Code::ResourceExhausted,
        Class::Unavailable => Code::Unavailable,
        Class::Cancelled => Code::Cancelled,
        // A probe has failed only if its ExecSync says exactly this; every other code leaves it undecided.
        Class::TimedOut => Code::DeadlineExceeded,
        Class::Unsupported => Code::Unimplemented,
        Class::Denied => Code::PermissionDenied,
        Class::Internal => Code::Internal,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pods(class: Class) -> Error {
        let source = std::io::Error::other("disk is on fire");
        let step = pods::Error::File { act: "write", path: "/x".into(), source: source.into() };
        match class {
            Class::Internal => step.into(),
            Class::TimedOut => pods::Error::ExecTimedOut { container: "c".into(), seconds: 1.0 }.into(),
            _ => pods::Error::NoPod { id: "abc".into() }.into(),
        }
    }

    #[test]
    fn codes_are_those_that_the_kubelet_acts_on() {
        assert_eq!(code(&pods(Class::NotFound)), Code::NotFound);
        assert_eq!(code(&pods(Class::TimedOut)), Code::DeadlineExceeded);
        assert_eq!(code(&Error::Call { call: "Exec", why: "" }), Code::Unimplemented);
        let tried = |outcome| images::Error::Registry {
            what: "r.io/x".into(),
            tried: vec![images::Attempt { host: "r.io".into(), outcome }],
        };
        let silent = tried(images::Outcome::Unreachable { why: "connection refused".into() }).into();
        assert_eq!(code(&silent), Code::Unknown);
        assert!(status(&silent).message().starts_with("RegistryUnavailable: "), "the kubelet looks for this word");
        let absent = tried(images::Outcome::Refused { status: 404, detail: String::new(), wait: None }).into();
        assert_eq!(code(&absent), Code::NotFound);
    }

    #[test]
    fn a_message_tells_every_cause_once_and_never_too_much() {
        assert_eq!(status(&pods(Class::Internal)).message(), "write /x: disk is on fire");
        let error: Error = pods::Error::NoPod { id: "ü".repeat(100_000) }.into();
        assert!(status(&error).message().len() < LONGEST + 8);
    }
}
