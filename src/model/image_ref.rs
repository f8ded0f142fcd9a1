//! Names of images, normalised as every registry client does it (the rules of distribution/reference).
//!
//! `busybox` is `docker.io/library/busybox:latest`; a digest wins over a tag beside it, which is dropped.

use std::{fmt, str::FromStr};

use serde::{Deserialize, Serialize};

use crate::Digest;

/// The registry meant when a name has no host.
const DEFAULT_DOMAIN: &str = "docker.io";
/// An old spelling of the same registry.
const LEGACY_DOMAIN: &str = "index.docker.io";
/// Where the default registry keeps names of one part.
const OFFICIAL_PREFIX: &str = "library/";
/// The tag meant when a name has neither tag nor digest.
const DEFAULT_TAG: &str = "latest";
/// Longest path, bytes (distribution/reference).
const MAX_PATH: usize = 255;
/// Longest tag, bytes (distribution/reference).
const MAX_TAG: usize = 128;
/// Longest text that is looked at, bytes: host, path, tag and digest at their longest, with room.
const MAX_TEXT: usize = 1024;

/// Why a text is not the name of an image.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{text:?} is not an image reference: {why}")]
pub struct InvalidImageRef {
    /// The text that was given, at most its first 120 characters.
    pub text: String,
    /// What is wrong with it.
    pub why: &'static str,
}

/// What a reference points with.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
enum Pointer {
    Tag(String),
    Digest(Digest),
}

/// A whole image name: host, path, and a tag or a digest, never both.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct ImageRef {
    domain: String,
    path: String,
    pointer: Pointer,
}

impl ImageRef {
    /// Host, and port if any: `docker.io`, `localhost:5000`. Not always the host that is asked: that is configured.
    pub fn domain(&self) -> &str {
        &self.domain
    }

    /// The repository on that host: `library/busybox`.
    pub fn path(&self) -> &str {
        &self.path
    }

    /// Host and repository without tag or digest.
    pub fn name(&self) -> String {
        format!("{}/{}", self.domain, self.path)
    }

    /// The tag, if it points with one.
    pub fn tag(&self) -> Option<&str> {
        match &self.pointer {
            Pointer::Tag(tag) => Some(tag),
            Pointer::Digest(_) => None,
        }
    }

    /// The digest, if it points with one.
    pub fn digest(&self) -> Option<&Digest> {
        match &self.pointer {
            Pointer::Tag(_) => None,
            Pointer::Digest(digest) => Some(digest),
        }
    }

    /// The same repository, pointed into by digest.
    pub fn with_digest(&self, digest: Digest) -> ImageRef {
        ImageRef { domain: self.domain.clone(), path: self.path.clone(), pointer: Pointer::Digest(digest) }
    }
}

impl FromStr for ImageRef {
    type Err = InvalidImageRef;

    fn from_str(text: &str) -> Result<Self, InvalidImageRef> {
        read(text).map_err(|why| InvalidImageRef { text: text.chars().take(120).collect(), why })
    }
}

impl fmt::Display for ImageRef {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.pointer {
            Pointer::Tag(tag) => write!(f, "{}/{}:{tag}", self.domain, self.path),
            Pointer::Digest(digest) => write!(f, "{}/{}@{digest}", self.domain, self.path),
        }
    }
}

impl TryFrom<String> for ImageRef {
    type Error = InvalidImageRef;
    fn try_from(text: String) -> Result<Self, InvalidImageRef> {
        text.parse()
    }
}

impl From<ImageRef> for String {
    fn from(reference: ImageRef) -> String {
        reference.to_string()
    }
}

fn read(text: &str) -> Result<ImageRef, &'static str> {
    if text.is_empty() {
        return Err("it is empty");
    }
    if text.len() > MAX_TEXT {
        return Err("it is longer than 1024 bytes");
    }
    // With the name of the algorithm it would be a name by the grammar: a tag in a repository `sha256`.
    let hex = text.strip_prefix(Digest::PREFIX).unwrap_or(text);
    if hex.len() == 64 && hex.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f')) {
        return Err("64 hex digits are an image id, not a name");
    }
    let (domain, rest) = split_domain(text);
    let (rest, digest) = match rest.split_once('@') {
        Some((rest, digest)) => (rest, Some(read_digest(digest)?)),
        None => (rest, None),
    };
    let (path, tag) = match rest.split_once(':') {
        Some((path, tag)) => (path, Some(tag)),
        None => (rest, None),
    };
    if !is_domain(domain) {
        return Err("the host before the first slash is not one");
    }
    let path = match domain {
        DEFAULT_DOMAIN if !path.contains('/') => format!("{OFFICIAL_PREFIX}{path}"),
        _ => path.to_owned(),
    };
    if path.len() > MAX_PATH {
        return Err("the repository name is longer than 255 bytes");
    }
    if path.bytes().any(|b| b.is_ascii_uppercase()) {
        return Err("the repository name must be lower case");
    }
    if !path.split('/').all(is_path_component) {
        return Err("the repository name may have only a-z, 0-9, and single separators . _ __ - between them");
    }
    if tag.is_some_and(|tag| !is_tag(tag)) {
        return Err("the tag may have only letters, digits, _ . -, starts with none of . -, and has at most 128");
    }
    let pointer = match digest {
        Some(digest) => Pointer::Digest(digest),
        None => Pointer::Tag(tag.unwrap_or(DEFAULT_TAG).to_owned()),
    };
    Ok(ImageRef { domain: domain.to_owned(), path, pointer })
}

/// The first part is a host only if it looks like one: with a dot, a colon or a capital, or `localhost`.
fn split_domain(text: &str) -> (&str, &str) {
    match text.split_once('/') {
        Some((LEGACY_DOMAIN, rest)) => (DEFAULT_DOMAIN, rest),
        Some((first, rest))
            if first.contains(['.', ':']) || first == "localhost" || first.chars().any(|c| c.is_ascii_uppercase()) =>
        {
            (first, rest)
        }
        _ => (DEFAULT_DOMAIN, text),
    }
}

fn read_digest(text: &str) -> Result<Digest, &'static str> {
    if text.starts_with("sha512:") || text.starts_with("sha384:") {
        return Err("only sha256 digests are supported");
    }
    text.parse().map_err(|_| "the digest after @ must be sha256: and 64 lower-case hex digits")
}

fn is_domain(text: &str) -> bool {
    let (host, port) = match text.strip_prefix('[') {
        Some(rest) => match rest.split_once(']') {
            Some((address, port)) => {
                let hex = !address.is_empty() && address.bytes().all(|b| b.is_ascii_hexdigit() || b == b':');
                return hex && (port.is_empty() || port.strip_prefix(':').is_some_and(is_port));
            }
            None => return false,
        },
        None => match text.split_once(':') {
            Some((host, port)) => (host, Some(port)),
            None => (text, None),
        },
    };
    let label = |label: &str| {
        !label.is_empty()
            && label.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-')
            && !label.starts_with('-')
            && !label.ends_with('-')
    };
    host.split('.').all(label) && port.is_none_or(is_port)
}

fn is_port(text: &str) -> bool {
    !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit())
}

/// `[a-z0-9]+` parts with one of `.`, `_`, `__` or any number of `-` between two.
fn is_path_component(text: &str) -> bool {
    let word = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit();
    let bytes = text.as_bytes();
    let (Some(&first), Some(&last)) = (bytes.first(), bytes.last()) else { return false };
    if !word(first) || !word(last) {
        return false;
    }
    text.split(|c: char| word(u8::try_from(c).unwrap_or(0)))
        .all(|separator| matches!(separator, "" | "." | "_" | "__") || separator.bytes().all(|b| b == b'-'))
}

fn is_tag(text: &str) -> bool {
    text.len() <= MAX_TAG
        && text.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'_' | b'.' | b'-'))
        && text.bytes().next().is_some_and(|b| b.is_ascii_alphanumeric() || b == b'_')
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn short_names_become_whole() {
        let digest = format!("sha256:{}", "a".repeat(64));
        for (text, whole) in [
            ("busybox", "docker.io/library/busybox:latest"),
            ("busybox:1.36", "docker.io/library/busybox:1.36"),
            ("index.docker.io/busybox", "docker.io/library/busybox:latest"),
            ("docker.io/a/b", "docker.io/a/b:latest"),
            ("a/b:c", "docker.io/a/b:c"),
            ("localhost/x", "localhost/x:latest"),
            ("localhost:5000", "docker.io/library/localhost:5000"),
            ("localhost:5000/x", "localhost:5000/x:latest"),
            ("[::1]:5000/x/y:z", "[::1]:5000/x/y:z"),
            ("Host/x", "Host/x:latest"),
            ("quay.io/a__b/c.d/e---f", "quay.io/a__b/c.d/e---f:latest"),
            (&format!("x:tag@{digest}"), &format!("docker.io/library/x@{digest}")),
            (&format!("r.io/x@{digest}"), &format!("r.io/x@{digest}")),
        ] {
            assert_eq!(text.parse::<ImageRef>().map(|r| r.to_string()), Ok(whole.to_owned()), "{text}");
        }
    }

    #[test]
    fn what_is_no_name_is_refused() {
        let long = "a".repeat(256);
        for text in [
            "",
            " ",
            "UPPER",
            "a//b",
            "/a",
            "a/",
            "a:",
            "a:-x",
            ":a",
            "a@",
            "a@sha256:ab",
            "a.-b/c d",
            "a___b",
            "a..b",
            "-a",
            "a-",
            "r.io/../etc",
            "r.io/a/../b",
            "http://r.io/a",
            "r.io:x/a",
            "r-.io/a",
            "[::1/a",
            "[]/a",
            "ä",
            "a\0b",
            &long,
            &"ab".repeat(32),
            &format!("sha256:{}", "ab".repeat(32)),
            &format!("a:{}", "t".repeat(129)),
            &format!("a@sha512:{}", "a".repeat(128)),
            &"x/".repeat(600),
        ] {
            assert!(text.parse::<ImageRef>().is_err(), "{text:?}");
        }
    }

    proptest! {
        #[test]
        fn no_text_panics_and_what_is_accepted_is_stable(text in "\\PC{0,80}|[a-zA-Z0-9./:@_-]{0,80}") {
            if let Ok(reference) = text.parse::<ImageRef>() {
                let again: ImageRef = reference.to_string().parse().unwrap();
                prop_assert_eq!(again, reference);
            }
        }

        #[test]
        fn well_formed_names_are_accepted(
            host in "([a-z0-9]{1,8}\\.){1,3}[a-z]{2,5}(:[0-9]{1,5})?",
            path in "[a-z0-9]{1,8}((\\.|_|__|-{1,3})[a-z0-9]{1,5}){0,2}(/[a-z0-9]{1,9}){0,3}",
            tag in "[A-Za-z0-9_][A-Za-z0-9_.-]{0,20}",
        ) {
            let reference: ImageRef = format!("{host}/{path}:{tag}").parse().unwrap();
            prop_assert_eq!(reference.tag(), Some(tag.as_str()));
            if host != "index.docker.io" && host != "docker.io" {
                prop_assert_eq!(reference.name(), format!("{}/{}", host, path));
            }
        }
    }
}
