//! Coracle and containerd side by side, or Coracle alone: what each call costs, and what a node pays for its pods.
//!
//! `tests/bench/beside-containerd --help` says how to run it. Its parts:
//! - `alone`: each call of a pod's life on Coracle, with no other engine on the machine.
//! - `calls`: the same on both engines, alternating in one run: a round is one pod's whole life on one, then on the
//!   other, so that whatever the machine does meanwhile meets both.
//! - `memory`: of the daemon, and of what stands beside a pod.
//! - `pace`: whole pod lives a second, with one client and with several.
//! - `crowd`: many pods in a row; the daemon while they idle; lists of them; their end.
//! - `network`: the pods' network from one configuration list, with a host port; many pods at once and in a row;
//!   what goes through it.
//! - `pull`: images from a registry on loopback, by fresh engines that take turns; what pods feel of it; then lists of
//!   a thousand images.
//!
//! Both engines have a bridge, addresses from a /16 and masquerading; both run the same static program from the same
//! image in pods as a kubelet asks for them. IPv4 only: with IPv6 the reference bridge plugin waits a second for
//! duplicate address detection. A call counts only when its effect is complete: what it promises is looked at after it,
//! outside the measured time. A pod that is removed has no namespace, no lease and no cgroup left; its link and what
//! held it up go by themselves with both engines, and have to be gone in the end ([`belongings`]).

#![allow(clippy::print_stdout, clippy::unwrap_used, reason = "a benchmark prints its table and may give up")]

#[allow(dead_code, reason = "the tests use all of it")]
#[path = "../../node/support.rs"]
mod support;

mod belongings;
mod budget;
mod check;
mod containerd;
mod crowd;
mod engine;
mod life;
mod listing;
mod meanwhile;
mod memory;
mod network;
mod options;
mod pace;
mod publish;
mod pull;
mod report;

use std::{path::Path, time::Duration};

use clap::Parser;

use containerd::Containerd;
use options::{Options, Part};
use report::{Conditions, Report, Row};

/// After so long ext4 forgets that an inode was freed; until then, without a journal, it looks past each of them
/// whenever a file is made (`recently_deleted` in fs/ext4/ialloc.c, for what is not yet written).
const FORGOTTEN: Duration = Duration::from_secs(300);

#[tokio::main(flavor = "current_thread")]
async fn main() {
    let options = Options::parse();
    let report = match &options.from {
        Some(path) => Report::read(path),
        None => measure(&options).await,
    };
    println!("{}", report.markdown());
    keep(&options, &report);
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let fails = options.check && !check::holds(root, &report, &options.against);
    if options.publish {
        publish::all(root, report);
    }
    if fails {
        std::process::exit(1);
    }
}

/// Writes what there is where it was asked for.
fn keep(options: &Options, report: &Report) {
    if let Some(path) = &options.json {
        std::fs::write(path, report.json()).unwrap();
    }
}

async fn measure(options: &Options) -> Report {
    let (now, mut report) = (Conditions::now(options), Report::default());
    if options.wants(Part::Alone) {
        let (node, mut engine) = engine::coracle().await;
        report.add(&now, life::of_one(&mut engine, options).await);
        node.finish().await;
    }
    if options.compares() {
        report.add(&now, side_by_side(options).await);
        // Pulls take minutes more.
        keep(options, &report);
    }
    if options.wants(Part::Network) {
        report.add(&now, network::of_both(options).await);
        keep(options, &report);
    }
    if options.wants(Part::Pull) {
        if !report.rows.is_empty() {
            tokio::time::sleep(FORGOTTEN).await;
        }
        report.add(&now, pull::of_both(options).await);
        report.add(&now, meanwhile::of_both(options).await);
        report.add(&now, listing::of_both(options).await);
        report.add(&now, vec![listing::right_after_a_start(options).await]);
    }
    report
}

/// The parts in which containerd has its share.
async fn side_by_side(options: &Options) -> Vec<Row> {
    let (node, ours) = engine::coracle().await;
    let peer = Containerd::start(options);
    let mut engines = [ours, peer.engine().await];
    let mut rows = Vec::new();
    if options.wants(Part::Calls) {
        rows.extend(life::of_both(&mut engines, options).await);
    }
    if options.wants(Part::Memory) {
        rows.extend(memory::of_both(&mut engines).await);
    }
    if options.wants(Part::Pace) {
        rows.extend(pace::of_both(&mut engines).await);
    }
    if options.wants(Part::Crowd) {
        rows.extend(crowd::of_both(&mut engines, options.pause()).await);
    }
    peer.finish().await;
    node.finish().await;
    rows
}
