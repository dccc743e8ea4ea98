//! Writes JSON values as YAML that readers of YAML 1.1 and 1.2 understand alike.

use std::fmt::Write;

use serde_json::Value;

/// The value as a YAML document in kubectl's layout, ending in a newline.
pub fn to_yaml(value: &Value) -> String {
    let mut out = String::new();
    match value {
        Value::Object(map) if !map.is_empty() => mapping(&mut out, map, 0),
        Value::Array(items) if !items.is_empty() => sequence(&mut out, items, 0),
        other => {
            scalar(&mut out, other, 0);
            out.push('\n');
        }
    }
    out
}

fn mapping(out: &mut String, map: &serde_json::Map<String, Value>, indent: usize) {
    for (i, (key, value)) in map.iter().enumerate() {
        // The first key of a list's item stands behind its dash.
        if i > 0 || !out.ends_with("- ") {
            pad(out, indent);
        }
        text(out, key);
        out.push(':');
        match value {
            Value::Object(inner) if !inner.is_empty() => {
                out.push('\n');
                mapping(out, inner, indent + 2);
            }
            Value::Array(items) if !items.is_empty() => {
                out.push('\n');
                sequence(out, items, indent);
            }
            other => {
                out.push(' ');
                scalar(out, other, indent);
                out.push('\n');
            }
        }
    }
}

fn sequence(out: &mut String, items: &[Value], indent: usize) {
    for (i, item) in items.iter().enumerate() {
        if i > 0 || !out.ends_with("- ") {
            pad(out, indent);
        }
        out.push_str("- ");
        match item {
            Value::Object(map) if !map.is_empty() => mapping(out, map, indent + 2),
            Value::Array(inner) if !inner.is_empty() => sequence(out, inner, indent + 2),
            other => {
                scalar(out, other, indent);
                out.push('\n');
            }
        }
    }
}

fn pad(out: &mut String, indent: usize) {
    out.extend(std::iter::repeat_n(' ', indent));
}

/// A leaf; block text is indented below `indent`.
fn scalar(out: &mut String, value: &Value, indent: usize) {
    match value {
        Value::Object(_) => out.push_str("{}"),
        Value::Array(_) => out.push_str("[]"),
        Value::String(s) if s.contains('\n') && fits_a_block(s) => block(out, s, indent + 2),
        Value::String(s) => text(out, s),
        other => {
            let _ = write!(out, "{other}");
        }
    }
}

/// Whether a literal block keeps every character of a text.
fn fits_a_block(s: &str) -> bool {
    let printable = |c: char| c == '\n' || c == '\t' || (c >= ' ' && !special(c));
    s.chars().all(printable)
        && !s.starts_with([' ', '\n', '\t'])
        && s.lines().all(|line| !line.ends_with([' ', '\t']))
}

fn block(out: &mut String, s: &str, indent: usize) {
    out.push_str(if s.ends_with("\n\n") {
        "|+"
    } else if s.ends_with('\n') {
        "|"
    } else {
        "|-"
    });
    for line in s.strip_suffix('\n').unwrap_or(s).split('\n') {
        out.push('\n');
        if !line.is_empty() {
            pad(out, indent);
            out.push_str(line);
        }
    }
}

/// Characters that YAML cannot show as they are.
fn special(c: char) -> bool {
    c.is_control() || matches!(c, '\u{85}' | '\u{2028}' | '\u{2029}' | '\u{feff}')
}

/// A text on one line: plain where every reader takes it for a string, else quoted.
fn text(out: &mut String, s: &str) {
    if s.chars().any(special) {
        // JSON's escapes are YAML's; the characters beyond them are written out by number.
        for c in Value::from(s).to_string().chars() {
            match c {
                c if special(c) => {
                    let _ = write!(out, "\\u{:04x}", c as u32);
                }
                c => out.push(c),
            }
        }
    } else if other_type(s) {
        let _ = write!(out, "{}", Value::from(s));
    } else if needs_quotes(s) {
        let _ = write!(out, "'{}'", s.replace('\'', "''"));
    } else {
        out.push_str(s);
    }
}

/// Whether some reader takes the plain text for a boolean, a null, a number or a time.
fn other_type(s: &str) -> bool {
    const WORDS: &[&str] = &["y", "n", "yes", "no", "on", "off", "true", "false", "null", "~", "<<", "="];
    let lower = s.to_ascii_lowercase();
    if s.is_empty() || WORDS.contains(&lower.as_str()) {
        return true;
    }
    if matches!(lower.trim_start_matches(['+', '-']), ".inf" | ".nan") {
        return true;
    }
    let unsigned = s.strip_prefix(['+', '-']).unwrap_or(s);
    // Numbers in all their forms (1_000, 0x1f, 0o17, 1e3, 12:30:45) and dates: a digit first, and nothing but
    // what these are made of.
    let first = unsigned.trim_start_matches('.').starts_with(|c: char| c.is_ascii_digit());
    let part = |c: char| c.is_ascii_hexdigit() || "._:+-xXoObTtZz ".contains(c);
    first && unsigned.chars().all(part)
}

fn needs_quotes(s: &str) -> bool {
    let first = s.chars().next().unwrap_or(' ');
    let indicator = "-?:".contains(first) && (s.len() == 1 || s[1..].starts_with(' '));
    s.starts_with(' ')
        || s.ends_with(' ')
        || s.ends_with(':')
        || s.contains(": ")
        || s.contains(" #")
        || s.starts_with("---")
        || s.starts_with("...")
        || indicator
        || ",[]{}#&*!|>'\"%@`".contains(first)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::api::yaml::to_json;
    use serde_json::json;

    #[test]
    fn layout_is_kubectls() {
        let value =
            json!({"a": [{"b": 1, "c": ["x", "y"]}, {"d": {}}], "e": {"f": null, "g": []}, "h": "l1\nl2\n"});
        let yaml = "a:\n- b: 1\n  c:\n  - x\n  - \"y\"\n- d: {}\ne:\n  f: null\n  g: []\nh: |\n  l1\n  l2\n";
        assert_eq!(to_yaml(&value), yaml);
        assert_eq!(to_yaml(&json!({})), "{}\n");
        assert_eq!(to_yaml(&json!([[1, 2], []])), "- - 1\n  - 2\n- []\n");
    }

    #[test]
    fn strings_stay_strings() {
        for s in [
            "",
            " ",
            "yes",
            "No",
            "on",
            "y",
            "null",
            "~",
            "true",
            "1",
            "1.5",
            "-1",
            "+1",
            ".5",
            "1e3",
            "0x1f",
            "0o17",
            "0644",
            "1_000",
            "12:30",
            "2024-01-02",
            "2024-01-02T03:04:05Z",
            ".inf",
            "-.nan",
            "a: b",
            "a:",
            "- a",
            "-",
            "a #b",
            "#a",
            "&a",
            "*a",
            "!a",
            "|",
            ">",
            "%a",
            "@a",
            "`a",
            "'a'",
            "\"a\"",
            "[a",
            "{a",
            "a\tb",
            "a\nb",
            "\n",
            "a\n\n",
            " a\nb",
            "a \nb",
            "a\u{7f}",
            "\u{85}",
            "\u{2028}x",
            "\u{feff}",
            "---",
            "--- a",
            "...",
            "? a",
            ": a",
            "ä",
            "a'b",
            "1.2.3.4",
            "10.0.0.0/8",
            "sha256:1f",
            "-c",
            "--flag=x",
            "\r\n",
            "<<",
            "\u{1F600}",
            "\0",
        ] {
            // The parser reads even a quoted `<<` as a merge key, so keys leave it out.
            let key = if s == "<<" { "key" } else { s };
            let value = json!({"k": s, "l": [s], key: 1, "m": {"n": s}});
            let yaml = to_yaml(&value);
            assert_eq!(to_json(yaml.as_bytes()).as_ref(), Ok(&value), "{s:?} as {yaml}");
        }
        for (s, shown) in
            [("yes", "\"yes\""), ("a: b", "'a: b'"), ("nginx:1.12", "nginx:1.12"), ("1Gi", "1Gi")]
        {
            assert_eq!(to_yaml(&json!(s)), format!("{shown}\n"));
        }
    }
}
