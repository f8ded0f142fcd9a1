//! UpdateRuntimeConfig: with a template the node's network is configured from the ranges that its pods have.

use std::{fs, os::unix::fs::MetadataExt, path::PathBuf, time::Duration};

use api::cri::v1::{NetworkConfig, RuntimeConfig, StatusRequest, UpdateRuntimeConfigRequest};
use testkit::{Cri, NodeOptions, TempNode, eventually_async, pod};
use tonic::{Code, Status};

use crate::support;

const SOON: Duration = Duration::from_secs(20);

/// As containerd's documentation has it, with a bridge of the test's own.
const TEMPLATE: &str = r#"{
  "name": "of-the-node",
  "cniVersion": "1.0.0",
  "plugins": [{
    "type": "bridge",
    "bridge": "BRIDGE",
    "isGateway": true,
    "ipMasq": false,
    "ipam": {
      "type": "host-local",
      "dataDir": "LEASES",
      "ranges": [
        {{- range $i, $range := .PodCIDRRanges}}{{if $i}}, {{end}}[{"subnet": "{{$range}}"}]{{end -}}
      ],
      "routes": [{{range $i, $route := .Routes}}{{if $i}}, {{end}}{"dst": "{{$route}}"}{{end}}]
    }
  }]
}
"#;

/// A node that waits for its ranges.
struct Waiting {
    node: TempNode,
}

impl Waiting {
    async fn start() -> Waiting {
        let node = support::prepared(NodeOptions::default()).await;
        let mut waiting = Waiting { node };
        let dir = waiting.node.dir();
        fs::create_dir(dir.join("conf.d")).unwrap();
        let settings = format!(
            "[network]\nbuiltin = false\nconf_dir = {:?}\nconf_template = {:?}\ncache_dir = {:?}\n",
            dir.join("net.d"),
            dir.join("template"),
            dir.join("cache"),
        );
        fs::write(dir.join("conf.d/network.toml"), settings).unwrap();
        waiting.write_template(TEMPLATE);
        waiting.node.start_daemon();
        waiting
    }

    fn write_template(&self, text: &str) {
        let leases = self.node.dir().join("leases");
        let text = text.replace("BRIDGE", &self.node.bridge()).replace("LEASES", &leases.display().to_string());
        fs::write(self.node.dir().join("template"), text).unwrap();
    }

    fn file(&self) -> PathBuf {
        self.node.dir().join("net.d/10-coracle-net.conflist")
    }

    async fn told(&self, pod_cidr: &str) -> Result<(), Status> {
        let mut cri = self.node.client().await;
        let network_config = Some(NetworkConfig { pod_cidr: pod_cidr.to_owned() });
        let request = UpdateRuntimeConfigRequest { runtime_config: Some(RuntimeConfig { network_config }) };
        cri.runtime.update_runtime_config(request).await.map(drop)
    }
}

async fn info(cri: &mut Cri) -> std::collections::BTreeMap<String, String> {
    cri.runtime.status(StatusRequest { verbose: true }).await.unwrap().into_inner().info
}

#[ignore = "needs root: runs a node"]
#[tokio::test(flavor = "multi_thread")]
async fn a_node_that_is_told_its_ranges_gives_its_pods_addresses_of_them() {
    let waiting = Waiting::start().await;
    let mut cri = waiting.node.client().await;
    assert!(info(&mut cri).await["lastCNILoadStatus"].starts_with("cni plugin not initialized"));
    // The kubelet calls before the node has a range, too.
    waiting.told("").await.unwrap();
    assert!(!waiting.file().exists());

    waiting.told("10.254.7.0/24, fd00:254:7::/64").await.unwrap();
    let text = fs::read_to_string(waiting.file()).unwrap();
    assert!(text.contains(r#""ranges": [[{"subnet": "10.254.7.0/24"}], [{"subnet": "fd00:254:7::/64"}]],"#), "{text}");
    assert!(text.contains(r#""routes": [{"dst": "0.0.0.0/0"}, {"dst": "::/0"}]"#), "{text}");
    let written = fs::metadata(waiting.file()).unwrap();
    assert_eq!(written.mode() & 0o777, 0o644);
    let beside = fs::read_dir(waiting.node.dir().join("net.d")).unwrap().count();
    assert_eq!(beside, 1, "nothing lies beside it");

    let config = pod("one", waiting.node.dir());
    let id = eventually_async(SOON, "a pod gets its place", || {
        let (mut cri, config) = (cri.clone(), config.clone());
        async move { cri.run(&config).await }
    })
    .await;
    let request = api::cri::v1::PodSandboxStatusRequest { pod_sandbox_id: id.clone(), verbose: false };
    let status = cri.runtime.pod_sandbox_status(request).await.unwrap().into_inner().status.unwrap();
    let ip = status.network.unwrap().ip;
    assert!(ip.starts_with("10.254.7."), "{ip}");
    let info = info(&mut cri).await;
    let shown: serde_json::Value = serde_json::from_str(&info["cniconfig"]).unwrap();
    assert_eq!(shown["Networks"][0]["Config"]["Name"], "of-the-node");
    assert_eq!(info["lastCNILoadStatus"], "OK");

    // Told the same again, nothing is written; told another range, the file has that.
    waiting.told("10.254.7.0/24,fd00:254:7::/64").await.unwrap();
    assert_eq!(fs::metadata(waiting.file()).unwrap().ino(), written.ino());
    cri.remove(&id).await.unwrap();
    waiting.told("10.254.8.0/24").await.unwrap();
    let text = fs::read_to_string(waiting.file()).unwrap();
    assert!(text.contains(r#"[[{"subnet": "10.254.8.0/24"}]]"#) && !text.contains("::/0"), "{text}");
    waiting.node.finish().await;
}

#[ignore = "needs root: runs a node"]
#[tokio::test(flavor = "multi_thread")]
async fn what_cannot_be_is_refused_by_name_and_replaces_nothing() {
    let waiting = Waiting::start().await;
    let malformed = waiting.told("10.254.7.0/24,10.254.7").await.unwrap_err();
    assert_eq!(malformed.code(), Code::InvalidArgument, "{malformed}");
    let text = malformed.message();
    assert!(text.contains("runtime_config.network_config.pod_cidr") && text.contains("\"10.254.7\""), "{text}");

    waiting.told("10.254.7.0/24").await.unwrap();
    let before = fs::read_to_string(waiting.file()).unwrap();
    let template = waiting.node.dir().join("template").display().to_string();
    for (text, named) in [
        ("{\n  {{.Gateway}}", ":2:3: \".Gateway\""),
        (r#"{"cniVersion":"1.0.0","name":"x","plugins":[{"subnet":"{{.PodCIDR}}"}]}"#, "plugins[0].type"),
    ] {
        waiting.write_template(text);
        let refused = waiting.told("10.254.8.0/24").await.unwrap_err();
        assert_eq!(refused.code(), Code::FailedPrecondition, "{refused}");
        assert!(refused.message().contains(&template) && refused.message().contains(named), "{refused}");
        assert!(waiting.node.log().contains(&template), "the log says so, too");
        assert_eq!(fs::read_to_string(waiting.file()).unwrap(), before);
    }
    waiting.node.finish().await;
}

#[ignore = "needs root: runs a node"]
#[tokio::test(flavor = "multi_thread")]
async fn nothing_is_written_beside_a_file_that_gives_a_network() {
    let waiting = Waiting::start().await;
    fs::create_dir(waiting.node.dir().join("net.d")).unwrap();
    let theirs = waiting.node.dir().join("net.d/50-theirs.conflist");
    fs::write(&theirs, r#"{"cniVersion":"1.0.0","name":"theirs","plugins":[{"type":"loopback"}]}"#).unwrap();
    for _ in 0..3 {
        waiting.told("10.254.7.0/24").await.unwrap();
        assert!(!waiting.file().exists());
    }
    let log = waiting.node.log();
    assert_eq!(log.matches("another file gives a network").count(), 1, "told once: {log}");
    // Without theirs ours is written.
    fs::remove_file(&theirs).unwrap();
    waiting.told("10.254.7.0/24").await.unwrap();
    assert!(waiting.file().exists());
    waiting.node.finish().await;
}
