//! Cuts a stream into CRI log entries: `<time> <stream> <P|F> <content>\n`.
//!
//! - An entry is full (`F`) when its line ends: at a newline, or at the end of the stream.
//! - A line longer than the limit becomes pieces of exactly the limit (`P`) and a last one (`F`). A line of exactly the
//!   limit is one `F`: a piece is only cut off when something follows it.
//! - Content is raw bytes. With a terminal one `\r` before the newline is dropped: the terminal put it there.
//!
//! Bytes that wait for the end of their line are kept here, never more than the limit; between lines nothing is kept,
//! so a quiet container costs no memory.

/// Whether an entry ends its line.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Tag {
    /// More of the same line follows.
    Partial,
    /// The line ends here.
    Full,
}

/// Receives entries. The content is in two parts, so that nothing is copied to join what was kept with what just came.
pub(crate) trait Entries {
    /// One entry; `kept` comes before `fresh`.
    fn entry(&mut self, tag: Tag, kept: &[u8], fresh: &[u8]);
}

/// One stream's state between reads.
#[derive(Debug)]
pub(crate) struct LogLine {
    limit: usize,
    strip_cr: bool,
    kept: Vec<u8>,
}

impl LogLine {
    /// `limit` is the longest content of an entry in bytes, at least 1.
    pub(crate) fn new(limit: usize, strip_cr: bool) -> LogLine {
        LogLine { limit: limit.max(1), strip_cr, kept: Vec::new() }
    }

    /// What waits for the end of its line.
    pub(crate) fn kept(&self) -> &[u8] {
        &self.kept
    }

    /// Goes on with what waited for the end of its line.
    pub(crate) fn resume(&mut self, kept: Vec<u8>) {
        self.kept = kept;
        self.kept.truncate(self.limit);
    }

    /// Takes what was read and hands on every entry that is complete.
    pub(crate) fn push(&mut self, mut bytes: &[u8], out: &mut impl Entries) {
        while !bytes.is_empty() {
            // Up to the limit of this entry; kept is never longer than the limit.
            let room = self.limit - self.kept.len();
            match bytes.iter().take(room + 1).position(|byte| *byte == b'\n') {
                Some(end) => {
                    self.full(&bytes[..end], out);
                    bytes = &bytes[end + 1..];
                }
                // No newline, and more than fits: the first `room` bytes complete a piece.
                None if bytes.len() > room => {
                    out.entry(Tag::Partial, &self.kept, &bytes[..room]);
                    self.forget();
                    bytes = &bytes[room..];
                }
                None => {
                    self.kept.extend_from_slice(bytes);
                    return;
                }
            }
        }
    }

    /// The stream has ended: what waits for its newline is a line all the same.
    pub(crate) fn finish(&mut self, out: &mut impl Entries) {
        if !self.kept.is_empty() {
            let kept = std::mem::take(&mut self.kept);
            out.entry(Tag::Full, &kept, &[]);
        }
    }

    fn full(&mut self, fresh: &[u8], out: &mut impl Entries) {
        let strip = self.strip_cr;
        let (kept, fresh) = match (fresh, self.kept.as_slice()) {
            ([fresh @ .., b'\r'], kept) if strip => (kept, fresh),
            ([], [kept @ .., b'\r']) if strip => (kept, [].as_slice()),
            (fresh, kept) => (kept, fresh),
        };
        out.entry(Tag::Full, kept, fresh);
        self.forget();
    }

    /// Gives the memory back as well: a long line is rare, and its buffer would stay for the life of the container.
    fn forget(&mut self) {
        self.kept = Vec::new();
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[derive(Default)]
    struct Collected(Vec<(Tag, Vec<u8>)>);

    impl Entries for Collected {
        fn entry(&mut self, tag: Tag, kept: &[u8], fresh: &[u8]) {
            self.0.push((tag, [kept, fresh].concat()));
        }
    }

    fn cut(limit: usize, strip_cr: bool, chunks: &[&[u8]]) -> Vec<(Tag, Vec<u8>)> {
        let mut line = LogLine::new(limit, strip_cr);
        let mut out = Collected::default();
        for chunk in chunks {
            line.push(chunk, &mut out);
        }
        line.finish(&mut out);
        assert!(line.kept.is_empty());
        out.0
    }

    #[test]
    fn lines_pieces_and_the_unended_last_line() {
        use Tag::{Full, Partial};
        type Entry = (Tag, &'static [u8]);
        let cases: [(&[u8], &[Entry]); 7] = [
            (b"", &[]),
            (b"\n", &[(Full, b"")]),
            (b"ab\ncd", &[(Full, b"ab"), (Full, b"cd")]),
            (b"abcd\n", &[(Full, b"abcd")]),
            (b"abcd", &[(Full, b"abcd")]),
            (b"abcde\n", &[(Partial, b"abcd"), (Full, b"e")]),
            (b"abcdefghi", &[(Partial, b"abcd"), (Partial, b"efgh"), (Full, b"i")]),
        ];
        for (input, want) in cases {
            let want: Vec<_> = want.iter().map(|(tag, content)| (*tag, content.to_vec())).collect();
            assert_eq!(cut(4, false, &[input]), want, "{input:?}");
        }
    }

    #[test]
    fn a_terminal_loses_its_carriage_return_and_only_that() {
        let lines = |chunks: &[&[u8]]| cut(16, true, chunks).into_iter().map(|(_, line)| line).collect::<Vec<_>>();
        assert_eq!(lines(&[b"a\r\nb\r", b"\nc\rd\r\r\n"]), [b"a".to_vec(), b"b".to_vec(), b"c\rd\r".to_vec()]);
        assert_eq!(cut(16, false, &[b"a\r\n"]), [(Tag::Full, b"a\r".to_vec())]);
    }

    proptest! {
        #[test]
        fn bytes_out_are_bytes_in_however_they_were_read(
            text in proptest::collection::vec(prop_oneof![4 => any::<u8>(), 1 => Just(b'\n')], 0..400),
            cuts in proptest::collection::vec(1usize..40, 0..60),
            limit in 1usize..50,
        ) {
            let mut chunks = Vec::new();
            let mut rest = text.as_slice();
            for cut in cuts {
                let (head, tail) = rest.split_at(cut.min(rest.len()));
                chunks.push(head);
                rest = tail;
            }
            chunks.push(rest);
            let entries = cut(limit, false, &chunks);
            prop_assert_eq!(&entries, &cut(limit, false, &[&text]));
            let mut joined = Vec::new();
            for (tag, content) in &entries {
                prop_assert!(content.len() <= limit);
                prop_assert!(*tag == Tag::Full || content.len() == limit);
                joined.extend_from_slice(content);
                if *tag == Tag::Full {
                    joined.push(b'\n');
                }
            }
            let mut want = text.clone();
            if !want.is_empty() && !want.ends_with(b"\n") {
                want.push(b'\n');
            }
            prop_assert_eq!(joined, want);
        }
    }
}
