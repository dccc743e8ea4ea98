//! The store against a real file.

use std::io::{BufRead, BufReader};
use std::process::Stdio;
use std::sync::atomic::Ordering;

use bytes::Bytes;
use redb::ReadableTable;
use tempfile::TempDir;

use super::faults::Faults;
use super::writer::Limits;
use super::*;

fn encode(text: &str) -> impl FnOnce(Revision) -> Bytes + Send + 'static {
    let text = text.to_owned();
    move |revision| Bytes::from(format!(r#"{{"text":"{text}","revision":{revision}}}"#))
}

fn fresh() -> (TempDir, Store) {
    let dir = tempfile::tempdir().unwrap();
    let store = Store::open(&dir.path().join("store")).unwrap();
    (dir, store)
}

fn keys(snapshot: &Snapshot) -> Vec<&str> {
    snapshot.entries.iter().map(|e| e.key.as_str()).collect()
}

#[tokio::test]
async fn writes_are_checked_and_numbered() {
    let (_dir, store) = fresh();
    let a = store.create("pods/d/a", encode("1")).await.unwrap();
    assert_eq!((a.created, a.revision, a.json()["revision"].as_u64()), (1, 1, Some(1)));
    assert!(matches!(store.create("pods/d/a", encode("x")).await, Err(Error::Exists { revision: 1, .. })));
    let a = store.update("pods/d/a", 1, encode("2")).await.unwrap();
    assert_eq!((a.created, a.revision), (1, 2));
    assert!(matches!(
        store.update("pods/d/a", 1, encode("x")).await,
        Err(Error::Conflict { actual: Some(2), .. })
    ));
    assert!(matches!(store.update("no", 1, encode("x")).await, Err(Error::Conflict { actual: None, .. })));
    store.delete("pods/d/a", 2, encode("end")).await.unwrap();
    assert!(store.get("pods/d/a").is_none());
    assert_eq!(store.revision(), 3);
}

#[tokio::test]
async fn lists_page_and_look_back() {
    let (_dir, store) = fresh();
    for name in ["b", "a", "c"] {
        store.create(&format!("pods/d/{name}"), encode(name)).await.unwrap();
    }
    store.create("podsx/d/z", encode("z")).await.unwrap();
    let page = store.list("pods/", None, 2, None).unwrap();
    assert_eq!((keys(&page), page.remaining, page.revision), (vec!["pods/d/a", "pods/d/b"], 1, 4));
    store.delete("pods/d/c", 3, encode("end")).await.unwrap();
    store.create("pods/d/bb", encode("bb")).await.unwrap();
    store.update("pods/d/a", 2, encode("a2")).await.unwrap();
    let rest = store.list("pods/", Some("pods/d/b"), 0, Some(4)).unwrap();
    assert_eq!(keys(&rest), ["pods/d/c"]);
    let whole = store.list("pods/", None, 0, Some(4)).unwrap();
    assert_eq!(whole.entries[0].json()["text"], "a");
    assert_eq!(keys(&store.list("pods/", None, 0, None).unwrap()), ["pods/d/a", "pods/d/b", "pods/d/bb"]);
    assert!(matches!(store.list("pods/", None, 0, Some(99)), Err(Error::Compacted { .. })));
}

#[tokio::test]
async fn a_watch_replays_then_follows_without_gap_or_repetition() {
    let (_dir, store) = fresh();
    store.create("a/1", encode("x")).await.unwrap();
    store.create("b/1", encode("x")).await.unwrap();
    let mut watch = store.watch("a/", 0);
    assert_eq!(watch.next().await.unwrap().revision, 1);
    let writer = store.clone();
    let task = tokio::spawn(async move {
        let mut revision = 1;
        for n in 0..500 {
            revision = writer.update("a/1", revision, encode(&n.to_string())).await.unwrap().revision;
            writer.create(&format!("b/{}", n + 2), encode("noise")).await.unwrap();
        }
    });
    for n in 0..500 {
        let event = watch.next().await.unwrap();
        assert_eq!(event.entry.json()["text"], n.to_string());
        assert!(event.previous.is_some() && !event.deleted);
    }
    task.await.unwrap();
    assert!(watch.progress() >= 1000);
}

#[tokio::test]
async fn only_one_of_many_racing_writers_wins_each_revision() {
    let (_dir, store) = fresh();
    store.create("n", |_| Bytes::from_static(b"0")).await.unwrap();
    let tasks: Vec<_> = (0..16)
        .map(|_| {
            let store = store.clone();
            tokio::spawn(async move {
                for _ in 0..20 {
                    loop {
                        let now = store.get("n").unwrap();
                        let next = now.json().as_u64().unwrap() + 1;
                        let written =
                            store.update("n", now.revision, move |_| Bytes::from(next.to_string())).await;
                        if written.is_ok() {
                            break;
                        }
                    }
                }
            })
        })
        .collect();
    for task in tasks {
        task.await.unwrap();
    }
    assert_eq!(store.get("n").unwrap().json().as_u64(), Some(320));
}

#[tokio::test]
async fn reopening_keeps_documents_revisions_and_the_log() {
    let (dir, store) = fresh();
    store.create("a", encode("1")).await.unwrap();
    store.update("a", 1, encode("2")).await.unwrap();
    store.create("b", encode("b")).await.unwrap();
    store.delete("b", 3, encode("end")).await.unwrap();
    store.close().await;
    assert!(matches!(store.create("c", encode("c")).await, Err(Error::Closed)));
    let store = Store::open(&dir.path().join("store")).unwrap();
    assert_eq!((store.revision(), store.get("a").unwrap().created), (4, 1));
    let mut watch = store.watch("", 1);
    let event = watch.next().await.unwrap();
    assert_eq!(event.previous.unwrap().json()["text"], "1");
    assert!(!watch.next().await.unwrap().deleted);
    let end = watch.next().await.unwrap();
    assert!(end.deleted && end.entry.json()["text"] == "end");
}

#[tokio::test]
async fn the_log_is_trimmed_and_late_watchers_are_told() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("store");
    let limits = Limits { events: 100, bytes: usize::MAX };
    let store = Store::open_with(&path, Box::new(disk::engine), limits).unwrap();
    let mut slow = store.watch("", 0);
    let mut revision = store.create("a", encode("0")).await.unwrap().revision;
    for n in 1..400 {
        revision = store.update("a", revision, encode(&n.to_string())).await.unwrap().revision;
    }
    assert!(matches!(slow.next().await, Err(Error::Compacted { .. })));
    assert!(matches!(store.watch("", 1).next().await, Err(Error::Compacted { .. })));
    assert!(store.watch("", revision - 50).next().await.is_ok());
    store.compact(revision - 1).await.unwrap();
    assert!(matches!(store.watch("", revision - 2).next().await, Err(Error::Compacted { .. })));
    store.close().await;
    let store = Store::open(&path).unwrap();
    assert_eq!((store.revision(), store.get("a").unwrap().revision), (400, 400));
    assert!(matches!(store.watch("", 401).next().await, Err(Error::Compacted { .. })));
}

#[tokio::test]
async fn damaged_files_are_refused() {
    let (dir, store) = fresh();
    let path = dir.path().join("store");
    for n in 0..50 {
        store.create(&format!("k{n}"), encode("some text to be damaged")).await.unwrap();
    }
    store.close().await;
    let good = std::fs::read(&path).unwrap();
    let refused = |bytes: &[u8]| {
        let path = dir.path().join("copy");
        std::fs::write(&path, bytes).unwrap();
        Store::open(&path).err().map(|e| e.to_string())
    };
    assert!(refused(b"not a store at all, but long enough").unwrap().contains("damaged"));
    let mut flipped = good.clone();
    let mut hits = 0;
    let needle = b"some text to be damaged";
    for at in 0..flipped.len() - needle.len() {
        if &good[at..at + needle.len()] == needle {
            flipped[at] ^= 0x20;
            hits += 1;
        }
    }
    assert!(hits > 0);
    assert!(refused(&flipped).unwrap().contains("damaged"));
    assert!(refused(&good[..good.len() / 2]).is_some());
    assert!(refused(&good).is_none());
}

#[tokio::test]
async fn files_of_a_newer_format_and_of_a_running_daemon_are_refused() {
    let (dir, store) = fresh();
    let path = dir.path().join("store");
    store.create("k", encode("v")).await.unwrap();
    let locked = Store::open(&path).err().unwrap().to_string();
    assert!(locked.contains("another process has it open: is this cluster's daemon running"), "{locked}");
    store.close().await;

    let meta = redb::TableDefinition::<&str, u64>::new("meta");
    let set = |format: u64| {
        let file = redb::Database::open(&path).unwrap();
        let change = file.begin_write().unwrap();
        change.open_table(meta).unwrap().insert("format", format).unwrap();
        change.commit().unwrap();
    };
    set(3);
    let newer = Store::open(&path).err().unwrap().to_string();
    assert!(newer.contains("format 3, this version of minik knows format 2"), "{newer}");
    set(2);
    assert_eq!(Store::open(&path).unwrap().get("k").unwrap().revision, 1);
}

/// How many tasks of the child write at once, so that their writes share transactions.
const WRITERS: usize = 8;

/// The child of the test below: writes until killed, saying each acknowledged revision.
#[tokio::test]
async fn child_that_writes_until_killed() {
    let Ok(path) = std::env::var("MINIK_TEST_STORE") else { return };
    let store = Store::open(Path::new(&path)).unwrap();
    let writers = (0..WRITERS).map(|n| {
        let (store, key) = (store.clone(), format!("n{n}"));
        async move {
            let mut revision = store.create(&key, encode("0")).await.unwrap().revision;
            loop {
                revision = store.update(&key, revision, encode(&key)).await.unwrap().revision;
                eprintln!("acknowledged {key} {revision}");
            }
        }
    });
    futures::future::join_all(writers).await;
}

#[test]
#[allow(clippy::disallowed_methods)]
fn acknowledged_writes_survive_a_kill() {
    for round in 0..3 {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("store");
        let mut child = std::process::Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "store::tests::child_that_writes_until_killed", "--nocapture"])
            .env("MINIK_TEST_STORE", &path)
            .stderr(Stdio::piped())
            .stdout(Stdio::null())
            .spawn()
            .unwrap();
        let mut acknowledged = std::collections::BTreeMap::new();
        for line in BufReader::new(child.stderr.take().unwrap()).lines() {
            let line = line.unwrap();
            let mut words = line.split_whitespace();
            if let (Some("acknowledged"), Some(key), Some(revision)) =
                (words.next(), words.next(), words.next())
            {
                let revision = revision.parse::<Revision>().unwrap();
                acknowledged.insert(key.to_owned(), revision);
                if revision > 400 + round * 37 {
                    child.kill().unwrap();
                }
            }
        }
        child.wait().unwrap();
        let store = Store::open(&path).unwrap();
        assert_eq!(acknowledged.len(), WRITERS);
        for (key, revision) in acknowledged {
            assert!(store.get(&key).unwrap().revision >= revision, "{key}: {revision}");
        }
        // The log is whole and ends where the documents do.
        let mut watch = store.watch("", 0);
        for revision in 1..=store.revision() {
            assert_eq!(futures::executor::block_on(watch.next()).unwrap().revision, revision);
        }
    }
}

#[tokio::test]
async fn a_check_asks_the_writer() {
    let directory = tempfile::tempdir().unwrap();
    let store = Store::open(&directory.path().join("store")).unwrap();
    store.check().await.unwrap();
    store.close().await;
    assert!(matches!(store.check().await, Err(Error::Closed)));
}

const DOCUMENTS: redb::TableDefinition<&str, &[u8]> = redb::TableDefinition::new("documents");
const LOG: redb::TableDefinition<u64, &[u8]> = redb::TableDefinition::new("log");
const HEAD: redb::TableDefinition<&str, &[u8]> = redb::TableDefinition::new("head");
const META: redb::TableDefinition<&str, u64> = redb::TableDefinition::new("meta");

/// Changes a store's file behind its back.
fn meddle(path: &Path, change: impl FnOnce(&redb::WriteTransaction)) {
    let file = redb::Database::open(path).unwrap();
    let transaction = file.begin_write().unwrap();
    change(&transaction);
    transaction.commit().unwrap();
}

#[tokio::test]
async fn rows_that_were_moved_lost_or_changed_are_refused() {
    let (dir, store) = fresh();
    let path = dir.path().join("store");
    store.create("a", encode("1")).await.unwrap();
    store.create("b", encode("2")).await.unwrap();
    store.delete("b", 2, encode("end")).await.unwrap();
    store.close().await;
    let good = std::fs::read(&path).unwrap();
    let refused = |change: fn(&redb::WriteTransaction)| {
        let path = dir.path().join("copy");
        std::fs::write(&path, &good).unwrap();
        meddle(&path, change);
        Store::open(&path).err().map(|e| e.to_string()).unwrap_or_default()
    };
    let moved = refused(|t| {
        let mut documents = t.open_table(DOCUMENTS).unwrap();
        let row = documents.remove("a").unwrap().unwrap().value().to_vec();
        documents.insert("c", row.as_slice()).unwrap();
    });
    assert!(moved.contains("the document c fails its checksum"), "{moved}");
    let lost = refused(|t| drop(t.open_table(LOG).unwrap().remove(3).unwrap()));
    assert!(lost.contains("the log does not reach from 0 to 3: 2"), "{lost}");
    let swapped = refused(|t| {
        let mut log = t.open_table(LOG).unwrap();
        let row = log.get(1).unwrap().unwrap().value().to_vec();
        log.insert(2, row.as_slice()).unwrap();
    });
    assert!(swapped.contains("revision 2 of the log is broken"), "{swapped}");
    let missing = refused(|t| drop(t.open_table(DOCUMENTS).unwrap().remove("a").unwrap()));
    assert!(missing.contains("the document a is missing"), "{missing}");
    let changed = refused(|t| {
        let mut head = t.open_table(HEAD).unwrap();
        let mut row = head.get("span").unwrap().unwrap().value().to_vec();
        row[4] ^= 1;
        head.insert("span", row.as_slice()).unwrap();
    });
    assert!(changed.contains("how far the log reaches fails its checksum"), "{changed}");
    let format = refused(|t| drop(t.open_table(META).unwrap().insert("format", 1).unwrap()));
    assert!(format.contains("fails its checksum"), "{format}");
    assert_eq!(refused(|_| {}), "");
}

#[tokio::test]
async fn a_store_that_was_there_and_is_not_is_refused() {
    let (dir, store) = fresh();
    let path = dir.path().join("store");
    store.create("a", encode("1")).await.unwrap();
    store.close().await;
    let good = std::fs::read(&path).unwrap();
    std::fs::write(&path, b"").unwrap();
    let empty = Store::open(&path).err().unwrap().to_string();
    assert!(empty.contains("the file is empty although this cluster has written it"), "{empty}");
    std::fs::remove_file(&path).unwrap();
    let missing = Store::open(&path).err().unwrap().to_string();
    assert!(missing.contains("the file is missing although this cluster has written it"), "{missing}");
    assert!(!path.exists());
    std::fs::write(&path, good).unwrap();
    assert_eq!(Store::open(&path).unwrap().revision(), 1);
    // An empty file in a new place is what a first start that was cut off leaves.
    let new = dir.path().join("new");
    std::fs::write(&new, b"").unwrap();
    assert_eq!(Store::open(&new).unwrap().revision(), 0);
}

#[tokio::test]
async fn a_file_of_the_older_format_is_brought_to_the_present_one() {
    let (dir, store) = fresh();
    let path = dir.path().join("store");
    for n in 1..=3 {
        store.create(&format!("k{n}"), encode("v")).await.unwrap();
    }
    store.delete("k2", 2, encode("end")).await.unwrap();
    store.compact(1).await.unwrap();
    store.close().await;
    // What the older format has not: keys in its checksums, and a row that says how far the log reaches.
    let resealed = |row: &[u8]| {
        let mut crc = flate2::Crc::new();
        crc.update(&row[4..]);
        [&crc.sum().to_le_bytes(), &row[4..]].concat()
    };
    meddle(&path, |t| {
        let mut documents = t.open_table(DOCUMENTS).unwrap();
        let rows: Vec<_> = documents
            .iter()
            .unwrap()
            .flatten()
            .map(|(k, v)| (k.value().to_owned(), resealed(v.value())))
            .collect();
        for (key, row) in &rows {
            documents.insert(key.as_str(), row.as_slice()).unwrap();
        }
        let mut log = t.open_table(LOG).unwrap();
        let rows: Vec<_> =
            log.iter().unwrap().flatten().map(|(k, v)| (k.value(), resealed(v.value()))).collect();
        for (revision, row) in &rows {
            log.insert(revision, row.as_slice()).unwrap();
        }
        let mut meta = t.open_table(META).unwrap();
        meta.insert("format", 1).unwrap();
        meta.insert("compacted", 1).unwrap();
        t.delete_table(HEAD).unwrap();
    });
    for _ in 0..2 {
        let store = Store::open(&path).unwrap();
        assert_eq!((store.revision(), keys(&store.list("", None, 0, None).unwrap())), (4, vec!["k1", "k3"]));
        assert_eq!(store.watch("", 1).next().await.unwrap().revision, 2);
        assert!(store.watch("", 0).next().await.is_err());
        store.close().await;
    }
}

fn on(faults: &std::sync::Arc<Faults>, path: &Path) -> Store {
    let (faults, limits) = (faults.clone(), Limits { events: 100, bytes: usize::MAX });
    Store::open_with(path, Box::new(move |path| faults.open(path)), limits).unwrap()
}

#[tokio::test]
async fn a_full_disk_refuses_writes_until_there_is_room() {
    let dir = tempfile::tempdir().unwrap();
    let (path, faults) = (dir.path().join("store"), Faults::none());
    let store = on(&faults, &path);
    store.create("a", encode("1")).await.unwrap();
    let mut watch = store.watch("", 1);
    faults.full.store(true, Ordering::SeqCst);
    for _ in 0..3 {
        let refused = store.update("a", 1, encode("2")).await.err().unwrap().to_string();
        assert!(refused.contains(path.to_str().unwrap()), "{refused}");
        assert!(store.check().await.is_err());
        assert_eq!((store.revision(), store.get("a").unwrap().revision), (1, 1));
    }
    faults.full.store(false, Ordering::SeqCst);
    store.update("a", 1, encode("3")).await.unwrap();
    store.check().await.unwrap();
    assert_eq!(watch.next().await.unwrap().entry.json()["text"], "3");
    store.close().await;
    assert_eq!(Store::open(&path).unwrap().get("a").unwrap().json()["text"], "3");
}

#[tokio::test]
async fn whichever_operation_fails_memory_and_disk_tell_the_same() {
    for done_anyway in [false, true] {
        let mut failures = 0;
        for operation in 0.. {
            let dir = tempfile::tempdir().unwrap();
            let (path, faults) = (dir.path().join("store"), Faults::none());
            let store = on(&faults, &path);
            store.create("a", encode("1")).await.unwrap();
            store.create("b", encode("1")).await.unwrap();
            faults.done_anyway.store(done_anyway, Ordering::SeqCst);
            faults.countdown.store(operation, Ordering::SeqCst);
            let written = store.update("a", 1, encode("2")).await;
            let untouched = faults.countdown.swap(-1, Ordering::SeqCst) >= 0;
            let now = store.get("a").unwrap();
            match &written {
                Ok(entry) => assert_eq!(now.revision, entry.revision, "operation {operation}"),
                Err(_) => {
                    failures += 1;
                    assert_eq!(now.revision, 1, "operation {operation}");
                }
            }
            store.update("a", now.revision, encode("3")).await.unwrap();
            store.delete("b", 2, encode("end")).await.unwrap();
            let newest = store.revision();
            store.close().await;
            let store = Store::open(&path).unwrap();
            assert_eq!(
                (store.revision(), store.get("a").unwrap().json()["text"].as_str()),
                (newest, Some("3"))
            );
            if untouched {
                assert!(operation > 2 && (failures > 0 || done_anyway), "{operation} {failures}");
                break;
            }
        }
    }
}

/// Holds the writer up until told, so that what is queued meanwhile shares a transaction.
async fn hold_up(store: &Store, key: &str, meanwhile: impl AsyncFnOnce()) {
    let (go, wait) = std::sync::mpsc::channel::<()>();
    let (begin, begun) = oneshot::channel();
    let held = store.create(key, move |_| {
        begin.send(()).unwrap();
        wait.recv().unwrap();
        Bytes::from_static(b"{}")
    });
    let mut held = Box::pin(held);
    assert!(futures::poll!(held.as_mut()).is_pending());
    begun.await.unwrap();
    meanwhile().await;
    go.send(()).unwrap();
    held.await.unwrap();
}

#[tokio::test]
async fn a_refusal_waits_for_what_it_lost_to() {
    let dir = tempfile::tempdir().unwrap();
    let faults = Faults::none();
    let store = on(&faults, &dir.path().join("store"));
    let mut first = Box::pin(store.create("k", encode("first")));
    let mut second = Box::pin(store.create("k", encode("second")));
    hold_up(&store, "held", async || {
        assert!(futures::poll!(first.as_mut()).is_pending());
        assert!(futures::poll!(second.as_mut()).is_pending());
    })
    .await;
    assert!(matches!(second.await, Err(Error::Exists { revision: 2, .. })));
    assert_eq!(store.get("k").unwrap().json()["text"], "first");
    first.await.unwrap();

    // When the write that it lost to fails, there is nothing that exists.
    let full = faults.clone();
    let mut first = Box::pin(store.create("n", move |_| {
        full.full.store(true, Ordering::SeqCst);
        Bytes::from_static(b"{}")
    }));
    let mut second = Box::pin(store.create("n", encode("second")));
    hold_up(&store, "held again", async || {
        assert!(futures::poll!(first.as_mut()).is_pending());
        assert!(futures::poll!(second.as_mut()).is_pending());
    })
    .await;
    assert!(matches!(second.await, Err(Error::Disk { .. })));
    assert!(matches!(first.await, Err(Error::Disk { .. })));
}

#[tokio::test]
async fn the_log_keeps_bytes_and_nothing_parsed() {
    let (_dir, store) = fresh();
    let mut revision = store.create("a", encode("0")).await.unwrap().revision;
    let mut watch = store.watch("", 0);
    let mut late = Vec::new();
    for n in 0..300 {
        let entry = store.update("a", revision, encode(&n.to_string())).await.unwrap();
        entry.json();
        revision = entry.revision;
        let event = watch.next().await.unwrap();
        event.previous.iter().for_each(|previous| drop(previous.json().clone()));
        event.entry.json();
        if n == 200 {
            // One that comes late, and one that looks back, leave nothing behind either.
            let mut behind = store.watch("", 0);
            for _ in 0..50 {
                late.push(behind.next().await.unwrap());
            }
            late.iter().for_each(|event| drop(event.entry.json().clone()));
            store.list("", None, 0, Some(20)).unwrap().entries[0].json();
        }
    }
    let parsed = store.memory.read(|state| {
        let entries = state.log().flat_map(|event| [Some(&event.entry), event.previous.as_ref()]).flatten();
        entries.filter(|entry| entry.parsed.get().is_some()).count()
    });
    assert!(parsed <= 2 * 64 + 1, "{parsed}");
    assert_eq!(late.len(), 50);
}

#[tokio::test]
async fn the_log_keeps_to_its_bytes() {
    let dir = tempfile::tempdir().unwrap();
    let limits = Limits { events: 10_000, bytes: 200_000 };
    let store = Store::open_with(&dir.path().join("store"), Box::new(disk::engine), limits).unwrap();
    let mut revision = store.create("a", encode("0")).await.unwrap().revision;
    for _ in 0..300 {
        revision = store.update("a", revision, encode(&"x".repeat(1000))).await.unwrap().revision;
    }
    let (events, bytes) = store.memory.read(memory::State::log_size);
    assert!(bytes <= 200_000 + 3_000 && events * 2_000 < bytes && events > 50, "{events} {bytes}");
}
