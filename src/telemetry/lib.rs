//! Log set-up of every program of ours: to standard error, as text for people or JSON for machines.
//!
//! Knows no room. The journal and Kubernetes both read standard error, so there is no log file to rotate.

use std::io::{self, IsTerminal};

use tracing_subscriber::{EnvFilter, fmt, prelude::*};

/// How log lines look.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Format {
    /// One readable line an event; colours only on a terminal.
    Text,
    /// One JSON object an event, fields at the top level.
    Json,
}

/// Why logging could not be set up.
#[derive(Debug)]
pub enum Error {
    /// The filter is not one, as `info,images=debug` is. Holds the reason.
    Filter(String),
    /// Somebody in this process set up logging before.
    Twice,
}

impl std::fmt::Display for Error {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Error::Filter(why) => write!(f, "the log filter does not read: {why}"),
            Error::Twice => f.write_str("logging is set up already"),
        }
    }
}

impl std::error::Error for Error {}

/// Sends events that pass `filter` (a level, or `room=level` pairs: `info,images=debug`) to standard error, from now to
/// the end of the process. Call once, first thing.
pub fn init(format: Format, filter: &str) -> Result<(), Error> {
    let filter = parse(filter)?;
    let registry = tracing_subscriber::registry().with(filter);
    let done = match format {
        Format::Text => {
            let lines = fmt::layer().with_writer(io::stderr).with_ansi(io::stderr().is_terminal());
            registry.with(lines).try_init()
        }
        Format::Json => registry.with(fmt::layer().json().flatten_event(true).with_writer(io::stderr)).try_init(),
    };
    done.map_err(|_| Error::Twice)
}

fn parse(filter: &str) -> Result<EnvFilter, Error> {
    EnvFilter::builder().parse(filter).map_err(|error| Error::Filter(error.to_string()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn levels_and_pairs_are_filters_and_nonsense_is_not() {
        for good in ["info", "warn,images=debug", "off", ""] {
            assert!(parse(good).is_ok(), "{good:?}");
        }
        for bad in ["info,images=loud", "=,="] {
            assert!(matches!(parse(bad), Err(Error::Filter(_))), "{bad:?}");
        }
    }
}
