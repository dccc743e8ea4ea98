//! The expressions of schemas (`x-kubernetes-validations`).
//!
//! Types, rules and messages are those of k8s.io/apiextensions-apiserver `pkg/apiserver/schema/cel`.

use serde_json::Value;

use super::{Additional, Node, OldItems, Path};
use crate::api::cel::{CALL_LIMIT, Env, Fault, Meter, OBJECT_LIMIT, Program, Type, Val};
use crate::api::status::FieldError;

/// The longest message that an expression may make, in bytes.
const LONGEST_MESSAGE: usize = 5 * 1024;

/// One rule of a schema.
#[derive(Debug, Default)]
pub struct Rule {
    /// What must be true.
    pub rule: String,
    /// What is said when it is not.
    pub message: String,
    /// What makes the message.
    pub message_expression: String,
    /// `FieldValueInvalid`, ...
    pub reason: String,
    /// The field that is named, below the rule's place.
    pub field_path: String,
    /// Whether the rule is asked without an old value, too; `None` when it does not say.
    pub optional_old_self: Option<bool>,
    /// The rule, ready to run.
    compiled: Option<Compiled>,
}

#[derive(Debug)]
struct Compiled {
    program: Result<Program, String>,
    message: Option<Program>,
    field: Option<String>,
}

/// What is wrong with a rule itself.
#[derive(Debug, Default)]
pub struct Faults {
    /// Of the rule.
    pub rule: Option<String>,
    /// Of the expression of its message.
    pub message: Option<String>,
    /// Whether it names the old value.
    pub uses_old_self: bool,
}

impl Rule {
    pub(super) fn read(rule: &Value) -> Rule {
        let text = |key: &str| rule[key].as_str().unwrap_or_default().to_owned();
        Rule {
            rule: text("rule"),
            message: text("message"),
            message_expression: text("messageExpression"),
            reason: text("reason"),
            field_path: text("fieldPath"),
            optional_old_self: rule["optionalOldSelf"].as_bool(),
            compiled: None,
        }
    }

    fn shown(&self) -> &str {
        if self.message.is_empty() { self.rule.trim() } else { self.message.trim() }
    }

    fn uses_old_self(&self) -> bool {
        let program = self.compiled.as_ref().and_then(|compiled| compiled.program.as_ref().ok());
        program.is_some_and(|program| program.uses("oldSelf"))
    }

    /// What it may name of values of this type.
    pub(super) fn environment(&self, of: &Type) -> Env {
        let old = match self.optional_old_self {
            Some(true) => Type::Optional(Box::new(of.clone())),
            _ => of.clone(),
        };
        Env::new().variable("self", of.clone()).variable("oldSelf", old)
    }

    /// Makes the rule ready for values of this type.
    fn compile(&mut self, of: &Type) -> Faults {
        let mut faults = Faults::default();
        if self.rule.trim().is_empty() {
            return faults;
        }
        let env = self.environment(of);
        let program = match env.compile(&self.rule) {
            Ok(program) if *program.result() == Type::Bool => Ok(program),
            Ok(_) => Err("cel expression must evaluate to a bool".to_owned()),
            Err(issues) => Err(format!("compilation failed: {issues}")),
        };
        faults.rule = program.as_ref().err().cloned();
        faults.uses_old_self = program.as_ref().is_ok_and(|program| program.uses("oldSelf"));
        let mut message = None;
        if !self.message_expression.is_empty() && program.is_ok() {
            match env.compile(&self.message_expression) {
                Ok(program) if *program.result() == Type::String => message = Some(program),
                Ok(_) => faults.message = Some("messageExpression must evaluate to a string".to_owned()),
                Err(issues) => {
                    faults.message = Some(format!("messageExpression compilation failed: {issues}"))
                }
            }
        }
        self.compiled = Some(Compiled { program, message, field: None });
        faults
    }
}

/// The type under which expressions know the values of a node; `None` for those that they cannot name.
pub fn type_of(node: &Node, root: bool) -> Option<Type> {
    if node.int_or_string {
        return Some(Type::Dyn);
    }
    Some(match node.of.as_str() {
        "array" => {
            let items = node.items.as_deref()?;
            Type::list(type_of(items, items.embedded)?)
        }
        "object" => {
            if let Some(Additional::Node(of)) = &node.additional {
                return Some(Type::map(type_of(of, of.embedded)?));
            }
            let fields = node.properties.iter();
            let mut fields: Vec<(String, Type)> = fields
                .filter(|(name, _)| !(root && ["apiVersion", "kind", "metadata"].contains(&name.as_str())))
                .filter_map(|(name, of)| Some((name.clone(), type_of(of, of.embedded)?)))
                .collect();
            if root {
                let metadata = ["name", "generateName"].map(|name| (name.to_owned(), Type::String));
                fields.push(("apiVersion".to_owned(), Type::String));
                fields.push(("kind".to_owned(), Type::String));
                fields.push(("metadata".to_owned(), Type::object("object", metadata)));
            }
            Type::object("object", fields)
        }
        "string" => match node.value.format.as_str() {
            "byte" => Type::Bytes,
            "duration" => Type::Duration,
            "date" | "date-time" => Type::Timestamp,
            _ => Type::String,
        },
        "boolean" => Type::Bool,
        "number" => Type::Double,
        "integer" => Type::Int,
        _ => return None,
    })
}

/// Makes the rules of a schema ready; `told` hears of each rule of each node, by the node's path in the schema.
pub fn compile(node: &mut Node, root: bool, path: &str, told: &mut dyn FnMut(&str, usize, &Rule, Faults)) {
    if !node.any(&|node| !node.rules.is_empty()) {
        return;
    }
    let of = if node.rules.is_empty() { None } else { type_of(node, root) };
    let mut rules = std::mem::take(&mut node.rules);
    for (index, rule) in rules.iter_mut().enumerate() {
        if let Some(of) = &of {
            let faults = rule.compile(of);
            if let Some(compiled) = &mut rule.compiled
                && !rule.field_path.is_empty()
            {
                compiled.field = field_path(&rule.field_path, node, true).ok().map(|(path, _)| path);
            }
            told(path, index, rule, faults);
        }
    }
    node.rules = rules;
    let below = |name: &str| if path.is_empty() { name.to_owned() } else { format!("{path}.{name}") };
    for (name, child) in &mut node.properties {
        let embedded = child.embedded;
        compile(child, embedded, &below(&format!("properties[{name}]")), told);
    }
    if let Some(items) = &mut node.items {
        let embedded = items.embedded;
        compile(items, embedded, &below("items"), told);
    }
    if let Some(Additional::Node(child)) = &mut node.additional {
        let embedded = child.embedded;
        compile(child, embedded, &below("additionalProperties"), told);
    }
}

/// What the rules of a schema say against an object; those of an unchanged part that do not look at the old one say
/// nothing.
pub fn check(node: &Node, object: &Value, old: Option<&Value>) -> Vec<FieldError> {
    if !node.any(&|node| !node.rules.is_empty()) {
        return Vec::new();
    }
    let mut run = Run { errors: Vec::new(), left: OBJECT_LIMIT, updating: old.is_some() };
    // Whoever has run out of what the rules may cost has said so.
    let _ = run.visit(node, object, old, old, &Path::default(), true);
    run.errors
}

/// No further rule is run.
struct Stopped;

struct Run {
    errors: Vec<FieldError>,
    left: u64,
    updating: bool,
}

impl Run {
    /// `unchanged_by` is what the value equals when it has not changed.
    fn visit(
        &mut self,
        node: &Node,
        value: &Value,
        old: Option<&Value>,
        unchanged_by: Option<&Value>,
        path: &Path,
        root: bool,
    ) -> Result<(), Stopped> {
        if value.is_null() {
            return Ok(());
        }
        self.rules(node, value, old, unchanged_by, path, root)?;
        match value {
            Value::Array(items) => {
                let Some(element) = &node.items else { return Ok(()) };
                let olds = OldItems::of(node, old);
                for (index, item) in items.iter().enumerate() {
                    let before = olds.same(item);
                    let by = self.unchanged(before, value, old, item);
                    self.visit(element, item, before, by, &path.item(index), element.embedded)?;
                }
            }
            Value::Object(fields) => {
                for (name, item) in fields {
                    let before = old.and_then(|old| old.get(name));
                    let by = self.unchanged(before, value, old, item);
                    match (node.properties.get(name), &node.additional) {
                        (Some(child), _) => {
                            self.visit(child, item, before, by, &path.field(name), child.embedded)?;
                        }
                        (None, Some(Additional::Node(child))) => {
                            self.visit(child, item, before, by, &path.key(name), child.embedded)?;
                        }
                        _ => {}
                    }
                }
            }
            _ => {}
        }
        Ok(())
    }

    /// What shows that an item has not changed: its own old value, or that of the whole that it stands in.
    fn unchanged<'v>(
        &self,
        before: Option<&'v Value>,
        whole: &Value,
        old_whole: Option<&'v Value>,
        item: &'v Value,
    ) -> Option<&'v Value> {
        match before {
            Some(before) => Some(before),
            None if self.updating && old_whole == Some(whole) => Some(item),
            None => None,
        }
    }

    fn rules(
        &mut self,
        node: &Node,
        value: &Value,
        old: Option<&Value>,
        unchanged_by: Option<&Value>,
        path: &Path,
        root: bool,
    ) -> Result<(), Stopped> {
        if node.rules.is_empty() {
            return Ok(());
        }
        let Some(of) = type_of(node, root) else { return Ok(()) };
        let (own, before) = (Val::of_json(value, &of), old.map(|old| Val::of_json(old, &of)));
        for rule in &node.rules {
            let Some(compiled) = &rule.compiled else { continue };
            let program = match &compiled.program {
                Ok(program) => program,
                Err(why) => {
                    self.told(path, &node.of, &format!("rule compile error: {why}"));
                    continue;
                }
            };
            let optional = rule.optional_old_self == Some(true);
            if rule.uses_old_self() && old.is_none() && !optional {
                continue;
            }
            let variables = |name: &str| match (name, optional) {
                ("self", _) => Some(own.clone()),
                (_, true) => Some(before.clone().map_or(Val::Optional(None), Val::some)),
                (_, false) => before.clone(),
            };
            match self.run(program, &variables, node, path, rule)? {
                Some(Val::Bool(true)) | None => continue,
                Some(_) => {}
            }
            let message = match &compiled.message {
                Some(program) => self.message(program, &variables, node, path, rule)?,
                None => None,
            };
            if !rule.uses_old_self() && unchanged_by == Some(value) {
                continue;
            }
            let detail = message.unwrap_or_else(|| match rule.message.is_empty() {
                true => format!("failed rule: {}", rule.shown()),
                false => rule.message.trim().to_owned(),
            });
            let field = match &compiled.field {
                Some(below) => format!("{}{below}", path.text()).trim_start_matches('.').to_owned(),
                None => path.named(),
            };
            self.errors.push(failed(field, node, value, &detail, &rule.reason));
        }
        Ok(())
    }

    fn told(&mut self, path: &Path, of: &str, detail: &str) {
        self.errors.push(FieldError::invalid(path.named(), &of.into(), detail));
    }

    /// A rule's value; `None` when there is none, which was told.
    fn run(
        &mut self,
        program: &Program,
        variables: &dyn Fn(&str) -> Option<Val>,
        node: &Node,
        path: &Path,
        rule: &Rule,
    ) -> Result<Option<Val>, Stopped> {
        let mut meter = Meter::new(CALL_LIMIT);
        let outcome = program.evaluate(variables, &mut meter);
        if meter.spent() > self.left {
            let why = "validation failed due to running out of cost budget, no further validation rules will be run";
            self.told(path, &node.of, why);
            return Err(Stopped);
        }
        self.left -= meter.spent();
        let rule = rule.shown();
        match outcome {
            Ok(value) => Ok(Some(value)),
            Err(fault @ Fault::Cost) => {
                let why = format!(
                    "'{fault}': no further validation rules will be run due to call cost exceeds limit for rule: {rule}"
                );
                self.told(path, &node.of, &why);
                Err(Stopped)
            }
            Err(fault) if fault.is_no_overload() => {
                let why = format!(
                    "'{fault}': call arguments did not match a supported operator, function or macro signature for \
                     rule: {rule}"
                );
                self.told(path, &node.of, &why);
                Ok(None)
            }
            Err(fault) => {
                self.told(path, &node.of, &format!("{fault} evaluating rule: {rule}"));
                Ok(None)
            }
        }
    }

    /// What a rule's expression says; `None` when that is not fit to be said.
    fn message(
        &mut self,
        program: &Program,
        variables: &dyn Fn(&str) -> Option<Val>,
        node: &Node,
        path: &Path,
        rule: &Rule,
    ) -> Result<Option<String>, Stopped> {
        let mut meter = Meter::new(CALL_LIMIT);
        let outcome = program.evaluate(variables, &mut meter);
        if meter.spent() > self.left {
            let why = "messageExpression evaluation failed due to running out of cost budget, no further validation \
                       rules will be run";
            self.told(path, &node.of, why);
            return Err(Stopped);
        }
        self.left -= meter.spent();
        match outcome {
            Err(Fault::Cost) => {
                let why = format!(
                    "no further validation rules will be run due to call cost exceeds limit for messageExpression: {:?}",
                    rule.message_expression
                );
                self.told(path, &node.of, &why);
                Err(Stopped)
            }
            Ok(Val::String(text)) => {
                let text = text.trim();
                let fit = !text.is_empty() && text.len() <= LONGEST_MESSAGE && !text.contains('\n');
                Ok(fit.then(|| text.to_owned()))
            }
            _ => Ok(None),
        }
    }
}

/// The complaint of a rule that did not hold.
fn failed(field: String, node: &Node, value: &Value, detail: &str, reason: &str) -> FieldError {
    match reason {
        "FieldValueForbidden" => FieldError::forbidden(field, detail),
        "FieldValueRequired" => FieldError::required(field, detail),
        "FieldValueDuplicate" => FieldError::duplicate(field, value),
        // Whole objects and lists are not repeated.
        _ if matches!(node.of.as_str(), "object" | "array") => {
            FieldError { field, reason: "FieldValueInvalid", message: format!("Invalid value: {detail}") }
        }
        _ => FieldError::invalid(field, value, detail),
    }
}

/// A path of fields and map keys (`.spec.labels['a']`) in a schema: the path as messages show it, and what it leads to.
pub fn field_path<'n>(path: &str, node: &'n Node, keys: bool) -> Result<(String, &'n Node), String> {
    const UNKNOWN: &str = "does not refer to a valid field";
    let (mut at, mut shown, mut rest) = (node, String::new(), path);
    while !rest.is_empty() {
        let (name, after) = if let Some(after) = rest.strip_prefix('.') {
            let end = after.find(['.', '[', ']']).unwrap_or(after.len());
            if end == 0 {
                return Err(if after.is_empty() {
                    "unexpected end of JSON path".to_owned()
                } else {
                    UNKNOWN.to_owned()
                });
            }
            (after[..end].to_owned(), &after[end..])
        } else if let Some(after) = rest.strip_prefix('[') {
            if !keys {
                return Err("array notation is not allowed".to_owned());
            }
            quoted(after)?
        } else {
            let end = rest.find(['.', '[', ']']).unwrap_or(rest.len()).max(1);
            return Err(format!("expected [ or . but got: {}", &rest[..rest.floor_char_boundary(end)]));
        };
        at = if !at.properties.is_empty() {
            shown = format!("{shown}.{name}");
            at.properties.get(&name).ok_or(UNKNOWN)?
        } else if let Some(Additional::Node(child)) = &at.additional {
            shown = format!("{shown}[{name}]");
            child
        } else {
            return Err(UNKNOWN.to_owned());
        };
        rest = after;
    }
    Ok((shown, at))
}

/// A key in quotes up to its closing bracket, and what follows.
fn quoted(text: &str) -> Result<(String, &str), String> {
    let end = || "unexpected end of JSON path".to_owned();
    let Some(inner) = text.strip_prefix('\'') else {
        let got = text.split(['.', '[', ']']).next().unwrap_or_default();
        return Err(format!("expected single quoted string but got {got}"));
    };
    let mut name = String::new();
    let mut rest = inner.char_indices();
    while let Some((at, c)) = rest.next() {
        match c {
            '\'' => {
                let after = &inner[at + 1..];
                return after.strip_prefix(']').map(|after| (name, after)).ok_or_else(end);
            }
            '\\' => match rest.next().ok_or_else(end)?.1 {
                'a' => name.push('\x07'),
                'b' => name.push('\x08'),
                'f' => name.push('\x0c'),
                'n' => name.push('\n'),
                'r' => name.push('\r'),
                't' => name.push('\t'),
                'v' => name.push('\x0b'),
                escaped @ ('\'' | '\\') => name.push(escaped),
                other => return Err(format!("invalid string literal: invalid escape char \\{other}")),
            },
            c => name.push(c),
        }
    }
    Err(end())
}
