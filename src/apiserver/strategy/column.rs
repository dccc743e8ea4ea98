//! Columns and cells that many kinds share, in the forms of kubectl's printers.
//!
//! Source: `pkg/printers/internalversion` of Kubernetes and k8s.io/apimachinery `pkg/util/duration`.

use jiff::Timestamp;
use serde_json::Value;

use super::Column;
use crate::api::meta;

/// What stands for nothing.
pub(super) const NONE: &str = "<none>";
/// What stands for what is not said.
pub(super) const UNSET: &str = "<unset>";
/// What stands for what is not known.
pub(super) const UNKNOWN: &str = "<unknown>";

/// The object's name.
pub(super) const NAME: Column = Column {
    name: "Name",
    kind: "string",
    format: "name",
    description: "Name must be unique within a namespace. Is required when creating resources, although some \
                  resources may allow a client to request the generation of an appropriate name automatically. \
                  Name is primarily intended for creation idempotence and configuration definition. Cannot be \
                  updated. More info: https://kubernetes.io/docs/concepts/overview/working-with-objects/names#names",
    priority: 0,
};

/// The object's age.
pub(super) const AGE: Column = Column {
    name: "Age",
    kind: "string",
    format: "",
    description: "CreationTimestamp is a timestamp representing the server time when this object was created. It \
                  is not guaranteed to be set in happens-before order across separate operations. Clients may not \
                  set this value. It is represented in RFC3339 form and is in UTC.",
    priority: 0,
};

/// When the object was made, for kinds without columns of their own.
pub(super) const CREATED_AT: Column = Column { name: "Created At", kind: "date", ..AGE };

/// A column that is always shown.
pub(super) const fn text(name: &'static str, description: &'static str) -> Column {
    Column { name, kind: "string", format: "", description, priority: 0 }
}

/// A column of `-o wide`.
pub(super) const fn wide(name: &'static str, description: &'static str) -> Column {
    Column { name, kind: "string", format: "", description, priority: 1 }
}

/// A number that is always shown.
pub(super) const fn integer(name: &'static str, description: &'static str) -> Column {
    Column { name, kind: "integer", format: "", description, priority: 0 }
}

/// A label selector as text, or `<none>`.
pub(super) fn selector(selector: &Value) -> Value {
    crate::api::selector::text(selector).map_or("<error>".into(), |text| or_none(&text))
}

/// The cell of [`NAME`].
pub(super) fn name(object: &Value) -> Value {
    meta::name(object).into()
}

/// The cell of [`AGE`].
pub(super) fn age(object: &Value, now: Timestamp) -> Value {
    since(&object["metadata"]["creationTimestamp"], now).into()
}

/// The cell of [`CREATED_AT`].
pub(super) fn created_at(object: &Value) -> Value {
    meta::created(object).map_or(UNKNOWN.to_owned(), meta::timestamp).into()
}

/// How long ago a time was, as kubectl puts it.
pub(super) fn since(time: &Value, now: Timestamp) -> String {
    meta::time(time).map_or(UNKNOWN.to_owned(), |at| human(now.as_second() - at.as_second()))
}

/// The text, or `<none>`.
pub(super) fn or_none(text: &str) -> Value {
    if text.is_empty() { NONE.into() } else { text.into() }
}

/// The text, or `<unset>` where there is none at all.
pub(super) fn or_unset(text: &Value) -> Value {
    text.as_str().unwrap_or(UNSET).into()
}

/// `a=b,c=d`, or `<none>`.
pub(super) fn labels(map: &Value) -> Value {
    let pairs = map.as_object().into_iter().flatten();
    let pairs: Vec<String> =
        pairs.map(|(key, value)| format!("{key}={}", value.as_str().unwrap_or_default())).collect();
    or_none(&pairs.join(","))
}

/// So many seconds in two units at most.
pub(super) fn human(seconds: i64) -> String {
    let (minutes, hours) = (seconds / 60, seconds / 3600);
    let two = |big: i64, big_unit: char, small: i64, small_unit: char| match small {
        0 => format!("{big}{big_unit}"),
        _ => format!("{big}{big_unit}{small}{small_unit}"),
    };
    match () {
        _ if seconds < -1 => "<invalid>".to_owned(),
        _ if seconds < 0 => "0s".to_owned(),
        _ if seconds < 120 => format!("{seconds}s"),
        _ if minutes < 10 => two(minutes, 'm', seconds % 60, 's'),
        _ if minutes < 180 => format!("{minutes}m"),
        _ if hours < 8 => two(hours, 'h', minutes % 60, 'm'),
        _ if hours < 48 => format!("{hours}h"),
        _ if hours < 192 => two(hours / 24, 'd', hours % 24, 'h'),
        _ if hours < 24 * 365 * 2 => format!("{}d", hours / 24),
        _ if hours < 24 * 365 * 8 => two(hours / 24 / 365, 'y', hours / 24 % 365, 'd'),
        _ => format!("{}y", hours / 24 / 365),
    }
}

#[cfg(test)]
mod tests {
    use super::human;

    #[test]
    fn durations_read_as_kubectls() {
        let (m, h, d) = (60, 3600, 86400);
        for (seconds, shown) in [
            (-2, "<invalid>"),
            (-1, "0s"),
            (0, "0s"),
            (119, "119s"),
            (120, "2m"),
            (3 * m + 1, "3m1s"),
            (10 * m, "10m"),
            (179 * m + 59, "179m"),
            (3 * h, "3h"),
            (7 * h + 5 * m, "7h5m"),
            (8 * h + 5 * m, "8h"),
            (47 * h, "47h"),
            (2 * d, "2d"),
            (7 * d + 23 * h, "7d23h"),
            (8 * d + h, "8d"),
            (729 * d, "729d"),
            (730 * d, "2y"),
            (731 * d, "2y1d"),
            (8 * 365 * d + d, "8y"),
        ] {
            assert_eq!(human(seconds), shown);
        }
    }
}
