//! CEL, the expression language of custom resources' rules, admission policies and match conditions.
//!
//! [`Env`] says what an expression may name, [`Env::compile`] checks it, and the [`Program`] gives a value for given
//! variables. The language is cel-go's in the environment of Kubernetes 1.37 (k8s.io/apiserver `pkg/cel/environment`):
//! its functions, its types, its complaints. Every step of an evaluation is paid from a [`Meter`], in about the
//! amounts that Kubernetes charges, so that no expression runs for long. Nothing here does I/O.
//!
//! ```text
//! text ──parser of the cel crate──► tree ──check──► Program (nodes, with a slot for each variable) ──eval──► Val
//! ```

use std::fmt;

pub mod admission;
pub mod kinds;
pub mod types;
pub mod value;

mod check;
mod cost;
mod declared;
mod eval;
mod library;
mod macros;

pub use self::cost::Sizes;
pub use self::types::Type;
pub use self::value::{Foreign, Key, Val};

use self::eval::Node;
use self::types::Overload;

/// What one evaluation may cost (`PerCallLimit`).
pub const CALL_LIMIT: u64 = 1_000_000;
/// What the evaluations about one object may cost together (`RuntimeCELCostBudget`).
pub const OBJECT_LIMIT: u64 = 10_000_000;
/// What the match conditions of one webhook may cost together (`RuntimeCELCostBudgetMatchConditions`).
pub const CONDITIONS_LIMIT: u64 = 2_500_000;

/// How deep an expression may nest: the parser, the checker and the evaluation all descend that far.
const DEPTH: u16 = 64;

/// Why an expression gave no value.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
pub enum Fault {
    /// The value is wrong for the function, the key is missing, ...; `&&` and `||` may do without it.
    #[error("{0}")]
    Value(String),
    /// The evaluation cost more than it may.
    #[error("operation cancelled: actual cost limit exceeded")]
    Cost,
}

impl Fault {
    /// A fault with these words.
    pub fn new(words: impl Into<String>) -> Fault {
        Fault::Value(words.into())
    }

    /// The values are of types that the function does not take.
    pub fn no_overload() -> Fault {
        Fault::new("no such overload")
    }

    /// Whether the value's type was wrong for the function.
    pub fn is_no_overload(&self) -> bool {
        matches!(self, Fault::Value(words) if words.starts_with("no such overload"))
    }
}

/// A value, or why there is none.
pub type Outcome = Result<Val, Fault>;

/// What an evaluation may cost, and did.
#[derive(Debug, Clone, Copy)]
pub struct Meter {
    limit: u64,
    spent: u64,
}

impl Meter {
    /// A meter that stops at `limit`.
    pub fn new(limit: u64) -> Meter {
        Meter { limit, spent: 0 }
    }

    /// What was paid so far.
    pub fn spent(&self) -> u64 {
        self.spent
    }

    /// Pays for a step.
    pub fn pay(&mut self, cost: u64) -> Result<(), Fault> {
        self.spent = self.spent.saturating_add(cost);
        if self.spent > self.limit { Err(Fault::Cost) } else { Ok(()) }
    }
}

/// Whether a text is an absolute URI or an absolute path.
pub fn is_uri(text: &str) -> bool {
    library::url::parse(text).is_ok()
}

/// A span of time as Go reads it (`1h30m`), in nanoseconds.
pub fn parse_duration(text: &str) -> Option<i64> {
    library::time::parse_span(text)
}

/// Reads a regular expression.
pub fn pattern(text: &str) -> Result<regex::Regex, regex::Error> {
    library::regex::compile(text)
}

/// One complaint about an expression, at its place.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Issue {
    /// From 1.
    pub line: usize,
    /// From 1, in characters.
    pub column: usize,
    /// `undefined field 'x'`.
    pub message: String,
}

/// Why an expression does not compile.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Issues {
    /// The expression.
    pub source: String,
    /// Each complaint.
    pub issues: Vec<Issue>,
}

impl fmt::Display for Issues {
    /// As cel-go shows them: each with its line and a mark below its column.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (i, issue) in self.issues.iter().enumerate() {
            if i > 0 {
                writeln!(f)?;
            }
            write!(f, "ERROR: <input>:{}:{}: {}", issue.line, issue.column, issue.message)?;
            if let Some(line) = self.source.lines().nth(issue.line.saturating_sub(1)) {
                write!(f, "\n | {line}\n | {}^", ".".repeat(issue.column.saturating_sub(1)))?;
            }
        }
        Ok(())
    }
}

impl std::error::Error for Issues {}

/// What an expression may name beside the language's own functions.
#[derive(Debug, Clone, Default)]
pub struct Env {
    variables: Vec<(String, Type)>,
    functions: Vec<(&'static str, Overload)>,
    builds_objects: bool,
}

impl Env {
    /// An environment without variables.
    pub fn new() -> Env {
        Env::default()
    }

    /// Declares a variable.
    pub fn variable(mut self, name: &str, of: Type) -> Env {
        self.variables.push((name.to_owned(), of));
        self
    }

    /// Declares a function of the caller's own values: `("check", "authorizer.(string) decision")`. A signature that
    /// cannot be read declares nothing.
    pub fn function(mut self, name: &'static str, signature: &str) -> Env {
        self.functions.extend(types::signature(signature).map(|overload| (name, overload)));
        self
    }

    /// Allows objects to be built, as mutating policies do: `Object.spec{replicas: 1}`, `JSONPatch{op: "remove"}`.
    pub fn building_objects(mut self) -> Env {
        self.builds_objects = true;
        self
    }

    /// Reads and checks an expression.
    pub fn compile(&self, expression: &str) -> Result<Program, Issues> {
        check::compile(self, expression)
    }

    /// The most that an expression may cost that is about one value of these sizes, by whatever name; `None` when nothing
    /// is known of what it calls.
    pub fn most_cost(&self, expression: &str, sizes: &Sizes) -> Result<Option<u64>, Issues> {
        check::most_cost(self, expression, sizes)
    }
}

/// An expression, ready to be evaluated any number of times.
#[derive(Debug)]
pub struct Program {
    root: Node,
    /// The type that it gives.
    result: Type,
    /// The names of the environment's variables, which come first among the slots.
    variables: Vec<String>,
    /// Which of them it names.
    used: Vec<bool>,
    /// How many values it holds at once.
    slots: usize,
}

impl Program {
    /// The type of the value that it gives; [`Type::Dyn`] when that shows only then.
    pub fn result(&self) -> &Type {
        &self.result
    }

    /// Whether it names the variable.
    pub fn uses(&self, variable: &str) -> bool {
        self.variables.iter().zip(&self.used).any(|(name, used)| *used && name == variable)
    }

    /// Its value; `variables` gives those that are set, and is asked only for those that it names.
    pub fn evaluate(&self, variables: impl Fn(&str) -> Option<Val>, meter: &mut Meter) -> Outcome {
        let mut frame = eval::Frame::new(self.slots, meter);
        for (slot, (name, _)) in
            self.variables.iter().zip(&self.used).enumerate().filter(|(_, (_, used))| **used)
        {
            frame.set(slot, variables(name));
        }
        frame.eval(&self.root)
    }
}

#[cfg(test)]
mod tests;
