//! What the annotations of an ingress ask for, parsed (pure).
//!
//! A value that makes no sense is told by a complaint that names the annotation and what would be right, and the default
//! holds, as with ingress-nginx. Where that would open what was to be closed (authentication, source ranges), everything
//! of the ingress is answered by 503 instead. Names, defaults and meanings: ingress-nginx,
//! `docs/user-guide/nginx-configuration/annotations.md`.

use std::collections::BTreeMap;
use std::time::Duration;

use http::HeaderName;
use regex::Regex;

mod access;
mod read;
mod redirects;
#[cfg(test)]
mod tests;
mod upstream;

pub use access::{Auth, External, Limits, Range};
pub use redirects::Redirect;
pub use upstream::{Next, Protocol};

use read::Reader;

/// What all names of annotations begin with.
pub const PREFIX: &str = "nginx.ingress.kubernetes.io/";

/// Which pages of other origins may ask, and for what.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Cors {
    /// `*`, or origins, which may have a `*` as their first label.
    pub origins: Vec<String>,
    /// `Access-Control-Allow-Methods`.
    pub methods: String,
    /// `Access-Control-Allow-Headers`.
    pub headers: String,
    /// `Access-Control-Expose-Headers`.
    pub exposed: Option<String>,
    /// Whether credentials may be sent.
    pub credentials: bool,
    /// For how many seconds an answer to a preflight request holds.
    pub max_age: u64,
}

/// How a client comes back to the endpoint that it had before.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Affinity {
    /// The cookie's name.
    pub cookie: String,
    /// Clients stay where they are when endpoints are added.
    pub persistent: bool,
    /// Clients of a canary stay with it.
    pub keeps_canary: bool,
    /// The cookie's attributes.
    pub path: Option<String>,
    /// Likewise.
    pub domain: Option<String>,
    /// In seconds from now on.
    pub expires: Option<i64>,
    /// In seconds.
    pub max_age: Option<i64>,
    /// `None`, `Lax` or `Strict`.
    pub same_site: Option<String>,
    /// Whether the cookie is given even to a client of plain HTTP as one for TLS alone.
    pub secure: Option<bool>,
}

/// What a header decides.
#[derive(Debug, Clone)]
pub enum Wanted {
    /// `always` and `never` do.
    Switch,
    /// This value leads to the canary.
    Value(String),
    /// A value that matches leads there.
    Pattern(Regex),
}

/// Which requests go to a canary: the first of header, cookie and weight that decides.
#[derive(Debug, Clone, Default)]
pub struct Canary {
    /// The header, and what is looked for in it.
    pub header: Option<(HeaderName, Wanted)>,
    /// The cookie that says `always` or `never`.
    pub cookie: Option<String>,
    /// So many of `total` requests.
    pub weight: u64,
    /// See `weight`.
    pub total: u64,
    /// Clients have no session with the canary: each request is decided about by itself.
    pub legacy: bool,
}

/// What an ingress asks for, complete.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Settings {
    /// What the path becomes for the backend.
    pub rewrite_target: Option<String>,
    /// Whether paths are regular expressions.
    pub use_regex: bool,
    /// Whether clients of plain HTTP are sent to HTTPS where there is a certificate.
    pub ssl_redirect: bool,
    /// Whether they are in any case.
    pub force_ssl_redirect: bool,
    /// Where clients are sent that ask for `/`.
    pub app_root: Option<String>,
    /// Where all clients are sent.
    pub redirect: Option<Redirect>,
    /// How many bytes a request's body may have.
    pub body_limit: Option<u64>,
    /// How long a connection to a backend may take.
    pub connect_timeout: Duration,
    /// How long a backend may keep silent.
    pub read_timeout: Duration,
    /// How long a backend may take nothing of what it is sent.
    pub send_timeout: Duration,
    /// How many endpoints are tried for one request.
    pub tries: usize,
    /// What another endpoint is tried after.
    pub next: Next,
    /// For how long another endpoint may be tried, from the request's beginning on.
    pub next_timeout: Option<Duration>,
    /// Who else may ask.
    pub cors: Option<Cors>,
    /// Who knows a password.
    pub auth: Option<Auth>,
    /// Who else is asked.
    pub external: Option<External>,
    /// How much one client may ask.
    pub limits: Limits,
    /// From where clients may come.
    pub allowed: Option<Vec<Range>>,
    /// From where they may not.
    pub refused: Vec<Range>,
    /// The host that the backend is asked for.
    pub upstream_vhost: Option<String>,
    /// How the backend is spoken to.
    pub protocol: Protocol,
    /// How clients come back to the same endpoint.
    pub affinity: Option<Affinity>,
    /// `X-Forwarded-Prefix` for the backend.
    pub forwarded_prefix: Option<String>,
    /// Whether the service's own address is used rather than those of its endpoints.
    pub service_upstream: bool,
    /// Requests with the same text have the same endpoint.
    pub hash_by: Option<String>,
    /// What addresses that a backend sends clients to begin with, and what with instead.
    pub moved: Option<(String, String)>,
    /// The service that answers when another has no endpoint.
    pub default_backend: Option<String>,
    /// The statuses for which it answers too.
    pub custom_errors: Vec<u16>,
    /// Whether the host with `www.` before it, or without, leads here.
    pub www: bool,
    /// Further hosts.
    pub aliases: Vec<String>,
    /// Why everything is answered by 503.
    pub denied: Option<String>,
}

impl Default for Settings {
    fn default() -> Settings {
        Settings {
            rewrite_target: None,
            use_regex: false,
            ssl_redirect: true,
            force_ssl_redirect: false,
            app_root: None,
            redirect: None,
            body_limit: Some(1 << 20),
            connect_timeout: Duration::from_secs(5),
            read_timeout: Duration::from_secs(60),
            send_timeout: Duration::from_secs(60),
            tries: 3,
            next: Next::default(),
            next_timeout: None,
            cors: None,
            auth: None,
            external: None,
            limits: Limits::default(),
            allowed: None,
            refused: Vec::new(),
            upstream_vhost: None,
            protocol: Protocol::Http,
            affinity: None,
            forwarded_prefix: None,
            service_upstream: false,
            hash_by: None,
            moved: None,
            default_backend: None,
            custom_errors: Vec::new(),
            www: false,
            aliases: Vec::new(),
            denied: None,
        }
    }
}

/// What was read.
#[derive(Debug, Default)]
pub struct Parsed {
    /// For the ingress' locations.
    pub settings: Settings,
    /// The ingress is the canary of another one.
    pub canary: Option<Canary>,
    /// What makes no sense, or is not carried out.
    pub complaints: Vec<String>,
}

/// Carried out by other means, or without a meaning where bodies are never put aside and no log is written.
const WITHOUT_EFFECT: &[&str] = &[
    // Every request is asked for anew.
    "auth-cache-duration",
    "auth-cache-key",
    "auth-keepalive",
    "auth-keepalive-requests",
    "auth-keepalive-share-vars",
    "auth-keepalive-timeout",
    "client-body-buffer-size",
    "enable-access-log",
    "enable-rewrite-log",
    "preserve-trailing-slash",
    "proxy-buffer-size",
    "proxy-buffering",
    "proxy-buffers-number",
    "proxy-busy-buffers-size",
    "proxy-max-temp-file-size",
    "proxy-request-buffering",
    "ssl-prefer-server-ciphers",
    "session-cookie-change-on-failure",
    "session-cookie-conditional-samesite-none",
];

/// Reads the annotations of an ingress.
pub fn parse(annotations: &BTreeMap<String, String>) -> Parsed {
    let mut reader = Reader::new(annotations);
    let mut settings = Settings::default();
    paths(&mut reader, &mut settings);
    redirects::read(&mut reader, &mut settings);
    upstream::read(&mut reader, &mut settings);
    settings.cors = cors(&mut reader);
    settings.affinity = affinity(&mut reader);
    access::read(&mut reader, &mut settings);
    let canary = canary(&mut reader);
    WITHOUT_EFFECT.iter().for_each(|name| reader.know(name));
    Parsed { settings, canary, complaints: reader.finish() }
}

fn paths(reader: &mut Reader<'_>, settings: &mut Settings) {
    settings.rewrite_target = reader.text("rewrite-target").map(str::to_owned);
    let is_group = |name: &str| name.bytes().all(|b| b.is_ascii_digit());
    reader.know_variables("rewrite-target", is_group);
    reader.know_variables("x-forwarded-prefix", is_group);
    settings.use_regex = reader.flag("use-regex").unwrap_or(false);
    settings.forwarded_prefix = reader.header_text("x-forwarded-prefix");
    settings.aliases = reader.list("server-alias").map(str::to_lowercase).collect();
}

fn cors(reader: &mut Reader<'_>) -> Option<Cors> {
    let is_word = |more: &'static str| {
        move |text: &str| {
            text.split(',')
                .map(str::trim)
                .all(|word| word.chars().all(|c| c.is_ascii_alphanumeric() || more.contains(c)))
        }
    };
    let words = |reader: &mut Reader<'_>, name, more, wanted| {
        reader.checked(name, wanted, |text| is_word(more)(text).then(|| text.to_owned()))
    };
    let enabled = reader.flag("enable-cors").unwrap_or(false);
    let origins = reader.checked("cors-allow-origin", "* or origins such as https://example.com", |text| {
        let origins: Vec<&str> = text.split(',').map(str::trim).filter(|o| !o.is_empty()).collect();
        origins
            .iter()
            .all(|origin| read::is_origin(origin))
            .then(|| origins.into_iter().map(str::to_lowercase).collect::<Vec<_>>())
    });
    let methods = words(reader, "cors-allow-methods", "", "methods such as GET, PUT");
    let headers = words(reader, "cors-allow-headers", "-_", "headers such as X-One, X-Two");
    let exposed = words(reader, "cors-expose-headers", "-_*", "headers such as X-One, X-Two");
    let credentials = reader.flag("cors-allow-credentials").unwrap_or(true);
    let max_age = reader.checked("cors-max-age", "a number of seconds", |text| text.parse().ok());
    enabled.then(|| Cors {
        origins: origins.filter(|origins| !origins.is_empty()).unwrap_or_else(|| vec!["*".to_owned()]),
        methods: methods.unwrap_or_else(|| "GET, PUT, POST, DELETE, PATCH, OPTIONS".to_owned()),
        headers: headers.unwrap_or_else(|| {
            "DNT,X-CustomHeader,Keep-Alive,User-Agent,X-Requested-With,If-Modified-Since,Cache-Control,\
             Content-Type,Authorization"
                .to_owned()
        }),
        exposed,
        credentials,
        max_age: max_age.unwrap_or(1_728_000),
    })
}

fn affinity(reader: &mut Reader<'_>) -> Option<Affinity> {
    let of = reader.checked("affinity", "cookie", |text| (text == "cookie").then_some(()));
    let one_of = |reader: &mut Reader<'_>, name, wanted, of: &'static [&'static str]| {
        reader.checked(name, wanted, |text| of.iter().find(|one| one.eq_ignore_ascii_case(text)).copied())
    };
    let mode = one_of(reader, "affinity-mode", "balanced or persistent", &["balanced", "persistent"]);
    let canary = one_of(reader, "affinity-canary-behavior", "sticky or legacy", &["sticky", "legacy"]);
    let same_site =
        one_of(reader, "session-cookie-samesite", "None, Lax or Strict", &["None", "Lax", "Strict"]);
    let seconds = |reader: &mut Reader<'_>, name| {
        reader.checked(name, "a number of seconds", |text| text.parse::<i64>().ok())
    };
    let (expires, max_age) =
        (seconds(reader, "session-cookie-expires"), seconds(reader, "session-cookie-max-age"));
    let attribute = |reader: &mut Reader<'_>, name, wanted| {
        reader.checked(name, wanted, |text| read::is_attribute(text).then(|| text.to_owned()))
    };
    let path = attribute(reader, "session-cookie-path", "a path such as /app");
    let domain = attribute(reader, "session-cookie-domain", "a domain such as example.com");
    let cookie = reader.checked("session-cookie-name", "a name such as route", |text| {
        read::is_token(text).then(|| text.to_owned())
    });
    let secure = reader.flag("session-cookie-secure");
    of.map(|()| Affinity {
        cookie: cookie.unwrap_or_else(|| "INGRESSCOOKIE".to_owned()),
        persistent: mode == Some("persistent"),
        keeps_canary: canary != Some("legacy"),
        path,
        domain,
        expires,
        max_age,
        same_site: same_site.map(str::to_owned),
        secure,
    })
}

fn canary(reader: &mut Reader<'_>) -> Option<Canary> {
    let is_canary = reader.flag("canary").unwrap_or(false);
    let header = reader.checked("canary-by-header", "a header's name such as X-Canary", |text| {
        text.parse::<HeaderName>().ok()
    });
    let value = reader.text("canary-by-header-value").map(str::to_owned);
    let pattern = reader
        .checked("canary-by-header-pattern", "a regular expression", |text| read::pattern(text, false).ok());
    let cookie = reader.checked("canary-by-cookie", "a cookie's name such as canary", |text| {
        read::is_token(text).then(|| text.to_owned())
    });
    let number = |reader: &mut Reader<'_>, name| {
        reader.checked(name, "a whole number", |text| text.parse::<u64>().ok())
    };
    let (weight, total) = (number(reader, "canary-weight"), number(reader, "canary-weight-total"));
    let wanted = match (value, pattern) {
        (Some(value), _) => Wanted::Value(value),
        (None, Some(pattern)) => Wanted::Pattern(pattern),
        (None, None) => Wanted::Switch,
    };
    let legacy = reader.text("affinity-canary-behavior") == Some("legacy");
    is_canary.then(|| Canary {
        header: header.map(|header| (header, wanted)),
        cookie,
        weight: weight.unwrap_or(0),
        // A total below 100 has no effect.
        total: total.unwrap_or(100).max(100),
        legacy,
    })
}

/// A path as a regular expression, as nginx compares it: from the path's beginning on, without regard to case.
pub fn path_pattern(path: &str) -> Result<Regex, regex::Error> {
    read::pattern(&format!("^{path}"), true)
}
