//! The store against a real file.

use std::io::{BufRead, BufReader};
use std::os::unix::fs::MetadataExt;
use std::process::Stdio;

use bytes::Bytes;
use tempfile::TempDir;

use super::writer::Limits;
use super::*;

mod disk_failures;
mod power_loss;

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
    let limits = Limits { events: 100, bytes: usize::MAX, file: u64::MAX / 4 };
    let store = Store::open_with(&path, Arc::new(Disk), limits).unwrap();
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
async fn who_follows_quiet_keys_outlives_the_log_of_busy_ones() {
    let dir = tempfile::tempdir().unwrap();
    let limits = Limits { events: 100, bytes: usize::MAX, file: u64::MAX / 4 };
    let store = Store::open_with(&dir.path().join("store"), Arc::new(Disk), limits).unwrap();
    let first = store.create("quiet/a", encode("1")).await.unwrap().revision;
    let mut revision = store.create("busy/a", encode("0")).await.unwrap().revision;
    let (mut quiet, mut busy) = (store.watch("quiet/", 0), store.watch("busy/", 0));
    assert_eq!(quiet.next().await.unwrap().revision, first);
    assert_eq!(busy.next().await.unwrap().revision, revision);
    for n in 0..400 {
        revision = store.update("busy/a", revision, encode(&n.to_string())).await.unwrap().revision;
    }
    // Nobody woke it, and yet it has seen all that there was to see.
    assert_eq!((quiet.progress(), busy.progress()), (revision, 2));
    let second = store.update("quiet/a", first, encode("2")).await.unwrap().revision;
    assert_eq!(quiet.progress(), 2);
    let event = quiet.next().await.unwrap();
    assert_eq!((event.revision, event.previous.unwrap().revision), (second, first));
    assert!(matches!(busy.next().await, Err(Error::Compacted { .. })));
    // Who begins where the log no longer reaches is refused, however quiet it was.
    assert!(matches!(store.watch("quiet/", first).next().await, Err(Error::Compacted { .. })));
    // What is forgotten of the quiet keys themselves is not passed over.
    store.update("quiet/a", second, encode("3")).await.unwrap();
    store.compact(store.revision()).await.unwrap();
    let mut late = store.watch("quiet/", store.revision());
    assert!(matches!(quiet.next().await, Err(Error::Compacted { .. })));
    let next = store.create("quiet/b", encode("4")).await.unwrap().revision;
    assert_eq!(late.next().await.unwrap().revision, next);
    store.close().await;
    assert!(matches!(late.next().await, Err(Error::Closed)));
    assert!(matches!(store.watch("quiet/", next).next().await, Err(Error::Closed)));
}

/// Updates `a` until the file is another one; the revision reached.
async fn update_until_rewritten(store: &Store, path: &Path, mut revision: Revision) -> Revision {
    let inode = || std::fs::metadata(path).unwrap().ino();
    let before = inode();
    while inode() == before {
        revision = store.update("a", revision, encode(&"x".repeat(10_000))).await.unwrap().revision;
    }
    revision
}

#[tokio::test]
async fn a_file_that_has_become_long_is_written_anew_beside_the_writes() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("store");
    let limits = Limits { events: 20, bytes: usize::MAX, file: 1 << 20 };
    let store = Store::open_with(&path, Arc::new(Disk), limits).unwrap();
    store.create("still", encode("here")).await.unwrap();
    let mut revision = store.create("a", encode("0")).await.unwrap().revision;
    for _ in 0..3 {
        revision = update_until_rewritten(&store, &path, revision).await;
        assert!(!dir.path().join("store.next").exists());
        assert!(std::fs::metadata(&path).unwrap().len() < 8 << 20);
    }
    // The new file is nobody else's either.
    assert!(Store::open(&path).err().unwrap().to_string().contains("another process has it open"));
    store.close().await;
    let store = Store::open(&path).unwrap();
    let still = store.get("still").unwrap();
    assert_eq!((store.revision(), still.created, still.json()["text"].as_str()), (revision, 1, Some("here")));
    let a = store.get("a").unwrap();
    assert_eq!((a.created, a.revision), (2, revision));
    // What the log told before, it tells now.
    let mut watch = store.watch("", revision - 15);
    for expected in revision - 14..=revision {
        let event = watch.next().await.unwrap();
        assert_eq!((event.revision, event.previous.unwrap().revision), (expected, expected - 1));
    }
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
    let limits = Limits { events: 10_000, bytes: 200_000, file: u64::MAX / 4 };
    let store = Store::open_with(&dir.path().join("store"), Arc::new(Disk), limits).unwrap();
    let mut revision = store.create("a", encode("0")).await.unwrap().revision;
    for _ in 0..300 {
        revision = store.update("a", revision, encode(&"x".repeat(1000))).await.unwrap().revision;
    }
    let (events, bytes) = store.memory.read(memory::State::log_size);
    assert!(bytes <= 200_000 + 3_000 && events * 2_000 < bytes && events > 50, "{events} {bytes}");
}
