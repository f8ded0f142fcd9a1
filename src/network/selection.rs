//! Which networks pods get now: those of the directory, or the built-in one while the directory has none.
//!
//! The directory is read when the network is opened and whenever the watch says so. What is read is judged before it
//! counts, so that a mistake in one file leaves the others, and what the file was before, as they are.

use std::{
    path::{Path, PathBuf},
    sync::Arc,
};

use cni::{Cache, Conflist, Directory, Fault};

use crate::{Config, NativePlugins, Result, chain::Chain};

/// The directory, and the networks of it that count.
#[derive(Debug, Clone)]
pub(crate) struct Selection {
    directory: Option<Directory>,
    builtin: Option<Arc<Chain>>,
    maker: Maker,
    /// How many of the directory's networks count; 0: all.
    most: usize,
    chains: Vec<Arc<Chain>>,
}

/// How a list becomes a network.
#[derive(Debug, Clone)]
pub(crate) struct Maker {
    pub(crate) wanted: NativePlugins,
    pub(crate) cache_dir: PathBuf,
}

impl Maker {
    /// The network of a list from the directory.
    pub(crate) fn chain(&self, list: Conflist) -> Result<Chain> {
        Chain::new(list, &self.wanted, None, Cache::new(self.cache_dir.clone()))
    }
}

impl Selection {
    pub(crate) fn open(config: &Config, builtin: Option<Arc<Chain>>) -> Self {
        let maker = Maker { wanted: config.native_plugins.clone(), cache_dir: config.cache_dir.clone() };
        let judge = maker.clone();
        let judge = move |list: &Conflist| judge.chain(list.clone()).map(drop).map_err(|error| error.to_string());
        let directory = config.conf_dir.clone().map(|dir| Directory::open(dir, judge));
        let mut selection = Self { directory, builtin, maker, most: config.max_conf_num, chains: Vec::new() };
        selection.choose();
        selection
    }

    /// Reads the directory again. Whether anything has changed.
    pub(crate) fn read_again(&mut self) -> bool {
        let changed = self.directory.as_mut().is_some_and(Directory::read_again);
        if changed {
            self.choose();
        }
        changed
    }

    /// The networks that pods get, in order.
    pub(crate) fn chains(&self) -> &[Arc<Chain>] {
        &self.chains
    }

    /// Files of the directory that give no network.
    pub(crate) fn faults(&self) -> &[Fault] {
        self.directory.as_ref().map_or(&[], Directory::faults)
    }

    /// The file that gives the network of this name.
    pub(crate) fn file_of(&self, network: &str) -> Option<&Path> {
        self.directory.as_ref()?.file_of(network)
    }

    /// A file beside this one that gives a network.
    pub(crate) fn other_than(&self, file: &Path) -> Option<PathBuf> {
        let directory = self.directory.as_ref()?;
        let mut files = directory.lists().iter().filter_map(|list| directory.file_of(&list.name));
        files.find(|other| *other != file).map(Path::to_owned)
    }

    /// The network of a list that was chosen earlier: the same one where it still counts.
    pub(crate) fn find(&self, text: &str, builtin: bool) -> Option<Arc<Chain>> {
        let own = self.builtin.as_ref().filter(|_| builtin);
        own.into_iter().chain(&self.chains).find(|chain| chain.builtin == builtin && *chain.list.text == *text).cloned()
    }

    pub(crate) fn maker(&self) -> &Maker {
        &self.maker
    }

    /// Why there is no network.
    pub(crate) fn why_none(&self) -> String {
        let Some(dir) = self.directory.as_ref().map(Directory::path) else { return "there is no network".into() };
        match self.faults() {
            // The first words are those by which people and dashboards know this state.
            [] => format!("cni plugin not initialized: no configuration in {}", dir.display()),
            [Fault { file, why }, ..] => format!("cni plugin not initialized: {}: {why}", file.display()),
        }
    }

    fn choose(&mut self) {
        let lists = self.directory.as_ref().map_or(&[][..], Directory::lists);
        let most = if self.most == 0 { lists.len() } else { self.most };
        let before = std::mem::take(&mut self.chains);
        for list in lists.iter().take(most) {
            // A network that is as it was keeps what it knows of its bridge.
            let kept = before.iter().find(|chain| !chain.builtin && chain.list.text == list.text).cloned();
            match kept.map_or_else(|| self.maker.chain((**list).clone()).map(Arc::new), Ok) {
                Ok(chain) => self.chains.push(chain),
                // It was judged a moment ago, by the same rules.
                Err(error) => tracing::error!(network = list.name, %error, "a network that was good is not any more"),
            }
        }
        if self.chains.is_empty() && self.faults().is_empty() {
            self.chains.extend(self.builtin.clone());
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    /// A usual list, with something for every option that is done natively.
    fn usual() -> Value {
        let sets = json!([[{ "subnet": "172.21.0.0/16", "rangeStart": "172.21.1.1", "rangeEnd": "172.21.2.1",
            "gateway": "172.21.0.1" }], [{ "subnet": "fd00::/64" }]]);
        let ipam = json!({ "type": "host-local", "ranges": sets, "dataDir": "/x", "resolvConf": "/y",
            "routes": [{ "dst": "0.0.0.0/0", "gw": "172.21.0.1" }] });
        json!({ "cniVersion": "1.1.0", "cniVersions": ["1.0.0", "1.1.0"], "name": "pods", "disableCheck": false,
            "plugins": [
                { "type": "loopback" },
                { "type": "bridge", "bridge": "x0", "isGateway": true, "isDefaultGateway": true, "ipMasq": true,
                  "hairpinMode": true, "portIsolation": true, "mtu": 1400, "forceAddress": true, "enabledad": false,
                  "macspoofchk": true, "promiscMode": false, "vlan": 0, "ipam": ipam,
                  "capabilities": { "ips": true }, "args": { "cni": { "ips": ["172.21.1.7"] } },
                  "dns": { "nameservers": ["172.21.0.1"], "domain": "x", "search": [], "options": [] } },
                { "type": "ptp", "ipMasq": true, "mtu": 1400, "ipam": ipam },
                { "type": "portmap", "snat": true, "conditionsV4": [], "markMasqBit": 13,
                  "capabilities": { "portMappings": true } },
                { "type": "bandwidth", "ingressRate": 0, "capabilities": { "bandwidth": true } },
                { "type": "tuning", "sysctl": {} },
            ] })
    }

    /// Every place in a value.
    fn places(value: &Value, at: &str, all: &mut Vec<String>) {
        all.push(at.to_owned());
        match value {
            Value::Array(values) => {
                values.iter().enumerate().for_each(|(n, value)| places(value, &format!("{at}/{n}"), all))
            }
            Value::Object(values) => values.iter().for_each(|(key, value)| places(value, &format!("{at}/{key}"), all)),
            _ => {}
        }
    }

    #[test]
    fn whatever_stands_anywhere_in_a_list_it_is_a_network_or_an_error_with_a_reason() {
        let maker = Maker { wanted: NativePlugins::All(true), cache_dir: "/nowhere".into() };
        let judge = |list: &Value| -> Result<()> {
            let list = Conflist::parse(list.to_string().as_bytes())?;
            maker.chain(list).map(drop)
        };
        judge(&usual()).unwrap();
        let mut all = Vec::new();
        places(&usual(), "", &mut all);
        let others = [
            json!(null),
            json!(true),
            json!(-1),
            json!(1e300),
            json!(u64::MAX),
            json!(""),
            json!("x"),
            json!("1/2"),
            json!("172.21.0.0/0"),
            json!("172.21.255.255/32"),
            json!("::/128"),
            json!("ffff::/127"),
            json!([]),
            json!({}),
            json!([[]]),
            json!([{}]),
            json!({ "x": null }),
            json!("a".repeat(1 << 16)),
        ];
        let (mut good, mut bad) = (0, 0);
        for place in &all {
            for other in &others {
                let mut list = usual();
                *list.pointer_mut(place).unwrap() = other.clone();
                match judge(&list) {
                    Ok(()) => good += 1,
                    Err(error) => {
                        let said = error.to_string();
                        assert!(
                            said.contains(':') && said.len() < 2000,
                            "{place} = {:.40}: {said:.2000}",
                            other.to_string()
                        );
                        bad += 1;
                    }
                }
            }
        }
        assert!(good > 100 && bad > 100, "{good} good, {bad} bad");
    }
}
