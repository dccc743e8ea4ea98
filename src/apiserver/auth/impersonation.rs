//! Acting as somebody else: what the headers ask for, and who may.
//!
//! Source: k8s.io/apiserver `pkg/endpoints/filters/impersonation`. A request is tried in the narrow modes first, each
//! with verbs of its own, and then in the old one, whose verb is `impersonate`; a refusal tells what the first of
//! them lacked.

use std::collections::BTreeMap;
use std::fmt::Write;

use hyper::HeaderMap;
use hyper::header::HeaderValue;

use super::attributes::{Asked, Attributes};
use super::rbac::{Authorizer, MASTERS};
use super::{ANONYMOUS, AUTHENTICATED, NODE_NAME, UNAUTHENTICATED, account_groups, account_of};
use crate::api::names;
use crate::api::request::User;
use crate::api::status::Status;

const USER: &str = "impersonate-user";
const GROUP: &str = "impersonate-group";
const UID: &str = "impersonate-uid";
const EXTRA_PREFIX: &str = "impersonate-extra-";
/// The API group of users, groups, uids and extras as the narrow modes name them.
const AUTHENTICATION: &str = "authentication.k8s.io";

/// One way of being somebody else; the text is part of its verbs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Mode {
    /// A service account as the node that its pod runs on.
    AssociatedNode,
    /// As any node.
    ArbitraryNode,
    /// As a service account.
    ServiceAccount,
    /// As anybody else.
    UserInfo,
    /// As anybody, in the way of old.
    Legacy,
}

const MODES: [Mode; 5] =
    [Mode::AssociatedNode, Mode::ArbitraryNode, Mode::ServiceAccount, Mode::UserInfo, Mode::Legacy];

impl Mode {
    fn name(self) -> &'static str {
        match self {
            Mode::AssociatedNode => "associated-node",
            Mode::ArbitraryNode => "arbitrary-node",
            Mode::ServiceAccount => "serviceaccount",
            Mode::UserInfo => "user-info",
            Mode::Legacy => "",
        }
    }

    /// Whether this mode is for this requestor and this user.
    fn fits(self, requestor: &User, wanted: &User) -> bool {
        let (node, account) = (node_of(&wanted.name), account_of(&wanted.name));
        let name_alone = wanted.uid.is_none() && wanted.groups.is_empty() && wanted.extra.is_empty();
        match self {
            Mode::AssociatedNode => {
                let own = requestor.extra.get(NODE_NAME).map(Vec::as_slice);
                let own = match own {
                    Some([one]) => Some(one.as_str()),
                    _ => None,
                };
                name_alone && node.is_some() && own == node && account_of(&requestor.name).is_some()
            }
            Mode::ArbitraryNode => name_alone && node.is_some(),
            Mode::ServiceAccount => name_alone && account.is_some(),
            Mode::UserInfo => node.is_none() && account.is_none(),
            Mode::Legacy => true,
        }
    }
}

/// Whom the headers ask to be; `None` when they ask nothing.
pub fn wanted(headers: &HeaderMap) -> Result<Option<User>, Status> {
    // A name that is not of ASCII must not be taken for none: the request would be made with the caller's own rights.
    let read = |value: &HeaderValue| String::from_utf8_lossy(value.as_bytes()).into_owned();
    let text = |name: &str| headers.get(name).map(read).unwrap_or_default();
    let mut extra: BTreeMap<String, Vec<String>> = BTreeMap::new();
    for (name, value) in headers {
        if let Some(key) = name.as_str().strip_prefix(EXTRA_PREFIX) {
            let key = crate::apiserver::http::query::decode_path(key);
            extra.entry(key).or_default().push(read(value));
        }
    }
    let groups = headers.get_all(GROUP).iter();
    let wanted = User {
        name: text(USER),
        groups: groups.map(read).collect(),
        uid: Some(text(UID)).filter(|uid| !uid.is_empty()),
        extra,
    };
    let more = wanted.uid.is_some() || !wanted.groups.is_empty() || !wanted.extra.is_empty();
    match (wanted.name.is_empty(), more) {
        (true, false) => Ok(None),
        (true, true) => {
            let why = format!("requested {} without impersonating a user name", shown(&wanted));
            Err(Status::bad_request(why))
        }
        (false, _) => Ok(Some(wanted)),
    }
}

/// The user as Go shows the value.
fn shown(user: &User) -> String {
    let list = |items: &[String]| {
        let quoted: Vec<String> = items.iter().map(|item| format!("{item:?}")).collect();
        format!("[]string{{{}}}", quoted.join(", "))
    };
    let groups = if user.groups.is_empty() { "[]string(nil)".to_owned() } else { list(&user.groups) };
    let mut extra = String::from("map[string][]string(nil)");
    if !user.extra.is_empty() {
        let pairs: Vec<String> = user.extra.iter().map(|(k, v)| format!("{k:?}:{}", list(v))).collect();
        extra = format!("map[string][]string{{{}}}", pairs.join(", "));
    }
    let mut text = String::from("&user.DefaultInfo{");
    // Writing to a string does not fail.
    let _ = write!(
        text,
        "Name:{:?}, UID:{:?}, Groups:{groups}, Extra:{extra}}}",
        user.name,
        user.uid.as_deref().unwrap_or_default()
    );
    text
}

/// The user that `requestor` becomes for a request, when they may.
pub fn become_user(
    authorizer: &Authorizer,
    requestor: &User,
    wanted: User,
    attributes: &Attributes<'_>,
) -> Result<User, Status> {
    let mut first = None;
    for mode in MODES.into_iter().filter(|mode| mode.fits(requestor, &wanted)) {
        match check(authorizer, mode, requestor, &wanted, attributes) {
            Ok(groups) => return Ok(completed(User { groups, ..wanted })),
            Err(refused) => first = first.or(Some(refused)),
        }
    }
    Err(first.unwrap_or_else(|| Status::internal("all impersonation modes failed")))
}

/// Adds the group that tells whether somebody is known.
fn completed(mut user: User) -> User {
    let has = |group: &str| user.groups.iter().any(|g| g == group);
    let missing = if user.name == ANONYMOUS {
        (!has(UNAUTHENTICATED)).then_some(UNAUTHENTICATED)
    } else {
        (!has(UNAUTHENTICATED) && !has(AUTHENTICATED)).then_some(AUTHENTICATED)
    };
    user.groups.extend(missing.map(str::to_owned));
    user
}

/// Whether the requestor may be this user in this mode; the groups that come with it.
fn check(
    authorizer: &Authorizer,
    mode: Mode,
    requestor: &User,
    wanted: &User,
    attributes: &Attributes<'_>,
) -> Result<Vec<String>, Status> {
    let narrow = mode != Mode::Legacy;
    let verb = if narrow { format!("impersonate:{}", mode.name()) } else { "impersonate".to_owned() };
    let verb = verb.as_str();
    if narrow {
        let verb = format!("impersonate-on:{}:{}", mode.name(), attributes.verb);
        authorizer.authorize(requestor, &attributes.with_verb(&verb))?;
    }
    let group = if narrow { AUTHENTICATION } else { "" };
    let asked = |group, resource, subresource, namespace, name| Attributes {
        verb,
        asked: Asked::Resource { group, resource, subresource, namespace, name },
    };
    let may = |attributes: Attributes<'_>| authorizer.authorize(requestor, &attributes);

    let mut groups = wanted.groups.clone();
    match (account_of(&wanted.name), node_of(&wanted.name)) {
        (Some((namespace, name)), _) => {
            if groups.is_empty() {
                groups = account_groups(namespace);
            }
            may(asked(group, "serviceaccounts", "", namespace, name))?;
        }
        (None, Some(node)) if narrow => {
            groups = vec!["system:nodes".to_owned()];
            let name = if mode == Mode::AssociatedNode { "*" } else { node };
            may(asked(group, "nodes", "", "", name))?;
        }
        _ => may(asked(group, "users", "", "", &wanted.name))?,
    }
    if let Some(uid) = &wanted.uid {
        may(asked(AUTHENTICATION, "uids", "", "", uid))?;
    }
    for name in &wanted.groups {
        let of = asked(group, "groups", "", "", name);
        if narrow && name.is_empty() {
            return Err(of.forbidden(requestor, "impersonating the empty string group is not allowed"));
        }
        if narrow && name == MASTERS {
            return Err(of.forbidden(requestor, "impersonating the system:masters group is not allowed"));
        }
        may(of)?;
    }
    for (key, values) in &wanted.extra {
        if let Some(why) = wrong_extra(key, values).filter(|_| narrow) {
            return Err(asked(AUTHENTICATION, "userextras", "", "", "").forbidden(requestor, &why));
        }
        for value in values {
            may(asked(AUTHENTICATION, "userextras", key, "", value))?;
        }
    }
    Ok(groups)
}

/// What the narrow modes do not accept of an extra.
fn wrong_extra(key: &str, values: &[String]) -> Option<String> {
    if key.is_empty() {
        return Some("impersonating the empty string key in extra is not allowed".to_owned());
    }
    if key != key.to_lowercase() {
        return Some(format!("impersonating a non-lowercase key in extra is not allowed: {key:?}"));
    }
    let empty = values.iter().any(String::is_empty);
    empty.then(|| "impersonating the empty string value in extra is not allowed".to_owned())
}

/// The node that a user name stands for.
fn node_of(user: &str) -> Option<&str> {
    user.strip_prefix("system:node:").filter(|node| names::dns_subdomain(node).is_empty())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::apiserver::auth::account_user;
    use crate::store::Store;
    use bytes::Bytes;
    use serde_json::json;

    fn headers(pairs: &[(&'static str, &'static str)]) -> HeaderMap {
        let mut headers = HeaderMap::new();
        for (name, value) in pairs {
            headers.append(*name, HeaderValue::from_static(value));
        }
        headers
    }

    #[test]
    fn headers_tell_who_is_wanted() {
        assert_eq!(wanted(&headers(&[("accept", "*/*")])).unwrap(), None);
        let all = [
            ("impersonate-user", "jane"),
            ("impersonate-group", "a"),
            ("impersonate-group", "b"),
            ("impersonate-uid", "7"),
            ("impersonate-extra-acme.com%2fproject", "p"),
        ];
        let user = wanted(&headers(&all)).unwrap().unwrap();
        assert_eq!(
            (user.name.as_str(), user.groups.join(","), user.uid.as_deref()),
            ("jane", "a,b".into(), Some("7"))
        );
        assert_eq!(user.extra, [("acme.com/project".to_owned(), vec!["p".to_owned()])].into());
        let mut foreign = HeaderMap::new();
        foreign.insert(USER, HeaderValue::from_bytes("josé".as_bytes()).unwrap());
        assert_eq!(wanted(&foreign).unwrap().unwrap().name, "josé");
        let refused = wanted(&headers(&all[1..3])).unwrap_err();
        assert_eq!(
            (refused.code, refused.message.as_str()),
            (
                400,
                "requested &user.DefaultInfo{Name:\"\", UID:\"\", Groups:[]string{\"a\", \"b\"}, \
                 Extra:map[string][]string(nil)} without impersonating a user name"
            )
        );
    }

    #[tokio::test]
    async fn those_who_may_become_somebody_else() {
        let directory = tempfile::tempdir().unwrap();
        let store = Store::open(&directory.path().join("store")).unwrap();
        let rule = |verbs: &[&str], group: &str, resources: &[&str], names: &[&str]| json!({"verbs": verbs, "apiGroups": [group], "resources": resources, "resourceNames": names});
        for (user, rules) in [
            ("old", json!([rule(&["impersonate"], "", &["users", "groups"], &["jane", "devs"])])),
            (
                "new",
                json!([
                    rule(&["impersonate:user-info"], AUTHENTICATION, &["users"], &["jane"]),
                    rule(&["impersonate-on:user-info:list"], "", &["pods"], &[])
                ]),
            ),
            ("robots", json!([rule(&["impersonate"], "", &["serviceaccounts"], &[])])),
        ] {
            let role = json!({"metadata": {"name": user}, "rules": rules});
            let binding = json!({"metadata": {"name": user}, "roleRef": {"kind": "ClusterRole", "name": user},
                "subjects": [{"kind": "User", "name": user}]});
            for (plural, object) in [("clusterroles", role), ("clusterrolebindings", binding)] {
                let bytes = Bytes::from(object.to_string());
                store.create(&format!("{plural}/{user}"), move |_| bytes).await.unwrap();
            }
        }
        let authorizer = Authorizer::new(store).unwrap();
        let user = |name: &str, groups: &[&str]| User {
            name: name.to_owned(),
            groups: groups.iter().map(|g| (*g).to_owned()).collect(),
            ..User::default()
        };
        let pods = |verb| Attributes {
            verb,
            asked: Asked::Resource {
                group: "",
                resource: "pods",
                subresource: "",
                namespace: "default",
                name: "",
            },
        };
        let robot = account_user("blue", "robot");
        let masters = User::component("admin");
        let admin = &masters;
        for (requestor, wanted, verb, expected) in [
            (&user("old", &[]), user("jane", &[]), "list", Ok("system:authenticated")),
            (&user("old", &[]), user("jane", &["devs"]), "list", Ok("devs,system:authenticated")),
            (&user("new", &[]), user("jane", &[]), "list", Ok("system:authenticated")),
            (
                &user("new", &[]),
                user("jane", &[]),
                "get",
                Err(
                    "pods is forbidden: User \"new\" cannot impersonate-on:user-info:get resource \"pods\" in API group \"\" in the namespace \"default\"",
                ),
            ),
            (
                &user("nobody", &[]),
                user("jane", &[]),
                "list",
                Err(
                    "pods is forbidden: User \"nobody\" cannot impersonate-on:user-info:list resource \"pods\" in API group \"\" in the namespace \"default\"",
                ),
            ),
            (
                &user("robots", &[]),
                user(&robot, &[]),
                "list",
                Ok("system:serviceaccounts,system:serviceaccounts:blue,system:authenticated"),
            ),
            (admin, user("system:node:minik", &[]), "list", Ok("system:nodes,system:authenticated")),
            (admin, user("jane", &[MASTERS]), "list", Ok("system:masters,system:authenticated")),
            (admin, user(ANONYMOUS, &[]), "list", Ok("system:unauthenticated")),
        ] {
            let became = become_user(&authorizer, requestor, wanted.clone(), &pods(verb));
            let got = became.map(|user| user.groups.join(",")).map_err(|status| status.message);
            assert_eq!(got, expected.map(str::to_owned).map_err(str::to_owned), "{wanted:?}");
        }
    }
}
