//! One node, and the program to talk to it.

use std::{
    io::Write,
    process::{Command, Output, Stdio},
    thread,
    time::Duration,
};

use serde_json::Value;
use testkit::{BuiltImage, ImageBuilder, Layer, TempNode, programs};

/// How long what happens by itself may take.
pub(crate) const SOON: Duration = Duration::from_secs(20);

/// A node and the tool.
pub(crate) struct Coracle {
    pub(crate) node: TempNode,
}

impl Coracle {
    pub(crate) fn start() -> Coracle {
        Coracle { node: TempNode::start() }
    }

    /// The program with these arguments, ready to run in the node's directory.
    pub(crate) fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(programs().join("coracle"));
        command.env("CORACLE_HOST", format!("unix://{}", self.node.socket().display()));
        command.args(arguments).current_dir(self.node.dir()).stdin(Stdio::null());
        command
    }

    /// What came of it, with these bytes on its standard input.
    pub(crate) fn fed(&self, arguments: &[&str], input: &[u8]) -> Output {
        let mut command = self.command(arguments);
        let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        let (mut stdin, input) = (child.stdin.take().unwrap(), input.to_vec());
        let writer = thread::spawn(move || {
            // Who has read enough is not to be blamed for that.
            let _ = stdin.write_all(&input);
        });
        let output = child.wait_with_output().unwrap();
        writer.join().unwrap();
        output
    }

    /// What it prints; panics unless it succeeds.
    pub(crate) fn ok(&self, arguments: &[&str]) -> String {
        let output = self.command(arguments).output().unwrap();
        assert!(output.status.success(), "coracle {arguments:?}: {}", told(&output));
        String::from_utf8(output.stdout).unwrap()
    }

    /// Its exit code and what it says on standard error; panics if it succeeds.
    pub(crate) fn fails(&self, arguments: &[&str]) -> (i32, String) {
        let output = self.command(arguments).output().unwrap();
        assert!(!output.status.success(), "coracle {arguments:?} succeeds: {}", told(&output));
        (output.status.code().expect("no signal"), String::from_utf8_lossy(&output.stderr).into_owned())
    }

    /// Loads an archive; what the program prints.
    pub(crate) fn load(&self, archive: &[u8]) -> String {
        let output = self.fed(&["load"], archive);
        assert!(output.status.success(), "{}", told(&output));
        String::from_utf8(output.stdout).unwrap()
    }

    /// Every image, as `images --format json` tells it.
    pub(crate) fn images(&self) -> Vec<Value> {
        let text = self.ok(&["images", "--no-trunc", "--format", "json"]);
        text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
    }

    /// Ends the node and checks that nothing is left.
    pub(crate) async fn finish(self) {
        self.node.finish().await;
    }
}

/// Runs another tool; what it prints. Panics unless it succeeds.
pub(crate) fn run(command: &mut Command) -> String {
    let output = command.stdin(Stdio::null()).output().unwrap_or_else(|error| panic!("{command:?}: {error}"));
    assert!(output.status.success(), "{command:?}: {}", told(&output));
    String::from_utf8(output.stdout).unwrap()
}

pub(crate) fn told(output: &Output) -> String {
    let text = |bytes: &[u8]| String::from_utf8_lossy(&bytes[..bytes.len().min(4096)]).into_owned();
    format!("{}\n{}{}", output.status, text(&output.stdout), text(&output.stderr))
}

/// An image of two layers, the upper one with this text.
pub(crate) fn image(text: &str) -> BuiltImage {
    let base = Layer::new().directory("etc", 0o755).file("etc/base", 0o644, b"base").file("gone", 0o644, b"x");
    let top = Layer::new().file("etc/text", 0o640, text.as_bytes()).file(".wh.gone", 0o644, b"");
    ImageBuilder::new().layer(base).layer(top).set("Cmd", serde_json::json!(["sh"])).build()
}
