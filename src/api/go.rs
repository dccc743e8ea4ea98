//! Values as Go prints them: some of Kubernetes' messages show them so.

use std::fmt;
use std::io;
use std::time::Duration;

use serde_json::Value;

/// A duration to the millisecond: `2h0m0s`, `1m30s`, `1.5s`, `85ms`.
pub fn duration(duration: Duration) -> String {
    let millis = duration.as_millis();
    let seconds = |millis: u128| match (millis / 1000, millis % 1000) {
        (whole, 0) => format!("{whole}s"),
        (whole, rest) => format!("{whole}.{}s", format!("{rest:03}").trim_end_matches('0')),
    };
    match millis {
        0 => "0s".to_owned(),
        1..=999 => format!("{millis}ms"),
        1000..=59_999 => seconds(millis),
        60_000..=3_599_999 => format!("{}m{}", millis / 60_000, seconds(millis % 60_000)),
        _ => {
            let (hours, rest) = (millis / 3_600_000, millis % 3_600_000);
            format!("{hours}h{}m{}", rest / 60_000, seconds(rest % 60_000))
        }
    }
}

/// What the kernel said of a connection, in the words of Go's `net`, which people search for.
pub fn dial_cause(error: &io::Error) -> String {
    match error.kind() {
        io::ErrorKind::ConnectionRefused => "connect: connection refused".to_owned(),
        io::ErrorKind::HostUnreachable => "connect: no route to host".to_owned(),
        io::ErrorKind::NetworkUnreachable => "connect: network is unreachable".to_owned(),
        io::ErrorKind::TimedOut => "i/o timeout".to_owned(),
        _ => error.to_string(),
    }
}

/// The type that Go's JSON decoder gives the value: `%T`.
pub fn type_of(value: &Value) -> &'static str {
    match value {
        Value::Null => "<nil>",
        Value::Bool(_) => "bool",
        Value::Number(n) if n.is_f64() => "float64",
        Value::Number(_) => "int64",
        Value::String(_) => "string",
        Value::Array(_) => "[]interface {}",
        Value::Object(_) => "map[string]interface {}",
    }
}

/// What Go's JSON decoder calls the value when it does not fit.
pub fn given(value: &Value) -> &'static str {
    match value {
        Value::Null => "null",
        Value::Bool(_) => "bool",
        Value::Number(_) => "number",
        Value::String(_) => "string",
        Value::Array(_) => "array",
        Value::Object(_) => "object",
    }
}

/// The value without quotes: `%v`, as in `map[name:www ports:[80 443]]`.
pub struct Plain<'a>(pub &'a Value);

impl fmt::Display for Plain<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            Value::Null => f.write_str("<nil>"),
            Value::String(text) => f.write_str(text),
            Value::Array(items) => {
                f.write_str("[")?;
                for (i, item) in items.iter().enumerate() {
                    write!(f, "{}{}", if i == 0 { "" } else { " " }, Plain(item))?;
                }
                f.write_str("]")
            }
            Value::Object(fields) => {
                f.write_str("map[")?;
                for (i, (name, value)) in fields.iter().enumerate() {
                    write!(f, "{}{name}:{}", if i == 0 { "" } else { " " }, Plain(value))?;
                }
                f.write_str("]")
            }
            scalar => scalar.fmt(f),
        }
    }
}

/// The value as Go's source has it: `%#v`.
pub struct Syntax<'a>(pub &'a Value);

impl fmt::Display for Syntax<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            Value::Null => f.write_str("interface {}(nil)"),
            Value::Array(items) => {
                write!(f, "{}{{", type_of(self.0))?;
                for (i, item) in items.iter().enumerate() {
                    write!(f, "{}{}", if i == 0 { "" } else { ", " }, Syntax(item))?;
                }
                f.write_str("}")
            }
            Value::Object(fields) => {
                write!(f, "{}{{", type_of(self.0))?;
                for (i, (name, value)) in fields.iter().enumerate() {
                    write!(f, "{}{name:?}:{}", if i == 0 { "" } else { ", " }, Syntax(value))?;
                }
                f.write_str("}")
            }
            scalar => scalar.fmt(f),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn durations_are_to_the_millisecond() {
        for (millis, text) in [
            (0, "0s"),
            (152, "152ms"),
            (1000, "1s"),
            (10_050, "10.05s"),
            (60_000, "1m0s"),
            (61_500, "1m1.5s"),
            (3_600_000, "1h0m0s"),
            (90_061_000, "25h1m1s"),
        ] {
            assert_eq!(duration(Duration::from_millis(millis)), text);
        }
    }

    #[test]
    fn values_are_printed_as_go_prints_them() {
        for (value, of, plain, syntax) in [
            (json!("a"), "string", "a", "\"a\""),
            (json!(1), "int64", "1", "1"),
            (json!(1.5), "float64", "1.5", "1.5"),
            (json!(true), "bool", "true", "true"),
            (json!(null), "<nil>", "<nil>", "interface {}(nil)"),
            (
                json!({"b": ["x", 2], "a": null}),
                "map[string]interface {}",
                "map[a:<nil> b:[x 2]]",
                "map[string]interface {}{\"a\":interface {}(nil), \"b\":[]interface {}{\"x\", 2}}",
            ),
        ] {
            assert_eq!(
                (type_of(&value), Plain(&value).to_string().as_str(), Syntax(&value).to_string().as_str()),
                (of, plain, syntax)
            );
        }
    }
}
