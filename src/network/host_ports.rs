//! Ports of pods that the host shows under its own addresses.
//!
//! In the table that [`crate::masquerade`] describes, `inet coracle`, shared by every instance on the host:
//!
//! ```text
//! map   host-ports-v4, -v6         protocol . port            : pod's address . port     one element a port
//! map   host-ports-at-v4, -v6      address . protocol . port  : pod's address . port     of ports with a host address
//! set   host-ports-snat-v4, -v6    protocol . port            of those that the pods' own networks reach, too
//! set   host-ports-near-v4, -v6    networks of pods, and the host's loopback
//! chain host-ports                 mark what comes from near for a port of the third; then look up in the maps
//! chain host-ports-prerouting, -output, -postrouting      on the hooks: to the chain; masquerade what is marked
//! ```
//!
//! No rule knows a pod, so a port costs the same however many there are. An element's comment says whose it is: after a
//! restart, and to whoever wants a port that is taken.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap, hash_map::Entry},
    io,
    net::IpAddr,
    sync::{Mutex, MutexGuard, PoisonError},
};

use ipnet::IpNet;
use model::Protocol;

use crate::{
    Error, Result, conntrack,
    link::Links,
    masquerade::{self, TABLE},
    netlink::errno,
    nft::{Act, Family, Form, Hook, Net, Nft, Part, Rule, Transaction},
    sysctl,
};

mod held;

use held::{Held, Number, Place};

/// The chains.
const CHAIN: &str = "host-ports";
const HOOKS: [(&str, Hook); 3] = [
    ("host-ports-prerouting", Hook::Prerouting),
    ("host-ports-output", Hook::Output),
    ("host-ports-postrouting", Hook::Postrouting),
];

/// What the reference plugin marks packets with that are to leave under the host's address; kube-proxy's is the next.
const MARK: u32 = 0x2000;

/// Elements that are written in one transaction: the kernel answers each, and the answers have to fit the socket.
const ELEMENTS_AT_ONCE: usize = 64;

/// A port that is to be shown.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) struct Mapping {
    pub(crate) protocol: Protocol,
    pub(crate) host_port: u16,
    pub(crate) container_port: u16,
    /// Of the host; `None` is every one.
    pub(crate) host_ip: Option<IpAddr>,
}

/// What a pod has.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Pod {
    held: Vec<Held>,
    /// Its subnets, which reach its ports by the host's address, too; none if they need not.
    near: Vec<IpNet>,
}

/// The ports of this instance's pods.
#[derive(Debug)]
pub(crate) struct HostPorts {
    /// Tells instances apart in comments.
    owner: String,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    /// Whether what an earlier life has left has been read.
    is_read: bool,
    pods: HashMap<String, Pod>,
    /// The rule set when all was last seen in place.
    seen: Option<u32>,
}

impl HostPorts {
    /// The ports of the instance that `owner` names.
    pub(crate) fn new(owner: &str) -> Self {
        // FNV-1a: the same in every release.
        let hash = owner
            .bytes()
            .fold(0xcbf2_9ce4_8422_2325_u64, |hash, b| (hash ^ u64::from(b)).wrapping_mul(0x100_0000_01b3));
        Self { owner: format!("{hash:016x}"), state: Mutex::default() }
    }

    /// Shows a pod's ports: all of them or none. The same again changes nothing. `addresses` are the pod's, the first
    /// of each family counts; with `snat` the host's own loopback and the pods beside it reach them, too. Blocks for
    /// fractions of a millisecond.
    pub(crate) fn map(&self, pod: &str, mappings: &[Mapping], addresses: &[IpNet], snat: bool) -> Result<()> {
        let held = held::of(mappings, addresses)?;
        if held.is_empty() {
            return Ok(());
        }
        let mut state = self.state()?;
        let near = if snat { near(addresses) } else { Vec::new() };
        let wanted = Pod { held, near };
        if state.pods.get(pod) == Some(&wanted) {
            return Ok(());
        }
        if let Some(before) = state.pods.get(pod).cloned() {
            self.remove(&state, pod, &before)?;
            state.pods.remove(pod);
        }
        for held in &wanted.held {
            if let Some((holder, other)) = state.holder(held) {
                return Err(taken(held, other, holder.to_owned()));
            }
        }
        if let Err(error) = self.add(&state, pod, &wanted) {
            // Written by somebody else since, or left by whoever was here before us.
            return Err(self.explain(error, &wanted.held));
        }
        state.seen = None;
        let udp: Vec<Held> = wanted.held.iter().filter(|held| held.protocol == Number::UDP).copied().collect();
        if snat {
            addresses.iter().filter(|net| net.addr().is_ipv4()).try_for_each(|net| route_localnet(net.addr()))?;
        }
        state.pods.insert(pod.to_owned(), wanted);
        drop(state);
        forget_flows(&udp);
        Ok(())
    }

    /// Shows them no more. Safe to repeat, and when the table is gone.
    pub(crate) fn unmap(&self, pod: &str) -> Result<()> {
        let mut state = self.state()?;
        let Some(before) = state.pods.get(pod).cloned() else { return Ok(()) };
        self.remove(&state, pod, &before)?;
        state.pods.remove(pod);
        state.seen = None;
        drop(state);
        let udp: Vec<Held> = before.held.into_iter().filter(|held| held.protocol == Number::UDP).collect();
        forget_flows(&udp);
        Ok(())
    }

    /// Takes back the ports of pods that are none of these. Returns how many pods had some.
    pub(crate) fn retain(&self, lives: impl Fn(&str) -> bool) -> Result<usize> {
        let dead: Vec<String> = self.state()?.pods.keys().filter(|pod| !lives(pod)).cloned().collect();
        dead.iter().try_for_each(|pod| self.unmap(pod))?;
        self.remove_orphans(&*self.state()?)?;
        Ok(dead.len())
    }

    /// Puts back what somebody has flushed. Whether something was amiss. Cheap while nobody changes any rule.
    pub(crate) fn restore(&self) -> Result<bool> {
        let mut state = self.state()?;
        if state.pods.is_empty() {
            return Ok(false);
        }
        let mut nft = Nft::open().map_err(failed("open"))?;
        let generation = nft.generation().map_err(failed("read"))?;
        if state.seen == Some(generation) {
            return Ok(false);
        }
        let mut mended = false;
        if !is_in_place(&mut nft)? {
            make(&mut nft)?;
            mended = true;
        }
        let present = read(&mut nft)?;
        for (pod, wanted) in &state.pods {
            let missing: Vec<Held> = wanted.held.iter().filter(|held| !present.contains_key(*held)).copied().collect();
            if !missing.is_empty() || mended {
                mended = true;
                self.add(&state, pod, &Pod { held: missing, near: wanted.near.clone() })?;
            }
        }
        state.seen = if mended { None } else { Some(generation) };
        Ok(mended)
    }

    /// Takes back all of this instance's, and the chains with the last port of all. For instances that end for good.
    pub(crate) fn dismantle(&self) -> Result<()> {
        self.retain(|_| false)?;
        let mut nft = Nft::open().map_err(failed("open"))?;
        if !is_used(&mut nft)? && is_in_place(&mut nft)? {
            let mut change = nft.transaction();
            for (chain, _) in HOOKS {
                change.empty_chain(TABLE, chain);
            }
            change.empty_chain(TABLE, CHAIN);
            for (chain, _) in HOOKS {
                change.remove_chain(TABLE, chain);
            }
            change.remove_chain(TABLE, CHAIN);
            for place in Place::all() {
                change.remove_set(TABLE, &place.map());
            }
            for family in Family::ALL {
                change.remove_set(TABLE, snat_set(family));
                change.remove_set(TABLE, near_set(family));
            }
            match change.commit() {
                // Another instance has begun to use it.
                Err(error) if matches!(errno(&error), Some(libc::EBUSY | libc::ENOENT)) => {}
                done => done.map_err(failed("write"))?,
            }
        }
        Ok(())
    }

    /// Writes a pod's elements, in as few transactions as fit.
    fn add(&self, state: &State, pod: &str, new: &Pod) -> Result<()> {
        let mut nft = Nft::open().map_err(failed("open"))?;
        let mut written: Vec<Held> = Vec::new();
        for some in new.held.chunks(ELEMENTS_AT_ONCE / 2) {
            let fill = |change: &mut Transaction<'_>| {
                for net in &new.near {
                    change.add_net(TABLE, near_set(Family::of(net.addr())), &Net(net.trunc()));
                }
                for held in some {
                    held.add(change, self.comment(pod));
                    if !new.near.is_empty() {
                        held.add_snat(change, self.comment(pod));
                    }
                }
            };
            let done = match commit(&mut nft, fill) {
                // The first port of all, or somebody has flushed the table.
                Err(error) if errno(&error) == Some(libc::ENOENT) => {
                    make(&mut nft)?;
                    commit(&mut nft, fill)
                }
                done => done,
            };
            if let Err(error) = done {
                if !written.is_empty() {
                    self.remove(state, pod, &Pod { held: written, near: new.near.clone() })?;
                }
                return Err(failed("write")(error));
            }
            written.extend(some);
        }
        Ok(())
    }

    /// Takes a pod's elements out. What is gone already is fine.
    fn remove(&self, state: &State, pod: &str, old: &Pod) -> Result<()> {
        let mut nft = Nft::open().map_err(failed("open"))?;
        let is_near = |held: &Held| !old.near.is_empty() && !state.is_near_of_another(pod, held);
        for some in old.held.chunks(ELEMENTS_AT_ONCE / 2) {
            let whole = |change: &mut Transaction<'_>| {
                for held in some {
                    held.remove(change);
                    if is_near(held) {
                        held.remove_snat(change);
                    }
                }
            };
            match commit(&mut nft, whole) {
                // Somebody has taken some of them, or all: each by itself, then.
                Err(error) if errno(&error) == Some(libc::ENOENT) => {
                    for held in some {
                        commit(&mut nft, |change| held.remove(change))
                            .or_else(gone_is_fine)
                            .map_err(failed("write"))?;
                        if is_near(held) {
                            let done = commit(&mut nft, |change| held.remove_snat(change));
                            done.or_else(gone_is_fine).map_err(failed("write"))?;
                        }
                    }
                }
                done => done.map_err(failed("write"))?,
            }
        }
        Ok(())
    }

    /// Takes out what says of a port of ours that it is reached from near, where the port itself is gone: somebody has
    /// flushed one map and not the other set.
    fn remove_orphans(&self, state: &State) -> Result<()> {
        let mut nft = Nft::open().map_err(failed("open"))?;
        for family in Family::ALL {
            let held = state.pods.values().filter(|pod| !pod.near.is_empty()).flat_map(|pod| &pod.held);
            let known: BTreeSet<Vec<u8>> =
                held.filter(|held| Family::of(held.to.ip()) == family).map(Held::snat_key).collect();
            let all = nft.exacts(TABLE, snat_set(family)).map_err(failed("read"))?;
            let is_ours = |comment: &str| comment.ends_with(&format!(" of {}", self.owner));
            for orphan in all.iter().filter(|one| is_ours(&one.comment) && !known.contains(&one.key)) {
                let done = commit(&mut nft, |change| change.remove_exact(TABLE, snat_set(family), orphan));
                done.or_else(gone_is_fine).map_err(failed("write"))?;
            }
        }
        Ok(())
    }

    /// Names who has a port that was refused.
    fn explain(&self, error: Error, wanted: &[Held]) -> Error {
        let is_taken = matches!(&error, Error::Nftables { source, .. } if errno(source) == Some(libc::EEXIST));
        let present = if is_taken {
            Nft::open().map_err(failed("open")).and_then(|mut nft| read(&mut nft))
        } else {
            return error;
        };
        let Ok(present) = present else { return error };
        let collides = |held: &Held| present.iter().find(|(other, _)| other.collides(held));
        match wanted.iter().find_map(|held| Some((held, collides(held)?))) {
            Some((held, (by, comment))) => taken(held, by, comment.clone()),
            None => error,
        }
    }

    fn comment(&self, pod: &str) -> String {
        format!("pod {pod} of {}", self.owner)
    }

    /// What is held, once what an earlier life has left has been read.
    fn state(&self) -> Result<MutexGuard<'_, State>> {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        if !state.is_read {
            let mut nft = Nft::open().map_err(failed("open"))?;
            let snat: BTreeSet<Vec<u8>> = snat_keys(&mut nft)?;
            for (held, comment) in read(&mut nft)? {
                let Some(pod) = comment.strip_suffix(&format!(" of {}", self.owner)) else { continue };
                let Some(pod) = pod.strip_prefix("pod ") else { continue };
                let near = match snat.contains(&held.snat_key()) {
                    // Which subnet it was, does not matter any more: only that there is something to take back.
                    true => vec![IpNet::from(held.to.ip())],
                    false => Vec::new(),
                };
                match state.pods.entry(pod.to_owned()) {
                    Entry::Occupied(mut pod) => {
                        pod.get_mut().held.push(held);
                        pod.get_mut().near.extend(near);
                    }
                    Entry::Vacant(pod) => drop(pod.insert(Pod { held: vec![held], near })),
                }
            }
            state.is_read = true;
        }
        Ok(state)
    }
}

impl State {
    /// Whether another pod shows the same port, of another address, to those near.
    fn is_near_of_another(&self, pod: &str, held: &Held) -> bool {
        let key = |held: &Held| (held.to.is_ipv4(), held.snat_key());
        let others = self.pods.iter().filter(|(other, has)| *other != pod && !has.near.is_empty());
        others.flat_map(|(_, has)| &has.held).any(|other| key(other) == key(held))
    }

    /// Who has this port, or one that shares an address with it.
    fn holder(&self, wanted: &Held) -> Option<(&str, &Held)> {
        self.pods
            .iter()
            .find_map(|(pod, has)| has.held.iter().find(|held| held.collides(wanted)).map(|held| (pod.as_str(), held)))
    }
}

/// Whether somebody shows a port.
pub(crate) fn is_used(nft: &mut Nft) -> Result<bool> {
    Ok(!read(nft)?.is_empty())
}

/// Every port that is shown, anybody's, and its comment.
fn read(nft: &mut Nft) -> Result<BTreeMap<Held, String>> {
    let mut all = BTreeMap::new();
    for place in Place::all() {
        let elements = nft.exacts(TABLE, &place.map()).map_err(failed("read"))?;
        all.extend(elements.into_iter().filter_map(|element| Some((Held::read(place, &element)?, element.comment))));
    }
    Ok(all)
}

fn snat_keys(nft: &mut Nft) -> Result<BTreeSet<Vec<u8>>> {
    let mut all = BTreeSet::new();
    for family in Family::ALL {
        let elements = nft.exacts(TABLE, snat_set(family)).map_err(failed("read"))?;
        all.extend(elements.into_iter().map(|element| element.key));
    }
    Ok(all)
}

/// The rules of each chain.
fn rules() -> [(&'static str, Vec<Rule>); 4] {
    let [(prerouting, _), (output, _), (postrouting, _)] = HOOKS;
    let each = |act: &dyn Fn(Family) -> Vec<(Act, &'static str)>| -> Vec<Rule> {
        let of = |family| act(family).into_iter().map(move |(act, why)| Rule { family, act, comment: why.into() });
        Family::ALL.into_iter().flat_map(of).collect()
    };
    let local = |_| vec![(Act::JumpIfLocal { chain: CHAIN.into() }, "for the host itself")];
    let inside = |family: Family| {
        let place = |by_address| Place { family, by_address }.map();
        let (nets, ports) = (near_set(family).to_owned(), snat_set(family).to_owned());
        vec![
            (Act::MarkPort { nets, ports, bit: MARK }, "from near: to come back the same way"),
            (Act::Translate { map: place(true), by_address: true }, "ports of an address"),
            (Act::Translate { map: place(false), by_address: false }, "ports of every address"),
        ]
    };
    let marked = |_| vec![(Act::MasqueradeMarked { bit: MARK }, "from near, to a host port")];
    [(CHAIN, each(&inside)), (prerouting, each(&local)), (output, each(&local)), (postrouting, each(&marked))]
}

/// Whether chains and rules stand as [`make`] wrote them. Rules are known by their comments.
fn is_in_place(nft: &mut Nft) -> Result<bool> {
    for (chain, rules) in rules() {
        let comments = nft.comments(TABLE, chain).map_err(failed("read"))?;
        if comments.iter().ne(rules.iter().map(|rule| &rule.comment)) {
            return Ok(false);
        }
    }
    Ok(true)
}

/// Writes sets, maps, chains and rules, whatever of them was there before. Elements are not touched.
fn make(nft: &mut Nft) -> Result<()> {
    let mut change = nft.transaction();
    change.ensure_table(TABLE);
    for place in Place::all() {
        change.ensure_exact(TABLE, &place.map(), place.form());
    }
    for family in Family::ALL {
        change.ensure_exact(TABLE, snat_set(family), SNAT);
        change.ensure_nets(TABLE, near_set(family), family);
    }
    change.ensure_empty_chain(TABLE, CHAIN);
    for (chain, hook) in HOOKS {
        change.ensure_empty_hook(TABLE, chain, hook);
    }
    for (chain, rules) in rules() {
        rules.iter().for_each(|rule| change.add_rule(TABLE, chain, rule));
    }
    change.commit().map_err(failed("write"))
}

const SNAT: Form = Form { key: &[Part::Protocol, Part::Port], value: &[] };

fn snat_set(family: Family) -> &'static str {
    match family {
        Family::V4 => "host-ports-snat-v4",
        Family::V6 => "host-ports-snat-v6",
    }
}

fn near_set(family: Family) -> &'static str {
    match family {
        Family::V4 => "host-ports-near-v4",
        Family::V6 => "host-ports-near-v6",
    }
}

/// From where ports are reached that need the host's address to come back by: the pod's subnets, and the loopback of
/// IPv4. The kernel never lets that of IPv6 out of the loopback.
fn near(addresses: &[IpNet]) -> Vec<IpNet> {
    let mut all: Vec<IpNet> = addresses.iter().map(IpNet::trunc).collect();
    if addresses.iter().any(|net| net.addr().is_ipv4()) {
        all.push("127.0.0.0/8".parse().expect("a literal network"));
    }
    all
}

fn commit(nft: &mut Nft, fill: impl Fn(&mut Transaction<'_>)) -> io::Result<()> {
    let mut change = nft.transaction();
    fill(&mut change);
    change.commit()
}

fn gone_is_fine(error: io::Error) -> io::Result<()> {
    if errno(&error) == Some(libc::ENOENT) { Ok(()) } else { Err(error) }
}

/// Has the link by which the pod is reached take packets from the loopback, and those back to it.
fn route_localnet(pod: IpAddr) -> Result<()> {
    let mut links = Links::open()?;
    match links.towards(pod)? {
        Some(link) => sysctl::route_localnet(&link.name),
        None => Ok(()),
    }
}

/// Flows of UDP know no end: what a client keeps sending from one port would go on to where it went before.
fn forget_flows(held: &[Held]) {
    for held in held {
        let family = Family::of(held.to.ip());
        if let Err(error) = conntrack::forget_udp(family, held.port) {
            let error = model::with_causes(&error);
            tracing::warn!(port = held.port, error, "forget the flows of a UDP port");
        }
    }
}

fn taken(wanted: &Held, by: &Held, holder: String) -> Error {
    let address = by.at.map_or_else(|| "every address".to_owned(), |at| at.to_string());
    Error::PortTaken { port: wanted.port, protocol: wanted.protocol.name(), address, holder }
}

fn failed(act: &'static str) -> impl FnOnce(io::Error) -> Error {
    masquerade::failed(act)
}
