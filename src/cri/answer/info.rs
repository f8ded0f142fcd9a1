//! Verbose answers: what tools read beyond the contract. `crictl` takes a value that begins with `{` as JSON.
//!
//! The keys are those that scripts made for other runtimes look for: `.info.pid`, `.info.runtimeSpec`, `.info.config`,
//! `.info.cniResult.Interfaces`.

use std::collections::BTreeMap;

use model::{ContainerPlan, EnvVar, MountSource, NetworkMode, PodPlan, Resources};
use network::Joined;
use pods::{ContainerView, PodView};
use serde_json::{Map, Value, json};

/// Interface of every pod on the built-in network.
const INTERFACE: &str = "eth0";

/// A container, for `crictl inspect`.
pub(crate) fn container(view: &ContainerView) -> BTreeMap<String, String> {
    let info = json!({
        "sandboxID": view.pod.to_string(),
        "pid": view.pid().unwrap_or_default(),
        "removing": false,
        "snapshotKey": view.id.to_string(),
        "snapshotter": "overlay",
        "runtimeType": "coracle",
        "privileged": view.plan.security.privileged,
        "config": container_config(&view.plan),
        // A plan that has no such form is shown without one.
        "runtimeSpec": view.launch.to_spec().ok(),
    });
    BTreeMap::from([("info".to_owned(), info.to_string())])
}

/// A pod, for `crictl inspectp`. `pid` is there only where a pod has a process of its own.
pub(crate) fn pod(view: &PodView) -> BTreeMap<String, String> {
    let mut info = json!({
        "processStatus": if view.ready { "running" } else { "stopped" },
        "netNamespaceClosed": view.netns.is_none() && view.plan.namespaces.network == NetworkMode::Pod,
        "runtimeType": "coracle",
        "runtimeHandler": view.plan.runtime_handler,
        "config": pod_config(&view.plan),
        "runtimeSpec": { "linux": { "namespaces": namespaces(view) } },
        "cniResult": cni_result(view),
        "monitorPid": view.monitor_pid,
    });
    if let Some(pid) = view.init_pid {
        info["pid"] = pid.into();
    }
    if let Some(trouble) = &view.trouble {
        info["trouble"] = trouble.as_str().into();
    }
    BTreeMap::from([("info".to_owned(), info.to_string())])
}

/// Namespaces in the runtime specification's form, by path where a path leads to them.
fn namespaces(view: &PodView) -> Value {
    let of_init = |kind: &str| view.init_pid.map(|pid| format!("/proc/{pid}/ns/{kind}"));
    let mut list = vec![json!({ "type": "ipc" }), json!({ "type": "uts" }), json!({ "type": "mount" })];
    if let Some(path) = &view.netns {
        list.push(json!({ "type": "network", "path": path }));
    }
    if let Some(path) = of_init("pid") {
        list.push(json!({ "type": "pid", "path": path }));
    }
    Value::Array(list)
}

/// What the pod's networks made of it, in the form in which other runtimes show it.
fn cni_result(view: &PodView) -> Value {
    let networks = view.attachment.iter().flat_map(|attachment| &attachment.networks);
    let (mut interfaces, mut dns, mut routes) = (Map::new(), Vec::new(), Vec::new());
    for Joined { interface, result, .. } in networks {
        let configs: Vec<_> = result
            .addresses_of(interface)
            .map(|ip| {
                let gateway = ip.gateway.map(|gateway| gateway.to_string()).unwrap_or_default();
                json!({ "IP": ip.address.addr(), "Gateway": gateway })
            })
            .collect();
        let link = result.inside(interface).cloned().unwrap_or_default();
        let shown = json!({
            "IPConfigs": configs,
            "Mac": link.mac,
            "Sandbox": link.sandbox,
            "PciID": link.pci_id,
            "SocketPath": link.socket_path,
        });
        interfaces.insert(interface.clone(), shown);
        dns.push(json!(result.dns));
        routes.extend(result.routes.iter().map(|route| json!(route)));
    }
    if interfaces.is_empty() {
        // What an earlier release attached.
        let configs: Vec<_> = view.ips().iter().map(|ip| json!({ "IP": ip })).collect();
        interfaces.insert(INTERFACE.to_owned(), json!({ "IPConfigs": configs }));
    }
    json!({ "Interfaces": interfaces, "DNS": dns, "Routes": routes })
}

/// A pod's configuration under the contract's names.
fn pod_config(plan: &PodPlan) -> Value {
    json!({
        "metadata": plan.metadata,
        "hostname": plan.hostname,
        "log_directory": plan.log_directory,
        "dns_config": plan.dns,
        "port_mappings": plan.port_mappings,
        "labels": plan.labels,
        "annotations": plan.annotations,
        "linux": {
            "cgroup_parent": plan.cgroup_parent,
            "sysctls": plan.sysctls,
            "security_context": {
                "namespace_options": plan.namespaces,
                "privileged": plan.privileged,
                "seccomp": plan.seccomp,
            },
            "overhead": plan.overhead.as_ref().map(resources),
            "resources": plan.resources.as_ref().map(resources),
        },
    })
}

/// A container's configuration under the contract's names.
fn container_config(plan: &ContainerPlan) -> Value {
    let envs: Vec<_> = plan.envs.iter().map(env).collect();
    let mounts: Vec<_> = plan.mounts.iter().map(mount).collect();
    json!({
        "metadata": plan.metadata,
        "image": { "image": plan.image.image, "user_specified_image": plan.image.user_specified },
        "command": plan.command,
        "args": plan.args,
        "working_dir": plan.working_dir,
        "envs": envs,
        "mounts": mounts,
        "devices": plan.devices,
        "labels": plan.labels,
        "annotations": plan.annotations,
        "log_path": plan.log_path,
        "stdin": plan.stdin != model::Stdin::Null,
        "stdin_once": plan.stdin == model::Stdin::Once,
        "tty": plan.tty,
        "linux": { "resources": resources(&plan.resources), "security_context": plan.security },
    })
}

fn env(variable: &EnvVar) -> Value {
    json!({ "key": variable.name, "value": String::from_utf8_lossy(&variable.value) })
}

fn mount(mount: &model::Mount) -> Value {
    let (host_path, image) = match &mount.source {
        MountSource::Host(path) => (Some(path), None),
        MountSource::Image { image, .. } => (None, Some(image)),
    };
    json!({
        "container_path": mount.target,
        "host_path": host_path,
        "image": image,
        "readonly": mount.read_only != model::ReadOnly::No,
        "propagation": mount.propagation,
        "selinux_relabel": mount.selinux_relabel,
    })
}

fn resources(resources: &Resources) -> Value {
    json!({
        "cpu_period": resources.cpu_period_us,
        "cpu_quota": resources.cpu_quota_us,
        "cpu_shares": resources.cpu_shares,
        "memory_limit_in_bytes": resources.memory_limit_bytes,
        "memory_swap_limit_in_bytes": resources.memory_swap_limit_bytes,
        "oom_score_adj": resources.oom_score_adj,
        "cpuset_cpus": resources.cpuset_cpus,
        "cpuset_mems": resources.cpuset_mems,
        "hugepage_limits": resources.hugepages,
        "unified": resources.unified,
    })
}
