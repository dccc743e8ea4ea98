//! The OpenAPI documents of aggregated servers: asked for while they are available, and kept as long as their
//! APIServices are there.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use serde_json::{Map, Value};
use tokio::time::Instant;

use super::question::{Question, Told, ask};
use crate::api::meta;
use crate::api::request::User;
use crate::apiserver::openapi::others::{Description, about};
use crate::apiserver::proxy::exchange::{Backend, Dial};
use crate::sys::memory;

/// Who asks, by Kubernetes' name.
const USER: &str = "system:aggregator";
/// A server that has told is not asked again before.
const AGAIN: Duration = Duration::from_secs(25);
/// How long a server may take to tell.
const PATIENCE: Duration = Duration::from_secs(10);
/// The most that is read of an index.
const INDEX_BYTES: usize = 1 << 20;
/// The most that is read of a document of everything that a server serves.
const DOCUMENT_BYTES: usize = 32 << 20;

/// What is known of all servers.
#[derive(Default)]
pub struct Descriptions(Mutex<State>);

#[derive(Default)]
struct State {
    /// Made anew when one of them changes, so that whoever made something of it knows.
    all: Arc<Vec<Description>>,
    /// When each server told, and the tag of its older document.
    told: HashMap<String, (Instant, String)>,
}

impl Descriptions {
    fn state(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What all servers told.
    pub fn all(&self) -> Arc<Vec<Description>> {
        self.state().all.clone()
    }

    /// Forgets the servers whose APIServices are not so.
    pub fn retain(&self, is_there: impl Fn(&str) -> bool) {
        let mut state = self.state();
        state.told.retain(|service, _| is_there(service));
        if state.all.iter().any(|description| !is_there(&description.service)) {
            let left = state.all.iter().filter(|description| is_there(&description.service));
            state.all = Arc::new(left.cloned().collect());
        }
    }

    /// Asks the server of an APIService, unless it told a moment ago. What it told before stays while it does not answer.
    pub async fn ask(&self, dial: &dyn Dial, backend: &Backend, service: &Value) {
        let name = meta::name(service);
        let (known, told) = {
            let state = self.state();
            let known = state.all.iter().find(|description| description.service == name).cloned();
            (known, state.told.get(name).cloned())
        };
        let tag = match told {
            Some((at, _)) if at.elapsed() < AGAIN => return,
            Some((_, tag)) => tag,
            None => String::new(),
        };
        let asked = tokio::time::timeout(PATIENCE, described(dial, backend, service, known.as_ref(), &tag));
        match asked.await.unwrap_or_else(|_| Err("it takes too long".to_owned())) {
            Ok((description, tag)) => self.learn(description, tag),
            Err(why) => {
                tracing::debug!(service = name, why, "an aggregated server does not describe its API");
            }
        }
    }

    fn learn(&self, description: Description, tag: String) {
        let mut state = self.state();
        state.told.insert(description.service.clone(), (Instant::now(), tag));
        if state.all.contains(&description) {
            return;
        }
        let others = state.all.iter().filter(|known| known.service != description.service);
        let mut all: Vec<Description> = others.cloned().collect();
        all.push(description);
        all.sort_by(|a, b| a.service.cmp(&b.service));
        state.all = Arc::new(all);
    }
}

/// What a server says of its API, and the tag of its older document. `known` is what it said with the tag `tag`.
async fn described(
    dial: &dyn Dial,
    backend: &Backend,
    service: &Value,
    known: Option<&Description>,
    tag: &str,
) -> Result<(Description, String), String> {
    let text = |field: &str| service["spec"][field].as_str().unwrap_or_default().to_owned();
    let user = || User { name: USER.to_owned(), ..User::default() };
    let index = Question::read("/openapi/v3", user(), INDEX_BYTES);
    let documents = index_of(ask(dial, backend, index).await?)?;
    let known = known.filter(|known| known.older.is_some());
    let tag = if known.is_some() { tag } else { "" };
    let whole = Question { tag, ..Question::read("/openapi/v2", user(), DOCUMENT_BYTES) };
    let told = ask(dial, backend, whole).await?;
    let (older, tag) = match (told.code, known) {
        (304, Some(known)) => (known.older.clone(), tag.to_owned()),
        (200, _) => {
            let root = format!("/apis/{}/{}/", text("group"), text("version"));
            let cut = tokio::task::spawn_blocking(move || cut(&told.bytes, &root));
            (Some(cut.await.map_err(|error| error.to_string())??), told.tag)
        }
        (404, _) => (None, String::new()),
        (code, _) => return Err(format!("status {code} for /openapi/v2")),
    };
    let service = meta::name(service).to_owned();
    let (group, version) = (text("group"), text("version"));
    Ok((Description { service, group, version, documents, older }, tag))
}

/// The documents of an index; `None` when the server has none.
fn index_of(told: Told) -> Result<Option<Map<String, Value>>, String> {
    match told.code {
        404 => Ok(None),
        200 => {
            let mut index: Value = serde_json::from_slice(&told.bytes).map_err(|error| error.to_string())?;
            match index["paths"].take() {
                Value::Object(paths) => Ok(Some(paths)),
                _ => Err("/openapi/v3 names no paths".to_owned()),
            }
        }
        code => Err(format!("status {code} for /openapi/v3")),
    }
}

fn cut(bytes: &[u8], root: &str) -> Result<Bytes, String> {
    let document: Value = serde_json::from_slice(bytes).map_err(|error| format!("/openapi/v2: {error}"))?;
    if !document["paths"].is_object() {
        return Err("/openapi/v2 names no paths".to_owned());
    }
    let cut = serde_json::to_vec(&about(document, root)).map_err(|error| error.to_string())?;
    memory::give_back();
    Ok(cut.into())
}
