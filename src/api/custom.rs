//! Kinds that clients define: from a CustomResourceDefinition to rows of the table of kinds.

use std::cmp::Ordering;
use std::collections::BTreeMap;
use std::sync::Arc;

use bytes::Bytes;
use serde_json::{Map, Value, json};

use super::json_path::JsonPath;
use super::kinds::{Kind, Subresource, Text, Types};
use super::meta;
use super::structural::{Node, rules};

/// What discovery lists for a custom kind, in Kubernetes' order.
const VERBS: &[&str] = &["delete", "deletecollection", "get", "list", "patch", "create", "update", "watch"];
/// What is left of them while the definition is being deleted.
const LAST_VERBS: &[&str] = &["delete", "deletecollection", "get", "list", "watch"];
const PART_VERBS: &[&str] = &["get", "patch", "update"];

/// One version of a custom kind, ready for its objects.
#[derive(Debug)]
pub struct Version {
    /// The structure of its objects.
    pub node: Arc<Node>,
    /// The same as an OpenAPI schema that says only what merging needs, with what every object has.
    pub document: Value,
    /// `v1`.
    pub name: String,
    /// The columns of tables beside the name.
    pub columns: Vec<Column>,
    /// The fields that can be selected by, with their paths.
    pub selectable: Vec<(String, JsonPath)>,
    /// Whether the status is written apart from the rest.
    pub status: bool,
    /// Where the parts of a scale are.
    pub scale: Option<Scale>,
    /// What all versions have in common.
    pub definition: Arc<Definition>,
}

impl Version {
    /// Reads a version as it stands in a definition.
    pub fn read(version: &Value, definition: Arc<Definition>) -> Version {
        let schema = &version["schema"]["openAPIV3Schema"];
        let name = version["name"].as_str().unwrap_or_default().to_owned();
        let node = definition.nodes.get(&name).cloned().unwrap_or_else(|| node(version));
        let columns = match version["additionalPrinterColumns"].as_array() {
            Some(columns) if !columns.is_empty() => columns.iter().filter_map(column).collect(),
            _ => vec![age()],
        };
        let selectable = version["selectableFields"].as_array().into_iter().flatten();
        Version {
            document: document(schema),
            node,
            name,
            columns,
            selectable: selectable
                .filter_map(|field| {
                    let path = field["jsonPath"].as_str()?;
                    Some((path.trim_start_matches('.').to_owned(), JsonPath::parse(path).ok()?))
                })
                .collect(),
            status: version["subresources"]["status"].is_object(),
            scale: scale(&version["subresources"]["scale"]),
            definition,
        }
    }

    /// The schema as it was given, with its descriptions. It is read anew each time: it is long, and seldom asked for.
    pub fn described(&self) -> Value {
        let mut definition: Value = serde_json::from_slice(&self.definition.source).unwrap_or_default();
        let versions = definition["spec"]["versions"].as_array_mut().into_iter().flatten();
        let own = versions.into_iter().find(|version| version["name"] == self.name.as_str());
        match own.map(|version| version["schema"]["openAPIV3Schema"].take()) {
            Some(schema) if schema.is_object() => schema,
            _ => self.document.clone(),
        }
    }

    /// The fields by which an object can be selected, with its values.
    pub fn fields(&self, object: &Value) -> Vec<(Text, String)> {
        let shown = |value: &Value| value.as_str().map_or_else(|| value.to_string(), str::to_owned);
        let fields = self.selectable.iter().map(|(name, path)| {
            let value = path.find(object).first().map(|value| shown(value)).unwrap_or_default();
            (name.clone().into(), value)
        });
        fields.collect()
    }
}

impl PartialEq for Version {
    fn eq(&self, other: &Version) -> bool {
        Arc::ptr_eq(&self.definition, &other.definition) && self.name == other.name
    }
}

/// A column of a custom kind's tables.
#[derive(Debug)]
pub struct Column {
    /// `Replicas`.
    pub name: String,
    /// `string`, `integer`, `number`, `boolean` or `date`.
    pub of: String,
    /// `int32`, ...
    pub format: String,
    /// What it shows, in words.
    pub description: String,
    /// 0 is always shown, more only with `-o wide`.
    pub priority: i64,
    /// Where its value is.
    pub path: JsonPath,
}

/// Where the parts of a scale are in an object.
#[derive(Debug)]
pub struct Scale {
    /// The number wanted.
    pub spec: Vec<String>,
    /// The number there is.
    pub status: Vec<String>,
    /// The selector as text, where the object has one.
    pub selector: Option<Vec<String>>,
}

/// What all versions of a custom kind have in common.
#[derive(Debug, Default)]
pub struct Definition {
    /// The definition as it is stored.
    source: Bytes,
    /// The version in which objects are stored.
    pub storage_version: String,
    /// How objects get from one version to another.
    pub conversion: Conversion,
    /// Whether every object was always stored in the one version that there is.
    pub single_version: bool,
    /// The revision of the store since which the versions are what they are.
    pub since: u64,
    /// The structures of the versions, served or not, by their names.
    nodes: BTreeMap<String, Arc<Node>>,
}

impl Definition {
    /// That of kinds which are stored nowhere: of their definition, `source`, only the versions with their schemas are read.
    pub fn of(source: Bytes) -> Definition {
        Definition { source, ..Definition::default() }
    }

    /// The structure of the objects of a version.
    pub fn node(&self, version: &str) -> Option<&Node> {
        self.nodes.get(version).map(|node| &**node)
    }
}

/// How objects get from one version to another.
#[derive(Debug, Default, PartialEq)]
pub enum Conversion {
    /// By the name of the version alone.
    #[default]
    None,
    /// By whoever answers at this `clientConfig`.
    Webhook(Value),
}

/// The kinds that a definition serves, those with the highest version first; none before it is established. `source` is
/// the definition as it is stored, and its versions are what they are since the revision `since`.
pub fn kinds(definition: &Value, source: &Bytes, since: u64) -> Vec<Arc<Kind>> {
    if !is_true(definition, "Established") {
        return Vec::new();
    }
    let spec = &definition["spec"];
    let versions: Vec<&Value> = spec["versions"].as_array().into_iter().flatten().collect();
    let name_of = |version: &Value| version["name"].as_str().unwrap_or_default().to_owned();
    let storage = versions.iter().find(|version| version["storage"] == true);
    let stored = &definition["status"]["storedVersions"];
    let common = Arc::new(Definition {
        source: source.clone(),
        storage_version: storage.map(|version| name_of(version)).unwrap_or_default(),
        conversion: match spec["conversion"]["strategy"].as_str() {
            Some("Webhook") => Conversion::Webhook(spec["conversion"]["webhook"].clone()),
            _ => Conversion::None,
        },
        single_version: versions.len() == 1 && stored.as_array().is_none_or(|stored| stored.len() <= 1),
        since,
        nodes: versions.iter().map(|version| (name_of(version), node(version))).collect(),
    });
    let mut kinds: Vec<Arc<Kind>> = versions
        .iter()
        .filter(|version| version["served"] == true)
        .map(|version| Arc::new(kind(definition, version, Some(&common))))
        .collect();
    kinds.sort_by(|a, b| newer(&a.version, &b.version));
    kinds
}

/// The structure of the objects of a version, with its expressions ready.
fn node(version: &Value) -> Arc<Node> {
    let mut node = Node::read(&version["schema"]["openAPIV3Schema"]);
    rules::compile(&mut node, true, "", &mut |_, _, _, _| {});
    Arc::new(node)
}

/// One row for what a definition defines, in the best version that is served, for work that does not look into objects.
pub fn row(definition: &Value) -> Option<Kind> {
    let versions = definition["spec"]["versions"].as_array().into_iter().flatten();
    let name = |version: &Value| version["name"].as_str().unwrap_or_default().to_owned();
    let best = versions
        .filter(|version| version["served"] == true && is_true(definition, "Established"))
        .min_by(|a, b| newer(&name(a), &name(b)))?;
    Some(kind(definition, best, None))
}

/// Whether a condition of a definition is true.
pub fn is_true(definition: &Value, condition: &str) -> bool {
    let conditions = definition["status"]["conditions"].as_array().into_iter().flatten();
    conditions.into_iter().any(|c| c["type"] == condition && c["status"] == "True")
}

/// The row of a version; with `common` it brings its structure.
fn kind(definition: &Value, version: &Value, common: Option<&Arc<Definition>>) -> Kind {
    let terminating = is_true(definition, "Terminating") || meta::is_deleting(definition);
    let (spec, names) = (&definition["spec"], &definition["status"]["acceptedNames"]);
    let text =
        |value: &Value, key: &str| -> Text { value[key].as_str().unwrap_or_default().to_owned().into() };
    let texts = |key: &str| -> Vec<Text> {
        let list = names[key].as_array().into_iter().flatten();
        list.filter_map(|text| Some(text.as_str()?.to_owned().into())).collect()
    };
    let (group, kind) = (text(spec, "group"), text(names, "kind"));
    let plural = text(names, "plural");
    let name = text(version, "name");
    let own = common.map(|common| Arc::new(Version::read(version, common.clone())));
    let mut subresources = Vec::new();
    if own.as_ref().is_some_and(|own| own.scale.is_some()) {
        subresources.push(Subresource {
            name: "scale",
            kind: "Scale".into(),
            group_version: Some(("autoscaling", "v1")),
            verbs: PART_VERBS,
        });
    }
    if own.as_ref().is_some_and(|own| own.status) {
        subresources.push(Subresource {
            name: "status",
            kind: kind.clone(),
            group_version: None,
            verbs: PART_VERBS,
        });
    }
    let deprecated = (version["deprecated"] == true).then(|| match version["deprecationWarning"].as_str() {
        Some(warning) => warning.to_owned().into(),
        None => format!("{group}/{name} {kind} is deprecated").into(),
    });
    Kind {
        list: text(names, "listKind"),
        singular: text(names, "singular"),
        short_names: texts("shortNames"),
        categories: texts("categories"),
        namespaced: spec["scope"] == "Namespaced",
        verbs: if terminating { LAST_VERBS } else { VERBS },
        subresources,
        types: own.map_or(Types::Named("".into()), Types::Own),
        deprecated,
        storage: format!("{plural}.{group}").into(),
        version: name,
        group,
        kind,
        plural,
    }
}

fn column(column: &Value) -> Option<Column> {
    let text = |key: &str| column[key].as_str().unwrap_or_default().to_owned();
    let path = text("jsonPath");
    let description = match text("description") {
        description if description.is_empty() => {
            format!("Custom resource definition column (in JSONPath format): {path}")
        }
        description => description,
    };
    Some(Column {
        name: text("name"),
        of: text("type"),
        format: text("format"),
        description,
        priority: column["priority"].as_i64().unwrap_or(0),
        path: JsonPath::parse(&path).ok()?,
    })
}

/// What is shown of kinds that define no columns.
fn age() -> Column {
    Column {
        name: "Age".into(),
        of: "date".into(),
        format: String::new(),
        description: "CreationTimestamp is a timestamp representing the server time when this object was created. It \
                      is not guaranteed to be set in happens-before order across separate operations. Clients may not \
                      set this value. It is represented in RFC3339 form and is in UTC.\n\nPopulated by the system. \
                      Read-only. Null for lists. More info: \
                      https://git.k8s.io/community/contributors/devel/sig-architecture/api-conventions.md#metadata"
            .into(),
        priority: 0,
        path: JsonPath::parse(".metadata.creationTimestamp").unwrap_or_else(|_| JsonPath::here()),
    }
}

fn scale(scale: &Value) -> Option<Scale> {
    let path = |key: &str| -> Option<Vec<String>> {
        let text = scale[key].as_str().filter(|text| !text.is_empty())?;
        Some(text.trim_start_matches('.').split('.').map(str::to_owned).collect())
    };
    Some(Scale {
        spec: path("specReplicasPath")?,
        status: path("statusReplicasPath")?,
        selector: path("labelSelectorPath"),
    })
}

/// What merging needs of a schema, with the metadata that every object has.
fn document(schema: &Value) -> Value {
    let mut document = lean(schema);
    let fields = meta::map_mut(&mut document);
    fields.entry("type").or_insert_with(|| json!("object"));
    let properties = meta::map_mut(fields.entry("properties").or_insert_with(|| Value::Object(Map::new())));
    properties.insert("apiVersion".into(), json!({"type": "string"}));
    properties.insert("kind".into(), json!({"type": "string"}));
    let metadata = "#/components/schemas/io.k8s.apimachinery.pkg.apis.meta.v1.ObjectMeta";
    properties.insert("metadata".into(), json!({"$ref": metadata}));
    document
}

/// A schema without what it says of values.
fn lean(schema: &Value) -> Value {
    let mut kept = Map::new();
    for (key, value) in schema.as_object().into_iter().flatten() {
        let value = match key.as_str() {
            "properties" => {
                let properties = value.as_object().into_iter().flatten();
                Value::Object(properties.map(|(name, of)| (name.clone(), lean(of))).collect())
            }
            "items" | "additionalProperties" if value.is_object() => lean(value),
            "type" | "format" | "default" | "additionalProperties" => value.clone(),
            "x-kubernetes-validations" => continue,
            key if key.starts_with("x-kubernetes-") => value.clone(),
            _ => continue,
        };
        kept.insert(key.clone(), value);
    }
    Value::Object(kept)
}

/// The order of versions by what their names say: `v2`, `v1`, `v1beta2`, `v1beta1`, `v1alpha1`, and then the rest by
/// name (k8s.io/apimachinery `pkg/version`).
pub fn newer(one: &str, other: &str) -> Ordering {
    match (rank(one), rank(other)) {
        (Some(a), Some(b)) => b.cmp(&a),
        (Some(_), None) => Ordering::Less,
        (None, Some(_)) => Ordering::Greater,
        (None, None) => one.cmp(other),
    }
}

/// The major version, how stable it is, and the minor version.
fn rank(version: &str) -> Option<(u8, u64, u64)> {
    let rest = version.strip_prefix('v')?;
    let end = rest.find(|c: char| !c.is_ascii_digit()).unwrap_or(rest.len());
    let major = rest[..end].parse().ok()?;
    match &rest[end..] {
        "" => Some((2, major, 0)),
        tail => {
            let (stability, minor) = match (tail.strip_prefix("beta"), tail.strip_prefix("alpha")) {
                (Some(minor), _) => (1, minor),
                (_, Some(minor)) => (0, minor),
                _ => return None,
            };
            Some((stability, major, minor.parse().ok()?))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_are_ordered_by_what_they_say() {
        let mut versions =
            ["foo1", "v1alpha1", "v12alpha1", "v1", "v2beta1", "v10", "v3beta1", "v2", "foo10", "v11beta2"];
        versions.sort_by(|a, b| newer(a, b));
        assert_eq!(
            versions,
            ["v10", "v2", "v1", "v11beta2", "v3beta1", "v2beta1", "v12alpha1", "v1alpha1", "foo1", "foo10"]
        );
    }

    #[test]
    fn an_established_definition_makes_kinds() {
        let mut definition = json!({"metadata": {"uid": "u", "generation": 1}, "spec": {"group": "example.com",
            "scope": "Namespaced", "versions": [
                {"name": "v1beta1", "served": true, "storage": false, "deprecated": true},
                {"name": "v1", "served": true, "storage": true, "subresources": {"status": {}, "scale": {
                    "specReplicasPath": ".spec.replicas", "statusReplicasPath": ".status.replicas"}},
                    "schema": {"openAPIV3Schema": {"type": "object"}}},
                {"name": "v0", "served": false, "storage": false}]},
            "status": {"acceptedNames": {"plural": "widgets", "singular": "widget", "kind": "Widget",
                "listKind": "WidgetList", "shortNames": ["wd"]}}});
        assert!(kinds(&definition, &Bytes::new(), 1).is_empty());
        definition["status"]["conditions"] = json!([{"type": "Established", "status": "True"}]);
        let kinds = kinds(&definition, &Bytes::new(), 1);
        let versions: Vec<&str> = kinds.iter().map(|kind| &*kind.version).collect();
        assert_eq!(versions, ["v1", "v1beta1"]);
        assert_eq!(kinds[0].subresources.iter().map(|s| s.name).collect::<Vec<_>>(), ["scale", "status"]);
        assert_eq!(kinds[0].key(Some("a"), "b"), "widgets.example.com/a/b");
        assert_eq!(kinds[1].deprecated.as_deref(), Some("example.com/v1beta1 Widget is deprecated"));
        assert!(kinds[0].types.schema().unwrap().field("metadata").unwrap().field("labels").is_some());
    }
}
