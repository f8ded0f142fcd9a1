//! A throwaway node for this room's tests: its own directories, bridge and subnets, and a proof that nothing is left.

use std::{
    fs,
    net::{IpAddr, SocketAddr, TcpListener, TcpStream},
    ops::Deref,
    os::fd::OwnedFd,
    path::{Path, PathBuf},
    process::Command,
    time::{Duration, Instant},
};

use model::PodId;
use network::{Attachment, Choice, Config, Error, Living, Netns, Network, Readiness, Request, Result};
use nix::{
    mount::{MntFlags, umount2},
    sched::{CloneFlags, setns},
};
use serde::{Deserialize, Serialize};

/// A node of one test.
pub(crate) struct Node {
    pub(crate) dir: tempfile::TempDir,
    pub(crate) config: Config,
    pub(crate) network: Network,
}

/// An id that tells test and number, so that leftovers can be traced.
pub(crate) fn pod_id(test: &str, n: usize) -> PodId {
    let mut bytes = [0; 32];
    let seed = test.bytes().chain(std::process::id().to_be_bytes()).chain(n.to_be_bytes());
    // FNV-1a over every byte position, so that any two ids differ in every slice of theirs.
    let mut hash = 0xcbf2_9ce4_8422_2325_u64;
    for byte in seed {
        hash = (hash ^ u64::from(byte)).wrapping_mul(0x100_0000_01b3);
    }
    for chunk in bytes.chunks_exact_mut(8) {
        hash = (hash ^ (hash >> 29)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        chunk.copy_from_slice(&hash.to_be_bytes());
    }
    PodId::from_random(bytes)
}

impl Node {
    /// A node whose names derive from the test's.
    pub(crate) fn new(test: &str) -> Self {
        Self::with(test, |_| {})
    }

    /// The same with other settings.
    pub(crate) fn with(test: &str, change: impl FnOnce(&mut Config)) -> Self {
        assert!(nix::unistd::geteuid().is_root(), "this test makes links and network namespaces: run it as root");
        let dir = tempfile::Builder::new().prefix(&format!("crt-network-{test}-")).tempdir().unwrap();
        let mut config = Config::apart(&format!("{test} {}", std::process::id()));
        config.bridge = format!("crtn{}", &config.bridge[3..]);
        config.netns_dir = dir.path().join("netns");
        change(&mut config);
        let network = Network::open(config.clone(), &dir.path().join("root"), &dir.path().join("state")).unwrap();
        Self { dir, config, network }
    }

    /// What a restart of the daemon does: the same directories, a new life.
    pub(crate) fn restarted(&self) -> Network {
        Network::open(self.config.clone(), &self.root(), &self.dir.path().join("state")).unwrap()
    }

    pub(crate) fn root(&self) -> PathBuf {
        self.dir.path().join("root")
    }

    pub(crate) fn assert_ready(&self) {
        assert_eq!(self.network.readiness(), Readiness::Ready);
    }

    /// Names of the lease files.
    pub(crate) fn leases(&self) -> Vec<String> {
        list(&self.root().join("network/coracle")).into_iter().filter(|name| name.parse::<IpAddr>().is_ok()).collect()
    }

    /// Names of the namespace files.
    pub(crate) fn namespaces(&self) -> Vec<String> {
        list(&self.config.netns_dir)
    }

    /// Names of the bridge's ports.
    pub(crate) fn ports(&self) -> Vec<String> {
        list(Path::new(&format!("/sys/class/net/{}/brif", self.config.bridge)))
    }

    /// Takes the node down and asserts that no link, lease, namespace or rule of it is left.
    pub(crate) async fn ends_clean(self) {
        assert_eq!(self.leases(), [""; 0]);
        assert_eq!(self.namespaces(), [""; 0]);
        eventually("the bridge has no port", || self.ports().is_empty());
        self.network.dismantle().await.unwrap();
        assert!(!Path::new(&format!("/sys/class/net/{}", self.config.bridge)).exists());
        umount2(&self.config.netns_dir, MntFlags::MNT_DETACH).unwrap();
    }
}

/// A pod's place in its networks, with all that leaving them needs.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Attached {
    pub(crate) choice: Choice,
    pub(crate) request: Request,
    pub(crate) made: Attachment,
}

impl Deref for Attached {
    type Target = Attachment;

    fn deref(&self) -> &Attachment {
        &self.made
    }
}

impl Attached {
    /// The host's end of the pod's link.
    pub(crate) fn host_interface(&self) -> String {
        let links = &self.networks[0].result.interfaces;
        links.iter().find(|link| link.name.starts_with("veth")).unwrap().name.clone()
    }

    /// As a record has it after a restart.
    pub(crate) fn living(&self, pod: &PodId) -> Living {
        let Attached { choice, request, made } = self;
        let (choice, request, attachment) = (choice.clone(), request.clone(), Some(made.clone()));
        Living { pod: pod.clone(), choice, request, attachment }
    }

    /// Largest packet of that link.
    pub(crate) fn mtu(&self) -> u32 {
        // Not from /sys, which shows the links of whoever mounted it.
        let shown = Command::new("ip").args(["-o", "link", "show", "dev", &self.host_interface()]).output().unwrap();
        let shown = String::from_utf8(shown.stdout).unwrap();
        shown.split_whitespace().skip_while(|word| *word != "mtu").nth(1).unwrap().parse().unwrap()
    }
}

/// Has a pod join the networks that count.
pub(crate) async fn attach(network: &Network, pod: &PodId, netns: &Netns) -> Result<Attached> {
    attach_asking(network, pod, netns, &Request::default()).await
}

pub(crate) async fn attach_asking(
    network: &Network,
    pod: &PodId,
    netns: &Netns,
    request: &Request,
) -> Result<Attached> {
    let choice = network.choose(pod, request)?;
    let made = network.attach(pod, netns, &choice, request).await?;
    Ok(Attached { choice, request: request.clone(), made })
}

/// Has it leave them; by its name alone, as a crash leaves it, without `attached`.
pub(crate) async fn detach(network: &Network, pod: &PodId, attached: Option<&Attached>) -> Result<()> {
    match attached {
        Some(Attached { choice, request, made }) => network.detach(pod, choice, request, Some(made)).await,
        None => {
            let request = Request::default();
            network.detach(pod, &network.choose(pod, &request)?, &request, None).await
        }
    }
}

/// The reason of an attachment that did not come about.
pub(crate) fn reason(error: &Error) -> &Error {
    match error {
        Error::SetUp { source, .. } => source,
        other => other,
    }
}

/// Waits for the kernel, which takes namespaces down in the background.
pub(crate) fn eventually(what: &str, mut holds: impl FnMut() -> bool) {
    let deadline = Instant::now() + Duration::from_secs(20);
    while !holds() {
        assert!(Instant::now() < deadline, "it never came true that {what}");
        std::thread::park_timeout(Duration::from_millis(5));
    }
}

fn list(dir: &Path) -> Vec<String> {
    let Ok(entries) = fs::read_dir(dir) else { return Vec::new() };
    let mut names: Vec<_> = entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
    names.sort();
    names
}

/// Runs something inside a network namespace, on a thread of its own.
pub(crate) fn inside<T: Send + 'static>(netns: &OwnedFd, act: impl FnOnce() -> T + Send + 'static) -> T {
    let netns = netns.try_clone().unwrap();
    std::thread::spawn(move || {
        setns(netns, CloneFlags::CLONE_NEWNET).unwrap();
        act()
    })
    .join()
    .unwrap()
}

/// Listens inside a namespace on every address; the kernel accepts for as long as the listener lives.
pub(crate) fn listener_in(netns: &OwnedFd, port: u16) -> TcpListener {
    inside(netns, move || TcpListener::bind(SocketAddr::from(([0_u16; 8], port))).unwrap())
}

/// Whether a connection comes about, from inside a namespace or (`None`) from the host; gives the address it came from.
pub(crate) fn reaches(from: Option<&OwnedFd>, to: IpAddr, listener: &TcpListener) -> bool {
    let address = SocketAddr::new(to, listener.local_addr().unwrap().port());
    let connect = move || TcpStream::connect_timeout(&address, Duration::from_secs(2)).is_ok();
    match from {
        Some(netns) => inside(netns, connect),
        None => connect(),
    }
}
