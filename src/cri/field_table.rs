//! What every field of every request of the contract comes to: done, ignored for a reason, or refused by name.
//!
//! A row speaks for the field at its path and for all below it; a row of one word for a whole call. A test walks the
//! descriptors and finds no field without a row; another sends each refused field and hears its name back. Calls
//! without a row have no fields in their requests.

/// What becomes of a field.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fate {
    /// It has its effect. The text says where it is read.
    Done(&'static str),
    /// It has none, and the text says why that is right.
    Ignored(&'static str),
    /// Sending it is an error that names it. The text says why.
    Refused(&'static str),
}

/// One row of the table.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Row {
    /// Name of the call, then the names of fields: `CreateContainer.config.mounts.host_path`.
    pub path: &'static str,
    /// What becomes of it.
    pub fate: Fate,
}

const fn done(path: &'static str, place: &'static str) -> Row {
    Row { path, fate: Fate::Done(place) }
}

const fn ignored(path: &'static str, why: &'static str) -> Row {
    Row { path, fate: Fate::Ignored(why) }
}

const fn refused(path: &'static str, why: &'static str) -> Row {
    Row { path, fate: Fate::Refused(why) }
}

/// The table, calls in the order of the contract.
pub const FATES: &[Row] = &[
    ignored("Version.version", "informational; the answer is the same to every kubelet"),
    done("RunPodSandbox.config.metadata.name", "request/pod: part of the name reservation"),
    done("RunPodSandbox.config.metadata.uid", "request/pod: part of the name reservation"),
    done("RunPodSandbox.config.metadata.namespace", "request/pod: part of the name reservation"),
    done("RunPodSandbox.config.metadata.attempt", "request/pod: part of the name reservation"),
    done("RunPodSandbox.config.hostname", "request/pod: the pod's UTS namespace and /etc/hostname"),
    done("RunPodSandbox.config.log_directory", "request/pod: where the containers' logs are"),
    done("RunPodSandbox.config.dns_config.servers", "request/pod: resolv.conf"),
    done("RunPodSandbox.config.dns_config.searches", "request/pod: resolv.conf"),
    done("RunPodSandbox.config.dns_config.options", "request/pod: resolv.conf"),
    done("RunPodSandbox.config.port_mappings.protocol", "request/pod: checked and kept"),
    done("RunPodSandbox.config.port_mappings.container_port", "request/pod: checked and kept"),
    done("RunPodSandbox.config.port_mappings.host_port", "request/pod: shown under the host's addresses"),
    done("RunPodSandbox.config.port_mappings.host_ip", "request/pod: checked and kept"),
    done("RunPodSandbox.config.labels", "request/pod: echoed"),
    done("RunPodSandbox.config.annotations", "request/pod: echoed"),
    done("RunPodSandbox.config.linux.cgroup_parent", "request/pod: the pod's cgroup"),
    done("RunPodSandbox.config.linux.security_context.namespace_options.network", "request/namespaces"),
    done("RunPodSandbox.config.linux.security_context.namespace_options.pid", "request/namespaces"),
    done("RunPodSandbox.config.linux.security_context.namespace_options.ipc", "request/namespaces"),
    refused("RunPodSandbox.config.linux.security_context.namespace_options.target_id", "a pod has no target"),
    done(
        "RunPodSandbox.config.linux.security_context.namespace_options.userns_options.mode",
        "request/namespaces: NODE; POD is not built, the others cannot be",
    ),
    refused(
        "RunPodSandbox.config.linux.security_context.namespace_options.userns_options.uids",
        "user namespaces are not built",
    ),
    refused(
        "RunPodSandbox.config.linux.security_context.namespace_options.userns_options.gids",
        "user namespaces are not built",
    ),
    done(
        "RunPodSandbox.config.linux.security_context.selinux_options",
        "request/selinux: checked; refused on a host with SELinux, meaningless on another",
    ),
    ignored(
        "RunPodSandbox.config.linux.security_context.run_as_user",
        "checked; concerns the pod's init alone, which is ours",
    ),
    ignored(
        "RunPodSandbox.config.linux.security_context.run_as_group",
        "checked; concerns the pod's init alone, which is ours",
    ),
    ignored(
        "RunPodSandbox.config.linux.security_context.readonly_rootfs",
        "concerns the pod's init alone, which has no root of its own",
    ),
    ignored(
        "RunPodSandbox.config.linux.security_context.supplemental_groups",
        "checked; concerns the pod's init alone, which is ours",
    ),
    ignored(
        "RunPodSandbox.config.linux.security_context.supplemental_groups_policy",
        "checked; concerns the pod's init alone, which is ours",
    ),
    done("RunPodSandbox.config.linux.security_context.privileged", "request/security: allows privileged containers"),
    done("RunPodSandbox.config.linux.security_context.seccomp", "request/security: filter of the pod's init"),
    ignored(
        "RunPodSandbox.config.linux.security_context.apparmor",
        "checked; concerns the pod's init alone, which is ours",
    ),
    done(
        "RunPodSandbox.config.linux.security_context.seccomp_profile_path",
        "request/security: as seccomp, from old clients",
    ),
    done("RunPodSandbox.config.linux.sysctls", "request/sysctls: those of the pod's own namespaces"),
    done("RunPodSandbox.config.linux.overhead.cpu_period", "request/resources: checked and kept; informational"),
    done("RunPodSandbox.config.linux.overhead.cpu_quota", "request/resources: checked and kept; informational"),
    done("RunPodSandbox.config.linux.overhead.cpu_shares", "request/resources: checked and kept; informational"),
    done(
        "RunPodSandbox.config.linux.overhead.memory_limit_in_bytes",
        "request/resources: checked and kept; informational",
    ),
    done("RunPodSandbox.config.linux.overhead.oom_score_adj", "request/resources: checked and kept; informational"),
    done("RunPodSandbox.config.linux.overhead.cpuset_cpus", "request/resources: checked and kept; informational"),
    done("RunPodSandbox.config.linux.overhead.cpuset_mems", "request/resources: checked and kept; informational"),
    done(
        "RunPodSandbox.config.linux.overhead.hugepage_limits.page_size",
        "request/resources: checked and kept; informational",
    ),
    done(
        "RunPodSandbox.config.linux.overhead.hugepage_limits.limit",
        "request/resources: checked and kept; informational",
    ),
    done("RunPodSandbox.config.linux.overhead.unified", "request/resources: checked and kept; informational"),
    done(
        "RunPodSandbox.config.linux.overhead.memory_swap_limit_in_bytes",
        "request/resources: checked and kept; informational",
    ),
    done("RunPodSandbox.config.linux.resources.cpu_period", "request/resources: checked and kept; informational"),
    done("RunPodSandbox.config.linux.resources.cpu_quota", "request/resources: checked and kept; informational"),
    done("RunPodSandbox.config.linux.resources.cpu_shares", "request/resources: checked and kept; informational"),
    done(
        "RunPodSandbox.config.linux.resources.memory_limit_in_bytes",
        "request/resources: checked and kept; informational",
    ),
    done("RunPodSandbox.config.linux.resources.oom_score_adj", "request/resources: checked and kept; informational"),
    done("RunPodSandbox.config.linux.resources.cpuset_cpus", "request/resources: checked and kept; informational"),
    done("RunPodSandbox.config.linux.resources.cpuset_mems", "request/resources: checked and kept; informational"),
    done(
        "RunPodSandbox.config.linux.resources.hugepage_limits.page_size",
        "request/resources: checked and kept; informational",
    ),
    done(
        "RunPodSandbox.config.linux.resources.hugepage_limits.limit",
        "request/resources: checked and kept; informational",
    ),
    done("RunPodSandbox.config.linux.resources.unified", "request/resources: checked and kept; informational"),
    done(
        "RunPodSandbox.config.linux.resources.memory_swap_limit_in_bytes",
        "request/resources: checked and kept; informational",
    ),
    refused("RunPodSandbox.config.windows", "this is a Linux node"),
    done("RunPodSandbox.runtime_handler", "request/pod: only configured ones"),
    done("StopPodSandbox.pod_sandbox_id", "pods: id or unambiguous prefix"),
    done("RemovePodSandbox.pod_sandbox_id", "pods: id or unambiguous prefix"),
    done("PodSandboxStatus.pod_sandbox_id", "pods: id or unambiguous prefix"),
    done("PodSandboxStatus.verbose", "answer/info: fills info"),
    done("ListPodSandbox.filter.id", "request/filter: prefix"),
    done("ListPodSandbox.filter.state.state", "request/filter"),
    done("ListPodSandbox.filter.label_selector", "request/filter: all must match"),
    done("StreamPodSandboxes.filter.id", "request/filter: prefix"),
    done("StreamPodSandboxes.filter.state.state", "request/filter"),
    done("StreamPodSandboxes.filter.label_selector", "request/filter: all must match"),
    done("CreateContainer.pod_sandbox_id", "pods: id or unambiguous prefix"),
    done("CreateContainer.config.metadata.name", "request/container: part of the name reservation"),
    done("CreateContainer.config.metadata.attempt", "request/container: part of the name reservation"),
    done("CreateContainer.config.image.image", "request/image: looked up in the store"),
    done("CreateContainer.config.image.annotations", "request/image: echoed"),
    done("CreateContainer.config.image.user_specified_image", "request/image: echoed"),
    done("CreateContainer.config.image.runtime_handler", "request/image: only configured ones; there is one store"),
    ignored("CreateContainer.config.image.image_ref", "only answers have it"),
    done("CreateContainer.config.command", "request/environment"),
    done("CreateContainer.config.args", "request/environment"),
    done("CreateContainer.config.working_dir", "request/container"),
    done("CreateContainer.config.envs.key", "request/environment"),
    done("CreateContainer.config.envs.value", "request/environment: any bytes but NUL"),
    done("CreateContainer.config.mounts.container_path", "request/mounts"),
    done("CreateContainer.config.mounts.host_path", "request/mounts"),
    done("CreateContainer.config.mounts.readonly", "request/mounts"),
    done("CreateContainer.config.mounts.selinux_relabel", "request/mounts: without SELinux there is nothing to do"),
    done("CreateContainer.config.mounts.propagation", "request/mounts"),
    refused("CreateContainer.config.mounts.uidMappings", "idmapped mounts are not built"),
    refused("CreateContainer.config.mounts.gidMappings", "idmapped mounts are not built"),
    refused("CreateContainer.config.mounts.recursive_read_only", "recursive read-only mounts are not built"),
    refused("CreateContainer.config.mounts.image", "image volumes are not built"),
    refused("CreateContainer.config.mounts.image_sub_path", "image volumes are not built"),
    refused("CreateContainer.config.mounts.mount_options", "mount options are not built"),
    done("CreateContainer.config.devices.container_path", "request/mounts"),
    done("CreateContainer.config.devices.host_path", "request/mounts"),
    done("CreateContainer.config.devices.permissions", "request/mounts"),
    done("CreateContainer.config.labels", "request/container: echoed"),
    done("CreateContainer.config.annotations", "request/container: echoed; those that name CDI devices are refused"),
    done("CreateContainer.config.log_path", "request/container: below the pod's log directory"),
    done("CreateContainer.config.stdin", "request/container"),
    done("CreateContainer.config.stdin_once", "request/container"),
    done("CreateContainer.config.tty", "request/container"),
    done("CreateContainer.config.linux.resources.cpu_period", "request/resources"),
    done("CreateContainer.config.linux.resources.cpu_quota", "request/resources"),
    done("CreateContainer.config.linux.resources.cpu_shares", "request/resources"),
    done("CreateContainer.config.linux.resources.memory_limit_in_bytes", "request/resources"),
    done("CreateContainer.config.linux.resources.oom_score_adj", "request/resources"),
    done("CreateContainer.config.linux.resources.cpuset_cpus", "request/resources"),
    done("CreateContainer.config.linux.resources.cpuset_mems", "request/resources"),
    done("CreateContainer.config.linux.resources.hugepage_limits.page_size", "request/resources"),
    done("CreateContainer.config.linux.resources.hugepage_limits.limit", "request/resources"),
    done("CreateContainer.config.linux.resources.unified", "request/resources"),
    done("CreateContainer.config.linux.resources.memory_swap_limit_in_bytes", "request/resources"),
    done("CreateContainer.config.linux.security_context.capabilities.add_capabilities", "request/security"),
    done("CreateContainer.config.linux.security_context.capabilities.drop_capabilities", "request/security"),
    done("CreateContainer.config.linux.security_context.capabilities.add_ambient_capabilities", "request/security"),
    done("CreateContainer.config.linux.security_context.privileged", "create_container: only in a privileged pod"),
    ignored("CreateContainer.config.linux.security_context.namespace_options.network", "checked; always the pod's"),
    done("CreateContainer.config.linux.security_context.namespace_options.pid", "request/namespaces"),
    ignored("CreateContainer.config.linux.security_context.namespace_options.ipc", "checked; always the pod's"),
    done(
        "CreateContainer.config.linux.security_context.namespace_options.target_id",
        "request/namespaces: with pid TARGET",
    ),
    done(
        "CreateContainer.config.linux.security_context.namespace_options.userns_options.mode",
        "request/namespaces: NODE; POD is not built, the others cannot be",
    ),
    refused(
        "CreateContainer.config.linux.security_context.namespace_options.userns_options.uids",
        "user namespaces are not built",
    ),
    refused(
        "CreateContainer.config.linux.security_context.namespace_options.userns_options.gids",
        "user namespaces are not built",
    ),
    done(
        "CreateContainer.config.linux.security_context.selinux_options",
        "request/selinux: checked; refused on a host with SELinux, meaningless on another",
    ),
    done("CreateContainer.config.linux.security_context.run_as_user", "request/security"),
    done("CreateContainer.config.linux.security_context.run_as_group", "request/security: only with a user"),
    done("CreateContainer.config.linux.security_context.run_as_username", "request/security"),
    done("CreateContainer.config.linux.security_context.readonly_rootfs", "request/security"),
    done("CreateContainer.config.linux.security_context.supplemental_groups", "request/security"),
    done("CreateContainer.config.linux.security_context.supplemental_groups_policy", "request/security"),
    done("CreateContainer.config.linux.security_context.no_new_privs", "request/security"),
    done("CreateContainer.config.linux.security_context.masked_paths", "request/security"),
    done("CreateContainer.config.linux.security_context.readonly_paths", "request/security"),
    done("CreateContainer.config.linux.security_context.seccomp", "request/security"),
    done(
        "CreateContainer.config.linux.security_context.apparmor",
        "request/security: Unconfined; others are not built, and cannot be without AppArmor",
    ),
    done(
        "CreateContainer.config.linux.security_context.apparmor_profile",
        "request/security: as apparmor, from old clients",
    ),
    done(
        "CreateContainer.config.linux.security_context.seccomp_profile_path",
        "request/security: as seccomp, from old clients",
    ),
    refused("CreateContainer.config.windows", "this is a Linux node"),
    refused("CreateContainer.config.CDI_devices", "CDI devices are not built"),
    done("CreateContainer.config.stop_signal", "request/signal"),
    ignored("CreateContainer.sandbox_config", "a copy of what RunPodSandbox had; the pod as it is counts"),
    done("StartContainer.container_id", "pods: id or unambiguous prefix"),
    done("StopContainer.container_id", "pods: id or unambiguous prefix"),
    done("StopContainer.timeout", "stop_container: seconds of grace"),
    done("RemoveContainer.container_id", "pods: id or unambiguous prefix"),
    done("ListContainers.filter.id", "request/filter: prefix"),
    done("ListContainers.filter.state.state", "request/filter"),
    done("ListContainers.filter.pod_sandbox_id", "request/filter: prefix"),
    done("ListContainers.filter.label_selector", "request/filter: all must match"),
    done("StreamContainers.filter.id", "request/filter: prefix"),
    done("StreamContainers.filter.state.state", "request/filter"),
    done("StreamContainers.filter.pod_sandbox_id", "request/filter: prefix"),
    done("StreamContainers.filter.label_selector", "request/filter: all must match"),
    done("ContainerStatus.container_id", "pods: id or unambiguous prefix"),
    done("ContainerStatus.verbose", "answer/info: fills info"),
    refused("UpdateContainerResources", "the whole call is not built"),
    done("ReopenContainerLog.container_id", "pods: id or unambiguous prefix"),
    done("ExecSync.container_id", "pods: id or unambiguous prefix"),
    done("ExecSync.cmd", "exec_sync: the program and its arguments"),
    done("ExecSync.timeout", "exec_sync: seconds, then DeadlineExceeded"),
    refused("Exec", "the whole call is not built"),
    refused("Attach", "the whole call is not built"),
    refused("PortForward", "the whole call is not built"),
    refused("ContainerStats", "the whole call is not built"),
    refused("ListContainerStats", "the whole call is not built"),
    refused("StreamContainerStats", "the whole call is not built"),
    refused("PodSandboxStats", "the whole call is not built"),
    refused("ListPodSandboxStats", "the whole call is not built"),
    refused("StreamPodSandboxStats", "the whole call is not built"),
    done(
        "UpdateRuntimeConfig.runtime_config.network_config.pod_cidr",
        "update_runtime_config: fills the template of the settings; empty is none yet",
    ),
    done("Status.verbose", "runtime_status: fills info"),
    refused("CheckpointContainer", "the whole call is not built"),
    refused("CheckpointPod", "the whole call is not built"),
    refused("RestorePod", "the whole call is not built"),
    refused("UpdatePodSandboxResources", "the whole call is not built"),
    done("ListImages.filter.image.image", "request/image: any name of an image; empty is all"),
    ignored("ListImages.filter.image.annotations", "nothing is chosen by them"),
    ignored("ListImages.filter.image.user_specified_image", "nothing is chosen by it"),
    done("ListImages.filter.image.runtime_handler", "request/image: only configured ones; there is one store"),
    ignored("ListImages.filter.image.image_ref", "only answers have it"),
    done("StreamImages.filter.image.image", "request/image: any name of an image; empty is all"),
    ignored("StreamImages.filter.image.annotations", "nothing is chosen by them"),
    ignored("StreamImages.filter.image.user_specified_image", "nothing is chosen by it"),
    done("StreamImages.filter.image.runtime_handler", "request/image: only configured ones; there is one store"),
    ignored("StreamImages.filter.image.image_ref", "only answers have it"),
    done("ImageStatus.image.image", "request/image: any name of an image"),
    ignored("ImageStatus.image.annotations", "nothing is chosen by them"),
    ignored("ImageStatus.image.user_specified_image", "nothing is chosen by it"),
    done("ImageStatus.image.runtime_handler", "request/image: only configured ones; there is one store"),
    ignored("ImageStatus.image.image_ref", "only answers have it"),
    done("ImageStatus.verbose", "answer/image: fills info"),
    done("PullImage.image.image", "request/image: any name of an image"),
    ignored("PullImage.image.annotations", "nothing is chosen by them"),
    ignored("PullImage.image.user_specified_image", "nothing is chosen by it"),
    done("PullImage.image.runtime_handler", "request/image: only configured ones; there is one store"),
    ignored("PullImage.image.image_ref", "only answers have it"),
    done("PullImage.auth.username", "pull_image"),
    done("PullImage.auth.password", "pull_image"),
    done("PullImage.auth.auth", "pull_image"),
    done("PullImage.auth.server_address", "pull_image"),
    done("PullImage.auth.identity_token", "pull_image"),
    done("PullImage.auth.registry_token", "pull_image"),
    ignored("PullImage.sandbox_config", "images are pulled the same way for every pod"),
    done("RemoveImage.image.image", "request/image: any name of an image"),
    ignored("RemoveImage.image.annotations", "nothing is chosen by them"),
    ignored("RemoveImage.image.user_specified_image", "nothing is chosen by it"),
    done("RemoveImage.image.runtime_handler", "request/image: only configured ones; there is one store"),
    ignored("RemoveImage.image.image_ref", "only answers have it"),
];

#[cfg(test)]
mod tests;
