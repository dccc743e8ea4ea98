//! Documents that tell of fields given twice, which parsers' own either refuse or pass over.

use std::borrow::Cow;
use std::cell::RefCell;
use std::fmt;
use std::marker::PhantomData;

use serde::de::{
    DeserializeOwned, DeserializeSeed, Deserializer, EnumAccess, Error, MapAccess, SeqAccess, Visitor,
};

use super::complaints;

/// A document of a format: a scalar, a list or a map.
pub trait Document:
    Default + From<bool> + From<i64> + From<u64> + From<f64> + From<String> + From<Vec<Self>>
{
    /// What names a field.
    type Key: DeserializeOwned;
    /// Fields by name.
    type Map: Default + Into<Self>;

    /// A field's name in a path.
    fn name(key: &Self::Key) -> Cow<'_, str>;

    /// Sets a field, and tells when it was there.
    fn insert(map: &mut Self::Map, key: Self::Key, value: Self, repeated: impl FnOnce(&Self::Key));
}

impl Document for serde_json::Value {
    type Key = String;
    type Map = Fields;

    fn name(key: &String) -> Cow<'_, str> {
        key.into()
    }

    fn insert(map: &mut Fields, key: String, value: Self, repeated: impl FnOnce(&String)) {
        match map.0.entry(key) {
            serde_json::map::Entry::Vacant(field) => {
                field.insert(value);
            }
            serde_json::map::Entry::Occupied(mut field) => {
                repeated(field.key());
                field.insert(value);
            }
        }
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

    fn name(key: &serde_yaml::Value) -> Cow<'_, str> {
        match key {
            serde_yaml::Value::String(name) => name.into(),
            other => serde_yaml::to_string(other).unwrap_or_default().trim_end().to_owned().into(),
        }
    }

    fn insert(
        map: &mut serde_yaml::Mapping,
        key: serde_yaml::Value,
        value: Self,
        repeated: impl FnOnce(&serde_yaml::Value),
    ) {
        match map.entry(key) {
            serde_yaml::mapping::Entry::Vacant(field) => {
                field.insert(value);
            }
            serde_yaml::mapping::Entry::Occupied(mut field) => {
                repeated(field.key());
                field.insert(value);
            }
        }
    }
}

/// Reads a document; the last of several values of a field counts, and each further one makes a message
/// (`duplicate field "spec.x"`), up to [`complaints::MOST`].
pub fn read<'de, V: Document, D: Deserializer<'de>>(deserializer: D) -> Result<(V, Vec<String>), D::Error> {
    let duplicates = RefCell::new(Vec::new());
    let place = Place { path: Path::Root, duplicates: &duplicates, document: PhantomData };
    let value = place.deserialize(deserializer)?;
    Ok((value, duplicates.into_inner()))
}

/// The way to a value. It becomes text only for a message: most documents need none.
enum Path<'a, V: Document> {
    Root,
    Field(&'a Path<'a, V>, &'a V::Key),
    Item(&'a Path<'a, V>, usize),
}

impl<V: Document> Path<'_, V> {
    fn write(&self, text: &mut complaints::Path) -> fmt::Result {
        match self {
            Path::Root => Ok(()),
            Path::Field(parent, key) => {
                parent.write(text)?;
                text.field(&V::name(key))
            }
            Path::Item(parent, index) => {
                parent.write(text)?;
                text.item(*index)
            }
        }
    }
}

/// Where in the document the reader stands.
struct Place<'a, V: Document> {
    path: Path<'a, V>,
    duplicates: &'a RefCell<Vec<String>>,
    document: PhantomData<V>,
}

impl<V: Document> Place<'_, V> {
    fn item(&self, index: usize) -> Place<'_, V> {
        Place { path: Path::Item(&self.path, index), duplicates: self.duplicates, document: PhantomData }
    }

    fn field<'a>(&'a self, key: &'a V::Key) -> Place<'a, V> {
        Place { path: Path::Field(&self.path, key), duplicates: self.duplicates, document: PhantomData }
    }

    fn tell(&self) {
        let mut duplicates = self.duplicates.borrow_mut();
        if duplicates.len() < complaints::MOST {
            let path = complaints::path(|text| self.path.write(text));
            duplicates.push(format!("duplicate field {path:?}"));
        }
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
        while let Some(item) = items.next_element_seed(self.item(list.len()))? {
            list.push(item);
        }
        Ok(list.into())
    }

    fn visit_map<A: MapAccess<'de>>(self, mut fields: A) -> Result<V, A::Error> {
        let mut map = V::Map::default();
        while let Some(key) = fields.next_key::<V::Key>()? {
            let value = fields.next_value_seed(self.field(&key))?;
            V::insert(&mut map, key, value, |key| self.field(key).tell());
        }
        Ok(map.into())
    }

    fn visit_enum<A: EnumAccess<'de>>(self, data: A) -> Result<V, A::Error> {
        let (tag, _) = data.variant::<String>()?;
        Err(A::Error::custom(format!("unknown tag {tag}")))
    }
}
