//! Versions in the form of semver.org: `semver('1.2.3').major()`.

use std::cmp::Ordering;
use std::sync::Arc;

use super::{no_overload, row};
use crate::api::cel::declared::{Function, one, traversal};
use crate::api::cel::{Fault, Outcome, Val};

/// The library; versions are compared by the functions that compare quantities.
pub const FUNCTIONS: &[Function] = &[
    row("semver", &["(string) kubernetes.Semver", "(string, bool) kubernetes.Semver"], traversal, |a| {
        match version(a)? {
            Ok(version) => Ok(Val::Semver(Arc::new(version))),
            Err(why) => Err(Fault::new(why)),
        }
    }),
    row("isSemver", &["(string) bool", "(string, bool) bool"], traversal, |a| {
        Ok(Val::Bool(version(a)?.is_ok()))
    }),
    row("major", &["kubernetes.Semver.() int"], one, |a| part(a, |version| version.numbers[0])),
    row("minor", &["kubernetes.Semver.() int"], one, |a| part(a, |version| version.numbers[1])),
    row("patch", &["kubernetes.Semver.() int"], one, |a| part(a, |version| version.numbers[2])),
];

/// A version.
#[derive(Debug, PartialEq, Eq)]
pub struct Version {
    numbers: [u64; 3],
    /// What stands after `-`, part by part.
    before: Vec<Identifier>,
}

/// A part of what makes a version a pre-release: numbers come before texts.
#[derive(Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Identifier {
    Number(u64),
    Text(String),
}

impl Ord for Version {
    /// A pre-release comes before its release.
    fn cmp(&self, other: &Version) -> Ordering {
        let before = || match (self.before.is_empty(), other.before.is_empty()) {
            (true, true) => Ordering::Equal,
            (true, false) => Ordering::Greater,
            (false, true) => Ordering::Less,
            (false, false) => self.before.cmp(&other.before),
        };
        self.numbers.cmp(&other.numbers).then_with(before)
    }
}

impl PartialOrd for Version {
    fn partial_cmp(&self, other: &Version) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

fn part(arguments: &[Val], of: fn(&Version) -> u64) -> Outcome {
    match arguments {
        [Val::Semver(version)] => Ok(Val::Int(i64::try_from(of(version)).unwrap_or(i64::MAX))),
        _ => no_overload(),
    }
}

fn version(arguments: &[Val]) -> Result<Result<Version, String>, Fault> {
    match arguments {
        [Val::String(text)] | [Val::String(text), Val::Bool(false)] => Ok(parse(text)),
        [Val::String(text), Val::Bool(true)] => Ok(normal(text).and_then(|text| parse(&text))),
        _ => Err(Fault::no_overload()),
    }
}

/// The strict form of a version that is written loosely: `v1.2`, `01.2.3`.
fn normal(text: &str) -> Result<String, String> {
    let text = text.trim().trim_start_matches(['v', 'V']);
    let end = text.find(['-', '+']).unwrap_or(text.len());
    let (numbers, rest) = text.split_at(end);
    let mut numbers: Vec<String> = numbers
        .splitn(3, '.')
        .map(|number| match number.trim_start_matches('0') {
            "" if !number.is_empty() => "0".to_owned(),
            number => number.to_owned(),
        })
        .collect();
    if numbers.len() < 3 && !rest.is_empty() {
        return Err("short version cannot contain PreRelease/Build meta data".to_owned());
    }
    numbers.resize(3, "0".to_owned());
    Ok(format!("{}{rest}", numbers.join(".")))
}

fn parse(text: &str) -> Result<Version, String> {
    if text.is_empty() {
        return Err("Version string empty".to_owned());
    }
    let (rest, build) = text.split_once('+').map_or((text, None), |(rest, build)| (rest, Some(build)));
    let (numbers, before) = rest.split_once('-').map_or((rest, None), |(rest, before)| (rest, Some(before)));
    let numbers: Vec<&str> = numbers.split('.').collect();
    let [major, minor, patch] = numbers.as_slice() else {
        return Err("No Major.Minor.Patch elements found".to_owned());
    };
    let number = |text: &str| -> Result<u64, String> {
        if text.is_empty() || !text.bytes().all(|b| b.is_ascii_digit()) {
            return Err(format!("Invalid character(s) found in version number {text:?}"));
        }
        if text.len() > 1 && text.starts_with('0') {
            return Err(format!("Version number must not contain leading zeroes {text:?}"));
        }
        text.parse().map_err(|_| format!("Version number {text:?} is too large"))
    };
    let numbers = [number(major)?, number(minor)?, number(patch)?];
    let plain = |part: &str| !part.is_empty() && part.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-');
    let mut identifiers = Vec::new();
    for part in before.into_iter().flat_map(|before| before.split('.')) {
        identifiers.push(match part {
            part if !plain(part) => return Err(format!("Invalid character(s) found in prerelease {part:?}")),
            part if part.bytes().all(|b| b.is_ascii_digit()) => Identifier::Number(number(part)?),
            part => Identifier::Text(part.to_owned()),
        });
    }
    if let Some(wrong) = build.into_iter().flat_map(|build| build.split('.')).find(|part| !plain(part)) {
        return Err(format!("Invalid character(s) found in build meta data {wrong:?}"));
    }
    Ok(Version { numbers, before: identifiers })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_are_ordered() {
        let order =
            ["1.0.0-alpha", "1.0.0-alpha.1", "1.0.0-alpha.beta", "1.0.0-beta", "1.0.0", "1.2.0", "1.10.0"];
        let versions: Vec<Version> = order.iter().map(|text| parse(text).unwrap()).collect();
        assert!(versions.is_sorted());
        for wrong in ["", "1", "1.2", "01.2.3", "1.2.3-", "1.2.x", "v1.2.3", "1.2.3+"] {
            assert!(parse(wrong).is_err(), "{wrong}");
        }
        assert_eq!(parse(&normal("v01.2").unwrap()), parse("1.2.0"));
    }
}
