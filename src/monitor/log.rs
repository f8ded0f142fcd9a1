//! A container's log file: entries in the CRI's form, one write each, and never a reason to stop.
//!
//! The disk may be full or broken for a while; the container must not notice. An entry that cannot be written is
//! dropped and counted, and writing goes on with the next. A half-written entry gets its newline before the next one,
//! so that a reader finds the beginning of a line again.

use std::{
    fs::File,
    io::{IoSlice, Write},
    os::fd::{AsFd, BorrowedFd, OwnedFd},
};

use crate::{
    log_line::{Entries, Tag},
    rfc3339,
};

/// Which stream an entry came from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Stream {
    /// Standard output, or the terminal.
    Stdout,
    /// Standard error.
    Stderr,
}

/// Length of `<time> stdout F `.
const HEADER: usize = rfc3339::LENGTH + 10;

/// A log, open for appending; without a file every entry is quietly nothing.
#[derive(Debug, Default)]
pub(crate) struct Log {
    file: Option<File>,
    /// The last entry was cut off: begin with a newline.
    torn: bool,
    dropped: u64,
}

/// What the daemon should hear of a log.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Change {
    /// Writing has begun to fail.
    Failing,
    /// Writing works again; this many entries are lost.
    Resumed {
        /// Number of entries.
        dropped: u64,
    },
}

impl Log {
    pub(crate) fn new(file: Option<OwnedFd>) -> Log {
        Log { file: file.map(File::from), ..Log::default() }
    }

    /// The file, whether its last entry was cut off, and how many entries are lost since it began to fail.
    pub(crate) fn state(&self) -> (Option<BorrowedFd<'_>>, bool, u64) {
        (self.file.as_ref().map(AsFd::as_fd), self.torn, self.dropped)
    }

    /// Goes on from a state.
    pub(crate) fn resume(file: Option<OwnedFd>, torn: bool, dropped: u64) -> Log {
        Log { file: file.map(File::from), torn, dropped }
    }

    /// Goes on in another file.
    pub(crate) fn reopen(&mut self, file: OwnedFd) {
        self.file = Some(File::from(file));
        self.torn = false;
    }

    /// A writer for what was just read from one stream: all of it has one time, `now` in nanoseconds since 1970.
    pub(crate) fn at(&mut self, stream: Stream, now: i64) -> Writer<'_> {
        Writer { time: rfc3339::utc(now), stream, dropped_before: self.dropped, log: self }
    }

    fn write(&mut self, header: &[u8], kept: &[u8], fresh: &[u8]) {
        let Some(file) = &mut self.file else { return };
        let newline: &[u8] = if self.torn { b"\n" } else { b"" };
        let parts = [newline, header, kept, fresh, b"\n"];
        let wanted: usize = parts.iter().map(|part| part.len()).sum();
        let slices = parts.map(IoSlice::new);
        match file.write_vectored(&slices) {
            Ok(written) if written == wanted => {
                self.torn = false;
                self.dropped = 0;
            }
            // Nothing, or only the newline that mended the line before.
            Ok(written) if written <= newline.len() => {
                self.torn &= written == 0;
                self.dropped += 1;
            }
            Ok(_) => {
                self.torn = true;
                self.dropped += 1;
            }
            Err(_) => self.dropped += 1,
        }
    }
}

/// Writes the entries of one read.
pub(crate) struct Writer<'a> {
    log: &'a mut Log,
    time: [u8; rfc3339::LENGTH],
    stream: Stream,
    dropped_before: u64,
}

impl Writer<'_> {
    /// Ends the read, and says whether the log's health has changed since it began.
    pub(crate) fn finish(self) -> Option<Change> {
        match (self.dropped_before, self.log.dropped) {
            (0, 1..) => Some(Change::Failing),
            (dropped @ 1.., 0) => Some(Change::Resumed { dropped }),
            _ => None,
        }
    }
}

impl Entries for Writer<'_> {
    fn entry(&mut self, tag: Tag, kept: &[u8], fresh: &[u8]) {
        let mut header = [0; HEADER];
        header[..rfc3339::LENGTH].copy_from_slice(&self.time);
        header[rfc3339::LENGTH..].copy_from_slice(match (self.stream, tag) {
            (Stream::Stdout, Tag::Full) => b" stdout F ",
            (Stream::Stdout, Tag::Partial) => b" stdout P ",
            (Stream::Stderr, Tag::Full) => b" stderr F ",
            (Stream::Stderr, Tag::Partial) => b" stderr P ",
        });
        self.log.write(&header, kept, fresh);
    }
}

#[cfg(test)]
mod tests {
    use std::io::{Read, Seek};

    use super::*;
    use crate::log_line::LogLine;

    #[test]
    fn entries_have_the_form_that_a_kubelet_reads() {
        let mut file = tempfile::tempfile().unwrap();
        let mut log = Log::new(Some(file.try_clone().unwrap().into()));
        let mut line = LogLine::new(4, false);
        let mut writer = log.at(Stream::Stderr, 1);
        line.push(b"abcdef\nx", &mut writer);
        assert_eq!(writer.finish(), None);
        line.finish(&mut log.at(Stream::Stderr, 2));
        let mut text = String::new();
        file.rewind().unwrap();
        file.read_to_string(&mut text).unwrap();
        let want = "1970-01-01T00:00:00.000000001Z stderr P abcd\n\
                    1970-01-01T00:00:00.000000001Z stderr F ef\n\
                    1970-01-01T00:00:00.000000002Z stderr F x\n";
        assert_eq!(text, want);
    }

    #[test]
    fn a_full_disk_costs_entries_and_nothing_else() {
        let full = || OwnedFd::from(File::options().write(true).open("/dev/full").unwrap());
        let mut log = Log::new(Some(full()));
        let mut writer = log.at(Stream::Stdout, 1);
        writer.entry(Tag::Full, b"", b"one");
        writer.entry(Tag::Full, b"", b"two");
        assert_eq!(writer.finish(), Some(Change::Failing));
        let mut file = tempfile::tempfile().unwrap();
        log.reopen(file.try_clone().unwrap().into());
        let mut writer = log.at(Stream::Stdout, 2);
        writer.entry(Tag::Full, b"", b"three");
        assert_eq!(writer.finish(), Some(Change::Resumed { dropped: 2 }));
        let mut text = String::new();
        file.rewind().unwrap();
        file.read_to_string(&mut text).unwrap();
        assert_eq!(text, "1970-01-01T00:00:00.000000002Z stdout F three\n");
    }
}
