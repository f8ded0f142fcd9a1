//! What the runtime tells plugins of one attachment: whose it is, where, and what may be asked.

use std::path::PathBuf;

use serde_json::{Map, Value, json};

use crate::{Conflist, PluginConf, Success};

/// One attachment as a plugin hears of it.
#[derive(Debug, Clone, PartialEq)]
pub struct Runtime {
    /// `CNI_CONTAINERID`.
    pub container: String,
    /// `CNI_NETNS`; `None` once the namespace is gone.
    pub netns: Option<PathBuf>,
    /// `CNI_IFNAME`.
    pub interface: String,
    /// `CNI_ARGS`, in order.
    pub args: Vec<(String, String)>,
    /// What plugins that declare the capability are told.
    pub capabilities: Map<String, Value>,
}

impl Runtime {
    /// `CNI_ARGS` as text. A semicolon ends a value there, so one inside a value cannot be told.
    pub(crate) fn args_text(&self) -> String {
        let pair = |(key, value): &(String, String)| format!("{key}={}", value.replace(';', ""));
        self.args.iter().map(pair).collect::<Vec<_>>().join(";")
    }
}

impl PluginConf {
    /// What the plugin finds on its standard input (section 3 of the specification): its own object, with what the
    /// runtime adds.
    pub fn request(
        &self,
        list: &Conflist,
        runtime: Option<&Runtime>,
        previous: Option<&Success>,
    ) -> Map<String, Value> {
        let mut object = self.object.clone();
        object.insert("name".into(), list.name.clone().into());
        object.insert("cniVersion".into(), list.cni_version.clone().into());
        if let Some(previous) = previous {
            object.insert("prevResult".into(), previous.render(&list.cni_version));
        }
        if let Some(runtime) = runtime {
            let asked = self.runtime_config(runtime);
            if !asked.is_empty() {
                object.insert("runtimeConfig".into(), Value::Object(asked));
            }
        }
        object
    }

    /// What of the runtime's capability arguments this plugin declares that it takes.
    pub fn runtime_config(&self, runtime: &Runtime) -> Map<String, Value> {
        let declared = self.capabilities.iter().filter(|(_, declared)| **declared);
        declared.filter_map(|(name, _)| Some((name.clone(), runtime.capabilities.get(name)?.clone()))).collect()
    }

    /// What the plugin finds when it is to give back all that none of these attachments (container and interface) has.
    pub(crate) fn gc_request(&self, list: &Conflist, valid: &[(String, String)]) -> Map<String, Value> {
        let mut object = self.request(list, None, None);
        let valid: Vec<Value> =
            valid.iter().map(|(container, name)| json!({"containerID": container, "ifname": name})).collect();
        object.insert("cni.dev/attachments".into(), valid.clone().into());
        // The specification's text and its library once differed; plugins may know either.
        object.insert("cni.dev/valid-attachments".into(), valid.into());
        object
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn list() -> Conflist {
        let text = json!({
            "cniVersion": "0.4.0", "name": "net",
            "plugins": [
                {"type": "portmap", "snat": true, "capabilities": {"portMappings": true, "mac": true, "ips": false}},
            ],
        });
        Conflist::parse(text.to_string().as_bytes()).unwrap()
    }

    #[test]
    fn a_plugin_hears_only_of_what_it_declares() {
        let list = list();
        let mut runtime = Runtime {
            container: "c".into(),
            netns: None,
            interface: "eth0".into(),
            args: vec![("K8S_POD_NAME".into(), "a;b".into()), ("X".into(), "y".into())],
            capabilities: Map::new(),
        };
        let told = list.plugins[0].request(&list, Some(&runtime), None);
        assert!(!told.contains_key("runtimeConfig") && !told.contains_key("prevResult"), "{told:?}");
        assert_eq!((told["name"].as_str(), told["cniVersion"].as_str()), (Some("net"), Some("0.4.0")));
        runtime.capabilities.insert("portMappings".into(), json!([{"hostPort": 1}]));
        runtime.capabilities.insert("ips".into(), json!(["10.0.0.1"]));
        let told = list.plugins[0].request(&list, Some(&runtime), Some(&Success::default()));
        assert_eq!(told["runtimeConfig"], json!({"portMappings": [{"hostPort": 1}]}));
        assert_eq!(told["prevResult"]["cniVersion"], "0.4.0");
        assert_eq!(runtime.args_text(), "K8S_POD_NAME=ab;X=y");
    }

    #[test]
    fn whoever_clears_up_hears_which_attachments_are_good() {
        let list = list();
        let told = list.plugins[0].gc_request(&list, &[("c".into(), "eth0".into())]);
        assert_eq!(told["cni.dev/attachments"], json!([{"containerID": "c", "ifname": "eth0"}]));
        assert_eq!(told["cni.dev/attachments"], told["cni.dev/valid-attachments"]);
    }
}
