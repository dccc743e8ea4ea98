//! What the expressions of a schema may cost at worst (pure).
//!
//! Source: k8s.io/apiextensions-apiserver `pkg/apis/apiextensions/validation/cel_validation.go`.

use super::rules::type_of;
use super::{Additional, Node};
use crate::api::cel::Sizes;

/// What the expressions of the rules of a schema may cost at worst; `told` hears of each, by the node's path in the schema,
/// the number of the rule and its field. `often` is how often the node can stand in an object, if that is limited.
pub fn costs(
    node: &Node,
    root: bool,
    (path, often): (&str, Option<u64>),
    told: &mut dyn FnMut(&str, usize, &'static str, u64),
) {
    if !node.any(&|node| !node.rules.is_empty()) {
        return;
    }
    let known =
        if node.rules.is_empty() { None } else { type_of(node, root).zip(Sizes::of_node(node, root)) };
    for (index, rule) in node.rules.iter().enumerate() {
        let Some((of, sizes)) = &known else { break };
        let env = rule.environment(of);
        // What does not compile, or calls what nothing is known of, costs nothing here.
        let most = |text: &str| env.most_cost(text, sizes).ok().flatten().filter(|_| !text.trim().is_empty());
        if let Some(cost) = most(&rule.rule) {
            let often = often.unwrap_or_else(|| sizes.most_often());
            told(path, index, "rule", cost.saturating_mul(often));
            // A message is made once.
            if let Some(cost) = most(&rule.message_expression) {
                told(path, index, "messageExpression", cost);
            }
        }
    }
    let limit = |limit: Option<i64>| limit.map(|limit| u64::try_from(limit).unwrap_or(0));
    let each = match (node.of.as_str(), &node.additional) {
        ("object", Some(Additional::Node(_) | Additional::Allowed(true))) => limit(node.value.max_properties),
        ("array", _) => limit(node.value.max_items),
        _ => Some(1),
    };
    let often = often.zip(each).map(|(often, each)| often.saturating_mul(each));
    below(node, path, &mut |child, path| costs(child, child.embedded, (path, often), told));
}

/// The nodes below a node, with their paths.
fn below(node: &Node, path: &str, each: &mut dyn FnMut(&Node, &str)) {
    let at = |name: &str| if path.is_empty() { name.to_owned() } else { format!("{path}.{name}") };
    for (name, child) in &node.properties {
        each(child, &at(&format!("properties[{name}]")));
    }
    if let Some(items) = &node.items {
        each(items, &at("items"));
    }
    if let Some(Additional::Node(child)) = &node.additional {
        each(child, &at("additionalProperties"));
    }
}
