//! A throwaway containerd with everything of its own: directories, socket, bridge, addresses, cgroups.

use std::{
    env, fs,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    time::Duration,
};

use api::cri::v1::VersionRequest;
use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};
use serde_json::{Value, json};
use testkit::{Cri, ImageBuilder, Layer, eventually, eventually_async};

use super::{
    engine::{self, Engine},
    options::Options,
    support::PROBE,
};

/// Name of the pause image.
const PAUSE: &str = "localhost/coracle/pause:bench";

/// Its bridge and addresses; ours are another /16.
const BRIDGE: &str = "ctrd-bench0";
const SUBNET: &str = "10.212.0.0/16";

const PATIENCE: Duration = Duration::from_secs(30);

/// A running containerd. Ends with [`Containerd::finish`].
pub(super) struct Containerd {
    dir: PathBuf,
    peers: PathBuf,
    process: Child,
}

impl Containerd {
    /// Starts one, and gives it the probe image and a pause image.
    pub(super) fn start(options: &Options) -> Containerd {
        let bridge_alone = |bridge: &str, subnet: &str, leases: &Path| {
            json!({
                "cniVersion": "1.0.0", "name": "bench",
                "plugins": [{
                    "type": "bridge", "bridge": bridge, "isGateway": true, "isDefaultGateway": true, "ipMasq": true,
                    "hairpinMode": true,
                    "ipam": { "type": "host-local", "dataDir": leases, "ranges": [[{ "subnet": subnet }]] },
                }],
            })
        };
        Containerd::start_with(options, bridge_alone)
    }

    /// The same with the network that `list` makes of a bridge, a subnet and a directory for leases.
    pub(super) fn start_with(options: &Options, list: impl Fn(&str, &str, &Path) -> Value) -> Containerd {
        let peers = fs::canonicalize(&options.peers).unwrap();
        let dir = tempfile::Builder::new().prefix("crt-peer-").tempdir().unwrap().keep();
        for below in ["cni", "logs", "state"] {
            fs::create_dir(dir.join(below)).unwrap();
        }
        let kind = Some("tmpfs");
        nix::mount::mount(kind, &dir.join("state"), kind, nix::mount::MsFlags::empty(), Some("mode=0755")).unwrap();
        let conflist = list(BRIDGE, SUBNET, &dir.join("leases"));
        fs::write(dir.join("cni/10-bench.conflist"), conflist.to_string()).unwrap();
        fs::write(dir.join("config.toml"), config(&dir, &peers)).unwrap();
        let log = fs::File::create(dir.join("log")).unwrap();
        let path = format!("{}:{}", peers.join("bin").display(), env::var("PATH").unwrap());
        let process = Command::new(peers.join("bin/containerd"))
            .arg("--config")
            .arg(dir.join("config.toml"))
            .env("PATH", path)
            .stdin(Stdio::null())
            .stdout(log.try_clone().unwrap())
            .stderr(log)
            .spawn()
            .unwrap();
        let peer = Containerd { dir, peers, process };
        eventually(PATIENCE, "containerd answers", || std::os::unix::net::UnixStream::connect(peer.socket()).map(drop));
        peer.import(PROBE, engine::image());
        let pause = Layer::new().file("pause", 0o755, &fs::read(peer.peers.join("pause")).unwrap());
        peer.import(PAUSE, ImageBuilder::new().layer(pause).set("Entrypoint", json!(["/pause"])));
        peer
    }

    /// It, to be measured.
    pub(super) async fn engine(&self) -> Engine {
        Engine {
            cri: self.client().await,
            socket: self.socket(),
            logs: self.dir.clone(),
            leases: self.dir.join("leases"),
            daemon: self.pid(),
        }
    }

    fn pid(&self) -> i32 {
        self.process.id() as i32
    }

    async fn client(&self) -> Cri {
        let cri = Cri::connect(&self.socket()).await.unwrap();
        // The socket listens before the CRI plugin serves.
        eventually_async(PATIENCE, "containerd serves CRI", || {
            let mut cri = cri.clone();
            async move { cri.runtime.version(VersionRequest::default()).await }
        })
        .await;
        cri
    }

    /// Removes its pods, ends it, and gives back what it leaves: it never removes its bridge.
    pub(super) async fn finish(mut self) {
        self.client().await.remove_all().await.unwrap();
        kill(Pid::from_raw(self.pid()), Signal::SIGTERM).unwrap();
        eventually(PATIENCE, "containerd ends", || self.process.try_wait().unwrap().ok_or("it runs"));
        // Made with the first pod, if there was one.
        if Path::new("/sys/class/net").join(BRIDGE).exists() {
            let ended = Command::new("ip").args(["link", "delete", BRIDGE]).status().unwrap();
            assert!(ended.success(), "the bridge is deleted");
        }
        let mounts = fs::read_to_string("/proc/self/mountinfo").unwrap();
        for at in mounts.lines().rev().filter_map(|line| line.split(' ').nth(4)) {
            if Path::new(at).starts_with(&self.dir) {
                nix::mount::umount2(at, nix::mount::MntFlags::MNT_DETACH).unwrap();
            }
        }
        fs::remove_dir_all(&self.dir).unwrap();
    }

    fn socket(&self) -> PathBuf {
        self.dir.join("containerd.sock")
    }

    fn import(&self, name: &str, image: ImageBuilder) {
        let archive = self.dir.join("archive.tar");
        fs::write(&archive, image.build().archive(name)).unwrap();
        let done = Command::new(self.peers.join("bin/ctr"))
            .args(["--address", &self.socket().display().to_string(), "--namespace", "k8s.io", "images", "import"])
            .args(["--no-unpack=false", &archive.display().to_string()])
            .output()
            .unwrap();
        assert!(done.status.success(), "import {name}: {}", String::from_utf8_lossy(&done.stderr));
        fs::remove_file(archive).unwrap();
    }
}

/// `containerd 1.6.20, runc 1.1.5`
pub(super) fn version(peers: &Path) -> String {
    let of = |program: &str, word: usize| {
        let said = Command::new(peers.join("bin").join(program)).arg("--version").output().unwrap().stdout;
        let said = String::from_utf8_lossy(&said).into_owned();
        said.split_whitespace().nth(word).unwrap_or("unknown").to_owned()
    };
    format!("containerd {}, runc {}", of("containerd", 2), of("runc", 2))
}

fn config(dir: &Path, peers: &Path) -> String {
    let dir = dir.display();
    let peers = peers.display();
    format!(
        r#"version = 2
root = "{dir}/root"
state = "{dir}/state"
[grpc]
address = "{dir}/containerd.sock"
[ttrpc]
address = "{dir}/containerd.sock.ttrpc"
[debug]
level = "warn"
[plugins."io.containerd.grpc.v1.cri"]
sandbox_image = "{PAUSE}"
restrict_oom_score_adj = true
disable_apparmor = true
stream_server_port = "0"
[plugins."io.containerd.grpc.v1.cri".cni]
bin_dir = "{peers}/cni"
conf_dir = "{dir}/cni"
[plugins."io.containerd.grpc.v1.cri".containerd]
snapshotter = "overlayfs"
[plugins."io.containerd.grpc.v1.cri".containerd.runtimes.runc]
runtime_type = "io.containerd.runc.v2"
[plugins."io.containerd.grpc.v1.cri".containerd.runtimes.runc.options]
BinaryName = "{peers}/bin/runc"
Root = "{dir}/state/runc"
"#
    )
}
