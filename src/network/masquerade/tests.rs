use std::collections::HashSet;

use kernel::namespace::{Namespaces, unshare};

use super::*;

/// Runs the test on a thread with a network namespace of its own, whose nftables are empty.
fn on_a_host_of_its_own(test: impl FnOnce() + Send + 'static) {
    assert!(nix::unistd::geteuid().is_root(), "this test writes nftables rules: run it as root");
    let host = move || {
        unshare(Namespaces::NET).unwrap();
        test();
    };
    std::thread::spawn(host).join().unwrap();
}

fn nets(list: &[&str]) -> Vec<IpNet> {
    list.iter().map(|net| net.parse().unwrap()).collect()
}

/// [`ensure`] and [`remove`] on a host that has these bridges.
fn ensure_on(bridges: &[&str], bridge: &str, subnets: &[IpNet]) -> Result<()> {
    settle(&Wanted { bridge, subnets }, &mut |name, _| Ok(bridges.contains(&name)))
}

fn remove_on(bridges: &[&str], bridge: &str) -> Result<()> {
    ensure_on(bridges, bridge, &[])
}

fn chains() -> HashSet<String> {
    Nft::open().unwrap().chains(TABLE).unwrap().into_iter().collect()
}

fn assert_no_table() {
    // A transaction that removes it again is refused.
    let mut nft = Nft::open().unwrap();
    let generation = nft.generation().unwrap();
    let mut change = nft.transaction_at(generation);
    change.remove_table(TABLE);
    assert_eq!(errno(&change.commit().unwrap_err()), Some(libc::ENOENT));
}

#[test]
#[ignore = "needs root: writes nftables rules in a network namespace of its own"]
fn a_network_of_links_lives_while_a_route_leads_to_a_pod_of_it() {
    on_a_host_of_its_own(|| {
        let ip = |arguments: &str| {
            let done = std::process::Command::new("ip").args(arguments.split(' ')).status().unwrap();
            assert!(done.success(), "ip {arguments}");
        };
        ip("link add pod type veth peer name far");
        ip("link set pod up");
        ip("route add 10.1.0.2/32 dev pod");
        let mut links = Links::open().unwrap();
        let (one, other) = (of_links("one"), of_links("other"));
        let (of_one, of_other) = (nets(&["10.1.0.0/24"]), nets(&["10.2.0.0/24"]));
        ensure(&mut links, &one, &of_one).unwrap();
        ensure(&mut links, &other, &of_other).unwrap();
        assert!(is_in_place(&one, &of_one).unwrap() && is_in_place(&other, &of_other).unwrap());
        let refused = ensure(&mut links, &other, &of_one).unwrap_err().to_string();
        assert!(refused.contains("network one"), "{refused}");
        // No route leads to a pod of the other: whoever writes next clears it away.
        ensure(&mut links, &one, &of_one).unwrap();
        assert!(is_in_place(&one, &of_one).unwrap() && !is_in_place(&other, &of_other).unwrap());
        ip("link delete pod");
        ensure(&mut links, &other, &of_one).unwrap();
        assert!(!is_in_place(&one, &of_one).unwrap() && is_in_place(&other, &of_one).unwrap());
    });
}

#[test]
#[ignore = "needs root: writes nftables rules in a network namespace of its own"]
fn networks_share_the_table_and_never_touch_each_other_s_rules() {
    on_a_host_of_its_own(|| {
        let bridges = ["one", "other"];
        // Neighbours: the end of the first network is the beginning of the second.
        let (one, other) = (nets(&["10.1.0.0/16", "fd00:1::/64"]), nets(&["10.2.0.0/16", "fd00:1:0:1::/64"]));
        assert!(!is_in_place("one", &one).unwrap());
        for _ in 0..2 {
            ensure_on(&bridges, "one", &one).unwrap();
            ensure_on(&bridges, "other", &other).unwrap();
        }
        assert!(is_in_place("one", &one).unwrap() && is_in_place("other", &other).unwrap());
        assert!(!is_in_place("one", &other).unwrap(), "another subnet's rules do not count");
        assert_eq!(chains(), [POSTROUTING, "masquerade-one", "masquerade-other"].map(str::to_owned).into());
        for _ in 0..2 {
            remove_on(&bridges, "one").unwrap();
            assert!(!is_in_place("one", &one).unwrap() && is_in_place("other", &other).unwrap());
        }
        remove_on(&bridges, "other").unwrap();
        assert_no_table();
        remove_on(&bridges, "other").unwrap();
    });
}

#[test]
#[ignore = "needs root: writes nftables rules in a network namespace of its own"]
fn a_changed_subnet_replaces_the_old_one_and_another_network_s_is_refused() {
    on_a_host_of_its_own(|| {
        let bridges = ["one", "other"];
        ensure_on(&bridges, "one", &nets(&["10.1.0.0/16", "fd00:1::/64"])).unwrap();
        let smaller = nets(&["10.1.2.0/24"]);
        ensure_on(&bridges, "one", &smaller).unwrap();
        assert!(is_in_place("one", &smaller).unwrap());
        ensure_on(&bridges, "other", &nets(&["fd00:1::/64"])).unwrap();
        let refused = ensure_on(&bridges, "other", &nets(&["10.1.0.0/16", "fd00:1::/64"])).unwrap_err();
        assert!(matches!(&refused, Error::NotReady { why } if why.contains("10.1.2.0/24")), "{refused:?}");
        assert!(is_in_place("one", &smaller).unwrap() && is_in_place("other", &nets(&["fd00:1::/64"])).unwrap());
    });
}

#[test]
#[ignore = "needs root: writes nftables rules in a network namespace of its own"]
fn a_network_without_a_bridge_is_cleared_away_by_whoever_writes_next() {
    on_a_host_of_its_own(|| {
        let subnets = nets(&["10.1.0.0/16", "fd00:1::/64"]);
        ensure_on(&["crashed", "alive"], "crashed", &subnets).unwrap();
        ensure_on(&["crashed", "alive"], "alive", &nets(&["10.2.0.0/16"])).unwrap();
        // The very addresses of the dead network, whose bridge has gone.
        ensure_on(&["alive", "next"], "next", &subnets).unwrap();
        assert!(is_in_place("next", &subnets).unwrap() && is_in_place("alive", &nets(&["10.2.0.0/16"])).unwrap());
        assert_eq!(chains(), [POSTROUTING, "masquerade-alive", "masquerade-next"].map(str::to_owned).into());
        // Both have lost their bridges by now: the last one to be removed takes all of them along.
        remove_on(&[], "next").unwrap();
        assert_no_table();
    });
}

#[test]
#[ignore = "needs root: writes nftables rules in a network namespace of its own"]
fn rules_that_somebody_has_broken_are_seen_and_mended() {
    on_a_host_of_its_own(|| {
        let subnets = nets(&["10.1.0.0/16", "fd00:1::/64"]);
        let breakages: [fn(&mut Transaction<'_>); 3] = [
            |change| change.remove_table(TABLE),
            |change| change.empty_chain(TABLE, POSTROUTING),
            |change| {
                let element = Element { net: "10.1.0.0/16".parse().unwrap(), chain: chain_of("one") };
                change.remove_element(TABLE, map_of(Family::V4), &element);
            },
        ];
        for breakage in breakages {
            ensure_on(&["one"], "one", &subnets).unwrap();
            assert!(is_in_place("one", &subnets).unwrap());
            let mut nft = Nft::open().unwrap();
            let generation = nft.generation().unwrap();
            let mut change = nft.transaction_at(generation);
            breakage(&mut change);
            change.commit().unwrap();
            assert!(!is_in_place("one", &subnets).unwrap());
        }
    });
}

#[test]
#[ignore = "needs root: writes nftables rules in a network namespace of its own"]
fn a_host_has_room_for_more_networks_than_a_hook_has_for_chains() {
    /// A hook takes 1024 chains.
    const NETWORKS: u32 = 1100;
    on_a_host_of_its_own(|| {
        let name = |n: u32| format!("b{n}");
        let subnets = |n: u32| nets(&[&format!("10.{}.{}.0/24", n / 256, n % 256), &format!("fd00:{n:x}::/64")]);
        let mut nft = Nft::open().unwrap();
        // Several in each transaction, as far as their answers fit the socket's buffer, to save the reading in between.
        for batch in 0..NETWORKS / 5 {
            let generation = nft.generation().unwrap();
            let empty =
                Table { bridges: BTreeSet::new(), elements: [Vec::new(), Vec::new()], exists: true, is_used: false };
            let mut change = nft.transaction_at(generation);
            for n in batch * 5..(batch + 1) * 5 {
                write(&mut change, &empty, &Wanted { bridge: &name(n), subnets: &subnets(n) });
            }
            change.commit().unwrap();
        }
        settle(&Wanted { bridge: "last", subnets: &nets(&["192.168.0.0/24"]) }, &mut |_, _| Ok(true)).unwrap();
        assert!(
            is_in_place("b1099", &subnets(1099)).unwrap() && is_in_place("last", &nets(&["192.168.0.0/24"])).unwrap()
        );
        assert_eq!(chains().len(), NETWORKS as usize + 2);
        // All of their bridges gone: whoever writes next clears them away, however many they are.
        ensure_on(&["last"], "last", &nets(&["192.168.1.0/24"])).unwrap();
        assert_eq!(chains(), [POSTROUTING, "masquerade-last"].map(str::to_owned).into());
    });
}

#[test]
#[ignore = "needs root: writes nftables rules in a network namespace of its own"]
fn instances_that_come_and_go_at_once_lose_nothing_and_leave_nothing() {
    const ROUNDS: usize = 30;
    on_a_host_of_its_own(|| {
        std::thread::scope(|scope| {
            for instance in ["a", "b", "c"] {
                // Threads of this one live in its namespace.
                scope.spawn(move || {
                    let subnets = nets(&[&format!("10.{}.0.0/16", instance.as_bytes()[0])]);
                    for _ in 0..ROUNDS {
                        ensure_on(&["a", "b", "c"], instance, &subnets).unwrap();
                        assert!(is_in_place(instance, &subnets).unwrap());
                        remove_on(&["a", "b", "c"], instance).unwrap();
                    }
                });
            }
        });
        assert_no_table();
    });
}
