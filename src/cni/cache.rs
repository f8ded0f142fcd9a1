//! What was attached, where libcni keeps it and in its form (`cniCacheV1`):
//! `<dir>/results/<network>-<container>-<link>`.
//!
//! Other tools read these files, and a detaching that finds no configuration any more follows them. Each is written
//! whole under another name first, so nobody ever reads a half. What a reboot makes meaningless is not synced.

use std::{
    fs::{self, DirBuilder, File, OpenOptions},
    io::{self, Read, Write},
    os::unix::fs::{DirBuilderExt, OpenOptionsExt},
    path::{Path, PathBuf},
    sync::atomic::{AtomicU64, Ordering},
};

use base64::{Engine, engine::general_purpose::STANDARD};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use crate::{Conflist, Error, Result, Runtime, Success};

/// Largest entry that is believed, bytes: a list, in base64, and a result.
const ENTRY_MAX: u64 = 4 << 20;
const KIND: &str = "cniCacheV1";
const RESULTS: &str = "results";

/// The cache. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Cache {
    dir: PathBuf,
}

/// One attachment as it was made.
#[derive(Debug, Clone, PartialEq)]
pub struct Cached {
    /// Name of the network.
    pub network: String,
    /// Its list as text.
    pub config: String,
    /// What the plugins were told.
    pub runtime: Runtime,
    /// What it came to, when that can be read.
    pub result: Option<Success>,
}

#[derive(Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Entry {
    kind: String,
    container_id: String,
    /// In base64, as Go writes bytes.
    config: String,
    if_name: String,
    network_name: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    netns: Option<PathBuf>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    cni_args: Option<Vec<(String, String)>>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    capability_args: Option<Map<String, Value>>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    result: Option<Map<String, Value>>,
}

impl Cache {
    /// The cache in this directory, which need not exist yet.
    pub fn new(dir: PathBuf) -> Self {
        Self { dir }
    }

    /// Keeps an attachment.
    pub fn put(&self, list: &Conflist, runtime: &Runtime, result: &Success) -> Result<()> {
        let Value::Object(rendered) = result.render(&list.cni_version) else { unreachable!("a result is an object") };
        let entry = Entry {
            kind: KIND.into(),
            container_id: runtime.container.clone(),
            config: STANDARD.encode(list.text.as_bytes()),
            if_name: runtime.interface.clone(),
            network_name: list.name.clone(),
            netns: runtime.netns.clone(),
            cni_args: Some(runtime.args.clone()).filter(|args| !args.is_empty()),
            capability_args: Some(runtime.capabilities.clone()).filter(|args| !args.is_empty()),
            result: Some(rendered),
        };
        let text = serde_json::to_vec(&entry).expect("texts have a JSON form");
        let path = self.path(&list.name, &runtime.container, &runtime.interface);
        // Beside the results, not among them: what lies there is read by others.
        static NUMBER: AtomicU64 = AtomicU64::new(0);
        let number = NUMBER.fetch_add(1, Ordering::Relaxed);
        let new = self.dir.join(format!(".coracle-{}-{number}", std::process::id()));
        let write = || {
            let mut options = OpenOptions::new();
            options.write(true).create(true).truncate(true).mode(0o600).open(&new)?.write_all(&text)?;
            fs::rename(&new, &path)
        };
        let written = match write() {
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                let mut builder = DirBuilder::new();
                builder.recursive(true).mode(0o700).create(self.dir.join(RESULTS)).and_then(|()| write())
            }
            done => done,
        };
        written.map_err(|source| {
            // Best effort: the name is used by nobody else.
            let _ = fs::remove_file(&new);
            Error::File { act: "keep the attachment in", path, source }
        })
    }

    /// The attachment of one container to one network; `None` when there is none that can be read.
    pub fn get(&self, network: &str, container: &str, interface: &str) -> Option<Cached> {
        let is_it = |cached: &Cached| {
            (cached.network.as_str(), cached.runtime.container.as_str()) == (network, container)
                && cached.runtime.interface == interface
        };
        read(&self.path(network, container, interface)).filter(is_it)
    }

    /// Forgets an attachment. A missing one is success.
    pub fn remove(&self, network: &str, container: &str, interface: &str) -> Result<()> {
        let path = self.path(network, container, interface);
        match fs::remove_file(&path) {
            Err(source) if source.kind() != io::ErrorKind::NotFound => {
                Err(Error::File { act: "forget the attachment in", path, source })
            }
            _ => Ok(()),
        }
    }

    /// Every attachment that can be read, anybody's.
    pub fn all(&self) -> Result<Vec<Cached>> {
        let path = self.dir.join(RESULTS);
        let failed = |source| Error::File { act: "list the attachments in", path: path.clone(), source };
        let entries = match fs::read_dir(&path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
            entries => entries.map_err(failed)?,
        };
        let mut all = Vec::new();
        for entry in entries {
            all.extend(read(&entry.map_err(failed)?.path()));
        }
        Ok(all)
    }

    /// Files among the attachments that cannot be read as such: of what they stand for nothing is known.
    pub fn unreadable(&self) -> Vec<PathBuf> {
        let entries = fs::read_dir(self.dir.join(RESULTS)).into_iter().flatten().flatten();
        entries.map(|entry| entry.path()).filter(|path| read(path).is_none() && path.exists()).collect()
    }

    fn path(&self, network: &str, container: &str, interface: &str) -> PathBuf {
        self.dir.join(RESULTS).join(format!("{network}-{container}-{interface}"))
    }
}

fn read(path: &Path) -> Option<Cached> {
    let mut bytes = Vec::new();
    File::open(path).ok()?.take(ENTRY_MAX).read_to_end(&mut bytes).ok()?;
    let entry: Entry = serde_json::from_slice(&bytes).ok().filter(|entry: &Entry| entry.kind == KIND)?;
    let runtime = Runtime {
        container: entry.container_id,
        netns: entry.netns,
        interface: entry.if_name,
        args: entry.cni_args.unwrap_or_default(),
        capabilities: entry.capability_args.unwrap_or_default(),
    };
    Some(Cached {
        network: entry.network_name,
        config: String::from_utf8(STANDARD.decode(entry.config).ok()?).ok()?,
        runtime,
        result: entry.result.and_then(|result| Success::read(result).ok()),
    })
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn list() -> Conflist {
        Conflist::parse(br#"{"cniVersion":"1.0.0","name":"net","plugins":[{"type":"x"}]}"#).unwrap()
    }

    fn runtime() -> Runtime {
        Runtime {
            container: "c1".into(),
            netns: Some("/run/netns/a".into()),
            interface: "eth0".into(),
            args: vec![("K8S_POD_NAME".into(), "p".into())],
            capabilities: json!({"mac": "00:11:22:33:44:55"}).as_object().unwrap().clone(),
        }
    }

    #[test]
    fn an_attachment_is_kept_as_the_field_s_library_keeps_it() {
        let dir = tempfile::tempdir().unwrap();
        let cache = Cache::new(dir.path().join("cni"));
        assert!(cache.get("net", "c1", "eth0").is_none() && cache.all().unwrap().is_empty());
        let result = Success::parse(br#"{"ips":[{"address":"10.0.0.2/24"}]}"#).unwrap();
        cache.put(&list(), &runtime(), &result).unwrap();
        let raw = fs::read(dir.path().join("cni/results/net-c1-eth0")).unwrap();
        let raw: Value = serde_json::from_slice(&raw).unwrap();
        assert_eq!(raw["kind"], "cniCacheV1");
        assert_eq!(raw["cniArgs"], json!([["K8S_POD_NAME", "p"]]));
        assert_eq!(raw["result"]["cniVersion"], "1.0.0");
        let read = cache.get("net", "c1", "eth0").unwrap();
        assert_eq!(
            (&read.config[..], &read.runtime, read.result.as_ref()),
            (&list().text[..], &runtime(), Some(&result))
        );
        assert_eq!(cache.all().unwrap(), [read]);
        for _ in 0..2 {
            cache.remove("net", "c1", "eth0").unwrap();
        }
        let left: Vec<_> = fs::read_dir(dir.path().join("cni")).unwrap().map(|e| e.unwrap().file_name()).collect();
        assert_eq!(left, ["results"]);
    }

    #[test]
    fn what_somebody_else_has_spoilt_is_none() {
        let dir = tempfile::tempdir().unwrap();
        let cache = Cache::new(dir.path().to_owned());
        cache.put(&list(), &runtime(), &Success::default()).unwrap();
        let path = dir.path().join("results/net-c1-eth0");
        for text in ["", "{}", r#"{"kind":"cniCacheV2"}"#, "\0"] {
            fs::write(&path, text).unwrap();
            assert!(cache.get("net", "c1", "eth0").is_none() && cache.all().unwrap().is_empty(), "{text:?}");
        }
    }
}
