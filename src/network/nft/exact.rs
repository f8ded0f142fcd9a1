//! Sets and maps whose keys are exact values one after the other, and what belongs to each: host ports.

use super::wire::{attribute, attributes, comment, comment_of, find, nested};

// linux/netfilter/nf_tables.h
const LIST_ELEMENT: u16 = 1;
const DATA_VALUE: u16 = 1;
const ELEMENT_KEY: u16 = 1;
const ELEMENT_DATA: u16 = 2;
const ELEMENT_USERDATA: u16 = 6;
/// Numbers by which the `nft` program knows what keys and values are when it shows them; six bits each.
const TYPE_IPV4: u32 = 7;
const TYPE_IPV6: u32 = 8;
const TYPE_HARDWARE: u32 = 9;
const TYPE_PROTOCOL: u32 = 12;
const TYPE_PORT: u32 = 13;
const TYPE_LINK: u32 = 41;
const TYPE_BITS: u32 = 6;
/// Each part of a key begins at a multiple of this, bytes.
const PART: usize = 4;

/// A part of a key or of a value.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Part {
    Ipv4,
    Ipv6,
    Protocol,
    Port,
    /// A link's name.
    Link,
    /// A link's hardware address.
    Hardware,
}

/// What the keys of a set are made of, and what the values of a map are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Form {
    pub(crate) key: &'static [Part],
    /// Nothing for a set.
    pub(crate) value: &'static [Part],
}

/// An element.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Exact {
    pub(crate) key: Vec<u8>,
    /// Empty in a set.
    pub(crate) value: Vec<u8>,
    pub(crate) comment: String,
}

impl Part {
    fn kind(self) -> u32 {
        match self {
            Self::Ipv4 => TYPE_IPV4,
            Self::Ipv6 => TYPE_IPV6,
            Self::Protocol => TYPE_PROTOCOL,
            Self::Port => TYPE_PORT,
            Self::Link => TYPE_LINK,
            Self::Hardware => TYPE_HARDWARE,
        }
    }

    fn width(self) -> usize {
        match self {
            Self::Ipv4 => 4,
            Self::Ipv6 | Self::Link => 16,
            Self::Protocol => 1,
            Self::Port => 2,
            Self::Hardware => 6,
        }
    }
}

/// The number by which `nft` knows parts one after the other.
pub(super) fn kind(parts: &[Part]) -> u32 {
    parts.iter().fold(0, |kind, part| kind << TYPE_BITS | part.kind())
}

/// Their length in bytes.
pub(super) fn width(parts: &[Part]) -> u32 {
    let width = parts.iter().map(|part| part.width().next_multiple_of(PART)).sum::<usize>();
    u32::try_from(width).expect("a few parts")
}

/// Parts one after the other, each filled up to where the next begins.
pub(crate) fn join(parts: &[&[u8]]) -> Vec<u8> {
    let mut joined = Vec::new();
    for part in parts {
        joined.extend(*part);
        joined.resize(joined.len().next_multiple_of(PART), 0);
    }
    joined
}

impl Exact {
    /// Appends the element to a list, whole or (to be deleted) by its key alone.
    pub(super) fn encode(&self, list: &mut Vec<u8>, whole: bool) {
        nested(list, LIST_ELEMENT, |element| {
            nested(element, ELEMENT_KEY, |data| attribute(data, DATA_VALUE, &self.key));
            if whole {
                if !self.value.is_empty() {
                    nested(element, ELEMENT_DATA, |data| attribute(data, DATA_VALUE, &self.value));
                }
                attribute(element, ELEMENT_USERDATA, &comment(&self.comment));
            }
        });
    }

    /// The elements of lists that the kernel gave. What lacks its key is left out.
    pub(super) fn decode(lists: &[Vec<u8>]) -> Vec<Self> {
        let read = |element: &[u8]| {
            let bytes = |kind| find(element, kind).and_then(|data| find(data, DATA_VALUE)).map(<[u8]>::to_vec);
            Some(Self {
                key: bytes(ELEMENT_KEY)?,
                value: bytes(ELEMENT_DATA).unwrap_or_default(),
                comment: find(element, ELEMENT_USERDATA).and_then(comment_of).unwrap_or_default(),
            })
        };
        lists.iter().flat_map(|list| attributes(list)).filter_map(|(_, element)| read(element)).collect()
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn elements_are_read_back_as_written() {
        let written = Exact { key: join(&[&[6], &[0, 80]]), value: join(&[&[10, 0, 0, 2]]), comment: "a pod".into() };
        assert_eq!(written.key, [6, 0, 0, 0, 0, 80, 0, 0]);
        let mut list = Vec::new();
        written.encode(&mut list, true);
        assert_eq!(Exact::decode(&[list]), [written]);
        assert_eq!(width(&[Part::Ipv6, Part::Protocol, Part::Port]), 24);
        assert_eq!(kind(&[Part::Protocol, Part::Port]), 12 << 6 | 13);
    }

    proptest! {
        #[test]
        fn no_elements_from_the_kernel_make_it_panic(bytes in prop::collection::vec(any::<u8>(), 0..128)) {
            let _ = Exact::decode(std::slice::from_ref(&bytes));
        }
    }
}
