//! Pod configurations: what a kubelet sends passes, and every bad value is refused under its name.

use model::{IpcMode, PidMode};

use super::*;
use crate::request::kubelet;

fn read(config: v1::PodSandboxConfig) -> Result<PodPlan, Error> {
    plan(Some(config), String::new(), &Host::plain())
}

fn linux(config: &mut v1::PodSandboxConfig) -> &mut v1::LinuxPodSandboxConfig {
    config.linux.as_mut().unwrap()
}

fn options(config: &mut v1::PodSandboxConfig) -> &mut v1::NamespaceOption {
    linux(config).security_context.as_mut().unwrap().namespace_options.as_mut().unwrap()
}

#[test]
fn what_a_kubelet_sends_becomes_a_plan() {
    let plan = read(kubelet::pod()).unwrap();
    assert_eq!(plan.cgroup_parent.as_deref(), Some("/kubepods/burstable/pod0b3f9a1e-7d55-4d0c-9d0e-8f1f6a4c0c11"));
    assert_eq!(plan.namespaces.pid, PidMode::Container);
    assert_eq!(plan.namespaces.ipc, IpcMode::Pod);
    assert_eq!(plan.port_mappings[0].container_port, 80);
    assert_eq!(plan.labels["app"], "web");
    assert_eq!(plan.resources.unwrap().memory_limit_bytes, Some(134_217_728));
}

#[test]
fn a_pod_needs_no_more_than_a_name() {
    let metadata = kubelet::pod().metadata;
    let plan = read(v1::PodSandboxConfig { metadata, ..Default::default() }).unwrap();
    assert_eq!(plan.namespaces.pid, PidMode::Pod, "absent namespace options are zeros, and zero is POD");
    assert_eq!((plan.hostname, plan.log_directory, plan.dns, plan.cgroup_parent), (None, None, None, None));
    assert_eq!(plan.seccomp, model::Seccomp::Unconfined);
}

#[test]
fn host_ports_are_kept_as_they_are_asked_for() {
    let mut config = kubelet::pod();
    config.port_mappings[0].host_port = 8080;
    config.port_mappings[0].host_ip = "0.0.0.0".into();
    let [port] = &read(config).unwrap().port_mappings[..] else { panic!("one port") };
    assert_eq!((port.host_port, port.host_ip), (Some(8080), Some("0.0.0.0".parse().unwrap())));
}

#[test]
fn a_cgroup_parent_may_lack_its_first_slash() {
    let mut config = kubelet::pod();
    linux(&mut config).cgroup_parent = "k8s//pods/./a".into();
    assert_eq!(read(config).unwrap().cgroup_parent.as_deref(), Some("/k8s/pods/a"));
}

#[test]
fn only_configured_handlers_run_pods() {
    assert!(plan(Some(kubelet::pod()), "coracle".into(), &Host::plain()).is_ok());
    let error = plan(Some(kubelet::pod()), "kata".into(), &Host::plain()).unwrap_err().to_string();
    assert!(error.starts_with("runtime_handler: \"kata\" "), "{error}");
}

#[test]
fn what_can_never_be_is_refused_by_name() {
    assert!(plan(None, String::new(), &Host::plain()).unwrap_err().to_string().starts_with("config: None"));
    type Change = fn(&mut v1::PodSandboxConfig);
    let wrong: [(&str, Change); 36] = [
        ("metadata", |c| c.metadata = None),
        ("metadata.name", |c| c.metadata.as_mut().unwrap().name.clear()),
        ("metadata.name", |c| c.metadata.as_mut().unwrap().name = "a\nb".into()),
        ("metadata.name", |c| c.metadata.as_mut().unwrap().name = "x".repeat(1 << 20)),
        ("metadata.uid", |c| c.metadata.as_mut().unwrap().uid.clear()),
        ("metadata.namespace", |c| c.metadata.as_mut().unwrap().namespace = "\0".into()),
        ("hostname", |c| c.hostname = "x".repeat(65)),
        ("hostname", |c| c.hostname = "a b".into()),
        ("hostname", |c| c.hostname = "../../etc".into()),
        ("log_directory", |c| c.log_directory = "var/log".into()),
        ("log_directory", |c| c.log_directory = "/var/log/../../etc".into()),
        ("log_directory", |c| c.log_directory = format!("/{}", "x/".repeat(4000))),
        ("dns_config.servers[0]", |c| c.dns_config.as_mut().unwrap().servers = vec!["dns.example".into()]),
        ("dns_config.servers[0]", |c| c.dns_config.as_mut().unwrap().servers = vec!["".into()]),
        ("dns_config.servers", |c| c.dns_config.as_mut().unwrap().servers = vec!["::1".into(); 65]),
        ("dns_config.searches[1]", |c| {
            c.dns_config.as_mut().unwrap().searches = vec!["a".into(), "b\nnameserver 6.6.6.6".into()];
        }),
        ("dns_config.options[0]", |c| c.dns_config.as_mut().unwrap().options = vec!["x".repeat(256)]),
        ("port_mappings[0].protocol", |c| c.port_mappings[0].protocol = 3),
        ("port_mappings[0].container_port", |c| c.port_mappings[0].container_port = 0),
        ("port_mappings[0].container_port", |c| c.port_mappings[0].container_port = 65_536),
        ("port_mappings[0].host_port", |c| c.port_mappings[0].host_port = -1),
        ("port_mappings[0].host_ip", |c| c.port_mappings[0].host_ip = "localhost".into()),
        ("labels", |c| c.labels = [("a".to_owned(), "x".repeat(2 << 20))].into()),
        ("annotations", |c| c.annotations = [("x".repeat(2 << 20), "a".to_owned())].into()),
        ("linux.cgroup_parent", |c| linux(c).cgroup_parent = "/kubepods/../..".into()),
        ("linux.cgroup_parent", |c| linux(c).cgroup_parent = "kubepods-burstable-pod1.slice".into()),
        ("linux.cgroup_parent", |c| linux(c).cgroup_parent = "system.slice:cri:a".into()),
        ("linux.sysctls[\"vm.swappiness\"]", |c| {
            linux(c).sysctls = [("vm.swappiness".to_owned(), "1".to_owned())].into();
        }),
        ("linux.overhead.cpu_period", |c| linux(c).overhead.as_mut().unwrap().cpu_period = -5),
        ("linux.resources.oom_score_adj", |c| linux(c).resources.as_mut().unwrap().oom_score_adj = i64::MAX),
        ("linux.security_context.namespace_options.network", |c| options(c).network = 1),
        ("linux.security_context.namespace_options.ipc", |c| options(c).ipc = 3),
        ("linux.security_context.namespace_options.pid", |c| options(c).pid = 4),
        ("linux.security_context.namespace_options.target_id", |c| options(c).target_id = "abc".into()),
        ("linux.security_context.run_as_group", |c| {
            linux(c).security_context.as_mut().unwrap().run_as_group = Some(v1::Int64Value { value: 1 });
        }),
        ("linux.security_context.apparmor.profile_type", |c| {
            linux(c).security_context.as_mut().unwrap().apparmor =
                Some(v1::SecurityProfile { profile_type: -1, ..Default::default() });
        }),
    ];
    for (name, change) in wrong {
        let mut config = kubelet::pod();
        change(&mut config);
        let error = read(config).expect_err(name);
        assert!(matches!(error, Error::Invalid { .. }), "{error}");
        assert!(error.to_string().starts_with(&format!("config.{name}: ")), "want {name}: {error}");
        assert!(error.to_string().len() < 1000, "{name}: {} bytes of message", error.to_string().len());
    }
}
