//! Resource limits of processes (`prlimit(2)`) and their names.

use std::io;

use crate::{process::Pid, sys::done};

/// Every limit of Linux, as the OCI runtime specification and the shell spell them.
const NAMES: [(&str, u32); 16] = [
    ("RLIMIT_CPU", libc::RLIMIT_CPU),
    ("RLIMIT_FSIZE", libc::RLIMIT_FSIZE),
    ("RLIMIT_DATA", libc::RLIMIT_DATA),
    ("RLIMIT_STACK", libc::RLIMIT_STACK),
    ("RLIMIT_CORE", libc::RLIMIT_CORE),
    ("RLIMIT_RSS", libc::RLIMIT_RSS),
    ("RLIMIT_NPROC", libc::RLIMIT_NPROC),
    ("RLIMIT_NOFILE", libc::RLIMIT_NOFILE),
    ("RLIMIT_MEMLOCK", libc::RLIMIT_MEMLOCK),
    ("RLIMIT_AS", libc::RLIMIT_AS),
    ("RLIMIT_LOCKS", libc::RLIMIT_LOCKS),
    ("RLIMIT_SIGPENDING", libc::RLIMIT_SIGPENDING),
    ("RLIMIT_MSGQUEUE", libc::RLIMIT_MSGQUEUE),
    ("RLIMIT_NICE", libc::RLIMIT_NICE),
    ("RLIMIT_RTPRIO", libc::RLIMIT_RTPRIO),
    ("RLIMIT_RTTIME", libc::RLIMIT_RTTIME),
];

/// What is limited.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Resource(u32);

/// How much: the soft limit counts, the hard one is what the soft may be raised to. `u64::MAX` is "unlimited".
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Limit {
    /// What counts now.
    pub soft: u64,
    /// What `soft` may be raised to.
    pub hard: u64,
}

impl Resource {
    /// Open descriptors of a process.
    pub const OPEN_FILES: Resource = Resource(libc::RLIMIT_NOFILE);
    /// Size of a core dump, in bytes.
    pub const CORE: Resource = Resource(libc::RLIMIT_CORE);

    /// The resource of this name, such as `RLIMIT_NOFILE`. `None`: nothing is called so.
    pub fn named(name: &str) -> Option<Self> {
        NAMES.iter().find(|(known, _)| *known == name).map(|(_, number)| Self(*number))
    }

    /// The resource with the kernel's number, as the link carries it.
    pub fn numbered(number: u32) -> Option<Self> {
        NAMES.iter().find(|(_, known)| *known == number).map(|_| Self(number))
    }

    /// The kernel's number.
    pub fn number(self) -> u32 {
        self.0
    }

    /// Its name.
    pub fn name(self) -> &'static str {
        NAMES.iter().find(|(_, number)| *number == self.0).map_or("RLIMIT_?", |(name, _)| name)
    }
}

/// The limit of this process.
pub fn limit(resource: Resource) -> io::Result<Limit> {
    exchange(Pid(0), resource, None)
}

/// Sets a limit of this process. `EPERM`: raising a hard limit without CAP_SYS_RESOURCE. Does not allocate.
pub fn set_limit(resource: Resource, limit: Limit) -> io::Result<()> {
    exchange(Pid(0), resource, Some(limit)).map(drop)
}

fn exchange(pid: Pid, resource: Resource, new: Option<Limit>) -> io::Result<Limit> {
    let new = new.map(|limit| libc::rlimit64 { rlim_cur: limit.soft, rlim_max: limit.hard });
    let new = new.as_ref().map_or(std::ptr::null(), std::ptr::from_ref);
    let mut old = libc::rlimit64 { rlim_cur: 0, rlim_max: 0 };
    // SAFETY: `new` is null or points to a rlimit64 that outlives the call, and the kernel writes one to `old`.
    done(unsafe { libc::syscall(libc::SYS_prlimit64, pid.0, resource.0, new, &raw mut old) })?;
    Ok(Limit { soft: old.rlim_cur, hard: old.rlim_max })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_limit_can_be_read_and_set_to_itself() {
        let core = Resource::named("RLIMIT_CORE").unwrap();
        assert_eq!(core, Resource::CORE);
        let now = limit(core).unwrap();
        set_limit(core, now).unwrap();
        assert_eq!(limit(core).unwrap(), now);
    }

    #[test]
    fn names_and_numbers_are_inverse() {
        for (name, number) in NAMES {
            assert_eq!(Resource::named(name).unwrap().number(), number);
            assert_eq!(Resource::numbered(number).unwrap().name(), name);
        }
        assert_eq!(Resource::named("nofile"), None);
        assert_eq!(Resource::numbered(99), None);
    }
}
