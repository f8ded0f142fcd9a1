//! The form of a record: one header line, then the value as JSON.
//!
//! ```text
//! coracle <kind> <version> <length of the value, bytes> <CRC-32 of kind, version and value, 8 hex digits>\n
//! { … }
//! ```
//!
//! The header is text so that a person with `head -1` knows what lies there. Order of the checks: whole before kind,
//! kind before version, version before content; a newer version is never interpreted.

use serde::{Serialize, de::DeserializeOwned};

use crate::{Damage, Error, Result};

/// The largest record, bytes: a container's plan with a thousand mounts has a tenth of it, and a file that grew without
/// end must not fill memory at start.
pub const LARGEST: usize = 16 << 20;

/// First word of every record.
const MAGIC: &str = "coracle";

/// The longest header: the kind is at most 64 bytes, the numbers are bounded.
const LONGEST_HEADER: usize = 160;

/// The written form of a value. `kind` is one word; `version` counts from 1.
pub fn encode<T: Serialize>(kind: &str, version: u32, value: &T) -> Result<Vec<u8>> {
    let refuse = |why: String| Error::Encode { kind: kind.to_owned(), why };
    if kind.is_empty() || kind.len() > 64 || !kind.bytes().all(|b| b.is_ascii_lowercase() || b == b'-') {
        return Err(refuse("a kind is one lower-case word".to_owned()));
    }
    let body = serde_json::to_vec(value).map_err(|error| refuse(error.to_string()))?;
    if body.len() > LARGEST - LONGEST_HEADER {
        return Err(refuse(format!("it has {} bytes, the largest record {LARGEST}", body.len())));
    }
    let sum = checksum(kind, version, &body);
    let mut bytes = format!("{MAGIC} {kind} {version} {} {sum:08x}\n", body.len()).into_bytes();
    bytes.extend_from_slice(&body);
    Ok(bytes)
}

/// The value in these bytes, if they are a whole record of this kind and of a version up to `newest`. Older versions
/// are read by the type's own serde defaults.
pub fn decode<T: DeserializeOwned>(kind: &str, newest: u32, bytes: &[u8]) -> Result<T> {
    parse(kind, newest, bytes).map_err(|source| Error::Damaged { kind: kind.to_owned(), source })
}

fn parse<T: DeserializeOwned>(kind: &str, newest: u32, bytes: &[u8]) -> Result<T, Damage> {
    if bytes.is_empty() {
        return Err(Damage::Empty);
    }
    if bytes.len() > LARGEST {
        return Err(Damage::TooLarge);
    }
    let end = bytes.iter().take(LONGEST_HEADER).position(|b| *b == b'\n').ok_or(Damage::NoHeader)?;
    let (found_kind, version, length, told) = header(&bytes[..end]).ok_or(Damage::NoHeader)?;
    let body = &bytes[end + 1..];
    if body.len() as u64 != length {
        return Err(Damage::Torn { told: length, found: body.len() as u64 });
    }
    let found = checksum(found_kind, version, body);
    if found != told {
        return Err(Damage::Checksum { told, found });
    }
    if found_kind != kind {
        return Err(Damage::WrongKind { found: found_kind.to_owned() });
    }
    if version > newest {
        return Err(Damage::Newer { found: version, newest });
    }
    serde_json::from_slice(body).map_err(|error| Damage::Form { why: error.to_string() })
}

fn header(line: &[u8]) -> Option<(&str, u32, u64, u32)> {
    let mut words = std::str::from_utf8(line).ok()?.split(' ');
    if words.next()? != MAGIC {
        return None;
    }
    let kind = words.next().filter(|kind| !kind.is_empty())?;
    let version = words.next()?.parse().ok()?;
    let length = words.next()?.parse().ok()?;
    let sum = words.next().filter(|sum| sum.len() == 8)?;
    let sum = u32::from_str_radix(sum, 16).ok()?;
    words.next().is_none().then_some((kind, version, length, sum))
}

fn checksum(kind: &str, version: u32, body: &[u8]) -> u32 {
    let mut hasher = crc32fast::Hasher::new();
    hasher.update(kind.as_bytes());
    hasher.update(&version.to_be_bytes());
    hasher.update(body);
    hasher.finalize()
}
