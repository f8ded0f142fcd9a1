//! Resolvers that a host-local configuration names by a file in the form of `resolv.conf(5)`.

use std::{
    fs::File,
    io::{self, Read},
    path::Path,
};

use cni::Dns;

use crate::{Error, Result};

/// Largest file that is believed, in bytes: glibc itself reads no more than a few lines.
const SIZE_MAX: u64 = 64 * 1024;

/// What the file says. It is read for every pod, since whoever wrote it may write it again; a missing one is an error.
pub(super) fn read(path: &Path) -> Result<Dns> {
    let fail = |source| Error::Dns { path: path.to_owned(), source };
    let mut bytes = Vec::new();
    File::open(path).and_then(|file| file.take(SIZE_MAX + 1).read_to_end(&mut bytes)).map_err(fail)?;
    if bytes.len() as u64 > SIZE_MAX {
        let why = format!("more than {SIZE_MAX} bytes");
        return Err(fail(io::Error::new(io::ErrorKind::FileTooLarge, why)));
    }
    Ok(parse(&String::from_utf8_lossy(&bytes)))
}

/// As the reference plugin reads it: the last `domain` counts, and every line of the other kinds.
fn parse(text: &str) -> Dns {
    let mut dns = Dns::default();
    for line in text.lines() {
        let mut words = line.split_whitespace().map(str::to_owned);
        // A comment's first word is none of the four.
        let Some(kind) = words.next() else { continue };
        match kind.as_str() {
            "nameserver" => dns.nameservers.extend(words.next()),
            "domain" => dns.domain = words.next().unwrap_or(dns.domain),
            "search" => dns.search.extend(words),
            "options" => dns.options.extend(words),
            _ => {}
        }
    }
    dns
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_line_counts_but_comments_and_halves() {
        let text = "# nameserver 1.1.1.1\n;options no\n\n nameserver 172.22.0.53 more\nnameserver\ndomain one\n\
                    domain two\n\
                    domain\nsearch a b\nsearch c\noptions ndots:5 edns0\nsortlist x\n";
        let all = |words: &[&str]| words.iter().map(|word| (*word).to_owned()).collect::<Vec<_>>();
        assert_eq!(
            parse(text),
            Dns {
                nameservers: all(&["172.22.0.53"]),
                domain: "two".into(),
                search: all(&["a", "b", "c"]),
                options: all(&["ndots:5", "edns0"]),
            }
        );
    }

    #[test]
    fn a_file_that_is_missing_or_no_such_file_is_named() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("resolv.conf");
        assert!(matches!(read(&path), Err(Error::Dns { path: named, .. }) if named == path));
        std::fs::write(&path, "#".repeat(SIZE_MAX as usize + 1)).unwrap();
        assert!(matches!(read(&path), Err(Error::Dns { .. })));
    }
}
