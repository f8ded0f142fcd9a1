//! A CNI plugin that does what a test tells it, and remembers every call.
//!
//! It is the probe program under the name of a plugin's type; what it can be told is in `probe/plugin.rs`.

use std::{
    collections::BTreeMap,
    fs,
    os::unix::fs::symlink,
    path::{Path, PathBuf},
    time::Duration,
};

use serde::Deserialize;
use serde_json::Value;

use crate::{eventually, programs};

/// A plugin in a directory of plugins. What it was told, and its calls, lie beside it.
#[derive(Debug, Clone)]
pub struct Plugin {
    /// The program, for as long as it has not vanished.
    pub program: PathBuf,
}

/// One call of a plugin.
#[derive(Debug, Clone, Deserialize)]
pub struct Call {
    /// ADD, DEL, CHECK, GC, STATUS or VERSION.
    pub command: String,
    /// The whole environment.
    pub env: BTreeMap<String, String>,
    /// Standard input: the configuration, or a text if it was no JSON.
    pub stdin: Value,
    /// The process of the call.
    pub pid: i32,
    /// When it began, milliseconds since 1970.
    pub at_ms: u64,
}

impl Plugin {
    /// Puts a plugin of this type into a directory, which is made. It succeeds at everything until it is told
    /// otherwise.
    pub fn install(dir: &Path, kind: &str) -> Plugin {
        fs::create_dir_all(dir).unwrap();
        let plugin = Plugin { program: dir.join(kind) };
        plugin.reinstall();
        plugin
    }

    /// Puts the program there (again), as an installer does: by rename. It is a link, since a file that was just
    /// written cannot be run while any child of another thread has not let go of it.
    pub fn reinstall(&self) {
        let (new, probe) = (self.beside("new"), programs().join("coracle-probe"));
        symlink(probe.canonicalize().expect("the probe program"), &new).unwrap();
        fs::rename(new, &self.program).unwrap();
    }

    /// Takes the program away; script and calls stay.
    pub fn uninstall(&self) {
        fs::remove_file(&self.program).unwrap();
    }

    /// What it does from the next call on: an act, or a list of them, for each command. Goes before what its
    /// configuration says; `null` leaves all to that again.
    pub fn script(&self, script: &Value) {
        let new = self.beside("script-new");
        fs::write(&new, script.to_string()).unwrap();
        fs::rename(new, self.beside("script")).unwrap();
    }

    /// Every call so far, the first one first.
    pub fn calls(&self) -> Vec<Call> {
        let entries = fs::read_dir(self.beside("calls")).into_iter().flatten().flatten();
        let mut files: Vec<_> = entries
            .map(|entry| entry.path())
            .filter(|path| path.extension().is_some_and(|end| end == "json"))
            .collect();
        files.sort();
        files.iter().map(|file| serde_json::from_slice(&fs::read(file).unwrap()).unwrap()).collect()
    }

    /// The calls of one command.
    pub fn calls_of(&self, command: &str) -> Vec<Call> {
        self.calls().into_iter().filter(|call| call.command == command).collect()
    }

    /// Waits until a command was called so often; those calls.
    pub fn await_calls(&self, command: &str, count: usize, deadline: Duration) -> Vec<Call> {
        eventually(deadline, &format!("{count} {command} of {}", self.program.display()), || {
            let calls = self.calls_of(command);
            if calls.len() >= count { Ok(calls) } else { Err(calls.len()) }
        })
    }

    /// The processes of its calls that still run, or of what they left. A pid that was given away again does not count.
    pub fn running(&self) -> Vec<i32> {
        let is_ours = |pid: &i32| {
            fs::read(format!("/proc/{pid}/cmdline")).is_ok_and(|line| {
                let first = line.split(|byte| *byte == 0).next().unwrap_or_default();
                first == self.program.as_os_str().as_encoded_bytes()
            })
        };
        self.calls().iter().map(|call| call.pid).filter(is_ours).collect()
    }

    fn beside(&self, what: &str) -> PathBuf {
        let mut name = self.program.clone().into_os_string();
        name.push(".");
        name.push(what);
        name.into()
    }
}
