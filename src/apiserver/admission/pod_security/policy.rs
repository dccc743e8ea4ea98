//! Which rules a namespace's labels ask for.

use std::fmt;

use serde_json::Value;

use crate::api::status::FieldError;

const LABELS: &str = "pod-security.kubernetes.io/";

/// How strict a rule is; the stricter the greater.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Level {
    /// Everything goes.
    Privileged,
    /// Nothing that is known to lead out of a container.
    Baseline,
    /// What hardened pods can do without.
    Restricted,
}

impl Level {
    fn parse(text: &str) -> Option<Level> {
        match text {
            "privileged" => Some(Level::Privileged),
            "baseline" => Some(Level::Baseline),
            "restricted" => Some(Level::Restricted),
            _ => None,
        }
    }

    fn name(self) -> &'static str {
        match self {
            Level::Privileged => "privileged",
            Level::Baseline => "baseline",
            Level::Restricted => "restricted",
        }
    }
}

/// The Kubernetes version whose rules are meant: the minor of `v1.30`, or the latest.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Version {
    /// `v1.30`.
    Minor(u32),
    /// `latest`.
    Latest,
}

impl Version {
    fn parse(text: &str) -> Option<Version> {
        if text == "latest" {
            return Some(Version::Latest);
        }
        let minor = text.strip_prefix("v1.")?;
        let canonical = minor == "0" || !minor.starts_with('0');
        let digits = canonical && minor.bytes().all(|byte| byte.is_ascii_digit());
        minor.parse().ok().filter(|_| digits).map(Version::Minor)
    }
}

/// A level as one version of Kubernetes understands it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Rule {
    /// How strict.
    pub level: Level,
    /// As which version understands it.
    pub version: Version,
}

impl fmt::Display for Rule {
    /// `restricted:latest`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.version {
            Version::Latest => write!(f, "{}:latest", self.level.name()),
            Version::Minor(minor) => write!(f, "{}:v1.{minor}", self.level.name()),
        }
    }
}

const OPEN: Rule = Rule { level: Level::Privileged, version: Version::Latest };

/// What a namespace asks for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Policy {
    /// Pods that violate this are refused.
    pub enforce: Rule,
    /// Violations of this are logged.
    pub audit: Rule,
    /// Violations of this are told.
    pub warn: Rule,
}

impl Policy {
    /// The policy of a namespace with these labels, and what is wrong with them.
    pub fn of(labels: &Value) -> (Policy, Vec<FieldError>) {
        let mut policy = Policy { enforce: OPEN, audit: OPEN, warn: OPEN };
        let mut errors = Vec::new();
        // What cannot be read is taken for the strictest where pods are refused, and for nothing elsewhere.
        let enforced = read(labels, "enforce", &mut policy.enforce, Level::Restricted, &mut errors);
        read(labels, "audit", &mut policy.audit, Level::Privileged, &mut errors);
        let warned = read(labels, "warn", &mut policy.warn, Level::Privileged, &mut errors);
        if warned.level.is_none() && enforced.level == Some(true) && policy.enforce.level > policy.warn.level
        {
            policy.warn.level = policy.enforce.level;
            if !warned.version {
                policy.warn.version = policy.enforce.version;
            }
        }
        (policy, errors)
    }

    /// Whether nothing is asked of a pod, or of what makes pods, which is never refused.
    pub fn is_open(&self, pod: bool) -> bool {
        let levels = [self.audit.level, self.warn.level];
        levels == [Level::Privileged; 2] && (!pod || self.enforce.level == Level::Privileged)
    }
}

/// What labels say of one rule: whether there is a level and it can be read, and whether there is a version.
struct Said {
    level: Option<bool>,
    version: bool,
}

fn read(
    labels: &Value,
    mode: &str,
    rule: &mut Rule,
    unreadable: Level,
    errors: &mut Vec<FieldError>,
) -> Said {
    let mut said = Said { level: None, version: false };
    let mut wrong = |label: &str, value: &Value, why: &str| {
        errors.push(FieldError::invalid(format!("metadata.labels[{label}]"), value, why));
    };
    let label = format!("{LABELS}{mode}");
    if let Some(value) = labels.get(&label) {
        let level = value.as_str().and_then(Level::parse);
        said.level = Some(level.is_some());
        rule.level = level.unwrap_or(unreadable);
        if level.is_none() {
            wrong(&label, value, "must be one of privileged, baseline, restricted");
        }
    }
    let label = format!("{LABELS}{mode}-version");
    if let Some(value) = labels.get(&label) {
        let version = value.as_str().and_then(Version::parse);
        said.version = true;
        rule.version = version.unwrap_or(Version::Latest);
        if version.is_none() {
            wrong(&label, value, "must be \"latest\" or \"v1.x\"");
        }
    }
    said
}
