//! An object's managers: `metadata.managedFields`, read and written.

use std::collections::BTreeMap;

use serde_json::{Map, Value, json};

use super::set::Set;
use super::wire;

/// How many entries of updates are kept apart; of more the oldest are put together.
pub(super) const MOST_UPDATERS: usize = 10;
/// The manager of those that were put together.
const ANCIENT: &str = "ancient-changes";

/// What tells an entry from the others.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Identity {
    /// `kubectl-client-side-apply`.
    pub manager: String,
    /// `Apply` or `Update`.
    pub operation: &'static str,
    /// The version by which the manager wrote. Empty for one that applies: it has one entry whatever the version.
    pub version: String,
    /// `status`, or nothing.
    pub subresource: String,
}

const APPLY: &str = "Apply";
const UPDATE: &str = "Update";

impl Identity {
    /// Who applies configurations.
    pub fn applier(manager: &str, subresource: &str) -> Identity {
        Identity {
            manager: manager.to_owned(),
            operation: APPLY,
            version: String::new(),
            subresource: subresource.to_owned(),
        }
    }

    /// Who writes in any other way.
    pub fn updater(manager: &str, version: &str, subresource: &str) -> Identity {
        Identity {
            manager: manager.to_owned(),
            operation: UPDATE,
            version: version.to_owned(),
            subresource: subresource.to_owned(),
        }
    }

    /// Whether it is one that applies.
    pub fn applies(&self) -> bool {
        self.operation == APPLY
    }
}

/// What a manager owns.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Owned {
    /// The fields.
    pub set: Set,
    /// In which version they are named: `apps/v1`.
    pub version: String,
    /// When the manager last changed one, in RFC 3339.
    pub time: Option<String>,
}

/// Why a `managedFields` cannot be read.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    /// It is no list of objects.
    #[error("managed fields must be a list of objects")]
    NoList,
    /// An operation that there is not.
    #[error("operation must be `Apply` or `Update`")]
    Operation,
    /// An entry that says for no version.
    #[error("apiVersion must not be empty")]
    Version,
    /// An entry that says not how its fields are written.
    #[error("missing fieldsType in managed fields entry {0}")]
    NoFieldsType(usize),
    /// An entry whose fields are written in an unknown way.
    #[error("invalid fieldsType {1:?} in managed fields entry {0}")]
    FieldsType(usize, String),
    /// The fields cannot be read.
    #[error("error decoding versioned set: {0}")]
    Fields(#[from] wire::Error),
}

/// What becomes of what a manager owns.
pub(super) enum Change {
    /// It stays.
    None,
    /// It is this from then on.
    To(Set),
    /// The manager is forgotten.
    Forget,
}

/// The managers of an object.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Managers(BTreeMap<Identity, Owned>);

impl Managers {
    /// Reads `metadata.managedFields`; null is none.
    pub fn parse(entries: &Value) -> Result<Managers, Error> {
        let entries = match entries {
            Value::Null => return Ok(Managers::default()),
            Value::Array(entries) => entries,
            _ => return Err(Error::NoList),
        };
        let entry = |(at, entry): (usize, &Value)| {
            let text = |key: &str| entry[key].as_str().unwrap_or_default();
            let applies = match text("operation") {
                APPLY => true,
                UPDATE => false,
                _ => return Err(Error::Operation),
            };
            if text("apiVersion").is_empty() {
                return Err(Error::Version);
            }
            match text("fieldsType") {
                "FieldsV1" => {}
                "" => return Err(Error::NoFieldsType(at)),
                other => return Err(Error::FieldsType(at, other.to_owned())),
            }
            let (manager, version, subresource) = (text("manager"), text("apiVersion"), text("subresource"));
            let identity = match applies {
                true => Identity::applier(manager, subresource),
                false => Identity::updater(manager, version, subresource),
            };
            // An entry without fields is one of none, not of everything.
            let set = match &entry["fieldsV1"] {
                Value::Null => Set::default(),
                fields => Set::parse(fields)?,
            };
            let time = Some(text("time")).filter(|time| !time.is_empty()).map(str::to_owned);
            Ok((identity, Owned { set, version: version.to_owned(), time }))
        };
        entries.iter().enumerate().map(entry).collect::<Result<_, _>>().map(Managers)
    }

    /// Writes `metadata.managedFields`: those that apply first, then by time, name, version and subresource. Null
    /// when there is none.
    pub fn to_wire(&self) -> Value {
        if self.0.is_empty() {
            return Value::Null;
        }
        let mut entries: Vec<(&Identity, &Owned)> = self.0.iter().collect();
        entries.sort_by_key(|(identity, owned)| {
            (identity.operation, &owned.time, &identity.manager, &owned.version, &identity.subresource)
        });
        entries.into_iter().map(|(identity, owned)| entry(identity, owned)).collect()
    }

    /// Whether nobody manages anything.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// All managers and what they own.
    pub fn iter(&self) -> impl Iterator<Item = (&Identity, &Owned)> {
        self.0.iter()
    }

    /// What a manager owns.
    pub fn get(&self, identity: &Identity) -> Option<&Owned> {
        self.0.get(identity)
    }

    /// Says what a manager owns; one that owns nothing is none.
    pub(super) fn set(&mut self, identity: Identity, owned: Owned) {
        if owned.set.is_empty() {
            self.0.remove(&identity);
        } else {
            self.0.insert(identity, owned);
        }
    }

    /// Changes what managers own; those that own nothing afterwards are none.
    pub(super) fn change(&mut self, mut change: impl FnMut(&Identity, &Owned) -> Change) {
        self.0.retain(|identity, owned| {
            match change(identity, owned) {
                Change::None => {}
                Change::To(set) => owned.set = set,
                Change::Forget => return false,
            }
            !owned.set.is_empty()
        });
    }

    /// Puts the oldest entries of updates together when there are too many, version by version.
    pub(super) fn cap(&mut self) {
        let mut updaters: Vec<(Option<String>, Identity)> = self
            .0
            .iter()
            .filter(|(identity, _)| !identity.applies())
            .map(|(identity, owned)| (owned.time.clone(), identity.clone()))
            .collect();
        let mut left = updaters.len();
        updaters.sort();
        let mut first_of: BTreeMap<String, Identity> = BTreeMap::new();
        for (time, identity) in updaters {
            if left <= MOST_UPDATERS {
                break;
            }
            let Some(version) = self.0.get(&identity).map(|owned| owned.version.clone()) else { continue };
            let Some(first) = first_of.get(&version) else {
                first_of.insert(version, identity);
                continue;
            };
            let bucket = Identity::updater(ANCIENT, &version, "");
            let Some(merged) = self.0.remove(&identity) else { continue };
            let mut owned = match self.0.remove(&bucket).or_else(|| self.0.remove(first)) {
                Some(owned) => owned,
                None => Owned { set: Set::default(), version, time: None },
            };
            owned.set.add(merged.set);
            owned.time = time;
            self.0.insert(bucket, owned);
            left -= 1;
        }
    }
}

fn entry(identity: &Identity, owned: &Owned) -> Value {
    let mut entry = Map::new();
    let mut put = |key: &str, text: &str| {
        if !text.is_empty() {
            entry.insert(key.to_owned(), json!(text));
        }
    };
    put("manager", &identity.manager);
    put("operation", identity.operation);
    put("apiVersion", &owned.version);
    put("time", owned.time.as_deref().unwrap_or_default());
    put("fieldsType", "FieldsV1");
    put("subresource", &identity.subresource);
    entry.insert("fieldsV1".to_owned(), owned.set.to_wire());
    Value::Object(entry)
}
