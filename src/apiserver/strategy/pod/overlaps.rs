//! Files of a volume that are in each other's way (`warningsForOverlappingVirtualPaths` of Kubernetes).

use serde_json::Value;

use super::super::value::{is_zero, items, text};

/// What is to be told of the files in volumes.
pub(super) fn overlaps(volumes: &[Value]) -> Vec<String> {
    let mut warnings = Vec::new();
    for volume in volumes {
        let name = text(volume, "name");
        for (kind, told, field) in [
            ("configMap", "ConfigMap", "name"),
            ("secret", "Secret", "secretName"),
            ("downwardAPI", "DownwardAPI", ""),
        ] {
            let source = &volume[kind];
            let what = match field {
                "" => format!("volume {name:?} ({told})"),
                field => format!("volume {name:?} ({told} {:?})", text(source, field)),
            };
            warnings.extend(within(&paths(source), &what));
        }
        let mut before: Vec<&str> = Vec::new();
        for source in items(&volume["projected"], "sources") {
            let Some((what, own)) = projected(source) else {
                if source.as_object().is_none_or(|kinds| kinds.values().all(Value::is_null)) {
                    warnings.push(format!("volume {name:?} (Projected) has no sources provided"));
                }
                continue;
            };
            let what = format!("volume {name:?} (Projected {what})");
            warnings.extend(within(&own, &what));
            let mut all = own;
            all.sort_unstable();
            all.dedup();
            let own = all.clone();
            all.extend(&before);
            all.sort_unstable();
            warnings.extend(within(&all, &what));
            before.extend(own.iter().filter(|path| !before.contains(path)).collect::<Vec<_>>());
        }
    }
    warnings
}

/// What a source of a projected volume is told as, and its files; none where all keys of an object become files.
fn projected(source: &Value) -> Option<(String, Vec<&str>)> {
    let listed = |kind: &str| !is_zero(&source[kind]["items"]);
    for (kind, told) in [("configMap", "ConfigMap"), ("secret", "Secret")] {
        if listed(kind) {
            return Some((format!("{told} {:?}", text(&source[kind], "name")), paths(&source[kind])));
        }
    }
    if listed("downwardAPI") {
        return Some(("DownwardAPI".to_owned(), paths(&source["downwardAPI"])));
    }
    let (token, bundle) = (&source["serviceAccountToken"], &source["clusterTrustBundle"]);
    if !token.is_null() {
        return Some(("ServiceAccountToken".to_owned(), vec![text(token, "path")]));
    }
    let of = bundle["name"].as_str().or(bundle["signerName"].as_str())?;
    Some((format!("ClusterTrustBundle {of:?}"), vec![text(bundle, "path")]))
}

fn paths(source: &Value) -> Vec<&str> {
    items(source, "items").iter().map(|item| text(item, "path")).collect()
}

/// The paths of a list that one before them is in the way of.
fn within(paths: &[&str], what: &str) -> Vec<String> {
    let mut warnings = Vec::new();
    let mut seen: Vec<&str> = Vec::new();
    for path in paths.iter().map(|path| path.trim_end_matches('/')).filter(|path| !path.is_empty()) {
        let beneath = |a: &str, b: &str| format!("{a}/").starts_with(b);
        if let Some(other) = seen.iter().find(|other| beneath(other, path) || beneath(path, other)) {
            warnings.push(format!("{what}: overlapping paths: {path:?} with {other:?}"));
        }
        if !seen.contains(&path) {
            seen.push(path);
        }
    }
    warnings
}

#[cfg(test)]
mod tests {
    use super::overlaps;
    use serde_json::json;

    #[test]
    fn files_in_each_others_way_are_told() {
        let items =
            |paths: &[&str]| paths.iter().map(|path| json!({"key": "k", "path": path})).collect::<Vec<_>>();
        let volumes = json!([
            {"name": "a", "configMap": {"name": "m", "items": items(&["p", "q", "p/r"])}},
            {"name": "b", "secret": {"secretName": "s", "items": items(&["p", "q"])}},
            {"name": "c", "projected": {"sources": [{"serviceAccountToken": {"path": "token"}},
                {"configMap": {"name": "m"}}, {"configMap": {"name": "n", "items": items(&["token/x"])}}, {}]}},
        ]);
        assert_eq!(
            overlaps(volumes.as_array().unwrap()),
            [
                "volume \"a\" (ConfigMap \"m\"): overlapping paths: \"p/r\" with \"p\"",
                "volume \"c\" (Projected ConfigMap \"n\"): overlapping paths: \"token/x\" with \"token\"",
                "volume \"c\" (Projected) has no sources provided",
            ]
        );
    }
}
