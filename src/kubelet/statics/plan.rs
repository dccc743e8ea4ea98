//! What to do with mirrors so that the API shows the static pods that there are (pure).

use std::collections::{BTreeMap, HashMap};

use super::manifest::Static;
use crate::client::reflector::Key;

/// A pod of the API that is a mirror, or stands where one should.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Shown {
    /// Namespace and name.
    pub key: Key,
    /// The API's uid.
    pub uid: String,
    /// The static pod that it shows; `None` for a pod that is no mirror.
    pub of: Option<String>,
    /// Whether somebody has asked for its end, or changed it.
    pub over: bool,
}

/// One step.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Step {
    /// Take a mirror out of the API.
    Delete {
        /// Namespace and name.
        key: Key,
        /// The API's uid.
        uid: String,
    },
    /// Show a static pod, which starts it.
    Create(Key),
}

/// What to do; `active` names the pods whose workers are there, by uid.
pub fn plan(wanted: &BTreeMap<Key, Static>, shown: &[Shown], active: &HashMap<String, Key>) -> Vec<Step> {
    let mut steps = Vec::new();
    for pod in shown {
        let Some(of) = &pod.of else { continue };
        let right = wanted.get(&pod.key).is_some_and(|one| one.hash == *of);
        if !right || pod.over {
            steps.push(Step::Delete { key: pod.key.clone(), uid: pod.uid.clone() });
        }
    }
    for one in wanted.values() {
        let taken = shown.iter().any(|pod| pod.key == one.key);
        // What it replaces must have ended.
        let waits = active.iter().any(|(uid, key)| *key == one.key && *uid != one.hash);
        if !taken && !waits {
            steps.push(Step::Create(one.key.clone()));
        }
    }
    steps
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::Value;

    fn shown(of: Option<&str>, over: bool) -> Shown {
        Shown { key: "d/p".into(), uid: "api".into(), of: of.map(str::to_owned), over }
    }

    #[test]
    fn the_api_comes_to_show_what_is_there() {
        let one = Static { hash: "new".into(), key: "d/p".into(), mirror: Value::Null };
        let there = BTreeMap::from([("d/p".to_owned(), one)]);
        let none = BTreeMap::new();
        let active = |uid: &str| HashMap::from([(uid.to_owned(), "d/p".to_owned())]);
        let nobody = HashMap::new();
        let delete = || vec![Step::Delete { key: "d/p".into(), uid: "api".into() }];
        let create = || vec![Step::Create("d/p".into())];
        for (case, wanted, shown, active, expected) in [
            ("a new manifest", &there, vec![], &nobody, create()),
            ("one that is shown", &there, vec![shown(Some("new"), false)], &active("new"), vec![]),
            (
                "a mirror that somebody deletes",
                &there,
                vec![shown(Some("new"), true)],
                &active("new"),
                delete(),
            ),
            ("it comes back while its pod runs on", &there, vec![], &active("new"), create()),
            ("a changed manifest", &there, vec![shown(Some("old"), false)], &active("old"), delete()),
            ("what it replaces still runs", &there, vec![], &active("old"), vec![]),
            ("a removed manifest", &none, vec![shown(Some("old"), false)], &active("old"), delete()),
            ("somebody's own pod has the name", &there, vec![shown(None, false)], &nobody, vec![]),
            ("somebody's own pod", &none, vec![shown(None, false)], &nobody, vec![]),
        ] {
            assert_eq!(plan(wanted, &shown, active), expected, "{case}");
        }
    }
}
