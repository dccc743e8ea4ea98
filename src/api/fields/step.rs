//! One step of the path to a field.

use std::cmp::Ordering;
use std::fmt;

use serde_json::Value;

/// How a field is told from its siblings.
#[derive(Debug, Clone)]
pub enum Step {
    /// A field of an object: `f:name`.
    Field(String),
    /// An item of a list that is a map in disguise, by the values of its keys, which are sorted by name:
    /// `k:{"name":"www"}`.
    Key(Vec<(String, Value)>),
    /// An item of a set of scalars: `v:"x"`.
    Value(Value),
    /// An item by its place: `i:3`.
    Index(i64),
}

impl Step {
    /// A field of an object.
    pub fn field(name: &str) -> Step {
        Step::Field(name.to_owned())
    }

    fn rank(&self) -> u8 {
        match self {
            Step::Field(_) => 0,
            Step::Key(_) => 1,
            Step::Value(_) => 2,
            Step::Index(_) => 3,
        }
    }
}

impl Ord for Step {
    fn cmp(&self, other: &Step) -> Ordering {
        match (self, other) {
            (Step::Field(a), Step::Field(b)) => a.cmp(b),
            (Step::Key(a), Step::Key(b)) => {
                let mut pairs = a.iter().zip(b);
                let different = pairs.find_map(|((name, value), (other_name, other))| {
                    Some(name.cmp(other_name).then_with(|| order(value, other))).filter(|o| o.is_ne())
                });
                different.unwrap_or_else(|| a.len().cmp(&b.len()))
            }
            (Step::Value(a), Step::Value(b)) => order(a, b),
            (Step::Index(a), Step::Index(b)) => a.cmp(b),
            _ => self.rank().cmp(&other.rank()),
        }
    }
}

impl PartialOrd for Step {
    fn partial_cmp(&self, other: &Step) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl PartialEq for Step {
    fn eq(&self, other: &Step) -> bool {
        self.cmp(other).is_eq()
    }
}

impl Eq for Step {}

/// Numbers before texts before booleans; what else may stand in a key has an order too, so that sets hold it.
fn order(a: &Value, b: &Value) -> Ordering {
    let rank = |value: &Value| match value {
        Value::Number(_) => 0,
        Value::String(_) => 1,
        Value::Bool(_) => 2,
        Value::Array(_) => 3,
        Value::Object(_) => 4,
        Value::Null => 5,
    };
    match (a, b) {
        (Value::Number(x), Value::Number(y)) => match (x.as_i64(), y.as_i64()) {
            (Some(x), Some(y)) => x.cmp(&y),
            _ => x.as_f64().unwrap_or(0.0).total_cmp(&y.as_f64().unwrap_or(0.0)),
        },
        (Value::String(x), Value::String(y)) => x.cmp(y),
        (Value::Bool(x), Value::Bool(y)) => x.cmp(y),
        (Value::Array(_), Value::Array(_)) | (Value::Object(_), Value::Object(_)) => {
            a.to_string().cmp(&b.to_string())
        }
        _ => rank(a).cmp(&rank(b)),
    }
}

impl fmt::Display for Step {
    /// As messages show it: `.spec`, `[name="www"]`, `[="x"]`, `[3]`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Step::Field(name) => write!(f, ".{name}"),
            Step::Key(keys) => {
                f.write_str("[")?;
                for (i, (name, value)) in keys.iter().enumerate() {
                    write!(f, "{}{name}={value}", if i == 0 { "" } else { "," })?;
                }
                f.write_str("]")
            }
            Step::Value(value) => write!(f, "[={value}]"),
            Step::Index(at) => write!(f, "[{at}]"),
        }
    }
}

/// A path as messages show it: `.spec.containers[name="www"].image`.
pub(super) fn shown(path: &[Step]) -> String {
    path.iter().map(ToString::to_string).collect()
}
