//! What secrets hold for ingresses, parsed once for each version of a secret (pure, with a memory).

use std::collections::HashMap;
use std::sync::Arc;

use k8s_openapi::api::core::v1::Secret;
use rustls::sign::CertifiedKey;

use super::htpasswd::Users;
use super::tls;

/// A version of a secret.
type Version = (String, String);

/// Passwords, and what is wrong with some of them.
type Passwords = Result<(Arc<Users>, Vec<String>), String>;

/// What was parsed before.
#[derive(Default)]
pub struct Memory {
    certificates: HashMap<Version, Result<Arc<CertifiedKey>, String>>,
    users: HashMap<(Version, bool), Passwords>,
}

/// The secrets of a cluster by namespace and name.
pub struct Secrets<'a> {
    all: HashMap<(&'a str, &'a str), &'a Secret>,
    before: &'a mut Memory,
    used: Memory,
}

impl<'a> Secrets<'a> {
    /// All secrets. What is not asked for until [`Secrets::finish`] is forgotten.
    pub fn new(secrets: &'a [Arc<Secret>], memory: &'a mut Memory) -> Secrets<'a> {
        let name = |name: &'a Option<String>| name.as_deref().unwrap_or_default();
        let of = |secret: &'a Arc<Secret>| {
            ((name(&secret.metadata.namespace), name(&secret.metadata.name)), &**secret)
        };
        Secrets { all: secrets.iter().map(of).collect(), before: memory, used: Memory::default() }
    }

    /// Keeps what was asked for.
    pub fn finish(self) {
        *self.before = self.used;
    }

    fn get(&self, namespace: &str, name: &str) -> Result<&'a Secret, String> {
        let found = self.all.get(&(namespace, name)).copied();
        found.ok_or_else(|| format!("the secret {namespace}/{name} does not exist"))
    }

    /// The certificate that a secret holds.
    pub fn certificate(&mut self, namespace: &str, name: &str) -> Result<Arc<CertifiedKey>, String> {
        let secret = self.get(namespace, name)?;
        let version = version(secret);
        let parse = || {
            let part = |key: &str| {
                value(secret, key).ok_or_else(|| format!("the secret {namespace}/{name} has no {key}"))
            };
            tls::certified(part("tls.crt")?, part("tls.key")?)
                .map_err(|why| format!("the secret {namespace}/{name} cannot be used: {why}"))
        };
        let parsed = self.before.certificates.remove(&version);
        self.used.certificates.entry(version).or_insert_with(|| parsed.unwrap_or_else(parse)).clone()
    }

    /// The passwords that a secret holds: in a file `auth`, or each user's in a key of its own.
    pub fn users(&mut self, namespace: &str, name: &str, by_key: bool) -> Passwords {
        let secret = self.get(namespace, name)?;
        let key = (version(secret), by_key);
        let parse = || {
            let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
            let (users, complaints) = match by_key {
                true => {
                    let data = secret.data.iter().flatten();
                    Users::from_map(&data.map(|(user, hash)| (user.clone(), text(&hash.0))).collect())
                }
                false => Users::from_file(&text(
                    value(secret, "auth")
                        .ok_or_else(|| format!("the secret {namespace}/{name} has no key auth"))?,
                )),
            };
            let told = complaints.into_iter().map(|why| format!("the secret {namespace}/{name}: {why}"));
            Ok((Arc::new(users), told.collect()))
        };
        let parsed = self.before.users.remove(&key);
        self.used.users.entry(key).or_insert_with(|| parsed.unwrap_or_else(parse)).clone()
    }
}

fn version(secret: &Secret) -> Version {
    let meta = &secret.metadata;
    (meta.uid.clone().unwrap_or_default(), meta.resource_version.clone().unwrap_or_default())
}

fn value<'a>(secret: &'a Secret, key: &str) -> Option<&'a [u8]> {
    secret.data.as_ref()?.get(key).map(|bytes| bytes.0.as_slice())
}
