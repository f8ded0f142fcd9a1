//! The pods that are compared: one for each option, and some that have many.
//!
//! A case says what is special about its pod and its container; a kubelet's ordinary pod is the rest.

use std::{collections::BTreeMap, fs, path::Path};

use api::cri::v1::{
    Capability, ContainerConfig, Device, DnsConfig, HugepageLimit, Int64Value, KeyValue, LinuxContainerResources,
    Mount, MountPropagation, NamespaceMode, PodSandboxConfig, SecurityProfile, SupplementalGroupsPolicy,
    security_profile::ProfileType,
};
use nix::mount::{MsFlags, mount};

use crate::scene::{namespaces, pod_security, security};

/// What a container is asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Look {
    /// The report of its first process.
    First,
    /// The report of a command in it.
    Command,
    /// The verdict on every system call.
    SystemCalls,
}

/// One pod with one container.
pub(crate) struct Case {
    pub(crate) name: &'static str,
    pub(crate) look: Look,
    /// With the cgroup below which all of the node's are.
    pub(crate) pod: fn(&mut PodSandboxConfig, &str),
    /// The directory holds what the test has made on the host ([`prepare`]).
    pub(crate) container: fn(&mut ContainerConfig, &Path),
    /// Nobody can make such a container: a word that every refusal of it has, in whatever case.
    pub(crate) refused: Option<&'static str>,
}

/// Makes what the cases use of the host.
pub(crate) fn prepare(host: &Path) {
    for dir in ["plain", "plain/below", "shared", "deep/er"] {
        fs::create_dir_all(host.join(dir)).unwrap();
    }
    fs::write(host.join("plain/word"), "here").unwrap();
    fs::write(host.join("file"), "a file").unwrap();
    let profile = serde_json::json!({
        "defaultAction": "SCMP_ACT_ALLOW",
        "syscalls": [
            { "names": ["chmod", "fchmod", "fchmodat", "fchmodat2"], "action": "SCMP_ACT_ERRNO" },
            { "names": ["getpriority", "sysinfo"], "action": "SCMP_ACT_ERRNO", "errnoRet": 38 },
            { "names": ["swapon"], "action": "SCMP_ACT_KILL_PROCESS" },
            { "names": ["personality"], "action": "SCMP_ACT_ERRNO",
              "args": [{ "index": 0, "value": 8, "op": "SCMP_CMP_EQ" }] },
            { "names": ["socket"], "action": "SCMP_ACT_ERRNO",
              "args": [{ "index": 0, "value": 17, "op": "SCMP_CMP_GE" }] },
        ],
    });
    fs::write(host.join("profile.json"), profile.to_string()).unwrap();
    let none = None::<&str>;
    for (dir, flags) in [("plain/below", MsFlags::MS_NOSUID | MsFlags::MS_NODEV), ("shared", MsFlags::empty())] {
        mount(Some("tmpfs"), &host.join(dir), Some("tmpfs"), flags, none).unwrap();
    }
    mount(none, &host.join("shared"), none, MsFlags::MS_SHARED, none).unwrap();
}

fn case(name: &'static str, container: fn(&mut ContainerConfig, &Path)) -> Case {
    in_pod(name, |_, _| (), container)
}

fn in_pod(
    name: &'static str,
    pod: fn(&mut PodSandboxConfig, &str),
    container: fn(&mut ContainerConfig, &Path),
) -> Case {
    Case { name, look: Look::First, pod, container, refused: None }
}

impl Case {
    fn by(self, look: Look) -> Case {
        Case { look, ..self }
    }

    fn refused(self, word: &'static str) -> Case {
        Case { refused: Some(word), ..self }
    }
}

fn bind(host: &Path, below: &str, target: &str) -> Mount {
    Mount { host_path: host.join(below).display().to_string(), container_path: target.to_owned(), ..Default::default() }
}

fn privileged(pod: &mut PodSandboxConfig, _: &str) {
    pod_security(pod).privileged = true;
}

fn capabilities(config: &mut ContainerConfig, add: &[&str], drop: &[&str], ambient: &[&str]) {
    let names = |list: &[&str]| list.iter().map(|name| (*name).to_owned()).collect();
    security(config).capabilities = Some(Capability {
        add_capabilities: names(add),
        drop_capabilities: names(drop),
        add_ambient_capabilities: names(ambient),
    });
}

fn filter(config: &mut ContainerConfig, kind: ProfileType, file: &str) {
    security(config).seccomp = Some(SecurityProfile { profile_type: kind.into(), localhost_ref: file.to_owned() });
}

fn limit(config: &mut ContainerConfig, resources: LinuxContainerResources) {
    security(config);
    config.linux.as_mut().unwrap().resources = Some(resources);
}

fn user(config: &mut ContainerConfig, uid: i64) {
    security(config).run_as_user = Some(Int64Value { value: uid });
}

fn masked(config: &mut ContainerConfig) {
    let paths = |list: &[&str]| list.iter().map(|path| (*path).to_owned()).collect();
    let security = security(config);
    // Those that a kubelet sends.
    security.masked_paths = paths(&[
        "/proc/asound",
        "/proc/acpi",
        "/proc/kcore",
        "/proc/keys",
        "/proc/latency_stats",
        "/proc/timer_list",
        "/proc/timer_stats",
        "/proc/sched_debug",
        "/proc/scsi",
        "/sys/firmware",
        "/sys/devices/virtual/powercap",
    ]);
    security.readonly_paths = paths(&["/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys", "/proc/sysrq-trigger"]);
}

fn full(config: &mut ContainerConfig, host: &Path) {
    masked(config);
    filter(config, ProfileType::RuntimeDefault, "");
    user(config, 1000);
    security(config).run_as_group = Some(Int64Value { value: 3000 });
    security(config).supplemental_groups = vec![4000, 5000];
    security(config).no_new_privs = true;
    security(config).readonly_rootfs = true;
    capabilities(config, &["NET_BIND_SERVICE"], &["ALL"], &["NET_BIND_SERVICE"]);
    config.mounts = vec![
        bind(host, "plain", "/data"),
        Mount { readonly: true, ..bind(host, "file", "/etc/config/file") },
        bind(host, "deep/er", "/data/nested"),
    ];
    config.envs = vec![KeyValue { key: "NAME".into(), value: b"a = b".to_vec() }];
    config.working_dir = "/home/user".into();
    limit(
        config,
        LinuxContainerResources {
            cpu_period: 100_000,
            cpu_quota: 50_000,
            cpu_shares: 512,
            memory_limit_in_bytes: 128 << 20,
            oom_score_adj: 500,
            ..Default::default()
        },
    );
}

/// Every case.
pub(crate) fn cases() -> Vec<Case> {
    let mut all = Vec::new();
    all.extend(of_security());
    all.extend(of_users());
    all.extend(of_mounts());
    all.extend(of_namespaces());
    all.extend(of_resources());
    all.extend(of_devices());
    all.extend(of_processes());
    all
}

fn of_security() -> Vec<Case> {
    vec![
        case("plain", |_, _| ()),
        case("as a kubelet asks", |config, _| {
            masked(config);
            filter(config, ProfileType::RuntimeDefault, "");
        }),
        case("with everything", full),
        case("a command in one with everything", full).by(Look::Command),
        in_pod("privileged", privileged, |config, _| security(config).privileged = true),
        in_pod("a command in a privileged one", privileged, |config, _| security(config).privileged = true)
            .by(Look::Command),
        case("read-only root", |config, _| security(config).readonly_rootfs = true),
        case("no new privileges", |config, _| security(config).no_new_privs = true),
        case("capabilities added", |config, _| capabilities(config, &["NET_ADMIN", "SYS_PTRACE"], &["CHOWN"], &[])),
        case("every capability", |config, _| capabilities(config, &["ALL"], &["SYS_ADMIN"], &[])),
        case("no capability", |config, _| capabilities(config, &[], &["ALL"], &[])),
        case("ambient capabilities", |config, _| {
            user(config, 1000);
            capabilities(config, &["NET_RAW"], &["ALL"], &["NET_RAW"]);
        }),
        case("other paths masked", |config, _| {
            security(config).masked_paths = vec!["/etc/passwd".into(), "/home".into(), "/proc/version".into()];
            security(config).readonly_paths = vec!["/tmp".into(), "/etc/group".into()];
        }),
        case("calls unfiltered", |config, _| filter(config, ProfileType::Unconfined, "")).by(Look::SystemCalls),
        case("calls by default", |config, _| filter(config, ProfileType::RuntimeDefault, "")).by(Look::SystemCalls),
        case("calls of an administrator", |config, _| {
            filter(config, ProfileType::RuntimeDefault, "");
            capabilities(config, &["SYS_ADMIN", "SYS_PTRACE"], &[], &[]);
        })
        .by(Look::SystemCalls),
        case("calls of one without capabilities", |config, _| {
            filter(config, ProfileType::RuntimeDefault, "");
            capabilities(config, &[], &["ALL"], &[]);
            user(config, 1000);
            security(config).no_new_privs = true;
        })
        .by(Look::SystemCalls),
        case("calls by a file", |config, host| {
            filter(config, ProfileType::Localhost, &host.join("profile.json").display().to_string());
        })
        .by(Look::SystemCalls),
    ]
}

fn of_users() -> Vec<Case> {
    vec![
        case("user", |config, _| user(config, 1000)),
        case("a command of a user", |config, _| user(config, 1000)).by(Look::Command),
        case("user of no name", |config, _| user(config, 4242)),
        case("user and group", |config, _| {
            user(config, 1000);
            security(config).run_as_group = Some(Int64Value { value: 3000 });
        }),
        case("user by name", |config, _| security(config).run_as_username = "user".into()),
        case("groups beside the image's", |config, _| {
            user(config, 1000);
            security(config).supplemental_groups = vec![5000, 1000];
        }),
        case("groups of the request alone", |config, _| {
            user(config, 1000);
            security(config).supplemental_groups = vec![5000];
            security(config).supplemental_groups_policy = SupplementalGroupsPolicy::Strict.into();
        }),
    ]
}

fn of_mounts() -> Vec<Case> {
    vec![
        case("a directory", |config, host| config.mounts = vec![bind(host, "plain", "/data")]),
        case("a directory read-only", |config, host| {
            config.mounts = vec![Mount { readonly: true, ..bind(host, "plain", "/data") }];
        }),
        case("a file", |config, host| config.mounts = vec![bind(host, "file", "/new/place/file")]),
        case("a file over one of the image", |config, host| config.mounts = vec![bind(host, "file", "/etc/passwd")]),
        case("a directory that was missing", |config, host| config.mounts = vec![bind(host, "made", "/data")]),
        case("one inside another", |config, host| {
            config.mounts = vec![bind(host, "file", "/data/below/file"), bind(host, "plain", "/data")];
        }),
        case("instead of the shared memory", |config, host| config.mounts = vec![bind(host, "plain", "/dev/shm")]),
        case("instead of the pod's hosts", |config, host| config.mounts = vec![bind(host, "file", "/etc/hosts")]),
        case("among the devices", |config, host| config.mounts = vec![bind(host, "file", "/dev/ours")]),
        case("where the kernel has no directory", |config, host| {
            config.mounts = vec![bind(host, "plain", "/sys/fs/bpf-of-ours")];
        })
        .refused("/sys/fs/bpf-of-ours"),
        case("mounts that come from the host", |config, host| {
            let propagation = MountPropagation::PropagationHostToContainer.into();
            config.mounts = vec![Mount { propagation, ..bind(host, "shared", "/data") }];
        }),
        in_pod("mounts that go both ways", privileged, |config, host| {
            let propagation = MountPropagation::PropagationBidirectional.into();
            config.mounts = vec![Mount { propagation, ..bind(host, "shared", "/data") }];
            security(config).privileged = true;
        }),
    ]
}

fn of_namespaces() -> Vec<Case> {
    vec![
        in_pod(
            "the pod's processes",
            |pod, _| namespaces(pod).pid = NamespaceMode::Pod.into(),
            |config, _| {
                security(config).namespace_options.as_mut().unwrap().pid = NamespaceMode::Pod.into();
            },
        ),
        in_pod(
            "a command among the pod's processes",
            |pod, _| namespaces(pod).pid = NamespaceMode::Pod.into(),
            |config, _| {
                security(config).namespace_options.as_mut().unwrap().pid = NamespaceMode::Pod.into();
            },
        )
        .by(Look::Command),
        in_pod(
            "the host's processes",
            |pod, _| namespaces(pod).pid = NamespaceMode::Node.into(),
            |config, _| {
                security(config).namespace_options.as_mut().unwrap().pid = NamespaceMode::Node.into();
            },
        ),
        in_pod(
            "the host's queues",
            |pod, _| namespaces(pod).ipc = NamespaceMode::Node.into(),
            |config, _| {
                security(config).namespace_options.as_mut().unwrap().ipc = NamespaceMode::Node.into();
            },
        ),
        in_pod(
            "the host's network",
            |pod, _| namespaces(pod).network = NamespaceMode::Node.into(),
            |config, _| {
                security(config).namespace_options.as_mut().unwrap().network = NamespaceMode::Node.into();
            },
        ),
        in_pod(
            "kernel parameters",
            |pod, _| {
                namespaces(pod);
                pod.linux.as_mut().unwrap().sysctls = BTreeMap::from([
                    ("net.ipv4.ip_unprivileged_port_start".to_owned(), "80".to_owned()),
                    ("kernel.shm_rmid_forced".to_owned(), "1".to_owned()),
                ]);
            },
            |_, _| (),
        ),
    ]
}

fn of_resources() -> Vec<Case> {
    vec![
        case("memory", |config, _| {
            limit(config, LinuxContainerResources { memory_limit_in_bytes: 64 << 20, ..Default::default() });
        }),
        case("memory and swap", |config, _| {
            let (memory_limit_in_bytes, memory_swap_limit_in_bytes) = (64 << 20, 96 << 20);
            limit(
                config,
                LinuxContainerResources { memory_limit_in_bytes, memory_swap_limit_in_bytes, ..Default::default() },
            );
        }),
        case("time", |config, _| {
            limit(
                config,
                LinuxContainerResources { cpu_period: 50_000, cpu_quota: 25_000, cpu_shares: 2, ..Default::default() },
            );
        }),
        case("processors", |config, _| {
            let (cpuset_cpus, cpuset_mems) = ("1".to_owned(), "0".to_owned());
            limit(config, LinuxContainerResources { cpuset_cpus, cpuset_mems, ..Default::default() });
        }),
        case("score", |config, _| limit(config, LinuxContainerResources { oom_score_adj: 999, ..Default::default() })),
        case("large pages", |config, _| {
            let hugepage_limits = vec![HugepageLimit { page_size: "2MB".into(), limit: 4 << 20 }];
            limit(config, LinuxContainerResources { hugepage_limits, ..Default::default() });
        }),
        in_pod(
            "a parent of its own",
            |pod, cgroup_root| {
                namespaces(pod);
                pod.linux.as_mut().unwrap().cgroup_parent = format!("{cgroup_root}/of-a-kubelet");
            },
            |_, _| (),
        ),
    ]
}

fn of_devices() -> Vec<Case> {
    vec![
        case("a device", |config, _| {
            config.devices = vec![Device {
                host_path: "/dev/fuse".into(),
                container_path: "/dev/fuse".into(),
                permissions: "rwm".into(),
            }];
        }),
        case("devices with fewer rights and other names", |config, _| {
            config.devices = vec![
                Device {
                    host_path: "/dev/kmsg".into(),
                    container_path: "/dev/journal".into(),
                    permissions: "r".into(),
                },
                Device {
                    host_path: "/dev/fuse".into(),
                    container_path: "/dev/deep/er".into(),
                    permissions: "w".into(),
                },
            ];
        }),
    ]
}

fn of_processes() -> Vec<Case> {
    vec![
        case("environment and arguments", |config, _| {
            config.envs = vec![
                KeyValue { key: "PATH".into(), value: b"/opt/bin".to_vec() },
                KeyValue { key: "EMPTY".into(), value: Vec::new() },
                KeyValue { key: "LINES".into(), value: b"one\ntwo".to_vec() },
            ];
            config.args.push("an argument with \"marks\"".into());
        }),
        case("a working directory that was missing", |config, _| config.working_dir = "/not/there/yet".into()),
        case("a working directory of root alone", |config, _| {
            user(config, 1000);
            config.working_dir = "/root".into();
        }),
        case("a terminal", |config, _| config.tty = true),
        case("a user's terminal", |config, _| {
            config.tty = true;
            user(config, 1000);
        }),
        case("standard input", |config, _| config.stdin = true),
        in_pod(
            "name and resolver",
            |pod, _| {
                pod.hostname = "another-name".into();
                pod.dns_config = Some(DnsConfig {
                    servers: vec!["10.0.0.10".into()],
                    searches: vec!["a.example".into()],
                    options: vec!["ndots:5".into()],
                });
            },
            |_, _| (),
        ),
    ]
}
