//! Get and list, with Kubernetes' rules about revisions and pages.

use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use base64::{DecodeError, Engine};
use serde::{Deserialize, Serialize};

use std::sync::Arc;

use super::selection::Selection;
use super::{Place, Registry, as_served, internal};
use crate::api::kinds::Kind;
use crate::api::request::{ListOptions, Response};
use crate::api::status::{Cause, FieldError, Status};
use crate::api::syntax;
use crate::store::{self, Entry, Revision, Snapshot};

/// How many objects are looked at at a time for a page of those that are selected.
const FILTERED_PAGE: usize = 500;

/// Where a page ended; its JSON in base64 is the `continue` token.
#[derive(Debug, PartialEq, Default, Serialize, Deserialize)]
#[serde(default)]
struct Continuation {
    v: String,
    /// The revision that all pages show; -1 for "whatever is current", after the first pages expired.
    rv: i64,
    /// The last key given, relative to the collection's prefix.
    start: String,
}

const CONTINUATION_VERSION: &str = "meta.k8s.io/v1";

impl Continuation {
    fn encode(revision: i64, start: &str) -> String {
        let token = Continuation { v: CONTINUATION_VERSION.into(), rv: revision, start: start.into() };
        URL_SAFE_NO_PAD.encode(serde_json::to_vec(&token).unwrap_or_default())
    }

    fn decode(token: &str) -> Result<Continuation, Status> {
        let invalid = |why: &str| {
            Status::bad_request(format!("invalid continue token: continue key is not valid: {why}"))
        };
        let bytes = URL_SAFE_NO_PAD.decode(token).map_err(|e| {
            let at = match e {
                DecodeError::InvalidByte(at, _) | DecodeError::InvalidLastSymbol(at, _) => at,
                // Go points at the letter that is too much.
                DecodeError::InvalidLength(length) => length.saturating_sub(1),
                DecodeError::InvalidPadding => token.len(),
            };
            invalid(&format!("illegal base64 data at input byte {at}"))
        })?;
        let parsed: Continuation = serde_json::from_slice(&bytes)
            .map_err(|e| invalid(&syntax::complaint(&bytes).unwrap_or_else(|| e.to_string())))?;
        match parsed.v.as_str() {
            CONTINUATION_VERSION if parsed.rv == 0 => {
                Err(invalid("incorrect encoded start resourceVersion (version meta.k8s.io/v1)"))
            }
            CONTINUATION_VERSION if parsed.start.is_empty() => {
                Err(invalid("encoded start key empty (version meta.k8s.io/v1)"))
            }
            CONTINUATION_VERSION if parsed.start.split('/').any(|part| part == "." || part == "..") => {
                Err(invalid(&parsed.start))
            }
            CONTINUATION_VERSION => Ok(parsed),
            other => Err(invalid(&format!("server does not recognize this encoded version {other}"))),
        }
    }
}

/// What a list must show.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum View {
    Newest,
    NotOlderThan(Revision),
    Exactly(Revision),
}

/// A revision as clients send it; empty is `None`. That it is none is told without a reason.
pub(super) fn revision(text: &str) -> Result<Option<Revision>, Status> {
    parsed(text).map_err(|why| Status::failure(500, "", why))
}

fn parsed(text: &str) -> Result<Option<Revision>, String> {
    if text.is_empty() {
        return Ok(None);
    }
    text.parse().map(Some).map_err(|_| {
        let why = format!("strconv.ParseUint: parsing {text:?}: invalid syntax");
        FieldError::invalid("resourceVersion", &text.into(), &why).to_string()
    })
}

/// What a request with list options is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Asked {
    /// A list.
    List,
    /// A watch.
    Watch,
    /// A watch with `sendInitialEvents`, whether or not they are wanted.
    StreamedWatch,
}

/// What is wrong with how a list or a watch combines revisions, matches and pages (apimachinery
/// `pkg/apis/meta/internalversion/validation`).
fn wrong_options(options: &ListOptions, asked: Asked) -> Vec<FieldError> {
    const MATCH: &str = "resourceVersionMatch";
    let matching = options.resource_version_match.as_str();
    let mut errors = Vec::new();
    let mut forbid = |field: &str, detail: &str| errors.push(FieldError::forbidden(field, detail));
    let (watch, streamed) = (asked != Asked::List, asked == Asked::StreamedWatch);
    if streamed && matching != "NotOlderThan" {
        forbid(MATCH, "sendInitialEvents requires setting resourceVersionMatch to NotOlderThan");
    }
    if !matching.is_empty() {
        if watch && !streamed {
            forbid(MATCH, "resourceVersionMatch is forbidden for watch unless sendInitialEvents is provided");
        }
        if !watch && options.resource_version.is_empty() {
            forbid(MATCH, "resourceVersionMatch is forbidden unless resourceVersion is provided");
        }
        let after_value = |errors: &mut Vec<FieldError>| {
            if !options.continue_token.is_empty() {
                let detail = "resourceVersionMatch is forbidden when continue is provided";
                errors.push(FieldError::forbidden(MATCH, detail));
            }
        };
        let known: &[&str] = if watch { &["NotOlderThan"] } else { &["Exact", "NotOlderThan", ""] };
        let unknown = || FieldError::not_supported(MATCH, &matching.into(), known);
        // The order is that of Kubernetes' messages.
        if watch {
            errors.extend((!known.contains(&matching)).then(unknown));
            after_value(&mut errors);
        } else {
            after_value(&mut errors);
            errors.extend((!known.contains(&matching)).then(unknown));
            if (matching, options.resource_version.as_str()) == ("Exact", "0") {
                let detail = "resourceVersionMatch \"exact\" is forbidden for resourceVersion \"0\"";
                errors.push(FieldError::forbidden(MATCH, detail));
            }
        }
    }
    if options.send_initial_events && !watch {
        errors.push(FieldError::forbidden("sendInitialEvents", "sendInitialEvents is forbidden for list"));
    }
    errors
}

/// Refuses what [`wrong_options`] finds.
pub(super) fn check_options(options: &ListOptions, asked: Asked) -> Result<(), Status> {
    let errors = wrong_options(options, asked);
    if errors.is_empty() { Ok(()) } else { Err(Status::invalid("meta.k8s.io", "ListOptions", "", &errors)) }
}

/// What a list must show (k8s.io/apiserver `pkg/storage`).
fn view(options: &ListOptions) -> Result<View, Status> {
    if !options.continue_token.is_empty() {
        return match options.resource_version.as_str() {
            "" | "0" => Ok(View::Newest),
            _ => Err(Status::bad_request("specifying resource version is not allowed when using continue")),
        };
    }
    let asked = parsed(&options.resource_version)
        .map_err(|why| Status::bad_request(format!("invalid resource version: {why}")))?
        .filter(|revision| *revision > 0);
    match (options.resource_version_match.as_str(), asked) {
        (_, None) => Ok(View::Newest),
        ("", Some(revision)) if options.limit > 0 => Ok(View::Exactly(revision)),
        ("Exact", Some(revision)) => Ok(View::Exactly(revision)),
        (_, Some(revision)) => Ok(View::NotOlderThan(revision)),
    }
}

/// 504: the client has seen a revision that this server has not.
pub(super) fn too_large(asked: Revision, newest: Revision) -> Status {
    let message = format!("Too large resource version: {asked}, current: {newest}");
    let mut status = Status::failure(504, "Timeout", format!("Timeout: {message}"));
    let details = status.details.get_or_insert_default();
    details.retry_after_seconds = 1;
    details.causes.push(Cause {
        reason: "ResourceVersionTooLarge".into(),
        message: "Too large resource version".into(),
        field: String::new(),
    });
    status
}

impl Registry {
    /// Reads one object, not older than `resource_version`.
    pub fn get(&self, place: Place<'_>, resource_version: &str) -> Result<Arc<Entry>, Status> {
        self.check_reached(revision(resource_version)?)?;
        Ok(as_served(place.kind, self.find(place)?))
    }

    fn check_reached(&self, asked: Option<Revision>) -> Result<(), Status> {
        match (asked, self.store.revision()) {
            (Some(asked), newest) if asked > newest => Err(too_large(asked, newest)),
            _ => Ok(()),
        }
    }

    /// Reads a collection, or a page of it.
    pub fn list(
        &self,
        kind: &Arc<Kind>,
        namespace: Option<&str>,
        options: &ListOptions,
    ) -> Result<Response, Status> {
        check_options(options, Asked::List)?;
        let selection = Selection::new(kind, namespace, None, options)?;
        let collection = kind.prefix(namespace);
        let continued = match options.continue_token.as_str() {
            "" => None,
            token => Some(Continuation::decode(token)?),
        };
        let mut at = match view(options)? {
            View::Newest => None,
            View::NotOlderThan(revision) => {
                self.check_reached(Some(revision))?;
                None
            }
            View::Exactly(revision) => {
                self.check_reached(Some(revision))?;
                Some(revision)
            }
        };
        let mut after = None;
        if let Some(token) = continued {
            at = Revision::try_from(token.rv).ok();
            after = Some(format!("{collection}{}", token.start));
        }
        let found = self.page(&selection, after.as_deref(), options.limit, at);
        let (mut snapshot, more) = match found {
            Err(store::Error::Compacted { .. }) => {
                let start = after.as_deref().and_then(|a| a.strip_prefix(&collection));
                return Err(expired_page(start));
            }
            other => other.map_err(internal)?,
        };
        let continue_token = match snapshot.entries.last() {
            Some(last) if more => {
                let start = last.key.strip_prefix(&collection).unwrap_or(&last.key);
                Continuation::encode(i64::try_from(snapshot.revision).unwrap_or(-1), start)
            }
            _ => String::new(),
        };
        snapshot.entries = snapshot.entries.into_iter().map(|e| as_served(kind, e)).collect();
        Ok(Response::List { snapshot, continue_token })
    }

    /// Selected entries after a key, and whether more may follow. Pages of a filtered list are filled by
    /// reading on, all at the revision of the first read.
    fn page(
        &self,
        selection: &Selection,
        after: Option<&str>,
        limit: usize,
        at: Option<Revision>,
    ) -> Result<(Snapshot, bool), store::Error> {
        let prefix = selection.prefix();
        // Few may be selected: how much is read at a time must not depend on how few are wanted.
        let step = if limit == 0 || selection.is_everything() { limit } else { limit.max(FILTERED_PAGE) };
        let mut page = self.store.list(&prefix, after, step, at)?;
        if selection.is_everything() {
            let more = page.remaining > 0;
            return Ok((page, more));
        }
        let revision = page.revision;
        let mut selected = Vec::new();
        loop {
            let last = page.entries.last().map(|e| e.key.clone());
            let more = page.remaining > 0;
            for (i, entry) in page.entries.iter().enumerate() {
                if selection.matches(entry) {
                    selected.push(entry.clone());
                    if limit > 0 && selected.len() == limit {
                        let more = more || i + 1 < page.entries.len();
                        return Ok((Snapshot { revision, entries: selected, remaining: 0 }, more));
                    }
                }
            }
            match last {
                Some(last) if more => page = self.store.list(&prefix, Some(&last), step, Some(revision))?,
                _ => return Ok((Snapshot { revision, entries: selected, remaining: 0 }, false)),
            }
        }
    }
}

/// 410, with a token that goes on from the same place at whatever is current.
fn expired_page(start: Option<&str>) -> Status {
    let Some(start) = start else {
        return Status::expired("The resourceVersion for the provided list is too old.");
    };
    let mut status = Status::expired(
        "The provided continue parameter is too old to display a consistent list result. You can start a new \
         list without the continue parameter, or use the continue token in this response to retrieve the \
         remainder of the results. Continuing with the provided token results in an inconsistent list - objects \
         that were created, modified, or deleted between the time the first chunk was returned and now may show \
         up in the list.",
    );
    status.metadata.insert("continue".into(), Continuation::encode(-1, start).into());
    status
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn revisions_and_matches_combine_as_in_kubernetes() {
        let list = |version: &str, matching: &str, limit: usize, token: &str| {
            let options = ListOptions {
                resource_version: version.into(),
                resource_version_match: matching.into(),
                limit,
                continue_token: token.into(),
                ..ListOptions::default()
            };
            check_options(&options, Asked::List).and_then(|()| view(&options)).map_err(|s| s.code)
        };
        assert_eq!(list("", "", 0, ""), Ok(View::Newest));
        assert_eq!(list("0", "", 5, ""), Ok(View::Newest));
        assert_eq!(list("7", "", 0, ""), Ok(View::NotOlderThan(7)));
        assert_eq!(list("7", "", 5, ""), Ok(View::Exactly(7)));
        assert_eq!(list("7", "Exact", 0, ""), Ok(View::Exactly(7)));
        assert_eq!(list("7", "NotOlderThan", 5, ""), Ok(View::NotOlderThan(7)));
        assert_eq!(list("", "Exact", 0, ""), Err(422));
        assert_eq!(list("0", "Exact", 0, ""), Err(422));
        assert_eq!(list("7", "Newer", 0, ""), Err(422));
        assert_eq!(list("7", "Exact", 0, "token"), Err(422));
        assert_eq!(list("x", "", 0, ""), Err(400));
        assert_eq!(list("7", "", 5, "token"), Err(400));
        assert_eq!(list("0", "", 5, "token"), Ok(View::Newest));
        let streamed = ListOptions { send_initial_events: true, ..ListOptions::default() };
        assert_eq!(check_options(&streamed, Asked::List).unwrap_err().code, 422);
    }

    #[test]
    fn wrong_combinations_are_told_as_kubernetes_tells_them() {
        let told = |query: (&str, &str, bool), watch: bool| {
            let asked = match (watch, query.2) {
                (false, _) => Asked::List,
                (true, false) => Asked::Watch,
                (true, true) => Asked::StreamedWatch,
            };
            let options = ListOptions {
                resource_version: query.0.into(),
                resource_version_match: query.1.into(),
                send_initial_events: query.2,
                ..ListOptions::default()
            };
            check_options(&options, asked).err().map(|status| {
                let message = status.message.strip_prefix("ListOptions.meta.k8s.io \"\" is invalid: ");
                message.unwrap_or_default().to_owned()
            })
        };
        let of_match = |detail: &str| Some(format!("resourceVersionMatch: {detail}"));
        assert_eq!(told(("", "NotOlderThan", true), true), None);
        assert_eq!(
            told(("", "", true), true),
            of_match("Forbidden: sendInitialEvents requires setting resourceVersionMatch to NotOlderThan")
        );
        assert_eq!(
            told(("", "NotOlderThan", false), true),
            of_match(
                "Forbidden: resourceVersionMatch is forbidden for watch unless sendInitialEvents is provided"
            )
        );
        assert_eq!(
            told(("5", "Newer", false), false),
            of_match("Unsupported value: \"Newer\": supported values: \"Exact\", \"NotOlderThan\", \"\"")
        );
        assert_eq!(
            told(("", "", true), false),
            Some("sendInitialEvents: Forbidden: sendInitialEvents is forbidden for list".into())
        );
        let both = told(("", "Exactly", true), true).unwrap();
        assert!(
            both.starts_with("[resourceVersionMatch: Forbidden: ") && both.ends_with("\"NotOlderThan\"]"),
            "{both}"
        );
    }

    #[test]
    fn tokens_come_back_and_rubbish_is_refused() {
        let token = Continuation::encode(42, "default/www");
        let parsed = Continuation::decode(&token).unwrap();
        assert_eq!((parsed.rv, parsed.start.as_str()), (42, "default/www"));
        let told = |token: &str| Continuation::decode(token).unwrap_err().message;
        for (bad, why) in [
            ("x", "illegal base64 data at input byte 0"),
            ("bm8", "invalid character 'o' in literal null (expecting 'u')"),
            ("e30", "server does not recognize this encoded version "),
            (&Continuation::encode(1, ""), "encoded start key empty (version meta.k8s.io/v1)"),
            (&Continuation::encode(1, "../a"), "../a"),
        ] {
            assert_eq!(told(bad), format!("invalid continue token: continue key is not valid: {why}"));
        }
        for bad in ["!", "e30", &URL_SAFE_NO_PAD.encode(br#"{"v":"v2","rv":1,"start":"a"}"#)] {
            assert_eq!(Continuation::decode(bad).unwrap_err().code, 400, "{bad}");
        }
    }
}
