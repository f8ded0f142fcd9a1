//! Reads a tar as a stream, with bounds on everything that an archive could make grow.
//!
//! Understands what builders write: old V7, ustar, GNU long names and base-256 numbers, PAX paths, sizes, owners, times
//! and extended attributes, and sparse files in every form. Types that no layer has are refused by name. Of the `tar`
//! crate only the layout of the headers is used: its own reader takes names of any length into memory and cuts binary
//! attributes at a line's end.

use std::io::{self, BufRead};

use tar::{GnuExtSparseHeader, Header};

use crate::Fault;

mod sparse;

use sparse::{List, Part, Pieces};

/// Headers and contents come in blocks of this many bytes.
const BLOCK: u64 = 512;
/// The largest set of PAX records of one entry, bytes. Attributes are limited to 64 KiB each by the kernel.
const LARGEST_PAX: u64 = 1 << 20;
/// The longest GNU name, bytes. The kernel takes 4096.
const LONGEST_NAME: u64 = 16 << 10;

/// What an entry is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    File,
    Directory,
    Symlink,
    HardLink,
    Character { major: u64, minor: u64 },
    Block { major: u64, minor: u64 },
    Fifo,
}

/// One entry; a file's content follows in the stream.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Entry {
    /// As it is in the archive: not cleaned, not checked.
    pub(crate) path: Vec<u8>,
    /// Where a link points; as it is in the archive.
    pub(crate) target: Vec<u8>,
    pub(crate) kind: Kind,
    /// Permission bits with setuid, setgid and sticky.
    pub(crate) mode: u32,
    pub(crate) uid: u32,
    pub(crate) gid: u32,
    /// Seconds since 1970, and nanoseconds.
    pub(crate) modified: (i64, u32),
    /// Bytes of a file, with its holes.
    pub(crate) size: u64,
    /// Names and values.
    pub(crate) xattrs: Vec<(Vec<u8>, Vec<u8>)>,
}

/// An archive being read.
#[derive(Debug)]
pub(crate) struct TarStream<R> {
    reader: R,
    /// Bytes of the current entry that were not read yet, without and with what fills its last block.
    content: u64,
    padding: u64,
    /// Where in the file the unread content belongs.
    pieces: Pieces,
    headers: u64,
    most_headers: u64,
    ended: bool,
    /// The path of the last entry, for faults.
    last: Vec<u8>,
}

/// What earlier headers say about the next entry.
#[derive(Debug, Default)]
struct Said {
    /// GNU's long names, which win over records.
    path: Option<Vec<u8>>,
    target: Option<Vec<u8>>,
    records: Records,
}

/// The last set of PAX records before an entry: only it counts.
#[derive(Debug, Default)]
struct Records {
    path: Option<Vec<u8>>,
    target: Option<Vec<u8>>,
    size: Option<u64>,
    uid: Option<u32>,
    gid: Option<u32>,
    modified: Option<(i64, u32)>,
    xattrs: Vec<(Vec<u8>, Vec<u8>)>,
    sparse: sparse::Said,
}

impl<R: BufRead> TarStream<R> {
    /// Begins an archive that may have `most_headers` entries, counting those that only describe others.
    pub(crate) fn new(reader: R, most_headers: u64) -> Self {
        let last = Vec::new();
        Self { reader, content: 0, padding: 0, pieces: Pieces::default(), headers: 0, most_headers, ended: false, last }
    }

    /// The next entry; what is left of the one before is skipped. `None` at the archive's end.
    pub(crate) fn next(&mut self) -> Result<Option<Entry>, Fault> {
        let entry = self.next_entry().map_err(|fault| self.placed("after", fault))?;
        if let Some(entry) = &entry {
            self.last.clone_from(&entry.path);
        }
        Ok(entry)
    }

    /// A fault and where it was.
    fn placed(&self, relation: &str, fault: Fault) -> Fault {
        if self.last.is_empty() { fault } else { fault.at(relation, &self.last) }
    }

    fn next_entry(&mut self) -> Result<Option<Entry>, Fault> {
        let mut said = Said::default();
        loop {
            self.skip(self.content + self.padding)?;
            (self.content, self.padding, self.pieces) = (0, 0, Pieces::default());
            let Some(header) = self.header()? else { return Ok(None) };
            self.headers += 1;
            if self.headers > self.most_headers {
                return Err(Fault::budget("entries", self.most_headers));
            }
            let old = header.as_old();
            let size = number(&old.size).ok_or(Fault::archive("a size is not a number"))?;
            match old.linkflag[0] {
                b'x' => {
                    let records = self.document(size, LARGEST_PAX, "PAX records larger than 1 MiB")?;
                    // Nothing may add up over headers that describe headers.
                    said.records = Records::read(&records)?;
                }
                b'g' => {
                    self.document(size, LARGEST_PAX, "PAX records larger than 1 MiB")?;
                }
                b'L' => said.path = Some(self.name(size)?),
                b'K' => said.target = Some(self.name(size)?),
                _ => return self.entry(&header, size, said).map(Some),
            }
        }
    }

    /// The next bytes of the current entry's content, some of them, and where in the file they belong. `None` at its
    /// end; what is left out up to [`Entry::size`] is a hole. The same again, until some are [taken](Self::take).
    pub(crate) fn content(&mut self) -> Result<Option<(u64, &[u8])>, Fault> {
        let Some((at, length)) = self.pieces.next() else { return Ok(None) };
        // Asked for twice: what is borrowed in a loop stays borrowed after it.
        let filled = retry(|| self.reader.fill_buf().map(<[u8]>::len)).map_err(stream_fault);
        if filled.map_err(|fault| self.placed("in", fault))? == 0 {
            return Err(self.placed("in", Fault::archive("it ends within an entry")));
        }
        let bytes = self.reader.fill_buf().map_err(stream_fault)?;
        let some = usize::try_from(length).unwrap_or(usize::MAX).min(bytes.len());
        Ok(Some((at, &bytes[..some])))
    }

    /// So many bytes of what was [handed out](Self::content) are done with.
    pub(crate) fn take(&mut self, bytes: usize) {
        self.reader.consume(bytes);
        self.content -= bytes as u64;
        self.pieces.advance(bytes as u64);
    }

    /// Reads to the end of the stream, beyond the archive's own.
    pub(crate) fn drain(&mut self) -> Result<(), Fault> {
        let mut buffer = [0; 8192];
        loop {
            let read = retry(|| self.reader.read(&mut buffer)).map_err(stream_fault);
            if read.map_err(|fault| self.placed("after", fault))? == 0 {
                return Ok(());
            }
        }
    }

    fn entry(&mut self, header: &Header, size: u64, said: Said) -> Result<Entry, Fault> {
        let old = header.as_old();
        let Said { path, target, records } = said;
        let mut path = path.or(records.path).unwrap_or_else(|| path_of(header));
        let named = |why| Fault::entry(&path, why);
        let device = || {
            let ustar = header.as_ustar();
            let part = |field: Option<&[u8; 8]>| {
                let part = field.and_then(|field| number(field)).filter(|part| u32::try_from(*part).is_ok());
                part.ok_or_else(|| named("its device number is not one"))
            };
            let gnu = header.as_gnu();
            let major = part(ustar.map(|h| &h.dev_major).or(gnu.map(|h| &h.dev_major)))?;
            let minor = part(ustar.map(|h| &h.dev_minor).or(gnu.map(|h| &h.dev_minor)))?;
            Ok::<_, Fault>((major, minor))
        };
        let kind = match old.linkflag[0] {
            // Before ustar, a slash at the end made a directory.
            0 if path.ends_with(b"/") => Kind::Directory,
            0 | b'0' | b'7' | b'S' => Kind::File,
            b'1' => Kind::HardLink,
            b'2' => Kind::Symlink,
            b'3' => device().map(|(major, minor)| Kind::Character { major, minor })?,
            b'4' => device().map(|(major, minor)| Kind::Block { major, minor })?,
            b'5' => Kind::Directory,
            b'6' => Kind::Fifo,
            _ => return Err(named("it is of a type that layers do not have")),
        };
        let id = |field: &[u8; 8], said: Option<u32>, why| match said {
            Some(id) => Ok(id),
            None => number(field).and_then(|id| u32::try_from(id).ok()).ok_or_else(|| named(why)),
        };
        let (uid, gid) = (
            id(&old.uid, records.uid, "its owner is not a user id")?,
            id(&old.gid, records.gid, "its group is not a group id")?,
        );
        // Those above the permissions tell the type once more.
        let mode = number(&old.mode).and_then(|mode| u32::try_from(mode & 0o7777).ok());
        let mode = mode.ok_or_else(|| named("its mode is not a number"))?;
        let modified = records.modified.or_else(|| read_number(&old.mtime).map(|seconds| (seconds, 0)));
        let modified = modified.ok_or_else(|| named("its time is not a number"))?;
        // Only a file has content. What other entries say about a size describes what they stand for.
        let mut size = if matches!(old.linkflag[0], 0 | b'0' | b'7' | b'S') { records.size.unwrap_or(size) } else { 0 };
        let padded = size.checked_next_multiple_of(BLOCK).ok_or_else(|| named("its size is absurd"))?;
        (self.content, self.padding) = (size, padded - size);
        if kind == Kind::File {
            // What is wrong with a list of pieces is wrong with this entry.
            self.last.clone_from(&path);
            let begun = self.begin_content(header, records.sparse);
            let (name, real_size) = begun.map_err(|fault| self.placed("in", fault))?;
            (path, size) = (name.unwrap_or(path), real_size);
        }
        Ok(Entry {
            target: target.or(records.target).unwrap_or_else(|| until_nul(&old.linkname).to_vec()),
            kind,
            mode,
            uid,
            gid,
            modified,
            size,
            xattrs: records.xattrs,
            path,
        })
    }

    /// Finds out which bytes of a file the content holds: its name, where the sparse list tells another, and its size.
    fn begin_content(&mut self, header: &Header, said: sparse::Said) -> Result<(Option<Vec<u8>>, u64), Fault> {
        let wrong = Fault::archive;
        if header.as_old().linkflag[0] == b'S' {
            let gnu = header.as_gnu().ok_or(wrong("a sparse file's header is not GNU's"))?;
            let size = number(&gnu.realsize).ok_or(wrong("the size of a sparse file is not a number"))?;
            let Part { pieces: mut list, mut goes_on } = Part::of_header(gnu).map_err(wrong)?;
            let mut blocks = 0;
            while goes_on {
                blocks += 1;
                if blocks > sparse::LARGEST_LIST / BLOCK {
                    return Err(wrong("the list of a sparse file is longer than 1 MiB"));
                }
                let mut block = GnuExtSparseHeader::new();
                if self.fill(block.as_mut_bytes())? < block.as_bytes().len() {
                    return Err(wrong("it ends within an entry"));
                }
                let part = Part::of_block(&block).map_err(wrong)?;
                list.extend(part.pieces);
                goes_on = part.goes_on;
            }
            self.pieces = Pieces::checked(&list, size, self.content).map_err(wrong)?;
            return Ok((None, size));
        }
        if !said.is_sparse() {
            self.pieces = Pieces::whole(self.content);
            return Ok((None, self.content));
        }
        let (name, size, list) = said.settle().map_err(wrong)?;
        let list = match list {
            List::Known(list) => list,
            List::InContent => sparse::read_list(|| self.block_of_content())?,
        };
        self.pieces = Pieces::checked(&list, size, self.content).map_err(wrong)?;
        Ok((name, size))
    }

    fn block_of_content(&mut self) -> Result<[u8; 512], Fault> {
        let mut block = [0; 512];
        self.content = self.content.checked_sub(BLOCK).ok_or(Fault::archive("it ends within a sparse list"))?;
        if (self.fill(&mut block)? as u64) < BLOCK {
            return Err(Fault::archive("it ends within an entry"));
        }
        Ok(block)
    }

    /// The next header; `None` at two empty blocks, or where the stream ends between entries.
    fn header(&mut self) -> Result<Option<Header>, Fault> {
        if self.ended {
            return Ok(None);
        }
        let mut empty = 0;
        loop {
            let mut header = Header::new_old();
            match self.fill(header.as_mut_bytes())? {
                0 => break,
                n if (n as u64) < BLOCK => return Err(Fault::archive("it ends within a header")),
                _ => {}
            }
            if header.as_bytes().iter().all(|b| *b == 0) {
                empty += 1;
                if empty == 2 {
                    break;
                }
                continue;
            }
            if empty > 0 {
                return Err(Fault::archive("an empty block lies between its entries"));
            }
            check_sum(&header)?;
            return Ok(Some(header));
        }
        self.ended = true;
        Ok(None)
    }

    fn name(&mut self, size: u64) -> Result<Vec<u8>, Fault> {
        let bytes = self.document(size, LONGEST_NAME, "a name is longer than 16 KiB")?;
        Ok(until_nul(&bytes).to_vec())
    }

    /// The content of an entry that describes another.
    fn document(&mut self, size: u64, limit: u64, why: &'static str) -> Result<Vec<u8>, Fault> {
        if size > limit {
            return Err(Fault::archive(why));
        }
        let mut bytes = vec![0; usize::try_from(size).unwrap_or(0)];
        if self.fill(&mut bytes)? < bytes.len() {
            return Err(Fault::archive("it ends within an entry"));
        }
        self.skip(size.next_multiple_of(BLOCK) - size)?;
        Ok(bytes)
    }

    fn skip(&mut self, mut bytes: u64) -> Result<(), Fault> {
        let mut buffer = [0; 8192];
        while bytes > 0 {
            let wanted = usize::try_from(bytes).unwrap_or(usize::MAX).min(buffer.len());
            match retry(|| self.reader.read(&mut buffer[..wanted])).map_err(stream_fault)? {
                0 => return Err(Fault::archive("it ends within an entry")),
                n => bytes -= n as u64,
            }
        }
        Ok(())
    }

    /// Fills the buffer as far as the stream goes.
    fn fill(&mut self, buffer: &mut [u8]) -> Result<usize, Fault> {
        let mut filled = 0;
        while filled < buffer.len() {
            match retry(|| self.reader.read(&mut buffer[filled..])).map_err(stream_fault)? {
                0 => break,
                n => filled += n,
            }
        }
        Ok(filled)
    }
}

impl Records {
    /// `<length> <key>=<value>\n`, the length counting all of it.
    fn read(mut records: &[u8]) -> Result<Self, Fault> {
        let mut said = Self::default();
        let torn = || Fault::archive("a PAX record is torn");
        while !records.is_empty() {
            let space = records.iter().take(8).position(|b| *b == b' ').ok_or_else(torn)?;
            let length: usize =
                std::str::from_utf8(&records[..space]).ok().and_then(|text| text.parse().ok()).ok_or_else(torn)?;
            let record = records.get(space + 1..length).ok_or_else(torn)?;
            let record = record.strip_suffix(b"\n").ok_or_else(torn)?;
            let equals = record.iter().position(|b| *b == b'=').ok_or_else(torn)?;
            said.take(&record[..equals], &record[equals + 1..])?;
            records = &records[length..];
        }
        Ok(said)
    }

    fn take(&mut self, key: &[u8], value: &[u8]) -> Result<(), Fault> {
        let text = || std::str::from_utf8(value).ok();
        let wrong = |why| move || Fault::archive(why);
        match key {
            // An empty value takes back what the record would say.
            b"path" => self.path = (!value.is_empty()).then(|| value.to_vec()),
            b"linkpath" => self.target = (!value.is_empty()).then(|| value.to_vec()),
            _ if value.is_empty() && !key.starts_with(b"SCHILY.xattr.") => {}
            b"size" => {
                let size = text().and_then(|text| text.parse().ok());
                self.size = Some(size.ok_or_else(wrong("a PAX size is not a number"))?);
            }
            b"uid" => {
                let uid = text().and_then(|text| text.parse().ok());
                self.uid = Some(uid.ok_or_else(wrong("a PAX uid is not a user id"))?);
            }
            b"gid" => {
                let gid = text().and_then(|text| text.parse().ok());
                self.gid = Some(gid.ok_or_else(wrong("a PAX gid is not a group id"))?);
            }
            b"mtime" => {
                let time = text().and_then(pax_time);
                self.modified = Some(time.ok_or_else(wrong("a PAX mtime is not a time"))?);
            }
            _ => {
                if let Some(name) = key.strip_prefix(b"SCHILY.xattr.") {
                    self.xattrs.push((name.to_vec(), value.to_vec()));
                } else if let Some(key) = key.strip_prefix(b"GNU.sparse.") {
                    self.sparse.take(key, value).map_err(Fault::archive)?;
                }
            }
        }
        Ok(())
    }
}

/// `-1.5` is half a second before -1: the nanoseconds count upwards from the second below.
fn pax_time(text: &str) -> Option<(i64, u32)> {
    let (seconds, fraction) = text.split_once('.').unwrap_or((text, ""));
    let whole: i64 = seconds.parse().ok()?;
    if !fraction.bytes().all(|b| b.is_ascii_digit()) {
        return None;
    }
    let nanoseconds: u32 = format!("{fraction:0<9.9}").parse().ok()?;
    match (seconds.starts_with('-'), nanoseconds) {
        (true, 1..) => Some((whole.checked_sub(1)?, 1_000_000_000 - nanoseconds)),
        _ => Some((whole, nanoseconds)),
    }
}

fn path_of(header: &Header) -> Vec<u8> {
    let name = until_nul(&header.as_old().name);
    match header.as_ustar().map(|ustar| until_nul(&ustar.prefix)) {
        Some(prefix) if !prefix.is_empty() => [prefix, b"/", name].concat(),
        _ => name.to_vec(),
    }
}

fn until_nul(bytes: &[u8]) -> &[u8] {
    bytes.split(|b| *b == 0).next().unwrap_or_default()
}

/// A numeric field: octal text, or base 256 where the first bit is set. An empty one is 0.
fn number(field: &[u8]) -> Option<u64> {
    u64::try_from(read_number(field)?).ok()
}

fn read_number(field: &[u8]) -> Option<i64> {
    let (first, rest) = field.split_first()?;
    if first & 0x80 != 0 {
        let negative = first & 0x40 != 0;
        let mut value = i128::from(first & 0x3f) - if negative { 0x40 } else { 0 };
        for byte in rest {
            value = value.checked_mul(256)?.checked_add(i128::from(*byte))?;
        }
        return i64::try_from(value).ok();
    }
    let text = std::str::from_utf8(until_nul(field)).ok()?.trim();
    if text.is_empty() { Some(0) } else { i64::from_str_radix(text, 8).ok().filter(|value| *value >= 0) }
}

/// Some old programs summed the bytes as signed.
fn check_sum(header: &Header) -> Result<(), Fault> {
    let told = number(&header.as_old().cksum);
    let place = 148..156;
    let (mut sum, mut signed_sum) = (0_i64, 0_i64);
    for (at, byte) in header.as_bytes().iter().enumerate() {
        let byte = if place.contains(&at) { b' ' } else { *byte };
        sum += i64::from(byte);
        signed_sum += i64::from(byte.cast_signed());
    }
    let told = told.and_then(|told| i64::try_from(told).ok());
    if told == Some(sum) || told == Some(signed_sum) {
        Ok(())
    } else {
        Err(Fault::archive("a header's checksum does not match: this is not a tar, or a damaged one"))
    }
}

/// The fault behind a failed read; our own travel through it as they are.
pub(crate) fn stream_fault(error: io::Error) -> Fault {
    match error.downcast::<Fault>() {
        Ok(fault) => fault,
        Err(source) => Fault::Stream { source },
    }
}

fn retry<T>(mut act: impl FnMut() -> io::Result<T>) -> io::Result<T> {
    loop {
        match act() {
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            result => return result,
        }
    }
}

#[cfg(test)]
mod tests;
