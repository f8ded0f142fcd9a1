//! Maps from ranges of addresses to chains, as the kernel keeps them: by where a range begins and where it ends.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ipnet::IpNet;

use super::{
    rule::Family,
    wire::{attribute, attributes, find, find_text, nested, number, text},
};

// linux/netfilter/nf_tables.h
const LIST_ELEMENT: u16 = 1;
const DATA_VALUE: u16 = 1;
const DATA_VERDICT: u16 = 2;
const VERDICT_CODE: u16 = 1;
const VERDICT_CHAIN: u16 = 2;
const NFT_JUMP: i32 = -3;
const ELEMENT_KEY: u16 = 1;
const ELEMENT_DATA: u16 = 2;
const ELEMENT_FLAGS: u16 = 3;
const INTERVAL_END: u32 = 1;

/// One entry: packets with an address in `net` go through `chain`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Element {
    pub(crate) net: IpNet,
    pub(crate) chain: String,
}

/// A bound of a range; ends are exclusive. A range up to the last address of all has no end.
struct Bound {
    at: u128,
    /// The chain where a range begins; `None` where one ends.
    begins: Option<String>,
}

impl Element {
    /// Appends the entry to a list of elements, as what is added or what is deleted.
    pub(super) fn encode(&self, list: &mut Vec<u8>) {
        let family = Family::of(self.net.addr());
        nested(list, LIST_ELEMENT, |begin| {
            key(begin, family, number_of(self.net.network()));
            nested(begin, ELEMENT_DATA, |data| {
                nested(data, DATA_VERDICT, |verdict| {
                    number(verdict, VERDICT_CODE, NFT_JUMP.cast_unsigned());
                    text(verdict, VERDICT_CHAIN, &self.chain);
                });
            });
        });
        if let Some(after) = number_of(self.net.broadcast()).checked_add(1).filter(|after| fits(family, *after)) {
            nested(list, LIST_ELEMENT, |end| {
                key(end, family, after);
                number(end, ELEMENT_FLAGS, INTERVAL_END);
            });
        }
    }

    /// The entries of a map, from the lists of elements that the kernel gave, in the order of their addresses. A range
    /// that is no network is not one of ours and is left out.
    pub(super) fn decode(family: Family, lists: &[Vec<u8>]) -> Vec<Self> {
        let elements = lists.iter().flat_map(|list| attributes(list));
        let mut bounds: Vec<Bound> = elements.filter_map(|(_, element)| Bound::decode(family, element)).collect();
        // Where one range ends another may begin: the end comes first.
        bounds.sort_by_key(|bound| (bound.at, bound.begins.is_some()));
        let mut found = Vec::new();
        for (index, bound) in bounds.iter().enumerate() {
            let Some(chain) = &bound.begins else { continue };
            let after = bounds.get(index + 1).filter(|next| next.begins.is_none()).map(|next| next.at);
            if let Some(net) = network(family, bound.at, after) {
                found.push(Self { net, chain: chain.clone() });
            }
        }
        found
    }
}

impl Bound {
    fn decode(family: Family, element: &[u8]) -> Option<Self> {
        let value = find(find(element, ELEMENT_KEY)?, DATA_VALUE)?;
        if value.len() != family.width() as usize {
            return None;
        }
        let at = value.iter().fold(0, |number, octet| number << 8 | u128::from(*octet));
        let flags = find(element, ELEMENT_FLAGS).and_then(|flags| flags.try_into().ok()).map_or(0, u32::from_be_bytes);
        let chain = || Some(find_text(find(find(element, ELEMENT_DATA)?, DATA_VERDICT)?, VERDICT_CHAIN));
        Some(Self { at, begins: if flags & INTERVAL_END != 0 { None } else { Some(chain()?) } })
    }
}

fn key(element: &mut Vec<u8>, family: Family, value: u128) {
    let octets = value.to_be_bytes();
    let width = family.width() as usize;
    nested(element, ELEMENT_KEY, |data| attribute(data, DATA_VALUE, &octets[octets.len() - width..]));
}

/// The network from `first` up to, not including, `after`.
fn network(family: Family, first: u128, after: Option<u128>) -> Option<IpNet> {
    let bits = family.width() * 8;
    let host_bits = match after {
        Some(after) => {
            let size = after.checked_sub(first).filter(|size| size.is_power_of_two())?;
            size.trailing_zeros()
        }
        // Up to the last address: as many host bits as it has zeros at its end.
        None => first.trailing_zeros().min(bits),
    };
    let address = match family {
        Family::V4 => IpAddr::V4(Ipv4Addr::from(u32::try_from(first).ok()?)),
        Family::V6 => IpAddr::V6(Ipv6Addr::from(first)),
    };
    let net = IpNet::new(address, u8::try_from(bits.checked_sub(host_bits)?).ok()?).ok()?;
    let last = number_of(net.broadcast());
    let ends_there = after.map_or(!fits_after(family, last), |after| last.checked_add(1) == Some(after));
    (net == net.trunc() && ends_there).then_some(net)
}

/// Whether there is an address after this one.
fn fits_after(family: Family, last: u128) -> bool {
    last.checked_add(1).is_some_and(|after| fits(family, after))
}

fn fits(family: Family, number: u128) -> bool {
    match family {
        Family::V4 => u32::try_from(number).is_ok(),
        Family::V6 => true,
    }
}

fn number_of(address: IpAddr) -> u128 {
    match address {
        IpAddr::V4(v4) => u32::from(v4).into(),
        IpAddr::V6(v6) => v6.into(),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn element(net: &str, chain: &str) -> Element {
        Element { net: net.parse().unwrap(), chain: chain.into() }
    }

    #[test]
    fn neighbouring_ranges_and_the_last_one_are_read_back_as_written() {
        for (family, written) in [
            (Family::V4, vec![element("10.1.0.0/16", "a"), element("10.2.0.0/16", "b"), element("255.0.0.0/8", "c")]),
            (Family::V6, vec![element("fd00:1::/64", "a"), element("fd00:1:0:1::/64", "b"), element("ff00::/8", "c")]),
            (Family::V4, vec![element("0.0.0.0/0", "all")]),
            (Family::V6, vec![element("::/0", "all")]),
        ] {
            // Backwards and each in a list of its own: the kernel promises no order.
            let lists: Vec<Vec<u8>> = written
                .iter()
                .rev()
                .map(|element| {
                    let mut list = Vec::new();
                    element.encode(&mut list);
                    list
                })
                .collect();
            assert_eq!(Element::decode(family, &lists), written);
        }
    }

    proptest! {
        #[test]
        fn no_elements_from_the_kernel_make_it_panic(bytes in prop::collection::vec(any::<u8>(), 0..128)) {
            for family in Family::ALL {
                let _ = Element::decode(family, std::slice::from_ref(&bytes));
            }
        }

        #[test]
        fn what_is_no_network_is_left_out(first: u32, size in 1_u32..) {
            let after = first.checked_add(size).map(u128::from);
            if let Some(net) = network(Family::V4, first.into(), after) {
                prop_assert_eq!(number_of(net.network()), u128::from(first));
                prop_assert_eq!(number_of(net.broadcast()) + 1, after.unwrap_or(1 << 32));
            }
        }
    }
}
