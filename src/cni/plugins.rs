//! Plugins as programs: found, asked for their versions, run by the launcher, and their answers judged.
//!
//! Each run has a deadline of its own and a bound on what it may print; what it has started and left behind holds
//! nobody up. Its standard error goes into the error.

use std::{
    collections::HashMap,
    ffi::OsString,
    fmt,
    os::unix::{ffi::OsStrExt, fs::MetadataExt, fs::PermissionsExt},
    path::{Path, PathBuf},
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use link::{Output, Program, Programs};
use model::Exit;
use nix::libc;
use serde::Deserialize;
use serde_json::{Map, Value, json};
use tokio::sync::Semaphore;

use crate::{Conflist, Error, PluginConf, Result, Runtime, Success};

/// Runs at a time of each kind; the launcher takes some more from everybody.
const RUNS_AT_ONCE: usize = 28;
/// Most bytes of an answer.
const ANSWER_MAX: usize = 1 << 20;
/// Bytes of a plugin's own words that go into an error: the end of a log says most.
const WORDS_MAX: usize = 2048;
/// Where plugins find programs of the host's (iptables) when our environment does not say.
const USUAL_PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";
/// How often a program that somebody is writing at the moment (`ETXTBSY`) is tried, and how long is waited in between:
/// as the specification's library does, since networks install their plugins while pods start.
const BUSY_TRIES: u32 = 5;
const BUSY_PAUSE: Duration = Duration::from_secs(1);
/// How long a plugin may take to say which versions it knows.
const VERSION_WITHIN: Duration = Duration::from_secs(10);
/// What a plugin that says nothing of its versions knows (the specification before there was `VERSION`).
const OLDEST: &str = "0.1.0";

/// What a plugin is asked to do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Command {
    /// Make an attachment.
    Add,
    /// Give it back.
    Del,
    /// See whether it is as it was made.
    Check,
    /// Give back all but the attachments that are named.
    Gc,
    /// Say whether attachments can be made.
    Status,
    /// Say which versions are known.
    Version,
}

/// Where plugins lie, and how long each may take. Shared by reference.
#[derive(Debug)]
pub struct Plugins {
    dirs: Vec<PathBuf>,
    patience: Duration,
    programs: Programs,
    /// Turns of ADD, of DEL, and of all else: what hangs in one of them holds up nobody in another.
    turns: [Semaphore; 3],
    /// What each file has said of its versions.
    versions: Mutex<HashMap<FileId, Vec<String>>>,
    /// Held while a file is asked: many pods at once ask it once.
    asking: Mutex<HashMap<PathBuf, Arc<tokio::sync::Mutex<()>>>>,
}

/// One state of one file.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
struct FileId {
    path: PathBuf,
    number: (u64, u64),
    changed: (i64, i64),
    size: u64,
}

/// The specification's error object.
#[derive(Deserialize)]
struct Refusal {
    code: u64,
    #[serde(default)]
    msg: String,
    #[serde(default)]
    details: String,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Versions {
    supported_versions: Vec<String>,
}

impl Plugins {
    /// Plugins of these directories, the first before the others; each run within `patience`.
    pub fn new(dirs: Vec<PathBuf>, patience: Duration, programs: Programs) -> Self {
        Self {
            dirs,
            patience,
            programs,
            turns: [const { Semaphore::const_new(RUNS_AT_ONCE) }; 3],
            versions: Mutex::default(),
            asking: Mutex::default(),
        }
    }

    /// Makes the plugin's part of an attachment. Its version has been checked.
    pub async fn add(
        &self,
        list: &Conflist,
        plugin: &PluginConf,
        runtime: &Runtime,
        previous: Option<&Success>,
    ) -> Result<Success> {
        let request = plugin.request(list, Some(runtime), previous);
        let answer = self.run(plugin, Command::Add, request, Some(runtime)).await?;
        let told = |why| Error::Answer { plugin: plugin.kind.clone(), command: Command::Add, why };
        Success::parse(&answer).map_err(told)
    }

    /// Gives it back. The plugin is told what the whole attachment came to, from 0.4 on.
    pub async fn del(
        &self,
        list: &Conflist,
        plugin: &PluginConf,
        runtime: &Runtime,
        previous: Option<&Success>,
    ) -> Result<()> {
        let request = plugin.request(list, Some(runtime), previous.filter(|_| list.speaks(0, 4)));
        self.run(plugin, Command::Del, request, Some(runtime)).await.map(drop)
    }

    /// Has the plugin see whether an attachment is as it was made. Lists before 0.4 cannot be asked.
    pub async fn check(&self, list: &Conflist, plugin: &PluginConf, runtime: &Runtime, made: &Success) -> Result<()> {
        if list.disable_check || !list.speaks(0, 4) {
            return Ok(());
        }
        self.run(plugin, Command::Check, plugin.request(list, Some(runtime), Some(made)), Some(runtime)).await.map(drop)
    }

    /// Has the plugin give back whatever it holds beside these attachments (container and interface). Lists before 1.1
    /// cannot be asked.
    pub async fn gc(&self, list: &Conflist, plugin: &PluginConf, valid: &[(String, String)]) -> Result<()> {
        if list.disable_gc || !list.speaks(1, 1) {
            return Ok(());
        }
        self.run(plugin, Command::Gc, plugin.gc_request(list, valid), None).await.map(drop)
    }

    /// Whether the plugin is there, knows the list's version and, from 1.1 on, says that it can make attachments.
    pub async fn status(&self, list: &Conflist, plugin: &PluginConf) -> Result<()> {
        self.check_version(list, plugin).await?;
        if !list.speaks(1, 1) {
            return Ok(());
        }
        self.run(plugin, Command::Status, plugin.request(list, None, None), None).await.map(drop)
    }

    /// Refuses a plugin that does not know the list's version. Asked once for each state of its file.
    pub async fn check_version(&self, list: &Conflist, plugin: &PluginConf) -> Result<()> {
        let path = self.find(&plugin.kind)?;
        let known = || FileId::of(&path).and_then(|id| self.versions().get(&id).cloned());
        let mut supported = known();
        let asking =
            self.asking.lock().unwrap_or_else(PoisonError::into_inner).entry(path.clone()).or_default().clone();
        let _once = if supported.is_none() { Some(asking.lock().await) } else { None };
        if supported.is_none() {
            supported = known();
        }
        let supported = match supported {
            Some(supported) => supported,
            None => {
                let before = FileId::of(&path);
                let supported = self.ask_versions(plugin, list).await?;
                // Of a file that was replaced meanwhile nobody knows which one answered.
                if let Some(id) = before.filter(|id| FileId::of(&path).as_ref() == Some(id)) {
                    self.versions().retain(|other, _| other.path != id.path);
                    self.versions().insert(id, supported.clone());
                }
                supported
            }
        };
        if supported.contains(&list.cni_version) {
            return Ok(());
        }
        Err(Error::Version { plugin: plugin.kind.clone(), version: list.cni_version.clone(), supported })
    }

    async fn ask_versions(&self, plugin: &PluginConf, list: &Conflist) -> Result<Vec<String>> {
        let request = json!({"cniVersion": list.cni_version});
        let request = request.as_object().cloned().unwrap_or_default();
        match self.run(plugin, Command::Version, request, None).await {
            Ok(answer) => {
                let told = |error: serde_json::Error| Error::Answer {
                    plugin: plugin.kind.clone(),
                    command: Command::Version,
                    why: error.to_string(),
                };
                Ok(serde_json::from_slice::<Versions>(&answer).map_err(told)?.supported_versions)
            }
            // From before there was such a question.
            Err(Error::Plugin { said, .. }) if said.contains("unknown CNI_COMMAND: VERSION") => {
                Ok(vec![OLDEST.to_owned()])
            }
            Err(error) => Err(error),
        }
    }

    async fn run(
        &self,
        plugin: &PluginConf,
        command: Command,
        request: Map<String, Value>,
        runtime: Option<&Runtime>,
    ) -> Result<Vec<u8>> {
        let path = self.find(&plugin.kind)?;
        let patience = if command == Command::Version { self.patience.min(VERSION_WITHIN) } else { self.patience };
        let program = Program {
            path,
            arguments: Vec::new(),
            environment: self.environment(command, runtime),
            input: Value::Object(request).to_string().into_bytes(),
            patience,
            most_output: ANSWER_MAX,
        };
        let turns = match command {
            Command::Add => &self.turns[0],
            Command::Del => &self.turns[1],
            _ => &self.turns[2],
        };
        let _turn = turns.acquire().await.expect("the semaphore is never closed");
        let failed = |source| Error::Run { plugin: plugin.kind.clone(), command, source };
        let mut tried = 1;
        let output = loop {
            match self.programs.run(&program).await {
                Err(error) if tried < BUSY_TRIES && error.errno() == Some(libc::ETXTBSY) => {
                    tried += 1;
                    tokio::time::sleep(BUSY_PAUSE).await;
                }
                done => break done.map_err(failed)?,
            }
        };
        judge(&plugin.kind, command, patience, output)
    }

    fn environment(&self, command: Command, runtime: Option<&Runtime>) -> Vec<(OsString, OsString)> {
        let mut all = link::environment();
        all.retain(|(name, _)| !name.as_bytes().starts_with(b"CNI_"));
        if !all.iter().any(|(name, _)| name == "PATH") {
            all.push(("PATH".into(), USUAL_PATH.into()));
        }
        let dirs: Vec<&[u8]> = self.dirs.iter().map(|dir| dir.as_os_str().as_bytes()).collect();
        let mut add = |name: &str, value: OsString| all.push((name.into(), value));
        add("CNI_COMMAND", command.to_string().into());
        add("CNI_PATH", std::os::unix::ffi::OsStringExt::from_vec(dirs.join(&b':')));
        if let Some(runtime) = runtime {
            add("CNI_CONTAINERID", runtime.container.clone().into());
            add("CNI_NETNS", runtime.netns.clone().unwrap_or_default().into_os_string());
            add("CNI_IFNAME", runtime.interface.clone().into());
            add("CNI_ARGS", runtime.args_text().into());
        }
        all
    }

    /// The plugin's program.
    pub fn find(&self, kind: &str) -> Result<PathBuf> {
        let is_program =
            |path: &PathBuf| path.metadata().is_ok_and(|meta| meta.is_file() && meta.permissions().mode() & 0o111 != 0);
        // A type is checked when its list is read: it names a file and no path.
        let found = self.dirs.iter().map(|dir| dir.join(kind)).find(is_program);
        found.ok_or_else(|| Error::Missing { plugin: kind.to_owned(), dirs: self.dirs.clone() })
    }

    fn versions(&self) -> std::sync::MutexGuard<'_, HashMap<FileId, Vec<String>>> {
        self.versions.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl FileId {
    fn of(path: &Path) -> Option<Self> {
        let meta = path.metadata().ok()?;
        Some(Self {
            path: path.to_owned(),
            number: (meta.dev(), meta.ino()),
            changed: (meta.mtime(), meta.mtime_nsec()),
            size: meta.size(),
        })
    }
}

impl fmt::Display for Command {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Add => "ADD",
            Self::Del => "DEL",
            Self::Check => "CHECK",
            Self::Gc => "GC",
            Self::Status => "STATUS",
            Self::Version => "VERSION",
        })
    }
}

/// What came of a run: its standard output, if it went well.
fn judge(kind: &str, command: Command, patience: Duration, output: Output) -> Result<Vec<u8>> {
    let plugin = || kind.to_owned();
    let stderr = words(&output.stderr);
    if output.overdue {
        let said = if stderr.is_empty() { String::new() } else { format!(": {stderr}") };
        return Err(Error::Late { plugin: plugin(), command, seconds: patience.as_secs(), said });
    }
    if output.how == Exit::Code(0) {
        if !stderr.is_empty() {
            tracing::debug!(plugin = kind, %command, stderr, "a plugin's own words");
        }
        return Ok(output.stdout);
    }
    if let Ok(Refusal { code, msg, details }) = serde_json::from_slice(&output.stdout) {
        let said = [msg, details].into_iter().map(|text| words(text.as_bytes())).filter(|text| !text.is_empty());
        let mut said = said.collect::<Vec<_>>().join("; ");
        if said.is_empty() {
            said = format!("error code {code}");
        }
        if !stderr.is_empty() {
            said = format!("{said} (stderr: {stderr})");
        }
        return Err(Error::Plugin { plugin: plugin(), command, code: Some(code), said });
    }
    let said = if stderr.is_empty() { words(&output.stdout) } else { stderr };
    let how = match output.how {
        Exit::Code(code) => format!("exit code {code}"),
        other => format!("{other:?}"),
    };
    let said = if said.is_empty() { how } else { format!("{how}: {said}") };
    Err(Error::Plugin { plugin: plugin(), command, code: None, said })
}

/// The end of what somebody said, on one line.
fn words(bytes: &[u8]) -> String {
    let text = String::from_utf8_lossy(&bytes[bytes.len().saturating_sub(WORDS_MAX)..]);
    let plain = |c: char| if c.is_control() { ' ' } else { c };
    text.trim().chars().map(plain).collect::<String>().trim().to_owned()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn judged(how: Exit, stdout: &str, stderr: &str) -> Result<Vec<u8>> {
        let output = Output { how, overdue: false, stdout: stdout.into(), stderr: stderr.into() };
        judge("x", Command::Add, Duration::from_secs(7), output)
    }

    #[test]
    fn a_failure_is_told_in_the_plugin_s_own_words() {
        for (stdout, stderr, told) in [
            (r#"{"code": 7, "msg": "no", "details": "way"}"#, "", r#"plugin type="x" failed (ADD): no; way"#),
            (r#"{"code": 7, "msg": "no"}"#, "log\n", r#"plugin type="x" failed (ADD): no (stderr: log)"#),
            (r#"{"code": 100}"#, "", r#"plugin type="x" failed (ADD): error code 100"#),
            ("", "panic:\nat once\n", r#"plugin type="x" failed (ADD): exit code 1: panic: at once"#),
            ("rubbish", "", r#"plugin type="x" failed (ADD): exit code 1: rubbish"#),
            ("", "", r#"plugin type="x" failed (ADD): exit code 1"#),
        ] {
            assert_eq!(judged(Exit::Code(1), stdout, stderr).unwrap_err().to_string(), told);
        }
        assert_eq!(judged(Exit::Code(0), "{}", "log").unwrap(), b"{}");
        let again = judged(Exit::Code(1), r#"{"code": 11, "msg": "later"}"#, "").unwrap_err();
        assert_eq!(again.class(), model::Class::Unavailable);
        let late = Output { how: Exit::Code(0), overdue: true, stdout: Vec::new(), stderr: b"waiting for etcd".into() };
        let late = judge("x", Command::Del, Duration::from_secs(7), late).unwrap_err().to_string();
        assert!(late.contains("no end within 7 s") && late.ends_with(": waiting for etcd"), "{late}");
    }

    #[test]
    fn a_plugin_is_an_executable_file_and_nothing_else() {
        let dir = tempfile::tempdir().unwrap();
        let (first, second) = (dir.path().join("first"), dir.path().join("second"));
        for made in [&first, &second] {
            std::fs::create_dir(made).unwrap();
        }
        std::fs::create_dir(first.join("bridge")).unwrap();
        std::fs::write(first.join("ptp"), "").unwrap();
        std::fs::write(second.join("bridge"), "").unwrap();
        let plugins = Plugins::new(vec![first, second.clone()], Duration::from_secs(1), Programs::none());
        assert!(matches!(plugins.find("bridge"), Err(Error::Missing { .. })));
        std::fs::set_permissions(second.join("bridge"), std::fs::Permissions::from_mode(0o755)).unwrap();
        assert_eq!(plugins.find("bridge").unwrap(), second.join("bridge"));
        let missing = plugins.find("ptp").unwrap_err().to_string();
        assert!(missing.contains("\"ptp\"") && missing.contains("second"), "{missing}");
    }

    proptest! {
        #[test]
        fn no_output_makes_it_panic(
            stdout in prop::collection::vec(any::<u8>(), 0..300),
            stderr in prop::collection::vec(any::<u8>(), 0..3000),
            code: u8,
        ) {
            let output = Output { how: Exit::Code(code), overdue: false, stdout, stderr };
            if let Err(error) = judge("x", Command::Add, Duration::from_secs(7), output) {
                prop_assert!(!error.to_string().contains('\n'));
            }
        }
    }
}
