//! Query parameters, and the options of requests made from them.

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

    /// Whether a parameter is there and not `0` or `false`.
    pub fn flag(&self, name: &str) -> bool {
        self.0.iter().any(|(n, value)| n == name && !matches!(value.as_str(), "0" | "false"))
    }

    fn number<T: std::str::FromStr>(&self, name: &str) -> Result<Option<T>, Status> {
        let text = self.text(name);
        if text.is_empty() {
            return Ok(None);
        }
        text.parse().map(Some).map_err(|_| {
            Status::bad_request(format!("strconv.ParseInt: parsing {text:?}: invalid syntax for {name}"))
        })
    }

    fn dry_run(&self) -> Value {
        self.all("dryRun").filter(|stage| !stage.is_empty()).collect()
    }

    /// Selection and paging.
    pub fn list(&self) -> Result<ListOptions, Status> {
        Ok(ListOptions {
            label_selector: self.text("labelSelector").to_owned(),
            field_selector: self.text("fieldSelector").to_owned(),
            limit: self.number("limit")?.unwrap_or(0),
            continue_token: self.text("continue").to_owned(),
            resource_version: self.text("resourceVersion").to_owned(),
            resource_version_match: self.text("resourceVersionMatch").to_owned(),
            send_initial_events: !self.text("sendInitialEvents").is_empty(),
        })
    }

    /// Those of a watch.
    pub fn watch(&self) -> Result<WatchOptions, Status> {
        Ok(WatchOptions {
            list: self.list()?,
            bookmarks: self.flag("allowWatchBookmarks"),
            initial_events: (!self.text("sendInitialEvents").is_empty())
                .then(|| self.flag("sendInitialEvents")),
            timeout_seconds: self.number("timeoutSeconds")?.filter(|s| *s > 0),
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
        if !apply && !self.text("force").is_empty() {
            let error = FieldError::forbidden("force", "may not be specified for non-apply patch");
            return Err(Status::invalid("meta.k8s.io", OF, "", &[error]));
        }
        self.write(OF)
    }

    /// Those of a delete, which a body may hold too; the body wins where it speaks.
    pub fn delete(&self, body: Value) -> Result<DeleteOptions, Status> {
        let stages = self.dry_run();
        if let Some(error) = structure::wrong_dry_run(&stages) {
            return Err(Status::invalid("meta.k8s.io", "DeleteOptions", "", &[error]));
        }
        let query = |name: &str| Some(self.text(name).to_owned()).filter(|s| !s.is_empty());
        let orphan = || {
            let given = query("orphanDependents").map(|_| self.flag("orphanDependents"));
            given.map(|orphan| if orphan { "Orphan" } else { "Background" }.to_owned())
        };
        let (policy, orphan) = (query("propagationPolicy"), orphan());
        if let (Some(policy), Some(_)) = (&policy, &orphan) {
            let error = structure::both_set(&Value::from(policy.as_str()));
            return Err(Status::invalid("meta.k8s.io", "DeleteOptions", "", &[error]));
        }
        let given = structure::delete_options(body)?;
        Ok(DeleteOptions {
            grace_period_seconds: match given.grace_period_seconds {
                None => self.number("gracePeriodSeconds")?,
                seconds => seconds,
            },
            propagation_policy: given.propagation_policy.or(policy).or(orphan),
            dry_run: given.dry_run || structure::is_dry_run(&stages),
            ..given
        })
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
        assert_eq!(Query::parse("limit=x").list().unwrap_err().code, 400);
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
        assert_eq!(Query::parse("dryRun=x").delete(Value::Null).unwrap_err().code, 422);
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
    fn delete_options_come_from_body_and_query() {
        let query = Query::parse("gracePeriodSeconds=0&propagationPolicy=Foreground");
        let options = query.delete(json!({"preconditions": {"uid": "u"}, "gracePeriodSeconds": 5})).unwrap();
        assert_eq!(options.grace_period_seconds, Some(5));
        assert_eq!(options.precondition_uid.as_deref(), Some("u"));
        assert_eq!(options.propagation_policy.as_deref(), Some("Foreground"));
        assert_eq!(query.delete(json!(null)).unwrap().grace_period_seconds, Some(0));
        assert_eq!(
            query.delete(json!({"orphanDependents": true, "propagationPolicy": "Orphan"})).unwrap_err().code,
            422
        );
    }
}
