//! The order of a merged list: the patch's own order, and the rest where it stood.

use serde_json::Value;

/// Puts the items that `wanted` names in its order, and merges the others in between as `before` had them.
///
/// `key` tells items apart; an empty one compares them whole. An item that is new stands before those that the
/// patch does not name.
pub(super) fn arrange(merged: Vec<Value>, wanted: &[Value], before: &[Value], key: &str) -> Vec<Value> {
    let (mut named, mut others): (Vec<Value>, Vec<Value>) =
        merged.into_iter().partition(|item| position(wanted, item, key).is_some());
    named.sort_by_key(|item| position(wanted, item, key));
    // Those that stood nowhere before keep their place at the end.
    others.sort_by_key(|item| position(before, item, key).unwrap_or(usize::MAX));
    let mut all = Vec::with_capacity(named.len() + others.len());
    let (mut named, mut others) = (named.into_iter().peekable(), others.into_iter().peekable());
    loop {
        let first_other = match (others.peek(), named.peek()) {
            (None, None) => return all,
            (Some(_), None) => true,
            (None, Some(_)) => false,
            (Some(other), Some(named)) => {
                let places = position(before, other, key).zip(position(before, named, key));
                places.is_some_and(|(other, named)| other < named)
            }
        };
        all.extend(if first_other { others.next() } else { named.next() });
    }
}

/// Where an item of the same key stands.
pub(super) fn position(list: &[Value], item: &Value, key: &str) -> Option<usize> {
    if key.is_empty() {
        return list.iter().position(|other| other == item);
    }
    let wanted = item.get(key)?;
    list.iter().position(|other| other.get(key) == Some(wanted))
}
