//! Ports of pods that the host shows under its own addresses.
//!
//! In the table that [`crate::masquerade`] describes, `inet coracle`, shared by every instance on the host:
//!
//! ```text
//! map   host-ports-v4, -v6         protocol . port            : pod's address . port     one element a port
//! map   host-ports-at-v4, -v6      address . protocol . port  : pod's address . port     of ports with a host address
//! set   host-ports-near-v4, -v6    link . protocol . port     of those whose pod is reached by that link
//! set   host-ports-local           protocol . port            of those that the host's loopback reaches, too
//! chain host-ports                 mark what comes from near or from the loopback; then look up in the maps
//! chain host-ports-prerouting, -output, -postrouting      on the hooks: to the chain; masquerade what is marked
//! chain host-ports-guard           nobody else's packets go to the loopback, though links route to it
//! ```
//!
//! No rule knows a pod, so a port costs the same however many there are. An element's comment says whose it is: after a
//! restart, and to whoever wants a port that is taken.

use std::{
    collections::{HashMap, HashSet},
    io,
    net::IpAddr,
    sync::{Mutex, MutexGuard, OnceLock, PoisonError},
};

use ipnet::IpNet;
use model::Protocol;
use nix::net::if_::if_indextoname;

use crate::{
    Error, Result,
    config::stable_hash,
    link::Links,
    masquerade::{self, TABLE},
    netlink::errno,
    nft::{Family, Nft, Transaction},
    sysctl,
};

mod flows;
mod held;
mod table;

use flows::Flows;
use held::{Held, Placed};
pub(crate) use table::{SETS, is_used};
use table::{commit, gone_is_fine, is_in_place, make, near_set, near_sets, read, sets};

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
    /// The link by which it is reached, where the others by that link and the host's loopback reach its ports, too.
    near: Option<String>,
}

/// The ports of this instance's pods.
#[derive(Debug)]
pub(crate) struct HostPorts {
    /// Tells instances apart in comments.
    owner: String,
    state: Mutex<State>,
    /// Kept open: the kernel lets go of such a socket only when what was deleted is gone, a grace period of RCU later.
    nft: OnceLock<Mutex<Nft>>,
    flows: Flows,
}

#[derive(Debug, Default)]
struct State {
    /// Whether what an earlier life has left has been read.
    is_read: bool,
    pods: HashMap<String, Pod>,
    /// The rule set when all was last seen in place.
    seen: Option<u32>,
    /// Some link takes packets to the loopback: the guard has to stand, whether there are ports or not.
    is_opened: bool,
}

impl HostPorts {
    /// The ports of the instance that `owner` names.
    pub(crate) fn new(owner: &str) -> Self {
        Self {
            owner: format!("{:016x}", stable_hash(owner)),
            state: Mutex::default(),
            nft: OnceLock::new(),
            flows: Flows::default(),
        }
    }

    /// Our conversation with the kernel. Taken after the state, if with it.
    fn nft(&self) -> Result<MutexGuard<'_, Nft>> {
        let nft = match self.nft.get() {
            Some(nft) => nft,
            None => {
                let opened = Nft::open().map_err(failed("open"))?;
                self.nft.get_or_init(|| Mutex::new(opened))
            }
        };
        Ok(nft.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// The number by which notices of what we do are known.
    pub(crate) fn port(&self) -> Result<u32> {
        Ok(self.nft()?.port())
    }

    /// Shows a pod's ports: all of them or none. The same again changes nothing. `addresses` are the pod's, the first
    /// of each family counts; with `snat` the host's own loopback and the pods beside it reach them, too. Blocks for
    /// fractions of a millisecond.
    pub(crate) fn map(&self, pod: &str, mappings: &[Mapping], addresses: &[IpNet], snat: bool) -> Result<()> {
        let mut held = held::of(mappings, addresses)?;
        let mut state = self.state()?;
        // What the pod shows by another of its networks already, it shows.
        let own = |other: &str| other != pod && pod_of(other) == pod_of(pod);
        held.retain(|held| state.holder(held).is_none_or(|(holder, _)| !own(holder)));
        if held.is_empty() {
            return Ok(());
        }
        let near = if snat { by_link(addresses)? } else { None };
        state.is_opened |= near.is_some();
        let wanted = Pod { held, near };
        if state.pods.get(pod) == Some(&wanted) {
            return Ok(());
        }
        if let Some((held, (holder, other))) =
            wanted.held.iter().find_map(|held| Some((held, state.holder(held).filter(|(holder, _)| *holder != pod)?)))
        {
            return Err(taken(held, other, holder.to_owned()));
        }
        if let Some(before) = state.pods.get(pod).cloned() {
            self.remove(&state, pod, &before)?;
            state.pods.remove(pod);
        }
        if let Err(error) = self.add(&state, pod, &wanted) {
            if is_refused(&error, libc::EEXIST) {
                // Written by somebody else since, or left by whoever was here before us.
                return Err(self.explain(error, &wanted.held));
            }
            // What the kernel has done of it nobody knows: giving the pod's ports back takes out whatever is there.
            state.pods.insert(pod.to_owned(), wanted);
            return Err(error);
        }
        state.seen = None;
        let held = wanted.held.clone();
        state.pods.insert(pod.to_owned(), wanted);
        drop(state);
        self.flows.forget(&held);
        Ok(())
    }

    /// Whether a pod's ports are shown, by the kernel's word.
    pub(crate) fn check(&self, pod: &str, mappings: &[Mapping], addresses: &[IpNet]) -> Result<()> {
        let wanted = held::of(mappings, addresses)?;
        if wanted.is_empty() {
            return Ok(());
        }
        let mut nft = self.nft()?;
        let is_whole = is_in_place(&mut nft)?;
        let present = read(&mut nft)?;
        // The pod's other networks show none that one of them shows.
        let is_own = |comment: &String| comment.starts_with(&format!("pod {}", pod_of(pod)));
        let shown = |held: &&Held| is_whole && present.get(held).is_some_and(is_own);
        match wanted.iter().find(|held| !shown(held)) {
            Some(held) => {
                Err(Error::Unlike { what: format!("{} port {} is not shown", held.protocol.name(), held.port) })
            }
            None => Ok(()),
        }
    }

    /// Shows them no more. Safe to repeat, and when the table is gone.
    pub(crate) fn unmap(&self, pod: &str) -> Result<()> {
        let mut state = self.state()?;
        let Some(before) = state.pods.get(pod).cloned() else { return Ok(()) };
        self.remove(&state, pod, &before)?;
        state.pods.remove(pod);
        state.seen = None;
        drop(state);
        self.flows.forget(&before.held);
        Ok(())
    }

    /// Takes back the ports of pods that are none of these. Returns how many pods had some.
    pub(crate) fn retain(&self, lives: impl Fn(&str) -> bool) -> Result<usize> {
        let dead: Vec<String> = self.state()?.pods.keys().filter(|pod| !lives(pod_of(pod))).cloned().collect();
        dead.iter().try_for_each(|pod| self.unmap(pod))?;
        self.remove_orphans(&*self.state()?)?;
        Ok(dead.len())
    }

    /// Puts back what somebody has flushed. Whether something was amiss. Cheap while nobody changes any rule.
    pub(crate) fn restore(&self) -> Result<bool> {
        let mut state = self.state()?;
        if state.pods.is_empty() && !state.is_opened {
            return Ok(false);
        }
        let mut nft = self.nft()?;
        let generation = nft.generation().map_err(failed("read"))?;
        if state.seen == Some(generation) {
            return Ok(false);
        }
        let mut mended = false;
        if !is_in_place(&mut nft)? {
            make(&mut nft)?;
            mended = true;
        }
        let mut present = HashSet::new();
        for set in sets() {
            let elements = nft.exacts(TABLE, &set).map_err(failed("read"))?;
            present.extend(elements.into_iter().map(|element| (set.clone(), element.key)));
        }
        for (pod, has) in &state.pods {
            for element in has.elements(&self.comment(pod)) {
                if present.contains(&element.place()) {
                    continue;
                }
                mended = true;
                // What somebody else has taken meanwhile keeps none of the others.
                if let Err(error) = commit(&mut nft, |change| element.add(change)) {
                    tracing::error!(pod, set = element.set, %error, "a living pod's host port is not put back");
                }
            }
        }
        state.seen = if mended { None } else { Some(generation) };
        Ok(mended)
    }

    /// Takes back all of this instance's, and the chains with the last port of all. For instances that end for good.
    pub(crate) fn dismantle(&self) -> Result<()> {
        self.retain(|_| false)?;
        let mut nft = self.nft()?;
        if is_used(&mut nft)? || !is_in_place(&mut nft)? {
            return Ok(());
        }
        table::remove(&mut nft)
    }

    /// Writes a pod's elements, in as few transactions as fit. All or none.
    fn add(&self, state: &State, pod: &str, new: &Pod) -> Result<()> {
        let mut nft = self.nft()?;
        let elements = new.elements(&self.comment(pod));
        for (number, some) in elements.chunks(ELEMENTS_AT_ONCE).enumerate() {
            let fill = |change: &mut Transaction<'_>| some.iter().for_each(|element| element.add(change));
            let done = match commit(&mut nft, fill) {
                // The first port of all, or somebody has flushed the table.
                Err(error) if errno(&error) == Some(libc::ENOENT) => {
                    make(&mut nft)?;
                    commit(&mut nft, fill)
                }
                done => done,
            };
            if let Err(error) = done {
                drop(nft);
                self.take_out(state, pod, &elements[..number * ELEMENTS_AT_ONCE])?;
                return Err(failed("write")(error));
            }
        }
        Ok(())
    }

    /// Takes a pod's elements out. What is gone already is fine.
    fn remove(&self, state: &State, pod: &str, old: &Pod) -> Result<()> {
        self.take_out(state, pod, &old.elements(&self.comment(pod)))
    }

    fn take_out(&self, state: &State, pod: &str, elements: &[Placed]) -> Result<()> {
        let others = state.pods.iter().filter(|(other, _)| *other != pod);
        let kept: HashSet<_> = others
            .flat_map(|(_, has)| has.elements(""))
            .filter(|element| element.is_shared)
            .map(|element| element.place())
            .collect();
        let gone: Vec<&Placed> = elements.iter().filter(|element| !kept.contains(&element.place())).collect();
        if gone.is_empty() {
            return Ok(());
        }
        let mut nft = self.nft()?;
        for some in gone.chunks(ELEMENTS_AT_ONCE) {
            match commit(&mut nft, |change| some.iter().for_each(|element| element.remove(change))) {
                // Somebody has taken some of them, or all: each by itself, then.
                Err(error) if errno(&error) == Some(libc::ENOENT) => {
                    for element in some {
                        let done = commit(&mut nft, |change| element.remove(change));
                        done.or_else(gone_is_fine).map_err(failed("write"))?;
                    }
                }
                done => done.map_err(failed("write"))?,
            }
        }
        Ok(())
    }

    /// Takes out what says of a port of ours from where it is reached, where the port itself is gone: somebody has
    /// flushed one map and not the other sets.
    fn remove_orphans(&self, state: &State) -> Result<()> {
        let known: HashSet<_> =
            state.pods.values().flat_map(|has| has.elements("")).map(|element| element.place()).collect();
        let mut nft = self.nft()?;
        let own = format!(" of {}", self.owner);
        for set in near_sets() {
            for orphan in nft.exacts(TABLE, set).map_err(failed("read"))? {
                if orphan.comment.ends_with(&own) && !known.contains(&(set.to_owned(), orphan.key.clone())) {
                    let done = commit(&mut nft, |change| change.remove_exact(TABLE, set, &orphan));
                    done.or_else(gone_is_fine).map_err(failed("write"))?;
                }
            }
        }
        Ok(())
    }

    /// Names who has a port that was refused.
    fn explain(&self, error: Error, wanted: &[Held]) -> Error {
        let present = self.nft().and_then(|mut nft| read(&mut nft));
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
            let mut nft = self.nft()?;
            let own = format!(" of {}", self.owner);
            let pod = |comment: &str| Some(comment.strip_suffix(&own)?.strip_prefix("pod ")?.to_owned());
            for (held, comment) in read(&mut nft)? {
                let Some(pod) = pod(&comment) else { continue };
                state.pods.entry(pod).or_insert_with(|| Pod { held: Vec::new(), near: None }).held.push(held);
            }
            for family in Family::ALL {
                for element in nft.exacts(TABLE, near_set(family)).map_err(failed("read"))? {
                    if let Some(has) = pod(&element.comment).and_then(|pod| state.pods.get_mut(&pod)) {
                        has.near = held::link_of(&element).or(has.near.take());
                    }
                }
            }
            state.is_opened = sysctl::some_route_localnet();
            state.is_read = true;
        }
        Ok(state)
    }
}

impl State {
    /// Who has this port, or one that shares an address with it.
    fn holder(&self, wanted: &Held) -> Option<(&str, &Held)> {
        self.pods
            .iter()
            .find_map(|(pod, has)| has.held.iter().find(|held| held.collides(wanted)).map(|held| (pod.as_str(), held)))
    }
}

impl Pod {
    /// Everything that says so in the table.
    fn elements(&self, comment: &str) -> Vec<Placed> {
        let mut all: Vec<Placed> = self.held.iter().map(|held| held.element(comment)).collect();
        if let Some(link) = &self.near {
            // Two ports of one number, of several addresses, are reached from the same places.
            let mut known = HashSet::new();
            let near = self.held.iter().flat_map(|held| held.near(link, comment));
            all.extend(near.filter(|element| known.insert(element.place())));
        }
        all
    }
}

/// Whose ports these are: a pod's other networks have their interface behind its id.
fn pod_of(key: &str) -> &str {
    key.split('/').next().unwrap_or(key)
}

/// The link by which the pod is reached, which from now on takes packets from the loopback, and those back to it. Not
/// one by which the host itself reaches the world: a pod beyond it is reached as any other machine.
fn by_link(addresses: &[IpNet]) -> Result<Option<String>> {
    let mut links = Links::open()?;
    let Some(pod) = addresses.first().map(IpNet::addr) else { return Ok(None) };
    let Some(index) = links.towards(pod)? else { return Ok(None) };
    if links.routes_by(pod.is_ipv6(), index)?.iter().any(|route| route.to.prefix_len() == 0) {
        return Ok(None);
    }
    // The kernel answers this without the lock under which it changes links.
    let name = if_indextoname(index).map_err(|errno| Error::Link {
        act: "look up the name of",
        name: format!("link {index}"),
        source: errno.into(),
    })?;
    let name = name.to_string_lossy().into_owned();
    if addresses.iter().any(|net| net.addr().is_ipv4()) {
        sysctl::route_localnet(&name)?;
    }
    Ok(Some(name))
}

fn is_refused(error: &Error, code: i32) -> bool {
    matches!(error, Error::Nftables { source, .. } if errno(source) == Some(code))
}

fn taken(wanted: &Held, by: &Held, holder: String) -> Error {
    let address = by.at.map_or_else(|| "every address".to_owned(), |at| at.to_string());
    Error::PortTaken { port: wanted.port, protocol: wanted.protocol.name(), address, holder }
}

fn failed(act: &'static str) -> impl FnOnce(io::Error) -> Error {
    masquerade::failed(act)
}
