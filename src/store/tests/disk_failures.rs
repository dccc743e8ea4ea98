//! The store on files that are damaged, lost or foreign, and on disks that fail.

use std::path::Path;
use std::sync::atomic::Ordering;

use bytes::Bytes;
use redb::ReadableTable;
use tokio::sync::oneshot;

use super::super::faults::Faults;
use super::super::{Error, Store};
use super::{encode, fresh, keys};

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

    let set =
        |format: u64| meddle(&path, |t| drop(t.open_table(META).unwrap().insert("format", format).unwrap()));
    set(4);
    let newer = Store::open(&path).err().unwrap().to_string();
    assert!(newer.contains("format 4, this version of minik knows format 3"), "{newer}");
    set(3);
    assert_eq!(Store::open(&path).unwrap().get("k").unwrap().revision, 1);
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

/// A row as older formats have it; the oldest leaves the place out of the checksum.
fn sealed(place: &[u8], parts: &[&[u8]]) -> Vec<u8> {
    let body = parts.concat();
    let mut crc = crc32fast::Hasher::new();
    crc.update(place);
    crc.update(&body);
    [&crc.finalize().to_le_bytes(), body.as_slice()].concat()
}

#[tokio::test]
async fn files_of_older_formats_are_brought_to_the_present_one() {
    let number = |n: usize| (n as u64).to_le_bytes();
    let text = |text: &str| [&number(text.len())[..], text.as_bytes()].concat();
    for format in [1, 2] {
        let (dir, store) = fresh();
        let path = dir.path().join("store");
        for n in 1..=3 {
            store.create(&format!("k{n}"), encode("v")).await.unwrap();
        }
        store.update("k1", 1, encode("w")).await.unwrap();
        store.delete("k2", 2, encode("end")).await.unwrap();
        store.compact(1).await.unwrap();
        let mut watch = store.watch("", 1);
        let mut told = Vec::new();
        while told.len() < 4 {
            told.push(watch.next().await.unwrap());
        }
        store.close().await;
        // What older formats have: every event with its document, and the oldest no keys in its checksums and no row
        // that says how far the log reaches.
        meddle(&path, |t| {
            let mut log = t.open_table(LOG).unwrap();
            for event in &told {
                let (entry, revision) = (&event.entry, event.revision.to_le_bytes());
                let place = if format == 1 { &[][..] } else { &revision };
                let (deleted, created) = (number(event.deleted.into()), entry.created.to_le_bytes());
                let bytes = |bytes: &Bytes| text(std::str::from_utf8(bytes).unwrap());
                let before = event.previous.iter().map(|before| {
                    [&before.created.to_le_bytes()[..], &before.revision.to_le_bytes(), &bytes(&before.bytes)]
                        .concat()
                });
                let before: Vec<u8> = before.flatten().collect();
                let row =
                    sealed(place, &[&deleted, &created, &text(&entry.key), &bytes(&entry.bytes), &before]);
                log.insert(event.revision, row.as_slice()).unwrap();
            }
            let mut meta = t.open_table(META).unwrap();
            meta.insert("format", format).unwrap();
            if format == 1 {
                let mut documents = t.open_table(DOCUMENTS).unwrap();
                let read = documents.iter().unwrap().flatten();
                let rows: Vec<_> =
                    read.map(|(k, v)| (k.value().to_owned(), v.value()[4..].to_vec())).collect();
                for (key, body) in &rows {
                    documents.insert(key.as_str(), sealed(&[], &[body]).as_slice()).unwrap();
                }
                meta.insert("compacted", 1).unwrap();
                t.delete_table(HEAD).unwrap();
            }
        });
        for _ in 0..2 {
            let store = Store::open(&path).unwrap();
            let all = store.list("", None, 0, None).unwrap();
            assert_eq!((store.revision(), keys(&all)), (5, vec!["k1", "k3"]));
            let mut watch = store.watch("", 1);
            for event in &told {
                let again = watch.next().await.unwrap();
                assert_eq!((again.revision, again.deleted), (event.revision, event.deleted));
                assert_eq!(again.entry.bytes, event.entry.bytes);
                assert_eq!(
                    again.previous.map(|p| p.bytes.clone()),
                    event.previous.as_ref().map(|p| p.bytes.clone())
                );
            }
            assert!(store.watch("", 0).next().await.is_err());
            store.close().await;
        }
    }
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

#[tokio::test]
async fn whichever_operation_fails_memory_and_disk_tell_the_same() {
    for (done_anyway, panics) in [(false, false), (true, false), (false, true), (true, true)] {
        let mut failures = 0;
        for operation in 0.. {
            let dir = tempfile::tempdir().unwrap();
            let (path, faults) = (dir.path().join("store"), Faults::none());
            let store = faults.store(&path);
            store.create("a", encode("1")).await.unwrap();
            store.create("b", encode("1")).await.unwrap();
            faults.done_anyway.store(done_anyway, Ordering::SeqCst);
            faults.panics.store(panics, Ordering::SeqCst);
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
