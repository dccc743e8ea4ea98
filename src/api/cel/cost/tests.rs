//! What expressions cost, beside the figures of Kubernetes' own tests.

use serde_json::{Value, json};

use super::Sizes;
use crate::api::cel::Env;
use crate::api::structural::Node;
use crate::api::structural::rules::type_of;

/// The most that a rule may cost for values of a schema.
fn most(schema: &Value, rule: &str) -> Option<u64> {
    let node = Node::read(schema);
    let of = type_of(&node, false).unwrap();
    let env = Env::new().variable("self", of.clone()).variable("oldSelf", of);
    env.most_cost(rule, &Sizes::of_node(&node, false).unwrap()).unwrap()
}

/// A schema of a type, or of texts of a format.
fn of(kind: &str) -> Value {
    match kind {
        "int-or-string" => json!({"x-kubernetes-int-or-string": true}),
        "byte" | "date" | "date-time" | "duration" => json!({"type": "string", "format": kind}),
        kind => json!({"type": kind}),
    }
}

fn limited(mut schema: Value, limit: &str, most: Option<i64>) -> Value {
    if let Some(most) = most {
        schema[limit] = json!(most);
    }
    schema
}

fn list(items: Value, most: Option<i64>) -> Value {
    limited(json!({"type": "array", "items": items}), "maxItems", most)
}

fn map(values: Value, most: Option<i64>) -> Value {
    limited(json!({"type": "object", "additionalProperties": values}), "maxProperties", most)
}

fn text(most: Option<i64>) -> Value {
    limited(of("string"), "maxLength", most)
}

fn object() -> Value {
    json!({"type": "object", "required": ["required"],
        "properties": {"required": of("string"), "optional": of("string")}})
}

/// The costs that Kubernetes' own tests (`TestCostEstimation` of `pkg/apiserver/schema/cel`) expect, without a limit of what a
/// rule is about and with one.
#[test]
fn costs_are_those_of_kubernetes() {
    type Schema = Box<dyn Fn(Option<i64>) -> Value>;
    let lists = |kind: &'static str| -> Schema { Box::new(move |most| list(of(kind), most)) };
    let maps = |kind: &'static str| -> Schema { Box::new(move |most| map(of(kind), most)) };
    let texts = || -> Schema { Box::new(text) };
    let objects = || -> Schema { Box::new(|most| list(object(), most)) };
    let custom_maps = |values: Value| -> Schema { Box::new(move |most| map(values.clone(), most)) };
    let text_lists = || -> Schema { Box::new(|most| list(text(most), most)) };
    let fields = |fields: Value, own: &'static [&'static str]| -> Schema {
        Box::new(move |most| {
            let mut all = fields.clone();
            own.iter().for_each(|name| all[*name] = text(most));
            json!({"type": "object", "properties": all})
        })
    };
    let nested =
        |deep: bool| -> Schema { Box::new(move |most| list(map(object(), most), most.filter(|_| deep))) };
    const ALL: &str = "self.all(x, true)";
    for (schema, rule, free, most_elements, bound) in [
        (lists("number"), ALL, 4_718_591, 10, 32),
        (lists("string"), ALL, 3_145_727, 20, 62),
        (lists("boolean"), ALL, 1_887_437, 5, 17),
        (Box::new(|most| list(list(of("number"), None), most)), ALL, 3_145_727, 100, 302),
        (objects(), ALL, 555_128, 50, 152),
        (maps("number"), ALL, 1_348_169, 10, 32),
        (maps("string"), ALL, 1_179_647, 3, 11),
        (maps("boolean"), ALL, 943_718, 100, 302),
        (texts(), "self.contains('test')", 314_574, 10, 5),
        (texts(), "self.startsWith('test')", 2, 15, 2),
        (texts(), "self.endsWith('test')", 2, 30, 2),
        (texts(), "size(self + \"hello\") > size(\"hello\")", 314_578, 4, 7),
        (lists("number"), "self[1] == 0.0", 2, 5000, 2),
        (lists("string"), "self[1] == self[1]", 314_577, 8, 314_577),
        (texts(), "self.matches(\"x\")", 314_574, 50, 22),
        (texts(), "\"\".matches(\"(((((((((())))))))))[0-9]\")", 7, 10, 7),
        (texts(), "self.matches(\"\")", 1, 100, 1),
        (Box::new(|most| map(text(most), most)), "self.all(x, x.contains(self[x]))", 2_752_507, 10, 72),
        (maps("number"), "self[\"x\"] == 0.0", 2, 0, 2),
        (texts(), "self == \"x\"", 2, 0, 1),
        (Box::new(|most| limited(of("byte"), "maxLength", most)), "self == b\"x\"", 2, 0, 1),
        (lists("number"), "self.all(x, x == 0.0)", 6_291_454, 3 * 1024 * 2048, 25_165_826),
        (nested(true), "self.all(x, x[\"y\"].required == \"z\")", 7_340_027, 10, 72),
        (nested(false), "self.all(x, x[\"y\"].required == \"z\")", 7_340_027, 10, 7_340_027),
        (lists("int-or-string"), ALL, 4_718_591, 10, 32),
        (lists("int-or-string"), "self[0] == 5", 3, 10, 3),
        (lists("boolean"), "self[0] == false", 2, 25, 2),
        (objects(), "self[0] == null", 2, 422, 2),
        (Box::new(|most| list(list(of("number"), None), most)), "self[0][0] == -1.0", 3, 51, 3),
        (Box::new(|most| list(map(of("number"), None), most)), "self.all(x, x.y == 25.2)", 6_291_452, 12, 74),
        (Box::new(|most| list(map(of("number"), None), most)), "self[0].x > 2.0", 4, 3000, 4),
        (lists("duration"), ALL, 2_359_295, 5, 17),
        (lists("duration"), "self[0].getHours() == 2", 4, 525, 4),
        (lists("date"), ALL, 725_936, 15, 47),
        (lists("date"), "self[2].getDayOfMonth() == 13", 4, 42, 4),
        (lists("date-time"), ALL, 428_963, 25, 77),
        (lists("date-time"), "self[2].getMinutes() == 45", 4, 99, 4),
        (maps("int-or-string"), ALL, 1_348_169, 15, 47),
        (custom_maps(object()), ALL, 428_963, 20, 62),
        (custom_maps(map(of("number"), None)), ALL, 1_179_647, 10, 32),
        (custom_maps(list(of("number"), None)), ALL, 1_179_647, 25, 77),
        (maps("duration"), ALL, 1_048_577, 5, 17),
        (maps("date"), ALL, 524_288, 10, 32),
        (maps("date-time"), ALL, 349_526, 25, 77),
        (texts(), "self.find('[0-9]+') == ''", 629_147, 10, 11),
        (text_lists(), "self.join(' ') == 'aa bb'", 329_853_068_905, 10, 43),
        (text_lists(), "self.isSorted() == true", 329_854_432_052, 10, 52),
        (
            fields(json!({"before": text(Some(2)), "after": text(Some(4))}), &["str"]),
            "self.str.replace(self.before, self.after) == 'does not matter'",
            629_154,
            4,
            12,
        ),
        (fields(json!({}), &["str", "separator"]), "self.str.split(self.separator) == []", 629_160, 10, 22),
        (texts(), "self.lowerAscii() == 'lower!'", 314_575, 10, 6),
        (maps("integer"), "oldSelf.size() == self.size()", 5, 10, 5),
        (maps("date-time"), "self[\"a\"] == self[\"b\"]", 8, 7, 8),
        (maps("duration"), "self[\"c\"] == self[\"d\"]", 8, 42, 8),
        (
            Box::new(|most| {
                let enumerated = json!({"type": "string", "enum": ["A", "B", "C", "LongValue"]});
                limited(enumerated, "maxLength", most)
            }),
            "self.contains('A')",
            2,
            1000,
            401,
        ),
        (
            Box::new(|most| limited(of("int-or-string"), "maxLength", most)),
            "isQuantity(self)",
            314_574,
            20,
            9,
        ),
    ] {
        assert_eq!(most(&schema(None), rule), Some(free), "{rule} of {}", schema(None));
        assert_eq!(most(&schema(Some(most_elements)), rule), Some(bound), "{rule} of {most_elements}");
    }
    for (rule, least, bound) in [
        ("self.all(x, self.all(y, true))", 10_000_000, 352),
        ("self.all(x, self.all(y, self.all(z, true)))", 10_000_000, 3552),
    ] {
        assert!(most(&list(of("number"), None), rule).unwrap() > least);
        assert_eq!(most(&list(of("number"), Some(10)), rule), Some(bound));
    }
}

/// What is not in those tests, by cel-go's rules.
#[test]
fn macros_and_operators_cost_what_they_stand_for() {
    let items = list(of("integer"), Some(10));
    for (rule, cost) in [
        // A list; looking at each of ten; the result.
        ("self.exists(x, x > 1)", 1 + 10 * (2 + 1 + 3) + 1),
        ("self.exists_one(x, x > 1)", 1 + 10 * (2 + 2) + 2),
        ("self.filter(x, x > 1).size() == 1", 1 + 10 + 10 * (2 + 13) + 1 + 1 + 1),
        ("self.map(x, x + 1).size() == 1", 1 + 10 + 10 * (2 + 12) + 1 + 1 + 1),
        ("self.map(x, x > 1, x).size() == 1", 1 + 10 + 10 * (2 + 13) + 1 + 1 + 1),
        ("self.filter(x, x > 1).all(y, y < 9)", (1 + 10 + 10 * 15 + 1) + 10 * (3 + 2) + 1),
        ("1 in self", 1 + 10),
        ("self[0] > 1 || self[1] > 2", 3 + 3),
        ("self[0] > 1 ? self[1] > 2 : true", 3 + 3),
        ("dyn(self).size() > 1", 4),
        ("sets.contains([1, 2], self)", 10 + 1 + 20 + 1),
        // Each of ten with each, twice; the call and the new list.
        ("self.sort().size() == 1", 1 + 2 * 100 + 11 + 1 + 1),
        ("self.distinct().size() == 1", 1 + 2 * 100 + 11 + 1 + 1),
        ("self.reverse().size() == 1", 1 + 10 + 11 + 1 + 1),
        ("self.slice(2, 6).size() == 1", 1 + 4 + 11 + 1 + 1),
        ("self.slice(2, self.size()).size() == 1", 1 + 2 + 8 + 11 + 1 + 1),
        ("[self, self].flatten().size() == 1", 10 + 2 + 2 + 11 + 1 + 1),
        ("[[self], [self]].flatten(2).size() == 1", 30 + 2 + 4 + 11 + 1 + 1),
        ("lists.range(5).size() == 1", 5 + 11 + 1 + 1),
        ("self.reverse().all(x, x > 1)", (1 + 10 + 11) + 10 * (3 + 2) + 1),
        // The list bound; it, its keys by a walk of ten, and the sorting of those.
        ("self.sortBy(x, -x).size() > 1", (1 + 10) + 1 + (1 + 10 + 10 * (2 + 12) + 1) + 2 * 100 + 11 + 1 + 1),
        // What was sorted counts as large as all its pairs.
        ("self.sort().all(x, x > 1)", (1 + 2 * 100 + 11) + 100 * (3 + 2) + 1),
    ] {
        assert_eq!(most(&items, rule), Some(cost), "{rule}");
    }
    let texts = list(text(Some(5)), Some(10));
    assert_eq!(
        most(&texts, "self.sort().size() == 1"),
        Some(1 + 210 + 11 + 1 + 1),
        "texts are looked through"
    );
    let whole = json!({"type": "object"});
    let node = Node::read(&whole);
    let env = Env::new().variable("self", type_of(&node, true).unwrap());
    let cost = |rule: &str| env.most_cost(rule, &Sizes::of_node(&node, true).unwrap()).unwrap().unwrap();
    assert_eq!(cost("self.metadata.name.contains('x')"), 3 + 102);
    assert_eq!(cost("has(self.metadata.name)"), 2);
    assert!(cost("self.kind.contains('x')") > 300_000);
}
