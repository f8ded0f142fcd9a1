//! Links of detached pods until they are gone.
//!
//! Detaching does not wait for the link: the kernel takes it down with the namespace a moment later, after the last
//! connections have said goodbye (cutting them off would keep their sockets, and with them the namespace, for
//! minutes). A link that is still there after [`GRACE`] is deleted in the background. If its address is handed out
//! again before that, its port is shut first, so that two pods never answer to one address.

use std::{
    net::IpAddr,
    sync::{Mutex, PoisonError},
    time::{Duration, Instant},
};

/// How long a detached pod's link may go by itself.
pub(crate) const GRACE: Duration = Duration::from_secs(1);

/// A link that should be gone soon.
#[derive(Debug)]
struct Link {
    name: String,
    ips: Vec<IpAddr>,
    since: Instant,
}

/// The links, and whether somebody sees to them.
#[derive(Debug, Default)]
pub(crate) struct Lingering {
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    links: Vec<Link>,
    swept: bool,
}

impl Lingering {
    /// Notes the links of a pod whose addresses have been given back.
    pub(crate) fn add(&self, names: Vec<String>, ips: Vec<IpAddr>) {
        let since = Instant::now();
        self.state().links.extend(names.into_iter().map(|name| Link { name, ips: ips.clone(), since }));
    }

    /// Whether there are links that nobody sees to. Whoever is told so sees to them from now on.
    pub(crate) fn wants_sweeper(&self) -> bool {
        let mut state = self.state();
        !state.links.is_empty() && !std::mem::replace(&mut state.swept, true)
    }

    /// Links whose former addresses are among these, which somebody else has now.
    pub(crate) fn former_links(&self, ips: &[IpAddr]) -> Vec<String> {
        let state = self.state();
        let former = state.links.iter().filter(|link| link.ips.iter().any(|ip| ips.contains(ip)));
        former.map(|link| link.name.clone()).collect()
    }

    /// Takes the links whose time is over; with `all`, every one.
    pub(crate) fn take_due(&self, all: bool) -> Vec<String> {
        let mut state = self.state();
        let (due, rest) = state.links.drain(..).partition(|link: &Link| all || link.since.elapsed() >= GRACE);
        state.links = rest;
        due.into_iter().map(|link: Link| link.name).collect()
    }

    /// How long the sweeper may rest until the next link is due; `None` lets it go: there is none.
    pub(crate) fn rest(&self) -> Option<Duration> {
        let mut state = self.state();
        let next = state.links.iter().map(|link| GRACE.saturating_sub(link.since.elapsed())).min();
        state.swept = next.is_some();
        next
    }

    /// The sweeper could not be started; the next detached pod tries again.
    pub(crate) fn give_up(&self) {
        self.state().swept = false;
    }

    fn state(&self) -> std::sync::MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_sweeper_at_a_time_and_none_without_work() {
        let lingering = Lingering::default();
        let ip: IpAddr = "10.1.0.2".parse().unwrap();
        assert!(!lingering.wants_sweeper());
        lingering.add(vec!["veth1".into()], vec![ip]);
        assert!(lingering.wants_sweeper());
        lingering.add(vec!["veth2".into()], vec![]);
        assert!(!lingering.wants_sweeper());
        assert_eq!(lingering.former_links(&[ip]), ["veth1"]);
        assert_eq!(lingering.take_due(false), [""; 0]);
        assert!(lingering.rest().is_some());
        assert_eq!(lingering.take_due(true), ["veth1", "veth2"]);
        assert!(lingering.rest().is_none());
        lingering.add(vec!["veth3".into()], vec![]);
        assert!(lingering.wants_sweeper(), "the sweeper has gone");
    }
}
