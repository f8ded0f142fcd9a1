//! Which hosts may be asked for a name: `certs.d/<host>/hosts.toml`, as containerd's users have it.
//!
//! Read again at each pull. Keys that we do not know are warned of and skipped, as other readers of these trees do; a
//! value of the wrong form is an error that names the file and the key.

use std::{
    fs, io,
    net::IpAddr,
    path::{Path, PathBuf},
    time::Duration,
};

use reqwest::header::{HeaderName, HeaderValue};
use toml::{Table, Value};
use url::Url;

use crate::{Error, Result};

/// The file in a host's directory.
const FILE: &str = "hosts.toml";
/// The directory for hosts that have none of their own.
const FOR_ALL: &str = "_default";
/// The largest `hosts.toml`, bytes.
const LARGEST: u64 = 1 << 20;
/// What a host may be good for, of which we do but the first two.
const CAPABILITIES: [&str; 4] = ["pull", "resolve", "push", "referrers"];

/// What the configuration says about a registry.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Hosts {
    /// The file or directory that says so; none when nothing does.
    pub(crate) from: Option<PathBuf>,
    /// Whom to ask, in order. The registry itself is last.
    pub(crate) hosts: Vec<Host>,
}

/// One host that may be asked, and how.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Host {
    /// Where its API begins: `https://registry.example/v2`, without a slash at the end.
    pub(crate) base: Url,
    /// It may be asked for content.
    pub(crate) pull: bool,
    /// It may be asked what a tag points to.
    pub(crate) resolve: bool,
    /// Take any certificate.
    pub(crate) skip_verify: bool,
    /// Certificates, as PEM files, that it may be signed by besides the system's.
    pub(crate) ca: Vec<PathBuf>,
    /// Our own certificate and key, as PEM files; the key may be in the same file.
    pub(crate) client: Vec<(PathBuf, Option<PathBuf>)>,
    /// Headers to send with each request to it, and to nobody else: they may hold credentials.
    pub(crate) headers: Vec<(HeaderName, HeaderValue)>,
    /// Time to wait for a connection, if it is not the usual.
    pub(crate) dial_timeout: Option<Duration>,
}

impl Host {
    /// Host and port as a person names it.
    pub(crate) fn name(&self) -> String {
        let host = self.base.host_str().unwrap_or_default();
        self.base.port().map_or_else(|| host.to_owned(), |port| format!("{host}:{port}"))
    }

    /// Whether this is the registry that `domain` names, and not a mirror of it.
    pub(crate) fn is_itself(&self, domain: &str) -> bool {
        let name = self.name();
        name == domain || (domain == "docker.io" && name == "registry-1.docker.io")
    }
}

/// The hosts to ask for names of `domain`.
pub(crate) fn hosts(config_path: &[PathBuf], domain: &str) -> Result<Hosts> {
    for dir in config_path.iter().flat_map(|root| directories(root, domain)) {
        match read(&dir.join(FILE)) {
            Ok(Some(text)) => return Ok(Hosts { hosts: parse(&dir, &text, domain)?, from: Some(dir.join(FILE)) }),
            Ok(None) if dir.is_dir() => {
                let mut host = upstream(domain)?;
                add_certificates(&dir, &mut host)?;
                return Ok(Hosts { hosts: vec![host], from: Some(dir) });
            }
            Ok(None) => {}
            Err(error) => return Err(refuse(&dir, error.to_string())),
        }
    }
    Ok(Hosts { hosts: vec![upstream(domain)?], from: None })
}

/// Whether a host is this machine: then plain HTTP is spoken, unless the port says otherwise.
pub(crate) fn is_loopback(host: &str) -> bool {
    let host = host.trim_start_matches('[').trim_end_matches(']');
    host == "localhost" || host.parse::<IpAddr>().is_ok_and(|address| address.is_loopback())
}

/// Directories that may describe the host, best first. Colons were not always welcome in file names.
fn directories(root: &Path, domain: &str) -> Vec<PathBuf> {
    let mut names = Vec::new();
    if let Some((host, port)) = domain.rsplit_once(':').filter(|(_, port)| port.bytes().all(|b| b.is_ascii_digit())) {
        names.push(format!("{host}_{port}_"));
    }
    names.extend([domain.to_owned(), FOR_ALL.to_owned()]);
    names.into_iter().map(|name| root.join(name)).collect()
}

fn read(path: &Path) -> io::Result<Option<String>> {
    match fs::metadata(path) {
        Ok(meta) if meta.len() > LARGEST => Err(io::Error::other("it is larger than 1 MiB")),
        Ok(_) => fs::read_to_string(path).map(Some),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error),
    }
}

fn refuse(dir: &Path, why: String) -> Error {
    Error::Hosts { path: dir.join(FILE), why }
}

/// The registry that the name itself names.
fn upstream(domain: &str) -> Result<Host> {
    let host = if domain == "docker.io" { "registry-1.docker.io" } else { domain };
    host_at(host, false).map_err(|why| Error::Hosts { path: PathBuf::from(domain), why })
}

fn host_at(text: &str, as_is: bool) -> Result<Host, String> {
    let whole = match text.split_once("://") {
        Some(("http" | "https", _)) => text.to_owned(),
        Some(_) => return Err(format!("{text:?} is neither http nor https")),
        None => {
            let authority = text.split('/').next().unwrap_or_default();
            let (host, port) = match authority.rsplit_once(':') {
                Some((host, port)) if !port.ends_with(']') => (host, port),
                _ => (authority, ""),
            };
            let scheme = if is_loopback(host) && port != "443" { "http" } else { "https" };
            format!("{scheme}://{text}")
        }
    };
    let mut base = Url::parse(&whole).map_err(|error| format!("{text:?} is not a URL: {error}"))?;
    if base.host_str().is_none_or(str::is_empty) || !base.username().is_empty() || base.password().is_some() {
        return Err(format!("{text:?} must name a host and hold no credentials"));
    }
    base.set_query(None);
    base.set_fragment(None);
    let path = base.path().trim_end_matches('/').to_owned();
    base.set_path(&if as_is || path.ends_with("/v2") { path } else { format!("{path}/v2") });
    Ok(Host {
        base,
        pull: true,
        resolve: true,
        skip_verify: false,
        ca: Vec::new(),
        client: Vec::new(),
        headers: Vec::new(),
        dial_timeout: None,
    })
}

/// The older form of such a directory: `*.crt` are authorities, `*.cert` with `*.key` is our own certificate.
fn add_certificates(dir: &Path, host: &mut Host) -> Result<()> {
    let failed = |error: io::Error| Error::Hosts { path: dir.to_owned(), why: error.to_string() };
    let entries: io::Result<Vec<PathBuf>> = fs::read_dir(dir).map_err(failed)?.map(|entry| Ok(entry?.path())).collect();
    let mut entries = entries.map_err(failed)?;
    entries.sort();
    for path in entries {
        match path.extension().and_then(|extension| extension.to_str()) {
            Some("crt") => host.ca.push(path),
            Some("cert") => {
                let key = path.with_extension("key");
                host.client.push((path, Some(key)));
            }
            _ => {}
        }
    }
    Ok(())
}

fn parse(dir: &Path, text: &str, domain: &str) -> Result<Vec<Host>> {
    let table: Table = text.parse().map_err(|error: toml::de::Error| refuse(dir, mistake(text, &error)))?;
    let mut hosts = Vec::new();
    let server = match table.get("server") {
        None => None,
        Some(Value::String(server)) => Some(server.as_str()),
        Some(_) => return Err(refuse(dir, "server: want a text".to_owned())),
    };
    let own_keys: Table = table
        .iter()
        .filter(|(key, _)| *key != "server" && *key != "host")
        .map(|(k, v)| (k.clone(), v.clone()))
        .collect();
    match table.get("host") {
        None => {}
        Some(Value::Table(named)) => {
            for (url, keys) in named {
                let Value::Table(keys) = keys else {
                    return Err(refuse(dir, format!("host.{url:?}: want a table")));
                };
                hosts.push(host(dir, url, keys).map_err(|why| refuse(dir, format!("host.{url:?}: {why}")))?);
            }
        }
        Some(_) => return Err(refuse(dir, "host: want tables [host.\"https://…\"]".to_owned())),
    }
    let last = match server {
        Some(server) => host(dir, server, &own_keys).map_err(|why| refuse(dir, why))?,
        None => {
            let mut last = upstream(domain)?;
            set_keys(dir, &mut last, &own_keys).map_err(|why| refuse(dir, why))?;
            last
        }
    };
    if !hosts.iter().any(|known: &Host| known.base == last.base) {
        hosts.push(last);
    }
    Ok(hosts)
}

/// What is no TOML, and where. Not the line itself, which may hold a secret.
fn mistake(text: &str, error: &toml::de::Error) -> String {
    let line = error.span().and_then(|span| text.get(..span.start)).map(|before| before.matches('\n').count() + 1);
    line.map_or_else(|| error.message().to_owned(), |line| format!("line {line}: {}", error.message()))
}

fn host(dir: &Path, url: &str, keys: &Table) -> Result<Host, String> {
    let as_is = match keys.get("override_path") {
        None => false,
        Some(Value::Boolean(as_is)) => *as_is,
        Some(_) => return Err("override_path: want true or false".to_owned()),
    };
    let mut host = host_at(url, as_is)?;
    set_keys(dir, &mut host, keys)?;
    Ok(host)
}

fn set_keys(dir: &Path, host: &mut Host, keys: &Table) -> Result<(), String> {
    for (key, value) in keys {
        let wrong = |want: &str| format!("{key}: want {want}");
        match key.as_str() {
            "override_path" => {}
            "capabilities" => {
                let capabilities = texts(value).ok_or_else(|| wrong("a list of \"pull\", \"resolve\", \"push\""))?;
                if let Some(unknown) = capabilities.iter().find(|capability| !CAPABILITIES.contains(capability)) {
                    return Err(format!("capabilities: {unknown:?} is none of {}", CAPABILITIES.join(", ")));
                }
                // None named is all, as containerd has it.
                host.pull = capabilities.is_empty() || capabilities.contains(&"pull");
                host.resolve = capabilities.is_empty() || capabilities.contains(&"resolve");
            }
            "skip_verify" => host.skip_verify = value.as_bool().ok_or_else(|| wrong("true or false"))?,
            "ca" => {
                let files = texts(value).ok_or_else(|| wrong("a path or a list of paths"))?;
                host.ca = files.iter().map(|file| dir.join(file)).collect();
            }
            "client" => host.client = client(dir, value).ok_or_else(|| wrong("a path or a list of [cert, key]"))?,
            "dial_timeout" => {
                let timeout = value.as_str().and_then(duration).ok_or_else(|| wrong("a time such as \"5s\""))?;
                // Nothing is no limit of the file's own.
                host.dial_timeout = (!timeout.is_zero()).then_some(timeout);
            }
            "header" => {
                let table = value.as_table().ok_or_else(|| wrong("a table"))?;
                for (name, value) in table {
                    let values = texts(value).ok_or_else(|| wrong("texts or lists of texts"))?;
                    for value in values {
                        host.headers
                            .push(header(name, value).ok_or_else(|| format!("header.{name:?}: it cannot be sent"))?);
                    }
                }
            }
            unknown => {
                tracing::warn!(file = %dir.join(FILE).display(), key = unknown, "a key that is not known; skipped")
            }
        }
    }
    Ok(())
}

/// A text, or a list of texts.
fn texts(value: &Value) -> Option<Vec<&str>> {
    match value {
        Value::String(text) => Some(vec![text]),
        Value::Array(list) => list.iter().map(Value::as_str).collect(),
        _ => None,
    }
}

fn client(dir: &Path, value: &Value) -> Option<Vec<(PathBuf, Option<PathBuf>)>> {
    let one = |value: &Value| match texts(value)?.as_slice() {
        [both] => Some((dir.join(both), None)),
        [certificate, ""] => Some((dir.join(certificate), None)),
        [certificate, key] => Some((dir.join(certificate), Some(dir.join(key)))),
        _ => None,
    };
    match value {
        Value::Array(list) => list.iter().map(one).collect(),
        other => one(other).map(|pair| vec![pair]),
    }
}

fn header(name: &str, value: &str) -> Option<(HeaderName, HeaderValue)> {
    let (name, mut value) = (name.parse::<HeaderName>().ok()?, value.parse::<HeaderValue>().ok()?);
    value.set_sensitive(true);
    Some((name, value))
}

/// A duration in Go's form: `5s`, `500ms`, `1m30s`, `1.5h`, `0`.
fn duration(text: &str) -> Option<Duration> {
    if text == "0" {
        return Some(Duration::ZERO);
    }
    let (mut rest, mut total) = (text, Duration::ZERO);
    while !rest.is_empty() {
        let end = rest.find(|c: char| !c.is_ascii_digit() && c != '.')?;
        let (number, after) = rest.split_at(end);
        let end = after.find(|c: char| c.is_ascii_digit() || c == '.').unwrap_or(after.len());
        let (unit, after) = after.split_at(end);
        let seconds = match unit {
            "ns" => 1e-9,
            "us" | "µs" | "μs" => 1e-6,
            "ms" => 1e-3,
            "s" => 1.0,
            "m" => 60.0,
            "h" => 3600.0,
            _ => return None,
        };
        let part = Duration::try_from_secs_f64(number.parse::<f64>().ok()? * seconds).ok()?;
        total = total.checked_add(part)?;
        rest = after;
    }
    (!text.is_empty()).then_some(total)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn hosts_of(text: &str, domain: &str) -> Result<Vec<Host>> {
        parse(Path::new("/c"), text, domain)
    }

    fn bases(text: &str, domain: &str) -> Vec<String> {
        hosts_of(text, domain).unwrap().iter().map(|host| host.base.to_string()).collect()
    }

    #[test]
    fn without_a_file_the_name_says_whom_to_ask_and_how() {
        for (domain, base) in [
            ("docker.io", "https://registry-1.docker.io/v2"),
            ("r.io", "https://r.io/v2"),
            ("r.io:5000", "https://r.io:5000/v2"),
            ("localhost:5000", "http://localhost:5000/v2"),
            ("127.0.0.9:5000", "http://127.0.0.9:5000/v2"),
            ("[::1]:5000", "http://[::1]:5000/v2"),
            ("localhost:443", "https://localhost/v2"),
            ("localhost", "http://localhost/v2"),
        ] {
            let found = hosts(&[], domain).unwrap();
            assert_eq!((found.hosts[0].base.as_str(), found.from), (base, None), "{domain}");
        }
    }

    #[test]
    fn mirrors_come_in_the_order_of_the_file_and_the_server_last() {
        let text = r#"
            server = "https://up.io"
            skip_verify = true
            [host."https://z.io"]
              capabilities = ["pull", "resolve"]
            [host."http://a.io:5000/some/path"]
              capabilities = ["pull"]
              ca = "a.pem"
              dial_timeout = "5s"
            [host."https://b.io/v2/prefix"]
              override_path = true
              skip_verify = true
              client = [["c.pem", "k.pem"], ["both.pem", ""]]
              [host."https://b.io/v2/prefix".header]
                x-custom = ["1", "2"]
        "#;
        assert_eq!(
            bases(text, "r.io"),
            ["https://z.io/v2", "http://a.io:5000/some/path/v2", "https://b.io/v2/prefix", "https://up.io/v2"]
        );
        let hosts = hosts_of(text, "r.io").unwrap();
        assert!(!hosts[1].resolve && hosts[1].pull);
        assert_eq!(hosts[1].ca, [PathBuf::from("/c/a.pem")]);
        assert_eq!(hosts[1].dial_timeout, Some(Duration::from_secs(5)));
        assert_eq!(hosts[2].headers.len(), 2);
        assert!(!format!("{hosts:?}").contains("\"1\""), "headers may hold secrets");
        assert_eq!(hosts[2].client[0], ("/c/c.pem".into(), Some("/c/k.pem".into())));
        assert!(hosts[2].skip_verify && hosts[3].skip_verify && !hosts[0].skip_verify);
    }

    #[test]
    fn a_file_without_server_ends_at_the_registry_itself() {
        assert_eq!(bases("[host.\"http://m\"]", "docker.io"), ["http://m/v2", "https://registry-1.docker.io/v2"]);
        assert_eq!(bases("", "r.io"), ["https://r.io/v2"]);
        assert_eq!(bases("future = 1\n[host.\"r.io\"]\nnew_key = {}", "r.io"), ["https://r.io/v2"]);
    }

    #[test]
    fn a_wrong_value_is_an_error_that_names_file_and_key() {
        for (text, key) in [
            ("server = 1", "server"),
            ("host = 1", "host"),
            ("[host.\"ftp://x\"]", "ftp"),
            ("[host.\"https://u:p@x\"]", "credentials"),
            ("[host.\"https://x\"]\nskip_verify = \"yes\"", "skip_verify"),
            ("[host.\"https://x\"]\ncapabilities = [1]", "capabilities"),
            ("[host.\"https://x\"]\ncapabilities = [\"pul\"]", "pul"),
            ("dial_timeout = 5", "dial_timeout"),
            ("dial_timeout = \"5\"", "dial_timeout"),
            ("client = [[\"a\", \"b\", \"c\"]]", "client"),
            ("[header]\n\"a b\" = \"1\"", "a b"),
            ("[header]\na = \"1\\n2\"", "header"),
            ("server = \"https://x\"\nnot toml", "line 2"),
        ] {
            let error = hosts_of(text, "r.io").unwrap_err().to_string();
            assert!(error.contains("/c/hosts.toml") && error.contains(key), "{error}");
        }
    }

    #[test]
    fn durations_are_read_as_go_writes_them() {
        for (text, ms) in [
            ("5s", Some(5000)),
            ("500ms", Some(500)),
            ("1m30s", Some(90_000)),
            ("1.5h", Some(5_400_000)),
            ("0", Some(0)),
            ("2000us", Some(2)),
            ("", None),
            ("5", None),
            ("s", None),
            ("-5s", None),
            ("5 s", None),
            ("1..5s", None),
            ("9999999999999999999999h", None),
        ] {
            assert_eq!(duration(text).map(|time| time.as_millis()), ms, "{text}");
        }
    }

    #[test]
    fn no_capability_named_is_every_one() {
        let hosts = hosts_of("[host.\"https://x\"]\ncapabilities = []\n[host.\"https://y\"]", "r.io").unwrap();
        assert!(hosts.iter().all(|host| host.pull && host.resolve));
        let push = hosts_of("[host.\"https://x\"]\ncapabilities = [\"push\"]", "r.io").unwrap();
        assert!(!push[0].pull && !push[0].resolve);
    }

    #[test]
    fn the_directory_is_found_under_each_of_its_names_and_read_each_time() {
        let root = tempfile::tempdir().unwrap();
        let config = [root.path().join("none"), root.path().to_owned()];
        let first = |domain: &str| hosts(&config, domain).unwrap().hosts[0].base.to_string();
        for (name, mirror) in [("_default", "http://m0"), ("r.io:5000", "http://m1"), ("r.io_5000_", "http://m2")] {
            fs::create_dir(root.path().join(name)).unwrap();
            fs::write(root.path().join(name).join(FILE), format!("[host.\"{mirror}\"]")).unwrap();
            assert_eq!(first("r.io:5000"), format!("{mirror}/v2"));
        }
        assert_eq!(first("other.io"), "http://m0/v2");
        fs::create_dir(root.path().join("certs.io")).unwrap();
        fs::write(root.path().join("certs.io/x.crt"), "").unwrap();
        let found = hosts(&config, "certs.io").unwrap();
        assert_eq!(found.hosts[0].ca, [root.path().join("certs.io/x.crt")]);
        assert_eq!(found.from, Some(root.path().join("certs.io")));
    }
}
