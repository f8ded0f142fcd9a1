//! Networks of other people's making, as a client of CRI meets them: plugins that fail in every way, pods that have to
//! go all the same, and a directory of configurations that changes under the daemon.
//!
//! The plugin does what each test tells it ([`testkit::Plugin`]); what real ones do is `tests/cni`.

use std::{
    fs,
    path::{Path, PathBuf},
    time::Duration,
};

use api::cri::v1::{
    ListPodSandboxRequest, PodSandboxState, PodSandboxStatus, PodSandboxStatusRequest, RemovePodSandboxRequest,
    RuntimeCondition, StatusRequest, StopPodSandboxRequest,
};
use serde_json::{Value, json};
use testkit::{Cri, NodeOptions, Plugin, TempNode, eventually_async};
use tonic::Status;

mod add;
mod del;
mod directory;
mod specification;

/// For what happens at once.
const SOON: Duration = Duration::from_secs(10);
/// For what is tried again with growing pauses.
const SOME_TIME: Duration = Duration::from_secs(60);
/// How long a plugin may take on these nodes, seconds.
const PLUGIN_TIMEOUT_S: u64 = 2;
/// The plugin's type, and the network's name.
const KIND: &str = "scripted";
const NETWORK: &str = "of-others";

/// Directories of a network: configurations, plugins, cache. The plugin in them does as it is told.
struct Place {
    dir: tempfile::TempDir,
    plugin: Plugin,
}

impl Place {
    /// With one configuration that is good.
    fn new() -> Place {
        let place = Place::without_configuration();
        place.write("10-good.conflist", &list(NETWORK, json!({})));
        place
    }

    fn without_configuration() -> Place {
        let dir = tempfile::Builder::new().prefix("crt-cni-").tempdir().unwrap();
        fs::create_dir(dir.path().join("net.d")).unwrap();
        let plugin = Plugin::install(&dir.path().join("bin"), KIND);
        Place { dir, plugin }
    }

    fn conf_dir(&self) -> PathBuf {
        self.dir.path().join("net.d")
    }

    fn write(&self, name: &str, content: &Value) {
        fs::write(self.conf_dir().join(name), content.to_string()).unwrap();
    }

    /// Names of the attachments that are cached.
    fn cached(&self) -> Vec<String> {
        let entries = fs::read_dir(self.dir.path().join("cache/results")).into_iter().flatten().flatten();
        entries.map(|entry| entry.file_name().to_string_lossy().into_owned()).collect()
    }

    fn options(&self) -> NodeOptions {
        let dir = self.dir.path().display();
        let network = format!(
            "conf_dir = \"{dir}/net.d\"\nbin_dirs = [\"{dir}/bin\"]\ncache_dir = \"{dir}/cache\"\nbuiltin = false\n\
             plugin_timeout_s = {PLUGIN_TIMEOUT_S}\n"
        );
        NodeOptions { network, ..Default::default() }
    }

    async fn node(&self) -> TempNode {
        let options = self.options();
        tokio::task::spawn_blocking(|| TempNode::start_with(options)).await.unwrap()
    }

    /// The node's end, and that nothing is left of the network either.
    async fn finish(self, node: TempNode) {
        node.finish().await;
        assert_eq!(self.cached(), Vec::<String>::new(), "attachments of nobody are cached");
        assert_eq!(self.plugin.running(), Vec::<i32>::new(), "calls of the plugin that still run");
    }
}

/// A list of the scripted plugin alone, with more keys for it.
fn list(name: &str, more: Value) -> Value {
    let mut plugin = json!({ "type": KIND });
    plugin.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
    json!({ "cniVersion": "1.0.0", "name": name, "plugins": [plugin] })
}

/// The condition of the network.
async fn network(cri: &mut Cri) -> RuntimeCondition {
    let answer = cri.runtime.status(StatusRequest { verbose: false }).await.unwrap().into_inner();
    let conditions = answer.status.unwrap().conditions;
    conditions.into_iter().find(|condition| condition.r#type == "NetworkReady").unwrap()
}

/// Waits until the network is ready, or is not.
async fn await_network(cri: &Cri, ready: bool) -> RuntimeCondition {
    eventually_async(SOON, &format!("NetworkReady is {ready}"), || async {
        let condition = network(&mut cri.clone()).await;
        if condition.status == ready { Ok(condition) } else { Err(condition) }
    })
    .await
}

/// Runs a pod that becomes none; what is said of it.
async fn refused(cri: &mut Cri, name: &str, dir: &Path) -> Status {
    match cri.run(&testkit::pod(name, dir)).await {
        Ok(id) => panic!("pod {name} runs as {id}"),
        Err(status) => status,
    }
}

async fn pod_status(cri: &mut Cri, id: &str) -> PodSandboxStatus {
    let request = PodSandboxStatusRequest { pod_sandbox_id: id.to_owned(), verbose: false };
    cri.runtime.pod_sandbox_status(request).await.unwrap().into_inner().status.unwrap()
}

async fn stop(cri: &mut Cri, id: &str) -> Result<(), Status> {
    cri.runtime.stop_pod_sandbox(StopPodSandboxRequest { pod_sandbox_id: id.to_owned() }).await.map(drop)
}

async fn remove(cri: &mut Cri, id: &str) -> Result<(), Status> {
    cri.runtime.remove_pod_sandbox(RemovePodSandboxRequest { pod_sandbox_id: id.to_owned() }).await.map(drop)
}

/// Pods that are listed as ready.
async fn ready_pods(cri: &mut Cri) -> usize {
    let listed = cri.runtime.list_pod_sandbox(ListPodSandboxRequest::default()).await.unwrap().into_inner().items;
    listed.iter().filter(|pod| pod.state() == PodSandboxState::SandboxReady).count()
}
