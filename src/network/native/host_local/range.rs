//! Ranges of addresses: checking them, and walking them in the reference plugin's order.

use std::{
    fmt,
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
};

use ipnet::IpNet;
use serde::{Deserialize, Serialize};

use crate::{Error, Result};

/// A range as written; what is missing has the reference plugin's defaults.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub(crate) struct RangeConf {
    pub(crate) subnet: IpNet,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) range_start: Option<IpAddr>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) range_end: Option<IpAddr>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) gateway: Option<IpAddr>,
}

/// A checked range: `start` and `end` are in `subnet` and may both be handed out, the gateway never is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Range {
    pub(crate) subnet: IpNet,
    pub(crate) gateway: IpAddr,
    start: u128,
    end: u128,
}

/// Ranges of one family that a pod gets one address out of.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct RangeSet {
    ranges: Vec<Range>,
}

impl Range {
    fn new(key: &str, conf: &RangeConf) -> Result<Self> {
        let refusal = |field: &str, why: String| Error::Conflist { key: format!("{key}.{field}"), why };
        let subnet = conf.subnet;
        if subnet.addr() != subnet.network() {
            return Err(refusal("subnet", format!("{subnet} has host bits set; the network is {}", subnet.trunc())));
        }
        // Two bits: network, broadcast, gateway and one pod are the least that makes sense.
        if subnet.max_prefix_len() - subnet.prefix_len() < 2 {
            return Err(refusal("subnet", format!("{subnet} is too small to hand out addresses")));
        }
        let inside = |field: &str, given: Option<IpAddr>, default: u128| match given {
            None => Ok(default),
            Some(address) if subnet.contains(&address) => Ok(number(address)),
            Some(address) => Err(refusal(field, format!("{address} is not in {subnet}"))),
        };
        let first = number(subnet.network()) + 1;
        // The broadcast address of IPv4 is nobody's; IPv6 has none.
        let last = number(subnet.broadcast()) - u128::from(subnet.addr().is_ipv4());
        let start = inside("rangeStart", conf.range_start, first)?;
        let end = inside("rangeEnd", conf.range_end, last)?;
        let gateway = inside("gateway", conf.gateway, first)?;
        if start > end {
            return Err(refusal("rangeStart", format!("{} is after rangeEnd", address(start, subnet))));
        }
        // A range written down to the edges still never hands out the network's or the broadcast address.
        let (start, end) = (start.max(first), end.min(last));
        Ok(Self { gateway: address(gateway, subnet), subnet, start, end })
    }

    fn contains(&self, candidate: IpAddr) -> bool {
        candidate.is_ipv4() == self.subnet.addr().is_ipv4()
            && (self.start..=self.end).contains(&number(candidate))
            && candidate != self.gateway
    }

    /// How many numbers it spans, the gateway included. Saturates at the largest, which no directory can fill anyway.
    fn span(&self) -> u128 {
        (self.end - self.start).saturating_add(1)
    }
}

impl RangeSet {
    /// Checks the set that stands at `at` in the configuration.
    pub(crate) fn new(at: usize, confs: &[RangeConf]) -> Result<Self> {
        let refused = |key: String, why: &str| Err(Error::Conflist { key, why: why.to_owned() });
        if confs.is_empty() {
            return refused(format!("ipam.ranges[{at}]"), "a set needs at least one range");
        }
        let ranges: Vec<Range> = confs
            .iter()
            .enumerate()
            .map(|(n, conf)| Range::new(&format!("ipam.ranges[{at}][{n}]"), conf))
            .collect::<Result<_>>()?;
        for (n, range) in ranges.iter().enumerate() {
            let key = || format!("ipam.ranges[{at}][{n}]");
            if range.subnet.addr().is_ipv4() != ranges[0].subnet.addr().is_ipv4() {
                return refused(key(), "a set holds IPv4 or IPv6, not both");
            }
            if ranges[..n].iter().any(|other| other.start <= range.end && range.start <= other.end) {
                return refused(key(), "overlaps with an earlier range of the set");
            }
        }
        Ok(Self { ranges })
    }

    pub(crate) fn ranges(&self) -> impl Iterator<Item = &Range> {
        self.ranges.iter()
    }

    /// The range that may hand out this address.
    pub(crate) fn range_of(&self, candidate: IpAddr) -> Option<&Range> {
        self.ranges.iter().find(|range| range.contains(candidate))
    }

    /// Whether some address is in both.
    pub(crate) fn overlaps(&self, other: &Self) -> bool {
        self.ranges.iter().any(|a| {
            other
                .ranges
                .iter()
                .any(|b| a.subnet.addr().is_ipv4() == b.subnet.addr().is_ipv4() && a.start <= b.end && b.start <= a.end)
        })
    }

    /// How many addresses it can hand out.
    pub(crate) fn size(&self) -> u128 {
        let of = |range: &Range| {
            let gateway = (range.start..=range.end).contains(&number(range.gateway));
            range.span() - u128::from(gateway)
        };
        self.ranges.iter().map(of).fold(0, u128::saturating_add)
    }

    /// Every address once, beginning after `last` (round robin), gateways left out.
    pub(crate) fn walk(&self, last: Option<IpAddr>) -> impl Iterator<Item = IpAddr> + '_ {
        let from = last.and_then(|last| {
            let range = self.ranges.iter().position(|range| range.contains(last))?;
            Some((range, number(last)))
        });
        let steps = self.ranges.iter().map(Range::span).fold(0, u128::saturating_add);
        // Before the first address there is none: the walk then begins by entering range 0.
        let (mut range, mut at) = from.map_or((0, None), |(range, at)| (range, Some(at)));
        let mut done = 0;
        std::iter::from_fn(move || {
            if done == steps {
                return None;
            }
            done += 1;
            let next = match at {
                None => self.ranges[range].start,
                Some(at) if at < self.ranges[range].end => at + 1,
                Some(_) => {
                    range = (range + 1) % self.ranges.len();
                    self.ranges[range].start
                }
            };
            at = Some(next);
            Some(address(next, self.ranges[range].subnet))
        })
        .filter(|candidate| self.range_of(*candidate).is_some())
    }
}

impl fmt::Display for RangeSet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (n, range) in self.ranges.iter().enumerate() {
            let comma = if n == 0 { "" } else { "," };
            let (start, end) = (address(range.start, range.subnet), address(range.end, range.subnet));
            write!(f, "{comma}{start}-{end}")?;
        }
        Ok(())
    }
}

fn number(address: IpAddr) -> u128 {
    match address {
        IpAddr::V4(v4) => u128::from(v4.to_bits()),
        IpAddr::V6(v6) => v6.to_bits(),
    }
}

fn address(number: u128, subnet: IpNet) -> IpAddr {
    match subnet {
        IpNet::V4(_) => Ipv4Addr::from_bits(u32::try_from(number).expect("a number of an IPv4 subnet")).into(),
        IpNet::V6(_) => Ipv6Addr::from_bits(number).into(),
    }
}
