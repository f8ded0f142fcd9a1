//! The `host-local` address plugin: addresses out of ranges, remembered as files that the reference plugin shares.
//!
//! Order of an allocation: take the directory's lock, for each range set walk on from the last address handed out,
//! create the first lease that nobody has. The lease is the intent: it is on disk before any link has the address.

use std::{net::IpAddr, path::PathBuf};

use cni::Dns;
use ipnet::IpNet;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use crate::{Error, Result, address::Address};

mod leases;
mod range;
mod resolv_conf;

pub(crate) use leases::{Holder, Leases};
pub(crate) use range::RangeSet;

use range::RangeConf;

/// Where the reference plugin keeps leases when its configuration names no directory.
const DATA_DIR: &str = "/var/lib/cni/networks";

/// Holders that the error of a full range names: enough to see whose they are.
const HOLDERS_NAMED: usize = 3;

/// The `ipam` object of a configuration, as written. Keys that we do not know are refused.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub(crate) struct Conf {
    #[serde(rename = "type")]
    kind: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    data_dir: Option<PathBuf>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    resolv_conf: Option<PathBuf>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    ranges: Vec<Vec<RangeConf>>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    routes: Vec<Route>,
    // The form from before there were ranges: one set of one range, written out.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    subnet: Option<IpNet>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    range_start: Option<IpAddr>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    range_end: Option<IpAddr>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    gateway: Option<IpAddr>,
}

/// A route that a configuration adds to every pod.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Route {
    /// Where to.
    pub(crate) dst: IpNet,
    /// By way of; the gateway of the pod's address of that family when missing.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) gw: Option<IpAddr>,
}

/// A checked address plugin of one network.
#[derive(Debug, Clone)]
pub(crate) struct HostLocal {
    network: String,
    sets: Vec<RangeSet>,
    pub(crate) routes: Vec<Route>,
    pub(crate) leases: Leases,
    /// The file that names the pods' resolvers.
    resolv_conf: Option<PathBuf>,
}

/// The addresses that a pod asks for, as the `ips` capability has them: each with or without a prefix.
pub(crate) fn asked_addresses(asked: &Map<String, Value>) -> Result<Vec<IpAddr>> {
    let refused = |value: &Value| Error::Asked { capability: "ips".into(), why: format!("{value} is no address") };
    let all = match asked.get("ips") {
        None | Some(Value::Null) => return Ok(Vec::new()),
        Some(Value::Array(all)) => all.iter(),
        Some(other) => return Err(refused(other)),
    };
    all.map(|value| {
        let text = value.as_str().ok_or_else(|| refused(value))?;
        text.split('/').next().unwrap_or_default().parse().map_err(|_| refused(value))
    })
    .collect()
}

impl HostLocal {
    /// Checks the configuration of the named network. Touches no file.
    pub(crate) fn new(network: &str, conf: Conf) -> Result<Self> {
        let refused = |key: &str, why: String| Err(Error::Conflist { key: format!("ipam.{key}"), why });
        if conf.kind != "host-local" {
            return Err(Error::NotNative { plugin: "ipam".into(), key: format!("type {:?}", conf.kind) });
        }
        let mut ranges = conf.ranges;
        if let Some(subnet) = conf.subnet {
            let alone =
                RangeConf { subnet, range_start: conf.range_start, range_end: conf.range_end, gateway: conf.gateway };
            ranges.insert(0, vec![alone]);
        }
        if ranges.is_empty() {
            return refused("ranges", "no address range is given".into());
        }
        let sets: Vec<RangeSet> =
            ranges.iter().enumerate().map(|(at, set)| RangeSet::new(at, set)).collect::<Result<_>>()?;
        for (at, set) in sets.iter().enumerate() {
            if let Some(other) = sets[..at].iter().position(|other| other.overlaps(set)) {
                return refused(&format!("ranges[{at}]"), format!("overlaps with ranges[{other}]"));
            }
        }
        let dir = conf.data_dir.unwrap_or_else(|| DATA_DIR.into());
        if !dir.is_absolute() {
            return refused("dataDir", format!("{} is not an absolute path", dir.display()));
        }
        let leases = Leases::new(dir.join(network));
        // An empty name stands for none, as the reference plugin has it.
        let resolv_conf = conf.resolv_conf.filter(|path| !path.as_os_str().is_empty());
        Ok(Self { network: network.to_owned(), sets, routes: conf.routes, leases, resolv_conf })
    }

    /// Takes one address of every set for `holder`. All or none: a set without a free address gives back the others.
    /// Requested addresses go to their sets, whatever their order; a set has room for one of them.
    pub(crate) fn allocate(&self, holder: &Holder<'_>, requested: &[IpAddr]) -> Result<Vec<Address>> {
        let set_of = |address: IpAddr| self.sets.iter().position(|set| set.range_of(address).is_some());
        for (at, &address) in requested.iter().enumerate() {
            let Some(set) = set_of(address) else {
                return Err(Error::AddressOutside { network: self.network.clone(), address });
            };
            let mut before = requested[..at].iter().filter(|other| **other != address);
            if let Some(other) = before.find(|other| set_of(**other) == Some(set)) {
                let why = format!("{other} and {address} are of the same range set, which gives a pod one address");
                return Err(Error::Asked { capability: "ips".into(), why });
            }
        }
        let locked = self.leases.lock()?;
        let mut taken = Vec::with_capacity(self.sets.len());
        for (at, set) in self.sets.iter().enumerate() {
            let wanted = requested.iter().copied().find(|&address| set.range_of(address).is_some());
            match self.take(&locked, at, set, wanted, holder) {
                Ok(address) => taken.push(address),
                Err(error) => {
                    for Address { net, .. } in &taken {
                        // Best effort: a lease that stays is given back by reconciliation, its holder never lived.
                        let _ = locked.release(net.addr(), holder);
                    }
                    return Err(error);
                }
            }
        }
        Ok(taken)
    }

    fn take(
        &self,
        locked: &leases::Locked<'_>,
        at: usize,
        set: &RangeSet,
        wanted: Option<IpAddr>,
        holder: &Holder<'_>,
    ) -> Result<Address> {
        let reserved = match wanted {
            Some(address) => match locked.reserve(address, at, holder)? {
                true => Some(address),
                false => return Err(Error::AddressTaken { network: self.network.clone(), address }),
            },
            None => locked.reserve_first(set.walk(locked.last(at)), at, holder)?,
        };
        let range = reserved.and_then(|address| set.range_of(address).map(|range| (address, range)));
        let Some((address, range)) = range else {
            let is_of_set = |address| set.range_of(address).is_some();
            return Err(Error::Exhausted {
                network: self.network.clone(),
                set: set.to_string(),
                size: set.size(),
                holders: locked.some_holders(is_of_set, HOLDERS_NAMED)?,
            });
        };
        let net = IpNet::new(address, range.subnet.prefix_len()).expect("the prefix of a subnet of the same family");
        Ok(Address { net, gateway: Some(range.gateway) })
    }

    /// What it says of resolvers: nothing, unless a file is configured.
    pub(crate) fn dns(&self) -> Result<Dns> {
        self.resolv_conf.as_deref().map_or_else(|| Ok(Dns::default()), resolv_conf::read)
    }

    /// The routes of the configuration, each with the gateway of its family where it names none.
    pub(crate) fn routes_by(&self, gateways: &[IpAddr]) -> Vec<(IpNet, IpAddr)> {
        let same_family = |dst: &IpNet| gateways.iter().copied().find(|gw| gw.is_ipv4() == dst.addr().is_ipv4());
        self.routes.iter().filter_map(|Route { dst, gw }| Some((*dst, gw.or_else(|| same_family(dst))?))).collect()
    }

    /// The routes of the configuration, as a result tells them.
    pub(crate) fn result_routes(&self) -> Vec<cni::Route> {
        self.routes.iter().map(|Route { dst, gw }| route(*dst, *gw)).collect()
    }

    /// Whether an address is one that this gives out.
    pub(crate) fn gives_out(&self, address: IpAddr) -> bool {
        self.sets.iter().any(|set| set.range_of(address).is_some())
    }

    /// The gateway and prefix of the first range of each set: what a pod has one of each of.
    pub(crate) fn gateway_of_each_set(&self) -> Vec<IpNet> {
        let first = self.sets.iter().filter_map(|set| set.ranges().next());
        first.filter_map(|range| IpNet::new(range.gateway, range.subnet.prefix_len()).ok()).collect()
    }

    /// How many addresses each pod gets: one of every set.
    pub(crate) fn sets(&self) -> usize {
        self.sets.len()
    }

    /// The gateway and prefix of every range: what a bridge in front of them must answer to.
    pub(crate) fn gateways(&self) -> Vec<IpNet> {
        let ranges = self.sets.iter().flat_map(|set| set.ranges());
        let mut all: Vec<IpNet> = ranges
            .map(|range| IpNet::new(range.gateway, range.subnet.prefix_len()).expect("the subnet's own prefix"))
            .collect();
        all.dedup();
        all
    }
}

/// A route of a result that says where to and by way of what, and nothing else.
pub(crate) fn route(dst: IpNet, gw: Option<IpAddr>) -> cni::Route {
    cni::Route { dst, gw, mtu: None, advmss: None, priority: None, table: None, scope: None }
}

#[cfg(test)]
mod tests;
