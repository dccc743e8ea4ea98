//! Variables in annotations, as nginx writes them: `$name`, `${name}`, and `$1` for what an expression found (pure).

/// Those of a request that are known by name.
const OF_REQUEST: &[&str] = &[
    "args",
    "binary_remote_addr",
    "escaped_request_uri",
    "host",
    "http_host",
    "query_string",
    "remote_addr",
    "request_method",
    "request_uri",
    "scheme",
    "uri",
];

/// Whether a variable of a request is known: also its headers, cookies and parameters.
pub fn is_of_request(name: &str) -> bool {
    let parts = ["http_", "cookie_", "arg_"];
    OF_REQUEST.contains(&name) || parts.iter().any(|part| name.len() > part.len() && name.starts_with(part))
}

/// The first variable of a text that is not known.
pub fn unknown(text: &str, known: impl Fn(&str) -> bool) -> Option<&str> {
    parts(text).into_iter().find_map(|(_, name)| name.filter(|name| !known(name)))
}

/// The text with its variables replaced; those without a value stand as they are.
pub fn filled(text: &str, value: impl Fn(&str) -> Option<String>) -> String {
    let fill = |(part, name): (&str, Option<&str>)| name.and_then(&value).unwrap_or_else(|| part.to_owned());
    parts(text).into_iter().map(fill).collect()
}

/// The pieces of a text, each as it was written; those that are variables with their names.
fn parts(mut text: &str) -> Vec<(&str, Option<&str>)> {
    let mut parts = Vec::new();
    while let Some(at) = text.find('$') {
        let (plain, rest) = text.split_at(at);
        let (variable, name) = variable(rest);
        parts.extend([(plain, None), (variable, name)]);
        text = &rest[variable.len()..];
    }
    parts.push((text, None));
    parts
}

/// What a text that begins with `$` begins with.
fn variable(text: &str) -> (&str, Option<&str>) {
    let is_word = |c: char| c.is_ascii_alphanumeric() || c == '_';
    let braced = text[1..].strip_prefix('{').and_then(|rest| rest.split_once('}'));
    if let Some((name, _)) = braced.filter(|(name, _)| !name.is_empty() && name.chars().all(is_word)) {
        return (&text[..name.len() + 3], Some(name));
    }
    let length = match text[1..].starts_with(|c: char| c.is_ascii_digit()) {
        true => 1,
        false => text[1..].find(|c| !is_word(c)).unwrap_or(text.len() - 1),
    };
    (&text[..=length], Some(&text[1..=length]).filter(|name| !name.is_empty()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn variables_are_found_and_filled() {
        for (text, is, other) in [
            ("https://b.example/x", "https://b.example/x", None),
            ("https://$host$uri", "https://<host><uri>", None),
            ("${host}s", "<host>s", None),
            ("$hosts/$", "$hosts/$", Some("hosts")),
            ("/a$1$23/${2}", "/a<1><2>3/<2>", None),
            ("${ho st}${}$$host", "${ho st}${}$<host>", None),
            ("$$", "$$", None),
            ("é$hosté", "é<host>é", None),
        ] {
            let known = |name: &str| is_of_request(name) || name == "1" || name == "2";
            let value = |name: &str| known(name).then(|| format!("<{name}>"));
            assert_eq!(filled(text, value), is, "{text}");
            assert_eq!(unknown(text, known), other, "{text}");
        }
    }
}
