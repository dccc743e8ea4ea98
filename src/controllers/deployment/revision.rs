//! The numbers and annotations by which a deployment's history is told. Pure.

use std::collections::BTreeMap;

use k8s_openapi::api::apps::v1::ReplicaSet;

use super::sets::{DESIRED, MOST};

/// Which version of the template this is.
pub const REVISION: &str = "deployment.kubernetes.io/revision";
/// Which versions it was before, when it came back.
const HISTORY: &str = "deployment.kubernetes.io/revision-history";
/// How long the list of those may become.
const LONGEST_HISTORY: usize = 2000;

/// What replica sets do not get from their deployment.
const OWN: &[&str] = &[
    "kubectl.kubernetes.io/last-applied-configuration",
    REVISION,
    HISTORY,
    DESIRED,
    MOST,
    "deprecated.deployment.rollback.to",
];

/// A replica set's number; nothing is 0, and what is no number counts for nothing.
pub fn of(set: &ReplicaSet) -> Option<i64> {
    match set.metadata.annotations.as_ref().and_then(|annotations| annotations.get(REVISION)) {
        Some(text) => text.parse().ok(),
        None => Some(0),
    }
}

/// The highest number among replica sets.
pub fn latest<'a>(sets: impl Iterator<Item = &'a ReplicaSet>) -> i64 {
    sets.filter_map(of).max().unwrap_or(0).max(0)
}

/// Gives the replica set of the present template its number and the deployment's annotations.
pub fn stamp(set: &mut ReplicaSet, deployment: &BTreeMap<String, String>, number: i64) {
    let before = of(set);
    let annotations = set.metadata.annotations.get_or_insert_default();
    for (key, value) in deployment.iter().filter(|(key, _)| !OWN.contains(&key.as_str())) {
        annotations.insert(key.clone(), value.clone());
    }
    // A number that cannot be read is somebody's own; a higher one stays, as older sets may have been removed.
    if before.is_none_or(|before| before >= number) {
        return;
    }
    if let Some(before) = annotations.insert(REVISION.to_owned(), number.to_string()) {
        let history = annotations.get(HISTORY).cloned().unwrap_or_default();
        if let Some(history) = lengthened(&history, &before) {
            annotations.insert(HISTORY.to_owned(), history);
        }
    }
}

/// A list of numbers with one more, without the oldest ones when it becomes too long.
fn lengthened(history: &str, number: &str) -> Option<String> {
    let mut numbers: Vec<&str> = history.split(',').filter(|number| !number.is_empty()).collect();
    numbers.push(number);
    loop {
        let list = numbers.join(",");
        if list.len() <= LONGEST_HISTORY {
            return Some(list);
        }
        if numbers.len() == 1 {
            return None;
        }
        numbers.remove(0);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn map(pairs: &[(&str, &str)]) -> BTreeMap<String, String> {
        pairs.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect()
    }

    #[test]
    fn sets_are_numbered_and_remember() {
        let cause = ("kubernetes.io/change-cause", "kubectl create");
        for (before, deployment, number, after) in [
            (&[][..], &[cause, (REVISION, "7"), (DESIRED, "3")][..], 1, &[cause, (REVISION, "1")][..]),
            (&[(REVISION, "2")], &[], 2, &[(REVISION, "2")]),
            (&[(REVISION, "5")], &[], 2, &[(REVISION, "5")]),
            (&[(REVISION, "1")], &[], 3, &[(REVISION, "3"), (HISTORY, "1")]),
            (&[(REVISION, "3"), (HISTORY, "1")], &[], 5, &[(REVISION, "5"), (HISTORY, "1,3")]),
            (&[(REVISION, "mine")], &[cause], 2, &[(REVISION, "mine"), cause]),
            (&[("kubernetes.io/change-cause", "old")], &[cause], 1, &[cause, (REVISION, "1")]),
        ] {
            let mut set = ReplicaSet::default();
            set.metadata.annotations = Some(map(before));
            stamp(&mut set, &map(deployment), number);
            assert_eq!(set.metadata.annotations, Some(map(after)), "{before:?} {number}");
        }
    }

    #[test]
    fn history_has_its_limit() {
        assert_eq!(lengthened("", "1").unwrap(), "1");
        let long = vec!["1000"; 400].join(",");
        let list = lengthened(&long, "2").unwrap();
        assert!(list.len() <= LONGEST_HISTORY && list.ends_with(",1000,2"));
        assert_eq!(lengthened("", &"1".repeat(3000)), None);
    }
}
