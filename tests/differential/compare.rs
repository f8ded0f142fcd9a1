//! Runs each case on this engine and on every other runtime, one after the other, and compares what the probe saw.
//!
//! A report is made flat: one text for each thing, by a name such as `mounts /proc options`. What no two containers
//! share (ids, numbers of namespaces and pipes, addresses) is replaced before. What then differs has to be in the list
//! ([`crate::list`]), and what is in the list has to differ. That nothing was seen on either side is no equality: a
//! container that did not come to its report fails, and so does one that all refuse, unless its case says so.

use std::{collections::BTreeMap, fmt::Write as _, fs, path::Path};

use api::cri::v1::{ContainerConfig, NamespaceMode};
use serde_json::Value;
use testkit::TempNode;

use crate::{
    handlers::{self, OTHERS},
    list::List,
    log_file::{self, Stream},
    matrix::{self, Case, Look},
    scene::{Scene, probe, security, sleeper},
};

/// The one thing that is known of a container that was not made: why not.
const REFUSED: &str = "refused";

/// The one thing that is known of one that has printed something else: what.
const NO_REPORT: &str = "no report";

/// A report, flat.
type Flat = BTreeMap<String, String>;

#[tokio::test]
#[ignore = "needs root: runs a node with other runtimes"]
async fn a_container_sees_the_same_whoever_runs_it() {
    let mut node = handlers::node().await;
    let host = node.dir().join("host");
    fs::create_dir(&host).unwrap();
    matrix::prepare(&host);
    let mut list = List::read(include_str!("differences.toml"));
    let mut unlisted = String::new();
    let mut compared = 0;
    for case in matrix::cases() {
        if case.name == "privileged" {
            // It opens every device of the host, for some of which the kernel then makes others: all are to see these.
            (node, _) = seen(node, "", &case, &host).await;
        }
        let native;
        (node, native) = seen(node, "", &case, &host).await;
        for other in OTHERS {
            let seen_there;
            (node, seen_there) = seen(node, other, &case, &host).await;
            if let Some(fault) = nothing_to_compare(case.refused, &native, &seen_there) {
                writeln!(unlisted, "{:?} on {other}: {fault}", case.name).unwrap();
                continue;
            }
            if case.refused.is_some() {
                continue;
            }
            compared += native.len();
            for (name, ours, theirs) in differences(&native, &seen_there) {
                if !list.explains(case.name, other, &name, ours, theirs) {
                    writeln!(unlisted, "{:?} on {other}: {name}\n    ours   {ours}\n    theirs {theirs}", case.name)
                        .unwrap();
                }
            }
        }
    }
    for below in ["shared", "plain/below"] {
        nix::mount::umount(&host.join(below)).unwrap();
    }
    node.finish().await;
    let unused = list.unused();
    assert!(
        unlisted.is_empty() && unused.is_empty(),
        "differences without a reason:\n{unlisted}\nreasons without a difference:\n{unused}"
    );
    assert!(compared > 10_000, "only {compared} things were compared");
}

/// What a case sees by one handler.
async fn seen(node: TempNode, handler: &str, case: &Case, host: &Path) -> (TempNode, Flat) {
    let cgroup_root = node.cgroup_root();
    let _ = fs::remove_dir(host.join("made"));
    let mut scene = Scene::by(handler, node, |pod| (case.pod)(pod, &cgroup_root)).await;
    let mut config = match case.look {
        Look::First => probe("one", &["report"]),
        Look::Command => sleeper("one"),
        Look::SystemCalls => probe("one", &["system-calls"]),
    };
    security(&mut config);
    (case.container)(&mut config, host);
    let flat = match scene.try_start(&config).await {
        Err(status) => {
            let words = status.message().replace(&scene.pod, "POD").replace(&host.display().to_string(), "HOST");
            Flat::from([(REFUSED.to_owned(), words)])
        }
        Ok(id) => {
            let text = printed(&mut scene, &config, case.look, &id).await;
            let text = text.replace(&id, "CONTAINER").replace(&scene.pod, "POD");
            flat(&text.replace(&host.display().to_string(), "HOST"), &config, case.look)
        }
    };
    let pod = scene.pod.clone();
    scene.remove(&pod).await.unwrap();
    let _ = fs::remove_dir_all(scene.node.dir().join("logs/scene"));
    (scene.node, flat)
}

/// What the probe has printed.
async fn printed(scene: &mut Scene, config: &ContainerConfig, look: Look, id: &str) -> String {
    if look == Look::Command {
        return scene.look(id, &["/probe", "report"]).await;
    }
    let status = scene.ended(id).await;
    let log = scene.log(config);
    match status.exit_code {
        0 => log_file::text(&log, Stream::Stdout),
        code => format!("{code}: {}", log_file::text(&log, Stream::Stderr)),
    }
}

fn flat(text: &str, config: &ContainerConfig, look: Look) -> Flat {
    let mut flat = Flat::new();
    match serde_json::from_str(text) {
        Ok(mut report) => {
            make_comparable(&mut report, shares_host_pids(config) || look == Look::Command);
            flatten("", &report, &mut flat);
        }
        Err(_) => _ = flat.insert(NO_REPORT.to_owned(), text.to_owned()),
    }
    flat
}

fn shares_host_pids(config: &ContainerConfig) -> bool {
    let security = config.linux.as_ref().and_then(|linux| linux.security_context.as_ref());
    let options = security.and_then(|security| security.namespace_options.as_ref());
    options.is_some_and(|options| options.pid == NamespaceMode::Node as i32)
}

/// Where version 1 lists devices, in an order of its own.
const DEVICE_LIST: &str = "/sys/fs/cgroup/devices/devices.list";

/// Replaces what no two containers share.
fn make_comparable(report: &mut Value, others_pids: bool) {
    let Some(report) = report.as_object_mut() else { return };
    if let Some(namespaces) = report.get_mut("namespaces").and_then(Value::as_object_mut) {
        for (kind, seen) in namespaces {
            let host = fs::read_link(format!("/proc/self/ns/{kind}")).map(|link| link.display().to_string());
            *seen = if seen.as_str() == host.as_deref().ok() { "the host's" } else { "another" }.into();
        }
    }
    if let Some(descriptors) = report.get_mut("descriptors").and_then(Value::as_object_mut) {
        for seen in descriptors.values_mut() {
            let text = seen.as_str().unwrap_or_default();
            *seen = text.split_once(":[").map_or(text, |(kind, _)| kind).to_owned().into();
        }
    }
    if let Some(mounts) = report.get_mut("mounts").and_then(Value::as_array_mut) {
        // A setting of the kernel's for every tmpfs.
        for options in mounts.iter_mut().filter_map(|mount| mount["super_options"].as_array_mut()) {
            options.retain(|option| option != "inode64");
        }
        for propagation in mounts.iter_mut().filter_map(|mount| mount["propagation"].as_array_mut()) {
            for seen in propagation {
                let text = seen.as_str().unwrap_or_default();
                *seen = text.split_once(':').map_or(text, |(kind, _)| kind).to_owned().into();
            }
        }
    }
    // Those of the host come and go with other tests.
    let of_host = report.get("namespaces").is_some_and(|namespaces| namespaces["net"] == "the host's");
    if let Some(addresses) = report.get_mut("addresses").and_then(Value::as_array_mut) {
        let count = if of_host { "the host's".into() } else { addresses.len().into() };
        report.insert("addresses".to_owned(), count);
    }
    if others_pids {
        report.insert("pid".to_owned(), "whichever is free".into());
        report.insert("parent".to_owned(), "whoever it is".into());
    }
    if let Some(list) = report.get_mut("limits_of_cgroup").and_then(|limits| limits.get_mut(DEVICE_LIST)) {
        let mut lines: Vec<_> = list.as_str().unwrap_or_default().lines().map(str::to_owned).collect();
        lines.sort();
        *list = lines.join(",").into();
    }
    // A directory of the exec's own, into which it is moved sooner or later.
    for line in report.get_mut("cgroups").and_then(Value::as_array_mut).into_iter().flatten() {
        let text = line.as_str().unwrap_or_default();
        let path = text.split_once("/exec-").map_or(text, |(path, _)| path);
        // In a namespace of its own, the container's is the top.
        *line = if path.ends_with(':') { format!("{path}/") } else { path.to_owned() }.into();
    }
    // Of the host's network, what does not come and go with other tests.
    if let Some(interfaces) = report.get_mut("interfaces").and_then(Value::as_array_mut) {
        interfaces.retain(|name| {
            !["veth", "crt-", "ctrd"].iter().any(|head| name.as_str().is_some_and(|name| name.starts_with(head)))
        });
    }
}

/// One text for each thing. Mounts are named by where they are, and by their height where several are at one place.
fn flatten(name: &str, value: &Value, flat: &mut Flat) {
    let below = |key: &str| if name.is_empty() { key.to_owned() } else { format!("{name} {key}") };
    match value {
        Value::Object(map) => map.iter().for_each(|(key, value)| flatten(&below(key), value, flat)),
        Value::Array(list) if list.iter().any(|one| one.get("at").is_some()) => {
            for mount in list {
                let at = mount["at"].as_str().unwrap_or_default();
                let height = (0..).find(|height| !flat.contains_key(&format!("{} root", below(&named(at, *height)))));
                let mut mount = mount.clone();
                mount.as_object_mut().map(|mount| mount.remove("at"));
                flatten(&below(&named(at, height.unwrap_or_default())), &mount, flat);
            }
        }
        Value::Array(list) => {
            let mut words: Vec<String> = list.iter().map(text).collect();
            // The kernel prints options in an order of its own.
            if name.ends_with("options") {
                words.sort();
            }
            flat.insert(name.to_owned(), words.join(","));
        }
        other => _ = flat.insert(name.to_owned(), text(other)),
    }
}

fn named(at: &str, height: usize) -> String {
    if height == 0 { at.to_owned() } else { format!("{at}#{height}") }
}

fn text(value: &Value) -> String {
    value.as_str().map_or_else(|| value.to_string(), str::to_owned)
}

/// Why two reports that may well be equal prove nothing. `refused`: as its case says.
fn nothing_to_compare(refused: Option<&str>, ours: &Flat, theirs: &Flat) -> Option<String> {
    for (who, seen) in [("ours", ours), ("theirs", theirs)] {
        if let Some(text) = seen.get(NO_REPORT) {
            return Some(format!("no report by {who}: {text:?}"));
        }
        match (refused, seen.get(REFUSED)) {
            (Some(word), Some(text)) if !text.to_lowercase().contains(word) => {
                return Some(format!("refused by {who}, but not for its {word:?}: {text}"));
            }
            (Some(word), None) => return Some(format!("not refused by {who}, for its {word:?}")),
            _ => {}
        }
    }
    match (refused, ours.get(REFUSED), theirs.get(REFUSED)) {
        (None, Some(ours), Some(theirs)) => Some(format!("refused by both\n    ours   {ours}\n    theirs {theirs}")),
        _ => None,
    }
}

/// Everything that is not the same in both, with what it is in each; absent things are said to be.
fn differences<'a>(ours: &'a Flat, theirs: &'a Flat) -> Vec<(String, &'a str, &'a str)> {
    let names: std::collections::BTreeSet<&String> = ours.keys().chain(theirs.keys()).collect();
    let of = |flat: &'a Flat, name: &String| flat.get(name).map_or("(absent)", String::as_str);
    let is_refused = ours.contains_key(REFUSED) != theirs.contains_key(REFUSED);
    let names = names.into_iter().filter(|name| !is_refused || *name == REFUSED);
    let both = names.map(|name| (name.clone(), of(ours, name), of(theirs, name)));
    both.filter(|(_, ours, theirs)| ours != theirs).collect()
}

#[test]
fn every_difference_is_found_and_equal_things_are_none() {
    let flat = |text: &str| {
        let mut flat = Flat::new();
        flatten("", &serde_json::from_str(text).unwrap(), &mut flat);
        flat
    };
    let ours = flat(r#"{"a":1,"mounts":[{"at":"/","root":"/","options":["rw","nosuid"]},{"at":"/","root":"/x"}]}"#);
    assert_eq!(ours["mounts / options"], "nosuid,rw");
    assert_eq!(ours["mounts /#1 root"], "/x");
    assert!(differences(&ours, &ours).is_empty());
    let theirs = flat(r#"{"a":2,"mounts":[{"at":"/","root":"/","options":["nosuid","rw"]}]}"#);
    let found = differences(&ours, &theirs);
    assert_eq!(found, [("a".to_owned(), "1", "2"), ("mounts /#1 root".to_owned(), "/x", "(absent)")]);
}

#[test]
fn that_nothing_was_seen_on_either_side_is_no_equality() {
    let seen = |name: &str, text: &str| Flat::from([(name.to_owned(), text.to_owned())]);
    let fails = |refused, ours: &Flat, theirs: &Flat| nothing_to_compare(refused, ours, theirs).is_some();
    let (report, none) = (seen("pid", "1"), seen(NO_REPORT, "1: no such file"));
    let (busy, no_room) = (seen(REFUSED, "mount: it is Busy"), seen(REFUSED, "no room"));
    assert!(!fails(None, &report, &report));
    assert!(fails(None, &none, &none) && fails(None, &report, &none) && fails(None, &none, &report));
    assert!(fails(None, &busy, &busy), "refused by both, and nobody said so");
    // By one of them is a difference, which the list has to explain.
    assert!(!fails(None, &report, &busy) && !fails(None, &busy, &report));
    assert_eq!(differences(&report, &busy), [(REFUSED.to_owned(), "(absent)", "mount: it is Busy")]);
    assert!(!fails(Some("busy"), &busy, &busy));
    assert!(fails(Some("busy"), &busy, &no_room) && fails(Some("busy"), &busy, &report));
    assert!(fails(Some("busy"), &report, &report) && fails(Some("busy"), &none, &none));
}
