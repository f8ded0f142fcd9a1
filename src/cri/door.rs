//! The door that every call passes: one span with the ids it is about, its client's deadline, and one line when it
//! ends.

use std::{
    future::Future,
    time::{Duration, Instant},
};

use tonic::{Code, Request, Response, Status, metadata::MetadataMap};
use tracing::{Instrument, Span, debug, field::Empty, info, info_span, warn};

use crate::{
    about::{About, Subject},
    error::{Error, beginning},
    status,
};

/// How long before the client's deadline we answer that it has passed: an answer that says which call it was is worth
/// more than the client's own, and it must still travel. A twentieth of the time allowed, within these bounds.
///
/// tonic's server keeps a clock of its own, begun before ours and read to the millisecond, and answers `CANCELLED`
/// by it, which no client takes for its deadline: the least margin keeps us ahead of that.
const MARGIN_PART: u32 = 20;
const MARGIN_LEAST: Duration = Duration::from_millis(2);
const MARGIN_MOST: Duration = Duration::from_millis(20);

/// Lets a call in: runs `act` on its request within the client's deadline, and tells once how it ended.
///
/// A client that gives up drops `act`. What pods have begun goes on all the same: their keepers own it.
pub(crate) async fn pass<Q, A, F>(
    call: &'static str,
    request: Request<Q>,
    act: impl FnOnce(Q) -> F,
) -> Result<Response<A>, Status>
where
    Q: About,
    F: Future<Output = Result<A, Error>>,
{
    let (metadata, _, request) = request.into_parts();
    let span = info_span!("cri", call, pod = Empty, container = Empty, image = Empty, trace = Empty);
    match request.about() {
        Subject::Nothing => {}
        Subject::Pod(id) => note("pod", id, &span),
        Subject::Container(id) => note("container", id, &span),
        Subject::Image(name) => note("image", name, &span),
    }
    if let Some(trace) = metadata.get("traceparent").and_then(|value| value.to_str().ok()) {
        note("trace", trace, &span);
    }
    let mut visit = Visit { call, arrived: Instant::now(), quiet: request.is_quiet(), ended: false };
    let allowed = deadline(&metadata);
    async {
        let act = act(request);
        let outcome = match allowed {
            None => act.await,
            Some(allowed) => {
                let margin = (allowed / MARGIN_PART).clamp(MARGIN_LEAST, MARGIN_MOST);
                let late = |_| Err(Error::Deadline { call, allowed_ms: allowed.as_millis() });
                tokio::time::timeout(allowed.saturating_sub(margin), act).await.unwrap_or_else(late)
            }
        };
        visit.end(outcome.as_ref().err());
        outcome.map(Response::new).map_err(|error| status::status(&error))
    }
    .instrument(span.clone())
    .await
}

/// Adds to the span of the call under way what only its outcome tells: the id of what it made.
pub(crate) fn made(field: &'static str, id: &str) {
    note(field, id, &Span::current());
}

/// Longest id or name in a log line, bytes.
const NOTED: usize = 128;

fn note(field: &'static str, value: &str, span: &Span) {
    if !value.is_empty() {
        span.record(field, beginning(value, NOTED));
    }
}

/// One call from its arrival to its end, however it ends.
struct Visit {
    call: &'static str,
    arrived: Instant,
    quiet: bool,
    ended: bool,
}

impl Visit {
    fn end(&mut self, error: Option<&Error>) {
        self.ended = true;
        let took = self.arrived.elapsed();
        match error {
            // Asked every second by every kubelet: of interest only when it fails.
            None if self.quiet => debug!(?took, "{} done", self.call),
            None => info!(?took, "{} done", self.call),
            Some(error) => {
                let status = status::status(error);
                let code = status.code();
                match code {
                    Code::Internal | Code::Unknown | Code::ResourceExhausted => {
                        warn!(?took, ?code, "{} failed: {}", self.call, status.message());
                    }
                    // The kubelet asks for what it has just removed, a race it expects, and again and again for what
                    // is not built.
                    Code::NotFound | Code::Unimplemented if self.quiet => {
                        debug!(?took, ?code, "{} failed: {}", self.call, status.message())
                    }
                    _ => info!(?took, ?code, "{} failed: {}", self.call, status.message()),
                }
            }
        }
    }
}

impl Drop for Visit {
    fn drop(&mut self) {
        if !self.ended {
            info!(took = ?self.arrived.elapsed(), "{} given up by its client", self.call);
        }
    }
}

/// The client's deadline, from the arrival of the request, as gRPC carries it: up to eight digits and a unit.
fn deadline(metadata: &MetadataMap) -> Option<Duration> {
    let text = metadata.get("grpc-timeout")?.to_str().ok()?;
    let (digits, unit) = text.split_at_checked(text.len().checked_sub(1)?)?;
    if digits.len() > 8 || !digits.bytes().all(|b| b.is_ascii_digit()) {
        return None;
    }
    let number: u64 = digits.parse().ok()?;
    match unit {
        "H" => Some(Duration::from_secs(number * 3600)),
        "M" => Some(Duration::from_secs(number * 60)),
        "S" => Some(Duration::from_secs(number)),
        "m" => Some(Duration::from_millis(number)),
        "u" => Some(Duration::from_micros(number)),
        "n" => Some(Duration::from_nanos(number)),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use api::cri::v1;

    use super::*;

    fn with_timeout(text: &str) -> Request<v1::VersionRequest> {
        let mut request = Request::new(v1::VersionRequest::default());
        request.metadata_mut().insert("grpc-timeout", text.parse().unwrap());
        request
    }

    #[test]
    fn a_deadline_is_read_as_grpc_writes_it() {
        for (text, want) in [
            ("1m", Some(Duration::from_millis(1))),
            ("2S", Some(Duration::from_secs(2))),
            ("99999999H", Some(Duration::from_secs(99_999_999 * 3600))),
            ("123456789S", None),
            ("S", None),
            ("-1S", None),
            ("1", None),
            ("1x", None),
        ] {
            assert_eq!(deadline(with_timeout(text).metadata()), want, "{text}");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_call_that_outlives_its_deadline_says_so_by_name() {
        for (text, by) in
            [("2S", Duration::from_millis(1980)), ("20m", Duration::from_millis(18)), ("1m", Duration::ZERO)]
        {
            let (never, began) = (|_| std::future::pending::<Result<(), Error>>(), tokio::time::Instant::now());
            let status = pass("Version", with_timeout(text), never).await.unwrap_err();
            assert_eq!(status.code(), Code::DeadlineExceeded, "{text}");
            assert!(status.message().contains("Version"), "{status}");
            assert!(began.elapsed() <= by + Duration::from_millis(1), "{text}: {:?}", began.elapsed());
        }
    }

    #[tokio::test(start_paused = true)]
    async fn what_needs_no_waiting_is_answered_within_any_deadline() {
        assert!(pass("Version", with_timeout("1n"), async |_| Ok(())).await.is_ok());
    }
}
