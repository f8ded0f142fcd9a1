//! What can be wrong with a call, before and after it reaches the rooms below.

use std::{borrow::Cow, fmt};

use model::Class;

use crate::field::Field;

/// Why a call fails.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A value that no version of this runtime could accept.
    #[error("{field}: {value} cannot be: want {want}")]
    Invalid {
        /// Path of the field in the request, `config.linux.resources.cpu_period`.
        field: String,
        /// The value that was sent, shortened.
        value: String,
        /// What would be right.
        want: Cow<'static, str>,
    },
    /// A value that means something which is not built, and is therefore not silently ignored.
    #[error("{field}: {value} is refused: {why}")]
    Refused {
        /// Path of the field in the request.
        field: String,
        /// The value that was sent, shortened.
        value: String,
        /// What is missing.
        why: Cow<'static, str>,
    },
    /// As `Refused`, under the prefix by which the kubelet knows this very case.
    #[error("{prefix}: {field}: {value} is refused: {why}")]
    RefusedByPrefix {
        /// The kubelet's name of the case.
        prefix: &'static str,
        /// Path of the field in the request.
        field: String,
        /// The value that was sent, shortened.
        value: String,
        /// What is missing.
        why: Cow<'static, str>,
    },
    /// A call of the contract that is not built.
    #[error("{call} is not built yet: {why}")]
    Call {
        /// Name of the call.
        call: &'static str,
        /// What stands in its place, if anything.
        why: &'static str,
    },
    /// The time that the client gave the call has passed.
    #[error("{call} took longer than the {allowed_ms} ms that the client allowed")]
    Deadline {
        /// Name of the call.
        call: &'static str,
        /// The client's deadline, from the arrival of the request.
        allowed_ms: u128,
    },
    /// What pods and containers say.
    #[error(transparent)]
    Pods(#[from] pods::Error),
    /// What images say.
    #[error(transparent)]
    Images(#[from] images::Error),
    /// What the network says.
    #[error(transparent)]
    Network(#[from] network::Error),
}

impl Error {
    /// What the caller may do about it.
    pub fn class(&self) -> Class {
        match self {
            Error::Invalid { .. } => Class::Invalid,
            Error::Refused { .. } | Error::RefusedByPrefix { .. } | Error::Call { .. } => Class::Unsupported,
            Error::Deadline { .. } => Class::TimedOut,
            Error::Pods(error) => error.class(),
            Error::Images(error) => error.class(),
            Error::Network(error) => error.class(),
        }
    }

    pub(crate) fn invalid(field: &Field<'_>, value: impl fmt::Debug, want: impl Into<Cow<'static, str>>) -> Self {
        Error::Invalid { field: field.to_string(), value: shown(value), want: want.into() }
    }

    pub(crate) fn refused(field: &Field<'_>, value: impl fmt::Debug, why: impl Into<Cow<'static, str>>) -> Self {
        Error::Refused { field: field.to_string(), value: shown(value), why: why.into() }
    }
}

/// Longest value repeated in a message, bytes: enough to recognise it; a status travels in a header of limited size.
const SHOWN: usize = 160;

fn shown(value: impl fmt::Debug) -> String {
    /// Stops the formatting once there is enough: a hostile value may be megabytes.
    struct Short(String);
    impl fmt::Write for Short {
        fn write_str(&mut self, text: &str) -> fmt::Result {
            for c in text.chars() {
                if self.0.len() >= SHOWN {
                    return Err(fmt::Error);
                }
                self.0.push(c);
            }
            Ok(())
        }
    }
    let mut short = Short(String::new());
    match fmt::write(&mut short, format_args!("{value:?}")) {
        Ok(()) => short.0,
        Err(fmt::Error) => short.0 + "…",
    }
}

/// The first bytes of a text, at most `longest`, without cutting a character.
pub(crate) fn beginning(text: &str, longest: usize) -> &str {
    let mut end = longest.min(text.len());
    while !text.is_char_boundary(end) {
        end -= 1;
    }
    &text[..end]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_hostile_value_is_shortened_in_the_message() {
        let error = Error::invalid(&Field::root("config"), "x".repeat(1 << 20), "less");
        assert!(error.to_string().len() < 300, "{error}");
        assert!(error.to_string().contains('…'));
    }
}
