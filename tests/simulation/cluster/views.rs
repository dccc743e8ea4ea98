//! Waiting for what the objects of a simulated cluster come to show.

use std::collections::BTreeMap;
use std::sync::Arc;

use minik::api::meta;
use minik::api::request::Change;
use minik::client::follow::{Entry, Follower, Revision};
use serde_json::{Value, json};
use tokio::sync::watch;

use super::Cluster;
use super::objects::{Name, kind, parse};
use crate::shows::shows;

/// A kind's objects by `NAMESPACE/NAME`.
type Objects = BTreeMap<String, Arc<Entry>>;

/// What is known of a kind's objects, and up to which revision.
#[derive(Default)]
pub struct Shown {
    objects: Objects,
    revision: Revision,
}

struct Feed(watch::Sender<Shown>);

pub fn key(object: &Value) -> String {
    format!("{}/{}", meta::namespace(object), meta::name(object))
}

impl Follower for Feed {
    fn listed(&mut self, entries: &[Arc<Entry>], revision: Revision) {
        let objects = entries.iter().map(|entry| (key(entry.json()), entry.clone())).collect();
        self.0.send_replace(Shown { objects, revision });
    }

    fn changed(&mut self, change: &Change, revision: Revision) {
        self.0.send_modify(|shown| {
            shown.revision = revision;
            match change {
                Change::Added(entry) | Change::Modified(entry) => {
                    shown.objects.insert(key(entry.json()), entry.clone());
                }
                Change::Deleted(entry) => {
                    shown.objects.remove(&key(entry.json()));
                }
                Change::Bookmark { .. } => {}
            }
        });
    }
}

impl Cluster {
    /// Waits until an object is there and looks so; answers it. `:nodes/NAME` for kinds without namespace.
    pub async fn until(&self, path: &str, looks: impl Fn(&Value) -> bool) -> Value {
        let name = key_of(path);
        let shows = |objects: &Objects| shown(objects, &name).filter(|o| looks(o)).cloned();
        self.wait(path, shows, |objects| shown(objects, &name).cloned().unwrap_or_default()).await
    }

    /// Waits until an object shows this ([`shows`]); answers it.
    pub async fn shows(&self, path: &str, expected: Value) -> Value {
        let name = key_of(path);
        let look = |objects: &Objects| shown(objects, &name).filter(|o| shows(o, &expected)).cloned();
        let tell = |objects: &Objects| json!({"expected": expected, "actual": shown(objects, &name)});
        self.wait(path, look, tell).await
    }

    /// Waits until an object is gone.
    pub async fn until_gone(&self, path: &str) {
        let name = key_of(path);
        let shows = |objects: &Objects| (!objects.contains_key(&name)).then_some(());
        self.wait(path, shows, |objects| shown(objects, &name).cloned().unwrap_or_default()).await;
    }

    /// Waits until the objects of `pods`, or `NAMESPACE:pods`, look so together; answers them.
    pub async fn until_all(&self, path: &str, look: impl Fn(&[Value]) -> bool) -> Vec<Value> {
        let prefix = format!("{}/", parse(path).namespace);
        let of = |objects: &Objects| -> Vec<Value> {
            let inside = objects.iter().filter(|(key, _)| key.starts_with(&prefix));
            inside.map(|(_, entry)| entry.json().clone()).collect()
        };
        let shows = |objects: &Objects| Some(of(objects)).filter(|all| look(all));
        self.wait(path, shows, |objects| of(objects).into()).await
    }

    /// Waits for what a kind's objects are to show; when it does not come, says what they showed.
    async fn wait<T>(
        &self,
        path: &str,
        shows: impl Fn(&Objects) -> Option<T>,
        tell: impl Fn(&Objects) -> Value,
    ) -> T {
        let plural = parse(path).plural;
        let written = self.written.lock().unwrap().get(plural).copied().unwrap_or_default();
        let mut view = self.view(plural);
        let come = async {
            loop {
                let now = view.borrow_and_update();
                // Before the first list, nothing is known.
                if now.revision > 0
                    && now.revision >= written
                    && let Some(shown) = shows(&now.objects)
                {
                    return shown;
                }
                drop(now);
                view.changed().await.unwrap();
            }
        };
        let come = tokio::time::timeout(self.patience, come).await;
        come.unwrap_or_else(|_| {
            let last = serde_json::to_string_pretty(&tell(&self.view(plural).borrow().objects));
            panic!("{path} did not come to look as awaited, but so:\n{}", last.unwrap())
        })
    }

    /// The objects of a kind, followed from the first time they are asked for.
    fn view(&self, plural: &str) -> watch::Receiver<Shown> {
        let mut views = self.views.lock().unwrap();
        let view = views.entry(plural.to_owned()).or_insert_with(|| {
            let (sender, view) = watch::channel(Shown::default());
            // It ends with the test.
            tokio::spawn(self.client.follow(&kind(plural), Feed(sender)));
            view
        });
        view.clone()
    }

    /// The events about an object (`Deployment/web`) so far, oldest first, as `REASON: MESSAGE`.
    pub async fn events(&self, about: &str) -> Vec<String> {
        let (kind, name) = about.split_once('/').unwrap();
        let mut events = self.list("events").await;
        events.retain(|event| {
            event["involvedObject"]["kind"] == kind && event["involvedObject"]["name"] == name
        });
        events.sort_by_key(|event| meta::resource_version(event).parse::<u64>().unwrap());
        events.iter().map(told).collect()
    }

    /// Waits for an event about an object that begins so: `ScalingReplicaSet: Scaled up`.
    pub async fn until_event(&self, about: &str, begins: &str) -> String {
        let (kind, name) = about.split_once('/').unwrap();
        let is = |event: &&Value| {
            let object = &event["involvedObject"];
            object["kind"] == kind && object["name"] == name && told(event).starts_with(begins)
        };
        let all = self.until_all("events", |events| events.iter().any(|event| is(&event))).await;
        all.iter().find(is).map(told).unwrap()
    }
}

fn shown<'a>(objects: &'a Objects, name: &str) -> Option<&'a Value> {
    objects.get(name).map(|entry| entry.json())
}

fn told(event: &Value) -> String {
    format!("{}: {}", event["reason"].as_str().unwrap_or(""), event["message"].as_str().unwrap_or(""))
}

fn key_of(path: &str) -> String {
    let Name { namespace, name, .. } = parse(path);
    format!("{namespace}/{name}")
}
