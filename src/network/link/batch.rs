//! Changes to links, addresses and routes, gathered and sent at once.

use std::{net::IpAddr, os::fd::AsRawFd, os::fd::BorrowedFd};

use ipnet::IpNet;
use netlink_packet_core::{DefaultNla, NLM_F_CREATE, NLM_F_EXCL, NLM_F_REPLACE};
use netlink_packet_route::{
    AddressFamily, RouteNetlinkMessage,
    address::{AddressAttribute, AddressFlags, AddressHeaderFlags, AddressMessage},
    link::{
        AfSpecInet6, AfSpecUnspec, BridgePortState, In6AddrGenMode, InfoBridge, InfoBridgePort, InfoData, InfoKind,
        InfoPortData, InfoPortKind, InfoVeth, LinkAttribute, LinkFlags, LinkInfo, LinkMessage, LinkProtoInfoBridge,
    },
    route::{RouteAttribute, RouteHeader, RouteMessage, RouteProtocol, RouteScope, RouteType},
};

// linux/if_link.h: options of a bridge port that the library knows only in ordinary link messages.
const IFLA_BRPORT_STATE: u16 = 1;
const IFLA_BRPORT_FLUSH: u16 = 24;
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
    pub(super) changes: Vec<Change>,
}

/// One of them, with the words for its error.
pub(super) struct Change {
    pub(super) message: RouteNetlinkMessage,
    pub(super) flags: u16,
    pub(super) act: &'static str,
    pub(super) name: String,
    /// The refusal that says that there was nothing to change.
    pub(super) needless: Option<i32>,
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

    /// Has the link take every packet, whoever it is for.
    pub(crate) fn take_all(&mut self, name: &str) {
        let mut message = LinkMessage::default();
        message.header.flags = LinkFlags::Promisc;
        message.header.change_mask = LinkFlags::Promisc;
        message.attributes = vec![LinkAttribute::IfName(name.to_owned())];
        self.push(RouteNetlinkMessage::SetLink(message), 0, "have take all packets", name);
    }

    /// Gives the link this hardware address for good, where it had one that it might change by itself.
    pub(crate) fn set_mac(&mut self, name: &str, mac: [u8; 6]) {
        let mut message = LinkMessage::default();
        message.attributes = vec![LinkAttribute::IfName(name.to_owned()), LinkAttribute::Address(mac.to_vec())];
        self.push(RouteNetlinkMessage::SetLink(message), 0, "give its hardware address to", name);
    }

    /// Adds an address. IPv6 is usable at once: nobody else can have an address that we handed out, so the kernel's
    /// second-long search for a duplicate is left out.
    pub(crate) fn add_address(&mut self, link: u32, net: IpNet) {
        let (message, name) = address(link, net);
        self.push(RouteNetlinkMessage::NewAddress(message), NLM_F_CREATE | NLM_F_EXCL, "add address", &name);
    }

    /// Adds an address after the kernel's search for a duplicate, where the link is one that searches:
    /// [`crate::link::Links::await_unique`] tells how that ends.
    pub(crate) fn add_address_if_unique(&mut self, link: u32, net: IpNet) {
        let (mut message, name) = address(link, net);
        message.header.flags = AddressHeaderFlags::empty();
        message.attributes.retain(|attribute| !matches!(attribute, AddressAttribute::Flags(_)));
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

    pub(super) fn push(&mut self, message: RouteNetlinkMessage, flags: u16, act: &'static str, name: &str) {
        self.changes.push(Change { message, flags, act, name: name.to_owned(), needless: None });
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
