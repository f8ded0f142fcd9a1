//! The kernel's memory of flows: those of UDP that have to be forgotten when what they lead to has changed.
//!
//! Raw ctnetlink, as little of it as that takes. The kernel picks the flows (`CTA_FILTER`, Linux 5.8).

use std::io;

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
const TUPLE_PROTOCOL: u16 = 2;
const PROTOCOL_NUMBER: u16 = 1;
const PROTOCOL_DESTINATION_PORT: u16 = 3;
const ID: u16 = 12;
const FILTER: u16 = 25;
const FILTER_ORIGINAL_FLAGS: u16 = 1;
const FILTER_PROTOCOL_NUMBER: u32 = 1 << 3;
const FILTER_PROTOCOL_DESTINATION_PORT: u32 = 1 << 5;
/// Size of `struct nfgenmsg` in bytes.
const GENMSG: usize = 4;
// linux/netlink.h
const NLM_F_REQUEST: u16 = 1;
const NLM_F_ACK: u16 = 4;
const NLM_F_DUMP: u16 = 0x300;
const UDP: u8 = 17;

/// Forgets every flow of UDP that began with a packet to this port, whichever address it was sent to.
pub(crate) fn forget_udp(family: Family, port: u16) -> io::Result<()> {
    let mut conversation = Conversation::open(NETFILTER)?;
    for _ in 0..DUMP_ATTEMPTS {
        match flows(&mut conversation, family, port) {
            Ok(flows) => return flows.iter().try_for_each(|flow| forget(&mut conversation, family, flow)),
            // The table changed while it was read.
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Err(io::ErrorKind::Interrupted.into())
}

/// How often a dump is begun anew.
const DUMP_ATTEMPTS: usize = 8;

/// Attributes of each such flow.
fn flows(conversation: &mut Conversation, family: Family, port: u16) -> io::Result<Vec<Vec<u8>>> {
    let head = head(conversation, GET, NLM_F_DUMP, family);
    let mut bytes = Vec::new();
    message(&mut bytes, &head, |body| {
        nested(body, TUPLE_ORIGINAL, |tuple| {
            nested(tuple, TUPLE_PROTOCOL, |protocol| {
                attribute(protocol, PROTOCOL_NUMBER, &[UDP]);
                attribute(protocol, PROTOCOL_DESTINATION_PORT, &port.to_be_bytes());
            });
        });
        nested(body, FILTER, |filter| {
            let flags = FILTER_PROTOCOL_NUMBER | FILTER_PROTOCOL_DESTINATION_PORT;
            attribute(filter, FILTER_ORIGINAL_FLAGS, &flags.to_ne_bytes());
        });
    });
    let (answers, refusals) = conversation.exchange(&bytes, &[head.sequence], None)?;
    match refusals.into_iter().next() {
        Some(refusal) => Err(refusal.source),
        None => Ok(answers.into_iter().filter_map(|answer| Some(answer.payload.get(GENMSG..)?.to_vec())).collect()),
    }
}

fn forget(conversation: &mut Conversation, family: Family, flow: &[u8]) -> io::Result<()> {
    let (Some(tuple), Some(id)) = (find(flow, TUPLE_ORIGINAL), find(flow, ID)) else { return Ok(()) };
    let head = head(conversation, DELETE, NLM_F_ACK, family);
    let mut bytes = Vec::new();
    message(&mut bytes, &head, |body| {
        nested(body, TUPLE_ORIGINAL, |own| own.extend(tuple));
        // Of a flow that has ended meanwhile another may have the tuple.
        attribute(body, ID, id);
    });
    let (_, refusals) = conversation.exchange(&bytes, &[head.sequence], None)?;
    match refusals.into_iter().next() {
        Some(refusal) if errno(&refusal.source) == Some(libc::ENOENT) => Ok(()),
        Some(refusal) => Err(refusal.source),
        None => Ok(()),
    }
}

fn head(conversation: &mut Conversation, kind: u16, flags: u16, family: Family) -> Head {
    let sequence = conversation.next_sequence();
    Head { kind: SUBSYSTEM << 8 | kind, flags: NLM_F_REQUEST | flags, sequence, family: family.number(), resource: 0 }
}
