//! nftables over raw nfnetlink: just the messages this room sends.
//!
//! An encoder of ours, because the crates there are run the `nft` program (5 ms a change, and a program to install) or
//! link libnftnl; what we say to the kernel is two dozen attribute kinds. A [`Transaction`] is atomic: all of it or
//! nothing.

use std::io;

use crate::netlink::{Conversation, errno};

mod exact;
mod map;
mod rule;
mod watch;
pub(crate) mod wire;

pub(crate) use exact::{Exact, Form, Part, join};
pub(crate) use map::Element;
pub(crate) use rule::{Act, Family, Rule, Side};
pub(crate) use watch::{NftWatch, Watched};

use wire::{Head, attribute, comment, comment_of, find, find_text, message, nested, number, text};

/// `NETLINK_NETFILTER`.
const NETFILTER: isize = 12;

// linux/netfilter/nfnetlink.h
const SUBSYSTEM: u16 = 10;
const BATCH_BEGIN: u16 = 0x10;
const BATCH_END: u16 = 0x11;
/// Size of `struct nfgenmsg` in bytes, which stands before the attributes of every answer.
const GENMSG: usize = 4;
// linux/netfilter.h: a table that sees IPv4 and IPv6.
const NFPROTO_INET: u8 = 1;
/// One that sees the frames of bridges.
const NFPROTO_BRIDGE: u8 = 7;
// linux/netfilter/nf_tables.h: messages
const NEW_TABLE: u16 = 0;
const DEL_TABLE: u16 = 2;
const NEW_CHAIN: u16 = 3;
const GET_CHAIN: u16 = 4;
const DEL_CHAIN: u16 = 5;
const NEW_RULE: u16 = 6;
const GET_RULE: u16 = 7;
const DEL_RULE: u16 = 8;
const NEW_SET: u16 = 9;
const DEL_SET: u16 = 11;
const NEW_SET_ELEMENT: u16 = 12;
const GET_SET_ELEMENT: u16 = 13;
const DEL_SET_ELEMENT: u16 = 14;
const GET_GENERATION: u16 = 16;
// … and attributes
const BATCH_GENERATION: u16 = 1;
const GENERATION_ID: u16 = 1;
const TABLE_NAME: u16 = 1;
const CHAIN_TABLE: u16 = 1;
const CHAIN_NAME: u16 = 3;
const CHAIN_HOOK: u16 = 4;
const CHAIN_TYPE: u16 = 7;
const HOOK_NUMBER: u16 = 1;
const HOOK_PRIORITY: u16 = 2;
const RULE_TABLE: u16 = 1;
const RULE_CHAIN: u16 = 2;
const RULE_EXPRESSIONS: u16 = 4;
const RULE_USERDATA: u16 = 7;
const SET_TABLE: u16 = 1;
const SET_NAME: u16 = 2;
const SET_FLAGS: u16 = 3;
const SET_KEY_TYPE: u16 = 4;
const SET_KEY_LENGTH: u16 = 5;
const SET_DATA_TYPE: u16 = 6;
const SET_DATA_LENGTH: u16 = 7;
const SET_ID: u16 = 10;
const ELEMENTS_TABLE: u16 = 1;
const ELEMENTS_SET: u16 = 2;
const ELEMENTS: u16 = 3;
// … and their values
const SET_INTERVAL: u32 = 4;
const SET_MAP: u32 = 8;
const DATA_TYPE_VERDICT: u32 = 0xffff_ff00;
/// Numbers by which the `nft` program knows what a map's keys are when it shows them.
const KEY_TYPE_IPV4: u32 = 7;
const KEY_TYPE_IPV6: u32 = 8;
// linux/netlink.h
const NLM_F_REQUEST: u16 = 1;
const NLM_F_EXCL: u16 = 0x200;
const NLM_F_ACK: u16 = 4;
const NLM_F_DUMP: u16 = 0x300;
const NLM_F_CREATE: u16 = 0x400;
const NLM_F_APPEND: u16 = 0x800;

/// How often a dump is begun anew because the rule set changed while it was read.
const DUMP_ATTEMPTS: usize = 8;

/// A conversation with nftables of the thread's own network namespace.
#[derive(Debug)]
pub(crate) struct Nft {
    conversation: Conversation,
    /// Of the tables that are meant.
    family: u8,
}

/// Where a chain stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Hook {
    /// What comes from outside, before anything else is done with it; the others translate addresses.
    First,
    /// What comes from outside, before it is known where it goes.
    Prerouting,
    /// What the host itself sends.
    Output,
    /// What leaves.
    Postrouting,
}

/// Changes that come about together or not at all.
pub(crate) struct Transaction<'a> {
    nft: &'a mut Nft,
    bytes: Vec<u8>,
    sequences: Vec<u32>,
    begin: u32,
}

impl Nft {
    pub(crate) fn open() -> io::Result<Self> {
        Ok(Self { conversation: Conversation::open(NETFILTER)?, family: NFPROTO_INET })
    }

    /// The same of tables that see the frames of bridges.
    pub(crate) fn open_of_bridges() -> io::Result<Self> {
        Ok(Self { family: NFPROTO_BRIDGE, ..Self::open()? })
    }

    /// The number by which notices of what we do are known.
    pub(crate) fn port(&self) -> u32 {
        self.conversation.port()
    }

    /// Begins a set of changes that comes about whatever others change meanwhile.
    pub(crate) fn transaction(&mut self) -> Transaction<'_> {
        self.begin(None)
    }

    /// Begins a set of changes that comes about only if nothing has changed since [`Nft::generation`] gave
    /// `generation`; otherwise it is refused with `ERESTART`.
    pub(crate) fn transaction_at(&mut self, generation: u32) -> Transaction<'_> {
        self.begin(Some(generation))
    }

    fn begin(&mut self, generation: Option<u32>) -> Transaction<'_> {
        let begin = self.conversation.next_sequence();
        let mut bytes = Vec::new();
        // The batch's resource id names the subsystem, in network order.
        let head = Head { kind: BATCH_BEGIN, flags: NLM_F_REQUEST, sequence: begin, family: 0, resource: SUBSYSTEM };
        message(&mut bytes, &head, |body| {
            if let Some(generation) = generation {
                number(body, BATCH_GENERATION, generation);
            }
        });
        Transaction { nft: self, bytes, sequences: Vec::new(), begin }
    }

    /// The number of the rule set as it is now; every change, whosever, raises it.
    pub(crate) fn generation(&mut self) -> io::Result<u32> {
        let head = self.request(GET_GENERATION, NLM_F_ACK, 0);
        let mut bytes = Vec::new();
        message(&mut bytes, &head, |_| {});
        let (answers, refusals) = self.conversation.exchange(&bytes, &[head.sequence], None)?;
        if let Some(refusal) = refusals.into_iter().next() {
            return Err(refusal.source);
        }
        let number = |payload: &[u8]| find(payload.get(GENMSG..)?, GENERATION_ID)?.try_into().ok();
        let number = answers.iter().find_map(|answer| number(&answer.payload));
        number.map(u32::from_be_bytes).ok_or_else(|| io::ErrorKind::InvalidData.into())
    }

    /// Comments of the rules of a chain, in order; empty when the table or chain does not exist.
    pub(crate) fn comments(&mut self, table: &str, chain: &str) -> io::Result<Vec<String>> {
        let rules = self.dump(GET_RULE, |body| {
            text(body, RULE_TABLE, table);
            text(body, RULE_CHAIN, chain);
        })?;
        // Older kernels ignore the filter: look again at whose rule it is.
        let ours =
            rules.iter().filter(|rule| find_text(rule, RULE_TABLE) == table && find_text(rule, RULE_CHAIN) == chain);
        Ok(ours.map(|rule| find(rule, RULE_USERDATA).and_then(comment_of).unwrap_or_default()).collect())
    }

    /// Names of the chains of a table; empty when it does not exist.
    pub(crate) fn chains(&mut self, table: &str) -> io::Result<Vec<String>> {
        let chains = self.dump(GET_CHAIN, |_| {})?;
        let ours = chains.iter().filter(|chain| find_text(chain, CHAIN_TABLE) == table);
        Ok(ours.map(|chain| find_text(chain, CHAIN_NAME)).collect())
    }

    /// The entries of a map; empty when the table or map does not exist.
    pub(crate) fn elements(&mut self, table: &str, map: &str, family: Family) -> io::Result<Vec<Element>> {
        let lists = self.dump(GET_SET_ELEMENT, |body| {
            text(body, ELEMENTS_TABLE, table);
            text(body, ELEMENTS_SET, map);
        })?;
        let lists: Vec<Vec<u8>> = lists.iter().filter_map(|list| find(list, ELEMENTS)).map(<[u8]>::to_vec).collect();
        Ok(Element::decode(family, &lists))
    }

    /// The elements of a set or map of exact keys; none when there is no such set.
    pub(crate) fn exacts(&mut self, table: &str, set: &str) -> io::Result<Vec<Exact>> {
        let lists = self.dump(GET_SET_ELEMENT, |body| {
            text(body, ELEMENTS_TABLE, table);
            text(body, ELEMENTS_SET, set);
        })?;
        let lists: Vec<Vec<u8>> = lists.iter().filter_map(|list| find(list, ELEMENTS)).map(<[u8]>::to_vec).collect();
        Ok(Exact::decode(&lists))
    }

    /// Everything of a kind, each as its attributes.
    fn dump(&mut self, kind: u16, body: impl Fn(&mut Vec<u8>)) -> io::Result<Vec<Vec<u8>>> {
        for _ in 0..DUMP_ATTEMPTS {
            let head = self.request(kind, NLM_F_DUMP, self.family);
            let mut bytes = Vec::new();
            message(&mut bytes, &head, &body);
            match self.conversation.exchange(&bytes, &[head.sequence], None) {
                Ok((answers, refusals)) => match refusals.into_iter().next() {
                    None => {
                        let objects =
                            answers.into_iter().filter_map(|answer| Some(answer.payload.get(GENMSG..)?.to_vec()));
                        return Ok(objects.collect());
                    }
                    Some(refusal) if errno(&refusal.source) == Some(libc::ENOENT) => return Ok(Vec::new()),
                    Some(refusal) => return Err(refusal.source),
                },
                // What changed while it was read is worthless.
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        Err(io::ErrorKind::Interrupted.into())
    }

    /// The head of the next request.
    fn request(&mut self, kind: u16, flags: u16, family: u8) -> Head {
        let sequence = self.conversation.next_sequence();
        Head { kind: SUBSYSTEM << 8 | kind, flags: NLM_F_REQUEST | flags, sequence, family, resource: 0 }
    }
}

impl Transaction<'_> {
    /// Makes the table unless it exists.
    pub(crate) fn ensure_table(&mut self, table: &str) {
        self.push(NEW_TABLE, NLM_F_CREATE, |body| text(body, TABLE_NAME, table));
    }

    /// Makes a chain at a hook unless it exists, and empties it.
    pub(crate) fn ensure_empty_hook(&mut self, table: &str, chain: &str, hook: Hook) {
        let (place, priority) = match hook {
            Hook::First => (libc::NF_INET_PRE_ROUTING, libc::NF_IP_PRI_RAW),
            Hook::Prerouting => (libc::NF_INET_PRE_ROUTING, libc::NF_IP_PRI_NAT_DST),
            Hook::Output => (libc::NF_INET_LOCAL_OUT, libc::NF_IP_PRI_NAT_DST),
            Hook::Postrouting => (libc::NF_INET_POST_ROUTING, libc::NF_IP_PRI_NAT_SRC),
        };
        self.push(NEW_CHAIN, NLM_F_CREATE, |body| {
            text(body, CHAIN_TABLE, table);
            text(body, CHAIN_NAME, chain);
            nested(body, CHAIN_HOOK, |hook| {
                number(hook, HOOK_NUMBER, place.cast_unsigned());
                number(hook, HOOK_PRIORITY, priority.cast_unsigned());
            });
            text(body, CHAIN_TYPE, if hook == Hook::First { "filter" } else { "nat" });
        });
        self.empty_chain(table, chain);
    }

    /// Makes a chain that is only ever jumped to unless it exists, and empties it.
    pub(crate) fn ensure_empty_chain(&mut self, table: &str, chain: &str) {
        self.push(NEW_CHAIN, NLM_F_CREATE, |body| {
            text(body, CHAIN_TABLE, table);
            text(body, CHAIN_NAME, chain);
        });
        self.empty_chain(table, chain);
    }

    /// Makes a map from ranges of addresses to chains unless it exists.
    pub(crate) fn ensure_map(&mut self, table: &str, map: &str, family: Family) {
        // The id tells maps of one transaction apart.
        let id = u32::try_from(self.sequences.len()).expect("a transaction of a few messages");
        self.push(NEW_SET, NLM_F_CREATE, |body| {
            text(body, SET_TABLE, table);
            text(body, SET_NAME, map);
            number(body, SET_FLAGS, SET_INTERVAL | SET_MAP);
            number(body, SET_KEY_TYPE, if family == Family::V4 { KEY_TYPE_IPV4 } else { KEY_TYPE_IPV6 });
            number(body, SET_KEY_LENGTH, family.width());
            number(body, SET_DATA_TYPE, DATA_TYPE_VERDICT);
            number(body, SET_ID, id);
        });
    }

    /// Makes a set or map of exact keys unless it exists.
    pub(crate) fn ensure_exact(&mut self, table: &str, set: &str, form: Form) {
        let id = u32::try_from(self.sequences.len()).expect("a transaction of a few messages");
        self.push(NEW_SET, NLM_F_CREATE, |body| {
            text(body, SET_TABLE, table);
            text(body, SET_NAME, set);
            number(body, SET_FLAGS, if form.value.is_empty() { 0 } else { SET_MAP });
            number(body, SET_KEY_TYPE, exact::kind(form.key));
            number(body, SET_KEY_LENGTH, exact::width(form.key));
            if !form.value.is_empty() {
                number(body, SET_DATA_TYPE, exact::kind(form.value));
                number(body, SET_DATA_LENGTH, exact::width(form.value));
            }
            number(body, SET_ID, id);
        });
    }

    /// Removes every rule of the chain.
    pub(crate) fn empty_chain(&mut self, table: &str, chain: &str) {
        self.push(DEL_RULE, 0, |body| {
            text(body, RULE_TABLE, table);
            text(body, RULE_CHAIN, chain);
        });
    }

    /// Removes an empty chain that nothing jumps to.
    pub(crate) fn remove_chain(&mut self, table: &str, chain: &str) {
        self.push(DEL_CHAIN, 0, |body| {
            text(body, CHAIN_TABLE, table);
            text(body, CHAIN_NAME, chain);
        });
    }

    /// Removes a set or map that no rule looks at.
    pub(crate) fn remove_set(&mut self, table: &str, set: &str) {
        self.push(DEL_SET, 0, |body| {
            text(body, SET_TABLE, table);
            text(body, SET_NAME, set);
        });
    }

    /// Removes a table with all that is in it.
    pub(crate) fn remove_table(&mut self, table: &str) {
        self.push(DEL_TABLE, 0, |body| text(body, TABLE_NAME, table));
    }

    /// Appends a rule.
    pub(crate) fn add_rule(&mut self, table: &str, chain: &str, rule: &Rule) {
        self.push(NEW_RULE, NLM_F_CREATE | NLM_F_APPEND, |body| {
            text(body, RULE_TABLE, table);
            text(body, RULE_CHAIN, chain);
            nested(body, RULE_EXPRESSIONS, |list| rule.encode(list));
            attribute(body, RULE_USERDATA, &comment(&rule.comment));
        });
    }

    /// Adds an entry. One that overlaps another is refused with `EEXIST`.
    pub(crate) fn add_element(&mut self, table: &str, map: &str, element: &Element) {
        self.push_element(NEW_SET_ELEMENT, NLM_F_CREATE, table, map, element);
    }

    /// Removes an entry.
    pub(crate) fn remove_element(&mut self, table: &str, map: &str, element: &Element) {
        self.push_element(DEL_SET_ELEMENT, 0, table, map, element);
    }

    /// Adds an element of a set or map of exact keys. One whose key is there already is refused with `EEXIST`, and one
    /// of a set that is not there with `ENOENT`.
    pub(crate) fn add_exact(&mut self, table: &str, set: &str, element: &Exact) {
        self.push_elements(NEW_SET_ELEMENT, NLM_F_CREATE | NLM_F_EXCL, table, set, |list| element.encode(list, true));
    }

    /// Adds an element of a set; one that is there already is fine.
    pub(crate) fn add_exact_again(&mut self, table: &str, set: &str, element: &Exact) {
        self.push_elements(NEW_SET_ELEMENT, NLM_F_CREATE, table, set, |list| element.encode(list, true));
    }

    /// Removes one; `ENOENT` when it is not there.
    pub(crate) fn remove_exact(&mut self, table: &str, set: &str, element: &Exact) {
        self.push_elements(DEL_SET_ELEMENT, 0, table, set, |list| element.encode(list, false));
    }

    /// Carries the changes out.
    pub(crate) fn commit(mut self) -> io::Result<()> {
        let sequence = self.nft.conversation.next_sequence();
        let head = Head { kind: BATCH_END, flags: NLM_F_REQUEST, sequence, family: 0, resource: SUBSYSTEM };
        message(&mut self.bytes, &head, |_| {});
        let (_, refusals) = self.nft.conversation.exchange(&self.bytes, &self.sequences, Some(self.begin))?;
        refusals.into_iter().next().map_or(Ok(()), |refusal| Err(refusal.source))
    }

    fn push_element(&mut self, kind: u16, flags: u16, table: &str, map: &str, element: &Element) {
        self.push_elements(kind, flags, table, map, |list| element.encode(list));
    }

    fn push_elements(&mut self, kind: u16, flags: u16, table: &str, set: &str, list: impl FnOnce(&mut Vec<u8>)) {
        self.push(kind, flags, |body| {
            text(body, ELEMENTS_TABLE, table);
            text(body, ELEMENTS_SET, set);
            nested(body, ELEMENTS, list);
        });
    }

    fn push(&mut self, kind: u16, flags: u16, body: impl FnOnce(&mut Vec<u8>)) {
        let head = self.nft.request(kind, NLM_F_ACK | flags, self.nft.family);
        self.sequences.push(head.sequence);
        message(&mut self.bytes, &head, body);
    }
}
