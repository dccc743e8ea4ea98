//! JSON paths as printer columns name values: `.spec.replicas`, `.status.conditions[?(@.type=="Ready")].status`.
//!
//! The grammar is that part of k8s.io/client-go `util/jsonpath` which stands between braces.

use std::cmp::Ordering;

use serde_json::Value;

/// A path that was read.
#[derive(Debug, Clone, PartialEq)]
pub struct JsonPath(Vec<Step>);

#[derive(Debug, Clone, PartialEq)]
enum Step {
    Field(String),
    Index(i64),
    Slice(Option<i64>, Option<i64>),
    All,
    /// Every value below.
    Descent,
    Filter(Operand, Option<(Comparison, Operand)>),
    /// Several indexes or names.
    Union(Vec<Step>),
}

#[derive(Debug, Clone, PartialEq)]
enum Operand {
    Path(JsonPath),
    Literal(Value),
}

#[derive(Debug, Clone, Copy, PartialEq)]
enum Comparison {
    Equal,
    NotEqual,
    Less,
    LessOrEqual,
    Greater,
    GreaterOrEqual,
}

impl JsonPath {
    /// Reads a path; it begins with a dot or a bracket.
    pub fn parse(text: &str) -> Result<JsonPath, String> {
        let mut steps = Vec::new();
        let mut rest = text.trim().trim_start_matches('$');
        while !rest.is_empty() {
            if let Some(after) = rest.strip_prefix("..") {
                steps.push(Step::Descent);
                rest = after;
                if rest.starts_with('[') {
                    continue;
                }
                rest = field(rest, &mut steps);
            } else if let Some(after) = rest.strip_prefix('.') {
                rest = if after.starts_with('[') { after } else { field(after, &mut steps) };
            } else if let Some(after) = rest.strip_prefix('[') {
                let end = closing(after).ok_or("unterminated array")?;
                steps.push(bracket(after[..end].trim())?);
                rest = &after[end + 1..];
            } else if steps.is_empty() {
                rest = field(rest, &mut steps);
            } else {
                let c = rest.chars().next().unwrap_or_default();
                return Err(format!("unrecognized character in action: U+{:04X} '{c}'", u32::from(c)));
            }
        }
        Ok(JsonPath(steps))
    }

    /// The path that leads nowhere else.
    pub fn here() -> JsonPath {
        JsonPath(Vec::new())
    }

    /// The values that the path leads to.
    pub fn find<'v>(&self, value: &'v Value) -> Vec<&'v Value> {
        self.0
            .iter()
            .fold(vec![value], |found, step| found.into_iter().flat_map(|value| step.find(value)).collect())
    }
}

/// A field's name up to the next step; a backslash keeps a dot in it.
fn field<'t>(text: &'t str, steps: &mut Vec<Step>) -> &'t str {
    let mut name = String::new();
    let mut rest = text.char_indices();
    let mut end = text.len();
    while let Some((at, c)) = rest.next() {
        match c {
            '\\' => name.extend(rest.next().map(|(_, escaped)| escaped)),
            '.' | '[' => {
                end = at;
                break;
            }
            c => name.push(c),
        }
    }
    match name.as_str() {
        "" => {}
        "*" => steps.push(Step::All),
        _ => steps.push(Step::Field(name)),
    }
    &text[end..]
}

/// Where the bracket closes that was opened before.
fn closing(text: &str) -> Option<usize> {
    let (mut depth, mut quote) = (0, None);
    for (at, c) in text.char_indices() {
        match (quote, c) {
            (Some(open), c) if c == open => quote = None,
            (Some(_), _) => {}
            (None, '\'' | '"') => quote = Some(c),
            (None, '[') => depth += 1,
            (None, ']') if depth == 0 => return Some(at),
            (None, ']') => depth -= 1,
            _ => {}
        }
    }
    None
}

fn bracket(text: &str) -> Result<Step, String> {
    if let Some(filter) = text.strip_prefix("?(").and_then(|t| t.strip_suffix(')')) {
        return filter_step(filter.trim());
    }
    let invalid = || format!("invalid array index {text}");
    if text == "*" || text.is_empty() {
        return Ok(Step::All);
    }
    if let Some(name) = unquoted(text) {
        return Ok(Step::Field(name));
    }
    if text.contains(',') {
        let steps: Result<Vec<Step>, String> = text.split(',').map(|part| bracket(part.trim())).collect();
        return Ok(Step::Union(steps?));
    }
    if let Some((from, to)) = text.split_once(':') {
        let bound = |text: &str| match text.trim() {
            "" => Ok(None),
            text => text.parse().map(Some).map_err(|_| invalid()),
        };
        return Ok(Step::Slice(bound(from)?, bound(to)?));
    }
    text.parse().map(Step::Index).map_err(|_| invalid())
}

fn unquoted(text: &str) -> Option<String> {
    let inner = [('\'', '\''), ('"', '"')]
        .iter()
        .find_map(|(open, close)| text.strip_prefix(*open)?.strip_suffix(*close))?;
    Some(inner.replace("\\.", ".").replace("\\'", "'"))
}

fn filter_step(text: &str) -> Result<Step, String> {
    const SIGNS: [(&str, Comparison); 6] = [
        ("==", Comparison::Equal),
        ("!=", Comparison::NotEqual),
        ("<=", Comparison::LessOrEqual),
        (">=", Comparison::GreaterOrEqual),
        ("<", Comparison::Less),
        (">", Comparison::Greater),
    ];
    let sign = SIGNS.iter().filter_map(|(sign, of)| Some((outside_quotes(text, sign)?, *sign, *of)));
    match sign.min_by_key(|(at, sign, _)| (*at, usize::MAX - sign.len())) {
        Some((at, sign, of)) => {
            let other = operand(&text[at + sign.len()..])?;
            Ok(Step::Filter(operand(&text[..at])?, Some((of, other))))
        }
        None => Ok(Step::Filter(operand(text)?, None)),
    }
}

fn outside_quotes(text: &str, wanted: &str) -> Option<usize> {
    let mut quote = None;
    text.char_indices().find_map(|(at, c)| {
        match (quote, c) {
            (Some(open), c) if c == open => quote = None,
            (None, '\'' | '"') => quote = Some(c),
            _ => {}
        }
        (quote.is_none() && text[at..].starts_with(wanted)).then_some(at)
    })
}

fn operand(text: &str) -> Result<Operand, String> {
    let text = text.trim();
    if let Some(path) = text.strip_prefix('@') {
        return JsonPath::parse(path).map(Operand::Path);
    }
    if let Some(text) = unquoted(text) {
        return Ok(Operand::Literal(text.into()));
    }
    serde_json::from_str(text).map(Operand::Literal).map_err(|_| format!("unrecognized operand {text}"))
}

impl Operand {
    fn value(&self, item: &Value) -> Option<Value> {
        match self {
            Operand::Path(path) => path.find(item).first().map(|value| (*value).clone()),
            Operand::Literal(value) => Some(value.clone()),
        }
    }
}

impl Step {
    fn find<'v>(&self, value: &'v Value) -> Vec<&'v Value> {
        match self {
            Step::Field(name) => value.get(name).into_iter().collect(),
            Step::Index(index) => {
                let Some(items) = value.as_array() else { return Vec::new() };
                let index = if *index < 0 { *index + items.len() as i64 } else { *index };
                usize::try_from(index).ok().and_then(|index| items.get(index)).into_iter().collect()
            }
            Step::Slice(from, to) => {
                let Some(items) = value.as_array() else { return Vec::new() };
                let length = items.len() as i64;
                let at =
                    |bound: i64| (if bound < 0 { bound + length } else { bound }).clamp(0, length) as usize;
                let (from, to) = (at(from.unwrap_or(0)), at(to.unwrap_or(length)));
                items.get(from..to).into_iter().flatten().collect()
            }
            Step::All => children(value),
            Step::Descent => {
                let mut found = vec![value];
                found.extend(children(value).into_iter().flat_map(|child| Step::Descent.find(child)));
                found
            }
            Step::Filter(left, comparison) => {
                children(value).into_iter().filter(|item| kept(item, left, comparison.as_ref())).collect()
            }
            Step::Union(steps) => steps.iter().flat_map(|step| step.find(value)).collect(),
        }
    }
}

fn children(value: &Value) -> Vec<&Value> {
    match value {
        Value::Array(items) => items.iter().collect(),
        Value::Object(fields) => fields.values().collect(),
        _ => Vec::new(),
    }
}

fn kept(item: &Value, left: &Operand, comparison: Option<&(Comparison, Operand)>) -> bool {
    let Some(left) = left.value(item) else { return false };
    let Some((comparison, right)) = comparison else { return true };
    let Some(right) = right.value(item) else { return false };
    let order = match (&left, &right) {
        (Value::Number(a), Value::Number(b)) => a.as_f64().partial_cmp(&b.as_f64()),
        (Value::String(a), Value::String(b)) => Some(a.cmp(b)),
        (a, b) => (a == b).then_some(Ordering::Equal),
    };
    match comparison {
        Comparison::Equal => order == Some(Ordering::Equal),
        Comparison::NotEqual => order != Some(Ordering::Equal),
        Comparison::Less => order == Some(Ordering::Less),
        Comparison::LessOrEqual => order.is_some_and(Ordering::is_le),
        Comparison::Greater => order == Some(Ordering::Greater),
        Comparison::GreaterOrEqual => order.is_some_and(Ordering::is_ge),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn paths_lead_to_values() {
        let object = json!({"metadata": {"labels": {"a.b/c": "d"}}, "spec": {"replicas": 2, "list": [1, 2, 3, 4]},
            "status": {"conditions": [{"type": "Ready", "status": "True", "n": 1}, {"type": "Done", "status": "False", "n": 5}]}});
        for (path, expected) in [
            (".spec.replicas", json!([2])),
            ("spec.replicas", json!([2])),
            (".metadata.labels.a\\.b/c", json!(["d"])),
            (".metadata.labels['a\\.b/c']", json!(["d"])),
            (".spec.list[0]", json!([1])),
            (".spec.list[-1]", json!([4])),
            (".spec.list[1:3]", json!([2, 3])),
            (".spec.list[*]", json!([1, 2, 3, 4])),
            (".spec.list[0,2]", json!([1, 3])),
            (".status.conditions[?(@.type==\"Ready\")].status", json!(["True"])),
            (".status.conditions[?(@.type != 'Ready')].status", json!(["False"])),
            (".status.conditions[?(@.n>1)].type", json!(["Done"])),
            (".status.conditions[?(@.missing)].type", json!([])),
            ("..type", json!(["Ready", "Done"])),
            (".nothing.here", json!([])),
        ] {
            let found = JsonPath::parse(path).unwrap();
            assert_eq!(json!(found.find(&object)), expected, "{path}");
        }
        for wrong in [".a[", ".a[x]", ".a[0]b", ".a[?(@.x==)]"] {
            assert!(JsonPath::parse(wrong).is_err(), "{wrong}");
        }
    }
}
