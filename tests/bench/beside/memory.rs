//! User memory, as proportional share (PSS): of the daemon, and of all that stands beside one pod.

use std::{fs, path::Path, time::Duration};

use api::cri::v1::{ContainerState, ContainerStatus, ContainerStatusRequest};
use testkit::{container, eventually_async};

use super::{
    belongings::supporters,
    engine::Engine,
    options::Part,
    report::{Row, Spread, Unit},
    support::PROBE,
};

/// Pods whose memory is measured: as many as a small node has.
const PODS: usize = 30;

/// Lines that each container has logged before it is measured, and how much of a log they are at least, bytes.
const LINES: &str = "40000";
const LOGGED: u64 = 1 << 20;

/// How long they may take.
const PATIENCE: Duration = Duration::from_secs(30);

/// Commands that each container has run before it is measured.
const EXECS: usize = 100;

/// Pods that get the log and the commands: doing it to all would take minutes and say the same.
const WORKED: usize = 5;

/// What an engine costs in memory, KiB.
struct Cost {
    /// Of each pod that has worked: the processes that hold it up.
    pods: Spread,
    daemon: Spread,
}

/// Both engines' costs.
pub(super) async fn of_both([ours, theirs]: &mut [Engine; 2]) -> Vec<Row> {
    let (ours, theirs) = (of_pods(ours).await, of_pods(theirs).await);
    let row = |what: &str, coracle, containerd| Row {
        part: Part::Memory,
        what: what.to_owned(),
        unit: Unit::Kib,
        coracle,
        containerd: Some(containerd),
    };
    vec![
        row("beside each pod, after 1 MiB of log and 100 execs", ours.pods, theirs.pods),
        row("the daemon, with 30 pods", ours.daemon, theirs.daemon),
    ]
}

/// Runs the pods, works some of them, measures, and removes all.
async fn of_pods(engine: &mut Engine) -> Cost {
    let (mut ids, mut pods) = (Vec::new(), Vec::new());
    for number in 0..PODS {
        let config = engine.pod(&format!("memory-{number}"));
        let id = engine.cri.run(&config).await.unwrap();
        if number < WORKED {
            let once = container("log", PROBE, &["write-lines", "0", LINES]);
            let writer = engine.cri.start(&id, &config, &once).await.unwrap();
            let ended = ended(engine, &writer).await;
            let log = fs::metadata(Path::new(&config.log_directory).join(&once.log_path)).unwrap().len();
            assert!(ended.exit_code == 0 && log >= LOGGED, "{log} bytes are logged: {ended:?}");
        }
        let main = engine.cri.start(&id, &config, &container("main", PROBE, &["sleep", "forever"])).await.unwrap();
        if number < WORKED {
            for _ in 0..EXECS {
                assert_eq!(engine.cri.exec(&main, &["/probe", "exit", "0"], 10).await.unwrap().exit_code, 0);
            }
            pods.push(supporters(engine, &id).await);
        }
        ids.push(id);
    }
    let pods = Spread::of(pods.into_iter().map(|pids| pids.into_iter().map(pss).sum()));
    let cost = Cost { daemon: Spread::of([pss(engine.daemon)]), pods };
    for id in ids {
        engine.cri.remove(&id).await.unwrap();
    }
    cost
}

/// How a container has ended.
async fn ended(engine: &Engine, container: &str) -> ContainerStatus {
    eventually_async(PATIENCE, "the writer of the log has ended", || {
        let mut runtime = engine.cri.runtime.clone();
        let request = ContainerStatusRequest { container_id: container.to_owned(), verbose: false };
        async move {
            let status = runtime.container_status(request).await.unwrap().into_inner().status.unwrap();
            if status.state() == ContainerState::ContainerExited { Ok(status) } else { Err(status.state()) }
        }
    })
    .await
}

/// Proportional share, KiB.
pub(super) fn pss(pid: i32) -> f64 {
    let text = fs::read_to_string(format!("/proc/{pid}/smaps_rollup")).unwrap();
    let line = text.lines().find_map(|line| line.strip_prefix("Pss:")).unwrap();
    line.trim().trim_end_matches(" kB").parse().unwrap()
}
