//! Starting, ending, logs, resources, removal.

use std::fs;

use minik::runtime::{Consumer, ContainerState, Error, LogConfig, Resources, Runtime};
use minik::stdio::Exit;

use crate::host::{Host, PATIENCE, is_root, sandbox};

#[tokio::test(flavor = "multi_thread")]
async fn exit_codes_and_signals_are_told_apart() {
    if !is_root() {
        return;
    }
    let host = Host::new("exits").await;
    host.sandbox("s").await;
    for (id, script, expected) in [
        ("zero", "exit 0", Exit::Code(0)),
        ("seven", "exit 7", Exit::Code(7)),
        ("term", "kill -TERM $$", Exit::Signal(15)),
        ("real-time", "kill -40 $$", Exit::Signal(40)),
        ("quick", ":", Exit::Code(0)),
    ] {
        host.runtime.start(&host.shell("s", id, script)).await.unwrap();
        match host.ended(id).await {
            ContainerState::Exited { exit, oom_killed, started, finished } => {
                assert_eq!(exit, Some(expected), "{id}");
                assert!(!oom_killed && started <= finished);
            }
            other => panic!("{other:?}"),
        }
    }
    let status = host.status("seven").await.unwrap();
    assert_eq!((status.sandbox.as_str(), status.labels["name"].as_str()), ("s", "seven"));
}

#[tokio::test(flavor = "multi_thread")]
async fn signals_reach_the_process_and_kill_reaches_everything() {
    if !is_root() {
        return;
    }
    let host = Host::new("signals").await;
    host.sandbox("s").await;
    let script = "trap 'echo got term; exit 3' TERM; sleep 1000 & echo ready; wait";
    host.runtime.start(&host.shell("s", "a", script)).await.unwrap();
    host.logged("a", "ready").await;
    host.runtime.signal("a", 15).await.unwrap();
    assert!(matches!(host.ended("a").await, ContainerState::Exited { exit: Some(Exit::Code(3)), .. }));
    assert!(host.log("a").contains("got term"));
    host.runtime.signal("a", 9).await.unwrap();

    host.runtime
        .start(&host.shell("s", "b", "trap '' TERM; sleep 1000 & echo ready; wait; wait"))
        .await
        .unwrap();
    host.logged("b", "ready").await;
    host.runtime.signal("b", 15).await.unwrap();
    host.runtime.signal("b", 9).await.unwrap();
    assert!(matches!(host.ended("b").await, ContainerState::Exited { exit: Some(Exit::Signal(9)), .. }));
    assert!(matches!(host.runtime.signal("none", 9).await, Err(Error::NoContainer(_))));
}

#[tokio::test(flavor = "multi_thread")]
async fn programs_that_cannot_run_are_named() {
    if !is_root() {
        return;
    }
    let host = Host::new("missing").await;
    host.sandbox("s").await;
    for (program, expected) in [
        ("nope", "exec: \"nope\": executable file not found in $PATH"),
        ("/bin/nope", "exec: \"/bin/nope\": stat /bin/nope: no such file or directory"),
        ("/etc/passwd", "exec: \"/etc/passwd\": permission denied"),
    ] {
        let error = host.runtime.start(&host.container("s", "c", &[program])).await.unwrap_err();
        assert_eq!(error.to_string(), expected);
        assert!(matches!(error, Error::Start(_)));
        assert!(host.status("c").await.is_none(), "a failed start leaves nothing");
    }
    let mut unknown = host.container("none", "c", &["true"]);
    assert!(matches!(host.runtime.start(&unknown).await, Err(Error::NoSandbox(_))));
    unknown.sandbox = "s".into();
    unknown.id = "../x".into();
    assert!(host.runtime.start(&unknown).await.is_err());
    assert!(!host.config.state_dir.join("x").exists());
}

#[tokio::test(flavor = "multi_thread")]
async fn logs_are_complete_and_rotated() {
    if !is_root() {
        return;
    }
    let host = Host::new("logs").await;
    host.sandbox("s").await;
    let mut config = host.shell("s", "l", "seq 1 20000; echo oops >&2; printf unfinished");
    config.log = LogConfig { path: host.log_path("l"), max_bytes: 100_000, max_files: 100 };
    host.runtime.start(&config).await.unwrap();
    host.ended("l").await;
    let mut files: Vec<_> =
        fs::read_dir(host.log_path("l").parent().unwrap()).unwrap().map(|e| e.unwrap().path()).collect();
    files.sort();
    // The current file sorts first, and is the newest.
    files.rotate_left(1);
    assert!(files.len() > 5, "{files:?}");
    let text: String = files.iter().map(|file| fs::read_to_string(file).unwrap()).collect();
    let stdout: Vec<&str> = text.lines().filter(|line| line.contains(" stdout F ")).collect();
    let numbers: Vec<u32> =
        stdout.iter().map(|line| line.rsplit(' ').next().unwrap().parse().unwrap()).collect();
    assert_eq!(numbers, (1..=20000).collect::<Vec<_>>());
    assert!(text.contains(" stderr F oops\n") && text.contains(" stdout P unfinished\n"));
    assert!(files.iter().all(|file| fs::metadata(file).unwrap().len() <= 100_000));
}

#[tokio::test(flavor = "multi_thread")]
async fn out_of_memory_is_told_apart() {
    if !is_root() {
        return;
    }
    let host = Host::new("oom").await;
    host.sandbox("s").await;
    // busybox's tail keeps what it reads in memory.
    let mut config = host.container("s", "hungry", &["sh", "-c", "exec tail -c 200000000 /dev/zero"]);
    config.resources = Resources { memory_limit: Some(20 << 20), ..Resources::default() };
    host.runtime.start(&config).await.unwrap();
    let state = host.ended("hungry").await;
    assert!(
        matches!(state, ContainerState::Exited { exit: Some(Exit::Signal(9)), oom_killed: true, .. }),
        "{state:?}"
    );

    let mut config = host.container("s", "modest", &["sleep", "1000"]);
    config.resources = Resources {
        memory_limit: Some(20 << 20),
        pids_limit: Some(10),
        cpu_quota: Some(50_000),
        cpu_shares: Some(512),
    };
    host.runtime.start(&config).await.unwrap();
    let stats =
        || host.runtime.stats(&Consumer::Container { sandbox: "s".into(), id: "modest".into() }).unwrap();
    // The process that made the container's may still be about to end.
    let alone = async {
        while stats().pids != 1 {
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(PATIENCE, alone).await.unwrap();
    let stats = stats();
    assert!(stats.memory_usage > 0 && stats.cpu_nanos > 0, "{stats:?}");
    host.runtime.signal("modest", 9).await.unwrap();
    let state = host.ended("modest").await;
    assert!(
        matches!(state, ContainerState::Exited { exit: Some(Exit::Signal(9)), oom_killed: false, .. }),
        "{state:?}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn every_verb_is_idempotent_and_removal_leaves_nothing() {
    if !is_root() {
        return;
    }
    let host = Host::new("remove").await;
    let config = sandbox("s");
    host.runtime.ensure_sandbox(&config).await.unwrap();
    host.runtime.ensure_sandbox(&config).await.unwrap();
    let container = host.shell("s", "c", "touch /written; echo ready; sleep 1000");
    host.runtime.start(&container).await.unwrap();
    host.runtime.start(&container).await.unwrap();
    host.logged("c", "ready").await;
    assert!(host.config.state_dir.join("containers/c/upper/written").exists());
    assert!(host.runtime.root_usage("c").is_ok());
    host.runtime.remove("c").await.unwrap();
    host.runtime.remove("c").await.unwrap();
    assert!(!host.config.state_dir.join("containers/c").exists());
    assert!(host.status("c").await.is_none());
    assert!(host.log_path("c").exists(), "the log stays");

    host.runtime.start(&host.container("s", "d", &["sleep", "1000"])).await.unwrap();
    host.runtime.remove_sandbox("s").await.unwrap();
    host.runtime.remove_sandbox("s").await.unwrap();
    assert_eq!(host.runtime.observe().await.unwrap(), Default::default());
    assert!(!mounts().contains(&format!("{}/shm", host.config.run_dir.display())));
    assert!(host.runtime.cgroups().sandbox("s").processes().unwrap().is_empty());
    assert!(host.runtime.cgroups().root().child("pods").children().unwrap().is_empty());

    // The name is free again.
    host.runtime.ensure_sandbox(&config).await.unwrap();
    host.runtime.start(&host.container("s", "c", &["sleep", "1000"])).await.unwrap();
    host.runtime.shutdown().await.unwrap();
    minik::runtime::linux::destroy(host.config.clone()).await.unwrap();
    minik::runtime::linux::destroy(host.config.clone()).await.unwrap();
    assert!(!host.config.run_dir.exists());
    assert!(!mounts().contains(&*host.config.run_dir.to_string_lossy()));
    let root = host.runtime.cgroups().root();
    assert!(root.processes().unwrap().is_empty() && root.children().unwrap().is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn whoever_asks_for_the_end_waits_for_the_same_one() {
    if !is_root() {
        return;
    }
    let host = Host::new("ends").await;
    host.sandbox("s").await;
    host.runtime.start(&host.container("s", "c", &["sleep", "1000"])).await.unwrap();
    fill(&host, "c");
    let other = minik::runtime::linux::LinuxRuntime::connect(host.config.clone()).await.unwrap();
    let (one, two) = tokio::join!(host.runtime.shutdown(), other.shutdown());
    one.unwrap();
    two.unwrap();
    assert!(!host.config.state_dir.join("containers/c").exists());
}

/// Files in a container's writable layer, so that its removal takes a while.
fn fill(host: &Host, id: &str) {
    let upper = host.config.state_dir.join("containers").join(id).join("upper");
    for directory in 0..80 {
        let directory = upper.join(directory.to_string());
        fs::create_dir(&directory).unwrap();
        (0..1000).for_each(|file| drop(fs::File::create(directory.join(file.to_string())).unwrap()));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_sandbox_that_is_being_removed_takes_no_containers() {
    if !is_root() {
        return;
    }
    let host = Host::new("closing").await;
    let mut config = sandbox("s");
    config.pid = minik::runtime::PidMode::PerContainer;
    host.runtime.ensure_sandbox(&config).await.unwrap();
    host.runtime.start(&host.container("s", "big", &["sleep", "1000"])).await.unwrap();
    fill(&host, "big");
    let runtime = host.runtime.clone();
    let removal = tokio::spawn(async move { runtime.remove_sandbox("s").await });
    host.ended("big").await;
    let error = host.runtime.start(&host.container("s", "late", &["true"])).await.unwrap_err();
    assert!(matches!(error, Error::NoSandbox(_)), "{error}");
    assert!(!removal.is_finished(), "the removal was too quick to test anything");
    assert!(host.runtime.ensure_sandbox(&config).await.is_err());
    removal.await.unwrap().unwrap();
    assert_eq!(host.runtime.observe().await.unwrap(), Default::default());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_removal_holds_nothing_of_others() {
    if !is_root() {
        return;
    }
    let host = Host::new("holds").await;
    host.sandbox("s").await;
    host.runtime.start(&host.container("s", "big", &["sleep", "1000"])).await.unwrap();
    let mut config = host.shell("s", "reader", "cat; echo input ended; exec sleep 1000");
    config.stdin = minik::runtime::Stdin::Once;
    host.runtime.start(&config).await.unwrap();
    fill(&host, "big");
    let session = host.runtime.attach("reader", true, true, true).await.unwrap();
    let runtime = host.runtime.clone();
    let removal = tokio::spawn(async move { runtime.remove("big").await });
    host.ended("big").await;
    drop(session);
    host.logged("reader", "input ended").await;
    assert!(!removal.is_finished(), "the end of input waited for another container's removal");
    removal.await.unwrap().unwrap();
}

/// Waits until there are no more descriptors than before: the connection of the last answer is about to be closed.
async fn no_more_than(before: usize, descriptors: impl Fn() -> usize) {
    let until = std::time::Instant::now() + PATIENCE;
    while descriptors() > before {
        assert!(std::time::Instant::now() < until, "{} descriptors, {before} before", descriptors());
        tokio::task::yield_now().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn starts_that_run_out_of_descriptors_leave_nothing() {
    if !is_root() {
        return;
    }
    use rustix::process::{Pid, Resource, Rlimit, getrlimit, prlimit};
    let host = Host::new("scarce").await;
    host.sandbox("s").await;
    let supervisor = host.supervisor_pid();
    let descriptors = || fs::read_dir(format!("/proc/{supervisor}/fd")).unwrap().count();
    let limit = |soft: Option<u64>| {
        let hard = getrlimit(Resource::Nofile).maximum;
        let limit = Rlimit { current: soft.or(hard), maximum: hard };
        prlimit(Pid::from_raw(supervisor), Resource::Nofile, limit).unwrap();
    };
    let before = descriptors();
    let mut failures = 0;
    for spare in 1..14 {
        let config = host.container("s", &format!("c-{spare}"), &["sleep", "1000"]);
        limit(Some((before + spare) as u64));
        // A connection that cannot be accepted is, when there is room again.
        let tried =
            tokio::time::timeout(std::time::Duration::from_secs(1), host.runtime.start(&config)).await;
        limit(None);
        failures += usize::from(!matches!(tried, Ok(Ok(()))));
        let _ = host.runtime.start(&config).await;
        host.runtime.remove(&config.id).await.unwrap();
    }
    assert!(failures > 3, "{failures}");
    assert_eq!(host.runtime.observe().await.unwrap().containers, []);
    assert_eq!(host.runtime.cgroups().sandbox("s").children().unwrap(), ["init"]);
    no_more_than(before, descriptors).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn many_at_once_lose_nothing_and_leak_nothing() {
    if !is_root() {
        return;
    }
    let host = Host::new("many").await;
    host.sandbox("s").await;
    let descriptors = || fs::read_dir(format!("/proc/{}/fd", host.supervisor_pid())).unwrap().count();
    let before = descriptors();
    let ids: Vec<String> = (0..40).map(|number| format!("m-{number}")).collect();
    let configs: Vec<_> = (0..)
        .zip(&ids)
        .map(|(number, id)| host.shell("s", id, &format!("seq 1 2000; echo end >&2; exit {number}")))
        .collect();
    futures::future::try_join_all(configs.iter().map(|config| host.runtime.start(config))).await.unwrap();
    for (number, id) in (0..).zip(&ids) {
        let state = host.ended(id).await;
        assert!(
            matches!(state, ContainerState::Exited { exit: Some(Exit::Code(code)), .. } if code == number),
            "{state:?}"
        );
        let log = host.log(id);
        let lines: Vec<&str> = log.lines().filter(|line| *line != "end").collect();
        assert!(lines.len() == 2000 && lines[1999] == "2000", "{id} has {} lines", lines.len());
    }
    futures::future::try_join_all(ids.iter().map(|id| host.runtime.remove(id))).await.unwrap();
    host.runtime.remove_sandbox("s").await.unwrap();
    assert_eq!(host.runtime.observe().await.unwrap(), Default::default());
    // One that holds nothing has not more than before: a sandbox has gone since.
    no_more_than(before, descriptors).await;
    assert_eq!(fs::read_dir(host.config.state_dir.join("containers")).unwrap().count(), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_idle_supervisor_uses_no_processor_time() {
    if !is_root() {
        return;
    }
    let host = Host::new("idle").await;
    host.sandbox("s").await;
    let mut config = host.shell("s", "c", "exec <&-; exec >&-; exec 2>&-; sleep 1000");
    config.stdin = minik::runtime::Stdin::Open;
    host.runtime.start(&config).await.unwrap();
    let mut config = host.container("s", "t", &["sleep", "1000"]);
    config.process.tty = true;
    config.stdin = minik::runtime::Stdin::Open;
    host.runtime.start(&config).await.unwrap();
    let ticks = || {
        let stat = fs::read_to_string(format!("/proc/{}/stat", host.supervisor_pid())).unwrap();
        let fields: Vec<String> =
            stat.rsplit_once(')').unwrap().1.split_whitespace().map(str::to_owned).collect();
        fields[11].parse::<u64>().unwrap() + fields[12].parse::<u64>().unwrap()
    };
    // What came before may still cost something.
    let mut least = u64::MAX;
    for _ in 0..5 {
        let before = ticks();
        tokio::time::sleep(std::time::Duration::from_millis(500)).await;
        least = least.min(ticks() - before);
    }
    assert!(least <= 2, "busy: {least} ticks in half a second");
}

fn mounts() -> String {
    fs::read_to_string("/proc/self/mountinfo").unwrap()
}
