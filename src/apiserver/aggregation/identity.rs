//! How this server tells an aggregated server for whom it asks: headers, and a certificate that makes them believed.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, SystemTime};

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use hyper::header::{HeaderMap, HeaderName, HeaderValue};
use rustls::ClientConfig;
use rustls::pki_types::ServerName;
use serde_json::{Value, json};

use crate::api::request::User;
use crate::apiserver::pki::{LEAF_LIFETIME, Pki};
use crate::apiserver::proxy::exchange::Secure;
use crate::apiserver::proxy::tls;
use crate::clock;

/// The name in the certificate, which aggregated servers look for.
const CLIENT: &str = "front-proxy-client";
const USER: &str = "x-remote-user";
const UID: &str = "x-remote-uid";
const GROUP: &str = "x-remote-group";
const EXTRA: &str = "x-remote-extra-";
/// Settings of TLS are made anew after this, and their certificate with them.
const FRESH: Duration = Duration::from_secs(24 * 3600);

/// The authority that vouches for this server, and the one that vouches for its users.
pub struct FrontProxy {
    /// Signs the certificate that is shown to aggregated servers.
    pub authority: Arc<Pki>,
    /// The certificate (PEM) of the authority of clients, which aggregated servers may trust as well.
    pub clients: String,
    configs: Mutex<HashMap<String, (SystemTime, Arc<ClientConfig>)>>,
}

impl FrontProxy {
    /// A server that is vouched for by `authority`.
    pub fn new(authority: Arc<Pki>, clients: String) -> FrontProxy {
        FrontProxy { authority, clients, configs: Mutex::default() }
    }

    /// How to speak to the server of this APIService.
    pub fn secure(&self, service: &Value) -> Result<Secure, String> {
        let spec = &service["spec"];
        let text = |field: &str| spec["service"][field].as_str().unwrap_or_default();
        let name = format!("{}.{}.svc", text("name"), text("namespace"));
        let name = ServerName::try_from(name.clone()).map_err(|error| format!("{name}: {error}"))?;
        Ok(Secure { config: self.config(spec)?, name })
    }

    fn config(&self, spec: &Value) -> Result<Arc<ClientConfig>, String> {
        let unverified = spec["insecureSkipTLSVerify"] == true;
        let bundle = spec["caBundle"].as_str().unwrap_or_default();
        let key = if unverified { String::new() } else { bundle.to_owned() };
        let mut configs = self.configs.lock().unwrap_or_else(PoisonError::into_inner);
        let now = SystemTime::from(clock::now());
        if let Some((made, config)) = configs.get(&key)
            && now.duration_since(*made).is_ok_and(|age| age < FRESH)
        {
            return Ok(config.clone());
        }
        let identity =
            self.authority.client(CLIENT, &[], LEAF_LIFETIME).map_err(|error| error.to_string())?;
        let config = match unverified {
            true => tls::unverified(Some(&identity))?,
            false => {
                let bundle = STANDARD.decode(bundle).map_err(|error| format!("caBundle: {error}"))?;
                tls::verified(&bundle, Some(&identity))?
            }
        };
        // Bundles that are no longer used leave with the day.
        configs.retain(|_, (made, _)| now.duration_since(*made).is_ok_and(|age| age < FRESH));
        configs.insert(key, (now, config.clone()));
        Ok(config)
    }

    /// What aggregated servers read to know whom to believe: `extension-apiserver-authentication` in `kube-system`.
    pub fn configuration(&self) -> Value {
        let list = |values: &[&str]| json!(values).to_string();
        json!({"metadata": {"name": "extension-apiserver-authentication", "namespace": "kube-system"},
        "data": {
            "client-ca-file": self.clients,
            "requestheader-allowed-names": list(&[CLIENT]),
            "requestheader-client-ca-file": self.authority.ca_pem(),
            "requestheader-extra-headers-prefix": list(&["X-Remote-Extra-"]),
            "requestheader-group-headers": list(&["X-Remote-Group"]),
            "requestheader-uid-headers": list(&["X-Remote-Uid"]),
            "requestheader-username-headers": list(&["X-Remote-User"]),
        }})
    }
}

/// The headers that name a user (client-go `transport.SetAuthProxyHeaders`).
pub fn headers(user: &User) -> HeaderMap {
    let mut headers = HeaderMap::new();
    let mut add = |name: &str, value: &str| {
        if let (Ok(name), Ok(value)) = (HeaderName::try_from(name), HeaderValue::from_str(value)) {
            headers.append(name, value);
        }
    };
    add(USER, &user.name);
    if let Some(uid) = &user.uid {
        add(UID, uid);
    }
    for group in &user.groups {
        add(GROUP, group);
    }
    for (key, values) in &user.extra {
        for value in values {
            add(&format!("{EXTRA}{}", header_key(key)), value);
        }
    }
    headers
}

/// A key as a part of a header's name: in lower case, with what cannot stand there percent-encoded.
fn header_key(key: &str) -> String {
    let legal = |byte: u8| byte.is_ascii_alphanumeric() || b"!#$&'*+-.^_`|~".contains(&byte);
    key.to_lowercase()
        .bytes()
        .map(|byte| if legal(byte) { char::from(byte).to_string() } else { format!("%{byte:02X}") })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn users_are_told_with_their_groups_and_what_else_is_known() {
        let user = User {
            groups: vec!["a".into(), "b".into()],
            uid: Some("u1".into()),
            extra: [("example.com/Scopes".to_owned(), vec!["x".to_owned(), "y".to_owned()])].into(),
            ..User::component("jane")
        };
        let headers = headers(&user);
        assert_eq!(headers[USER], "jane");
        assert_eq!(headers[UID], "u1");
        assert_eq!(headers.get_all(GROUP).iter().collect::<Vec<_>>(), ["a", "b"]);
        // What cannot stand in a header's name is escaped.
        assert_eq!(headers.get_all("x-remote-extra-example.com%2fscopes").iter().count(), 2);
    }

    #[test]
    fn settings_are_kept_while_they_are_fresh() {
        let directory = tempfile::tempdir().unwrap();
        let pki = Arc::new(Pki::open(directory.path()).unwrap());
        let front = FrontProxy::new(pki.clone(), "CA".into());
        let bundle = STANDARD.encode(pki.ca_pem());
        let service = json!({"spec": {"caBundle": bundle, "service": {"name": "s", "namespace": "n"}}});
        let (one, two) = (front.secure(&service).unwrap(), front.secure(&service).unwrap());
        assert!(Arc::ptr_eq(&one.config, &two.config));
        assert_eq!(one.name, ServerName::try_from("s.n.svc").unwrap());
        let wrong = json!({"spec": {"caBundle": "!", "service": {"name": "s", "namespace": "n"}}});
        assert!(front.secure(&wrong).unwrap_err().starts_with("caBundle"));
        let data = front.configuration()["data"].clone();
        assert_eq!(data["requestheader-allowed-names"], "[\"front-proxy-client\"]");
        assert_eq!(data["client-ca-file"], "CA");
    }
}
