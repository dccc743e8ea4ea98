//! Who asks: certificates, bearer tokens, and headers that ask to act as somebody else.

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD as BASE64_URL;
use hyper::HeaderMap;
use hyper::header;

use super::Server;
use crate::api::request::User;
use crate::api::status::Status;
use crate::apiserver::auth::attributes::Attributes;
use crate::apiserver::auth::{self, Peer, impersonation};
use crate::clock;

/// What a browser, which sends no headers of its own choice, puts before its token among the protocols it offers.
const TOKEN_PROTOCOL: &str = "base64url.bearer.authorization.k8s.io.";

impl Server {
    /// Who asks: the certificate's user as long as it is valid, or the bearer token's, or nobody in particular.
    pub(super) fn user(&self, peer: &Peer, headers: &HeaderMap) -> Result<User, Status> {
        if let Peer::Certified(certified) = peer
            && clock::now() < certified.not_after
        {
            return Ok(certified.user.clone());
        }
        match (bearer(headers), peer) {
            (Some(token), _) => auth::user_of_token(self.api.tokens(), self.api.registry(), &token),
            (None, Peer::Unnamed) => Ok(auth::anonymous()),
            (None, Peer::Unknown | Peer::Certified(_)) => Err(Status::unauthorized()),
        }
    }

    /// As whom a request is carried out: the user, or whom they ask to be.
    pub(super) fn acting(
        &self,
        user: User,
        headers: &HeaderMap,
        attributes: &Attributes<'_>,
    ) -> Result<User, Status> {
        match impersonation::wanted(headers)? {
            Some(wanted) => impersonation::become_user(self.api.authorizer(), &user, wanted, attributes),
            None => Ok(user),
        }
    }
}

/// The bearer token of a request.
fn bearer(headers: &HeaderMap) -> Option<String> {
    let authorization = headers.get(header::AUTHORIZATION).and_then(|v| v.to_str().ok()).unwrap_or_default();
    let mut parts = authorization.trim().splitn(3, ' ');
    let is_bearer = parts.next().is_some_and(|scheme| scheme.eq_ignore_ascii_case("bearer"));
    if let Some(token) = parts.next().filter(|token| is_bearer && !token.is_empty()) {
        return Some(token.to_owned());
    }
    let offered = headers.get_all(header::SEC_WEBSOCKET_PROTOCOL).iter().filter_map(|v| v.to_str().ok());
    let mut offered = offered.flat_map(|list| list.split(',')).map(str::trim);
    let encoded = offered.find_map(|protocol| protocol.strip_prefix(TOKEN_PROTOCOL))?;
    let token = BASE64_URL.decode(encoded.trim_end_matches('=')).ok()?;
    String::from_utf8(token).ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use hyper::header::{HeaderName, HeaderValue};

    #[test]
    fn tokens_come_in_a_header_or_among_protocols() {
        let encoded = format!("v5.channel.k8s.io, {TOKEN_PROTOCOL}{}", BASE64_URL.encode("abc"));
        for (name, value, token) in [
            (header::AUTHORIZATION, "Bearer abc", Some("abc")),
            (header::AUTHORIZATION, " bearer abc ", Some("abc")),
            (header::AUTHORIZATION, "Bearer", None),
            (header::AUTHORIZATION, "Bearer  abc", None),
            (header::AUTHORIZATION, "Basic abc", None),
            (header::SEC_WEBSOCKET_PROTOCOL, encoded.as_str(), Some("abc")),
            (header::SEC_WEBSOCKET_PROTOCOL, "v5.channel.k8s.io", None),
            (HeaderName::from_static("accept"), "x", None),
        ] {
            let headers = HeaderMap::from_iter([(name, HeaderValue::from_str(value).unwrap())]);
            assert_eq!(bearer(&headers).as_deref(), token, "{value}");
        }
    }
}
