//! Rules: what they look at in a packet, and what they do with it.

use std::net::{IpAddr, Ipv6Addr};

use ipnet::IpNet;

use super::wire::{attribute, nested, number, text};

// linux/netfilter.h
const NFPROTO_IPV4: u8 = 2;
const NFPROTO_IPV6: u8 = 10;
// linux/netfilter/nf_tables.h
const LIST_ELEMENT: u16 = 1;
const EXPRESSION_NAME: u16 = 1;
const EXPRESSION_DATA: u16 = 2;
const DATA_VALUE: u16 = 1;
const REGISTER_VERDICT: u32 = 0;
const REGISTER_1: u32 = 1;
const PAYLOAD_LINK_HEADER: u32 = 0;
const PAYLOAD_NETWORK_HEADER: u32 = 1;
const PAYLOAD_TRANSPORT_HEADER: u32 = 2;
const META_MARK: u32 = 3;
const META_LINK_INDEX: u32 = 4;
const META_LINK_NAME: u32 = 6;
const META_NFPROTO: u32 = 15;
const META_L4PROTO: u32 = 16;
/// The first of the registers of four bytes, which lie in those of sixteen.
const REGISTER_WORD_0: u32 = 8;
const FIB_ADDRESS_TYPE: u32 = 3;
const FIB_OF_DESTINATION: u32 = 2;
/// What the routing table says of an address of the host's own (linux/rtnetlink.h, RTN_LOCAL).
const LOCAL: u32 = 2;
const NAT_DESTINATION: u32 = 1;
const VERDICT_CODE: u16 = 1;
const VERDICT_CHAIN: u16 = 2;
const DATA_VERDICT: u16 = 2;
const NFT_JUMP: i32 = -3;
const NF_DROP: u32 = 0;
/// Registers of four bytes that a link's name takes.
const LINK_NAME_WORDS: u32 = 4;
/// Where an Ethernet frame says who sends it, and how long that is.
const ETHERNET_SOURCE: [u32; 2] = [6, 6];
const LOOKUP_INVERTED: u32 = 1;
/// The index of every namespace's loopback.
const LOOPBACK_INDEX: u32 = 1;
const CMP_EQ: u32 = 0;
const CMP_NEQ: u32 = 1;

/// The protocol whose packets a rule sees.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Family {
    V4,
    V6,
}

/// Which address of a packet a match looks at.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Side {
    Source,
    Destination,
}

/// One rule. The comment, of at most 120 bytes, identifies it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Rule {
    pub(crate) family: Family,
    pub(crate) act: Act,
    pub(crate) comment: String,
}

/// What a rule does with the packets of its family.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Act {
    /// Goes where the map sends that address; on to the next rule when it is not in the map.
    LookUp { side: Side, map: String },
    /// Leaves under the node's own address, unless it goes to one of these networks.
    MasqueradeBeyond { near: Vec<IpNet> },
    /// Goes through the chain if it is for the host itself; of IPv6 not for its loopback.
    JumpIfLocal { chain: String },
    /// Sets this bit of its mark if the set has the link that it came by, and its port.
    MarkFromLink { set: String, bit: u32 },
    /// Sets this bit of its mark if it comes from the loopback and goes to one of the ports. Of IPv4 alone.
    MarkFromLoopback { ports: String, bit: u32 },
    /// Ends here if it came by a link and is for the loopback. Of IPv4 alone.
    DropToLoopback,
    /// Goes where the map sends its port, or its address and port.
    Translate { map: String, by_address: bool },
    /// Leaves under the node's own address if it has this bit in its mark.
    MasqueradeMarked { bit: u32 },
    /// Ends here if one set has the link that it came by, and the other not the link with who sends it. Of frames of
    /// every family.
    DropStrangers { links: String, senders: String },
}

impl Family {
    pub(crate) const ALL: [Self; 2] = [Self::V4, Self::V6];

    /// The family of an address.
    pub(crate) fn of(address: IpAddr) -> Self {
        if address.is_ipv4() { Self::V4 } else { Self::V6 }
    }

    /// The same, as a length.
    pub(crate) fn bytes(self) -> usize {
        match self {
            Self::V4 => 4,
            Self::V6 => 16,
        }
    }

    /// Bytes of an address.
    pub(super) fn width(self) -> u32 {
        match self {
            Self::V4 => 4,
            Self::V6 => 16,
        }
    }

    pub(crate) fn number(self) -> u8 {
        match self {
            Self::V4 => NFPROTO_IPV4,
            Self::V6 => NFPROTO_IPV6,
        }
    }

    /// Where the address stands in the packet's network header.
    fn offset(self, side: Side) -> u32 {
        match (self, side) {
            (Self::V4, Side::Source) => 12,
            (Self::V4, Side::Destination) => 16,
            (Self::V6, Side::Source) => 8,
            (Self::V6, Side::Destination) => 24,
        }
    }
}

impl Rule {
    /// Appends the rule's expressions.
    pub(super) fn encode(&self, list: &mut Vec<u8>) {
        if !matches!(self.act, Act::DropStrangers { .. }) {
            expression(list, "meta", |data| {
                number(data, 1, REGISTER_1);
                number(data, 2, META_NFPROTO);
            });
            compare(list, CMP_EQ, &[self.family.number()]);
        }
        match &self.act {
            Act::LookUp { side, map } => {
                self.load(list, *side);
                look_up(list, map, Some(REGISTER_VERDICT));
            }
            Act::MasqueradeBeyond { near } => {
                for net in near {
                    self.load(list, Side::Destination);
                    let mask = octets(net.netmask());
                    expression(list, "bitwise", |data| {
                        number(data, 1, REGISTER_1);
                        number(data, 2, REGISTER_1);
                        number(data, 3, self.family.width());
                        nested(data, 4, |with| attribute(with, DATA_VALUE, &mask));
                        nested(data, 5, |with| attribute(with, DATA_VALUE, &vec![0; mask.len()]));
                    });
                    compare(list, CMP_NEQ, &octets(net.network()));
                }
                expression(list, "masq", |_| {});
            }
            Act::JumpIfLocal { chain } => {
                expression(list, "fib", |data| {
                    number(data, 1, REGISTER_1);
                    number(data, 2, FIB_ADDRESS_TYPE);
                    number(data, 3, FIB_OF_DESTINATION);
                });
                compare(list, CMP_EQ, &LOCAL.to_ne_bytes());
                if self.family == Family::V6 {
                    self.load(list, Side::Destination);
                    compare(list, CMP_NEQ, &Ipv6Addr::LOCALHOST.octets());
                }
                expression(list, "immediate", |data| {
                    number(data, 1, REGISTER_VERDICT);
                    nested(data, 2, |data| {
                        nested(data, DATA_VERDICT, |verdict| {
                            number(verdict, VERDICT_CODE, NFT_JUMP.cast_unsigned());
                            text(verdict, VERDICT_CHAIN, chain);
                        });
                    });
                });
            }
            Act::MarkFromLink { set, bit } => {
                load_link(list);
                load_port(list, LINK_NAME_WORDS);
                look_up(list, set, None);
                set_mark(list, *bit);
            }
            Act::MarkFromLoopback { ports, bit } => {
                self.is_loopback(list, Side::Source);
                load_port(list, 0);
                look_up(list, ports, None);
                set_mark(list, *bit);
            }
            Act::DropToLoopback => {
                expression(list, "meta", |data| {
                    number(data, 1, REGISTER_1);
                    number(data, 2, META_LINK_INDEX);
                });
                compare(list, CMP_NEQ, &LOOPBACK_INDEX.to_ne_bytes());
                self.is_loopback(list, Side::Destination);
                drop_it(list);
            }
            Act::DropStrangers { links, senders } => {
                load_link(list);
                look_up(list, links, None);
                load_sender(list, LINK_NAME_WORDS);
                look_up_none(list, senders);
                drop_it(list);
            }
            Act::Translate { map, by_address } => {
                if *by_address {
                    self.load(list, Side::Destination);
                }
                load_port(list, if *by_address { self.words() } else { 0 });
                look_up(list, map, Some(REGISTER_1));
                expression(list, "nat", |data| {
                    number(data, 1, NAT_DESTINATION);
                    number(data, 2, self.family.number().into());
                    number(data, 3, REGISTER_1);
                    number(data, 5, REGISTER_WORD_0 + self.words());
                });
            }
            Act::MasqueradeMarked { bit } => {
                mark(list, *bit, 0);
                compare(list, CMP_EQ, &bit.to_ne_bytes());
                expression(list, "masq", |_| {});
            }
        }
    }

    /// Goes on if an address of IPv4 is of the loopback.
    fn is_loopback(&self, list: &mut Vec<u8>, side: Side) {
        self.load(list, side);
        expression(list, "bitwise", |data| {
            number(data, 1, REGISTER_1);
            number(data, 2, REGISTER_1);
            number(data, 3, 4);
            nested(data, 4, |with| attribute(with, DATA_VALUE, &[255, 0, 0, 0]));
            nested(data, 5, |with| attribute(with, DATA_VALUE, &[0; 4]));
        });
        compare(list, CMP_EQ, &[127, 0, 0, 0]);
    }

    /// Registers of four bytes that an address takes.
    fn words(&self) -> u32 {
        self.family.width() / 4
    }

    /// Loads an address of the packet.
    fn load(&self, list: &mut Vec<u8>, side: Side) {
        expression(list, "payload", |data| {
            number(data, 1, REGISTER_1);
            number(data, 2, PAYLOAD_NETWORK_HEADER);
            number(data, 3, self.family.offset(side));
            number(data, 4, self.family.width());
        });
    }
}

/// Loads protocol and destination port, from this register of four bytes on.
fn load_port(list: &mut Vec<u8>, word: u32) {
    expression(list, "meta", |data| {
        number(data, 1, REGISTER_WORD_0 + word);
        number(data, 2, META_L4PROTO);
    });
    expression(list, "payload", |data| {
        number(data, 1, REGISTER_WORD_0 + word + 1);
        number(data, 2, PAYLOAD_TRANSPORT_HEADER);
        number(data, 3, 2);
        number(data, 4, 2);
    });
}

/// Loads the name of the link that the packet came by.
fn load_link(list: &mut Vec<u8>) {
    expression(list, "meta", |data| {
        number(data, 1, REGISTER_1);
        number(data, 2, META_LINK_NAME);
    });
}

/// Loads who sends the frame, from this register of four bytes on.
fn load_sender(list: &mut Vec<u8>, word: u32) {
    let [offset, length] = ETHERNET_SOURCE;
    expression(list, "payload", |data| {
        number(data, 1, REGISTER_WORD_0 + word);
        number(data, 2, PAYLOAD_LINK_HEADER);
        number(data, 3, offset);
        number(data, 4, length);
    });
}

/// Ends the packet's way here.
fn drop_it(list: &mut Vec<u8>) {
    expression(list, "immediate", |data| {
        number(data, 1, REGISTER_VERDICT);
        nested(data, 2, |data| {
            nested(data, DATA_VERDICT, |verdict| number(verdict, VERDICT_CODE, NF_DROP));
        });
    });
}

/// Ends the rule if the set has what was loaded.
fn look_up_none(list: &mut Vec<u8>, set: &str) {
    expression(list, "lookup", |data| {
        text(data, 1, set);
        number(data, 2, REGISTER_1);
        number(data, 5, LOOKUP_INVERTED);
    });
}

/// Ends the rule unless the set has what was loaded; gives its value, where it is a map.
fn look_up(list: &mut Vec<u8>, set: &str, value: Option<u32>) {
    expression(list, "lookup", |data| {
        text(data, 1, set);
        number(data, 2, REGISTER_1);
        if let Some(register) = value {
            number(data, 3, register);
        }
    });
}

/// Loads the packet's mark, of it these bits, with those set.
fn mark(list: &mut Vec<u8>, keep: u32, set: u32) {
    expression(list, "meta", |data| {
        number(data, 1, REGISTER_1);
        number(data, 2, META_MARK);
    });
    expression(list, "bitwise", |data| {
        number(data, 1, REGISTER_1);
        number(data, 2, REGISTER_1);
        number(data, 3, 4);
        nested(data, 4, |with| attribute(with, DATA_VALUE, &keep.to_ne_bytes()));
        nested(data, 5, |with| attribute(with, DATA_VALUE, &set.to_ne_bytes()));
    });
}

/// Sets this bit of the packet's mark.
fn set_mark(list: &mut Vec<u8>, bit: u32) {
    mark(list, !bit, bit);
    expression(list, "meta", |data| {
        number(data, 2, META_MARK);
        number(data, 3, REGISTER_1);
    });
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

fn octets(address: IpAddr) -> Vec<u8> {
    match address {
        IpAddr::V4(v4) => v4.octets().to_vec(),
        IpAddr::V6(v6) => v6.octets().to_vec(),
    }
}
