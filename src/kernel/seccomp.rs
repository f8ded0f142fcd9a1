//! System call filters: loading a ready program (`seccomp(2)`). What it says is decided elsewhere.

use std::io;

use crate::sys::done;

/// The most instructions the kernel takes (`BPF_MAXINSNS`).
pub const MAX_INSTRUCTIONS: usize = 4096;

/// One instruction of classic BPF (`struct sock_filter`).
#[repr(C)]
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct SockFilter {
    /// What to do.
    pub code: u16,
    /// How many instructions to skip when a comparison holds.
    pub jt: u8,
    /// How many to skip when it does not.
    pub jf: u8,
    /// The operand.
    pub k: u32,
}

/// `struct sock_fprog`.
#[repr(C)]
struct Program {
    len: u16,
    filter: *const SockFilter,
}

impl SockFilter {
    /// The size of one in [`to_bytes`].
    pub const SIZE: usize = 8;
}

/// Puts the filter on the calling thread, for ever and for all its children. Does not allocate.
///
/// Needs [`crate::identity::no_new_privs`] or CAP_SYS_ADMIN in the user namespace (`EACCES`). `EINVAL`: the kernel does
/// not accept the program; `ENOMEM`: with it the thread's filters would be longer than 32768 instructions.
pub fn load(filter: &[SockFilter]) -> io::Result<()> {
    if filter.is_empty() || filter.len() > MAX_INSTRUCTIONS {
        return Err(io::Error::from_raw_os_error(libc::EINVAL));
    }
    let program = Program { len: filter.len() as u16, filter: filter.as_ptr() };
    // SAFETY: the kernel reads `program` and the `len` instructions it points to; both outlive the call.
    done(unsafe { libc::syscall(libc::SYS_seccomp, libc::SECCOMP_SET_MODE_FILTER, 0, &raw const program) })
}

/// Whether this kernel filters system calls, and knows the action of this number (`SECCOMP_RET_*`).
pub fn knows_action(action: u32) -> bool {
    // SAFETY: the kernel reads one u32 from `action`, which outlives the call.
    done(unsafe { libc::syscall(libc::SYS_seccomp, libc::SECCOMP_GET_ACTION_AVAIL, 0, &raw const action) }).is_ok()
}

/// A filter as bytes of this machine, for a memfd.
pub fn to_bytes(filter: &[SockFilter]) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(filter.len() * SockFilter::SIZE);
    for one in filter {
        bytes.extend_from_slice(&one.code.to_ne_bytes());
        bytes.extend_from_slice(&[one.jt, one.jf]);
        bytes.extend_from_slice(&one.k.to_ne_bytes());
    }
    bytes
}

/// The inverse of [`to_bytes`]. `None`: not a whole number of instructions, none, or more than the kernel takes.
pub fn from_bytes(bytes: &[u8]) -> Option<Vec<SockFilter>> {
    let (instructions, rest) = bytes.as_chunks::<{ SockFilter::SIZE }>();
    if !rest.is_empty() || instructions.is_empty() || instructions.len() > MAX_INSTRUCTIONS {
        return None;
    }
    let one = |&[c0, c1, jt, jf, k0, k1, k2, k3]: &[u8; SockFilter::SIZE]| SockFilter {
        code: u16::from_ne_bytes([c0, c1]),
        jt,
        jf,
        k: u32::from_ne_bytes([k0, k1, k2, k3]),
    };
    Some(instructions.iter().map(one).collect())
}

#[cfg(test)]
mod tests {
    use std::os::fd::AsFd;

    use super::*;
    use crate::process::{CloneArgs, Ended, clone3, exit_now, wait_blocking};

    /// Refuses uname with EPERM on every architecture's number that matters here, allows the rest.
    fn no_uname() -> Vec<SockFilter> {
        let load_number = SockFilter { code: 0x20, jt: 0, jf: 0, k: 0 };
        let is_uname = SockFilter { code: 0x15, jt: 0, jf: 1, k: libc::SYS_uname as u32 };
        let refuse = SockFilter { code: 0x06, jt: 0, jf: 0, k: libc::SECCOMP_RET_ERRNO | libc::EPERM as u32 };
        let allow = SockFilter { code: 0x06, jt: 0, jf: 0, k: libc::SECCOMP_RET_ALLOW };
        vec![load_number, is_uname, refuse, allow]
    }

    #[test]
    fn bytes_and_instructions_are_inverse() {
        let filter = no_uname();
        assert_eq!(from_bytes(&to_bytes(&filter)).unwrap(), filter);
        assert!(from_bytes(&[]).is_none());
        assert!(from_bytes(&[0; 12]).is_none());
        assert!(from_bytes(&vec![0; 8 * (MAX_INSTRUCTIONS + 1)]).is_none());
        assert!(knows_action(libc::SECCOMP_RET_ERRNO));
    }

    #[test]
    fn a_filter_counts_in_the_child_that_loads_it() {
        let filter = no_uname();
        let (_, child) = clone3(CloneArgs::default(), || {
            if crate::identity::no_new_privs().is_err() {
                exit_now(1);
            }
            if load(&filter).is_err() {
                exit_now(2);
            }
            match nix::sys::utsname::uname() {
                Err(nix::errno::Errno::EPERM) => exit_now(0),
                _ => exit_now(3),
            }
        })
        .unwrap();
        assert_eq!(wait_blocking(child.as_fd()).unwrap(), Ended::Code(0));
        nix::sys::utsname::uname().unwrap();
    }

    #[test]
    fn an_empty_or_nonsense_filter_is_refused() {
        assert_eq!(load(&[]).unwrap_err().raw_os_error(), Some(libc::EINVAL));
        let nonsense = SockFilter { code: 0xffff, jt: 0, jf: 0, k: 0 };
        let (_, child) = clone3(CloneArgs::default(), || {
            let _ = crate::identity::no_new_privs();
            exit_now(load(&[nonsense]).err().and_then(|error| error.raw_os_error()).unwrap_or(0))
        })
        .unwrap();
        assert_eq!(wait_blocking(child.as_fd()).unwrap(), Ended::Code(libc::EINVAL as u8));
    }
}
