//! Failures of commands: what failed, what to do, and the exit code that scripts see.
//!
//! Codes follow minikube's classes where it has them: 1 general, 14 usage, 20s resources, 30s host, 80s guest.

use std::fmt;

/// What kind of failure it is; its number is the process's exit code.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub enum Kind {
    /// Anything without a code of its own.
    General = 1,
    /// A flag or file makes no sense.
    Usage = 14,
    /// Not root.
    Permission = 27,
    /// The host lacks something.
    Host = 30,
    /// The daemon did not come up.
    Start = 80,
    /// There is no such cluster.
    NoCluster = 85,
    /// It took too long.
    Timeout = 88,
}

/// A failed command.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Failure {
    /// For scripts.
    pub kind: Kind,
    /// What failed, on which object, why.
    pub message: String,
    /// What to do about it.
    pub hint: Option<String>,
}

impl Failure {
    /// A failure of a kind.
    pub fn new(kind: Kind, message: impl fmt::Display) -> Failure {
        Failure { kind, message: message.to_string(), hint: None }
    }

    /// With a hint.
    pub fn hint(mut self, hint: impl Into<String>) -> Failure {
        self.hint = Some(hint.into());
        self
    }

    /// Any error, without a code of its own.
    pub fn general(error: impl fmt::Display) -> Failure {
        Failure::new(Kind::General, error)
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "error: {}", self.message)?;
        if let Some(hint) = &self.hint {
            write!(f, "\n\nhint: {hint}")?;
        }
        Ok(())
    }
}
