//! What came of asking a host.

use std::{fmt, time::Duration};

use model::Class;

/// One host that was asked, and what came of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Attempt {
    /// Host and port.
    pub host: String,
    /// What came of it.
    pub outcome: Outcome,
}

/// How a host disappointed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Outcome {
    /// It answered, and not with what was asked for.
    Refused {
        /// HTTP status.
        status: u16,
        /// Codes and messages of the body, as far as it had any; at most a few hundred bytes.
        detail: String,
        /// How long it wants to be left alone (`Retry-After`).
        wait: Option<Duration>,
    },
    /// It did not answer.
    Unreachable {
        /// What went wrong; without query strings, which may hold signatures.
        why: String,
    },
    /// It did not answer to the end.
    Broken {
        /// What went wrong; likewise.
        why: String,
    },
    /// It sent something else than was asked for, or more.
    Spoiled {
        /// What came.
        why: String,
    },
}

impl fmt::Display for Attempt {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.outcome {
            Outcome::Unreachable { why } | Outcome::Broken { why } | Outcome::Spoiled { why } => {
                write!(f, "{}: {why}", self.host)
            }
            Outcome::Refused { status, detail, wait } => {
                let meaning = match status {
                    401 | 403 => ": pull access denied, repository does not exist or may require authorization",
                    404 => ": not found",
                    _ => "",
                };
                write!(f, "{}: HTTP {status}{meaning}", self.host)?;
                if !detail.is_empty() {
                    write!(f, ": {detail}")?;
                }
                match wait {
                    Some(wait) => write!(f, " (it asks to be left alone for {} s)", wait.as_secs()),
                    None => Ok(()),
                }
            }
        }
    }
}

/// The most telling answer decides: a refusal by name before an absence, an absence before a silence.
pub(super) fn registry_class(tried: &[Attempt]) -> Class {
    let any = |wanted: fn(u16) -> bool| {
        tried.iter().any(|attempt| matches!(attempt.outcome, Outcome::Refused { status, .. } if wanted(status)))
    };
    if any(|status| status == 401 || status == 403) {
        Class::Denied
    } else if any(|status| status == 404) {
        Class::NotFound
    } else if tried.iter().any(|attempt| matches!(attempt.outcome, Outcome::Spoiled { .. })) {
        Class::Invalid
    } else if any(|status| status == 429 || status == 408) || !any(|status| (300..500).contains(&status)) {
        Class::Unavailable
    } else {
        Class::Invalid
    }
}
