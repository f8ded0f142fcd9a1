//! A storm: the daemon, or what it has beside pods, killed at random instants, while many clients make, use and remove
//! pods without a pause.
//!
//! `CORACLE_STORM_KILLS` says how many kills; `CORACLE_STORM_SEED` has a storm come again, as far as chance is ours.
//! What is promised: what was acknowledged is there, how a container ended is told as it was, no line of a log is lost,
//! and when it is over nothing is left.

mod client;

use std::{
    env,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    thread,
    time::{Duration, Instant},
};

use testkit::{Random, TempNode, eventually, eventually_async, patience, seed};
use tokio::task::JoinSet;

use crate::{scene::SOON, support::node, witness::Witness};
use client::{Client, Tally};

/// Pods that are made, used and removed at a time.
const CLIENTS: usize = 20;

/// Kills of an ordinary run; `tests/run storm` asks for more.
const FEW_KILLS: usize = 10;

/// Longest time from the start of a daemon to the next kill. The shortest is none: many die before they answer, some
/// while they settle what the last one left, most in the middle of their work.
const LONGEST_LIFE: Duration = Duration::from_millis(800);

/// What the witness writes, megabytes a second: the machine is busy enough.
const LINES: &str = "1";

/// What is killed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Storm {
    /// The daemon: no pod may notice.
    Daemons,
    /// The daemon, the launcher, or a pod's monitor: a pod ends with its monitor, and with nothing else.
    Everything,
}

fn kills() -> usize {
    env::var("CORACLE_STORM_KILLS").map_or(FEW_KILLS, |text| text.parse().expect("CORACLE_STORM_KILLS is a number"))
}

/// Kills, on the thread that it is called on, and leaves a daemon that answers.
fn kill_at_random(
    node: &mut TempNode,
    storm: Storm,
    witness: i32,
    kills: usize,
    mut random: Random,
    over: &AtomicBool,
) {
    for _ in 0..kills {
        if over.load(Ordering::Relaxed) {
            // A client has found something wrong, and need not wait for all the others.
            break;
        }
        let life = Duration::from_micros(random.below(LONGEST_LIFE.as_micros() as usize) as u64);
        // Not for an event: an instant that nobody chose is what this test is about.
        thread::sleep(patience(life));
        let victim = match storm {
            Storm::Everything => node.helpers().into_iter().filter(|helper| helper.pid != witness).collect(),
            Storm::Daemons => Vec::new(),
        };
        match random.below(3) {
            0 | 1 if !victim.is_empty() => random.choice(&victim).kill(),
            _ => {
                node.kill_daemon();
                node.launch_daemon();
            }
        }
    }
    node.await_daemon();
}

async fn weather(storm: Storm) {
    let (kills, seed) = (kills(), seed("CORACLE_STORM_SEED"));
    println!("{kills} kills with CORACLE_STORM_SEED={seed}");
    let mut node = node().await;
    let witness = Witness::begin(&node, LINES).await;
    let spared = witness.monitor(&mut node.client().await).await;
    let over = Arc::new(AtomicBool::new(false));
    let mut random = Random::new(seed);
    let mut clients = JoinSet::new();
    for number in 0..CLIENTS {
        let client = Client::new(&node, number, storm, Random::new(random.number())).await;
        clients.spawn(client.live_until(over.clone()));
    }
    let rotation = {
        let (cri, over) = (node.client().await, over.clone());
        tokio::spawn(async move {
            let pair = tokio::sync::Mutex::new((witness, cri));
            while !over.load(Ordering::Relaxed) {
                let swapped = eventually_async(SOON, "the log is swapped", || async {
                    let (witness, cri) = &mut *pair.lock().await;
                    client::answer(witness.rotate(cri)).await
                });
                swapped.await.expect("the container runs, and has a log");
            }
            pair.into_inner().0
        })
    };
    let begun = Instant::now();
    let stop = over.clone();
    let killing = tokio::task::spawn_blocking(move || {
        kill_at_random(&mut node, storm, spared, kills, random, &stop);
        stop.store(true, Ordering::Relaxed);
        node
    });
    let mut tally = Tally::default();
    while let Some(client) = clients.join_next().await {
        if client.is_err() {
            over.store(true, Ordering::Relaxed);
        }
        tally.add(&client.expect("no client finds anything wrong"));
    }
    let node = killing.await.expect("no kill fails");
    let witness = rotation.await.expect("the log is swapped to the end");
    println!("{kills} kills in {:?}: {tally:?}", begun.elapsed());
    assert!(tally.pods >= CLIENTS, "every client has had a pod");

    eventually(SOON, "nothing but the witness is left", || {
        let left = witness.others(&node);
        if left.is_empty() { Ok(()) } else { Err(left) }
    });
    let mut cri = node.client().await;
    witness.is_unharmed(&mut cri).await;
    witness.end(&mut cri).await;
    node.finish().await;
}

#[ignore = "needs root: runs a node"]
#[tokio::test(flavor = "multi_thread")]
async fn nothing_that_was_acknowledged_is_lost_when_the_daemon_dies_again_and_again() {
    weather(Storm::Daemons).await;
}

#[ignore = "needs root: runs a node"]
#[tokio::test(flavor = "multi_thread")]
async fn a_pod_ends_with_its_monitor_alone_when_daemon_launcher_and_monitors_die_at_random() {
    weather(Storm::Everything).await;
}
