//! CNI configuration lists: the text a network is described by, ours and everybody's.
//!
//! Follows the CNI specification 1.1 and accepts lists back to 0.3.1. Parsing knows no plugin: each plugin's object is
//! kept as it was written, so that it can go to a binary unchanged or be read strictly by a native plugin.
//! Input may come from anyone who can write the directory: it is bounded, and never panics.

use std::{collections::BTreeMap, sync::Arc};

use serde::{
    Deserialize,
    de::{DeserializeOwned, IgnoredAny},
};
use serde_json::{Map, Value};

use crate::{Error, Result};

/// Largest configuration that is read, in bytes. Real ones have a few hundred.
pub(crate) const SIZE_MAX: usize = 1024 * 1024;
/// Longest chain of plugins.
const PLUGINS_MAX: usize = 32;
/// Longest name of a network: it becomes a directory's name.
const NAME_MAX: usize = 180;

/// Versions of the specification whose configurations we understand, oldest first.
const VERSIONS: [&str; 5] = ["0.3.1", "0.4.0", "1.0.0", "1.1.0", "0.3.0"];

/// Keys of a plugin's object that belong to the runtime and not to the plugin.
pub const RUNTIME_KEYS: [&str; 7] =
    ["type", "name", "cniVersion", "capabilities", "prevResult", "runtimeConfig", "args"];

/// A network: plugins that run one after the other.
#[derive(Debug, Clone, PartialEq)]
pub struct Conflist {
    /// Name of the network; also names its lease directory.
    pub name: String,
    /// Version of the specification that the plugins are spoken to in.
    pub cni_version: String,
    /// Whether CHECK is never called.
    pub disable_check: bool,
    /// Whether GC is never called.
    pub disable_gc: bool,
    /// Whether plugin files beside the list are left alone (1.1).
    pub load_only_inlined_plugins: bool,
    /// The chain, in the order of ADD. At least one.
    pub plugins: Vec<PluginConf>,
    /// The whole as text: read again, it gives the same list, whatever has become of the files.
    pub text: Arc<str>,
}

/// One plugin of a list, as written.
#[derive(Debug, Clone, PartialEq)]
pub struct PluginConf {
    /// The plugin's type: a native plugin's name, or that of a binary.
    pub kind: String,
    /// Runtime capabilities that it declares.
    pub capabilities: BTreeMap<String, bool>,
    /// The whole object.
    pub object: Object,
}

/// Longest reason, characters.
const WHY_MAX: usize = 500;

/// A JSON object.
pub(crate) type Object = Map<String, Value>;

#[derive(Deserialize)]
struct Head {
    #[serde(rename = "cniVersion")]
    cni_version: Option<String>,
    #[serde(rename = "cniVersions", default)]
    cni_versions: Vec<String>,
    name: String,
    #[serde(rename = "disableCheck", default)]
    disable_check: Flag,
    #[serde(rename = "disableGC", default)]
    disable_gc: Flag,
    #[serde(rename = "loadOnlyInlinedPlugins", default)]
    load_only_inlined_plugins: Flag,
    #[serde(default)]
    plugins: Option<Vec<Map<String, Value>>>,
    #[serde(rename = "type")]
    single: Option<IgnoredAny>,
}

/// A yes or no that libcni also takes as a string.
#[derive(Default)]
struct Flag(bool);

impl<'de> Deserialize<'de> for Flag {
    fn deserialize<D: serde::Deserializer<'de>>(from: D) -> std::result::Result<Self, D::Error> {
        match Value::deserialize(from)? {
            Value::Bool(flag) => Ok(Self(flag)),
            Value::String(text) if text.eq_ignore_ascii_case("true") => Ok(Self(true)),
            Value::String(text) if text.eq_ignore_ascii_case("false") => Ok(Self(false)),
            other => Err(serde::de::Error::custom(format!("{other} is neither true nor false"))),
        }
    }
}

impl Conflist {
    /// Reads a list (`.conflist`) or a single plugin's configuration (`.conf`, becomes a list of one).
    pub fn parse(text: &[u8]) -> Result<Self> {
        Self::with_more(text, |_| Ok(Vec::new()))
    }

    /// The same with the plugins that `beside` finds for a network of that name, added to the end of the chain unless
    /// the list does without.
    pub(crate) fn with_more(text: &[u8], beside: impl FnOnce(&str) -> Result<Vec<Object>>) -> Result<Self> {
        if text.len() > SIZE_MAX {
            return refused("the file", format!("has {} bytes, more than {SIZE_MAX}", text.len()));
        }
        let head: Head = serde_json::from_slice(text).or_else(|error| refused("the file", error.to_string()))?;
        check_name(&head.name)?;
        let cni_version = choose_version(head.cni_version.as_deref(), &head.cni_versions)?;
        let is_list = head.plugins.is_some() || head.single.is_none();
        let mut objects = match head.plugins {
            Some(plugins) => plugins,
            None if is_list => Vec::new(),
            None => vec![object(text)?],
        };
        let more = if is_list && !head.load_only_inlined_plugins.0 { beside(&head.name)? } else { Vec::new() };
        let whole =
            if more.is_empty() { String::from_utf8_lossy(text).into_owned() } else { merged(text, &objects, &more)? };
        objects.extend(more);
        if objects.is_empty() {
            return refused("plugins", "a network needs at least one plugin".into());
        }
        if objects.len() > PLUGINS_MAX {
            return refused("plugins", format!("has {} plugins, more than {PLUGINS_MAX}", objects.len()));
        }
        let plugins = objects.into_iter().enumerate().map(|(at, object)| PluginConf::new(at, object));
        Ok(Self {
            name: head.name,
            cni_version,
            disable_check: head.disable_check.0,
            disable_gc: head.disable_gc.0,
            load_only_inlined_plugins: head.load_only_inlined_plugins.0,
            plugins: plugins.collect::<Result<_>>()?,
            text: whole.into(),
        })
    }

    /// Whether this list speaks the specification of at least that version.
    pub fn speaks(&self, major: u32, minor: u32) -> bool {
        let mut parts = self.cni_version.split('.').map(|part| part.parse::<u32>().unwrap_or(0));
        (parts.next().unwrap_or(0), parts.next().unwrap_or(0)) >= (major, minor)
    }
}

impl PluginConf {
    fn new(at: usize, object: Map<String, Value>) -> Result<Self> {
        let kind = match object.get("type") {
            Some(Value::String(kind)) if is_plugin_type(kind) => kind.clone(),
            Some(other) => return refused(&format!("plugins[{at}].type"), format!("{other} is not a plugin's name")),
            None => return refused(&format!("plugins[{at}].type"), "is missing".into()),
        };
        let mut capabilities = BTreeMap::new();
        match object.get("capabilities") {
            None | Some(Value::Null) => {}
            Some(Value::Object(given)) => {
                for (name, value) in given {
                    let Value::Bool(value) = value else {
                        let key = format!("plugins[{at}].capabilities.{name}");
                        return refused(&key, format!("{value} is neither true nor false"));
                    };
                    capabilities.insert(name.clone(), *value);
                }
            }
            Some(other) => {
                return refused(&format!("plugins[{at}].capabilities"), format!("{other} is not an object"));
            }
        }
        Ok(Self { kind, capabilities, object })
    }

    /// Reads the plugin's own keys as `T`, which refuses what it does not know.
    pub fn own<T: DeserializeOwned>(&self) -> Result<T> {
        // Go reads `null` as if the key were not there.
        let own = self.object.iter().filter(|(key, value)| !RUNTIME_KEYS.contains(&key.as_str()) && !value.is_null());
        let own: Map<String, Value> = own.map(|(key, value)| (key.clone(), value.clone())).collect();
        serde_json::from_value(Value::Object(own)).or_else(|error| refused(&self.kind, error.to_string()))
    }
}

/// One plugin's object.
pub(crate) fn object(text: &[u8]) -> Result<Object> {
    serde_json::from_slice(text).or_else(|error| refused("the file", error.to_string()))
}

/// A list's text with further plugins in it, which looks for no more.
fn merged(text: &[u8], inlined: &[Object], more: &[Object]) -> Result<String> {
    let mut list = object(text)?;
    let plugins = inlined.iter().chain(more).cloned().map(Value::Object);
    list.insert("plugins".into(), Value::Array(plugins.collect()));
    list.insert("loadOnlyInlinedPlugins".into(), Value::Bool(true));
    Ok(Value::Object(list).to_string())
}

/// The highest version that both sides know: `cniVersions` (1.1) when given, else `cniVersion`.
fn choose_version(single: Option<&str>, offered: &[String]) -> Result<String> {
    let known = |version: &&str| VERSIONS.contains(version);
    let rank = |version: &&str| version.split('.').map(|part| part.parse::<u32>().unwrap_or(0)).collect::<Vec<_>>();
    let all = offered.iter().map(String::as_str).chain(single);
    match all.clone().filter(known).max_by_key(rank) {
        Some(version) => Ok(version.to_owned()),
        None => {
            let given: Vec<_> = all.take(8).collect();
            let given = if given.is_empty() { "none is given".to_owned() } else { format!("{given:?}") };
            refused("cniVersion", format!("{given}; versions 0.3.0 to 1.1.0 are understood"))
        }
    }
}

/// The specification's rule for names, which also makes them safe as directory names.
fn check_name(name: &str) -> Result<()> {
    let good = name.len() <= NAME_MAX
        && name.bytes().next().is_some_and(|first| first.is_ascii_alphanumeric())
        && name.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'_' | b'.' | b'-'));
    if good {
        return Ok(());
    }
    let shown: String = name.chars().take(80).collect();
    refused("name", format!("{shown:?} is not a network's name: a-z A-Z 0-9 _ . - beginning with a letter or digit"))
}

fn is_plugin_type(kind: &str) -> bool {
    (1..=NAME_MAX).contains(&kind.len()) && kind != "." && kind != ".." && !kind.contains(['/', '\0'])
}

fn refused<T>(key: &str, why: String) -> Result<T> {
    Err(Error::Conflist { key: key.to_owned(), why: bounded(why) })
}

/// A reason as people and logs can bear it: it may repeat what stands in the file.
pub fn bounded(mut why: String) -> String {
    if let Some((end, _)) = why.char_indices().nth(WHY_MAX) {
        why.truncate(end);
        why.push('…');
    }
    why
}

#[cfg(test)]
mod tests;
