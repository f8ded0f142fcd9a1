//! What can go wrong in the conversation.

use std::io;

use model::Class;

use crate::frame::Unsealable;

/// The result of this room's acts.
pub type Result<T> = std::result::Result<T, Error>;

/// Why a conversation or one of its requests failed.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// Nobody listens at the socket: the process is dead or was never started.
    #[error("no {who} listens on its socket")]
    Absent {
        /// `launcher` or `monitor`.
        who: &'static str,
    },
    /// The connection could not be made for another reason than an absent peer.
    #[error("connect to the {who}")]
    Connect {
        /// `launcher` or `monitor`.
        who: &'static str,
        /// The kernel's reason.
        source: io::Error,
    },
    /// The socket on which the peer is to listen could not be made.
    #[error("make the {who}'s socket")]
    Listen {
        /// `launcher` or `monitor`.
        who: &'static str,
        /// The kernel's reason.
        source: io::Error,
    },
    /// The launcher's program could not be started.
    #[error("start the launcher")]
    Spawn {
        /// The kernel's reason.
        source: io::Error,
    },
    /// The connection has ended. The peer may have died, or a newer daemon took its place.
    #[error("the connection to the {who} is lost")]
    Lost {
        /// `launcher` or `monitor`.
        who: &'static str,
    },
    /// The peer lives and does not answer.
    #[error("the {who} has not answered for {seconds} s")]
    Silent {
        /// `launcher` or `monitor`.
        who: &'static str,
        /// How long it was given.
        seconds: u64,
    },
    /// The peer refused, or the kernel refused the peer. The other side is as it was before the request.
    #[error("{step}{}", reason(*errno))]
    Refused {
        /// What was being done.
        step: String,
        /// The kernel's error number; 0 when the request itself was wrong.
        errno: i32,
    },
    /// A message could not be sent.
    #[error("send to the {who}")]
    Send {
        /// `launcher` or `monitor`.
        who: &'static str,
        /// The kernel's reason.
        source: io::Error,
    },
    /// What came is not a message of this protocol.
    #[error("the {who} sent something that is not a message: {why}")]
    Malformed {
        /// `launcher` or `monitor`, or `daemon` at the other end.
        who: &'static str,
        /// What is wrong with it.
        why: String,
    },
    /// The message is larger, or has more descriptors, than the other end takes.
    #[error("the request does not fit: {why}")]
    TooLarge {
        /// What exceeds which limit.
        why: String,
    },
}

impl Error {
    /// A message to `who` that could not be sealed.
    pub(crate) fn unsealable(who: &'static str, why: Unsealable) -> Error {
        match why {
            Unsealable::TooLarge { .. } => Error::TooLarge { why: why.to_string() },
            Unsealable::Memfd { source } => Error::Send { who, source },
        }
    }

    /// What the caller may do about it.
    pub fn class(&self) -> Class {
        match self {
            Error::Absent { .. } | Error::Lost { .. } | Error::Silent { .. } => Class::Unavailable,
            // The peer's own trouble passes; ours is told as what it is.
            Error::Connect { source, .. } => match Class::of_kernel(source) {
                Class::Exhausted => Class::Exhausted,
                _ => Class::Unavailable,
            },
            Error::Refused { errno, .. } => Class::of_kernel(&io::Error::from_raw_os_error(*errno)),
            Error::TooLarge { .. } => Class::Invalid,
            Error::Listen { source, .. } | Error::Spawn { source } | Error::Send { source, .. } => {
                Class::of_kernel(source)
            }
            Error::Malformed { .. } => Class::Internal,
        }
    }

    /// The kernel's error number where the peer reported one.
    pub fn errno(&self) -> Option<i32> {
        match self {
            Error::Refused { errno, .. } if *errno != 0 => Some(*errno),
            _ => None,
        }
    }

    /// Whether the peer lives and does not answer, or takes no connection any more.
    pub fn is_silent(&self) -> bool {
        match self {
            Error::Silent { .. } => true,
            Error::Connect { source, .. } => source.kind() == io::ErrorKind::WouldBlock,
            _ => false,
        }
    }

    /// Whether the peer itself is gone, as opposed to a request it refused.
    pub fn is_lost(&self) -> bool {
        matches!(self, Error::Absent { .. } | Error::Lost { .. })
    }
}

/// `: no such file or directory`, in the kernel's words and our lower case; nothing for 0.
fn reason(errno: i32) -> String {
    if errno == 0 {
        return String::new();
    }
    format!(": {}", describe_errno(errno))
}

/// The kernel's words for an error number, lower case as our texts are.
pub(crate) fn describe_errno(errno: i32) -> String {
    let text = nix::errno::Errno::from_raw(errno).desc();
    let mut letters = text.chars();
    match letters.next() {
        Some(first) => first.to_lowercase().chain(letters).collect(),
        None => format!("error {errno}"),
    }
}
