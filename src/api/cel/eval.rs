//! Evaluating a program's nodes.
//!
//! What a step costs is what cel-go's tracker charges with Kubernetes' settings, in round figures.

use std::collections::BTreeMap;
use std::sync::Arc;

use super::declared::Function;
use super::value::{Built, Entries, Key};
use super::{Fault, Meter, Outcome, Val};

/// What making a list, a map and an object costs.
const LIST_COST: u64 = 10;
const MAP_COST: u64 = 30;
const STRUCT_COST: u64 = 40;

/// One step of a program.
#[derive(Debug)]
pub enum Node {
    /// A literal, or the name of a type.
    Const(Val),
    /// A variable.
    Slot(usize, String),
    /// A list; an item that is marked is left out when its optional is empty.
    List(Vec<(Node, bool)>),
    /// A map, likewise.
    Map(Vec<(Node, Node, bool)>),
    /// An object of a named type, likewise.
    Struct(String, Vec<(String, Node, bool)>),
    /// A field; `test` asks only whether it is there.
    Select { operand: Box<Node>, field: Arc<str>, test: bool },
    /// A field as an optional.
    OptSelect { operand: Box<Node>, field: Arc<str> },
    /// `a && b`.
    And(Box<Node>, Box<Node>),
    /// `a || b`.
    Or(Box<Node>, Box<Node>),
    /// `a ? b : c`.
    Cond(Box<Node>, Box<Node>, Box<Node>),
    /// A call of a function of the library.
    Call(&'static Function, Vec<Node>),
    /// A call of a function of the caller's own values.
    Foreign(String, Vec<Node>),
    /// A walk through a list or a map.
    Walk(Box<Walk>),
    /// `x.optMap(v, e)` and `x.optFlatMap(v, e)`.
    OptMap { operand: Box<Node>, slot: usize, body: Box<Node>, flat: bool },
    /// `list.sortBy(v, key)`.
    SortBy { range: Box<Node>, slot: usize, key: Box<Node> },
}

/// A walk through a list or a map, with what is done at each entry.
#[derive(Debug)]
pub struct Walk {
    /// What to make of it.
    pub kind: WalkKind,
    /// What is walked through.
    pub range: Node,
    /// Where the entry's value lies; its key with `second`, of a map without it.
    pub slot: usize,
    /// Where the entry's value lies when the key or index has a name, too.
    pub second: Option<usize>,
    /// Which entries count.
    pub filter: Option<Node>,
    /// What is asked, or made, of each entry.
    pub body: Node,
}

/// What a walk makes of its entries.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum WalkKind {
    /// Whether all are so.
    All,
    /// Whether one is so.
    Exists,
    /// Whether exactly one is so.
    ExistsOne,
    /// The list of what is made of each.
    List,
    /// The entries that are so, as they are.
    Filter,
    /// The map of what is made of each value.
    Map,
    /// The map of the entries that are made of each.
    MapEntries,
}

/// The variables of one evaluation.
pub struct Frame<'m> {
    slots: Vec<Option<Val>>,
    meter: &'m mut Meter,
}

impl<'m> Frame<'m> {
    /// A frame with room for so many.
    pub fn new(slots: usize, meter: &'m mut Meter) -> Frame<'m> {
        Frame { slots: vec![None; slots], meter }
    }

    /// Sets a variable.
    pub fn set(&mut self, slot: usize, value: Option<Val>) {
        if let Some(place) = self.slots.get_mut(slot) {
            *place = value;
        }
    }

    /// The value of a node.
    pub fn eval(&mut self, node: &Node) -> Outcome {
        match node {
            Node::Const(value) => Ok(value.clone()),
            Node::Slot(slot, name) => {
                self.meter.pay(1)?;
                let value = self.slots.get(*slot).cloned().flatten();
                value.ok_or_else(|| Fault::new(format!("no such attribute(s): {name}")))
            }
            Node::List(items) => self.list(items),
            Node::Map(entries) => self.map(entries),
            Node::Struct(name, fields) => self.object(name, fields),
            Node::Select { operand, field, test } => {
                let operand = self.eval(operand)?;
                self.meter.pay(1)?;
                if *test { present(&operand, field).map(Val::Bool) } else { select(&operand, field) }
            }
            Node::OptSelect { operand, field } => {
                let operand = self.eval(operand)?;
                self.meter.pay(1)?;
                opt_select(&operand, field)
            }
            Node::And(a, b) => self.logical(a, b, false),
            Node::Or(a, b) => self.logical(a, b, true),
            Node::Cond(condition, yes, no) => match self.eval(condition)? {
                Val::Bool(true) => self.eval(yes),
                Val::Bool(false) => self.eval(no),
                _ => Err(Fault::no_overload()),
            },
            Node::Call(function, arguments) => {
                let arguments = self.all(arguments)?;
                self.meter.pay((function.cost)(&arguments))?;
                let value = (function.call)(&arguments)?;
                // What is made is paid for, too: a value that grows in each step must not fill the memory.
                self.meter.pay(value.size() / 10)?;
                Ok(value)
            }
            Node::Foreign(name, arguments) => {
                let arguments = self.all(arguments)?;
                self.meter.pay(1)?;
                match arguments.split_first() {
                    Some((Val::Foreign(own), rest)) => own.call(name, rest),
                    _ => Err(Fault::no_overload()),
                }
            }
            Node::Walk(walk) => self.walk(walk),
            Node::OptMap { operand, slot, body, flat } => {
                let Val::Optional(value) = self.eval(operand)? else { return Err(Fault::no_overload()) };
                let Some(value) = value else { return Ok(Val::Optional(None)) };
                self.set(*slot, Some((*value).clone()));
                let made = self.eval(body)?;
                Ok(if *flat { made } else { Val::some(made) })
            }
            Node::SortBy { range, slot, key } => self.sort_by(range, *slot, key),
        }
    }

    fn all(&mut self, nodes: &[Node]) -> Result<Vec<Val>, Fault> {
        nodes.iter().map(|node| self.eval(node)).collect()
    }

    /// The value of an item that may be optional: `None` for an empty optional.
    fn item(&mut self, node: &Node, optional: bool) -> Result<Option<Val>, Fault> {
        let value = self.eval(node)?;
        match (optional, value) {
            (false, value) => Ok(Some(value)),
            (true, Val::Optional(value)) => Ok(value.map(|value| (*value).clone())),
            (true, _) => Err(Fault::no_overload()),
        }
    }

    fn list(&mut self, items: &[(Node, bool)]) -> Outcome {
        self.meter.pay(LIST_COST)?;
        let mut list = Vec::with_capacity(items.len());
        for (node, optional) in items {
            list.extend(self.item(node, *optional)?);
        }
        Ok(Val::list(list))
    }

    fn map(&mut self, entries: &[(Node, Node, bool)]) -> Outcome {
        self.meter.pay(MAP_COST)?;
        let mut map = Entries::new();
        for (key, value, optional) in entries {
            let key = key_of(&self.eval(key)?)?;
            if let Some(value) = self.item(value, *optional)? {
                insert(&mut map, key, value)?;
            }
        }
        Ok(Val::Map(Arc::new(map)))
    }

    fn object(&mut self, name: &str, fields: &[(String, Node, bool)]) -> Outcome {
        self.meter.pay(STRUCT_COST)?;
        let mut built = BTreeMap::new();
        for (field, value, optional) in fields {
            if let Some(value) = self.item(value, *optional)? {
                built.insert(field.clone(), value);
            }
        }
        Ok(Val::Struct(Arc::new(Built { name: name.to_owned(), fields: built })))
    }

    /// `&&` (decided by false) or `||` (decided by true): what one side decides, the other's fault does not undo.
    fn logical(&mut self, a: &Node, b: &Node, deciding: bool) -> Outcome {
        let first = self.eval(a);
        match first {
            Ok(Val::Bool(value)) if value == deciding => return Ok(Val::Bool(deciding)),
            Err(Fault::Cost) => return Err(Fault::Cost),
            _ => {}
        }
        match (first, self.eval(b)) {
            (_, Err(Fault::Cost)) => Err(Fault::Cost),
            (_, Ok(Val::Bool(value))) if value == deciding => Ok(Val::Bool(deciding)),
            (Err(fault), _) | (Ok(Val::Bool(_)), Err(fault)) => Err(fault),
            (Ok(Val::Bool(_)), Ok(Val::Bool(value))) => Ok(Val::Bool(value)),
            _ => Err(Fault::no_overload()),
        }
    }

    fn walk(&mut self, walk: &Walk) -> Outcome {
        let range = self.eval(&walk.range)?;
        let mut made = Made::new(walk.kind);
        match &range {
            Val::List(items) => {
                for (index, item) in items.iter().enumerate() {
                    if self.visit(walk, Val::Int(index as i64), item, true, &mut made)? {
                        break;
                    }
                }
            }
            Val::Map(entries) => {
                for (key, value) in entries.iter() {
                    if self.visit(walk, key.value(), value, false, &mut made)? {
                        break;
                    }
                }
            }
            _ => return Err(Fault::no_overload()),
        }
        made.finish()
    }

    /// One entry of a walk; whether that ends it.
    fn visit(
        &mut self,
        walk: &Walk,
        key: Val,
        value: &Val,
        list: bool,
        made: &mut Made,
    ) -> Result<bool, Fault> {
        self.meter.pay(2)?;
        match walk.second {
            Some(second) => {
                self.set(walk.slot, Some(key.clone()));
                self.set(second, Some(value.clone()));
            }
            None => self.set(walk.slot, Some(if list { value.clone() } else { key.clone() })),
        }
        if let Some(filter) = &walk.filter {
            match self.eval(filter)? {
                Val::Bool(true) => {}
                Val::Bool(false) => return Ok(false),
                _ => return Err(Fault::no_overload()),
            }
        }
        let body = self.eval(&walk.body);
        if matches!(body, Err(Fault::Cost)) {
            return Err(Fault::Cost);
        }
        match (made, body) {
            (Made::Decided { deciding, fault, value }, body) => match body {
                Ok(Val::Bool(found)) if found == *deciding => {
                    (*value, *fault) = (found, None);
                    return Ok(true);
                }
                Ok(Val::Bool(_)) => {}
                Ok(_) => *fault = Some(Fault::no_overload()),
                Err(why) => *fault = Some(why),
            },
            (Made::Count(count), Ok(Val::Bool(counts))) => *count += u64::from(counts),
            (Made::List(list), Ok(item)) => list.push(item),
            (Made::Filtered(kept), Ok(Val::Bool(keep))) => {
                if keep {
                    kept.push(if list { value.clone() } else { key });
                }
            }
            (Made::Map(map), Ok(item)) => insert(map, key_of(&key)?, item)?,
            (Made::Entries(map), Ok(Val::Map(entries))) => {
                for (key, value) in entries.iter() {
                    insert(map, key.clone(), value.clone())?;
                }
            }
            (_, Err(fault)) => return Err(fault),
            _ => return Err(Fault::no_overload()),
        }
        Ok(false)
    }

    fn sort_by(&mut self, range: &Node, slot: usize, key: &Node) -> Outcome {
        let Val::List(items) = self.eval(range)? else { return Err(Fault::no_overload()) };
        let mut keyed = Vec::with_capacity(items.len());
        for item in items.iter() {
            self.meter.pay(2)?;
            self.set(slot, Some(item.clone()));
            keyed.push((self.eval(key)?, item.clone()));
        }
        super::library::lists::sort(keyed)
            .map(|items| Val::list(items.into_iter().map(|(_, item)| item).collect()))
    }
}

/// What a walk has made so far.
enum Made {
    Decided { deciding: bool, fault: Option<Fault>, value: bool },
    Count(u64),
    List(Vec<Val>),
    Filtered(Vec<Val>),
    Map(Entries),
    Entries(Entries),
}

impl Made {
    fn new(kind: WalkKind) -> Made {
        match kind {
            WalkKind::All => Made::Decided { deciding: false, fault: None, value: true },
            WalkKind::Exists => Made::Decided { deciding: true, fault: None, value: false },
            WalkKind::ExistsOne => Made::Count(0),
            WalkKind::List => Made::List(Vec::new()),
            WalkKind::Filter => Made::Filtered(Vec::new()),
            WalkKind::Map => Made::Map(Entries::new()),
            WalkKind::MapEntries => Made::Entries(Entries::new()),
        }
    }

    fn finish(self) -> Outcome {
        match self {
            Made::Decided { fault: Some(fault), .. } => Err(fault),
            Made::Decided { value, .. } => Ok(Val::Bool(value)),
            Made::Count(count) => Ok(Val::Bool(count == 1)),
            Made::List(items) | Made::Filtered(items) => Ok(Val::list(items)),
            Made::Map(entries) | Made::Entries(entries) => Ok(Val::Map(Arc::new(entries))),
        }
    }
}

fn key_of(value: &Val) -> Result<Key, Fault> {
    Key::of(value).ok_or_else(|| Fault::new("unsupported key type"))
}

fn insert(map: &mut Entries, key: Key, value: Val) -> Result<(), Fault> {
    if map.contains_key(&key) {
        return Err(Fault::new(format!("insert failed: key '{key}' already exists")));
    }
    map.insert(key, value);
    Ok(())
}

/// A field of an object, or an entry of a map.
fn select(operand: &Val, field: &Arc<str>) -> Outcome {
    let found = match operand {
        Val::Map(entries) => entries.get(&Key::String(field.clone())).cloned(),
        Val::Struct(built) => built.fields.get(field.as_ref()).cloned(),
        Val::Foreign(own) => match own.select(field) {
            Some(outcome) => return outcome,
            None => None,
        },
        // A field of an optional is an optional.
        Val::Optional(_) => return opt_select(operand, field),
        _ => return Err(Fault::no_overload()),
    };
    found.ok_or_else(|| Fault::new(format!("no such key: {field}")))
}

/// Whether a field is there.
fn present(operand: &Val, field: &Arc<str>) -> Result<bool, Fault> {
    match operand {
        Val::Map(entries) => Ok(entries.contains_key(&Key::String(field.clone()))),
        Val::Struct(built) => Ok(built.fields.contains_key(field.as_ref())),
        Val::Foreign(own) => Ok(own.select(field).is_some()),
        Val::Optional(None) => Ok(false),
        Val::Optional(Some(value)) => present(value, field),
        _ => Err(Fault::no_overload()),
    }
}

/// A field as an optional: empty where the operand has none.
fn opt_select(operand: &Val, field: &Arc<str>) -> Outcome {
    match operand {
        Val::Optional(None) => Ok(Val::Optional(None)),
        Val::Optional(Some(value)) => opt_select(value, field),
        value if present(value, field)? => select(value, field).map(Val::some),
        _ => Ok(Val::Optional(None)),
    }
}
