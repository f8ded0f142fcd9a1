//! Runs each case by the reference plugins and by ours, each on a host of its own, and compares what is then there.
//!
//! Two pods are attached, looked at, and detached one after the other; what is there after each step is one text for
//! each thing. What then differs has to be in the list of differences, and what is in the list has to differ.

use std::{
    collections::{BTreeMap, BTreeSet, VecDeque},
    fmt::Write as _,
    path::Path,
    sync::Mutex,
    thread,
};

use serde_json::Value;

use crate::{
    cases::{Case, cases},
    host::{Host, Netns},
    list::List,
    observe::{self, Flat},
    ours::{By, Ours},
    reach,
    reference::{self, ETH0},
};

/// Names of the pods. Their ids are told apart by more than a part of them, since plugins make names of parts.
const PODS: [&str; 2] = ["A", "B"];
/// What is known where a pod could not be attached: why not.
const REFUSED: &str = "refused";
/// Cases at a time: nearly all of it is waiting for packets that do not come.
const AT_ONCE: usize = 6;

/// The reference's half.
pub(crate) fn by_reference(case: &Case) -> Flat {
    let host = case.host();
    let leases = tempfile::Builder::new().prefix("crt-cni-").tempdir().unwrap();
    let list = case.list_at(leases.path());
    let mut pods = Vec::new();
    let mut flat = Flat::new();
    for (name, is_first) in PODS.into_iter().zip([true, false]) {
        match reference::Attached::new(&host, &list, &id_of(name), case.capabilities(is_first)) {
            Ok(pod) => {
                let seen = Seen::new(name, &pod.id, &pod.netns, &pod.result);
                look_at_result(&host, case, &list, &seen, is_first, &mut flat);
                pods.push(pod);
            }
            Err(said) => _ = flat.insert(REFUSED.to_owned(), said),
        }
    }
    let seen: Vec<_> =
        PODS.into_iter().zip(&pods).map(|(name, pod)| Seen::new(name, &pod.id, &pod.netns, &pod.result)).collect();
    if !flat.contains_key(REFUSED) {
        look(&host, case, &seen, leases.path(), &mut flat);
    }
    for left in (0..pods.len()).rev() {
        let pod = &pods[pods.len() - left - 1];
        for _ in 0..2 {
            pod.detach(&host, &list).unwrap_or_else(|said| panic!("{}: DEL: {said}", case.name));
        }
        look_after(&host, case, &seen[pods.len() - left..], leases.path(), &seen, &mut flat);
    }
    flat
}

/// Our half.
pub(crate) fn by_ours(by: By, case: &Case) -> Flat {
    asynchronously(async {
        let host = case.host();
        let mut ours = Ours::new(&host, by, case).await;
        let leases = ours.leases();
        let mut pods = Vec::new();
        let mut flat = Flat::new();
        for (name, is_first) in PODS.into_iter().zip([true, false]) {
            match ours.attach(&id_of(name)[..8], case, is_first).await {
                Ok(pod) => {
                    let seen = Seen::new(name, &pod.id, &pod.netns, &pod.result);
                    look_at_result(&host, case, &case.list_at(&leases), &seen, is_first, &mut flat);
                    pods.push(pod);
                }
                Err(status) => _ = flat.insert(REFUSED.to_owned(), status.message().to_owned()),
            }
        }
        let seen: Vec<_> =
            PODS.into_iter().zip(&pods).map(|(name, pod)| Seen::new(name, &pod.id, &pod.netns, &pod.result)).collect();
        if !flat.contains_key(REFUSED) {
            look(&host, case, &seen, &leases, &mut flat);
        }
        for left in (0..pods.len()).rev() {
            let pod = &pods[pods.len() - left - 1];
            ours.detach(&pod.id).await.unwrap_or_else(|status| panic!("{}: stop: {status}", case.name));
            look_after(&host, case, &seen[pods.len() - left..], &leases, &seen, &mut flat);
            ours.remove(&pod.id).await.unwrap();
        }
        assert_eq!(ours.cached(), Vec::<String>::new(), "{}: results of nobody", case.name);
        ours.finish().await;
        flat
    })
}

/// Pods attached by one and detached by the other: what is left of links and leases.
pub(crate) fn crossed(from: By, to: By, case: &Case) -> Flat {
    asynchronously(async {
        let host = case.host();
        let mut ours = Ours::new(&host, from, case).await;
        let mut pods = Vec::new();
        for (name, is_first) in PODS.into_iter().zip([true, false]) {
            let attached = ours.attach(&id_of(name)[..8], case, is_first).await;
            pods.push(attached.unwrap_or_else(|status| panic!("{}: run: {status}", case.name)));
        }
        ours = ours.now_by(to).await;
        let seen: Vec<_> =
            PODS.into_iter().zip(&pods).map(|(name, pod)| Seen::new(name, &pod.id, &pod.netns, &pod.result)).collect();
        let leases = ours.leases();
        let mut flat = Flat::new();
        for left in (0..pods.len()).rev() {
            let pod = &pods[pods.len() - left - 1];
            ours.detach(&pod.id).await.unwrap_or_else(|status| panic!("{}: stop: {status}", case.name));
            look_after(&host, case, &seen[pods.len() - left..], &leases, &seen, &mut flat);
            ours.remove(&pod.id).await.unwrap();
        }
        assert_eq!(ours.cached(), Vec::<String>::new(), "{}: results of nobody", case.name);
        ours.finish().await;
        of_links_and_leases(flat)
    })
}

/// What a crossed life is compared by.
pub(crate) fn of_links_and_leases(flat: Flat) -> Flat {
    let is_it = |name: &String| name.contains("host link ") || name.contains("lease ");
    flat.into_iter().filter(|(name, _)| name.starts_with("then") && is_it(name)).collect()
}

/// An attached pod, whoever attached it.
struct Seen<'a> {
    name: &'a str,
    id: &'a str,
    netns: &'a Netns,
    result: &'a Value,
}

impl<'a> Seen<'a> {
    fn new(name: &'a str, id: &'a str, netns: &'a Netns, result: &'a Value) -> Seen<'a> {
        Seen { name, id, netns, result }
    }

    fn observed(&self) -> observe::Pod<'a> {
        observe::Pod { name: self.name, id: self.id, netns: self.netns }
    }

    /// What the result says of each address.
    fn ips(&self, key: &str) -> Vec<std::net::IpAddr> {
        let ips = self.result["ips"].as_array().into_iter().flatten();
        let texts = ips.filter_map(|ip| ip[key].as_str()).map(|text| text.split('/').next().unwrap());
        texts.map(|text| text.parse().unwrap()).collect()
    }
}

/// Everything there is while both pods are.
fn look(host: &Host, case: &Case, seen: &[Seen<'_>], leases: &Path, flat: &mut Flat) {
    let pods: Vec<_> = seen.iter().map(Seen::observed).collect();
    observe::settle(host, &pods);
    flat.extend(observe::kernel(host, &pods));
    flat.extend(observe::leases(leases, &pods));
    let reached = seen.iter().map(|pod| reach::Pod { netns: pod.netns, ips: pod.ips("address") });
    let [a, b] = <[_; 2]>::try_from(reached.collect::<Vec<_>>()).unwrap_or_else(|_| panic!("two pods"));
    let gateways = seen[0].ips("gateway");
    flat.extend(reach::table(host, &a, &b, &gateways, &case.host_ports()));
    if case.spoofs {
        flat.extend(reach::spoofed(host, seen[0].netns, &gateways));
    }
}

/// The result, and what the reference plugins say of it, before another pod changes what it speaks of: a bridge's
/// hardware address is that of one of its ports.
fn look_at_result(host: &Host, case: &Case, list: &Value, pod: &Seen<'_>, has_ports: bool, flat: &mut Flat) {
    flat.extend(observe::result(host, &[pod.observed()], pod.name, pod.result));
    if list["cniVersion"] == "0.3.1" {
        // It had no CHECK.
        return;
    }
    let path = pod.netns.path();
    // The result names the namespace by the path that whoever attached it was given.
    let mut result = pod.result.clone();
    for interface in result["interfaces"].as_array_mut().into_iter().flatten() {
        if interface["sandbox"].as_str().is_some_and(|sandbox| !sandbox.is_empty()) {
            interface["sandbox"] = path.display().to_string().into();
        }
    }
    let capabilities = case.capabilities(has_ports);
    let call = reference::Call { id: pod.id, netns: &path, ifname: ETH0, capabilities: &capabilities };
    for (at, (kind, said)) in reference::check(host, list, &call, &result).into_iter().enumerate() {
        flat.insert(format!("{} check {at} {kind}", pod.name), said.replace(pod.id, pod.name));
    }
}

/// What is there after one of the pods, or both, went.
fn look_after(host: &Host, case: &Case, left: &[Seen<'_>], leases: &Path, all: &[Seen<'_>], flat: &mut Flat) {
    let pods: Vec<_> = left.iter().map(Seen::observed).collect();
    // Their namespaces are still there, held by us: to end with them would be no giving back.
    observe::others_go(host, &pods);
    observe::settle(host, &pods);
    let then = if left.is_empty() { "then, of none" } else { "then, of one" };
    let kernel = observe::kernel(host, &pods).into_iter().filter(|(name, _)| name.starts_with("host "));
    let everybody: Vec<_> = all.iter().map(Seen::observed).collect();
    let found = kernel.chain(observe::leases(leases, &everybody));
    flat.extend(found.map(|(name, value)| (format!("{then} {name}"), value)));
    if let Some(b) = left.first() {
        for (name, outcome) in reach::ports_of_nobody(host, b.netns, &case.host_ports()) {
            flat.insert(format!("{then} {name}"), outcome);
        }
    }
}

/// Sixty-four digits, as a runtime's ids have.
fn id_of(name: &str) -> String {
    name.to_lowercase().repeat(64)
}

fn asynchronously<T>(act: impl Future<Output = T>) -> T {
    tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap().block_on(act)
}

/// Compares two halves of every case, or of those whose names have the text in `CORACLE_CNI_CASE`.
pub(crate) fn every_case<T>(wanted: fn(&Case) -> bool, by: &str, theirs: T, ours: fn(&Case) -> Flat, least: usize)
where
    T: Fn(&Case) -> Flat + Sync,
{
    assert!(nix::unistd::geteuid().is_root(), "this test needs root");
    reference::plugins();
    let only = std::env::var("CORACLE_CNI_CASE").ok();
    let is_wanted = |case: &Case| wanted(case) && only.as_ref().is_none_or(|text| case.name.contains(text.as_str()));
    let queue: Mutex<VecDeque<Case>> = Mutex::new(cases().into_iter().filter(is_wanted).collect());
    let list = Mutex::new(List::read(include_str!("differences.toml")));
    let found = Mutex::new((0, String::new()));
    thread::scope(|scope| {
        for _ in 0..AT_ONCE {
            scope.spawn(|| {
                loop {
                    let Some(case) = queue.lock().unwrap().pop_front() else { break };
                    let (theirs, ours) = thread::scope(|scope| {
                        let theirs = scope.spawn(|| theirs(&case));
                        let ours = scope.spawn(|| ours(&case));
                        (theirs.join(), ours.join())
                    });
                    let (compared, unlisted) = &mut *found.lock().unwrap();
                    let (theirs, ours) = match (theirs, ours) {
                        (Ok(theirs), Ok(ours)) => (theirs, ours),
                        (Err(panic), _) | (_, Err(panic)) => {
                            let said = panic.downcast_ref::<String>().map_or("(see above)", String::as_str);
                            writeln!(unlisted, "{:?} by {by}: a half came to no end: {said}", case.name).unwrap();
                            continue;
                        }
                    };
                    if let Some(fault) = nothing_to_compare(&case, &ours, &theirs) {
                        writeln!(unlisted, "{:?} by {by}: {fault}", case.name).unwrap();
                        continue;
                    }
                    *compared += theirs.len();
                    for (name, ours, theirs) in differences(&ours, &theirs) {
                        if !list.lock().unwrap().explains(case.name, by, &name, ours, theirs) {
                            writeln!(
                                unlisted,
                                "{:?} by {by}: {name}\n    ours   {ours}\n    theirs {theirs}",
                                case.name
                            )
                            .unwrap();
                        }
                    }
                }
            });
        }
    });
    let (compared, unlisted) = found.into_inner().unwrap();
    let unused = if only.is_some() { String::new() } else { list.into_inner().unwrap().unused_by(by) };
    assert!(
        unlisted.is_empty() && unused.is_empty(),
        "differences without a reason:\n{unlisted}\nreasons without a difference:\n{unused}"
    );
    assert!(only.is_some() || compared > least, "only {compared} things were compared");
}

/// Why two halves that may well be equal prove nothing.
fn nothing_to_compare(case: &Case, ours: &Flat, theirs: &Flat) -> Option<String> {
    for (who, flat) in [("ours", ours), ("theirs", theirs)] {
        match (case.refused, flat.get(REFUSED)) {
            (None, Some(said)) => return Some(format!("refused by {who}: {said}")),
            (Some(word), None) => return Some(format!("not refused by {who}, for its {word:?}")),
            (Some(word), Some(said)) if !said.contains(word) => {
                return Some(format!("refused by {who}, but not for its {word:?}: {said}"));
            }
            _ => {}
        }
    }
    None
}

/// Everything that is not the same in both, with what it is in each; absent things are said to be.
fn differences<'a>(ours: &'a Flat, theirs: &'a Flat) -> Vec<(String, &'a str, &'a str)> {
    let names: BTreeSet<&String> = ours.keys().chain(theirs.keys()).filter(|name| *name != REFUSED).collect();
    let of = |flat: &'a Flat, name: &String| flat.get(name).map_or("(absent)", String::as_str);
    let both = names.into_iter().map(|name| (name.clone(), of(ours, name), of(theirs, name)));
    both.filter(|(_, ours, theirs)| ours != theirs).collect()
}

/// Fails unless the reference shows each of these things otherwise in one case than in another.
pub(crate) fn expect_differences(expected: &[(&str, &str, String)]) {
    assert!(nix::unistd::geteuid().is_root(), "this test needs root");
    let wanted: BTreeSet<&str> = expected.iter().flat_map(|(case, other, _)| [*case, *other]).collect();
    let queue: Mutex<VecDeque<Case>> =
        Mutex::new(cases().into_iter().filter(|case| wanted.contains(case.name)).collect());
    let seen = Mutex::new(BTreeMap::new());
    thread::scope(|scope| {
        for _ in 0..AT_ONCE {
            scope.spawn(|| {
                loop {
                    let Some(case) = queue.lock().unwrap().pop_front() else { break };
                    let flat = by_reference(&case);
                    seen.lock().unwrap().insert(case.name, flat);
                }
            });
        }
    });
    let seen = seen.into_inner().unwrap();
    let is_missing = |(case, other, name): &&(&str, &str, String)| {
        !differences(&seen[case], &seen[other]).iter().any(|(one, ..)| one == name)
    };
    let missing: Vec<_> = expected.iter().filter(is_missing).collect();
    assert!(missing.is_empty(), "nobody sees that these are not the same: {missing:#?}");
}
