//! What the list parser takes, what it refuses and by which key, and that nothing makes it panic.

use proptest::prelude::*;

use super::*;

fn refusal(text: &str) -> String {
    match Conflist::parse(text.as_bytes()) {
        Err(Error::Conflist { key, .. }) => key,
        other => panic!("{text} gave {other:?}"),
    }
}

#[test]
fn a_list_as_distributions_ship_it_is_read() {
    let text = br#"{
        "cniVersion": "1.0.0", "name": "podman", "disableCheck": "true",
        "plugins": [
            {"type": "bridge", "bridge": "cni-podman0", "ipam": {"type": "host-local"}},
            {"type": "portmap", "capabilities": {"portMappings": true}},
            {"type": "firewall", "backend": ""}
        ]
    }"#;
    let list = Conflist::parse(text).unwrap();
    assert_eq!((list.name.as_str(), list.cni_version.as_str(), list.disable_check), ("podman", "1.0.0", true));
    let kinds: Vec<_> = list.plugins.iter().map(|plugin| plugin.kind.as_str()).collect();
    assert_eq!(kinds, ["bridge", "portmap", "firewall"]);
    assert_eq!(list.plugins[1].capabilities.get("portMappings"), Some(&true));
}

#[test]
fn a_single_configuration_becomes_a_list_of_one() {
    let list = Conflist::parse(br#"{"cniVersion":"0.3.1","name":"lo","type":"loopback"}"#).unwrap();
    assert_eq!(list.plugins.len(), 1);
    assert_eq!(list.plugins[0].kind, "loopback");
}

#[test]
fn the_highest_version_that_both_know_is_chosen() {
    let text = br#"{"cniVersion":"0.4.0","cniVersions":["0.3.1","1.1.0","9.0.0"],"name":"n","plugins":[{"type":"x"}]}"#;
    assert_eq!(Conflist::parse(text).unwrap().cni_version, "1.1.0");
}

#[test]
fn a_mistake_is_named_by_its_key() {
    for (text, key) in [
        ("", "the file"),
        ("[]", "the file"),
        (r#"{"cniVersion":"1.0.0","name":"n"}"#, "plugins"),
        (r#"{"cniVersion":"1.0.0","name":"n","plugins":[]}"#, "plugins"),
        (r#"{"name":"n","plugins":[{"type":"x"}]}"#, "cniVersion"),
        (r#"{"cniVersion":"7.0.0","name":"n","plugins":[{"type":"x"}]}"#, "cniVersion"),
        (r#"{"cniVersion":"1.0.0","name":"../n","plugins":[{"type":"x"}]}"#, "name"),
        (r#"{"cniVersion":"1.0.0","name":"","plugins":[{"type":"x"}]}"#, "name"),
        (r#"{"cniVersion":"1.0.0","name":"n","plugins":[{"type":"x"},{}]}"#, "plugins[1].type"),
        (r#"{"cniVersion":"1.0.0","name":"n","plugins":[{"type":"../../bin/sh"}]}"#, "plugins[0].type"),
        (
            r#"{"cniVersion":"1.0.0","name":"n","plugins":[{"type":"x","capabilities":{"a":1}}]}"#,
            "plugins[0].capabilities.a",
        ),
    ] {
        assert_eq!(refusal(text), key, "{text}");
    }
    assert_eq!(refusal(&" ".repeat(SIZE_MAX + 1)), "the file");
}

proptest! {
    #[test]
    fn no_bytes_make_the_parser_panic(bytes in prop::collection::vec(any::<u8>(), 0..512)) {
        let _ = Conflist::parse(&bytes);
    }

    #[test]
    fn no_json_makes_the_parser_panic(
        name in ".{0,20}",
        kind in ".{0,20}",
        version in "[0-9.]{0,8}",
        extra in ".{0,30}",
    ) {
        let json = serde_json::json!({
            "name": name, "cniVersion": version, "cniVersions": [extra], "disableGC": extra,
            "plugins": [{"type": kind, "capabilities": {extra.clone(): true}, "ipam": extra}],
        });
        if let Ok(list) = Conflist::parse(json.to_string().as_bytes()) {
            prop_assert!(!list.name.contains('/') && !list.plugins[0].kind.contains('/'));
        }
    }
}
