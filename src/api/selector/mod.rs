//! Label and field selectors.
//!
//! Grammar and messages are those of k8s.io/apimachinery `pkg/labels` and `pkg/fields`.

mod lexer;
mod text;

use std::collections::BTreeMap;

use serde_json::Value;

use self::lexer::{Parser, Token};
pub use self::text::{text, text_of_map};
use super::names;

/// What objects must be labelled with; the default selects everything.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct LabelSelector {
    requirements: Vec<Requirement>,
    /// A selector object that is absent selects nothing.
    nothing: bool,
}

#[derive(Debug, Clone, PartialEq, Eq)]
struct Requirement {
    key: String,
    test: Test,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Test {
    In(Vec<String>),
    NotIn(Vec<String>),
    Exists,
    Absent,
    Greater(i64),
    Less(i64),
}

impl Requirement {
    fn new(key: String, test: Test) -> Result<Requirement, String> {
        let wrong = names::qualified_name(&key);
        if !wrong.is_empty() {
            return Err(format!("key: Invalid value: {key:?}: {}", wrong.join("; ")));
        }
        if let Test::In(values) | Test::NotIn(values) = &test {
            for (i, value) in values.iter().enumerate() {
                let wrong = names::label_value(value);
                if !wrong.is_empty() {
                    let wrong = wrong.join("; ");
                    return Err(format!("values[{i}][{key}]: Invalid value: {value:?}: {wrong}"));
                }
            }
        }
        Ok(Requirement { key, test })
    }

    fn matches(&self, value: Option<&str>) -> bool {
        let number = || value.and_then(|v| v.parse::<i64>().ok());
        match &self.test {
            Test::In(values) => value.is_some_and(|v| values.iter().any(|w| w == v)),
            Test::NotIn(values) => value.is_none_or(|v| values.iter().all(|w| w != v)),
            Test::Exists => value.is_some(),
            Test::Absent => value.is_none(),
            Test::Greater(than) => number().is_some_and(|n| n > *than),
            Test::Less(than) => number().is_some_and(|n| n < *than),
        }
    }
}

impl LabelSelector {
    /// Reads `app=vote,tier!=db,env in (a, b),!old`; the empty string selects everything.
    pub fn parse(text: &str) -> Result<LabelSelector, String> {
        let mut parser = Parser::new(text);
        let mut requirements = Vec::new();
        loop {
            match parser.peek() {
                Token::End => break,
                Token::Word(_) | Token::Not => {
                    let requirement = requirement(&mut parser);
                    requirements.push(requirement.map_err(|e| format!("unable to parse requirement: {e}"))?);
                }
                other => {
                    return Err(format!("found '{other}', expected: !, identifier, or 'end of string'"));
                }
            }
            match parser.next() {
                Token::End => break,
                Token::Comma => {
                    let after = parser.peek();
                    if !matches!(after, Token::Word(_) | Token::Not) {
                        return Err(format!("found '{after}', expected: identifier after ','"));
                    }
                }
                other => return Err(format!("found '{other}', expected: ',' or 'end of string'")),
            }
        }
        Ok(LabelSelector { requirements, nothing: false })
    }

    /// Reads a `LabelSelector` object; null (absent) selects nothing, an empty object everything.
    pub fn from_object(selector: &Value) -> Result<LabelSelector, String> {
        if selector.is_null() {
            return Ok(LabelSelector { requirements: Vec::new(), nothing: true });
        }
        let mut requirements = Vec::new();
        for (key, value) in selector["matchLabels"].as_object().into_iter().flatten() {
            let value = value.as_str().unwrap_or_default().to_owned();
            requirements.push(Requirement::new(key.clone(), Test::In(vec![value]))?);
        }
        for expression in selector["matchExpressions"].as_array().into_iter().flatten() {
            let key = expression["key"].as_str().unwrap_or_default().to_owned();
            let values = expression["values"].as_array().into_iter().flatten();
            let values: Vec<String> = values.filter_map(Value::as_str).map(str::to_owned).collect();
            let operator = expression["operator"].as_str().unwrap_or_default();
            let test = match operator {
                "In" | "NotIn" if values.is_empty() => {
                    return Err(
                        "values: Invalid value: []: for 'in', 'notin' operators, values set can't be empty"
                            .into(),
                    );
                }
                "Exists" | "DoesNotExist" if !values.is_empty() => {
                    let shown = expression["values"].to_string();
                    return Err(format!(
                        "values: Invalid value: {shown}: values set must be empty for exists and does not exist"
                    ));
                }
                "In" => Test::In(values),
                "NotIn" => Test::NotIn(values),
                "Exists" => Test::Exists,
                "DoesNotExist" => Test::Absent,
                other => return Err(format!("{other:?} is not a valid label selector operator")),
            };
            requirements.push(Requirement::new(key, test)?);
        }
        Ok(LabelSelector { requirements, nothing: false })
    }

    /// Reads a plain map of labels as services have it; absent or empty selects nothing.
    pub fn from_map(selector: &Value) -> LabelSelector {
        let labels = selector.as_object().into_iter().flatten();
        let requirements: Vec<Requirement> = labels
            .map(|(key, value)| Requirement {
                key: key.clone(),
                test: Test::In(vec![value.as_str().unwrap_or_default().to_owned()]),
            })
            .collect();
        LabelSelector { nothing: requirements.is_empty(), requirements }
    }

    /// Whether it selects everything.
    pub fn is_everything(&self) -> bool {
        self.requirements.is_empty() && !self.nothing
    }

    /// Whether an object with these labels (`metadata.labels`, null when it has none) is selected.
    pub fn matches(&self, labels: &Value) -> bool {
        !self.nothing
            && self.requirements.iter().all(|r| r.matches(labels.get(&r.key).and_then(Value::as_str)))
    }

    /// The same for the labels of a typed object.
    pub fn matches_map(&self, labels: &BTreeMap<String, String>) -> bool {
        !self.nothing && self.requirements.iter().all(|r| r.matches(labels.get(&r.key).map(String::as_str)))
    }
}

fn requirement(parser: &mut Parser) -> Result<Requirement, String> {
    let mut token = parser.next();
    let absent = token == Token::Not;
    if absent {
        token = parser.next();
    }
    let Token::Word(key) = token else {
        return Err(format!("found '{token}', expected: identifier"));
    };
    let wrong = names::qualified_name(&key);
    if !wrong.is_empty() {
        // Kubernetes has no path for a key in a selector's text, and says so.
        return Err(format!("<nil>: Invalid value: {key:?}: {}", wrong.join("; ")));
    }
    if absent {
        return Requirement::new(key, Test::Absent);
    }
    if matches!(parser.peek(), Token::End | Token::Comma) {
        return Requirement::new(key, Test::Exists);
    }
    let test = match parser.next() {
        Token::Equals => Test::In(vec![value(parser)?]),
        Token::NotEquals => Test::NotIn(vec![value(parser)?]),
        Token::Greater => Test::Greater(integer(parser)?),
        Token::Less => Test::Less(integer(parser)?),
        Token::Word(word) if word == "in" => Test::In(values(parser)?),
        Token::Word(word) if word == "notin" => Test::NotIn(values(parser)?),
        other => return Err(format!("found '{other}', expected: in, notin, =, ==, !=, gt, lt")),
    };
    Requirement::new(key, test)
}

/// The one value after `=`; nothing is the empty value.
fn value(parser: &mut Parser) -> Result<String, String> {
    match parser.peek() {
        Token::End | Token::Comma => Ok(String::new()),
        Token::Word(word) => {
            parser.next();
            Ok(word)
        }
        other => Err(format!("found '{other}', expected: identifier")),
    }
}

fn integer(parser: &mut Parser) -> Result<i64, String> {
    let text = value(parser)?;
    text.parse().map_err(|_| {
        format!("values[0]: Invalid value: {text:?}: for 'Gt', 'Lt' operators, the value must be an integer")
    })
}

/// `(a, b)`; empty places are empty values.
fn values(parser: &mut Parser) -> Result<Vec<String>, String> {
    let open = parser.next();
    if open != Token::Open {
        return Err(format!("found '{open}' expected: '('"));
    }
    let mut all = Vec::new();
    let mut current = None;
    let mut wanted = "',', ')' or identifier";
    loop {
        match parser.next() {
            Token::Word(word) if current.is_none() => {
                current = Some(word);
                wanted = "',' or ')'";
            }
            Token::Comma => {
                all.push(current.take().unwrap_or_default());
                wanted = "',', or identifier";
            }
            Token::Close => {
                all.push(current.take().unwrap_or_default());
                return Ok(all);
            }
            other => return Err(format!("found '{other}', expected: {wanted}")),
        }
    }
}

/// What an object's fields must be; the default selects everything.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct FieldSelector {
    /// All must hold.
    pub terms: Vec<FieldTerm>,
}

/// One `spec.nodeName=minik` of a field selector.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FieldTerm {
    /// `spec.nodeName`.
    pub key: String,
    /// Whether the field must not have the value.
    pub negated: bool,
    /// `minik`.
    pub value: String,
}

impl FieldSelector {
    /// Reads `metadata.name=www,status.phase!=Running`; `\` escapes `,`, `=` and itself in values.
    pub fn parse(text: &str) -> Result<FieldSelector, String> {
        let mut terms = Vec::new();
        for term in split_terms(text) {
            if term.is_empty() {
                continue;
            }
            let unknown = || format!("invalid selector: '{text}'; can't understand '{term}'");
            let at = term.find(['=', '!']).ok_or_else(unknown)?;
            let (key, rest) = term.split_at(at);
            let (negated, value) = if let Some(value) = rest.strip_prefix("!=") {
                (true, value)
            } else if let Some(value) = rest.strip_prefix("==").or_else(|| rest.strip_prefix('=')) {
                (false, value)
            } else {
                return Err(unknown());
            };
            terms.push(FieldTerm { key: key.to_owned(), negated, value: unescape(value)? });
        }
        Ok(FieldSelector { terms })
    }

    /// Whether it selects everything.
    pub fn is_everything(&self) -> bool {
        self.terms.is_empty()
    }

    /// Whether an object with these fields is selected; a field that is not among them counts as empty.
    pub fn matches(&self, fields: &[(impl AsRef<str>, String)]) -> bool {
        self.terms.iter().all(|term| {
            let value =
                fields.iter().find(|(key, _)| key.as_ref() == term.key).map_or("", |(_, value)| value);
            (value == term.value) != term.negated
        })
    }

    /// The value that the field must have, if the selector names one.
    pub fn required(&self, key: &str) -> Option<&str> {
        self.terms.iter().find(|t| t.key == key && !t.negated).map(|t| t.value.as_str())
    }
}

/// The terms between commas that are not escaped.
fn split_terms(text: &str) -> Vec<&str> {
    let (mut terms, mut start, mut escaped) = (Vec::new(), 0, false);
    for (i, c) in text.char_indices() {
        match c {
            _ if escaped => escaped = false,
            '\\' => escaped = true,
            ',' => {
                terms.push(&text[start..i]);
                start = i + 1;
            }
            _ => {}
        }
    }
    terms.push(&text[start..]);
    terms
}

fn unescape(value: &str) -> Result<String, String> {
    let mut plain = String::with_capacity(value.len());
    let mut chars = value.chars();
    while let Some(c) = chars.next() {
        match c {
            '\\' => match chars.next() {
                Some(c @ ('\\' | ',' | '=')) => plain.push(c),
                Some(c) => return Err(format!("invalid field selector: invalid escape sequence: \\{c}")),
                None => return Err("invalid field selector: invalid escape sequence: \\".to_owned()),
            },
            '=' => return Err(format!("invalid field selector: unescaped character in value: {c}")),
            c => plain.push(c),
        }
    }
    Ok(plain)
}

#[cfg(test)]
mod tests;
