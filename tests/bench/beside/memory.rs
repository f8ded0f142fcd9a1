//! User memory, as proportional share (PSS): of the daemon, and of all that stands beside one pod.

use std::fs;

use api::cri::v1::PodSandboxStatusRequest;
use testkit::{Process, container, pod};

use super::{Engine, support::PROBE, table::Row};

/// Lines that each container has logged before it is measured: more than 1 MiB.
const LINES: &str = "40000";

/// Commands that each container has run before it is measured.
const EXECS: usize = 100;

/// Pods that get the log and the commands: doing it to all would take minutes and say the same.
const WORKED: usize = 5;

/// What an engine costs in memory, KiB.
pub(super) struct Cost {
    daemon: f64,
    /// Of each pod that has worked: the processes that hold it up.
    pods: Vec<f64>,
}

/// Runs `count` pods, works some of them, measures, and removes all.
pub(super) async fn of_pods(engine: &mut Engine, daemon: i32, count: usize) -> Cost {
    let (mut ids, mut pods) = (Vec::new(), Vec::new());
    for number in 0..count {
        let config = pod(&format!("memory-{number}"), &engine.logs);
        let id = engine.cri.run(&config).await.unwrap();
        if number < WORKED {
            let once = container("log", PROBE, &["write-lines", "0", LINES]);
            engine.cri.start(&id, &config, &once).await.unwrap();
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
    let pods = pods.into_iter().map(|pids| pids.into_iter().map(pss).sum()).collect();
    let cost = Cost { daemon: pss(daemon), pods };
    for id in ids {
        engine.cri.remove(&id).await.unwrap();
    }
    cost
}

/// Both engines' costs as rows.
pub(super) fn rows(ours: &Cost, theirs: &Cost) -> [Row; 2] {
    [
        Row::of("memory a pod", "KiB", ours.pods.clone(), theirs.pods.clone()),
        Row::of("memory of the daemon, 30 pods", "KiB", vec![ours.daemon], vec![theirs.daemon]),
    ]
}

/// The processes that hold a pod up and are not its containers': our monitor; a shim and a pause process.
async fn supporters(engine: &mut Engine, pod: &str) -> Vec<i32> {
    let request = PodSandboxStatusRequest { pod_sandbox_id: pod.to_owned(), verbose: true };
    let told = engine.cri.runtime.pod_sandbox_status(request).await.unwrap().into_inner();
    let info: serde_json::Value = serde_json::from_str(&told.info["info"]).unwrap();
    if let Some(monitor) = info["monitorPid"].as_i64() {
        return vec![monitor as i32];
    }
    let pause = info["pid"].as_i64().unwrap() as i32;
    vec![pause, Process::of(pause).unwrap().parent]
}

/// Proportional share, KiB.
fn pss(pid: i32) -> f64 {
    let text = fs::read_to_string(format!("/proc/{pid}/smaps_rollup")).unwrap();
    let line = text.lines().find_map(|line| line.strip_prefix("Pss:")).unwrap();
    line.trim().trim_end_matches(" kB").parse().unwrap()
}
