//! What a pod's network costs on both engines from the same configuration list: a bridge with addresses and
//! masquerading, and a host port. On ours by its own plugins, and by the very binaries that the other runs.

use std::{
    fs::File,
    io::ErrorKind,
    net::{IpAddr, SocketAddr, TcpListener, TcpStream},
    path::{Path, PathBuf},
    process::{Command, Stdio},
    time::Duration,
};

use api::cri::v1::{PodSandboxConfig, PodSandboxStatusRequest, PortMapping};
use nix::sched::{CloneFlags, setns};
use serde_json::{Value, json};
use testkit::{Cri, eventually};
use tokio::task::JoinSet;

use super::{
    containerd::Containerd,
    engine::{self, Engine},
    life,
    options::{Options, Part},
    report::{Row, Spread, Unit},
};

/// Rounds that are not counted.
const WARM_UP: usize = 3;
/// Where pods listen, and the first port of the host's that is given out.
const INSIDE: i32 = 8080;
const PORTS: i32 = 20_000;
/// Pods in a row on ours, and of them at each end.
const CROWD: usize = 500;
const ENDS: usize = 30;
/// Pods at once on ours, by how many clients.
const AT_ONCE: usize = 200;
/// How long a throughput is taken, in seconds, and how often.
const SECONDS: usize = 3;
const TIMES: usize = 3;
/// How long whatever was started may take to be there.
const PATIENCE: Duration = Duration::from_secs(10);

/// The list for a bridge of this name; leases lie in `leases`.
fn list(bridge: &str, subnet: &str, leases: &Path) -> Value {
    json!({
        "cniVersion": "1.0.0", "name": "bench",
        "plugins": [
            {
                "type": "bridge", "bridge": bridge, "isGateway": true, "isDefaultGateway": true, "ipMasq": true,
                "hairpinMode": true,
                "ipam": { "type": "host-local", "dataDir": leases, "ranges": [[{ "subnet": subnet }]] },
            },
            { "type": "portmap", "capabilities": { "portMappings": true } },
        ],
    })
}

/// All rows.
pub(super) async fn of_both(options: &Options) -> Vec<Row> {
    let mut rows = Vec::new();
    for (native, how) in [(true, ""), (false, ", plugins run by their binaries")] {
        let listed = |dir: &Path, subnet: &str| list("crt-bench1", subnet, &dir.join("leases"));
        let (node, ours) = engine::on_a_list(listed, &options.peers.join("cni"), native).await;
        let theirs = Containerd::start_with(options, list);
        let mut engines = [ours, theirs.engine().await];
        rows.extend(calls(&mut engines, options, how).await);
        if native {
            rows.extend(throughput(&mut engines).await);
            rows.push(a_port(&mut engines[0], options).await);
            rows.extend(at_once(&engines[0]).await);
            // What was deleted is looked past whenever a file is made, and the two ends are to be alike.
            tokio::time::sleep(super::FORGOTTEN).await;
            rows.extend(in_a_row(&mut engines[0], options.pause()).await);
        }
        theirs.finish().await;
        node.finish().await;
        let gone = Command::new("ip").args(["link", "delete", "crt-bench1"]).status().unwrap();
        assert!(gone.success(), "the list's bridge is nobody's but ours");
    }
    rows
}

fn row(what: String, unit: Unit, coracle: Spread, containerd: Option<Spread>) -> Row {
    Row { part: Part::Network, what, unit, coracle, containerd }
}

fn with_port(engine: &Engine, name: &str, port: i32) -> PodSandboxConfig {
    let mapping = PortMapping { host_port: port, container_port: INSIDE, ..PortMapping::default() };
    PodSandboxConfig { port_mappings: vec![mapping], ..engine.pod(name) }
}

/// RunPodSandbox and StopPodSandbox with a host port, alternating.
async fn calls(engines: &mut [Engine; 2], options: &Options, how: &str) -> Vec<Row> {
    let mut took = [const { [const { Vec::new() }; 2] }; 2];
    for round in 0..WARM_UP + options.rounds {
        for (number, (engine, took)) in engines.iter_mut().zip(&mut took).enumerate() {
            let port = PORTS + i32::try_from(number).unwrap();
            let config = with_port(engine, &format!("net-{round}"), port);
            let (id, run) = life::run(engine, &config, options.pause()).await;
            let (netns, _) = place(engine, &id).await;
            assert!(answers(&netns, port), "the host port leads to the pod");
            let stop = life::stop_pod(engine, &id, options.pause()).await;
            assert!(!engine.leases_to(&id), "its address is given back");
            let refused = TcpStream::connect(("127.0.0.1", port as u16)).unwrap_err();
            assert_eq!(refused.kind(), ErrorKind::ConnectionRefused, "the port is free again");
            life::remove_pod(engine, &id, options.pause()).await;
            if round >= WARM_UP {
                took[0].push(run);
                took[1].push(stop);
            }
        }
    }
    let [ours, theirs] = took.map(|calls| calls.map(Spread::of_times));
    let names = ["RunPodSandbox", "StopPodSandbox"];
    let rows = names.iter().zip(ours).zip(theirs);
    rows.map(|((name, ours), theirs)| row(format!("{name}, one host port{how}"), Unit::Ms, ours, Some(theirs)))
        .collect()
}

/// A host port alone: what RunPodSandbox takes longer with one than without, pod by pod.
async fn a_port(engine: &mut Engine, options: &Options) -> Row {
    let mut longer = Vec::new();
    for round in 0..WARM_UP + options.rounds {
        let mut took = [Duration::ZERO; 2];
        for (took, with) in took.iter_mut().zip([false, true]) {
            let name = format!("port-{round}-{with}");
            let config = if with { with_port(engine, &name, PORTS) } else { engine.pod(&name) };
            let (id, run) = life::run(engine, &config, options.pause()).await;
            *took = run;
            life::stop_pod(engine, &id, options.pause()).await;
            life::remove_pod(engine, &id, options.pause()).await;
        }
        if round >= WARM_UP {
            longer.push((took[1].as_secs_f64() - took[0].as_secs_f64()) * 1e3);
        }
    }
    row("a host port, of RunPodSandbox".into(), Unit::Ms, Spread::of(longer), None)
}

/// Many pods asked for at the same moment: no address twice, and how long the slowest took.
async fn at_once(engine: &Engine) -> Vec<Row> {
    let mut tasks = JoinSet::new();
    for number in 0..AT_ONCE {
        let mut engine = engine.with(Cri::connect(&engine.socket).await.unwrap());
        let port = PORTS + i32::try_from(number).unwrap();
        tasks.spawn(async move {
            let config = with_port(&engine, &format!("at-once-{number}"), port);
            let (id, took) = life::run(&mut engine, &config, Duration::ZERO).await;
            let (_, ip) = place(&mut engine, &id).await;
            (engine, id, ip, took)
        });
    }
    let ran = tasks.join_all().await;
    let mut ips: Vec<_> = ran.iter().map(|(_, _, ip, _)| *ip).collect();
    ips.sort();
    ips.dedup();
    assert_eq!(ips.len(), AT_ONCE, "no address twice, none lost");
    let mut times: Vec<Duration> = ran.iter().map(|(.., took)| *took).collect();
    times.sort();
    let p99 = Spread::of_times([times[AT_ONCE * 99 / 100]]);
    for (mut engine, id, ..) in ran {
        life::stop_pod(&mut engine, &id, Duration::ZERO).await;
        life::remove_pod(&mut engine, &id, Duration::ZERO).await;
    }
    let what = |what: &str| format!("RunPodSandbox, one host port, {AT_ONCE} at once{what}");
    vec![
        row(what(""), Unit::Ms, Spread::of_times(times), None),
        row(what(": 99 of 100 take at most"), Unit::Ms, p99, None),
    ]
}

/// Many pods one after the other, each with a port.
async fn in_a_row(engine: &mut Engine, pause: Duration) -> Vec<Row> {
    let (mut ids, mut took) = (Vec::new(), Vec::new());
    for number in 0..CROWD {
        let pause = if (ENDS..CROWD - ENDS).contains(&number) { Duration::ZERO } else { pause };
        let config = with_port(engine, &format!("row-{number}"), PORTS + i32::try_from(number).unwrap());
        let (id, run) = life::run(engine, &config, pause).await;
        ids.push(id);
        took.push(run);
    }
    for id in ids {
        life::stop_pod(engine, &id, Duration::ZERO).await;
        life::remove_pod(engine, &id, Duration::ZERO).await;
    }
    let ends = |times: &[Duration]| Spread::of_times(times.iter().copied());
    vec![
        row(format!("RunPodSandbox, one host port, of the first {ENDS} pods"), Unit::Ms, ends(&took[..ENDS]), None),
        row(
            format!("RunPodSandbox, one host port, of the last {ENDS} of {CROWD} pods"),
            Unit::Ms,
            ends(&took[CROWD - ENDS..]),
            None,
        ),
    ]
}

/// From a pod to another, and to the host: by iperf3, in both pods' namespaces.
async fn throughput(engines: &mut [Engine; 2]) -> Vec<Row> {
    let mut found = [const { [const { Vec::new() }; 2] }; 2];
    for time in 0..TIMES {
        for (engine, found) in engines.iter_mut().zip(&mut found) {
            let mut pods = Vec::new();
            for name in ["from", "to"] {
                let config = engine.pod(&format!("iperf-{name}-{time}"));
                let (id, _) = life::run(engine, &config, Duration::ZERO).await;
                let (netns, ip) = place(engine, &id).await;
                pods.push((id, netns, ip));
            }
            let host: IpAddr = gateway_of(pods[0].2);
            for (found, (netns, ip)) in found.iter_mut().zip([(Some(&pods[1].1), pods[1].2), (None, host)]) {
                found.push(gigabits(&pods[0].1, netns.map(PathBuf::as_path), ip));
            }
            for (id, ..) in pods {
                life::stop_pod(engine, &id, Duration::ZERO).await;
                life::remove_pod(engine, &id, Duration::ZERO).await;
            }
        }
    }
    let [ours, theirs] = found.map(|ways| ways.map(Spread::of_rates));
    let names = ["a pod to another", "a pod to the host"];
    let rows = names.iter().zip(ours).zip(theirs);
    rows.map(|((name, ours), theirs)| row((*name).to_owned(), Unit::GbitPerSecond, ours, Some(theirs))).collect()
}

fn gigabits(from: &Path, to: Option<&Path>, ip: IpAddr) -> f64 {
    let in_netns = |netns: Option<&Path>| match netns {
        Some(netns) => {
            let mut command = Command::new("nsenter");
            command.arg(format!("--net={}", netns.display())).arg("iperf3");
            command
        }
        None => Command::new("iperf3"),
    };
    let mut server = in_netns(to).args(["-s", "-1"]).stdout(Stdio::null()).spawn().unwrap();
    let told = eventually(PATIENCE, "iperf3 answers", || {
        let seconds = SECONDS.to_string();
        let output = in_netns(Some(from)).args(["-c", &ip.to_string(), "-t", &seconds, "-J"]).output().unwrap();
        // Asked for JSON it tells its failures there, and ends with success.
        let told: Value = serde_json::from_slice(&output.stdout).map_err(|error| error.to_string())?;
        match told["error"].as_str() {
            Some(error) if error.contains("Connection refused") => Err(error.to_owned()),
            _ => Ok(told),
        }
    });
    // It ends after one client by itself, unless it still waits for what that one has not said.
    server.kill().unwrap();
    server.wait().unwrap();
    let rate = told["end"]["sum_received"]["bits_per_second"].as_f64();
    rate.unwrap_or_else(|| panic!("iperf3 tells no rate: {told}")) / 1e9
}

/// The first address of the pods' /16.
fn gateway_of(ip: IpAddr) -> IpAddr {
    let IpAddr::V4(v4) = ip else { panic!("IPv4 only") };
    let [a, b, ..] = v4.octets();
    IpAddr::from([a, b, 0, 1])
}

/// A pod's namespace and address.
async fn place(engine: &mut Engine, pod: &str) -> (PathBuf, IpAddr) {
    let request = PodSandboxStatusRequest { pod_sandbox_id: pod.to_owned(), verbose: true };
    let told = engine.cri.runtime.pod_sandbox_status(request).await.unwrap().into_inner();
    let info: Value = serde_json::from_str(&told.info["info"]).unwrap();
    let namespaces = info["runtimeSpec"]["linux"]["namespaces"].as_array().unwrap();
    let netns = namespaces.iter().find(|namespace| namespace["type"] == "network").unwrap();
    let netns = netns["path"].as_str().unwrap().into();
    (netns, told.status.unwrap().network.unwrap().ip.parse().unwrap())
}

/// Whether a port of the host's leads into the namespace.
fn answers(netns: &Path, port: i32) -> bool {
    let netns = File::open(netns).unwrap();
    let listening = std::thread::spawn(move || {
        setns(netns, CloneFlags::CLONE_NEWNET).unwrap();
        TcpListener::bind(("0.0.0.0", INSIDE as u16)).unwrap()
    });
    let _listener = listening.join().unwrap();
    let address = SocketAddr::from(([127, 0, 0, 1], port as u16));
    TcpStream::connect_timeout(&address, Duration::from_secs(2)).is_ok()
}
