//! JSON that tells of fields given twice.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::collections::btree_map::Entry;
use std::fmt;

use serde::de::{DeserializeSeed, Deserializer, MapAccess, SeqAccess, Visitor};
use serde_json::{Map, Value};

/// Reads JSON; the last of several values of a field counts, and each further one makes a message
/// (`duplicate field "spec.x"`).
pub fn strict_json(bytes: &[u8]) -> Result<(Value, Vec<String>), serde_json::Error> {
    let duplicates = RefCell::new(Vec::new());
    let mut deserializer = serde_json::Deserializer::from_slice(bytes);
    let value = Place { path: String::new(), duplicates: &duplicates }.deserialize(&mut deserializer)?;
    deserializer.end()?;
    Ok((value, duplicates.into_inner()))
}

/// Where in the document the reader stands.
struct Place<'a> {
    path: String,
    duplicates: &'a RefCell<Vec<String>>,
}

impl Place<'_> {
    fn below(&self, path: String) -> Place<'_> {
        Place { path, duplicates: self.duplicates }
    }
}

impl<'de> DeserializeSeed<'de> for Place<'_> {
    type Value = Value;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Value, D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Place<'_> {
    type Value = Value;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a JSON value")
    }

    fn visit_bool<E>(self, value: bool) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_i64<E>(self, value: i64) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_u64<E>(self, value: u64) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_f64<E>(self, value: f64) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_str<E>(self, value: &str) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_string<E>(self, value: String) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_unit<E>(self) -> Result<Value, E> {
        Ok(Value::Null)
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<Value, A::Error> {
        let mut list = Vec::new();
        while let Some(item) =
            items.next_element_seed(self.below(format!("{}[{}]", self.path, list.len())))?
        {
            list.push(item);
        }
        Ok(Value::Array(list))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut fields: A) -> Result<Value, A::Error> {
        let mut map: BTreeMap<String, Value> = BTreeMap::new();
        while let Some(key) = fields.next_key::<String>()? {
            let path = if self.path.is_empty() { key.clone() } else { format!("{}.{key}", self.path) };
            let value = fields.next_value_seed(self.below(path.clone()))?;
            match map.entry(key) {
                Entry::Vacant(free) => {
                    free.insert(value);
                }
                Entry::Occupied(mut taken) => {
                    taken.insert(value);
                    self.duplicates.borrow_mut().push(format!("duplicate field {path:?}"));
                }
            }
        }
        Ok(Value::Object(Map::from_iter(map)))
    }
}

#[cfg(test)]
mod tests {
    use super::strict_json;
    use serde_json::json;

    #[test]
    fn the_last_counts_and_all_are_told() {
        let (value, duplicates) = strict_json(
            br#"{"a": {"x": 1, "x": 2}, "l": [{"y": 1, "y": null, "y": "z"}], "a2": [1.5, -1, true]}"#,
        )
        .unwrap();
        assert_eq!(value, json!({"a": {"x": 2}, "l": [{"y": "z"}], "a2": [1.5, -1, true]}));
        assert_eq!(
            duplicates,
            ["duplicate field \"a.x\"", "duplicate field \"l[0].y\"", "duplicate field \"l[0].y\""]
        );
        assert!(strict_json(b"{} x").is_err());
        assert!(strict_json(b"[1,").is_err());
        assert!(strict_json(&b"[".repeat(100_000)).is_err());
    }
}
