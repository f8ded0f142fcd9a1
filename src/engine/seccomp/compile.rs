//! From rules to classic BPF.
//!
//! The program: load the architecture and go to its part; load the call's number; a balanced binary tree over ranges
//! of numbers that share an answer; the answer, or a few comparisons of arguments. A tree is 0.6 ms to load where a
//! list is 1.7 ms (the kernel evaluates it for every number to build its table of constant answers), and no call costs
//! more than nine comparisons.
//!
//! Jumps of classic BPF go forward only, conditional ones at most 255 instructions; farther targets take an
//! unconditional jump.

use kernel::seccomp::{MAX_INSTRUCTIONS, SockFilter};

use super::{
    arch::{Arch, X32_BIT},
    profile::{Argument, Compare},
    resolve::{ArchRules, CallRules, Resolved, Verdict},
};

/// `ld [k]`
const LOAD: u16 = 0x20;
/// `ja k`
const JUMP: u16 = 0x05;
/// `jeq k, jt, jf`
const JUMP_EQUAL: u16 = 0x15;
/// `jgt k, jt, jf`
const JUMP_GREATER: u16 = 0x25;
/// `jge k, jt, jf`
const JUMP_GREATER_OR_EQUAL: u16 = 0x35;
/// `and k`
const AND: u16 = 0x54;
/// `ret k`
const RETURN: u16 = 0x06;

/// Offset of the number in `struct seccomp_data`.
const NUMBER: u32 = 0;
/// Offset of the architecture.
const ARCHITECTURE: u32 = 4;
/// Offset of the first argument; each has eight bytes, the lower half first.
const ARGUMENTS: u32 = 16;

/// The program of a resolved profile. The error says what is too large.
pub fn compile(profile: &Resolved) -> Result<Vec<SockFilter>, String> {
    let mut program = vec![load(ARCHITECTURE)];
    let of = |arch: Arch| profile.archs.iter().find(|rules| rules.arch == arch);
    for rules in profile.archs.iter().filter(|rules| rules.arch != Arch::X32) {
        let mut part = vec![load(NUMBER)];
        let own = tree(rules, profile);
        if rules.arch == Arch::X86_64 {
            // x32 shares the architecture. Without rules of its own it is an architecture that nobody named.
            let x32 = of(Arch::X32).map_or_else(|| vec![ret(Verdict::KILL_THREAD)], |rules| tree(rules, profile));
            part.extend(branch(JUMP_GREATER_OR_EQUAL, X32_BIT, own, x32));
        } else {
            part.extend(own);
        }
        // Every path of the part returns, so what follows it is reached only when the architecture is another.
        if let Ok(distance) = u8::try_from(part.len()) {
            program.push(SockFilter { code: JUMP_EQUAL, jt: 0, jf: distance, k: rules.arch.audit() });
        } else {
            program.push(SockFilter { code: JUMP_EQUAL, jt: 1, jf: 0, k: rules.arch.audit() });
            program.push(jump(part.len())?);
        }
        program.extend(part);
    }
    program.push(ret(Verdict::KILL_THREAD));
    if program.len() > MAX_INSTRUCTIONS {
        return Err(format!("it needs {} instructions, the kernel takes {MAX_INSTRUCTIONS}", program.len()));
    }
    Ok(program)
}

/// What the answer of one range of numbers looks like; equal bodies in a row are one range.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Range {
    first: u32,
    body: Vec<SockFilter>,
}

fn tree(rules: &ArchRules, profile: &Resolved) -> Vec<SockFilter> {
    let base = if rules.arch == Arch::X32 { X32_BIT } else { 0 };
    let default = vec![ret(profile.default)];
    let mut ranges = vec![Range { first: base, body: default.clone() }];
    let mut put = |first: u32, body: Vec<SockFilter>| match ranges.last_mut() {
        Some(last) if last.first == first => last.body = body,
        Some(last) if last.body == body => {}
        _ => ranges.push(Range { first, body }),
    };
    for (number, call) in &rules.calls {
        put(*number, answer(call, profile.default, rules.arch));
        put(number + 1, default.clone());
    }
    if let Some(newest) = rules.calls.keys().filter(|number| !is_private(rules.arch, **number)).max() {
        // The private calls of ARM stand far above all others; the gap before them is as unknown as what is newer.
        put_newer(&mut ranges, newest + 1, profile);
    }
    search(&ranges)
}

fn is_private(arch: Arch, number: u32) -> bool {
    arch == Arch::Arm && number >= 0x000F_0000
}

fn put_newer(ranges: &mut Vec<Range>, first: u32, profile: &Resolved) {
    let newer = vec![ret(profile.newer)];
    let default = vec![ret(profile.default)];
    for range in ranges.iter_mut().filter(|range| range.first >= first && range.body == default) {
        range.body = newer.clone();
    }
    if !ranges.iter().any(|range| range.first == first) {
        let at = ranges.partition_point(|range| range.first < first);
        ranges.insert(at, Range { first, body: newer });
    }
    ranges.dedup_by(|next, kept| next.body == kept.body);
}

fn search(ranges: &[Range]) -> Vec<SockFilter> {
    match ranges {
        [] => Vec::new(),
        [only] => only.body.clone(),
        _ => {
            let (low, high) = ranges.split_at(ranges.len() / 2);
            branch(JUMP_GREATER_OR_EQUAL, high[0].first, search(low), search(high))
        }
    }
}

/// Both sides end in a return, so neither needs a way around the other.
fn branch(code: u16, k: u32, when_false: Vec<SockFilter>, when_true: Vec<SockFilter>) -> Vec<SockFilter> {
    let mut part = Vec::with_capacity(when_false.len() + when_true.len() + 2);
    match u8::try_from(when_false.len()) {
        Ok(distance) => part.push(SockFilter { code, jt: distance, jf: 0, k }),
        Err(_) => {
            part.push(SockFilter { code, jt: 0, jf: 1, k });
            // A part longer than u32 cannot be: the profile's text is capped at a few MiB.
            part.push(SockFilter { code: JUMP, jt: 0, jf: 0, k: when_false.len() as u32 });
        }
    }
    part.extend(when_false);
    part.extend(when_true);
    part
}

fn answer(call: &CallRules, default: Verdict, arch: Arch) -> Vec<SockFilter> {
    let mut body = Vec::new();
    for (arguments, verdict) in &call.conditional {
        body.extend(condition(arguments, *verdict, arch));
    }
    body.push(ret(call.otherwise.unwrap_or(default)));
    body
}

/// Instructions that return the verdict when every argument fits, and otherwise fall off their end.
fn condition(arguments: &[Argument], verdict: Verdict, arch: Arch) -> Vec<SockFilter> {
    let mut tests: Vec<Test> = arguments.iter().flat_map(|argument| steps(argument, arch)).collect();
    tests.push(Test { instruction: ret(verdict), when_true: Goal::Next, when_false: Goal::Next });
    let end = tests.len();
    // Where the test of each argument ends: a comparison that is already decided skips to there.
    let mut ends = Vec::with_capacity(end);
    let mut at = 0;
    for argument in arguments {
        at += steps(argument, arch).len();
        ends.extend(std::iter::repeat_n(at, steps(argument, arch).len()));
    }
    ends.push(end);
    tests
        .into_iter()
        .enumerate()
        .map(|(index, test)| {
            let distance = |goal: Goal| {
                let target = match goal {
                    Goal::Next => index + 1,
                    Goal::Fits => ends[index],
                    Goal::Fails => end,
                };
                // Six arguments of six instructions each: far below 255.
                (target - index - 1) as u8
            };
            if is_conditional(test.instruction.code) {
                SockFilter { jt: distance(test.when_true), jf: distance(test.when_false), ..test.instruction }
            } else {
                test.instruction
            }
        })
        .collect()
}

/// Where a comparison leads.
#[derive(Debug, Clone, Copy)]
enum Goal {
    /// To the next instruction.
    Next,
    /// This argument fits: on to the next argument.
    Fits,
    /// The condition does not hold.
    Fails,
}

struct Test {
    instruction: SockFilter,
    when_true: Goal,
    when_false: Goal,
}

/// The comparisons of one argument: the upper half decides, or passes the question to the lower half.
fn steps(argument: &Argument, arch: Arch) -> Vec<Test> {
    let offset = ARGUMENTS + 8 * argument.index;
    let (high, low) = halves(argument.value);
    // Bits outside the mask can never be equal; libseccomp, and so every runtime, does not ask about them.
    let (high_two, low_two) = halves(argument.value_two & argument.value);
    let plain = |instruction| Test { instruction, when_true: Goal::Next, when_false: Goal::Next };
    let test = |code, k, when_true, when_false| Test {
        instruction: SockFilter { code, jt: 0, jf: 0, k },
        when_true,
        when_false,
    };
    let and = |k| plain(SockFilter { code: AND, jt: 0, jf: 0, k });
    let (fits, fails, next) = (Goal::Fits, Goal::Fails, Goal::Next);
    let mut tests = Vec::new();
    if arch.is_wide() {
        tests.push(plain(load(offset + 4)));
        match argument.op {
            Compare::Equal => tests.push(test(JUMP_EQUAL, high, next, fails)),
            Compare::NotEqual => tests.push(test(JUMP_EQUAL, high, next, fits)),
            Compare::Greater | Compare::GreaterOrEqual => {
                tests.push(test(JUMP_GREATER, high, fits, next));
                tests.push(test(JUMP_EQUAL, high, next, fails));
            }
            Compare::Less | Compare::LessOrEqual => {
                tests.push(test(JUMP_GREATER, high, fails, next));
                tests.push(test(JUMP_EQUAL, high, next, fits));
            }
            Compare::MaskedEqual => {
                tests.push(and(high));
                tests.push(test(JUMP_EQUAL, high_two, next, fails));
            }
        }
    }
    tests.push(plain(load(offset)));
    match argument.op {
        Compare::Equal => tests.push(test(JUMP_EQUAL, low, fits, fails)),
        Compare::NotEqual => tests.push(test(JUMP_EQUAL, low, fails, fits)),
        Compare::Greater => tests.push(test(JUMP_GREATER, low, fits, fails)),
        Compare::GreaterOrEqual => tests.push(test(JUMP_GREATER_OR_EQUAL, low, fits, fails)),
        Compare::Less => tests.push(test(JUMP_GREATER_OR_EQUAL, low, fails, fits)),
        Compare::LessOrEqual => tests.push(test(JUMP_GREATER, low, fails, fits)),
        Compare::MaskedEqual => {
            tests.push(and(low));
            tests.push(test(JUMP_EQUAL, low_two, fits, fails));
        }
    }
    tests
}

fn halves(value: u64) -> (u32, u32) {
    ((value >> 32) as u32, value as u32)
}

fn is_conditional(code: u16) -> bool {
    matches!(code, JUMP_EQUAL | JUMP_GREATER | JUMP_GREATER_OR_EQUAL)
}

fn load(offset: u32) -> SockFilter {
    SockFilter { code: LOAD, jt: 0, jf: 0, k: offset }
}

fn ret(verdict: Verdict) -> SockFilter {
    SockFilter { code: RETURN, jt: 0, jf: 0, k: verdict.0 }
}

fn jump(distance: usize) -> Result<SockFilter, String> {
    let k = u32::try_from(distance).map_err(|_| "it is far too long".to_owned())?;
    Ok(SockFilter { code: JUMP, jt: 0, jf: 0, k })
}
