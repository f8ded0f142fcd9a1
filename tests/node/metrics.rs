//! The metrics as Prometheus reads them: over a unix socket and over loopback, and nowhere unless the settings say so.

use std::{
    fs,
    io::{Read, Write},
    net::{SocketAddr, TcpListener, TcpStream},
    os::unix::{fs::PermissionsExt, net::UnixStream},
    path::Path,
    process::{Command, Stdio},
    time::Duration,
};

use testkit::{NodeOptions, container, eventually, pod, programs};

use crate::support::{PROBE, node, node_with};

const SOON: Duration = Duration::from_secs(20);

/// The answer to one request, with its head.
fn asked(mut stream: impl Read + Write, request: &str) -> String {
    stream.write_all(format!("{request}\r\nhost: node\r\n\r\n").as_bytes()).unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    answer
}

fn page(stream: impl Read + Write) -> String {
    let answer = asked(stream, "GET /metrics HTTP/1.1");
    let (head, page) = answer.split_once("\r\n\r\n").unwrap();
    assert!(head.starts_with("HTTP/1.1 200 OK\r\n"), "{head}");
    assert!(head.contains("content-type: text/plain; version=0.0.4"), "{head}");
    page.to_owned()
}

/// The value of a sample, by its name and labels.
fn value(page: &str, sample: &str) -> f64 {
    let line = page.lines().find_map(|line| line.strip_prefix(sample)?.strip_prefix(' '));
    line.unwrap_or_else(|| panic!("{sample} is not in {page}")).parse().unwrap()
}

/// A port of loopback that nobody has.
fn free_port() -> SocketAddr {
    TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap()
}

#[ignore = "needs root: runs a node"]
#[tokio::test(flavor = "multi_thread")]
async fn pods_containers_and_the_network_are_counted_as_they_are_now() {
    let dir = tempfile::tempdir().unwrap();
    let (socket, conf_dir) = (dir.path().join("metrics.sock"), dir.path().join("net.d"));
    fs::create_dir(&conf_dir).unwrap();
    let mut node = crate::support::prepared(NodeOptions {
        config: format!("[metrics]\nlisten = \"unix://{}\"", socket.display()),
        ..NodeOptions::default()
    })
    .await;
    fs::create_dir(node.dir().join("conf.d")).unwrap();
    fs::write(node.dir().join("conf.d/network.toml"), format!("[network]\nconf_dir = {conf_dir:?}\n")).unwrap();
    node.start_daemon();
    assert_eq!(fs::metadata(&socket).unwrap().permissions().mode() & 0o777, 0o660, "for root and its group");
    let page = || page(UnixStream::connect(&socket).unwrap());
    let now = page();
    assert_eq!(value(&now, "coracle_network_ready"), 1.0);
    assert_eq!(value(&now, "coracle_network_pending_detachments"), 0.0);
    assert_eq!(value(&now, "coracle_network_pending_oldest_seconds"), 0.0);
    assert_eq!(value(&now, &format!("coracle_build_info{{version=\"{}\"}}", env!("CARGO_PKG_VERSION"))), 1.0);
    assert_eq!((value(&now, "coracle_pods{state=\"ready\"}"), value(&now, "coracle_network_faulty_files")), (0.0, 0.0));

    let mut cri = node.client().await;
    let (one, two) = (pod("one", node.dir()), pod("two", node.dir()));
    let (id, other) = (cri.run(&one).await.unwrap(), cri.run(&two).await.unwrap());
    cri.start(&id, &one, &container("runs", PROBE, &["sleep", "forever"])).await.unwrap();
    cri.create(&id, &one, &container("waits", PROBE, &["sleep", "forever"])).await.unwrap();
    let stop = api::cri::v1::StopPodSandboxRequest { pod_sandbox_id: other };
    cri.runtime.stop_pod_sandbox(stop).await.unwrap();
    let now = page();
    assert_eq!(value(&now, "coracle_pods{state=\"ready\"}"), 1.0);
    assert_eq!(value(&now, "coracle_pods{state=\"notready\"}"), 1.0);
    assert_eq!(value(&now, "coracle_containers{state=\"running\"}"), 1.0);
    assert_eq!(value(&now, "coracle_containers{state=\"created\"}"), 1.0);

    fs::write(conf_dir.join("10-bad.conflist"), "{").unwrap();
    eventually(SOON, "the faulty file is counted", || {
        let now = page();
        let seen = (value(&now, "coracle_network_faulty_files"), value(&now, "coracle_network_ready"));
        if seen == (1.0, 0.0) { Ok(()) } else { Err(seen) }
    });
    fs::remove_file(conf_dir.join("10-bad.conflist")).unwrap();
    let is_one = |sample: &str| if value(&page(), sample) == 1.0 { Ok(()) } else { Err(page()) };
    eventually(SOON, "the network is ready again", || is_one("coracle_network_ready"));

    // A socket that a daemon left is the next one's.
    node.kill_daemon();
    node.start_daemon();
    eventually(SOON, "pods are counted after a restart", || is_one("coracle_containers{state=\"running\"}"));
    node.finish().await;
}

#[ignore = "needs root: runs a node"]
#[tokio::test(flavor = "multi_thread")]
async fn on_loopback_there_is_one_page_and_a_slow_client_keeps_nobody_from_it() {
    let address = free_port();
    let config = format!("[metrics]\nlisten = \"{address}\"");
    let node = node_with(NodeOptions { config, ..NodeOptions::default() }).await;
    let connect = || TcpStream::connect(address).unwrap();
    let slow: Vec<_> = std::iter::repeat_with(|| {
        let mut stream = connect();
        stream.write_all(b"GET /metr").unwrap();
        stream
    })
    .take(40)
    .collect();
    assert_eq!(value(&page(connect()), "coracle_network_ready"), 1.0);
    assert!(asked(connect(), "GET / HTTP/1.1").starts_with("HTTP/1.1 404 "));
    assert!(asked(connect(), "POST /metrics HTTP/1.1").starts_with("HTTP/1.1 405 "));
    drop(slow);
    node.finish().await;
}

#[ignore = "needs root: runs a node"]
#[tokio::test(flavor = "multi_thread")]
async fn without_a_setting_nothing_listens_beside_the_socket() {
    let node = node().await;
    let tables = |pid: i32| {
        let sockets: Vec<_> = fs::read_dir(format!("/proc/{pid}/fd"))
            .unwrap()
            .filter_map(|fd| fs::read_link(fd.unwrap().path()).ok())
            .filter_map(|link| link.to_str()?.strip_prefix("socket:[")?.strip_suffix(']').map(str::to_owned))
            .collect();
        let listening = |table: &str| {
            let table = fs::read_to_string(table).unwrap();
            let inodes = table.lines().filter(|line| line.split_whitespace().nth(3) == Some("0A"));
            inodes.filter_map(|line| line.split_whitespace().nth(9).map(str::to_owned)).collect::<Vec<_>>()
        };
        let inodes = [listening("/proc/net/tcp"), listening("/proc/net/tcp6")].concat();
        inodes.into_iter().filter(|inode| sockets.contains(inode)).count()
    };
    assert_eq!(tables(node.daemon_pid()), 0);
    node.finish().await;
}

#[ignore = "needs root: runs the daemon"]
#[test]
fn an_address_that_others_could_reach_is_refused_by_name_at_the_start() {
    let dir = tempfile::tempdir().unwrap();
    for listen in ["0.0.0.0:9090", "[::]:9090", "192.0.2.1:9090", "nonsense"] {
        let file = dir.path().join("config.toml");
        fs::write(&file, format!("[metrics]\nlisten = \"{listen}\"\n")).unwrap();
        let (code, told) = started(&file, dir.path());
        assert_eq!(code, Some(2), "{told}");
        assert!(told.contains(&format!("metrics.listen: {listen:?}")), "{told}");
    }
    // One that somebody else has.
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = taken.local_addr().unwrap();
    let file = dir.path().join("config.toml");
    fs::write(&file, format!("[metrics]\nlisten = \"{address}\"\n")).unwrap();
    let (code, told) = started(&file, dir.path());
    assert!(code == Some(1) && told.contains(&format!("listen on {address}")), "{code:?} {told}");
}

/// The daemon with these settings, to an end that comes by itself.
fn started(config: &Path, dir: &Path) -> (Option<i32>, String) {
    let mut command = Command::new(programs().join("coracled"));
    command.arg("--root").arg(dir.join("root")).arg("--state").arg(dir.join("state"));
    let output = command.arg("--config").arg(config).stdin(Stdio::null()).output().unwrap();
    (output.status.code(), String::from_utf8_lossy(&output.stderr).into_owned())
}
