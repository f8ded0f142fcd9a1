//! Files in memory that nobody can change any more: sealed bytes and sealed programs (`memfd_create(2)`).

use std::{
    ffi::CStr,
    fs::File,
    io::{self, Read, Seek, Write},
    os::fd::{AsFd, BorrowedFd, OwnedFd},
};

use nix::{
    errno::Errno,
    fcntl::{FcntlArg, SealFlag, fcntl},
    sys::memfd::{MFdFlags, memfd_create},
};

use crate::sys::take;

/// The bytes in a sealed file, read position at the start. `name` shows in `/proc/<pid>/fd` only.
pub fn sealed(name: &CStr, bytes: &[u8]) -> io::Result<OwnedFd> {
    copy_sealed(create(name, libc::MFD_NOEXEC_SEAL)?, &mut &*bytes)
}

/// A sealed copy of what `program` still holds, which can be executed.
///
/// Every process that runs from it shows this copy at `/proc/<pid>/exe`, so no container can write to the file on disk.
pub fn sealed_program(name: &CStr, program: &mut impl Read) -> io::Result<OwnedFd> {
    copy_sealed(create(name, libc::MFD_EXEC)?, program)
}

/// Whether nothing of a memfd can change: neither its bytes, nor its size, nor this answer.
pub fn is_sealed(fd: BorrowedFd<'_>) -> bool {
    fcntl(fd, FcntlArg::F_GET_SEALS).is_ok_and(|seals| SealFlag::from_bits_truncate(seals).contains(all_seals()))
}

fn create(name: &CStr, exec: u32) -> io::Result<OwnedFd> {
    let flags = libc::MFD_CLOEXEC | libc::MFD_ALLOW_SEALING;
    // SAFETY: reads the C string `name`, which outlives the call.
    let fd = unsafe { libc::memfd_create(name.as_ptr(), flags | exec) };
    // SAFETY: memfd_create makes a new descriptor, and `fd` is its only record.
    match unsafe { take(fd) } {
        // Before Linux 6.3 nobody could say whether it is a program, and every memfd could be.
        Err(error) if error.raw_os_error() == Some(libc::EINVAL) => {
            Ok(memfd_create(name, MFdFlags::MFD_CLOEXEC | MFdFlags::MFD_ALLOW_SEALING)?)
        }
        made => made,
    }
}

fn copy_sealed(memfd: OwnedFd, from: &mut impl Read) -> io::Result<OwnedFd> {
    let mut file = File::from(memfd);
    io::copy(from, &mut file)?;
    file.flush()?;
    file.rewind()?;
    match fcntl(file.as_fd(), FcntlArg::F_ADD_SEALS(all_seals())) {
        Ok(_) => Ok(file.into()),
        Err(errno) => Err(Errno::into(errno)),
    }
}

/// Against writing, `F_SEAL_FUTURE_WRITE` (Linux 5.1): as strong as `F_SEAL_WRITE` for a file that nobody has mapped to
/// write, as none of ours is. That one waits for whoever holds a page, on any processor, and is `EBUSY` when it has
/// waited in vain.
fn all_seals() -> SealFlag {
    SealFlag::F_SEAL_SHRINK | SealFlag::F_SEAL_GROW | SealFlag::F_SEAL_FUTURE_WRITE | SealFlag::F_SEAL_SEAL
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::process::{CStringArray, CloneArgs, Ended, clone3, exec_fd, exit_now, wait_blocking};

    #[test]
    fn sealed_bytes_can_be_read_and_never_changed() {
        let fd = sealed(c"crt-kernel", b"filter").unwrap();
        assert!(is_sealed(fd.as_fd()));
        let mut file = File::from(fd);
        let mut text = String::new();
        file.read_to_string(&mut text).unwrap();
        assert_eq!(text, "filter");
        assert_eq!(file.write(b"x").unwrap_err().raw_os_error(), Some(libc::EPERM));
        assert_eq!(file.set_len(1).unwrap_err().raw_os_error(), Some(libc::EPERM));
        assert!(!is_sealed(File::open("/proc/self/exe").unwrap().as_fd()));
    }

    #[test]
    fn a_sealed_program_runs() {
        let mut shell = File::open("/bin/sh").unwrap();
        let program = sealed_program(c"crt-kernel-sh", &mut shell).unwrap();
        let argv = CStringArray::new(["sh", "-c", "exit 5"]).unwrap();
        let env = CStringArray::new(Vec::<Vec<u8>>::new()).unwrap();
        let (_, child) = clone3(CloneArgs::default(), || {
            exec_fd(program.as_fd(), &argv, &env);
            exit_now(1)
        })
        .unwrap();
        assert_eq!(wait_blocking(child.as_fd()).unwrap(), Ended::Code(5));
    }
}
