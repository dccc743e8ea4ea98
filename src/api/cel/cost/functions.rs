//! What calls of functions cost, and how large their results are.
//!
//! Source: cel-go's `checker/cost.go` and `ext/lists.go`, and k8s.io/apiserver `pkg/cel/library/cost.go`.

use cel::common::ast::{CallExpr, Expr, IdedExpr, operators};

use super::{CHARACTER, Coster, LIST, PATTERN, Range, Step, whole};
use crate::api::cel::types::Type;

/// What each pair of items costs that is compared: to sort a list, each is with each.
const PAIR: f64 = 2.0;
/// The longest pattern of a named format.
const FORMAT_PATTERN: f64 = 128.0;
/// The longest name of a format.
const FORMAT: u64 = 64;
/// The bytes of an address.
const ADDRESS: Range = Range { least: 4, most: 16 };

/// The cost of a call beside its parts, and the size of its result where that is made out.
type Estimate = (Range, Option<Range>);

/// A call, whose parts were looked at.
struct Call<'t> {
    name: String,
    target: Option<&'t IdedExpr>,
    arguments: &'t [IdedExpr],
    /// What each argument costs.
    costs: Vec<Range>,
}

fn alone(cost: Range) -> Estimate {
    (cost, None)
}

fn step() -> Estimate {
    alone(Range::exactly(1))
}

/// A call that makes a list of so many items, each of which costs so much.
fn new_list(size: Range, each: f64) -> Estimate {
    (size.each(each).plus(Range::exactly(1 + LIST)), Some(size))
}

/// A call that sorts so many items by keys of a type. The list that it makes counts as one of all pairs.
fn sorted(size: Range, keys: Type) -> Estimate {
    let pairs = size.times(size);
    let plain = new_list(pairs, PAIR);
    let texts = new_list(pairs, PAIR + CHARACTER);
    match keys {
        Type::String | Type::Bytes => texts,
        // It may be any of them.
        of if of.is_dyn() => (plain.0.or(texts.0), plain.1),
        _ => plain,
    }
}

/// A whole number that is written out, which counts as zero below that; of any other expression this.
fn written(tree: &IdedExpr, unless: u64) -> u64 {
    whole(tree).map_or(unless, |number| u64::try_from(number).unwrap_or(0))
}

impl Coster<'_> {
    /// The cost of `list.sortBy(v, key)`, which binds the list and sorts it by the list of its keys.
    pub(super) fn sort_by(
        &mut self,
        tree: &IdedExpr,
        list: &IdedExpr,
        arguments: &[IdedExpr],
    ) -> Option<Range> {
        let [_, key] = arguments else { return None };
        let bound = self.cost(list).plus(Range::exactly(LIST));
        let one = Range::exactly(1);
        let keys = self.walk_from(tree, "map", (list, one), arguments)?;
        let (cost, size) = sorted(self.size_or_unknown(list), self.of(key));
        self.known.extend(size.map(|size| (tree.id, size)));
        // Those of the keys are none of the list's.
        self.entries.remove(&tree.id);
        Some(bound.plus(one).plus(keys).plus(cost))
    }

    /// The cost of a call of a function.
    pub(super) fn function(&mut self, tree: &IdedExpr, call: &CallExpr) -> Range {
        let spelled = call.target.as_deref().and_then(|target| self.namespace(target));
        let (name, target) = match spelled {
            Some(space) => (format!("{space}.{}", call.func_name), None),
            None => (call.func_name.trim_start_matches('.').to_owned(), call.target.as_deref()),
        };
        let costs: Vec<Range> = call.args.iter().map(|argument| self.cost(argument)).collect();
        let before = target.map_or(Range::exactly(0), |target| self.cost(target));
        let call = Call { name, target, arguments: &call.args, costs };
        let all = call.costs.iter().fold(Range::exactly(0), |sum, cost| sum.plus(*cost));
        let (cost, size) = match (call.name.as_str(), call.costs.as_slice()) {
            // The second may not be looked at.
            (operators::LOGICAL_AND | operators::LOGICAL_OR, [a, b]) => {
                alone(Range { least: a.least, most: a.plus(*b).most })
            }
            (operators::CONDITIONAL, [condition, yes, no]) => {
                self.conditional(tree, &call.arguments[1], &call.arguments[2], (*condition, *yes, *no))
            }
            _ => {
                let (cost, size) = self.library(&call).unwrap_or_else(|| self.language(tree, &call));
                (cost.plus(all), size)
            }
        };
        if let Some(size) = size.or_else(|| self.size(tree)) {
            self.known.insert(tree.id, size);
        }
        before.plus(cost)
    }

    /// The namespace that a call's target spells when it is no variable.
    fn namespace(&self, target: &IdedExpr) -> Option<String> {
        let Expr::Ident(name) = &target.expr else { return None };
        let variable = ["self", "oldSelf"].contains(&name.as_str()) || self.local(name).is_some();
        let type_of_target = self.types.get(&target.id);
        (!variable && type_of_target.is_none()).then(|| name.trim_start_matches('.').to_owned())
    }

    fn conditional(
        &mut self,
        tree: &IdedExpr,
        yes: &IdedExpr,
        no: &IdedExpr,
        costs: (Range, Range, Range),
    ) -> Estimate {
        let size = self.size_or_unknown(yes).or(self.size_or_unknown(no));
        let entries = self.entries_of(yes).zip(self.entries_of(no)).map(|(yes, no)| yes.or(no));
        self.entries.extend(entries.map(|entries| (tree.id, entries)));
        (costs.0.plus(costs.1.or(costs.2)), Some(size))
    }

    /// The functions of Kubernetes' libraries.
    fn library(&mut self, call: &Call<'_>) -> Option<Estimate> {
        let name = call.name.as_str();
        let first = call.arguments.first();
        let traversed = |size: Range| alone(size.each(CHARACTER));
        Some(match (name, call.target, first) {
            ("isSorted" | "sum" | "max" | "min" | "indexOf" | "lastIndexOf" | "includes", Some(list), _) => {
                self.over_items(name, list)
            }
            ("sort", Some(list), None) => {
                let (size, item) = (self.size_or_unknown(list), self.of(list));
                sorted(size, if let Type::List(of) = item { *of } else { Type::Dyn })
            }
            ("distinct", Some(list), None) => {
                let size = self.size_or_unknown(list);
                new_list(size.times(size), PAIR)
            }
            ("reverse", Some(list), None) => new_list(self.size_or_unknown(list), 1.0),
            ("flatten", Some(list), depth) => {
                let depth = depth.map_or(1, |depth| written(depth, u64::MAX));
                #[allow(clippy::cast_precision_loss)] // As cel-go has it.
                new_list(self.size_or_unknown(list), depth as f64)
            }
            ("slice", Some(list), Some(from)) if call.arguments.len() == 2 => {
                let to = written(&call.arguments[1], self.size_or_unknown(list).most);
                // Of one that ends before it begins cel-go makes a large number.
                new_list(Range::exactly(to.wrapping_sub(written(from, 0))), 1.0)
            }
            ("lists.range", None, Some(end)) => new_list(Range::exactly(written(end, u64::MAX)), 1.0),
            ("url" | "jsonpatch.escapeKey", None, Some(text)) => {
                let size = self.size_or_unknown(text);
                (size.each(CHARACTER), Some(size))
            }
            ("lowerAscii" | "upperAscii" | "substring" | "trim", Some(text), _) => {
                let size = self.size_or_unknown(text);
                (size.each(CHARACTER), Some(size))
            }
            ("replace", Some(text), Some(old)) if call.arguments.len() >= 2 => {
                self.replace(text, old, &call.arguments[1])
            }
            ("split", Some(text), _) => {
                let size = self.size_or_unknown(text);
                let limit = call.arguments.get(1).and_then(whole);
                // Of a limit that is none cel-go makes a large number.
                #[allow(clippy::cast_sign_loss)]
                let most = limit.map_or(size.most, |limit| limit as u64);
                (size.each(2.0 * CHARACTER), Some(Range::up_to(most)))
            }
            ("join", Some(list), separator) => self.join(list, separator),
            ("find" | "findAll", Some(text), Some(pattern)) => {
                let size = self.size_or_unknown(text);
                let (text, pattern) = self.matching(size, pattern);
                (text.times(pattern), Some(Range::up_to(size.most)))
            }
            (
                "cidr" | "isIP" | "isCIDR" | "quantity" | "isQuantity" | "semver" | "isSemver",
                _,
                Some(text),
            ) => traversed(self.size_or_unknown(text)),
            ("ip", None, Some(text)) => traversed(self.size_or_unknown(text)),
            ("ip.isCanonical", _, Some(text)) => alone(self.size_or_unknown(text).each(2.0 * CHARACTER)),
            ("containsIP" | "containsCIDR", _, Some(other)) => {
                let mut cost = ADDRESS.plus(ADDRESS).each(CHARACTER);
                if name == "containsCIDR" {
                    cost = cost.plus(ADDRESS.each(CHARACTER)).plus(Range::exactly(1));
                }
                if matches!(self.of(other), Type::String | Type::Dyn) {
                    cost = cost.plus(self.size_or_unknown(other).each(CHARACTER));
                }
                alone(cost)
            }
            ("validate", _, Some(text)) => {
                alone(self.size_or_unknown(text).each(CHARACTER).each(FORMAT_PATTERN * PATTERN))
            }
            (operators::EQUALS, None, Some(a)) => return self.equal_opaque(a, call.arguments.get(1)?),
            _ => return None,
        })
    }

    /// Functions that look at each item of a list; the first two look for a text in a text, too.
    fn over_items(&mut self, name: &str, list: &IdedExpr) -> Estimate {
        let size = self.size_or_unknown(list);
        let item = match self.of(list) {
            Type::List(of) => Some(*of),
            Type::Map(key, _) => Some(*key),
            _ => None,
        };
        match item {
            Some(of) => {
                let mut each = Range::exactly(1);
                if matches!(of, Type::String | Type::Bytes) {
                    each = each.plus(self.item_size(list).each(CHARACTER));
                }
                alone(size.times(each))
            }
            None if name == "includes" => alone(size),
            None => alone(size.each(CHARACTER)),
        }
    }

    /// The size of a list's items, where its place is known.
    fn item_size(&self, list: &IdedExpr) -> Range {
        let mut path = self.path(list);
        if path.is_empty() {
            return Range::UNKNOWN;
        }
        path.push(Step::Item);
        self.root.at(&path).unwrap_or(Range::UNKNOWN)
    }

    fn join(&mut self, list: &IdedExpr, separator: Option<&IdedExpr>) -> Estimate {
        let count = self.size_or_unknown(list);
        let mut size = match self.of(list) {
            Type::List(_) => count.times(self.item_size(list)),
            _ => Range::exactly(0),
        };
        if let Some(separator) = separator {
            let between = Range { least: count.least.saturating_sub(1), most: count.most.saturating_sub(1) };
            size = size.plus(self.size_or_unknown(separator).times(between));
        }
        (size.each(CHARACTER), Some(size))
    }

    fn replace(&mut self, text: &IdedExpr, old: &IdedExpr, new: &IdedExpr) -> Estimate {
        let (size, old, new) =
            (self.size_or_unknown(text), self.size_or_unknown(old), self.size_or_unknown(new));
        let (mut count, mut kept) = (Range::exactly(0), Range::exactly(0));
        // An empty text is found around every character.
        if old.least == 0 {
            (count.most, kept.most) = (size.most.saturating_add(1), size.most);
        } else if new.most <= old.least {
            kept.most = size.most;
        } else {
            count.most = size.most.div_ceil(old.least);
        }
        if old.most == 0 {
            (count.least, kept.least) = (size.least.saturating_add(1), size.least);
        } else if old.most <= new.least {
            kept.least = size.least;
        } else {
            count.least = size.least.div_ceil(old.most);
        }
        (size.each(2.0 * CHARACTER), Some(count.times(new).plus(kept)))
    }

    /// What a walk through a text costs, and how often it is walked through for a pattern.
    fn matching(&mut self, text: Range, pattern: &IdedExpr) -> (Range, Range) {
        // An empty text is looked at, too.
        let text = text.plus(Range::exactly(1)).each(CHARACTER);
        (text, self.size_or_unknown(pattern).each(PATTERN))
    }

    /// Values of which only functions know the inside.
    fn equal_opaque(&mut self, a: &IdedExpr, b: &IdedExpr) -> Option<Estimate> {
        let Type::Opaque(name) = self.of(a) else { return None };
        if self.of(b) != Type::Opaque(name.clone()) {
            return None;
        }
        match &*name {
            "net.IP" | "net.CIDR" | "kubernetes.Quantity" | "kubernetes.Semver" => Some(step()),
            "kubernetes.NamedFormat" => Some(alone(Range { least: 1, most: FORMAT }.each(CHARACTER))),
            "kubernetes.URL" => {
                let most = self.size(b).map_or(1, |size| size.most);
                Some(alone(Range { least: 1, most }.each(CHARACTER)))
            }
            _ => None,
        }
    }

    /// The functions and operators of the language.
    fn language(&mut self, tree: &IdedExpr, call: &Call<'_>) -> Estimate {
        let kinds: Vec<Type> = call.arguments.iter().map(|argument| self.of(argument)).collect();
        match (call.name.as_str(), call.target, call.arguments) {
            (operators::INDEX, None, [from, _]) => {
                if matches!(kinds[0], Type::List(_) | Type::Map(..) | Type::Dyn) {
                    let size = self.entries_of(from).map(|entries| entries.value);
                    self.step(tree, from, Step::Item);
                    return (Range::exactly(1), size);
                }
                step()
            }
            (operators::IN, None, [_, among]) => match kinds[1] {
                Type::List(_) => alone(self.size_or_unknown(among).each(1.0)),
                Type::Dyn => alone(self.size_or_unknown(among).each(1.0).or(Range::exactly(1))),
                _ => step(),
            },
            (operators::ADD, None, [a, b]) => self.sum(tree, (a, b), (&kinds[0], &kinds[1])),
            (operators::EQUALS | operators::NOT_EQUALS, None, [a, b]) => alone(self.compare(a, b)),
            (
                operators::LESS | operators::LESS_EQUALS | operators::GREATER | operators::GREATER_EQUALS,
                None,
                [a, b],
            ) => match kinds.iter().find(|of| !of.is_dyn()) {
                Some(Type::String | Type::Bytes) => alone(self.compare(a, b)),
                None => alone(self.compare(a, b).or(Range::exactly(1))),
                Some(_) => step(),
            },
            ("startsWith" | "endsWith", Some(_), [part]) => alone(self.size_or_unknown(part).each(CHARACTER)),
            ("matches", Some(text), [pattern]) | ("matches", None, [text, pattern]) => {
                let size = self.size_or_unknown(text);
                let (text, pattern) = self.matching(size, pattern);
                alone(text.times(pattern))
            }
            ("contains", Some(text), [part]) => {
                let text = self.size_or_unknown(text).each(CHARACTER);
                alone(text.times(self.size_or_unknown(part).each(CHARACTER)))
            }
            ("sets.contains" | "sets.intersects" | "sets.equivalent", None, [a, b]) => {
                let factor = if call.name == "sets.equivalent" { 2.0 } else { 1.0 };
                let pairs = self.size_or_unknown(a).times(self.size_or_unknown(b));
                alone(pairs.each(factor).plus(Range::exactly(1)))
            }
            ("string", None, [of]) if kinds[0] == Type::Bytes => {
                let size = self.size_or_unknown(of);
                (size.each(CHARACTER), Some(Range { least: size.least / 4, most: size.most }))
            }
            ("bytes", None, [of]) if kinds[0] == Type::String => {
                let size = self.size_or_unknown(of);
                (size.each(CHARACTER), Some(Range { least: size.least, most: size.most.saturating_mul(4) }))
            }
            ("strings.quote", None, [of]) => {
                let size = self.size_or_unknown(of);
                let quoted = size.times(Range { least: 1, most: 2 }).plus(Range::exactly(2));
                (size.each(CHARACTER), Some(quoted))
            }
            ("format", Some(text), _) => alone(self.size_or_unknown(text).each(CHARACTER)),
            _ => step(),
        }
    }

    /// As long as the shorter one goes.
    fn compare(&mut self, a: &IdedExpr, b: &IdedExpr) -> Range {
        let most = self.size_or_unknown(a).most.min(self.size_or_unknown(b).most);
        Range { least: most.min(1), most }.each(CHARACTER)
    }

    fn sum(&mut self, tree: &IdedExpr, (a, b): (&IdedExpr, &IdedExpr), kinds: (&Type, &Type)) -> Estimate {
        let of = if kinds.0.is_dyn() { kinds.1 } else { kinds.0 };
        if !matches!(of, Type::String | Type::Bytes | Type::List(_) | Type::Dyn) {
            return step();
        }
        let size = self.size_or_unknown(a).plus(self.size_or_unknown(b));
        let entries = self.entries_of(a).zip(self.entries_of(b)).map(|(a, b)| a.or(b));
        self.entries.extend(entries.map(|entries| (tree.id, entries)));
        let text = size.each(CHARACTER);
        let cost = match of {
            Type::List(_) => Range::exactly(1),
            Type::Dyn => text.or(Range::exactly(1)),
            _ => text,
        };
        (cost, Some(size))
    }
}
