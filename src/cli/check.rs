//! `coracle check`: what is wrong with the node, then how its parts are.

use std::{
    io::{Write, stdout},
    path::Path,
};

use api::coracle::v1::{
    CheckNodeRequest, CheckNodeResponse, Network, NetworkPlugin, NetworkReport, PendingDetachment, PluginDoer, Problem,
};
use jiff::Timestamp;
use serde_json::{Value, json};

use crate::{
    age::Created,
    arguments::{self, Format},
    daemon,
    error::{Error, Result},
    table::table,
    text,
};

/// Stands for the part as a whole.
const ITSELF: &str = "-";
/// Stands for the file of a network that has none.
const BUILT_IN: &str = "built-in";

/// Asks and tells. That something is wrong is told by the exit code, too.
pub(crate) async fn run(socket: &Path, arguments: arguments::Check) -> Result<()> {
    let mut daemon = daemon::system(socket).await?;
    let answer = daemon.check_node(CheckNodeRequest {}).await.map_err(Error::refused)?.into_inner();
    let shown = match arguments.format {
        Format::Table => tables(&answer, Timestamp::now()),
        Format::Json => format!("{}\n", object(&answer)),
    };
    stdout().lock().write_all(shown.as_bytes()).map_err(Error::output)?;
    if answer.problems.is_empty() { Ok(()) } else { Err(Error::Told) }
}

/// Wrong things first; a table that would be empty is left out.
fn tables(answer: &CheckNodeResponse, now: Timestamp) -> String {
    let mut parts = vec![problems(&answer.problems)];
    if let Some(network) = &answer.network {
        parts.extend(network_tables(network, now));
    }
    parts.join("\n")
}

fn problems(problems: &[Problem]) -> String {
    if problems.is_empty() {
        return "All is well.\n".to_owned();
    }
    let rows = problems.iter().map(|problem| {
        let object = if problem.object.is_empty() { ITSELF } else { &problem.object };
        row([&problem.part, object, &problem.what])
    });
    table(row(["PART", "OBJECT", "PROBLEM"]), rows)
}

fn network_tables(network: &NetworkReport, now: Timestamp) -> Vec<String> {
    let mut parts = Vec::new();
    if !network.networks.is_empty() {
        let rows = network
            .networks
            .iter()
            .map(|network| row([&network.name, file(network), &network.cni_version, &plugins(&network.plugins)]));
        parts.push(table(row(["NETWORK", "FROM", "CNI", "PLUGINS"]), rows));
    }
    if !network.pending.is_empty() {
        let rows = network.pending.iter().map(|pending| {
            let since = since(pending).ago(now);
            row([&pending.pod_id, &pending.networks.join(", "), &since, &pending.tries.to_string()])
        });
        parts.push(table(row(["POD TO DETACH", "NETWORKS", "SINCE", "TRIES"]), rows));
    }
    if !network.notes.is_empty() {
        parts.push(network.notes.iter().map(|note| format!("note: {}\n", text::clean(note))).collect());
    }
    parts
}

/// `bridge, tuning (native unless a pod asks), calico (binary: this type)`
fn plugins(plugins: &[NetworkPlugin]) -> String {
    let told = plugins.iter().map(|plugin| match plugin.doer() {
        PluginDoer::Native => format!("{} (native)", plugin.r#type),
        PluginDoer::NativeUnlessAsked => format!("{} (native unless a pod asks)", plugin.r#type),
        PluginDoer::Binary => format!("{} (binary: {})", plugin.r#type, plugin.key),
    });
    told.collect::<Vec<_>>().join(", ")
}

fn file(network: &Network) -> &str {
    if network.file.is_empty() { BUILT_IN } else { &network.file }
}

fn since(pending: &PendingDetachment) -> Created {
    Created::read(&Timestamp::from_second(pending.since_s).unwrap_or_default().to_string())
}

fn row<const N: usize>(cells: [&str; N]) -> Vec<String> {
    cells.map(text::clean).to_vec()
}

fn object(answer: &CheckNodeResponse) -> Value {
    let problem = |one: &Problem| json!({ "Part": one.part, "Object": one.object, "Problem": one.what });
    json!({
        "Well": answer.problems.is_empty(),
        "Problems": answer.problems.iter().map(problem).collect::<Vec<_>>(),
        "Network": answer.network.as_ref().map(network_object),
    })
}

fn network_object(network: &NetworkReport) -> Value {
    let plugin = |plugin: &NetworkPlugin| {
        let doer = match plugin.doer() {
            PluginDoer::Native => "native",
            PluginDoer::NativeUnlessAsked => "native-unless-asked",
            PluginDoer::Binary => "binary",
        };
        json!({ "Type": plugin.r#type, "Doer": doer, "Key": plugin.key })
    };
    let listed = |network: &Network| {
        json!({
            "Name": network.name, "File": network.file, "CNIVersion": network.cni_version,
            "Plugins": network.plugins.iter().map(plugin).collect::<Vec<_>>(),
        })
    };
    let faulty = network.faulty_files.iter().map(|file| json!({ "File": file.path, "Why": file.why }));
    let pending = |pending: &PendingDetachment| {
        json!({
            "PodID": pending.pod_id, "Networks": pending.networks, "Since": since(pending).at(), "Tries": pending.tries,
            "Error": pending.error,
        })
    };
    json!({
        "Ready": network.ready,
        "WhyNot": network.why_not,
        "Networks": network.networks.iter().map(listed).collect::<Vec<_>>(),
        "FaultyFiles": faulty.collect::<Vec<_>>(),
        "Notes": network.notes,
        "Pending": network.pending.iter().map(pending).collect::<Vec<_>>(),
    })
}

#[cfg(test)]
mod tests {
    use api::coracle::v1::FaultyFile;

    use super::*;

    fn plugin(kind: &str, doer: PluginDoer, key: &str) -> NetworkPlugin {
        NetworkPlugin { r#type: kind.into(), doer: doer.into(), key: key.into() }
    }

    fn well() -> CheckNodeResponse {
        let plugins = vec![
            plugin("bridge", PluginDoer::Native, ""),
            plugin("tuning", PluginDoer::NativeUnlessAsked, ""),
            plugin("x", PluginDoer::Binary, "this type"),
        ];
        let network = Network { name: "pods".into(), file: String::new(), cni_version: "1.0.0".into(), plugins };
        let network = NetworkReport { ready: true, networks: vec![network], ..NetworkReport::default() };
        CheckNodeResponse { problems: Vec::new(), network: Some(network) }
    }

    fn wrong() -> CheckNodeResponse {
        let mut answer = well();
        let problem =
            |object: &str, what: &str| Problem { part: "network".into(), object: object.into(), what: what.into() };
        answer.problems = vec![problem("", "not ready: no\x1b bridge"), problem("/x/1.conf", "is not JSON")];
        let network = answer.network.as_mut().unwrap();
        (network.ready, network.why_not) = (false, "no\x1b bridge".into());
        network.faulty_files = vec![FaultyFile { path: "/x/1.conf".into(), why: "is not JSON".into() }];
        network.networks[0].file = "/x/2.conf".into();
        network.notes = vec!["pods get no IPv6".into()];
        let networks = vec!["pods".into(), "more".into()];
        let error = "it is away".into();
        network.pending = vec![PendingDetachment { pod_id: "ab12".into(), networks, since_s: 1000, tries: 3, error }];
        answer
    }

    #[test]
    fn a_node_that_is_well_is_told_in_a_few_lines() {
        assert_eq!(
            tables(&well(), Timestamp::UNIX_EPOCH),
            "All is well.\n\n\
             NETWORK   FROM       CNI     PLUGINS\n\
             pods      built-in   1.0.0   bridge (native), tuning (native unless a pod asks), x (binary: this type)\n"
        );
        let object = object(&well());
        assert_eq!((&object["Well"], &object["Problems"]), (&json!(true), &json!([])));
        assert_eq!(
            object["Network"]["Networks"][0]["Plugins"][2],
            json!({"Type": "x", "Doer": "binary", "Key": "this type"})
        );
    }

    #[test]
    fn wrong_things_come_first_and_no_control_character_does() {
        let plugins = "bridge (native), tuning (native unless a pod asks), x (binary: this type)";
        assert_eq!(
            tables(&wrong(), Timestamp::from_second(1120).unwrap()),
            format!(
                "PART      OBJECT      PROBLEM\n\
             network   -           not ready: no\u{fffd} bridge\n\
             network   /x/1.conf   is not JSON\n\n\
             NETWORK   FROM        CNI     PLUGINS\n\
             pods      /x/2.conf   1.0.0   {plugins}\n\n\
             POD TO DETACH   NETWORKS     SINCE           TRIES\n\
             ab12            pods, more   2 minutes ago   3\n\n\
             note: pods get no IPv6\n"
            )
        );
        let object = object(&wrong());
        assert_eq!((&object["Well"], &object["Network"]["Ready"]), (&json!(false), &json!(false)));
        assert_eq!(object["Problems"][1], json!({"Part": "network", "Object": "/x/1.conf", "Problem": "is not JSON"}));
        assert_eq!(object["Network"]["Pending"][0]["Since"], "1970-01-01 00:16:40 +0000 UTC");
        assert_eq!(object["Network"]["FaultyFiles"][0]["Why"], "is not JSON");
    }
}
