//! Pulls of whole images from a registry on loopback: how long, how much work, how much memory.
//!
//! Each engine is a fresh one for each pull, so that nothing of an image is there; the two take turns in who begins.
//! What they have pulled is deleted when all is measured: on some file systems files are made slowly for minutes after
//! many were deleted. The registry is Debian's, and the images are those of `tests/bench/images`.

use std::{
    fs,
    time::{Duration, Instant},
};

use testkit::{DebianRegistry, TempNode};

use super::{
    containerd::Containerd,
    engine::{self, Engine},
    memory::pss,
    options::{Options, PULLS, Part},
    report::{Row, Spread, Unit},
};

/// The images: what is asked for, and what it is.
const IMAGES: [(&str, &str); 4] = [
    ("bench/large:gzip", "five layers of 400 MB in all, gzip"),
    ("bench/large:zstd", "five layers of 400 MB in all, zstd"),
    ("bench/small:gzip", "sixty small layers, gzip"),
    ("bench/small:zstd", "sixty small layers, zstd"),
];

/// Until a daemon is idle again.
const SETTLED: Duration = Duration::from_secs(5);

/// What a pull has cost.
#[derive(Debug, Clone, Copy)]
struct Cost {
    time: Duration,
    /// Of the daemon, and of those whom it had help and waited for.
    work: Duration,
    /// KiB.
    peak: f64,
    after: f64,
}

/// Both engines, image by image.
pub(super) async fn of_both(options: &Options) -> Vec<Row> {
    let registry = DebianRegistry::start();
    let (mut nodes, mut peers) = (Vec::new(), Vec::new());
    let mut rows = Vec::new();
    for (name, what) in IMAGES {
        let reference = format!("{}/{name}", registry.address);
        let (mut ours, mut theirs) = (Vec::new(), Vec::new());
        for round in 0..PULLS {
            let turns = if round % 2 == 0 { [true, false] } else { [false, true] };
            for is_ours in turns {
                if is_ours {
                    let (node, mut engine) = engine::coracle().await;
                    ours.push(pull(&mut engine, &reference).await);
                    nodes.push(node);
                } else {
                    let peer = Containerd::start(options);
                    theirs.push(pull(&mut peer.engine().await, &reference).await);
                    peers.push(peer);
                }
            }
        }
        rows.extend(rows_of(what, &ours, &theirs));
    }
    finish(nodes, peers).await;
    rows
}

async fn finish(nodes: Vec<TempNode>, peers: Vec<Containerd>) {
    for peer in peers {
        peer.finish().await;
    }
    for node in nodes {
        node.finish().await;
    }
}

fn rows_of(what: &str, ours: &[Cost], theirs: &[Cost]) -> Vec<Row> {
    let row = |more: &str, unit, of: fn(&Cost) -> f64| Row {
        part: Part::Pull,
        what: format!("{what}{more}"),
        unit,
        coracle: Spread::of(ours.iter().map(of)),
        containerd: Some(Spread::of(theirs.iter().map(of))),
    };
    vec![
        row("", Unit::Ms, |cost| cost.time.as_secs_f64() * 1e3),
        row(": processor time", Unit::Ms, |cost| cost.work.as_secs_f64() * 1e3),
        row(": the daemon's memory at most", Unit::Kib, |cost| cost.peak),
        row(": the daemon's memory afterwards", Unit::Kib, |cost| cost.after),
    ]
}

async fn pull(engine: &mut Engine, reference: &str) -> Cost {
    // What was written for others is not flushed on this one's account.
    nix::unistd::sync();
    let daemon = engine.daemon;
    forget_peak(daemon);
    let (work, begun) = (work_of(daemon), Instant::now());
    engine.cri.pull(reference).await.unwrap();
    let (time, peak) = (begun.elapsed(), peak_of(daemon));
    let work = work_of(daemon) - work;
    tokio::time::sleep(SETTLED).await;
    Cost { time, work, peak, after: pss(daemon) }
}

/// Has the kernel note the peak of a process's resident memory anew (proc_pid_clear_refs(5)). It tells it exactly and
/// at no cost: looking again and again would slow down what is timed, and miss what was between two looks.
fn forget_peak(pid: i32) {
    fs::write(format!("/proc/{pid}/clear_refs"), "5").unwrap();
}

/// KiB, since that was forgotten; with what the process shares with others.
fn peak_of(pid: i32) -> f64 {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let peak = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).unwrap();
    peak.trim().trim_end_matches(" kB").parse().unwrap()
}

/// Processor time of a process with that of its children that have ended.
pub(super) fn work_of(pid: i32) -> Duration {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap();
    // After the name, which may hold anything: utime, stime, cutime and cstime are the fields 14 to 17.
    let (_, fields) = stat.rsplit_once(')').unwrap();
    let ticks: u64 = fields.split_whitespace().skip(11).take(4).map(|ticks| ticks.parse::<u64>().unwrap()).sum();
    let per_second = nix::unistd::sysconf(nix::unistd::SysconfVar::CLK_TCK).unwrap().unwrap();
    Duration::from_secs_f64(ticks as f64 / per_second as f64)
}
