//! The store on a temporary directory: names, what is kept and what goes, and what a crash leaves.

use super::*;

fn digest(n: u8) -> String {
    format!("sha256:{}", format!("{n:02x}").repeat(32))
}

const CONFIG: &str =
    r#"{"architecture":"amd64","os":"linux","rootfs":{"type":"layers","diff_ids":[]},"author":"#;

/// The id of the image that [`add`] makes.
fn config(n: u8) -> String {
    sha256(format!("{CONFIG}\"{n}\"}}").as_bytes())
}

fn record(store: &Store, n: u8) -> Record {
    store.put_blob(&config(n), format!("{CONFIG}\"{n}\"}}").as_bytes()).unwrap();
    let layer = digest(n + 50);
    fs::create_dir_all(store.layer_path(&layer).unwrap()).unwrap();
    Record {
        config: config(n),
        blobs: vec![],
        layers: vec![layer],
        size: 1,
        digests: vec![digest(n)],
        attributes: None,
        by_tag: false,
        loaded: false,
        access: BTreeMap::new(),
    }
}

fn add(store: &Store, name: &str, n: u8) -> bool {
    let record = record(store, n);
    store.add(Some(&Reference::parse(name).unwrap()), &digest(n), record).unwrap()
}

fn open(dir: &Path) -> Store {
    Store::open(dir, LayersInUse::default()).unwrap()
}

/// A store that is told which layers are in use.
fn open_in_use(dir: &Path) -> (Store, Arc<std::sync::Mutex<Vec<PathBuf>>>) {
    let in_use: Arc<std::sync::Mutex<Vec<PathBuf>>> = Arc::default();
    let asked = in_use.clone();
    let asked = LayersInUse::new(move || Ok(asked.lock().unwrap().clone()));
    (Store::open(dir, asked).unwrap(), in_use)
}

#[test]
fn names_find_images_and_removal_frees_what_nothing_needs() {
    let dir = tempfile::tempdir().unwrap();
    let (store, in_use) = open_in_use(dir.path());
    add(&store, "nginx", 1);
    add(&store, "app:1", 2);
    assert_eq!(store.find("docker.io/library/nginx:latest").unwrap().unwrap().id, config(1));
    assert_eq!(store.find(&config(1)).unwrap().unwrap().id, config(1));
    assert_eq!(store.find(&config(1)[7..19]).unwrap().unwrap().id, config(1));
    assert_eq!(store.find(&format!("nginx@{}", digest(1))).unwrap().unwrap().id, config(1));
    assert!(store.find("nginx:2").unwrap().is_none());
    add(&store, "other:x", 1);
    store.remove("nginx").unwrap();
    assert!(store.find("other:x").unwrap().is_some() && store.find("nginx").unwrap().is_none());
    let layer = store.layer_path(&digest(51)).unwrap();
    // By whichever path the containers know the store.
    in_use.lock().unwrap().push(Path::new("/elsewhere").join(layer.file_name().unwrap()));
    store.remove("other:x").unwrap();
    assert!(layer.is_dir(), "a container stands on it");
    in_use.lock().unwrap().clear();
    store.collect().unwrap();
    assert!(!layer.is_dir() && store.find("app:1").unwrap().is_some());
    assert!(matches!(store.remove("nginx"), Err(Error::NoSuchImage(_))));
}

#[test]
fn nothing_goes_while_somebody_counts_on_it_or_when_nobody_knows() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path());
    let layer = store.layer_path(&digest(99)).unwrap();
    fs::create_dir(&layer).unwrap();
    let held = store.hold().unwrap();
    open(dir.path()).collect().unwrap();
    assert!(layer.is_dir());
    drop(held);
    let unknown = Store::open(dir.path(), LayersInUse::new(|| Err(io::Error::other("lost")))).unwrap();
    assert!(unknown.collect().is_err() && layer.is_dir());
    store.collect().unwrap();
    assert!(!layer.exists());
}

#[test]
fn a_tag_that_moves_takes_the_old_image_with_it_unless_it_is_used_or_pinned() {
    let dir = tempfile::tempdir().unwrap();
    let (store, in_use) = open_in_use(dir.path());
    assert!(!add(&store, "app", 1) && !add(&store, "app", 1));
    assert!(add(&store, "app", 2), "the tag has moved");
    let old = store.layer_path(&digest(51)).unwrap();
    in_use.lock().unwrap().push(old.clone());
    store.collect().unwrap();
    assert!(store.find(&config(1)).unwrap().is_some(), "a pod runs it");
    in_use.lock().unwrap().clear();
    store.collect().unwrap();
    assert!(store.find(&config(1)).unwrap().is_none() && !old.exists());
    // Asked for by its digest, it has no tag to lose; and the tag beside the digest names nothing.
    assert!(!add(&store, &format!("app:3@{}", digest(3)), 3));
    store.collect().unwrap();
    assert!(store.find("app:3").unwrap().is_none());
    assert!(store.find(&format!("app:3@{}", digest(3))).unwrap().unwrap().references.is_empty());
    assert_eq!(store.find("app").unwrap().unwrap().id, config(2));
    store.remove(&format!("app:3@{}", digest(3))).unwrap();
    assert!(store.find(&config(3)).unwrap().is_none());
}

#[test]
fn an_image_that_lost_a_part_is_absent_and_cannot_be_named() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path());
    add(&store, "app", 1);
    add(&store, "whole", 2);
    fs::write(store.blob_path(&config(1)).unwrap(), "torn").unwrap();
    assert!(store.find("app").unwrap().is_none() && store.list().unwrap().len() == 1);
    add(&store, "app", 1);
    assert!(store.find("app").unwrap().is_some(), "the blob was replaced");
    let record = record(&store, 1);
    fs::remove_dir(store.layer_path(&digest(51)).unwrap()).unwrap();
    assert!(store.find("app").unwrap().is_none());
    let error = store.add(None, &digest(1), record).unwrap_err().to_string();
    assert!(error.contains("removed meanwhile"), "{error}");
}

#[test]
fn another_boot_trusts_only_what_the_index_names() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path());
    add(&store, "app", 1);
    let torn = [store.layer_path(&digest(9)).unwrap(), store.blob_path(&digest(9)).unwrap()];
    for path in &torn {
        fs::create_dir(path).unwrap();
    }
    open(dir.path());
    assert!(torn.iter().all(|path| path.exists()), "the same boot");
    fs::write(dir.path().join("boot"), "another").unwrap();
    open(dir.path());
    assert!(!torn.iter().any(|path| path.exists()));
    assert!(store.find("app").unwrap().is_some());
}

#[test]
fn room_is_made_by_what_nobody_uses() {
    const HOUR: std::time::Duration = std::time::Duration::from_secs(3600);
    let dir = tempfile::tempdir().unwrap();
    let (store, in_use) = open_in_use(dir.path());
    let layer = |n: u8| store.layer_path(&digest(n + 50)).unwrap();
    for (name, n, hours) in [("old", 1, 3), ("older", 2, 5), ("used", 3, 9), ("new", 4, 0)] {
        add(&store, name, n);
        fs::write(layer(n).join("file"), vec![1; 100_000]).unwrap();
        let config = File::open(store.blob_path(&config(n)).unwrap()).unwrap();
        config.set_modified(std::time::SystemTime::now() - HOUR * hours).unwrap();
    }
    in_use.lock().unwrap().push(layer(3));
    let held = store.hold().unwrap();
    assert_eq!(store.free(u64::MAX, HOUR).unwrap(), None, "something is being pulled");
    drop(held);
    let names = || ["old", "older", "used", "new"].map(|name| store.find(name).unwrap().is_some());
    assert!(store.free(50_000, HOUR).unwrap() >= Some(100_000));
    assert_eq!((names(), layer(2).exists()), ([true, false, true, true], false), "the oldest is enough");
    in_use.lock().unwrap().clear();
    assert!(store.free(u64::MAX, HOUR).unwrap() >= Some(100_000));
    assert_eq!(names(), [false, false, true, true], "it was used at that time");
    assert_eq!(store.free(u64::MAX, HOUR).unwrap(), Some(0));
}

#[test]
fn what_came_from_an_archive_is_the_users_to_remove() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path());
    for (name, n, loaded) in [("loaded", 1, true), ("pulled", 2, false)] {
        let record = Record { loaded, ..record(&store, n) };
        store.add(Some(&Reference::parse(name).unwrap()), &digest(n), record).unwrap();
    }
    store.free(u64::MAX, std::time::Duration::ZERO).unwrap();
    assert!(store.find("loaded").unwrap().is_some() && store.find("pulled").unwrap().is_none());
    store.remove("loaded").unwrap();
    assert!(store.find("loaded").unwrap().is_none());
}

#[test]
fn a_layer_that_comes_twice_is_mounted_once_on_top() {
    let digits = ["1", "2", "1", "3", "2"].map(str::to_owned);
    assert_eq!(topmost(digits.iter()), ["1", "3", "2"]);
}

#[test]
fn what_a_crash_left_is_swept_and_what_is_in_use_is_not() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path());
    let used = store.scratch().unwrap();
    let turn = store.layer_turn(&digest(1)).unwrap();
    for left in ["left", "left2"] {
        fs::create_dir(dir.path().join("tmp").join(left)).unwrap();
    }
    for lock in ["left.lock", "gone.lock"] {
        fs::write(dir.path().join("tmp").join(lock), "").unwrap();
    }
    open(dir.path());
    assert!(used.path().is_dir());
    // The store's end waits for what is being removed beside it.
    drop((used, turn, store));
    let left: Vec<_> = fs::read_dir(dir.path().join("tmp")).unwrap().map(|e| e.unwrap().path()).collect();
    assert!(left.is_empty(), "{left:?}");
    fs::write(dir.path().join("format"), "99").unwrap();
    let refused = Store::open(dir.path(), LayersInUse::default());
    assert!(refused.err().unwrap().to_string().contains("format 99"));
}
