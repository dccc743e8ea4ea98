//! Mounts of a container: what they show, where they may go, and what they must not uncover.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};

use minik::runtime::{Mount, MountSource, Propagation, Runtime};

use crate::host::{Host, is_root};
use crate::isolation::bind;

#[tokio::test(flavor = "multi_thread")]
async fn layers_of_an_image_are_shown_merged_and_never_written() {
    if !is_root() {
        return;
    }
    let host = Host::new("layers").await;
    host.sandbox("s").await;
    let layers: Vec<PathBuf> = ["low", "high"].map(|name| host.dir.path().join(name)).into();
    for layer in &layers {
        fs::create_dir_all(layer.join("deep")).unwrap();
        let name = layer.file_name().unwrap().to_str().unwrap();
        fs::write(layer.join(name), "").unwrap();
        fs::write(layer.join("deep/file"), format!("{name}\n")).unwrap();
    }
    let shown = |target: &str, layers: &[PathBuf], path: &str| Mount {
        target: target.into(),
        source: MountSource::Layers { layers: layers.to_vec(), path: path.into() },
        read_only: false,
        propagation: Propagation::Private,
    };
    let script = "ls /all; cat /all/deep/file /part/file /file /single/deep/file; ls /nothing | wc -l; \
        for at in /all /part /single /nothing; do echo w 2>/dev/null > $at/new || echo ro; done";
    let mut config = host.shell("s", "c", script);
    config.mounts = vec![
        shown("/all", &layers, ""),
        shown("/part", &layers, "deep"),
        shown("/file", &layers, "deep/file"),
        shown("/single", &layers[..1], ""),
        shown("/nothing", &[], ""),
    ];
    let seen = host.output(&config).await;
    assert_eq!(seen, "deep\nhigh\nlow\nhigh\nhigh\nhigh\nlow\n0\nro\nro\nro\nro\n");
    config.id = "absent".into();
    config.mounts = vec![shown("/part", &layers, "absent")];
    let error = host.runtime.start(&config).await.unwrap_err().to_string();
    assert!(error.contains("\"absent\" of image"), "{error}");
}

#[tokio::test(flavor = "multi_thread")]
async fn mounts_show_what_was_asked_for() {
    if !is_root() {
        return;
    }
    let host = Host::new("mounts").await;
    host.sandbox("s").await;
    let volume = host.dir.path().join("volume");
    fs::create_dir_all(volume.join("sub")).unwrap();
    fs::write(volume.join("sub/file"), "content\n").unwrap();
    let message = host.dir.path().join("message");
    fs::write(&message, "").unwrap();
    let script = "cat /data/sub/file /one /sub/file; echo w > /data/new && echo wrote; echo w 2>/dev/null > /ro/new || echo ro; \
        echo w 2>/dev/null > /root-write || echo root ro; df /mem | tail -n 1; echo bye > /dev/termination-log; stat -c %a /mem";
    let mut config = host.shell("s", "c", script);
    config.read_only_root = true;
    config.mounts = vec![
        bind(&volume, "/ro", true),
        bind(&volume, "/data", false),
        bind(&volume.join("sub/file"), "/one", true),
        Mount {
            target: "/sub".into(),
            source: MountSource::SubPath { base: volume.clone(), path: "sub".into() },
            read_only: true,
            propagation: Propagation::Private,
        },
        Mount {
            target: "/mem".into(),
            source: MountSource::Tmpfs { size: Some(1 << 20), mode: 0o1777 },
            read_only: false,
            propagation: Propagation::Private,
        },
    ];
    config.termination_message = Some((message.clone(), "/dev/termination-log".into()));
    let seen = host.output(&config).await;
    assert!(seen.starts_with("content\ncontent\ncontent\nwrote\nro\nroot ro\n"), "{seen}");
    assert!(seen.contains(" 1024 ") && seen.contains("1777"), "{seen}");
    assert_eq!(fs::read_to_string(message).unwrap(), "bye\n");
    assert_eq!(fs::read_to_string(volume.join("new")).unwrap(), "w\n");

    symlink("/etc", volume.join("escape")).unwrap();
    config.id = "escape".into();
    config.mounts = vec![Mount {
        target: "/x".into(),
        source: MountSource::SubPath { base: volume, path: "escape".into() },
        read_only: true,
        propagation: Propagation::Private,
    }];
    assert!(host.runtime.start(&config).await.is_err());
    let gone = Path::new("/no/such/place");
    config.mounts = vec![bind(gone, "/x", true)];
    let error = host.runtime.start(&config).await.unwrap_err().to_string();
    assert_eq!(error, "mount \"/no/such/place\" on \"/x\": no such file or directory");
}

fn sub_path(base: &Path, path: &str, target: &str) -> Mount {
    let source = MountSource::SubPath { base: base.into(), path: path.into() };
    Mount { target: target.into(), source, read_only: false, propagation: Propagation::Private }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_missing_sub_path_is_made_in_the_volume_and_nowhere_else() {
    if !is_root() {
        return;
    }
    use std::os::unix::fs::PermissionsExt;
    let host = Host::new("subpath").await;
    host.sandbox("s").await;
    let (volume, victim) = (host.dir.path().join("volume"), host.dir.path().join("victim"));
    fs::create_dir_all(victim.join("deep")).unwrap();
    fs::write(victim.join("deep/secret"), "").unwrap();
    fs::create_dir(&volume).unwrap();
    fs::set_permissions(&volume, fs::Permissions::from_mode(0o2777)).unwrap();
    let mut config = host.shell("s", "made", "id -u > /data/file; stat -c %a /data");
    config.process.uid = 33;
    config.mounts = vec![sub_path(&volume, "mysql/data", "/data")];
    assert_eq!(host.output(&config).await, "2777\n");
    assert_eq!(fs::read_to_string(volume.join("mysql/data/file")).unwrap(), "33\n");

    symlink(victim.join("new"), volume.join("dangling")).unwrap();
    for path in ["dangling", "dangling/x", "../victim/new", "mysql/../../victim/new"] {
        config.id = "refused".into();
        config.mounts = vec![sub_path(&volume, path, "/data")];
        assert!(host.runtime.start(&config).await.is_err(), "{path}");
    }
    assert_eq!(fs::read_dir(&victim).unwrap().count(), 1);

    // Somebody swaps a directory for a symlink all the while.
    fs::create_dir(volume.join("swapped")).unwrap();
    symlink(&victim, volume.join("link")).unwrap();
    let stop = std::sync::atomic::AtomicBool::new(false);
    let order = std::sync::atomic::Ordering::SeqCst;
    let runtime = tokio::runtime::Handle::current();
    std::thread::scope(|scope| {
        scope.spawn(|| {
            let directory =
                rustix::fs::open(&volume, rustix::fs::OFlags::PATH, rustix::fs::Mode::empty()).unwrap();
            while !stop.load(order) {
                let exchange = rustix::fs::RenameFlags::EXCHANGE;
                rustix::fs::renameat_with(&directory, "swapped", &directory, "link", exchange).unwrap();
            }
        });
        let attempts = scope.spawn(|| {
            runtime.block_on(async {
                for number in 0..30 {
                    let mut config = host.shell("s", &format!("race-{number}"), "ls /data");
                    config.mounts = vec![sub_path(&volume, &format!("swapped/deep/{number}"), "/data")];
                    if number % 2 == 0 {
                        config.mounts = vec![sub_path(&volume, "swapped/deep", "/data")];
                    }
                    if host.runtime.start(&config).await.is_ok() {
                        host.ended(&config.id).await;
                        assert!(!host.log(&config.id).contains("secret"));
                    }
                }
            });
        });
        let outcome = attempts.join();
        stop.store(true, order);
        outcome.unwrap();
    });
    assert_eq!(fs::read_dir(victim.join("deep")).unwrap().count(), 1, "only the secret");
}

#[tokio::test(flavor = "multi_thread")]
async fn mount_points_behind_dangling_links_are_made_inside() {
    if !is_root() {
        return;
    }
    let host = Host::new("dangling").await;
    host.sandbox("s").await;
    let (image, victim, volume) =
        (host.dir.path().join("links"), host.dir.path().join("victim"), host.dir.path().join("volume"));
    for directory in [&image.join("etc"), &image.join("var"), &victim, &volume] {
        fs::create_dir_all(directory).unwrap();
    }
    fs::write(volume.join("file"), "content\n").unwrap();
    let up = Path::new("../../../../../../../..").join(victim.strip_prefix("/").unwrap());
    for (link, target) in [
        ("etc/resolv.conf", Path::new("../run/systemd/resolve/stub-resolv.conf")),
        ("var/run", Path::new("/run")),
        ("absolute", &victim.join("new")),
        ("up", &up.join("other")),
        ("loop", Path::new("loop")),
        ("processes", Path::new("/proc")),
    ] {
        symlink(target, image.join(link)).unwrap();
    }
    let file = volume.join("file");
    let script = "cat /etc/resolv.conf /run/systemd/resolve/stub-resolv.conf /var/run/secrets/token/file \
        /run/secrets/token/file /absolute/file /up/x/file";
    let mut config = host.shell("s", "links", script);
    config.layers.push(image);
    config.mounts = vec![
        bind(&file, "/etc/resolv.conf", true),
        bind(&volume, "/var/run/secrets/token", true),
        bind(&volume, "/absolute", true),
        bind(&volume, "/up/x", true),
    ];
    config.process.cwd = "/up/y".into();
    assert_eq!(host.output(&config).await, "content\n".repeat(6));
    assert_eq!(fs::read_dir(&victim).unwrap().count(), 0);

    config.id = "refused".into();
    for (source, target, word) in [
        (&volume, "/loop", "symbolic links"),
        (&volume, "/loop/x", "symbolic links"),
        (&file, "/loop", "symbolic links"),
        (&volume, "/etc/passwd", "not a directory"),
        (&volume, "/", "the container's root"),
        (&volume, "/proc", "inside /proc"),
        (&volume, "/proc/sys", "inside /proc"),
        (&volume, "/processes/self/attr", "inside /proc"),
        (&file, "/proc/self/attr/exec", "inside /proc"),
    ] {
        config.mounts = vec![bind(source, target, false)];
        config.process.cwd = PathBuf::new();
        let error = host.runtime.start(&config).await.unwrap_err().to_string();
        assert!(
            error.starts_with(&format!("make mount point {target:?}")) && error.contains(word),
            "{error}"
        );
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn volumes_over_standard_mounts_uncover_nothing() {
    if !is_root() {
        return;
    }
    let host = Host::new("over").await;
    host.sandbox("s").await;
    let empty = host.dir.path().join("empty");
    fs::create_dir(&empty).unwrap();
    let file = host.dir.path().join("file");
    fs::write(&file, "faked\n").unwrap();
    let script = "cat /proc/meminfo; cat /proc/keys /proc/timer_list /proc/kcore 2>&-; ls /sys/firmware 2>&-; \
        (echo x > /proc/sys/vm/swappiness); echo end";
    for (id, dev) in [("host", Path::new("/dev")), ("empty", &empty)] {
        let mut config = host.shell("s", id, script);
        config.mounts = vec![bind(dev, "/dev", false), bind(&file, "/proc/meminfo", true)];
        let seen = host.output(&config).await;
        for expected in ["faked\n", "Read-only file system\n", "end\n"] {
            assert!(seen.contains(expected), "{id}: {seen}");
        }
        assert_eq!(seen.lines().count(), 3, "{id}: {seen}");
    }
}

/// A tmpfs of the test's own, shared with its peers.
struct Shared(PathBuf);

impl Shared {
    fn new(at: PathBuf) -> Shared {
        use minik::sys::mount;
        use std::os::fd::AsFd;
        fs::create_dir_all(&at).unwrap();
        let tree = mount::filesystem("tmpfs", &[], Default::default()).unwrap();
        let place = minik::sys::path::Root::open(&at).unwrap();
        mount::attach(tree.as_fd(), place.as_fd()).unwrap();
        mount::restrict(tree.as_fd(), Default::default(), Some(mount::Spread::Shared), false).unwrap();
        Shared(at)
    }
}

impl Drop for Shared {
    fn drop(&mut self) {
        let _ = minik::sys::mount::detach(&self.0);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn later_mounts_of_the_host_come_in_when_asked_for() {
    if !is_root() {
        return;
    }
    let host = Host::new("spread").await;
    host.sandbox("s").await;
    let shared = Shared::new(host.dir.path().join("shared"));
    let mount = |source: &Path, propagation| Mount { propagation, ..bind(source, "/m", false) };
    fs::create_dir(shared.0.join("late")).unwrap();
    let mut config = host.shell("s", "gets", "echo ready; until test -e /m/late/file; do sleep 0.01; done");
    config.mounts = vec![mount(&shared.0, Propagation::HostToContainer)];
    host.runtime.start(&config).await.unwrap();
    let mut not =
        host.shell("s", "not", "echo ready; until test -e /m/late/go; do sleep 0.01; done; ls /m/late");
    not.mounts = vec![mount(&shared.0, Propagation::Private)];
    host.runtime.start(&not).await.unwrap();
    host.logged("gets", "ready").await;
    host.logged("not", "ready").await;
    let late = Shared::new(shared.0.join("late"));
    fs::write(late.0.join("file"), "").unwrap();
    host.ended("gets").await;
    drop(late);
    fs::write(shared.0.join("late/go"), "").unwrap();
    host.ended("not").await;
    assert_eq!(host.log("not"), "ready\ngo\n");

    // A mount without peers has nothing to give.
    let alone = Shared::new(host.dir.path().join("alone"));
    let at = minik::sys::path::Root::open(&alone.0).unwrap();
    let private = Some(minik::sys::mount::Spread::Private);
    minik::sys::mount::restrict(std::os::fd::AsFd::as_fd(&at), Default::default(), private, false).unwrap();
    let (path, mut config) = (alone.0.display(), host.shell("s", "alone", ":"));
    for (propagation, missing) in [
        (Propagation::HostToContainer, "a shared or slave mount"),
        (Propagation::Bidirectional, "a shared mount"),
    ] {
        config.mounts = vec![mount(&alone.0, propagation)];
        let error = host.runtime.start(&config).await.unwrap_err().to_string();
        assert_eq!(error, format!("path \"{path}\" is mounted on \"{path}\" but it is not {missing}"));
    }
}
