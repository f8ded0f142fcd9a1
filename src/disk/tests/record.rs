//! Any bytes are a record or a named damage; what was written comes back.

use disk::{Damage, Error, decode, encode};
use proptest::prelude::*;
use serde::{Deserialize, Serialize};

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
struct Pod {
    name: String,
    #[serde(default)]
    attempt: u32,
}

fn pod() -> Pod {
    Pod { name: "web".to_owned(), attempt: 2 }
}

fn damage(bytes: &[u8]) -> Damage {
    match decode::<Pod>("pod", 3, bytes) {
        Err(Error::Damaged { source, .. }) => source,
        other => panic!("want a damage, got {other:?}"),
    }
}

#[test]
fn what_was_written_is_read() {
    assert_eq!(decode::<Pod>("pod", 3, &encode("pod", 3, &pod()).unwrap()).unwrap(), pod());
}

#[test]
fn an_older_version_is_read_by_its_defaults() {
    let old = encode("pod", 1, &serde_json::json!({ "name": "web" })).unwrap();
    assert_eq!(decode::<Pod>("pod", 3, &old).unwrap(), Pod { name: "web".to_owned(), attempt: 0 });
}

#[test]
fn each_damage_has_its_name() {
    let whole = encode("pod", 3, &pod()).unwrap();
    assert_eq!(damage(b""), Damage::Empty);
    assert_eq!(damage(b"\0\0\0\0"), Damage::NoHeader);
    assert_eq!(damage(&[0; 4096]), Damage::NoHeader);
    assert!(matches!(damage(&whole[..whole.len() - 1]), Damage::Torn { .. }));
    assert!(matches!(damage(&[whole.as_slice(), b"x"].concat()), Damage::Torn { .. }));
    let mut flipped = whole.clone();
    *flipped.last_mut().unwrap() ^= 1;
    assert!(matches!(damage(&flipped), Damage::Checksum { .. }));
    assert_eq!(damage(&encode("container", 3, &pod()).unwrap()), Damage::WrongKind { found: "container".to_owned() });
    assert_eq!(damage(&encode("pod", 4, &pod()).unwrap()), Damage::Newer { found: 4, newest: 3 });
    assert!(matches!(damage(&encode("pod", 3, &7).unwrap()), Damage::Form { .. }));
}

#[test]
fn a_newer_version_is_refused_before_its_content_is_looked_at() {
    let strange = encode("pod", 9, &serde_json::json!(["of", "another", "form"])).unwrap();
    assert_eq!(damage(&strange), Damage::Newer { found: 9, newest: 3 });
}

proptest! {
    #[test]
    fn any_bytes_are_a_value_or_a_damage(bytes in proptest::collection::vec(any::<u8>(), 0..512)) {
        let _ = decode::<Pod>("pod", 3, &bytes);
    }

    #[test]
    fn a_record_with_one_byte_changed_is_never_another_value(at in any::<prop::sample::Index>(), to in any::<u8>()) {
        let mut bytes = encode("pod", 3, &pod()).unwrap();
        let at = at.index(bytes.len());
        bytes[at] = to;
        if let Ok(read) = decode::<Pod>("pod", 3, &bytes) {
            prop_assert_eq!(read, pod());
        }
    }

    #[test]
    fn a_record_cut_anywhere_is_damaged(at in any::<prop::sample::Index>()) {
        let bytes = encode("pod", 3, &pod()).unwrap();
        prop_assert!(decode::<Pod>("pod", 3, &bytes[..at.index(bytes.len())]).is_err());
    }

    #[test]
    fn any_value_comes_back(name in ".*", attempt in any::<u32>()) {
        let value = Pod { name, attempt };
        prop_assert_eq!(decode::<Pod>("pod", 3, &encode("pod", 3, &value).unwrap()).unwrap(), value);
    }
}
