//! A selector object as text: `app=vote,tier in (a,b)`, as tables and scales show it.

use serde_json::Value;

use super::LabelSelector;

/// The text of a `LabelSelector` object, its requirements ordered by their keys; empty when it is absent or selects
/// everything.
pub fn text(selector: &Value) -> Result<String, String> {
    // Reading it finds what cannot be said.
    LabelSelector::from_object(selector)?;
    let mut requirements: Vec<(&str, String)> = Vec::new();
    for (key, value) in selector["matchLabels"].as_object().into_iter().flatten() {
        requirements.push((key, format!("{key}={}", value.as_str().unwrap_or_default())));
    }
    for expression in selector["matchExpressions"].as_array().into_iter().flatten() {
        let key = expression["key"].as_str().unwrap_or_default();
        let values = expression["values"].as_array().into_iter().flatten();
        let mut values: Vec<&str> = values.filter_map(Value::as_str).collect();
        values.sort_unstable();
        let values = values.join(",");
        let requirement = match expression["operator"].as_str().unwrap_or_default() {
            "In" => format!("{key} in ({values})"),
            "NotIn" => format!("{key} notin ({values})"),
            "Exists" => key.to_owned(),
            _ => format!("!{key}"),
        };
        requirements.push((key, requirement));
    }
    requirements.sort_by_key(|(key, _)| *key);
    Ok(requirements.into_iter().map(|(_, text)| text).collect::<Vec<_>>().join(","))
}

/// The text of a plain map of labels; empty when it has none.
pub fn text_of_map(labels: &Value) -> String {
    let pairs = labels.as_object().into_iter().flatten();
    let pairs: Vec<String> =
        pairs.map(|(key, value)| format!("{key}={}", value.as_str().unwrap_or_default())).collect();
    pairs.join(",")
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn requirements_are_told_in_the_order_of_their_keys() {
        let selector = json!({"matchLabels": {"tier": "web", "app": "vote"}, "matchExpressions": [
            {"key": "b", "operator": "In", "values": ["y", "x"]}, {"key": "c", "operator": "NotIn", "values": ["z"]},
            {"key": "z", "operator": "Exists"}, {"key": "a", "operator": "DoesNotExist"}]});
        let told = "!a,app=vote,b in (x,y),c notin (z),tier=web,z";
        assert_eq!(text(&selector).as_deref(), Ok(told));
        assert_eq!(LabelSelector::parse(told).map(|s| s.is_everything()), Ok(false));
        assert_eq!((text(&json!({})), text(&Value::Null)), (Ok(String::new()), Ok(String::new())));
        assert!(text(&json!({"matchExpressions": [{"key": "a", "operator": "Is"}]})).is_err());
        assert_eq!(text_of_map(&json!({"b": "2", "a": "1"})), "a=1,b=2");
    }
}
