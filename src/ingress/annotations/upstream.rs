//! Annotations about backends: how they are spoken to, which of them has a request, and what comes after a failure (pure).

use http::StatusCode;

use super::read::{Reader, size};
use super::{Settings, access};
use crate::ingress::variables;

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

/// What another endpoint is tried after (`proxy-next-upstream`).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Next {
    /// It could not be reached, or broke off.
    pub error: bool,
    /// It took too long.
    pub timeout: bool,
    /// It answered with one of these statuses.
    pub statuses: Vec<StatusCode>,
    /// Requests that must not be repeated are, all the same.
    pub non_idempotent: bool,
}

impl Default for Next {
    fn default() -> Next {
        Next { error: true, timeout: true, statuses: Vec::new(), non_idempotent: false }
    }
}

/// Reads them.
pub(super) fn read(reader: &mut Reader<'_>, settings: &mut Settings) {
    let usual = Settings::default();
    settings.body_limit = match reader.checked("proxy-body-size", "a size such as 8m", size) {
        Some(0) => None,
        Some(limit) => Some(limit),
        None => usual.body_limit,
    };
    settings.connect_timeout = reader.seconds("proxy-connect-timeout").unwrap_or(usual.connect_timeout);
    settings.read_timeout = reader.seconds("proxy-read-timeout").unwrap_or(usual.read_timeout);
    settings.send_timeout = reader.seconds("proxy-send-timeout").unwrap_or(usual.send_timeout);
    settings.upstream_vhost = reader.header_text("upstream-vhost");
    reader.know_variables("upstream-vhost", |_| false);
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
        access::close(reader, settings, "proxy-ssl-verify", access::CANNOT_CHECK);
    }
    tries(reader, settings);
    settings.hash_by = reader.text("upstream-hash-by").map(str::to_owned);
    reader.know_variables("upstream-hash-by", variables::is_of_request);
    errors(reader, settings);
    reader.checked("proxy-http-version", "1.1", |text| (text == "1.1").then_some(()));
    reader.checked("load-balance", "round_robin", |text| (text == "round_robin").then_some(()));
}

/// When another endpoint is tried, how often, and for how long.
fn tries(reader: &mut Reader<'_>, settings: &mut Settings) {
    let name = "proxy-next-upstream";
    let tries = reader.checked("proxy-next-upstream-tries", "a whole number", |text| text.parse().ok());
    match tries {
        Some(0) => settings.tries = usize::MAX,
        Some(tries) => settings.tries = tries,
        None => {}
    }
    settings.next_timeout = match reader.text("proxy-next-upstream-timeout") {
        // As long as it takes.
        Some("0") => None,
        _ => reader.seconds("proxy-next-upstream-timeout"),
    };
    let Some(text) = reader.text(name) else { return };
    if text.split_whitespace().any(|word| word == "off") {
        settings.tries = 1;
        return;
    }
    let mut next = Next { error: false, timeout: false, ..Next::default() };
    for word in text.split_whitespace() {
        match word {
            "error" => next.error = true,
            "timeout" => next.timeout = true,
            "non_idempotent" => next.non_idempotent = true,
            // What makes no sense breaks off like any other.
            "invalid_header" => {}
            _ => match word.strip_prefix("http_").and_then(|code| code.parse().ok()) {
                Some(status) => next.statuses.push(status),
                None => {
                    reader.complain(name, &format!("{word:?} must be error, timeout, http_502 or the like"))
                }
            },
        }
    }
    settings.next = next;
}

/// The statuses for which the default backend answers.
fn errors(reader: &mut Reader<'_>, settings: &mut Settings) {
    let name = "custom-http-errors";
    let codes = reader.checked(name, "a list of statuses such as 404,503", |text| {
        let codes =
            text.split(',').map(|code| code.trim().parse().ok().filter(|code| (400..=599).contains(code)));
        codes.collect::<Option<Vec<u16>>>()
    });
    settings.custom_errors = codes.unwrap_or_default();
    reader.know("disable-proxy-intercept-errors");
    if !settings.custom_errors.is_empty() && settings.default_backend.is_none() {
        reader
            .complain(name, "has no effect without the annotation default-backend, which names who answers");
    }
}
