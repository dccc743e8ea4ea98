//! Clients that come back to the endpoint that they had before, by a cookie (pure).
//!
//! The cookie holds a key and the side, main or canary. Every endpoint has a rank for every key (rendezvous hashing): an
//! endpoint that comes takes an even share of the sessions from the others, one that goes gives its own to all others.
//! With `persistent`, the key names the endpoint itself.

use std::cmp::Reverse;
use std::net::SocketAddr;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use http::{HeaderMap, HeaderValue};
use sha2::{Digest, Sha256};

use super::annotations::Affinity;
use super::route::cookie;

/// What a client's cookie says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Session {
    /// Decides about the endpoint.
    pub key: String,
    /// Whether the canary serves it.
    pub canary: bool,
}

/// How many hexadecimal digits a key has.
const DIGITS: usize = 16;

/// The session that the client has. Keys are short: each request computes with its own.
pub fn session(affinity: &Affinity, headers: &HeaderMap) -> Option<Session> {
    let (key, side) = cookie(headers, &affinity.cookie)?.rsplit_once('.')?;
    let is_key = key.len() == DIGITS && key.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'));
    let canary = match side {
        "m" => false,
        "c" => true,
        _ => return None,
    };
    is_key.then(|| Session { key: key.to_owned(), canary })
}

fn rank(key: &str, endpoint: SocketAddr) -> u64 {
    let digest = Sha256::digest(format!("{key} {endpoint}"));
    digest.iter().take(8).fold(0, |rank, byte| rank << 8 | u64::from(*byte))
}

/// An endpoint, as a persistent session names it.
fn name(endpoint: SocketAddr) -> String {
    format!("{:016x}", rank("", endpoint))
}

/// The endpoints in the order in which a client's request tries them, and its new session if it needs one. `in_turn` is
/// the order for clients that have none.
pub fn order(
    affinity: &Affinity,
    in_turn: Vec<SocketAddr>,
    canary: bool,
    session: Option<Session>,
    dice: u64,
) -> (Vec<SocketAddr>, Option<Session>) {
    let kept = session.filter(|session| session.canary == canary);
    if affinity.persistent {
        let known = |session: Session| in_turn.iter().position(|endpoint| name(*endpoint) == session.key);
        if let Some(at) = kept.and_then(known) {
            let mut all = in_turn;
            all.rotate_left(at);
            return (all, None);
        }
        let new = in_turn.first().map(|endpoint| Session { key: name(*endpoint), canary });
        return (in_turn, new);
    }
    let is_new = kept.is_none();
    let session = kept.unwrap_or_else(|| Session { key: format!("{dice:016x}"), canary });
    (ranked(&session.key, in_turn), is_new.then_some(session))
}

/// The endpoints in the order that they have for a key.
pub fn ranked(key: &str, mut endpoints: Vec<SocketAddr>) -> Vec<SocketAddr> {
    endpoints.sort_by_cached_key(|endpoint| Reverse(rank(key, *endpoint)));
    endpoints
}

/// The cookie that gives a client its session.
pub fn set_cookie(
    affinity: &Affinity,
    session: &Session,
    location: &str,
    tls: bool,
    now: SystemTime,
) -> Option<HeaderValue> {
    let side = if session.canary { "c" } else { "m" };
    let mut text = format!("{}={}.{side}", affinity.cookie, session.key);
    if let Some(expires) = affinity.expires {
        text.push_str(&format!("; Expires={}", http_date(now, expires)?));
    }
    if let Some(max_age) = affinity.max_age {
        text.push_str(&format!("; Max-Age={max_age}"));
    }
    if let Some(domain) = &affinity.domain {
        text.push_str(&format!("; Domain={domain}"));
    }
    text.push_str(&format!("; Path={}", affinity.path.as_deref().unwrap_or(location)));
    if affinity.secure.unwrap_or(tls) {
        text.push_str("; Secure");
    }
    text.push_str("; HttpOnly");
    if let Some(same_site) = &affinity.same_site {
        text.push_str(&format!("; SameSite={same_site}"));
    }
    HeaderValue::from_str(&text).ok()
}

/// So many seconds after `now`, as HTTP writes a date.
fn http_date(now: SystemTime, seconds: i64) -> Option<String> {
    let since = now.duration_since(UNIX_EPOCH).ok()?;
    let away = Duration::from_secs(seconds.unsigned_abs());
    let at = if seconds < 0 { since.saturating_sub(away) } else { since.checked_add(away)? };
    let at = jiff::Timestamp::from_second(i64::try_from(at.as_secs()).ok()?).ok()?;
    Some(at.strftime("%a, %d %b %Y %H:%M:%S GMT").to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn affinity(persistent: bool) -> Affinity {
        Affinity {
            cookie: "route".into(),
            persistent,
            keeps_canary: true,
            path: None,
            domain: None,
            expires: None,
            max_age: None,
            same_site: None,
            secure: None,
        }
    }

    fn endpoints(count: u8) -> Vec<SocketAddr> {
        (1..=count).map(|n| SocketAddr::from(([10, 0, 0, n], 80))).collect()
    }

    #[test]
    fn a_session_stays_where_it_is() {
        for persistent in [false, true] {
            let affinity = affinity(persistent);
            let (first, new) = order(&affinity, endpoints(4), false, None, 7);
            let session = new.unwrap();
            for count in [4, 3] {
                let mut others = endpoints(4);
                others.rotate_left(2);
                // The one that serves it is not the one that goes.
                others.retain(|endpoint| *endpoint == first[0] || count == 4 || *endpoint != first[1]);
                let (again, new) = order(&affinity, others, false, Some(session.clone()), 8);
                assert_eq!((again[0], new), (first[0], None), "{persistent} {count}");
            }
            let left: Vec<_> = endpoints(4).into_iter().filter(|endpoint| *endpoint != first[0]).collect();
            let (moved, new) = order(&affinity, left, false, Some(session.clone()), 9);
            assert_ne!(moved[0], first[0]);
            assert_eq!(new.is_some(), persistent);
            let (_, other_side) = order(&affinity, endpoints(4), true, Some(session), 10);
            assert!(other_side.unwrap().canary);
        }
    }

    #[test]
    fn new_endpoints_take_sessions_only_if_they_may() {
        let all = || (0..64).map(|dice| order(&affinity(false), endpoints(2), false, None, dice));
        let moved = all().filter(|(before, session)| {
            order(&affinity(false), endpoints(3), false, session.clone(), 0).0[0] != before[0]
        });
        let moved = moved.count();
        assert!((8..40).contains(&moved), "{moved}");
        let (before, session) = order(&affinity(true), endpoints(2), false, None, 1);
        assert_eq!(order(&affinity(true), endpoints(9), false, session, 0).0[0], before[0]);
    }

    #[test]
    fn the_cookie_says_it_all_and_is_read_again() {
        let session_of = |text: &str| {
            let headers = [(http::header::COOKIE, text.parse().unwrap())].into_iter().collect();
            session(&affinity(false), &headers)
        };
        let given = Session { key: "00112233445566ff".into(), canary: true };
        let now = UNIX_EPOCH + Duration::from_secs(1_700_000_000);
        let plain = set_cookie(&affinity(false), &given, "/app", false, now).unwrap();
        assert_eq!(plain, "route=00112233445566ff.c; Path=/app; HttpOnly");
        assert_eq!(session_of("a=b; route=00112233445566ff.c"), Some(given.clone()));
        for other in ["00112233445566ff.x", "1", "00ff.c", "00112233445566FF.c", "0000112233445566ff.c"] {
            assert_eq!(session_of(&format!("route={other}")), None, "{other}");
        }
        let full = Affinity {
            path: Some("/".into()),
            domain: Some("a.example".into()),
            expires: Some(60),
            max_age: Some(60),
            same_site: Some("Lax".into()),
            ..affinity(false)
        };
        assert_eq!(
            set_cookie(&full, &given, "/app", true, now).unwrap(),
            "route=00112233445566ff.c; Expires=Tue, 14 Nov 2023 22:14:20 GMT; Max-Age=60; Domain=a.example; Path=/; Secure; \
             HttpOnly; SameSite=Lax"
        );
    }
}
