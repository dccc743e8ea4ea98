//! `Warning` headers: what the user should know though the request is answered.
//!
//! Bounds are those of k8s.io/apiserver `pkg/endpoints/filters/warning.go`: clients have small buffers for headers.

use std::collections::HashSet;

use hyper::header::{HeaderName, HeaderValue};

use crate::apiserver::answer::Body;

/// Characters of all warnings together; beyond, each is cut.
const ALL_CHARACTERS: usize = 4 * 1024;
/// Characters of each warning once they are cut.
const ITEM_CHARACTERS: usize = 256;

/// Adds warnings to an answer.
pub fn add(response: &mut http::Response<Body>, warnings: &[String]) {
    for warning in bounded(warnings) {
        let plain = |c: char| if c.is_control() { ' ' } else { c };
        let text: String = warning.chars().map(plain).collect();
        let text = text.replace('\\', "\\\\").replace('"', "\\\"");
        // Bytes, as a header may hold UTF-8 though not by its text form.
        if let Ok(value) = HeaderValue::from_bytes(format!("299 - \"{text}\"").as_bytes()) {
            response.headers_mut().append(HeaderName::from_static("warning"), value);
        }
    }
}

/// Each warning once; all of them whole when they fit, else each cut and as many as fit then.
fn bounded(warnings: &[String]) -> Vec<&str> {
    let mut seen = HashSet::new();
    let all: Vec<&str> =
        warnings.iter().map(String::as_str).filter(|w| !w.is_empty() && seen.insert(*w)).collect();
    if all.iter().map(|w| w.chars().count()).sum::<usize>() <= ALL_CHARACTERS {
        return all;
    }
    let mut written = 0;
    let cut =
        |warning: &'_ str| warning.char_indices().nth(ITEM_CHARACTERS).map_or(warning.len(), |(at, _)| at);
    all.into_iter()
        .map(|warning| &warning[..cut(warning)])
        .take_while(|warning| {
            let fits = written < ALL_CHARACTERS;
            written += warning.chars().count();
            fits
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::apiserver::answer;

    #[test]
    fn warnings_are_told_once_and_not_without_end() {
        let of = |texts: &[&str]| texts.iter().map(|t| (*t).to_owned()).collect::<Vec<_>>();
        assert_eq!(bounded(&of(&["a", "", "b", "a"])), ["a", "b"]);
        let long = "ä".repeat(300);
        assert_eq!(bounded(std::slice::from_ref(&long)), [long.as_str()]);
        let many: Vec<String> = (0..100).map(|n| format!("{n:03}{long}")).collect();
        let told = bounded(&many);
        assert_eq!(told.len(), ALL_CHARACTERS / ITEM_CHARACTERS);
        assert!(told.iter().all(|w| w.chars().count() == ITEM_CHARACTERS));
    }

    #[test]
    fn any_text_makes_a_header() {
        let mut response = http::Response::new(answer::full(""));
        add(&mut response, &["a \"b\" \\ c\nd".to_owned(), "größer".to_owned()]);
        let headers: Vec<&[u8]> =
            response.headers().get_all("warning").iter().map(HeaderValue::as_bytes).collect();
        assert_eq!(headers, [&b"299 - \"a \\\"b\\\" \\\\ c d\""[..], "299 - \"größer\"".as_bytes()]);
    }
}
