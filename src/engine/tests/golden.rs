//! Plans and their OCI specs, compared byte for byte with files. `CORACLE_GOLDEN=write` makes the files anew.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on says where")]

use std::{collections::BTreeMap, fs, path::PathBuf};

use engine::{
    Accounts, Config, Error, HostFacts, LaunchPlan, PlanInput, PodFiles, Resources, Volume,
    capability::CapabilitySet,
    device::{DeviceKind, HostDevice},
    launch_plan::MountWhat,
    plan,
};
use model::{
    AppArmor, ContainerId, ContainerMetadata, ContainerPid, ContainerPlan, Device, DevicePermissions, Digest, EnvVar,
    GroupsPolicy, HugepageLimit, IdMapping, ImageFacts, ImageRequest, IpcMode, Mount, MountSource, NetworkMode,
    PidMode, PodId, PodMetadata, PodNamespaces, PodPlan, Propagation, ReadOnly, RunAs, Seccomp, Security, SelinuxLabel,
    Signal, Stdin, UserChoice, UserNamespace,
};

/// Everything a plan is made of, to be changed by each case.
struct Case {
    pod: PodPlan,
    container: ContainerPlan,
    image: ImageFacts,
    host: HostFacts,
    found: Resources,
    config: Config,
    volumes: Vec<Volume>,
    target: Option<ContainerId>,
}

impl Case {
    fn plain() -> Self {
        Self {
            pod: PodPlan {
                metadata: PodMetadata {
                    name: "web".into(),
                    uid: "0f5b".into(),
                    namespace: "default".into(),
                    attempt: 0,
                },
                hostname: Some("web-0".into()),
                log_directory: Some("/var/log/pods/default_web_0f5b".into()),
                dns: None,
                port_mappings: Vec::new(),
                labels: BTreeMap::new(),
                annotations: BTreeMap::new(),
                runtime_handler: String::new(),
                cgroup_parent: Some("/kubepods/burstable/pod0f5b".into()),
                sysctls: BTreeMap::new(),
                namespaces: PodNamespaces {
                    network: NetworkMode::Pod,
                    pid: PidMode::Container,
                    ipc: IpcMode::Pod,
                    user: None,
                },
                privileged: false,
                seccomp: Seccomp::RuntimeDefault,
                overhead: None,
                resources: None,
            },
            container: ContainerPlan {
                metadata: ContainerMetadata { name: "main".into(), attempt: 0 },
                image: ImageRequest {
                    image: "example.org/web:1".into(),
                    user_specified: "example.org/web:1".into(),
                    annotations: BTreeMap::new(),
                },
                command: Vec::new(),
                args: Vec::new(),
                working_dir: None,
                envs: Vec::new(),
                mounts: Vec::new(),
                devices: Vec::new(),
                labels: BTreeMap::new(),
                annotations: BTreeMap::new(),
                log_path: Some("main/0.log".into()),
                stdin: Stdin::Null,
                tty: false,
                stop_signal: None,
                resources: model::Resources::default(),
                security: Security::default(),
            },
            image: ImageFacts {
                id: Digest::from_sha256([9; 32]),
                entrypoint: vec!["/entry".into()],
                cmd: vec!["serve".into()],
                env: vec![EnvVar { name: "PATH".into(), value: b"/bin".to_vec() }],
                working_dir: None,
                user: String::new(),
                volumes: Vec::new(),
                stop_signal: None,
            },
            host: HostFacts {
                unified_cgroups: false,
                capabilities: CapabilitySet::ALL,
                may_raise_limits: true,
                nofile_hard: 1 << 20,
                oom_score_adj: 0,
                kcore: true,
                has_mqueue: true,
                kernel: (6, 1),
            },
            found: Resources::default(),
            config: Config::default(),
            volumes: Vec::new(),
            target: None,
        }
    }

    fn plan(&self) -> engine::Result<LaunchPlan> {
        let accounts =
            Accounts::parse(b"root:x:0:0::/root:\nweb:x:1000:1001::/srv/web:\n", b"www:x:1001:\nlogs:x:50:web\n");
        let files = PodFiles {
            hosts: Some("/run/coracle/pods/p/hosts".into()),
            hostname: Some("/run/coracle/pods/p/hostname".into()),
            resolv_conf: Some("/run/coracle/pods/p/resolv.conf".into()),
        };
        let input = PlanInput {
            pod: &self.pod,
            pod_id: &PodId::from_random([0xaa; 32]),
            pod_cgroup: "/kubepods/burstable/pod0f5b",
            hostname: "web-0",
            pod_files: &files,
            container: &self.container,
            container_id: &ContainerId::from_random([0xbb; 32]),
            pid_target: self.target.as_ref(),
            image: &self.image,
            accounts: &accounts,
            volumes: &self.volumes,
        };
        plan(&input, &self.host, &self.found, &self.config)
    }

    fn matches(&self, name: &str) -> LaunchPlan {
        let plan = self.plan().unwrap();
        compare(name, &serde_json::to_string_pretty(&plan).unwrap());
        let read_back: LaunchPlan = serde_json::from_str(&serde_json::to_string(&plan).unwrap()).unwrap();
        assert_eq!(read_back, plan, "a plan survives its record");
        let mut spec = serde_json::to_value(plan.to_spec().unwrap()).unwrap();
        // oci-spec keeps capabilities in sets without an order.
        for set in spec["process"]["capabilities"].as_object_mut().unwrap().values_mut() {
            set.as_array_mut().unwrap().sort_by_key(|name| name.as_str().unwrap().to_owned());
        }
        compare(&format!("{name}.spec"), &serde_json::to_string_pretty(&spec).unwrap());
        plan
    }
}

fn compare(name: &str, text: &str) {
    let path = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/golden").join(format!("{name}.json"));
    let text = format!("{text}\n");
    if std::env::var_os("CORACLE_GOLDEN").is_some_and(|value| value == "write") {
        fs::write(&path, text).unwrap();
        return;
    }
    let golden = fs::read_to_string(&path).unwrap_or_default();
    assert!(golden == text, "{} differs; CORACLE_GOLDEN=write makes it anew. The plan is now:\n{text}", path.display());
}

fn bind(target: &str, source: &str) -> Mount {
    Mount {
        target: target.into(),
        source: MountSource::Host(source.into()),
        read_only: ReadOnly::No,
        propagation: Propagation::Private,
        selinux_relabel: false,
        options: Vec::new(),
        uid_mappings: Vec::new(),
        gid_mappings: Vec::new(),
    }
}

#[test]
fn a_plain_container() {
    Case::plain().matches("plain");
}

#[test]
fn a_kubelets_container() {
    let mut case = Case::plain();
    let container = &mut case.container;
    container.command = vec!["/bin/sh".into(), "-c".into()];
    container.args = vec!["exec \"$0\"".into()];
    container.working_dir = Some("/srv//web/../web".into());
    container.envs = vec![
        EnvVar { name: "PATH".into(), value: b"/opt/bin".to_vec() },
        EnvVar { name: "EMPTY".into(), value: Vec::new() },
        EnvVar { name: "RAW".into(), value: vec![0xff, b'='] },
    ];
    container.tty = true;
    container.stdin = Stdin::Once;
    container.stop_signal = Some(Signal::new(3).unwrap());
    container.resources = model::Resources {
        cpu_period_us: Some(100_000),
        cpu_quota_us: Some(50_000),
        cpu_shares: Some(512),
        memory_limit_bytes: Some(64 << 20),
        oom_score_adj: Some(987),
        cpuset_cpus: Some("0".into()),
        hugepages: vec![HugepageLimit { page_size: "2MB".into(), limit_bytes: 0 }],
        ..model::Resources::default()
    };
    container.security = Security {
        run_as: RunAs {
            user: UserChoice::Name("web".into()),
            group: None,
            supplemental_groups: vec![2000],
            groups_policy: GroupsPolicy::Merge,
        },
        readonly_rootfs: true,
        no_new_privs: true,
        masked_paths: vec!["/proc/kcore".into(), "/sys/firmware".into(), "/proc/kcore".into()],
        readonly_paths: vec!["/proc/sys".into()],
        seccomp: Seccomp::RuntimeDefault,
        capabilities: model::Capabilities {
            add: vec!["NET_ADMIN".into()],
            drop: vec!["ALL".into()],
            add_ambient: vec!["NET_BIND_SERVICE".into()],
        },
        ..Security::default()
    };
    container.mounts = vec![
        bind("/var/lib/data/deep", "/srv/deep"),
        Mount { read_only: ReadOnly::Top, ..bind("/var/lib/data", "/srv/data") },
        bind("/etc/hosts", "/var/lib/kubelet/pods/0f5b/etc-hosts"),
        bind("/dev/termination-log", "/var/lib/kubelet/pods/0f5b/log"),
        Mount { propagation: Propagation::HostToContainer, ..bind("/mnt", "/mnt") },
    ];
    case.image.volumes = vec!["/cache".into(), "/mnt".into()];
    assert_eq!(engine::wanted_volumes(&case.image, &case.container), [PathBuf::from("/cache")]);
    case.volumes = vec![Volume { target: "/cache".into(), source: "/var/lib/coracle/containers/c/volumes/0".into() }];
    case.matches("kubelet");
}

#[test]
fn an_image_gets_volumes_where_the_request_mounts_nothing_each_once_and_outer_before_inner() {
    let wanted = |volumes: &[&str], mounts: &[&str]| -> Vec<PathBuf> {
        let mut case = Case::plain();
        case.image.volumes = volumes.iter().map(PathBuf::from).collect();
        case.container.mounts = mounts.iter().map(|target| bind(target, "/somewhere")).collect();
        engine::wanted_volumes(&case.image, &case.container)
    };
    let paths = |texts: &[&str]| -> Vec<PathBuf> { texts.iter().map(PathBuf::from).collect() };
    let mounts = ["/logs", "//var/./lib/x/../db/", "cache", "/data/inner"];
    assert_eq!(wanted(&["/data", "/logs/", "/cache", "/var/lib/db"], &mounts), paths(&["/data"]));
    assert_eq!(wanted(&["/a/b/c", "/z", "/a/b", "/z/", "/a/./b"], &[]), paths(&["/z", "/a/b", "/a/b/c"]));
    // The root is the image itself, and what the kernel shows is no storage.
    let never = ["/", "//", "/.", "/..", "/a/..", "/proc", "/proc/x", "/sys/fs", "/dev/shm/", "/x/../dev"];
    assert_eq!(wanted(&never, &[]), paths(&[]));
    assert_eq!(wanted(&["/process", "/devices"], &[]), paths(&["/devices", "/process"]));
}

#[test]
fn a_privileged_container_on_the_hosts_namespaces() {
    let mut case = Case::plain();
    case.pod.privileged = true;
    case.pod.namespaces =
        PodNamespaces { network: NetworkMode::Host, pid: PidMode::Host, ipc: IpcMode::Host, user: None };
    let security = &mut case.container.security;
    security.privileged = true;
    security.pid = ContainerPid::Host;
    security.seccomp = Seccomp::RuntimeDefault;
    security.masked_paths = vec!["/proc/kcore".into()];
    case.found.host_devices = vec![HostDevice {
        container_path: "/dev/sda".into(),
        kind: DeviceKind::Block,
        major: 8,
        minor: 0,
        mode: 0o660,
        uid: 0,
        gid: 6,
        access: DevicePermissions::ALL,
    }];
    case.container.mounts = vec![Mount { propagation: Propagation::Bidirectional, ..bind("/host", "/") }];
    let plan = case.matches("privileged");
    assert!(plan.masked_paths.is_empty());
}

#[test]
fn a_device_of_the_request_on_cgroup_v2() {
    let mut case = Case::plain();
    case.host.unified_cgroups = true;
    case.pod.namespaces.pid = PidMode::Pod;
    case.container.security.pid = ContainerPid::Pod;
    let access = DevicePermissions { read: true, write: true, mknod: false };
    case.container.devices =
        vec![Device { host_path: "/dev/fuse".into(), container_path: "/dev/fuse".into(), permissions: access }];
    case.found.devices = vec![HostDevice {
        container_path: "/dev/fuse".into(),
        kind: DeviceKind::Char,
        major: 10,
        minor: 229,
        mode: 0o666,
        uid: 0,
        gid: 0,
        access,
    }];
    case.matches("device-v2");
}

#[test]
fn without_cap_sys_resource_scores_and_limits_stay_within_the_daemons_own() {
    let mut case = Case::plain();
    case.host.may_raise_limits = false;
    case.host.nofile_hard = 20_000;
    case.host.oom_score_adj = -5;
    case.container.resources.oom_score_adj = Some(-997);
    let plan = case.plan().unwrap();
    assert_eq!(plan.process.oom_score_adj, -5);
    assert_eq!((plan.process.rlimits[0].soft, plan.process.rlimits[0].hard), (1024, 20_000));
}

#[test]
fn a_mount_on_dev_leaves_it_to_the_host() {
    let mut case = Case::plain();
    case.container.mounts = vec![bind("/dev/", "/dev"), bind("/sys", "/sys")];
    let plan = case.plan().unwrap();
    assert!(plan.devices.is_empty() && plan.links.is_empty());
    let targets: Vec<_> = plan.mounts.iter().map(|mount| mount.target.to_string_lossy()).collect();
    assert_eq!(targets, ["/proc", "/dev", "/sys", "/etc/hosts", "/etc/hostname", "/etc/resolv.conf"]);
}

#[test]
fn a_target_is_a_container_of_the_pod() {
    let mut case = Case::plain();
    case.container.security.pid = ContainerPid::Target("cc".into());
    assert!(matches!(case.plan(), Err(Error::Invalid { field: "namespace_options.target_id", .. })));
    case.target = Some(ContainerId::from_random([0xcc; 32]));
    assert!(case.plan().is_ok());
}

#[test]
fn arguments_replace_what_the_image_says_as_the_cri_has_it() {
    let strings = |list: &[&str]| list.iter().map(|text| (*text).to_owned()).collect::<Vec<_>>();
    for (command, args, want) in [
        (&[][..], &[][..], Ok(&["/entry", "serve"][..])),
        (&["/c"], &[], Ok(&["/c"])),
        (&["/c"], &["a"], Ok(&["/c", "a"])),
        (&[], &["a"], Ok(&["/entry", "a"])),
    ] {
        let mut case = Case::plain();
        (case.container.command, case.container.args) = (strings(command), strings(args));
        assert_eq!(case.plan().map(|plan| plan.process.args).map_err(|_| ()), want.map(strings));
    }
    let mut case = Case::plain();
    (case.image.entrypoint, case.image.cmd) = (Vec::new(), Vec::new());
    assert!(matches!(case.plan(), Err(Error::NoCommand)));
}

/// What one case of a table changes.
type Change = Box<dyn Fn(&mut Case)>;

#[test]
fn what_is_not_built_yet_is_refused_by_name() {
    let ids = IdMapping { host: 65536, container: 0, length: 65536 };
    let image = MountSource::Image { image: "x".into(), sub_path: String::new() };
    let cases: Vec<(&str, Change)> = vec![
        (
            "userns_options",
            Box::new(move |case| case.pod.namespaces.user = Some(UserNamespace { uids: ids, gids: ids })),
        ),
        ("apparmor", Box::new(|case| case.container.security.apparmor = AppArmor::Localhost("x".into()))),
        ("apparmor", Box::new(|case| case.container.security.apparmor = AppArmor::RuntimeDefault)),
        (
            "selinux_options",
            Box::new(|case| {
                case.container.security.selinux = Some(SelinuxLabel { level: "s0".into(), ..SelinuxLabel::default() });
            }),
        ),
        (
            "mounts[].image",
            Box::new(move |case| case.container.mounts = vec![Mount { source: image.clone(), ..bind("/a", "/a") }]),
        ),
        (
            "mount_options",
            Box::new(|case| case.container.mounts = vec![Mount { options: vec!["noexec".into()], ..bind("/a", "/a") }]),
        ),
        (
            "uidMappings",
            Box::new(move |case| case.container.mounts = vec![Mount { uid_mappings: vec![ids], ..bind("/a", "/a") }]),
        ),
        (
            "RROUnsupported",
            Box::new(|case| {
                case.container.mounts = vec![Mount { read_only: ReadOnly::Recursive, ..bind("/a", "/a") }];
            }),
        ),
    ];
    for (part, change) in cases {
        let mut case = Case::plain();
        change(&mut case);
        let error = case.plan().unwrap_err();
        assert_eq!(error.class(), model::Class::Unsupported, "{part}");
        assert!(error.to_string().contains(part), "{error}");
    }
}

#[test]
fn mounts_that_would_forge_the_kernels_word_are_refused() {
    for (target, source) in [("/", "/srv"), ("/proc", "/srv"), ("/proc/self/attr", "/srv"), ("/a/../proc/1", "/srv")] {
        let mut case = Case::plain();
        case.container.mounts = vec![bind(target, source)];
        assert!(matches!(case.plan(), Err(Error::Invalid { .. })), "{target}");
    }
    for (target, source) in [("/proc", "/proc"), ("/proc/cpuinfo", "/srv/cpuinfo"), ("relative", "/srv")] {
        let mut case = Case::plain();
        case.container.mounts = vec![bind(target, source)];
        let plan = case.plan().unwrap();
        assert!(
            plan.mounts
                .iter()
                .any(|mount| matches!(&mount.what, MountWhat::Bind { source: from, .. } if from.as_os_str() == source))
        );
    }
}

#[test]
fn thousands_of_mounts_are_planned_and_more_than_can_be_sent_are_refused() {
    let mut case = Case::plain();
    let few = case.plan().unwrap().mounts.len();
    case.container.mounts = (0..4000).map(|number| bind(&format!("/many/{number}"), "/srv")).collect();
    assert_eq!(case.plan().unwrap().mounts.len(), few + 4000);
    case.container.mounts.extend((0..96).map(|number| bind(&format!("/more/{number}"), "/srv")));
    let refused = case.plan().unwrap_err();
    assert!(matches!(refused, Error::TooManyMounts { mounts, most: 4032 } if mounts == few + 4096), "{refused}");
    assert_eq!(refused.class(), model::Class::Invalid);
}

#[test]
fn a_privileged_container_needs_a_privileged_pod() {
    let mut case = Case::plain();
    case.container.security.privileged = true;
    assert!(matches!(case.plan(), Err(Error::Invalid { field: "security_context.privileged", .. })));
}
