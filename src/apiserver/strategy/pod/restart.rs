//! What is wrong with when a container runs again (`validateContainerRestartPolicy`).

use serde_json::{Value, json};

use super::super::value::{items, text};
use super::fields::word;
use crate::api::status::FieldError;

const POLICIES: [&str; 3] = ["Always", "Never", "OnFailure"];
const MOST_RULES: usize = 20;
const MOST_CODES: usize = 255;

/// What is wrong with the policy of an init container: one that always runs has no use for rules.
pub(super) fn init_container(path: &str, container: &Value) -> Vec<FieldError> {
    if container["restartPolicy"] != "Always" {
        return self::container(path, container);
    }
    let why = "restartPolicyRules are not allowed for init containers with restart policy Always";
    let rules = !items(container, "restartPolicyRules").is_empty();
    rules.then(|| FieldError::forbidden(format!("{path}.restartPolicyRules"), why)).into_iter().collect()
}

/// What is wrong with the policy of a container and its rules.
pub(super) fn container(path: &str, container: &Value) -> Vec<FieldError> {
    let rules = items(container, "restartPolicyRules");
    let mut errors = Vec::new();
    let at = format!("{path}.restartPolicy");
    if container["restartPolicy"].is_null() && !rules.is_empty() {
        let why = "must specify restartPolicy when restart rules are used";
        errors.push(FieldError::required(at, why));
    } else {
        errors.extend(word(&at, &container["restartPolicy"], &POLICIES));
    }
    if rules.len() > MOST_RULES {
        errors.push(FieldError::too_many(format!("{path}.restartPolicyRules"), rules.len(), MOST_RULES));
    }
    for (i, rule) in rules.iter().enumerate() {
        let path = format!("{path}.restartPolicyRules[{i}]");
        let action = text(rule, "action");
        if action != "Restart" {
            let at = format!("{path}.action");
            errors.push(FieldError::not_supported(at, &json!(action), &["Restart"]));
        }
        let codes = &rule["exitCodes"];
        if codes.is_null() {
            errors.push(FieldError::required(format!("{path}.exitCodes"), "must be specified"));
            continue;
        }
        let operator = text(codes, "operator");
        if !matches!(operator, "In" | "NotIn") {
            let at = format!("{path}.exitCodes.operator");
            errors.push(FieldError::not_supported(at, &json!(operator), &["In", "NotIn"]));
        }
        let count = items(codes, "values").len();
        if count > MOST_CODES {
            errors.push(FieldError::too_many(format!("{path}.exitCodes.values"), count, MOST_CODES));
        }
    }
    errors
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn policies_and_rules_are_checked() {
        let rule = json!({"action": "Restart", "exitCodes": {"operator": "In", "values": [42]}});
        for (given, expected) in [
            (json!({"restartPolicy": "Never", "restartPolicyRules": [rule]}), &[][..]),
            (
                json!({"restartPolicy": "X"}),
                &[
                    "c.restartPolicy: Unsupported value: \"X\": supported values: \"Always\", \"Never\", \"OnFailure\"",
                ],
            ),
            (
                json!({"restartPolicyRules": [{"action": "Stop", "exitCodes": {"operator": "Is"}}, {"action": "Restart"}]}),
                &[
                    "c.restartPolicy: Required value: must specify restartPolicy when restart rules are used",
                    "c.restartPolicyRules[0].action: Unsupported value: \"Stop\": supported values: \"Restart\"",
                    "c.restartPolicyRules[0].exitCodes.operator: Unsupported value: \"Is\": supported values: \"In\", \"NotIn\"",
                    "c.restartPolicyRules[1].exitCodes: Required value: must be specified",
                ],
            ),
            (
                json!({"restartPolicy": "Never", "restartPolicyRules": vec![rule.clone(); 21]}),
                &["c.restartPolicyRules: Too many: 21: must have at most 20 items"],
            ),
        ] {
            let told: Vec<String> = container("c", &given).iter().map(ToString::to_string).collect();
            assert_eq!(told, expected, "{given}");
        }
        let always = json!({"restartPolicy": "Always", "restartPolicyRules": [rule]});
        assert!(init_container("i", &always)[0].to_string().ends_with("with restart policy Always"));
    }
}
