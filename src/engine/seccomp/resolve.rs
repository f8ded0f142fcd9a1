//! What a profile means for one container: rules that count here, by number, for each architecture.

use std::collections::BTreeMap;

use super::{
    arch::Arch,
    profile::{Action, Argument, Filter, Profile, Rule},
};
use crate::capability::CapabilitySet;

/// What the rules of a profile depend on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Circumstances {
    /// The container's bounding set.
    pub bounding: CapabilitySet,
    /// The machine.
    pub native: Arch,
    /// Version of the kernel: major, minor.
    pub kernel: (u32, u32),
}

/// The 32 bits that a filter returns.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Verdict(pub u32);

impl Verdict {
    /// `SECCOMP_RET_KILL_THREAD`: what libseccomp answers to an architecture that the profile does not name.
    pub const KILL_THREAD: Verdict = Verdict(0);
    /// `SECCOMP_RET_ERRNO` with ENOSYS.
    pub const NO_SUCH_CALL: Verdict = Verdict(0x0005_0000 | libc::ENOSYS as u32);

    /// The verdict of an action; `data` is its error number or tracer's value.
    pub fn of(action: Action, data: Option<u32>) -> Result<Verdict, String> {
        let data = data.unwrap_or(libc::EPERM as u32);
        if data > 0xFFFF {
            return Err(format!("errnoRet {data} is too large: want at most 65535"));
        }
        Ok(Verdict(match action {
            Action::KillThread => 0,
            Action::KillProcess => 0x8000_0000,
            Action::Trap => 0x0003_0000,
            Action::Errno => 0x0005_0000 | data,
            Action::Trace => 0x7FF0_0000 | data,
            Action::Log => 0x7FFC_0000,
            Action::Allow => 0x7FFF_0000,
            Action::Notify => return Err("SCMP_ACT_NOTIFY is not supported by this version".to_owned()),
        }))
    }

    /// Whether the call goes on.
    fn lets_pass(self) -> bool {
        self.0 >= 0x7FF0_0000 && self.0 < 0x8000_0000
    }
}

/// What happens to one call of one architecture: the first condition that holds decides.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct CallRules {
    /// Conditions, all arguments of which must fit, and their verdicts.
    pub conditional: Vec<(Vec<Argument>, Verdict)>,
    /// When none of them holds; `None` is the profile's default.
    pub otherwise: Option<Verdict>,
}

/// The rules of one architecture.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ArchRules {
    /// The architecture.
    pub arch: Arch,
    /// By number.
    pub calls: BTreeMap<u32, CallRules>,
}

/// A profile for one container.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Resolved {
    /// What happens to a call that no rule names.
    pub default: Verdict,
    /// What happens to a call whose number is above every one that the profile names.
    pub newer: Verdict,
    /// Rules of each architecture, the native one first.
    pub archs: Vec<ArchRules>,
}

/// The rules of a profile that count under these circumstances. The error says what cannot be understood.
///
/// Names that an architecture does not have are passed over, as every runtime does: profiles are written for all of
/// them. Of several rules without conditions for one call the first counts.
pub fn resolve(profile: &Profile, here: &Circumstances) -> Result<Resolved, String> {
    refuse_unknown(profile)?;
    let default = Verdict::of(profile.default_action, profile.default_errno_ret)?;
    let mut archs: Vec<ArchRules> = architectures(profile, here.native)?
        .into_iter()
        .map(|arch| ArchRules { arch, calls: BTreeMap::new() })
        .collect();
    for (index, rule) in profile.syscalls.iter().enumerate() {
        let wrong = |why: String| format!("syscalls[{index}]: {why}");
        let verdict = Verdict::of(rule.action, rule.errno_ret).map_err(wrong)?;
        if !counts(&rule.includes, &rule.excludes, here).map_err(wrong)? {
            continue;
        }
        let named = rule.names.iter().chain((!rule.name.is_empty()).then_some(&rule.name));
        let names: Vec<&String> = named.collect();
        if names.is_empty() {
            return Err(wrong("it names no system call".to_owned()));
        }
        let conditions = conditions(&rule.args).map_err(wrong)?;
        for rules in &mut archs {
            for name in &names {
                let Some(number) = rules.arch.number(name) else { continue };
                let call = rules.calls.entry(number).or_default();
                if conditions.is_empty() {
                    call.otherwise.get_or_insert(verdict);
                }
                call.conditional.extend(conditions.iter().map(|condition| (condition.clone(), verdict)));
            }
        }
    }
    // A profile that lets most things pass says so about new calls as well. One that refuses does not know them, and
    // ENOSYS lets C libraries fall back where EPERM would make programs fail.
    let newer = if default.lets_pass() { default } else { Verdict::NO_SUCH_CALL };
    Ok(Resolved { default, newer, archs })
}

/// The rules of a profile that count under these circumstances, as written.
pub fn counting<'a>(profile: &'a Profile, here: &Circumstances) -> Vec<&'a Rule> {
    let fits = |rule: &&Rule| counts(&rule.includes, &rule.excludes, here).unwrap_or(false);
    profile.syscalls.iter().filter(fits).collect()
}

fn refuse_unknown(profile: &Profile) -> Result<(), String> {
    if let Some(path) = profile.listener_path.as_deref().filter(|path| !path.is_empty()) {
        return Err(format!("listenerPath {path:?} is not supported by this version"));
    }
    // The filter is loaded by a process of one thread, so TSYNC has nothing to add.
    let flags = profile.flags.iter().flatten();
    if let Some(flag) = flags.into_iter().find(|flag| *flag != "SECCOMP_FILTER_FLAG_TSYNC") {
        return Err(format!("flag {flag:?} is not supported by this version"));
    }
    Ok(())
}

/// The architectures to judge, the native one first. A profile that names none means the native one.
pub fn architectures(profile: &Profile, native: Arch) -> Result<Vec<Arch>, String> {
    let mut archs = vec![native];
    let mut add = |name: &String| -> Result<(), String> {
        if !name.starts_with("SCMP_ARCH_") {
            return Err(format!("architecture {name:?} is unknown: want a name such as SCMP_ARCH_X86_64"));
        }
        if let Some(arch) = Arch::from_profile(name).filter(|arch| !archs.contains(arch)) {
            archs.push(arch);
        }
        Ok(())
    };
    for name in profile.architectures.iter().flatten() {
        add(name)?;
    }
    for map in profile.arch_map.iter().flatten() {
        if Arch::from_profile(&map.architecture) == Some(native) {
            map.sub_architectures.iter().try_for_each(&mut add)?;
        }
    }
    // Only what this machine can run is worth instructions.
    let family: &[Arch] = match native {
        Arch::X86_64 | Arch::X86 | Arch::X32 => &[Arch::X86_64, Arch::X86, Arch::X32],
        Arch::Aarch64 | Arch::Arm => &[Arch::Aarch64, Arch::Arm],
        Arch::Riscv64 => &[Arch::Riscv64],
    };
    archs.retain(|arch| family.contains(arch));
    Ok(archs)
}

fn counts(includes: &Filter, excludes: &Filter, here: &Circumstances) -> Result<bool, String> {
    let has = |cap: &String| here.bounding.has(cap.trim_start_matches("CAP_"));
    let is_native = |arch: &String| arch == here.native.go_name();
    let is_older = |text: &Option<String>| -> Result<bool, String> {
        let Some(text) = text else { return Ok(false) };
        let wanted = kernel_version(text).ok_or_else(|| format!("minKernel {text:?} is no version: want 4.8"))?;
        Ok(here.kernel < wanted)
    };
    if !excludes.caps.is_empty() && excludes.caps.iter().any(has) {
        return Ok(false);
    }
    if excludes.arches.iter().any(is_native) {
        return Ok(false);
    }
    if excludes.min_kernel.is_some() && !is_older(&excludes.min_kernel)? {
        return Ok(false);
    }
    let arches_fit = includes.arches.is_empty() || includes.arches.iter().any(is_native);
    Ok(arches_fit && includes.caps.iter().all(has) && !is_older(&includes.min_kernel)?)
}

/// `4.8` or `6.1.0-13-amd64`: the first two numbers.
pub fn kernel_version(text: &str) -> Option<(u32, u32)> {
    let (major, rest) = text.split_once('.')?;
    let minor: String = rest.chars().take_while(char::is_ascii_digit).collect();
    Some((major.parse().ok()?, minor.parse().ok()?))
}

/// The alternatives of a rule. Conditions on different arguments must hold together; a rule with several conditions on
/// one argument means any of them (runc's reading, which Docker documents and profiles rely on).
fn conditions(args: &[Argument]) -> Result<Vec<Vec<Argument>>, String> {
    let mut seen = [0u32; 6];
    for arg in args {
        let count = usize::try_from(arg.index).ok().and_then(|index| seen.get_mut(index));
        let count = count.ok_or_else(|| format!("argument {} does not exist: want 0 to 5", arg.index))?;
        *count += 1;
    }
    if seen.iter().any(|count| *count > 1) {
        return Ok(args.iter().map(|arg| vec![arg.clone()]).collect());
    }
    Ok(if args.is_empty() { Vec::new() } else { vec![args.to_vec()] })
}
