//! Debian's docker-registry behind TLS, with passwords and with a token server, as the real crictl pulls from it.

use std::{
    fs,
    time::{SystemTime, UNIX_EPOCH},
};

use serde_json::json;
use testkit::{Access, Authority, DebianRegistry, Guard, TempNode, TinyRegistry};

use crate::command::Crictl;

const REPOSITORY: &str = "e2e-test-images/busybox";
const TAG: &str = "1.29-2";
/// `ann` with the password `hunter2` (bcrypt: the registry takes no other).
const PASSWORDS: &str = "ann:$2b$04$abcdefghijklmnopqrstuuV3duMsC0HpUex6N9qapiuOHHWkwRXVm\n";
const SERVICE: &str = "debian";
const ISSUER: &str = "the token server of the tests";

/// Lets the node believe the registry's authority. The registry has no other name than its address: what a request
/// brings is for the host that the image is named by, never for one that stands in for it.
fn believe(node: &TempNode, registry: &DebianRegistry, authority: &Authority) {
    let dir = node.dir().join("certs.d").join(&registry.address);
    fs::create_dir_all(&dir).unwrap();
    fs::write(dir.join("ca.pem"), authority.certificate()).unwrap();
    let hosts = format!("server = \"https://{}\"\nca = \"ca.pem\"\n", registry.address);
    fs::write(dir.join("hosts.toml"), hosts).unwrap();
}

pub(crate) async fn guarded() {
    let crictl = Crictl::start();
    let authority = Authority::new("the registries' authority");
    let identity = authority.identity(&["127.0.0.1"]);

    let basic = DebianRegistry::guarded(&identity, &Guard::Basic(PASSWORDS));
    believe(&crictl.node, &basic, &authority);
    let image = format!("{}/{REPOSITORY}:{TAG}", basic.address);
    for creds in [&[][..], &["--creds", "ann:guess"], &["--creds", "eve:hunter2"]] {
        let told = crictl.fails(&[&["pull"][..], creds, &[image.as_str()]].concat());
        assert!(told.contains("HTTP 401") && told.contains(&basic.address), "{told}");
        assert!(!told.contains("hunter2") && !told.contains("guess"), "{told}");
    }
    crictl.ok(&["pull", "--creds", "ann:hunter2", &image]);
    crictl.fails(&["pull", &image]);

    // Whoever is let in gets a token for this one repository.
    let signer = Authority::new("the token server's authority");
    let signs = signer.identity(&["token.example"]);
    let access = Access::Token { user: "ann".to_owned(), password: "hunter2".to_owned(), post: false };
    let tokens = TinyRegistry::http(access);
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs();
    tokens.give_token(signs.token(&json!({
        "iss": ISSUER, "sub": "ann", "aud": SERVICE, "exp": now + 300, "nbf": now - 60, "iat": now, "jti": "1",
        "access": [{ "type": "repository", "name": REPOSITORY, "actions": ["pull"] }],
    })));
    let realm = format!("{}/token", tokens.url());
    let guard = Guard::Token { realm, service: SERVICE, issuer: ISSUER, signers: &signer.certificate() };
    let token = DebianRegistry::guarded(&identity, &guard);
    believe(&crictl.node, &token, &authority);
    let image = format!("{}/{REPOSITORY}:{TAG}", token.address);
    crictl.fails(&["pull", &image]);
    let told = crictl.fails(&["pull", "--creds", "ann:guess", &image]);
    assert!(told.contains("its token server") && !told.contains("guess"), "{told}");
    crictl.ok(&["pull", "--creds", "ann:hunter2", &image]);
    let asked = tokens.asked();
    let scope = format!("scope=repository%3A{}%3Apull", REPOSITORY.replace('/', "%2F"));
    assert!(asked.iter().any(|line| line.starts_with("GET") && line.contains(&scope)), "{asked:?}");
    // The token is good for nothing else.
    let other = format!("{}/pause:3.9", token.address);
    let told = crictl.fails(&["pull", "--creds", "ann:hunter2", &other]);
    assert!(told.contains("HTTP 401") || told.contains("HTTP 403"), "{told}");
    crictl.finish().await;
}
