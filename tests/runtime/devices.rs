//! Devices of the host in a container.
#![allow(clippy::disallowed_methods)]

use std::process::Command;

use minik::runtime::{Device, Runtime};

use crate::host::{Host, is_root};

/// A block device that holds a file, until it goes.
struct Disk(String);

impl Disk {
    fn of(file: &std::path::Path) -> Disk {
        std::fs::write(file, vec![b'.'; 1 << 20]).unwrap();
        let made = Command::new("losetup").args(["-f", "--show"]).arg(file).output().unwrap();
        assert!(made.status.success(), "{made:?}");
        Disk(String::from_utf8(made.stdout).unwrap().trim().to_owned())
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        drop(Command::new("losetup").args(["-d", &self.0]).status());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_container_has_the_devices_that_it_was_given() {
    if !is_root() {
        return;
    }
    let host = Host::new("devices").await;
    host.sandbox("s").await;
    let disk = Disk::of(&host.dir.path().join("disk"));
    let link = host.dir.path().join("link");
    std::os::unix::fs::symlink(&disk.0, &link).unwrap();
    let device = |target: &str, source: &std::path::Path, read_only| Device {
        target: target.into(),
        source: source.into(),
        read_only,
    };
    // In /dev, in the image, and below a directory that is not there.
    let script = "for at in $DEVICES; do test -b $at && stat -c %a $at; head -c 1 $at || echo unread; echo; \
        (echo w > $at) 2>/dev/null && echo written || echo kept; done; \
        ls -a /dev | grep -c new";
    let number = std::os::unix::fs::MetadataExt::rdev(&std::fs::metadata(&disk.0).unwrap());
    let minor = rustix::fs::minor(number);
    for (id, read_only, privileged, expected) in
        [("both", false, false, "written"), ("reads", true, false, "kept"), ("all", false, true, "written")]
    {
        let mut config = host.shell("s", id, script);
        config.devices = vec![
            device("/dev/xvda", disk.0.as_ref(), read_only),
            device("/disk", &link, read_only),
            device("/deep/down/disk", disk.0.as_ref(), read_only),
        ];
        config.security.privileged = privileged;
        config.process.env = vec!["PATH=/bin".into(), "DEVICES=/dev/xvda /disk /deep/down/disk".into()];
        let seen = host.output(&config).await;
        let lines: Vec<&str> = seen.lines().collect();
        assert_eq!(lines.len(), 3 * 3 + 1, "{id}: {seen}");
        for each in lines[..9].chunks(3) {
            let mode = u32::from_str_radix(each[0], 8).unwrap();
            assert_eq!(mode & 0o222 == 0, read_only, "{id}: {seen}");
            assert!(["w", "."].contains(&each[1]), "{id}: {seen}");
            assert_eq!(each[2], expected, "{id}: {seen}");
        }
        assert_eq!(lines[9], "0", "nothing is left of how they are made");
    }
    // Who was not given it does not have it, by whatever node.
    let mut other = host.shell(
        "s",
        "other",
        &format!("mknod /dev/disk b 7 {minor} && head -c 1 /dev/disk 2>/dev/null || echo refused"),
    );
    other.security.capabilities.push("CAP_MKNOD".into());
    assert_eq!(host.output(&other).await, "refused\n");
    // What is no device is told of.
    let mut wrong = host.shell("s", "wrong", "true");
    wrong.devices = vec![device("/disk", &host.dir.path().join("disk"), false)];
    let error = host.runtime.start(&wrong).await.unwrap_err().to_string();
    assert!(error.contains("not a device"), "{error}");
}
