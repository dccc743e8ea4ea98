//! What names, keys and values may look like, and what Kubernetes says when they do not.
//!
//! The rules and messages are those of k8s.io/apimachinery `pkg/util/validation`. Each function answers what is
//! wrong with a value; nothing means that it is valid.

const DNS_LABEL: &str = "[a-z0-9]([-a-z0-9]*[a-z0-9])?";
const QUALIFIED: &str = "([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9]";

/// A DNS label of RFC 1123: container names, namespaces.
pub fn dns_label(value: &str) -> Vec<String> {
    let mut wrong = at_most(63, value);
    if value.contains('.') && value.split('.').all(is_label) {
        wrong.push("must not contain dots".to_owned());
    } else if !is_label(value) {
        let what = "a lowercase RFC 1123 label must consist of lower case alphanumeric characters or '-', and \
                    must start and end with an alphanumeric character";
        wrong.push(pattern(what, DNS_LABEL, &["my-name", "123-abc"]));
    }
    wrong
}

/// A DNS label of RFC 1035, which starts with a letter: service names.
pub fn dns1035_label(value: &str) -> Vec<String> {
    let mut wrong = at_most(63, value);
    if !is_label(value) || value.starts_with(|c: char| c.is_ascii_digit()) {
        let what = "a DNS-1035 label must consist of lower case alphanumeric characters or '-', start with an \
                    alphabetic character, and end with an alphanumeric character";
        wrong.push(pattern(what, "[a-z]([-a-z0-9]*[a-z0-9])?", &["my-name", "abc-123"]));
    }
    wrong
}

/// A DNS subdomain of RFC 1123: the names of most objects.
pub fn dns_subdomain(value: &str) -> Vec<String> {
    [at_most(253, value), no_subdomain(value)].concat()
}

fn no_subdomain(value: &str) -> Vec<String> {
    let mut wrong = Vec::new();
    if !value.split('.').all(is_label) {
        let what = "a lowercase RFC 1123 subdomain must consist of lower case alphanumeric characters, '-' or \
                    '.', and must start and end with an alphanumeric character";
        wrong.push(pattern(what, &format!("{DNS_LABEL}(\\.{DNS_LABEL})*"), &["example.com"]));
    }
    wrong
}

/// The same where underscores are taken, too: domains that resolvers search.
pub fn dns_subdomain_with_underscores(value: &str) -> Vec<String> {
    const LABEL: &str = "_?[a-z0-9]([-_a-z0-9]*[a-z0-9])?";
    let mut wrong = at_most(253, value);
    let good = |label: &str| {
        let rest = label.strip_prefix('_').unwrap_or(label);
        is_label(&rest.replace('_', "-"))
    };
    if !value.split('.').all(good) {
        let what = "a lowercase RFC 1123 subdomain must consist of lower case alphanumeric characters, '_', '-' or \
                    '.', and must start and end with an alphanumeric character";
        wrong.push(pattern(what, &format!("{LABEL}(\\.{LABEL})*"), &["example.com"]));
    }
    wrong
}

/// A DNS subdomain below which every name is meant: `*.example.com`.
pub fn wildcard_subdomain(value: &str) -> Vec<String> {
    let mut wrong = at_most(253, value);
    if !value.strip_prefix("*.").is_some_and(|rest| rest.split('.').all(is_label)) {
        let what = "a wildcard DNS-1123 subdomain must start with '*.', followed by a valid DNS subdomain, which \
                    must consist of lower case alphanumeric characters, '-' or '.' and end with an alphanumeric \
                    character";
        let expression = format!("\\*\\.{DNS_LABEL}(\\.{DNS_LABEL})*");
        wrong.push(pattern(what, &expression, &["*.example.com"]));
    }
    wrong
}

/// A domain of at least three parts: the names of webhooks.
pub fn fully_qualified(value: &str) -> Vec<String> {
    let wrong = dns_subdomain(value);
    if !wrong.is_empty() {
        return vec![wrong.join(",")];
    }
    match value.split('.').count() {
        0..3 => vec!["should be a domain with at least three segments separated by dots".to_owned()],
        _ => Vec::new(),
    }
}

/// A key of labels and annotations: `name` or `example.com/name`.
pub fn qualified_name(value: &str) -> Vec<String> {
    let what = || {
        let what = "must consist of alphanumeric characters, '-', '_' or '.', and must start and end with an \
                    alphanumeric character";
        pattern(what, QUALIFIED, &["MyName", "my.name", "123-abc"])
    };
    let mut wrong = Vec::new();
    let name = match value.split('/').collect::<Vec<_>>().as_slice() {
        [name] => *name,
        [prefix, name] => {
            if prefix.is_empty() {
                wrong.push("prefix part must be non-empty".to_owned());
            } else {
                let prefixed = [at_most_bytes(253, prefix), no_subdomain(prefix)].concat();
                wrong.extend(prefixed.into_iter().map(|w| format!("prefix part {w}")));
            }
            *name
        }
        _ => {
            return vec![format!(
                "a valid label key {} with an optional DNS subdomain prefix and '/' (e.g. 'example.com/MyName')",
                what()
            )];
        }
    };
    if name.is_empty() {
        wrong.push("name part must be non-empty".to_owned());
    }
    wrong.extend(at_most_bytes(63, name).into_iter().map(|w| format!("name part {w}")));
    if !is_qualified(name) {
        wrong.push(format!("name part {}", what()));
    }
    wrong
}

/// A label's value; empty is fine.
pub fn label_value(value: &str) -> Vec<String> {
    let mut wrong = at_most_bytes(63, value);
    if !value.is_empty() && !is_qualified(value) {
        let what = "a valid label must be an empty string or consist of alphanumeric characters, '-', '_' or '.', \
                    and must start and end with an alphanumeric character";
        wrong.push(pattern(what, &format!("({QUALIFIED})?"), &["MyValue", "my_value", "12345"]));
    }
    wrong
}

/// The reason of a condition of the common form.
pub fn condition_reason(value: &str) -> Vec<String> {
    let last = |b: u8| b.is_ascii_alphanumeric() || b == b'_';
    let bytes = value.as_bytes();
    let good = bytes.first().is_some_and(u8::is_ascii_alphabetic)
        && bytes.iter().all(|b| last(*b) || b",:".contains(b))
        && bytes.last().is_some_and(|b| last(*b));
    if good {
        return Vec::new();
    }
    let what = "a condition reason must start with alphabetic character, optionally followed by a string of \
                alphanumeric characters or '_,:', and must end with an alphanumeric character or '_'";
    let examples = ["my_name", "MY_NAME", "MyName", "ReasonA,ReasonB", "ReasonA:ReasonB"];
    vec![pattern(what, "[A-Za-z]([A-Za-z0-9_,:]*[A-Za-z0-9_])?", &examples)]
}

/// The name of an environment variable.
pub fn env_name(value: &str) -> Vec<String> {
    if value.is_empty() {
        return vec!["environment variable name must be non-empty".to_owned()];
    }
    if value.bytes().any(|b| !(b' '..=b'~').contains(&b) || b == b'=') {
        let what = "a valid environment variable name must consist only of printable ASCII characters other than '='";
        return vec![what.to_owned()];
    }
    Vec::new()
}

/// A key of a config map's or secret's data.
pub fn config_key(value: &str) -> Vec<String> {
    let mut wrong = at_most(253, value);
    let allowed = |b: u8| b.is_ascii_alphanumeric() || b"-._".contains(&b);
    if value.is_empty() || !value.bytes().all(allowed) {
        let what = "a valid config key must consist of alphanumeric characters, '-', '_' or '.'";
        wrong.push(pattern(what, "[-._a-zA-Z0-9]+", &["key.name", "KEY_NAME", "key-name"]));
    }
    match value {
        "." => wrong.push("must not be '.'".to_owned()),
        ".." => wrong.push("must not be '..'".to_owned()),
        _ if value.starts_with("..") => wrong.push("must not start with '..'".to_owned()),
        _ => {}
    }
    wrong
}

/// The name of a port of a container or of a service's target.
pub fn port_name(value: &str) -> Vec<String> {
    let mut wrong = at_most(15, value);
    if !value.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-') {
        wrong.push("must contain only alpha-numeric characters (a-z, 0-9), and hyphens (-)".to_owned());
    }
    if !value.bytes().any(|b| b.is_ascii_lowercase()) {
        wrong.push("must contain at least one letter (a-z)".to_owned());
    }
    if value.contains("--") {
        wrong.push("must not contain consecutive hyphens".to_owned());
    }
    if value.starts_with('-') || value.ends_with('-') {
        wrong.push("must not begin or end with a hyphen".to_owned());
    }
    wrong
}

/// The number of a port.
pub fn port_number(value: i64) -> Vec<String> {
    if (1..=65535).contains(&value) {
        return Vec::new();
    }
    vec!["must be between 1 and 65535, inclusive".to_owned()]
}

/// An object's name as a segment of a URL path, for kinds whose names are free otherwise.
pub fn path_segment(value: &str) -> Vec<String> {
    match value {
        "." | ".." => vec![format!("may not be '{value}'")],
        _ => ['/', '%']
            .iter()
            .filter(|c| value.contains(**c))
            .map(|c| format!("may not contain '{c}'"))
            .collect(),
    }
}

/// A path as HTTP knows it, after a domain.
pub fn http_path(value: &str) -> Vec<String> {
    let allowed = |b: u8| b.is_ascii_alphanumeric() || b"/-._~%!$&'()*+,;=:".contains(&b);
    if !value.is_empty() && value.bytes().all(allowed) {
        return Vec::new();
    }
    vec![pattern("Invalid path", r"[A-Za-z0-9/\-._~%!$&'()*+,;=:]+", &[])]
}

fn is_label(value: &str) -> bool {
    let inner = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-';
    !value.is_empty() && value.bytes().all(inner) && !value.starts_with('-') && !value.ends_with('-')
}

fn is_qualified(value: &str) -> bool {
    let inner = |b: u8| b.is_ascii_alphanumeric() || b"-_.".contains(&b);
    let outer = |b: Option<&u8>| b.is_some_and(u8::is_ascii_alphanumeric);
    let bytes = value.as_bytes();
    outer(bytes.first()) && outer(bytes.last()) && value.bytes().all(inner)
}

/// Kubernetes counts bytes whatever it says.
fn at_most(max: usize, value: &str) -> Vec<String> {
    if value.len() > max { vec![format!("must be no more than {max} characters")] } else { Vec::new() }
}

/// The same in the words for keys and values of labels.
fn at_most_bytes(max: usize, value: &str) -> Vec<String> {
    if value.len() > max { vec![format!("must be no more than {max} bytes")] } else { Vec::new() }
}

/// Kubernetes' words for a value that misses a regular expression.
fn pattern(what: &str, expression: &str, examples: &[&str]) -> String {
    if examples.is_empty() {
        return format!("{what} (regex used for validation is '{expression}')");
    }
    let examples: Vec<String> = examples.iter().map(|e| format!("'{e}', ")).collect();
    format!("{what} (e.g. {}regex used for validation is '{expression}')", examples.join(" or "))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn valid_and_invalid_values() {
        type Rule = fn(&str) -> Vec<String>;
        let long = "a".repeat(64);
        let rows: &[(Rule, &[&str], &[&str])] = &[
            (dns_label, &["a", "1", "my-name"], &["", "-a", "a-", "A", "a.b", "a_b", &long]),
            (dns1035_label, &["a1"], &["1a", "", "A"]),
            (dns_subdomain, &["a.b-c.1", &long], &["", "a..b", ".a", "a.", "A", "a_b"]),
            (dns_subdomain_with_underscores, &["_a._tcp.b", "a_b"], &["", "a_", "__a", "A"]),
            (qualified_name, &["a", "A_b.c-d", "x.io/A"], &["", "/a", "a/", "a/b/c", "X/a", "-a", &long]),
            (label_value, &["", "A", "1_2"], &["-", "a ", "ä", &long]),
            (condition_reason, &["A", "my_name", "A,B:c_"], &["", "1", "a b", "a:", "_a", "ä"]),
            (env_name, &["A", "a.b-c 1"], &["", "a=b", "ä", "a\n"]),
            (config_key, &["a", ".a", "_"], &["", ".", "..", "..a", "a/b"]),
            (wildcard_subdomain, &["*.a", "*.a.b"], &["*", "a.b", "*.*.a", "*a.b", "*."]),
            (fully_qualified, &["a.b.c"], &["", "a.b", "A.b.c"]),
            (port_name, &["http", "p1-a"], &["80", "-a", "a--b", "HTTP", "a-very-long-name"]),
            (path_segment, &["A b"], &[".", "..", "a/b", "a%"]),
            (http_path, &["a", "/a/b-c%20"], &["", "a b", "a?"]),
        ];
        for (rule, valid, invalid) in rows {
            for value in *valid {
                assert_eq!(rule(value), Vec::<String>::new(), "{value}");
            }
            for value in *invalid {
                assert_ne!(rule(value), Vec::<String>::new(), "{value}");
            }
        }
        assert!(port_number(0).len() + port_number(65536).len() == 2 && port_number(65535).is_empty());
    }

    #[test]
    fn the_words_are_those_of_kubernetes() {
        assert_eq!(
            dns_label("A"),
            [
                "a lowercase RFC 1123 label must consist of lower case alphanumeric characters or '-', and must \
              start and end with an alphanumeric character (e.g. 'my-name',  or '123-abc', regex used for \
              validation is '[a-z0-9]([-a-z0-9]*[a-z0-9])?')"
            ]
        );
        assert_eq!(dns_label("a.b"), ["must not contain dots"]);
        let long = "a".repeat(254);
        assert_eq!(dns_subdomain(&long), ["must be no more than 253 characters"]);
        assert_eq!(label_value(&long), ["must be no more than 63 bytes"]);
        assert_eq!(
            qualified_name(&format!("{long}/{long}")),
            ["prefix part must be no more than 253 bytes", "name part must be no more than 63 bytes"]
        );
    }
}
