//! The whole server over loopback, with an upstream of a few lines.

use std::net::{Ipv4Addr, SocketAddr};
use std::time::Duration;

use hickory_proto::op::{Edns, Message, Query, ResponseCode};
use hickory_proto::rr::rdata::A;
use hickory_proto::rr::{Name, RData, Record, RecordType};
use serde_json::json;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use super::*;
use crate::client::testing::FakeApi;

/// Says 192.0.2.1 to every question but those for `absent` names, which do not exist, and `long` ones, which are too
/// long for a datagram; with a response code, only that.
async fn upstream(code: ResponseCode) -> SocketAddr {
    let socket = UdpSocket::bind("127.0.0.1:0").await.unwrap();
    let address = socket.local_addr().unwrap();
    tokio::spawn(async move {
        let mut buffer = [0; 4096];
        loop {
            let (length, client) = socket.recv_from(&mut buffer).await.unwrap();
            let question = Message::from_vec(&buffer[..length]).unwrap();
            let mut answer = Message::response(question.metadata.id, question.metadata.op_code);
            let name = question.queries[0].name().clone();
            answer.add_query(question.queries[0].clone());
            answer.metadata.response_code = code;
            if name.to_ascii().starts_with("absent.") {
                answer.metadata.response_code = ResponseCode::NXDomain;
            } else if name.to_ascii().starts_with("long.") {
                answer.metadata.truncation = true;
            } else if code == ResponseCode::NoError {
                answer.add_answer(Record::from_rdata(name, 60, RData::A(A(Ipv4Addr::new(192, 0, 2, 1)))));
            }
            socket.send_to(&answer.to_vec().unwrap(), client).await.unwrap();
        }
    });
    address
}

async fn fake_upstream() -> SocketAddr {
    upstream(ResponseCode::NoError).await
}

async fn start(api: &FakeApi, upstream: Vec<SocketAddr>) -> SocketAddr {
    start_at(sockets().await, api, upstream).await
}

/// A port of loopback that is free for both protocols; what is free for one may be taken for the other.
async fn sockets() -> (UdpSocket, TcpListener) {
    loop {
        let udp = UdpSocket::bind("127.0.0.1:0").await.unwrap();
        if let Ok(tcp) = TcpListener::bind(udp.local_addr().unwrap()).await {
            return (udp, tcp);
        }
    }
}

async fn start_at(
    (udp, tcp): (UdpSocket, TcpListener),
    api: &FakeApi,
    upstream: Vec<SocketAddr>,
) -> SocketAddr {
    let address = udp.local_addr().unwrap();
    let config = Config { domain: "cluster.local".into(), udp, tcp, aliases: Vec::new() };
    let dns = Dns::new(api.client(), config).with_upstream(Upstream::fixed(upstream));
    tokio::spawn(dns.run(std::future::pending()));
    address
}

fn question(name: &str, kind: RecordType, edns: bool) -> Message {
    let mut message = Message::query();
    message.add_query(Query::query(Name::from_ascii(name).unwrap(), kind));
    if edns {
        let mut edns = Edns::new();
        edns.set_max_payload(1232);
        message.set_edns(edns);
    }
    message
}

async fn over_udp(server: SocketAddr, question: &Message) -> Message {
    let socket = UdpSocket::bind("127.0.0.1:0").await.unwrap();
    socket.connect(server).await.unwrap();
    socket.send(&question.to_vec().unwrap()).await.unwrap();
    let mut buffer = [0; 4096];
    let length =
        tokio::time::timeout(Duration::from_secs(20), socket.recv(&mut buffer)).await.unwrap().unwrap();
    let answer = Message::from_vec(&buffer[..length]).unwrap();
    assert_eq!(answer.metadata.id, question.metadata.id);
    answer
}

async fn over_tcp(server: SocketAddr, question: &Message) -> Message {
    let mut stream = TcpStream::connect(server).await.unwrap();
    let bytes = question.to_vec().unwrap();
    stream.write_u16(bytes.len() as u16).await.unwrap();
    stream.write_all(&bytes).await.unwrap();
    let length = stream.read_u16().await.unwrap();
    let mut answer = vec![0; usize::from(length)];
    stream.read_exact(&mut answer).await.unwrap();
    Message::from_vec(&answer).unwrap()
}

fn texts(message: &Message) -> Vec<String> {
    message.answers.iter().map(|record| record.data.to_string()).collect()
}

fn service(name: &str, spec: serde_json::Value) -> serde_json::Value {
    json!({"apiVersion": "v1", "kind": "Service", "metadata": {"namespace": "n", "name": name}, "spec": spec})
}

#[tokio::test(flavor = "multi_thread")]
async fn names_of_the_cluster_and_of_others() {
    let api = FakeApi::default();
    api.put("services", service("web", json!({"clusterIP": "10.96.0.7"})));
    api.put("services", service("out", json!({"type": "ExternalName", "externalName": "example.org"})));
    let server = start(&api, vec![fake_upstream().await]).await;
    let ask = async |name: &str, kind| over_udp(server, &question(name, kind, false)).await;
    let web = ask("web.n.svc.cluster.local.", RecordType::A).await;
    assert_eq!(texts(&web), ["10.96.0.7"]);
    assert!(web.metadata.authoritative);
    let none = ask("none.n.svc.cluster.local.", RecordType::A).await;
    assert_eq!((none.metadata.response_code, none.authorities.len()), (ResponseCode::NXDomain, 1));
    let six = ask("web.n.svc.cluster.local.", RecordType::AAAA).await;
    assert_eq!((six.metadata.response_code, six.authorities.len()), (ResponseCode::NoError, 1));
    assert_eq!(texts(&ask("example.org.", RecordType::A).await), ["192.0.2.1"]);
    assert_eq!(texts(&ask("out.n.svc.cluster.local.", RecordType::A).await), ["example.org.", "192.0.2.1"]);
    let looked_up = async |name: &str| lookup::addresses(server, name).await.unwrap();
    assert_eq!(looked_up("WEB.n.svc.cluster.local.").await, [IpAddr::from([10, 96, 0, 7])]);
    assert_eq!(looked_up("out.n.svc.cluster.local").await, [IpAddr::from([192, 0, 2, 1])]);
    assert_eq!(looked_up("none.n.svc.cluster.local").await, [] as [IpAddr; 0]);
    api.put("services", service("late", json!({"clusterIP": "10.96.0.8"})));
    let late = tokio::time::timeout(Duration::from_secs(10), async {
        loop {
            let found = texts(&ask("late.n.svc.cluster.local.", RecordType::A).await);
            if !found.is_empty() {
                return found;
            }
        }
    });
    assert_eq!(late.await.unwrap(), ["10.96.0.8"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn aliases_end_as_their_target_does() {
    let api = FakeApi::default();
    for (name, target) in [
        ("out", "example.org"),
        ("absent", "absent.example.org"),
        ("long", "long.example.org"),
        ("inner", "none.n.svc.cluster.local"),
    ] {
        api.put("services", service(name, json!({"type": "ExternalName", "externalName": target})));
    }
    let server = start(&api, vec![fake_upstream().await]).await;
    let broken = start(&api, vec![]).await;
    for (server, name, code, truncated) in [
        (server, "out", ResponseCode::NoError, false),
        (server, "absent", ResponseCode::NXDomain, false),
        (server, "inner", ResponseCode::NXDomain, false),
        (server, "long", ResponseCode::NoError, true),
        (broken, "out", ResponseCode::ServFail, false),
    ] {
        let name = format!("{name}.n.svc.cluster.local.");
        let answer = over_udp(server, &question(&name, RecordType::A, false)).await;
        assert_eq!(
            (answer.metadata.response_code, answer.metadata.truncation, answer.answers[0].record_type()),
            (code, truncated, RecordType::CNAME),
            "{name}"
        );
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_fails_or_is_silent_is_passed_over() {
    let silent = UdpSocket::bind("127.0.0.1:0").await.unwrap();
    let refuses = upstream(ResponseCode::Refused).await;
    let servers = vec![silent.local_addr().unwrap(), refuses, fake_upstream().await];
    let server = start(&FakeApi::default(), servers).await;
    let asked = question("example.org.", RecordType::A, false);
    let ask = || over_udp(server, &asked);
    assert_eq!(texts(&ask().await), ["192.0.2.1"]);
    // From the second question on, the silent one costs nothing.
    let start = std::time::Instant::now();
    assert_eq!(texts(&ask().await), ["192.0.2.1"]);
    assert!(start.elapsed() < Duration::from_secs(1), "{:?}", start.elapsed());
    let alone = self::start(&FakeApi::default(), vec![refuses]).await;
    let refused = over_udp(alone, &question("example.org.", RecordType::A, false)).await;
    assert_eq!(refused.metadata.response_code, ResponseCode::Refused, "a refusal is better than nothing");
}

#[tokio::test(flavor = "multi_thread")]
async fn servers_that_lead_back_are_left_out() {
    let (one, other) = (sockets().await, sockets().await);
    let (first, second) = (one.0.local_addr().unwrap(), other.0.local_addr().unwrap());
    // Each asks the other, and one of them a server that knows.
    let good = fake_upstream().await;
    start_at(one, &FakeApi::default(), vec![second, good]).await;
    start_at(other, &FakeApi::default(), vec![first]).await;
    for server in [first, second] {
        let settled = tokio::time::timeout(Duration::from_secs(10), async {
            loop {
                let asked = std::time::Instant::now();
                let answer = over_udp(server, &question("example.org.", RecordType::A, false)).await;
                let known = texts(&answer) == ["192.0.2.1"];
                let quick = asked.elapsed() < Duration::from_secs(1);
                let failed = answer.metadata.response_code == ResponseCode::ServFail;
                if quick && (known || server == second && failed) {
                    return;
                }
            }
        });
        settled.await.unwrap();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn without_an_upstream_other_names_fail_and_damage_is_refused() {
    let api = FakeApi::default();
    let server = start(&api, vec![]).await;
    let failed = over_udp(server, &question("example.org.", RecordType::A, false)).await;
    assert_eq!(failed.metadata.response_code, ResponseCode::ServFail);
    let socket = UdpSocket::bind("127.0.0.1:0").await.unwrap();
    socket.send_to(&[7, 8, 0, 0, 0, 9], server).await.unwrap();
    let mut buffer = [0; 512];
    let length = socket.recv(&mut buffer).await.unwrap();
    let refused = Message::from_vec(&buffer[..length]).unwrap();
    assert_eq!((refused.metadata.id, refused.metadata.response_code), (0x0708, ResponseCode::FormErr));
}

#[tokio::test(flavor = "multi_thread")]
async fn large_answers_are_truncated_and_whole_over_tcp() {
    let api = FakeApi::default();
    api.put("services", service("db", json!({"clusterIP": "None"})));
    let endpoints: Vec<_> = (1..=100).map(|n| json!({"addresses": [format!("10.244.0.{n}")]})).collect();
    api.put(
        "endpointslices",
        json!({"apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice", "addressType": "IPv4",
            "metadata": {"namespace": "n", "name": "db", "labels": {"kubernetes.io/service-name": "db"}},
            "endpoints": endpoints}),
    );
    let server = start(&api, vec![]).await;
    let plain = question("db.n.svc.cluster.local.", RecordType::A, false);
    let small = over_udp(server, &plain).await;
    assert!(small.metadata.truncation && small.answers.len() < 32);
    let large = over_udp(server, &question("db.n.svc.cluster.local.", RecordType::A, true)).await;
    assert!(large.metadata.truncation && large.answers.len() > small.answers.len() && large.edns.is_some());
    let whole = over_tcp(server, &plain).await;
    assert!(!whole.metadata.truncation);
    assert_eq!(whole.answers.len(), 100);
}

/// A client with one socket and many questions in flight; each must have its answer. Answers how many were asked.
async fn ask_many(server: SocketAddr, names: &[(&str, &[&str])], until: impl Fn() -> bool) -> usize {
    let socket = UdpSocket::bind("127.0.0.1:0").await.unwrap();
    socket.connect(server).await.unwrap();
    let (mut asked, mut buffer) = (0, [0; 4096]);
    while !until() {
        let mut waiting = std::collections::HashMap::new();
        for number in 0..16u16 {
            let (name, expected) = names[usize::from(number) % names.len()];
            let mut question = question(name, RecordType::A, false);
            question.metadata.id = number;
            socket.send(&question.to_vec().unwrap()).await.unwrap();
            waiting.insert(number, (name, expected));
        }
        while !waiting.is_empty() {
            let receiving = tokio::time::timeout(Duration::from_secs(10), socket.recv(&mut buffer));
            let length = receiving.await.unwrap_or_else(|_| panic!("no answer for {waiting:?}")).unwrap();
            let answer = Message::from_vec(&buffer[..length]).unwrap();
            let (name, expected) = waiting.remove(&answer.metadata.id).unwrap();
            assert_eq!(texts(&answer), expected, "{name}");
            asked += 1;
        }
    }
    asked
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_answer_is_lost_or_wrong_while_services_come_and_go() {
    let api = FakeApi::default();
    let stable = json!({"clusterIP": "10.96.0.7", "ports": [{"port": 80}]});
    api.put("services", service("web", stable));
    for number in 0..200 {
        let address = format!("10.97.{}.{}", number / 100, number % 100 + 1);
        let spec = json!({"clusterIP": address, "ports": [{"port": 80}]});
        api.put("services", service(&format!("many-{number}"), spec));
        // So much at once would use up the test's turn, without which the store does not answer.
        tokio::task::yield_now().await;
    }
    let server = start(&api, vec![fake_upstream().await]).await;
    let names: [(&str, &[&str]); 3] = [
        ("web.n.svc.cluster.local.", &["10.96.0.7"]),
        ("none.n.svc.cluster.local.", &[]),
        ("example.org.", &["192.0.2.1"]),
    ];
    let over = Arc::new(std::sync::atomic::AtomicBool::new(false));
    let clients: Vec<_> = (0..2)
        .map(|_| {
            let over = over.clone();
            let until = move || over.load(std::sync::atomic::Ordering::Relaxed);
            tokio::spawn(async move { ask_many(server, &names, until).await })
        })
        .collect();
    for round in 0..20u8 {
        let address = format!("10.98.0.{}", round + 1);
        api.put("services", service("new", json!({"clusterIP": address, "ports": [{"port": 80}]})));
        let question = question("new.n.svc.cluster.local.", RecordType::A, false);
        let known = async {
            while texts(&over_udp(server, &question).await) != [address.as_str()] {
                tokio::task::yield_now().await;
            }
        };
        tokio::time::timeout(Duration::from_secs(20), known).await.expect("the new address");
        api.remove("services", "n", "new");
    }
    over.store(true, std::sync::atomic::Ordering::Relaxed);
    let mut asked = 0;
    for client in clients {
        asked += client.await.unwrap();
    }
    assert!(asked > 100, "{asked}");
}
