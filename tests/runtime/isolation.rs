//! What a container sees, what it may do, and what a hostile image gets.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};

use minik::runtime::{Mount, MountSource, NetworkMode, PidMode, Propagation, Runtime, Seccomp};
use minik::sys::{namespace, process};

use crate::host::{Host, is_root, sandbox};

/// A network namespace bound to a file, with loopback up and no way out.
pub struct NetworkNamespace(PathBuf);

impl NetworkNamespace {
    pub fn new(name: &str) -> NetworkNamespace {
        let path = PathBuf::from(format!("/run/minik-test-netns-{name}-{}", std::process::id()));
        fs::write(&path, "").unwrap();
        let bound = NetworkNamespace(path);
        std::thread::scope(|scope| {
            scope.spawn(|| {
                namespace::unshare(nix::sched::CloneFlags::CLONE_NEWNET).unwrap();
                minik::sys::program::run("ip", &["link", "set", "lo", "up"], &[]).unwrap();
                let flags = nix::mount::MsFlags::MS_BIND;
                nix::mount::mount(
                    Some("/proc/thread-self/ns/net"),
                    &bound.0,
                    None::<&str>,
                    flags,
                    None::<&str>,
                )
                .unwrap();
            });
        });
        bound
    }

    pub fn mode(&self) -> NetworkMode {
        NetworkMode::Namespace(self.0.clone())
    }
}

impl Drop for NetworkNamespace {
    fn drop(&mut self) {
        let _ = nix::mount::umount2(&self.0, nix::mount::MntFlags::MNT_DETACH);
        let _ = fs::remove_file(&self.0);
    }
}

fn bind(source: &Path, target: &str, read_only: bool) -> Mount {
    let source = MountSource::Bind(source.into());
    Mount { target: target.into(), source, read_only, propagation: Propagation::Private }
}

#[tokio::test(flavor = "multi_thread")]
async fn containers_of_a_sandbox_share_what_they_should() {
    if !is_root() {
        return;
    }
    let host = Host::new("share").await;
    let netns = NetworkNamespace::new("share");
    let mut config = sandbox("s");
    config.network = netns.mode();
    config.sysctls = [
        ("net.core.somaxconn".to_owned(), "333".to_owned()),
        ("kernel.shmmax".to_owned(), "444444".to_owned()),
    ]
    .into();
    host.runtime.ensure_sandbox(&config).await.unwrap();
    host.runtime
        .start(&host.shell("s", "one", "echo shared > /dev/shm/file; echo ready; exec sleep 1234"))
        .await
        .unwrap();
    host.logged("one", "ready").await;
    let script = "tr '\\0' ' ' < /proc/1/cmdline; ps -o pid,args; cat /dev/shm/file; hostname; cat /proc/sys/net/core/somaxconn /proc/sys/kernel/shmmax; ls /sys/class/net";
    let seen = host.output(&host.shell("s", "two", script)).await;
    for expected in ["sleep 1234", "shared", "testhost", "333", "444444", "lo"] {
        assert!(seen.contains(expected), "no {expected}: {seen}");
    }
    assert!(!seen.contains("eth0"), "{seen}");
    assert!(seen.starts_with("minik-init") && !seen.contains("supervise"), "{seen}");

    config.id = "own".into();
    config.pid = PidMode::PerContainer;
    host.runtime.ensure_sandbox(&config).await.unwrap();
    host.runtime.start(&host.container("own", "three", &["sleep", "1235"])).await.unwrap();
    let seen = host.output(&host.shell("own", "four", "echo $$; ps -o args")).await;
    assert!(seen.starts_with("1\n") && !seen.contains("sleep 1235"), "{seen}");
    let bad = minik::runtime::SandboxConfig {
        id: "bad".into(),
        sysctls: [("vm.swappiness".into(), "1".into())].into(),
        ..config
    };
    assert!(host.runtime.ensure_sandbox(&bad).await.unwrap_err().to_string().contains("vm.swappiness"));
    assert_eq!(host.runtime.observe().await.unwrap().sandboxes.len(), 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_process_has_no_more_rights_than_given() {
    if !is_root() {
        return;
    }
    let host = Host::new("rights").await;
    host.sandbox("s").await;
    let seen = host
        .output(&host.shell(
            "s",
            "root",
            "cat /proc/self/status; ulimit -n; umask; cat /proc/self/oom_score_adj",
        ))
        .await;
    for expected in [
        "CapInh:\t0000000000000000",
        "CapPrm:\t00000000a80425fb",
        "CapEff:\t00000000a80425fb",
        "CapBnd:\t00000000a80425fb",
        "CapAmb:\t0000000000000000",
        "Seccomp:\t2",
        "NoNewPrivs:\t0",
        "\n0022\n",
    ] {
        assert!(seen.contains(expected), "no {expected}: {seen}");
    }

    let mut config = host.shell(
        "s",
        "user",
        "id; cat /proc/self/status; echo $HOME; pwd; echo x > /dev/stderr; cat /proc/self/oom_score_adj",
    );
    config.process.uid = 33;
    config.process.gid = 44;
    config.process.groups = vec![55, 66];
    config.process.cwd = "/made/for/it".into();
    config.security.no_new_privileges = true;
    config.security.oom_score_adj = 500;
    let seen = host.output(&config).await;
    for expected in [
        "uid=33(web) gid=44 groups=44,55,66",
        "CapEff:\t0000000000000000",
        "CapPrm:\t0000000000000000",
        "NoNewPrivs:\t1",
        "Seccomp:\t2",
        "/var/www\n/made/for/it\n",
        "\nx\n",
        "\n500\n",
    ] {
        assert!(seen.contains(expected), "no {expected}: {seen}");
    }

    let mut config = host.shell("s", "privileged", "cat /proc/self/status; ls /dev/vda /dev/kmsg; echo 1 > /proc/sys/kernel/printk_ratelimit && echo written");
    config.security.privileged = true;
    let seen = host.output(&config).await;
    assert!(seen.contains("Seccomp:\t0") && seen.contains("/dev/kmsg") && seen.contains("written"), "{seen}");
}

#[tokio::test(flavor = "multi_thread")]
async fn dangerous_calls_and_places_are_closed() {
    if !is_root() {
        return;
    }
    let host = Host::new("closed").await;
    host.sandbox("s").await;
    let script = "unshare -m true 2>&1; mount -t tmpfs none /tmp 2>&1; echo x 2>/dev/null > /proc/sys/kernel/hostname || echo sys read-only; \
        echo x 2>/dev/null > /sys/kernel/mm/ksm/run || echo sysfs read-only; wc -c < /proc/timer_list; ls /sys/firmware | wc -l; \
        mknod /tmp/disk b 254 0 && head -c 1 /tmp/disk 2>&1; mknod /dev/disk b 254 0 && head -c 1 /dev/disk 2>&1; \
        touch /sys/fs/cgroup/x 2>/dev/null || echo cgroup read-only; ls /sys/fs/cgroup; echo done";
    let seen = host.output(&host.shell("s", "c", script)).await;
    for expected in [
        "unshare: unshare(0x20000): Operation not permitted",
        "sys read-only",
        "sysfs read-only",
        "cgroup read-only",
        "head: /tmp/disk: Permission denied",
        "head: /dev/disk: Operation not permitted",
        "done",
    ] {
        assert!(seen.contains(expected), "no {expected}: {seen}");
    }
    assert!(seen.contains("sysfs read-only\n0\n0\n"), "masked files are empty: {seen}");

    let profile = host.dir.path().join("profile.json");
    fs::write(&profile, r#"{"defaultAction":"SCMP_ACT_ALLOW","syscalls":[{"names":["mkdir","mkdirat"],"action":"SCMP_ACT_ERRNO","errnoRet":28}]}"#).unwrap();
    let mut config = host.shell("s", "profile", "mkdir /x 2>&1; echo went on");
    config.security.seccomp = Seccomp::Profile(profile);
    let seen = host.output(&config).await;
    assert!(seen.contains("No space left on device") && seen.contains("went on"), "{seen}");
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
            propagation: Propagation::HostToContainer,
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

#[tokio::test(flavor = "multi_thread")]
async fn hostile_images_do_not_get_out() {
    if !is_root() {
        return;
    }
    let host = Host::new("hostile").await;
    host.sandbox("s").await;
    let victim = host.dir.path().join("victim");
    fs::create_dir(&victim).unwrap();
    let source = host.dir.path().join("source");
    fs::create_dir(&source).unwrap();
    let layer = |name: &str, link: &str, target: &Path| {
        let layer = host.dir.path().join(name);
        fs::create_dir_all(layer.join(link).parent().unwrap()).unwrap();
        symlink(target, layer.join(link)).unwrap();
        layer
    };
    for (name, link) in [("dev", "dev"), ("proc", "proc"), ("sys", "sys")] {
        let mut config = host.container("s", "c", &["true"]);
        config.layers.push(layer(name, link, &victim));
        let error = host.runtime.start(&config).await.unwrap_err().to_string();
        assert_eq!(error, format!("refusing image: /{name} is a symbolic link"));
    }
    // A mount point behind a symlink: resolved inside the root, or refused, never on the host.
    for (name, target) in [
        ("absolute", victim.clone()),
        ("up", Path::new("../../../../../../../..").join(victim.strip_prefix("/").unwrap())),
    ] {
        let mut config = host.container("s", name, &["true"]);
        config.layers.push(layer(&format!("link-{name}"), "out", &target));
        config.mounts = vec![bind(&source, "/out/deeper", false)];
        let _ = host.runtime.start(&config).await;
        assert_eq!(fs::read_dir(&victim).unwrap().count(), 0, "{name}");
    }
    // A working directory that is a descriptor of the host.
    for number in 0..12 {
        let mut config = host.shell("s", &format!("cwd-{number}"), "pwd; ls /");
        config.process.cwd = format!("/proc/self/fd/{number}").into();
        if host.runtime.start(&config).await.is_ok() {
            host.ended(&config.id).await;
            assert!(
                host.log(&config.id).contains("busybox") || !host.log(&config.id).contains("home"),
                "{number}"
            );
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_supervisor_cannot_be_reached_from_inside() {
    if !is_root() {
        return;
    }
    let host = Host::new("reach").await;
    let socket = host.config.run_dir.join("supervisor.sock");
    use std::os::unix::fs::PermissionsExt;
    assert_eq!(
        fs::metadata(&socket).unwrap().permissions().mode() & 0o777,
        0o700 & fs::metadata(&socket).unwrap().permissions().mode()
    );
    assert_eq!(fs::metadata(&host.config.run_dir).unwrap().permissions().mode() & 0o777, 0o700);
    let pid = host.supervisor_pid();
    assert!(process::start_time(pid).unwrap() > 0);
    // Its program is on a mount that cannot be written through (CVE-2019-5736).
    let exe = rustix::fs::statvfs(format!("/proc/{pid}/exe")).unwrap();
    assert!(exe.f_flag.contains(rustix::fs::StatVfsMountFlags::RDONLY));
}
