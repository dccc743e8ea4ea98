//! CEL's types: what a variable is declared as, what an expression gives, and which fits which.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;

/// The type of a value.
#[derive(Debug, Clone, PartialEq)]
pub enum Type {
    /// Known only when the expression runs.
    Dyn,
    /// `null`.
    Null,
    /// `true` and `false`.
    Bool,
    /// 64 bits with a sign.
    Int,
    /// 64 bits without one.
    Uint,
    /// A floating-point number.
    Double,
    /// Text.
    String,
    /// Bytes.
    Bytes,
    /// A moment.
    Timestamp,
    /// A span of time.
    Duration,
    /// The type of a type.
    Type,
    /// A list.
    List(Box<Type>),
    /// A map.
    Map(Box<Type>, Box<Type>),
    /// A value that may be missing.
    Optional(Box<Type>),
    /// An object with known fields.
    Object(Arc<Object>),
    /// A type that only functions know: `kubernetes.Quantity`.
    Opaque(Arc<str>),
    /// A type that a signature leaves open.
    Param(char),
}

/// The fields of an object, by the names under which expressions know them.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Object {
    /// What messages call it.
    pub name: String,
    /// Its fields.
    pub fields: BTreeMap<String, Field>,
}

/// A field of an object.
#[derive(Debug, Clone, PartialEq)]
pub struct Field {
    /// Its name in the document, of which the name in expressions is the escaped form.
    pub key: String,
    /// Its type.
    pub of: Type,
}

impl Type {
    /// A list of these.
    pub fn list(of: Type) -> Type {
        Type::List(Box::new(of))
    }

    /// A map from texts to these.
    pub fn map(to: Type) -> Type {
        Type::Map(Box::new(Type::String), Box::new(to))
    }

    /// An object with these fields, by their names in the document.
    pub fn object(name: &str, fields: impl IntoIterator<Item = (String, Type)>) -> Type {
        let named = fields.into_iter().filter_map(|(key, of)| Some((escape(&key)?, Field { key, of })));
        Type::Object(Arc::new(Object { name: name.to_owned(), fields: named.collect() }))
    }

    /// Whether it holds a value that is not known before the expression runs.
    pub fn is_dyn(&self) -> bool {
        matches!(self, Type::Dyn)
    }
}

impl fmt::Display for Type {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let name = match self {
            Type::Dyn => "dyn",
            Type::Null => "null",
            Type::Bool => "bool",
            Type::Int => "int",
            Type::Uint => "uint",
            Type::Double => "double",
            Type::String => "string",
            Type::Bytes => "bytes",
            Type::Timestamp => "timestamp",
            Type::Duration => "duration",
            Type::Type => "type",
            Type::List(of) => return write!(f, "list({of})"),
            Type::Map(key, value) => return write!(f, "map({key}, {value})"),
            Type::Optional(of) => return write!(f, "optional_type({of})"),
            Type::Object(object) => &object.name,
            Type::Opaque(name) => name,
            Type::Param(name) => return write!(f, "{name}"),
        };
        f.write_str(name)
    }
}

/// What the open types of a signature stand for in one call.
#[derive(Debug, Clone, Default)]
pub struct Bound(BTreeMap<char, Type>);

impl Bound {
    /// Whether a value of the type `given` can stand where `wanted` is; open types are bound on the way.
    pub fn fits(&mut self, given: &Type, wanted: &Type) -> bool {
        match (given, wanted) {
            (_, Type::Param(name)) => match self.0.get(name).cloned() {
                None | Some(Type::Dyn) => {
                    self.0.insert(*name, given.clone());
                    true
                }
                Some(bound) if self.fits(given, &bound) => true,
                // `null` or a `dyn` may have come first.
                Some(bound) => {
                    let wider = self.fits(&bound, given);
                    if wider {
                        self.0.insert(*name, given.clone());
                    }
                    wider
                }
            },
            (Type::Dyn, _) | (_, Type::Dyn) => true,
            (Type::List(given), Type::List(wanted)) | (Type::Optional(given), Type::Optional(wanted)) => {
                self.fits(given, wanted)
            }
            (Type::Map(given_key, given), Type::Map(wanted_key, wanted)) => {
                self.fits(given_key, wanted_key) && self.fits(given, wanted)
            }
            (
                Type::Null,
                Type::Object(_) | Type::Timestamp | Type::Duration | Type::Opaque(_) | Type::Optional(_),
            ) => true,
            (given, wanted) => given == wanted,
        }
    }

    /// The type with its open parts filled in; what nothing was said of is `dyn`.
    pub fn fill(&self, of: &Type) -> Type {
        match of {
            Type::Param(name) => self.0.get(name).cloned().unwrap_or(Type::Dyn),
            Type::List(of) => Type::list(self.fill(of)),
            Type::Optional(of) => Type::Optional(Box::new(self.fill(of))),
            Type::Map(key, value) => Type::Map(Box::new(self.fill(key)), Box::new(self.fill(value))),
            other => other.clone(),
        }
    }
}

/// The type that both are, as far as that is known.
pub fn join(one: &Type, other: &Type) -> Option<Type> {
    match (one, other) {
        (Type::Dyn, _) | (_, Type::Dyn) => Some(Type::Dyn),
        // Of the items of an empty list nothing is known: they are what those of the other are.
        (Type::List(of), Type::List(_)) if of.is_dyn() => Some(other.clone()),
        _ if Bound::default().fits(other, one) => Some(one.clone()),
        _ if Bound::default().fits(one, other) => Some(other.clone()),
        _ => None,
    }
}

/// One way to call a function.
#[derive(Debug, Clone)]
pub struct Overload {
    /// Whether the first parameter stands before a dot.
    pub member: bool,
    /// What it takes.
    pub parameters: Vec<Type>,
    /// What it gives.
    pub result: Type,
}

/// Reads a signature: `string.(int) string` is called on a text, `(list(A), A) bool` is not called on anything.
///
/// Names that are no types of CEL are those of opaque types; a single capital is an open type.
pub fn signature(text: &str) -> Option<Overload> {
    let (target, rest) = match text.split_once(".(") {
        Some((target, rest)) => (Some(target), rest),
        None => (None, text.strip_prefix('(')?),
    };
    let end = parameters_end(rest)?;
    let mut types = Vec::new();
    if let Some(target) = target {
        types.push(parse(target)?);
    }
    for part in split_top(&rest[..end]) {
        types.push(parse(part)?);
    }
    Some(Overload { member: target.is_some(), parameters: types, result: parse(rest[end + 1..].trim())? })
}

/// Where the list of parameters ends: at the bracket that closes the first one.
fn parameters_end(rest: &str) -> Option<usize> {
    let mut depth = 1;
    for (at, c) in rest.char_indices() {
        match c {
            '(' => depth += 1,
            ')' => depth -= 1,
            _ => {}
        }
        if depth == 0 {
            return Some(at);
        }
    }
    None
}

/// The parts between the commas that stand in no brackets.
fn split_top(text: &str) -> Vec<&str> {
    let (mut parts, mut depth, mut from) = (Vec::new(), 0, 0);
    for (at, c) in text.char_indices() {
        match c {
            '(' => depth += 1,
            ')' => depth -= 1,
            ',' if depth == 0 => {
                parts.push(text[from..at].trim());
                from = at + 1;
            }
            _ => {}
        }
    }
    if !text.trim().is_empty() {
        parts.push(text[from..].trim());
    }
    parts
}

fn parse(text: &str) -> Option<Type> {
    if let Some((name, inner)) = text.strip_suffix(')').and_then(|t| t.split_once('(')) {
        let mut inner = split_top(inner).into_iter().map(parse);
        let first = inner.next()??;
        return match name {
            "list" => Some(Type::list(first)),
            "optional" => Some(Type::Optional(Box::new(first))),
            "map" => Some(Type::Map(Box::new(first), Box::new(inner.next()??))),
            _ => None,
        };
    }
    Some(match text {
        "dyn" => Type::Dyn,
        "null" => Type::Null,
        "bool" => Type::Bool,
        "int" => Type::Int,
        "uint" => Type::Uint,
        "double" => Type::Double,
        "string" => Type::String,
        "bytes" => Type::Bytes,
        "timestamp" => Type::Timestamp,
        "duration" => Type::Duration,
        "type" => Type::Type,
        single if single.len() == 1 => Type::Param(single.chars().next()?),
        name => Type::Opaque(name.into()),
    })
}

/// Names that CEL's grammar keeps for itself.
const RESERVED: &[&str] = &[
    "true",
    "false",
    "null",
    "in",
    "as",
    "break",
    "const",
    "continue",
    "else",
    "for",
    "function",
    "if",
    "import",
    "let",
    "loop",
    "package",
    "namespace",
    "return",
    "var",
    "void",
    "while",
];

/// Whether expressions may use this as a name of a variable.
pub fn is_identifier(name: &str) -> bool {
    let starts = |c: char| c == '_' || c.is_ascii_alphabetic();
    name.starts_with(starts)
        && name.chars().all(|c| starts(c) || c.is_ascii_digit())
        && !RESERVED.contains(&name)
}

/// The name under which expressions know a property; `None` for those that they cannot name.
///
/// The rules are those of k8s.io/apiserver `pkg/cel/escaping.go`.
pub fn escape(name: &str) -> Option<String> {
    if name.is_empty() || name.starts_with(|c: char| c.is_ascii_digit()) {
        return None;
    }
    if RESERVED.contains(&name) {
        return Some(format!("__{name}__"));
    }
    let mut escaped = String::with_capacity(name.len());
    let mut rest = name.chars().peekable();
    while let Some(c) = rest.next() {
        match c {
            '_' if rest.peek() == Some(&'_') => {
                rest.next();
                escaped.push_str("__underscores__");
            }
            '.' => escaped.push_str("__dot__"),
            '-' => escaped.push_str("__dash__"),
            '/' => escaped.push_str("__slash__"),
            c if c.is_ascii_alphanumeric() || c == '_' => escaped.push(c),
            _ => return None,
        }
    }
    Some(escaped)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn signatures_are_read() {
        let read = signature("map(A, B).(A, list(optional(B))) optional(list(A))").unwrap();
        assert!(read.member);
        let shown: Vec<String> = read.parameters.iter().map(ToString::to_string).collect();
        assert_eq!(shown, ["map(A, B)", "A", "list(optional_type(B))"]);
        assert_eq!(read.result.to_string(), "optional_type(list(A))");
        let none = signature("() kubernetes.NamedFormat").unwrap();
        assert!(!none.member && none.parameters.is_empty());
        assert_eq!(none.result, Type::Opaque("kubernetes.NamedFormat".into()));
        assert!(signature("int").is_none());
    }

    #[test]
    fn open_types_are_bound_once() {
        let list = signature("(A, list(A)) bool").unwrap();
        let fits = |given: [Type; 2]| {
            let mut bound = Bound::default();
            given.iter().zip(&list.parameters).all(|(given, wanted)| bound.fits(given, wanted))
        };
        assert!(fits([Type::Int, Type::list(Type::Int)]));
        assert!(fits([Type::Int, Type::list(Type::Dyn)]));
        assert!(!fits([Type::Int, Type::list(Type::String)]));
    }

    #[test]
    fn names_are_escaped() {
        for (name, escaped) in [
            ("replicas", Some("replicas")),
            ("namespace", Some("__namespace__")),
            ("a__b", Some("a__underscores__b")),
            ("a.b-c/d", Some("a__dot__b__dash__c__slash__d")),
            ("1a", None),
            ("a b", None),
            ("", None),
        ] {
            assert_eq!(escape(name).as_deref(), escaped, "{name}");
        }
    }
}
