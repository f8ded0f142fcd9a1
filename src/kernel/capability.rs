//! Capabilities: the five sets of a thread (`capabilities(7)`) and their names.
//!
//! All of it is about the calling thread. Only the names allocate nothing and everything else neither, so the child may
//! use it between clone and exec.

use std::io;

use crate::sys::{check, done};

/// Every capability of Linux 6.18, by number.
const NAMES: [&str; 41] = [
    "CAP_CHOWN",
    "CAP_DAC_OVERRIDE",
    "CAP_DAC_READ_SEARCH",
    "CAP_FOWNER",
    "CAP_FSETID",
    "CAP_KILL",
    "CAP_SETGID",
    "CAP_SETUID",
    "CAP_SETPCAP",
    "CAP_LINUX_IMMUTABLE",
    "CAP_NET_BIND_SERVICE",
    "CAP_NET_BROADCAST",
    "CAP_NET_ADMIN",
    "CAP_NET_RAW",
    "CAP_IPC_LOCK",
    "CAP_IPC_OWNER",
    "CAP_SYS_MODULE",
    "CAP_SYS_RAWIO",
    "CAP_SYS_CHROOT",
    "CAP_SYS_PTRACE",
    "CAP_SYS_PACCT",
    "CAP_SYS_ADMIN",
    "CAP_SYS_BOOT",
    "CAP_SYS_NICE",
    "CAP_SYS_RESOURCE",
    "CAP_SYS_TIME",
    "CAP_SYS_TTY_CONFIG",
    "CAP_MKNOD",
    "CAP_LEASE",
    "CAP_AUDIT_WRITE",
    "CAP_AUDIT_CONTROL",
    "CAP_SETFCAP",
    "CAP_MAC_OVERRIDE",
    "CAP_MAC_ADMIN",
    "CAP_SYSLOG",
    "CAP_WAKE_ALARM",
    "CAP_BLOCK_SUSPEND",
    "CAP_AUDIT_READ",
    "CAP_PERFMON",
    "CAP_BPF",
    "CAP_CHECKPOINT_RESTORE",
];

/// `_LINUX_CAPABILITY_VERSION_3`: two words of 32 bits a set.
const VERSION: u32 = 0x2008_0522;

/// A set of capabilities: bit n is capability n.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub struct CapSet(pub u64);

/// The three sets that `capset(2)` changes at once.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Capabilities {
    /// What counts now.
    pub effective: CapSet,
    /// What may be made effective.
    pub permitted: CapSet,
    /// What passes an exec of a file that has it inheritable too.
    pub inheritable: CapSet,
}

impl CapSet {
    /// Mounts, namespaces, and half of everything else.
    pub const SYS_ADMIN: CapSet = CapSet(1 << 21);
    /// Raising limits and lowering the out-of-memory score.
    pub const SYS_RESOURCE: CapSet = CapSet(1 << 24);

    /// No capability.
    pub fn empty() -> Self {
        Self(0)
    }

    /// The capability of this name, `CAP_NET_RAW` or `NET_RAW`, in any case. `None`: nothing is called so.
    pub fn named(name: &str) -> Option<Self> {
        let bare =
            |name: &str| -> usize { if name.get(..4).is_some_and(|p| p.eq_ignore_ascii_case("CAP_")) { 4 } else { 0 } };
        let wanted = &name[bare(name)..];
        NAMES.iter().position(|known| known[4..].eq_ignore_ascii_case(wanted)).map(|number| Self(1 << number))
    }

    /// All that this kernel has, as far as it can be asked ([`last_cap`]).
    pub fn all() -> Self {
        Self(u64::MAX >> (63 - u64::from(last_cap())))
    }

    /// The names in the set, in order of number; those newer than our table are left out.
    pub fn names(self) -> impl Iterator<Item = &'static str> {
        NAMES.iter().enumerate().filter(move |(number, _)| self.0 >> number & 1 == 1).map(|(_, name)| *name)
    }

    /// Whether every capability of `other` is in this set.
    pub fn contains(self, other: CapSet) -> bool {
        self.0 & other.0 == other.0
    }

    /// In either.
    pub fn union(self, other: CapSet) -> Self {
        Self(self.0 | other.0)
    }

    /// In both.
    pub fn intersection(self, other: CapSet) -> Self {
        Self(self.0 & other.0)
    }

    /// In this and not in `other`.
    pub fn without(self, other: CapSet) -> Self {
        Self(self.0 & !other.0)
    }

    fn numbers(self) -> impl Iterator<Item = u32> {
        (0..64).filter(move |number| self.0 >> number & 1 == 1)
    }
}

/// `struct __user_cap_header_struct`.
#[repr(C)]
struct Header {
    version: u32,
    pid: i32,
}

/// `struct __user_cap_data_struct`: one word of each set.
#[repr(C)]
#[derive(Clone, Copy, Default)]
struct Words {
    effective: u32,
    permitted: u32,
    inheritable: u32,
}

/// The capabilities of the calling thread.
pub fn capabilities() -> io::Result<Capabilities> {
    let mut header = Header { version: VERSION, pid: 0 };
    let mut words = [Words::default(); 2];
    // SAFETY: version 3 makes the kernel write two `Words` to `words`; both outlive the call.
    done(unsafe { libc::syscall(libc::SYS_capget, &raw mut header, words.as_mut_ptr()) })?;
    let join = |of: fn(&Words) -> u32| CapSet(u64::from(of(&words[0])) | u64::from(of(&words[1])) << 32);
    Ok(Capabilities {
        effective: join(|word| word.effective),
        permitted: join(|word| word.permitted),
        inheritable: join(|word| word.inheritable),
    })
}

/// Replaces three sets of the calling thread. `EPERM`: permitted would grow, or inheritable beyond the bounding set.
pub fn set_capabilities(sets: Capabilities) -> io::Result<()> {
    let mut header = Header { version: VERSION, pid: 0 };
    let word = |shift: u32| Words {
        effective: (sets.effective.0 >> shift) as u32,
        permitted: (sets.permitted.0 >> shift) as u32,
        inheritable: (sets.inheritable.0 >> shift) as u32,
    };
    let words = [word(0), word(32)];
    // SAFETY: version 3 makes the kernel read two `Words` from `words`; both outlive the call.
    done(unsafe { libc::syscall(libc::SYS_capset, &raw mut header, words.as_ptr()) })
}

/// What exec may at most give the calling thread.
pub fn bounding() -> CapSet {
    // EINVAL above the last capability ends the walk.
    let held = (0..64).map_while(|number| {
        // SAFETY: PR_CAPBSET_READ takes one number.
        check(unsafe { libc::prctl(libc::PR_CAPBSET_READ, number, 0, 0, 0) }).ok().map(|held| (held as u64) << number)
    });
    CapSet(held.fold(0, |set, bit| set | bit))
}

/// Takes everything but `keep` out of the bounding set, for ever. Needs CAP_SETPCAP for each one taken.
pub fn limit_bounding(keep: CapSet) -> io::Result<()> {
    for number in bounding().without(keep).numbers() {
        // SAFETY: PR_CAPBSET_DROP takes one number.
        done(unsafe { libc::prctl(libc::PR_CAPBSET_DROP, number, 0, 0, 0) })?;
    }
    Ok(())
}

/// Empties the ambient set.
pub fn clear_ambient() -> io::Result<()> {
    // SAFETY: PR_CAP_AMBIENT_CLEAR_ALL takes no further argument; they must be zero.
    done(unsafe { libc::prctl(libc::PR_CAP_AMBIENT, libc::PR_CAP_AMBIENT_CLEAR_ALL, 0, 0, 0) })
}

/// Adds to the ambient set, which a program that is not root keeps over exec. `EPERM`: one is not both permitted and
/// inheritable.
pub fn raise_ambient(set: CapSet) -> io::Result<()> {
    for number in set.numbers() {
        // SAFETY: PR_CAP_AMBIENT_RAISE takes one number; the rest must be zero.
        done(unsafe { libc::prctl(libc::PR_CAP_AMBIENT, libc::PR_CAP_AMBIENT_RAISE, number, 0, 0) })?;
    }
    Ok(())
}

/// The number of this kernel's last capability (40 in Linux 6.1 to 6.18).
pub fn last_cap() -> u32 {
    // SAFETY: PR_CAPBSET_READ takes one number.
    let known = (0..64_u32).take_while(|number| unsafe { libc::prctl(libc::PR_CAPBSET_READ, *number, 0, 0, 0) } >= 0);
    known.last().unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_read_with_and_without_prefix_in_any_case() {
        for name in ["CAP_NET_RAW", "NET_RAW", "cap_net_raw", "net_raw"] {
            assert_eq!(CapSet::named(name), Some(CapSet(1 << 13)), "{name}");
        }
        for name in ["", "CAP_", "CAP_CAP_NET_RAW", "NET", "ALL", "ä", "näää"] {
            assert_eq!(CapSet::named(name), None, "{name}");
        }
        assert_eq!(CapSet::named("SYS_ADMIN"), Some(CapSet::SYS_ADMIN));
        assert_eq!(CapSet::named("SYS_RESOURCE"), Some(CapSet::SYS_RESOURCE));
    }

    #[test]
    fn names_and_sets_are_inverse() {
        let set = CapSet(0b1011);
        assert_eq!(set.names().collect::<Vec<_>>(), ["CAP_CHOWN", "CAP_DAC_OVERRIDE", "CAP_FOWNER"]);
        let back = set.names().filter_map(CapSet::named).fold(CapSet::empty(), CapSet::union);
        assert_eq!(back, set);
        assert_eq!(CapSet::all().names().count() as u32, last_cap() + 1);
    }

    #[test]
    fn the_sets_agree_with_proc() {
        let status = std::fs::read_to_string("/proc/thread-self/status").unwrap();
        let line = |key: &str| {
            let line = status.lines().find(|line| line.starts_with(key)).unwrap();
            CapSet(u64::from_str_radix(line.split_whitespace().nth(1).unwrap(), 16).unwrap())
        };
        let ours = capabilities().unwrap();
        assert_eq!(
            (ours.effective, ours.permitted, ours.inheritable),
            (line("CapEff"), line("CapPrm"), line("CapInh"))
        );
        assert_eq!(bounding(), line("CapBnd"));
    }
}
