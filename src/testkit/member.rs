//! Archives written byte by byte, in each form that a program has ever given a header: what no library writes, or only
//! the form that it prefers.

/// Headers and contents come in blocks of this many bytes.
const BLOCK: usize = 512;

/// Whose header it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Form {
    /// Before there was a standard: no magic, no device numbers, a directory is a name with a slash at its end.
    Old,
    /// POSIX: a long path is split over two fields.
    Ustar,
    /// GNU: a long name is an entry of its own before the one that it names.
    Gnu,
}

/// One member of an archive: a header, its content, and what has to stand before it.
#[derive(Debug, Clone)]
pub struct Member {
    form: Form,
    kind: u8,
    path: Vec<u8>,
    target: Vec<u8>,
    mode: u32,
    owner: (u64, u64),
    modified: i64,
    device: (u64, u64),
    content: Vec<u8>,
    /// What the header says, where that is not the length of the content.
    size: Option<u64>,
    /// Numbers in base 256 even where octal digits would do.
    binary: bool,
    before: Vec<u8>,
    /// GNU's list of a sparse file, and its size.
    sparse: Option<(Vec<(u64, u64)>, u64)>,
    /// Bytes written over the finished header, before its checksum is made.
    patches: Vec<(usize, Vec<u8>)>,
}

impl Member {
    /// A member of this type, by the letter of its header. Mode 0644, owner root, time 1 000 000.
    pub fn new(kind: u8, path: impl AsRef<[u8]>) -> Member {
        Member {
            form: Form::Ustar,
            kind,
            path: path.as_ref().to_vec(),
            target: Vec::new(),
            mode: 0o644,
            owner: (0, 0),
            modified: 1_000_000,
            device: (0, 0),
            content: Vec::new(),
            size: None,
            binary: false,
            before: Vec::new(),
            sparse: None,
            patches: Vec::new(),
        }
    }

    /// A regular file.
    pub fn file(path: impl AsRef<[u8]>, content: impl AsRef<[u8]>) -> Member {
        Member { content: content.as_ref().to_vec(), ..Member::new(b'0', path) }
    }

    /// A directory.
    pub fn directory(path: impl AsRef<[u8]>) -> Member {
        Member::new(b'5', path).mode(0o755)
    }

    /// A symbolic link.
    pub fn symlink(path: impl AsRef<[u8]>, target: impl AsRef<[u8]>) -> Member {
        Member { target: target.as_ref().to_vec(), ..Member::new(b'2', path) }.mode(0o777)
    }

    /// Another name of a file.
    pub fn hard_link(path: impl AsRef<[u8]>, target: impl AsRef<[u8]>) -> Member {
        Member { target: target.as_ref().to_vec(), ..Member::new(b'1', path) }
    }

    /// A character device.
    pub fn character(path: impl AsRef<[u8]>, major: u64, minor: u64) -> Member {
        Member { device: (major, minor), ..Member::new(b'3', path) }
    }

    /// A block device.
    pub fn block(path: impl AsRef<[u8]>, major: u64, minor: u64) -> Member {
        Member { device: (major, minor), ..Member::new(b'4', path) }
    }

    /// A fifo.
    pub fn fifo(path: impl AsRef<[u8]>) -> Member {
        Member::new(b'6', path)
    }

    /// GNU's own form of a sparse file: pieces (offset, length) of a file of `size` bytes, and what they hold.
    pub fn sparse(path: impl AsRef<[u8]>, size: u64, pieces: &[(u64, u64)], content: impl AsRef<[u8]>) -> Member {
        let member = Member { content: content.as_ref().to_vec(), ..Member::new(b'S', path) };
        Member { sparse: Some((pieces.to_vec(), size)), ..member }.form(Form::Gnu)
    }

    /// Whose header it is to be.
    #[must_use]
    pub fn form(self, form: Form) -> Member {
        Member { form, ..self }
    }

    /// Permission bits, with setuid, setgid and sticky.
    #[must_use]
    pub fn mode(self, mode: u32) -> Member {
        Member { mode, ..self }
    }

    /// User and group.
    #[must_use]
    pub fn owner(self, uid: u64, gid: u64) -> Member {
        Member { owner: (uid, gid), ..self }
    }

    /// Seconds since 1970.
    #[must_use]
    pub fn modified(self, seconds: i64) -> Member {
        Member { modified: seconds, ..self }
    }

    /// Another size in the header than the content has.
    #[must_use]
    pub fn size(self, size: u64) -> Member {
        Member { size: Some(size), ..self }
    }

    /// Content of a type that has none, or other content.
    #[must_use]
    pub fn content(self, content: impl AsRef<[u8]>) -> Member {
        Member { content: content.as_ref().to_vec(), ..self }
    }

    /// Every number in base 256.
    #[must_use]
    pub fn binary(self) -> Member {
        Member { binary: true, ..self }
    }

    /// PAX records before it.
    #[must_use]
    pub fn pax(self, records: &[(&str, &[u8])]) -> Member {
        self.after(&Member::new(b'x', "PaxHeaders/x").content(pax_records(records)))
    }

    /// Another member before it, which may speak of it.
    #[must_use]
    pub fn after(mut self, member: &Member) -> Member {
        self.before.extend(member.bytes());
        self
    }

    /// Bytes of the header as they are, at an offset. The checksum will be right.
    #[must_use]
    pub fn patch(mut self, at: usize, bytes: impl AsRef<[u8]>) -> Member {
        self.patches.push((at, bytes.as_ref().to_vec()));
        self
    }

    /// As it stands in an archive.
    pub fn bytes(&self) -> Vec<u8> {
        let mut bytes = self.before.clone();
        if self.form == Form::Gnu {
            for (kind, name) in [(b'K', &self.target), (b'L', &self.path)] {
                if name.len() > 100 {
                    let long = Member::new(kind, "././@LongLink").content([name.as_slice(), b"\0"].concat());
                    bytes.extend(long.patch(257, "ustar  \0").bytes());
                }
            }
        }
        bytes.extend(self.header());
        if let Some((pieces, _)) = &self.sparse {
            let behind = pieces.get(4..).unwrap_or_default();
            let blocks = behind.len().div_ceil(21);
            for (index, part) in behind.chunks(21).enumerate() {
                let mut block = vec![0; BLOCK];
                write_pieces(&mut block, part);
                block[504] = u8::from(index + 1 < blocks);
                bytes.extend(block);
            }
        }
        bytes.extend(&self.content);
        bytes.resize(bytes.len().next_multiple_of(BLOCK), 0);
        bytes
    }

    fn header(&self) -> [u8; BLOCK] {
        let mut header = [0; BLOCK];
        let (mut prefix, mut name) = (&b""[..], self.path.as_slice());
        if self.form == Form::Ustar && name.len() > 100 {
            // The last slash that leaves a prefix and a name which both fit; a path without one is cut, and has its
            // whole in a PAX record.
            let mut slashes = name.iter().enumerate().filter(|(_, byte)| **byte == b'/').map(|(at, _)| at);
            if let Some(at) = slashes.rfind(|at| *at <= 155 && name.len() - at - 1 <= 100) {
                (prefix, name) = (&self.path[..at], &self.path[at + 1..]);
            }
        }
        put(&mut header, 0, &name[..name.len().min(100)]);
        self.number(&mut header[100..108], self.mode.into());
        self.number(&mut header[108..116], i128::from(self.owner.0));
        self.number(&mut header[116..124], i128::from(self.owner.1));
        self.number(&mut header[124..136], i128::from(self.size.unwrap_or(self.content.len() as u64)));
        self.number(&mut header[136..148], self.modified.into());
        header[156] = self.kind;
        put(&mut header, 157, &self.target[..self.target.len().min(100)]);
        match self.form {
            Form::Old => {}
            Form::Ustar => put(&mut header, 257, b"ustar\x0000"),
            Form::Gnu => put(&mut header, 257, b"ustar  \0"),
        }
        if self.form != Form::Old {
            put(&mut header, 265, b"root");
            put(&mut header, 297, b"root");
            self.number(&mut header[329..337], i128::from(self.device.0));
            self.number(&mut header[337..345], i128::from(self.device.1));
        }
        put(&mut header, 345, prefix);
        if let Some((pieces, size)) = &self.sparse {
            write_pieces(&mut header[386..482], &pieces[..pieces.len().min(4)]);
            header[482] = u8::from(pieces.len() > 4);
            self.number(&mut header[483..495], i128::from(*size));
        }
        for (at, bytes) in &self.patches {
            put(&mut header, *at, bytes);
        }
        mend(&mut header);
        header
    }

    /// Octal digits with a NUL; base 256 where they do not suffice, or where it was asked for.
    fn number(&self, field: &mut [u8], value: i128) {
        let digits = field.len() - 1;
        let text = format!("{value:0digits$o}");
        if !self.binary && value >= 0 && text.len() <= digits {
            field[..digits].copy_from_slice(text.as_bytes());
            return;
        }
        let bytes = value.to_be_bytes();
        field.copy_from_slice(&bytes[bytes.len() - field.len()..]);
        field[0] |= 0x80;
    }
}

/// An archive of these members, with its end.
pub fn archive(members: &[Member]) -> Vec<u8> {
    let mut bytes: Vec<u8> = members.iter().flat_map(Member::bytes).collect();
    bytes.resize(bytes.len() + 2 * BLOCK, 0);
    bytes
}

/// Writes the checksum that a header's bytes have.
pub fn mend(header: &mut [u8]) {
    header[148..156].fill(b' ');
    let sum: u32 = header.iter().map(|byte| u32::from(*byte)).sum();
    put(header, 148, format!("{sum:06o}\0 ").as_bytes());
}

/// PAX records: `<length> <key>=<value>\n`, the length counting all of it.
pub fn pax_records(records: &[(&str, &[u8])]) -> Vec<u8> {
    let mut body = Vec::new();
    for (key, value) in records {
        let rest = key.len() + value.len() + 3;
        let mut length = rest + 1;
        while length != rest + length.to_string().len() {
            length = rest + length.to_string().len();
        }
        body.extend(format!("{length} {key}=").bytes());
        body.extend(*value);
        body.push(b'\n');
    }
    body
}

fn write_pieces(place: &mut [u8], pieces: &[(u64, u64)]) {
    for (place, (offset, length)) in place.chunks_exact_mut(24).zip(pieces) {
        place.copy_from_slice(format!("{offset:011o}\0{length:011o}\0").as_bytes());
    }
}

fn put(place: &mut [u8], at: usize, bytes: &[u8]) {
    place[at..at + bytes.len()].copy_from_slice(bytes);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn another_reader_understands_what_is_written() {
        let long = "directory/".repeat(20) + "file";
        let members = [
            Member::file("plain", "content").owner(1, 2).mode(0o4755),
            Member::file(&long[100..], "split"),
            Member::file(&long, "named").form(Form::Gnu),
            Member::file("stand-in", "pax").pax(&[("path", b"real")]),
            Member::file("binary", "x").binary().owner(70_000, 3),
        ];
        let bytes = archive(&members);
        let mut read = tar::Archive::new(bytes.as_slice());
        let entries = read.entries().unwrap().map(|entry| {
            let entry = entry.unwrap();
            (entry.path().unwrap().display().to_string(), entry.header().uid().unwrap(), entry.size())
        });
        let wanted = [("plain", 1, 7), (&long[100..], 0, 5), (&long, 0, 5), ("real", 0, 3), ("binary", 70_000, 1)];
        assert_eq!(entries.collect::<Vec<_>>(), wanted.map(|(path, uid, size)| (path.to_owned(), uid, size)));
    }
}
