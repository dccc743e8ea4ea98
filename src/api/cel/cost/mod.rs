//! What an expression may cost at worst, judged by what a schema says of the sizes of its values.
//!
//! The figures are cel-go's (`checker/cost.go`) with Kubernetes' settings: clients' rules are refused by them, so that they
//! must come out the same. They are made of the tree as it was written and of the types that the checker found in it.

mod functions;
mod range;
mod sizes;

use std::collections::HashMap;

use cel::common::ast::{CallExpr, EntryExpr, Expr, IdedExpr, LiteralValue, operators};

pub use self::range::Range;
pub use self::sizes::{Sizes, Step};
use super::types::Type;

/// What making a list and a map costs.
const LIST: u64 = 10;
const MAP: u64 = 30;
/// What each character costs that is looked at.
const CHARACTER: f64 = 0.1;
/// What each character of a pattern costs.
const PATTERN: f64 = 0.25;

/// The types of the parts of a tree, by their ids.
pub type Types = HashMap<u64, Type>;

/// The most that an expression may cost for values of these sizes, which are those of `self` and of its old value; `None`
/// when it calls what nothing is known of.
pub fn most(tree: &IdedExpr, types: &Types, sizes: &Sizes) -> Option<u64> {
    let mut coster = Coster {
        types,
        root: sizes,
        scope: Vec::new(),
        paths: HashMap::new(),
        known: HashMap::new(),
        entries: HashMap::new(),
        unsure: false,
    };
    let cost = coster.cost(tree);
    (!coster.unsure).then_some(cost.most)
}

/// What is known of the entries of a list or of a map.
#[derive(Debug, Clone, Copy)]
struct Entries {
    list: bool,
    key: Range,
    value: Range,
}

impl Entries {
    fn or(self, other: Entries) -> Entries {
        Entries { list: self.list, key: self.key.or(other.key), value: self.value.or(other.value) }
    }
}

/// A variable of a macro.
struct Local {
    name: String,
    path: Vec<Step>,
    size: Option<Range>,
}

struct Coster<'e> {
    types: &'e Types,
    root: &'e Sizes,
    scope: Vec<Local>,
    /// Where values come from, by the ids of their expressions.
    paths: HashMap<u64, Vec<Step>>,
    /// Sizes that were made out.
    known: HashMap<u64, Range>,
    entries: HashMap<u64, Entries>,
    /// Whether anything is called of which nothing is known.
    unsure: bool,
}

impl Coster<'_> {
    fn cost(&mut self, tree: &IdedExpr) -> Range {
        match &tree.expr {
            Expr::Literal(_) => Range::exactly(0),
            Expr::Ident(name) => {
                let path = match self.local(name) {
                    Some(local) => local.path.clone(),
                    None => vec![Step::Variable],
                };
                self.paths.insert(tree.id, path);
                Range::exactly(1)
            }
            Expr::Select(select) => {
                let operand = self.cost(&select.operand);
                let own = matches!(self.of(&select.operand), Type::Map(..) | Type::Object(_));
                let step = Step::Field(select.field.clone());
                self.step(tree, &select.operand, step);
                operand.plus(Range::exactly(own.into()))
            }
            Expr::Call(call) => self.call(tree, call),
            Expr::List(list) => {
                let mut sum = Range::exactly(LIST);
                let mut item: Option<Range> = None;
                for element in &list.elements {
                    sum = sum.plus(self.cost(element));
                    let size = self.size_or_unknown(element);
                    item = Some(item.map_or(size, |item| item.or(size)));
                }
                let value = item.unwrap_or(Range::exactly(0));
                self.entries.insert(tree.id, Entries { list: true, key: Range::exactly(1), value });
                sum
            }
            Expr::Map(map) => {
                let mut sum = Range::exactly(MAP);
                let mut sizes: Option<(Range, Range)> = None;
                for entry in &map.entries {
                    let EntryExpr::MapEntry(entry) = &entry.expr else { continue };
                    sum = sum.plus(self.cost(&entry.key)).plus(self.cost(&entry.value));
                    let (key, value) = (self.size_or_unknown(&entry.key), self.size_or_unknown(&entry.value));
                    sizes = Some(sizes.map_or((key, value), |(k, v)| (k.or(key), v.or(value))));
                }
                let (key, value) = sizes.unwrap_or((Range::exactly(0), Range::exactly(0)));
                self.entries.insert(tree.id, Entries { list: false, key, value });
                sum
            }
            // Rules of schemas build no objects.
            Expr::Struct(_) | Expr::Comprehension(_) | Expr::Unspecified => self.give_up(),
        }
    }

    fn give_up(&mut self) -> Range {
        self.unsure = true;
        Range::exactly(0)
    }

    fn local(&self, name: &str) -> Option<&Local> {
        self.scope.iter().rev().find(|local| local.name == name)
    }

    /// The type of an expression.
    fn of(&self, tree: &IdedExpr) -> Type {
        self.types.get(&tree.id).cloned().unwrap_or(Type::Dyn)
    }

    fn path(&self, tree: &IdedExpr) -> Vec<Step> {
        let local = match &tree.expr {
            Expr::Ident(name) => self.local(name),
            _ => None,
        };
        local
            .map_or_else(|| self.paths.get(&tree.id).cloned().unwrap_or_default(), |local| local.path.clone())
    }

    /// The value of one expression lies in that of another.
    fn step(&mut self, tree: &IdedExpr, from: &IdedExpr, step: Step) {
        let mut path = self.path(from);
        path.push(step);
        self.paths.insert(tree.id, path);
    }

    /// The size of an expression's value.
    fn size(&mut self, tree: &IdedExpr) -> Option<Range> {
        if let Some(known) = self.known.get(&tree.id) {
            return Some(*known);
        }
        if let Some(size) = written(tree) {
            return Some(size);
        }
        if let Some(size) = self.root.at(&self.path(tree)) {
            self.known.insert(tree.id, size);
            return Some(size);
        }
        if is_single(&self.of(tree)) {
            return Some(Range::exactly(1));
        }
        match &tree.expr {
            Expr::Ident(name) => self.local(name)?.size,
            _ => None,
        }
    }

    fn size_or_unknown(&mut self, tree: &IdedExpr) -> Range {
        self.size(tree).unwrap_or(Range::UNKNOWN)
    }

    fn entries_of(&self, tree: &IdedExpr) -> Option<Entries> {
        self.entries.get(&tree.id).copied()
    }

    fn copy_sizes(&mut self, to: &IdedExpr, from: &IdedExpr) {
        let (size, entries) = (self.size(from), self.entries_of(from));
        self.known.extend(size.map(|size| (to.id, size)));
        self.entries.extend(entries.map(|entries| (to.id, entries)));
    }

    fn call(&mut self, tree: &IdedExpr, call: &CallExpr) -> Range {
        match (call.func_name.as_str(), call.target.as_deref(), call.args.as_slice()) {
            // To ask whether a field is there costs nothing.
            ("has", None, [IdedExpr { expr: Expr::Select(select), .. }]) => self.cost(&select.operand),
            ("dyn", None, [of]) => {
                let cost = self.cost(of).plus(Range::exactly(1));
                self.copy_sizes(tree, of);
                cost
            }
            (name, Some(target), arguments) => match (name, arguments) {
                ("optMap", [variable, body]) => self.opt_map(target, variable, body, false),
                ("optFlatMap", [variable, body]) => self.opt_map(target, variable, body, true),
                ("sortBy", arguments) => self.sort_by(tree, target, arguments),
                _ => self.walk(tree, name, target, arguments),
            }
            .unwrap_or_else(|| self.function(tree, call)),
            _ => self.function(tree, call),
        }
    }

    /// The cost of `x.optMap(v, e)`, which looks for a value, takes it, and makes an optional of the result.
    fn opt_map(
        &mut self,
        target: &IdedExpr,
        variable: &IdedExpr,
        body: &IdedExpr,
        flat: bool,
    ) -> Option<Range> {
        let Expr::Ident(name) = &variable.expr else { return None };
        let has = self.cost(target).plus(Range::exactly(1));
        let value = self.cost(target).plus(Range::exactly(1));
        self.scope.push(Local { name: name.clone(), path: Vec::new(), size: None });
        let bound = value.plus(Range::exactly(LIST)).plus(self.cost(body));
        self.scope.pop();
        let some = if flat { bound } else { bound.plus(Range::exactly(1)) };
        Some(has.plus(some.or(Range::exactly(1))))
    }

    /// The cost of a walk through a list or a map; `None` for calls that are none.
    fn walk(
        &mut self,
        tree: &IdedExpr,
        name: &str,
        target: &IdedExpr,
        arguments: &[IdedExpr],
    ) -> Option<Range> {
        walk_of(name, arguments.len())?;
        let range = self.cost(target);
        self.walk_from(tree, name, (target, range), arguments)
    }

    /// The same where it is known what it costs to come by the list or the map.
    fn walk_from(
        &mut self,
        tree: &IdedExpr,
        name: &str,
        (target, range): (&IdedExpr, Range),
        arguments: &[IdedExpr],
    ) -> Option<Range> {
        let (variables, filtered) = walk_of(name, arguments.len())?;
        let (names, rest) = arguments.split_at(variables);
        let before = self.scope.len();
        self.push_variables(target, names);
        let filter = if filtered { self.cost(&rest[0]) } else { Range::exactly(0) };
        let body = rest.last().map_or(Range::exactly(0), |body| self.cost(body));
        let item = rest.last().map_or(Range::UNKNOWN, |body| self.size_or_unknown(body));
        self.scope.truncate(before);
        let one = Range::exactly(1);
        // A step that may leave the result as it is costs at least to look at it.
        let maybe = |step: Range, filtered: bool| if filtered { step.or(one) } else { step };
        let plus = |cost: Range, more: u64| cost.plus(Range::exactly(more));
        let (begin, step, end) = match name {
            "all" => (0, plus(Range { least: 0, most: body.most }, 1 + 2), 1),
            "exists" => (0, plus(Range { least: 0, most: body.most }, 1 + 3), 1),
            "exists_one" | "existsOne" => (0, body.plus(Range { least: 1, most: 2 }), 2),
            "filter" => (LIST, body.plus(maybe(Range::exactly(2 + LIST + 1), true)), 1),
            "transformMap" => (MAP, filter.plus(maybe(plus(body, 3), filtered)), 1),
            "transformMapEntry" => (MAP, filter.plus(maybe(plus(body, 2), filtered)), 1),
            _ => (LIST, filter.plus(maybe(plus(body, 2 + LIST), filtered)), 1),
        };
        let count = self.size_or_unknown(target);
        if matches!(name, "all" | "exists" | "exists_one" | "existsOne") {
            self.known.insert(tree.id, one);
        } else {
            self.known.insert(tree.id, count);
            if begin == LIST {
                let value = if name == "filter" { self.item_of(target) } else { item };
                let value = value.or(Range::exactly(0));
                self.entries.insert(tree.id, Entries { list: true, key: one, value });
            }
        }
        Some(plus(range, begin + end).plus(count.times(step)))
    }

    /// The size of the values that a walk through a list or a map meets.
    fn item_of(&mut self, target: &IdedExpr) -> Range {
        let step = if matches!(self.of(target), Type::List(_)) { Step::Item } else { Step::Key };
        let mut path = self.path(target);
        path.push(step);
        let known =
            self.entries_of(target).map(|entries| if entries.list { entries.value } else { entries.key });
        self.root.at(&path).or(known).unwrap_or(Range::UNKNOWN)
    }

    fn push_variables(&mut self, target: &IdedExpr, names: &[IdedExpr]) {
        let entries = self.entries_of(target);
        let list = entries.map_or(matches!(self.of(target), Type::List(_)), |entries| entries.list);
        let (key, value) = (entries.map(|entries| entries.key), entries.map(|entries| entries.value));
        let of_keys = if list { Step::Index } else { Step::Key };
        let meant = match (names.len(), list) {
            (1, true) => vec![(Step::Item, value)],
            (1, false) => vec![(Step::Key, key)],
            _ => vec![(of_keys, key), (Step::Item, value)],
        };
        for (name, (step, size)) in names.iter().zip(meant) {
            let Expr::Ident(name) = &name.expr else { continue };
            let mut path = self.path(target);
            path.push(step);
            self.scope.push(Local { name: name.clone(), path, size });
        }
    }
}

/// How many variables a walk of this name and with so many arguments has, and whether it filters beside.
fn walk_of(name: &str, arguments: usize) -> Option<(usize, bool)> {
    Some(match (name, arguments) {
        ("all" | "exists" | "exists_one" | "existsOne" | "map" | "filter", 2) => (1, false),
        ("all" | "exists" | "exists_one" | "existsOne", 3) => (2, false),
        ("map", 3) => (1, true),
        ("transformList" | "transformMap" | "transformMapEntry", 3) => (2, false),
        ("transformList" | "transformMap" | "transformMapEntry", 4) => (2, true),
        _ => return None,
    })
}

/// The size of what an expression writes out.
fn written(tree: &IdedExpr) -> Option<Range> {
    let length = |length: usize| Some(Range::exactly(u64::try_from(length).unwrap_or(u64::MAX)));
    match &tree.expr {
        Expr::Literal(LiteralValue::String(text)) => length(text.inner().chars().count()),
        Expr::Literal(LiteralValue::Bytes(bytes)) => length(bytes.inner().len()),
        Expr::Literal(_) => length(1),
        Expr::List(list) => length(list.elements.len()),
        Expr::Map(map) => length(map.entries.len()),
        _ => None,
    }
}

/// Whether all values of a type are of the same size.
fn is_single(of: &Type) -> bool {
    match of {
        Type::Bool | Type::Double | Type::Duration | Type::Int | Type::Timestamp | Type::Uint => true,
        Type::Optional(of) => is_single(of),
        _ => false,
    }
}

/// A whole number that an expression writes out.
fn whole(tree: &IdedExpr) -> Option<i64> {
    match &tree.expr {
        Expr::Literal(LiteralValue::Int(number)) => Some(*number.inner()),
        Expr::Call(call) if call.func_name == operators::NEGATE => Some(-whole(call.args.first()?)?),
        _ => None,
    }
}

#[cfg(test)]
mod tests;
