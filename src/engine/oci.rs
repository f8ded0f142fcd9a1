//! A plan as an OCI runtime spec: what `crictl inspect` shows, and, with the places of this host in it, what another
//! runtime is given.
//!
//! Written as the JSON that the specification defines and read back as `oci-spec`'s types, so that it is the
//! specification's form by construction.

use std::path::PathBuf;

use model::Propagation;
use oci_spec::runtime::Spec;
use serde_json::{Value, json};

use crate::{
    child::FIRST_SIZE,
    device::{DeviceKind, DeviceRule, letters},
    launch_plan::{
        EnvLine, LaunchPlan, Mount, MountFlag, MountWhat, PidNamespace, Process, RlimitKind, SeccompChoice, Shared,
    },
    seccomp::{Arch, Circumstances, architectures, counting, default_profile},
};

/// The version of the specification that is named: newer ones only add fields, and runtimes that are in the field (crun
/// 1.8) refuse their numbers.
const VERSION: &str = "1.0.2";

/// The oldest kernel we run on; rules of the default profile ask for older ones only.
const OLDEST_KERNEL: (u32, u32) = (6, 1);

/// Umask of every container's processes.
const UMASK: u32 = 0o022;

/// Where what the pod shares is found on this host; what has no path here is shown without one.
#[derive(Debug, Default)]
pub(crate) struct Places {
    pub(crate) network: Option<PathBuf>,
    pub(crate) ipc: Option<PathBuf>,
    pub(crate) uts: Option<PathBuf>,
    pub(crate) pid: Option<PathBuf>,
    pub(crate) shm: Option<PathBuf>,
}

impl LaunchPlan {
    /// The plan as a runtime spec. An error would be a defect of ours: every plan has one.
    pub fn to_spec(&self) -> serde_json::Result<Spec> {
        self.spec(&Places::default())
    }

    /// The same, with the pod's places in it.
    pub(crate) fn spec(&self, places: &Places) -> serde_json::Result<Spec> {
        serde_json::from_value(self.spec_json(places))
    }

    fn spec_json(&self, places: &Places) -> Value {
        let mut linux = json!({
            "namespaces": self.namespaces_json(places),
            "cgroupsPath": self.cgroup.path,
            "devices": self.devices.iter().map(|node| json!({
                "path": node.path, "type": kind(node.kind), "major": node.major, "minor": node.minor,
                "fileMode": node.mode, "uid": node.uid, "gid": node.gid,
            })).collect::<Vec<_>>(),
            "maskedPaths": self.masked_paths,
            "readonlyPaths": self.readonly_paths,
            "resources": self.resources_json(),
        });
        // Without one, runtimes cut the container off from the host's mounts altogether; "private" cuts off the root
        // alone.
        match self.root.propagation {
            Propagation::Private => {}
            Propagation::HostToContainer => linux["rootfsPropagation"] = "rslave".into(),
            Propagation::Bidirectional => linux["rootfsPropagation"] = "rshared".into(),
        }
        if let Some(seccomp) = seccomp(&self.process) {
            linux["seccomp"] = seccomp;
        }
        let mut spec = json!({
            "ociVersion": VERSION,
            "root": { "path": "rootfs", "readonly": self.root.readonly },
            "process": process(&self.process, self.stdio.tty),
            "mounts": self.mounts.iter().map(|it| mount(it, places)).collect::<Vec<_>>(),
            "annotations": {},
            "linux": linux,
        });
        // The host's own name is nobody's to set.
        if self.namespaces.uts == Shared::Pod {
            spec["hostname"] = self.hostname.as_str().into();
        }
        spec
    }

    fn namespaces_json(&self, places: &Places) -> Value {
        let mut namespaces = vec![json!({ "type": "mount" })];
        let mut push = |name: &str, path: &Option<PathBuf>| {
            namespaces.push(match path {
                Some(path) => json!({ "type": name, "path": path }),
                None => json!({ "type": name }),
            });
        };
        let shared = &self.namespaces;
        for (name, shared, path) in [
            ("network", shared.network, &places.network),
            ("ipc", shared.ipc, &places.ipc),
            ("uts", shared.uts, &places.uts),
        ] {
            if shared == Shared::Pod {
                push(name, path);
            }
        }
        if self.namespaces.pid != PidNamespace::Host {
            push("pid", &places.pid);
        }
        if self.namespaces.private_cgroup {
            namespaces.push(json!({ "type": "cgroup" }));
        }
        Value::Array(namespaces)
    }

    fn resources_json(&self) -> Value {
        let asked = &self.cgroup.resources;
        let mut devices: Vec<Value> = vec![json!({ "allow": false, "access": "rwm" })];
        devices.extend(self.cgroup.devices.iter().map(rule));
        let mut resources = json!({ "devices": devices });
        let cpu = object([
            ("shares", asked.cpu_shares.map(Value::from)),
            ("quota", asked.cpu_quota_us.map(Value::from)),
            ("period", asked.cpu_period_us.map(Value::from)),
            ("cpus", asked.cpuset_cpus.clone().map(Value::from)),
            ("mems", asked.cpuset_mems.clone().map(Value::from)),
        ]);
        let memory = object([
            ("limit", asked.memory_limit_bytes.map(Value::from)),
            // As our own limits have it: nobody asked for swap, so there is none.
            ("swap", swap_limit(asked).map(Value::from)),
        ]);
        let pids = object([("limit", self.cgroup.pids_limit.map(Value::from))]);
        for (name, value) in [("cpu", cpu), ("memory", memory), ("pids", pids)] {
            if let Some(value) = value {
                resources[name] = value;
            }
        }
        if !asked.hugepages.is_empty() {
            resources["hugepageLimits"] = asked
                .hugepages
                .iter()
                .map(|page| json!({ "pageSize": page.page_size, "limit": page.limit_bytes }))
                .collect();
        }
        if !asked.unified.is_empty() {
            resources["unified"] = json!(asked.unified);
        }
        resources
    }
}

/// A process that joins a container, as `exec --process` takes it.
pub(crate) fn exec_process(like: &Process, args: Vec<String>) -> Value {
    process(&Process { args, ..like.clone() }, false)
}

fn process(process: &Process, tty: bool) -> Value {
    let bounding = process.capabilities.bounding.names();
    let mut value = json!({
        "terminal": tty,
        "user": {
            "uid": process.user.uid,
            "gid": process.user.gid,
            "umask": UMASK,
            "additionalGids": process.user.groups,
        },
        "args": process.args,
        // JSON knows no bytes: what is no text is shown as near as text gets.
        "env": process.env.iter().map(|line| match line {
            EnvLine::Text(text) => text.clone(),
            EnvLine::Bytes(bytes) => String::from_utf8_lossy(bytes).into_owned(),
        }).collect::<Vec<_>>(),
        "cwd": process.cwd,
        "capabilities": {
            "bounding": bounding,
            "effective": bounding,
            "permitted": bounding,
            "inheritable": process.capabilities.inheritable.names(),
            "ambient": process.capabilities.ambient.names(),
        },
        "rlimits": process.rlimits.iter().map(|limit| json!({
            "type": match limit.kind { RlimitKind::Nofile => "RLIMIT_NOFILE" },
            "soft": limit.soft,
            "hard": limit.hard,
        })).collect::<Vec<_>>(),
        "noNewPrivileges": process.no_new_privs,
        "oomScoreAdj": process.oom_score_adj,
    });
    if tty {
        value["consoleSize"] = json!({ "height": FIRST_SIZE.rows, "width": FIRST_SIZE.columns });
    }
    value
}

fn mount(mount: &Mount, places: &Places) -> Value {
    let (kind, source, options) = match &mount.what {
        MountWhat::Filesystem { fstype, options, flags } => {
            let flags = flags.iter().map(|flag| flag_name(*flag).to_owned());
            (fstype.clone(), fstype.clone(), flags.chain(options.iter().cloned()).collect())
        }
        MountWhat::Cgroup { read_only } => {
            let access = if *read_only { "ro" } else { "rw" };
            let options = ["nosuid", "noexec", "nodev", "relatime", access].map(str::to_owned).to_vec();
            ("cgroup".to_owned(), "cgroup".to_owned(), options)
        }
        MountWhat::PodShm => {
            let source = places.shm.as_deref().map_or("shm".into(), |path| path.to_string_lossy());
            let options = ["rbind", "rprivate", "nosuid", "nodev", "noexec", "rw"].map(str::to_owned).to_vec();
            ("bind".to_owned(), source.into_owned(), options)
        }
        MountWhat::Bind { source, read_only, propagation, .. } => {
            let propagation = match propagation {
                Propagation::Private => "rprivate",
                Propagation::HostToContainer => "rslave",
                Propagation::Bidirectional => "rshared",
            };
            let access = if *read_only { "ro" } else { "rw" };
            let options = ["rbind", propagation, access].map(str::to_owned).to_vec();
            ("bind".to_owned(), source.to_string_lossy().into_owned(), options)
        }
    };
    let options: Vec<String> = options;
    json!({ "destination": mount.target, "type": kind, "source": source, "options": options })
}

/// The filter as the specification has it: it knows no rules that depend on capabilities, so those that do not count
/// are left out.
fn seccomp(process: &Process) -> Option<Value> {
    let profile = match &process.seccomp {
        SeccompChoice::Unconfined => return None,
        SeccompChoice::Default => default_profile(),
        SeccompChoice::Profile { profile, .. } => (**profile).clone(),
    };
    // Those of this machine: runtimes refuse names that their library is too old to know.
    let archs = architectures(&profile, Arch::NATIVE).unwrap_or_else(|_| vec![Arch::NATIVE]);
    let archs: Vec<&str> = archs.into_iter().map(Arch::profile_name).collect();
    let here = Circumstances { bounding: process.capabilities.bounding, native: Arch::NATIVE, kernel: OLDEST_KERNEL };
    let rules: Vec<Value> = counting(&profile, &here)
        .into_iter()
        .map(|rule| {
            let names: Vec<&String> = rule.names.iter().chain((!rule.name.is_empty()).then_some(&rule.name)).collect();
            let args: Vec<Value> = rule
                .args
                .iter()
                .map(|arg| json!({ "index": arg.index, "value": arg.value, "valueTwo": arg.value_two, "op": arg.op }))
                .collect();
            let mut value = json!({ "names": names, "action": rule.action, "args": args });
            if let Some(errno) = rule.errno_ret {
                value["errnoRet"] = errno.into();
            }
            value
        })
        .collect();
    let mut value = json!({ "defaultAction": profile.default_action, "architectures": archs, "syscalls": rules });
    if let Some(errno) = profile.default_errno_ret {
        value["defaultErrnoRet"] = errno.into();
    }
    Some(value)
}

/// Memory and swap together.
fn swap_limit(asked: &model::Resources) -> Option<i64> {
    asked.memory_swap_limit_bytes.filter(|limit| *limit != 0).or(asked.memory_limit_bytes)
}

fn rule(rule: &DeviceRule) -> Value {
    let mut value = json!({ "allow": true, "access": letters(rule.access) });
    for (name, field) in [
        ("type", rule.kind.map(|kind_of| Value::from(kind(kind_of)))),
        ("major", rule.major.map(Value::from)),
        ("minor", rule.minor.map(Value::from)),
    ] {
        if let Some(field) = field {
            value[name] = field;
        }
    }
    value
}

fn object<const N: usize>(fields: [(&str, Option<Value>); N]) -> Option<Value> {
    let map: serde_json::Map<String, Value> =
        fields.into_iter().filter_map(|(name, value)| Some((name.to_owned(), value?))).collect();
    (!map.is_empty()).then_some(Value::Object(map))
}

fn kind(kind: DeviceKind) -> &'static str {
    match kind {
        DeviceKind::Char => "c",
        DeviceKind::Block => "b",
        DeviceKind::Fifo => "p",
    }
}

fn flag_name(flag: MountFlag) -> &'static str {
    match flag {
        MountFlag::ReadOnly => "ro",
        MountFlag::NoSuid => "nosuid",
        MountFlag::NoDev => "nodev",
        MountFlag::NoExec => "noexec",
        MountFlag::StrictAtime => "strictatime",
        MountFlag::RelAtime => "relatime",
    }
}
