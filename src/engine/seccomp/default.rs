//! The default profile: which system calls a container may make when it asks for `RuntimeDefault`.
//!
//! The same policy as Docker's and containerd's, so that what runs there runs here: about 350 calls for everyone, more
//! for containers that were given a capability, EPERM for the rest. Calls that are newer than the list fail with
//! ENOSYS instead, which C libraries take as "not there" and work around (see `compile`).

use super::profile::{Action, ArchMap, Argument, Compare, Filter, Profile, Rule};

/// Calls that everyone may make.
const EVERYONE: &str = "
    accept accept4 access adjtimex alarm bind brk cachestat capget capset chdir chmod chown chown32 clock_adjtime
    clock_adjtime64 clock_getres clock_getres_time64 clock_gettime clock_gettime64 clock_nanosleep
    clock_nanosleep_time64 close close_range connect copy_file_range creat dup dup2 dup3 epoll_create epoll_create1
    epoll_ctl epoll_ctl_old epoll_pwait epoll_pwait2 epoll_wait epoll_wait_old eventfd eventfd2 execve execveat exit
    exit_group faccessat faccessat2 fadvise64 fadvise64_64 fallocate fanotify_mark fchdir fchmod fchmodat fchmodat2
    fchown fchown32 fchownat fcntl fcntl64 fdatasync fgetxattr flistxattr flock fork fremovexattr fsetxattr fstat
    fstat64 fstatat64 fstatfs fstatfs64 fsync ftruncate ftruncate64 futex futex_requeue futex_time64 futex_wait
    futex_waitv futex_wake futimesat getcpu getcwd getdents getdents64 getegid getegid32 geteuid geteuid32 getgid
    getgid32 getgroups getgroups32 getitimer getpeername getpgid getpgrp getpid getppid getpriority getrandom
    getresgid getresgid32 getresuid getresuid32 getrlimit get_robust_list getrusage getsid getsockname getsockopt
    get_thread_area gettid gettimeofday getuid getuid32 getxattr getxattrat inotify_add_watch inotify_init
    inotify_init1 inotify_rm_watch io_cancel ioctl io_destroy io_getevents io_pgetevents io_pgetevents_time64
    ioprio_get ioprio_set io_setup io_submit ipc kill landlock_add_rule landlock_create_ruleset
    landlock_restrict_self lchown lchown32 lgetxattr link linkat listen listmount listxattr listxattrat llistxattr
    _llseek lremovexattr lseek lsetxattr lstat lstat64 madvise map_shadow_stack membarrier memfd_create memfd_secret
    mincore mkdir mkdirat mknod mknodat mlock mlock2 mlockall mmap mmap2 mprotect mq_getsetattr mq_notify mq_open
    mq_timedreceive mq_timedreceive_time64 mq_timedsend mq_timedsend_time64 mq_unlink mremap mseal msgctl msgget
    msgrcv msgsnd msync munlock munlockall munmap name_to_handle_at nanosleep newfstatat _newselect open openat
    openat2 pause pidfd_open pidfd_send_signal pipe pipe2 pkey_alloc pkey_free pkey_mprotect poll ppoll ppoll_time64
    prctl pread64 preadv preadv2 prlimit64 process_mrelease pselect6 pselect6_time64 pwrite64 pwritev pwritev2 read
    readahead readlink readlinkat readv recv recvfrom recvmmsg recvmmsg_time64 recvmsg remap_file_pages removexattr
    removexattrat rename renameat renameat2 restart_syscall riscv_hwprobe rmdir rseq rt_sigaction rt_sigpending
    rt_sigprocmask rt_sigqueueinfo rt_sigreturn rt_sigsuspend rt_sigtimedwait rt_sigtimedwait_time64
    rt_tgsigqueueinfo sched_getaffinity sched_getattr sched_getparam sched_get_priority_max sched_get_priority_min
    sched_getscheduler sched_rr_get_interval sched_rr_get_interval_time64 sched_setaffinity sched_setattr
    sched_setparam sched_setscheduler sched_yield seccomp select semctl semget semop semtimedop semtimedop_time64
    send sendfile sendfile64 sendmmsg sendmsg sendto setfsgid setfsgid32 setfsuid setfsuid32 setgid setgid32
    setgroups setgroups32 setitimer setpgid setpriority setregid setregid32 setresgid setresgid32 setresuid
    setresuid32 setreuid setreuid32 setrlimit set_robust_list setsid setsockopt set_thread_area set_tid_address
    setuid setuid32 setxattr setxattrat shmat shmctl shmdt shmget shutdown sigaltstack signalfd signalfd4
    sigprocmask sigreturn socketcall socketpair splice stat stat64 statfs statfs64 statmount statx symlink symlinkat
    sync sync_file_range syncfs sysinfo tee tgkill time timer_create timer_delete timer_getoverrun timer_gettime
    timer_gettime64 timer_settime timer_settime64 timerfd_create timerfd_gettime timerfd_gettime64 timerfd_settime
    timerfd_settime64 times tkill truncate truncate64 ugetrlimit umask uname unlink unlinkat uretprobe utime
    utimensat utimensat_time64 utimes vfork vmsplice wait4 waitid waitpid write writev";

/// Calls that are safe since this kernel (before 4.8 ptrace could escape a filter).
const SINCE_4_8: &str = "process_vm_readv process_vm_writev ptrace";

/// Calls that exist, or matter, on some machines only: Go names of the machines, then the calls.
const BY_MACHINE: [(&str, &str); 4] = [
    ("arm arm64", "arm_fadvise64_64 arm_sync_file_range sync_file_range2 breakpoint cacheflush set_tls"),
    ("amd64 x32", "arch_prctl"),
    ("amd64 x32 x86", "modify_ldt"),
    ("riscv64", "riscv_flush_icache"),
];

/// Calls that come with a capability.
const BY_CAPABILITY: [(&str, &str); 14] = [
    ("CAP_DAC_READ_SEARCH", "open_by_handle_at"),
    (
        "CAP_SYS_ADMIN",
        "bpf clone clone3 fanotify_init fsconfig fsmount fsopen fspick lookup_dcookie lsm_get_self_attr
         lsm_list_modules lsm_set_self_attr mount mount_setattr move_mount open_tree perf_event_open quotactl
         quotactl_fd setdomainname sethostname setns syslog umount umount2 unshare",
    ),
    ("CAP_SYS_BOOT", "reboot"),
    ("CAP_SYS_CHROOT", "chroot"),
    ("CAP_SYS_MODULE", "delete_module init_module finit_module"),
    ("CAP_SYS_PACCT", "acct"),
    ("CAP_SYS_PTRACE", "kcmp pidfd_getfd process_madvise process_vm_readv process_vm_writev ptrace"),
    ("CAP_SYS_RAWIO", "iopl ioperm"),
    ("CAP_SYS_TIME", "settimeofday stime clock_settime clock_settime64"),
    ("CAP_SYS_TTY_CONFIG", "vhangup"),
    ("CAP_SYS_NICE", "get_mempolicy mbind set_mempolicy set_mempolicy_home_node"),
    ("CAP_SYSLOG", "syslog"),
    ("CAP_BPF", "bpf"),
    ("CAP_PERFMON", "perf_event_open"),
];

/// Every CLONE_NEW* bit: without CAP_SYS_ADMIN nobody makes namespaces.
const CLONE_NEW_ANY: u64 = 0x7E02_0000;

/// Personalities that change nothing about security: Linux, BSD, both with the old address layout, and the question.
const PERSONALITIES: [u64; 5] = [0, 0x0008, 0x2_0000, 0x2_0008, 0xFFFF_FFFF];

/// AF_ALG: the kernel's crypto interface, more bugs than users.
const AF_ALG: u64 = 38;
/// AF_VSOCK: would reach the hypervisor, past every network policy.
const AF_VSOCK: u64 = 40;

/// The profile. What applies to one container comes out of `resolve`.
pub fn profile() -> Profile {
    let mut syscalls = vec![allow(EVERYONE)];
    let since = Filter { min_kernel: Some("4.8".to_owned()), ..Filter::default() };
    syscalls.push(Rule { includes: since, ..allow(SINCE_4_8) });
    for (op, family) in [(Compare::Less, AF_ALG), (Compare::Equal, AF_ALG + 1), (Compare::Greater, AF_VSOCK)] {
        syscalls.push(Rule { args: vec![argument(op, family, 0)], ..allow("socket") });
    }
    for personality in PERSONALITIES {
        syscalls.push(Rule { args: vec![argument(Compare::Equal, personality, 0)], ..allow("personality") });
    }
    for (machines, names) in BY_MACHINE {
        syscalls.push(Rule { includes: Filter { arches: words(machines), ..Filter::default() }, ..allow(names) });
    }
    for (capability, names) in BY_CAPABILITY {
        syscalls.push(Rule { includes: capability_filter(capability), ..allow(names) });
    }
    let without_admin = capability_filter("CAP_SYS_ADMIN");
    syscalls.push(Rule {
        args: vec![argument(Compare::MaskedEqual, CLONE_NEW_ANY, 0)],
        excludes: without_admin.clone(),
        ..allow("clone")
    });
    // The flags of clone3 lie in memory, where a filter cannot look: say that the call does not exist, and the C
    // library falls back to clone.
    let errno_ret = u32::try_from(libc::ENOSYS).ok();
    syscalls.push(Rule { action: Action::Errno, errno_ret, excludes: without_admin, ..allow("clone3") });
    Profile {
        default_action: Action::Errno,
        default_errno_ret: u32::try_from(libc::EPERM).ok(),
        arch_map: Some(vec![
            arch("SCMP_ARCH_X86_64", &["SCMP_ARCH_X86", "SCMP_ARCH_X32"]),
            arch("SCMP_ARCH_AARCH64", &["SCMP_ARCH_ARM"]),
            arch("SCMP_ARCH_RISCV64", &[]),
        ]),
        architectures: None,
        flags: None,
        listener_path: None,
        listener_metadata: None,
        syscalls,
    }
}

fn words(text: &str) -> Vec<String> {
    text.split_whitespace().map(str::to_owned).collect()
}

fn allow(names: &str) -> Rule {
    Rule {
        names: words(names),
        name: String::new(),
        action: Action::Allow,
        errno_ret: None,
        args: Vec::new(),
        comment: String::new(),
        includes: Filter::default(),
        excludes: Filter::default(),
    }
}

fn capability_filter(name: &str) -> Filter {
    Filter { caps: vec![name.to_owned()], ..Filter::default() }
}

fn argument(op: Compare, value: u64, value_two: u64) -> Argument {
    Argument { index: 0, value, value_two, op }
}

fn arch(architecture: &str, older: &[&str]) -> ArchMap {
    ArchMap {
        architecture: architecture.to_owned(),
        sub_architectures: older.iter().map(|name| (*name).to_owned()).collect(),
    }
}
