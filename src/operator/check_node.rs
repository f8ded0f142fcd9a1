//! CheckNode: what is wrong with the node, part by part. A part of the node that comes later adds its own problems, and
//! a report of its own for whoever wants to see more.

use std::time::{SystemTime, UNIX_EPOCH};

use api::coracle::v1;
use network::{Doer, Fault, Listed, Origin, Owed, PluginUse, Readiness, Report, Unlike};

/// The network's part, as problems name it.
const NETWORK: &str = "network";

/// The answer for this state of the rooms.
pub(crate) fn answer(network: Report, unlike: Vec<Unlike>) -> v1::CheckNodeResponse {
    let mut problems = problems(&network);
    problems.extend(unlike.into_iter().map(|unlike| v1::Problem {
        part: NETWORK.to_owned(),
        object: format!("pod {}", unlike.pod),
        what: format!("not attached to {} as it was made: {}", unlike.network, unlike.why),
    }));
    v1::CheckNodeResponse { problems, network: Some(told(network)) }
}

/// What an operator has to see to, the worst first.
fn problems(report: &Report) -> Vec<v1::Problem> {
    let problem = |object: String, what: String| v1::Problem { part: NETWORK.to_owned(), object, what };
    let not_ready = match &report.readiness {
        Readiness::Ready => None,
        Readiness::NotReady { why } => Some(problem(String::new(), format!("not ready: {why}"))),
    };
    let faulty = report.faults.iter().map(|fault| problem(fault.file.display().to_string(), fault.why.clone()));
    let owed = report.pending.iter().map(|owed| {
        let (networks, tries, error) = (owed.networks.join(", "), owed.tries, &owed.error);
        let what = format!("gone, and still to be detached from {networks} after {tries} tries: {error}");
        problem(format!("pod {}", owed.pod), what)
    });
    not_ready.into_iter().chain(faulty).chain(owed).collect()
}

fn told(report: Report) -> v1::NetworkReport {
    let why_not = match report.readiness {
        Readiness::Ready => None,
        Readiness::NotReady { why } => Some(why),
    };
    v1::NetworkReport {
        ready: why_not.is_none(),
        why_not: why_not.unwrap_or_default(),
        networks: report.networks.into_iter().map(network).collect(),
        faulty_files: report.faults.into_iter().map(faulty).collect(),
        notes: report.notes,
        pending: report.pending.into_iter().map(pending).collect(),
    }
}

fn network(listed: Listed) -> v1::Network {
    let file = match listed.origin {
        Origin::BuiltIn => String::new(),
        Origin::File(file) => file.display().to_string(),
    };
    let plugins = listed.plugins.into_iter().map(plugin).collect();
    v1::Network { name: listed.name, file, cni_version: listed.cni_version, plugins }
}

fn plugin(plugin: PluginUse) -> v1::NetworkPlugin {
    let (doer, key) = match plugin.doer {
        Doer::Us => (v1::PluginDoer::Native, String::new()),
        Doer::UsUnlessAsked => (v1::PluginDoer::NativeUnlessAsked, String::new()),
        Doer::Binary { key } => (v1::PluginDoer::Binary, key),
    };
    v1::NetworkPlugin { r#type: plugin.kind, doer: doer.into(), key }
}

fn faulty(fault: Fault) -> v1::FaultyFile {
    v1::FaultyFile { path: fault.file.display().to_string(), why: fault.why }
}

fn pending(owed: Owed) -> v1::PendingDetachment {
    v1::PendingDetachment {
        pod_id: owed.pod.to_string(),
        networks: owed.networks,
        since_s: seconds(owed.since),
        tries: owed.tries,
        error: owed.error,
    }
}

fn seconds(at: SystemTime) -> i64 {
    at.duration_since(UNIX_EPOCH).ok().and_then(|since| i64::try_from(since.as_secs()).ok()).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use model::PodId;
    use network::Directories;

    use super::*;

    fn report() -> Report {
        let plugin = |kind: &str, doer| PluginUse { kind: kind.into(), doer };
        let listed = Listed {
            name: "pods".into(),
            origin: Origin::File("/etc/cni/net.d/10-pods.conflist".into()),
            cni_version: "1.0.0".into(),
            plugins: vec![
                plugin("bridge", Doer::Us),
                plugin("tuning", Doer::UsUnlessAsked),
                plugin("x", Doer::Binary { key: "this type".into() }),
            ],
            text: "{}".into(),
            interface: "eth0".into(),
        };
        Report {
            readiness: Readiness::Ready,
            networks: vec![listed],
            faults: Vec::new(),
            notes: vec!["no IPv6".into()],
            pending: Vec::new(),
            directories: Directories { configurations: None, plugins: Vec::new(), most: 1 },
        }
    }

    #[test]
    fn a_network_that_works_is_told_whole_and_has_no_problem() {
        let answer = answer(report(), Vec::new());
        assert!(answer.problems.is_empty(), "a note is no problem: {answer:?}");
        let network = answer.network.unwrap();
        assert!(network.ready && network.why_not.is_empty() && network.notes == ["no IPv6"]);
        let [pods] = &network.networks[..] else { panic!("{network:?}") };
        assert_eq!((pods.name.as_str(), pods.file.as_str()), ("pods", "/etc/cni/net.d/10-pods.conflist"));
        let doers: Vec<_> = pods.plugins.iter().map(|plugin| (plugin.doer(), plugin.key.as_str())).collect();
        let native = (v1::PluginDoer::Native, "");
        let unless_asked = (v1::PluginDoer::NativeUnlessAsked, "");
        assert_eq!(doers, [native, unless_asked, (v1::PluginDoer::Binary, "this type")]);
    }

    #[test]
    fn everything_that_is_wrong_is_a_problem_the_worst_first() {
        let owed = Owed {
            pod: PodId::from_random([7; 32]),
            networks: vec!["a".into(), "b".into()],
            since: UNIX_EPOCH + Duration::from_secs(1000),
            tries: 3,
            error: "it is away".into(),
        };
        let report = Report {
            readiness: Readiness::NotReady { why: "no bridge".into() },
            faults: vec![Fault { file: "/x/1.conf".into(), why: "plugins[0].type: is missing".into() }],
            pending: vec![owed.clone()],
            ..report()
        };
        let other = PodId::from_random([8; 32]);
        let unlike = Unlike { pod: other.clone(), network: "a".into(), why: "there is no link eth0".into() };
        let answer = answer(report, vec![unlike]);
        let problems: Vec<_> = answer.problems.iter().map(|one| (one.object.as_str(), one.what.as_str())).collect();
        let (pod, other) = (format!("pod {}", owed.pod), format!("pod {other}"));
        assert_eq!(
            problems,
            [
                ("", "not ready: no bridge"),
                ("/x/1.conf", "plugins[0].type: is missing"),
                (pod.as_str(), "gone, and still to be detached from a, b after 3 tries: it is away"),
                (other.as_str(), "not attached to a as it was made: there is no link eth0"),
            ]
        );
        let network = answer.network.unwrap();
        assert_eq!((network.ready, network.why_not.as_str(), network.pending[0].since_s), (false, "no bridge", 1000));
    }
}
