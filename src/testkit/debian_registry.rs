//! Debian's docker-registry, serving the images that `tests/images/make` made.
//!
//! A registry of somebody else's, so that what we pull from is not our own idea of a registry.

use std::{
    env, fs,
    net::{TcpListener, TcpStream},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    time::Duration,
};

use crate::{Identity, TempNode, eventually};

/// Host names by which critest asks for its images.
pub const HOSTS: [&str; 3] = ["registry.k8s.io", "k8s.gcr.io", "gcr.io"];

/// How long the registry may take until it answers.
const READY: Duration = Duration::from_secs(20);

/// Who is let in.
#[derive(Debug, Clone)]
pub enum Guard<'a> {
    /// Those whose line stands in this file of `name:bcrypt`.
    Basic(&'a str),
    /// Those with a token of this server.
    Token {
        /// Where tokens are made.
        realm: String,
        /// Whom they are for.
        service: &'a str,
        /// Who makes them.
        issuer: &'a str,
        /// Certificates of those who sign them, as PEM.
        signers: &'a str,
    },
}

/// A running registry on loopback; ends when dropped.
#[derive(Debug)]
pub struct DebianRegistry {
    /// `127.0.0.1:<port>`; plain HTTP unless it is guarded.
    pub address: String,
    process: Child,
    dir: tempfile::TempDir,
}

impl DebianRegistry {
    /// Starts it on a free port. Panics if the images have not been made.
    pub fn start() -> DebianRegistry {
        Self::start_with(|_| String::new())
    }

    /// Starts it with TLS, for those whom the guard lets in.
    pub fn guarded(identity: &Identity, guard: &Guard<'_>) -> DebianRegistry {
        Self::start_with(|dir| {
            let file = |name: &str, content: &str| {
                let path = dir.join(name);
                fs::write(&path, content).unwrap();
                path
            };
            let (certificate, key) = (file("cert.pem", &identity.certificate), file("key.pem", &identity.key));
            let guard = match guard {
                Guard::Basic(lines) => format!("htpasswd: {{realm: basic, path: {:?}}}", file("htpasswd", lines)),
                Guard::Token { realm, service, issuer, signers } => format!(
                    "token: {{realm: {realm:?}, service: {service:?}, issuer: {issuer:?}, rootcertbundle: {:?}}}",
                    file("signers.pem", signers)
                ),
            };
            format!("  tls: {{certificate: {certificate:?}, key: {key:?}}}\nauth: {{{guard}}}\n")
        })
    }

    /// `more` goes on where the part `http` of its configuration ends.
    fn start_with(more: impl FnOnce(&Path) -> String) -> DebianRegistry {
        let images = images();
        let program = images.join("unpacked/docker-registry/usr/bin/docker-registry");
        assert!(program.exists(), "{} is missing: run tests/images/make first", program.display());
        let dir = tempfile::Builder::new().prefix("crt-registry-").tempdir().unwrap();
        // Free at this moment; the registry cannot be asked to choose one and tell.
        let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
        let address = format!("127.0.0.1:{port}");
        let config = dir.path().join("config.yml");
        let storage = images.join("storage");
        fs::write(
            &config,
            format!(
                "version: 0.1\nlog: {{level: error, accesslog: {{disabled: true}}}}\n\
                 storage: {{filesystem: {{rootdirectory: {storage:?}}}, \
                 maintenance: {{readonly: {{enabled: true}}}}}}\n\
                 http:\n  addr: \"{address}\"\n{}",
                more(dir.path())
            ),
        )
        .unwrap();
        let log = fs::File::create(dir.path().join("log")).unwrap();
        let mut process = Command::new(program)
            .arg("serve")
            .arg(&config)
            .stdin(Stdio::null())
            .stdout(log.try_clone().unwrap())
            .stderr(log)
            .spawn()
            .unwrap();
        eventually(READY, "the registry answers", || {
            if let Some(status) = process.try_wait().unwrap() {
                panic!("the registry ended with {status}: {}", fs::read_to_string(dir.path().join("log")).unwrap());
            }
            TcpStream::connect(&address).map(drop)
        });
        DebianRegistry { address, process, dir }
    }

    /// Lets this node pull from here what is named by any of [`HOSTS`].
    pub fn serve(&self, node: &TempNode) {
        for host in HOSTS {
            node.mirror(host, &self.address);
        }
    }

    /// What the registry has logged: errors only.
    pub fn log(&self) -> String {
        fs::read_to_string(self.dir.path().join("log")).unwrap_or_default()
    }
}

impl Drop for DebianRegistry {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

/// Where `tests/images/make` puts its work.
fn images() -> PathBuf {
    let built_in = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../.cache/images");
    env::var_os("CORACLE_IMAGES_DIR").map_or(built_in, PathBuf::from).canonicalize().unwrap_or_default()
}
