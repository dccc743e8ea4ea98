//! How large the values of a schema can be.
//!
//! Source: k8s.io/apiserver `pkg/cel/common/schemas.go`.

use std::collections::BTreeMap;

use super::range::Range;
use crate::api::cel::types::escape;
use crate::api::structural::{Additional, Node};

/// The largest request.
const REQUEST: u64 = 3 * 1024 * 1024;
/// The longest name of an object.
const NAME: u64 = 253;

/// What is known of the size of the values of a place.
#[derive(Debug, Clone)]
pub struct Sizes {
    /// The most characters, items or fields; of single values nothing is counted.
    most: u64,
    /// The fewest bytes that a value takes in a document.
    bytes: u64,
    within: Within,
}

#[derive(Debug, Clone)]
enum Within {
    Nothing,
    Items(Box<Sizes>),
    Entries(Box<Sizes>),
    /// By the names under which expressions know them.
    Fields(BTreeMap<String, Sizes>),
}

/// From one value to one in it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Step {
    /// A variable, from which a path begins.
    Variable,
    /// A field.
    Field(String),
    /// An item of a list or a value of a map.
    Item,
    /// A key of a map.
    Key,
    /// The place of an item in its list.
    Index,
}

impl Sizes {
    fn of(most: u64, bytes: u64, within: Within) -> Sizes {
        Sizes { most, bytes, within }
    }

    fn single(bytes: u64) -> Sizes {
        Sizes::of(0, bytes, Within::Nothing)
    }

    fn text(most: u64) -> Sizes {
        Sizes::of(most, 2, Within::Nothing)
    }

    /// Those of a node, `None` where expressions do not know its values; the root of an object of the API has what every
    /// such object has.
    pub fn of_node(node: &Node, root: bool) -> Option<Sizes> {
        let longest = node.value.max_length.map(count);
        if node.int_or_string {
            return Some(Sizes::of(longest.map_or(REQUEST - 2, runes), 1, Within::Nothing));
        }
        Some(match node.of.as_str() {
            "array" => {
                let items = node.items.as_deref()?;
                let of = Sizes::of_node(items, items.embedded)?;
                let most = node.value.max_items.map_or((REQUEST - 2) / (of.bytes + 1), count);
                Sizes::of(most, 2, Within::Items(Box::new(of)))
            }
            "object" => match &node.additional {
                Some(Additional::Node(values)) => {
                    let of = Sizes::of_node(values, values.embedded)?;
                    let most = node.value.max_properties.map_or((REQUEST - 2) / (of.bytes + 6), count);
                    Sizes::of(most, 2, Within::Entries(Box::new(of)))
                }
                _ => Sizes::of_object(node, root),
            },
            "string" => match node.value.format.as_str() {
                "byte" => Sizes::text(longest.unwrap_or(REQUEST - 2)),
                "duration" => Sizes::of(32, 3, Within::Nothing),
                "date" => Sizes::of(12, 12, Within::Nothing),
                "date-time" => Sizes::of(32, 21, Within::Nothing),
                _ => Sizes::text(match longest {
                    Some(longest) => runes(longest),
                    None if node.value.enumeration.is_empty() => REQUEST - 2,
                    None => longest_of(node),
                }),
            },
            "boolean" => Sizes::single(4),
            "number" | "integer" => Sizes::single(1),
            _ => return None,
        })
    }

    fn of_object(node: &Node, root: bool) -> Sizes {
        let (mut fields, mut bytes) = (BTreeMap::new(), 2);
        for (name, of) in &node.properties {
            let Some(sizes) = Sizes::of_node(of, of.embedded) else { continue };
            // What has a default need not be sent.
            if of.default.is_none() && node.value.required.contains(name) {
                bytes += number(name.len()) + sizes.bytes + 4;
            }
            fields.extend(escape(name).map(|name| (name, sizes)));
        }
        if root && !is_whole(node) {
            let stated = node.properties.get("metadata");
            let name = |field: &str, most: u64| {
                let own = stated.and_then(|of| of.properties.get(field)?.value.max_length);
                (field.to_owned(), Sizes::text(runes(own.map_or(most, |own| count(own).min(most)))))
            };
            // What is generated is a character longer.
            let names = [name("name", NAME), name("generateName", NAME - 1)].into();
            fields.insert("metadata".to_owned(), Sizes::of(0, 2, Within::Fields(names)));
            for field in ["apiVersion", "kind"] {
                fields.insert(field.to_owned(), Sizes::text(REQUEST - 2));
            }
        }
        Sizes::of(0, bytes, Within::Fields(fields))
    }

    /// The size of what lies at the end of a path; `None` when that is not known.
    pub fn at(&self, path: &[Step]) -> Option<Range> {
        let (_, steps) = path.split_first()?;
        let mut at = self;
        for step in steps {
            at = match (step, &at.within) {
                (Step::Item, Within::Items(of) | Within::Entries(of)) => of,
                // Nothing is said of keys.
                (Step::Key, Within::Entries(_)) => return Some(Range::exactly(0)),
                (Step::Field(name), Within::Fields(fields)) => fields.get(name)?,
                _ => return None,
            };
        }
        Some(Range::up_to(at.most))
    }

    /// How often a value may stand in a request that holds nothing else.
    pub fn most_often(&self) -> u64 {
        REQUEST / (self.bytes + 1)
    }
}

/// Whether the schema of an object of the API says itself what every such object has.
fn is_whole(node: &Node) -> bool {
    let is =
        |name: &str, of: &str, node: &Node| node.properties.get(name).is_some_and(|field| field.of == of);
    let names = |metadata: &Node| is("name", "string", metadata) && is("generateName", "string", metadata);
    is("kind", "string", node)
        && is("apiVersion", "string", node)
        && is("metadata", "object", node)
        && node.properties.get("metadata").is_some_and(names)
}

/// A limit of a schema.
fn count(limit: i64) -> u64 {
    u64::try_from(limit).unwrap_or(0)
}

/// Characters, of which each may take four bytes.
fn runes(count: u64) -> u64 {
    count.saturating_mul(4)
}

fn number(length: usize) -> u64 {
    u64::try_from(length).unwrap_or(u64::MAX)
}

/// The longest of the values of a text.
fn longest_of(node: &Node) -> u64 {
    let texts = node.value.enumeration.iter().filter_map(|value| value.as_str());
    texts.map(|text| number(text.len())).max().unwrap_or(0)
}
