//! Targets about networks: configuration lists, what plugins answer, and attachments that other tools have cached.

use std::fs;

use cni::{Cache, Conflist, Success};

use crate::runner::Target;

/// Every version of results.
const VERSIONS: [&str; 8] = ["0.1.0", "0.2.0", "0.3.0", "0.3.1", "0.4.0", "1.0.0", "1.1.0", "2.0.0"];

const LIST: &[u8] = br#"{"cniVersion": "1.1.0", "cniVersions": ["0.4.0", "1.0.0", "1.1.0"], "name": "pods",
    "disableCheck": true, "disableGC": false, "loadOnlyInlinedPlugins": true, "plugins": [
    {"type": "bridge", "bridge": "cni0", "isGateway": true, "mtu": 1400, "capabilities": {"ips": true},
     "ipam": {"type": "host-local", "ranges": [[{"subnet": "172.21.0.0/16"}], [{"subnet": "fd00::/64"}]],
              "routes": [{"dst": "0.0.0.0/0", "gw": "172.21.0.1"}]}, "dns": {"nameservers": ["172.21.0.1"]}},
    {"type": "portmap", "capabilities": {"portMappings": true}, "args": {"cni": {"a": null}}}]}"#;

const RESULT: &[u8] = br#"{"cniVersion": "1.1.0", "interfaces": [
    {"name": "cni0", "mac": "0a:58:ac:15:00:01", "mtu": 1500}, {"name": "veth0", "mac": "0a:58:ac:15:00:02"},
    {"name": "eth0", "mac": "0a:58:ac:15:00:03", "sandbox": "/run/netns/a", "pciID": "", "socketPath": ""}],
    "ips": [{"address": "172.21.0.2/16", "gateway": "172.21.0.1", "interface": 2}, {"address": "fd00::2/64"}],
    "routes": [{"dst": "0.0.0.0/0", "gw": "172.21.0.1", "mtu": 1400, "advmss": 1360, "priority": 1, "table": 254,
    "scope": 0}], "dns": {"nameservers": ["172.21.0.1"], "domain": "a.example", "search": ["b"], "options": ["c"]}}"#;

const OLD_RESULT: &[u8] = br#"{"cniVersion": "0.2.0", "ip4": {"ip": "172.21.0.2/16", "gateway": "172.21.0.1",
    "routes": [{"dst": "0.0.0.0/0"}]}, "ip6": {"ip": "fd00::2/64"}, "dns": {}}"#;

const WORDS: &[&[u8]] = &[
    b"null",
    b"{}",
    b"[]",
    b"\"\"",
    b"[[[[[[[[",
    b"-1",
    b"1e400",
    b"18446744073709551616",
    b"\\u0000",
    b"../../x",
    b"\"plugins\":",
    b"\"type\":",
    b"\"cniVersion\":\"0.1.0\"",
    b"\"cniVersion\":\"9.9.9\"",
    b"\"interface\":99",
    b"\"interface\":-1",
    b"172.21.0.0/33",
    b"::/129",
    b"\xff",
];

#[test]
#[ignore = "with the other targets"]
fn a_configuration_is_a_list_that_is_read_back_or_an_error() {
    let conf = br#"{"cniVersion": "0.3.1", "name": "one", "type": "ptp", "ipam": {"type": "host-local"}}"#.to_vec();
    Target { name: "conflist", seeds: vec![LIST.to_vec(), conf], words: WORDS }.run(|bytes| {
        let Ok(list) = Conflist::parse(bytes) else { return };
        assert!(!list.plugins.is_empty());
        let is_plain = |name: &str| !name.is_empty() && !name.contains(['/', '\0']);
        assert!(is_plain(&list.name), "{:?} becomes a part of a path", list.name);
        assert!(list.plugins.iter().all(|plugin| is_plain(&plugin.kind)), "a type becomes one, too: {list:?}");
        assert_eq!(Conflist::parse(list.text.as_bytes()).unwrap(), list);
    });
}

#[test]
#[ignore = "with the other targets"]
fn an_answer_is_a_result_that_is_read_back_or_an_error() {
    Target { name: "result", seeds: vec![RESULT.to_vec(), OLD_RESULT.to_vec()], words: WORDS }.run(|bytes| {
        let Ok(result) = Success::parse(bytes) else { return };
        for version in VERSIONS {
            let rendered = result.render(version).to_string();
            // An older version has no place for some of it: what it has is read back.
            if let Ok(again) = Success::parse(rendered.as_bytes()) {
                assert_eq!(again.render(version).to_string(), rendered, "{version}");
            }
            if version == "1.1.0" {
                assert_eq!(Success::parse(rendered.as_bytes()).as_ref(), Ok(&result), "{rendered}");
            }
        }
        for interface in &result.interfaces {
            assert!(result.addresses_of(&interface.name).count() <= result.ips.len());
        }
    });
}

#[test]
#[ignore = "with the other targets"]
fn what_lies_in_the_cache_is_an_attachment_or_passed_over() {
    let dir = tempfile::tempdir().unwrap();
    fs::create_dir(dir.path().join("results")).unwrap();
    let (file, cache) = (dir.path().join("results/pods-a-eth0"), Cache::new(dir.path().to_owned()));
    let entry = br#"{"kind": "cniCacheV1", "containerId": "a", "config": "e30=", "ifName": "eth0",
        "networkName": "pods", "netns": "/run/netns/a", "cniArgs": [["IgnoreUnknown", "1"]],
        "capabilityArgs": {"portMappings": []},
        "result": {"cniVersion": "1.0.0", "ips": [{"address": "172.21.0.2/16"}]}}"#;
    Target { name: "cache", seeds: vec![entry.to_vec()], words: WORDS }.run(|bytes| {
        fs::write(&file, bytes).unwrap();
        assert!(cache.all().unwrap().len() <= 1);
        if let Some(cached) = cache.get("pods", "a", "eth0") {
            assert_eq!((cached.network.as_str(), cached.runtime.container.as_str()), ("pods", "a"));
        }
    });
}
