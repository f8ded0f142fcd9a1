//! The first process: arguments, environment, working directory, limits.

use std::{
    collections::{HashMap, hash_map::Entry},
    path::PathBuf,
};

use super::{PlanInput, clean};
use crate::{
    Error, HostFacts, Result,
    config::Config,
    launch_plan::{Capabilities, EnvLine, Process, Rlimit, RlimitKind, SeccompChoice, User},
};

/// Where programs are looked for when nobody says otherwise.
const PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// The process of a plan.
pub(super) fn process(
    input: &PlanInput<'_>,
    host: &HostFacts,
    config: &Config,
    user: User,
    capabilities: Capabilities,
    seccomp: SeccompChoice,
) -> Result<Process> {
    let container = input.container;
    let cwd = container.working_dir.as_deref().or(input.image.working_dir.as_deref());
    Ok(Process {
        args: args(input)?,
        env: env(input, &user),
        cwd: cwd.map_or_else(|| PathBuf::from("/"), clean),
        rlimits: vec![nofile(host, config)],
        oom_score_adj: oom_score_adj(container.resources.oom_score_adj.unwrap_or(0), host),
        no_new_privs: container.security.no_new_privs,
        user,
        capabilities,
        seccomp,
        apparmor_profile: None,
        selinux_label: None,
    })
}

/// The request's command replaces the image's entrypoint and clears its command; the request's arguments replace the
/// image's command.
fn args(input: &PlanInput<'_>) -> Result<Vec<String>> {
    let (container, image) = (input.container, input.image);
    let (program, arguments) = if !container.command.is_empty() {
        (&container.command, &container.args)
    } else if !container.args.is_empty() {
        (&image.entrypoint, &container.args)
    } else {
        (&image.entrypoint, &image.cmd)
    };
    let args: Vec<String> = program.iter().chain(arguments).cloned().collect();
    if args.first().is_none_or(String::is_empty) {
        return Err(Error::NoCommand);
    }
    Ok(args)
}

/// Later ones win: defaults, host name, image, request. A name keeps the place where it came first.
fn env(input: &PlanInput<'_>, user: &User) -> Vec<EnvLine> {
    let (mut env, mut places) = (Vec::new(), HashMap::new());
    let mut set = |name: &str, value: &[u8]| match places.entry(name.to_owned()) {
        Entry::Occupied(place) => env[*place.get()] = EnvLine::new(name, value),
        Entry::Vacant(place) => {
            place.insert(env.len());
            env.push(EnvLine::new(name, value));
        }
    };
    set("PATH", PATH.as_bytes());
    if input.container.tty {
        set("TERM", b"xterm");
    }
    set("HOSTNAME", input.hostname.as_bytes());
    for var in input.image.env.iter().chain(&input.container.envs) {
        set(&var.name, &var.value);
    }
    if !places.contains_key("HOME") {
        env.push(EnvLine::new("HOME", input.accounts.home(user.uid).unwrap_or("/").as_bytes()));
    }
    env
}

/// Enough for programs, and a ceiling that loops over every descriptor survive. Without CAP_SYS_RESOURCE the kernel
/// refuses more than the daemon itself has.
fn nofile(host: &HostFacts, config: &Config) -> Rlimit {
    let hard = if host.may_raise_limits { config.nofile_hard } else { config.nofile_hard.min(host.nofile_hard) };
    Rlimit { kind: RlimitKind::Nofile, soft: config.nofile_soft.min(hard), hard }
}

/// Lowering the score below the daemon's own takes CAP_SYS_RESOURCE.
fn oom_score_adj(wanted: i32, host: &HostFacts) -> i32 {
    let wanted = wanted.clamp(-1000, 1000);
    if host.may_raise_limits { wanted } else { wanted.max(host.oom_score_adj) }
}
