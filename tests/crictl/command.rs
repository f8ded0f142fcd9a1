//! One node, its registry, and crictl to talk to it.

use std::{
    fs,
    path::Path,
    process::{Command, Output},
};

use serde_json::Value;
use testkit::{DebianRegistry, NodeOptions, TempNode};

use crate::host::Host;

/// A node and the tool.
pub(crate) struct Crictl {
    pub(crate) node: TempNode,
    /// Serves as long as the node pulls.
    _registry: DebianRegistry,
}

impl Crictl {
    pub(crate) fn start() -> Crictl {
        let node = TempNode::start();
        let registry = DebianRegistry::start();
        registry.serve(&node);
        Crictl { node, _registry: registry }
    }

    /// A node on a host of its own, with the registry.
    pub(crate) fn on(host: &Host) -> Crictl {
        let node = TempNode::start_with(NodeOptions { netns: Some(host.netns.path()), ..Default::default() });
        // Its own address is the loopback's.
        let registry = host.netns.inside(DebianRegistry::start);
        registry.serve(&node);
        Crictl { node, _registry: registry }
    }

    /// crictl with these arguments, ready to run.
    pub(crate) fn command(&self, arguments: &[&str]) -> Command {
        let endpoint = format!("unix://{}", self.node.socket().display());
        let program = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/tools/bin/crictl");
        let mut command = Command::new(program);
        command.args(["--config", "/dev/null", "--runtime-endpoint", &endpoint, "--image-endpoint", &endpoint]);
        command.args(["--timeout", "30s"]).args(arguments).current_dir(self.node.dir());
        command
    }

    /// What it prints; panics unless it succeeds.
    pub(crate) fn ok(&self, arguments: &[&str]) -> String {
        let output = self.command(arguments).output().unwrap();
        assert!(output.status.success(), "crictl {arguments:?}: {}", told(&output));
        String::from_utf8(output.stdout).unwrap()
    }

    /// The JSON that it prints.
    pub(crate) fn json(&self, arguments: &[&str]) -> Value {
        let text = self.ok(arguments);
        serde_json::from_str(&text).unwrap_or_else(|error| panic!("crictl {arguments:?}: {error}: {text}"))
    }

    /// What it says on standard error; panics if it succeeds.
    pub(crate) fn fails(&self, arguments: &[&str]) -> String {
        let output = self.command(arguments).output().unwrap();
        assert!(!output.status.success(), "crictl {arguments:?} succeeds: {}", told(&output));
        String::from_utf8_lossy(&output.stderr).into_owned()
    }

    /// Writes a configuration file; its path.
    pub(crate) fn file(&self, name: &str, content: &Value) -> String {
        let path = self.node.dir().join(name);
        fs::write(&path, content.to_string()).unwrap();
        path.display().to_string()
    }

    /// Ends the node and checks that nothing is left.
    pub(crate) async fn finish(self) {
        self.node.finish().await;
    }
}

fn told(output: &Output) -> String {
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    format!("{}\n{}{}", output.status, text(&output.stdout), text(&output.stderr))
}
