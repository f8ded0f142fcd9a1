//! One port of the host's that a pod holds, and its elements.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use ipnet::IpNet;
use model::Protocol;

use super::{
    Mapping,
    table::{LOCAL_SET, near_set},
};
use crate::{
    Error, Result,
    masquerade::TABLE,
    nft::{Exact, Family, Form, Part, Transaction, join},
};

/// A port of the host's, of one address or of every one of a family, and where it leads.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) struct Held {
    pub(super) protocol: Number,
    pub(super) at: Option<IpAddr>,
    pub(super) port: u16,
    pub(super) to: SocketAddr,
}

/// A protocol by its number.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) struct Number(u8);

/// An element of one of the sets and maps.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Placed {
    pub(super) set: String,
    element: Exact,
    /// Whether several ports may have the same one.
    pub(super) is_shared: bool,
}

/// Bytes of a link's name in a key.
const LINK: usize = 16;
/// What the sets' keys are.
pub(super) const NEAR: Form = Form { key: &[Part::Link, Part::Protocol, Part::Port], value: &[] };
pub(super) const LOCAL: Form = Form { key: &[Part::Protocol, Part::Port], value: &[] };

/// Which of the maps.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Place {
    pub(super) family: Family,
    pub(super) by_address: bool,
}

impl Number {
    pub(super) const UDP: Self = Self(17);

    fn of(protocol: Protocol) -> Self {
        Self(match protocol {
            Protocol::Tcp => 6,
            Protocol::Udp => 17,
            Protocol::Sctp => 132,
        })
    }

    /// As people write it.
    pub(super) fn name(self) -> &'static str {
        match self.0 {
            6 => "TCP",
            17 => "UDP",
            132 => "SCTP",
            _ => "another protocol",
        }
    }
}

/// The ports that these mappings ask for, on the first address of each family that the pod has. One port of one address
/// that is to lead to two is refused, and so is a host's address of a family that the pod lacks. The same pod may have
/// a port of every address and of one, too: that one goes before.
pub(super) fn of(mappings: &[Mapping], addresses: &[IpNet]) -> Result<Vec<Held>> {
    let first = |family| addresses.iter().map(IpNet::addr).find(|address| Family::of(*address) == family);
    let refused = |why: String| Err(Error::Asked { capability: "portMappings".into(), why });
    let mut all: Vec<Held> = Vec::new();
    for Mapping { protocol, host_port, container_port, host_ip } in mappings.iter().copied() {
        let families = match host_ip {
            // Every address of that family: as the reference plugin takes it.
            Some(ip) => vec![Family::of(ip)],
            None => Family::ALL.to_vec(),
        };
        let mut leads_somewhere = false;
        for family in families {
            let Some(pod) = first(family) else { continue };
            leads_somewhere = true;
            let held = Held {
                protocol: Number::of(protocol),
                at: host_ip.filter(|ip| !ip.is_unspecified()),
                port: host_port,
                to: SocketAddr::new(pod, container_port),
            };
            match all.iter().find(|other| other.is_in_place_of(&held)) {
                Some(other) if other.to == held.to => {}
                Some(other) => {
                    let ports = [other.to.port(), container_port];
                    return refused(format!("host port {host_port} is to lead to both {} and {}", ports[0], ports[1]));
                }
                None => all.push(held),
            }
        }
        if !leads_somewhere {
            let ip = host_ip.map_or_else(|| "every address".to_owned(), |ip| ip.to_string());
            return refused(format!("host port {host_port} of {ip}: the pod has no address of that family"));
        }
    }
    Ok(all)
}

impl Held {
    /// Whether both have the same element.
    fn is_in_place_of(&self, other: &Self) -> bool {
        (self.place(), self.at, self.protocol, self.port) == (other.place(), other.at, other.protocol, other.port)
    }

    /// Whether two pods cannot both have theirs: they are the same port of some address.
    pub(super) fn collides(&self, other: &Self) -> bool {
        let same_family = self.to.is_ipv4() == other.to.is_ipv4();
        let share = match (self.at, other.at) {
            (Some(one), Some(other)) => one == other,
            _ => true,
        };
        same_family && share && (self.protocol, self.port) == (other.protocol, other.port)
    }

    fn place(&self) -> Place {
        Place { family: Family::of(self.to.ip()), by_address: self.at.is_some() }
    }

    /// What leads to the pod.
    pub(super) fn element(&self, comment: &str) -> Placed {
        let (protocol, port) = ([self.protocol.0], self.port.to_be_bytes());
        let key = match self.at {
            Some(at) => join(&[&octets(at), &protocol, &port]),
            None => join(&[&protocol, &port]),
        };
        let value = join(&[&octets(self.to.ip()), &self.to.port().to_be_bytes()]);
        Placed { set: self.place().map(), element: Exact { key, value, comment: comment.into() }, is_shared: false }
    }

    /// From where else it is reached. Two ports of one number, of several addresses of the host's, share these.
    pub(super) fn near(&self, link: &str, comment: &str) -> impl Iterator<Item = Placed> {
        let (protocol, port) = ([self.protocol.0], self.port.to_be_bytes());
        let mut name = link.as_bytes().to_vec();
        name.resize(LINK, 0);
        let family = self.place().family;
        let placed = |set: &str, key| Placed {
            set: set.to_owned(),
            element: Exact { key, value: Vec::new(), comment: comment.into() },
            is_shared: true,
        };
        let by_link = placed(near_set(family), join(&[&name, &protocol, &port]));
        let local = (family == Family::V4).then(|| placed(LOCAL_SET, join(&[&protocol, &port])));
        std::iter::once(by_link).chain(local)
    }

    /// What an element says; `None` for one that is not of ours.
    pub(super) fn read(place: Place, element: &Exact) -> Option<Self> {
        let width = place.family.bytes();
        let (at, rest) = element.key.split_at_checked(if place.by_address { width } else { 0 })?;
        let [protocol, _, _, _, high, low, _, _] = *rest else { return None };
        let (to, port) = element.value.split_at_checked(width)?;
        let [to_high, to_low, _, _] = *port else { return None };
        Some(Self {
            protocol: Number(protocol),
            at: if place.by_address { Some(address(at)?) } else { None },
            port: u16::from_be_bytes([high, low]),
            to: SocketAddr::new(address(to)?, u16::from_be_bytes([to_high, to_low])),
        })
    }
}

impl Placed {
    /// Where it stands, whatever it says.
    pub(super) fn place(&self) -> (String, Vec<u8>) {
        (self.set.clone(), self.element.key.clone())
    }

    pub(super) fn add(&self, change: &mut Transaction<'_>) {
        if self.is_shared {
            change.add_exact_again(TABLE, &self.set, &self.element);
        } else {
            change.add_exact(TABLE, &self.set, &self.element);
        }
    }

    pub(super) fn remove(&self, change: &mut Transaction<'_>) {
        change.remove_exact(TABLE, &self.set, &self.element);
    }
}

/// The link that an element of a near set names.
pub(super) fn link_of(element: &Exact) -> Option<String> {
    let name = element.key.get(..LINK)?.split(|byte| *byte == 0).next()?;
    String::from_utf8(name.to_vec()).ok().filter(|name| !name.is_empty())
}

impl Place {
    /// All four.
    pub(super) fn all() -> impl Iterator<Item = Self> {
        let both = |family| [false, true].map(|by_address| Self { family, by_address });
        Family::ALL.into_iter().flat_map(both)
    }

    /// The map's name.
    pub(super) fn map(self) -> String {
        let at = if self.by_address { "at-" } else { "" };
        let family = if self.family == Family::V4 { "v4" } else { "v6" };
        format!("host-ports-{at}{family}")
    }

    pub(super) fn form(self) -> Form {
        use Part::{Ipv4, Ipv6, Port, Protocol};
        match (self.family, self.by_address) {
            (Family::V4, false) => Form { key: &[Protocol, Port], value: &[Ipv4, Port] },
            (Family::V4, true) => Form { key: &[Ipv4, Protocol, Port], value: &[Ipv4, Port] },
            (Family::V6, false) => Form { key: &[Protocol, Port], value: &[Ipv6, Port] },
            (Family::V6, true) => Form { key: &[Ipv6, Protocol, Port], value: &[Ipv6, Port] },
        }
    }
}

fn octets(address: IpAddr) -> Vec<u8> {
    match address {
        IpAddr::V4(v4) => v4.octets().to_vec(),
        IpAddr::V6(v6) => v6.octets().to_vec(),
    }
}

fn address(octets: &[u8]) -> Option<IpAddr> {
    let v4 = || <[u8; 4]>::try_from(octets).ok().map(|octets| Ipv4Addr::from(octets).into());
    v4().or_else(|| <[u8; 16]>::try_from(octets).ok().map(|octets| Ipv6Addr::from(octets).into()))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn mapping(host_port: u16, host_ip: Option<&str>) -> Mapping {
        let host_ip = host_ip.map(|ip| ip.parse().unwrap());
        Mapping { protocol: Protocol::Tcp, host_port, container_port: 80, host_ip }
    }

    fn nets(list: &[&str]) -> Vec<IpNet> {
        list.iter().map(|net| net.parse().unwrap()).collect()
    }

    #[test]
    fn a_port_leads_to_the_first_address_of_each_family() {
        let both = nets(&["fd00::2/64", "10.1.0.2/16", "10.1.0.3/16"]);
        let shown = |mapping: Mapping| {
            let held = of(&[mapping], &both).unwrap();
            held.iter().map(|held| format!("{:?} {}", held.at, held.to)).collect::<Vec<_>>()
        };
        assert_eq!(shown(mapping(8080, None)), ["None 10.1.0.2:80", "None [fd00::2]:80"]);
        assert_eq!(shown(mapping(8080, Some("0.0.0.0"))), ["None 10.1.0.2:80"]);
        assert_eq!(shown(mapping(8080, Some("::"))), ["None [fd00::2]:80"]);
        assert_eq!(shown(mapping(8080, Some("192.0.2.1"))), ["Some(192.0.2.1) 10.1.0.2:80"]);
        let v4 = nets(&["10.1.0.2/16"]);
        assert_eq!(of(&[mapping(8080, None)], &v4).unwrap().len(), 1);
        let refused = of(&[mapping(8080, Some("2001:db8::1"))], &v4).unwrap_err().to_string();
        assert!(refused.contains("8080") && refused.contains("2001:db8::1"), "{refused}");
    }

    #[test]
    fn two_pods_cannot_share_a_port_of_an_address_and_one_can_unless_it_leads_to_two() {
        let v4 = nets(&["10.1.0.2/16"]);
        for (one, other, is_free, in_one_pod) in [
            (None, None, false, false),
            (None, Some("192.0.2.1"), false, true),
            (Some("192.0.2.1"), Some("192.0.2.1"), false, false),
            (Some("192.0.2.1"), Some("192.0.2.2"), true, true),
            (Some("0.0.0.0"), Some("192.0.2.2"), false, true),
            (Some("0.0.0.0"), None, false, false),
        ] {
            let (one, other) = (mapping(80, one), Mapping { container_port: 81, ..mapping(80, other) });
            let held = |mapping| of(&[mapping], &v4).unwrap()[0];
            assert_eq!(held(one).collides(&held(other)), !is_free, "{one:?} {other:?}");
            assert_eq!(of(&[one, other], &v4).is_ok(), in_one_pod, "{one:?} {other:?}");
            assert_eq!(of(&[one, one], &v4).unwrap().len(), 1, "the same again");
        }
        let refused = of(&[mapping(80, None), Mapping { container_port: 81, ..mapping(80, None) }], &v4);
        let refused = refused.unwrap_err().to_string();
        assert!(refused.contains("host port 80") && refused.contains("80 and 81"), "{refused}");
        let udp = Mapping { protocol: Protocol::Udp, ..mapping(80, None) };
        assert_eq!(of(&[mapping(80, None), udp, mapping(81, None)], &v4).unwrap().len(), 3);
    }

    proptest! {
        #[test]
        fn an_element_is_read_back_as_written(port: u16, to: u16, v6: bool, at: bool, protocol: u8) {
            let pod: IpAddr = if v6 { "fd00::2".parse().unwrap() } else { "10.1.0.2".parse().unwrap() };
            let host: IpAddr = if v6 { "fd00::1".parse().unwrap() } else { "10.1.0.1".parse().unwrap() };
            let held = Held {
                protocol: Number(protocol),
                at: at.then_some(host),
                port,
                to: SocketAddr::new(pod, to),
            };
            prop_assert_eq!(Held::read(held.place(), &held.element("a pod").element), Some(held));
        }

        #[test]
        fn no_element_makes_the_reader_panic(
            key in prop::collection::vec(any::<u8>(), 0..40),
            value in prop::collection::vec(any::<u8>(), 0..40),
        ) {
            let element = Exact { key, value, comment: String::new() };
            for place in Place::all() {
                let _ = Held::read(place, &element);
            }
            let _ = link_of(&element);
        }
    }
}
