//! What refused requests are told: tables of requests with the code, the reason and the message of Kubernetes 1.37.
//!
//! Each file in `refusals/` has one server of its own. What stands there is what Kubernetes' source says, so that a case
//! that fails shows a defect of minik's and not of the table.

use std::collections::BTreeMap;
use std::path::Path;

use serde::Deserialize;
use serde_json::{Map, Value, json};

use super::server::{Answer, Fixture, sent};

/// One file.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Table {
    /// What must go well before.
    #[serde(default)]
    given: Vec<Asked>,
    /// Whole bodies, of which cases say what is different.
    #[serde(default)]
    bases: BTreeMap<String, Value>,
    cases: Vec<Case>,
}

/// A request and how it is refused.
#[derive(Deserialize)]
struct Case {
    #[serde(flatten)]
    asked: Asked,
    /// `422 Invalid`, or the code alone where there is no reason.
    answer: String,
    /// Where something in it is not known before, `…` stands for it.
    message: String,
    /// What the details hold beside other things: fields of objects are compared one by one.
    #[serde(default)]
    details: Value,
}

#[derive(Deserialize)]
struct Asked {
    /// `POST /api/v1/namespaces/default/pods`.
    ask: String,
    /// A JSON body.
    body: Option<Value>,
    /// A body that is one of the bases, merged with `with`.
    base: Option<String>,
    #[serde(default)]
    with: Map<String, Value>,
    /// A body that is not JSON.
    raw: Option<String>,
    /// Its content type, when that is not `application/json`.
    media: Option<String>,
    #[serde(default)]
    headers: BTreeMap<String, String>,
    /// Whether a client without any credentials asks.
    #[serde(default)]
    stranger: bool,
}

impl Asked {
    fn content(&self, bases: &BTreeMap<String, Value>) -> Option<String> {
        if let Some(name) = &self.base {
            let mut body = bases[name].clone();
            json_patch::merge(&mut body, &Value::Object(self.with.clone()));
            return Some(body.to_string());
        }
        self.body.as_ref().map(Value::to_string).or_else(|| self.raw.clone())
    }

    async fn send(&self, f: &Fixture, bases: &BTreeMap<String, Value>) -> Answer {
        let (method, path) = self.ask.split_once(' ').unwrap();
        let client = if self.stranger { &f.stranger } else { &f.admin };
        let mut request = client.request(method.parse().unwrap(), format!("{}{path}", f.base));
        for (name, value) in &self.headers {
            request = request.header(name, value);
        }
        if let Some(content) = self.content(bases) {
            let media = self.media.as_deref().unwrap_or("application/json");
            request = request.header("content-type", media).body(content);
        }
        sent(request).await
    }
}

/// Whether a message is the expected one, in which `…` stands for anything.
fn fits(expected: &str, message: &str) -> bool {
    let mut parts = expected.split('…');
    let Some(mut rest) = parts.next().and_then(|first| message.strip_prefix(first)) else { return false };
    let mut open = false;
    for part in parts {
        let Some(at) = rest.find(part) else { return false };
        rest = &rest[at + part.len()..];
        open = part.is_empty();
    }
    rest.is_empty() || open
}

/// Whether a value holds all that is expected of it.
fn holds(expected: &Value, value: &Value) -> bool {
    match (expected, value) {
        (Value::Null, _) => true,
        (Value::Object(expected), value) => expected.iter().all(|(name, of)| holds(of, &value[name])),
        (Value::Array(expected), Value::Array(items)) => {
            expected.len() == items.len() && expected.iter().zip(items).all(|(of, item)| holds(of, item))
        }
        (Value::String(expected), Value::String(text)) => fits(expected, text),
        (expected, value) => expected == value,
    }
}

/// Asks everything of one file.
async fn check(name: &str) {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/apiserver/refusals").join(name);
    let table: Table = serde_yaml::from_str(&std::fs::read_to_string(path).unwrap()).unwrap();
    let f = Fixture::start().await;
    for asked in &table.given {
        let answer = asked.send(&f, &table.bases).await;
        assert!(matches!(answer.code, 200 | 201), "{}: {}", asked.ask, answer.text());
    }
    let mut wrong = Vec::new();
    for case in &table.cases {
        let answer = case.asked.send(&f, &table.bases).await;
        let status = answer.json();
        let text = |name: &str| status[name].as_str().unwrap_or_default().to_owned();
        let told = format!("{} {}", answer.code, text("reason"));
        let message = if status.is_object() { text("message") } else { answer.text() };
        let right = told.trim_end() == case.answer && fits(&case.message, &message);
        if !right || !holds(&case.details, &status["details"]) {
            let content = case.asked.content(&table.bases).unwrap_or_default();
            let content: String = content.chars().take(300).collect();
            wrong.push(format!(
                "{} {content}\n  answered: {}\n  expected: {}",
                case.asked.ask,
                json!([told.trim_end(), message, status["details"]]),
                json!([case.answer, case.message, case.details])
            ));
        }
    }
    assert!(wrong.is_empty(), "{} of {}:\n{}", wrong.len(), table.cases.len(), wrong.join("\n"));
}

#[tokio::test]
async fn paths_and_parameters() {
    check("paths.yaml").await;
}

#[tokio::test]
async fn bodies_and_options() {
    check("bodies.yaml").await;
}

#[tokio::test]
async fn patches_and_conflicts() {
    check("patches.yaml").await;
}

#[tokio::test]
async fn pods() {
    check("pods.yaml").await;
}

#[tokio::test]
async fn configuration_and_services() {
    check("core.yaml").await;
}

#[tokio::test]
async fn workloads() {
    check("workloads.yaml").await;
}

#[tokio::test]
async fn other_groups() {
    check("groups.yaml").await;
}

#[tokio::test]
async fn custom_kinds() {
    check("custom.yaml").await;
}

#[tokio::test]
async fn rights_and_policies() {
    check("rights.yaml").await;
}
