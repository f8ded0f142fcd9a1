//! The `[metrics]` settings: where the metrics are told.

use std::{net::SocketAddr, path::PathBuf};

use serde::{Deserialize, Serialize};

/// Prefix of addresses that are paths.
const UNIX: &str = "unix://";
/// Longest path of a unix socket, bytes (`sun_path` less its closing zero, unix(7)).
const SOCKET_PATH_BYTES: usize = 107;

/// Settings of the metrics. By default they are told nowhere.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Config {
    /// `unix:///path`, for root and its group; `127.0.0.1:PORT` or `[::1]:PORT`; `""` for nowhere.
    pub listen: String,
}

/// Where to listen.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Address {
    /// On a unix socket at this path.
    Unix(PathBuf),
    /// On loopback.
    Loopback(SocketAddr),
}

/// A setting that cannot be.
#[derive(Debug, thiserror::Error)]
#[error("metrics.listen: {value:?}: {want}")]
pub struct Error {
    value: String,
    want: &'static str,
}

impl Config {
    /// Refuses what can never work, and whatever others than this node's could reach.
    pub fn check(&self) -> Result<(), Error> {
        self.address().map(drop)
    }

    /// Where to listen, if anywhere.
    pub fn address(&self) -> Result<Option<Address>, Error> {
        let refused = |want| Err(Error { value: self.listen.clone(), want });
        if self.listen.is_empty() {
            return Ok(None);
        }
        if let Some(path) = self.listen.strip_prefix(UNIX) {
            return match path {
                _ if !path.starts_with('/') => refused("want unix:// and an absolute path"),
                _ if path.len() > SOCKET_PATH_BYTES => refused("the path of a unix socket has at most 107 bytes"),
                _ => Ok(Some(Address::Unix(path.into()))),
            };
        }
        match self.listen.parse::<SocketAddr>() {
            Ok(address) if address.ip().is_loopback() && address.port() != 0 => Ok(Some(Address::Loopback(address))),
            Ok(address) if address.ip().is_loopback() => refused("want a port"),
            Ok(_) => refused("not loopback: who asks is not proved, so no other host may; want 127.0.0.1 or [::1]"),
            Err(_) => refused("want unix:///path, 127.0.0.1:PORT, [::1]:PORT or \"\""),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_socket_and_loopback_are_taken_and_every_other_address_is_refused_by_name() {
        let address = |listen: &str| Config { listen: listen.into() }.address();
        assert_eq!(Config::default().address().unwrap(), None);
        assert_eq!(address("unix:///run/x.sock").unwrap(), Some(Address::Unix("/run/x.sock".into())));
        for loopback in ["127.0.0.1:9100", "127.8.7.6:1", "[::1]:9100"] {
            assert_eq!(address(loopback).unwrap(), Some(Address::Loopback(loopback.parse().unwrap())));
        }
        let long = format!("unix:///{}", "x".repeat(SOCKET_PATH_BYTES));
        for wrong in [
            "0.0.0.0:9100",
            "[::]:9100",
            "10.0.0.1:9100",
            "[::ffff:10.0.0.1]:1",
            "127.0.0.1",
            "127.0.0.1:0",
            ":9100",
            "localhost:9100",
            "unix://x",
            "/run/x.sock",
            &long,
        ] {
            let refused = address(wrong).unwrap_err().to_string();
            assert!(refused.starts_with(&format!("metrics.listen: {wrong:?}: ")), "{refused}");
        }
    }
}
