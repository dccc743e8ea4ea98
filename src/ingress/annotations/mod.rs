//! What the annotations of an ingress ask for, parsed (pure).
//!
//! A value that makes no sense is told by a complaint that names the annotation and what would be right, and the default
//! holds, as with ingress-nginx. Where that would open what was to be closed (authentication, source ranges), everything
//! of the ingress is answered by 503 instead. Names, defaults and meanings: ingress-nginx,
//! `docs/user-guide/nginx-configuration/annotations.md`.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::time::Duration;

use http::HeaderName;
use regex::Regex;

mod read;
#[cfg(test)]
mod tests;

use read::Reader;

/// What all names of annotations begin with.
pub const PREFIX: &str = "nginx.ingress.kubernetes.io/";

/// How a backend is spoken to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub enum Protocol {
    /// HTTP/1.1.
    #[default]
    Http,
    /// HTTP/1.1 in TLS.
    Https,
    /// HTTP/2 without TLS.
    Grpc,
    /// HTTP/2 in TLS.
    Grpcs,
}

/// Where a client is sent instead of being answered.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Redirect {
    /// The status.
    pub code: u16,
    /// The address.
    pub to: String,
}

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

/// Where the passwords are that open a location.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Auth {
    /// The secret, in the namespace of the ingress.
    pub secret: String,
    /// Each key of the secret is a user (`auth-map`), rather than `auth` being a file of them (`auth-file`).
    pub by_key: bool,
    /// What the client is told that it is about.
    pub realm: String,
}

/// A range of addresses.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Range {
    base: IpAddr,
    bits: u8,
}

impl Range {
    /// `10.0.0.0/8`, `fd00::/8`, or one address.
    pub fn parse(text: &str) -> Option<Range> {
        let (base, bits) = match text.split_once('/') {
            Some((base, bits)) => (base.parse().ok()?, Some(bits.parse::<u8>().ok()?)),
            None => (text.parse::<IpAddr>().ok()?, None),
        };
        let most = if base.is_ipv4() { 32 } else { 128 };
        let bits = bits.unwrap_or(most);
        (bits <= most).then_some(Range { base, bits })
    }

    /// Whether the address lies inside.
    pub fn contains(&self, address: IpAddr) -> bool {
        let widened = |address: IpAddr| match address {
            IpAddr::V4(v4) => u128::from(v4.to_bits()) << 96,
            IpAddr::V6(v6) => v6.to_bits(),
        };
        let differing = widened(self.base) ^ widened(address);
        let mask = u128::MAX.checked_shl(128 - u32::from(self.bits)).unwrap_or(0);
        self.base.is_ipv4() == address.is_ipv4() && differing & mask == 0
    }
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
    /// Who else may ask.
    pub cors: Option<Cors>,
    /// Who knows a password.
    pub auth: Option<Auth>,
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
    /// The service that answers when another has no endpoint.
    pub default_backend: Option<String>,
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
            cors: None,
            auth: None,
            allowed: None,
            refused: Vec::new(),
            upstream_vhost: None,
            protocol: Protocol::Http,
            affinity: None,
            forwarded_prefix: None,
            service_upstream: false,
            default_backend: None,
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
    "client-body-buffer-size",
    "enable-access-log",
    "enable-rewrite-log",
    "preserve-trailing-slash",
    "proxy-buffer-size",
    "proxy-buffering",
    "proxy-buffers-number",
    "proxy-busy-buffers-size",
    "proxy-max-temp-file-size",
    "proxy-next-upstream-timeout",
    "proxy-request-buffering",
    "ssl-prefer-server-ciphers",
    "session-cookie-change-on-failure",
    "session-cookie-conditional-samesite-none",
];

/// Who asks for these wants something closed; it must not be open because nobody here can close it.
const CLOSING: &[&str] = &["auth-url", "auth-tls-secret"];
/// What is said about those.
const CANNOT_CHECK: &str = "minik cannot check this, so requests are answered by 503";

/// Reads the annotations of an ingress.
pub fn parse(annotations: &BTreeMap<String, String>) -> Parsed {
    let mut reader = Reader::new(annotations);
    let mut settings = Settings::default();
    paths(&mut reader, &mut settings);
    redirects(&mut reader, &mut settings);
    backends(&mut reader, &mut settings);
    settings.cors = cors(&mut reader);
    settings.affinity = affinity(&mut reader);
    access(&mut reader, &mut settings);
    let canary = canary(&mut reader);
    for name in CLOSING {
        if reader.text(name).is_some() {
            close(&mut reader, &mut settings, name, CANNOT_CHECK);
        }
    }
    WITHOUT_EFFECT.iter().for_each(|name| reader.know(name));
    Parsed { settings, canary, complaints: reader.finish() }
}

fn paths(reader: &mut Reader<'_>, settings: &mut Settings) {
    settings.rewrite_target = reader.text("rewrite-target").map(str::to_owned);
    settings.use_regex = reader.flag("use-regex").unwrap_or(false);
    settings.forwarded_prefix = reader.header_text("x-forwarded-prefix");
    settings.aliases = reader.list("server-alias").map(str::to_lowercase).collect();
}

fn redirects(reader: &mut Reader<'_>, settings: &mut Settings) {
    settings.ssl_redirect = reader.flag("ssl-redirect").unwrap_or(true);
    settings.force_ssl_redirect = reader.flag("force-ssl-redirect").unwrap_or(false);
    let rooted = |text: &str| text.starts_with('/') && http::HeaderValue::from_str(text).is_ok();
    settings.app_root =
        reader.checked("app-root", "a path such as /app", |text| rooted(text).then(|| text.to_owned()));
    let address = |text: &str| {
        let scheme = ["http://", "https://"].iter().any(|scheme| text.starts_with(scheme));
        (scheme && http::HeaderValue::from_str(text).is_ok()).then(|| text.to_owned())
    };
    let wanted = "an address such as https://example.com/";
    let code = |reader: &mut Reader<'_>, name, usual| {
        let code = reader.checked(name, "a status of 300 to 308", |text| {
            text.parse::<u16>().ok().filter(|code| (300..=308).contains(code))
        });
        code.unwrap_or(usual)
    };
    let temporal_code = code(reader, "temporal-redirect-code", 302);
    let permanent_code = code(reader, "permanent-redirect-code", 301);
    let temporal = reader.checked("temporal-redirect", wanted, address);
    let permanent = reader.checked("permanent-redirect", wanted, address);
    let temporal = temporal.map(|to| Redirect { code: temporal_code, to });
    settings.redirect = temporal.or(permanent.map(|to| Redirect { code: permanent_code, to }));
}

fn backends(reader: &mut Reader<'_>, settings: &mut Settings) {
    let usual = Settings::default();
    settings.body_limit = match reader.checked("proxy-body-size", "a size such as 8m", read::size) {
        Some(0) => None,
        Some(limit) => Some(limit),
        None => usual.body_limit,
    };
    settings.connect_timeout = reader.seconds("proxy-connect-timeout").unwrap_or(usual.connect_timeout);
    settings.read_timeout = reader.seconds("proxy-read-timeout").unwrap_or(usual.read_timeout);
    settings.send_timeout = reader.seconds("proxy-send-timeout").unwrap_or(usual.send_timeout);
    settings.upstream_vhost = reader.header_text("upstream-vhost");
    settings.service_upstream = reader.flag("service-upstream").unwrap_or(false);
    settings.default_backend = reader.text("default-backend").map(str::to_owned);
    let protocol = reader.checked("backend-protocol", "HTTP, HTTPS, GRPC or GRPCS", |text| {
        Some(match text.to_ascii_uppercase().as_str() {
            "HTTP" | "AUTO_HTTP" => Protocol::Http,
            "HTTPS" => Protocol::Https,
            "GRPC" => Protocol::Grpc,
            "GRPCS" => Protocol::Grpcs,
            _ => return None,
        })
    });
    settings.protocol = protocol.unwrap_or_default();
    let verify = reader.checked("proxy-ssl-verify", "on or off", |text| match text {
        "on" => Some(true),
        "off" => Some(false),
        _ => None,
    });
    // Without TLS there is nothing to verify.
    if verify == Some(true) && matches!(settings.protocol, Protocol::Https | Protocol::Grpcs) {
        close(reader, settings, "proxy-ssl-verify", CANNOT_CHECK);
    }
    settings.tries = tries(reader).unwrap_or(usual.tries);
    reader.checked("proxy-http-version", "1.1", |text| (text == "1.1").then_some(()));
    reader.checked("load-balance", "round_robin", |text| (text == "round_robin").then_some(()));
}

/// How many endpoints are tried, where the ingress says so.
fn tries(reader: &mut Reader<'_>) -> Option<usize> {
    let name = "proxy-next-upstream";
    let when: Vec<&str> = reader.text(name).unwrap_or_default().split_whitespace().collect();
    if when.iter().any(|when| !matches!(*when, "error" | "timeout" | "invalid_header" | "off")) {
        reader.complain(
            name,
            "minik tries another endpoint when one cannot be reached or breaks off, and then alone",
        );
    }
    let tries = reader.checked("proxy-next-upstream-tries", "a whole number", |text| text.parse().ok());
    match tries {
        _ if when.contains(&"off") => Some(1),
        Some(0) => Some(usize::MAX),
        tries => tries,
    }
}

/// Says why nobody gets in.
fn close(reader: &mut Reader<'_>, settings: &mut Settings, name: &str, why: &str) {
    reader.complain(name, why);
    settings.denied = Some(format!("{PREFIX}{name}: {why}"));
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

/// What closes a location. One that is asked for, but not understood, closes it altogether.
fn access(reader: &mut Reader<'_>, settings: &mut Settings) {
    let mut ranges = |name: &'static str| {
        let wanted = "a list of ranges such as 10.0.0.0/8,192.168.1.7 (requests are answered by 503)";
        let given = reader.text(name).is_some();
        let ranges = reader.checked(name, wanted, |text| {
            let parts = text.split(',').map(str::trim).filter(|one| !one.is_empty());
            parts.map(Range::parse).collect::<Option<Vec<Range>>>().filter(|ranges| !ranges.is_empty())
        });
        if given && ranges.is_none() {
            settings.denied = Some(format!("{PREFIX}{name} is no list of ranges"));
        }
        ranges
    };
    let allowed = ranges("whitelist-source-range");
    settings.allowed = ranges("allowlist-source-range").or(allowed);
    settings.refused = ranges("denylist-source-range").unwrap_or_default();
    let (of, secret) = (reader.text("auth-type"), reader.text("auth-secret").map(str::to_owned));
    let by_key = reader.checked("auth-secret-type", "auth-file or auth-map", |text| match text {
        "auth-file" => Some(false),
        "auth-map" => Some(true),
        _ => None,
    });
    let realm = reader.header_text("auth-realm").map(|realm| realm.replace(['"', '\\'], ""));
    match (of, secret) {
        (None, _) => {}
        (Some("basic"), None) => {
            let why = "must name the secret with the passwords; requests are answered by 503";
            close(reader, settings, "auth-secret", why);
        }
        (Some("basic"), Some(secret)) => {
            settings.auth =
                Some(Auth { secret, by_key: by_key.unwrap_or(false), realm: realm.unwrap_or_default() });
        }
        (Some(_), _) => close(reader, settings, "auth-type", "must be basic; requests are answered by 503"),
    }
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
    is_canary.then(|| Canary {
        header: header.map(|header| (header, wanted)),
        cookie,
        weight: weight.unwrap_or(0),
        // A total below 100 has no effect.
        total: total.unwrap_or(100).max(100),
    })
}

/// A path as a regular expression, as nginx compares it: from the path's beginning on, without regard to case.
pub fn path_pattern(path: &str) -> Result<Regex, regex::Error> {
    read::pattern(&format!("^{path}"), true)
}
