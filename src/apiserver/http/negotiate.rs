//! What form of answer a client accepts.

use crate::api::status::Status;

/// How bytes are written.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Format {
    /// `application/json`.
    #[default]
    Json,
    /// `application/yaml`.
    Yaml,
}

/// As what objects are shown.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Shown {
    /// As they are.
    #[default]
    Plain,
    /// As a `Table`.
    Table,
    /// As `PartialObjectMetadata` (or a list of it).
    Metadata,
    /// As `apidiscovery.k8s.io/v2` (for `/api` and `/apis`).
    Discovery,
}

/// The chosen form.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Form {
    /// How bytes are written.
    pub format: Format,
    /// As what objects are shown.
    pub shown: Shown,
    /// Whether tables and metadata are of meta.k8s.io/v1beta1, for clients of that time.
    pub beta: bool,
    /// Indented.
    pub pretty: bool,
}

/// A choice of the client's: how much it is wanted, and whether its type and its subtype are named.
struct Choice<'a> {
    text: &'a str,
    weight: f64,
    named: (bool, bool),
}

/// The choices of an `Accept` header, what is wanted most first; of equal ones what says more, and then what came first.
fn choices(accept: &str) -> Vec<Choice<'_>> {
    let read = |text| {
        let mut parts = str::split(text, ';').map(str::trim);
        let (of, subtype) = parts.next().unwrap_or_default().split_once('/').unwrap_or_default();
        let weight = parts.find_map(|part| part.strip_prefix("q=")?.parse().ok());
        Choice { text, weight: weight.unwrap_or(1.0), named: (of != "*", subtype != "*") }
    };
    let mut all: Vec<Choice<'_>> = accept.split(',').map(read).collect();
    all.sort_by(|a, b| b.weight.total_cmp(&a.weight).then_with(|| b.named.cmp(&a.named)));
    all
}

/// The first acceptable of the client's choices; nothing asked is JSON.
pub fn form(accept: &str, pretty: bool) -> Result<Form, Status> {
    if accept.trim().is_empty() {
        return Ok(Form { pretty, ..Form::default() });
    }
    for choice in choices(accept) {
        let mut parts = choice.text.split(';').map(str::trim);
        let format = match parts.next().unwrap_or_default() {
            "application/json" | "application/*" | "*/*" => Format::Json,
            "application/yaml" => Format::Yaml,
            _ => continue,
        };
        let parameters: Vec<(&str, &str)> = parts.filter_map(|p| p.split_once('=')).collect();
        let of = |name: &str| parameters.iter().find(|(n, _)| *n == name).map_or("", |(_, v)| *v);
        let beta = of("g") == "meta.k8s.io" && of("v") == "v1beta1";
        let shown = match (of("as"), of("g"), of("v")) {
            ("", _, _) => Shown::Plain,
            ("Table", "meta.k8s.io", "v1" | "v1beta1") => Shown::Table,
            ("PartialObjectMetadata" | "PartialObjectMetadataList", "meta.k8s.io", "v1" | "v1beta1") => {
                Shown::Metadata
            }
            ("APIGroupDiscoveryList", "apidiscovery.k8s.io", "v2") => Shown::Discovery,
            _ => continue,
        };
        return Ok(Form { format, shown, beta: beta && shown != Shown::Plain, pretty });
    }
    Err(Status::failure(
        406,
        "NotAcceptable",
        "only the following media types are accepted: application/json, application/yaml",
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_known_choice_wins() {
        let table = "application/json;as=Table;v=v1;g=meta.k8s.io,application/json;as=Table;v=v1beta1;g=meta.k8s.io,application/json";
        for (accept, format, shown) in [
            ("", Format::Json, Shown::Plain),
            ("*/*", Format::Json, Shown::Plain),
            (table, Format::Json, Shown::Table),
            ("application/vnd.kubernetes.protobuf,application/json", Format::Json, Shown::Plain),
            ("application/yaml", Format::Yaml, Shown::Plain),
            ("application/json;q=0.5, application/yaml", Format::Yaml, Shown::Plain),
            ("application/yaml;q=0.8,application/json;q=0.9", Format::Json, Shown::Plain),
            ("*/*, application/yaml", Format::Yaml, Shown::Plain),
            (
                "application/json;as=Table;v=v1;g=meta.k8s.io;q=0.2,application/json;q=0.1",
                Format::Json,
                Shown::Table,
            ),
            ("application/json;as=Table;v=v2;g=meta.k8s.io, application/json", Format::Json, Shown::Plain),
            (
                "application/json;g=apidiscovery.k8s.io;v=v2;as=APIGroupDiscoveryList",
                Format::Json,
                Shown::Discovery,
            ),
        ] {
            let expected = Form { format, shown, beta: false, pretty: false };
            assert_eq!(form(accept, false).unwrap(), expected, "{accept}");
        }
        let beta = "application/json;as=Table;v=v1beta1;g=meta.k8s.io, application/json";
        let expected = Form { shown: Shown::Table, beta: true, ..Form::default() };
        assert_eq!(form(beta, false).unwrap(), expected);
        assert_eq!(form("application/vnd.kubernetes.protobuf", false).unwrap_err().code, 406);
    }
}
