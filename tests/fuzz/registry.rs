//! Targets about registries: the files that say whom to ask with what, and for what at all; and what a registry
//! demands.

use std::{fs, path::PathBuf};

use images::{Asking, Config, Error, Images};
use tokio::runtime::Runtime;

use crate::runner::Target;

/// A store whose files are written anew for each input, and from which nobody is asked.
struct Files {
    runtime: Runtime,
    images: Images,
    dir: tempfile::TempDir,
}

impl Files {
    fn open() -> Files {
        assert!(nix::unistd::geteuid().is_root(), "this test needs root");
        let dir = tempfile::Builder::new().prefix("crt-fuzz-").tempdir().unwrap();
        let below = |name: &str| dir.path().join(name);
        fs::create_dir_all(below("certs.d/r.example:5000")).unwrap();
        let config = Config {
            config_path: vec![below("certs.d")],
            docker_config: below("docker.json"),
            policy: vec![below("policy.json")],
            ..Config::default()
        };
        let runtime = Runtime::new().unwrap();
        let guard = runtime.enter();
        let images = Images::open(config, &below("images")).unwrap();
        drop(guard);
        Files { runtime, images, dir }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    /// What comes of a file with this content: hosts, or an error that names it.
    fn try_out(&self, file: &str, content: &[u8]) {
        fs::write(self.path(file), content).unwrap();
        for reference in ["r.example:5000/team/x:1", "r.example:5000/x"] {
            match self.runtime.block_on(self.images.explain(reference, None, Asking::Nobody)) {
                Ok(told) => assert!(!told.hosts.is_empty() && told.hosts.iter().all(|host| host.answer.is_none())),
                // A certificate that the file names is named in its place.
                Err(error) => assert!(matches!(error, Error::Hosts { .. }), "{error}"),
            }
        }
    }
}

#[test]
#[ignore = "needs root: opens a store"]
fn a_hosts_file_is_hosts_or_an_error_that_names_it() {
    let files = Files::open();
    let whole = br#"server = "https://up.example"
skip_verify = true
[host."https://m.example:5000/prefix"]
  capabilities = ["pull", "resolve", "push"]
  ca = ["a.pem", "/b.pem"]
  client = [["c.pem", "k.pem"], ["both.pem", ""]]
  dial_timeout = "1m30s"
  override_path = true
  [host."https://m.example:5000/prefix".header]
    x-one = ["1", "2"]
[host."http://[::1]:5000"]
"#;
    let words: &[&[u8]] = &[
        b"[host.\"https://x\"]\n",
        b"[header]\n",
        b"server = ",
        b"capabilities = []",
        b"client = [[[]]]",
        b"\"\\u0000\"",
        b"dial_timeout = \"9e99h\"",
        b"://",
        b"http://u:p@x",
        b"file:///",
        b"[::",
        b"override_path = 1",
        b"ca = [[]]",
        b"1979-05-27T07:32:00Z",
        b"inf",
        b"[[host]]",
        b"host = {}",
        b"\r\n",
        b"\xff",
    ];
    let small = b"[host.\"m.example\"]\nskip_verify = true\n".to_vec();
    Target { name: "hosts", seeds: vec![whole.to_vec(), small], words }
        .run(|bytes| files.try_out("certs.d/r.example:5000/hosts.toml", bytes));
}

#[test]
#[ignore = "needs root: opens a store"]
fn a_docker_configuration_is_credentials_or_an_error_that_names_it() {
    let files = Files::open();
    let whole = br#"{"auths": {"r.example:5000/team": {"auth": "dTpw"}, "https://index.docker.io/v1/":
        {"identitytoken": "t"}, "*.example:5000": {"username": "u", "password": "p"}},
        "credHelpers": {"r.example:5000": "safe"}, "credsStore": "all"}"#;
    let words: &[&[u8]] = &[
        b"null",
        b"{}",
        b"[]",
        b"\"\"",
        b"*",
        b"**",
        b"*.*.*",
        b"/../",
        b"http://",
        b"\\u0000",
        b"[[[[[[[[",
        b"::",
        b"\"auth\":",
        b"\"auths\":",
        b"\"registrytoken\":",
        b"r.example:5000/",
        b"=",
    ];
    Target { name: "docker", seeds: vec![whole.to_vec()], words }.run(|bytes| files.try_out("docker.json", bytes));
}

#[test]
#[ignore = "needs root: opens a store"]
fn a_policy_lets_in_or_keeps_out_or_is_an_error_that_names_it() {
    let files = Files::open();
    let whole = br#"{"default": [{"type": "reject"}], "transports": {"docker": {
        "r.example:5000/team/x": [{"type": "insecureAcceptAnything"}],
        "r.example:5000": [{"type": "signedBy", "keyType": "GPGKeys", "keyPath": "/k"}],
        "*.example": [{"type": "sigstoreSigned", "keyData": "eA=="}, {"type": "insecureAcceptAnything"}]},
        "docker-daemon": {"": [{"type": "insecureAcceptAnything"}]}}}"#;
    let words: &[&[u8]] = &[
        b"null",
        b"{}",
        b"[]",
        b"\"\"",
        b"\"default\":",
        b"\"transports\":",
        b"\"docker\":",
        b"{\"type\":\"insecureAcceptAnything\"}",
        b"{\"type\":\"reject\"}",
        b"{\"type\":\"signedBy\"}",
        b"r.example:5000/x",
        b"[[[[[[[[",
        b",",
    ];
    let small = br#"{"default":[{"type":"insecureAcceptAnything"}]}"#.to_vec();
    Target { name: "policy", seeds: vec![whole.to_vec(), small], words }.run(|bytes| {
        fs::write(files.path("policy.json"), bytes).unwrap();
        for reference in ["r.example:5000/team/x:1", "r.example:5000/x"] {
            match files.runtime.block_on(files.images.explain(reference, None, Asking::Nobody)) {
                // No escape of JSON is among the words: who is let in is let in by this one.
                Ok(_) => assert!(String::from_utf8_lossy(bytes).contains("insecureAcceptAnything")),
                Err(error) => assert!(matches!(error, Error::Hosts { .. } | Error::Policy { .. }), "{error}"),
            }
        }
    });
}

#[test]
#[ignore = "with the other targets"]
fn a_demand_is_understood_or_passed_over() {
    let seeds = [
        r#"Bearer realm="https://a.example/t",service="r.example",scope="repository:a/b:pull,push""#,
        r#"Negotiate, Basic realm="x, y", Bearer realm="y\"z", error=invalid_token"#,
    ];
    let words: &[&[u8]] =
        &[b"Bearer ", b"Basic ", b"realm=", b"\"", b"\\\"", b",", b"=", b" ", b"\t", b"\\", b"scope=\"\""];
    let seeds = seeds.map(|text| text.as_bytes().to_vec()).to_vec();
    Target { name: "challenge", seeds, words }.run(|bytes| {
        let text = String::from_utf8_lossy(bytes);
        assert!(images::demands(&text) <= text.len() / 5, "a demand has at least five letters");
    });
}
