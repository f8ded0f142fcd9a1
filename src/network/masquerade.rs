//! The way out: pods' packets leave the node under the node's address.
//!
//! One nftables table, `inet coracle`, is shared by every instance on the host; each network has one chain of its own
//! in it, so that instances never touch each other's rules. Rules name whole subnets: nothing changes as pods come and
//! go. The chain is written in one transaction that may be repeated at any time, and stays while the network is in use.

use std::net::IpAddr;

use ipnet::IpNet;

use crate::{
    Error, Result,
    netlink::errno,
    nft::{MasqueradeRule, Nft, Side},
};

/// Our table.
pub(crate) const TABLE: &str = "coracle";

/// The kernel's word for "the rules have changed since you looked"; not among libc's constants.
const ERESTART: i32 = 85;

/// How often removal looks again when others change rules at the same time.
const REMOVAL_ATTEMPTS: usize = 16;

/// The chain of one network's bridge.
fn chain_of(bridge: &str) -> String {
    format!("masquerade-{bridge}")
}

/// Writes the network's rules, whatever was there before, and nothing else.
pub(crate) fn ensure(bridge: &str, subnets: &[IpNet]) -> Result<()> {
    let chain = chain_of(bridge);
    let mut nft = Nft::open().map_err(failed("open"))?;
    let mut change = nft.transaction();
    change.ensure_table(TABLE);
    change.ensure_empty_postrouting(TABLE, &chain);
    for subnet in subnets {
        change.add_rule(TABLE, &chain, &rule(*subnet));
    }
    change.commit().map_err(failed("write"))
}

/// Whether the rules stand as [`ensure`] wrote them. Rules are known by their comments.
pub(crate) fn is_in_place(bridge: &str, subnets: &[IpNet]) -> Result<bool> {
    let mut nft = Nft::open().map_err(failed("open"))?;
    let found = nft.comments(TABLE, &chain_of(bridge)).map_err(failed("read"))?;
    Ok(found == subnets.iter().map(|subnet| rule(*subnet).comment).collect::<Vec<_>>())
}

/// Removes the network's chain, and the table with the last of them. A missing one is success.
pub(crate) fn remove(bridge: &str) -> Result<()> {
    let chain = chain_of(bridge);
    let mut nft = Nft::open().map_err(failed("open"))?;
    for _ in 0..REMOVAL_ATTEMPTS {
        let generation = nft.generation().map_err(failed("read"))?;
        let chains = nft.chains(TABLE).map_err(failed("read"))?;
        if !chains.contains(&chain) {
            return Ok(());
        }
        // Bound to what was just read: a chain that another instance adds meanwhile must not go with the table.
        let mut change = nft.transaction_at(generation);
        change.empty_chain(TABLE, &chain);
        change.remove_chain(TABLE, &chain);
        if chains.len() == 1 {
            change.remove_table(TABLE);
        }
        match change.commit() {
            Err(error) if errno(&error) == Some(ERESTART) => {}
            done => return done.map_err(failed("clean")),
        }
    }
    Err(failed("clean")(std::io::Error::from_raw_os_error(ERESTART)))
}

/// What a subnet's packets get: masquerade, unless they stay in the subnet or go to a multicast group.
fn rule(subnet: IpNet) -> MasqueradeRule {
    let multicast: IpNet = match subnet.addr() {
        IpAddr::V4(_) => "224.0.0.0/4".parse().expect("a literal network"),
        IpAddr::V6(_) => "ff00::/8".parse().expect("a literal network"),
    };
    MasqueradeRule {
        matches: vec![
            (Side::Source, true, subnet),
            (Side::Destination, false, subnet),
            (Side::Destination, false, multicast),
        ],
        comment: format!("pods of {subnet} leave as the node"),
    }
}

fn failed(act: &'static str) -> impl FnOnce(std::io::Error) -> Error {
    move |source| Error::Nftables { act, table: TABLE.into(), source }
}

#[cfg(test)]
mod tests {
    use kernel::namespace::{Namespaces, unshare};

    use super::*;

    #[test]
    #[ignore = "needs root: writes nftables rules in a network namespace of its own"]
    fn networks_share_the_table_and_never_touch_each_other_s_rules() {
        assert!(nix::unistd::geteuid().is_root(), "this test writes nftables rules: run it as root");
        let in_its_own_namespace = || {
            unshare(Namespaces::NET).unwrap();
            let one: Vec<IpNet> = vec!["10.1.0.0/16".parse().unwrap(), "fd00:1::/64".parse().unwrap()];
            let other: Vec<IpNet> = vec!["10.2.0.0/16".parse().unwrap()];
            assert!(!is_in_place("one", &one).unwrap());
            for _ in 0..2 {
                ensure("one", &one).unwrap();
                ensure("other", &other).unwrap();
            }
            assert!(is_in_place("one", &one).unwrap() && is_in_place("other", &other).unwrap());
            assert!(!is_in_place("one", &other).unwrap(), "another subnet's rules do not count");
            remove("one").unwrap();
            remove("one").unwrap();
            assert!(!is_in_place("one", &one).unwrap() && is_in_place("other", &other).unwrap());
            remove("other").unwrap();
            assert_eq!(Nft::open().unwrap().chains(TABLE).unwrap(), [""; 0]);
            // The table went with its last chain: a transaction that removes it again is refused.
            let mut nft = Nft::open().unwrap();
            let mut change = nft.transaction();
            change.remove_table(TABLE);
            assert_eq!(errno(&change.commit().unwrap_err()), Some(libc::ENOENT));
        };
        std::thread::spawn(in_its_own_namespace).join().unwrap();
    }
}
