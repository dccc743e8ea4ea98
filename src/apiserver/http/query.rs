//! Query parameters, and the options of requests made from them.

use std::num::{IntErrorKind, ParseIntError};

use serde_json::{Value, json};

use crate::api::request::{DeleteOptions, FieldValidation, ListOptions, WatchOptions, WriteOptions};
use crate::api::status::{FieldError, Status};
use crate::apiserver::structure;

/// The most bytes of the name of a field manager.
const MANAGER_BYTES: usize = 128;

/// The parameters of a request, decoded, in their order.
#[derive(Debug, Default)]
pub struct Query(Vec<(String, String)>);

/// Undoes percent-encoding in a segment of a path.
pub fn decode_path(text: &str) -> String {
    decode(text, false)
}

fn decode(text: &str, form: bool) -> String {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let Some((&first, after)) = rest.split_first() {
        let escaped = |pair: &[u8]| {
            let digit = |b: u8| char::from(b).to_digit(16).and_then(|d| u8::try_from(d).ok());
            Some(digit(pair[0])? * 16 + digit(pair[1])?)
        };
        rest = after;
        match first {
            b'+' if form => bytes.push(b' '),
            b'%' if after.len() >= 2 => match escaped(&after[..2]) {
                Some(byte) => {
                    bytes.push(byte);
                    rest = &after[2..];
                }
                None => bytes.push(first),
            },
            other => bytes.push(other),
        }
    }
    String::from_utf8_lossy(&bytes).into_owned()
}

impl Query {
    /// Reads what stands after `?`.
    pub fn parse(text: &str) -> Query {
        let pair = |part: &str| {
            let (name, value) = part.split_once('=').unwrap_or((part, ""));
            (decode(name, true), decode(value, true))
        };
        Query(text.split('&').filter(|p| !p.is_empty()).map(pair).collect())
    }

    /// The first value of a parameter; empty when absent.
    pub fn text(&self, name: &str) -> &str {
        self.0.iter().find(|(n, _)| n == name).map_or("", |(_, value)| value)
    }

    /// All values of a parameter; none when absent.
    pub fn all<'a>(&'a self, name: &str) -> impl Iterator<Item = &'a str> + use<'a> {
        let found: Vec<&str> = self.0.iter().filter(|(n, _)| n == name).map(|(_, v)| v.as_str()).collect();
        found.into_iter()
    }

    /// The first value of a parameter that is there.
    fn given(&self, name: &str) -> Option<&str> {
        self.0.iter().find(|(n, _)| n == name).map(|(_, value)| value.as_str())
    }

    /// Whether a parameter is there and not `0` or `false`.
    pub fn flag(&self, name: &str) -> bool {
        self.given(name).is_some_and(|value| value != "0" && !value.eq_ignore_ascii_case("false"))
    }

    fn number(&self, name: &str) -> Result<Option<i64>, Status> {
        let Some(text) = self.given(name) else { return Ok(None) };
        text.parse().map(Some).map_err(|error: ParseIntError| {
            let why = match error.kind() {
                IntErrorKind::PosOverflow | IntErrorKind::NegOverflow => "value out of range",
                _ => "invalid syntax",
            };
            Status::bad_request(format!("strconv.ParseInt: parsing {text:?}: {why}"))
        })
    }

    fn dry_run(&self) -> Value {
        self.all("dryRun").filter(|stage| !stage.is_empty()).collect()
    }

    /// Selection and paging.
    pub fn list(&self) -> Result<ListOptions, Status> {
        self.number("timeoutSeconds")?;
        Ok(ListOptions {
            label_selector: self.text("labelSelector").to_owned(),
            field_selector: self.text("fieldSelector").to_owned(),
            // What is less than none is no limit.
            limit: self.number("limit")?.and_then(|limit| usize::try_from(limit).ok()).unwrap_or(0),
            continue_token: self.text("continue").to_owned(),
            resource_version: self.text("resourceVersion").to_owned(),
            resource_version_match: self.text("resourceVersionMatch").to_owned(),
            send_initial_events: self.given("sendInitialEvents").is_some(),
        })
    }

    /// Those of a watch.
    pub fn watch(&self) -> Result<WatchOptions, Status> {
        Ok(WatchOptions {
            list: self.list()?,
            bookmarks: self.flag("allowWatchBookmarks"),
            initial_events: self.given("sendInitialEvents").map(|_| self.flag("sendInitialEvents")),
            timeout_seconds: self
                .number("timeoutSeconds")?
                .and_then(|seconds| u64::try_from(seconds).ok())
                .filter(|seconds| *seconds > 0),
        })
    }

    /// Those of a write; `of` is the kind of the options, which errors name: `CreateOptions`.
    pub fn write(&self, of: &str) -> Result<WriteOptions, Status> {
        let (manager, stages) = (self.text("fieldManager"), self.dry_run());
        let mut errors = Vec::new();
        if manager.len() > MANAGER_BYTES {
            errors.push(FieldError::too_long("fieldManager", MANAGER_BYTES));
        }
        errors.extend(unprintable(manager));
        errors.extend(structure::wrong_dry_run(&stages));
        let field_validation = match self.text("fieldValidation") {
            "" | "Warn" => FieldValidation::Warn,
            "Strict" => FieldValidation::Strict,
            "Ignore" => FieldValidation::Ignore,
            other => {
                let allowed = ["", "Ignore", "Strict", "Warn"];
                errors.push(FieldError::not_supported("fieldValidation", &json!(other), &allowed));
                FieldValidation::default()
            }
        };
        if !errors.is_empty() {
            return Err(Status::invalid("meta.k8s.io", of, "", &errors));
        }
        Ok(WriteOptions {
            dry_run: structure::is_dry_run(&stages),
            field_validation,
            duplicates: Vec::new(),
            field_manager: (!manager.is_empty()).then(|| manager.to_owned()),
            force: self.flag("force"),
        })
    }

    /// Those of a patch; `force` is for server-side apply alone.
    pub fn patch(&self, apply: bool) -> Result<WriteOptions, Status> {
        const OF: &str = "PatchOptions";
        if apply && self.text("fieldManager").is_empty() {
            let error = FieldError::required("fieldManager", "is required for apply patch");
            return Err(Status::invalid("meta.k8s.io", OF, "", &[error]));
        }
        if !apply && self.given("force").is_some() {
            let error = FieldError::forbidden("force", "may not be specified for non-apply patch");
            return Err(Status::invalid("meta.k8s.io", OF, "", &[error]));
        }
        self.write(OF)
    }

    /// Those of a delete; where it has a body, that body alone counts.
    pub fn delete(&self, body: Option<Value>) -> Result<DeleteOptions, Status> {
        if let Some(body) = body {
            return structure::delete_options(body);
        }
        let mut options = json!({"dryRun": self.dry_run()});
        let mut set = |name: &str, value: Option<Value>| {
            if let Some(value) = value {
                options[name] = value;
            }
        };
        set("gracePeriodSeconds", self.number("gracePeriodSeconds")?.map(Value::from));
        set("propagationPolicy", self.given("propagationPolicy").map(Value::from));
        set("orphanDependents", self.given("orphanDependents").map(|_| self.flag("orphanDependents").into()));
        set("preconditions", self.given("uid").map(|uid| json!({ "uid": uid })));
        structure::delete_options(options)
    }
}

/// The manager of what a client writes that names none: what its user agent begins with.
pub fn agent_manager(user_agent: &str) -> String {
    let program = user_agent.split('/').next().unwrap_or_default();
    let mut name = String::new();
    for letter in program.chars().filter(|c| is_printable(*c)) {
        if name.len() + letter.len_utf8() > MANAGER_BYTES {
            break;
        }
        name.push(letter);
    }
    if name.is_empty() { "unknown".to_owned() } else { name }
}

/// What is wrong with letters of a manager's name.
fn unprintable(manager: &str) -> Vec<FieldError> {
    let wrong = manager.char_indices().filter(|(_, c)| !is_printable(*c));
    let error = |(at, c): (usize, char)| {
        let detail = format!("invalid character U+{:04X} (at position {at})", u32::from(c));
        FieldError::invalid("fieldManager", &json!(manager), &detail)
    };
    wrong.map(error).collect()
}

/// Whether a letter shows: no control, no space but the plain one, no mark of direction or width.
fn is_printable(letter: char) -> bool {
    let invisible = ['\u{ad}', '\u{feff}'].contains(&letter)
        || matches!(letter, '\u{200b}'..='\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2060}'..='\u{206f}')
        || matches!(letter, '\u{e000}'..='\u{f8ff}' | '\u{fff0}'..='\u{fffb}');
    letter == ' ' || !(letter.is_control() || letter.is_whitespace() || invisible)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parameters_are_decoded() {
        let query = Query::parse("labelSelector=a%3Db%2Cc&fieldSelector=x+y&limit=5&watch&bad=%zz");
        assert_eq!(query.text("labelSelector"), "a=b,c");
        assert_eq!(query.text("fieldSelector"), "x y");
        assert_eq!(query.text("bad"), "%zz");
        assert!(query.flag("watch"));
        assert_eq!(query.list().unwrap().limit, 5);
        for (query, told) in [
            ("limit=x", "strconv.ParseInt: parsing \"x\": invalid syntax"),
            ("limit=", "strconv.ParseInt: parsing \"\": invalid syntax"),
            ("timeoutSeconds=1s", "strconv.ParseInt: parsing \"1s\": invalid syntax"),
            (
                "limit=9223372036854775808",
                "strconv.ParseInt: parsing \"9223372036854775808\": value out of range",
            ),
        ] {
            let refused = Query::parse(query).list().unwrap_err();
            assert_eq!((refused.code, refused.message.as_str()), (400, told));
        }
        assert_eq!(Query::parse("limit=-1").list().unwrap().limit, 0);
        assert!(!Query::parse("watch=False&watch=1").flag("watch"));
    }

    #[test]
    fn options_that_are_wrong_are_named() {
        for (query, error) in [
            (
                "dryRun=Some",
                "CreateOptions.meta.k8s.io \"\" is invalid: dryRun: Unsupported value: [\"Some\"]: supported values: \
                 \"All\"",
            ),
            (
                "fieldValidation=Lax",
                "CreateOptions.meta.k8s.io \"\" is invalid: fieldValidation: Unsupported value: \"Lax\": supported \
                 values: \"\", \"Ignore\", \"Strict\", \"Warn\"",
            ),
        ] {
            let refused = Query::parse(query).write("CreateOptions").unwrap_err();
            assert_eq!((refused.code, refused.message.as_str()), (422, error));
        }
        let long = format!("fieldManager={}", "x".repeat(129));
        assert_eq!(Query::parse(&long).write("UpdateOptions").unwrap_err().code, 422);
        assert!(Query::parse("dryRun=All").write("UpdateOptions").unwrap().dry_run);
        assert_eq!(
            Query::parse("force=true").patch(false).unwrap_err().message,
            "PatchOptions.meta.k8s.io \"\" is invalid: force: Forbidden: may not be specified for non-apply patch"
        );
        assert!(Query::parse("force=true&fieldManager=m").patch(true).unwrap().force);
        assert_eq!(
            Query::parse("force=true").patch(true).unwrap_err().message,
            "PatchOptions.meta.k8s.io \"\" is invalid: fieldManager: Required value: is required for apply patch"
        );
        assert_eq!(
            Query::parse("fieldManager=a%07").write("CreateOptions").unwrap_err().message,
            "CreateOptions.meta.k8s.io \"\" is invalid: fieldManager: Invalid value: \"a\\u0007\": invalid character \
             U+0007 (at position 1)"
        );
        assert_eq!(Query::parse("dryRun=x").delete(None).unwrap_err().code, 422);
    }

    #[test]
    fn managers_are_named_by_user_agents() {
        for (agent, manager) in [
            ("kubectl/v1.37.0 (linux/amd64) kubernetes/abc", "kubectl"),
            ("Mozilla", "Mozilla"),
            ("a\tb c/1", "ab c"),
            ("", "unknown"),
            ("/1", "unknown"),
        ] {
            assert_eq!(agent_manager(agent), manager);
        }
        assert_eq!(agent_manager(&"ä".repeat(100)).len(), 128);
    }

    #[test]
    fn delete_options_come_from_the_body_or_the_query() {
        let query = Query::parse("gracePeriodSeconds=0&propagationPolicy=Foreground&uid=v");
        let body = json!({"preconditions": {"uid": "u"}, "gracePeriodSeconds": 5});
        let options = query.delete(Some(body)).unwrap();
        assert_eq!(options.grace_period_seconds, Some(5));
        assert_eq!(options.precondition_uid.as_deref(), Some("u"));
        assert_eq!(options.propagation_policy, None);
        let options = query.delete(None).unwrap();
        assert_eq!(options.grace_period_seconds, Some(0));
        assert_eq!(options.precondition_uid.as_deref(), Some("v"));
        assert_eq!(options.propagation_policy.as_deref(), Some("Foreground"));
        assert_eq!(
            Query::parse("orphanDependents=false").delete(None).unwrap().propagation_policy.as_deref(),
            Some("Background")
        );
        assert_eq!(Query::parse("gracePeriodSeconds=x").delete(None).unwrap_err().code, 400);
        let both = json!({"orphanDependents": true, "propagationPolicy": "Orphan"});
        assert_eq!(query.delete(Some(both)).unwrap_err().code, 422);
    }
}
