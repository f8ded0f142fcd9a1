//! Sparse files: which bytes of a file an archive holds, in the three ways that programs have written it.
//!
//! GNU's own entries (type `S`) carry the list in the header and in blocks behind it; PAX 0.0 and 0.1 in records; PAX
//! 1.0 at the beginning of the content. Whatever the form, a list is believed only when its pieces follow one another
//! within the file and are together as long as the content: see [`Pieces::checked`].

use std::{collections::VecDeque, ops::Range};

use tar::{GnuExtSparseHeader, GnuHeader, GnuSparseHeader};

use super::number;
use crate::Fault;

/// The largest list of pieces, in bytes as it stands in the archive: that of PAX records.
pub(super) const LARGEST_LIST: u64 = 1 << 20;

/// Digits of the largest number there is.
const LONGEST_NUMBER: usize = 20;

/// Bytes of the file that the content holds, in order, and not read yet.
#[derive(Debug, Default)]
pub(super) struct Pieces(VecDeque<Range<u64>>);

/// What PAX records say about a sparse file.
#[derive(Debug, Default)]
pub(super) struct Said {
    major: Option<u64>,
    minor: Option<u64>,
    name: Option<Vec<u8>>,
    size: Option<u64>,
    pieces: Vec<(u64, u64)>,
    /// PAX 0.0: the offset whose length has not come yet.
    offset: Option<u64>,
    any: bool,
}

/// Where the list of a sparse file is.
#[derive(Debug)]
pub(super) enum List {
    /// Read already.
    Known(Vec<(u64, u64)>),
    /// At the beginning of the content.
    InContent,
}

impl Pieces {
    /// The whole file, which is what an ordinary one has.
    pub(super) fn whole(size: u64) -> Self {
        Self(std::iter::once(0..size).filter(|piece| !piece.is_empty()).collect())
    }

    /// The pieces (offset, length) of a file of `size` bytes, of which the archive holds `content`.
    pub(super) fn checked(list: &[(u64, u64)], size: u64, content: u64) -> Result<Self, &'static str> {
        let (mut at, mut held) = (0, 0_u64);
        let mut pieces = VecDeque::new();
        for &(offset, length) in list {
            let end = offset.checked_add(length).filter(|end| *end <= size);
            let end = end.ok_or("a piece of the sparse file lies beyond its end")?;
            if offset < at {
                return Err("the pieces of the sparse file overlap or are out of order");
            }
            at = end;
            held = held.saturating_add(length);
            // The last piece is often an empty one, which only tells the file's end.
            if length > 0 {
                pieces.push_back(offset..end);
            }
        }
        if held == content { Ok(Self(pieces)) } else { Err("the sparse file's pieces are not as long as its content") }
    }

    /// The next bytes to be read: where in the file they belong and how many may be read there.
    pub(super) fn next(&self) -> Option<(u64, u64)> {
        self.0.front().map(|piece| (piece.start, piece.end - piece.start))
    }

    /// Takes off what was read of the next piece.
    pub(super) fn advance(&mut self, bytes: u64) {
        if let Some(piece) = self.0.front_mut() {
            piece.start += bytes;
            if piece.is_empty() {
                self.0.pop_front();
            }
        }
    }
}

impl Said {
    /// Takes a record `GNU.sparse.<key>`.
    pub(super) fn take(&mut self, key: &[u8], value: &[u8]) -> Result<(), &'static str> {
        let value_number = || decimal(value).ok_or("a PAX record of a sparse file is not a number");
        self.any = true;
        match key {
            b"major" => self.major = Some(value_number()?),
            b"minor" => self.minor = Some(value_number()?),
            b"name" => self.name = Some(value.to_vec()),
            b"size" | b"realsize" => self.size = Some(value_number()?),
            b"offset" => self.offset = Some(value_number()?),
            b"numbytes" => {
                let offset =
                    self.offset.take().ok_or("a PAX record of a sparse file tells a length without an offset")?;
                self.pieces.push((offset, value_number()?));
            }
            b"map" => {
                let texts = value.split(|b| *b == b',').filter(|text| !text.is_empty());
                let pieces = texts.map(decimal).collect::<Option<Vec<u64>>>().and_then(|numbers| pairs(&numbers));
                self.pieces = pieces.ok_or("a PAX list of a sparse file is torn")?;
            }
            // How many pieces there are is seen by counting.
            _ => {}
        }
        Ok(())
    }

    /// Whether the next entry is a sparse file.
    pub(super) fn is_sparse(&self) -> bool {
        self.any
    }

    /// The file's real name, its real size, and where its list is.
    pub(super) fn settle(self) -> Result<(Option<Vec<u8>>, u64, List), &'static str> {
        let list = match (self.major.unwrap_or(0), self.minor.unwrap_or(0)) {
            (0, 0 | 1) => List::Known(self.pieces),
            (1, 0) => List::InContent,
            _ => return Err("it is a sparse file of a version that is not known"),
        };
        let size = self.size.ok_or("it is a sparse file that does not tell its size")?;
        Ok((self.name, size, list))
    }
}

/// Reads the list that begins the content, block by block as `block` gives them: lines of decimal numbers, the first of
/// which tells how many pairs follow.
pub(super) fn read_list(mut block: impl FnMut() -> Result<[u8; 512], Fault>) -> Result<Vec<(u64, u64)>, Fault> {
    let mut text = Vec::new();
    let mut numbers = Vec::new();
    let mut wanted = None;
    for _ in 0..LARGEST_LIST / 512 {
        text.extend(block()?);
        let mut read = 0;
        while let Some(length) = text[read..].iter().position(|b| *b == b'\n') {
            let line = &text[read..read + length];
            let number = decimal(line).ok_or(Fault::archive("the list of a sparse file holds what is no number"))?;
            read += length + 1;
            match wanted {
                None => wanted = Some(u128::from(number) * 2),
                Some(_) => numbers.push(number),
            }
            if wanted == Some(numbers.len() as u128) {
                return Ok(pairs(&numbers).unwrap_or_default());
            }
        }
        text.drain(..read);
        if text.len() > LONGEST_NUMBER {
            break;
        }
    }
    Err(Fault::archive("the list of a sparse file has no end"))
}

/// A part of the list of GNU's own sparse entry.
pub(super) struct Part {
    pub(super) pieces: Vec<(u64, u64)>,
    /// A block with another part follows.
    pub(super) goes_on: bool,
}

impl Part {
    /// The part in the entry's header.
    pub(super) fn of_header(header: &GnuHeader) -> Result<Self, &'static str> {
        Ok(Self { pieces: used(&header.sparse)?, goes_on: header.isextended[0] != 0 })
    }

    /// The part in a block behind it.
    pub(super) fn of_block(block: &GnuExtSparseHeader) -> Result<Self, &'static str> {
        Ok(Self { pieces: used(&block.sparse)?, goes_on: block.isextended[0] != 0 })
    }
}

/// Places of the list are filled from the front.
fn used(places: &[GnuSparseHeader]) -> Result<Vec<(u64, u64)>, &'static str> {
    let used = places.iter().take_while(|place| place.offset[0] != 0);
    used.map(|place| number(&place.offset).zip(number(&place.numbytes)))
        .collect::<Option<_>>()
        .ok_or("the list of a sparse file holds what is no number")
}

fn pairs(numbers: &[u64]) -> Option<Vec<(u64, u64)>> {
    let pairs = numbers.chunks(2).map(|pair| Some((*pair.first()?, *pair.get(1)?)));
    pairs.collect()
}

fn decimal(text: &[u8]) -> Option<u64> {
    let digits = text.iter().all(u8::is_ascii_digit);
    std::str::from_utf8(text).ok().filter(|_| digits)?.parse().ok()
}
