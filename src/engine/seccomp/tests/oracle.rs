//! Our filters against libseccomp's: the same profile, every call number, arguments beside every edge.

use std::io::{Read, Seek};

use kernel::seccomp::from_bytes;
use libseccomp::{ScmpAction, ScmpArch, ScmpArgCompare, ScmpCompareOp, ScmpFilterContext, ScmpSyscall};

use super::*;

/// Above every number that any of the tables has.
const LAST: u32 = 700;

const ARCHS: [(Arch, ScmpArch); 3] =
    [(Arch::X86_64, ScmpArch::X8664), (Arch::X86, ScmpArch::X86), (Arch::X32, ScmpArch::X32)];

fn action(verdict: Verdict) -> ScmpAction {
    match verdict.0 & 0xFFFF_0000 {
        0x7FFF_0000 => ScmpAction::Allow,
        0x7FFC_0000 => ScmpAction::Log,
        0x0005_0000 => ScmpAction::Errno(i32::from(verdict.0 as u16)),
        0x0003_0000 => ScmpAction::Trap,
        other => panic!("{other:#x}"),
    }
}

fn comparison(argument: &Argument) -> ScmpArgCompare {
    let (op, datum) = match argument.op {
        Compare::NotEqual => (ScmpCompareOp::NotEqual, argument.value),
        Compare::Less => (ScmpCompareOp::Less, argument.value),
        Compare::LessOrEqual => (ScmpCompareOp::LessOrEqual, argument.value),
        Compare::Equal => (ScmpCompareOp::Equal, argument.value),
        Compare::GreaterOrEqual => (ScmpCompareOp::GreaterEqual, argument.value),
        Compare::Greater => (ScmpCompareOp::Greater, argument.value),
        Compare::MaskedEqual => (ScmpCompareOp::MaskedEqual(argument.value), argument.value_two),
    };
    ScmpArgCompare::new(argument.index, op, datum)
}

/// The same rules through libseccomp, by name, for the three architectures.
fn theirs(profile: &Profile, bounding: CapabilitySet) -> Vec<SockFilter> {
    let default = Verdict::of(profile.default_action, profile.default_errno_ret).unwrap();
    let mut context = ScmpFilterContext::new(action(default)).unwrap();
    for (_, arch) in ARCHS {
        context.add_arch(arch).unwrap();
    }
    for rule in counting(profile, &here(bounding)) {
        let verdict = Verdict::of(rule.action, rule.errno_ret).unwrap();
        if verdict == default {
            continue;
        }
        let comparisons: Vec<ScmpArgCompare> = rule.args.iter().map(comparison).collect();
        for name in &rule.names {
            let Ok(call) = ScmpSyscall::from_name(name) else { continue };
            if comparisons.is_empty() {
                context.add_rule(action(verdict), call).unwrap();
            } else {
                context.add_rule_conditional(action(verdict), call, &comparisons).unwrap();
            }
        }
    }
    let mut file = tempfile::tempfile().unwrap();
    context.export_bpf(&file).unwrap();
    let mut bytes = Vec::new();
    file.rewind().unwrap();
    file.read_to_end(&mut bytes).unwrap();
    from_bytes(&bytes).unwrap()
}

/// Whether libseccomp knows a call of this number; it is older than our tables.
fn is_known(arch: ScmpArch, number: u32) -> bool {
    ScmpSyscall::from(i32::try_from(number).unwrap()).get_name_by_arch(arch).is_ok()
}

fn newest(profile: &Profile, arch: Arch, bounding: CapabilitySet) -> u32 {
    let resolved = resolve(profile, &here(bounding)).unwrap();
    let rules = resolved.archs.into_iter().find(|rules| rules.arch == arch).unwrap();
    rules.calls.into_keys().max().unwrap()
}

fn compare(profile: &Profile, bounding: CapabilitySet) {
    let (ours, theirs) = (compiled(profile, bounding), theirs(profile, bounding));
    let mut compared = 0;
    for (arch, scmp) in ARCHS {
        let base = if arch == Arch::X32 { arch::X32_BIT } else { 0 };
        let newest = newest(profile, arch, bounding);
        for number in base..base + LAST {
            if number > newest || !is_known(scmp, number) {
                continue;
            }
            for value in EDGES {
                for args in [[value, 0, 0, 0, 0, 0], [0, value, 1, value, 0, 0], [value; 6]] {
                    let call = Call { arch, number, args };
                    let (our, their) = (run(&ours, &call), run(&theirs, &call));
                    assert_eq!(
                        our,
                        their,
                        "{arch:?} {number} {:?} {args:x?}",
                        ScmpSyscall::from(number as i32).get_name_by_arch(scmp)
                    );
                }
            }
            compared += 1;
        }
    }
    assert!(compared > 1000, "only {compared} calls were compared");
}

#[test]
fn the_default_profile_is_what_libseccomp_makes_of_it() {
    compare(&default_profile(), usual());
}

#[test]
fn with_every_capability_too() {
    compare(&default_profile(), CapabilitySet::ALL);
}

#[test]
fn a_profile_of_every_comparison_is_what_libseccomp_makes_of_it() {
    let mut rules = Vec::new();
    for (name, op) in [
        ("read", "SCMP_CMP_NE"),
        ("write", "SCMP_CMP_LT"),
        ("openat", "SCMP_CMP_LE"),
        ("close", "SCMP_CMP_EQ"),
        ("fstat", "SCMP_CMP_GE"),
        ("lseek", "SCMP_CMP_GT"),
        ("dup2", "SCMP_CMP_MASKED_EQ"),
    ] {
        for (index, value) in [(0, 38_u64), (1, 0x1_0000_0008), (3, 0xFFFF_FFFF)] {
            rules.push(format!(
                r#"{{"names":["{name}"],"action":"SCMP_ACT_TRAP",
                "args":[{{"index":{index},"value":{value},"valueTwo":8,"op":"{op}"}}]}}"#
            ));
        }
    }
    rules.push(
        r#"{"names":["getpid"],"action":"SCMP_ACT_ERRNO","errnoRet":13,"args":[{"index":0,"value":1,"op":"SCMP_CMP_GE"},
        {"index":1,"value":38,"op":"SCMP_CMP_EQ"}]}"#
            .to_owned(),
    );
    // The last number of each table, so that every other one lies below it.
    rules.push(r#"{"names":["futex_requeue","uretprobe"],"action":"SCMP_ACT_ALLOW"}"#.to_owned());
    let text = format!(
        r#"{{"defaultAction":"SCMP_ACT_LOG","architectures":["SCMP_ARCH_X86_64","SCMP_ARCH_X86","SCMP_ARCH_X32"],
        "syscalls":[{}]}}"#,
        rules.join(",")
    );
    compare(&profile(&text), usual());
}

#[test]
fn call_numbers_are_libseccomps() {
    let names: Vec<String> = default_profile().syscalls.into_iter().flat_map(|rule| rule.names).collect();
    let mut compared = 0;
    for (arch, scmp) in ARCHS {
        for name in &names {
            let Ok(call) = ScmpSyscall::from_name_by_arch(name, scmp) else { continue };
            // Negative: this architecture does not have it, or reaches it through another call.
            let theirs = u32::try_from(i32::from(call)).ok();
            if theirs.is_some() {
                assert_eq!(arch.number(name), theirs, "{arch:?} {name}");
                compared += 1;
            }
        }
    }
    assert!(compared > 900, "only {compared} numbers were compared");
}
