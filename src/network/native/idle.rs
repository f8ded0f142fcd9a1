//! Plugins that have nothing to do for most pods: `bandwidth` without limits, `tuning` without parameters.
//!
//! `firewall` is none of them: the rules that it writes have to be there for the day when the host's firewall begins to
//! drop.

use cni::PluginConf;
use serde_json::{Map, Value};

use super::is_nothing;

use crate::{Error, Result};

/// Such a plugin, whose own object asks for nothing.
#[derive(Debug)]
pub(crate) struct Idle {
    /// Capabilities by which a pod may ask for something all the same.
    asked_by: &'static [&'static str],
}

impl Idle {
    /// Checks the plugin's object: what asks for something for every pod is its binary's.
    pub(super) fn new(plugin: &PluginConf) -> Result<Self> {
        let not_native = |key: &str| Err(Error::NotNative { plugin: plugin.kind.clone(), key: key.to_owned() });
        let (harmless, asked_by): (&[&str], &'static [&'static str]) = match plugin.kind.as_str() {
            // Rates in the object itself limit every pod.
            "bandwidth" => (&[], &["bandwidth"]),
            "tuning" => (&["dataDir"], &["mac"]),
            _ => return not_native("this type"),
        };
        for (key, value) in &plugin.object {
            if !cni::RUNTIME_KEYS.contains(&key.as_str()) && !harmless.contains(&key.as_str()) && !is_nothing(value) {
                return not_native(key);
            }
        }
        Ok(Self { asked_by })
    }

    /// Whether the pod asks for nothing either.
    pub(super) fn has_nothing_to_do(&self, asked: &Map<String, Value>) -> bool {
        !self.asked_by.iter().any(|capability| asked.contains_key(*capability))
    }
}
