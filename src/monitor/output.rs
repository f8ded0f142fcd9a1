//! What a container writes: read as soon as it is there, cut into entries, put into the log.
//!
//! Reading never waits for anything: a program must not stand still in `write` because of us.

use std::{
    io,
    os::fd::{AsFd, BorrowedFd, OwnedFd},
};

use kernel::clock::realtime_ns;
use nix::{errno::Errno, unistd::read};

use crate::{
    log::{Change, Log, Stream},
    log_line::LogLine,
};

/// Bytes of one read. Small: this much memory is touched to read anything at all.
const READ: usize = 8 * 1024;

/// Reads in one turn before other containers get theirs.
const TURN: usize = 16;

/// The most that a last reading takes: the largest pipe an unprivileged program can have. What comes after is written
/// by somebody who is not of the container (a pipe handed on), and who could go on for ever.
const LAST: usize = 1024 * 1024 / READ + 1;

/// One stream of a container.
#[derive(Debug)]
pub(crate) struct Output {
    source: OwnedFd,
    line: LogLine,
    stream: Stream,
}

/// What reading found.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Found {
    /// There may be more later.
    Open,
    /// Every writer has closed it.
    Ended,
}

impl Output {
    /// Takes a non-blocking source. `terminal` says that its lines end in `\r\n`.
    pub(crate) fn new(source: OwnedFd, stream: Stream, limit: usize, terminal: bool) -> Output {
        Output { source, line: LogLine::new(limit, terminal), stream }
    }

    /// What waits for the end of its line.
    pub(crate) fn kept(&self) -> &[u8] {
        self.line.kept()
    }

    /// Goes on with what waited for the end of its line.
    pub(crate) fn resume(mut self, kept: Vec<u8>) -> Output {
        self.line.resume(kept);
        self
    }

    /// Reads for one turn.
    pub(crate) fn pump(&mut self, log: &mut Log, report: &mut impl FnMut(Change)) -> Found {
        self.read(TURN, log, report)
    }

    /// Reads what is still there and ends the last line. For a container whose processes have all ended.
    pub(crate) fn drain(mut self, log: &mut Log, report: &mut impl FnMut(Change)) {
        self.read(LAST, log, report);
        let mut writer = log.at(self.stream, realtime_ns());
        self.line.finish(&mut writer);
        if let Some(change) = writer.finish() {
            report(change);
        }
    }

    fn read(&mut self, times: usize, log: &mut Log, report: &mut impl FnMut(Change)) -> Found {
        let mut buffer = vec![0; READ];
        for _ in 0..times {
            let length = match read(&self.source, &mut buffer) {
                Ok(0) => return Found::Ended,
                Ok(length) => length,
                Err(Errno::EAGAIN) => return Found::Open,
                Err(Errno::EINTR) => continue,
                // A terminal whose last program has gone answers EIO; there is nothing else to do about other errors.
                Err(_) => return Found::Ended,
            };
            let mut writer = log.at(self.stream, realtime_ns());
            self.line.push(&buffer[..length], &mut writer);
            if let Some(change) = writer.finish() {
                report(change);
            }
        }
        Found::Open
    }
}

impl AsFd for Output {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.source.as_fd()
    }
}

/// A terminal's master as an output: it must not block either.
pub(crate) fn of_terminal(master: OwnedFd, limit: usize) -> io::Result<Output> {
    kernel::socket::set_nonblocking(master.as_fd())?;
    Ok(Output::new(master, Stream::Stdout, limit, true))
}
