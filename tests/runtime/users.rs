//! Sandboxes with users of their own.

use std::fs;
use std::os::unix::fs::MetadataExt;

use minik::runtime::{PidMode, Runtime, Users};
use tokio::time::timeout;

use crate::host::{Host, PATIENCE, is_root, sandbox};
use crate::isolation::bind;
use crate::sessions::{exec, read_all};

const OWN: Users = Users { base: 0x7100_0000, count: 1 << 16 };

#[tokio::test(flavor = "multi_thread")]
async fn root_inside_is_nobody_outside() {
    if !is_root() {
        return;
    }
    let host = Host::new("users").await;
    for (id, pid) in [("shared", PidMode::Shared), ("apart", PidMode::PerContainer)] {
        let mut config = sandbox(id);
        (config.users, config.pid) = (Some(OWN), pid);
        host.runtime.ensure_sandbox(&config).await.unwrap();
        let volume = host.dir.path().join(id);
        let inner = host.dir.path().join(format!("{id}-inner"));
        for directory in [&volume, &inner] {
            fs::create_dir(directory).unwrap();
        }
        let script = "echo $(cat /proc/self/uid_map); stat -c '%u %g' / /data /bin/busybox /dev; id -u; \
            touch /data/new && echo made; grep CapEff /proc/self/status; \
            mount -t tmpfs x /tmp 2>/dev/null || echo no mounts; mknod /tmp/x c 1 3 2>/dev/null || echo no devices; \
            echo again > /dev/stdout; stat -c '%u %g' /not /not/there /data/not; touch here && echo mine";
        let mut config = host.shell(id, &format!("{id}-c"), script);
        config.mounts = vec![bind(&volume, "/data", false), bind(&inner, "/data/not/yet", false)];
        config.process.cwd = "/not/there".into();
        config.security.capabilities = ["CAP_CHOWN", "CAP_MKNOD"].map(str::to_owned).into();
        let seen = host.output(&config).await;
        let expected = "0 1895825408 65536\n0 0\n0 0\n0 0\n0 0\n0\nmade\nCapEff:\t0000000008000001\nno mounts\n\
                        no devices\nagain\n0 0\n0 0\n0 0\nmine\n";
        assert_eq!(seen, expected, "{id}");
        let owner = |path: &std::path::Path| fs::metadata(path).unwrap().uid();
        for path in ["new", "not/yet"] {
            assert_eq!(owner(&volume.join(path)), 0, "volumes are as they would be for anybody: {path}");
        }

        let running = host.container(id, &format!("{id}-r"), &["sleep", "1000"]);
        host.runtime.start(&running).await.unwrap();
        for tty in [false, true] {
            let script = "id -u; cut -c1-21 /proc/self/uid_map; touch /tmp/file; stat -c %u /tmp/file; echo k > /dev/null";
            let session = host.runtime.exec(&exec(&running.id, &["sh", "-c", script], tty)).await.unwrap();
            drop(session.stdin);
            let seen = read_all(session.stdout).await.replace('\r', "");
            timeout(PATIENCE, session.exit).await.unwrap().unwrap();
            assert_eq!(seen.split_whitespace().collect::<Vec<_>>(), ["0", "0", "1895825408", "0"], "{seen}");
        }
        let minik::runtime::ContainerState::Running { pid, .. } =
            host.status(&running.id).await.unwrap().state
        else {
            panic!("it has ended");
        };
        assert_eq!(fs::metadata(format!("/proc/{pid}")).unwrap().uid(), OWN.base);
    }
}
