//! A node, a client of it and one running pod: where most of these tests begin.

use std::{
    ops::{Deref, DerefMut},
    path::PathBuf,
    time::Duration,
};

use api::cri::v1::{
    ContainerConfig, ContainerState, ContainerStatus, ContainerStatusRequest, LinuxContainerConfig,
    LinuxContainerSecurityContext, LinuxPodSandboxConfig, LinuxSandboxSecurityContext, NamespaceMode, NamespaceOption,
    PodSandboxConfig, RemoveContainerRequest, StopContainerRequest,
};
use serde_json::Value;
use testkit::{Cri, TempNode, eventually_async, patience};
use tonic::Status;

use crate::{
    log_file::{self, Stream},
    support,
};

/// How long anything here may take that takes milliseconds on a quiet machine.
pub(crate) const SOON: Duration = Duration::from_secs(20);

/// The same for a command, in the seconds of a request.
pub(crate) fn a_while() -> i64 {
    patience(SOON).as_secs() as i64
}

/// See the head of this file. Behaves as the [`Cri`] client.
pub(crate) struct Scene {
    pub(crate) node: TempNode,
    cri: Cri,
    /// What the pod was made of.
    pub(crate) config: PodSandboxConfig,
    /// The pod's id.
    pub(crate) pod: String,
}

/// What a container has left when it ended.
pub(crate) struct Ended {
    pub(crate) id: String,
    pub(crate) status: ContainerStatus,
    pub(crate) stdout: String,
    pub(crate) stderr: String,
}

impl Scene {
    /// A pod as a kubelet asks for it.
    pub(crate) async fn new() -> Scene {
        Scene::with(|_| ()).await
    }

    /// A pod, and what is special about it.
    pub(crate) async fn with(special: impl FnOnce(&mut PodSandboxConfig)) -> Scene {
        Scene::on(support::node().await, special).await
    }

    /// The same on a node that is there.
    pub(crate) async fn on(node: TempNode, special: impl FnOnce(&mut PodSandboxConfig)) -> Scene {
        Scene::by("", node, special).await
    }

    /// The same by a runtime handler.
    pub(crate) async fn by(handler: &str, node: TempNode, special: impl FnOnce(&mut PodSandboxConfig)) -> Scene {
        let mut cri = node.client().await;
        let mut config = testkit::pod("scene", node.dir());
        namespaces(&mut config);
        special(&mut config);
        let pod = cri.run_by(handler, &config).await.expect("the pod runs");
        Scene { node, cri, config, pod }
    }

    /// Another pod beside the first.
    pub(crate) async fn another(
        &mut self,
        name: &str,
        special: impl FnOnce(&mut PodSandboxConfig),
    ) -> (String, PodSandboxConfig) {
        let mut config = testkit::pod(name, self.node.dir());
        namespaces(&mut config);
        special(&mut config);
        let pod = self.cri.run(&config).await.expect("another pod runs");
        (pod, config)
    }

    /// Creates a container in the pod.
    pub(crate) async fn try_create(&mut self, config: &ContainerConfig) -> Result<String, Status> {
        self.cri.create(&self.pod, &self.config, config).await
    }

    /// As [`Scene::try_create`], for one that can be created.
    pub(crate) async fn create(&mut self, config: &ContainerConfig) -> String {
        self.try_create(config).await.expect("the container can be created")
    }

    /// Creates a container and starts it.
    pub(crate) async fn start(&mut self, config: &ContainerConfig) -> String {
        self.cri.start(&self.pod, &self.config, config).await.expect("the container starts")
    }

    /// Creates a container in any pod.
    pub(crate) async fn create_in(
        &mut self,
        pod: &str,
        of: &PodSandboxConfig,
        config: &ContainerConfig,
    ) -> Result<String, Status> {
        self.cri.create(pod, of, config).await
    }

    /// Starts a container that waits in any pod.
    pub(crate) async fn sleeper_in(&mut self, pod: &str, of: &PodSandboxConfig, name: &str) -> String {
        self.cri.start(pod, of, &sleeper(name)).await.expect("the container starts")
    }

    /// The status of a container that exists.
    pub(crate) async fn status(&mut self, container: &str) -> ContainerStatus {
        self.try_status(container).await.expect("the container has a status")
    }

    /// The status of a container.
    pub(crate) async fn try_status(&mut self, container: &str) -> Result<ContainerStatus, Status> {
        let request = ContainerStatusRequest { container_id: container.to_owned(), verbose: false };
        Ok(self.runtime.container_status(request).await?.into_inner().status.expect("a status"))
    }

    /// The pid, as the host counts, of a running container's first process.
    pub(crate) async fn pid(&mut self, container: &str) -> i32 {
        let request = ContainerStatusRequest { container_id: container.to_owned(), verbose: true };
        let info = self.runtime.container_status(request).await.expect("a status").into_inner().info;
        let info: Value = serde_json::from_str(&info["info"]).expect("the verbose information is JSON");
        info["pid"].as_i64().expect("a pid in it") as i32
    }

    /// Waits until a container has ended.
    pub(crate) async fn ended(&mut self, container: &str) -> ContainerStatus {
        let scene = &*self;
        eventually_async(SOON, "the container ends", || async move {
            let mut cri = scene.cri.clone();
            let request = ContainerStatusRequest { container_id: container.to_owned(), verbose: false };
            let status =
                cri.runtime.container_status(request).await.expect("a status").into_inner().status.expect("one");
            if status.state == ContainerState::ContainerExited as i32 { Ok(status) } else { Err(status.state) }
        })
        .await
    }

    /// Runs a container to its end.
    pub(crate) async fn outcome(&mut self, config: &ContainerConfig) -> Ended {
        let id = self.start(config).await;
        let status = self.ended(&id).await;
        let log = self.log(config);
        let stdout = log_file::text(&log, Stream::Stdout);
        Ended { id, status, stdout, stderr: log_file::text(&log, Stream::Stderr) }
    }

    /// What the probe sees of itself in a container of this kind; the container is run for it.
    pub(crate) async fn report(&mut self, config: &ContainerConfig) -> Value {
        let ended = self.outcome(config).await;
        assert_eq!(ended.status.exit_code, 0, "{}", ended.stderr);
        serde_json::from_str(&ended.stdout).expect("the report is JSON")
    }

    /// What the probe sees of itself as a command in a running container.
    pub(crate) async fn report_in(&mut self, container: &str) -> Value {
        serde_json::from_str(&self.look(container, &["/probe", "report"]).await).expect("the report is JSON")
    }

    /// Standard output of a command that ends well.
    pub(crate) async fn look(&mut self, container: &str, command: &[&str]) -> String {
        let done = self.exec(container, command, a_while()).await.expect("the command runs");
        assert_eq!(done.exit_code, 0, "{command:?}: {}", String::from_utf8_lossy(&done.stderr));
        String::from_utf8_lossy(&done.stdout).into_owned()
    }

    /// Exit code and standard error of a command.
    pub(crate) async fn attempt(&mut self, container: &str, command: &[&str]) -> (i32, String) {
        let done = self.exec(container, command, a_while()).await.expect("the command runs");
        (done.exit_code, String::from_utf8_lossy(&done.stderr).into_owned())
    }

    /// Waits until a probe that sleeps reads its signals. As process 1 it never hears what was sent before.
    pub(crate) async fn attentive(&mut self, container: &str) {
        let pid = self.pid(container).await;
        eventually_async(SOON, "the probe reads its signals", || async {
            let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
            let blocked = status.lines().find_map(|line| line.strip_prefix("SigBlk:")).unwrap_or_default().trim();
            if blocked.bytes().any(|digit| digit != b'0') { Ok(()) } else { Err(status.lines().count()) }
        })
        .await;
    }

    /// Stops a container with a grace in seconds.
    pub(crate) async fn stop(&mut self, container: &str, grace: i64) {
        let request = StopContainerRequest { container_id: container.to_owned(), timeout: grace };
        self.runtime.stop_container(request).await.expect("the container stops");
    }

    /// Removes a container.
    pub(crate) async fn discard(&mut self, container: &str) {
        let request = RemoveContainerRequest { container_id: container.to_owned() };
        self.runtime.remove_container(request).await.expect("the container is removed");
    }

    /// Where a container of the pod has its log.
    pub(crate) fn log_path(&self, config: &ContainerConfig) -> PathBuf {
        PathBuf::from(&self.config.log_directory).join(&config.log_path)
    }

    /// The entries of a container's log.
    pub(crate) fn log(&self, config: &ContainerConfig) -> Vec<log_file::Entry> {
        log_file::read(&self.log_path(config))
    }

    /// See [`TempNode::finish`].
    pub(crate) async fn finish(self) {
        self.node.finish().await;
    }
}

impl Deref for Scene {
    type Target = Cri;

    fn deref(&self) -> &Cri {
        &self.cri
    }
}

impl DerefMut for Scene {
    fn deref_mut(&mut self) -> &mut Cri {
        &mut self.cri
    }
}

/// A container of the probe image.
pub(crate) fn probe(name: &str, arguments: &[&str]) -> ContainerConfig {
    of_image(name, support::PROBE, arguments)
}

/// A container of any image, with a pid namespace of its own, as a kubelet asks for it.
pub(crate) fn of_image(name: &str, image: &str, arguments: &[&str]) -> ContainerConfig {
    let mut config = testkit::container(name, image, arguments);
    security(&mut config);
    config
}

/// The same container in the pod's pid namespace.
pub(crate) fn in_pod_pids(mut config: ContainerConfig) -> ContainerConfig {
    security(&mut config).namespace_options = Some(NamespaceOption::default());
    config
}

/// One that waits.
pub(crate) fn sleeper(name: &str) -> ContainerConfig {
    probe(name, &["sleep", "forever"])
}

/// The container's security context, to be filled in.
pub(crate) fn security(config: &mut ContainerConfig) -> &mut LinuxContainerSecurityContext {
    let linux = config.linux.get_or_insert_with(|| LinuxContainerConfig {
        security_context: Some(LinuxContainerSecurityContext {
            namespace_options: Some(NamespaceOption { pid: NamespaceMode::Container.into(), ..Default::default() }),
            ..Default::default()
        }),
        ..Default::default()
    });
    linux.security_context.get_or_insert_default()
}

/// The pod's security context, to be filled in.
pub(crate) fn pod_security(config: &mut PodSandboxConfig) -> &mut LinuxSandboxSecurityContext {
    config.linux.get_or_insert_with(LinuxPodSandboxConfig::default).security_context.get_or_insert_default()
}

/// The pod's namespaces, to be chosen; at first those that a kubelet asks for.
pub(crate) fn namespaces(config: &mut PodSandboxConfig) -> &mut NamespaceOption {
    let ordinary = NamespaceOption { pid: NamespaceMode::Container.into(), ..Default::default() };
    pod_security(config).namespace_options.get_or_insert(ordinary)
}
