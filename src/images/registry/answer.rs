//! What a host's answers hold: bodies of bounded size and time, refusals in its own words, and how long it wants to be
//! left alone.

use std::time::{Duration, SystemTime};

use model::with_causes;
use reqwest::{Response, header::RETRY_AFTER};

use crate::{
    Outcome,
    registry::date::{self, since_epoch},
};

/// Bytes of a refusal's body that are read, and characters of it that are told.
const REFUSAL: usize = 64 << 10;
const REFUSAL_TOLD: usize = 300;
/// How long the words of a refusal may take. They are worth no more.
const REFUSAL_PATIENCE: Duration = Duration::from_secs(5);

/// Codes of refusals: of the distribution specification, and of OAuth 2 (RFC 6749, 5.2). No other word of a server is
/// told that a registry may have named to hear it.
const CODES: [&str; 13] = [
    "DENIED",
    "NAME_INVALID",
    "NAME_UNKNOWN",
    "TOOMANYREQUESTS",
    "UNAUTHORIZED",
    "UNAVAILABLE",
    "UNSUPPORTED",
    "invalid_client",
    "invalid_grant",
    "invalid_request",
    "invalid_scope",
    "unauthorized_client",
    "unsupported_grant_type",
];

/// A whole body of at most `limit` bytes, which has to be here within `patience`: who sends a byte now and then must
/// not keep anybody for ever.
pub(crate) async fn body(response: Response, limit: usize, patience: Duration) -> Result<Vec<u8>, Outcome> {
    match tokio::time::timeout(patience, read(response, limit)).await {
        Ok(read) => read,
        Err(_) => Err(Outcome::Broken { why: format!("its answer took longer than {} s", patience.as_secs()) }),
    }
}

async fn read(mut response: Response, limit: usize) -> Result<Vec<u8>, Outcome> {
    let too_large = || Outcome::Spoiled { why: format!("its answer is larger than {limit} bytes") };
    // Not begun, if it says so itself.
    if response.content_length().is_some_and(|bytes| bytes > limit as u64) {
        return Err(too_large());
    }
    let mut bytes = Vec::new();
    while let Some(chunk) = response.chunk().await.map_err(broken)? {
        if bytes.len() + chunk.len() > limit {
            return Err(too_large());
        }
        bytes.extend_from_slice(&chunk);
    }
    Ok(bytes)
}

/// What a refusal says: the status, the codes and messages of its body, and when to come again.
pub(crate) async fn refusal(response: Response) -> Outcome {
    let (status, wait) = (response.status().as_u16(), wait(&response));
    let bytes = body(response, REFUSAL, REFUSAL_PATIENCE).await.unwrap_or_default();
    Outcome::Refused { status, detail: detail(&bytes), wait }
}

/// The same of a server whose words are not to be told: the status, and the codes that registries and token servers
/// use.
pub(crate) async fn refusal_by_code(response: Response) -> Outcome {
    let (status, wait) = (response.status().as_u16(), wait(&response));
    let bytes = body(response, REFUSAL, REFUSAL_PATIENCE).await.unwrap_or_default();
    Outcome::Refused { status, detail: codes(&bytes), wait }
}

/// `errors[].code` of the distribution specification and `error` of OAuth 2, where they are codes.
fn codes(bytes: &[u8]) -> String {
    let Ok(value) = serde_json::from_slice::<serde_json::Value>(bytes) else { return String::new() };
    let errors = value.get("errors").and_then(|errors| errors.as_array()).map(Vec::as_slice).unwrap_or_default();
    let listed = errors.iter().map(|error| error.get("code"));
    let texts = listed.chain([value.get("error")]).flatten().filter_map(|text| text.as_str());
    let is_code = |text: &&str| CODES.contains(text);
    texts.filter(is_code).collect::<Vec<_>>().join(": ")
}

/// How long the host wants to be left alone: `Retry-After`, in seconds or as a date.
pub(crate) fn wait(response: &Response) -> Option<Duration> {
    let value = response.headers().get(RETRY_AFTER)?.to_str().ok()?;
    retry_after(value.trim(), since_epoch(SystemTime::now()))
}

fn retry_after(value: &str, now: u64) -> Option<Duration> {
    let seconds = match value.parse::<u64>() {
        Ok(seconds) => seconds,
        Err(_) => date::seconds(value)?.saturating_sub(now),
    };
    Some(Duration::from_secs(seconds))
}

fn detail(bytes: &[u8]) -> String {
    let parsed: Option<serde_json::Value> = serde_json::from_slice(bytes).ok();
    let texts = parsed.as_ref().map(|value| {
        let errors = value.get("errors").and_then(|errors| errors.as_array()).map(Vec::as_slice).unwrap_or_default();
        let listed = errors.iter().flat_map(|error| ["code", "message"].map(|key| error.get(key)));
        // Token servers have their own forms.
        let others = ["details", "message", "error", "error_description"].map(|key| value.get(key));
        let texts = listed.chain(others).flatten().filter_map(|text| text.as_str()).filter(|text| !text.is_empty());
        texts.collect::<Vec<_>>().join(": ")
    });
    let text = texts.unwrap_or_else(|| match std::str::from_utf8(bytes) {
        Ok(text) if !text.trim_start().starts_with('<') => text.trim().to_owned(),
        _ => String::new(),
    });
    told(&text)
}

/// As much of a foreign text as is told: one line of it.
pub(crate) fn told(text: &str) -> String {
    text.chars().filter(|c| !c.is_control()).take(REFUSAL_TOLD).collect()
}

/// Why a request got no answer. Without the URL: its query may hold a signature.
pub(crate) fn unanswered(error: reqwest::Error) -> Outcome {
    // Who keeps silent for so long is away; whose connection breaks is there, and may be asked again at once.
    if error.is_connect() || error.is_timeout() {
        return Outcome::Unreachable { why: reason(error) };
    }
    broken(error)
}

/// Why an answer came to no end.
pub(crate) fn broken(error: reqwest::Error) -> Outcome {
    Outcome::Broken { why: reason(error) }
}

/// A transport error in words, without the URL.
pub(crate) fn reason(error: reqwest::Error) -> String {
    with_causes(&error.without_url())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_refusal_tells_the_registrys_own_words_and_little_else() {
        let listed = br#"{"errors":[{"code":"MANIFEST_UNKNOWN","message":"manifest unknown","detail":{"Tag":"x"}}]}"#;
        assert_eq!(detail(listed), "MANIFEST_UNKNOWN: manifest unknown");
        assert_eq!(detail(br#"{"details":"incorrect username or password"}"#), "incorrect username or password");
        assert_eq!(detail(b"<html>no</html>"), "");
        assert_eq!(detail(b"busy\n\x1b[31m"), "busy[31m");
        assert_eq!(detail(&[0xff; 10]), "");
        assert_eq!(detail("x".repeat(1000).as_bytes()).len(), REFUSAL_TOLD);
    }

    #[test]
    fn a_wait_is_told_in_seconds_or_as_a_date() {
        let at = |text| retry_after(text, 784_111_777 - 30).map(|wait| wait.as_secs());
        assert_eq!(at("120"), Some(120));
        assert_eq!(at("Sun, 06 Nov 1994 08:49:37 GMT"), Some(30));
        assert_eq!(at("Sun, 06 Nov 1994 08:40:00 GMT"), Some(0), "it is over");
        for wrong in ["", "-1", "soon", "Sun, 06 Nov 1994", "Sun, 99 Zzz 1994 08:49:37 GMT", "99999999999999999999"] {
            assert_eq!(at(wrong), None, "{wrong}");
        }
    }
}
