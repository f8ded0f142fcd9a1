//! The settings file: TOML, one table per room, every key optional, every mistake named with its key.
//!
//! `/etc/coracle/config.toml`, then `conf.d/*.toml` beside it in the order of their names, each laid over what came
//! before; then the command line. Each room owns its own table and its defaults; this file only joins them.

use std::{
    fmt::Debug,
    fs, io,
    path::{Path, PathBuf},
};

use anyhow::{Context, Result, bail};
use serde::Deserialize;

/// The file that is read when none is named; it may be missing.
const DEFAULT_FILE: &str = "/etc/coracle/config.toml";
const DEFAULT_ROOT: &str = "/var/lib/coracle";
const DEFAULT_STATE: &str = "/run/coracle";
/// Prefix of the only kind of address there is.
const UNIX: &str = "unix://";
/// Longest path of a unix socket, bytes (`sun_path` less its closing zero, unix(7)).
const SOCKET_PATH_BYTES: usize = 107;

/// The whole file.
#[derive(Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(crate) struct Config {
    /// Directory of what survives a reboot.
    pub(crate) root: Option<PathBuf>,
    /// Directory of what does not.
    pub(crate) state: Option<PathBuf>,
    /// Address of the CRI: `unix:///path`.
    pub(crate) listen: Option<String>,
    /// The `coracle-monitor` program; found beside `coracled` when not named.
    pub(crate) monitor: Option<PathBuf>,
    /// Images and registries.
    pub(crate) images: images::Config,
    /// The pods' network.
    pub(crate) network: network::Config,
    /// Containers.
    pub(crate) engine: engine::Config,
    /// Other runtimes.
    pub(crate) runtime: engine::RuntimeConfig,
    /// Where the metrics are told.
    pub(crate) metrics: metrics::Config,
}

/// What the command line sets over the file.
#[derive(Debug, Default)]
pub(crate) struct Overrides {
    pub(crate) root: Option<PathBuf>,
    pub(crate) state: Option<PathBuf>,
    pub(crate) listen: Option<String>,
}

impl Config {
    /// Directory of what survives a reboot.
    pub(crate) fn root(&self) -> &Path {
        self.root.as_deref().unwrap_or(Path::new(DEFAULT_ROOT))
    }

    /// Directory of what does not.
    pub(crate) fn state(&self) -> &Path {
        self.state.as_deref().unwrap_or(Path::new(DEFAULT_STATE))
    }

    /// Path of the socket.
    pub(crate) fn socket(&self) -> PathBuf {
        match &self.listen {
            Some(address) => PathBuf::from(address.strip_prefix(UNIX).unwrap_or(address)),
            None => self.state().join("coracle.sock"),
        }
    }
}

/// Reads the settings and lays the command line over them. What is refused is named as whoever gave it wrote it: a key
/// of the file, or an option.
pub(crate) fn load(file: Option<&Path>, overrides: Overrides) -> Result<Config> {
    let mut table = toml::Table::new();
    let main = file.unwrap_or(Path::new(DEFAULT_FILE));
    match fs::read_to_string(main) {
        Ok(text) => lay_over(&mut table, parse(main, &text)?),
        Err(error) if error.kind() == io::ErrorKind::NotFound && file.is_none() => {}
        Err(error) => return Err(error).with_context(|| format!("read {}", main.display())),
    }
    let parts = parts(&main.with_file_name("conf.d"))?;
    for part in &parts {
        let text = fs::read_to_string(part).with_context(|| format!("read {}", part.display()))?;
        lay_over(&mut table, parse(part, &text)?);
    }
    let beside = if parts.is_empty() { "" } else { " and conf.d beside it" };
    let mut config: Config = toml::Value::Table(table).try_into().map_err(|error: toml::de::Error| {
        anyhow::anyhow!("{}{beside}: {}", main.display(), error.to_string().trim_end())
    })?;
    let files = format!("settings of {}{beside}", main.display());
    let origin = Origin {
        root: overrides.root.is_some(),
        state: overrides.state.is_some(),
        listen: overrides.listen.is_some(),
        files: &files,
    };
    config.root = overrides.root.or(config.root);
    config.state = overrides.state.or(config.state);
    config.listen = overrides.listen.or(config.listen);
    check_paths(&config, &origin)?;
    check_rooms(&config).context(files)?;
    Ok(config)
}

/// Which values the command line has set; the others come from files, or are the defaults.
struct Origin<'a> {
    root: bool,
    state: bool,
    listen: bool,
    /// The files, in words.
    files: &'a str,
}

impl Origin<'_> {
    /// A value as whoever gave it wrote it.
    fn named(&self, key: &str, value: impl Debug) -> String {
        let by_option = match key {
            "root" => self.root,
            "state" => self.state,
            _ => self.listen,
        };
        if by_option { format!("--{key} {value:?}") } else { format!("{}: {key} = {value:?}", self.files) }
    }
}

/// The `.toml` files of a directory, by name; none when there is no directory.
fn parts(directory: &Path) -> Result<Vec<PathBuf>> {
    let entries = match fs::read_dir(directory) {
        Ok(entries) => entries,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => return Err(error).with_context(|| format!("read {}", directory.display())),
    };
    let mut parts = Vec::new();
    for entry in entries {
        let path = entry.with_context(|| format!("read {}", directory.display()))?.path();
        if path.extension().is_some_and(|extension| extension == "toml") {
            parts.push(path);
        }
    }
    parts.sort();
    Ok(parts)
}

fn parse(file: &Path, text: &str) -> Result<toml::Table> {
    text.parse()
        .map_err(|error: toml::de::Error| anyhow::anyhow!("{}: {}", file.display(), error.to_string().trim_end()))
}

/// Tables are merged key by key; anything else is replaced.
fn lay_over(below: &mut toml::Table, above: toml::Table) {
    for (key, value) in above {
        match (below.get_mut(&key), value) {
            (Some(toml::Value::Table(below)), toml::Value::Table(above)) => lay_over(below, above),
            (_, value) => {
                below.insert(key, value);
            }
        }
    }
}

fn check_paths(config: &Config, origin: &Origin<'_>) -> Result<()> {
    for (key, path) in [("root", config.root()), ("state", config.state())] {
        if !path.is_absolute() {
            bail!("{}: want an absolute path", origin.named(key, path));
        }
    }
    let socket = config.socket();
    let is_long = socket.as_os_str().len() > SOCKET_PATH_BYTES;
    match &config.listen {
        Some(address) if !address.strip_prefix(UNIX).is_some_and(|path| path.starts_with('/')) => {
            bail!("{}: want unix:// and an absolute path", origin.named("listen", address));
        }
        Some(address) if is_long => {
            let named = origin.named("listen", address);
            bail!("{named}: the path of a unix socket has at most {SOCKET_PATH_BYTES} bytes");
        }
        None if is_long => {
            let named = origin.named("state", config.state());
            let socket = socket.display();
            bail!("{named}: {socket} is longer than the {SOCKET_PATH_BYTES} bytes of a unix socket's path");
        }
        _ => Ok(()),
    }
}

fn check_rooms(config: &Config) -> Result<()> {
    config.images.check().context("[images]")?;
    config.network.check().context("[network]")?;
    config.engine.check().context("[engine]")?;
    config.runtime.check().context("[runtime]")?;
    config.metrics.check().context("[metrics]")?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn written(files: &[(&str, &str)]) -> tempfile::TempDir {
        let dir = tempfile::tempdir().unwrap();
        for (name, text) in files {
            let path = dir.path().join(name);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, text).unwrap();
        }
        dir
    }

    #[test]
    fn an_empty_file_is_a_valid_one() {
        let dir = written(&[("config.toml", "")]);
        let config = load(Some(&dir.path().join("config.toml")), Overrides::default()).unwrap();
        assert_eq!(config.socket(), Path::new("/run/coracle/coracle.sock"));
    }

    #[test]
    fn parts_are_laid_over_in_order_and_the_command_line_over_all() {
        let dir = written(&[
            ("config.toml", "root = '/a'\n[network]\nbridge = 'one'\nhairpin = false"),
            ("conf.d/10.toml", "[network]\nbridge = 'two'"),
            ("conf.d/20.toml", "root = '/b'\n[network]\nbridge = 'three'"),
            ("conf.d/ignored.txt", "not toml"),
        ]);
        let overrides = Overrides { state: Some("/s".into()), ..Overrides::default() };
        let config = load(Some(&dir.path().join("config.toml")), overrides).unwrap();
        assert_eq!((config.root(), config.state()), (Path::new("/b"), Path::new("/s")));
        assert_eq!((config.network.bridge.as_str(), config.network.hairpin), ("three", false));
    }

    #[test]
    fn a_mistake_is_named_with_its_key() {
        for (text, named) in [
            ("rooot = '/a'", "rooot"),
            ("[network]\nbrigde = 'x'", "brigde"),
            ("[network]\nbridge = 'a name that is too long'", "bridge"),
            ("root = 'relative'", "root"),
            ("listen = 'tcp://0.0.0.0:1'", "listen"),
            ("root = 5", "root"),
            ("[images]\nparallel_fetches = 9223372036854775807", "parallel_fetches"),
            ("[images]\nparallel_fetches = 0", "parallel_fetches"),
            ("[images]\nidle_timeout_s = 9223372036854775807", "idle_timeout_s"),
            ("[images]\nconnect_timeout_s = 0", "connect_timeout_s"),
            ("[images]\npinned = ['r.example/Upper']", "r.example/Upper"),
            ("[images]\npinned = ['r.example/*/x']", "r.example/*/x"),
            ("[images.limits]\nlayers = 0", "limits.layers"),
            ("[engine]\nnofile_soft = 9\nnofile_hard = 3", "nofile_soft"),
            ("[engine]\nnofile_soft = 0\nnofile_hard = 0", "nofile_soft"),
            ("[engine]\ncapabilities = ['FLY']", "capabilities"),
            ("[engine]\ncontainer_pids = 0", "container_pids"),
            ("[engine]\npod_pids = 4194305", "pod_pids"),
            ("[network]\nbridge = 'lo'", "bridge"),
            ("[network]\nsubnet_v4 = '224.0.0.0/8'", "subnet_v4"),
            ("[network]\nsubnet_v6 = 'fe80::/64'", "subnet_v6"),
            ("[runtime.handlers.runc]\ntype = 'oci'\npath = '/nowhere/runc'", "runc"),
            ("[runtime.handlers.runc]\ntype = 'oci'\npath = '/bin/sh'\npaht = ''", "paht"),
            ("[runtime.handlers.runc]\ntype = 'ocii'\npath = '/bin/sh'", "ocii"),
        ] {
            let dir = written(&[("config.toml", text)]);
            let error = load(Some(&dir.path().join("config.toml")), Overrides::default()).unwrap_err();
            assert!(format!("{error:#}").contains(named), "{text}: {error:#}");
        }
    }

    #[test]
    fn what_the_command_line_says_is_named_as_it_was_written() {
        let long = "/x".repeat(60);
        let only = Overrides::default;
        for (overrides, text, named) in [
            (Overrides { root: Some("relative".into()), ..only() }, "", "--root \"relative\""),
            (Overrides { state: Some("relative".into()), ..only() }, "root = '/a'", "--state \"relative\""),
            (Overrides { state: Some(long.clone().into()), ..only() }, "", "--state"),
            (Overrides { listen: Some("tcp://x".into()), ..only() }, "listen = 'unix:///a'", "--listen \"tcp://x\""),
            (Overrides { listen: Some(format!("unix://{long}")), ..only() }, "", "--listen"),
        ] {
            let dir = written(&[("config.toml", text)]);
            let error = format!("{:#}", load(Some(&dir.path().join("config.toml")), overrides).unwrap_err());
            assert!(error.contains(named) && !error.contains("config.toml"), "{error}");
        }
        // What a file says is still the file's, whatever the command line says beside it.
        let dir = written(&[("config.toml", ""), ("conf.d/1.toml", "root = 'relative'")]);
        let overrides = Overrides { state: Some("/s".into()), ..only() };
        let error = format!("{:#}", load(Some(&dir.path().join("config.toml")), overrides).unwrap_err());
        assert!(error.contains("config.toml and conf.d beside it: root = \"relative\""), "{error}");
    }

    /// The sample is the one table of settings: it has to name every key with the default it really has.
    #[test]
    fn the_sample_file_is_what_an_empty_one_means() {
        let file = Path::new(env!("CARGO_MANIFEST_DIR")).join("deploy/config.toml");
        let sample = load(Some(&file), Overrides::default()).unwrap();
        let empty = Config::default();
        assert_eq!(sample.images, empty.images);
        assert_eq!(sample.network, empty.network);
        assert_eq!(sample.engine, empty.engine);
        assert_eq!(sample.runtime, empty.runtime);
        assert_eq!(sample.metrics, empty.metrics);
        assert_eq!((sample.root(), sample.state(), sample.socket()), (empty.root(), empty.state(), empty.socket()));
        let text = fs::read_to_string(file).unwrap();
        let dir = written(&[("config.toml", "nonsense = 1")]);
        let error = format!("{:#}", load(Some(&dir.path().join("config.toml")), Overrides::default()).unwrap_err());
        let keys: Vec<_> = error.split('`').skip(3).step_by(2).collect();
        assert!(keys.contains(&"listen"), "the keys that an error names: {keys:?}");
        for key in keys {
            let told = text.lines().any(|line| {
                let line = line.trim_start_matches("# ");
                line.starts_with(&format!("{key} =")) || line.starts_with(&format!("[{key}]"))
            });
            assert!(told, "{key} is not in the sample");
        }
    }

    /// The README's table and the sample have every key of the network, and the README no other.
    #[test]
    fn every_setting_of_the_network_is_told() {
        let here = Path::new(env!("CARGO_MANIFEST_DIR"));
        let sample = fs::read_to_string(here.join("deploy/config.toml")).unwrap();
        let readme = fs::read_to_string(here.join("README.md")).unwrap();
        let (_, table) = readme.split_once("Settings below\n`[network]`:\n").expect("the README has the table");
        let rows = table.lines().skip_while(|line| !line.starts_with("| `")).take_while(|line| line.starts_with('|'));
        let cells = rows.filter_map(|row| row.split('|').nth(1));
        let mut told: Vec<_> = cells.flat_map(|cell| cell.split('`').skip(1).step_by(2)).collect();
        let known = toml::Table::try_from(network::Config { mtu: Some(1500), ..Default::default() }).unwrap();
        for key in known.keys() {
            let has = |line: &str| line.trim_start_matches("# ").starts_with(&format!("{key} ="));
            assert!(sample.lines().any(has), "{key} is not in the sample");
        }
        let mut known: Vec<_> = known.keys().map(String::as_str).collect();
        told.sort_unstable();
        known.sort_unstable();
        assert_eq!(told, known);
    }

    /// What the README shows as a second instance shares nothing with the defaults that two cannot share.
    #[test]
    fn the_second_instance_of_the_readme_meets_the_first_nowhere() {
        let readme = fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("README.md")).unwrap();
        let (_, after) = readme.split_once("/etc/coracle-2/config.toml").expect("the README shows one");
        let text = after.split("```").nth(1).and_then(|block| block.strip_prefix("toml\n")).expect("as TOML");
        let dir = written(&[("config.toml", text)]);
        let second = load(Some(&dir.path().join("config.toml")), Overrides::default()).unwrap();
        let first = Config::default();
        assert_eq!(second.socket(), Path::new("/run/coracle-2/coracle.sock"), "as it says");
        for (one, other) in [(first.root(), second.root()), (first.state(), second.state())] {
            assert!(!one.starts_with(other) && !other.starts_with(one), "{one:?} {other:?}");
        }
        assert_ne!(first.network.bridge, second.network.bridge);
        let (v4, v6) = (first.network.subnet_v4.unwrap(), first.network.subnet_v6.unwrap());
        let (other_v4, other_v6) = (second.network.subnet_v4.unwrap(), second.network.subnet_v6.unwrap());
        assert!(!v4.contains(&other_v4) && !other_v4.contains(&v4), "{v4} {other_v4}");
        assert!(!v6.contains(&other_v6) && !other_v6.contains(&v6), "{v6} {other_v6}");
    }

    #[test]
    fn a_file_that_was_named_must_exist() {
        assert!(load(Some(Path::new("/nowhere/config.toml")), Overrides::default()).is_err());
    }
}
