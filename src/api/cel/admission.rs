//! What expressions of admission may name: the types of it all, without the values.
//!
//! Source: k8s.io/apiserver `pkg/admission/plugin/cel` and `pkg/cel/library/authz.go`.

use std::sync::LazyLock;

use serde_json::Value;

use super::{Env, Issues, Program, Type};

/// The type of `authorizer`, and those of what its functions give.
pub const AUTHORIZER: &str = "kubernetes.authorization.Authorizer";
/// A question about a path.
pub const PATH: &str = "kubernetes.authorization.PathCheck";
/// A question that still lacks its resource.
pub const GROUP: &str = "kubernetes.authorization.GroupCheck";
/// A question about a resource.
pub const RESOURCE: &str = "kubernetes.authorization.ResourceCheck";
/// An answer.
pub const DECISION: &str = "kubernetes.authorization.Decision";

/// Declares the functions of `authorizer` and of what they give.
fn declare(env: Env) -> Env {
    let functions = [
        ("path", AUTHORIZER, "string", PATH),
        ("group", AUTHORIZER, "string", GROUP),
        ("serviceAccount", AUTHORIZER, "string, string", AUTHORIZER),
        ("resource", GROUP, "string", RESOURCE),
        ("subresource", RESOURCE, "string", RESOURCE),
        ("namespace", RESOURCE, "string", RESOURCE),
        ("name", RESOURCE, "string", RESOURCE),
        ("fieldSelector", RESOURCE, "string", RESOURCE),
        ("labelSelector", RESOURCE, "string", RESOURCE),
        ("check", PATH, "string", DECISION),
        ("check", RESOURCE, "string", DECISION),
        ("errored", DECISION, "", "bool"),
        ("error", DECISION, "", "string"),
        ("allowed", DECISION, "", "bool"),
        ("reason", DECISION, "", "string"),
    ];
    functions
        .into_iter()
        .fold(env, |env, (name, of, takes, gives)| env.function(name, &format!("{of}.({takes}) {gives}")))
}

/// The type of `request`.
pub static REQUEST: LazyLock<Type> = LazyLock::new(|| {
    let texts = |name: &str, fields: &[&str]| {
        Type::object(name, fields.iter().map(|field| ((*field).to_owned(), Type::String)))
    };
    let kind = texts("kubernetes.GroupVersionKind", &["group", "version", "kind"]);
    let resource = texts("kubernetes.GroupVersionResource", &["group", "version", "resource"]);
    let user = Type::object(
        "kubernetes.UserInfo",
        [
            ("username".to_owned(), Type::String),
            ("uid".to_owned(), Type::String),
            ("groups".to_owned(), Type::list(Type::String)),
            ("extra".to_owned(), Type::map(Type::list(Type::String))),
        ],
    );
    let fields = [
        ("kind", kind.clone()),
        ("resource", resource.clone()),
        ("subResource", Type::String),
        ("requestKind", kind),
        ("requestResource", resource),
        ("requestSubResource", Type::String),
        ("name", Type::String),
        ("namespace", Type::String),
        ("operation", Type::String),
        ("userInfo", user),
        ("dryRun", Type::Bool),
        ("options", Type::Dyn),
    ];
    Type::object("kubernetes.AdmissionRequest", fields.map(|(name, of)| (name.to_owned(), of)))
});

/// The type of `namespaceObject`.
pub static NAMESPACE: LazyLock<Type> = LazyLock::new(|| {
    let object = |name: &str, fields: &[(&str, Type)]| {
        Type::object(name, fields.iter().map(|(field, of)| ((*field).to_owned(), of.clone())))
    };
    let condition = object(
        "kubernetes.NamespaceCondition",
        &[
            ("status", Type::String),
            ("type", Type::String),
            ("lastTransitionTime", Type::Timestamp),
            ("message", Type::String),
            ("reason", Type::String),
        ],
    );
    let metadata = object(
        "kubernetes.NamespaceMetadata",
        &[
            ("name", Type::String),
            ("generateName", Type::String),
            ("namespace", Type::String),
            ("labels", Type::map(Type::String)),
            ("annotations", Type::map(Type::String)),
            ("UID", Type::String),
            ("creationTimestamp", Type::Timestamp),
            ("deletionGracePeriodSeconds", Type::Int),
            ("deletionTimestamp", Type::Timestamp),
            ("generation", Type::Int),
            ("resourceVersion", Type::String),
            ("finalizers", Type::list(Type::String)),
        ],
    );
    let spec = object("kubernetes.NamespaceSpec", &[("finalizers", Type::list(Type::String))]);
    let status = object(
        "kubernetes.NamespaceStatus",
        &[("conditions", Type::list(condition)), ("phase", Type::String)],
    );
    object("kubernetes.Namespace", &[("metadata", metadata), ("spec", spec), ("status", status)])
});

/// What every expression of admission may name; `params` are a policy's, and not every expression may ask who may do
/// what.
pub fn environment(params: bool, authorizes: bool) -> Env {
    typed_environment(&Type::Dyn, params.then_some(&Type::Dyn), authorizes)
}

/// The same where more is known of the objects.
pub fn typed_environment(object: &Type, params: Option<&Type>, authorizes: bool) -> Env {
    let mut env = Env::new()
        .variable("object", object.clone())
        .variable("oldObject", object.clone())
        .variable("request", REQUEST.clone())
        .variable("namespaceObject", NAMESPACE.clone());
    if let Some(params) = params {
        env = env.variable("params", params.clone());
    }
    if authorizes { declare(env.variable("authorizer", Type::Dyn)) } else { env }
}

/// A variable of a policy: a name for an expression.
pub struct Variable {
    /// The name.
    pub name: String,
    /// The expression.
    pub text: String,
    /// It, compiled.
    pub program: Result<Program, Issues>,
}

/// The variables of a policy, each of which may name those before it, and the type of all together.
pub fn variables(list: &Value, env: &Env) -> (Vec<Variable>, Type) {
    const NAME: &str = "kubernetes.variables";
    let (mut variables, mut fields) = (Vec::new(), Vec::new());
    for variable in list.as_array().into_iter().flatten() {
        let of = |key: &str| variable[key].as_str().unwrap_or_default().to_owned();
        let (name, text) = (of("name"), of("expression"));
        let known = env.clone().variable("variables", Type::object(NAME, fields.clone()));
        let program = known.compile(&text);
        fields.push((name.clone(), program.as_ref().map_or(Type::Dyn, |program| program.result().clone())));
        variables.push(Variable { name, text, program });
    }
    (variables, Type::object(NAME, fields))
}
