//! What pods feel of a pull: calls that are made while one goes on, and a container that would use a whole core.
//!
//! Each pull is by a fresh engine, as in [`super::pull`], and its time is not told: here two others want the processor.

use std::time::{Duration, Instant};

use api::cri::v1::ExecSyncRequest;
use testkit::{Cri, DebianRegistry, container};

use super::{
    containerd::Containerd,
    engine::{self, Engine},
    life::{create, look, run, start, timed},
    options::{Options, PULLS, Part},
    pull::work_of,
    report::{Row, Spread, Unit},
    support::PROBE,
};

/// What is pulled, and what it is.
const IMAGE: (&str, &str) = ("bench/large:gzip", "while five layers of 400 MB are pulled, gzip");

/// What pods felt of one pull.
struct Felt {
    execs: Vec<Duration>,
    /// What a busy container did not get of a core, percent.
    lacked: f64,
}

/// Both engines, taking turns.
pub(super) async fn of_both(options: &Options) -> Vec<Row> {
    let registry = DebianRegistry::start();
    let reference = format!("{}/{}", registry.address, IMAGE.0);
    let (mut ours, mut theirs) = (Vec::new(), Vec::new());
    for _ in 0..PULLS {
        let (node, mut engine) = engine::coracle().await;
        ours.push(feel(&mut engine, &reference, options.pause()).await);
        node.finish().await;
        let peer = Containerd::start(options);
        theirs.push(feel(&mut peer.engine().await, &reference, options.pause()).await);
        peer.finish().await;
    }
    let row = |what: &str, unit, spread: fn(&[Felt]) -> Spread| Row {
        part: Part::Pull,
        what: format!("{what}, {}", IMAGE.1),
        unit,
        coracle: spread(&ours),
        containerd: Some(spread(&theirs)),
    };
    vec![
        row("ExecSync", Unit::Ms, |felt| Spread::of_times(felt.iter().flat_map(|felt| felt.execs.iter().copied()))),
        row("what a busy container lacks of its core", Unit::Percent, |felt| {
            Spread::of(felt.iter().map(|felt| felt.lacked))
        }),
    ]
}

async fn feel(engine: &mut Engine, reference: &str, pause: Duration) -> Felt {
    let pod = engine.pod("meanwhile");
    let (pod_id, _) = run(engine, &pod, pause).await;
    let (container_id, _) = create(engine, &pod_id, &pod, "called", pause).await;
    start(engine, &container_id, pause).await;
    let busy = container("busy", PROBE, &["spin", "600"]);
    let busy = engine.cri.start(&pod_id, &pod, &busy).await.unwrap();
    let (_, busy) = look(engine, &busy).await;

    let puller = Cri::connect(&engine.socket).await.unwrap();
    let (reference, before, begun) = (reference.to_owned(), work_of(busy.as_raw()), Instant::now());
    let pull = tokio::spawn(async move { puller.clone().pull(&reference).await });
    let mut execs = Vec::new();
    while !pull.is_finished() {
        let command = vec!["/probe".into(), "exit".into(), "0".into()];
        let request = ExecSyncRequest { container_id: container_id.clone(), cmd: command, timeout: 60 };
        let (done, took) = timed(engine.cri.runtime.exec_sync(request), pause).await;
        assert_eq!(done.exit_code, 0);
        execs.push(took);
    }
    let (worked, passed) = (work_of(busy.as_raw()) - before, begun.elapsed());
    pull.await.unwrap().unwrap();
    engine.cri.remove(&pod_id).await.unwrap();
    Felt { execs, lacked: 100.0 * (1.0 - worked.as_secs_f64() / passed.as_secs_f64()).max(0.0) }
}
