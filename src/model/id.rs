//! Identities of pods and containers: 64 lower-case hex digits, as every CRI client expects.

use std::{fmt, str::FromStr};

use serde::{Deserialize, Serialize};

/// Number of hex digits in an id.
const LENGTH: usize = 64;

/// Why a text is not an id.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{text:?} is not an id: want 64 lower-case hex digits")]
pub struct InvalidId {
    /// The text that was given, at most its first 80 characters.
    pub text: String,
}

fn checked(text: &str) -> Result<String, InvalidId> {
    if text.len() == LENGTH && text.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f')) {
        Ok(text.to_owned())
    } else {
        Err(InvalidId { text: text.chars().take(80).collect() })
    }
}

macro_rules! id {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
        #[serde(try_from = "String", into = "String")]
        pub struct $name(String);

        impl $name {
            /// The id made of 32 random bytes. Where they come from is the caller's business (this room does no I/O).
            pub fn from_random(bytes: [u8; 32]) -> Self {
                use fmt::Write;
                let mut text = String::with_capacity(LENGTH);
                for byte in bytes {
                    write!(text, "{byte:02x}").expect("writing to a string cannot fail");
                }
                Self(text)
            }

            /// All 64 digits.
            pub fn as_str(&self) -> &str {
                &self.0
            }

            /// The first 12 digits: enough for people, host names and interface names, not for identity.
            pub fn short(&self) -> &str {
                &self.0[..12]
            }
        }

        impl FromStr for $name {
            type Err = InvalidId;
            fn from_str(text: &str) -> Result<Self, InvalidId> {
                checked(text).map(Self)
            }
        }

        impl TryFrom<String> for $name {
            type Error = InvalidId;
            fn try_from(text: String) -> Result<Self, InvalidId> {
                checked(&text).map(Self)
            }
        }

        impl From<$name> for String {
            fn from(id: $name) -> String {
                id.0
            }
        }

        impl AsRef<str> for $name {
            fn as_ref(&self) -> &str {
                &self.0
            }
        }

        // Equality, order and hash of an id are those of its text, so look-ups by text (and by prefix) are sound.
        impl std::borrow::Borrow<str> for $name {
            fn borrow(&self) -> &str {
                &self.0
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(self.short())
            }
        }
    };
}

id! {
    /// Identity of a pod sandbox.
    PodId
}
id! {
    /// Identity of a container: one writable layer and its runs.
    ContainerId
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_id_is_sixty_four_lower_case_hex_digits() {
        let id = PodId::from_random([0xab; 32]);
        assert_eq!(id.as_str().parse::<PodId>(), Ok(id.clone()));
        for wrong in ["", "ab", &"AB".repeat(32), &"g".repeat(64), &"a".repeat(65), "../../../../etc/passwd"] {
            assert!(wrong.parse::<PodId>().is_err(), "{wrong:?}");
        }
    }
}
