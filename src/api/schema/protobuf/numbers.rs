//! Field numbers of the types on the wire.

use std::collections::HashMap;
use std::sync::OnceLock;

/// A field of a message.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Field {
    /// Its JSON name, and whether its zero value differs from its absence.
    Named { name: &'static str, pointer: bool },
    /// A message whose fields JSON writes among those of the outer one; its type.
    Inlined(&'static str),
}

/// Field numbers by short type name (`core.v1.Pod`).
pub(super) type Numbers = HashMap<&'static str, HashMap<u32, Field>>;

/// The whole table, read when it is first needed.
pub(super) fn numbers() -> &'static Numbers {
    static NUMBERS: OnceLock<Numbers> = OnceLock::new();
    NUMBERS.get_or_init(|| {
        let mut numbers = Numbers::new();
        let mut of = "";
        for line in include_str!("numbers.txt").lines().filter(|line| !line.starts_with('#')) {
            let mut words = line.split_whitespace();
            if !line.starts_with(' ') {
                of = words.next().unwrap_or_default();
            }
            let fields = words.filter_map(|word| {
                let (name, number) = word.rsplit_once('=')?;
                let field = match name.strip_prefix('<').and_then(|name| name.strip_suffix('>')) {
                    Some(inlined) => Field::Inlined(inlined),
                    None => {
                        let plain = name.trim_end_matches('*');
                        Field::Named { name: plain, pointer: plain != name }
                    }
                };
                Some((number.parse().ok()?, field))
            });
            numbers.entry(of).or_default().extend(fields);
        }
        numbers
    })
}

/// `core.v1.Pod` of `io.k8s.api.core.v1.Pod`.
pub(super) fn short(schema: &str) -> &str {
    let known = [
        "io.k8s.api.",
        "io.k8s.apimachinery.pkg.apis.",
        "io.k8s.apiextensions-apiserver.pkg.apis.",
        "io.k8s.kube-aggregator.pkg.apis.",
    ];
    known.iter().find_map(|prefix| schema.strip_prefix(prefix)).unwrap_or(schema)
}
