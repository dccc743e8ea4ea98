//! Rules that may cost too much are refused before they are asked.
//!
//! Source: k8s.io/apiextensions-apiserver `pkg/apis/apiextensions/validation`.

use serde_json::Value;

use super::schema;
use crate::api::status::FieldError;
use crate::api::structural::{Node, costs};

/// What one expression may cost (`StaticEstimatedCostLimit`).
const LIMIT: u64 = 10_000_000;
/// What all expressions of a schema may cost together (`StaticEstimatedCRDCostLimit`).
const TOTAL: u64 = 100_000_000;
/// How many of the dearest are named when it is too much together.
const DEAREST: usize = 4;

/// What is wrong with the costs of the expressions of a schema; of one that is wrong otherwise nothing is said.
pub(super) fn errors(schema: &Value, path: &str, status: bool) -> Vec<FieldError> {
    let node = Node::read(schema);
    let mut wrong = Vec::new();
    if !node.any(&|node| !node.rules.is_empty()) {
        return wrong;
    }
    schema::errors(schema, path, status, &mut wrong);
    if !wrong.is_empty() {
        return Vec::new();
    }
    let (mut total, mut dear) = (0u64, Vec::new());
    costs::costs(&node, true, ("", Some(1)), &mut |below, index, field, cost| {
        let below = if below.is_empty() { String::new() } else { format!(".{below}") };
        let at = format!("{path}{below}.x-kubernetes-validations[{index}].{field}");
        if cost > LIMIT {
            let of = if field == "rule" { "estimated rule cost" } else { "estimated messageExpression cost" };
            wrong.push(FieldError::forbidden(at.as_str(), &exceeds(of, cost, LIMIT)));
        }
        total = total.saturating_add(cost);
        if cost >= TOTAL / 100 {
            dear.push((cost, at));
        }
    });
    if total > TOTAL {
        dear.sort_by_key(|(cost, _)| std::cmp::Reverse(*cost));
        let why = "contributed to estimated rule cost total exceeding cost limit for entire OpenAPIv3 schema";
        wrong.extend(dear.iter().take(DEAREST).map(|(_, at)| FieldError::forbidden(at.as_str(), why)));
        let of = "x-kubernetes-validations estimated rule cost total for entire OpenAPIv3 schema";
        wrong.push(FieldError::forbidden(path, &exceeds(of, total, TOTAL)));
    }
    wrong
}

#[allow(clippy::cast_precision_loss)] // Nobody reads more than a digit of it.
fn exceeds(what: &str, cost: u64, limit: u64) -> String {
    let by = cost as f64 / limit as f64;
    let factor = if by > 100.0 {
        "more than 100x".to_owned()
    } else if by < 1.5 {
        format!("{by:.6}x")
    } else {
        format!("{by:.1}x")
    };
    format!(
        "{what} exceeds budget by factor of {factor} (try simplifying the rule, or adding maxItems, maxProperties, and \
         maxLength where arrays, maps, and strings are declared)"
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn told(spec: Value) -> Vec<String> {
        let schema = json!({"type": "object", "properties": {"spec": spec}});
        errors(&schema, "s", false).iter().map(ToString::to_string).collect()
    }

    #[test]
    fn rules_that_may_cost_too_much_are_refused() {
        let list = |rule: &str, limits: Value| {
            let mut list = json!({"type": "array", "items": {"type": "string"},
                "x-kubernetes-validations": [{"rule": rule}]});
            list.as_object_mut().unwrap().extend(limits.as_object().unwrap().clone());
            json!({"type": "object", "properties": {"names": list}})
        };
        const TWICE: &str = "self.all(a, self.exists_one(b, a == b))";
        const AT: &str = "s.properties[spec].properties[names].x-kubernetes-validations[0].rule: Forbidden: ";
        const ADVICE: &str = "(try simplifying the rule, or adding maxItems, maxProperties, and maxLength where arrays, \
                              maps, and strings are declared)";
        assert_eq!(
            told(list(TWICE, json!({}))),
            [
                format!("{AT}estimated rule cost exceeds budget by factor of more than 100x {ADVICE}"),
                format!(
                    "{AT}contributed to estimated rule cost total exceeding cost limit for entire OpenAPIv3 schema"
                ),
                format!(
                    "s: Forbidden: x-kubernetes-validations estimated rule cost total for entire OpenAPIv3 schema \
                     exceeds budget by factor of more than 100x {ADVICE}"
                ),
            ]
        );
        let mut limited = list(TWICE, json!({"maxItems": 16}));
        limited["properties"]["names"]["items"]["maxLength"] = json!(63);
        assert!(told(limited).is_empty());
        assert!(told(list("self.size() < 100", json!({}))).is_empty());
        // What stands in a list is asked as often as the list is long.
        let rule = json!([{"rule": "self.matches('^[a-z]+$')"}]);
        let item = json!({"type": "string", "x-kubernetes-validations": rule});
        let of = |limits: Value| {
            let mut list = json!({"type": "array", "items": item});
            list.as_object_mut().unwrap().extend(limits.as_object().unwrap().clone());
            told(list)
        };
        assert!(of(json!({}))[0].contains("estimated rule cost exceeds budget by factor of more than 100x"));
        assert!(
            of(json!({"maxItems": 50}))[0].contains("exceeds budget by factor of 3.1x"),
            "{:?}",
            of(json!({"maxItems": 50}))
        );
        assert!(of(json!({"maxItems": 4})).is_empty());
    }

    #[test]
    fn factors_are_rounded() {
        for (cost, factor) in [(11, "1.100000x"), (15, "1.5x"), (999, "99.9x"), (1001, "more than 100x")] {
            let told = exceeds("c", cost, 10);
            assert!(told.starts_with(&format!("c exceeds budget by factor of {factor} (try")), "{told}");
        }
    }
}
