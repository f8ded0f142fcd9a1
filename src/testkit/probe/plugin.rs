//! A CNI plugin that does as it is told: the probe under the name of a plugin's type, in a directory of plugins.
//!
//! What it does is an *act*, chosen by the command: of the file `PROGRAM.script` beside it, so that a test can change
//! it at any time, else of the key `script` in its configuration, else it succeeds. Both are objects:
//!
//! ```json
//! { "ADD": { "delay_ms": 50 }, "DEL": [{ "error": { "code": 11, "msg": "later" } }, {}] }
//! ```
//!
//! Of a list, each call of a container takes the next act, and all that follow the last one. The keys of an act are the
//! fields of [`Act`]. Every call is recorded before it does anything: `PROGRAM.calls/NUMBER.json` has the command, the
//! environment, what came on standard input, and the process.

use std::{
    collections::BTreeMap,
    env, fs,
    io::{self, Read, Write},
    path::{Path, PathBuf},
    process::{Command, Stdio},
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use nix::sys::{
    signal::{SigSet, Signal, raise},
    statfs::{NSFS_MAGIC, statfs},
};
use serde_json::{Map, Value, json};

use crate::Done;

/// What is written at once of much.
const CHUNK: usize = 64 << 10;

/// What a plugin does when it is called. Everything is optional, and is done in the order of the fields.
struct Act<'a>(&'a Map<String, Value>);

impl Act<'_> {
    /// Takes no notice of SIGTERM.
    fn ignores_term(&self) -> bool {
        self.0.get("ignores_term").is_some_and(|value| value == true)
    }

    /// The program is gone afterwards: this call is its last.
    fn vanishes(&self) -> bool {
        self.0.get("vanishes").is_some_and(|value| value == true)
    }

    /// Leaves a child that keeps all of its descriptors for so many seconds.
    fn leaves_child_s(&self) -> Option<f64> {
        self.0.get("leaves_child_s").and_then(Value::as_f64)
    }

    /// Waits for so many milliseconds.
    fn delay_ms(&self) -> Option<u64> {
        self.0.get("delay_ms").and_then(Value::as_u64)
    }

    /// Waits while this file exists: until the test lets go.
    fn waits_for(&self) -> Option<&str> {
        self.0.get("waits_while").and_then(Value::as_str)
    }

    /// Fails unless the pod's namespace is there by now.
    fn needs_netns(&self) -> bool {
        self.0.get("needs_netns").is_some_and(|value| value == true)
    }

    /// Words for standard error.
    fn stderr(&self) -> Option<&str> {
        self.0.get("stderr").and_then(Value::as_str)
    }

    /// So many millions of bytes on standard output that mean nothing.
    fn pours_mb(&self) -> Option<usize> {
        self.0.get("pours_mb").and_then(Value::as_u64).map(|mb| mb as usize)
    }

    /// Never ends by itself.
    fn hangs(&self) -> bool {
        self.0.get("hangs").is_some_and(|value| value == true)
    }

    /// Ends by this signal.
    fn signal(&self) -> Option<i32> {
        self.0.get("signal").and_then(Value::as_i64).map(|number| number as i32)
    }

    /// Text in place of a result: garbage, if it is to be.
    fn prints(&self) -> Option<&str> {
        self.0.get("prints").and_then(Value::as_str)
    }

    /// A CNI error (`code`, `msg`, `details`) in place of a result; its `cniVersion` is added.
    fn error(&self) -> Option<&Value> {
        self.0.get("error")
    }

    /// The result, in place of the previous plugin's or of a made-up one; its `cniVersion` is added.
    fn result(&self) -> Option<&Value> {
        self.0.get("result")
    }

    /// The versions that VERSION answers.
    fn versions(&self) -> Value {
        self.0.get("versions").cloned().unwrap_or_else(|| json!(["0.3.0", "0.3.1", "0.4.0", "1.0.0", "1.1.0"]))
    }

    /// The exit code; without one 0, and 1 after an error.
    fn exit(&self) -> Option<u8> {
        self.0.get("exit").and_then(Value::as_u64).map(|code| code as u8)
    }
}

/// Whether this process was started as a plugin.
pub(crate) fn is_called() -> bool {
    env::var_os("CNI_COMMAND").is_some() && env::args_os().count() == 1
}

/// One call.
pub(crate) fn act() -> Done {
    let command = env::var("CNI_COMMAND")?;
    let program = program()?;
    let mut input = Vec::new();
    io::stdin().read_to_end(&mut input)?;
    let config: Value = serde_json::from_slice(&input).unwrap_or_default();
    let before = record(&program, &command, &input)?;
    let file = fs::read(beside(&program, "script")).ok().and_then(|text| serde_json::from_slice::<Value>(&text).ok());
    let of = |script: Option<&Value>| script.and_then(|script| script.get(&command)).cloned();
    let chosen = match of(file.as_ref()).or_else(|| of(config.get("script"))) {
        Some(Value::Array(acts)) => acts.get(before).or(acts.last()).cloned().unwrap_or_default(),
        chosen => chosen.unwrap_or_default(),
    };
    let nothing = Map::new();
    let act = Act(chosen.as_object().unwrap_or(&nothing));
    prepare(&act, &program)?;
    if let Some(mb) = act.pours_mb() {
        pour(mb * 1_000_000)?;
    }
    if act.hangs() {
        loop {
            std::thread::park();
        }
    }
    if let Some(number) = act.signal() {
        raise(Signal::try_from(number)?)?;
    }
    let failed = act.error().is_some();
    let mut answer = match (act.prints(), act.error(), act.result()) {
        (Some(text), ..) => {
            print(text.as_bytes())?;
            return Ok(act.exit().unwrap_or(0));
        }
        (None, Some(error), _) => error.clone(),
        (None, None, Some(result)) => result.clone(),
        (None, None, None) => match command.as_str() {
            "ADD" => config.get("prevResult").cloned().unwrap_or_else(made_up),
            "VERSION" => json!({ "supportedVersions": act.versions() }),
            _ => Value::Null,
        },
    };
    if let Some(object) = answer.as_object_mut() {
        let version = config.get("cniVersion").cloned().unwrap_or_else(|| "1.1.0".into());
        object.entry("cniVersion").or_insert(version);
        print(answer.to_string().as_bytes())?;
    }
    Ok(act.exit().unwrap_or(u8::from(failed)))
}

/// What comes before any answer.
fn prepare(act: &Act<'_>, program: &Path) -> Result<(), Box<dyn std::error::Error>> {
    if act.ignores_term() {
        // Blocked, it is as good as ignored: nobody ever reads it.
        SigSet::from(Signal::SIGTERM).thread_block()?;
    }
    if act.vanishes() {
        fs::remove_file(program)?;
    }
    if let Some(seconds) = act.leaves_child_s() {
        let myself = Command::new("/proc/self/exe")
            .args(["sleep", &seconds.to_string()])
            .stdin(Stdio::null())
            .env_remove("CNI_COMMAND")
            .spawn()?;
        drop(myself);
    }
    if let Some(ms) = act.delay_ms() {
        std::thread::sleep(Duration::from_millis(ms));
    }
    while act.waits_for().is_some_and(|file| Path::new(file).exists()) {
        std::thread::sleep(Duration::from_millis(5));
    }
    if act.needs_netns() {
        let path = env::var("CNI_NETNS").unwrap_or_default();
        let found = statfs(path.as_str()).is_ok_and(|found| found.filesystem_type() == NSFS_MAGIC);
        if !found {
            return Err(format!("{path:?} is no namespace").into());
        }
    }
    if let Some(words) = act.stderr() {
        // Whoever does not listen is none of ours.
        let _ = io::stderr().write_all(words.as_bytes());
    }
    Ok(())
}

/// The path by which this program was called: the link's own, not what it leads to. Who called it by its name alone has
/// found it where plugins are.
fn program() -> Result<PathBuf, Box<dyn std::error::Error>> {
    let called = PathBuf::from(env::args_os().next().unwrap_or_default());
    if called.is_absolute() {
        return Ok(called);
    }
    let dirs = env::var_os("CNI_PATH").unwrap_or_default();
    let there = env::split_paths(&dirs).map(|dir| dir.join(called.file_name().unwrap_or_default()));
    let found = there.into_iter().find(|path| path.symlink_metadata().is_ok());
    found.ok_or_else(|| format!("{} is not in {}", called.display(), dirs.display()).into())
}

/// `PROGRAM.WHAT`.
fn beside(program: &Path, what: &str) -> PathBuf {
    let mut name = program.as_os_str().to_owned();
    name.push(".");
    name.push(what);
    name.into()
}

/// Writes down this call; how many there were before of the same command for the same container.
fn record(program: &Path, command: &str, input: &[u8]) -> Result<usize, Box<dyn std::error::Error>> {
    let dir = beside(program, "calls");
    fs::create_dir_all(&dir)?;
    let environment: BTreeMap<_, _> = env::vars_os()
        .map(|(key, value)| (key.to_string_lossy().into_owned(), value.to_string_lossy().into_owned()))
        .collect();
    let container = environment.get("CNI_CONTAINERID").cloned().unwrap_or_default();
    let mut before = 0;
    for entry in fs::read_dir(&dir)?.flatten() {
        let call: Value =
            fs::read(entry.path()).ok().and_then(|text| serde_json::from_slice(&text).ok()).unwrap_or_default();
        before += usize::from(call["command"] == command && call["env"]["CNI_CONTAINERID"] == container.as_str());
    }
    let input = String::from_utf8_lossy(input);
    let call = json!({
        "command": command,
        "env": environment,
        "stdin": serde_json::from_str::<Value>(&input).unwrap_or_else(|_| input.clone().into()),
        "pid": std::process::id(),
        "at_ms": SystemTime::now().duration_since(UNIX_EPOCH)?.as_millis() as u64,
    });
    // By rename, so that a test never reads half of it; by link, so that two calls at once get two numbers.
    let whole = dir.join(format!(".{}", std::process::id()));
    fs::write(&whole, call.to_string())?;
    let numbered =
        (0_usize..).try_for_each(|number| match fs::hard_link(&whole, dir.join(format!("{number:06}.json"))) {
            Ok(()) => Err(None),
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => Ok(()),
            Err(error) => Err(Some(error)),
        });
    fs::remove_file(&whole)?;
    match numbered {
        Err(Some(error)) => Err(error.into()),
        _ => Ok(before),
    }
}

/// An address that nobody has (TEST-NET-1), on the link that was asked for.
fn made_up() -> Value {
    let of = |name: &str| env::var(name).unwrap_or_default();
    json!({
        "interfaces": [{ "name": of("CNI_IFNAME"), "mac": "02:00:00:00:00:01", "sandbox": of("CNI_NETNS") }],
        "ips": [{ "version": "4", "address": "192.0.2.10/24", "gateway": "192.0.2.1", "interface": 0 }],
        "routes": [{ "dst": "0.0.0.0/0" }],
    })
}

fn pour(mut bytes: usize) -> io::Result<()> {
    let chunk = [b'x'; CHUNK];
    while bytes > 0 {
        let now = bytes.min(CHUNK);
        print(&chunk[..now])?;
        bytes -= now;
    }
    Ok(())
}

/// To standard output, all of it.
fn print(bytes: &[u8]) -> io::Result<()> {
    let mut out = io::stdout().lock();
    out.write_all(bytes)?;
    out.flush()
}
