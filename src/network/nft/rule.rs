//! Rules: what they look at in a packet, and what they do with it.

use std::net::IpAddr;

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
const PAYLOAD_NETWORK_HEADER: u32 = 1;
const META_NFPROTO: u32 = 15;
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
}

impl Family {
    pub(crate) const ALL: [Self; 2] = [Self::V4, Self::V6];

    /// The family of an address.
    pub(crate) fn of(address: IpAddr) -> Self {
        if address.is_ipv4() { Self::V4 } else { Self::V6 }
    }

    /// Bytes of an address.
    pub(super) fn width(self) -> u32 {
        match self {
            Self::V4 => 4,
            Self::V6 => 16,
        }
    }

    fn number(self) -> u8 {
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
        expression(list, "meta", |data| {
            number(data, 1, REGISTER_1);
            number(data, 2, META_NFPROTO);
        });
        compare(list, CMP_EQ, &[self.family.number()]);
        match &self.act {
            Act::LookUp { side, map } => {
                self.load(list, *side);
                expression(list, "lookup", |data| {
                    text(data, 1, map);
                    number(data, 2, REGISTER_1);
                    number(data, 3, REGISTER_VERDICT);
                });
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
        }
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
