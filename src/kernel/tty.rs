//! Terminals: a pair from a given devpts, its size, and making it the controlling one (`pts(4)`, `ioctl_tty(2)`).

use std::{
    io,
    os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd},
};

use nix::{
    fcntl::{OFlag, openat},
    sys::stat::Mode,
};

use crate::sys::{done, take};

/// Both ends of a new terminal, close-on-exec, and its name's number.
#[derive(Debug)]
pub struct Pty {
    /// The engine's end: what is written here is typed.
    pub master: OwnedFd,
    /// The program's end.
    pub slave: OwnedFd,
    /// The program's end is `pts/<number>` in the devpts.
    pub number: u32,
}

/// In characters; the kernel keeps what it is told and sends SIGWINCH when it changes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct WindowSize {
    /// Lines.
    pub rows: u16,
    /// Characters a line.
    pub columns: u16,
}

/// A new terminal in the devpts whose root directory is `devpts`: the container's own, never the host's.
///
/// `ENOSPC`: as many terminals as `max=` of the mount or `kernel.pty.max` allow. The program's end is opened from the
/// master ([`other_end`]), not by a path that a container could have replaced. Does not allocate.
pub fn open(devpts: BorrowedFd<'_>) -> io::Result<Pty> {
    let flags = OFlag::O_RDWR | OFlag::O_NOCTTY | OFlag::O_CLOEXEC;
    let master = openat(devpts, c"ptmx", flags | OFlag::O_NOFOLLOW, Mode::empty())?;
    let unlocked = 0_i32;
    // SAFETY: TIOCSPTLCK reads one int from `unlocked`, which outlives the call.
    done(unsafe { libc::ioctl(master.as_raw_fd(), libc::TIOCSPTLCK, &raw const unlocked) })?;
    let mut number = 0_u32;
    // SAFETY: TIOCGPTN writes one unsigned int to `number`.
    done(unsafe { libc::ioctl(master.as_raw_fd(), libc::TIOCGPTN, &raw mut number) })?;
    let slave = other_end(master.as_fd())?;
    Ok(Pty { master, slave, number })
}

/// The program's end of a terminal, opened from the engine's (`TIOCGPTPEER`, Linux 4.13). Does not allocate.
pub fn other_end(master: BorrowedFd<'_>) -> io::Result<OwnedFd> {
    let flags = OFlag::O_RDWR | OFlag::O_NOCTTY | OFlag::O_CLOEXEC;
    // SAFETY: TIOCGPTPEER takes open flags as a number.
    let slave = unsafe { libc::ioctl(master.as_raw_fd(), libc::TIOCGPTPEER, flags.bits()) };
    // SAFETY: TIOCGPTPEER makes a new descriptor, and `slave` is its only record.
    unsafe { take(slave) }
}

/// The size that either end reports.
pub fn window_size(tty: BorrowedFd<'_>) -> io::Result<WindowSize> {
    let mut size = libc::winsize { ws_row: 0, ws_col: 0, ws_xpixel: 0, ws_ypixel: 0 };
    // SAFETY: TIOCGWINSZ writes one winsize to `size`.
    done(unsafe { libc::ioctl(tty.as_raw_fd(), libc::TIOCGWINSZ, &raw mut size) })?;
    Ok(WindowSize { rows: size.ws_row, columns: size.ws_col })
}

/// Sets the size; programs in the foreground get SIGWINCH when it differs. Either end will do.
pub fn set_window_size(tty: BorrowedFd<'_>, size: WindowSize) -> io::Result<()> {
    let size = libc::winsize { ws_row: size.rows, ws_col: size.columns, ws_xpixel: 0, ws_ypixel: 0 };
    // SAFETY: TIOCSWINSZ reads one winsize from `size`, which outlives the call.
    done(unsafe { libc::ioctl(tty.as_raw_fd(), libc::TIOCSWINSZ, &raw const size) })
}

/// Makes the program's end the caller's controlling terminal. `EPERM`: it leads no session, or has a terminal.
pub fn set_controlling(slave: BorrowedFd<'_>) -> io::Result<()> {
    // SAFETY: TIOCSCTTY takes a number; 0 never steals a terminal from another session.
    done(unsafe { libc::ioctl(slave.as_raw_fd(), libc::TIOCSCTTY, 0) })
}

/// Whether a descriptor is a terminal.
pub fn is_tty(fd: BorrowedFd<'_>) -> bool {
    nix::unistd::isatty(fd).unwrap_or(false)
}
