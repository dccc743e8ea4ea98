//! NetworkPolicies: which pods may talk to whom.

use jiff::Timestamp;
use serde_json::{Value, json};

use super::super::address::{self, Range};
use super::super::column::{self, AGE, NAME};
use super::super::deprecated;
use super::super::error::{invalid, word};
use super::super::selector;
use super::super::value::{fill, is_set, items, items_mut};
use super::super::{Column, Strategy};
use crate::api::names;
use crate::api::status::FieldError;

/// The strategy of network policies.
pub(super) struct NetworkPolicy;

/// The two directions, with the field of the peers.
const DIRECTIONS: [(&str, &str); 2] = [("ingress", "from"), ("egress", "to")];

impl Strategy for NetworkPolicy {
    fn default(&self, policy: &mut Value) {
        let Some(spec) = policy.get_mut("spec").filter(|spec| spec.is_object()) else { return };
        for (direction, _) in DIRECTIONS {
            for rule in items_mut(spec, direction) {
                items_mut(rule, "ports").for_each(|port| fill(port, "protocol", "TCP"));
            }
        }
        if items(spec, "policyTypes").is_empty() {
            let outward = !items(spec, "egress").is_empty();
            spec["policyTypes"] = if outward { json!(["Ingress", "Egress"]) } else { json!(["Ingress"]) };
        }
    }

    fn validate_create(&self, policy: &Value) -> Vec<FieldError> {
        validate(&policy["spec"], &[])
    }

    fn validate_update(&self, new: &Value, old: &Value) -> Vec<FieldError> {
        validate(&new["spec"], &ranges(&old["spec"]))
    }

    fn has_generation(&self) -> bool {
        true
    }

    fn warnings(&self, policy: &Value) -> Vec<String> {
        let mut warnings = Vec::new();
        for (rules, peers) in [("ingress", "from"), ("egress", "to")] {
            for (i, rule) in items(&policy["spec"], rules).iter().enumerate() {
                for (j, peer) in items(rule, peers).iter().enumerate() {
                    let path = format!("spec.{rules}[{i}].{peers}[{j}].ipBlock");
                    let block = &peer["ipBlock"];
                    warnings.extend(deprecated::range(&format!("{path}.cidr"), &block["cidr"]));
                    let except = items(block, "except").iter().enumerate();
                    warnings.extend(
                        except.filter_map(|(k, range)| {
                            deprecated::range(&format!("{path}.except[{k}]"), range)
                        }),
                    );
                }
            }
        }
        warnings
    }

    fn columns(&self) -> &'static [Column] {
        const COLUMNS: &[Column] =
            &[NAME, column::text("Pod-Selector", "The pods that the policy is about."), AGE];
        COLUMNS
    }

    fn cells(&self, policy: &Value, now: Timestamp) -> Vec<Value> {
        let pods = selector::shown(&policy["spec"]["podSelector"]);
        vec![column::name(policy), pods.into(), column::age(policy, now)]
    }
}

/// Every range of addresses that a policy names; what is stored may stay, whatever became of the rules.
fn ranges(spec: &Value) -> Vec<&Value> {
    let mut found = Vec::new();
    for (direction, peers) in DIRECTIONS {
        for peer in items(spec, direction).iter().flat_map(|rule| items(rule, peers)) {
            found.push(&peer["ipBlock"]["cidr"]);
            found.extend(items(&peer["ipBlock"], "except"));
        }
    }
    found
}

fn validate(spec: &Value, kept: &[&Value]) -> Vec<FieldError> {
    let mut errors = selector::errors("spec.podSelector", &spec["podSelector"]);
    for (direction, peers) in DIRECTIONS {
        for (i, rule) in items(spec, direction).iter().enumerate() {
            let path = format!("spec.{direction}[{i}]");
            for (j, one) in items(rule, "ports").iter().enumerate() {
                errors.extend(port(&format!("{path}.ports[{j}]"), one));
            }
            for (j, one) in items(rule, peers).iter().enumerate() {
                errors.extend(peer(&format!("{path}.{peers}[{j}]"), one, kept));
            }
        }
    }
    let types = items(spec, "policyTypes");
    if types.len() > 2 {
        let why = "may not specify more than two policyTypes";
        errors.push(FieldError::invalid("spec.policyTypes", &spec["policyTypes"], why));
        return errors;
    }
    for (i, of) in types.iter().enumerate() {
        errors.extend(word(&format!("spec.policyTypes[{i}]"), of, &["Ingress", "Egress"]));
    }
    errors
}

fn port(path: &str, port: &Value) -> Vec<FieldError> {
    let protocol = word(&format!("{path}.protocol"), &port["protocol"], &["TCP", "UDP", "SCTP"]);
    let mut errors: Vec<FieldError> = protocol.into_iter().collect();
    let (given, end) = (&port["port"], &port["endPort"]);
    let (path, end_path) = (format!("{path}.port"), format!("{path}.endPort"));
    match (given, end.as_i64()) {
        (Value::Number(n), last) => {
            let first = n.as_i64().unwrap_or(0);
            errors.extend(invalid(&path, given, names::port_number(first)));
            if last.is_some_and(|last| last < first) {
                let why = "must be greater than or equal to `port`";
                errors.push(FieldError::invalid(&end_path, end, why));
            }
            errors.extend(
                last.map(|last| invalid(&end_path, end, names::port_number(last))).into_iter().flatten(),
            );
        }
        (Value::String(name), last) => {
            if last.is_some() {
                let why = "may not be specified when `port` is non-numeric";
                errors.push(FieldError::invalid(&end_path, end, why));
            }
            errors.extend(invalid(&path, given, names::port_name(name)));
        }
        (_, Some(_)) => {
            let why = "may not be specified when `port` is not specified";
            errors.push(FieldError::invalid(&end_path, end, why));
        }
        _ => {}
    }
    errors
}

fn peer(path: &str, peer: &Value, kept: &[&Value]) -> Vec<FieldError> {
    let mut errors = Vec::new();
    let selectors = ["podSelector", "namespaceSelector"];
    for field in selectors {
        errors.extend(selector::errors(&format!("{path}.{field}"), &peer[field]));
    }
    let selects = selectors.iter().any(|field| !peer[*field].is_null());
    let block = &peer["ipBlock"];
    if !block.is_null() {
        errors.extend(ip_block(&format!("{path}.ipBlock"), block, kept));
    }
    match (selects, block.is_null()) {
        (false, true) => errors.push(FieldError::required(path, "must specify a peer")),
        (true, false) => {
            errors.push(FieldError::forbidden(path, "may not specify both ipBlock and another peer"));
        }
        _ => {}
    }
    errors
}

fn ip_block(path: &str, block: &Value, kept: &[&Value]) -> Vec<FieldError> {
    let at = format!("{path}.cidr");
    if !is_set(block, "cidr") {
        return vec![FieldError::required(at, "")];
    }
    let check = |path: &str, given: &Value| match kept.contains(&given) {
        true => None,
        false => address::cidr(path, given),
    };
    let mut errors: Vec<FieldError> = check(&at, &block["cidr"]).into_iter().collect();
    let parsed = |given: &Value| given.as_str().and_then(Range::parse);
    let Some(all) = parsed(&block["cidr"]) else { return errors };
    for (i, except) in items(block, "except").iter().enumerate() {
        let path = format!("{path}.except[{i}]");
        errors.extend(check(&path, except));
        if parsed(except).is_some_and(|except| !all.strictly_contains(&except)) {
            errors.push(FieldError::invalid(path, except, "must be a strict subset of `cidr`"));
        }
    }
    errors
}

#[cfg(test)]
mod tests {
    use super::*;

    fn told(errors: Vec<FieldError>) -> Vec<String> {
        errors.iter().map(ToString::to_string).collect()
    }

    #[test]
    fn directions_follow_from_the_rules() {
        for (spec, types) in [
            (json!({}), json!(["Ingress"])),
            (json!({"egress": [{}]}), json!(["Ingress", "Egress"])),
            (json!({"policyTypes": ["Egress"]}), json!(["Egress"])),
        ] {
            let mut policy = json!({ "spec": spec });
            NetworkPolicy.default(&mut policy);
            assert_eq!(policy["spec"]["policyTypes"], types);
        }
        let mut policy = json!({"spec": {"ingress": [{"ports": [{"port": 80}]}]}});
        NetworkPolicy.default(&mut policy);
        assert_eq!(policy["spec"]["ingress"][0]["ports"][0], json!({"port": 80, "protocol": "TCP"}));
    }

    #[test]
    fn rules_are_checked() {
        let from = |peer: Value| json!({"podSelector": {}, "ingress": [{"from": [peer]}]});
        let port = |port: Value| json!({"podSelector": {}, "egress": [{"ports": [port]}]});
        let at = "spec.ingress[0].from[0]";
        for (spec, error) in [
            (from(json!({"podSelector": {}})), None),
            (from(json!({"ipBlock": {"cidr": "10.0.0.0/8", "except": ["10.1.0.0/16"]}})), None),
            (port(json!({"port": 80, "endPort": 90, "protocol": "UDP"})), None),
            (port(json!({"port": "http"})), None),
            (from(json!({})), Some(format!("{at}: Required value: must specify a peer"))),
            (
                from(json!({"podSelector": {}, "ipBlock": {"cidr": "10.0.0.0/8"}})),
                Some(format!("{at}: Forbidden: may not specify both ipBlock and another peer")),
            ),
            (from(json!({"ipBlock": {}})), Some(format!("{at}.ipBlock.cidr: Required value"))),
            (
                from(json!({"ipBlock": {"cidr": "10.0.0.0/8", "except": ["11.0.0.0/16"]}})),
                Some(format!(
                    "{at}.ipBlock.except[0]: Invalid value: \"11.0.0.0/16\": must be a strict subset of `cidr`"
                )),
            ),
            (
                port(json!({"port": 80, "endPort": 70})),
                Some(
                    "spec.egress[0].ports[0].endPort: Invalid value: 70: must be greater than or equal to `port`"
                        .to_owned(),
                ),
            ),
            (
                port(json!({"port": "http", "endPort": 70})),
                Some(
                    "spec.egress[0].ports[0].endPort: Invalid value: 70: may not be specified when `port` is \
                     non-numeric"
                        .to_owned(),
                ),
            ),
            (
                port(json!({"protocol": "ICMP"})),
                Some(
                    "spec.egress[0].ports[0].protocol: Unsupported value: \"ICMP\": supported values: \"TCP\", \
                     \"UDP\", \"SCTP\""
                        .to_owned(),
                ),
            ),
            (
                json!({"policyTypes": ["Both"]}),
                Some(
                    "spec.policyTypes[0]: Unsupported value: \"Both\": supported values: \"Ingress\", \"Egress\""
                        .to_owned(),
                ),
            ),
        ] {
            let errors = told(NetworkPolicy.validate_create(&json!({ "spec": spec })));
            assert_eq!(errors, error.into_iter().collect::<Vec<_>>());
        }
    }

    #[test]
    fn what_is_stored_may_stay() {
        let policy = |range: &str| json!({"spec": {"egress": [{"to": [{"ipBlock": {"cidr": range}}]}]}});
        let loose = policy("10.0.0.1/8");
        assert!(NetworkPolicy.validate_update(&loose, &loose).is_empty());
        assert_eq!(NetworkPolicy.validate_update(&loose, &policy("10.0.0.0/8")).len(), 1);
    }
}
