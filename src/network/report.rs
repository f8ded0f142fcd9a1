//! What an operator should see of the network, all of it at once and from memory.

use std::{path::PathBuf, sync::Arc, time::SystemTime};

use cni::Fault;
use model::PodId;

use crate::{Network, Pending, Readiness, attach::interface, chain::Chain, selection::Selection};

/// The network as it is now.
#[derive(Debug, Clone, PartialEq)]
pub struct Report {
    /// Whether pods can be attached.
    pub readiness: Readiness,
    /// The networks that pods get, in order.
    pub networks: Vec<Listed>,
    /// Files of the directory that give no network, or the directory itself.
    pub faults: Vec<Fault>,
    /// What this host keeps from the network though it works, one sentence each.
    pub notes: Vec<String>,
    /// What pods that are gone have left to be given back, by pod.
    pub pending: Vec<Owed>,
    /// Where configurations and plugins are looked for.
    pub directories: Directories,
}

/// A network that pods get.
#[derive(Debug, Clone, PartialEq)]
pub struct Listed {
    /// Its name.
    pub name: String,
    /// Where it comes from.
    pub origin: Origin,
    /// Version of the specification that its plugins are spoken to in.
    pub cni_version: String,
    /// Its plugins, in order.
    pub plugins: Vec<PluginUse>,
    /// The whole list as text, or the single plugin that it is of.
    pub text: Arc<str>,
    /// The name of its link in a pod that has no more than these networks.
    pub interface: String,
}

/// Where a network comes from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Origin {
    /// The settings.
    BuiltIn,
    /// A file of the directory.
    File(PathBuf),
}

/// A plugin of a network.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PluginUse {
    /// Its type.
    pub kind: String,
    /// Who does its part.
    pub doer: Doer,
}

/// Who does a plugin's part.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Doer {
    /// We do.
    Us,
    /// We do, for pods that ask nothing of it; for the others its binary does.
    UsUnlessAsked,
    /// Its binary does.
    Binary {
        /// What makes it so: a key of the plugin's object, of the settings, or its type.
        key: String,
    },
}

/// An attachment of a pod that is gone, which could not be given back yet.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Owed {
    /// The pod.
    pub pod: PodId,
    /// Names of its networks.
    pub networks: Vec<String>,
    /// When it was first tried.
    pub since: SystemTime,
    /// How often it was tried.
    pub tries: u32,
    /// What came of the last time.
    pub error: String,
}

/// Where configurations and plugins are looked for, as the settings say.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Directories {
    /// Of configurations; none where the built-in network is the only one.
    pub configurations: Option<PathBuf>,
    /// Of plugins, the first before the others.
    pub plugins: Vec<PathBuf>,
    /// How many networks of the directory count; 0: all.
    pub most: usize,
}

impl Network {
    /// Everything that an operator should see. Answered from memory; an answer that has become old starts a new look.
    pub fn report(&self) -> Report {
        // First, so that nothing is locked while it locks.
        let readiness = self.readiness();
        let config = &self.inner.config;
        let (networks, faults) = {
            let selection = self.inner.selection();
            let listed = |(at, chain): (usize, &Arc<Chain>)| Listed::new(at, chain, &selection);
            (selection.chains().iter().enumerate().map(listed).collect(), selection.faults().to_vec())
        };
        Report {
            readiness,
            networks,
            faults,
            notes: self.inner.shortcomings(),
            pending: self.pending().iter().map(Owed::of).collect(),
            directories: Directories {
                configurations: config.conf_dir.clone(),
                plugins: config.bin_dirs.clone(),
                most: config.max_conf_num,
            },
        }
    }
}

impl Listed {
    fn new(at: usize, chain: &Chain, selection: &Selection) -> Self {
        let list = &chain.list;
        let origin = match selection.file_of(&list.name).filter(|_| !chain.builtin) {
            Some(file) => Origin::File(file.to_owned()),
            None => Origin::BuiltIn,
        };
        let plugins = chain.plugins().map(|(kind, doer)| PluginUse { kind: kind.to_owned(), doer });
        Self {
            name: list.name.clone(),
            origin,
            cni_version: list.cni_version.clone(),
            plugins: plugins.collect(),
            text: list.text.clone(),
            interface: interface(at),
        }
    }
}

impl Owed {
    fn of(pending: &Pending) -> Self {
        Self {
            pod: pending.pod.clone(),
            networks: pending.networks(),
            since: pending.since,
            tries: pending.tries,
            error: pending.error.clone(),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;
    use crate::Config;

    #[test]
    fn networks_are_listed_in_order_with_their_files_and_who_does_each_plugin() {
        let dir = tempfile::tempdir().unwrap();
        let write = |name: &str, text: &str| fs::write(dir.path().join(name), text).unwrap();
        let bridge = r#"{"type":"bridge","bridge":"x0","ipam":{"type":"host-local","subnet":"10.1.0.0/16"}}"#;
        let more = r#"{"type":"bandwidth","capabilities":{"bandwidth":true}},{"type":"of-somebody"}"#;
        write("10-one.conflist", &format!(r#"{{"cniVersion":"1.0.0","name":"one","plugins":[{bridge},{more}]}}"#));
        write("20-two.conf", r#"{"cniVersion":"0.3.1","name":"two","type":"other"}"#);
        write("30-bad.conflist", r#"{"cniVersion":"1.0.0","name":"bad","plugins":[{}]}"#);
        let conf_dir = Some(dir.path().to_owned());
        let config = Config { conf_dir, max_conf_num: 0, builtin: false, ..Config::default() };
        let selection = Selection::open(&config, None);
        let all: Vec<_> =
            selection.chains().iter().enumerate().map(|(at, chain)| Listed::new(at, chain, &selection)).collect();
        let [one, two] = &all[..] else { panic!("{all:?}") };
        assert_eq!((one.name.as_str(), one.cni_version.as_str(), one.interface.as_str()), ("one", "1.0.0", "eth0"));
        assert_eq!(one.origin, Origin::File(dir.path().join("10-one.conflist")));
        let doers: Vec<_> = one.plugins.iter().map(|plugin| (plugin.kind.as_str(), plugin.doer.clone())).collect();
        let binary = |key: &str| Doer::Binary { key: key.to_owned() };
        let (ours, unless_asked, type_of_somebody) = (Doer::Us, Doer::UsUnlessAsked, binary("this type"));
        assert_eq!(
            doers,
            [("bridge", ours), ("bandwidth", unless_asked), ("of-somebody", type_of_somebody.clone())],
            "{one:?}"
        );
        assert_eq!((two.interface.as_str(), &two.plugins[0].doer), ("eth1", &type_of_somebody));
        let [fault] = selection.faults() else { panic!("{:?}", selection.faults()) };
        assert!(fault.file.ends_with("30-bad.conflist") && fault.why.contains("plugins[0].type"), "{fault:?}");

        let none = Config { native_plugins: crate::NativePlugins::All(false), ..config };
        let selection = Selection::open(&none, None);
        let one = Listed::new(0, &selection.chains()[0], &selection);
        assert_eq!(one.plugins[0].doer, binary("native_plugins of the settings"));
    }
}
