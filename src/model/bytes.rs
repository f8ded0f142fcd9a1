//! Bytes in records: a string when they are UTF-8, as they nearly always are, else `{"base64": "…"}`. For
//! `serde(with)`.

use std::borrow::Cow;

use base64::{Engine, engine::general_purpose::STANDARD};
use serde::{Deserialize, Deserializer, Serialize, Serializer, de::Error};

#[derive(Serialize, Deserialize)]
#[serde(untagged)]
enum Written<'a> {
    Text(Cow<'a, str>),
    Base64 {
        base64: String,
    },
    /// As records once had it; never written.
    Numbers(Vec<u8>),
}

pub(crate) fn serialize<S: Serializer>(bytes: &[u8], serializer: S) -> Result<S::Ok, S::Error> {
    let written = match std::str::from_utf8(bytes) {
        Ok(text) => Written::Text(Cow::Borrowed(text)),
        Err(_) => Written::Base64 { base64: STANDARD.encode(bytes) },
    };
    written.serialize(serializer)
}

pub(crate) fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Vec<u8>, D::Error> {
    match Written::deserialize(deserializer)? {
        Written::Text(text) => Ok(text.into_owned().into_bytes()),
        Written::Base64 { base64 } => STANDARD.decode(base64).map_err(D::Error::custom),
        Written::Numbers(bytes) => Ok(bytes),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use crate::EnvVar;

    fn read(json: &str) -> serde_json::Result<EnvVar> {
        serde_json::from_str(json)
    }

    #[test]
    fn a_value_is_written_as_itself_and_the_older_form_is_read() {
        let plain = EnvVar { name: "A".into(), value: b"one".to_vec() };
        assert_eq!(serde_json::to_string(&plain).unwrap(), r#"{"name":"A","value":"one"}"#);
        assert_eq!(read(r#"{"name":"A","value":[111,110,101]}"#).unwrap(), plain);
        assert_eq!(read(r#"{"name":"A","value":[]}"#).unwrap().value, b"");
        let raw = EnvVar { name: "A".into(), value: vec![0xff, b'='] };
        assert_eq!(serde_json::to_string(&raw).unwrap(), r#"{"name":"A","value":{"base64":"/z0="}}"#);
        for wrong in
            [r#"{"name":"A","value":{"base64":"*"}}"#, r#"{"name":"A","value":[256]}"#, r#"{"name":"A","value":5}"#]
        {
            assert!(read(wrong).is_err(), "{wrong}");
        }
    }

    proptest! {
        #[test]
        fn any_bytes_come_back(value: Vec<u8>) {
            let written = EnvVar { name: "A".into(), value };
            prop_assert_eq!(read(&serde_json::to_string(&written).unwrap()).unwrap(), written);
        }
    }
}
