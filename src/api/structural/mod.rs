//! Structural schemas: what a custom resource's objects must look like, and how they are read by it.
//!
//! [`Node`] is one place of a schema. An object that a client sent is [pruned](prune), [defaulted](fill) and
//! [validated](validate); [`rules`] are its expressions. The rules and messages are those of
//! k8s.io/apiextensions-apiserver `pkg/apiserver/schema` and k8s.io/kube-openapi `pkg/validation`.

use std::collections::{BTreeMap, HashMap};

use regex::Regex;
use serde_json::Value;

mod default;
mod prune;
mod unique;
mod validate;

pub mod costs;
pub mod embedded;
pub mod rules;

pub use self::default::fill;
pub use self::prune::prune;
pub use self::validate::validate;

use self::rules::Rule;

/// One place of a schema.
#[derive(Debug, Default)]
pub struct Node {
    /// `object`, `string`, ...; empty where values may be of any type.
    pub of: String,
    /// Whether null is a value.
    pub nullable: bool,
    /// Whether fields that the schema does not name are kept.
    pub preserve: bool,
    /// Whether the value is an object of the API itself, with a kind and metadata.
    pub embedded: bool,
    /// Whether both whole numbers and texts are values.
    pub int_or_string: bool,
    /// The fields of an object.
    pub properties: BTreeMap<String, Node>,
    /// What other fields of an object are.
    pub additional: Option<Additional>,
    /// What the items of a list are.
    pub items: Option<Box<Node>>,
    /// What stands for an absent value.
    pub default: Option<Value>,
    /// `atomic`, `set`, `map`, or nothing.
    pub list_type: String,
    /// The keys of a list of type `map`.
    pub list_map_keys: Vec<String>,
    /// `atomic`, `granular`, or nothing.
    pub map_type: String,
    /// What expressions demand.
    pub rules: Vec<Rule>,
    /// What single values must be like.
    pub value: Limits,
}

/// What fields are that an object's schema does not name.
#[derive(Debug)]
pub enum Additional {
    /// Anything, or nothing at all.
    Allowed(bool),
    /// Values of this kind.
    Node(Box<Node>),
}

/// What a value must be like beyond its type.
#[derive(Debug, Default)]
pub struct Limits {
    /// `date-time`, ...
    pub format: String,
    /// What the whole text must contain, and its compiled form.
    pub pattern: Option<(String, Option<Regex>)>,
    /// Characters.
    pub min_length: Option<i64>,
    /// Characters.
    pub max_length: Option<i64>,
    /// The smallest number, and whether it is excluded itself.
    pub minimum: Option<(f64, bool)>,
    /// The largest number, and whether it is excluded itself.
    pub maximum: Option<(f64, bool)>,
    /// What divides the number.
    pub multiple_of: Option<f64>,
    /// Items of a list.
    pub min_items: Option<i64>,
    /// Items of a list.
    pub max_items: Option<i64>,
    /// Whether no item may stand twice.
    pub unique_items: bool,
    /// Fields of an object.
    pub min_properties: Option<i64>,
    /// Fields of an object.
    pub max_properties: Option<i64>,
    /// The only values.
    pub enumeration: Vec<Value>,
    /// Fields that must be there.
    pub required: Vec<String>,
    /// Schemas that all hold.
    pub all_of: Vec<Node>,
    /// Schemas of which one holds.
    pub any_of: Vec<Node>,
    /// Schemas of which exactly one holds.
    pub one_of: Vec<Node>,
    /// A schema that does not hold.
    pub not: Option<Box<Node>>,
}

impl Node {
    /// Reads an OpenAPI schema as it stands in a definition.
    pub fn read(schema: &Value) -> Node {
        let text = |key: &str| schema[key].as_str().unwrap_or_default().to_owned();
        let flag = |key: &str| schema[key] == true;
        let fields = |key: &str| schema[key].as_object().into_iter().flatten();
        let texts = |key: &str| {
            let list = schema[key].as_array().into_iter().flatten();
            list.filter_map(Value::as_str).map(str::to_owned).collect()
        };
        Node {
            of: text("type"),
            nullable: flag("nullable"),
            preserve: flag("x-kubernetes-preserve-unknown-fields"),
            embedded: flag("x-kubernetes-embedded-resource"),
            int_or_string: flag("x-kubernetes-int-or-string"),
            properties: fields("properties").map(|(name, of)| (name.clone(), Node::read(of))).collect(),
            additional: match &schema["additionalProperties"] {
                Value::Bool(allowed) => Some(Additional::Allowed(*allowed)),
                of @ Value::Object(_) => Some(Additional::Node(Box::new(Node::read(of)))),
                _ => None,
            },
            items: schema["items"].is_object().then(|| Box::new(Node::read(&schema["items"]))),
            default: schema.get("default").filter(|default| !default.is_null()).cloned(),
            list_type: text("x-kubernetes-list-type"),
            list_map_keys: texts("x-kubernetes-list-map-keys"),
            map_type: text("x-kubernetes-map-type"),
            rules: schema["x-kubernetes-validations"]
                .as_array()
                .into_iter()
                .flatten()
                .map(Rule::read)
                .collect(),
            value: Limits::read(schema),
        }
    }

    /// What the field of an object is; `None` for fields that the schema does not know.
    pub fn child(&self, name: &str) -> Option<&Node> {
        self.properties.get(name).or(match &self.additional {
            Some(Additional::Node(node)) => Some(node),
            _ => None,
        })
    }

    /// The type, or the types, as messages name them.
    pub fn type_name(&self) -> &str {
        if self.int_or_string { "integer,string" } else { &self.of }
    }

    /// Whether the node or one below it is so.
    pub fn any(&self, is: &dyn Fn(&Node) -> bool) -> bool {
        let additional = match &self.additional {
            Some(Additional::Node(node)) => Some(&**node),
            _ => None,
        };
        is(self)
            || self.properties.values().any(|node| node.any(is))
            || self.items.as_deref().into_iter().chain(additional).any(|node| node.any(is))
    }
}

impl Limits {
    fn read(schema: &Value) -> Limits {
        let count = |key: &str| schema[key].as_i64();
        let bound = |key: &str, exclusive: &str| Some((schema[key].as_f64()?, schema[exclusive] == true));
        let nodes = |key: &str| schema[key].as_array().into_iter().flatten().map(Node::read).collect();
        let pattern = schema["pattern"].as_str().filter(|pattern| !pattern.is_empty());
        let required = schema["required"].as_array().into_iter().flatten();
        Limits {
            format: schema["format"].as_str().unwrap_or_default().to_owned(),
            pattern: pattern.map(|pattern| (pattern.to_owned(), super::cel::pattern(pattern).ok())),
            min_length: count("minLength"),
            max_length: count("maxLength"),
            minimum: bound("minimum", "exclusiveMinimum"),
            maximum: bound("maximum", "exclusiveMaximum"),
            multiple_of: schema["multipleOf"].as_f64(),
            min_items: count("minItems"),
            max_items: count("maxItems"),
            unique_items: schema["uniqueItems"] == true,
            min_properties: count("minProperties"),
            max_properties: count("maxProperties"),
            enumeration: schema["enum"].as_array().cloned().unwrap_or_default(),
            required: required.filter_map(Value::as_str).map(str::to_owned).collect(),
            all_of: nodes("allOf"),
            any_of: nodes("anyOf"),
            one_of: nodes("oneOf"),
            not: schema["not"].is_object().then(|| Box::new(Node::read(&schema["not"]))),
        }
    }
}

/// A path in an object, as messages name it.
#[derive(Debug, Clone, Default)]
pub struct Path(String);

impl Path {
    /// The path of a field.
    pub fn field(&self, name: &str) -> Path {
        if self.0.is_empty() { Path(name.to_owned()) } else { Path(format!("{}.{name}", self.0)) }
    }

    /// The path of a list's item.
    pub fn item(&self, index: usize) -> Path {
        Path(format!("{}[{index}]", self.0))
    }

    /// The path of a map's entry.
    pub fn key(&self, key: &str) -> Path {
        Path(format!("{}[{key}]", self.0))
    }

    /// The path as text; of the object itself it is empty.
    pub fn text(&self) -> &str {
        &self.0
    }

    /// The path as a field of a message, where the object itself has a name, too.
    pub fn named(&self) -> String {
        if self.0.is_empty() { "<nil>".to_owned() } else { self.0.clone() }
    }
}

/// The items of an old list by the list's keys; of a list that is no map nothing is known.
pub(super) struct OldItems<'o> {
    node: &'o Node,
    by_keys: HashMap<String, &'o Value>,
}

impl<'o> OldItems<'o> {
    /// Of a list as it was before.
    pub(super) fn of(node: &'o Node, old: Option<&'o Value>) -> OldItems<'o> {
        let mut by_keys = HashMap::new();
        if node.list_type == "map" && !node.list_map_keys.is_empty() {
            for item in old.and_then(Value::as_array).into_iter().flatten() {
                by_keys.entry(keys(node, item)).or_insert(item);
            }
        }
        OldItems { node, by_keys }
    }

    /// The one that was what this one is.
    pub(super) fn same(&self, item: &Value) -> Option<&'o Value> {
        if self.by_keys.is_empty() { None } else { self.by_keys.get(&keys(self.node, item)).copied() }
    }
}

/// The values of an item's keys, or their defaults, as one text.
fn keys(node: &Node, item: &Value) -> String {
    let default = |key: &String| node.items.as_ref()?.properties.get(key)?.default.as_ref();
    let values: Vec<Option<&Value>> =
        node.list_map_keys.iter().map(|key| item.get(key).or_else(|| default(key))).collect();
    serde_json::to_string(&values).unwrap_or_default()
}

#[cfg(test)]
mod tests;
