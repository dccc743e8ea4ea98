//! The store on files that are damaged, lost or foreign, and on disks that fail.

use std::path::Path;
use std::sync::atomic::Ordering;

use bytes::Bytes;
use tokio::sync::oneshot;

use super::super::faults::Faults;
use super::super::writer::Limits;
use super::super::{Error, Revision, Store};
use super::{encode, fresh, keys};

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
    assert!(refused(&good[..1000]).unwrap().contains("its end is missing"));
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

    let mut file = std::fs::read(&path).unwrap();
    file[12] = 5;
    std::fs::write(&path, &file).unwrap();
    let newer = Store::open(&path).err().unwrap().to_string();
    assert!(newer.contains("format 5, this version of minik knows format 4"), "{newer}");
    file[12] = 4;
    std::fs::write(&path, &file).unwrap();
    assert_eq!(Store::open(&path).unwrap().get("k").unwrap().revision, 1);
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

/// A row as the tables of older formats have it.
fn sealed(key: &str, numbers: [Revision; 2], bytes: &[u8]) -> Vec<u8> {
    let body = [&numbers[0].to_le_bytes(), &numbers[1].to_le_bytes(), bytes].concat();
    let mut crc = crc32fast::Hasher::new();
    crc.update(key.as_bytes());
    crc.update(&body);
    [&crc.finalize().to_le_bytes(), body.as_slice()].concat()
}

/// A file of an older format; `change` may damage it.
fn former(path: &Path, format: u64, change: impl FnOnce(&redb::WriteTransaction)) {
    let documents = redb::TableDefinition::<&str, &[u8]>::new("documents");
    let head = redb::TableDefinition::<&str, &[u8]>::new("head");
    let meta = redb::TableDefinition::<&str, u64>::new("meta");
    let file = redb::Database::create(path).unwrap();
    let transaction = file.begin_write().unwrap();
    {
        let mut documents = transaction.open_table(documents).unwrap();
        documents.insert("k1", sealed("k1", [1, 4], b"\"one\"").as_slice()).unwrap();
        documents.insert("k3", sealed("k3", [3, 3], b"\"three\"").as_slice()).unwrap();
        transaction.open_table(meta).unwrap().insert("format", format).unwrap();
        transaction.open_table(head).unwrap().insert("span", sealed("span", [1, 5], b"").as_slice()).unwrap();
    }
    change(&transaction);
    transaction.commit().unwrap();
}

#[tokio::test]
async fn documents_of_older_formats_are_taken_over() {
    for format in [2, 3] {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("store");
        former(&path, format, |_| {});
        for round in 0..2 {
            let store = Store::open(&path).unwrap();
            let all = store.list("", None, 0, None).unwrap();
            assert_eq!((store.revision(), keys(&all)), (5 + round, vec!["k1", "k3"]));
            let k1 = store.get("k1").unwrap();
            assert_eq!((k1.created, k1.bytes.as_ref()), (1, &b"\"one\""[..]));
            assert!(matches!(store.watch("", 4).next().await, Err(Error::Compacted { .. })));
            let k3 = store.get("k3").unwrap().revision;
            assert_eq!(store.update("k3", k3, encode("3")).await.unwrap().revision, 6 + round);
            store.close().await;
        }
    }
}

#[tokio::test]
async fn damaged_files_of_older_formats_are_refused_and_left_alone() {
    let refused = |format, change: fn(&redb::WriteTransaction)| {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("store");
        former(&path, format, change);
        let before = std::fs::read(&path).unwrap();
        let refused = Store::open(&path).err().unwrap().to_string();
        assert!(std::fs::read(&path).unwrap().starts_with(&before[..9]));
        refused
    };
    let moved = refused(3, |t| {
        let documents = redb::TableDefinition::<&str, &[u8]>::new("documents");
        let mut documents = t.open_table(documents).unwrap();
        let row = documents.remove("k1").unwrap().unwrap().value().to_vec();
        documents.insert("k2", row.as_slice()).unwrap();
    });
    assert!(moved.contains("the document k2 fails its checksum"), "{moved}");
    let span = refused(3, |t| {
        let head = redb::TableDefinition::<&str, &[u8]>::new("head");
        t.open_table(head).unwrap().insert("span", sealed("other", [1, 5], b"").as_slice()).unwrap();
    });
    assert!(span.contains("how far the log reaches fails its checksum"), "{span}");
    assert!(refused(1, |_| {}).contains("it has format 1"));
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("store");
    std::fs::write(&path, b"redb\x1a\x0a\xa9\x0d\x0a and no more").unwrap();
    assert!(Store::open(&path).err().unwrap().to_string().contains("damaged"));
}

#[tokio::test]
async fn a_full_disk_refuses_writes_until_there_is_room() {
    let dir = tempfile::tempdir().unwrap();
    let (path, faults) = (dir.path().join("store"), Faults::none());
    let store = faults.store(&path);
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

/// The ways in which one operation fails: not done, done, or half done.
const WAYS: [(bool, bool); 3] = [(false, false), (true, false), (false, true)];

#[tokio::test]
async fn whichever_operation_fails_memory_and_disk_tell_the_same() {
    for (done_anyway, half_done) in WAYS {
        let mut failures = 0;
        for operation in 0.. {
            let dir = tempfile::tempdir().unwrap();
            let (path, faults) = (dir.path().join("store"), Faults::none());
            let store = faults.store(&path);
            store.create("a", encode("1")).await.unwrap();
            store.create("b", encode("1")).await.unwrap();
            faults.done_anyway.store(done_anyway, Ordering::SeqCst);
            faults.half_done.store(half_done, Ordering::SeqCst);
            faults.countdown.store(operation, Ordering::SeqCst);
            // So large that the file must become longer.
            let written = store.update("a", 1, encode(&"2".repeat(2 << 20))).await;
            let untouched = faults.countdown.swap(-1, Ordering::SeqCst) >= 0;
            let now = store.get("a").unwrap();
            match &written {
                Ok(entry) => assert_eq!(now.revision, entry.revision, "operation {operation}"),
                Err(_) => {
                    failures += 1;
                    assert_eq!(now.revision, 1, "operation {operation}");
                }
            }
            if operation % 2 == 0 {
                // What failed does not turn up when the process ends here.
                drop(store.clone());
                store.close().await;
                let again = Store::open(&path).unwrap();
                assert_eq!(again.get("a").unwrap().revision, now.revision);
                again.close().await;
            } else {
                store.update("a", now.revision, encode("3")).await.unwrap();
                store.delete("b", 2, encode("end")).await.unwrap();
                let newest = store.revision();
                store.close().await;
                let store = Store::open(&path).unwrap();
                assert_eq!(
                    (store.revision(), store.get("a").unwrap().json()["text"].as_str()),
                    (newest, Some("3"))
                );
            }
            if untouched {
                assert!(operation > 3 && failures > 0, "{operation} {failures}");
                break;
            }
        }
    }
}

#[tokio::test]
async fn whichever_operation_fails_while_the_file_is_written_anew_nothing_is_lost() {
    let limits = Limits { events: 20, bytes: usize::MAX, file: 1 << 20 };
    for (done_anyway, half_done) in WAYS {
        for operation in 0.. {
            let dir = tempfile::tempdir().unwrap();
            let (path, faults) = (dir.path().join("store"), Faults::none());
            let store = faults.store_with(&path, limits);
            store.create("still", encode("here")).await.unwrap();
            let mut revision = store.create("a", encode("0")).await.unwrap().revision;
            let length = || std::fs::metadata(&path).unwrap().len();
            // Up to where it is about to be written anew.
            while length() <= 1 << 20 {
                revision = store.update("a", revision, encode(&"x".repeat(100_000))).await.unwrap().revision;
            }
            faults.done_anyway.store(done_anyway, Ordering::SeqCst);
            faults.half_done.store(half_done, Ordering::SeqCst);
            faults.countdown.store(operation, Ordering::SeqCst);
            let inode = || std::os::unix::fs::MetadataExt::ino(&std::fs::metadata(&path).unwrap());
            let before = inode();
            while inode() == before {
                match store.update("a", revision, encode(&"y".repeat(100_000))).await {
                    Ok(entry) => revision = entry.revision,
                    Err(_) => assert_eq!(store.get("a").unwrap().revision, revision),
                }
            }
            let untouched = faults.countdown.swap(-1, Ordering::SeqCst) >= 0;
            revision = store.update("a", revision, encode("last")).await.unwrap().revision;
            store.close().await;
            let store = Store::open(&path).unwrap();
            assert_eq!((store.revision(), store.get("a").unwrap().revision), (revision, revision));
            assert!(store.get("still").is_some() && !dir.path().join("store.next").exists());
            if untouched || operation > 200 {
                assert!(operation > 5, "{operation}");
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
    let store = faults.store(&dir.path().join("store"));
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
