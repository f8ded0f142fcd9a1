//! What every door shares: results of raw system calls, paths as C strings, `/proc/self/fd` names. No allocation here.

use std::{
    ffi::CStr,
    io,
    os::{
        fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd},
        unix::ffi::OsStrExt,
    },
    path::Path,
};

use nix::NixPath;

/// The result of a system call: what it returned, or errno.
pub(crate) fn check(returned: impl Into<i64>) -> io::Result<i64> {
    let returned = returned.into();
    if returned < 0 { Err(io::Error::last_os_error()) } else { Ok(returned) }
}

/// The result of a system call that answers only yes or errno.
pub(crate) fn done(returned: impl Into<i64>) -> io::Result<()> {
    check(returned).map(drop)
}

/// Takes the descriptor that a system call has returned, or errno.
///
/// # Safety
/// `returned` comes straight from a call that makes a new descriptor, and nobody else has seen the number.
pub(crate) unsafe fn take(returned: impl Into<i64>) -> io::Result<OwnedFd> {
    let number = check(returned)? as RawFd;
    // SAFETY: the caller vouches that the kernel has just made this descriptor for us alone.
    Ok(unsafe { OwnedFd::from_raw_fd(number) })
}

/// Repeats a call that a signal interrupted.
pub(crate) fn uninterrupted<T>(mut call: impl FnMut() -> io::Result<T>) -> io::Result<T> {
    loop {
        match call() {
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            other => return other,
        }
    }
}

/// Lends the path as a C string; short ones (under 1 KiB) live on the stack.
pub(crate) fn with_path<T>(path: &Path, call: impl FnOnce(&CStr) -> io::Result<T>) -> io::Result<T> {
    path.with_nix_path(call)?
}

/// `/proc/self/fd/<n>` or `/proc/self/fd/<n>/<name>` in a buffer on the stack.
pub(crate) struct FdPath {
    bytes: [u8; Self::SIZE],
    len: usize,
}

impl FdPath {
    /// The longest file name (255) and the prefix with any descriptor number, and the final zero.
    const SIZE: usize = 320;

    /// The name of the descriptor itself.
    pub(crate) fn of(fd: BorrowedFd<'_>) -> Self {
        let mut path = Self { bytes: [0; Self::SIZE], len: 0 };
        path.push(b"/proc/self/fd/");
        path.push_number(fd.as_raw_fd().unsigned_abs());
        path
    }

    /// A name in the directory. `ENAMETOOLONG` beyond 255 bytes; a name with a slash or a zero is `EINVAL`.
    pub(crate) fn in_dir(dir: BorrowedFd<'_>, name: &Path) -> io::Result<Self> {
        let name = name.as_os_str().as_bytes();
        if name.len() > 255 {
            return Err(io::Error::from_raw_os_error(libc::ENAMETOOLONG));
        }
        if name.is_empty() || name.contains(&b'/') || name.contains(&0) {
            return Err(io::Error::from_raw_os_error(libc::EINVAL));
        }
        let mut path = Self::of(dir);
        path.push(b"/");
        path.push(name);
        Ok(path)
    }

    /// With the final zero.
    pub(crate) fn as_c_str(&self) -> &CStr {
        // The buffer is zeroed and `push` leaves room, so there is always a terminator.
        CStr::from_bytes_until_nul(&self.bytes).unwrap_or(c"")
    }

    /// Without the final zero.
    pub(crate) fn as_bytes(&self) -> &[u8] {
        &self.bytes[..self.len]
    }

    fn push(&mut self, part: &[u8]) {
        self.bytes[self.len..self.len + part.len()].copy_from_slice(part);
        self.len += part.len();
    }

    fn push_number(&mut self, mut number: u32) {
        let mut digits = [0_u8; 10];
        let mut at = digits.len();
        loop {
            at -= 1;
            digits[at] = b'0' + (number % 10) as u8;
            number /= 10;
            if number == 0 {
                break;
            }
        }
        let from = at;
        self.push(&digits[from..]);
    }
}

#[cfg(test)]
mod tests {
    use std::os::fd::AsFd;

    use super::*;

    #[test]
    fn a_descriptor_has_a_name_that_opens_it() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join("a"), b"x").unwrap();
        let fd = std::fs::File::open(dir.path()).unwrap();
        let path = FdPath::in_dir(fd.as_fd(), Path::new("a")).unwrap();
        assert_eq!(std::fs::read(path.as_c_str().to_str().unwrap()).unwrap(), b"x");
        assert_eq!(path.as_bytes(), path.as_c_str().to_bytes());
    }

    #[test]
    fn a_name_that_leads_elsewhere_is_refused() {
        let fd = std::fs::File::open("/").unwrap();
        for name in ["", "a/b", "/etc", "a\0b"] {
            assert!(FdPath::in_dir(fd.as_fd(), Path::new(name)).is_err(), "{name:?}");
        }
        assert!(FdPath::in_dir(fd.as_fd(), Path::new(&"n".repeat(256))).is_err());
        assert!(FdPath::in_dir(fd.as_fd(), Path::new(&"n".repeat(255))).is_ok());
    }
}
