//! Sets of fields as `fieldsV1`: an object of steps, in which `.` stands for the field itself.

use serde_json::{Map, Value};

use super::set::{Node, Set};
use super::step::Step;

/// Why a `fieldsV1` cannot be read.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    /// A key without its kind and colon.
    #[error("{0:?} is no step of a path: it must begin with f:, k:, v: or i:")]
    Step(String),
    /// What follows the colon cannot be read.
    #[error("{0:?} is no step of a path: {1}")]
    Content(String, String),
    /// Below a step stands no object.
    #[error("below {0:?} must be an object")]
    NoObject(String),
}

impl Set {
    /// Reads `fieldsV1`.
    pub fn parse(fields: &Value) -> Result<Set, Error> {
        read(".", fields).map(|node| node.below)
    }

    /// Writes `fieldsV1`.
    pub fn to_wire(&self) -> Value {
        let mut map = Map::new();
        self.write(&mut map);
        Value::Object(map)
    }

    fn write(&self, into: &mut Map<String, Value>) {
        for (step, node) in self.nodes() {
            let mut below = Map::new();
            if node.member && !node.below.is_empty() {
                below.insert(".".to_owned(), Value::Object(Map::new()));
            }
            node.below.write(&mut below);
            into.insert(step.to_wire(), Value::Object(below));
        }
    }
}

fn read(key: &str, fields: &Value) -> Result<Node, Error> {
    let map = match fields {
        Value::Object(map) => map,
        Value::Null => return Ok(Node { member: true, below: Set::default() }),
        _ => return Err(Error::NoObject(key.to_owned())),
    };
    let mut node = Node::default();
    for (key, fields) in map {
        if key == "." {
            node.member = true;
        } else if let Some(step) = Step::parse(key)? {
            node.below.put(step, read(key, fields)?);
        }
    }
    node.member |= node.below.is_empty();
    Ok(node)
}

impl Step {
    /// Reads a step; `None` is of a kind that only a later version knows, and is passed over.
    pub fn parse(text: &str) -> Result<Option<Step>, Error> {
        let content = |e: &dyn std::fmt::Display| Error::Content(text.to_owned(), e.to_string());
        let (kind, rest) = match text.as_bytes() {
            [kind, b':', ..] => (*kind, &text[2..]),
            _ => return Err(Error::Step(text.to_owned())),
        };
        Ok(Some(match kind {
            b'f' => Step::field(rest),
            b'v' => Step::Value(serde_json::from_str(rest).map_err(|e| content(&e))?),
            b'i' => Step::Index(rest.parse().map_err(|e| content(&e))?),
            b'k' => {
                let keys: Map<String, Value> = serde_json::from_str(rest).map_err(|e| content(&e))?;
                Step::Key(sorted(keys))
            }
            _ => return Ok(None),
        }))
    }

    /// The step as a key of `fieldsV1`.
    pub fn to_wire(&self) -> String {
        match self {
            Step::Field(name) => format!("f:{name}"),
            Step::Key(keys) => {
                let keys: Map<String, Value> = keys.iter().cloned().collect();
                format!("k:{}", Value::Object(keys))
            }
            Step::Value(value) => format!("v:{value}"),
            Step::Index(at) => format!("i:{at}"),
        }
    }
}

fn sorted(keys: Map<String, Value>) -> Vec<(String, Value)> {
    let mut keys: Vec<(String, Value)> = keys.into_iter().collect();
    keys.sort_by(|a, b| a.0.cmp(&b.0));
    keys
}
