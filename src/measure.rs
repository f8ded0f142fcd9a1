//! What the node tells as metrics, each read from memory when it is asked for. README.md has the same as a table.

use std::time::SystemTime;

use metrics::{Family, Sample};
use model::Phase;
use network::{Network, Readiness, Report};
use pods::Pods;

/// States of pods, as the CRI knows them.
const POD_STATES: [&str; 2] = ["ready", "notready"];
/// States of containers, as the CRI knows them.
const CONTAINER_STATES: [&str; 4] = ["created", "running", "exited", "unknown"];

/// Tells all of it, whenever it is called.
pub(crate) fn of(pods: Pods, network: Network) -> impl Fn() -> Vec<Family> + Send + Sync + 'static {
    move || {
        let ready = pods.list().iter().map(|pod| POD_STATES[usize::from(!pod.ready)]).collect();
        let phases = pods.containers().iter().map(|container| state(&container.phase)).collect();
        families(&network.report(), ready, phases, SystemTime::now())
    }
}

fn state(phase: &Phase) -> &'static str {
    match phase {
        Phase::Created => "created",
        Phase::Running { .. } => "running",
        Phase::Exited { .. } => "exited",
        Phase::Unsettled { .. } => "unknown",
    }
}

fn families(network: &Report, pods: Vec<&'static str>, containers: Vec<&'static str>, now: SystemTime) -> Vec<Family> {
    let oldest = network.pending.iter().map(|owed| owed.since).min();
    // A clock that was set back makes nothing older than now.
    let oldest = oldest.map(|since| now.duration_since(since).unwrap_or_default()).unwrap_or_default();
    let version = vec![("version", env!("CARGO_PKG_VERSION").to_owned())];
    let mut build = Family::of("coracle_build_info", "The daemon's version, as a label of 1.", 1.0);
    build.samples = vec![Sample { labels: version, value: 1.0 }];
    vec![
        build,
        Family::by("coracle_pods", "Pods by state.", "state", counted(&POD_STATES, &pods)),
        Family::by("coracle_containers", "Containers by state.", "state", counted(&CONTAINER_STATES, &containers)),
        Family::of(
            "coracle_network_ready",
            "Whether pods can be attached to the network: 1 or 0.",
            f64::from(u8::from(network.readiness == Readiness::Ready)),
        ),
        Family::of(
            "coracle_network_faulty_files",
            "Files of the directory of network configurations that give no network.",
            network.faults.len() as f64,
        ),
        Family::of(
            "coracle_network_pending_detachments",
            "Pods that are gone and have attachments still to be given back.",
            network.pending.len() as f64,
        ),
        Family::of(
            "coracle_network_pending_oldest_seconds",
            "How long the oldest attachment that is still to be given back has been; 0 where there is none.",
            oldest.as_secs_f64(),
        ),
    ]
}

/// How many are in each state, 0 where none is.
fn counted(states: &[&'static str], of: &[&'static str]) -> Vec<(String, f64)> {
    let count = |state: &&'static str| of.iter().filter(|one| *one == state).count() as f64;
    states.iter().map(|state| ((*state).to_owned(), count(state))).collect()
}

#[cfg(test)]
mod tests {
    use std::{fs, path::Path, time::Duration};

    use model::PodId;
    use network::{Directories, Fault, Owed};

    use super::*;

    fn report() -> Report {
        Report {
            readiness: Readiness::Ready,
            networks: Vec::new(),
            faults: Vec::new(),
            notes: Vec::new(),
            pending: Vec::new(),
            directories: Directories { configurations: None, plugins: Vec::new(), most: 1 },
        }
    }

    fn value(families: &[Family], name: &str, at: usize) -> f64 {
        families.iter().find(|family| family.name == name).unwrap().samples[at].value
    }

    #[test]
    fn what_is_wrong_is_counted_and_states_without_anything_are_told_too() {
        let now = SystemTime::UNIX_EPOCH + Duration::from_secs(1000);
        let well = families(&report(), Vec::new(), Vec::new(), now);
        assert_eq!(value(&well, "coracle_network_ready", 0), 1.0);
        assert_eq!(value(&well, "coracle_network_pending_oldest_seconds", 0), 0.0);
        assert_eq!((value(&well, "coracle_pods", 1), value(&well, "coracle_containers", 3)), (0.0, 0.0));

        let owed = |since_s| Owed {
            pod: PodId::from_random([7; 32]),
            networks: Vec::new(),
            since: SystemTime::UNIX_EPOCH + Duration::from_secs(since_s),
            tries: 1,
            error: String::new(),
        };
        let wrong = Report {
            readiness: Readiness::NotReady { why: "no bridge".into() },
            faults: vec![Fault { file: "/x".into(), why: "no".into() }],
            pending: vec![owed(990), owed(400), owed(2000)],
            ..report()
        };
        let wrong = families(&wrong, vec!["ready", "notready", "ready"], vec!["running", "unknown"], now);
        assert_eq!(value(&wrong, "coracle_network_ready", 0), 0.0);
        assert_eq!(value(&wrong, "coracle_network_faulty_files", 0), 1.0);
        assert_eq!(value(&wrong, "coracle_network_pending_detachments", 0), 3.0);
        assert_eq!(value(&wrong, "coracle_network_pending_oldest_seconds", 0), 600.0);
        assert_eq!((value(&wrong, "coracle_pods", 0), value(&wrong, "coracle_pods", 1)), (2.0, 1.0));
        assert_eq!((value(&wrong, "coracle_containers", 1), value(&wrong, "coracle_containers", 3)), (1.0, 1.0));
    }

    #[test]
    fn the_readme_has_every_metric() {
        let readme = fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("README.md")).unwrap();
        let told: Vec<_> = readme
            .lines()
            .filter_map(|line| line.strip_prefix("| `coracle_")?.split(['`', '{']).next())
            .map(|rest| format!("coracle_{rest}"))
            .collect();
        let families = families(&report(), Vec::new(), Vec::new(), SystemTime::now());
        assert_eq!(told, families.iter().map(|family| family.name).collect::<Vec<_>>());
    }
}
