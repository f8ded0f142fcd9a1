//! Documents from outside, read in memory that is bounded by what is in them.
//!
//! A document has at most 8 MiB, but an empty entry of a history is three bytes of it and two hundred of ours: the
//! values are counted, which takes no memory, before any of them is kept.

use std::{cell::Cell, fmt};

use serde::{
    Deserialize, Deserializer,
    de::{DeserializeSeed, Error, IgnoredAny, MapAccess, SeqAccess, Visitor},
};

/// Most values of a document: each number, text, list, map and each of its names is one. The largest images and indexes
/// have some thousands.
const MOST_VALUES: usize = 100_000;

/// Reads a document.
pub(crate) fn read_json<'a, T: Deserialize<'a>>(bytes: &'a [u8]) -> serde_json::Result<T> {
    let count = Cell::new(0);
    Counter(&count).deserialize(&mut serde_json::Deserializer::from_slice(bytes))?;
    serde_json::from_slice(bytes)
}

/// Counts the values below it.
#[derive(Clone, Copy)]
struct Counter<'a>(&'a Cell<usize>);

impl Counter<'_> {
    fn count<E: Error>(self) -> Result<(), E> {
        self.0.set(self.0.get() + 1);
        if self.0.get() <= MOST_VALUES {
            return Ok(());
        }
        Err(E::custom(format_args!("it has more than {MOST_VALUES} values: no history, list or map is that long")))
    }
}

impl<'de> DeserializeSeed<'de> for Counter<'_> {
    type Value = ();

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<(), D::Error> {
        self.count()?;
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Counter<'_> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a document")
    }

    fn visit_unit<E>(self) -> Result<(), E> {
        Ok(())
    }

    fn visit_bool<E>(self, _: bool) -> Result<(), E> {
        Ok(())
    }

    fn visit_i64<E>(self, _: i64) -> Result<(), E> {
        Ok(())
    }

    fn visit_u64<E>(self, _: u64) -> Result<(), E> {
        Ok(())
    }

    fn visit_f64<E>(self, _: f64) -> Result<(), E> {
        Ok(())
    }

    fn visit_str<E>(self, _: &str) -> Result<(), E> {
        Ok(())
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<(), A::Error> {
        while list.next_element_seed(self)?.is_some() {}
        Ok(())
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<(), A::Error> {
        while map.next_key::<IgnoredAny>()?.is_some() {
            self.count()?;
            map.next_value_seed(self)?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_document_is_read_unless_its_values_are_too_many() {
        let many = |count: usize, value: &str| format!(r#"{{"history":[{}]}}"#, vec![value; count].join(","));
        let read = |text: &str| read_json::<serde_json::Value>(text.as_bytes());
        assert!(read(&many(1000, r#"{"a":[1,-1,1.5,"x",null,true]}"#)).is_ok());
        // The document, the name, the list.
        assert!(read(&many(MOST_VALUES - 3, "{}")).is_ok());
        for value in ["{}", "\"\"", "[]", "0"] {
            assert!(read(&many(MOST_VALUES - 2, value)).unwrap_err().to_string().contains("values"), "{value}");
        }
        assert!(read(&"[".repeat(100_000)).is_err());
        assert!(read("{} {}").is_err());
    }
}
