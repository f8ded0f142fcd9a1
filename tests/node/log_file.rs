//! A container's log as any reader of the CRI format finds it. Panics on what is not the format.

use std::{fs, path::Path};

/// Where an entry came from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Stream {
    Stdout,
    Stderr,
}

/// One entry.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Entry {
    /// As it stands: `2024-05-06T07:08:09.123456789Z`. Such texts sort as their times do.
    pub(crate) time: String,
    pub(crate) stream: Stream,
    /// It ends its line.
    pub(crate) full: bool,
    pub(crate) content: Vec<u8>,
}

/// The entries of a log that exists.
pub(crate) fn read(path: &Path) -> Vec<Entry> {
    entries(&fs::read(path).unwrap_or_else(|error| panic!("read {}: {error}", path.display())))
}

/// The entries of a log's content, which has to end with a whole one.
pub(crate) fn entries(content: &[u8]) -> Vec<Entry> {
    let Some(content) = content.strip_suffix(b"\n") else {
        assert!(content.is_empty(), "the log ends within an entry");
        return Vec::new();
    };
    content.split(|byte| *byte == b'\n').map(entry).collect()
}

/// All that was written to a stream.
pub(crate) fn text(entries: &[Entry], stream: Stream) -> String {
    let mut text = Vec::new();
    for entry in entries.iter().filter(|entry| entry.stream == stream) {
        text.extend_from_slice(&entry.content);
        if entry.full {
            text.push(b'\n');
        }
    }
    String::from_utf8_lossy(&text).into_owned()
}

fn entry(line: &[u8]) -> Entry {
    let mut fields = line.splitn(4, |byte| *byte == b' ');
    let mut field = || fields.next().unwrap_or_else(|| panic!("no log entry: {:?}", String::from_utf8_lossy(line)));
    let (time, stream, tag, content) = (field(), field(), field(), field());
    let time = String::from_utf8(time.to_vec()).expect("a time in ASCII");
    assert!(is_time(&time), "no RFC 3339 time with nanoseconds: {time}");
    let stream = match stream {
        b"stdout" => Stream::Stdout,
        b"stderr" => Stream::Stderr,
        other => panic!("no stream: {}", String::from_utf8_lossy(other)),
    };
    let full = match tag {
        b"F" => true,
        b"P" => false,
        other => panic!("no tag: {}", String::from_utf8_lossy(other)),
    };
    Entry { time, stream, full, content: content.to_vec() }
}

/// `0000-00-00T00:00:00.000000000` and a zone.
fn is_time(text: &str) -> bool {
    let pattern = "0000-00-00T00:00:00.000000000";
    let Some((time, zone)) = text.split_at_checked(pattern.len()) else { return false };
    let alike = |text: &str, pattern: &str| {
        text.len() == pattern.len()
            && text
                .bytes()
                .zip(pattern.bytes())
                .all(|(have, want)| if want == b'0' { have.is_ascii_digit() } else { have == want })
    };
    alike(time, pattern) && (zone == "Z" || alike(zone, "+00:00") || alike(zone, "-00:00"))
}
