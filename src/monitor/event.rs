//! What a monitor waits for, as the numbers that epoll hands back.

/// The socket on which daemons connect.
pub(crate) const LISTENER: u64 = 0;
/// The connection to the daemon.
pub(crate) const PEER: u64 = 1;
/// SIGCHLD.
pub(crate) const SIGNALS: u64 = 2;

/// Where the kind of a numbered event stands in its token.
const KIND: u32 = 56;
const NUMBER: u64 = (1 << KIND) - 1;

/// An event that belongs to one container or exec, by its number.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Numbered {
    /// A container's child says how far it is.
    Word(u64),
    /// A container wrote to its standard output, or its terminal.
    Stdout(u64),
    /// A container wrote to its standard error.
    Stderr(u64),
    /// A process that outlived its container's first one has ended.
    Leftover(u64),
    /// An exec's child says what failed, or runs.
    ExecWord(u64),
}

impl Numbered {
    /// As a token. Numbers count up from 1 and never reach 2⁵⁶.
    pub(crate) fn token(self) -> u64 {
        let (kind, number) = match self {
            Numbered::Word(number) => (1, number),
            Numbered::Stdout(number) => (2, number),
            Numbered::Stderr(number) => (3, number),
            Numbered::Leftover(number) => (4, number),
            Numbered::ExecWord(number) => (5, number),
        };
        kind << KIND | number
    }

    /// From a token; `None` for one that is not numbered.
    pub(crate) fn of(token: u64) -> Option<Numbered> {
        let number = token & NUMBER;
        match token >> KIND {
            1 => Some(Numbered::Word(number)),
            2 => Some(Numbered::Stdout(number)),
            3 => Some(Numbered::Stderr(number)),
            4 => Some(Numbered::Leftover(number)),
            5 => Some(Numbered::ExecWord(number)),
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_says_what_it_was_made_from() {
        for event in [
            Numbered::Word(1),
            Numbered::Stdout(7),
            Numbered::Stderr(7),
            Numbered::Leftover(9),
            Numbered::ExecWord(NUMBER),
        ] {
            assert_eq!(Numbered::of(event.token()), Some(event));
        }
        for token in [LISTENER, PEER, SIGNALS] {
            assert_eq!(Numbered::of(token), None);
        }
    }
}
