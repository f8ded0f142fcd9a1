//! What a pod costs while nothing happens.

use std::fs;

use link::Whole;
use model::{Exit, Signal};

use crate::node::{Node, Pod};

/// The budget, 0.1 MiB, rounded down. It holds for the program without optimisation too.
const BUDGET_KIB: u64 = 100;

/// For one that has been replaced in place: it is no fork any more, so what the program touches in its beginning
/// (addresses put in their places, the C library's own memory) it shares with nobody. That holds until its pod ends.
const REPLACED_BUDGET_KIB: u64 = 240;

/// Pods of the measurement: a node has many, and what they share is shared by all.
const PODS: usize = 10;

/// How long a monitor may take to come to rest.
const SETTLE: std::time::Duration = std::time::Duration::from_secs(2);

#[tokio::test]
#[ignore = "needs root: namespaces, mounts and cgroups"]
async fn a_monitor_has_one_thread_and_costs_a_tenth_of_a_mebibyte() {
    let node = Node::start().await;
    let mut pods = Vec::new();
    for _ in 0..PODS {
        let mut pod = node.pod().await;
        let id = pod.run(&["probe", "write-lines", "0", "40000"]).await;
        assert_eq!(pod.exited(&id).await.how, Exit::Code(0));
        assert!(fs::metadata(pod.log_path(&id)).unwrap().len() > 1 << 20, "more than 1 MiB of log");
        pod.monitor.forget(&id).await.unwrap();
        let id = pod.run(&["probe", "sleep", "forever"]).await;
        for _ in 0..100 {
            assert_eq!(pod.exec(&id, &["probe", "exit", "0"]).await.0, Exit::Code(0));
        }
        pods.push((pod, id));
    }
    for (what, budget) in [("forked", BUDGET_KIB), ("replaced", REPLACED_BUDGET_KIB)] {
        let mut all = Vec::new();
        for (pod, _) in &pods {
            assert_eq!(fs::read_dir(format!("/proc/{}/task", pod.pid)).unwrap().count(), 1, "one thread");
            all.push(settled_pss(pod, budget).await);
        }
        println!("PSS of {PODS} monitors as {what}, KiB: {all:?}");
        println!("{}", rollup(pods[0].0.pid));
        let over: Vec<_> = all.iter().filter(|pss| **pss > budget).collect();
        assert!(over.is_empty(), "{what}: {over:?} KiB, at most {budget}");
        for (pod, _) in &pods {
            pod.monitor.replace(&node.program, "another").await.unwrap();
        }
    }
    for (mut pod, id) in pods {
        pod.monitor.kill(&id, Signal::KILL, Whole::Every).await.unwrap();
        pod.exited(&id).await;
        pod.end().await;
    }
    node.end().await;
}

/// The proportional share once it has given back what the last burst needed. The caller judges the number.
async fn settled_pss(pod: &Pod, budget: u64) -> u64 {
    let mut best = u64::MAX;
    let settled = tokio::time::timeout(SETTLE, async {
        while best > budget {
            best = best.min(pss(pod.pid));
            tokio::time::sleep(std::time::Duration::from_millis(20)).await;
        }
    });
    let _ = settled.await;
    best
}

fn rollup(pid: i32) -> String {
    fs::read_to_string(format!("/proc/{pid}/smaps_rollup")).unwrap()
}

fn pss(pid: i32) -> u64 {
    let text = rollup(pid);
    let line = text.lines().find_map(|line| line.strip_prefix("Pss:")).unwrap();
    line.trim().trim_end_matches(" kB").parse().unwrap()
}
