//! Status: whether pods can run, and what may be asked of them. From memory: a kubelet that waits here calls the node
//! dead.

use std::collections::BTreeMap;

use api::cri::v1::{
    RuntimeCondition, RuntimeFeatures, RuntimeHandler, RuntimeHandlerFeatures, RuntimeStatus, StatusRequest,
    StatusResponse,
};
use network::{Doer, Fault, Origin, Readiness, Report};
use serde_json::{Value, json};

use crate::{Config, error::Error, request::Host};

/// What the rooms say of themselves.
pub(crate) struct State {
    /// Whether monitors can be started, or why not.
    pub(crate) pods: Result<(), String>,
    pub(crate) network: Report,
}

/// The answer for this state of the rooms.
pub(crate) fn answer(
    request: StatusRequest,
    state: State,
    host: &Host,
    config: &Config,
) -> Result<StatusResponse, Error> {
    let pods = state.pods.map_err(|why| ("LauncherNotReady", format!("no pod can be given its monitor: {why}")));
    let runtime = condition("RuntimeReady", pods);
    let network = match &state.network.readiness {
        Readiness::Ready => condition("NetworkReady", Ok(())),
        Readiness::NotReady { why } => condition(
            "NetworkReady",
            // The words by which dashboards know this state.
            Err(("NetworkPluginNotReady", format!("Network plugin returns error: {why}"))),
        ),
    };
    Ok(StatusResponse {
        status: Some(RuntimeStatus { conditions: vec![runtime, network] }),
        info: if request.verbose { info(config, &state.network) } else { BTreeMap::new() },
        runtime_handlers: handlers(host),
        features: Some(RuntimeFeatures {
            supplemental_groups_policy: true,
            user_namespaces_host_network: false,
            mount_options: false,
        }),
    })
}

fn condition(kind: &str, state: Result<(), (&str, String)>) -> RuntimeCondition {
    let status = state.is_ok();
    let (reason, message) = state.err().unwrap_or_default();
    RuntimeCondition { r#type: kind.to_owned(), status, reason: reason.to_owned(), message }
}

/// One per handler, and the default one again under the empty name: a pod without a RuntimeClass is looked up by that.
/// A feature is true only once it is built: the kubelet turns away what needs a missing one.
fn handlers(host: &Host) -> Vec<RuntimeHandler> {
    let features = RuntimeHandlerFeatures { recursive_read_only_mounts: false, user_namespaces: false };
    std::iter::once("")
        .chain(host.handlers.iter().map(String::as_str))
        .map(|name| RuntimeHandler { name: name.to_owned(), features: Some(features) })
        .collect()
}

/// critest reads `stateDir`; the rest is for people, the network's parts under the keys by which they know it of
/// containerd.
fn info(config: &Config, network: &Report) -> BTreeMap<String, String> {
    let config = json!({
        "rootDir": config.root,
        "stateDir": config.state,
        "version": env!("CARGO_PKG_VERSION"),
        "cgroupDriver": "cgroupfs",
    });
    let parts = [
        ("config", config.to_string()),
        ("cniconfig", cni_config(network).to_string()),
        ("lastCNILoadStatus", load_status(network)),
        ("network", network_parts(network).to_string()),
    ];
    parts.map(|(key, value)| (key.to_owned(), value)).into()
}

/// The networks, in the form that containerd shows them in.
fn cni_config(network: &Report) -> Value {
    let networks = network.networks.iter().map(|listed| {
        // Each whole, and the same as text: other runtimes know only some keys of it.
        let whole = serde_json::from_str::<Value>(&listed.text).unwrap_or_default();
        let plugins = match &whole["plugins"] {
            Value::Array(plugins) => &plugins[..],
            _ => std::slice::from_ref(&whole),
        };
        let plugins = plugins.iter().map(|plugin| json!({ "Network": plugin, "Source": plugin.to_string() }));
        let config = json!({
            "Name": listed.name, "CNIVersion": listed.cni_version, "Plugins": plugins.collect::<Vec<_>>(),
            "Source": &*listed.text,
        });
        json!({ "Config": config, "IFName": listed.interface })
    });
    json!({
        "PluginDirs": network.directories.plugins,
        "PluginConfDir": network.directories.configurations,
        "PluginMaxConfNum": network.directories.most,
        "Prefix": "eth",
        "Networks": networks.collect::<Vec<_>>(),
    })
}

/// `OK`, or the first file that gives no network and why, or why there is none.
fn load_status(network: &Report) -> String {
    match (&network.faults[..], &network.readiness) {
        ([Fault { file, why }, ..], _) => format!("{}: {why}", file.display()),
        ([], Readiness::NotReady { why }) if network.networks.is_empty() => why.clone(),
        _ => "OK".to_owned(),
    }
}

/// What other runtimes do not show: where networks come from, who does their plugins' parts, what is wrong.
fn network_parts(network: &Report) -> Value {
    let listed = network.networks.iter().map(|listed| {
        let file = match &listed.origin {
            Origin::BuiltIn => None,
            Origin::File(file) => Some(file.display().to_string()),
        };
        let plugins = listed.plugins.iter().map(|plugin| {
            let doer = match &plugin.doer {
                Doer::Us => "native".to_owned(),
                Doer::UsUnlessAsked => "native unless a pod asks".to_owned(),
                Doer::Binary { key } => format!("binary: {key}"),
            };
            json!({ "type": plugin.kind, "doneBy": doer })
        });
        json!({ "name": listed.name, "file": file, "plugins": plugins.collect::<Vec<_>>() })
    });
    // As text: a file's name may be no UTF-8.
    let faults =
        network.faults.iter().map(|fault| json!({ "file": fault.file.display().to_string(), "why": fault.why }));
    let pending = network.pending.iter().map(
        |owed| json!({ "pod": owed.pod.as_str(), "networks": owed.networks, "tries": owed.tries, "error": owed.error }),
    );
    json!({
        "networks": listed.collect::<Vec<_>>(),
        "faultyFiles": faults.collect::<Vec<_>>(),
        "notes": network.notes,
        "pending": pending.collect::<Vec<_>>(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    use network::{
        Directories, Listed, PluginUse,
        Readiness::{NotReady, Ready},
    };

    const LIST: &str = r#"{"name":"pods","cniVersion":"1.0.0","plugins":[{"type":"x","extra":1}]}"#;

    fn report(readiness: Readiness) -> Report {
        let listed = Listed {
            name: "pods".into(),
            origin: Origin::File("/etc/cni/net.d/10-pods.conflist".into()),
            cni_version: "1.0.0".into(),
            plugins: vec![PluginUse { kind: "x".into(), doer: Doer::Binary { key: "this type".into() } }],
            text: LIST.into(),
            interface: "eth0".into(),
        };
        let configurations = Some("/etc/cni/net.d".into());
        Report {
            readiness,
            networks: vec![listed],
            faults: Vec::new(),
            notes: Vec::new(),
            pending: Vec::new(),
            directories: Directories { configurations, plugins: vec!["/opt/cni/bin".into()], most: 1 },
        }
    }

    fn ask(verbose: bool, pods: Result<(), String>, network: Readiness) -> StatusResponse {
        ask_of(verbose, pods, report(network))
    }

    fn ask_of(verbose: bool, pods: Result<(), String>, network: Report) -> StatusResponse {
        let config = Config { root: "/var/lib/coracle".into(), state: "/run/coracle".into(), handlers: Vec::new() };
        answer(StatusRequest { verbose }, State { pods, network }, &Host::plain(), &config).unwrap()
    }

    #[test]
    fn both_required_conditions_are_told_truthfully() {
        let ready = ask(false, Ok(()), Ready);
        let conditions = ready.status.unwrap().conditions;
        assert!(conditions.iter().all(|c| c.status && c.reason.is_empty()));
        assert!(ready.info.is_empty());
        let broken = ask(false, Ok(()), NotReady { why: "no bridge".into() }).status.unwrap().conditions;
        let network = broken.iter().find(|c| c.r#type == "NetworkReady").unwrap();
        assert_eq!((network.status, network.reason.as_str()), (false, "NetworkPluginNotReady"));
        assert!(network.message.contains("no bridge"));
        assert!(broken.iter().any(|c| c.r#type == "RuntimeReady" && c.status));
        let broken = ask(false, Err("no memory".into()), Ready).status.unwrap().conditions;
        let runtime = broken.iter().find(|c| c.r#type == "RuntimeReady").unwrap();
        assert_eq!((runtime.status, runtime.reason.as_str()), (false, "LauncherNotReady"));
        assert!(runtime.message.contains("no memory"));
        assert!(broken.iter().any(|c| c.r#type == "NetworkReady" && c.status));
    }

    #[test]
    fn the_default_handler_is_listed_under_its_name_and_under_none() {
        let names: Vec<_> = ask(false, Ok(()), Ready).runtime_handlers.into_iter().map(|h| h.name).collect();
        assert_eq!(names, ["", "coracle"]);
    }

    #[test]
    fn verbose_settings_are_json_with_the_state_directory() {
        let info = ask(true, Ok(()), Ready).info;
        let config: serde_json::Value = serde_json::from_str(&info["config"]).unwrap();
        assert_eq!(config["stateDir"], "/run/coracle");
    }

    #[test]
    fn verbose_networks_are_in_the_form_that_containerd_shows_them_in() {
        let info = ask(true, Ok(()), Ready).info;
        let shown: Value = serde_json::from_str(&info["cniconfig"]).unwrap();
        let network = &shown["Networks"][0];
        assert_eq!((&shown["PluginConfDir"], &shown["PluginMaxConfNum"]), (&json!("/etc/cni/net.d"), &json!(1)));
        assert_eq!((&network["IFName"], &network["Config"]["Name"]), (&json!("eth0"), &json!("pods")));
        assert_eq!(network["Config"]["Plugins"][0]["Network"], json!({"type": "x", "extra": 1}));
        assert_eq!((&network["Config"]["Source"], &network["IFName"]), (&json!(LIST), &json!("eth0")));
        let mut single = report(Ready);
        single.networks[0].text = r#"{"name":"pods","type":"x"}"#.into();
        let shown: Value = serde_json::from_str(&ask_of(true, Ok(()), single).info["cniconfig"]).unwrap();
        assert_eq!(shown["Networks"][0]["Config"]["Plugins"][0]["Network"]["type"], "x");
        assert_eq!(info["lastCNILoadStatus"], "OK");
        let ours: Value = serde_json::from_str(&info["network"]).unwrap();
        assert_eq!(ours["networks"][0]["plugins"][0], json!({"type": "x", "doneBy": "binary: this type"}));

        let fault = Fault { file: "/x/1.conf".into(), why: "is not JSON".into() };
        let info = ask_of(true, Ok(()), Report { faults: vec![fault], ..report(Ready) }).info;
        assert_eq!(info["lastCNILoadStatus"], "/x/1.conf: is not JSON");
        let ours: Value = serde_json::from_str(&info["network"]).unwrap();
        assert_eq!(ours["faultyFiles"], json!([{"file": "/x/1.conf", "why": "is not JSON"}]));
        let why = "cni plugin not initialized".to_owned();
        let none = Report { networks: Vec::new(), ..report(NotReady { why: why.clone() }) };
        assert_eq!(ask_of(true, Ok(()), none).info["lastCNILoadStatus"], why);
    }
}
