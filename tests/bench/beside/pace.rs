//! Whole pod lives a second: run, create, start, stop, remove, one after the other by each client, without rest.

use std::time::{Duration, Instant};

use testkit::Cri;

use super::{
    engine::Engine,
    life,
    options::Part,
    report::{Row, Spread, Unit},
};

/// Clients at a time.
const CLIENTS: [usize; 2] = [1, 8];

/// Lives of each client on Coracle, and on containerd, which takes ten times as long for one.
const LIVES: [usize; 2] = [48, 6];

/// How often the pace is taken.
const TIMES: usize = 3;

/// Both engines, with one client and with several.
pub(super) async fn of_both(engines: &mut [Engine; 2]) -> Vec<Row> {
    let mut rows = Vec::new();
    for clients in CLIENTS {
        let mut paces = [Vec::new(), Vec::new()];
        for time in 0..TIMES {
            for ((engine, paces), lives) in engines.iter().zip(&mut paces).zip(LIVES) {
                paces.push(pace(engine, clients, lives, time).await);
            }
        }
        let [ours, theirs] = paces.map(Spread::of_rates);
        let plural = if clients == 1 { "" } else { "s" };
        rows.push(Row {
            part: Part::Pace,
            what: format!("pod lives, {clients} client{plural}"),
            unit: Unit::PerSecond,
            coracle: ours,
            containerd: Some(theirs),
        });
    }
    rows
}

async fn pace(engine: &Engine, clients: usize, lives: usize, time: usize) -> f64 {
    let mut connected = Vec::new();
    for _ in 0..clients {
        let cri = Cri::connect(&engine.socket).await.unwrap();
        connected.push(engine.with(cri));
    }
    let begun = Instant::now();
    let mut tasks = tokio::task::JoinSet::new();
    for (client, mut engine) in connected.into_iter().enumerate() {
        tasks.spawn(async move {
            for number in 0..lives {
                live(&mut engine, &format!("pace-{clients}-{time}-{client}-{number}")).await;
            }
        });
    }
    tasks.join_all().await;
    (clients * lives) as f64 / begun.elapsed().as_secs_f64()
}

async fn live(engine: &mut Engine, name: &str) {
    let config = engine.pod(name);
    let (pod_id, _) = life::run(engine, &config, Duration::ZERO).await;
    let (container_id, _) = life::create(engine, &pod_id, &config, "main", Duration::ZERO).await;
    life::start(engine, &container_id, Duration::ZERO).await;
    life::stop_pod(engine, &pod_id, Duration::ZERO).await;
    life::remove_pod(engine, &pod_id, Duration::ZERO).await;
}
