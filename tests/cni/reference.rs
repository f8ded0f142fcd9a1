//! The reference plugins, driven as the CNI specification says a runtime does.

use std::{
    io::Write,
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

use serde_json::{Map, Value, json};

use crate::host::{Host, Netns};

/// The link that CRI runtimes ask for.
pub(crate) const ETH0: &str = "eth0";

/// Where `tests/tools/cni/build` has put them, or where a guest finds them: `CORACLE_CNI_PLUGINS`.
pub(crate) fn plugins() -> PathBuf {
    let built = || Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/tools/bin/cni");
    let dir = std::env::var_os("CORACLE_CNI_PLUGINS").map_or_else(built, PathBuf::from);
    assert!(dir.join("bridge").exists(), "{} has no plugins: run tests/tools/cni/build", dir.display());
    dir
}

/// What differs from call to call of one attachment.
#[derive(Debug, Clone)]
pub(crate) struct Call<'a> {
    /// Who is attached, and by which link.
    pub(crate) id: &'a str,
    pub(crate) netns: &'a Path,
    pub(crate) ifname: &'a str,
    /// Values for the capabilities that plugins declare.
    pub(crate) capabilities: &'a Map<String, Value>,
}

/// Runs a list's ADD; the last plugin's result.
pub(crate) fn add(host: &Host, list: &Value, call: &Call<'_>) -> Result<Value, String> {
    let mut result = Value::Null;
    for plugin in list["plugins"].as_array().unwrap() {
        result = one(host, "ADD", list, plugin, call, &result)?;
    }
    Ok(result)
}

/// Runs a list's DEL.
pub(crate) fn del(host: &Host, list: &Value, call: &Call<'_>, result: &Value) -> Result<(), String> {
    let mut plugins = list["plugins"].as_array().unwrap().iter().rev();
    // Before 0.4.0 a plugin is not told the result.
    let prev = if list["cniVersion"] == "0.3.1" { &Value::Null } else { result };
    plugins.try_for_each(|plugin| one(host, "DEL", list, plugin, call, prev).map(drop))
}

/// Runs each plugin's CHECK: its type, and `ok` or what it says.
pub(crate) fn check(host: &Host, list: &Value, call: &Call<'_>, result: &Value) -> Vec<(String, String)> {
    let plugins = list["plugins"].as_array().unwrap().iter();
    plugins
        .map(|plugin| {
            let outcome = one(host, "CHECK", list, plugin, call, result);
            (plugin["type"].as_str().unwrap().to_owned(), outcome.map_or_else(|said| said, |_| "ok".to_owned()))
        })
        .collect()
}

/// Runs one plugin.
fn one(
    host: &Host,
    command: &str,
    list: &Value,
    plugin: &Value,
    call: &Call<'_>,
    prev: &Value,
) -> Result<Value, String> {
    let kind = plugin["type"].as_str().unwrap();
    let mut config = plugin.as_object().unwrap().clone();
    for key in ["name", "cniVersion"] {
        config.insert(key.to_owned(), list[key].clone());
    }
    let wanted = |name: &&String| plugin["capabilities"][name.as_str()] == true;
    let given: Map<_, _> = call.capabilities.iter().filter(|(name, _)| wanted(name)).map(owned).collect();
    if !given.is_empty() {
        config.insert("runtimeConfig".to_owned(), given.into());
    }
    if !prev.is_null() {
        config.insert("prevResult".to_owned(), prev.clone());
    }
    let dir = plugins();
    let mut process = host.netns.inside(|| {
        Command::new(dir.join(kind))
            .env("CNI_COMMAND", command)
            .env("CNI_CONTAINERID", call.id)
            .env("CNI_NETNS", call.netns)
            .env("CNI_IFNAME", call.ifname)
            .env("CNI_ARGS", "IgnoreUnknown=1")
            .env("CNI_PATH", &dir)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .expect("a plugin")
    });
    process.stdin.take().unwrap().write_all(json!(config).to_string().as_bytes()).unwrap();
    let output = process.wait_with_output().unwrap();
    let said = String::from_utf8_lossy(&output.stdout).into_owned();
    if !output.status.success() {
        let error: Value = serde_json::from_str(&said).unwrap_or_default();
        return Err(error["msg"].as_str().map_or(said, str::to_owned));
    }
    Ok(serde_json::from_str(&said).unwrap_or_default())
}

fn owned((name, value): (&String, &Value)) -> (String, Value) {
    (name.clone(), value.clone())
}

/// A pod of the reference: a namespace with its loopback up and attached to the network.
#[derive(Debug)]
pub(crate) struct Attached {
    pub(crate) id: String,
    pub(crate) netns: Netns,
    pub(crate) result: Value,
    capabilities: Map<String, Value>,
}

impl Attached {
    /// Attaches a new pod, as a CRI runtime does: loopback first.
    pub(crate) fn new(
        host: &Host,
        list: &Value,
        id: &str,
        capabilities: Map<String, Value>,
    ) -> Result<Attached, String> {
        let netns = Netns::new();
        let lo = json!({ "cniVersion": "0.3.1", "name": "cni-loopback", "plugins": [{ "type": "loopback" }] });
        let path = netns.path();
        let call = Call { id, netns: &path, ifname: "lo", capabilities: &Map::new() };
        add(host, &lo, &call)?;
        let call = Call { ifname: ETH0, capabilities: &capabilities, ..call };
        let result = add(host, list, &call)?;
        Ok(Attached { id: id.to_owned(), netns, result, capabilities })
    }

    /// Detaches it, as often as one likes.
    pub(crate) fn detach(&self, host: &Host, list: &Value) -> Result<(), String> {
        del(host, list, &self.call(&self.netns.path()), &self.result)
    }

    fn call<'a>(&'a self, path: &'a Path) -> Call<'a> {
        Call { id: &self.id, netns: path, ifname: ETH0, capabilities: &self.capabilities }
    }
}
