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

/// A bind mount.
pub fn bind(source: &Path, target: &str, read_only: bool) -> Mount {
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
async fn a_container_joins_the_processes_of_another_where_each_has_its_own() {
    if !is_root() {
        return;
    }
    let host = Host::new("target").await;
    let mut config = sandbox("s");
    config.pid = PidMode::PerContainer;
    host.runtime.ensure_sandbox(&config).await.unwrap();
    host.runtime.start(&host.shell("s", "web", "echo ready; exec sleep 1236")).await.unwrap();
    host.runtime.start(&host.container("s", "other", &["sleep", "1237"])).await.unwrap();
    host.logged("web", "ready").await;
    let mut debugger = host.shell(
        "s",
        "debugger",
        "tr '\\0' ' ' < /proc/1/cmdline; echo; ps -o args; kill -9 1 || echo alive",
    );
    debugger.target = Some("web".into());
    let seen = host.output(&debugger).await;
    assert!(seen.starts_with("sleep 1236"), "{seen}");
    assert!(seen.contains("ps -o args") && !seen.contains("sleep 1237"), "{seen}");
    // It looks once more, and goes with the one that it looks into.
    let mut second = host.shell("s", "second", "echo $$; exec sleep 1238");
    second.target = Some("web".into());
    host.runtime.start(&second).await.unwrap();
    host.runtime.signal("web", libc::SIGKILL).await.unwrap();
    host.ended("second").await;
    let mut late = host.shell("s", "late", "true");
    late.target = Some("web".into());
    let error = host.runtime.start(&late).await.unwrap_err().to_string();
    assert!(error.contains("web"), "{error}");
    for id in ["web", "other", "debugger", "second"] {
        host.runtime.remove(id).await.unwrap();
    }
    let left = std::fs::read_dir(host.config.run_dir.join("own-proc")).unwrap().count();
    assert_eq!(left, 0, "no procfs is left of those that are gone");
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
    // Raising the hard limit takes a right that not every host of a host gives.
    let hard = rustix::process::getrlimit(rustix::process::Resource::Nofile).maximum.unwrap_or(u64::MAX);
    let open_files = [1 << 20, hard.min(1 << 20)].map(|number| format!("\n{number}\n"));
    assert!(open_files.iter().any(|line| seen.contains(line)), "{open_files:?}: {seen}");

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

    let mut config = host.shell("s", "armored", "true");
    config.security.app_armor = Some("no-such-profile".into());
    let refused = host.runtime.start(&config).await.unwrap_err().to_string();
    assert!(refused.contains("set AppArmor profile \"no-such-profile\""), "{refused}");

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
    // A working directory that is a descriptor of the host: what is there, and above, for a process and an exec.
    let up = "../".repeat(8);
    let look = format!("ls . {up} {up}{}; echo looked", victim.display());
    fs::write(victim.join("marker-of-the-host"), "").unwrap();
    for number in 0..12 {
        let mut config = host.shell("s", &format!("cwd-{number}"), &format!("{look}; exec sleep 1000"));
        config.process.cwd = format!("/proc/self/fd/{number}").into();
        if host.runtime.start(&config).await.is_ok() {
            host.logged(&config.id, "looked").await;
            assert!(
                !host.log(&config.id).contains("marker-of-the-host"),
                "{number}: {}",
                host.log(&config.id)
            );
            assert!(
                exec_output(&host, &config.id, &look).await.iter().all(|line| line != "marker-of-the-host")
            );
        }
    }
    // The same question is answered where the host is in sight.
    let mut config = host.shell("s", "sees", &look);
    config.mounts = vec![bind(&victim, victim.to_str().unwrap(), true)];
    let seen = host.output(&config).await;
    assert!(seen.contains("marker-of-the-host"), "{seen}");
}

/// What a shell command writes that is exec'd in a container; nothing when it cannot be started.
async fn exec_output(host: &Host, container: &str, script: &str) -> Vec<String> {
    use tokio::io::AsyncReadExt;
    let process =
        minik::runtime::ExecProcess { args: ["sh", "-c", script].map(str::to_owned).to_vec(), tty: false };
    let config = minik::runtime::ExecConfig {
        bound: false,
        container: container.into(),
        process,
        stdin: false,
        stdout: true,
        stderr: false,
    };
    let mut text = String::new();
    if let Ok(mut session) = host.runtime.exec(&config).await {
        session.stdout.take().unwrap().read_to_string(&mut text).await.unwrap();
    }
    text.lines().map(str::to_owned).collect()
}

/// A program of the 32-bit convention that says "32".
#[cfg(target_arch = "x86_64")]
fn program_of_32_bits() -> Vec<u8> {
    const BASE: u32 = 0x0804_8000;
    const CODE: u32 = BASE + 52 + 32;
    let code = [
        &[0xb8, 4, 0, 0, 0, 0xbb, 1, 0, 0, 0, 0xb9][..], // eax = write, ebx = 1, ecx =
        &(CODE + 33).to_le_bytes(),
        &[0xba, 3, 0, 0, 0, 0xcd, 0x80],             // edx = 3, call
        &[0xb8, 1, 0, 0, 0, 0x31, 0xdb, 0xcd, 0x80], // eax = exit, ebx = 0, call
        &[0x90, 0x90],
        b"32\n",
    ]
    .concat();
    let length = 52 + 32 + code.len() as u32;
    let mut file = vec![0x7f, b'E', b'L', b'F', 1, 1, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0];
    file.extend([2, 0, 3, 0]); // executable, 386
    [1, CODE, 52, 0, 0].iter().for_each(|word: &u32| file.extend(word.to_le_bytes()));
    file.extend([52, 0, 32, 0, 1, 0, 0, 0, 0, 0, 0, 0]);
    [1, 0, BASE, BASE, length, length, 5, 0x1000]
        .iter()
        .for_each(|word: &u32| file.extend(word.to_le_bytes()));
    file.extend(code);
    file
}

#[cfg(target_arch = "x86_64")]
#[tokio::test(flavor = "multi_thread")]
async fn programs_of_32_bits_run_under_the_default_profile() {
    if !is_root() {
        return;
    }
    use minik::runtime::ContainerState;
    use minik::stdio::Exit;
    use std::os::unix::fs::PermissionsExt;
    let host = Host::new("32bit").await;
    let program = host.root.join("image/bin/small");
    fs::write(&program, program_of_32_bits()).unwrap();
    fs::set_permissions(&program, fs::Permissions::from_mode(0o755)).unwrap();
    if minik::sys::program::run(program.to_str().unwrap(), &[], &[]).is_err() {
        eprintln!("SKIPPED: this kernel runs no 32-bit programs");
        return;
    }
    host.sandbox("s").await;
    assert_eq!(host.output(&host.container("s", "default", &["small"])).await, "32\n");
    for (id, architectures, expected) in [
        ("both", r#""architectures":["SCMP_ARCH_X86_64","SCMP_ARCH_X86"],"#, Exit::Code(0)),
        ("native", "", Exit::Signal(31)),
    ] {
        let profile = host.dir.path().join(id);
        let json = format!(
            r#"{{"defaultAction":"SCMP_ACT_ALLOW",{architectures}"syscalls":[{{"names":["mkdir"],"action":"SCMP_ACT_ERRNO"}}]}}"#
        );
        fs::write(&profile, json).unwrap();
        let mut config = host.container("s", id, &["small"]);
        config.security.seccomp = Seccomp::Profile(profile);
        host.runtime.start(&config).await.unwrap();
        let state = host.ended(id).await;
        assert!(
            matches!(state, ContainerState::Exited { exit: Some(exit), .. } if exit == expected),
            "{state:?}"
        );
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
