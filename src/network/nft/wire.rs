//! The bytes of nfnetlink: messages of attributes, nested and padded. Numbers are big-endian, unlike the rest of
//! netlink.

use crate::netlink::HEADER;

// linux/netlink.h
const NLA_F_NESTED: u16 = 0x8000;
const NLA_TYPE_MASK: u16 = 0x3fff;
/// libnftnl's place for the comment that `nft list` shows.
const USERDATA_COMMENT: u8 = 0;

/// Appends one message: header, nfgenmsg (family, version, resource in network order), body.
pub(crate) fn message(bytes: &mut Vec<u8>, head: &Head, body: impl FnOnce(&mut Vec<u8>)) {
    let start = bytes.len();
    bytes.resize(start + HEADER, 0);
    bytes.extend([head.family, 0]);
    bytes.extend(head.resource.to_be_bytes());
    body(bytes);
    let length = u32::try_from(bytes.len() - start).expect("our own few attributes");
    bytes[start..start + 4].copy_from_slice(&length.to_ne_bytes());
    bytes[start + 4..start + 6].copy_from_slice(&head.kind.to_ne_bytes());
    bytes[start + 6..start + 8].copy_from_slice(&head.flags.to_ne_bytes());
    bytes[start + 8..start + 12].copy_from_slice(&head.sequence.to_ne_bytes());
}

/// What stands before a message's attributes.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Head {
    pub(crate) kind: u16,
    pub(crate) flags: u16,
    pub(crate) sequence: u32,
    pub(crate) family: u8,
    pub(crate) resource: u16,
}

pub(crate) fn attribute(bytes: &mut Vec<u8>, kind: u16, value: &[u8]) {
    let length = u16::try_from(4 + value.len()).expect("names, addresses and lists of two elements are short");
    bytes.extend(length.to_ne_bytes());
    bytes.extend(kind.to_ne_bytes());
    bytes.extend(value);
    bytes.resize(bytes.len().next_multiple_of(4), 0);
}

pub(crate) fn text(bytes: &mut Vec<u8>, kind: u16, value: &str) {
    attribute(bytes, kind, &[value.as_bytes(), b"\0"].concat());
}

pub(crate) fn number(bytes: &mut Vec<u8>, kind: u16, value: u32) {
    attribute(bytes, kind, &value.to_be_bytes());
}

pub(crate) fn nested(bytes: &mut Vec<u8>, kind: u16, fill: impl FnOnce(&mut Vec<u8>)) {
    let mut inner = Vec::new();
    fill(&mut inner);
    attribute(bytes, kind | NLA_F_NESTED, &inner);
}

/// Each attribute as its kind and its value, up to the end or to something that is none.
pub(crate) fn attributes(bytes: &[u8]) -> impl Iterator<Item = (u16, &[u8])> {
    let mut rest = bytes;
    std::iter::from_fn(move || {
        let [l0, l1, k0, k1, ..] = *rest else { return None };
        let length = usize::from(u16::from_ne_bytes([l0, l1]));
        let value = rest.get(4..length)?;
        rest = rest.get(length.next_multiple_of(4)..).unwrap_or_default();
        Some((u16::from_ne_bytes([k0, k1]) & NLA_TYPE_MASK, value))
    })
}

/// The first attribute of that kind.
pub(crate) fn find(bytes: &[u8], kind: u16) -> Option<&[u8]> {
    attributes(bytes).find(|(found, _)| *found == kind).map(|(_, value)| value)
}

/// The text attribute of that kind; empty when there is none.
pub(crate) fn find_text(bytes: &[u8], kind: u16) -> String {
    let value = find(bytes, kind).unwrap_or_default();
    String::from_utf8_lossy(value).trim_end_matches('\0').to_owned()
}

/// User data that holds a comment of at most 120 bytes.
pub(crate) fn comment(words: &str) -> Vec<u8> {
    let length = u8::try_from(words.len() + 1).expect("comments are kept short");
    [&[USERDATA_COMMENT, length], words.as_bytes(), b"\0"].concat()
}

/// The comment in user data.
pub(crate) fn comment_of(userdata: &[u8]) -> Option<String> {
    let mut rest = userdata;
    while let [kind, length, ..] = *rest {
        let value = rest.get(2..2 + usize::from(length))?;
        if kind == USERDATA_COMMENT {
            return Some(String::from_utf8_lossy(value).trim_end_matches('\0').to_owned());
        }
        rest = &rest[2 + usize::from(length)..];
    }
    None
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn attributes_are_found_again_behind_odd_lengths() {
        let mut bytes = Vec::new();
        text(&mut bytes, 1, "odd");
        attribute(&mut bytes, 7, &comment("why this is here"));
        nested(&mut bytes, 9, |inner| number(inner, 1, 77));
        assert_eq!(find_text(&bytes, 1), "odd");
        assert_eq!(find(&bytes, 7).and_then(comment_of).as_deref(), Some("why this is here"));
        assert_eq!(find(&bytes, 9).and_then(|inner| find(inner, 1)), Some(&77_u32.to_be_bytes()[..]));
        assert_eq!(find(&bytes, 8), None);
        assert_eq!(attributes(&bytes).count(), 3);
    }

    proptest! {
        #[test]
        fn no_attributes_from_the_kernel_make_it_panic(bytes in prop::collection::vec(any::<u8>(), 0..128), kind: u16) {
            let _ = find(&bytes, kind).and_then(comment_of);
            let _ = comment_of(&bytes);
            let _ = find_text(&bytes, kind);
        }
    }
}
