//! A tiny registry on loopback: HTTP or TLS, open or with basic or token authorization, with trouble on demand.
//!
//! It speaks just enough of the distribution specification for pulls, keeps a list of what it was asked, and can
//! refuse, cut, spoil, redirect or hold any answer. One thread a connection: it only ever serves a test.

mod http;

use std::{
    collections::HashMap,
    io::{BufReader, Read, Write},
    net::{SocketAddr, TcpListener, TcpStream},
    sync::{Arc, Condvar, Mutex},
    thread,
    time::Duration,
};

use base64::{Engine, engine::general_purpose::STANDARD};
use nix::sys::socket::{setsockopt, sockopt};
use rustls::{ServerConfig, ServerConnection, StreamOwned};

use crate::{BuiltImage, digest_of, tls::Authority};

use http::{Answer, Both, Request, read, write};

/// The token that the token server gives to those it knows, unless it was told another.
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

/// Between two bytes of a registry that trickles.
const TRICKLE: Duration = Duration::from_millis(100);

/// What goes wrong with an answer.
#[derive(Debug, Clone)]
pub enum Trouble {
    /// This answer instead: status, headers, body.
    Answer(u16, Vec<(&'static str, String)>, String),
    /// The connection is reset after so many bytes of the answer, its head included.
    Reset(usize),
    /// One byte of the answer at a time, its head included, and rests in between.
    Trickle,
    /// So many bytes instead of the body; whether their number is told before.
    Flood(u64, bool),
    /// Another content type.
    ContentType(&'static str),
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
    /// After so many bytes of the body so many at a time, with rests in between.
    Drip(usize, usize),
    /// Without the header that tells the digest.
    NoDigest,
    /// All of it, whatever part was asked for.
    NoRange,
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

/// Names of every registry with TLS; `registry.example` for one behind a proxy.
const NAMES: [&str; 3] = ["127.0.0.1", "localhost", "registry.example"];

#[derive(Debug)]
struct Shared {
    access: Access,
    base: String,
    /// What `/token` gives to those it knows.
    token: Mutex<String>,
    /// Tokens that are good no longer.
    ended: Mutex<Vec<String>>,
    /// Content by path, as `/v2/<name>/manifests/<tag>`, with its media type.
    content: Mutex<HashMap<String, (String, Vec<u8>)>>,
    troubles: Mutex<Vec<(String, Trouble, usize)>>,
    asked: Mutex<Vec<String>>,
    /// Every header that came: its name in small letters, its value.
    headers: Mutex<Vec<(String, String)>>,
}

impl TinyRegistry {
    /// Plain HTTP.
    pub fn http(access: Access) -> TinyRegistry {
        Self::start(access, None)
    }

    /// TLS with a certificate that an authority of its own making has signed.
    pub fn https(access: Access) -> TinyRegistry {
        Self::https_for(access, None)
    }

    /// The same for those only whom this authority has signed.
    pub fn https_for(access: Access, clients: Option<&Authority>) -> TinyRegistry {
        let authority = Authority::new("the tiny registry");
        Self::start(access, Some((authority.certificate(), authority.identity(&NAMES).server(clients))))
    }

    fn start(access: Access, tls: Option<(String, Arc<ServerConfig>)>) -> TinyRegistry {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let scheme = if tls.is_some() { "https" } else { "http" };
        let shared = Arc::new(Shared {
            access,
            base: format!("{scheme}://{address}"),
            token: Mutex::new(TOKEN.to_owned()),
            ended: Mutex::default(),
            content: Mutex::default(),
            troubles: Mutex::default(),
            asked: Mutex::default(),
            headers: Mutex::default(),
        });
        let (certificate, tls) = tls.unzip();
        let theirs = shared.clone();
        thread::spawn(move || {
            for connection in listener.incoming().flatten() {
                let (shared, tls) = (theirs.clone(), tls.clone());
                thread::spawn(move || {
                    let Ok(line) = connection.try_clone() else { return };
                    match tls {
                        None => serve(&shared, connection, line),
                        Some(config) => {
                            serve(&shared, StreamOwned::new(ServerConnection::new(config).unwrap(), connection), line)
                        }
                    }
                });
            }
        });
        TinyRegistry { address, certificate, shared }
    }

    /// `127.0.0.1:<port>`.
    pub fn host(&self) -> String {
        self.address.to_string()
    }

    /// `http://127.0.0.1:<port>` or with `https`.
    pub fn url(&self) -> String {
        self.shared.base.clone()
    }

    /// The certificate of the authority that a client must believe, as PEM.
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

    /// From now on `/token` gives this one, and nobody is let in by another.
    pub fn give_token(&self, token: String) {
        *self.shared.token.lock().unwrap() = token;
    }

    /// From now on nobody is let in by this token, also where everybody else is.
    pub fn end_token(&self, token: &str) {
        self.shared.ended.lock().unwrap().push(format!("Bearer {token}"));
    }

    /// No trouble any more.
    pub fn calm(&self) {
        self.shared.troubles.lock().unwrap().clear();
    }

    /// What was asked so far: `GET /v2/…?ns=…`, with `from 10` at the end where only that byte and what follows was.
    pub fn asked(&self) -> Vec<String> {
        self.shared.asked.lock().unwrap().clone()
    }

    /// How many requests contained this.
    pub fn asked_for(&self, which: &str) -> usize {
        self.asked().iter().filter(|line| line.contains(which)).count()
    }

    /// Every `Authorization` header that came.
    pub fn authorizations(&self) -> Vec<String> {
        self.headers("authorization")
    }

    /// Every value that came with a header of this name.
    pub fn headers(&self, name: &str) -> Vec<String> {
        let headers = self.shared.headers.lock().unwrap();
        headers.iter().filter(|(known, _)| known == name).map(|(_, value)| value.clone()).collect()
    }
}

/// `line` is the connection below whatever is spoken on it.
fn serve(shared: &Shared, connection: impl Read + Write, line: TcpStream) {
    let mut connection = BufReader::new(Both(connection));
    while let Ok(Some(request)) = read(&mut connection) {
        let answer = answer(shared, &request);
        if answer.reset.is_some() {
            // What is closed with a time of nothing to linger is reset; the last to close it is whoever returns here.
            let _ = setsockopt(&line, sockopt::Linger, &nix::libc::linger { l_onoff: 1, l_linger: 0 });
        }
        let written = write(&mut connection.get_mut().0, &request, &answer);
        if written.is_err() || answer.cut.is_some() || answer.reset.is_some() || answer.flood.is_some() {
            return;
        }
    }
}

fn answer(shared: &Shared, request: &Request) -> Answer {
    let part = request.from().map_or_else(String::new, |from| format!(" from {from}"));
    let line = format!("{} {}{part}", request.method, request.target);
    shared.asked.lock().unwrap().push(line.clone());
    shared.headers.lock().unwrap().extend(request.headers.iter().cloned());
    if request.target.starts_with("/token") {
        let answer = token(shared, request);
        return troubled(shared, &line, None, answer);
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
    let answer = match content {
        Some((media_type, body)) => Answer {
            status: 200,
            headers: vec![
                ("content-type".to_owned(), media_type),
                ("docker-content-digest".to_owned(), digest_of(&body)),
            ],
            body,
            ..Answer::default()
        },
        // Whether this is a registry at all, as other clients ask first.
        None if path == "/v2/" => Answer { status: 200, body: b"{}".to_vec(), ..Answer::default() },
        None => refusal(404, "MANIFEST_UNKNOWN"),
    };
    troubled(shared, &line, request.from(), answer)
}

fn troubled(shared: &Shared, line: &str, from: Option<usize>, mut answer: Answer) -> Answer {
    let trouble = {
        let mut troubles = shared.troubles.lock().unwrap();
        let found = troubles.iter_mut().find(|(which, _, times)| *times > 0 && line.contains(which.as_str()));
        found.map(|(_, trouble, times)| {
            *times -= 1;
            trouble.clone()
        })
    };
    if let Some(from) = from
        && !matches!(trouble, Some(Trouble::NoRange))
        && answer.status == 200
    {
        answer = part_of(answer, from);
    }
    match trouble {
        None | Some(Trouble::NoRange) => {}
        Some(Trouble::Answer(status, headers, body)) => {
            let headers = headers.into_iter().map(|(name, value)| (name.to_owned(), value)).collect();
            answer = Answer { status, headers, body: body.into_bytes(), ..Answer::default() };
        }
        Some(Trouble::Reset(bytes)) => answer.reset = Some(bytes),
        Some(Trouble::Trickle) => answer.trickles = true,
        Some(Trouble::Flood(bytes, told)) => answer.flood = Some((bytes, told)),
        Some(Trouble::ContentType(other)) => {
            answer.headers.retain(|(name, _)| name != "content-type");
            answer.headers.push(("content-type".to_owned(), other.to_owned()));
        }
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
        Some(Trouble::Drip(bytes, drop)) => answer.drip = Some((bytes, drop)),
        Some(Trouble::NoDigest) => answer.headers.retain(|(name, _)| name != "docker-content-digest"),
    }
    answer
}

/// What is left of an answer from this byte on (RFC 9110, 14).
fn part_of(answer: Answer, from: usize) -> Answer {
    let Answer { mut headers, mut body, .. } = answer;
    let total = body.len();
    if from >= total {
        let headers = vec![("content-range".to_owned(), format!("bytes */{total}"))];
        return Answer { status: 416, headers, ..Answer::default() };
    }
    headers.push(("content-range".to_owned(), format!("bytes {from}-{}/{total}", total - 1)));
    Answer { status: 206, headers, body: body.split_off(from), ..Answer::default() }
}

fn refusal(status: u16, code: &str) -> Answer {
    let body = format!(r#"{{"errors":[{{"code":"{code}","message":"said the tiny registry"}}]}}"#).into_bytes();
    Answer { status, body, ..Answer::default() }
}

fn is_let_in(shared: &Shared, request: &Request) -> bool {
    if request.authorization().is_some_and(|shown| shared.ended.lock().unwrap().iter().any(|ended| ended == shown)) {
        return false;
    }
    let wanted = match &shared.access {
        Access::Open => return true,
        Access::Basic { user, password } => basic(user, password),
        Access::AnonymousToken | Access::Token { .. } => format!("Bearer {}", shared.token.lock().unwrap()),
        Access::OwnToken(token) => format!("Bearer {token}"),
    };
    request.authorization() == Some(wanted.as_str())
}

fn token(shared: &Shared, request: &Request) -> Answer {
    let form = String::from_utf8_lossy(&request.body).into_owned();
    let known = match &shared.access {
        Access::AnonymousToken => request.authorization().is_none() && request.method == "GET",
        Access::Token { post, .. } if request.method == "POST" && !post => return refusal(405, "UNSUPPORTED"),
        Access::Token { user, password, .. } if request.method == "POST" => {
            form.contains(&format!("username={user}")) && form.contains(&format!("password={password}"))
                || form.contains("grant_type=refresh_token") && form.contains(&format!("refresh_token={password}"))
        }
        Access::Token { user, password, .. } => request.authorization() == Some(basic(user, password).as_str()),
        _ => false,
    };
    if known {
        let token = shared.token.lock().unwrap().clone();
        let body = format!(r#"{{"token":"{token}","expires_in":300}}"#).into_bytes();
        Answer { status: 200, body, ..Answer::default() }
    } else {
        Answer { status: 401, body: br#"{"details":"incorrect username or password"}"#.to_vec(), ..Answer::default() }
    }
}

fn basic(user: &str, password: &str) -> String {
    format!("Basic {}", STANDARD.encode(format!("{user}:{password}")))
}
