//! Status: whether pods can run, and what may be asked of them. From memory: a kubelet that waits here calls the node
//! dead.

use std::collections::BTreeMap;

use api::cri::v1::{
    RuntimeCondition, RuntimeFeatures, RuntimeHandler, RuntimeHandlerFeatures, RuntimeStatus, StatusRequest,
    StatusResponse,
};
use serde_json::json;

use crate::{Config, error::Error, request::Host};

/// What the rooms say of themselves.
pub(crate) struct Readiness {
    /// Whether monitors can be started, or why not.
    pub(crate) pods: Result<(), String>,
    pub(crate) network: network::Readiness,
}

/// The answer for this state of the rooms.
pub(crate) fn answer(
    request: StatusRequest,
    readiness: Readiness,
    host: &Host,
    config: &Config,
) -> Result<StatusResponse, Error> {
    let pods = readiness.pods.map_err(|why| ("LauncherNotReady", format!("no pod can be given its monitor: {why}")));
    let runtime = condition("RuntimeReady", pods);
    let network = match readiness.network {
        network::Readiness::Ready => condition("NetworkReady", Ok(())),
        network::Readiness::NotReady { why } => condition(
            "NetworkReady",
            // The words by which dashboards know this state.
            Err(("NetworkPluginNotReady", format!("Network plugin returns error: {why}"))),
        ),
    };
    Ok(StatusResponse {
        status: Some(RuntimeStatus { conditions: vec![runtime, network] }),
        info: if request.verbose { info(config) } else { BTreeMap::new() },
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

/// critest reads `stateDir`; the rest is for people.
fn info(config: &Config) -> BTreeMap<String, String> {
    let config = json!({
        "rootDir": config.root,
        "stateDir": config.state,
        "version": env!("CARGO_PKG_VERSION"),
        "cgroupDriver": "cgroupfs",
    });
    BTreeMap::from([("config".to_owned(), config.to_string())])
}

#[cfg(test)]
mod tests {
    use super::*;

    use network::Readiness::{NotReady, Ready};

    fn ask(verbose: bool, pods: Result<(), String>, network: network::Readiness) -> StatusResponse {
        let config = Config { root: "/var/lib/coracle".into(), state: "/run/coracle".into(), handlers: Vec::new() };
        answer(StatusRequest { verbose }, Readiness { pods, network }, &Host::plain(), &config).unwrap()
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
}
