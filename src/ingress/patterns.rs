//! Paths as regular expressions, compiled once for as long as somebody uses them (pure, with a memory).

use std::collections::HashMap;

use regex::Regex;

use super::annotations::path_pattern;

/// How many expressions an ingress may have.
const PATTERNS_MAX: usize = 100;

/// An expression, or what is wrong with it.
type Compiled = Result<Regex, String>;

/// What was compiled before.
#[derive(Default)]
pub struct Memory(HashMap<String, Compiled>);

/// The expressions of a plan.
pub struct Patterns<'a> {
    before: &'a mut Memory,
    used: HashMap<String, Compiled>,
    /// How many each ingress has.
    counts: HashMap<String, usize>,
}

impl<'a> Patterns<'a> {
    /// None yet. What is not asked for until [`Patterns::finish`] is forgotten.
    pub fn new(memory: &'a mut Memory) -> Patterns<'a> {
        Patterns { before: memory, used: HashMap::new(), counts: HashMap::new() }
    }

    /// Keeps what was asked for.
    pub fn finish(self) {
        self.before.0 = self.used;
    }

    /// A path that is an expression of this ingress.
    pub fn expression(&mut self, ingress: &str, path: &str) -> Compiled {
        let count = self.counts.entry(ingress.to_owned()).or_default();
        *count += 1;
        match *count > PATTERNS_MAX {
            true => Err(format!("an ingress has {PATTERNS_MAX} of them at most")),
            false => self.compiled(path.to_owned()),
        }
    }

    /// A path as it stands, but for its case; `end` is an expression for what follows.
    pub fn literal(&mut self, path: &str, end: &str) -> Compiled {
        self.compiled(format!("{}{end}", regex::escape(path)))
    }

    fn compiled(&mut self, text: String) -> Compiled {
        let before = self.before.0.remove(&text);
        let compile = |text: &String| path_pattern(text).map_err(|error| reason(&error.to_string()));
        self.used.entry(text).or_insert_with_key(|text| before.unwrap_or_else(|| compile(text))).clone()
    }
}

/// What a complaint of several lines comes to.
fn reason(complaint: &str) -> String {
    let last = complaint.trim_end().lines().last().unwrap_or_default();
    last.trim_start_matches("error: ").to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn expressions_are_kept_while_they_are_used_and_each_ingress_has_some() {
        let mut memory = Memory::default();
        let mut patterns = Patterns::new(&mut memory);
        assert!(patterns.expression("d/a", "/x/[0-9]+").unwrap().is_match("/X/1"));
        assert_eq!(patterns.expression("d/a", "/(").unwrap_err(), "unclosed group");
        assert!(patterns.literal("/(", "$").unwrap().is_match("/("));
        for n in 2..PATTERNS_MAX {
            assert!(patterns.expression("d/a", &format!("/{n}")).is_ok());
        }
        assert_eq!(patterns.expression("d/a", "/last").unwrap_err(), "an ingress has 100 of them at most");
        assert!(patterns.expression("d/b", "/last").is_ok());
        patterns.finish();
        assert_eq!(memory.0.len(), PATTERNS_MAX + 2);
        let mut patterns = Patterns::new(&mut memory);
        patterns.expression("d/a", "/2").unwrap();
        assert!(!patterns.before.0.contains_key("/2"), "taken from there");
        patterns.finish();
        assert_eq!(memory.0.len(), 1);
    }
}
