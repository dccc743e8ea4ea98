//! What annotations make of requests that pass through the whole gateway.

use std::sync::Mutex;

use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use tokio_rustls::TlsAcceptor;

use super::*;
use crate::ingress::annotations::{Canary, PREFIX, parse};

fn settings(annotations: &[(&str, &str)]) -> Settings {
    let all = annotations.iter().map(|(name, value)| (format!("{PREFIX}{name}"), (*value).to_owned()));
    let parsed = parse(&all.collect());
    assert_eq!(parsed.complaints, [""; 0]);
    parsed.settings
}

fn head(code: u16, headers: &str) -> Option<String> {
    Some(format!("HTTP/1.1 {code} X\r\nContent-Length: 0\r\n{headers}\r\n"))
}

impl Front {
    async fn get(&self, path: &str, headers: &str) -> String {
        self.raw(&format!("GET {path} HTTP/1.1\r\nHost: a.example\r\nConnection: close\r\n{headers}\r\n"))
            .await
    }
}

#[tokio::test]
async fn a_backend_that_is_late_or_fails_is_passed_over() {
    let (silent, _silent) = backend(|_, _, _| Some(String::new())).await;
    let (failing, _failing) = backend(|_, _, _| head(503, "")).await;
    let (good, _good) = backend(|_, _, _| ok("fine")).await;
    let late = |more: &[(&str, &str)]| settings(&[&[("proxy-read-timeout", "1")], more].concat());
    let post = "Content-Length: 1\r\n\r\nx";
    for (first, settings, codes) in [
        // What was sent and is not to be repeated ends there.
        (silent, late(&[]), ["200", "504"]),
        (silent, late(&[("proxy-next-upstream", "error")]), ["504", "504"]),
        (silent, late(&[("proxy-next-upstream-timeout", "1")]), ["504", "504"]),
        (failing, late(&[]), ["503", "503"]),
        (failing, late(&[("proxy-next-upstream", "http_503")]), ["200", "503"]),
    ] {
        let front = Front::new(&[], Settings::default()).await;
        for ((method, rest), code) in [("GET", "\r\n"), ("POST", post)].into_iter().zip(codes) {
            // A new table begins with the first endpoint.
            front.gateway.set_table(table(&[first, good], settings.clone()));
            assert_eq!(front.status(method, rest).await, code, "{method} {settings:?}");
        }
    }
}

#[tokio::test]
async fn clients_come_back_to_the_same_endpoint_and_side() {
    let mut servings = Vec::new();
    let mut endpoints = Vec::new();
    for n in 0..6 {
        let (address, serving) = backend(move |_, _, _| ok(&format!("<{n}>"))).await;
        endpoints.push(address);
        servings.push(serving);
    }
    let front = Front::new(&[], Settings::default()).await;
    let side = |endpoints: &[SocketAddr]| {
        Arc::new(Backend::new("d/canary:80".into(), Target::Endpoints(endpoints.to_vec())))
    };
    let header = Some(("x-new".parse().unwrap(), super::super::annotations::Wanted::Switch));
    for legacy in [false, true] {
        let canary = Canary { header: header.clone(), total: 100, legacy, ..Canary::default() };
        let canary = Some((canary, side(&endpoints[3..])));
        let affine = settings(&[("affinity", "cookie"), ("session-cookie-name", "route")]);
        front.gateway.set_table(of_location(Location { canary, ..location(&endpoints[..3], affine) }));
        let served = |answer: &str| answer.split(['<', '>']).nth(1).unwrap().to_owned();
        let cookie = |answer: &str| {
            let line = answer.lines().find(|line| line.to_lowercase().starts_with("set-cookie: "))?;
            line.split(' ').nth(1).map(|pair| format!("Cookie: {}\r\n", pair.trim_end_matches(';')))
        };
        let first = front.get("/", "").await;
        let given = cookie(&first).unwrap();
        for _ in 0..8 {
            let again = front.get("/", &given).await;
            assert_eq!((served(&again), cookie(&again)), (served(&first), None));
        }
        let on_canary = front.get("/", "x-new: always\r\n").await;
        assert!(served(&on_canary).parse::<u32>().unwrap() >= 3);
        assert_eq!(cookie(&on_canary).is_none(), legacy, "no session with a canary of that behaviour");
        if let Some(given) = cookie(&on_canary) {
            for _ in 0..8 {
                assert_eq!(served(&front.get("/", &given).await), served(&on_canary), "it stays there");
            }
        }
    }
}

#[tokio::test]
async fn another_server_decides() {
    let seen = Arc::new(Mutex::new(String::new()));
    let heard = seen.clone();
    let (auth, _auth) = backend(move |_, _, asked| {
        *heard.lock().unwrap() = asked.to_lowercase();
        let code = asked.lines().find_map(|line| line.strip_prefix("answer: ")).unwrap_or("200");
        head(code.parse().unwrap(), "X-User: me\r\nSet-Cookie: s=1\r\nWWW-Authenticate: Bearer\r\n")
    })
    .await;
    let (web, _web) = backend(|_, _, asked| ok(&asked.to_lowercase())).await;
    let url = format!("http://a.example:{}/check", auth.port());
    let asks = |more: &[(&'static str, &'static str)]| {
        settings(&[&[("auth-url", url.as_str()), ("auth-response-headers", "X-User, X-Mail")], more].concat())
    };
    // The cluster says that the name is the address of the other server.
    let front = Front::knowing(vec!["127.0.0.1".parse().unwrap()]).await;
    front.gateway.set_table(table(&[web], asks(&[])));
    assert!(front.get("/", "").await.starts_with("HTTP/1.1 500"), "nobody is led to loopback by a name");
    let front = Front::at_ports(auth.port()).await;
    front.gateway.set_table(table(&[web], asks(&[])));
    let passed = front.get("/x?q=1", "X-User: evil\r\nX-Mail: evil\r\nCookie: c=2\r\n").await;
    assert!(
        passed.starts_with("HTTP/1.1 200") && passed.contains("x-user: me") && !passed.contains("evil"),
        "{passed}"
    );
    assert!(passed.to_lowercase().contains("\r\nset-cookie: s=1\r\n"), "{passed}");
    let asked = seen.lock().unwrap().clone();
    for line in [
        "get /check http/1.1",
        &format!("host: a.example:{}", auth.port()),
        "x-original-url: http://a.example/x?q=1",
        "x-original-method: get",
        "x-auth-request-redirect: /x?q=1",
        "x-real-ip: 127.0.0.1",
        "cookie: c=2",
    ] {
        assert!(asked.contains(&format!("{line}\r\n")), "{line} in {asked}");
    }
    let refused = front.get("/", "answer: 401\r\n").await;
    assert!(refused.starts_with("HTTP/1.1 401") && refused.contains("Bearer"), "{refused}");
    assert!(!refused.to_lowercase().contains("set-cookie"), "{refused}");
    for (answer, code) in [("403", "403"), ("404", "500"), ("500", "500")] {
        let got = front.get("/", &format!("answer: {answer}\r\n")).await;
        assert!(got.starts_with(&format!("HTTP/1.1 {code}")), "{got}");
    }
    front.gateway.set_table(table(&[web], asks(&[("auth-signin", "https://login.example/")])));
    let sent = front.get("/x", "answer: 401\r\n").await.to_lowercase();
    assert!(sent.starts_with("http/1.1 302"), "{sent}");
    assert!(sent.contains("location: https://login.example/?rd=http://a.example%2fx\r\n"), "{sent}");
    assert!(front.get("/x", "answer: 403\r\n").await.starts_with("HTTP/1.1 403"));
}

#[tokio::test]
async fn failures_are_explained_by_the_default_backend() {
    let (sorry, _sorry) = backend(|_, _, asked| {
        let asked = asked.to_lowercase();
        Some(format!("HTTP/1.1 418 X\r\nContent-Length: {}\r\n\r\n{asked}", asked.len()))
    })
    .await;
    let (web, _web) = backend(|_, _, asked| head(if asked.contains("/lost") { 404 } else { 200 }, "")).await;
    let front = Front::new(&[], Settings::default()).await;
    let explained = |endpoints: &[SocketAddr], sorry: SocketAddr| {
        let errors = Backend::new("d/sorry:".into(), Target::Endpoints(vec![sorry]));
        let settings = settings(&[("custom-http-errors", "404,503"), ("default-backend", "sorry")]);
        of_location(Location { errors: Some(Arc::new(errors)), ..location(endpoints, settings) })
    };
    front.gateway.set_table(explained(&[web], sorry));
    assert!(front.get("/", "").await.starts_with("HTTP/1.1 200"));
    let said = front.get("/lost?x=1", "Accept: text/html\r\n").await;
    assert!(said.starts_with("HTTP/1.1 418"), "{said}");
    for line in [
        "get / http/1.1",
        "x-code: 404",
        "x-format: text/html",
        "x-original-uri: /lost?x=1",
        "x-namespace: d",
        "x-ingress-name: web",
        "x-service-name: web",
        "x-service-port: 80",
    ] {
        assert!(said.contains(line), "{line} in {said}");
    }
    front.gateway.set_table(explained(&[], sorry));
    assert!(front.get("/", "").await.contains("x-code: 503"));
    front.gateway.set_table(explained(&[], nobody().await));
    assert!(front.get("/", "").await.starts_with("HTTP/1.1 503"), "what nobody explains stands");
}

#[tokio::test]
async fn who_asks_too_much_is_refused() {
    let (web, _web) = backend(|_, _, _| ok("fine")).await;
    let limited = settings(&[("limit-rps", "1"), ("limit-burst-multiplier", "2")]);
    let front = Front::new(&[web], limited).await;
    let mut codes = Vec::new();
    for _ in 0..5 {
        codes.push(front.status("GET", "\r\n").await);
    }
    assert_eq!(codes[..3], ["200", "200", "200"]);
    assert!(codes[3..].contains(&"503".to_owned()), "{codes:?}");
    // A limit outlives a new table.
    front.gateway.set_table(table(&[web], settings(&[("limit-connections", "1")])));
    let (silent, _silent) = backend(|_, _, _| Some(String::new())).await;
    front.gateway.set_table(table(&[silent], settings(&[("limit-connections", "1")])));
    let mut waiting = TcpStream::connect(front.address).await.unwrap();
    waiting.write_all(b"GET / HTTP/1.1\r\nHost: a.example\r\n\r\n").await.unwrap();
    let refused = async {
        while front.gateway.requests.available_permits() == REQUESTS {
            tokio::task::yield_now().await;
        }
        front.status("GET", "\r\n").await
    };
    assert_eq!(tokio::time::timeout(Duration::from_secs(10), refused).await.unwrap(), "503");
}

/// Takes any certificate.
#[derive(Debug)]
struct Trusting;

impl ServerCertVerifier for Trusting {
    fn verify_server_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &rustls::DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn verify_tls13_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &rustls::DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn supported_verify_schemes(&self) -> Vec<rustls::SignatureScheme> {
        rustls::crypto::ring::default_provider().signature_verification_algorithms.supported_schemes()
    }
}

#[tokio::test]
async fn backends_are_spoken_to_by_tls() {
    let acceptor = TlsAcceptor::from(tls::server(Arc::new(tls::Shown::new().unwrap())).unwrap());
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let _serving = AbortOnDropHandle::new(tokio::spawn(async move {
        loop {
            let (stream, _) = listener.accept().await.unwrap();
            let acceptor = acceptor.clone();
            tokio::spawn(async move {
                let stream = acceptor.accept(stream).await.unwrap();
                let server = hyper_util::server::conn::auto::Builder::new(TokioExecutor::new());
                server.serve_connection(TokioIo::new(stream), service_fn(with_trailers)).await.unwrap();
            });
        }
    }));
    let mut trusting = client_tls();
    trusting.dangerous().set_certificate_verifier(Arc::new(Trusting));
    let front = Front::with(Ports { http: 80, https: 443 }, &trusting, Vec::new()).await;
    for protocol in ["HTTPS", "GRPCS"] {
        front.gateway.set_table(table(&[address], settings(&[("backend-protocol", protocol)])));
        assert_eq!(front.status("POST", "Content-Length: 2\r\n\r\nhi").await, "200", "{protocol}");
    }
    front.gateway.set_table(table(&[address], Settings::default()));
    assert_eq!(front.status("GET", "\r\n").await, "502", "without TLS it is not understood");
}
