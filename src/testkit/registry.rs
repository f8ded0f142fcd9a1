//! A tiny registry on loopback: HTTP or TLS, open or with basic or token authorization, with trouble on demand.
//!
//! It speaks just enough of the distribution specification for pulls, keeps a list of what it was asked, and can
//! refuse, cut, spoil, redirect or hold any answer. One thread a connection: it only ever serves a test.

use std::{
    collections::HashMap,
    io::{self, BufRead, BufReader, Read, Write},
    net::{SocketAddr, TcpListener},
    sync::{Arc, Condvar, Mutex},
    thread,
};

use base64::{Engine, engine::general_purpose::STANDARD};
use rustls::{
    ServerConfig, ServerConnection, StreamOwned,
    pki_types::{PrivateKeyDer, PrivatePkcs8KeyDer},
};

use crate::{BuiltImage, digest_of};

/// The token that the token server gives to those it knows.
const TOKEN: &str = "token-of-the-tiny-registry";

/// Who is let in.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Access {
    /// Everybody.
    Open,
    /// Those with a name and a password.
    Basic {
        /// Name.
        user: String,
        /// Password.
        password: String,
    },
    /// Those with a token, which the server at `/token` gives to everybody.
    AnonymousToken,
    /// Those with a token, which the server at `/token` gives for a name and a password, or for the password as an
    /// identity token.
    Token {
        /// Name.
        user: String,
        /// Password.
        password: String,
        /// Whether the server knows the newer POST.
        post: bool,
    },
    /// Those who bring this very token.
    OwnToken(String),
}

/// What goes wrong with an answer.
#[derive(Debug, Clone)]
pub enum Trouble {
    /// This status and body instead.
    Status(u16, String),
    /// The connection ends after so many bytes of the body.
    Cut(usize),
    /// The last byte of the body is another one.
    Spoil,
    /// Sent on to this address.
    Redirect(String),
    /// Nothing comes until the gate is open.
    Hold(Gate),
    /// Nothing more comes after so many bytes of the body, until the gate is open.
    Stall(usize, Gate),
    /// Without the header that tells the digest.
    NoDigest,
}

/// Something that is waited for.
#[derive(Debug, Clone, Default)]
pub struct Gate(Arc<(Mutex<bool>, Condvar)>);

impl Gate {
    /// Lets everybody through.
    pub fn open(&self) {
        *self.0.0.lock().unwrap() = true;
        self.0.1.notify_all();
    }

    fn wait(&self) {
        let mut open = self.0.0.lock().unwrap();
        while !*open {
            open = self.0.1.wait(open).unwrap();
        }
    }
}

/// A running registry. Its threads end with the process.
#[derive(Debug)]
pub struct TinyRegistry {
    address: SocketAddr,
    certificate: Option<String>,
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    access: Access,
    base: String,
    /// Content by path, as `/v2/<name>/manifests/<tag>`, with its media type.
    content: Mutex<HashMap<String, (String, Vec<u8>)>>,
    troubles: Mutex<Vec<(String, Trouble, usize)>>,
    asked: Mutex<Vec<String>>,
    authorizations: Mutex<Vec<String>>,
}

impl TinyRegistry {
    /// Plain HTTP.
    pub fn http(access: Access) -> TinyRegistry {
        Self::start(access, None)
    }

    /// TLS with a certificate of its own making.
    pub fn https(access: Access) -> TinyRegistry {
        let names = vec!["127.0.0.1".to_owned(), "localhost".to_owned()];
        Self::start(access, Some(rcgen::generate_simple_self_signed(names).unwrap()))
    }

    fn start(access: Access, certified: Option<rcgen::CertifiedKey<rcgen::KeyPair>>) -> TinyRegistry {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let scheme = if certified.is_some() { "https" } else { "http" };
        let shared = Arc::new(Shared {
            access,
            base: format!("{scheme}://{address}"),
            content: Mutex::default(),
            troubles: Mutex::default(),
            asked: Mutex::default(),
            authorizations: Mutex::default(),
        });
        let tls = certified.as_ref().map(|certified| {
            let key = PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(certified.signing_key.serialize_der()));
            let config = ServerConfig::builder_with_provider(rustls::crypto::aws_lc_rs::default_provider().into())
                .with_safe_default_protocol_versions()
                .unwrap()
                .with_no_client_auth()
                .with_single_cert(vec![certified.cert.der().clone()], key);
            Arc::new(config.unwrap())
        });
        let theirs = shared.clone();
        thread::spawn(move || {
            for connection in listener.incoming().flatten() {
                let (shared, tls) = (theirs.clone(), tls.clone());
                thread::spawn(move || match tls {
                    None => serve(&shared, connection),
                    Some(config) => {
                        serve(&shared, StreamOwned::new(ServerConnection::new(config).unwrap(), connection))
                    }
                });
            }
        });
        TinyRegistry { address, certificate: certified.map(|certified| certified.cert.pem()), shared }
    }

    /// `127.0.0.1:<port>`.
    pub fn host(&self) -> String {
        self.address.to_string()
    }

    /// `http://127.0.0.1:<port>` or with `https`.
    pub fn url(&self) -> String {
        self.shared.base.clone()
    }

    /// The certificate that a client must believe, as PEM.
    pub fn certificate(&self) -> &str {
        self.certificate.as_deref().expect("a registry with TLS")
    }

    /// Keeps an image under a tag and its digest; returns the digest.
    pub fn push(&self, repository: &str, tag: &str, image: &BuiltImage) -> String {
        for (digest, blob) in image.blobs() {
            self.put(&format!("/v2/{repository}/blobs/{digest}"), "application/octet-stream", blob);
        }
        self.put_manifest(repository, tag, BuiltImage::MEDIA_TYPE, image.manifest.clone())
    }

    /// Keeps a manifest or index under a tag and its digest; returns the digest.
    pub fn put_manifest(&self, repository: &str, tag: &str, media_type: &str, manifest: Vec<u8>) -> String {
        let digest = digest_of(&manifest);
        for reference in [tag, &digest] {
            self.put(&format!("/v2/{repository}/manifests/{reference}"), media_type, manifest.clone());
        }
        digest
    }

    /// Keeps a blob; returns its digest.
    pub fn put_blob(&self, repository: &str, blob: Vec<u8>) -> String {
        let digest = digest_of(&blob);
        self.put(&format!("/v2/{repository}/blobs/{digest}"), "application/octet-stream", blob);
        digest
    }

    /// Keeps anything under a path.
    pub fn put(&self, path: &str, media_type: &str, content: Vec<u8>) {
        self.shared.content.lock().unwrap().insert(path.to_owned(), (media_type.to_owned(), content));
    }

    /// The next `times` requests whose line (`GET /v2/…`) contains `which` meet this trouble.
    pub fn trouble(&self, which: &str, trouble: Trouble, times: usize) {
        self.shared.troubles.lock().unwrap().push((which.to_owned(), trouble, times));
    }

    /// What was asked so far: `GET /v2/…?ns=…`.
    pub fn asked(&self) -> Vec<String> {
        self.shared.asked.lock().unwrap().clone()
    }

    /// How many requests contained this.
    pub fn asked_for(&self, which: &str) -> usize {
        self.asked().iter().filter(|line| line.contains(which)).count()
    }

    /// Every `Authorization` header that came.
    pub fn authorizations(&self) -> Vec<String> {
        self.shared.authorizations.lock().unwrap().clone()
    }
}

struct Request {
    method: String,
    target: String,
    authorization: Option<String>,
    body: Vec<u8>,
}

#[derive(Default)]
struct Answer {
    status: u16,
    headers: Vec<(String, String)>,
    body: Vec<u8>,
    cut: Option<usize>,
    stall: Option<(usize, Gate)>,
}

fn serve(shared: &Shared, connection: impl Read + Write) {
    let mut connection = BufReader::new(Both(connection));
    while let Ok(Some(request)) = read(&mut connection) {
        let answer = answer(shared, &request);
        if write(&mut connection.get_mut().0, &request, &answer).is_err() || answer.cut.is_some() {
            return;
        }
    }
}

/// Lets one stream be read through a buffer and written to directly.
struct Both<T>(T);

impl<T: Read> Read for Both<T> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        self.0.read(buffer)
    }
}

fn read(connection: &mut impl BufRead) -> io::Result<Option<Request>> {
    let mut line = String::new();
    if connection.read_line(&mut line)? == 0 {
        return Ok(None);
    }
    let mut words = line.split_whitespace().map(str::to_owned);
    let (method, target) = (words.next().unwrap_or_default(), words.next().unwrap_or_default());
    let (mut authorization, mut length) = (None, 0);
    loop {
        let mut header = String::new();
        connection.read_line(&mut header)?;
        let Some((name, value)) = header.trim_end().split_once(':') else { break };
        match name.to_ascii_lowercase().as_str() {
            "authorization" => authorization = Some(value.trim().to_owned()),
            "content-length" => length = value.trim().parse().unwrap_or(0),
            _ => {}
        }
    }
    let mut body = vec![0; length];
    connection.read_exact(&mut body)?;
    Ok(Some(Request { method, target, authorization, body }))
}

fn write(connection: &mut impl Write, request: &Request, answer: &Answer) -> io::Result<()> {
    let mut head = format!("HTTP/1.1 {} x\r\ncontent-length: {}\r\n", answer.status, answer.body.len());
    for (name, value) in &answer.headers {
        head.push_str(&format!("{name}: {value}\r\n"));
    }
    connection.write_all(format!("{head}\r\n").as_bytes())?;
    if request.method != "HEAD" {
        let sent = answer.cut.unwrap_or(answer.body.len()).min(answer.body.len());
        let mut body = &answer.body[..sent];
        if let Some((bytes, gate)) = &answer.stall {
            let (first, rest) = body.split_at((*bytes).min(body.len()));
            connection.write_all(first)?;
            connection.flush()?;
            gate.wait();
            body = rest;
        }
        connection.write_all(body)?;
    }
    connection.flush()
}

fn answer(shared: &Shared, request: &Request) -> Answer {
    let line = format!("{} {}", request.method, request.target);
    shared.asked.lock().unwrap().push(line.clone());
    shared.authorizations.lock().unwrap().extend(request.authorization.clone());
    if request.target.starts_with("/token") {
        return token(shared, request);
    }
    if !is_let_in(shared, request) {
        let challenge = match shared.access {
            Access::Basic { .. } => "Basic realm=\"tiny\"".to_owned(),
            _ => format!("Bearer realm=\"{}/token\",service=\"tiny\"", shared.base),
        };
        return Answer {
            status: 401,
            headers: vec![("www-authenticate".to_owned(), challenge)],
            body: br#"{"errors":[{"code":"UNAUTHORIZED","message":"authentication required"}]}"#.to_vec(),
            ..Answer::default()
        };
    }
    let path = request.target.split('?').next().unwrap_or_default();
    let content = shared.content.lock().unwrap().get(path).cloned();
    let mut answer = match content {
        Some((media_type, body)) => Answer {
            status: 200,
            headers: vec![
                ("content-type".to_owned(), media_type),
                ("docker-content-digest".to_owned(), digest_of(&body)),
            ],
            body,
            ..Answer::default()
        },
        None => refusal(404, "MANIFEST_UNKNOWN"),
    };
    let trouble = {
        let mut troubles = shared.troubles.lock().unwrap();
        let found = troubles.iter_mut().find(|(which, _, times)| *times > 0 && line.contains(which.as_str()));
        found.map(|(_, trouble, times)| {
            *times -= 1;
            trouble.clone()
        })
    };
    match trouble {
        None => {}
        Some(Trouble::Status(status, body)) => answer = Answer { status, body: body.into_bytes(), ..Answer::default() },
        Some(Trouble::Cut(bytes)) => answer.cut = Some(bytes),
        Some(Trouble::Spoil) => {
            if let Some(last) = answer.body.last_mut() {
                *last ^= 1;
            }
        }
        Some(Trouble::Redirect(to)) => {
            answer = Answer { status: 307, headers: vec![("location".to_owned(), to)], ..Answer::default() };
        }
        Some(Trouble::Hold(gate)) => gate.wait(),
        Some(Trouble::Stall(bytes, gate)) => answer.stall = Some((bytes, gate)),
        Some(Trouble::NoDigest) => answer.headers.retain(|(name, _)| name != "docker-content-digest"),
    }
    answer
}

fn refusal(status: u16, code: &str) -> Answer {
    let body = format!(r#"{{"errors":[{{"code":"{code}","message":"said the tiny registry"}}]}}"#).into_bytes();
    Answer { status, body, ..Answer::default() }
}

fn is_let_in(shared: &Shared, request: &Request) -> bool {
    let wanted = match &shared.access {
        Access::Open => return true,
        Access::Basic { user, password } => basic(user, password),
        Access::AnonymousToken | Access::Token { .. } => format!("Bearer {TOKEN}"),
        Access::OwnToken(token) => format!("Bearer {token}"),
    };
    request.authorization.as_deref() == Some(&wanted)
}

fn token(shared: &Shared, request: &Request) -> Answer {
    let form = String::from_utf8_lossy(&request.body).into_owned();
    let known = match &shared.access {
        Access::AnonymousToken => request.authorization.is_none() && request.method == "GET",
        Access::Token { post, .. } if request.method == "POST" && !post => return refusal(405, "UNSUPPORTED"),
        Access::Token { user, password, .. } if request.method == "POST" => {
            form.contains(&format!("username={user}")) && form.contains(&format!("password={password}"))
                || form.contains("grant_type=refresh_token") && form.contains(&format!("refresh_token={password}"))
        }
        Access::Token { user, password, .. } => request.authorization.as_deref() == Some(&basic(user, password)),
        _ => false,
    };
    if known {
        let body = format!(r#"{{"token":"{TOKEN}","expires_in":300}}"#).into_bytes();
        Answer { status: 200, body, ..Answer::default() }
    } else {
        Answer { status: 401, body: br#"{"details":"incorrect username or password"}"#.to_vec(), ..Answer::default() }
    }
}

fn basic(user: &str, password: &str) -> String {
    format!("Basic {}", STANDARD.encode(format!("{user}:{password}")))
}
