//! From text to a program: names are found, types are checked, and macros become walks.
//!
//! The words of the complaints are cel-go's (`checker/errors.go`).

use std::sync::Arc;

use cel::common::ast::{
    CallExpr, EntryExpr, Expr, IdedEntryExpr, IdedExpr, LiteralValue, SourceInfo, operators,
};

use super::cost::{self, Sizes, Types};
use super::declared::{self, Declared};
use super::eval::Node;
use super::library::regex;
use super::types::{Bound, Overload, Type, join};
use super::{DEPTH, Env, Issue, Issues, Program, Val, macros};

/// The longest expression (cel-go's default).
const LONGEST: usize = 100_000;

/// The names of types that expressions may write.
const TYPE_NAMES: &[&str] = &[
    "bool",
    "bytes",
    "double",
    "int",
    "list",
    "map",
    "null_type",
    "string",
    "type",
    "uint",
    "google.protobuf.Duration",
    "google.protobuf.Timestamp",
    "kubernetes.NamedFormat",
    "kubernetes.Quantity",
    "kubernetes.Semver",
    "kubernetes.URL",
    "net.CIDR",
    "net.IP",
    "optional_type",
];

/// The function that only expressions may call which build objects.
const OF_BUILDERS: &str = "jsonpatch.escapeKey";

/// How deep the tree of an expression may be (cel-go's default for the depth of its grammar).
const DEEPEST: usize = 250;
/// The longest expression whose tree cannot be too deep for an ordinary stack, in characters.
const SHALLOW: usize = 128;
/// The room on a stack for what each character of an expression may add to the depth of its tree, in bytes.
const STACK_OF_CHARACTER: usize = 8 << 10;

/// Reads and checks an expression.
pub fn compile(env: &Env, expression: &str) -> Result<Program, Issues> {
    on_its_stack(expression, || {
        let (tree, info) = parse(expression)?;
        let (root, result, checker) = check(env, expression, &tree, info, None)?;
        Ok(Program {
            root,
            result,
            variables: env.variables.iter().map(|(name, _)| name.clone()).collect(),
            used: checker.used,
            slots: checker.slots,
        })
    })
}

/// The most that an expression may cost; `None` when nothing is known of what it calls.
pub fn most_cost(env: &Env, expression: &str, sizes: &Sizes) -> Result<Option<u64>, Issues> {
    on_its_stack(expression, || {
        let (tree, info) = parse(expression)?;
        let (.., checker) = check(env, expression, &tree, info, Some(Types::new()))?;
        Ok(cost::most(&tree, &checker.types.unwrap_or_default(), sizes))
    })
}

/// Does something with an expression on a stack that suffices for its tree.
fn on_its_stack<T: Send>(
    expression: &str,
    run: impl FnOnce() -> Result<T, Issues> + Send,
) -> Result<T, Issues> {
    let failed = |message: String| {
        let issues = vec![Issue { line: 1, column: 1, message }];
        Err(Issues { source: expression.to_owned(), issues })
    };
    let size = expression.chars().count();
    if size > LONGEST {
        return failed(format!("expression code point size exceeds limit: size: {size}, limit {LONGEST}"));
    }
    if size <= SHALLOW {
        return run();
    }
    // A long chain such as `1+1+1…` makes a deep tree, of which nothing is known before it is there.
    let stack = STACK_OF_CHARACTER * size;
    std::thread::scope(|scope| {
        let thread = std::thread::Builder::new().stack_size(stack).spawn_scoped(scope, run);
        match thread.map(std::thread::ScopedJoinHandle::join) {
            Ok(Ok(done)) => done,
            Ok(Err(_)) => failed("the expression could not be read".to_owned()),
            Err(error) => failed(format!("the expression could not be read: {error}")),
        }
    })
}

/// The tree of an expression.
fn parse(expression: &str) -> Result<(IdedExpr, SourceInfo), Issues> {
    let wrong = |issues| Issues { source: expression.to_owned(), issues };
    let parser = cel::Env::default().parser().max_recursion_depth(DEPTH);
    let (tree, info) = parser.parse_with_source_info(expression).map_err(|errors| {
        let issue = |error: &cel::ParseError| Issue {
            line: usize::try_from(error.pos.0).unwrap_or(1).max(1),
            column: usize::try_from(error.pos.1).unwrap_or(1).max(1),
            message: syntax(&error.msg),
        };
        wrong(errors.errors.iter().map(issue).collect())
    })?;
    if depth(&tree) > DEEPEST {
        let message = format!("expression recursion limit exceeded: {DEEPEST}");
        return Err(wrong(vec![Issue { line: 1, column: 1, message }]));
    }
    Ok((tree, info))
}

/// Checks a tree; the checker knows the types of its parts when it was given a place for them.
fn check<'e>(
    env: &'e Env,
    expression: &str,
    tree: &IdedExpr,
    info: SourceInfo,
    types: Option<Types>,
) -> Result<(Node, Type, Checker<'e>), Issues> {
    let mut checker = Checker {
        env,
        info,
        scope: Vec::new(),
        slots: env.variables.len(),
        used: vec![false; env.variables.len()],
        types,
        issues: Vec::new(),
    };
    let (root, result) = checker.expression(tree);
    match checker.issues.is_empty() {
        true => Ok((root, result, checker)),
        false => Err(Issues { source: expression.to_owned(), issues: checker.issues }),
    }
}

/// How many levels a tree has.
fn depth(tree: &IdedExpr) -> usize {
    fn deepest<'t>(trees: impl IntoIterator<Item = &'t IdedExpr>) -> usize {
        trees.into_iter().map(depth).max().unwrap_or(0)
    }
    let entries = |entries: &[IdedEntryExpr]| {
        let of = |entry: &IdedEntryExpr| match &entry.expr {
            EntryExpr::StructField(field) => depth(&field.value),
            EntryExpr::MapEntry(entry) => depth(&entry.key).max(depth(&entry.value)),
        };
        entries.iter().map(of).max().unwrap_or(0)
    };
    1 + match &tree.expr {
        Expr::Select(select) => depth(&select.operand),
        Expr::Call(call) => deepest(call.target.as_deref().into_iter().chain(&call.args)),
        Expr::List(list) => deepest(&list.elements),
        Expr::Map(map) => entries(&map.entries),
        Expr::Struct(object) => entries(&object.entries),
        Expr::Comprehension(_) | Expr::Ident(_) | Expr::Literal(_) | Expr::Unspecified => 0,
    }
}

/// cel-go puts this before what its grammar complains of.
fn syntax(message: &str) -> String {
    let grammar =
        ["mismatched input", "extraneous input", "missing ", "no viable alternative", "token recognition"];
    if grammar.iter().any(|head| message.starts_with(head)) {
        format!("Syntax error: {message}")
    } else {
        message.to_owned()
    }
}

/// An expression that is being checked.
pub struct Checker<'e> {
    env: &'e Env,
    info: SourceInfo,
    /// The variables of macros around the place, innermost last.
    scope: Vec<(String, Type, usize)>,
    slots: usize,
    used: Vec<bool>,
    /// The types of all expressions that were checked, where somebody wants them.
    types: Option<Types>,
    issues: Vec<Issue>,
}

/// What is given for an expression that is wrong; it fits everywhere, so that one fault is told once.
const WRONG: (Node, Type) = (Node::Const(Val::Null), Type::Dyn);

impl Checker<'_> {
    /// Complains about the expression of this id.
    pub fn complain(&mut self, id: u64, message: impl Into<String>) -> (Node, Type) {
        let offset = self.info.offset_for(id).map_or(0, |(start, _)| start as usize);
        let mut left = offset;
        let mut place = (1, 1);
        for (number, line) in self.info.source.split('\n').enumerate() {
            let length = line.chars().count();
            if left <= length {
                place = (number + 1, left + 1);
                break;
            }
            left -= length + 1;
        }
        self.issues.push(Issue { line: place.0, column: place.1, message: message.into() });
        WRONG
    }

    /// Checks with a further variable; gives its slot, too.
    pub fn with_variable<T>(
        &mut self,
        name: &str,
        of: Type,
        check: impl FnOnce(&mut Self) -> T,
    ) -> (usize, T) {
        let slot = self.slots;
        self.slots += 1;
        self.scope.push((name.to_owned(), of, slot));
        let checked = check(self);
        self.scope.pop();
        (slot, checked)
    }

    /// Checks one expression.
    pub fn expression(&mut self, tree: &IdedExpr) -> (Node, Type) {
        let (node, of) = self.checked(tree);
        if let Some(types) = &mut self.types {
            types.insert(tree.id, of.clone());
        }
        (node, of)
    }

    fn checked(&mut self, tree: &IdedExpr) -> (Node, Type) {
        match &tree.expr {
            Expr::Literal(literal) => constant(literal),
            Expr::Ident(name) => self.name(tree.id, name),
            Expr::Select(select) => {
                if let Some(name) = qualified(tree).filter(|name| self.is_type(name)) {
                    return (Node::Const(Val::Type(name.into())), Type::Type);
                }
                let (operand, of) = self.expression(&select.operand);
                let field_type = self.field(tree.id, &of, &select.field);
                let field: Arc<str> = select.field.as_str().into();
                (Node::Select { operand: Box::new(operand), field, test: false }, field_type)
            }
            Expr::Call(call) => self.call(tree.id, call),
            Expr::List(list) => {
                let mut element: Option<Type> = None;
                let mut items = Vec::with_capacity(list.elements.len());
                for (i, item) in list.elements.iter().enumerate() {
                    let optional = list.optional_indices.contains(&i);
                    let (node, of) = self.optional_item(item, optional);
                    element = Some(self.one_type(item.id, element, of));
                    items.push((node, optional));
                }
                (Node::List(items), Type::list(element.unwrap_or(Type::Dyn)))
            }
            Expr::Map(map) => self.map(&map.entries),
            Expr::Struct(object) => {
                let name = object.type_name.trim_start_matches('.');
                let known = name == "Object" || name.starts_with("Object.") || name == "JSONPatch";
                if !self.env.builds_objects || !known {
                    return self.complain(tree.id, undeclared(name));
                }
                let mut fields = Vec::with_capacity(object.entries.len());
                for entry in &object.entries {
                    if let EntryExpr::StructField(field) = &entry.expr {
                        let (node, _) = self.optional_item(&field.value, field.optional);
                        fields.push((field.field.clone(), node, field.optional));
                    }
                }
                (Node::Struct(name.to_owned(), fields), Type::Opaque(name.into()))
            }
            // The parser makes walks only of macros, and knows none.
            Expr::Comprehension(_) | Expr::Unspecified => self.complain(tree.id, "unsupported expression"),
        }
    }

    fn map(&mut self, entries: &[IdedEntryExpr]) -> (Node, Type) {
        let (mut key_type, mut value_type): (Option<Type>, Option<Type>) = (None, None);
        let mut nodes = Vec::with_capacity(entries.len());
        for entry in entries {
            let EntryExpr::MapEntry(entry) = &entry.expr else { continue };
            let (key, of) = self.expression(&entry.key);
            key_type = Some(self.one_type(entry.key.id, key_type, of));
            let (value, of) = self.optional_item(&entry.value, entry.optional);
            value_type = Some(self.one_type(entry.value.id, value_type, of));
            nodes.push((key, value, entry.optional));
        }
        let (key, value) = (key_type.unwrap_or(Type::Dyn), value_type.unwrap_or(Type::Dyn));
        (Node::Map(nodes), Type::Map(Box::new(key), Box::new(value)))
    }

    fn optional_item(&mut self, item: &IdedExpr, optional: bool) -> (Node, Type) {
        match self.expression(item) {
            (node, Type::Optional(of)) if optional => (node, *of),
            (node, Type::Dyn) => (node, Type::Dyn),
            (_, of) if optional => {
                self.complain(item.id, format!("expected type 'optional_type({of})' but found '{of}'"))
            }
            plain => plain,
        }
    }

    /// The type of a literal's items, which all have one.
    fn one_type(&mut self, id: u64, before: Option<Type>, of: Type) -> Type {
        let Some(before) = before else { return of };
        match join(&before, &of) {
            Some(joined) => joined,
            None => self.complain(id, format!("expected type '{before}' but found '{of}'")).1,
        }
    }

    fn is_type(&self, name: &str) -> bool {
        let built = name == "Object" || name.starts_with("Object.") || name == "JSONPatch";
        TYPE_NAMES.contains(&name) || (self.env.builds_objects && built)
    }

    fn name(&mut self, id: u64, name: &str) -> (Node, Type) {
        let name = name.trim_start_matches('.');
        if let Some((_, of, slot)) = self.scope.iter().rev().find(|(known, ..)| known == name) {
            return (Node::Slot(*slot, name.to_owned()), of.clone());
        }
        if let Some(slot) = self.env.variables.iter().position(|(known, _)| known == name) {
            self.used[slot] = true;
            return (Node::Slot(slot, name.to_owned()), self.env.variables[slot].1.clone());
        }
        if self.is_type(name) {
            return (Node::Const(Val::Type(name.into())), Type::Type);
        }
        self.complain(id, undeclared(name))
    }

    /// The type of a field of a value of this type.
    fn field(&mut self, id: u64, of: &Type, field: &str) -> Type {
        match of {
            Type::Dyn => Type::Dyn,
            Type::Map(_, value) => (**value).clone(),
            Type::Object(object) => match object.fields.get(field) {
                Some(field) => field.of.clone(),
                None => self.complain(id, format!("undefined field '{field}'")).1,
            },
            Type::Optional(of) => match self.field(id, of, field) {
                optional @ Type::Optional(_) => optional,
                plain => Type::Optional(Box::new(plain)),
            },
            // What an expression builds can be read again.
            Type::Opaque(name) if name.starts_with("Object") || &**name == "JSONPatch" => Type::Dyn,
            other => self.complain(id, format!("type '{other}' does not support field selection")).1,
        }
    }

    fn call(&mut self, id: u64, call: &CallExpr) -> (Node, Type) {
        if let Some(expanded) = macros::expand(self, id, call) {
            return expanded;
        }
        match (call.func_name.as_str(), call.target.as_deref(), call.args.as_slice()) {
            ("has", None, [of]) => self.has(of),
            (operators::LOGICAL_AND, None, [a, b]) => self.logical(id, call, a, b, Node::And),
            (operators::LOGICAL_OR, None, [a, b]) => self.logical(id, call, a, b, Node::Or),
            (operators::CONDITIONAL, None, [condition, yes, no]) => {
                let (condition, of) = self.expression(condition);
                let ((yes, yes_type), (no, no_type)) = (self.expression(yes), self.expression(no));
                match join(&yes_type, &no_type) {
                    Some(result) if matches!(of, Type::Bool | Type::Dyn) => {
                        (Node::Cond(Box::new(condition), Box::new(yes), Box::new(no)), result)
                    }
                    _ => self.complain(id, no_overload(&call.func_name, false, &[of, yes_type, no_type])),
                }
            }
            (operators::OPT_SELECT, None, [operand, field]) => {
                let Expr::Literal(LiteralValue::String(field)) = &field.expr else {
                    return self.complain(id, "unsupported optional field selection");
                };
                let (operand, of) = self.expression(operand);
                let of = match self.field(id, &of, field.inner()) {
                    optional @ Type::Optional(_) => optional,
                    plain => Type::Optional(Box::new(plain)),
                };
                (Node::OptSelect { operand: Box::new(operand), field: field.inner().into() }, of)
            }
            (name, Some(target), arguments) => {
                let full = self.namespace_of(target).map(|space| format!("{space}.{name}"));
                match full.as_deref().and_then(|full| self.known(full)) {
                    Some(declared) => self.apply(id, declared.function.name, None, arguments),
                    None => self.apply(id, name, Some(target), arguments),
                }
            }
            (name, None, arguments) => self.apply(id, name.trim_start_matches('.'), None, arguments),
        }
    }

    fn has(&mut self, of: &IdedExpr) -> (Node, Type) {
        match self.expression(of) {
            (Node::Select { operand, field, .. }, _) => {
                (Node::Select { operand, field, test: true }, Type::Bool)
            }
            // The field is unknown, and that was said.
            (_, Type::Dyn) if !self.issues.is_empty() => WRONG,
            _ => self.complain(of.id, "invalid argument to has() macro"),
        }
    }

    fn logical(
        &mut self,
        id: u64,
        call: &CallExpr,
        a: &IdedExpr,
        b: &IdedExpr,
        make: impl FnOnce(Box<Node>, Box<Node>) -> Node,
    ) -> (Node, Type) {
        let ((a, a_type), (b, b_type)) = (self.expression(a), self.expression(b));
        if [&a_type, &b_type].iter().all(|of| matches!(of, Type::Bool | Type::Dyn)) {
            return (make(Box::new(a), Box::new(b)), Type::Bool);
        }
        self.complain(id, no_overload(&call.func_name, false, &[a_type, b_type]))
    }

    /// The function of this name, where it can be called.
    fn known(&self, name: &str) -> Option<&'static Declared> {
        declared::find(name).filter(|_| self.env.builds_objects || name != OF_BUILDERS)
    }

    /// The namespace that a call's target spells when it is no variable: `sets` of `sets.contains(a, b)`.
    fn namespace_of(&self, target: &IdedExpr) -> Option<String> {
        let name = qualified(target)?;
        let root = name.split('.').next().unwrap_or_default();
        let variable = self.scope.iter().any(|(known, ..)| known == root)
            || self.env.variables.iter().any(|(known, _)| known == root);
        (!variable).then_some(name)
    }

    /// A call of a function, whose overloads are tried with the arguments' types.
    fn apply(
        &mut self,
        id: u64,
        name: &str,
        target: Option<&IdedExpr>,
        arguments: &[IdedExpr],
    ) -> (Node, Type) {
        let own = self.env.functions.iter().filter(|(known, _)| *known == name).map(|(_, overload)| overload);
        let own: Vec<Overload> = own.cloned().collect();
        let declared = self.known(name);
        if own.is_empty() && declared.is_none() {
            return self.complain(id, undeclared(name));
        }
        let checked: Vec<(Node, Type)> =
            target.into_iter().chain(arguments).map(|argument| self.expression(argument)).collect();
        let (nodes, types): (Vec<Node>, Vec<Type>) = checked.into_iter().unzip();
        let member = target.is_some();
        if let Some(result) = result_of(&own, member, &types) {
            return (Node::Foreign(name.to_owned(), nodes), result);
        }
        let fitting = declared.and_then(|known| Some((known, result_of(&known.overloads, member, &types)?)));
        match fitting {
            Some((known, result)) => self.known_call(known, nodes, arguments, result),
            None => self.complain(id, no_overload(name, member, &types)),
        }
    }

    /// A call of the library, with its literal arguments read beforehand.
    fn known_call(
        &mut self,
        known: &'static Declared,
        mut nodes: Vec<Node>,
        arguments: &[IdedExpr],
        result: Type,
    ) -> (Node, Type) {
        let name = known.function.name;
        let literal = |node: Option<&Node>| match node {
            Some(Node::Const(value)) => value.as_str().map(str::to_owned),
            _ => None,
        };
        let invalid = format!("invalid {name} argument");
        match name {
            "matches" | "find" | "findAll" => {
                if let Some(pattern) = literal(nodes.get(1)) {
                    match regex::compile(&pattern) {
                        Ok(pattern) => nodes[1] = Node::Const(Val::Pattern(Arc::new(pattern))),
                        Err(_) => return self.complain(arguments.last().map_or(0, |last| last.id), invalid),
                    }
                }
            }
            "duration" | "timestamp" => {
                if let Some(Node::Const(value @ Val::String(_))) = nodes.first()
                    && (known.function.call)(std::slice::from_ref(value)).is_err()
                {
                    return self.complain(arguments.first().map_or(0, |first| first.id), invalid);
                }
            }
            _ => {}
        }
        (Node::Call(known.function, nodes), result)
    }
}

/// What a call with arguments of these types gives: `dyn` when several overloads fit that give different types.
fn result_of(overloads: &[Overload], member: bool, types: &[Type]) -> Option<Type> {
    let mut result: Option<Type> = None;
    for overload in overloads {
        if overload.member != member || overload.parameters.len() != types.len() {
            continue;
        }
        let mut bound = Bound::default();
        if types.iter().zip(&overload.parameters).all(|(given, wanted)| bound.fits(given, wanted)) {
            let gives = bound.fill(&overload.result);
            result = Some(match result {
                Some(before) if before != gives => Type::Dyn,
                _ => gives,
            });
        }
    }
    result
}

fn undeclared(name: &str) -> String {
    format!("undeclared reference to '{name}' (in container '')")
}

fn no_overload(name: &str, member: bool, types: &[Type]) -> String {
    let list = |types: &[Type]| types.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ");
    let applied = match types.split_first() {
        Some((target, rest)) if member => format!("{target}.({})", list(rest)),
        _ => format!("({})", list(types)),
    };
    format!("found no matching overload for '{name}' applied to '{applied}'")
}

/// The name that an expression spells: `a.b` of a field of a name.
fn qualified(tree: &IdedExpr) -> Option<String> {
    match &tree.expr {
        Expr::Ident(name) => Some(name.trim_start_matches('.').to_owned()),
        Expr::Select(select) => Some(format!("{}.{}", qualified(&select.operand)?, select.field)),
        _ => None,
    }
}

fn constant(literal: &LiteralValue) -> (Node, Type) {
    let (value, of) = match literal {
        LiteralValue::Boolean(b) => (Val::Bool(*b.inner()), Type::Bool),
        LiteralValue::Bytes(bytes) => (Val::Bytes(bytes.inner().into()), Type::Bytes),
        LiteralValue::Double(n) => (Val::Double(*n.inner()), Type::Double),
        LiteralValue::Int(n) => (Val::Int(*n.inner()), Type::Int),
        LiteralValue::Null => (Val::Null, Type::Null),
        LiteralValue::String(text) => (Val::text(text.inner()), Type::String),
        LiteralValue::UInt(n) => (Val::Uint(*n.inner()), Type::Uint),
    };
    (Node::Const(value), of)
}
