//! What a stage of the tests has left on the host's network is seen: the look of `tests/run` before and after.

use std::{
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
};

use crate::host::Netns;

/// What every look is held against, in a namespace that stands for the host.
struct Taken {
    host: Netns,
    dir: tempfile::TempDir,
}

impl Taken {
    fn new(host: Netns) -> Taken {
        let taken = Taken { host, dir: tempfile::Builder::new().prefix("crt-left-").tempdir().unwrap() };
        assert!(taken.start("take", &[]).wait().unwrap().success());
        taken
    }

    fn file(&self) -> PathBuf {
        self.dir.path().join("before")
    }

    fn start(&self, verb: &str, more: &[&str]) -> Child {
        let program = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/network");
        let mut command = Command::new("unshare");
        // Namespaces have their names in `/run`, which is the machine's: others name theirs there.
        command.args(["--mount", "sh", "-ec", "mount -t tmpfs none /run; exec \"$@\"", "sh"]).arg(program);
        command.arg(verb).arg(self.file()).args(more).stdout(Stdio::piped());
        self.host.inside(move || command.spawn().unwrap())
    }

    /// The difference, after so many seconds of waiting; `None` where there is none.
    fn difference(&self, seconds: &str) -> Option<String> {
        let output = self.start("compare", &[seconds]).wait_with_output().unwrap();
        let said = String::from_utf8(output.stdout).unwrap();
        assert_eq!(output.status.success(), said.is_empty(), "{said}");
        (!output.status.success()).then_some(said)
    }
}

#[test]
#[ignore = "needs root: makes a network namespace"]
fn whatever_is_left_on_the_host_is_told_and_what_goes_late_is_waited_for() {
    let host = Netns::new();
    host.ip("link set lo up");
    host.ip("link add stays type veth peer name far");
    let taken = Taken::new(host);
    let host = &taken.host;
    assert_eq!(taken.difference("0"), None);
    for (made, ended, word) in [
        ("ip link add left type bridge", "ip link delete left", "\"left\""),
        ("ip address add 172.21.71.1/24 dev stays", "ip address delete 172.21.71.1/24 dev stays", "172.21.71.1"),
        ("ip route add blackhole 172.21.72.0/24", "ip route delete 172.21.72.0/24", "172.21.72.0/24"),
        ("ip rule add from 172.21.73.1 table 9", "ip rule delete from 172.21.73.1 table 9", "172.21.73.1"),
        ("nft add table inet left", "nft delete table inet left", "\"table\": {\"family\": \"inet\""),
    ] {
        host.run(made);
        let told = taken.difference("0").unwrap_or_else(|| panic!("nobody sees {made}"));
        assert!(told.contains(word) && told.contains("\n+"), "{made}: {told}");
        // It goes while it is waited for.
        let waits = taken.start("compare", &["20"]);
        host.run(ended);
        let output = waits.wait_with_output().unwrap();
        assert!(output.status.success(), "{ended}: {}", String::from_utf8_lossy(&output.stdout));
    }
    host.ip("link delete stays");
    assert!(taken.difference("0").unwrap().contains("\"far\""), "what is missing is a difference, too");
}
