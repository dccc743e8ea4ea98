//! Conflicts of an applied configuration with other managers, and how they are told.

use std::collections::BTreeMap;

use super::managers::{Identity, Managers};
use super::set::Set;
use super::step::{Step, shown};
use crate::api::status::{Cause, Status};

/// A field that an applied configuration would change and that another manager owns.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Conflict {
    /// Whose it is.
    pub manager: Identity,
    /// Which field.
    pub path: Vec<Step>,
}

/// All fields of these sets.
pub(super) fn conflicts(sets: &BTreeMap<Identity, Set>) -> Vec<Conflict> {
    let mut found = Vec::new();
    for (manager, set) in sets {
        set.each(&mut |path| found.push(Conflict { manager: manager.clone(), path: path.to_vec() }));
    }
    found
}

impl Identity {
    /// `"kubectl" using apps/v1`, or the bare name of one that applies.
    fn shown(&self) -> String {
        let mut text = format!("{:?}", self.manager);
        if !self.subresource.is_empty() {
            text.push_str(&format!(" with subresource {:?}", self.subresource));
        }
        if !self.applies() {
            text.push_str(&format!(" using {}", self.version));
        }
        text
    }
}

/// 409: whose fields the configuration would change.
pub fn status(conflicts: &[Conflict]) -> Status {
    let message = match conflicts {
        [one] => format!(
            "Apply failed with 1 conflict: conflict with {}: {}",
            one.manager.shown(),
            shown(&one.path)
        ),
        many => {
            let mut lines = Vec::new();
            let mut last = None;
            for conflict in many {
                if last != Some(&conflict.manager) {
                    lines.push(format!("conflicts with {}:", conflict.manager.shown()));
                    last = Some(&conflict.manager);
                }
                lines.push(format!("- {}", shown(&conflict.path)));
            }
            format!("Apply failed with {} conflicts: {}", many.len(), lines.join("\n"))
        }
    };
    let mut status = Status::failure(409, "Conflict", message);
    status.details.get_or_insert_default().causes = conflicts
        .iter()
        .map(|conflict| Cause {
            reason: "FieldManagerConflict".to_owned(),
            message: format!("conflict with {}", conflict.manager.shown()),
            field: shown(&conflict.path),
        })
        .collect();
    status
}

/// The sets of these managers that hold any of the changed fields.
pub(super) fn touched(managers: &Managers, changed: impl Fn(&Identity) -> Set) -> BTreeMap<Identity, Set> {
    let mut found = BTreeMap::new();
    for (identity, owned) in managers.iter() {
        let both = owned.set.intersection(&changed(identity));
        if !both.is_empty() {
            found.insert(identity.clone(), both);
        }
    }
    found
}
