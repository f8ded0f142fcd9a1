//! Architectures: audit numbers, and system call numbers by name.

use std::str::FromStr;

use syscalls::{aarch64, arm, riscv64, x86, x86_64};

/// Bit that marks a call of the x32 ABI in the number that x86-64 reports.
pub(super) const X32_BIT: u32 = 0x4000_0000;

/// An instruction set with its system call table.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Arch {
    /// x86-64.
    X86_64,
    /// 32-bit x86.
    X86,
    /// x86-64 with 32-bit pointers: the audit number of x86-64, and a bit in the call's number.
    X32,
    /// 64-bit ARM.
    Aarch64,
    /// 32-bit ARM, EABI.
    Arm,
    /// 64-bit RISC-V.
    Riscv64,
}

impl Arch {
    /// What this program runs on.
    #[cfg(target_arch = "x86_64")]
    pub const NATIVE: Arch = Arch::X86_64;
    /// What this program runs on.
    #[cfg(target_arch = "aarch64")]
    pub const NATIVE: Arch = Arch::Aarch64;
    /// What this program runs on.
    #[cfg(target_arch = "riscv64")]
    pub const NATIVE: Arch = Arch::Riscv64;

    /// The architecture that a profile names. `None`: one that no machine of ours can run.
    pub fn from_profile(name: &str) -> Option<Self> {
        Some(match name {
            "SCMP_ARCH_X86_64" => Arch::X86_64,
            "SCMP_ARCH_X86" => Arch::X86,
            "SCMP_ARCH_X32" => Arch::X32,
            "SCMP_ARCH_AARCH64" => Arch::Aarch64,
            "SCMP_ARCH_ARM" => Arch::Arm,
            "SCMP_ARCH_RISCV64" => Arch::Riscv64,
            _ => return None,
        })
    }

    /// The name that profiles and the OCI specification use.
    pub fn profile_name(self) -> &'static str {
        match self {
            Arch::X86_64 => "SCMP_ARCH_X86_64",
            Arch::X86 => "SCMP_ARCH_X86",
            Arch::X32 => "SCMP_ARCH_X32",
            Arch::Aarch64 => "SCMP_ARCH_AARCH64",
            Arch::Arm => "SCMP_ARCH_ARM",
            Arch::Riscv64 => "SCMP_ARCH_RISCV64",
        }
    }

    /// Name in Go's spelling, which profiles use in `includes.arches`.
    pub fn go_name(self) -> &'static str {
        match self {
            Arch::X86_64 => "amd64",
            Arch::X86 => "x86",
            Arch::X32 => "x32",
            Arch::Aarch64 => "arm64",
            Arch::Arm => "arm",
            Arch::Riscv64 => "riscv64",
        }
    }

    /// `AUDIT_ARCH_*`: what seccomp_data.arch holds.
    pub fn audit(self) -> u32 {
        match self {
            Arch::X86_64 | Arch::X32 => 0xC000_003E,
            Arch::X86 => 0x4000_0003,
            Arch::Aarch64 => 0xC000_00B7,
            Arch::Arm => 0x4000_0028,
            Arch::Riscv64 => 0xC000_00F3,
        }
    }

    /// Whether arguments have 64 bits.
    pub fn is_wide(self) -> bool {
        matches!(self, Arch::X86_64 | Arch::Aarch64 | Arch::Riscv64)
    }

    /// The number of a call; `None` where this architecture does not have it.
    pub fn number(self, name: &str) -> Option<u32> {
        let number = match self {
            Arch::X86_64 => find::<x86_64::Sysno>(name).map(|found| found as i32),
            Arch::X86 => find::<x86::Sysno>(name).map(|found| found as i32),
            Arch::X32 => return x32(name),
            Arch::Aarch64 => find::<aarch64::Sysno>(name).map(|found| found as i32),
            Arch::Arm => return arm_number(name),
            Arch::Riscv64 => find::<riscv64::Sysno>(name).map(|found| found as i32),
        };
        number.and_then(|number| u32::try_from(number).ok())
    }
}

fn find<T: FromStr>(name: &str) -> Option<T> {
    T::from_str(name).ok()
}

fn arm_number(name: &str) -> Option<u32> {
    // The private calls of the ARM kernel stand outside the table (arch/arm/include/uapi/asm/unistd.h).
    const PRIVATE: u32 = 0x000F_0000;
    match name {
        "breakpoint" => Some(PRIVATE + 1),
        "cacheflush" => Some(PRIVATE + 2),
        "set_tls" => Some(PRIVATE + 5),
        // One call, two names: ARM gave sync_file_range2 its number 341.
        "arm_sync_file_range" | "sync_file_range2" => Some(341),
        "arm_fadvise64_64" | "fadvise64_64" => Some(270),
        _ => find::<arm::Sysno>(name).and_then(|found| u32::try_from(found as i32).ok()),
    }
}

/// Calls whose structures differ with 32-bit pointers have numbers of their own
/// (arch/x86/entry/syscalls/syscall_64.tbl).
const X32_OWN: [(&str, u32); 36] = [
    ("rt_sigaction", 512),
    ("rt_sigreturn", 513),
    ("ioctl", 514),
    ("readv", 515),
    ("writev", 516),
    ("recvfrom", 517),
    ("sendmsg", 518),
    ("recvmsg", 519),
    ("execve", 520),
    ("ptrace", 521),
    ("rt_sigpending", 522),
    ("rt_sigtimedwait", 523),
    ("rt_sigqueueinfo", 524),
    ("sigaltstack", 525),
    ("timer_create", 526),
    ("mq_notify", 527),
    ("kexec_load", 528),
    ("waitid", 529),
    ("set_robust_list", 530),
    ("get_robust_list", 531),
    ("vmsplice", 532),
    ("move_pages", 533),
    ("preadv", 534),
    ("pwritev", 535),
    ("rt_tgsigqueueinfo", 536),
    ("recvmmsg", 537),
    ("sendmmsg", 538),
    ("process_vm_readv", 539),
    ("process_vm_writev", 540),
    ("setsockopt", 541),
    ("getsockopt", 542),
    ("io_setup", 543),
    ("io_submit", 544),
    ("execveat", 545),
    ("preadv2", 546),
    ("pwritev2", 547),
];

/// Calls that x86-64 has and x32 never had.
const X32_NOT: [&str; 11] = [
    "uselib",
    "_sysctl",
    "create_module",
    "get_kernel_syms",
    "query_module",
    "nfsservctl",
    "set_thread_area",
    "get_thread_area",
    "epoll_ctl_old",
    "epoll_wait_old",
    "vserver",
];

fn x32(name: &str) -> Option<u32> {
    if let Some((_, number)) = X32_OWN.iter().find(|(own, _)| *own == name) {
        return Some(number | X32_BIT);
    }
    if X32_NOT.contains(&name) {
        return None;
    }
    Arch::X86_64.number(name).map(|number| number | X32_BIT)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_those_of_each_table() {
        for (arch, name, number) in [
            (Arch::X86_64, "read", Some(0)),
            (Arch::X86, "read", Some(3)),
            (Arch::X32, "read", Some(X32_BIT)),
            (Arch::X32, "readv", Some(X32_BIT | 515)),
            (Arch::X32, "get_thread_area", None),
            (Arch::Aarch64, "read", Some(63)),
            (Arch::Aarch64, "open", None),
            (Arch::Arm, "read", Some(3)),
            (Arch::Arm, "set_tls", Some(0xF0005)),
            (Arch::Riscv64, "openat", Some(56)),
            (Arch::X86_64, "socketcall", None),
            (Arch::X86, "socketcall", Some(102)),
            (Arch::X86_64, "none such", None),
        ] {
            assert_eq!(arch.number(name), number, "{arch:?} {name}");
        }
    }
}
