//! YAML that tells of fields given twice, which the parser's own documents refuse.

use std::cell::RefCell;
use std::fmt;

use serde::de::{DeserializeSeed, Deserializer, EnumAccess, Error, MapAccess, SeqAccess, Visitor};
use serde_yaml::{Mapping, Value};

/// The document, in which the last of several values of a field counts, and a message for each further one.
pub(super) fn read(bytes: &[u8]) -> Result<(Value, Vec<String>), serde_yaml::Error> {
    let duplicates = RefCell::new(Vec::new());
    let deserializer = serde_yaml::Deserializer::from_slice(bytes);
    let value = Place { path: String::new(), duplicates: &duplicates }.deserialize(deserializer)?;
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
        f.write_str("a YAML value")
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

    fn visit_unit<E>(self) -> Result<Value, E> {
        Ok(Value::Null)
    }

    fn visit_none<E>(self) -> Result<Value, E> {
        Ok(Value::Null)
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<Value, A::Error> {
        let mut list = Vec::new();
        while let Some(item) =
            items.next_element_seed(self.below(format!("{}[{}]", self.path, list.len())))?
        {
            list.push(item);
        }
        Ok(Value::Sequence(list))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut fields: A) -> Result<Value, A::Error> {
        let mut map = Mapping::new();
        while let Some(key) = fields.next_key::<Value>()? {
            let name = match &key {
                Value::String(name) => name.clone(),
                other => serde_yaml::to_string(other).unwrap_or_default().trim_end().to_owned(),
            };
            let path = if self.path.is_empty() { name } else { format!("{}.{name}", self.path) };
            let value = fields.next_value_seed(self.below(path.clone()))?;
            if map.insert(key, value).is_some() {
                self.duplicates.borrow_mut().push(format!("duplicate field {path:?}"));
            }
        }
        Ok(Value::Mapping(map))
    }

    fn visit_enum<A: EnumAccess<'de>>(self, data: A) -> Result<Value, A::Error> {
        let (tag, _) = data.variant::<String>()?;
        Err(A::Error::custom(format!("unknown tag {tag}")))
    }
}
