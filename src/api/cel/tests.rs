//! Expressions, what they give, and what is told of those that give nothing.

use serde_json::{Value, json};

use super::{CALL_LIMIT, Env, Fault, Meter, Type, Val};

fn schema() -> Type {
    let port = Type::object("port", [("name".into(), Type::String), ("port".into(), Type::Int)]);
    Type::object(
        "spec",
        [
            ("replicas".into(), Type::Int),
            ("min".into(), Type::Int),
            ("ratio".into(), Type::Double),
            ("name".into(), Type::String),
            ("names".into(), Type::list(Type::String)),
            ("ports".into(), Type::list(port)),
            ("labels".into(), Type::map(Type::String)),
            ("any".into(), Type::Dyn),
            ("at".into(), Type::Timestamp),
            ("namespace".into(), Type::String),
            ("missing".into(), Type::String),
        ],
    )
}

fn document() -> Value {
    json!({"replicas": 3, "min": 1, "ratio": 2, "name": "web-1", "names": ["a", "b", "c"],
        "ports": [{"name": "http", "port": 80}, {"name": "https", "port": 443}],
        "labels": {"app": "web", "tier": "front"}, "any": "50%", "at": "2024-02-03T04:05:06Z", "namespace": "default"})
}

fn run(expression: &str) -> Result<Val, String> {
    let env = Env::new().variable("self", schema()).variable("oldSelf", schema());
    let program = env.compile(expression).map_err(|issues| issues.to_string())?;
    let value = Val::of_json(&document(), &schema());
    let mut meter = Meter::new(CALL_LIMIT);
    program
        .evaluate(|name| (name == "self").then(|| value.clone()), &mut meter)
        .map_err(|fault| fault.to_string())
}

#[test]
fn true_things_are_true() {
    for expression in [
        "self.replicas / 2 == 1 && type(self.replicas) == int && self.replicas % 2 == 1 && -self.replicas < 0",
        "self.ratio == 2.0 && self.ratio > 1 && self.replicas < 3.5",
        "self.replicas >= self.min ? self.name.startsWith('web') : false",
        "has(self.name) && !has(self.missing) && self.?missing.orValue('x') == 'x' && self.__namespace__ == 'default'",
        "self.name.matches('^[a-z]+-[0-9]$') && matches(self.name, 'web') && self.name.find('[0-9]+') == '1'",
        "self.names.all(n, n.size() == 1) && self.names.exists(n, n == 'b') && self.names.exists_one(n, n == 'c')",
        "self.names.map(n, n + '!').join(',') == 'a!,b!,c!' && self.names.filter(n, n > 'a') == ['b', 'c']",
        "self.ports.map(p, p.port > 100, p.name) == ['https'] && self.ports[0].name == 'http' && size(self.ports) == 2",
        "self.labels.all(k, self.labels[k] != '') && 'app' in self.labels && self.labels['app'] == 'web'",
        "self.labels.exists(k, v, k == 'tier' && v == 'front') && self.names.all(i, n, i < 3)",
        "self.labels.transformMap(k, v, v + k) == {'app': 'webapp', 'tier': 'fronttier'}",
        "self.names.transformList(i, n, i) == [0, 1, 2] && self.names.transformMapEntry(i, n, {n: i})['c'] == 2",
        "self.any.endsWith('%') && type(self.any) == string && int(self.any.replace('%', '')) == 50",
        "self.at.getFullYear() == 2024 && self.at.getMonth() == 1 && self.at > timestamp('2024-01-01T00:00:00Z')",
        "duration('90m') == duration('1h30m') && duration('1h').getMinutes() == 60 && self.at + duration('1s') > self.at",
        "quantity('1Gi').isGreaterThan(quantity('500Mi')) && quantity('2').add(1).asInteger() == 3 && isQuantity('1k')",
        "url('https://example.com:80/a?b=c').getHost() == 'example.com:80' && !isURL('x') && isURL('/a')",
        "ip('192.0.2.1').family() == 4 && cidr('192.0.2.0/24').containsIP('192.0.2.9') && !isCIDR('192.0.2.0')",
        "ip.isCanonical('::1') && !ip.isCanonical('0::1') && cidr('10.0.0.9/8').masked() == cidr('10.0.0.0/8')",
        "!format.dns1123Label().validate('web').hasValue() && format.named('uuid').value().validate('x').hasValue()",
        "sets.contains([1, 2, 3], [2]) && sets.equivalent([1, 1], [1]) && !sets.intersects(['a'], ['b'])",
        "[3, 1, 2].sort() == [1, 2, 3] && [1, 2].sum() == 3 && [1, 2].isSorted() && [2, 7].max() == 7 && [1, 2, 1].lastIndexOf(1) == 2",
        "self.ports.sortBy(p, -p.port)[0].name == 'https' && [[1], [2]].flatten() == [1, 2] && [1, 1].distinct() == [1]",
        "'%s has %d (%.2f)'.format([dyn('x'), 2, 1.5]) == 'x has 2 (1.50)' && 'a-b'.split('-') == ['a', 'b']",
        "'tacocat'.substring(1, 4) == 'aco' && 'tacocat'.indexOf('c') == 2 && 'A'.lowerAscii() == 'a' && ' a '.trim() == 'a'",
        "semver('1.2.3').isLessThan(semver('1.10.0')) && semver('v1.2', true).minor() == 2",
        "optional.of(1).optMap(x, x + 1).value() == 2 && !optional.none().hasValue() && [?optional.none(), 1] == [1]",
        "(1 / 0 == 1 || true) && !(false && 1 / 0 == 1)",
        "dyn(1) == 1u && 1 in [1, 2] && b'a' == bytes('a') && string(1.5) == '1.5' && uint(3) == 3u && int('4') == 4",
        "type(null) == null_type && {'a': 1}.?a.orValue(0) == 1 && {'a': 1}[?'b'].orValue(2) == 2",
        "r'\\d' == '\\\\d' && 'é'.size() == 1 && [1, 2][1] == 2",
    ] {
        assert!(matches!(run(expression), Ok(Val::Bool(true))), "{expression}: {:?}", run(expression));
    }
}

#[test]
fn faults_are_told_as_cel_go_tells_them() {
    for (expression, words) in [
        ("self.missing == ''", "no such key: missing"),
        ("oldSelf.name == ''", "no such attribute(s): oldSelf"),
        ("1 / (self.min - 1) == 1", "division by zero"),
        ("self.min % (self.min - 1) == 1", "modulus by zero"),
        ("self.names[7] == ''", "index out of bounds: 7"),
        ("self.labels['x'] == ''", "no such key: x"),
        ("9223372036854775807 + self.min > 0", "integer overflow"),
        ("int(self.name) == 1", "type conversion error from 'string' to 'int'"),
        ("self.any + 1 == 2", "no such overload"),
        ("self.names.max() == '' || [].max() == 1", "max called on empty list"),
        ("optional.none().value() == 1", "optional.none() dereference"),
        ("'a'.substring(2) == ''", "invalid substring range. start: 2, end: 1"),
        ("self.ports[0].port == 80 && self.any == self.missing", "no such key: missing"),
    ] {
        assert_eq!(run(expression).map(|v| format!("{v:?}")), Err(words.to_owned()), "{expression}");
    }
}

#[test]
fn what_cannot_be_is_told_at_its_place() {
    for (expression, complaint) in [
        ("self.nme == ''", "ERROR: <input>:1:5: undefined field 'nme'\n | self.nme == ''\n | ....^"),
        (
            "slef.name",
            "ERROR: <input>:1:1: undeclared reference to 'slef' (in container '')\n | slef.name\n | ^",
        ),
        (
            "self.name + 1",
            "ERROR: <input>:1:11: found no matching overload for '_+_' applied to '(string, int)'\n | self.name + 1\n | ..........^",
        ),
        (
            "self.name.contains(1)",
            "ERROR: <input>:1:19: found no matching overload for 'contains' applied to 'string.(int)'\n | self.name.contains(1)\n | ..................^",
        ),
        (
            "nope(self)",
            "ERROR: <input>:1:5: undeclared reference to 'nope' (in container '')\n | nope(self)\n | ....^",
        ),
        (
            "self.name.matches('(')",
            "ERROR: <input>:1:19: invalid matches argument\n | self.name.matches('(')\n | ..................^",
        ),
        (
            "[1, 'a'] == []",
            "ERROR: <input>:1:5: expected type 'int' but found 'string'\n | [1, 'a'] == []\n | ....^",
        ),
        (
            "self.replicas.all(x, true)",
            "ERROR: <input>:1:5: expression of type 'int' cannot be range of a comprehension (must be list, map, or dynamic)\n | self.replicas.all(x, true)\n | ....^",
        ),
    ] {
        assert_eq!(run(expression).map(|v| format!("{v:?}")), Err(complaint.to_owned()), "{expression}");
    }
    let broken = run("self.name ==").unwrap_err();
    assert!(
        broken.starts_with("ERROR: <input>:1:13: Syntax error: mismatched input '<EOF>' expecting"),
        "{broken}"
    );
}

#[test]
fn no_expression_runs_for_long() {
    let range = "lists.range(1000)";
    for expression in [
        format!("{range}.all(a, {range}.all(b, {range}.all(c, a + b + c >= 0)))"),
        format!("{range}.map(a, {range}.map(b, {range})).size() > 0"),
        "lists.range(999999).all(x, x in lists.range(999999))".to_owned(),
    ] {
        assert_eq!(run(&expression).map(|v| format!("{v:?}")), Err(Fault::Cost.to_string()), "{expression}");
    }
    for (open, close) in [("(", ")"), ("[", "]"), ("1+(", ")")] {
        let deep = format!("{}1{} == 1", open.repeat(5000), close.repeat(5000));
        assert!(run(&deep).is_err(), "{open}");
    }
    for deep in [format!("{}1 > 0", "1+".repeat(40_000)), format!("self{} == 1", ".a".repeat(40_000))] {
        assert!(run(&deep).unwrap_err().contains("expression recursion limit exceeded: 250"));
    }
    assert_eq!(
        run(&format!("{}1 > 0", "1+".repeat(200))).map(|v| format!("{v:?}")),
        Ok("Bool(true)".to_owned())
    );
    let endless = "lists.range(200000).map(x, '').join('".to_owned() + &"-".repeat(90_000) + "')";
    assert_eq!(run(&endless).map(|v| format!("{v:?}")), Err(Fault::Cost.to_string()));
    assert!(run(&"x".repeat(100_001)).unwrap_err().contains("exceeds limit"));
}

#[test]
fn programs_tell_what_they_give_and_name() {
    let env = Env::new().variable("self", schema()).variable("oldSelf", schema());
    let compile = |expression: &str| env.compile(expression).unwrap();
    for (expression, of) in [
        ("self.name", "string"),
        ("self.ports.map(p, p.port)", "list(int)"),
        ("self.any", "dyn"),
        ("self.replicas > 1", "bool"),
        ("self.?name", "optional_type(string)"),
        ("{'a': 1}", "map(string, int)"),
    ] {
        assert_eq!(compile(expression).result().to_string(), of, "{expression}");
    }
    let program = compile("self.replicas > 1");
    assert!(program.uses("self") && !program.uses("oldSelf"));
}

#[test]
fn objects_are_built_where_that_is_allowed() {
    let env = Env::new().building_objects();
    let program = env.compile("Object{spec: Object.spec{replicas: 2, ?paused: optional.none()}}").unwrap();
    let built = program.evaluate(|_| None, &mut Meter::new(CALL_LIMIT)).unwrap();
    assert_eq!(built.to_json(), Some(json!({"spec": {"replicas": 2}})));
    assert!(Env::new().compile("Object{}").is_err());
}
