//! Coracle and containerd, call by call, alternating in one run under the same client; what each costs, and the ratio.
//!
//! A round is one pod's whole life on one engine, then the same on the other, so that whatever the machine does meanwhile
//! meets both. Between calls there is a pause, as there is on a node: without one the kernel's RCU waits are shared between
//! rounds and hide. Both have a bridge, addresses from a /16 and masquerading; both run the same static program from the
//! same image. IPv4 only: with IPv6 the reference bridge plugin waits a second for duplicate address detection. Run `tests/bench/beside-containerd [ROUNDS [PAUSE_MS]]`; prints Markdown, and JSON into the file `BESIDE_JSON` names.

#![allow(clippy::print_stdout, clippy::unwrap_used, reason = "a benchmark prints its table and may give up")]

#[allow(dead_code, reason = "the tests use all of it")]
#[path = "../../node/support.rs"]
mod support;

mod containerd;
mod life;
mod memory;
mod table;

use std::{path::PathBuf, time::Duration};

use testkit::{Cri, NodeOptions, TempNode};

use containerd::Containerd;
use life::{CALLS, Life};
use table::Row;

const ROUNDS: usize = 30;
const PAUSE: Duration = Duration::from_millis(40);

/// Rounds that are not counted: each engine's first pods find caches cold and files not yet made.
const WARM_UP: usize = 3;

/// Pods whose memory is measured: as many as a small node has.
const PODS: usize = 30;

/// Our subnet; containerd's has the same size.
const SUBNET: &str = "10.211.0.0/16";

/// A running engine and where the logs of its pods go.
struct Engine {
    cri: Cri,
    logs: PathBuf,
}

#[tokio::main(flavor = "current_thread")]
async fn main() {
    let mut arguments = std::env::args().skip(1).filter(|argument| argument != "--bench");
    let rounds = arguments.next().map_or(ROUNDS, |text| text.parse().expect("ROUNDS is a number"));
    let pause = arguments
        .next()
        .map_or(PAUSE, |text| Duration::from_millis(text.parse().expect("PAUSE_MS is a number of milliseconds")));

    let node = coracle().await;
    let peer = Containerd::start();
    let mut engines = [
        Engine { cri: node.client().await, logs: node.dir().to_owned() },
        Engine { cri: peer.client().await, logs: peer.dir().to_owned() },
    ];

    let mut took = [vec![Vec::new(); CALLS.len()], vec![Vec::new(); CALLS.len()]];
    for round in 0..WARM_UP + rounds {
        for (engine, took) in engines.iter_mut().zip(&mut took) {
            let Life(life) = life::live(engine, &format!("bench-{round}"), pause).await;
            if round >= WARM_UP {
                took.iter_mut().zip(life).for_each(|(all, one)| all.push(one));
            }
        }
    }
    let [ours, theirs] = took;
    let mut rows: Vec<Row> = CALLS.iter().zip(ours.into_iter().zip(theirs)).map(Row::of_times).collect();

    let mut costs = Vec::new();
    for (engine, daemon) in engines.iter_mut().zip([node.daemon_pid(), peer.pid()]) {
        costs.push(memory::of_pods(engine, daemon, PODS).await);
    }
    rows.extend(memory::rows(&costs[0], &costs[1]));

    println!("{}: {rounds} rounds, {} ms between calls\n", containerd::version(), pause.as_millis());
    println!("{}", table::markdown(&rows));
    if let Some(path) = std::env::var_os("BESIDE_JSON") {
        std::fs::write(path, table::json(&rows)).unwrap();
    }
    peer.finish().await;
    node.finish().await;
}

async fn coracle() -> TempNode {
    let subnets = format!("subnet_v4 = \"{SUBNET}\"\nsubnet_v6 = \"\"");
    support::node_with(NodeOptions { subnets: Some(subnets), ..NodeOptions::default() }).await
}
