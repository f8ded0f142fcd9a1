//! Extended attributes (`xattr(7)`), by descriptor and by name in a directory.

use std::{
    ffi::{CStr, CString},
    io,
    os::fd::{AsRawFd, BorrowedFd},
    path::Path,
};

use crate::sys::{FdPath, check, done};

/// Sets an attribute of an open file. `ENOTSUP`: the filesystem keeps none of this kind; `EPERM`: not allowed for it.
pub fn set(fd: BorrowedFd<'_>, name: &CStr, value: &[u8]) -> io::Result<()> {
    // SAFETY: reads the C string `name` and `value.len()` bytes of `value`; both outlive the call.
    done(unsafe { libc::fsetxattr(fd.as_raw_fd(), name.as_ptr(), value.as_ptr().cast(), value.len(), 0) })
}

/// Sets an attribute of a name in a directory, of a link itself. Through `/proc/self/fd`.
pub fn set_at(dir: BorrowedFd<'_>, file: &Path, name: &CStr, value: &[u8]) -> io::Result<()> {
    let path = FdPath::in_dir(dir, file)?;
    // SAFETY: reads two C strings and `value.len()` bytes of `value`; all outlive the call.
    done(unsafe { libc::lsetxattr(path.as_c_str().as_ptr(), name.as_ptr(), value.as_ptr().cast(), value.len(), 0) })
}

/// An attribute of an open file; `None` when it has none of this name.
pub fn get(fd: BorrowedFd<'_>, name: &CStr) -> io::Result<Option<Vec<u8>>> {
    let read = sized(|buffer, len| {
        // SAFETY: reads the C string `name` and writes at most `len` bytes to `buffer`, which has room for as many.
        unsafe { libc::fgetxattr(fd.as_raw_fd(), name.as_ptr(), buffer, len) }
    });
    present(read)
}

/// An attribute of a name in a directory, of a link itself; `None` when it has none of this name.
pub fn get_at(dir: BorrowedFd<'_>, file: &Path, name: &CStr) -> io::Result<Option<Vec<u8>>> {
    let path = FdPath::in_dir(dir, file)?;
    let read = sized(|buffer, len| {
        // SAFETY: reads two C strings and writes at most `len` bytes to `buffer`, which has room for as many.
        unsafe { libc::lgetxattr(path.as_c_str().as_ptr(), name.as_ptr(), buffer, len) }
    });
    present(read)
}

/// The names of an open file's attributes, those that this process may see.
pub fn list(fd: BorrowedFd<'_>) -> io::Result<Vec<CString>> {
    let names = sized(|buffer, len| {
        // SAFETY: writes at most `len` bytes to `buffer`, which has room for as many.
        unsafe { libc::flistxattr(fd.as_raw_fd(), buffer.cast(), len) }
    })?;
    Ok(split(&names))
}

/// The names of the attributes of a name in a directory, of a link itself.
pub fn list_at(dir: BorrowedFd<'_>, file: &Path) -> io::Result<Vec<CString>> {
    let path = FdPath::in_dir(dir, file)?;
    let names = sized(|buffer, len| {
        // SAFETY: reads a C string and writes at most `len` bytes to `buffer`, which has room for as many.
        unsafe { libc::llistxattr(path.as_c_str().as_ptr(), buffer.cast(), len) }
    })?;
    Ok(split(&names))
}

/// Removes an attribute of an open file. Missing is fine.
pub fn remove(fd: BorrowedFd<'_>, name: &CStr) -> io::Result<()> {
    // SAFETY: reads the C string `name`, which outlives the call.
    match done(unsafe { libc::fremovexattr(fd.as_raw_fd(), name.as_ptr()) }) {
        Err(error) if error.raw_os_error() == Some(libc::ENODATA) => Ok(()),
        other => other,
    }
}

/// Asks for the size, makes room, asks again, until it did not grow in between.
fn sized(call: impl Fn(*mut libc::c_void, usize) -> isize) -> io::Result<Vec<u8>> {
    loop {
        let size = check(call(std::ptr::null_mut(), 0) as i64)? as usize;
        if size == 0 {
            return Ok(Vec::new());
        }
        let mut bytes = vec![0; size];
        match check(call(bytes.as_mut_ptr().cast(), size) as i64) {
            Ok(len) => {
                bytes.truncate(len as usize);
                return Ok(bytes);
            }
            Err(error) if error.raw_os_error() == Some(libc::ERANGE) => {}
            Err(error) => return Err(error),
        }
    }
}

fn present(read: io::Result<Vec<u8>>) -> io::Result<Option<Vec<u8>>> {
    match read {
        Err(error) if error.raw_os_error() == Some(libc::ENODATA) => Ok(None),
        read => read.map(Some),
    }
}

fn split(names: &[u8]) -> Vec<CString> {
    names.split(|byte| *byte == 0).filter(|name| !name.is_empty()).filter_map(|name| CString::new(name).ok()).collect()
}
