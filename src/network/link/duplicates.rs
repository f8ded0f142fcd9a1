//! The kernel's search for somebody else who has an address of IPv6 (RFC 4862, 5.4).

use std::{
    net::IpAddr,
    thread::sleep,
    time::{Duration, Instant},
};

use netlink_packet_route::{
    RouteNetlinkMessage,
    address::{AddressAttribute, AddressFlags, AddressHeaderFlags, AddressMessage},
};

use super::{Link, Links};
use crate::{Error, Result};

/// How long the search may take: as long as the reference plugins give it. It takes one to two seconds.
const SEARCHED_WITHIN: Duration = Duration::from_secs(5);
/// Pause between two looks. Nobody is told of the end.
const LOOK_EVERY: Duration = Duration::from_millis(20);

/// Where the search for one address stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Search {
    Running,
    Unique,
    Duplicate,
}

impl Links {
    /// Waits until it is known that nobody else has the link's addresses of IPv6. One that somebody has is an error,
    /// and so is a search without an end on a link that packets can pass.
    pub(crate) fn await_unique(&mut self, link: &Link) -> Result<()> {
        let deadline = Instant::now() + SEARCHED_WITHIN;
        loop {
            let searches = self.searches(link.index)?;
            if let Some((address, _)) = searches.iter().find(|(_, search)| *search == Search::Duplicate) {
                return Err(Error::Duplicate { link: link.name.clone(), address: *address });
            }
            let Some((address, _)) = searches.iter().find(|(_, search)| *search == Search::Running) else {
                return Ok(());
            };
            if Instant::now() >= deadline {
                let is_running = self.by_index(link.index)?.is_some_and(|link| link.running);
                // Nobody is asked by a link without a carrier.
                return if is_running {
                    let source = std::io::Error::from_raw_os_error(libc::ETIMEDOUT);
                    Err(Error::Link { act: "search for who else has", name: address.to_string(), source })
                } else {
                    Ok(())
                };
            }
            sleep(LOOK_EVERY);
        }
    }

    fn searches(&mut self, link: u32) -> Result<Vec<(IpAddr, Search)>> {
        let messages = self.dump(RouteNetlinkMessage::GetAddress(AddressMessage::default()), "addresses")?;
        let of_link = messages.iter().filter_map(|message| match message {
            RouteNetlinkMessage::NewAddress(found) if found.header.index == link => search(found),
            _ => None,
        });
        Ok(of_link.collect())
    }
}

fn search(found: &AddressMessage) -> Option<(IpAddr, Search)> {
    let address = found.attributes.iter().find_map(|attribute| match attribute {
        AddressAttribute::Address(address) if address.is_ipv6() => Some(*address),
        _ => None,
    })?;
    let has = |header, flag| {
        let is_set = |attribute: &_| matches!(attribute, AddressAttribute::Flags(flags) if flags.contains(flag));
        found.header.flags.contains(header) || found.attributes.iter().any(is_set)
    };
    let search = if has(AddressHeaderFlags::Dadfailed, AddressFlags::Dadfailed) {
        Search::Duplicate
    } else if has(AddressHeaderFlags::Tentative, AddressFlags::Tentative) {
        Search::Running
    } else {
        Search::Unique
    };
    Some((address, search))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn found(address: &str, flags: AddressFlags) -> AddressMessage {
        let mut message = AddressMessage::default();
        message.attributes = vec![AddressAttribute::Address(address.parse().unwrap()), AddressAttribute::Flags(flags)];
        message
    }

    #[test]
    fn a_duplicate_is_told_from_an_address_that_is_searched_for_and_from_a_good_one() {
        let of = |flags| search(&found("fd00::2", flags)).unwrap().1;
        assert_eq!(of(AddressFlags::Permanent), Search::Unique);
        assert_eq!(of(AddressFlags::Tentative | AddressFlags::Permanent), Search::Running);
        assert_eq!(of(AddressFlags::Tentative | AddressFlags::Dadfailed), Search::Duplicate);
        assert_eq!(search(&found("192.0.2.1", AddressFlags::Permanent)), None, "IPv4 is not searched for");
    }
}
