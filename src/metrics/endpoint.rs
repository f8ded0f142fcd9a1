//! The connections: few, short, and none in another's way.
//!
//! Each answers one request and is closed. When there are as many as there may be, the oldest goes: whoever is slow
//! loses his own place and nobody else's.

use std::{convert::Infallible, io, sync::Arc, time::Duration};

use bytes::Bytes;
use http_body_util::Full;
use hyper::{
    Method, Request, Response, StatusCode,
    header::{ALLOW, CONTENT_TYPE, HeaderValue},
    server::conn::http1,
    service::service_fn,
};
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::{TcpListener, UnixListener},
    task::{AbortHandle, JoinHandle, JoinSet},
};

use crate::{Family, family};

/// Connections at a time. A scraper has one, and asks every few seconds.
const CONNECTIONS: usize = 8;
/// How long a connection may last: as long as Prometheus waits by default.
const CONNECTION_LASTS: Duration = Duration::from_secs(10);
/// How long a request's head may take to come.
const HEAD_TAKES: Duration = Duration::from_secs(5);
/// Longest head of a request, bytes, and most headers in it. A scraper sends a few hundred.
const HEAD_BYTES: usize = 8 * 1024;
const HEADERS: usize = 64;
/// After a connection could not be taken, for want of descriptors, until the next attempt.
const PAUSE: Duration = Duration::from_millis(100);
/// The format's name.
const FORMAT: &str = "text/plain; version=0.0.4";

/// Where connections come in, already bound.
#[derive(Debug)]
pub enum Listener {
    /// On a unix socket.
    Unix(UnixListener),
    /// On loopback.
    Loopback(TcpListener),
}

/// The endpoint. It ends when this is dropped, with all its connections.
#[derive(Debug)]
pub struct Endpoint {
    task: JoinHandle<()>,
}

/// Tells everything; asked once a request, and not to wait for anything.
type Tell = dyn Fn() -> Vec<Family> + Send + Sync;

impl Endpoint {
    /// Answers from now on.
    pub fn start(listener: Listener, tell: impl Fn() -> Vec<Family> + Send + Sync + 'static) -> Self {
        Self { task: tokio::spawn(serve(listener, Arc::new(tell))) }
    }
}

impl Drop for Endpoint {
    fn drop(&mut self) {
        self.task.abort();
    }
}

trait Stream: AsyncRead + AsyncWrite + Send + Unpin {}
impl<T: AsyncRead + AsyncWrite + Send + Unpin> Stream for T {}

impl Listener {
    async fn accept(&self) -> io::Result<Box<dyn Stream>> {
        Ok(match self {
            Self::Unix(listener) => Box::new(listener.accept().await?.0),
            Self::Loopback(listener) => Box::new(listener.accept().await?.0),
        })
    }
}

async fn serve(listener: Listener, tell: Arc<Tell>) {
    // They end with this task.
    let mut connections = JoinSet::new();
    let mut by_age: Vec<AbortHandle> = Vec::with_capacity(CONNECTIONS);
    loop {
        let stream = match listener.accept().await {
            Ok(stream) => stream,
            Err(error) => {
                tracing::debug!(%error, "a connection of the metrics could not be taken");
                tokio::time::sleep(PAUSE).await;
                continue;
            }
        };
        while connections.try_join_next().is_some() {}
        by_age.retain(|connection| !connection.is_finished());
        if by_age.len() >= CONNECTIONS {
            by_age.remove(0).abort();
        }
        by_age.push(connections.spawn(answer(stream, tell.clone())));
    }
}

/// One connection to its end. How it ends is its client's business.
async fn answer(stream: Box<dyn Stream>, tell: Arc<Tell>) {
    let service = service_fn(move |request| {
        let page = page(&request, &*tell);
        async { Ok::<_, Infallible>(page) }
    });
    let connection = http1::Builder::new()
        .keep_alive(false)
        .max_buf_size(HEAD_BYTES)
        .max_headers(HEADERS)
        .timer(TokioTimer::new())
        .header_read_timeout(HEAD_TAKES)
        .serve_connection(TokioIo::new(stream), service);
    let _ = tokio::time::timeout(CONNECTION_LASTS, connection).await;
}

/// The answer to a request. Whatever body it has is never read.
fn page<B>(request: &Request<B>, tell: &Tell) -> Response<Full<Bytes>> {
    let (status, kind, text) = match (request.uri().path(), request.method()) {
        ("/metrics", &Method::GET) => (StatusCode::OK, FORMAT, family::text(&tell())),
        ("/metrics", _) => (StatusCode::METHOD_NOT_ALLOWED, "text/plain", "only GET\n".to_owned()),
        _ => (StatusCode::NOT_FOUND, "text/plain", "there is /metrics, and nothing else\n".to_owned()),
    };
    let mut response = Response::new(Full::new(Bytes::from(text)));
    *response.status_mut() = status;
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static(kind));
    if status == StatusCode::METHOD_NOT_ALLOWED {
        response.headers_mut().insert(ALLOW, HeaderValue::from_static("GET"));
    }
    response
}

#[cfg(test)]
mod tests {
    use std::{
        net::SocketAddr,
        sync::atomic::{AtomicUsize, Ordering},
    };

    use tokio::{
        io::{AsyncReadExt, AsyncWriteExt},
        net::{TcpStream, UnixStream},
    };

    use super::*;

    const SOON: Duration = Duration::from_secs(20);

    async fn started() -> (Endpoint, SocketAddr, Arc<AtomicUsize>) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let (address, asked) = (listener.local_addr().unwrap(), Arc::new(AtomicUsize::new(0)));
        let counts = asked.clone();
        let tell = move || {
            counts.fetch_add(1, Ordering::Relaxed);
            vec![Family::of("coracle_x", "X.", 7.0)]
        };
        (Endpoint::start(Listener::Loopback(listener), tell), address, asked)
    }

    /// Sends this and reads until the end.
    async fn said(mut stream: impl Stream, request: &[u8]) -> String {
        let mut told = Vec::new();
        let talk = async {
            // Whoever is refused early may find the door shut.
            let _ = stream.write_all(request).await;
            let _ = stream.read_to_end(&mut told).await;
        };
        tokio::time::timeout(SOON, talk).await.expect("an answer and its end");
        String::from_utf8(told).unwrap()
    }

    async fn asked(address: SocketAddr, request: &[u8]) -> String {
        said(TcpStream::connect(address).await.unwrap(), request).await
    }

    #[tokio::test]
    async fn there_is_one_page_and_everything_else_is_refused() {
        let (_endpoint, address, told) = started().await;
        let page = asked(address, b"GET /metrics HTTP/1.1\r\nhost: x\r\n\r\n").await;
        assert!(page.starts_with("HTTP/1.1 200 OK\r\n"), "{page}");
        assert!(page.contains("content-type: text/plain; version=0.0.4\r\n"), "{page}");
        assert!(page.ends_with("\r\n\r\n# HELP coracle_x X.\n# TYPE coracle_x gauge\ncoracle_x 7\n"), "{page}");
        assert!(asked(address, b"GET /metrics?x=y HTTP/1.0\r\n\r\n").await.contains(" 200 OK\r\n"));
        assert_eq!(told.load(Ordering::Relaxed), 2);
        for (request, status) in [
            ("GET / HTTP/1.1", 404),
            ("GET /metrics/ HTTP/1.1", 404),
            ("POST /other HTTP/1.1", 404),
            ("POST /metrics HTTP/1.1", 405),
            ("HEAD /metrics HTTP/1.1", 405),
            ("DELETE /metrics HTTP/1.1", 405),
            ("nonsense", 400),
        ] {
            let answer = asked(address, format!("{request}\r\nhost: x\r\n\r\n").as_bytes()).await;
            assert!(answer.starts_with(&format!("HTTP/1.1 {status} ")), "{request}: {answer}");
        }
        assert_eq!(told.load(Ordering::Relaxed), 2, "nothing is told to the others");
    }

    #[tokio::test]
    async fn a_request_that_is_too_large_is_refused_unread() {
        let (_endpoint, address, told) = started().await;
        let long = format!("GET /metrics HTTP/1.1\r\nx: {}\r\n\r\n", "y".repeat(1 << 20));
        assert!(!asked(address, long.as_bytes()).await.contains(" 200 "));
        let many = format!("GET /metrics HTTP/1.1\r\n{}\r\n", "x: y\r\n".repeat(HEADERS + 1));
        assert!(!asked(address, many.as_bytes()).await.contains(" 200 "));
        assert_eq!(told.load(Ordering::Relaxed), 0);
        // A body is never read, however long it says it is.
        let body = b"GET /metrics HTTP/1.1\r\nhost: x\r\ncontent-length: 1000000000000\r\n\r\nbeginning";
        assert!(asked(address, body).await.contains(" 200 OK\r\n"));
    }

    #[tokio::test]
    async fn whoever_is_slow_holds_nobody_and_is_sent_away() {
        let (endpoint, address, _) = started().await;
        let mut slow = Vec::new();
        for _ in 0..3 * CONNECTIONS {
            let mut stream = TcpStream::connect(address).await.unwrap();
            stream.write_all(b"GET /met").await.unwrap();
            slow.push(stream);
        }
        let page = tokio::time::timeout(HEAD_TAKES / 2, asked(address, b"GET /metrics HTTP/1.1\r\nhost: x\r\n\r\n"));
        assert!(page.await.expect("at once").contains(" 200 OK\r\n"));
        // The first has lost its place; the last ones do when their time is over.
        for mut stream in slow {
            let mut rest = Vec::new();
            let end = tokio::time::timeout(SOON, stream.read_to_end(&mut rest)).await;
            assert!(end.is_ok(), "a slow one is sent away");
        }
        drop(endpoint);
        let refused = async { while TcpStream::connect(address).await.is_ok() {} };
        tokio::time::timeout(SOON, refused).await.expect("it ends with its owner");
    }

    #[tokio::test]
    async fn a_unix_socket_does_as_well() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("metrics.sock");
        let listener = Listener::Unix(UnixListener::bind(&path).unwrap());
        let _endpoint = Endpoint::start(listener, || vec![Family::of("coracle_x", "X.", 7.0)]);
        let stream = UnixStream::connect(&path).await.unwrap();
        assert!(said(stream, b"GET /metrics HTTP/1.1\r\nhost: x\r\n\r\n").await.ends_with("coracle_x 7\n"));
    }
}
