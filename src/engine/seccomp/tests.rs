//! Behaviour of compiled filters: by hand, and against libseccomp.

use kernel::seccomp::SockFilter;

use super::*;
use crate::capability::{self, CapabilitySet};

mod interpreter;
mod oracle;

use interpreter::{Call, run};

const ALLOW: u32 = 0x7FFF_0000;
const EPERM: u32 = 0x0005_0001;
const ENOSYS: u32 = 0x0005_0026;
const KILL: u32 = 0;

/// Values that lie beside every edge which a profile's comparisons have.
const EDGES: [u64; 24] = [
    0,
    1,
    8,
    9,
    37,
    38,
    39,
    40,
    41,
    0x2_0000,
    0x2_0008,
    0x0002_0000 - 1,
    0x1000_0000,
    0x4000_0000,
    0x7E02_0000,
    0x7FFF_FFFF,
    0x8000_0000,
    0xFFFF_FFFE,
    0xFFFF_FFFF,
    0x1_0000_0000,
    0x1_0000_0008,
    0x26_0000_0026,
    0x7FFF_FFFF_FFFF_FFFF,
    u64::MAX,
];

fn here(bounding: CapabilitySet) -> Circumstances {
    Circumstances { bounding, native: Arch::X86_64, kernel: (6, 1) }
}

fn compiled(profile: &Profile, bounding: CapabilitySet) -> Vec<SockFilter> {
    compile(&resolve(profile, &here(bounding)).unwrap()).unwrap()
}

fn usual() -> CapabilitySet {
    CapabilitySet::of(&capability::DEFAULT).unwrap()
}

fn profile(json: &str) -> Profile {
    serde_json::from_str(json).unwrap()
}

fn number(arch: Arch, name: &str) -> u32 {
    arch.number(name).unwrap()
}

#[test]
fn the_default_profile_lets_programs_work_and_keeps_the_kernel_shut() {
    let program = compiled(&default_profile(), usual());
    let x86_64 =
        |name, args: [u64; 6]| run(&program, &Call { arch: Arch::X86_64, number: number(Arch::X86_64, name), args });
    let plain = |name| x86_64(name, [0; 6]);
    for name in ["read", "execve", "openat2", "ptrace", "chroot", "arch_prctl", "uretprobe"] {
        assert_eq!(plain(name), ALLOW, "{name}");
    }
    for name in ["mount", "bpf", "unshare", "setns", "reboot", "init_module", "keyctl", "kexec_load", "io_uring_setup"]
    {
        assert_eq!(plain(name), EPERM, "{name}");
    }
    assert_eq!(plain("clone3"), ENOSYS);
    assert_eq!(x86_64("clone", [0x1200_0011, 0, 0, 0, 0, 0]), EPERM, "a new user namespace");
    assert_eq!(x86_64("clone", [0x0120_0011, 0, 0, 0, 0, 0]), ALLOW, "a fork");
    for (family, want) in [(1, ALLOW), (2, ALLOW), (16, ALLOW), (38, EPERM), (39, ALLOW), (40, EPERM), (41, ALLOW)] {
        assert_eq!(x86_64("socket", [family, 0, 0, 0, 0, 0]), want, "family {family}");
    }
    for (value, want) in [(0, ALLOW), (8, ALLOW), (9, EPERM), (0x2_0008, ALLOW), (0xFFFF_FFFF, ALLOW)] {
        assert_eq!(x86_64("personality", [value, 0, 0, 0, 0, 0]), want, "personality {value:#x}");
    }
}

#[test]
fn capabilities_open_what_they_are_for() {
    for (capability, name) in [
        ("SYS_ADMIN", "mount"),
        ("SYS_ADMIN", "clone3"),
        ("SYS_BOOT", "reboot"),
        ("SYS_MODULE", "init_module"),
        ("SYS_TIME", "settimeofday"),
        ("SYS_NICE", "mbind"),
        ("BPF", "bpf"),
        ("PERFMON", "perf_event_open"),
        ("SYSLOG", "syslog"),
        ("SYS_RAWIO", "iopl"),
        ("SYS_PACCT", "acct"),
        ("SYS_PTRACE", "kcmp"),
        ("DAC_READ_SEARCH", "open_by_handle_at"),
        ("SYS_TTY_CONFIG", "vhangup"),
    ] {
        let call = Call { arch: Arch::X86_64, number: number(Arch::X86_64, name), args: [0; 6] };
        assert_ne!(run(&compiled(&default_profile(), usual()), &call), ALLOW, "{name} without");
        let with = usual().or(CapabilitySet::of(&[capability]).unwrap());
        assert_eq!(run(&compiled(&default_profile(), with), &call), ALLOW, "{name} with {capability}");
    }
}

#[test]
fn older_programs_of_the_same_machine_are_judged_too_and_others_die() {
    let program = compiled(&default_profile(), usual());
    for (arch, name, want) in [
        (Arch::X86, "read", ALLOW),
        (Arch::X86, "socketcall", ALLOW),
        (Arch::X86, "mount", EPERM),
        (Arch::X32, "readv", ALLOW),
        (Arch::X32, "mount", EPERM),
        (Arch::Aarch64, "read", KILL),
    ] {
        assert_eq!(run(&program, &Call { arch, number: number(arch, name), args: [0; 6] }), want, "{arch:?} {name}");
    }
    let native_alone = profile(r#"{"defaultAction":"SCMP_ACT_ALLOW"}"#);
    let program = compiled(&native_alone, usual());
    for arch in [Arch::X86, Arch::X32] {
        assert_eq!(run(&program, &Call { arch, number: number(arch, "read"), args: [0; 6] }), KILL, "{arch:?}");
    }
}

#[test]
fn calls_newer_than_the_profile_do_not_exist() {
    let program = compiled(&default_profile(), usual());
    for arch in [Arch::X86_64, Arch::X86, Arch::X32] {
        let base = if arch == Arch::X32 { arch::X32_BIT } else { 0 };
        assert_eq!(run(&program, &Call { arch, number: base + 5000, args: [0; 6] }), ENOSYS, "{arch:?}");
    }
    let open =
        profile(r#"{"defaultAction":"SCMP_ACT_ALLOW","syscalls":[{"names":["chmod"],"action":"SCMP_ACT_ERRNO"}]}"#);
    let program = compiled(&open, usual());
    assert_eq!(run(&program, &Call { arch: Arch::X86_64, number: 5000, args: [0; 6] }), ALLOW);
    assert_eq!(run(&program, &Call { arch: Arch::X86_64, number: number(Arch::X86_64, "chmod"), args: [0; 6] }), EPERM);
}

#[test]
fn every_action_has_its_verdict() {
    for (action, verdict) in [
        ("SCMP_ACT_KILL", 0),
        ("SCMP_ACT_KILL_THREAD", 0),
        ("SCMP_ACT_KILL_PROCESS", 0x8000_0000),
        ("SCMP_ACT_TRAP", 0x0003_0000),
        ("SCMP_ACT_ERRNO", 0x0005_000D),
        ("SCMP_ACT_TRACE", 0x7FF0_000D),
        ("SCMP_ACT_LOG", 0x7FFC_0000),
        ("SCMP_ACT_ALLOW", ALLOW),
    ] {
        let text = format!(
            r#"{{"defaultAction":"SCMP_ACT_KILL_PROCESS",
            "syscalls":[{{"names":["read"],"action":"{action}","errnoRet":13}}]}}"#
        );
        let program = compiled(&profile(&text), usual());
        assert_eq!(run(&program, &Call { arch: Arch::X86_64, number: 0, args: [0; 6] }), verdict, "{action}");
    }
}

#[test]
fn comparisons_see_all_sixty_four_bits() {
    for (op, name) in [
        (Compare::NotEqual, "SCMP_CMP_NE"),
        (Compare::Less, "SCMP_CMP_LT"),
        (Compare::LessOrEqual, "SCMP_CMP_LE"),
        (Compare::Equal, "SCMP_CMP_EQ"),
        (Compare::GreaterOrEqual, "SCMP_CMP_GE"),
        (Compare::Greater, "SCMP_CMP_GT"),
        (Compare::MaskedEqual, "SCMP_CMP_MASKED_EQ"),
    ] {
        for value in EDGES {
            for value_two in [0, value, 0x1_0000_0008] {
                let text = format!(
                    r#"{{"defaultAction":"SCMP_ACT_ERRNO","syscalls":[{{"names":["read"],"action":"SCMP_ACT_ALLOW",
                    "args":[{{"index":3,"value":{value},"valueTwo":{value_two},"op":"{name}"}}]}}]}}"#
                );
                let program = compiled(&profile(&text), usual());
                for given in EDGES {
                    let fits = match op {
                        Compare::NotEqual => given != value,
                        Compare::Less => given < value,
                        Compare::LessOrEqual => given <= value,
                        Compare::Equal => given == value,
                        Compare::GreaterOrEqual => given >= value,
                        Compare::Greater => given > value,
                        Compare::MaskedEqual => given & value == value_two & value,
                    };
                    let verdict = run(&program, &Call { arch: Arch::X86_64, number: 0, args: [9, 9, 9, given, 9, 9] });
                    assert_eq!(verdict == ALLOW, fits, "{given:#x} {op:?} {value:#x} ({value_two:#x})");
                }
            }
        }
    }
}

#[test]
fn conditions_on_different_arguments_hold_together_and_on_one_argument_are_alternatives() {
    let both = profile(
        r#"{"defaultAction":"SCMP_ACT_ERRNO","syscalls":[{"names":["read"],"action":"SCMP_ACT_ALLOW","args":[
        {"index":0,"value":1,"op":"SCMP_CMP_EQ"},{"index":1,"value":2,"op":"SCMP_CMP_GT"}]}]}"#,
    );
    let either = profile(
        r#"{"defaultAction":"SCMP_ACT_ERRNO","syscalls":[{"names":["read"],"action":"SCMP_ACT_ALLOW","args":[
        {"index":0,"value":1,"op":"SCMP_CMP_EQ"},{"index":0,"value":7,"op":"SCMP_CMP_EQ"}]}]}"#,
    );
    let verdict = |profile: &Profile, args| {
        run(&compiled(profile, usual()), &Call { arch: Arch::X86_64, number: 0, args }) == ALLOW
    };
    assert!(verdict(&both, [1, 3, 0, 0, 0, 0]));
    assert!(!verdict(&both, [1, 2, 0, 0, 0, 0]));
    assert!(!verdict(&both, [0, 3, 0, 0, 0, 0]));
    assert!(verdict(&either, [7, 0, 0, 0, 0, 0]));
    assert!(verdict(&either, [1, 0, 0, 0, 0, 0]));
    assert!(!verdict(&either, [2, 0, 0, 0, 0, 0]));
}

#[test]
fn what_cannot_be_compiled_is_named() {
    for (text, part) in [
        (r#"{"defaultAction":"SCMP_ACT_NOTIFY"}"#, "SCMP_ACT_NOTIFY"),
        (r#"{"defaultAction":"SCMP_ACT_ALLOW","listenerPath":"/run/x"}"#, "listenerPath"),
        (r#"{"defaultAction":"SCMP_ACT_ALLOW","flags":["SECCOMP_FILTER_FLAG_LOG"]}"#, "FLAG_LOG"),
        (r#"{"defaultAction":"SCMP_ACT_ALLOW","architectures":["x86"]}"#, "architecture"),
        (r#"{"defaultAction":"SCMP_ACT_ALLOW","syscalls":[{"action":"SCMP_ACT_ALLOW"}]}"#, "syscalls[0]"),
        (
            r#"{"defaultAction":"SCMP_ACT_ALLOW","syscalls":[{"names":["read"],"action":"SCMP_ACT_ERRNO",
            "args":[{"index":6,"value":0,"op":"SCMP_CMP_EQ"}]}]}"#,
            "argument 6",
        ),
    ] {
        let why = resolve(&profile(text), &here(usual())).unwrap_err();
        assert!(why.contains(part), "{why}");
    }
}

#[test]
fn the_filter_is_small_and_its_tree_is_shallow() {
    let program = compiled(&default_profile(), usual());
    assert!(program.len() < 1000, "{} instructions", program.len());
    let deepest = (0..600)
        .map(|number| interpreter::steps(&program, &Call { arch: Arch::X86_64, number, args: [0; 6] }))
        .max()
        .unwrap();
    assert!(deepest < 30, "{deepest} steps");
}

#[test]
fn the_other_machines_filters_compile_as_well() {
    for native in [Arch::Aarch64, Arch::Riscv64] {
        let here = Circumstances { bounding: usual(), native, kernel: (6, 1) };
        let program = compile(&resolve(&default_profile(), &here).unwrap()).unwrap();
        let verdict = |arch: Arch, name| run(&program, &Call { arch, number: number(arch, name), args: [0; 6] });
        assert_eq!(verdict(native, "read"), ALLOW);
        assert_eq!(verdict(native, "mount"), EPERM);
        if native == Arch::Aarch64 {
            assert_eq!(verdict(Arch::Arm, "set_tls"), ALLOW);
            assert_eq!(verdict(Arch::Arm, "mount"), EPERM);
        }
    }
}

#[test]
fn a_filter_is_made_once_for_each_profile_and_set_of_capabilities() {
    use std::os::fd::AsFd;
    let filters = Filters::new((6, 1));
    let inode = |bounding| {
        let fd = filters.filter(&crate::launch_plan::SeccompChoice::Default, bounding).unwrap().unwrap();
        nix::sys::stat::fstat(fd.as_fd()).unwrap().st_ino
    };
    assert_eq!(inode(usual()), inode(usual()));
    assert_ne!(inode(usual()), inode(CapabilitySet::ALL));
    let none = filters.filter(&crate::launch_plan::SeccompChoice::Unconfined, usual()).unwrap();
    assert!(none.is_none());
}
