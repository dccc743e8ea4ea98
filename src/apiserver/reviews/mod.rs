//! Virtual resources that are only asked, never stored: who am I, may I, whose token is this.

use serde_json::{Value, json};

use super::ApiServer;
use super::auth::{self, tokens};
use super::structure::{self, Type};
use crate::api::kinds::{Text, Types};
use crate::api::meta;
use crate::api::request::{Action, Request, Response, Target};
use crate::api::status::Status;

mod access;

const AUTHENTICATION: &str = "authentication.k8s.io";
const AUTHORIZATION: &str = "authorization.k8s.io";

/// A virtual resource, of version `v1`.
#[derive(Debug)]
pub struct Review {
    /// Its group.
    pub group: &'static str,
    /// `tokenreviews`.
    pub plural: &'static str,
    /// `TokenReview`.
    pub kind: &'static str,
    /// Whether it is asked within a namespace.
    pub namespaced: bool,
    types: Types,
}

/// The virtual resources.
pub static REVIEWS: &[Review] = &[
    Review {
        group: AUTHENTICATION,
        plural: "selfsubjectreviews",
        kind: "SelfSubjectReview",
        namespaced: false,
        types: Types::Named(Text::Borrowed("io.k8s.api.authentication.v1.SelfSubjectReview")),
    },
    Review {
        group: AUTHENTICATION,
        plural: "tokenreviews",
        kind: "TokenReview",
        namespaced: false,
        types: Types::Named(Text::Borrowed("io.k8s.api.authentication.v1.TokenReview")),
    },
    Review {
        group: AUTHORIZATION,
        plural: "localsubjectaccessreviews",
        kind: "LocalSubjectAccessReview",
        namespaced: true,
        types: Types::Named(Text::Borrowed("io.k8s.api.authorization.v1.LocalSubjectAccessReview")),
    },
    Review {
        group: AUTHORIZATION,
        plural: "selfsubjectaccessreviews",
        kind: "SelfSubjectAccessReview",
        namespaced: false,
        types: Types::Named(Text::Borrowed("io.k8s.api.authorization.v1.SelfSubjectAccessReview")),
    },
    Review {
        group: AUTHORIZATION,
        plural: "selfsubjectrulesreviews",
        kind: "SelfSubjectRulesReview",
        namespaced: false,
        types: Types::Named(Text::Borrowed("io.k8s.api.authorization.v1.SelfSubjectRulesReview")),
    },
    Review {
        group: AUTHORIZATION,
        plural: "subjectaccessreviews",
        kind: "SubjectAccessReview",
        namespaced: false,
        types: Types::Named(Text::Borrowed("io.k8s.api.authorization.v1.SubjectAccessReview")),
    },
];

impl Review {
    fn as_type(&self) -> Type<'_> {
        Type { group: self.group, version: "v1", kind: self.kind, types: &self.types }
    }
}

/// The virtual resource that a request is about.
pub fn find(target: &Target) -> Option<&'static Review> {
    let fits = |review: &&Review| {
        target.group == review.group
            && target.resource == review.plural
            && target.namespace.is_some() == review.namespaced
    };
    REVIEWS.iter().find(fits).filter(|_| target.version == "v1" && target.name.is_none())
}

/// The answer, when the request is about a virtual resource.
pub fn answer(api: &ApiServer, request: &Request) -> Option<Result<Response, Status>> {
    find(&request.target).map(|review| reviewed(api, review, request))
}

fn reviewed(api: &ApiServer, review: &Review, request: &Request) -> Result<Response, Status> {
    let Action::Create(body, options) = &request.action else {
        return Err(Status::no_such_method());
    };
    let (mut value, warnings) = structure::read(review.as_type(), body.clone(), options)?;
    let namespace = request.target.namespace.as_deref();
    structure::check_namespace(namespace, &value)?;
    if let Some(namespace) = namespace {
        meta::set_namespace(&mut value, namespace);
    }
    meta::metadata_mut(&mut value);
    let authorizer = api.authorizer();
    let status = match review.kind {
        "SelfSubjectReview" => json!({"userInfo": auth::user_info(&request.user)}),
        "TokenReview" => token(api, &value["spec"])?,
        "SelfSubjectRulesReview" => {
            let rules = access::rules(authorizer, &request.user, &value["spec"])?;
            value["spec"] = json!({});
            rules
        }
        _ => access::review(authorizer, &request.user, review.kind, &value)?,
    };
    value["status"] = status;
    Ok(Response::Transient { value, created: true, warnings })
}

/// Whose token it is.
///
/// Source: Kubernetes `pkg/registry/authentication/tokenreview/storage.go`.
fn token(api: &ApiServer, spec: &Value) -> Result<Value, Status> {
    let token = spec["token"].as_str().unwrap_or_default();
    if token.is_empty() {
        return Err(Status::bad_request("token is required for TokenReview in authentication"));
    }
    let given = spec["audiences"].as_array().into_iter().flatten().filter_map(Value::as_str);
    let mut audiences: Vec<String> = given.map(str::to_owned).collect();
    if audiences.is_empty() {
        audiences.push(tokens::ISSUER.to_owned());
    }
    Ok(match auth::user_for(api.tokens(), api.registry(), token, &audiences) {
        Ok((user, meant)) => {
            json!({"authenticated": true, "user": auth::user_info(&user), "audiences": meant})
        }
        Err(refused) => json!({"user": {}, "error": refused.to_string()}),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reviews_are_asked_where_they_belong() {
        let target = |resource: &str, namespace: Option<&str>, name: Option<&str>| Target {
            group: AUTHORIZATION.into(),
            version: "v1".into(),
            resource: resource.into(),
            namespace: namespace.map(str::to_owned),
            name: name.map(str::to_owned),
            subresource: None,
        };
        for (target, found) in [
            (target("subjectaccessreviews", None, None), true),
            (target("subjectaccessreviews", Some("a"), None), false),
            (target("subjectaccessreviews", None, Some("x")), false),
            (target("localsubjectaccessreviews", Some("a"), None), true),
            (target("localsubjectaccessreviews", None, None), false),
            (target("tokenreviews", None, None), false),
        ] {
            assert_eq!(find(&target).is_some(), found, "{target}");
        }
        assert!(REVIEWS.iter().all(|review| review.types.schema().is_some()));
    }
}
