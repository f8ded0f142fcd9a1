//! nftables over raw nfnetlink: just the messages this room sends.
//!
//! An encoder of ours, because the crates there are run the `nft` program (5 ms a change, and a program to install) or
//! link libnftnl; what we say to the kernel is a dozen attribute kinds. A [`Transaction`] is atomic: all of it or
//! nothing. Numbers in nftables attributes are big-endian, unlike the rest of netlink.

use std::{io, net::IpAddr};

use ipnet::IpNet;

use crate::netlink::{Conversation, HEADER, errno};

/// `NETLINK_NETFILTER`.
const NETFILTER: isize = 12;

// linux/netfilter/nfnetlink.h
const SUBSYSTEM: u16 = 10;
const BATCH_BEGIN: u16 = 0x10;
const BATCH_END: u16 = 0x11;
// linux/netfilter.h: a table that sees IPv4 and IPv6.
const NFPROTO_INET: u8 = 1;
const NFPROTO_IPV4: u8 = 2;
const NFPROTO_IPV6: u8 = 10;
// linux/netfilter/nf_tables.h: messages
const NEW_TABLE: u16 = 0;
const DEL_TABLE: u16 = 2;
const NEW_CHAIN: u16 = 3;
const GET_CHAIN: u16 = 4;
const DEL_CHAIN: u16 = 5;
const NEW_RULE: u16 = 6;
const GET_RULE: u16 = 7;
const DEL_RULE: u16 = 8;
const GET_GENERATION: u16 = 16;
// … and attributes
const BATCH_GENERATION: u16 = 1;
const GENERATION_ID: u16 = 1;
const TABLE_NAME: u16 = 1;
const CHAIN_TABLE: u16 = 1;
const CHAIN_NAME: u16 = 3;
const CHAIN_HOOK: u16 = 4;
const CHAIN_TYPE: u16 = 7;
const HOOK_NUMBER: u16 = 1;
const HOOK_PRIORITY: u16 = 2;
const RULE_TABLE: u16 = 1;
const RULE_CHAIN: u16 = 2;
const RULE_EXPRESSIONS: u16 = 4;
const RULE_USERDATA: u16 = 7;
const LIST_ELEMENT: u16 = 1;
const EXPRESSION_NAME: u16 = 1;
const EXPRESSION_DATA: u16 = 2;
const DATA_VALUE: u16 = 1;
/// libnftnl's place for the comment that `nft list` shows.
const USERDATA_COMMENT: u8 = 0;
const REGISTER_1: u32 = 1;
const PAYLOAD_NETWORK_HEADER: u32 = 1;
const META_NFPROTO: u32 = 15;
const CMP_EQ: u32 = 0;
const CMP_NEQ: u32 = 1;
// linux/netlink.h
const NLM_F_REQUEST: u16 = 1;
const NLM_F_ACK: u16 = 4;
const NLM_F_DUMP: u16 = 0x300;
const NLM_F_CREATE: u16 = 0x400;
const NLM_F_APPEND: u16 = 0x800;
const NLA_F_NESTED: u16 = 0x8000;
const NLA_TYPE_MASK: u16 = 0x3fff;

/// Which address of a packet a match looks at.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Side {
    Source,
    Destination,
}

/// One rule: matches, then masquerade. The comment identifies it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct MasqueradeRule {
    /// Packets whose addresses are (`true`) or are not in these networks, all of one family.
    pub(crate) matches: Vec<(Side, bool, IpNet)>,
    /// At most 120 bytes.
    pub(crate) comment: String,
}

/// A conversation with nftables of the thread's own network namespace.
pub(crate) struct Nft {
    conversation: Conversation,
}

/// Changes that come about together or not at all.
pub(crate) struct Transaction<'a> {
    nft: &'a mut Nft,
    bytes: Vec<u8>,
    sequences: Vec<u32>,
    begin: u32,
}

impl Nft {
    pub(crate) fn open() -> io::Result<Self> {
        Ok(Self { conversation: Conversation::open(NETFILTER)? })
    }

    /// Begins a set of changes.
    pub(crate) fn transaction(&mut self) -> Transaction<'_> {
        let sequence = self.conversation.next_sequence();
        let mut bytes = Vec::new();
        // The batch's resource id names the subsystem, in network order.
        message(&mut bytes, BATCH_BEGIN, NLM_F_REQUEST, sequence, 0, SUBSYSTEM, |_| {});
        Transaction { nft: self, bytes, sequences: Vec::new(), begin: sequence }
    }

    /// Begins a set of changes that comes about only if nothing has changed since [`Nft::generation`] gave `generation`;
    /// otherwise it is refused with `ERESTART`.
    pub(crate) fn transaction_at(&mut self, generation: u32) -> Transaction<'_> {
        let sequence = self.conversation.next_sequence();
        let mut bytes = Vec::new();
        message(&mut bytes, BATCH_BEGIN, NLM_F_REQUEST, sequence, 0, SUBSYSTEM, |body| {
            number(body, BATCH_GENERATION, generation);
        });
        Transaction { nft: self, bytes, sequences: Vec::new(), begin: sequence }
    }

    /// The number of the rule set as it is now; every change raises it.
    pub(crate) fn generation(&mut self) -> io::Result<u32> {
        let sequence = self.conversation.next_sequence();
        let mut bytes = Vec::new();
        let flags = NLM_F_REQUEST | NLM_F_ACK;
        message(&mut bytes, SUBSYSTEM << 8 | GET_GENERATION, flags, sequence, 0, 0, |_| {});
        let (answers, refusals) = self.conversation.exchange(&bytes, &[sequence], None)?;
        if let Some(refusal) = refusals.into_iter().next() {
            return Err(refusal.source);
        }
        let number = answers.iter().find_map(|answer| find(answer.payload.get(4..)?, GENERATION_ID)?.try_into().ok());
        number.map(u32::from_be_bytes).ok_or_else(|| io::ErrorKind::InvalidData.into())
    }

    /// Comments of the rules of a chain, in order; empty when the table or chain does not exist.
    pub(crate) fn comments(&mut self, table: &str, chain: &str) -> io::Result<Vec<String>> {
        let rules = self.dump(GET_RULE, |body| {
            text(body, RULE_TABLE, table);
            text(body, RULE_CHAIN, chain);
        })?;
        // Older kernels ignore the filter: look again at whose rule it is.
        let ours = rules.iter().filter(|rule| {
            find(rule, RULE_TABLE).is_some_and(|name| is_text(name, table))
                && find(rule, RULE_CHAIN).is_some_and(|name| is_text(name, chain))
        });
        Ok(ours.map(|rule| find(rule, RULE_USERDATA).and_then(comment_of).unwrap_or_default()).collect())
    }

    /// Names of the chains of a table; empty when it does not exist.
    pub(crate) fn chains(&mut self, table: &str) -> io::Result<Vec<String>> {
        let chains = self.dump(GET_CHAIN, |_| {})?;
        let ours = chains.iter().filter(|chain| find(chain, CHAIN_TABLE).is_some_and(|name| is_text(name, table)));
        Ok(ours
            .filter_map(|chain| find(chain, CHAIN_NAME))
            .map(|name| String::from_utf8_lossy(name).trim_end_matches('\0').to_owned())
            .collect())
    }

    fn dump(&mut self, kind: u16, body: impl Fn(&mut Vec<u8>)) -> io::Result<Vec<Vec<u8>>> {
        // A dump that the table changed under is worthless; nothing here changes often enough to starve it.
        for last in [false, false, false, true] {
            let sequence = self.conversation.next_sequence();
            let mut bytes = Vec::new();
            let flags = NLM_F_REQUEST | NLM_F_DUMP;
            message(&mut bytes, SUBSYSTEM << 8 | kind, flags, sequence, NFPROTO_INET, 0, &body);
            match self.conversation.exchange(&bytes, &[sequence], None) {
                Ok((answers, refusals)) => match refusals.into_iter().next() {
                    None => {
                        // Behind the four bytes of nfgenmsg are the attributes.
                        let objects = answers.into_iter().filter_map(|answer| Some(answer.payload.get(4..)?.to_vec()));
                        return Ok(objects.collect());
                    }
                    Some(refusal) if errno(&refusal.source) == Some(libc::ENOENT) => return Ok(Vec::new()),
                    Some(refusal) => return Err(refusal.source),
                },
                Err(error) if error.kind() == io::ErrorKind::Interrupted && !last => {}
                Err(error) => return Err(error),
            }
        }
        Err(io::ErrorKind::Interrupted.into())
    }
}

impl Transaction<'_> {
    /// Makes the table unless it exists.
    pub(crate) fn ensure_table(&mut self, table: &str) {
        self.push(NEW_TABLE, NLM_F_CREATE, |body| text(body, TABLE_NAME, table));
    }

    /// Makes a source-translation chain on the way out unless it exists, and empties it.
    pub(crate) fn ensure_empty_postrouting(&mut self, table: &str, chain: &str) {
        self.push(NEW_CHAIN, NLM_F_CREATE, |body| {
            text(body, CHAIN_TABLE, table);
            text(body, CHAIN_NAME, chain);
            nested(body, CHAIN_HOOK, |hook| {
                number(hook, HOOK_NUMBER, libc::NF_INET_POST_ROUTING.cast_unsigned());
                number(hook, HOOK_PRIORITY, libc::NF_IP_PRI_NAT_SRC.cast_unsigned());
            });
            text(body, CHAIN_TYPE, "nat");
        });
        self.empty_chain(table, chain);
    }

    /// Removes every rule of the chain.
    pub(crate) fn empty_chain(&mut self, table: &str, chain: &str) {
        self.push(DEL_RULE, 0, |body| {
            text(body, RULE_TABLE, table);
            text(body, RULE_CHAIN, chain);
        });
    }

    /// Removes an empty chain.
    pub(crate) fn remove_chain(&mut self, table: &str, chain: &str) {
        self.push(DEL_CHAIN, 0, |body| {
            text(body, CHAIN_TABLE, table);
            text(body, CHAIN_NAME, chain);
        });
    }

    /// Removes a table with all that is in it.
    pub(crate) fn remove_table(&mut self, table: &str) {
        self.push(DEL_TABLE, 0, |body| text(body, TABLE_NAME, table));
    }

    /// Appends a rule.
    pub(crate) fn add_rule(&mut self, table: &str, chain: &str, rule: &MasqueradeRule) {
        self.push(NEW_RULE, NLM_F_CREATE | NLM_F_APPEND, |body| {
            text(body, RULE_TABLE, table);
            text(body, RULE_CHAIN, chain);
            nested(body, RULE_EXPRESSIONS, |list| encode_rule(list, rule));
            attribute(body, RULE_USERDATA, &comment(&rule.comment));
        });
    }

    /// Carries the changes out.
    pub(crate) fn commit(mut self) -> io::Result<()> {
        let sequence = self.nft.conversation.next_sequence();
        message(&mut self.bytes, BATCH_END, NLM_F_REQUEST, sequence, 0, SUBSYSTEM, |_| {});
        let (_, refusals) = self.nft.conversation.exchange(&self.bytes, &self.sequences, Some(self.begin))?;
        refusals.into_iter().next().map_or(Ok(()), |refusal| Err(refusal.source))
    }

    fn push(&mut self, kind: u16, flags: u16, body: impl FnOnce(&mut Vec<u8>)) {
        let sequence = self.nft.conversation.next_sequence();
        self.sequences.push(sequence);
        let flags = NLM_F_REQUEST | NLM_F_ACK | flags;
        message(&mut self.bytes, SUBSYSTEM << 8 | kind, flags, sequence, NFPROTO_INET, 0, body);
    }
}

fn encode_rule(list: &mut Vec<u8>, rule: &MasqueradeRule) {
    let ipv6 = rule.matches.iter().any(|(_, _, net)| net.addr().is_ipv6());
    expression(list, "meta", |data| {
        number(data, 1, REGISTER_1);
        number(data, 2, META_NFPROTO);
    });
    compare(list, CMP_EQ, &[if ipv6 { NFPROTO_IPV6 } else { NFPROTO_IPV4 }]);
    for (side, inside, net) in &rule.matches {
        let (offset, length) = match (ipv6, side) {
            (false, Side::Source) => (12, 4),
            (false, Side::Destination) => (16, 4),
            (true, Side::Source) => (8, 16),
            (true, Side::Destination) => (24, 16),
        };
        expression(list, "payload", |data| {
            number(data, 1, REGISTER_1);
            number(data, 2, PAYLOAD_NETWORK_HEADER);
            number(data, 3, offset);
            number(data, 4, length);
        });
        expression(list, "bitwise", |data| {
            number(data, 1, REGISTER_1);
            number(data, 2, REGISTER_1);
            number(data, 3, length);
            nested(data, 4, |mask| attribute(mask, DATA_VALUE, &octets(net.netmask())));
            nested(data, 5, |xor| attribute(xor, DATA_VALUE, &vec![0; octets(net.netmask()).len()]));
        });
        compare(list, if *inside { CMP_EQ } else { CMP_NEQ }, &octets(net.network()));
    }
    expression(list, "masq", |_| {});
}

fn compare(list: &mut Vec<u8>, operator: u32, value: &[u8]) {
    expression(list, "cmp", |data| {
        number(data, 1, REGISTER_1);
        number(data, 2, operator);
        nested(data, 3, |with| attribute(with, DATA_VALUE, value));
    });
}

fn expression(list: &mut Vec<u8>, name: &str, data: impl FnOnce(&mut Vec<u8>)) {
    nested(list, LIST_ELEMENT, |element| {
        text(element, EXPRESSION_NAME, name);
        nested(element, EXPRESSION_DATA, data);
    });
}

/// Appends one netlink message: header, nfgenmsg (family, version, resource in network order), body.
fn message(
    bytes: &mut Vec<u8>,
    kind: u16,
    flags: u16,
    sequence: u32,
    family: u8,
    resource: u16,
    body: impl FnOnce(&mut Vec<u8>),
) {
    let start = bytes.len();
    bytes.resize(start + HEADER, 0);
    bytes.extend([family, 0]);
    bytes.extend(resource.to_be_bytes());
    body(bytes);
    let length = u32::try_from(bytes.len() - start).expect("our own few attributes");
    bytes[start..start + 4].copy_from_slice(&length.to_ne_bytes());
    bytes[start + 4..start + 6].copy_from_slice(&kind.to_ne_bytes());
    bytes[start + 6..start + 8].copy_from_slice(&flags.to_ne_bytes());
    bytes[start + 8..start + 12].copy_from_slice(&sequence.to_ne_bytes());
}

fn attribute(bytes: &mut Vec<u8>, kind: u16, value: &[u8]) {
    let length = u16::try_from(4 + value.len()).expect("names and masks are short");
    bytes.extend(length.to_ne_bytes());
    bytes.extend(kind.to_ne_bytes());
    bytes.extend(value);
    bytes.resize(bytes.len().next_multiple_of(4), 0);
}

fn text(bytes: &mut Vec<u8>, kind: u16, value: &str) {
    attribute(bytes, kind, &[value.as_bytes(), b"\0"].concat());
}

fn number(bytes: &mut Vec<u8>, kind: u16, value: u32) {
    attribute(bytes, kind, &value.to_be_bytes());
}

fn nested(bytes: &mut Vec<u8>, kind: u16, fill: impl FnOnce(&mut Vec<u8>)) {
    let mut inner = Vec::new();
    fill(&mut inner);
    attribute(bytes, kind | NLA_F_NESTED, &inner);
}

/// The first attribute of that kind.
fn find(mut attributes: &[u8], kind: u16) -> Option<&[u8]> {
    while let [l0, l1, k0, k1, ..] = *attributes {
        let length = usize::from(u16::from_ne_bytes([l0, l1]));
        let value = attributes.get(4..length)?;
        if u16::from_ne_bytes([k0, k1]) & NLA_TYPE_MASK == kind {
            return Some(value);
        }
        attributes = attributes.get(length.next_multiple_of(4)..)?;
    }
    None
}

fn is_text(value: &[u8], text: &str) -> bool {
    value.strip_suffix(b"\0") == Some(text.as_bytes())
}

fn comment(words: &str) -> Vec<u8> {
    let length = u8::try_from(words.len() + 1).expect("comments are kept short");
    [&[USERDATA_COMMENT, length], words.as_bytes(), b"\0"].concat()
}

fn comment_of(userdata: &[u8]) -> Option<String> {
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

fn octets(address: IpAddr) -> Vec<u8> {
    match address {
        IpAddr::V4(v4) => v4.octets().to_vec(),
        IpAddr::V6(v6) => v6.octets().to_vec(),
    }
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
        assert!(find(&bytes, 1).is_some_and(|value| is_text(value, "odd")));
        assert_eq!(find(&bytes, 7).and_then(comment_of).as_deref(), Some("why this is here"));
        assert_eq!(find(&bytes, 9).and_then(|inner| find(inner, 1)), Some(&77_u32.to_be_bytes()[..]));
        assert_eq!(find(&bytes, 8), None);
    }

    proptest! {
        #[test]
        fn no_attributes_from_the_kernel_make_it_panic(bytes in prop::collection::vec(any::<u8>(), 0..128), kind: u16) {
            let _ = find(&bytes, kind).and_then(comment_of);
            let _ = comment_of(&bytes);
        }
    }
}
