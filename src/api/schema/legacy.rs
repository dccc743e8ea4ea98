//! The types of removed versions, stated by what was different about them: each is the type of today under another
//! name, without some fields and with some others.

use std::collections::BTreeMap;
use std::sync::LazyLock;

use serde_json::{Map, Value, json};

use super::{document, types};

/// The types of one removed version.
struct Package {
    /// What their names begin with.
    name: &'static str,
    group: &'static str,
    version: &'static str,
    types: &'static [&'static [Type]],
}

/// A type that differs from that of today, or refers to one that does.
struct Type {
    today: &'static str,
    /// Fields that it does not have.
    gone: &'static [&'static str],
    /// Fields that it has and that of today has not: name, what they are, what they are for.
    added: &'static [(&'static str, Field, &'static str)],
    /// Fields that may be left out.
    optional: &'static [&'static str],
}

#[derive(Clone, Copy)]
enum Field {
    String,
    Int64,
    IntOrString,
    /// The type that takes this name in the package.
    Own(&'static str),
    /// An object with one number.
    Numbered(&'static str),
}

impl Type {
    const fn same(today: &'static str) -> Type {
        Type { today, gone: &[], added: &[], optional: &[] }
    }
}

const DEPLOYMENT: &[Type] = &[
    Type::same("io.k8s.api.apps.v1.Deployment"),
    Type {
        added: &[(
            "rollbackTo",
            Field::Numbered("revision"),
            "The revision to go back to; 0 is the one before the last. It is noted as an annotation.",
        )],
        optional: &["selector"],
        ..Type::same("io.k8s.api.apps.v1.DeploymentSpec")
    },
];

const DAEMON_SET: &[Type] = &[
    Type::same("io.k8s.api.apps.v1.DaemonSet"),
    Type {
        added: &[(
            "templateGeneration",
            Field::Int64,
            "A number that grows with each change of the template. It is noted as an annotation.",
        )],
        optional: &["selector"],
        ..Type::same("io.k8s.api.apps.v1.DaemonSetSpec")
    },
];

const INGRESS: &[Type] = &[
    Type::same("io.k8s.api.networking.v1.Ingress"),
    Type {
        gone: &["defaultBackend"],
        added: &[(
            "backend",
            Field::Own("IngressBackend"),
            "Where requests go that no rule is for. Later versions name it defaultBackend.",
        )],
        ..Type::same("io.k8s.api.networking.v1.IngressSpec")
    },
    Type::same("io.k8s.api.networking.v1.IngressRule"),
    Type::same("io.k8s.api.networking.v1.HTTPIngressRuleValue"),
    Type { optional: &["pathType"], ..Type::same("io.k8s.api.networking.v1.HTTPIngressPath") },
    Type {
        gone: &["service"],
        added: &[
            ("serviceName", Field::String, "The name of the service that requests go to."),
            ("servicePort", Field::IntOrString, "The name or the number of a port of that service."),
        ],
        ..Type::same("io.k8s.api.networking.v1.IngressBackend")
    },
];

/// What has a spec that did not have to say which pods it means.
const REPLICA_SET: &[Type] = &[
    Type::same("io.k8s.api.apps.v1.ReplicaSet"),
    Type { optional: &["selector"], ..Type::same("io.k8s.api.apps.v1.ReplicaSetSpec") },
];
const STATEFUL_SET: &[Type] = &[
    Type::same("io.k8s.api.apps.v1.StatefulSet"),
    Type { optional: &["selector"], ..Type::same("io.k8s.api.apps.v1.StatefulSetSpec") },
];

const PACKAGES: &[Package] = &[
    Package {
        name: "io.k8s.api.apps.v1beta1",
        group: "apps",
        version: "v1beta1",
        types: &[&[Type::same("io.k8s.api.apps.v1.ControllerRevision")], DEPLOYMENT, STATEFUL_SET],
    },
    Package {
        name: "io.k8s.api.apps.v1beta2",
        group: "apps",
        version: "v1beta2",
        types: &[&[
            Type::same("io.k8s.api.apps.v1.ControllerRevision"),
            Type::same("io.k8s.api.apps.v1.DaemonSet"),
            Type::same("io.k8s.api.apps.v1.Deployment"),
            Type::same("io.k8s.api.apps.v1.ReplicaSet"),
            Type::same("io.k8s.api.apps.v1.StatefulSet"),
        ]],
    },
    Package {
        name: "io.k8s.api.batch.v1beta1",
        group: "batch",
        version: "v1beta1",
        types: &[&[Type::same("io.k8s.api.batch.v1.CronJob")]],
    },
    Package {
        name: "io.k8s.api.extensions.v1beta1",
        group: "extensions",
        version: "v1beta1",
        types: &[
            DAEMON_SET,
            DEPLOYMENT,
            INGRESS,
            &[Type::same("io.k8s.api.networking.v1.NetworkPolicy")],
            REPLICA_SET,
        ],
    },
    Package {
        name: "io.k8s.api.networking.v1beta1",
        group: "networking.k8s.io",
        version: "v1beta1",
        types: &[INGRESS],
    },
    Package {
        name: "io.k8s.api.policy.v1beta1",
        group: "policy",
        version: "v1beta1",
        types: &[&[Type::same("io.k8s.api.policy.v1.PodDisruptionBudget")]],
    },
];

fn last(name: &str) -> &str {
    name.rsplit('.').next().unwrap_or(name)
}

fn reference(name: &str) -> String {
    format!("#/components/schemas/{name}")
}

impl Package {
    fn all(&self) -> impl Iterator<Item = &'static Type> {
        self.types.iter().flat_map(|types| types.iter())
    }

    /// The package's types, made of those that `today` gives.
    fn make<'a>(
        &self,
        today: impl Fn(&'static str) -> Option<&'a Value>,
    ) -> impl Iterator<Item = (String, Value)> {
        self.all().filter_map(move |of| {
            let mut schema = today(of.today)?.clone();
            if let Some(required) = schema.get_mut("required").and_then(Value::as_array_mut) {
                required.retain(|name| !of.optional.iter().any(|optional| name == optional));
            }
            if let Some(fields) = schema.get_mut("properties").and_then(Value::as_object_mut) {
                fields.retain(|name, _| !of.gone.contains(&name.as_str()));
                for (name, field, description) in of.added {
                    fields.insert((*name).to_owned(), self.field(*field, description));
                }
            }
            self.refer(&mut schema);
            if let Some(kind) = schema.pointer_mut("/x-kubernetes-group-version-kind/0") {
                kind["group"] = json!(self.group);
                kind["version"] = json!(self.version);
            }
            Some((format!("{}.{}", self.name, last(of.today)), schema))
        })
    }

    fn field(&self, field: Field, description: &str) -> Value {
        let mut schema = match field {
            Field::String => json!({"type": "string"}),
            Field::Int64 => json!({"type": "integer", "format": "int64"}),
            Field::IntOrString => {
                json!({"allOf": [{"$ref": reference("io.k8s.apimachinery.pkg.util.intstr.IntOrString")}]})
            }
            Field::Own(name) => json!({"allOf": [{"$ref": reference(&format!("{}.{name}", self.name))}]}),
            Field::Numbered(name) => {
                json!({"type": "object", "properties": {name: {"type": "integer", "format": "int64"}}})
            }
        };
        schema["description"] = json!(description);
        schema
    }

    /// Makes references to types that this package has its own of refer to those.
    fn refer(&self, schema: &mut Value) {
        match schema {
            Value::Object(fields) => {
                for (key, value) in fields.iter_mut() {
                    let own = self.all().find(|of| *value == reference(of.today));
                    match own {
                        Some(of) if key == "$ref" => {
                            *value = json!(reference(&format!("{}.{}", self.name, last(of.today))));
                        }
                        _ => self.refer(value),
                    }
                }
            }
            Value::Array(list) => list.iter_mut().for_each(|value| self.refer(value)),
            _ => {}
        }
    }
}

/// A removed version's type and its structure.
pub(super) fn structure(name: &str) -> Option<&'static types::Type> {
    static TYPES: LazyLock<BTreeMap<String, types::Type>> = LazyLock::new(|| {
        let today = |name: &'static str| document::structure(name).map(|known| &known.schema);
        let made = PACKAGES.iter().flat_map(|package| package.make(today));
        made.map(|(name, schema)| (name.clone(), types::Type::new(name, schema))).collect()
    });
    TYPES.get(name)
}

/// Adds the types of removed versions to all described ones of today.
pub fn describe(all: &mut Map<String, Value>) {
    let mut made = Vec::new();
    for package in PACKAGES {
        made.extend(package.make(|name| all.get(name)));
    }
    all.extend(made);
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::api::schema::{Schema, check};

    #[test]
    fn old_types_know_their_own_fields() {
        for (types, mut object, unknown) in [
            (
                "io.k8s.api.extensions.v1beta1.Ingress",
                json!({"spec": {"backend": {"serviceName": "a", "servicePort": 80}, "defaultBackend": {},
                    "rules": [{"http": {"paths": [{"backend": {"service": {}, "serviceName": "b"}}]}}]}}),
                &[
                    "unknown field \"spec.defaultBackend\"",
                    "unknown field \"spec.rules[0].http.paths[0].backend.service\"",
                ][..],
            ),
            (
                "io.k8s.api.apps.v1beta1.Deployment",
                json!({"spec": {"rollbackTo": {"revision": 3}, "replicas": 1, "templateGeneration": 2}}),
                &["unknown field \"spec.templateGeneration\""],
            ),
            (
                "io.k8s.api.extensions.v1beta1.DaemonSet",
                json!({"spec": {"templateGeneration": 3, "template": {"spec": {"nodeName": "minik"}}}}),
                &[],
            ),
        ] {
            let checked = check(Schema::of(types).unwrap(), &mut object);
            assert_eq!(
                (checked.unknown, checked.errors),
                (unknown.iter().map(|s| (*s).to_owned()).collect(), vec![])
            );
        }
    }

    #[test]
    fn described_types_are_those_of_the_structure() {
        let mut all = document::described();
        describe(&mut all);
        for package in PACKAGES {
            for of in package.all() {
                let name = format!("{}.{}", package.name, last(of.today));
                let described = all[&name]["properties"].as_object().unwrap();
                let structure = &structure(&name).unwrap().schema;
                assert!(described.keys().eq(structure["properties"].as_object().unwrap().keys()), "{name}");
            }
        }
    }
}
