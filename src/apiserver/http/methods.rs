//! Which methods a path knows.
//!
//! The paths are those of k8s.io/apiserver `pkg/endpoints/installer.go`; custom kinds have rules of their own
//! (k8s.io/apiextensions-apiserver `pkg/apiserver/customresource_handler.go`).

use super::parse::Verb;
use crate::api::kinds::Kind;
use crate::api::request::Target;
use crate::api::status::Status;

/// The kind of the bodies that the path takes, unless it does not know the method.
pub(super) fn check<'a>(kind: &'a Kind, target: &Target, verb: Verb) -> Result<&'a str, Status> {
    if kind.types.custom().is_some() {
        return check_custom(kind, target, verb);
    }
    let Some(name) = &target.subresource else {
        let known = belongs(kind, target, verb) && kind.verbs.contains(&verb.name());
        return if known { Ok(&kind.kind) } else { Err(Status::no_such_method()) };
    };
    let row = kind.subresource(name).ok_or_else(Status::no_such_path)?;
    let known = row.verbs.contains(&verb.name());
    if known { Ok(&row.kind) } else { Err(Status::no_such_method()) }
}

/// Whether the verb is one of single objects or of collections, as the path is. What spans all namespaces can only be
/// read.
fn belongs(kind: &Kind, target: &Target, verb: Verb) -> bool {
    let everywhere = kind.namespaced && target.namespace.is_none();
    match verb {
        Verb::Get | Verb::Update | Verb::Patch | Verb::Delete => target.name.is_some(),
        Verb::List => target.name.is_none(),
        Verb::Create | Verb::DeleteCollection => target.name.is_none() && !everywhere,
        Verb::Watch => true,
        Verb::Options => false,
    }
}

fn check_custom<'a>(kind: &'a Kind, target: &Target, verb: Verb) -> Result<&'a str, Status> {
    let reads = matches!(verb, Verb::List | Verb::Watch);
    if kind.namespaced && target.namespace.is_none() && !reads {
        return Err(Status::no_such_path());
    }
    let unknown = || Status::method_not_allowed(&kind.group, &kind.plural, verb.name());
    match (&target.name, &target.subresource) {
        _ if verb == Verb::Options => Err(unknown()),
        (None, _) if matches!(verb, Verb::Update | Verb::Patch) => {
            Err(Status::bad_request("name must be provided"))
        }
        (Some(name), Some(subresource)) => match kind.subresource(subresource) {
            Some(row) if row.verbs.contains(&verb.name()) => Ok(&row.kind),
            Some(_) => Err(unknown()),
            None => Err(Status::not_found(&kind.group, &kind.plural, name)),
        },
        _ => Ok(&kind.kind),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::api::kinds;

    #[test]
    fn paths_know_their_methods() {
        let target = |namespace: &str, name: &str, subresource: &str| {
            let part = |text: &str| Some(text.to_owned()).filter(|text| !text.is_empty());
            Target {
                namespace: part(namespace),
                name: part(name),
                subresource: part(subresource),
                ..Target::default()
            }
        };
        for (plural, at, verb, known) in [
            ("pods", ("", "", ""), Verb::List, Ok("Pod")),
            ("pods", ("", "", ""), Verb::Create, Err(405)),
            ("pods", ("", "", ""), Verb::DeleteCollection, Err(405)),
            ("pods", ("a", "", ""), Verb::Create, Ok("Pod")),
            ("pods", ("a", "", ""), Verb::Update, Err(405)),
            ("pods", ("a", "", ""), Verb::Options, Err(405)),
            ("pods", ("a", "b", ""), Verb::Create, Err(405)),
            ("pods", ("a", "b", ""), Verb::Patch, Ok("Pod")),
            ("pods", ("a", "b", "status"), Verb::Update, Ok("Pod")),
            ("pods", ("a", "b", "status"), Verb::Create, Err(405)),
            ("pods", ("a", "b", "eviction"), Verb::Create, Ok("Eviction")),
            ("pods", ("a", "b", "nothing"), Verb::Get, Err(404)),
            ("namespaces", ("", "", ""), Verb::Create, Ok("Namespace")),
            ("namespaces", ("", "", ""), Verb::DeleteCollection, Err(405)),
            ("componentstatuses", ("", "a", ""), Verb::Delete, Err(405)),
        ] {
            let kind = kinds::by_resource("", "v1", plural).unwrap();
            let target = target(at.0, at.1, at.2);
            assert_eq!(check(kind, &target, verb).map_err(|s| s.code), known, "{plural} {at:?} {verb:?}");
        }
    }
}
