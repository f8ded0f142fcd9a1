//! Requests as a kubelet 1.36 sends them for an ordinary pod: they must pass, whatever else is refused.

use std::collections::BTreeMap;

use api::cri::v1::{self, NamespaceMode, security_profile::ProfileType};

fn map(pairs: &[(&str, &str)]) -> BTreeMap<String, String> {
    pairs.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect()
}

fn list(words: &[&str]) -> Vec<String> {
    words.iter().map(|word| (*word).to_owned()).collect()
}

fn namespaces() -> Option<v1::NamespaceOption> {
    Some(v1::NamespaceOption {
        network: NamespaceMode::Pod.into(),
        pid: NamespaceMode::Container.into(),
        ipc: NamespaceMode::Pod.into(),
        target_id: String::new(),
        userns_options: Some(v1::UserNamespace { mode: NamespaceMode::Node.into(), uids: vec![], gids: vec![] }),
    })
}

fn resources() -> Option<v1::LinuxContainerResources> {
    Some(v1::LinuxContainerResources {
        cpu_period: 100_000,
        cpu_quota: 50_000,
        cpu_shares: 256,
        memory_limit_in_bytes: 134_217_728,
        oom_score_adj: 969,
        hugepage_limits: vec![
            v1::HugepageLimit { page_size: "2MB".into(), limit: 0 },
            v1::HugepageLimit { page_size: "1GB".into(), limit: 0 },
        ],
        unified: map(&[("memory.oom.group", "1")]),
        memory_swap_limit_in_bytes: 134_217_728,
        ..Default::default()
    })
}

/// RunPodSandbox's configuration.
pub(crate) fn pod() -> v1::PodSandboxConfig {
    v1::PodSandboxConfig {
        metadata: Some(v1::PodSandboxMetadata {
            name: "web-7c5ddbdf54-x2x9k".into(),
            uid: "0b3f9a1e-7d55-4d0c-9d0e-8f1f6a4c0c11".into(),
            namespace: "default".into(),
            attempt: 0,
        }),
        hostname: "web-7c5ddbdf54-x2x9k".into(),
        log_directory: "/var/log/pods/default_web-7c5ddbdf54-x2x9k_0b3f9a1e-7d55-4d0c-9d0e-8f1f6a4c0c11".into(),
        dns_config: Some(v1::DnsConfig {
            servers: list(&["10.96.0.10"]),
            searches: list(&["default.svc.cluster.local", "svc.cluster.local", "cluster.local"]),
            options: list(&["ndots:5"]),
        }),
        port_mappings: vec![v1::PortMapping { container_port: 80, ..Default::default() }],
        labels: map(&[
            ("app", "web"),
            ("io.kubernetes.pod.name", "web-7c5ddbdf54-x2x9k"),
            ("io.kubernetes.pod.namespace", "default"),
            ("io.kubernetes.pod.uid", "0b3f9a1e-7d55-4d0c-9d0e-8f1f6a4c0c11"),
        ]),
        annotations: map(&[
            ("kubernetes.io/config.seen", "2026-11-22T03:00:00.000000000Z"),
            ("kubernetes.io/config.source", "api"),
        ]),
        linux: Some(v1::LinuxPodSandboxConfig {
            cgroup_parent: "/kubepods/burstable/pod0b3f9a1e-7d55-4d0c-9d0e-8f1f6a4c0c11".into(),
            security_context: Some(v1::LinuxSandboxSecurityContext {
                namespace_options: namespaces(),
                selinux_options: None,
                supplemental_groups: vec![],
                seccomp: Some(v1::SecurityProfile {
                    profile_type: ProfileType::RuntimeDefault.into(),
                    localhost_ref: String::new(),
                }),
                ..Default::default()
            }),
            sysctls: BTreeMap::new(),
            overhead: Some(v1::LinuxContainerResources::default()),
            resources: resources(),
        }),
        windows: None,
    }
}

/// CreateContainer's configuration.
pub(crate) fn container() -> v1::ContainerConfig {
    let volumes = "/var/lib/kubelet/pods/0b3f9a1e-7d55-4d0c-9d0e-8f1f6a4c0c11";
    let mount = |container_path: &str, host_path: String, readonly| v1::Mount {
        container_path: container_path.into(),
        host_path,
        readonly,
        selinux_relabel: true,
        ..Default::default()
    };
    v1::ContainerConfig {
        metadata: Some(v1::ContainerMetadata { name: "web".into(), attempt: 0 }),
        image: Some(v1::ImageSpec {
            image: "sha256:9c7a54a9a43cca047013b82af109fe963fde787f63f9e016fdc3384500c2823d".into(),
            annotations: BTreeMap::new(),
            user_specified_image: "registry.example/web:1.27".into(),
            runtime_handler: String::new(),
            image_ref: String::new(),
        }),
        command: list(&["/bin/server"]),
        args: list(&["--listen", ":80"]),
        working_dir: String::new(),
        envs: vec![v1::KeyValue { key: "KUBERNETES_SERVICE_HOST".into(), value: b"10.96.0.1".to_vec() }],
        mounts: vec![
            mount(
                "/var/run/secrets/kubernetes.io/serviceaccount",
                format!("{volumes}/volumes/kubernetes.io~projected/kube-api-access-8x7kq"),
                true,
            ),
            mount("/etc/hosts", format!("{volumes}/etc-hosts"), false),
            mount("/dev/termination-log", format!("{volumes}/containers/web/1c5a3f0b"), false),
        ],
        devices: vec![],
        labels: map(&[("io.kubernetes.container.name", "web"), ("io.kubernetes.pod.name", "web-7c5ddbdf54-x2x9k")]),
        annotations: map(&[
            ("io.kubernetes.container.hash", "e5d1c1c6"),
            ("io.kubernetes.container.restartCount", "0"),
            ("io.kubernetes.container.terminationMessagePath", "/dev/termination-log"),
            ("io.kubernetes.pod.terminationGracePeriod", "30"),
        ]),
        log_path: "web/0.log".into(),
        linux: Some(v1::LinuxContainerConfig {
            resources: resources(),
            security_context: Some(v1::LinuxContainerSecurityContext {
                namespace_options: namespaces(),
                run_as_user: Some(v1::Int64Value { value: 0 }),
                masked_paths: list(&["/proc/asound", "/proc/acpi", "/proc/kcore", "/proc/keys", "/sys/firmware"]),
                readonly_paths: list(&["/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys", "/proc/sysrq-trigger"]),
                seccomp: Some(v1::SecurityProfile {
                    profile_type: ProfileType::Unconfined.into(),
                    localhost_ref: String::new(),
                }),
                ..Default::default()
            }),
        }),
        ..Default::default()
    }
}
