//! Annotations as people write them.

use super::*;

fn parsed(pairs: &[(&str, &str)]) -> Parsed {
    parse(&pairs.iter().map(|(name, value)| (format!("{PREFIX}{name}"), (*value).to_owned())).collect())
}

#[test]
fn an_ingress_without_annotations_has_the_defaults() {
    let none = parsed(&[]);
    assert_eq!(none.settings, Settings::default());
    assert!(none.canary.is_none() && none.complaints.is_empty());
    let foreign = parse(&[("traefik.io/x".to_owned(), "y".to_owned())].into());
    assert!(foreign.complaints.is_empty());
}

#[test]
fn values_are_understood() {
    let usual = Settings::default;
    for (pairs, settings) in [
        (&[("proxy-body-size", "8m")][..], Settings { body_limit: Some(8 << 20), ..usual() }),
        (&[("proxy-body-size", "0")], Settings { body_limit: None, ..usual() }),
        (&[("proxy-read-timeout", "120")], Settings { read_timeout: Duration::from_secs(120), ..usual() }),
        (&[("ssl-redirect", "false")], Settings { ssl_redirect: false, ..usual() }),
        (&[("backend-protocol", "grpc")], Settings { protocol: Protocol::Grpc, ..usual() }),
        (
            &[("permanent-redirect", "https://a.example"), ("permanent-redirect-code", "308")],
            Settings { redirect: Some(Redirect { code: 308, to: "https://a.example".into() }), ..usual() },
        ),
        (
            &[("permanent-redirect", "https://a.example"), ("temporal-redirect", "https://b.example")],
            Settings { redirect: Some(Redirect { code: 302, to: "https://b.example".into() }), ..usual() },
        ),
        (
            &[("auth-type", "basic"), ("auth-secret", "users"), ("auth-realm", "say \"who\"")],
            Settings {
                auth: Some(Auth { secret: "users".into(), by_key: false, realm: "say who".into() }),
                ..usual()
            },
        ),
        (
            &[("whitelist-source-range", "10.0.0.0/8, 192.168.1.7")],
            Settings {
                allowed: Some(vec![
                    Range::parse("10.0.0.0/8").unwrap(),
                    Range::parse("192.168.1.7").unwrap(),
                ]),
                ..usual()
            },
        ),
        (&[("proxy-next-upstream-tries", "1")], Settings { tries: 1, ..usual() }),
        (&[("proxy-next-upstream-tries", "0")], Settings { tries: usize::MAX, ..usual() }),
        (&[("proxy-next-upstream", "error timeout"), ("proxy-ssl-verify", "on")], usual()),
        (
            &[("proxy-next-upstream", "off"), ("proxy-next-upstream-tries", "5")],
            Settings { tries: 1, ..usual() },
        ),
        (&[("proxy-buffering", "on"), ("server-alias", "A.example, b.example")], {
            Settings { aliases: vec!["a.example".into(), "b.example".into()], ..usual() }
        }),
    ] {
        let parsed = parsed(pairs);
        assert_eq!(parsed.settings, settings, "{pairs:?}");
        assert_eq!(parsed.complaints, [""; 0], "{pairs:?}");
    }
}

#[test]
fn what_follows_a_failure_is_understood() {
    let next = |pairs: &[(&str, &str)]| {
        let parsed = parsed(pairs);
        assert_eq!(parsed.complaints, [""; 0], "{pairs:?}");
        (parsed.settings.next, parsed.settings.next_timeout)
    };
    assert_eq!(next(&[]), (Next::default(), None));
    assert_eq!(next(&[("proxy-next-upstream-timeout", "0")]).1, None);
    assert_eq!(next(&[("proxy-next-upstream-timeout", "7")]).1, Some(Duration::from_secs(7)));
    let statuses = vec![http::StatusCode::BAD_GATEWAY, http::StatusCode::SERVICE_UNAVAILABLE];
    assert_eq!(
        next(&[("proxy-next-upstream", "error http_502 http_503 non_idempotent")]).0,
        Next { error: true, timeout: false, statuses, non_idempotent: true }
    );
}

#[test]
fn limits_and_other_servers_are_understood() {
    let limited = parsed(&[
        ("limit-rps", "5"),
        ("limit-connections", "3"),
        ("limit-rpm", "0"),
        ("limit-whitelist", "10.0.0.0/8"),
    ]);
    let limits = Limits {
        connections: Some(3),
        per_second: Some(5),
        per_minute: None,
        burst: 5,
        exempt: vec![Range::parse("10.0.0.0/8").unwrap()],
    };
    assert_eq!((limited.settings.limits, limited.complaints), (limits, vec![]));
    let asked = parsed(&[
        ("auth-url", "https://$host/oauth2/auth"),
        ("auth-signin", "https://$host/oauth2/start?rd=$escaped_request_uri"),
        ("auth-response-headers", "X-Auth-Request-User, Authorization"),
    ]);
    assert_eq!(asked.complaints, [""; 0]);
    let external = asked.settings.external.unwrap();
    assert_eq!((external.method.as_str(), external.redirect_param.as_str()), ("GET", "rd"));
    assert_eq!(external.headers, ["x-auth-request-user", "authorization"]);
    let errors = parsed(&[("custom-http-errors", "404, 503"), ("default-backend", "sorry")]);
    assert_eq!((errors.settings.custom_errors, errors.complaints), (vec![404, 503], vec![]));
    assert_eq!(parsed(&[("custom-http-errors", "404")]).complaints.len(), 1);
    assert_eq!(parsed(&[("custom-http-errors", "200"), ("default-backend", "sorry")]).complaints.len(), 1);
}

#[test]
fn nonsense_is_told_and_the_default_holds() {
    for (pairs, complaint, denies) in [
        (
            &[("proxy-body-size", "8 megs")][..],
            "proxy-body-size: \"8 megs\" must be a size such as 8m",
            false,
        ),
        (&[("ssl-redirect", "yes")], "ssl-redirect: \"yes\" must be \"true\" or \"false\"", false),
        (
            &[("permanent-redirect", "javascript:x")],
            "permanent-redirect: \"javascript:x\" must be an address such as https://example.com/",
            false,
        ),
        (
            &[("cors-allow-origin", "example.com")],
            "cors-allow-origin: \"example.com\" must be * or origins such as https://example.com",
            false,
        ),
        (
            &[("backend-protocol", "AJP")],
            "backend-protocol: \"AJP\" must be HTTP, HTTPS, GRPC or GRPCS",
            false,
        ),
        (
            &[("configuration-snippet", "return 200;")],
            "configuration-snippet: minik does not carry this out",
            false,
        ),
        (
            &[("whitelist-source-range", "everybody")],
            "whitelist-source-range: \"everybody\" must be a list of ranges such as 10.0.0.0/8,192.168.1.7 (requests \
             are answered by 503)",
            true,
        ),
        (
            &[("whitelist-source-range", " , ")],
            "whitelist-source-range: \",\" must be a list of ranges such as 10.0.0.0/8,192.168.1.7 (requests are \
             answered by 503)",
            true,
        ),
        (
            &[("proxy-next-upstream", "error timeout sometimes")],
            "proxy-next-upstream: \"sometimes\" must be error, timeout, http_502 or the like",
            false,
        ),
        (
            &[("auth-type", "digest"), ("auth-secret", "users")],
            "auth-type: must be basic; requests are answered by 503",
            true,
        ),
        (
            &[("auth-type", "basic")],
            "auth-secret: must name the secret with the passwords; requests are answered by 503",
            true,
        ),
        (
            &[("auth-tls-secret", "d/ca")],
            "auth-tls-secret: minik cannot check this, so requests are answered by 503",
            true,
        ),
        (
            &[("auth-url", "auth.example/check")],
            "auth-url: \"auth.example/check\" must be an address such as http://auth.default.svc.cluster.local/check \
             (requests are answered by 503)",
            true,
        ),
    ] {
        let parsed = parsed(pairs);
        assert_eq!(parsed.complaints, [format!("{PREFIX}{complaint}")], "{pairs:?}");
        assert_eq!(parsed.settings.denied.is_some(), denies, "{pairs:?}");
        assert_eq!(Settings { denied: None, ..parsed.settings }, Settings::default(), "{pairs:?}");
    }
    for (protocol, denies) in [("HTTP", false), ("HTTPS", true), ("GRPCS", true)] {
        let parsed = parsed(&[("backend-protocol", protocol), ("proxy-ssl-verify", "on")]);
        assert_eq!(
            (parsed.settings.denied.is_some(), parsed.complaints.len()),
            (denies, usize::from(denies))
        );
    }
}

#[test]
fn variables_are_known_or_told() {
    for (name, value, other) in [
        ("permanent-redirect", "https://b.example$request_uri", None),
        ("temporal-redirect", "$scheme://$host/$1", Some("1")),
        ("permanent-redirect", "https://b.example/$time_local", Some("time_local")),
        ("upstream-vhost", "$host", Some("host")),
        ("upstream-vhost", "b.example", None),
        ("x-forwarded-prefix", "/$1", None),
        ("x-forwarded-prefix", "/$uri", Some("uri")),
        ("rewrite-target", "/$2", None),
    ] {
        let told = other.map(|other| {
            format!(
                "{PREFIX}{name}: minik does not know the variable ${other} here; it stands as it is written"
            )
        });
        assert_eq!(
            parsed(&[(name, value)]).complaints,
            told.into_iter().collect::<Vec<_>>(),
            "{name} {value}"
        );
    }
}

#[test]
fn a_canary_says_who_comes_to_it() {
    let canary = |pairs: &[(&str, &str)]| {
        let mut all = vec![("canary", "true")];
        all.extend(pairs);
        parsed(&all).canary.unwrap()
    };
    assert!(parsed(&[("canary-weight", "10")]).canary.is_none());
    assert!(!canary(&[]).legacy && canary(&[("affinity-canary-behavior", "legacy")]).legacy);
    let by_weight = canary(&[("canary-weight", "10"), ("canary-weight-total", "50")]);
    assert_eq!((by_weight.weight, by_weight.total), (10, 100));
    let by_header = canary(&[("canary-by-header", "X-New"), ("canary-by-header-value", "yes")]);
    assert!(matches!(by_header.header, Some((name, Wanted::Value(v))) if name == "x-new" && v == "yes"));
    let by_pattern = canary(&[("canary-by-header", "X-New"), ("canary-by-header-pattern", "^v[23]$")]);
    assert!(matches!(by_pattern.header, Some((_, Wanted::Pattern(p))) if p.is_match("v2")));
}

#[test]
fn affinity_and_cors_have_their_defaults() {
    let affinity = parsed(&[("affinity", "cookie")]).settings.affinity.unwrap();
    assert_eq!((affinity.cookie.as_str(), affinity.persistent), ("INGRESSCOOKIE", false));
    assert!(affinity.keeps_canary && affinity.path.is_none());
    let cors = parsed(&[("enable-cors", "true")]).settings.cors.unwrap();
    assert_eq!(
        (cors.origins.as_slice(), cors.credentials, cors.max_age),
        (&["*".to_owned()][..], true, 1_728_000)
    );
}

#[test]
fn ranges_hold_their_addresses() {
    for (range, address, inside) in [
        ("10.0.0.0/8", "10.255.0.1", true),
        ("10.0.0.0/8", "11.0.0.1", false),
        ("10.0.0.7", "10.0.0.7", true),
        ("10.0.0.7", "10.0.0.8", false),
        ("0.0.0.0/0", "1.2.3.4", true),
        ("0.0.0.0/0", "::1", false),
        ("fd00::/8", "fd12::1", true),
        ("fd00::/8", "fe12::1", false),
    ] {
        let range = Range::parse(range).unwrap();
        assert_eq!(range.contains(address.parse().unwrap()), inside, "{range:?} {address}");
    }
    for wrong in ["", "10.0.0.0/33", "ten", "10.0.0.0/x", "fd00::/129"] {
        assert!(Range::parse(wrong).is_none(), "{wrong}");
    }
}
