//! CEL's macros: calls whose arguments are expressions with variables of their own.
//!
//! Beside the standard ones those of two variables (`ext.TwoVarComprehensions`), of optionals and of `sortBy`.

use cel::common::ast::{CallExpr, Expr, IdedExpr};

use super::check::Checker;
use super::eval::{Node, Walk, WalkKind};
use super::types::Type;

/// The node of a macro's call; `None` for calls that are none.
pub fn expand(checker: &mut Checker<'_>, id: u64, call: &CallExpr) -> Option<(Node, Type)> {
    let target = call.target.as_deref()?;
    let (kind, names, filtered) = match (call.func_name.as_str(), call.args.len()) {
        ("all", 2) => (WalkKind::All, 1, false),
        ("all", 3) => (WalkKind::All, 2, false),
        ("exists", 2) => (WalkKind::Exists, 1, false),
        ("exists", 3) => (WalkKind::Exists, 2, false),
        ("exists_one" | "existsOne", 2) => (WalkKind::ExistsOne, 1, false),
        ("exists_one" | "existsOne", 3) => (WalkKind::ExistsOne, 2, false),
        ("map", 2) => (WalkKind::List, 1, false),
        ("map", 3) => (WalkKind::List, 1, true),
        ("filter", 2) => (WalkKind::Filter, 1, false),
        ("transformList", 3) => (WalkKind::List, 2, false),
        ("transformList", 4) => (WalkKind::List, 2, true),
        ("transformMap", 3) => (WalkKind::Map, 2, false),
        ("transformMap", 4) => (WalkKind::Map, 2, true),
        ("transformMapEntry", 3) => (WalkKind::MapEntries, 2, false),
        ("transformMapEntry", 4) => (WalkKind::MapEntries, 2, true),
        ("optMap", 2) => return Some(opt_map(checker, target, &call.args, false)),
        ("optFlatMap", 2) => return Some(opt_map(checker, target, &call.args, true)),
        ("sortBy", 2) => return Some(sort_by(checker, id, target, &call.args)),
        _ => return None,
    };
    let (variables, rest) = call.args.split_at(names);
    Some(walk(checker, id, target, kind, variables, filtered, rest))
}

/// The name of a macro's variable.
fn variable<'a>(checker: &mut Checker<'_>, of: &'a IdedExpr) -> Option<&'a str> {
    match &of.expr {
        Expr::Ident(name) => Some(name),
        _ => {
            checker.complain(of.id, "argument must be a simple name");
            None
        }
    }
}

/// What the entries of a value have as keys and as values; `None` when it has no entries.
fn entries_of(of: &Type) -> Option<(Type, Type)> {
    match of {
        Type::List(of) => Some((Type::Int, (**of).clone())),
        Type::Map(key, value) => Some(((**key).clone(), (**value).clone())),
        Type::Dyn => Some((Type::Dyn, Type::Dyn)),
        _ => None,
    }
}

fn walk(
    checker: &mut Checker<'_>,
    id: u64,
    target: &IdedExpr,
    kind: WalkKind,
    variables: &[IdedExpr],
    filtered: bool,
    rest: &[IdedExpr],
) -> (Node, Type) {
    let (range, range_type) = checker.expression(target);
    let Some((key, value)) = entries_of(&range_type) else {
        let why = format!(
            "expression of type '{range_type}' cannot be range of a comprehension (must be list, map, or dynamic)"
        );
        return checker.complain(target.id, why);
    };
    let names: Vec<&str> = variables.iter().filter_map(|name| variable(checker, name)).collect();
    let body = |checker: &mut Checker<'_>| {
        let filter = filtered.then(|| condition(checker, &rest[0]));
        let last = &rest[rest.len() - 1];
        let made = match kind {
            WalkKind::All | WalkKind::Exists | WalkKind::ExistsOne | WalkKind::Filter => {
                (condition(checker, last), Type::Bool)
            }
            _ => checker.expression(last),
        };
        (filter, made)
    };
    let single = if matches!(range_type, Type::Map(..)) { key.clone() } else { value.clone() };
    let (slot, second, (filter, (body, made))) = match names.as_slice() {
        [name] => {
            let (slot, checked) = checker.with_variable(name, single.clone(), body);
            (slot, None, checked)
        }
        [first, second] => {
            let (slot, (inner, checked)) = checker
                .with_variable(first, key.clone(), |checker| checker.with_variable(second, value, body));
            (slot, Some(inner), checked)
        }
        // A variable was no name, which was said.
        _ => return (Node::Const(super::Val::Null), Type::Dyn),
    };
    let result = match kind {
        WalkKind::All | WalkKind::Exists | WalkKind::ExistsOne => Type::Bool,
        WalkKind::List => Type::list(made),
        WalkKind::Filter => Type::list(single),
        WalkKind::Map => Type::Map(Box::new(key), Box::new(made)),
        WalkKind::MapEntries => match made {
            map @ Type::Map(..) => map,
            Type::Dyn => Type::Dyn,
            other => {
                return checker.complain(id, format!("expected type 'map(dyn, dyn)' but found '{other}'"));
            }
        },
    };
    (Node::Walk(Box::new(Walk { kind, range, slot, second, filter, body })), result)
}

/// An expression that must be true or false.
fn condition(checker: &mut Checker<'_>, tree: &IdedExpr) -> Node {
    match checker.expression(tree) {
        (node, Type::Bool | Type::Dyn) => node,
        (_, other) => checker.complain(tree.id, format!("expected type 'bool' but found '{other}'")).0,
    }
}

fn opt_map(checker: &mut Checker<'_>, target: &IdedExpr, arguments: &[IdedExpr], flat: bool) -> (Node, Type) {
    let (operand, of) = checker.expression(target);
    let inner = match of {
        Type::Optional(of) => *of,
        Type::Dyn => Type::Dyn,
        other => {
            let name = if flat { "optFlatMap" } else { "optMap" };
            let why = format!("found no matching overload for '{name}' applied to '{other}.()'");
            return checker.complain(target.id, why);
        }
    };
    let Some(name) = variable(checker, &arguments[0]) else {
        return (Node::Const(super::Val::Null), Type::Dyn);
    };
    let (slot, (body, made)) =
        checker.with_variable(name, inner, |checker| checker.expression(&arguments[1]));
    let result = if flat { made } else { Type::Optional(Box::new(made)) };
    (Node::OptMap { operand: Box::new(operand), slot, body: Box::new(body), flat }, result)
}

fn sort_by(checker: &mut Checker<'_>, id: u64, target: &IdedExpr, arguments: &[IdedExpr]) -> (Node, Type) {
    let (range, of) = checker.expression(target);
    let element = match &of {
        Type::List(of) => (**of).clone(),
        Type::Dyn => Type::Dyn,
        other => {
            let why = format!("found no matching overload for 'sortBy' applied to '{other}.()'");
            return checker.complain(id, why);
        }
    };
    let Some(name) = variable(checker, &arguments[0]) else {
        return (Node::Const(super::Val::Null), Type::Dyn);
    };
    let (slot, (key, _)) = checker.with_variable(name, element, |checker| checker.expression(&arguments[1]));
    (Node::SortBy { range: Box::new(range), slot, key: Box::new(key) }, of)
}
