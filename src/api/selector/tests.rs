//! Tables of selectors and what they select.

use serde_json::{Value, json};

use super::{FieldSelector, LabelSelector};

#[test]
fn label_selectors_select() {
    let labels = json!({"app": "vote", "tier": "", "n": "5"});
    for (text, selected) in [
        ("", true),
        ("app=vote", true),
        ("app==vote", true),
        ("app = vote , tier=", true),
        ("tier=,app=vote", true),
        ("app!=vote", false),
        ("app!=db", true),
        ("missing!=x", true),
        ("app", true),
        ("!app", false),
        ("! missing", true),
        ("missing", false),
        ("app in (db, vote)", true),
        ("app in (db,vote),missing", false),
        ("app notin (db)", true),
        ("missing notin (db)", true),
        ("missing in (db)", false),
        ("tier in ()", true),
        ("tier in (,x)", true),
        ("n>4", true),
        ("n<5", false),
        ("app>1", false),
        ("in in (in)", false),
        ("!in", true),
        ("x.io/y!=a", true),
    ] {
        assert_eq!(LabelSelector::parse(text).unwrap().matches(&labels), selected, "{text}");
    }
    assert!(!LabelSelector::parse("app").unwrap().matches(&Value::Null));
    assert!(LabelSelector::parse("").unwrap().is_everything());
}

#[test]
fn label_selectors_are_refused_in_kubernetes_words() {
    for (text, error) in [
        (",", "found ',', expected: !, identifier, or 'end of string'"),
        ("a,", "found '', expected: identifier after ','"),
        ("a b", "unable to parse requirement: found 'b', expected: in, notin, =, ==, !=, gt, lt"),
        ("a in b", "unable to parse requirement: found 'b' expected: '('"),
        ("a in (b", "unable to parse requirement: found '', expected: ',' or ')'"),
        ("a=b c", "found 'c', expected: ',' or 'end of string'"),
        ("!", "unable to parse requirement: found '', expected: identifier"),
        (
            "a>b",
            "unable to parse requirement: values[0]: Invalid value: \"b\": for 'Gt', 'Lt' operators, the value must be an integer",
        ),
    ] {
        assert_eq!(LabelSelector::parse(text).unwrap_err(), error, "{text}");
    }
    let bad_key = LabelSelector::parse("a/b/c=d").unwrap_err();
    assert!(
        bad_key.starts_with(
            "unable to parse requirement: <nil>: Invalid value: \"a/b/c\": a valid label key must"
        )
    );
    assert!(LabelSelector::parse("a=b?").unwrap_err().contains("values[0][a]: Invalid value: \"b?\""));
}

#[test]
fn selector_objects_select() {
    let labels = json!({"app": "vote"});
    for (selector, selected) in [
        (json!(null), false),
        (json!({}), true),
        (json!({"matchLabels": {"app": "vote"}}), true),
        (json!({"matchLabels": {"app": "db"}}), false),
        (json!({"matchExpressions": [{"key": "app", "operator": "In", "values": ["vote"]}]}), true),
        (json!({"matchExpressions": [{"key": "app", "operator": "NotIn", "values": ["vote"]}]}), false),
        (json!({"matchExpressions": [{"key": "app", "operator": "Exists"}]}), true),
        (json!({"matchExpressions": [{"key": "app", "operator": "DoesNotExist"}]}), false),
    ] {
        assert_eq!(LabelSelector::from_object(&selector).unwrap().matches(&labels), selected, "{selector}");
    }
    let wrong = json!({"matchExpressions": [{"key": "app", "operator": "Is"}]});
    assert_eq!(
        LabelSelector::from_object(&wrong).unwrap_err(),
        "\"Is\" is not a valid label selector operator"
    );
    assert!(LabelSelector::from_map(&json!({"app": "vote"})).matches(&labels));
    assert!(!LabelSelector::from_map(&json!({})).matches(&labels));
}

#[test]
fn field_selectors_select() {
    let fields = [("metadata.name", "www".to_owned()), ("spec.x", "a,b=c\\".to_owned())];
    for (text, selected) in [
        ("", true),
        ("metadata.name=www", true),
        ("metadata.name==www", true),
        ("metadata.name!=www", false),
        ("metadata.name=www,spec.nodeName=", true),
        ("spec.nodeName!=", false),
        ("spec.x=a\\,b\\=c\\\\", true),
    ] {
        assert_eq!(FieldSelector::parse(text).unwrap().matches(&fields), selected, "{text}");
    }
    assert_eq!(
        FieldSelector::parse("metadata.name").unwrap_err(),
        "invalid selector: 'metadata.name'; can't understand 'metadata.name'"
    );
    assert!(FieldSelector::parse("a=b\\c").is_err());
    let selector = FieldSelector::parse("metadata.name=www").unwrap();
    assert_eq!(selector.required("metadata.name"), Some("www"));
}
