//! Content digests: `sha256:` and 64 hex digits, the only algorithm the store keys by.

use std::{fmt, str::FromStr};

use serde::{Deserialize, Serialize};

/// Why a text is not a digest we accept.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{text:?} is not a digest: want sha256: and 64 lower-case hex digits")]
pub struct InvalidDigest {
    /// The text that was given, at most its first 120 characters.
    pub text: String,
}

/// A SHA-256 of content, in its written form `sha256:<64 hex>`.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Digest(String);

impl Digest {
    /// The prefix that names the algorithm.
    pub const PREFIX: &'static str = "sha256:";

    /// The digest whose 32 bytes these are.
    pub fn from_sha256(bytes: [u8; 32]) -> Self {
        use fmt::Write;
        let mut text = String::with_capacity(71);
        text.push_str(Self::PREFIX);
        for byte in bytes {
            write!(text, "{byte:02x}").expect("writing to a string cannot fail");
        }
        Self(text)
    }

    /// With the algorithm: `sha256:…`.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The 64 hex digits alone: safe as a file name.
    pub fn hex(&self) -> &str {
        &self.0[Self::PREFIX.len()..]
    }
}

impl FromStr for Digest {
    type Err = InvalidDigest;
    fn from_str(text: &str) -> Result<Self, InvalidDigest> {
        let hex = text.strip_prefix(Self::PREFIX).unwrap_or_default();
        if hex.len() == 64 && hex.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f')) {
            Ok(Self(text.to_owned()))
        } else {
            Err(InvalidDigest { text: text.chars().take(120).collect() })
        }
    }
}

impl TryFrom<String> for Digest {
    type Error = InvalidDigest;
    fn try_from(text: String) -> Result<Self, InvalidDigest> {
        text.parse()
    }
}

impl From<Digest> for String {
    fn from(digest: Digest) -> String {
        digest.0
    }
}

impl fmt::Display for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Debug for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_whole_lower_case_sha256_is_accepted() {
        let digest = Digest::from_sha256([7; 32]);
        assert_eq!(digest.as_str().parse::<Digest>(), Ok(digest.clone()));
        assert_eq!(digest.hex().len(), 64);
        for wrong in
            ["", "sha256:", "sha512:00", &digest.as_str().to_uppercase(), &digest.as_str()[..70], "sha256:../x"]
        {
            assert!(wrong.parse::<Digest>().is_err(), "{wrong:?}");
        }
    }
}
