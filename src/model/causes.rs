//! An error in one line, for those who read no chain of causes: a log, a status, a record.

use std::{error::Error, iter};

/// The error and its causes, outermost first. A cause that the line ends with already is not told again: many errors
/// of libraries tell theirs themselves.
pub fn with_causes(error: &dyn Error) -> String {
    iter::successors(error.source(), |cause: &&dyn Error| (*cause).source()).fold(error.to_string(), |line, cause| {
        let more = cause.to_string();
        if line.ends_with(&more) { line } else { format!("{line}: {more}") }
    })
}

/// The same in at most so many bytes; where it is longer, `…` says so.
pub fn with_causes_within(error: &dyn Error, bytes: usize) -> String {
    let mut line = with_causes(error);
    if line.len() > bytes {
        let end = (0..=bytes).rev().find(|at| line.is_char_boundary(*at)).unwrap_or_default();
        line.truncate(end);
        line.push('…');
    }
    line
}

#[cfg(test)]
mod tests {
    use std::io;

    use super::*;

    #[derive(Debug, thiserror::Error)]
    #[error("read {file}")]
    struct Outer {
        file: &'static str,
        source: Inner,
    }

    #[derive(Debug, thiserror::Error)]
    #[error("the disk says: {0}")]
    struct Inner(#[source] io::Error);

    #[test]
    fn causes_follow_the_error_and_none_is_told_twice() {
        let error = Outer { file: "a", source: Inner(io::Error::other("it is broken")) };
        assert_eq!(with_causes(&error), "read a: the disk says: it is broken");
        assert_eq!(with_causes(&io::Error::other("alone")), "alone");
        assert_eq!(with_causes_within(&error, 6), "read a…");
        assert_eq!(with_causes_within(&io::Error::other("aä"), 2), "a…");
        assert_eq!(with_causes_within(&io::Error::other("aä"), 3), "aä");
    }
}
