//! Named formats: `format.dns1123Label().validate(self.name)`.

use super::{no_overload, row, url};
use crate::api::cel::declared::{Function, one};
use crate::api::cel::{Outcome, Val};
use crate::api::{formats, names};

/// A format.
#[derive(Debug)]
pub struct Format {
    /// `dns1123Label`.
    pub name: &'static str,
    /// What is wrong with a text.
    check: fn(&str) -> Vec<String>,
    /// How long its regular expression is taken to be, for what a check costs.
    weight: u64,
}

static FORMATS: &[Format] = &[
    Format { name: "dns1123Label", check: names::dns_label, weight: 30 },
    Format { name: "dns1123Subdomain", check: names::dns_subdomain, weight: 60 },
    Format { name: "dns1035Label", check: names::dns1035_label, weight: 30 },
    Format { name: "qualifiedName", check: names::qualified_name, weight: 60 },
    Format { name: "dns1123LabelPrefix", check: |text| names::dns_label(&masked(text)), weight: 30 },
    Format { name: "dns1123SubdomainPrefix", check: |text| names::dns_subdomain(&masked(text)), weight: 60 },
    Format { name: "dns1035LabelPrefix", check: |text| names::dns1035_label(&masked(text)), weight: 30 },
    Format { name: "labelValue", check: names::label_value, weight: 40 },
    Format {
        name: "uri",
        check: |text| {
            url::parse(text).err().map(|why| format!("parse {text:?}: {why}")).into_iter().collect()
        },
        weight: 1000,
    },
    Format { name: "uuid", check: |text| known(text, "uuid", "does not match the UUID format"), weight: 100 },
    Format { name: "byte", check: |text| known(text, "byte", "invalid base64"), weight: 100 },
    Format { name: "date", check: |text| known(text, "date", "invalid date"), weight: 200 },
    Format { name: "datetime", check: |text| known(text, "date-time", "invalid datetime"), weight: 200 },
];

/// The library.
pub const FUNCTIONS: &[Function] = &[
    row("format.named", &["(string) optional(kubernetes.NamedFormat)"], one, |a| match a {
        [Val::String(name)] => {
            Ok(find(name).map_or(Val::Optional(None), |format| Val::some(Val::Format(format))))
        }
        _ => no_overload(),
    }),
    row("validate", &["kubernetes.NamedFormat.(string) optional(list(string))"], cost, |a| match a {
        [Val::Format(format), Val::String(text)] => {
            let wrong = (format.check)(text);
            Ok(if wrong.is_empty() { Val::Optional(None) } else { Val::some(Val::texts(wrong)) })
        }
        _ => no_overload(),
    }),
    row("format.dns1123Label", MADE, one, |_| made("dns1123Label")),
    row("format.dns1123Subdomain", MADE, one, |_| made("dns1123Subdomain")),
    row("format.dns1035Label", MADE, one, |_| made("dns1035Label")),
    row("format.qualifiedName", MADE, one, |_| made("qualifiedName")),
    row("format.dns1123LabelPrefix", MADE, one, |_| made("dns1123LabelPrefix")),
    row("format.dns1123SubdomainPrefix", MADE, one, |_| made("dns1123SubdomainPrefix")),
    row("format.dns1035LabelPrefix", MADE, one, |_| made("dns1035LabelPrefix")),
    row("format.labelValue", MADE, one, |_| made("labelValue")),
    row("format.uri", MADE, one, |_| made("uri")),
    row("format.uuid", MADE, one, |_| made("uuid")),
    row("format.byte", MADE, one, |_| made("byte")),
    row("format.date", MADE, one, |_| made("date")),
    row("format.datetime", MADE, one, |_| made("datetime")),
];

const MADE: &[&str] = &["() kubernetes.NamedFormat"];

fn find(name: &str) -> Option<&'static Format> {
    FORMATS.iter().find(|format| format.name == name)
}

fn made(name: &str) -> Outcome {
    find(name).map(Val::Format).map_or_else(no_overload, Ok)
}

fn cost(arguments: &[Val]) -> u64 {
    match arguments {
        [Val::Format(format), text] => (text.size() + 1).div_ceil(10) * format.weight.div_ceil(4),
        _ => 1,
    }
}

/// A prefix may end in a dash, which the rest of the name follows.
fn masked(text: &str) -> String {
    match text.strip_suffix('-') {
        Some(rest) if !rest.is_empty() => {
            format!("{}a", &rest[..rest.len() - rest.chars().last().map_or(0, char::len_utf8)])
        }
        _ => text.to_owned(),
    }
}

fn known(text: &str, format: &str, wrong: &str) -> Vec<String> {
    if formats::matches(format, text) { Vec::new() } else { vec![wrong.to_owned()] }
}
