//! Documents that tell of fields given twice, which parsers' own either refuse or pass over.

use std::cell::RefCell;
use std::fmt;
use std::marker::PhantomData;

use serde::de::{
    DeserializeOwned, DeserializeSeed, Deserializer, EnumAccess, Error, MapAccess, SeqAccess, Visitor,
};

/// A document of a format: a scalar, a list or a map.
pub trait Document:
    Default + From<bool> + From<i64> + From<u64> + From<f64> + From<String> + From<Vec<Self>>
{
    /// What names a field.
    type Key: DeserializeOwned;
    /// Fields by name.
    type Map: Default + Into<Self>;

    /// A field's name in a path.
    fn name(key: &Self::Key) -> String;

    /// Sets a field; whether it was there.
    fn insert(map: &mut Self::Map, key: Self::Key, value: Self) -> bool;
}

impl Document for serde_json::Value {
    type Key = String;
    type Map = Fields;

    fn name(key: &String) -> String {
        key.clone()
    }

    fn insert(map: &mut Fields, key: String, value: Self) -> bool {
        map.0.insert(key, value).is_some()
    }
}

/// The fields of a JSON object.
#[derive(Debug, Default)]
pub struct Fields(serde_json::Map<String, serde_json::Value>);

impl From<Fields> for serde_json::Value {
    fn from(fields: Fields) -> Self {
        serde_json::Value::Object(fields.0)
    }
}

impl Document for serde_yaml::Value {
    type Key = serde_yaml::Value;
    type Map = serde_yaml::Mapping;

    fn name(key: &serde_yaml::Value) -> String {
        match key {
            serde_yaml::Value::String(name) => name.clone(),
            other => serde_yaml::to_string(other).unwrap_or_default().trim_end().to_owned(),
        }
    }

    fn insert(map: &mut serde_yaml::Mapping, key: serde_yaml::Value, value: Self) -> bool {
        map.insert(key, value).is_some()
    }
}

/// Reads a document; the last of several values of a field counts, and each further one makes a message
/// (`duplicate field "spec.x"`).
pub fn read<'de, V: Document, D: Deserializer<'de>>(deserializer: D) -> Result<(V, Vec<String>), D::Error> {
    let duplicates = RefCell::new(Vec::new());
    let place = Place { path: String::new(), duplicates: &duplicates, document: PhantomData };
    let value = place.deserialize(deserializer)?;
    Ok((value, duplicates.into_inner()))
}

/// Where in the document the reader stands.
struct Place<'a, V> {
    path: String,
    duplicates: &'a RefCell<Vec<String>>,
    document: PhantomData<V>,
}

impl<V> Place<'_, V> {
    fn below(&self, path: String) -> Place<'_, V> {
        Place { path, duplicates: self.duplicates, document: PhantomData }
    }
}

impl<'de, V: Document> DeserializeSeed<'de> for Place<'_, V> {
    type Value = V;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<V, D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl<'de, V: Document> Visitor<'de> for Place<'_, V> {
    type Value = V;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a value")
    }

    fn visit_bool<E>(self, value: bool) -> Result<V, E> {
        Ok(value.into())
    }

    fn visit_i64<E>(self, value: i64) -> Result<V, E> {
        Ok(value.into())
    }

    fn visit_u64<E>(self, value: u64) -> Result<V, E> {
        Ok(value.into())
    }

    fn visit_f64<E>(self, value: f64) -> Result<V, E> {
        Ok(value.into())
    }

    fn visit_str<E>(self, value: &str) -> Result<V, E> {
        Ok(value.to_owned().into())
    }

    fn visit_string<E>(self, value: String) -> Result<V, E> {
        Ok(value.into())
    }

    fn visit_unit<E>(self) -> Result<V, E> {
        Ok(V::default())
    }

    fn visit_none<E>(self) -> Result<V, E> {
        Ok(V::default())
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<V, A::Error> {
        let mut list = Vec::new();
        while let Some(item) =
            items.next_element_seed(self.below(format!("{}[{}]", self.path, list.len())))?
        {
            list.push(item);
        }
        Ok(list.into())
    }

    fn visit_map<A: MapAccess<'de>>(self, mut fields: A) -> Result<V, A::Error> {
        let mut map = V::Map::default();
        while let Some(key) = fields.next_key::<V::Key>()? {
            let name = V::name(&key);
            let path = if self.path.is_empty() { name } else { format!("{}.{name}", self.path) };
            let value = fields.next_value_seed(self.below(path.clone()))?;
            if V::insert(&mut map, key, value) {
                self.duplicates.borrow_mut().push(format!("duplicate field {path:?}"));
            }
        }
        Ok(map.into())
    }

    fn visit_enum<A: EnumAccess<'de>>(self, data: A) -> Result<V, A::Error> {
        let (tag, _) = data.variant::<String>()?;
        Err(A::Error::custom(format!("unknown tag {tag}")))
    }
}
