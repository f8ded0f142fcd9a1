//! The reference plugin's behaviour, byte for byte where files are shared with it, and the promise that no address is
//! ever handed out twice.

use std::{collections::HashSet, fs, process::Command};

use proptest::prelude::*;
use serde_json::json;

use super::*;

/// Set in the environment of a child process: the directory it allocates in.
const CHILD_DIR: &str = "CORACLE_HOST_LOCAL_CHILD";

fn plugin(dir: &std::path::Path, ranges: serde_json::Value) -> HostLocal {
    let conf = json!({"type": "host-local", "dataDir": dir, "ranges": ranges});
    HostLocal::new("net", serde_json::from_value(conf).unwrap()).unwrap()
}

fn holder(id: &str) -> Holder<'_> {
    Holder { id, interface: "eth0" }
}

/// Ids that hold a lease.
fn holders(plugin: &HostLocal) -> HashSet<String> {
    let mut ids = HashSet::new();
    // Asked for each lease, and none is given back.
    plugin
        .leases
        .release_all(|id| {
            ids.insert(id.to_owned());
            false
        })
        .unwrap();
    ids
}

fn ips(addresses: &[Address]) -> Vec<String> {
    addresses.iter().map(|address| address.net.addr().to_string()).collect()
}

#[test]
fn a_lease_has_the_reference_plugin_s_bytes() {
    let dir = tempfile::tempdir().unwrap();
    let plugin = plugin(dir.path(), json!([[{"subnet": "10.1.0.0/24"}], [{"subnet": "fd00:1::/64"}]]));
    let got = plugin.allocate(&holder("a-pod"), &[]).unwrap();
    assert_eq!(ips(&got), ["10.1.0.2", "fd00:1::2"]);
    assert_eq!(got[0].gateway.unwrap().to_string(), "10.1.0.1");
    let read = |name: &str| fs::read_to_string(dir.path().join("net").join(name)).unwrap();
    assert_eq!(read("10.1.0.2"), "a-pod\r\neth0");
    assert_eq!(read("fd00:1::2"), "a-pod\r\neth0");
    assert_eq!(read("last_reserved_ip.0"), "10.1.0.2");
    assert_eq!(read("last_reserved_ip.1"), "fd00:1::2");
}

#[test]
fn addresses_go_round_and_are_not_reused_at_once() {
    let dir = tempfile::tempdir().unwrap();
    let plugin = plugin(dir.path(), json!([[{"subnet": "10.1.0.0/29"}]]));
    let mut seen = Vec::new();
    for n in 0..7 {
        let id = format!("pod-{n}");
        let got = plugin.allocate(&holder(&id), &[]).unwrap();
        seen.extend(ips(&got));
        assert_eq!(plugin.leases.release(&holder(&id), &[got[0].net.addr()]).unwrap(), 1);
    }
    let want = [2, 3, 4, 5, 6, 2, 3].map(|n| format!("10.1.0.{n}"));
    assert_eq!(seen, want, "network, gateway and broadcast are never handed out");
}

#[test]
fn a_full_range_says_so_and_gives_back_the_other_family() {
    let dir = tempfile::tempdir().unwrap();
    let plugin = plugin(dir.path(), json!([[{"subnet": "fd00:1::/64"}], [{"subnet": "10.1.0.0/30"}]]));
    plugin.allocate(&holder("one"), &[]).unwrap();
    match plugin.allocate(&holder("two"), &[]) {
        Err(Error::Exhausted { network, set, size, holders }) => {
            assert_eq!((network.as_str(), set.as_str(), size), ("net", "10.1.0.1-10.1.0.2", 1));
            assert_eq!(holders, ["one"]);
        }
        other => panic!("{other:?}"),
    }
    assert_eq!(holders(&plugin), HashSet::from(["one".to_owned()]));
}

#[test]
fn a_lock_that_another_does_not_let_go_of_is_named_with_its_holder() {
    let dir = tempfile::tempdir().unwrap();
    let leases = plugin(dir.path(), json!([[{"subnet": "10.1.0.0/24"}]])).leases;
    drop(leases.lock().unwrap());
    let path = dir.path().join("net/lock");
    // A lock belongs to the open file, so another opening of it is as good as another process.
    let file = fs::OpenOptions::new().write(true).open(&path).unwrap();
    let held = nix::fcntl::Flock::lock(file, nix::fcntl::FlockArg::LockExclusive).unwrap();
    match leases.lock_within(std::time::Duration::ZERO).map(drop) {
        Err(error @ Error::LeaseLock { .. }) => {
            assert_eq!(error.class(), model::Class::Unavailable);
            let Error::LeaseLock { path: named, holder, .. } = error else { unreachable!() };
            assert_eq!(named, path);
            // Some file systems show another device to stat than to /proc/locks.
            assert!(holder.is_none_or(|pid| pid == std::process::id()), "{holder:?}");
        }
        other => panic!("{other:?}"),
    }
    drop(held);
    leases.lock().unwrap();
}

#[test]
fn threads_queue_for_a_directory_and_each_gets_an_address() {
    let dir = tempfile::tempdir().unwrap();
    let ranges = json!([[{"subnet": "10.1.0.0/24"}]]);
    let got: Vec<String> = std::thread::scope(|scope| {
        let take = |n: usize| {
            let plugin = plugin(dir.path(), ranges.clone());
            scope.spawn(move || ips(&plugin.allocate(&holder(&format!("pod-{n}")), &[]).unwrap()))
        };
        let threads: Vec<_> = (0..32).map(take).collect();
        threads.into_iter().flat_map(|thread| thread.join().unwrap()).collect()
    });
    assert_eq!(got.iter().collect::<HashSet<_>>().len(), 32);
}

#[test]
fn a_requested_address_is_given_refused_or_unknown() {
    let dir = tempfile::tempdir().unwrap();
    let plugin = plugin(dir.path(), json!([[{"subnet": "10.1.0.0/24", "rangeStart": "10.1.0.10"}]]));
    let asked = ["10.1.0.77".parse().unwrap()];
    assert_eq!(ips(&plugin.allocate(&holder("one"), &asked).unwrap()), ["10.1.0.77"]);
    assert!(matches!(plugin.allocate(&holder("two"), &asked), Err(Error::AddressTaken { .. })));
    for outside in ["10.1.0.1", "10.1.0.9", "10.2.0.1", "fd00::1"] {
        let asked = [outside.parse().unwrap()];
        assert!(matches!(plugin.allocate(&holder("two"), &asked), Err(Error::AddressOutside { .. })), "{outside}");
    }
}

#[test]
fn requested_addresses_find_their_sets_and_a_set_gives_one() {
    let dir = tempfile::tempdir().unwrap();
    let plugin = plugin(dir.path(), json!([[{"subnet": "172.22.0.0/24"}], [{"subnet": "fd00:1::/64"}]]));
    let ask = |id: &str, asked: &[&str]| {
        let asked: Vec<IpAddr> = asked.iter().map(|ip| ip.parse().unwrap()).collect();
        plugin.allocate(&holder(id), &asked)
    };
    let both = ask("one", &["fd00:1::9", "172.22.0.9"]).unwrap();
    assert_eq!(ips(&both), ["172.22.0.9", "fd00:1::9"], "in the order of the sets");
    assert!(matches!(ask("two", &["172.22.0.10", "172.22.0.11"]), Err(Error::Asked { .. })));
    let twice = ask("two", &["172.22.0.10", "172.22.0.10"]).unwrap();
    assert_eq!(ips(&twice), ["172.22.0.10", "fd00:1::a"], "one address named twice is one");
    assert_eq!(holders(&plugin).len(), 2);
}

#[test]
fn resolvers_are_those_of_the_configured_file_as_it_is_now() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("resolv.conf");
    let host_local = |resolv_conf: serde_json::Value| {
        let conf = json!({"type": "host-local", "subnet": "172.22.0.0/24", "resolvConf": resolv_conf});
        HostLocal::new("net", serde_json::from_value(conf).unwrap()).unwrap()
    };
    assert_eq!(host_local(json!("")).dns().unwrap(), Dns::default());
    let configured = host_local(json!(file));
    assert!(matches!(configured.dns(), Err(Error::Dns { .. })));
    for server in ["172.22.0.53", "172.22.0.54"] {
        fs::write(&file, format!("nameserver {server}\n")).unwrap();
        assert_eq!(configured.dns().unwrap().nameservers, [server]);
    }
}

#[test]
fn an_address_is_given_back_once_and_only_by_its_holder() {
    let dir = tempfile::tempdir().unwrap();
    let plugin = plugin(dir.path(), json!([[{"subnet": "10.1.0.0/24"}]]));
    let address = plugin.allocate(&holder("one"), &[]).unwrap()[0].net.addr();
    assert_eq!(plugin.leases.release(&holder("two"), &[address]).unwrap(), 0);
    assert_eq!(plugin.leases.release(&holder("one"), &[address]).unwrap(), 1);
    assert_eq!(plugin.leases.release(&holder("one"), &[address]).unwrap(), 0);
    let asked = [address];
    plugin.allocate(&holder("two"), &asked).unwrap();
    assert_eq!(plugin.leases.release(&holder("one"), &[address]).unwrap(), 0, "it is another's by now");
}

#[test]
fn what_dead_holders_and_crashes_left_is_swept() {
    let dir = tempfile::tempdir().unwrap();
    let plugin = plugin(dir.path(), json!([[{"subnet": "10.1.0.0/24"}]]));
    plugin.allocate(&holder("dead"), &[]).unwrap();
    plugin.allocate(&holder("live"), &[]).unwrap();
    let net = dir.path().join("net");
    fs::write(net.join("10.1.0.200"), "").unwrap();
    fs::write(net.join("notes.txt"), "not a lease").unwrap();
    assert_eq!(plugin.leases.release_all(|id| id != "live").unwrap(), 2);
    assert_eq!(holders(&plugin), HashSet::from(["live".to_owned()]));
    assert!(net.join("notes.txt").exists());
}

#[test]
fn a_living_pods_lost_lease_is_written_again_and_nobody_elses_is_taken() {
    let dir = tempfile::tempdir().unwrap();
    let plugin = plugin(dir.path(), json!([[{"subnet": "10.1.0.0/24"}]]));
    let lost = plugin.allocate(&holder("one"), &[]).unwrap()[0].net.addr();
    let kept = plugin.allocate(&holder("two"), &[]).unwrap()[0].net.addr();
    let lease = dir.path().join("net").join(lost.to_string());
    let text = fs::read(&lease).unwrap();
    fs::remove_file(&lease).unwrap();
    let live = [(holder("one"), lost), (holder("two"), kept), (holder("one"), kept)];
    assert_eq!(plugin.leases.restore(&live).unwrap(), 1);
    assert_eq!(fs::read(&lease).unwrap(), text);
    assert_eq!(holders(&plugin), HashSet::from(["one".to_owned(), "two".to_owned()]));
    assert_eq!(plugin.leases.release(&holder("two"), &[kept]).unwrap(), 1);
}

#[test]
fn a_range_that_cannot_work_is_named() {
    for (ranges, key) in [
        (json!([]), "ipam.ranges"),
        (json!([[]]), "ipam.ranges[0]"),
        (json!([[{"subnet": "10.1.0.0/31"}]]), "ipam.ranges[0][0].subnet"),
        (json!([[{"subnet": "10.1.0.1/24"}]]), "ipam.ranges[0][0].subnet"),
        (json!([[{"subnet": "10.1.0.0/24", "gateway": "10.2.0.1"}]]), "ipam.ranges[0][0].gateway"),
        (json!([[{"subnet": "10.1.0.0/24", "rangeStart": "fd00::1"}]]), "ipam.ranges[0][0].rangeStart"),
        (
            json!([[{"subnet": "10.1.0.0/24", "rangeStart": "10.1.0.9", "rangeEnd": "10.1.0.8"}]]),
            "ipam.ranges[0][0].rangeStart",
        ),
        (json!([[{"subnet": "10.1.0.0/24"}, {"subnet": "fd00::/64"}]]), "ipam.ranges[0][1]"),
        (json!([[{"subnet": "10.1.0.0/24"}, {"subnet": "10.1.0.0/25"}]]), "ipam.ranges[0][1]"),
        (json!([[{"subnet": "10.1.0.0/24"}], [{"subnet": "10.1.0.0/16"}]]), "ipam.ranges[1]"),
    ] {
        let conf = json!({"type": "host-local", "dataDir": "/nowhere", "ranges": ranges});
        match HostLocal::new("net", serde_json::from_value(conf).unwrap()) {
            Err(Error::Conflist { key: named, .. }) => assert_eq!(named, key, "{ranges}"),
            other => panic!("{ranges} gave {other:?}"),
        }
    }
}

#[test]
#[ignore = "is the child of `parallel_processes_never_share_an_address`"]
fn a_child_process_allocates() {
    let Some(dir) = std::env::var_os(CHILD_DIR) else { return };
    let plugin = plugin(dir.as_ref(), json!([[{"subnet": "10.1.0.0/24"}]]));
    for n in 0..30 {
        let id = format!("{}-{n}", std::process::id());
        println!("got {}", ips(&plugin.allocate(&holder(&id), &[]).unwrap())[0]);
    }
}

#[test]
fn parallel_processes_never_share_an_address() {
    let dir = tempfile::tempdir().unwrap();
    let children: Vec<_> = (0..6)
        .map(|_| {
            Command::new(std::env::current_exe().unwrap())
                .args(["native::host_local::tests::a_child_process_allocates", "--exact", "--ignored", "--nocapture"])
                .env(CHILD_DIR, dir.path())
                .stdout(std::process::Stdio::piped())
                .spawn()
                .unwrap()
        })
        .collect();
    let mut all = HashSet::new();
    for child in children {
        let out = child.wait_with_output().unwrap();
        assert!(out.status.success());
        let text = String::from_utf8(out.stdout).unwrap();
        for address in text.lines().filter_map(|line| line.split_once("got ").map(|(_, address)| address)) {
            assert!(all.insert(address.to_owned()), "{address} was handed out twice");
        }
    }
    assert_eq!(all.len(), 180);
}

#[derive(Debug, Clone)]
enum Act {
    Take,
    GiveBack(prop::sample::Index),
}

fn act() -> impl Strategy<Value = Act> {
    prop_oneof![3 => Just(Act::Take), 2 => any::<prop::sample::Index>().prop_map(Act::GiveBack)]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]

    #[test]
    fn any_order_of_taking_and_giving_keeps_addresses_apart(acts in prop::collection::vec(act(), 1..60)) {
        let dir = tempfile::tempdir().unwrap();
        let ranges = json!([[{"subnet": "10.1.0.0/28", "rangeEnd": "10.1.0.8"}, {"subnet": "10.2.0.0/29"}]]);
        let plugin = plugin(dir.path(), ranges);
        let size = usize::try_from(plugin.sets[0].size()).unwrap();
        let mut held: Vec<(String, IpAddr)> = Vec::new();
        for (n, act) in acts.into_iter().enumerate() {
            match act {
                Act::Take => {
                    let id = format!("pod-{n}");
                    match plugin.allocate(&holder(&id), &[]) {
                        Ok(got) => {
                            let address = got[0].net.addr();
                            prop_assert!(held.iter().all(|(_, other)| *other != address));
                            held.push((id, address));
                        }
                        Err(Error::Exhausted { .. }) => prop_assert_eq!(held.len(), size),
                        Err(error) => return Err(TestCaseError::fail(error.to_string())),
                    }
                }
                Act::GiveBack(index) if !held.is_empty() => {
                    let (id, address) = held.swap_remove(index.index(held.len()));
                    prop_assert_eq!(plugin.leases.release(&holder(&id), &[address]).unwrap(), 1);
                }
                Act::GiveBack(_) => {}
            }
        }
        let ids: HashSet<String> = held.into_iter().map(|(id, _)| id).collect();
        prop_assert_eq!(holders(&plugin), ids);
    }
}
