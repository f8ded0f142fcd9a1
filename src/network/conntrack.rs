//! The kernel's memory of flows: those of UDP that were begun by one port, and how they are forgotten.
//!
//! Raw ctnetlink, as little of it as that takes. The kernel picks the flows by port (`CTA_FILTER`, Linux 5.8), and not
//! by address: those of IPv6 it compares the wrong way round (`ctnetlink_filter_match_tuple`, still so in Linux 6.18).

use std::{
    io,
    net::{IpAddr, SocketAddr},
};

use crate::{
    netlink::{Conversation, errno},
    nft::{
        Family,
        wire::{Head, attribute, find, message, nested},
    },
};

/// `NETLINK_NETFILTER`.
const NETFILTER: isize = 12;
// linux/netfilter/nfnetlink_conntrack.h
const SUBSYSTEM: u16 = 1;
const GET: u16 = 1;
const DELETE: u16 = 2;
const TUPLE_ORIGINAL: u16 = 1;
const TUPLE_REPLY: u16 = 2;
const TUPLE_ADDRESSES: u16 = 1;
const TUPLE_PROTOCOL: u16 = 2;
const SOURCE_V4: u16 = 1;
const DESTINATION_V4: u16 = 2;
const SOURCE_V6: u16 = 3;
const DESTINATION_V6: u16 = 4;
const PROTOCOL_NUMBER: u16 = 1;
const SOURCE_PORT: u16 = 2;
const DESTINATION_PORT: u16 = 3;
const ID: u16 = 12;
const ZONE: u16 = 18;
const FILTER: u16 = 25;
const FILTER_ORIGINAL_FLAGS: u16 = 1;
const FILTER_PROTOCOL_NUMBER: u32 = 1 << 3;
const FILTER_DESTINATION_PORT: u32 = 1 << 5;
/// Size of `struct nfgenmsg` in bytes.
const GENMSG: usize = 4;
// linux/netlink.h
const NLA_F_NESTED: u16 = 0x8000;
const NLM_F_REQUEST: u16 = 1;
const NLM_F_ACK: u16 = 4;
const NLM_F_DUMP: u16 = 0x300;
const UDP: u8 = 17;

/// How often a dump is begun anew because the table changed while it was read.
const DUMP_ATTEMPTS: usize = 8;

/// Flows that are forgotten in one send: each has an answer, and the answers have to fit the socket.
const FORGOTTEN_AT_ONCE: usize = 64;

/// A conversation about the flows of the thread's own network namespace.
#[derive(Debug)]
pub(crate) struct Conntrack {
    conversation: Conversation,
}

/// What a client has begun.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Flow {
    /// Where it sends.
    pub(crate) to: SocketAddr,
    /// Where that goes in truth: who answers.
    pub(crate) answered_by: SocketAddr,
    /// The attributes by which the kernel knows it.
    name: Vec<u8>,
}

impl Conntrack {
    pub(crate) fn open() -> io::Result<Self> {
        Ok(Self { conversation: Conversation::open(NETFILTER)? })
    }

    /// Every flow of UDP that began with a packet to this port of any address. The kernel walks all that it remembers.
    pub(crate) fn udp_to(&mut self, family: Family, port: u16) -> io::Result<Vec<Flow>> {
        for _ in 0..DUMP_ATTEMPTS {
            let head = self.head(GET, NLM_F_DUMP, family);
            let mut bytes = Vec::new();
            message(&mut bytes, &head, |body| {
                nested(body, TUPLE_ORIGINAL, |tuple| {
                    nested(tuple, TUPLE_PROTOCOL, |protocol| {
                        attribute(protocol, PROTOCOL_NUMBER, &[UDP]);
                        attribute(protocol, DESTINATION_PORT, &port.to_be_bytes());
                    });
                });
                nested(body, FILTER, |filter| {
                    // Not in network order, unlike the rest.
                    let flags = FILTER_PROTOCOL_NUMBER | FILTER_DESTINATION_PORT;
                    attribute(filter, FILTER_ORIGINAL_FLAGS, &flags.to_ne_bytes());
                });
            });
            match self.conversation.exchange(&bytes, &[head.sequence], None) {
                Ok((answers, refusals)) => {
                    let flow = |payload: &[u8]| Flow::decode(family, payload.get(GENMSG..)?);
                    let flows = answers.iter().filter_map(|answer| flow(&answer.payload));
                    return match refusals.into_iter().next() {
                        Some(refusal) => Err(refusal.source),
                        None => Ok(flows.filter(|flow| flow.to.port() == port).collect()),
                    };
                }
                // The table changed while it was read.
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        Err(io::ErrorKind::Interrupted.into())
    }

    /// Forgets flows: their next packet is a first one. One that is gone is success.
    pub(crate) fn forget(&mut self, family: Family, flows: &[Flow]) -> io::Result<()> {
        for flows in flows.chunks(FORGOTTEN_AT_ONCE) {
            let (mut bytes, mut sequences) = (Vec::new(), Vec::new());
            for flow in flows {
                let head = self.head(DELETE, NLM_F_ACK, family);
                sequences.push(head.sequence);
                message(&mut bytes, &head, |body| body.extend(&flow.name));
            }
            let (_, refusals) = self.conversation.exchange(&bytes, &sequences, None)?;
            if let Some(refusal) = refusals.into_iter().find(|refusal| errno(&refusal.source) != Some(libc::ENOENT)) {
                return Err(refusal.source);
            }
        }
        Ok(())
    }

    fn head(&mut self, kind: u16, flags: u16, family: Family) -> Head {
        let sequence = self.conversation.next_sequence();
        Head {
            kind: SUBSYSTEM << 8 | kind,
            flags: NLM_F_REQUEST | flags,
            sequence,
            family: family.number(),
            resource: 0,
        }
    }
}

impl Flow {
    /// Reads what the kernel tells of one; `None` for what is not UDP, or not whole.
    fn decode(family: Family, body: &[u8]) -> Option<Self> {
        let (original, reply) = (find(body, TUPLE_ORIGINAL)?, find(body, TUPLE_REPLY)?);
        if find(find(original, TUPLE_PROTOCOL)?, PROTOCOL_NUMBER)? != [UDP] {
            return None;
        }
        let (source, destination) = match family {
            Family::V4 => (SOURCE_V4, DESTINATION_V4),
            Family::V6 => (SOURCE_V6, DESTINATION_V6),
        };
        let mut name = Vec::new();
        attribute(&mut name, TUPLE_ORIGINAL | NLA_F_NESTED, original);
        // Of a flow that has ended meanwhile another may have the tuple; and one tuple may be in several zones.
        for kind in [ID, ZONE] {
            if let Some(value) = find(body, kind) {
                attribute(&mut name, kind, value);
            }
        }
        let to = end(original, destination, DESTINATION_PORT)?;
        Some(Self { to, answered_by: end(reply, source, SOURCE_PORT)?, name })
    }

    #[cfg(test)]
    pub(crate) fn between(to: SocketAddr, answered_by: SocketAddr) -> Self {
        Self { to, answered_by, name: Vec::new() }
    }
}

/// One end of a tuple.
fn end(tuple: &[u8], address: u16, port: u16) -> Option<SocketAddr> {
    let octets = find(find(tuple, TUPLE_ADDRESSES)?, address)?;
    let v4 = || <[u8; 4]>::try_from(octets).ok().map(IpAddr::from);
    let address = v4().or_else(|| <[u8; 16]>::try_from(octets).ok().map(IpAddr::from))?;
    let port = find(find(tuple, TUPLE_PROTOCOL)?, port)?;
    Some(SocketAddr::new(address, u16::from_be_bytes(port.try_into().ok()?)))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn no_flow_from_the_kernel_makes_it_panic(bytes in prop::collection::vec(any::<u8>(), 0..160)) {
            for family in Family::ALL {
                let _ = Flow::decode(family, &bytes);
            }
        }
    }
}
