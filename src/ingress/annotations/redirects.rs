//! Annotations that send clients elsewhere, or say what becomes of a backend's word to go elsewhere (pure).

use super::Settings;
use super::read::Reader;
use crate::ingress::variables;

/// Where a client is sent instead of being answered.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Redirect {
    /// The status.
    pub code: u16,
    /// The address.
    pub to: String,
}

/// Reads them.
pub(super) fn read(reader: &mut Reader<'_>, settings: &mut Settings) {
    settings.ssl_redirect = reader.flag("ssl-redirect").unwrap_or(true);
    settings.force_ssl_redirect = reader.flag("force-ssl-redirect").unwrap_or(false);
    let rooted = |text: &str| text.starts_with('/') && http::HeaderValue::from_str(text).is_ok();
    settings.app_root =
        reader.checked("app-root", "a path such as /app", |text| rooted(text).then(|| text.to_owned()));
    let address = |text: &str| {
        let scheme = ["http://", "https://", "$scheme://"].iter().any(|scheme| text.starts_with(scheme));
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
    for name in ["temporal-redirect", "permanent-redirect"] {
        reader.know_variables(name, variables::is_of_request);
    }
    let temporal = temporal.map(|to| Redirect { code: temporal_code, to });
    settings.redirect = temporal.or(permanent.map(|to| Redirect { code: permanent_code, to }));
    settings.www = reader.flag("from-to-www-redirect").unwrap_or(false);
    let (from, to) = (reader.header_text("proxy-redirect-from"), reader.header_text("proxy-redirect-to"));
    let known = |name: &str| name != "off" && name != "default";
    settings.moved = from.filter(|from| known(from)).zip(to.filter(|to| known(to)));
    reader.know_variables("proxy-redirect-from", |_| false);
    reader.know_variables("proxy-redirect-to", |_| false);
}
