//! Links, addresses and routes of one network namespace, as batches of rtnetlink messages.
//!
//! A [`Links`] talks to the namespace in which it was opened. Changes are gathered in a [`Batch`] and sent at once; the
//! first refusal is reported with the act it belongs to.

use std::{io, net::IpAddr, os::fd::AsRawFd, os::fd::BorrowedFd};

use ipnet::IpNet;
use netlink_packet_core::{
    DefaultNla, NLM_F_ACK, NLM_F_CREATE, NLM_F_DUMP, NLM_F_EXCL, NLM_F_REPLACE, NLM_F_REQUEST, NetlinkDeserializable,
    NetlinkHeader, NetlinkMessage, NetlinkPayload,
};
use netlink_packet_route::{
    AddressFamily, RouteNetlinkMessage,
    address::{AddressAttribute, AddressFlags, AddressHeaderFlags, AddressMessage},
    link::{
        AfSpecInet6, AfSpecUnspec, BridgePortState, In6AddrGenMode, InfoBridge, InfoBridgePort, InfoData, InfoKind,
        InfoPortData, InfoPortKind, InfoVeth, LinkAttribute, LinkExtentMask, LinkFlags, LinkInfo, LinkMessage,
        LinkProtoInfoBridge, State,
    },
    route::{RouteAttribute, RouteHeader, RouteMessage, RouteProtocol, RouteScope, RouteType},
};

use crate::{
    Error, Result,
    netlink::{Conversation, HEADER, errno},
};

/// `NETLINK_ROUTE`.
const ROUTE: isize = 0;

// linux/if_link.h: options of a bridge port that the library knows only in ordinary link messages.
const IFLA_BRPORT_STATE: u16 = 1;
const IFLA_BRPORT_FLUSH: u16 = 24;

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

/// A veth pair to be made: one end here, the other born in another namespace.
pub(crate) struct Veth<'a> {
    pub(crate) name: &'a str,
    /// The bridge that this end is to be a port of.
    pub(crate) master: Option<u32>,
    /// `None` is the kernel's own.
    pub(crate) mtu: Option<u32>,
    pub(crate) peer_name: &'a str,
    pub(crate) peer_mac: [u8; 6],
    pub(crate) peer_netns: BorrowedFd<'a>,
}

/// Changes to be made together.
#[derive(Default)]
pub(crate) struct Batch {
    changes: Vec<Change>,
}

/// One of them, with the words for its error.
struct Change {
    message: RouteNetlinkMessage,
    flags: u16,
    act: &'static str,
    name: String,
    /// The refusal that says that there was nothing to change.
    needless: Option<i32>,
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

    /// The link by which an address is reached; `None` when it is not.
    pub(crate) fn towards(&mut self, address: IpAddr) -> Result<Option<Link>> {
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
        let link = answers.iter().filter_map(|answer| parse(answer.kind, &answer.payload)).find_map(|message| {
            let RouteNetlinkMessage::NewRoute(route) = message else { return None };
            route.attributes.iter().find_map(|attribute| match attribute {
                RouteAttribute::Oif(index) => Some(*index),
                _ => None,
            })
        });
        link.map_or(Ok(None), |index| self.by_index(index))
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
        let mut query = RouteMessage::default();
        query.header.address_family = if ipv6 { AddressFamily::Inet6 } else { AddressFamily::Inet };
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

impl Batch {
    /// Makes a bridge, up, with this hardware address: a bridge without one of its own takes a port's and changes it
    /// whenever ports come and go, and every pod's neighbour table with it.
    ///
    /// It does not listen for who takes part in which multicast. Where nobody on it asks the pods (a querier: no bridge
    /// does unless it is told to), that is never used to send less, while the kernel restarts two timers of every port
    /// for each port that is added.
    pub(crate) fn make_bridge(&mut self, name: &str, mac: [u8; 6], mtu: u32) {
        let mut message = LinkMessage::default();
        message.header.flags = LinkFlags::Up;
        message.header.change_mask = LinkFlags::Up;
        message.attributes = vec![
            LinkAttribute::IfName(name.to_owned()),
            LinkAttribute::Address(mac.to_vec()),
            LinkAttribute::Mtu(mtu),
            LinkAttribute::LinkInfo(vec![
                LinkInfo::Kind(InfoKind::Bridge),
                LinkInfo::Data(InfoData::Bridge(vec![InfoBridge::MulticastSnooping(false)])),
            ]),
        ];
        self.push(RouteNetlinkMessage::NewLink(message), NLM_F_CREATE | NLM_F_EXCL, "make bridge", name);
    }

    /// Makes a veth pair in one request: this end up, and a port where it is to be one, the other in its own namespace.
    pub(crate) fn make_veth(&mut self, veth: &Veth<'_>) {
        let mut peer = LinkMessage::default();
        peer.attributes = vec![
            LinkAttribute::IfName(veth.peer_name.to_owned()),
            LinkAttribute::Address(veth.peer_mac.to_vec()),
            LinkAttribute::NetNsFd(veth.peer_netns.as_raw_fd()),
        ];
        peer.attributes.extend(veth.mtu.map(LinkAttribute::Mtu));
        let mut message = LinkMessage::default();
        message.header.flags = LinkFlags::Up;
        message.header.change_mask = LinkFlags::Up;
        message.attributes = vec![
            LinkAttribute::IfName(veth.name.to_owned()),
            // What it is given goes on at once: nothing waits on it.
            LinkAttribute::TxQueueLen(0),
            LinkAttribute::LinkInfo(vec![
                LinkInfo::Kind(InfoKind::Veth),
                LinkInfo::Data(InfoData::Veth(InfoVeth::Peer(peer))),
            ]),
        ];
        message.attributes.extend(veth.mtu.map(LinkAttribute::Mtu));
        message.attributes.extend(veth.master.map(LinkAttribute::Controller));
        self.push(RouteNetlinkMessage::NewLink(message), NLM_F_CREATE | NLM_F_EXCL, "make veth", veth.name);
    }

    /// Keeps the kernel from giving the link an IPv6 address of its own making, and routes by it; none is taken away,
    /// so this goes before what gives the link a carrier.
    ///
    /// Each such address is announced and asked for on the whole bridge, so every pod would cost what all others take
    /// to read that, under the lock that the next pod's link waits for.
    pub(crate) fn without_link_local(&mut self, name: &str) {
        let none = AfSpecUnspec::Inet6(vec![AfSpecInet6::AddrGenMode(In6AddrGenMode::None)]);
        let mut message = LinkMessage::default();
        message.attributes = vec![LinkAttribute::IfName(name.to_owned()), LinkAttribute::AfSpecUnspec(vec![none])];
        self.changes.push(Change {
            message: RouteNetlinkMessage::NewLink(message),
            flags: 0,
            act: "leave without a link-local address",
            name: name.to_owned(),
            // A kernel without IPv6, or packets too small for it.
            needless: Some(libc::EAFNOSUPPORT),
        });
    }

    /// Sets what a bridge does with this port.
    pub(crate) fn set_port(&mut self, name: &str, hairpin: bool, isolated: bool) {
        let options = vec![InfoBridgePort::HairpinMode(hairpin), InfoBridgePort::Isolated(isolated)];
        self.push(RouteNetlinkMessage::NewLink(port(name, options)), 0, "set bridge port", name);
    }

    /// Stops a port's traffic at once and forgets the addresses learnt on it. Cheap, unlike taking the link down.
    ///
    /// As a message of the bridge family: the same attributes in an ordinary one end in a notice of change, upon which
    /// the bridge opens the port again.
    pub(crate) fn shut_port(&mut self, index: u32, name: &str) {
        let option = |kind, value| LinkProtoInfoBridge::Other(DefaultNla::new(kind, value));
        let mut message = LinkMessage::default();
        message.header.interface_family = AddressFamily::Bridge;
        message.header.index = index;
        message.attributes = vec![LinkAttribute::ProtoInfoBridge(vec![
            option(IFLA_BRPORT_STATE, vec![BridgePortState::Disabled.into()]),
            option(IFLA_BRPORT_FLUSH, Vec::new()),
        ])];
        self.push(RouteNetlinkMessage::SetLink(message), 0, "shut bridge port", name);
    }

    /// Sets the free text that people see in `ip link`.
    pub(crate) fn set_alias(&mut self, name: &str, alias: &str) {
        let mut message = LinkMessage::default();
        message.attributes = vec![LinkAttribute::IfName(name.to_owned()), LinkAttribute::IfAlias(alias.to_owned())];
        self.push(RouteNetlinkMessage::SetLink(message), 0, "label", name);
    }

    /// Brings the link up.
    pub(crate) fn set_up(&mut self, name: &str) {
        let mut message = LinkMessage::default();
        message.header.flags = LinkFlags::Up;
        message.header.change_mask = LinkFlags::Up;
        message.attributes = vec![LinkAttribute::IfName(name.to_owned())];
        self.push(RouteNetlinkMessage::SetLink(message), 0, "bring up", name);
    }

    /// Adds an address. IPv6 is usable at once: nobody else can have an address that we handed out, so the kernel's
    /// second-long search for a duplicate is left out.
    pub(crate) fn add_address(&mut self, link: u32, net: IpNet) {
        let (message, name) = address(link, net);
        self.push(RouteNetlinkMessage::NewAddress(message), NLM_F_CREATE | NLM_F_EXCL, "add address", &name);
    }

    /// Removes an address.
    pub(crate) fn remove_address(&mut self, link: u32, net: IpNet) {
        let (message, name) = address(link, net);
        self.push(RouteNetlinkMessage::DelAddress(message), 0, "remove address", &name);
    }

    /// Adds a route by way of `gateway`.
    pub(crate) fn add_route(&mut self, link: u32, to: IpNet, gateway: IpAddr) {
        let mut message = route(link, to, RouteScope::Universe);
        message.attributes.push(RouteAttribute::Gateway(gateway.into()));
        let name = format!("{to} via {gateway}");
        self.push(RouteNetlinkMessage::NewRoute(message), NLM_F_CREATE | NLM_F_EXCL, "add route", &name);
    }

    /// The same, of packets that have this address.
    pub(crate) fn add_route_from(&mut self, link: u32, to: IpNet, gateway: IpAddr, from: IpAddr) {
        let mut message = route(link, to, RouteScope::Universe);
        message.attributes.extend([RouteAttribute::Gateway(gateway.into()), RouteAttribute::PrefSource(from.into())]);
        let name = format!("{to} via {gateway}");
        self.push(RouteNetlinkMessage::NewRoute(message), NLM_F_CREATE | NLM_F_EXCL, "add route", &name);
    }

    /// Adds a route to whom the link leads to directly, of packets that have this address.
    pub(crate) fn add_route_to_link(&mut self, link: u32, to: IpNet, from: IpAddr) {
        let mut message = route(link, to, RouteScope::Link);
        message.attributes.push(RouteAttribute::PrefSource(from.into()));
        let name = format!("{to} by link {link}");
        self.push(RouteNetlinkMessage::NewRoute(message), NLM_F_CREATE | NLM_F_EXCL, "add route", &name);
    }

    /// Takes away what the kernel has made of an address's prefix.
    pub(crate) fn remove_route_to_link(&mut self, link: u32, to: IpNet) {
        let mut message = route(link, to, RouteScope::NoWhere);
        message.header.protocol = RouteProtocol::Unspec;
        message.header.kind = RouteType::Unspec;
        self.push(RouteNetlinkMessage::DelRoute(message), 0, "remove route", &format!("{to} by link {link}"));
    }

    /// Has one address be reached by the link, in place of any other by which it was.
    pub(crate) fn add_host_route(&mut self, link: u32, to: IpNet) {
        let message = route(link, to, RouteScope::Host);
        let name = format!("{to} by link {link}");
        self.push(RouteNetlinkMessage::NewRoute(message), NLM_F_CREATE | NLM_F_REPLACE, "add route", &name);
    }

    fn push(&mut self, message: RouteNetlinkMessage, flags: u16, act: &'static str, name: &str) {
        self.changes.push(Change { message, flags, act, name: name.to_owned(), needless: None });
    }
}

impl From<LinkMessage> for Link {
    fn from(message: LinkMessage) -> Self {
        let flags = message.header.flags;
        let mut link = Self { index: message.header.index, up: flags.contains(LinkFlags::Up), ..Self::default() };
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

fn route(link: u32, to: IpNet, scope: RouteScope) -> RouteMessage {
    let mut message = RouteMessage::default();
    message.header = RouteHeader {
        address_family: if to.addr().is_ipv6() { AddressFamily::Inet6 } else { AddressFamily::Inet },
        destination_prefix_length: to.prefix_len(),
        table: RouteHeader::RT_TABLE_MAIN,
        protocol: RouteProtocol::Boot,
        scope,
        kind: RouteType::Unicast,
        ..RouteHeader::default()
    };
    message.attributes = vec![RouteAttribute::Oif(link)];
    if to.prefix_len() > 0 {
        message.attributes.push(RouteAttribute::Destination(to.network().into()));
    }
    message
}

fn port(name: &str, options: Vec<InfoBridgePort>) -> LinkMessage {
    let mut message = LinkMessage::default();
    message.attributes = vec![
        LinkAttribute::IfName(name.to_owned()),
        LinkAttribute::LinkInfo(vec![
            LinkInfo::PortKind(InfoPortKind::Bridge),
            LinkInfo::PortData(InfoPortData::BridgePort(options)),
        ]),
    ];
    message
}

fn address(link: u32, net: IpNet) -> (AddressMessage, String) {
    let mut message = AddressMessage::default();
    message.header.index = link;
    message.header.prefix_len = net.prefix_len();
    message.attributes = vec![AddressAttribute::Local(net.addr()), AddressAttribute::Address(net.addr())];
    match net {
        IpNet::V4(v4) => {
            message.header.family = AddressFamily::Inet;
            // An address alone has nobody beside it.
            if v4.prefix_len() < 31 {
                message.attributes.push(AddressAttribute::Broadcast(v4.broadcast()));
            }
        }
        IpNet::V6(_) => {
            message.header.family = AddressFamily::Inet6;
            message.header.flags = AddressHeaderFlags::Nodad;
            message.attributes.push(AddressAttribute::Flags(AddressFlags::Nodad));
        }
    }
    (message, net.to_string())
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
