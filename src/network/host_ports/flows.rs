//! Flows of UDP, which have to be forgotten when a port leads elsewhere: they know no end, and what a client keeps
//! sending from one port would go on to where it went before.

use std::{
    collections::HashSet,
    net::IpAddr,
    sync::{Mutex, OnceLock, PoisonError},
};

use super::held::{Held, Number};
use crate::{
    Error, Result,
    conntrack::{Conntrack, Flow},
    link::Links,
    nft::Family,
};

/// Our conversation about them. Kept open: the kernel lets go of such a socket only when what others have deleted of
/// nftables is gone.
#[derive(Debug, Default)]
pub(super) struct Flows {
    conntrack: OnceLock<Mutex<Conntrack>>,
}

impl Flows {
    /// Forgets those that clients have begun by these ports. What the pods themselves or others have to do with the
    /// same port of another machine stays. A failure is told in the log: the port is right for everybody else.
    pub(super) fn forget(&self, held: &[Held]) {
        for held in held.iter().filter(|held| held.protocol == Number::UDP) {
            if let Err(error) = self.forget_one(held) {
                let error = model::with_causes(&error);
                tracing::warn!(port = held.port, error, "forget the flows of a UDP port");
            }
        }
    }

    fn forget_one(&self, held: &Held) -> Result<()> {
        let failed =
            |source| Error::Link { act: "forget the flows of", name: format!("UDP port {}", held.port), source };
        let conntrack = match self.conntrack.get() {
            Some(conntrack) => conntrack,
            None => {
                let opened = Conntrack::open().map_err(failed)?;
                self.conntrack.get_or_init(|| Mutex::new(opened))
            }
        };
        let mut conntrack = conntrack.lock().unwrap_or_else(PoisonError::into_inner);
        let family = Family::of(held.to.ip());
        let mut flows = conntrack.udp_to(family, held.port).map_err(failed)?;
        if flows.is_empty() {
            return Ok(());
        }
        let own = match held.at {
            Some(at) => HashSet::from([at]),
            None => Links::open()?.addresses()?.into_iter().map(|(_, net)| net.addr()).collect(),
        };
        flows.retain(|flow| is_by(held, flow, &own));
        conntrack.forget(family, &flows).map_err(failed)
    }
}

/// Whether a flow has come by this port: to one of the host's own addresses, or to an address that the host had then.
fn is_by(held: &Held, flow: &Flow, own: &HashSet<IpAddr>) -> bool {
    let to = flow.to.ip();
    own.contains(&to) || (held.at.is_none() && to.is_loopback()) || flow.answered_by == held.to
}

#[cfg(test)]
mod tests {
    use model::Protocol;

    use super::*;
    use crate::host_ports::{Mapping, held};

    #[test]
    fn flows_to_the_same_port_elsewhere_are_not_meant() {
        let of = |host_ip: Option<&str>| {
            let host_ip = host_ip.map(|ip| ip.parse().unwrap());
            let mapping = Mapping { protocol: Protocol::Udp, host_port: 53, container_port: 5353, host_ip };
            held::of(&[mapping], &["172.21.0.2/16".parse().unwrap()]).unwrap()[0]
        };
        let (every, one) = (of(None), of(Some("192.0.2.1")));
        for (to, answered_by, by_every, by_one) in [
            ("192.0.2.1:53", "192.0.2.1:53", true, true),
            ("192.0.2.2:53", "172.21.0.9:5353", true, false),
            ("127.0.0.53:53", "127.0.0.53:53", true, false),
            ("192.0.2.7:53", "172.21.0.2:5353", true, true),
            ("198.51.100.1:53", "198.51.100.1:53", false, false),
            ("198.51.100.10:53", "172.21.0.2:53", false, false),
        ] {
            let flow = Flow::between(to.parse().unwrap(), answered_by.parse().unwrap());
            let own = |held: &Held| match held.at {
                Some(at) => HashSet::from([at]),
                None => ["192.0.2.1", "192.0.2.2"].map(|ip| ip.parse().unwrap()).into(),
            };
            assert_eq!(is_by(&every, &flow, &own(&every)), by_every, "{to} answered by {answered_by}");
            assert_eq!(is_by(&one, &flow, &own(&one)), by_one, "{to} answered by {answered_by}");
        }
    }
}
