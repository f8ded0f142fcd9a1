//! The `loopback` plugin. Every pod's loopback is up already when its namespace is made; a list that names the plugin
//! is answered as the reference plugin does.

use cni::{Interface, Ip, PluginConf, Success};
use serde::Deserialize;

use super::{Place, own};
use crate::Result;

/// It has no options.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Conf {}

pub(super) fn check(plugin: &PluginConf) -> Result<()> {
    own::<Conf>(plugin).map(drop)
}

/// What came before, or the loopback itself when it is the first of its list.
pub(super) fn add(place: Place<'_>, previous: Option<Success>) -> Result<Success> {
    if let Some(previous) = previous {
        return Ok(previous);
    }
    let sandbox = place.path().display().to_string();
    let lo = Interface {
        name: place.runtime.interface.clone(),
        mac: "00:00:00:00:00:00".into(),
        sandbox,
        ..Interface::default()
    };
    let own =
        |address: &str| Ip { address: address.parse().expect("a literal address"), gateway: None, interface: Some(0) };
    Ok(Success { interfaces: vec![lo], ips: vec![own("127.0.0.1/8"), own("::1/128")], ..Success::default() })
}
