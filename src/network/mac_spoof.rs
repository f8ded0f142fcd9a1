//! Pods that may send under their own hardware address alone (`macspoofchk` of a bridge).
//!
//! One nftables table of the bridge's family, `bridge coracle`, shared by every instance on the host:
//!
//! ```text
//! set   checked       link                        of the pods that are checked     one element a pod
//! set   senders       link . hardware address     what each of them may send as    one element a pod
//! chain prerouting    the one chain on a hook: drops what came by a link of the first set and is not in the second
//! ```
//!
//! No rule knows a pod: one more costs two elements, whose comments say whose they are, and nobody else's frames cost
//! more than one look-up.

use std::{
    collections::{HashMap, HashSet},
    io,
    sync::{Mutex, MutexGuard, OnceLock, PoisonError},
};

use crate::{
    Error, Result,
    config::stable_hash,
    netlink::errno,
    nft::{Act, Exact, Family, Form, Hook, Nft, Part, Rule, Transaction, join},
};

/// Our table, of the bridge's family. The watch on the other one of this name hears of it, too.
const TABLE: &str = "coracle";
const CHAIN: &str = "prerouting";
const CHECKED: &str = "checked";
const SENDERS: &str = "senders";
const SETS: [(&str, Form); 2] = [
    (CHECKED, Form { key: &[Part::Link], value: &[] }),
    (SENDERS, Form { key: &[Part::Link, Part::Hardware], value: &[] }),
];

/// The kernel's word for "the rules have changed since you looked"; not among libc's constants.
const ERESTART: i32 = 85;

/// Bytes of a link's name in a key.
const LINK: usize = 16;

/// The pods of this instance that are checked.
#[derive(Debug)]
pub(crate) struct MacSpoof {
    /// Tells instances apart in comments.
    owner: String,
    state: Mutex<State>,
    /// Kept open: the kernel lets go of such a socket only when what was deleted is gone. Taken after the state.
    nft: OnceLock<Mutex<Nft>>,
}

#[derive(Debug, Default)]
struct State {
    pods: HashMap<String, Sender>,
    /// The rule set when all was last seen in place.
    seen: Option<u32>,
}

/// The host's end of a pod's link, and what comes by it.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Sender {
    link: String,
    mac: [u8; 6],
}

impl MacSpoof {
    /// Those of the instance that `owner` names.
    pub(crate) fn new(owner: &str) -> Self {
        Self { owner: format!("{:016x}", stable_hash(owner)), state: Mutex::default(), nft: OnceLock::new() }
    }

    /// The number by which notices of what we do are known.
    pub(crate) fn port(&self) -> Result<u32> {
        Ok(self.nft()?.port())
    }

    fn nft(&self) -> Result<MutexGuard<'_, Nft>> {
        let nft = match self.nft.get() {
            Some(nft) => nft,
            None => {
                let opened = open()?;
                self.nft.get_or_init(|| Mutex::new(opened))
            }
        };
        Ok(nft.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// From now on nothing comes by the link but under this address. The same again changes nothing.
    pub(crate) fn check(&self, pod: &str, link: &str, mac: [u8; 6]) -> Result<()> {
        let sender = Sender { link: link.to_owned(), mac };
        let mut state = self.state();
        let mut nft = self.nft()?;
        if let Some(before) = state.pods.get(pod).filter(|before| **before != sender) {
            take_out(&mut nft, &before.elements(&self.comment(pod)))?;
        }
        let elements = sender.elements(&self.comment(pod));
        let add = |change: &mut Transaction<'_>| {
            elements.iter().for_each(|(set, element)| change.add_exact_again(TABLE, set, element));
        };
        match commit(&mut nft, add) {
            // The first of all, or somebody has flushed the table.
            Err(error) if errno(&error) == Some(libc::ENOENT) => {
                make(&mut nft)?;
                commit(&mut nft, add).map_err(failed("write"))?;
            }
            done => done.map_err(failed("write"))?,
        }
        state.seen = None;
        state.pods.insert(pod.to_owned(), sender);
        Ok(())
    }

    /// The pod's link is nobody's any more. Safe to repeat, and when the table is gone.
    pub(crate) fn release(&self, pod: &str) -> Result<()> {
        let mut state = self.state();
        let (mut nft, comment) = (self.nft()?, self.comment(pod));
        let elements = match state.pods.get(pod) {
            Some(sender) => sender.elements(&comment).to_vec(),
            // Of an earlier life: the comments tell.
            None => present(&mut nft)?.into_iter().filter(|(_, element)| element.comment == comment).collect(),
        };
        take_out(&mut nft, &elements)?;
        state.seen = None;
        state.pods.remove(pod);
        Ok(())
    }

    /// Takes back what is left of pods that are none of these, and the table with the last one of all. Returns how many
    /// pods had something.
    pub(crate) fn retain(&self, lives: impl Fn(&str) -> bool) -> Result<usize> {
        let mut state = self.state();
        let mut nft = self.nft()?;
        let generation = nft.generation().map_err(failed("read"))?;
        let present = present(&mut nft)?;
        let dead = |element: &Exact| self.pod_of(&element.comment).is_some_and(|pod| !lives(pod_id(pod)));
        let (gone, left): (Vec<_>, Vec<_>) = present.into_iter().partition(|(_, element)| dead(element));
        let pods: HashSet<String> = gone.iter().map(|(_, element)| element.comment.clone()).collect();
        state.pods.retain(|pod, _| lives(pod_id(pod)));
        state.seen = None;
        if !left.is_empty() || !state.pods.is_empty() {
            take_out(&mut nft, &gone)?;
            return Ok(pods.len());
        }
        // Bound to what was just read: what another instance writes meanwhile must not go with the table.
        let mut change = nft.transaction_at(generation);
        change.remove_table(TABLE);
        match change.commit() {
            Err(error) if errno(&error) == Some(libc::ENOENT) => {}
            Err(error) if errno(&error) == Some(ERESTART) => take_out(&mut nft, &gone)?,
            done => done.map_err(failed("write"))?,
        }
        Ok(pods.len())
    }

    /// Puts back what somebody has flushed. Whether something was amiss. Cheap while nobody changes any rule.
    pub(crate) fn restore(&self) -> Result<bool> {
        let mut state = self.state();
        if state.pods.is_empty() {
            return Ok(false);
        }
        let mut nft = self.nft()?;
        let generation = nft.generation().map_err(failed("read"))?;
        if state.seen == Some(generation) {
            return Ok(false);
        }
        let mut mended = false;
        let comments = nft.comments(TABLE, CHAIN).map_err(failed("read"))?;
        if comments != [rule().comment] {
            make(&mut nft)?;
            mended = true;
        }
        let present: HashSet<_> = present(&mut nft)?.into_iter().map(|(set, element)| (set, element.key)).collect();
        for (pod, sender) in &state.pods {
            for (set, element) in sender.elements(&self.comment(pod)) {
                if !present.contains(&(set, element.key.clone())) {
                    commit(&mut nft, |change| change.add_exact_again(TABLE, set, &element)).map_err(failed("write"))?;
                    mended = true;
                }
            }
        }
        state.seen = if mended { None } else { Some(generation) };
        Ok(mended)
    }

    fn comment(&self, pod: &str) -> String {
        format!("pod {pod} of {}", self.owner)
    }

    /// The pod that a comment of ours names.
    fn pod_of<'a>(&self, comment: &'a str) -> Option<&'a str> {
        comment.strip_suffix(&self.owner)?.strip_suffix(" of ")?.strip_prefix("pod ")
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Sender {
    /// What says so in the table: first what it may send as, for a link that is checked may send nothing else.
    fn elements(&self, comment: &str) -> [(&'static str, Exact); 2] {
        let mut link = self.link.as_bytes().to_vec();
        link.resize(LINK, 0);
        let element = |key| Exact { key, value: Vec::new(), comment: comment.to_owned() };
        [(SENDERS, element(join(&[&link, &self.mac]))), (CHECKED, element(link))]
    }
}

/// The id in a pod's key: its other networks have their interface behind it.
fn pod_id(key: &str) -> &str {
    key.split('/').next().unwrap_or(key)
}

fn rule() -> Rule {
    Rule {
        // Frames of every family come here.
        family: Family::V4,
        act: Act::DropStrangers { links: CHECKED.into(), senders: SENDERS.into() },
        comment: "pods send under their own hardware address".into(),
    }
}

/// Writes sets, chain and rule, whatever of them was there before. Elements are not touched.
fn make(nft: &mut Nft) -> Result<()> {
    let mut change = nft.transaction();
    change.ensure_table(TABLE);
    SETS.iter().for_each(|(set, form)| change.ensure_exact(TABLE, set, *form));
    change.ensure_empty_hook(TABLE, CHAIN, Hook::First);
    change.add_rule(TABLE, CHAIN, &rule());
    change.commit().map_err(failed("write"))
}

/// Every element of both sets, anybody's.
fn present(nft: &mut Nft) -> Result<Vec<(&'static str, Exact)>> {
    let mut all = Vec::new();
    for (set, _) in SETS {
        let elements = nft.exacts(TABLE, set).map_err(failed("read"))?;
        all.extend(elements.into_iter().map(|element| (set, element)));
    }
    Ok(all)
}

/// Takes elements out, last what a checked link needs. What is gone already is fine.
fn take_out(nft: &mut Nft, elements: &[(&'static str, Exact)]) -> Result<()> {
    let mut elements: Vec<_> = elements.iter().collect();
    elements.sort_by_key(|(set, _)| *set == SENDERS);
    for (set, element) in elements {
        match commit(nft, |change| change.remove_exact(TABLE, set, element)) {
            Err(error) if errno(&error) == Some(libc::ENOENT) => {}
            done => done.map_err(failed("write"))?,
        }
    }
    Ok(())
}

fn open() -> Result<Nft> {
    Nft::open_of_bridges().map_err(failed("open"))
}

fn commit(nft: &mut Nft, fill: impl Fn(&mut Transaction<'_>)) -> io::Result<()> {
    let mut change = nft.transaction();
    fill(&mut change);
    change.commit()
}

fn failed(act: &'static str) -> impl FnOnce(io::Error) -> Error {
    move |source| Error::NftablesOfBridges { act, table: TABLE.into(), source }
}

#[cfg(test)]
mod tests {
    use kernel::namespace::{Namespaces, unshare};

    use super::*;

    const ONE: [u8; 6] = [0x0a, 0x58, 10, 1, 0, 2];
    const OTHER: [u8; 6] = [0x0a, 0x58, 10, 1, 0, 3];

    fn on_a_host_of_its_own(test: impl FnOnce() + Send + 'static) {
        assert!(nix::unistd::geteuid().is_root(), "this test writes nftables rules: run it as root");
        let host = move || {
            unshare(Namespaces::NET).unwrap();
            test();
        };
        std::thread::spawn(host).join().unwrap();
    }

    fn comments() -> Vec<String> {
        let mut all: Vec<_> =
            present(&mut open().unwrap()).unwrap().into_iter().map(|(_, element)| element.comment).collect();
        all.sort();
        all
    }

    #[test]
    #[ignore = "needs root: writes nftables rules in a network namespace of its own"]
    fn each_pod_has_two_elements_that_go_with_it_and_come_back_when_flushed() {
        on_a_host_of_its_own(|| {
            let ours = MacSpoof::new("coracle /ours");
            let theirs = MacSpoof::new("coracle /theirs");
            for _ in 0..2 {
                ours.check("a", "vetha", ONE).unwrap();
            }
            theirs.check("b", "vethb", OTHER).unwrap();
            let (a, b) = (ours.comment("a"), theirs.comment("b"));
            let all = |one: &str, other: &str| [one, one, other, other].map(str::to_owned).to_vec();
            let mut both = all(&a, &b);
            both.sort();
            assert_eq!(comments(), both);
            // Another address takes the place of the first.
            ours.check("a", "vetha", OTHER).unwrap();
            assert_eq!(comments(), both);
            assert!(!ours.restore().unwrap() && !theirs.restore().unwrap());
            let mut nft = open().unwrap();
            commit(&mut nft, |change| change.empty_chain(TABLE, CHAIN)).unwrap();
            assert!(ours.restore().unwrap() && !ours.restore().unwrap());
            commit(&mut nft, |change| change.remove_table(TABLE)).unwrap();
            assert!(ours.restore().unwrap() && theirs.restore().unwrap());
            assert_eq!(comments(), both);
            // The next life knows its own by their comments.
            let next = MacSpoof::new("coracle /ours");
            assert_eq!(next.retain(|_| true).unwrap(), 0);
            for _ in 0..2 {
                next.release("a").unwrap();
            }
            assert_eq!(comments(), vec![b.clone(); 2]);
            assert_eq!(next.retain(|_| false).unwrap(), 0, "another instance's pods are its own");
            assert_eq!(comments(), vec![b; 2]);
            assert_eq!(MacSpoof::new("coracle /theirs").retain(|_| false).unwrap(), 1);
            assert!(nft.chains(TABLE).unwrap().is_empty(), "the table goes with the last one");
        });
    }
}
