//! Signals by number and name, as images and the CRI spell them.

use std::{fmt, str::FromStr};

use serde::{Deserialize, Serialize};

/// Why a text or number is not a signal.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{text:?} is not a signal: want a name such as SIGTERM or RTMIN+3, or a number from 1 to 64")]
pub struct InvalidSignal {
    /// What was given.
    pub text: String,
}

/// A Linux signal, 1 to 64.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "i32", into = "i32")]
pub struct Signal(i32);

/// The first real-time signal that a C library leaves to programs (`SIGRTMIN` of glibc and musl).
const RTMIN: i32 = 34;
/// The last real-time signal.
const RTMAX: i32 = 64;

/// Names and numbers of the standard signals on x86-64 and arm64.
const NAMES: [(&str, i32); 34] = [
    ("HUP", 1),
    ("INT", 2),
    ("QUIT", 3),
    ("ILL", 4),
    ("TRAP", 5),
    ("ABRT", 6),
    ("IOT", 6),
    ("BUS", 7),
    ("FPE", 8),
    ("KILL", 9),
    ("USR1", 10),
    ("SEGV", 11),
    ("USR2", 12),
    ("PIPE", 13),
    ("ALRM", 14),
    ("TERM", 15),
    ("STKFLT", 16),
    ("CHLD", 17),
    ("CLD", 17),
    ("CONT", 18),
    ("STOP", 19),
    ("TSTP", 20),
    ("TTIN", 21),
    ("TTOU", 22),
    ("URG", 23),
    ("XCPU", 24),
    ("XFSZ", 25),
    ("VTALRM", 26),
    ("PROF", 27),
    ("WINCH", 28),
    ("IO", 29),
    ("POLL", 29),
    ("PWR", 30),
    ("SYS", 31),
];

impl Signal {
    /// Polite end: what a stop sends when nobody names another.
    pub const TERM: Signal = Signal(15);
    /// The end that cannot be refused.
    pub const KILL: Signal = Signal(9);

    /// The signal with this number.
    pub fn new(number: i32) -> Result<Self, InvalidSignal> {
        if (1..=RTMAX).contains(&number) { Ok(Self(number)) } else { Err(InvalidSignal { text: number.to_string() }) }
    }

    /// Its number.
    pub fn number(self) -> i32 {
        self.0
    }
}

impl FromStr for Signal {
    type Err = InvalidSignal;

    /// Accepts `15`, `TERM`, `SIGTERM`, `RTMIN+3`, `SIGRTMAX-2`, in any case.
    fn from_str(text: &str) -> Result<Self, InvalidSignal> {
        let invalid = || InvalidSignal { text: text.chars().take(40).collect() };
        if let Ok(number) = text.parse::<i32>() {
            return Self::new(number).map_err(|_| invalid());
        }
        let upper = text.to_ascii_uppercase();
        let name = upper.strip_prefix("SIG").unwrap_or(&upper);
        if let Some((_, number)) = NAMES.iter().find(|(known, _)| *known == name) {
            return Ok(Self(*number));
        }
        let offset = |rest: &str, sign: char| match rest.strip_prefix(sign) {
            Some(digits) if !digits.is_empty() && digits.bytes().all(|b| b.is_ascii_digit()) => digits.parse().ok(),
            _ if rest.is_empty() => Some(0),
            _ => None,
        };
        let number = if let Some(rest) = name.strip_prefix("RTMIN") {
            offset(rest, '+').map(|n: i32| RTMIN.saturating_add(n))
        } else if let Some(rest) = name.strip_prefix("RTMAX") {
            offset(rest, '-').map(|n: i32| RTMAX.saturating_sub(n))
        } else {
            None
        };
        match number {
            Some(number) if (RTMIN..=RTMAX).contains(&number) => Ok(Self(number)),
            _ => Err(invalid()),
        }
    }
}

impl fmt::Display for Signal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match NAMES.iter().find(|(_, number)| *number == self.0) {
            Some((name, _)) => write!(f, "SIG{name}"),
            None if self.0 >= RTMIN => write!(f, "SIGRTMIN+{}", self.0 - RTMIN),
            None => write!(f, "signal {}", self.0),
        }
    }
}

impl TryFrom<i32> for Signal {
    type Error = InvalidSignal;
    fn try_from(number: i32) -> Result<Self, InvalidSignal> {
        Self::new(number)
    }
}

impl From<Signal> for i32 {
    fn from(signal: Signal) -> i32 {
        signal.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_numbers_and_real_time_forms_are_read() {
        for (text, number) in [
            ("TERM", 15),
            ("sigkill", 9),
            ("9", 9),
            ("SIGRTMIN+3", 37),
            ("RTMAX", 64),
            ("rtmax-14", 50),
            ("SIGRTMIN", 34),
        ] {
            assert_eq!(text.parse::<Signal>().map(Signal::number), Ok(number), "{text}");
        }
        for text in ["", "0", "65", "-1", "SIGFOO", "RTMIN+", "RTMIN+31", "RTMAX-99999999999", "RTMIN-1"] {
            assert!(text.parse::<Signal>().is_err(), "{text}");
        }
    }

    #[test]
    fn every_signal_prints_as_a_name_that_is_read_back() {
        for number in (1..=31).chain(34..=64) {
            let signal = Signal::new(number).unwrap();
            assert_eq!(signal.to_string().parse::<Signal>(), Ok(signal));
        }
    }
}
