//! What can go wrong, what a person is told of it, and the exit code.

use std::{error::Error as _, io, path::PathBuf};

use model::with_causes;
use tonic::{Code, Status};

/// Exit code of wrong arguments: Docker's.
pub(crate) const WRONG_ARGUMENTS: u8 = 125;

/// What the verbs return.
pub(crate) type Result<T, E = Error> = std::result::Result<T, E>;

/// Why it was not done.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Error {
    /// Beyond what the argument parser sees.
    #[error("{what}")]
    Usage { what: String },
    /// Nobody answers on the socket, or answers well.
    #[error("connect to the daemon at {}", socket.display())]
    Unreachable {
        socket: PathBuf,
        #[source]
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// The daemon answered with a refusal, or its answer broke off.
    #[error("{}", words(status))]
    Refused { status: Box<Status>, hint: Option<&'static str> },
    /// A file or stream of this side.
    #[error("{act} {}", path.display())]
    File { act: &'static str, path: PathBuf, source: io::Error },
    /// Standard output takes no more.
    #[error("write to standard output")]
    Output { source: io::Error },
    /// This program could not begin.
    #[error("start the runtime")]
    Start { source: io::Error },
    /// Each reason was told already.
    #[error("not all of it was done")]
    Told,
    /// By the keyboard.
    #[error("interrupted")]
    Interrupted,
}

impl Error {
    /// See the head of this room.
    pub(crate) fn exit_code(&self) -> u8 {
        match self {
            Error::Usage { .. } => WRONG_ARGUMENTS,
            Error::Interrupted => 130,
            Error::Unreachable { .. }
            | Error::Refused { .. }
            | Error::File { .. }
            | Error::Output { .. }
            | Error::Start { .. }
            | Error::Told => 1,
        }
    }

    /// The error and all its causes; nothing where nobody would want to read it.
    pub(crate) fn message(&self) -> Option<String> {
        match self {
            Error::Told => None,
            // Whoever reads us has enough: `coracle images | head`.
            Error::Output { source } if source.kind() == io::ErrorKind::BrokenPipe => None,
            error => Some(with_causes(error)),
        }
    }

    /// What may help.
    pub(crate) fn hint(&self) -> Option<&'static str> {
        match self {
            Error::Unreachable { source, .. } => {
                let denied = source
                    .downcast_ref::<io::Error>()
                    .is_some_and(|source| source.kind() == io::ErrorKind::PermissionDenied);
                Some(if denied {
                    "the socket is for root and its group"
                } else {
                    "is coracled running? --host names another socket than the default one"
                })
            }
            Error::Refused { status, .. } if status.code() == Code::Unimplemented && status.message().is_empty() => {
                Some("the daemon does not know this call: it is older than this program")
            }
            // Not the daemon's answer, but what became of the connection.
            Error::Refused { status, .. } if status.source().is_some() => {
                Some("the daemon went away meanwhile: look what is done, and ask again")
            }
            Error::Refused { hint, .. } => *hint,
            _ => None,
        }
    }

    /// For `map_err`: a refusal without a hint.
    pub(crate) fn refused(status: Status) -> Self {
        Error::Refused { status: Box::new(status), hint: None }
    }

    /// The same, with a hint for one code.
    pub(crate) fn hinted(code: Code, hint: &'static str) -> impl FnOnce(Status) -> Self {
        move |status| Error::Refused { hint: (status.code() == code).then_some(hint), status: Box::new(status) }
    }

    /// For `map_err`: the act and the place.
    pub(crate) fn file(act: &'static str, path: impl Into<PathBuf>) -> impl FnOnce(io::Error) -> Self {
        let path = path.into();
        move |source| Error::File { act, path, source }
    }

    /// For `map_err` on writes to standard output.
    pub(crate) fn output(source: io::Error) -> Self {
        Error::Output { source }
    }
}

/// What the daemon said, or at least what kind of refusal it is.
fn words(status: &Status) -> &str {
    if status.message().is_empty() { status.code().description() } else { status.message() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_person_is_told_the_whole_chain_once_and_a_hint() {
        let source = io::Error::from(io::ErrorKind::PermissionDenied);
        let error = Error::Unreachable { socket: "/x".into(), source: source.into() };
        assert_eq!(error.exit_code(), 1);
        assert_eq!(error.message().unwrap(), "connect to the daemon at /x: permission denied");
        assert!(error.hint().unwrap().contains("root"));
        let error = Error::hinted(Code::NotFound, "look")(Status::not_found("no image"));
        assert_eq!((error.exit_code(), error.message().unwrap().as_str(), error.hint()), (1, "no image", Some("look")));
        assert_eq!(Error::hinted(Code::NotFound, "look")(Status::internal("x")).hint(), None);
        let error = Error::refused(Status::unimplemented(""));
        assert!(!error.message().unwrap().is_empty() && error.hint().unwrap().contains("older"));
        let cut = Status::from_error(Box::new(io::Error::from(io::ErrorKind::ConnectionReset)));
        assert!(Error::hinted(Code::NotFound, "look")(cut).hint().unwrap().contains("went away"));
        assert!(Error::output(io::ErrorKind::BrokenPipe.into()).message().is_none());
    }
}
