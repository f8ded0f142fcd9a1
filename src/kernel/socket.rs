//! Unix sockets that keep messages whole and carry descriptors: `SOCK_SEQPACKET`, `SCM_RIGHTS` (`unix(7)`).
//!
//! A message arrives whole or not at all, and end of file is told from everything else. Sockets are close-on-exec and
//! block unless [`set_nonblocking`] was called. [`send`], and [`receive`] of no descriptors, do not allocate.

use std::{
    ffi::OsStr,
    io::{self, IoSlice},
    mem::offset_of,
    os::{
        fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd},
        unix::ffi::OsStrExt,
    },
    path::Path,
    time::Duration,
};

use nix::{
    fcntl::{FcntlArg, OFlag, fcntl},
    sys::{
        socket::{
            AddressFamily, Backlog, SockFlag, SockType, getsockopt, listen, setsockopt, socket, socketpair, sockopt,
        },
        stat::{FchmodatFlags, Mode, fchmodat},
        time::TimeVal,
    },
};

use crate::sys::{FdPath, check, done, take, uninterrupted};

/// The most descriptors in one message (`SCM_MAX_FD`).
pub const MAX_FDS: usize = 253;

const HEADER: usize = size_of::<libc::cmsghdr>();
const FD: usize = size_of::<RawFd>();
/// Room for a header and [`MAX_FDS`] descriptors.
const CONTROL: usize = HEADER + MAX_FDS * FD;

/// Who was at the other end when the connection was made.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Credentials {
    /// Its process, in this PID namespace; 0 when it has no number here.
    pub pid: i32,
    /// Its effective user.
    pub uid: u32,
    /// Its effective group.
    pub gid: u32,
}

/// Two connected ends.
pub fn pair() -> io::Result<(OwnedFd, OwnedFd)> {
    Ok(socketpair(AddressFamily::Unix, SockType::SeqPacket, None, SockFlag::SOCK_CLOEXEC)?)
}

/// A listening socket named `name` in `dir`, replacing whatever had the name; `mode` says who may connect.
///
/// Bound under another name and renamed when it listens: nobody ever meets it with wrong rights or refusing. Reached
/// through `/proc/self/fd`, so the length of the directory's path does not count.
pub fn listen_at(dir: BorrowedFd<'_>, name: &str, mode: u32, backlog: i32) -> io::Result<OwnedFd> {
    let fresh = format!(".{name}.new");
    match nix::unistd::unlinkat(dir, fresh.as_str(), nix::unistd::UnlinkatFlags::NoRemoveDir) {
        Ok(()) | Err(nix::errno::Errno::ENOENT) => {}
        Err(errno) => return Err(errno.into()),
    }
    let socket = seqpacket()?;
    let (address, len) = address(dir, &fresh)?;
    // SAFETY: the kernel reads `len` bytes of `address`, which holds at least as many and outlives the call.
    done(unsafe { libc::bind(socket.as_raw_fd(), (&raw const address).cast(), len) })?;
    fchmodat(dir, fresh.as_str(), Mode::from_bits_truncate(mode), FchmodatFlags::FollowSymlink)?;
    listen(&socket, Backlog::new(backlog)?)?;
    nix::fcntl::renameat(dir, fresh.as_str(), dir, name)?;
    Ok(socket)
}

/// Connects to the socket named `name` in `dir`. Does not block, and neither does the result. `ENOENT`: none;
/// `ECONNREFUSED`: nobody listens any more; `EAGAIN`: as many wait to be accepted as may.
pub fn connect_at(dir: BorrowedFd<'_>, name: &str) -> io::Result<OwnedFd> {
    let socket = seqpacket()?;
    set_nonblocking(socket.as_fd())?;
    let (address, len) = address(dir, name)?;
    // SAFETY: the kernel reads `len` bytes of `address`, which holds at least as many and outlives the call.
    done(unsafe { libc::connect(socket.as_raw_fd(), (&raw const address).cast(), len) })?;
    Ok(socket)
}

/// Makes this process the one that whoever connects from now on finds in [`peer_credentials`]: the kernel notes who
/// called `listen(2)` last, and a listener may have been made by another process.
pub fn own_listener(listener: BorrowedFd<'_>, backlog: i32) -> io::Result<()> {
    Ok(listen(&listener, Backlog::new(backlog)?)?)
}

/// Takes the next connection. `EAGAIN`: none waits, on a non-blocking listener. The new socket blocks.
pub fn accept(listener: BorrowedFd<'_>) -> io::Result<OwnedFd> {
    uninterrupted(|| {
        let nowhere = std::ptr::null_mut();
        // SAFETY: a null address is allowed and means that it is not wanted.
        let fd = unsafe { libc::accept4(listener.as_raw_fd(), nowhere, std::ptr::null_mut(), libc::SOCK_CLOEXEC) };
        // SAFETY: accept4 makes a new descriptor, and `fd` is its only record.
        unsafe { take(fd) }
    })
}

/// Sends one message with copies of the descriptors. All of it, or an error and nothing.
///
/// An empty message is `EINVAL` (it would read as end of file), as are more than [`MAX_FDS`] descriptors. `EMSGSIZE`:
/// longer than the socket's buffer allows. `EPIPE`: the other end is gone; no signal is raised. `EAGAIN`: full.
pub fn send(socket: BorrowedFd<'_>, message: &[u8], fds: &[BorrowedFd<'_>]) -> io::Result<()> {
    if message.is_empty() || fds.len() > MAX_FDS {
        return Err(io::Error::from_raw_os_error(libc::EINVAL));
    }
    let mut control = Control::new();
    control.write(fds);
    let part = IoSlice::new(message);
    let mut header = empty_header();
    // IoSlice is promised to be an iovec.
    header.msg_iov = std::ptr::from_ref(&part).cast_mut().cast();
    header.msg_iovlen = 1;
    if !fds.is_empty() {
        header.msg_control = control.0.as_mut_ptr().cast();
        header.msg_controllen = HEADER + size_of_val(fds);
    }
    uninterrupted(|| {
        // SAFETY: `header` points to one iovec over `message` and to `msg_controllen` bytes of `control`; all outlive
        // the call, which only reads them.
        let sent = unsafe { libc::sendmsg(socket.as_raw_fd(), &raw const header, libc::MSG_NOSIGNAL) };
        check(sent as i64)
    })?;
    Ok(())
}

/// Receives one message into `buffer`: its length (0 is end of file) and its descriptors, close-on-exec.
///
/// A message longer than the buffer, or with more than `max_fds` descriptors, is `EMSGSIZE`; it is lost then and what
/// came with it is closed. `EAGAIN`: nothing there, on a non-blocking socket.
pub fn receive(socket: BorrowedFd<'_>, buffer: &mut [u8], max_fds: usize) -> io::Result<(usize, Vec<OwnedFd>)> {
    if max_fds > MAX_FDS {
        return Err(io::Error::from_raw_os_error(libc::EINVAL));
    }
    let mut control = Control::new();
    let mut part = libc::iovec { iov_base: buffer.as_mut_ptr().cast(), iov_len: buffer.len() };
    let mut header = empty_header();
    header.msg_iov = &raw mut part;
    header.msg_iovlen = 1;
    if max_fds > 0 {
        header.msg_control = control.0.as_mut_ptr().cast();
        header.msg_controllen = HEADER + max_fds * FD;
    }
    let read = uninterrupted(|| {
        // SAFETY: the kernel writes at most `buffer.len()` bytes to `buffer` and `msg_controllen` bytes to `control`,
        // which is that large by the check above; both are borrowed by us alone during the call.
        let read = unsafe { libc::recvmsg(socket.as_raw_fd(), &raw mut header, libc::MSG_CMSG_CLOEXEC) };
        check(read as i64)
    })?;
    let mut fds = Vec::new();
    control.for_each_fd(header.msg_controllen, |number| {
        // SAFETY: the kernel has just installed this descriptor for us, and the control bytes are its only record.
        fds.push(unsafe { OwnedFd::from_raw_fd(number) });
    });
    if header.msg_flags & (libc::MSG_TRUNC | libc::MSG_CTRUNC) != 0 {
        return Err(io::Error::from_raw_os_error(libc::EMSGSIZE));
    }
    Ok((read as usize, fds))
}

/// Who made the connection, as the kernel noted it then (`SO_PEERCRED`); at the end that connected, who listened.
pub fn peer_credentials(socket: BorrowedFd<'_>) -> io::Result<Credentials> {
    let peer = getsockopt(&socket, sockopt::PeerCredentials)?;
    Ok(Credentials { pid: peer.pid(), uid: peer.uid(), gid: peer.gid() })
}

/// Makes a socket (or pipe) answer `EAGAIN` where it would block. Counts for every copy of the descriptor.
pub fn set_nonblocking(fd: BorrowedFd<'_>) -> io::Result<()> {
    let flags = OFlag::from_bits_retain(fcntl(fd, FcntlArg::F_GETFL)?);
    fcntl(fd, FcntlArg::F_SETFL(flags | OFlag::O_NONBLOCK))?;
    Ok(())
}

/// Makes room for messages of this many bytes: past the system's limit with CAP_NET_ADMIN, else up to it.
pub fn set_send_buffer(socket: BorrowedFd<'_>, bytes: usize) -> io::Result<()> {
    if setsockopt(&socket, sockopt::SndBufForce, &bytes).is_err() {
        setsockopt(&socket, sockopt::SndBuf, &bytes)?;
    }
    Ok(())
}

/// How long a blocking send or receive waits before `EAGAIN`.
pub fn set_timeout(socket: BorrowedFd<'_>, timeout: Duration) -> io::Result<()> {
    let value = TimeVal::new(timeout.as_secs() as i64, i64::from(timeout.subsec_micros()));
    setsockopt(&socket, sockopt::ReceiveTimeout, &value)?;
    Ok(setsockopt(&socket, sockopt::SendTimeout, &value)?)
}

/// Removes the socket's name. Missing is fine.
pub fn unlink_at(dir: BorrowedFd<'_>, name: &str) -> io::Result<()> {
    match nix::unistd::unlinkat(dir, name, nix::unistd::UnlinkatFlags::NoRemoveDir) {
        Ok(()) | Err(nix::errno::Errno::ENOENT) => Ok(()),
        Err(errno) => Err(errno.into()),
    }
}

/// The control part of a message, aligned as its header wants.
#[repr(C, align(8))]
struct Control([u8; CONTROL]);

impl Control {
    fn new() -> Self {
        Self([0; CONTROL])
    }

    /// One `SCM_RIGHTS` header and the numbers.
    fn write(&mut self, fds: &[BorrowedFd<'_>]) {
        let mut put = |at: usize, bytes: &[u8]| self.0[at..at + bytes.len()].copy_from_slice(bytes);
        put(offset_of!(libc::cmsghdr, cmsg_len), &(HEADER + size_of_val(fds)).to_ne_bytes());
        put(offset_of!(libc::cmsghdr, cmsg_level), &libc::SOL_SOCKET.to_ne_bytes());
        put(offset_of!(libc::cmsghdr, cmsg_type), &libc::SCM_RIGHTS.to_ne_bytes());
        for (index, fd) in fds.iter().enumerate() {
            put(HEADER + index * FD, &fd.as_raw_fd().to_ne_bytes());
        }
    }

    /// Calls `each` with every descriptor number in the first `len` bytes.
    fn for_each_fd(&self, len: usize, mut each: impl FnMut(RawFd)) {
        let word = |at: usize| i32::from_ne_bytes([self.0[at], self.0[at + 1], self.0[at + 2], self.0[at + 3]]);
        let mut at = 0;
        while at + HEADER <= len {
            // The kernel writes lengths below 2 KiB here, so the low half (little-endian machines only) holds them.
            let whole = word(at + offset_of!(libc::cmsghdr, cmsg_len)) as usize;
            let end = (at + whole).min(len);
            if whole < HEADER {
                return;
            }
            let level = word(at + offset_of!(libc::cmsghdr, cmsg_level));
            let kind = word(at + offset_of!(libc::cmsghdr, cmsg_type));
            if (level, kind) == (libc::SOL_SOCKET, libc::SCM_RIGHTS) {
                (at + HEADER..end).step_by(FD).filter(|from| from + FD <= end).for_each(|from| each(word(from)));
            }
            at += whole.next_multiple_of(size_of::<usize>());
        }
    }
}

fn empty_header() -> libc::msghdr {
    // SAFETY: msghdr is numbers and pointers, for which zero and null mean "nothing".
    unsafe { std::mem::zeroed() }
}

fn seqpacket() -> io::Result<OwnedFd> {
    Ok(socket(AddressFamily::Unix, SockType::SeqPacket, SockFlag::SOCK_CLOEXEC, None)?)
}

/// The address of a name in a directory, by `/proc/self/fd`. Names over about 80 bytes are `ENAMETOOLONG`.
fn address(dir: BorrowedFd<'_>, name: &str) -> io::Result<(libc::sockaddr_un, libc::socklen_t)> {
    let path = FdPath::in_dir(dir, Path::new(OsStr::from_bytes(name.as_bytes())))?;
    let mut address = libc::sockaddr_un { sun_family: libc::AF_UNIX as libc::sa_family_t, sun_path: [0; 108] };
    let bytes = path.as_bytes();
    // The last byte stays zero.
    if bytes.len() >= address.sun_path.len() {
        return Err(io::Error::from_raw_os_error(libc::ENAMETOOLONG));
    }
    for (to, from) in address.sun_path.iter_mut().zip(bytes) {
        *to = *from as libc::c_char;
    }
    let len = offset_of!(libc::sockaddr_un, sun_path) + bytes.len() + 1;
    Ok((address, len as libc::socklen_t))
}

#[cfg(test)]
mod tests;
