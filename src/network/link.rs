//! Links, addresses and routes of one network namespace, as batches of rtnetlink messages.
//!
//! A [`Links`] talks to the namespace in which it was opened. Changes are gathered in a [`Batch`] and sent at once; the
//! first refusal is reported with the act it belongs to.

use std::{io, net::IpAddr};

use ipnet::IpNet;
use netlink_packet_core::{
    NLM_F_ACK, NLM_F_DUMP, NLM_F_REQUEST, NetlinkDeserializable, NetlinkHeader, NetlinkMessage, NetlinkPayload,
};
use netlink_packet_route::{
    AddressFamily, RouteNetlinkMessage,
    address::{AddressAttribute, AddressMessage},
    link::{InfoKind, LinkAttribute, LinkExtentMask, LinkFlags, LinkInfo, LinkMessage, State},
    route::{RouteAttribute, RouteHeader, RouteMessage, RouteProtocol, RouteType},
};

use crate::{
    Error, Result,
    netlink::{Conversation, HEADER, errno},
};

mod batch;
mod duplicates;

use batch::Change;
pub(crate) use batch::{Batch, Veth};

/// `NETLINK_ROUTE`.
const ROUTE: isize = 0;

/// Most links, addresses or routes that are read of a pod.
const TOLD_IN_POD: usize = 4096;

/// How often a dump is begun anew because the table changed while it was read.
const DUMP_ATTEMPTS: usize = 8;

/// A link as the kernel describes it, as far as this room asks.
#[derive(Debug, Clone, Default)]
pub(crate) struct Link {
    pub(crate) index: u32,
    pub(crate) name: String,
    pub(crate) up: bool,
    /// Packets can pass: administratively up and with a carrier that the kernel has acted upon.
    pub(crate) running: bool,
    pub(crate) mtu: u32,
    /// Its hardware address; zeros for a link that has none, or another kind.
    pub(crate) mac: [u8; 6],
    /// The bridge (or bond, …) that it is a port of.
    pub(crate) master: Option<u32>,
    pub(crate) alias: Option<String>,
    pub(crate) is_bridge: bool,
    pub(crate) is_veth: bool,
    /// Somebody has told it to take every packet.
    pub(crate) takes_all: bool,
}

/// A route of the main table.
#[derive(Debug, Clone)]
pub(crate) struct Route {
    pub(crate) to: IpNet,
    pub(crate) link: Option<u32>,
    /// Learnt from a router's advertisement.
    pub(crate) advertised: bool,
    pub(crate) metric: u32,
}

/// The links of one namespace.
pub(crate) struct Links {
    conversation: Conversation,
}

impl Links {
    /// Opens a conversation with the thread's own network namespace.
    pub(crate) fn open() -> Result<Self> {
        let conversation = Conversation::open(ROUTE).map_err(|source| Error::Link {
            act: "open",
            name: "netlink socket".into(),
            source,
        })?;
        Ok(Self { conversation })
    }

    /// The same for a pod's namespace, in which the pod makes what there is to tell.
    pub(crate) fn open_in_pod() -> Result<Self> {
        let mut links = Self::open()?;
        links.conversation.keep_at_most(TOLD_IN_POD);
        Ok(links)
    }

    /// Carries out the batch in one send. The kernel goes on after a refusal; the first one is returned.
    pub(crate) fn run(&mut self, batch: Batch) -> Result<()> {
        let mut bytes = Vec::new();
        let mut sequences = Vec::with_capacity(batch.changes.len());
        let mut words = Vec::with_capacity(batch.changes.len());
        for Change { message, flags, act, name, needless } in batch.changes {
            let sequence = self.conversation.next_sequence();
            append(&mut bytes, message, NLM_F_REQUEST | NLM_F_ACK | flags, sequence);
            sequences.push(sequence);
            words.push((act, name, needless));
        }
        let Some((act, name, _)) = words.first().cloned() else { return Ok(()) };
        let (_, mut refusals) =
            self.conversation.exchange(&bytes, &sequences, None).map_err(|source| Error::Link { act, name, source })?;
        refusals.sort_by_key(|refusal| refusal.sequence);
        for refusal in refusals {
            let at = sequences.iter().position(|sequence| *sequence == refusal.sequence).unwrap_or(0);
            let (act, name, needless) = words[at].clone();
            if needless.is_none() || errno(&refusal.source) != needless {
                return Err(Error::Link { act, name, source: refusal.source });
            }
        }
        Ok(())
    }

    /// The link of that name. Asking also makes the kernel act upon a carrier that has just come up (Linux 6.8), so
    /// that `running` is not behind the times.
    pub(crate) fn by_name(&mut self, name: &str) -> Result<Option<Link>> {
        let mut query = LinkMessage::default();
        query.attributes = vec![LinkAttribute::IfName(name.to_owned()), without_statistics()];
        self.one(query, name)
    }

    /// Deletes a link; one that is gone is success. The kernel does that synchronously, in tens of milliseconds: never
    /// while a request waits.
    pub(crate) fn delete(&mut self, name: &str) -> Result<()> {
        let Some(link) = self.by_name(name)? else { return Ok(()) };
        let mut message = LinkMessage::default();
        message.header.index = link.index;
        let mut batch = Batch::default();
        batch.push(RouteNetlinkMessage::DelLink(message), 0, "delete link", name);
        match self.run(batch) {
            // It went by itself just now.
            Err(Error::Link { source, .. }) if errno(&source) == Some(libc::ENODEV) => Ok(()),
            done => done,
        }
    }

    /// The link of that index.
    pub(crate) fn by_index(&mut self, index: u32) -> Result<Option<Link>> {
        let mut query = LinkMessage::default();
        query.header.index = index;
        query.attributes = vec![without_statistics()];
        self.one(query, &format!("link {index}"))
    }

    fn one(&mut self, query: LinkMessage, name: &str) -> Result<Option<Link>> {
        let fail = |source| Error::Link { act: "look up", name: name.to_owned(), source };
        let sequence = self.conversation.next_sequence();
        let mut bytes = Vec::new();
        append(&mut bytes, RouteNetlinkMessage::GetLink(query), NLM_F_REQUEST | NLM_F_ACK, sequence);
        let (answers, refusals) = self.conversation.exchange(&bytes, &[sequence], None).map_err(fail)?;
        if let Some(refusal) = refusals.into_iter().next() {
            return match errno(&refusal.source) {
                Some(libc::ENODEV) => Ok(None),
                _ => Err(fail(refusal.source)),
            };
        }
        let found = answers.iter().filter_map(|answer| parse(answer.kind, &answer.payload));
        Ok(found.into_iter().find_map(|message| match message {
            RouteNetlinkMessage::NewLink(link) => Some(Link::from(link)),
            _ => None,
        }))
    }

    /// Index of the link by which an address is reached; `None` when it is not.
    pub(crate) fn towards(&mut self, address: IpAddr) -> Result<Option<u32>> {
        let fail = |source| Error::Link { act: "look up the route to", name: address.to_string(), source };
        let mut query = RouteMessage::default();
        query.header.address_family = if address.is_ipv6() { AddressFamily::Inet6 } else { AddressFamily::Inet };
        query.header.destination_prefix_length = if address.is_ipv6() { 128 } else { 32 };
        query.attributes = vec![RouteAttribute::Destination(address.into())];
        let sequence = self.conversation.next_sequence();
        let mut bytes = Vec::new();
        append(&mut bytes, RouteNetlinkMessage::GetRoute(query), NLM_F_REQUEST | NLM_F_ACK, sequence);
        let (answers, refusals) = self.conversation.exchange(&bytes, &[sequence], None).map_err(fail)?;
        if let Some(refusal) = refusals.into_iter().next() {
            return match errno(&refusal.source) {
                Some(libc::ENETUNREACH | libc::EHOSTUNREACH) => Ok(None),
                _ => Err(fail(refusal.source)),
            };
        }
        Ok(answers.iter().filter_map(|answer| parse(answer.kind, &answer.payload)).find_map(|message| {
            let RouteNetlinkMessage::NewRoute(route) = message else { return None };
            route.attributes.iter().find_map(|attribute| match attribute {
                RouteAttribute::Oif(index) => Some(*index),
                _ => None,
            })
        }))
    }

    /// Every link.
    pub(crate) fn all(&mut self) -> Result<Vec<Link>> {
        let mut query = LinkMessage::default();
        query.attributes = vec![without_statistics()];
        let messages = self.dump(RouteNetlinkMessage::GetLink(query), "links")?;
        Ok(messages
            .into_iter()
            .filter_map(|message| match message {
                RouteNetlinkMessage::NewLink(link) => Some(Link::from(link)),
                _ => None,
            })
            .collect())
    }

    /// Every address with the index of its link.
    pub(crate) fn addresses(&mut self) -> Result<Vec<(u32, IpNet)>> {
        let messages = self.dump(RouteNetlinkMessage::GetAddress(AddressMessage::default()), "addresses")?;
        Ok(messages
            .into_iter()
            .filter_map(|message| match message {
                RouteNetlinkMessage::NewAddress(found) => {
                    // `Local` is ours; on a point-to-point link `Address` is the other side's.
                    let mut local = None;
                    for attribute in &found.attributes {
                        match attribute {
                            AddressAttribute::Local(ip) => local = Some(*ip),
                            AddressAttribute::Address(ip) => local = local.or(Some(*ip)),
                            _ => {}
                        }
                    }
                    Some((found.header.index, IpNet::new(local?, found.header.prefix_len).ok()?))
                }
                _ => None,
            })
            .collect())
    }

    /// The main table's unicast routes of one family.
    pub(crate) fn routes(&mut self, ipv6: bool) -> Result<Vec<Route>> {
        self.routes_of(ipv6, Vec::new())
    }

    /// Those of them that lead out by this link. The kernel picks them, from Linux 4.20 on: a node has a route for
    /// every pod with a link of its own.
    pub(crate) fn routes_by(&mut self, ipv6: bool, link: u32) -> Result<Vec<Route>> {
        let strict = self.conversation.filter_dumps(true);
        let routes = self.routes_of(ipv6, vec![RouteAttribute::Oif(link)]);
        if strict {
            self.conversation.filter_dumps(false);
        }
        let mut routes = routes?;
        routes.retain(|route| route.link == Some(link));
        Ok(routes)
    }

    fn routes_of(&mut self, ipv6: bool, filter: Vec<RouteAttribute>) -> Result<Vec<Route>> {
        let mut query = RouteMessage::default();
        query.header.address_family = if ipv6 { AddressFamily::Inet6 } else { AddressFamily::Inet };
        query.header.table = RouteHeader::RT_TABLE_MAIN;
        query.attributes = filter;
        let messages = self.dump(RouteNetlinkMessage::GetRoute(query), "routes")?;
        Ok(messages
            .into_iter()
            .filter_map(|message| match message {
                RouteNetlinkMessage::NewRoute(route) => Route::of_main(&route, ipv6),
                _ => None,
            })
            .collect())
    }

    fn dump(&mut self, query: RouteNetlinkMessage, what: &'static str) -> Result<Vec<RouteNetlinkMessage>> {
        let fail = |source| Error::Link { act: "list", name: what.to_owned(), source };
        let mut changed = io::Error::from(io::ErrorKind::Interrupted);
        for _ in 0..DUMP_ATTEMPTS {
            let sequence = self.conversation.next_sequence();
            let mut bytes = Vec::new();
            append(&mut bytes, query.clone(), NLM_F_REQUEST | NLM_F_DUMP, sequence);
            match self.conversation.exchange(&bytes, &[sequence], None) {
                Ok((answers, refusals)) => {
                    return match refusals.into_iter().next() {
                        Some(refusal) => Err(fail(refusal.source)),
                        None => Ok(answers.iter().filter_map(|answer| parse(answer.kind, &answer.payload)).collect()),
                    };
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => changed = error,
                Err(error) => return Err(fail(error)),
            }
        }
        Err(fail(changed))
    }
}
impl From<LinkMessage> for Link {
    fn from(message: LinkMessage) -> Self {
        let flags = message.header.flags;
        let mut link = Self {
            index: message.header.index,
            up: flags.contains(LinkFlags::Up),
            takes_all: flags.contains(LinkFlags::Promisc),
            ..Self::default()
        };
        for attribute in message.attributes {
            match attribute {
                LinkAttribute::IfName(name) => link.name = name,
                LinkAttribute::Mtu(mtu) => link.mtu = mtu,
                LinkAttribute::Address(mac) => link.mac = mac.try_into().unwrap_or_default(),
                LinkAttribute::Controller(master) => link.master = Some(master),
                LinkAttribute::IfAlias(alias) => link.alias = Some(alias),
                LinkAttribute::OperState(state) => link.running = state == State::Up,
                LinkAttribute::LinkInfo(infos) => {
                    link.is_veth = infos.iter().any(|info| matches!(info, LinkInfo::Kind(InfoKind::Veth)));
                    link.is_bridge = infos.iter().any(|info| matches!(info, LinkInfo::Kind(InfoKind::Bridge)));
                }
                _ => {}
            }
        }
        link
    }
}

impl Route {
    fn of_main(route: &RouteMessage, ipv6: bool) -> Option<Self> {
        let header = &route.header;
        if header.kind != RouteType::Unicast || header.table != RouteHeader::RT_TABLE_MAIN {
            return None;
        }
        let any: IpAddr = if ipv6 { IpAddr::from([0_u16; 8]) } else { IpAddr::from([0_u8; 4]) };
        let (mut to, mut link, mut metric) = (any, None, 0);
        for attribute in &route.attributes {
            match attribute {
                RouteAttribute::Destination(netlink_packet_route::route::RouteAddress::Inet(v4)) => to = (*v4).into(),
                RouteAttribute::Destination(netlink_packet_route::route::RouteAddress::Inet6(v6)) => to = (*v6).into(),
                RouteAttribute::Oif(index) => link = Some(*index),
                RouteAttribute::Priority(priority) => metric = *priority,
                _ => {}
            }
        }
        let to = IpNet::new(to, header.destination_prefix_length).ok()?;
        Some(Self { to, link, advertised: header.protocol == RouteProtocol::Ra, metric })
    }
}

fn without_statistics() -> LinkAttribute {
    LinkAttribute::ExtMask(vec![LinkExtentMask::SkipStats])
}

fn append(bytes: &mut Vec<u8>, message: RouteNetlinkMessage, flags: u16, sequence: u32) {
    let mut header = NetlinkHeader::default();
    header.flags = flags;
    header.sequence_number = sequence;
    let mut packet = NetlinkMessage::new(header, NetlinkPayload::InnerMessage(message));
    packet.finalize();
    let at = bytes.len();
    // Messages stand on four-byte boundaries.
    bytes.resize(at + packet.buffer_len().next_multiple_of(4), 0);
    packet.serialize(&mut bytes[at..]);
}

/// A message as the library understands it; one that it does not is none of those we asked for.
fn parse(kind: u16, payload: &[u8]) -> Option<RouteNetlinkMessage> {
    let mut header = NetlinkHeader::default();
    header.message_type = kind;
    header.length = u32::try_from(HEADER + payload.len()).ok()?;
    RouteNetlinkMessage::deserialize(&header, payload).ok()
}
