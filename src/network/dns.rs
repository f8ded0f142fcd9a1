//! The resolver configuration that a pod without its own DNS settings gets: the host's, as far as a pod can use it.

use std::{io, net::IpAddr, path::Path};

use crate::{Config, Error, Result};

/// Largest resolver configuration that is believed, in bytes: glibc itself reads no more than a few lines.
const SIZE_MAX: u64 = 64 * 1024;

/// The text for a pod's `/etc/resolv.conf`. A host without the file gives an empty text, which means "no resolver".
///
/// When the host names only resolvers on its own loopback (the stub of systemd-resolved on 127.0.0.53), a pod could
/// reach none of them; then the file with the resolvers behind the stub is used, if there is one.
pub(crate) fn host_dns(config: &Config) -> Result<Vec<u8>> {
    let text = read(&config.resolv_conf)?.unwrap_or_default();
    if names_only_loopback(&text)
        && let Some(behind) = read(&config.resolv_conf_behind_stub)?
    {
        return Ok(behind);
    }
    Ok(text)
}

fn read(path: &Path) -> Result<Option<Vec<u8>>> {
    let fail = |source| Error::Dns { path: path.to_owned(), source };
    match std::fs::metadata(path) {
        Ok(meta) if meta.len() > SIZE_MAX => Err(fail(io::Error::new(
            io::ErrorKind::FileTooLarge,
            format!("{} bytes, more than {SIZE_MAX}", meta.len()),
        ))),
        Ok(_) => std::fs::read(path).map(Some).map_err(fail),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(fail(error)),
    }
}

fn names_only_loopback(text: &[u8]) -> bool {
    let text = String::from_utf8_lossy(text);
    let mut servers = text
        .lines()
        .filter_map(|line| {
            let mut words = line.split_whitespace();
            (words.next() == Some("nameserver")).then(|| words.next().unwrap_or_default())
        })
        .map(|server| server.parse::<IpAddr>().is_ok_and(|ip| ip.is_loopback()))
        .peekable();
    servers.peek().is_some() && servers.all(|loopback| loopback)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn host(etc: Option<&str>, behind: Option<&str>) -> Vec<u8> {
        let dir = tempfile::tempdir().unwrap();
        let config = Config {
            resolv_conf: dir.path().join("resolv.conf"),
            resolv_conf_behind_stub: dir.path().join("behind"),
            ..Config::default()
        };
        for (path, text) in [(&config.resolv_conf, etc), (&config.resolv_conf_behind_stub, behind)] {
            if let Some(text) = text {
                std::fs::write(path, text).unwrap();
            }
        }
        host_dns(&config).unwrap()
    }

    #[test]
    fn a_host_with_real_resolvers_is_copied_byte_for_byte() {
        let text = "# mine\nnameserver 10.0.0.2\nnameserver 127.0.0.1\noptions ndots:2\n";
        assert_eq!(host(Some(text), Some("nameserver 1.1.1.1\n")), text.as_bytes());
    }

    #[test]
    fn behind_the_stub_are_the_resolvers_a_pod_can_reach() {
        assert_eq!(host(Some("nameserver 127.0.0.53\n"), Some("nameserver 1.1.1.1\n")), b"nameserver 1.1.1.1\n");
        assert_eq!(host(Some("nameserver 127.0.0.53\n"), None), b"nameserver 127.0.0.53\n");
    }

    #[test]
    fn a_host_without_the_file_has_no_resolver() {
        assert_eq!(host(None, Some("nameserver 1.1.1.1\n")), b"");
    }
}
