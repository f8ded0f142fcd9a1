//! A filesystem in the making: opened by type, configured option by option, mounted detached.

use std::{
    ffi::{CStr, c_char},
    fmt, io,
    os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd},
    path::Path,
};

use super::MountAttrs;
use crate::sys::{done, take, with_path};

/// The longest piece of the kernel's log that is kept, in bytes. One message is a line.
const LOG_LIMIT: usize = 4096;

/// `enum fsconfig_command` of `linux/mount.h`.
const SET_FLAG: u32 = 0;
const SET_STRING: u32 = 1;
const SET_PATH: u32 = 3;
const SET_FD: u32 = 5;
const CREATE: u32 = 6;

/// A filesystem being configured (`fsopen(2)`). Nothing is visible anywhere until it is mounted and placed.
#[derive(Debug)]
pub struct FsContext {
    fd: OwnedFd,
}

impl FsContext {
    /// Begins a filesystem of this type. `ENODEV`: the kernel does not know the type.
    pub fn open(fstype: &CStr) -> io::Result<Self> {
        // SAFETY: reads the C string `fstype`, which outlives the call.
        let fd = unsafe { libc::syscall(libc::SYS_fsopen, fstype.as_ptr(), libc::FSOPEN_CLOEXEC) };
        // SAFETY: fsopen makes a new descriptor, and `fd` is its only record.
        Ok(Self { fd: unsafe { take(fd) }? })
    }

    /// Sets `key=value`. `EINVAL`: unknown or refused, and [`log`](Self::log) says why. Values end at 255 bytes.
    pub fn set_string(&self, key: &CStr, value: &CStr) -> io::Result<()> {
        self.configure(SET_STRING, Some(key), value.as_ptr(), 0)
    }

    /// Sets a key to a path of this process's root, such as `source` or overlay's `lowerdir+`.
    ///
    /// A path over 255 bytes is `EINVAL`: open it and give [`crate::file::path_of`] the descriptor.
    pub fn set_path(&self, key: &CStr, path: &Path) -> io::Result<()> {
        with_path(path, |path| self.configure(SET_STRING, Some(key), path.as_ptr(), 0))
    }

    /// Sets a key to a path below an opened directory; only the keys that the filesystem declares as paths take one.
    pub fn set_path_at(&self, key: &CStr, dir: BorrowedFd<'_>, path: &Path) -> io::Result<()> {
        with_path(path, |path| self.configure(SET_PATH, Some(key), path.as_ptr(), dir.as_raw_fd()))
    }

    /// Sets an option that has no value, such as `ro`.
    pub fn set_flag(&self, key: &CStr) -> io::Result<()> {
        self.configure(SET_FLAG, Some(key), std::ptr::null(), 0)
    }

    /// Sets an option to a descriptor. Overlay's layers take one from Linux 6.13; before, `EINVAL`.
    pub fn set_fd(&self, key: &CStr, fd: BorrowedFd<'_>) -> io::Result<()> {
        self.configure(SET_FD, Some(key), std::ptr::null(), fd.as_raw_fd())
    }

    /// Makes the filesystem from what was set. Once.
    pub fn create(&self) -> io::Result<()> {
        self.configure(CREATE, None, std::ptr::null(), 0)
    }

    /// A detached mount of the filesystem, to be placed with [`super::move_mount`]; dropped, it is gone. Once.
    pub fn mount(&self, attrs: MountAttrs) -> io::Result<OwnedFd> {
        // SAFETY: takes numbers only.
        let fd = unsafe {
            libc::syscall(libc::SYS_fsmount, self.fd.as_raw_fd(), libc::FSMOUNT_CLOEXEC, attrs.kernel() as libc::c_uint)
        };
        // SAFETY: fsmount makes a new descriptor, and `fd` is its only record.
        unsafe { take(fd) }
    }

    /// What the kernel has said about this filesystem since last asked; empty when nothing. Lines are joined by `; `.
    pub fn log(&self) -> String {
        let mut said = String::new();
        let mut line = [0_u8; LOG_LIMIT];
        // One message a read, ENODATA at the end. The kernel keeps eight at most.
        while let Ok(read @ 1..) = nix::unistd::read(self.fd.as_fd(), &mut line) {
            if said.len() > LOG_LIMIT {
                break;
            }
            let text = String::from_utf8_lossy(&line[..read]);
            // "e ", "w " or "i ": error, warning, information.
            let text = text.get(2..).unwrap_or(&text).trim();
            if !said.is_empty() {
                said.push_str("; ");
            }
            said.push_str(text);
        }
        said
    }

    /// The error with the kernel's own words about it, when it has said any; the errno is then in the source.
    pub fn explain(&self, error: io::Error) -> io::Error {
        let log = self.log();
        if log.is_empty() { error } else { io::Error::new(error.kind(), Explained { log, error }) }
    }

    fn configure(&self, command: u32, key: Option<&CStr>, value: *const c_char, aux: i32) -> io::Result<()> {
        let key = key.map_or(std::ptr::null(), CStr::as_ptr);
        // SAFETY: `key` and `value` are null or C strings that the callers above keep alive during the call.
        done(unsafe { libc::syscall(libc::SYS_fsconfig, self.fd.as_raw_fd(), command, key, value, aux) })
    }
}

impl AsFd for FsContext {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

/// An errno and what the kernel wrote about it.
#[derive(Debug)]
struct Explained {
    log: String,
    error: io::Error,
}

impl fmt::Display for Explained {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.log)
    }
}

impl std::error::Error for Explained {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        Some(&self.error)
    }
}

/// Whether overlay takes its layers one by one (`lowerdir+`, Linux 6.8). Without it all layers share one `lowerdir`
/// string, which `fsconfig` ends at 255 bytes and [`super::mount_detached_by_options`] at a page.
///
/// A filesystem that only knows mount(2)'s options (overlay's before 6.5) collects whatever key it is given and refuses
/// it at the mount: one that takes nonsense says nothing by taking ours.
pub fn overlay_takes_layers_one_by_one() -> bool {
    FsContext::open(c"overlay").is_ok_and(|context| {
        context.set_string(c"no-such-key", c"/").is_err() && context.set_string(c"lowerdir+", c"/").is_ok()
    })
}
