//! The paths of the API, and the operations on them.

use std::sync::Arc;

use serde_json::json;

use super::operation::{
    ANYTHING, CUSTOM_PATCHES, Content, LISTS, OBJECTS, Operation, PATCHES, Place, TEXT, capitalized,
    identifier, operation_id, trimmed, with_article,
};
use super::parameter::{self, NAME, NAMESPACE, Parameter};
use super::types::{self, DELETE_OPTIONS, META, PATCH, STATUS, WATCH_EVENT};
use crate::api::kinds::{Kind, Subresource};
use crate::api::schema::document;
use crate::apiserver::registry::is_shown_when_removed;
use crate::apiserver::reviews::{REVIEWS, Review};

/// `/api/v1`, `/apis/apps/v1`.
pub(super) fn root(kind: &Kind) -> String {
    match &*kind.group {
        "" => format!("/api/{}", kind.version),
        group => format!("/apis/{group}/{}", kind.version),
    }
}

/// The operations of a document, which is named by the paths that it is about.
pub(super) fn of_document(kinds: &[Arc<Kind>], name: &str) -> Vec<Operation> {
    let parts: Vec<&str> = name.split('/').collect();
    match parts.as_slice() {
        [".well-known", ..] => {
            vec![server(name, "get", "ServiceAccountIssuerOpenIDConfiguration", "WellKnown", None)]
        }
        ["openid", ..] => vec![server(name, "get", "ServiceAccountIssuerOpenIDKeyset", "openid", None)],
        ["version"] => {
            let answer = "io.k8s.apimachinery.pkg.version.Info";
            vec![server(name, "get", "CodeVersion", "version", Some(answer.to_owned()))]
        }
        ["api"] => vec![server(name, "getCore", "APIVersions", "core", Some(format!("{META}.APIVersions")))],
        ["apis"] => vec![server(name, "get", "APIVersions", "apis", Some(format!("{META}.APIGroupList")))],
        ["apis", group] => {
            let verb = format!("get{}", identifier(trimmed(group), true));
            let tag = identifier(trimmed(group), false);
            vec![server(name, &verb, "APIGroup", &tag, Some(format!("{META}.APIGroup")))]
        }
        ["api", version] => of_version(kinds, name, "", version),
        ["apis", group, version] => of_version(kinds, name, group, version),
        _ => Vec::new(),
    }
}

/// What the server says of itself at a path.
fn server(path: &str, verb: &str, what: &str, tag: &str, answer: Option<String>) -> Operation {
    Operation {
        path: format!("/{path}/"),
        method: "get",
        id: format!("{verb}{what}"),
        tag: tag.to_owned(),
        description: format!("get {what}"),
        action: "",
        of: None,
        consumes: OBJECTS,
        produces: OBJECTS,
        body: None,
        answers: vec![(200, answer.map_or(Content::Text, Content::Type))],
        parameters: Vec::new(),
    }
}

fn of_version(kinds: &[Arc<Kind>], name: &str, group: &str, version: &str) -> Vec<Operation> {
    let named = if group.is_empty() { "core" } else { group };
    let tag = format!("{}_{}", identifier(trimmed(named), false), identifier(version, false));
    let verb = operation_id("get", named, version, "");
    let mut all = vec![server(name, &verb, "APIResources", &tag, Some(format!("{META}.APIResourceList")))];
    for kind in kinds.iter().filter(|kind| kind.group == group && kind.version == version) {
        all.extend(of_kind(kind));
    }
    for asked in REVIEWS.iter().filter(|review| review.group == group && version == "v1") {
        all.push(review(name, &tag, asked));
    }
    all
}

/// A virtual resource, which is only asked.
fn review(root: &str, tag: &str, Review { group, plural, kind, namespaced, .. }: &Review) -> Operation {
    let version = "v1";
    let (scope, within) = if *namespaced { ("Namespaced", "/namespaces/{namespace}") } else { ("", "") };
    let of = Content::Type(document::of_kind(group, version, kind).unwrap_or_default().to_owned());
    let more = parameter::CREATE.iter().copied().chain([parameter::PRETTY]);
    Operation {
        path: format!("/{root}{within}/{plural}"),
        method: "post",
        id: operation_id("create", group, version, &format!("{scope}{kind}")),
        tag: tag.to_owned(),
        description: format!("create {}", with_article(kind)),
        action: "post",
        of: Some(json!({"group": group, "version": version, "kind": kind})),
        consumes: ANYTHING,
        produces: OBJECTS,
        body: Some((of.clone(), true)),
        answers: [200, 201, 202].map(|code| (code, of.clone())).to_vec(),
        parameters: namespaced.then_some(NAMESPACE).into_iter().chain(more).collect(),
    }
}

/// All operations on a kind's collections, objects and their parts.
fn of_kind(kind: &Kind) -> Vec<Operation> {
    let root = root(kind);
    let plural = &kind.plural;
    let (scope, within, mut parameters) = match kind.namespaced {
        true => ("Namespaced", "/namespaces/{namespace}", vec![NAMESPACE]),
        false => ("", "", Vec::new()),
    };
    let of = (&*kind.group, &*kind.version, &*kind.kind);
    let place = |path: String, path_parameters: &[Parameter]| Place {
        kind,
        path,
        path_parameters: path_parameters.to_vec(),
        scope,
        part: "",
        suffix: "",
        of,
    };
    let mut all = Vec::new();
    let everywhere = |path: String| Place { scope: "", suffix: "ForAllNamespaces", ..place(path, &[]) };
    if kind.namespaced {
        all.extend(list(&everywhere(format!("{root}/{plural}"))));
        all.extend(watch_list(&everywhere(format!("{root}/watch/{plural}"))));
    }
    all.extend(on_collection(&place(format!("{root}{within}/{plural}"), &parameters)));
    all.extend(watch_list(&place(format!("{root}/watch{within}/{plural}"), &parameters)));
    parameters.insert(0, NAME);
    all.extend(on_object(&place(format!("{root}{within}/{plural}/{{name}}"), &parameters)));
    all.extend(watch(&place(format!("{root}/watch{within}/{plural}/{{name}}"), &parameters)));
    for sub in &kind.subresources {
        let path = format!("{root}{within}/{plural}/{{name}}/{}", sub.name);
        let (group, version) = sub.group_version.unwrap_or((of.0, of.1));
        let of = (group, version, &*sub.kind);
        all.extend(on_part(&Place { part: sub.name, of, ..place(path, &parameters) }, sub));
    }
    all
}

fn knows(place: &Place<'_>, verb: &str) -> bool {
    place.kind.verbs.contains(&verb)
}

/// The type of what clients send and get here.
fn content(place: &Place<'_>) -> Content {
    let (group, version, kind) = place.of;
    let named = document::of_kind(group, version, kind).filter(|_| !place.part.is_empty());
    Content::Type(named.map_or_else(|| types::name(place.kind), str::to_owned))
}

fn list(place: &Place<'_>) -> Option<Operation> {
    let kind = &place.kind.kind;
    let description = format!("list or watch objects of kind {kind}");
    let mut list = place.operation("get", "list", "list", ("", ""), description);
    list.produces = LISTS;
    list.answers = vec![(200, Content::Type(types::list_name(place.kind)))];
    list.parameters.extend(parameter::LIST);
    knows(place, "list").then_some(list)
}

fn watch_list(place: &Place<'_>) -> Option<Operation> {
    let kind = &place.kind.kind;
    let description = format!(
        "watch individual changes to a list of {kind}. deprecated: use the 'watch' parameter of a list."
    );
    let mut watch = place.operation("get", "watchlist", "watch", ("", "List"), description);
    watch.produces = LISTS;
    watch.answers = vec![(200, Content::Type(WATCH_EVENT.to_owned()))];
    watch.parameters.extend(parameter::LIST);
    knows(place, "watch").then_some(watch)
}

fn watch(place: &Place<'_>) -> Option<Operation> {
    let kind = &place.kind.kind;
    let description = format!(
        "watch changes to an object of kind {kind}. deprecated: use the 'watch' parameter of a list with a \
         'fieldSelector'."
    );
    let mut watch = place.operation("get", "watch", "watch", ("", ""), description);
    watch.produces = LISTS;
    watch.answers = vec![(200, Content::Type(WATCH_EVENT.to_owned()))];
    watch.parameters.extend(parameter::LIST);
    knows(place, "watch").then_some(watch)
}

fn on_collection(place: &Place<'_>) -> Vec<Operation> {
    let mut all: Vec<Operation> = list(place).into_iter().collect();
    if knows(place, "create") {
        all.push(create(place));
    }
    if knows(place, "deletecollection") {
        let description = format!("delete collection of {}", place.kind.kind);
        let names = ("Collection", "");
        let mut delete = place.operation("delete", "deletecollection", "delete", names, description);
        delete.body = Some((Content::Type(DELETE_OPTIONS.to_owned()), false));
        delete.answers = vec![(200, Content::Type(STATUS.to_owned()))];
        delete.parameters.extend(parameter::DELETE.iter().chain(parameter::SELECT));
        all.push(delete);
    }
    all
}

fn on_object(place: &Place<'_>) -> Vec<Operation> {
    let mut all = Vec::new();
    for verb in ["get", "update", "patch"].into_iter().filter(|verb| knows(place, verb)) {
        all.extend(of_verb(place, verb));
    }
    if knows(place, "delete") {
        let description = format!("delete {}", with_article(&place.kind.kind));
        let mut delete = place.operation("delete", "delete", "delete", ("", ""), description);
        delete.body = Some((Content::Type(DELETE_OPTIONS.to_owned()), false));
        let answer = match is_shown_when_removed(place.kind) {
            true => types::name(place.kind),
            // An object that takes its time to end is answered with itself all the same.
            false => STATUS.to_owned(),
        };
        delete.answers = [200, 202].map(|code| (code, Content::Type(answer.clone()))).to_vec();
        delete.parameters.extend(parameter::DELETE);
        all.push(delete);
    }
    all
}

fn on_part(place: &Place<'_>, sub: &Subresource) -> Vec<Operation> {
    if sub.kind.ends_with("Options") {
        return conversation(place, sub);
    }
    sub.verbs.iter().flat_map(|verb| of_verb(place, verb)).collect()
}

/// What is read, written or made, of an object or a part of it.
fn of_verb(place: &Place<'_>, verb: &str) -> Option<Operation> {
    let kind = &place.kind.kind;
    let whole = match place.part {
        "" => format!("the specified {kind}"),
        part => format!("{part} of the specified {kind}"),
    };
    let content = content(place);
    Some(match verb {
        "create" => create(place),
        "get" => {
            let mut read = place.operation("get", "get", "read", ("", ""), format!("read {whole}"));
            read.answers = vec![(200, content)];
            if place.part == "log" {
                read.parameters.extend(parameter::LOG);
                read.produces = TEXT;
                read.answers = vec![(200, Content::Text)];
            }
            read
        }
        "update" => {
            let mut replace = place.operation("put", "put", "replace", ("", ""), format!("replace {whole}"));
            replace.body = Some((content.clone(), true));
            replace.answers = [200, 201].map(|code| (code, content.clone())).to_vec();
            replace.parameters.extend(parameter::REPLACE);
            replace
        }
        "patch" => {
            let description = format!("partially update {whole}");
            let mut patch = place.operation("patch", "patch", "patch", ("", ""), description);
            patch.consumes = if place.kind.types.name().is_empty() { CUSTOM_PATCHES } else { PATCHES };
            patch.body = Some((Content::Type(PATCH.to_owned()), true));
            patch.answers = [200, 201].map(|code| (code, content.clone())).to_vec();
            patch.parameters.extend(parameter::PATCH);
            patch
        }
        _ => return None,
    })
}

fn create(place: &Place<'_>) -> Operation {
    let kind = with_article(&place.kind.kind);
    let description = match place.part {
        "" => format!("create {kind}"),
        part => format!("create {part} of {kind}"),
    };
    let content = content(place);
    let mut create = place.operation("post", "post", "create", ("", ""), description);
    create.body = Some((content.clone(), true));
    create.answers = [200, 201, 202].map(|code| (code, content.clone())).to_vec();
    create.parameters.extend(parameter::CREATE);
    create
}

/// Streams, and requests that are handed on: each method is an operation of its own.
fn conversation(place: &Place<'_>, sub: &Subresource) -> Vec<Operation> {
    const PROXIED: &[&str] = &["delete", "get", "head", "options", "patch", "post", "put"];
    let proxied = sub.kind.ends_with("ProxyOptions");
    let methods = if proxied { PROXIED } else { &["get", "post"] };
    let connect = |place: &Place<'_>, method: &'static str| {
        let verb = method.to_uppercase();
        let description = format!("connect {verb} requests to {} of {}", place.part, place.kind.kind);
        let name = capitalized(method);
        let mut connect = place.operation(method, "connect", "connect", (&name, ""), description);
        connect.produces = ANYTHING;
        connect.answers = vec![(200, Content::Text)];
        connect.parameters = place.path_parameters.clone();
        connect.parameters.extend(parameter::of_options(&sub.kind));
        connect
    };
    let mut all: Vec<Operation> = methods.iter().map(|method| connect(place, method)).collect();
    if proxied {
        let mut parameters = place.path_parameters.clone();
        parameters.push(parameter::REST);
        let below = Place {
            path: format!("{}/{{path}}", place.path),
            path_parameters: parameters,
            suffix: "WithPath",
            ..*place
        };
        all.extend(methods.iter().map(|method| connect(&below, method)));
    }
    all
}
