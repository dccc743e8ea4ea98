//! Annotations about who may ask, and how much (pure).

use std::net::IpAddr;

use http::{HeaderName, HeaderValue, Method, Uri};

use super::read::Reader;
use super::{PREFIX, Settings};
use crate::ingress::variables;

/// What is said of what nobody here can check. It must not be open for that.
pub(super) const CANNOT_CHECK: &str = "minik cannot check this, so requests are answered by 503";

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

    /// Some of them, with commas between.
    fn parse_all(text: &str) -> Option<Vec<Range>> {
        let parts = text.split(',').map(str::trim).filter(|one| !one.is_empty());
        parts.map(Range::parse).collect::<Option<Vec<Range>>>().filter(|ranges| !ranges.is_empty())
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

/// Another server that is asked about each request (`auth-url`).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct External {
    /// Where, with variables.
    pub url: String,
    /// By which method.
    pub method: Method,
    /// Where clients are sent that it does not know, with variables.
    pub signin: Option<String>,
    /// The parameter by which that place learns where the client wanted to go.
    pub redirect_param: String,
    /// Where the server is told that the client wants to go, unless that is where it does; with variables.
    pub redirect: Option<String>,
    /// The headers of its answer that the backend gets.
    pub headers: Vec<HeaderName>,
    /// Whether clients get its cookies even with answers that are failures.
    pub always_set_cookie: bool,
}

/// How much one client may ask of an ingress; nothing is limited by default.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Limits {
    /// So many requests at a time.
    pub connections: Option<u32>,
    /// So many in a second.
    pub per_second: Option<u32>,
    /// So many in a minute.
    pub per_minute: Option<u32>,
    /// So many times the requests of a second, or minute, may come at once.
    pub burst: u32,
    /// Who may ask as much as it likes.
    pub exempt: Vec<Range>,
}

/// Says why nobody gets in.
pub(super) fn close(reader: &mut Reader<'_>, settings: &mut Settings, name: &str, why: &str) {
    reader.complain(name, why);
    settings.denied = Some(format!("{PREFIX}{name}: {why}"));
}

/// Reads what closes a location. One that is asked for, but not understood, closes it altogether.
pub(super) fn read(reader: &mut Reader<'_>, settings: &mut Settings) {
    let mut ranges = |name: &'static str| {
        let wanted = "a list of ranges such as 10.0.0.0/8,192.168.1.7 (requests are answered by 503)";
        let given = reader.text(name).is_some();
        let ranges = reader.checked(name, wanted, Range::parse_all);
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
    external(reader, settings);
    limits(reader, settings);
    if reader.text("auth-tls-secret").is_some() {
        close(reader, settings, "auth-tls-secret", CANNOT_CHECK);
    }
}

fn external(reader: &mut Reader<'_>, settings: &mut Settings) {
    let name = "auth-url";
    let wanted =
        "an address such as http://auth.default.svc.cluster.local/check (requests are answered by 503)";
    let is_given = reader.text(name).is_some();
    let address = |text: &str| {
        // Variables stand for what makes an address of it.
        let filled = variables::filled(text, |_| Some("x".to_owned()));
        let uri: Uri = filled.parse().ok()?;
        let good = matches!(uri.scheme_str(), Some("http" | "https")) && uri.host().is_some();
        good.then(|| text.to_owned())
    };
    let url = reader.checked(name, wanted, address);
    if is_given && url.is_none() {
        settings.denied = Some(format!("{PREFIX}{name} is no address"));
    }
    let place = |text: &str| HeaderValue::from_str(text).is_ok().then(|| text.to_owned());
    let signin = reader.checked("auth-signin", "an address such as https://example.com/login", place);
    let redirect = reader.header_text("auth-request-redirect");
    for name in [name, "auth-signin", "auth-request-redirect"] {
        reader.know_variables(name, variables::is_of_request);
    }
    let param = reader.text("auth-signin-redirect-param").unwrap_or("rd").to_owned();
    let method = reader.checked("auth-method", "a method such as GET", |text| {
        text.bytes().all(|b| b.is_ascii_uppercase()).then(|| text.parse().ok()).flatten()
    });
    let headers = reader.checked("auth-response-headers", "headers such as X-User, X-Mail", |text| {
        text.split(',').map(|name| name.trim().parse().ok()).collect::<Option<Vec<HeaderName>>>()
    });
    let always_set_cookie = reader.flag("auth-always-set-cookie").unwrap_or(false);
    settings.external = url.map(|url| External {
        url,
        method: method.unwrap_or(Method::GET),
        signin,
        redirect_param: param,
        redirect,
        headers: headers.unwrap_or_default(),
        always_set_cookie,
    });
}

fn limits(reader: &mut Reader<'_>, settings: &mut Settings) {
    let number = |reader: &mut Reader<'_>, name| {
        let number = reader.checked(name, "a whole number", |text| text.parse::<u32>().ok());
        number.filter(|number| *number > 0)
    };
    let connections = number(reader, "limit-connections");
    let (per_second, per_minute) = (number(reader, "limit-rps"), number(reader, "limit-rpm"));
    let burst = number(reader, "limit-burst-multiplier").unwrap_or(5);
    let wanted = "a list of ranges such as 10.0.0.0/8,192.168.1.7";
    let whitelist = reader.checked("limit-whitelist", wanted, Range::parse_all);
    let exempt =
        reader.checked("limit-allowlist", wanted, Range::parse_all).or(whitelist).unwrap_or_default();
    let any = connections.or(per_second).or(per_minute);
    if any.is_some() {
        settings.limits = Limits { connections, per_second, per_minute, burst, exempt };
    }
}
