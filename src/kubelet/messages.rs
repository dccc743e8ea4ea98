//! What containers leave behind: last words and logs.

use std::collections::HashMap;
use std::fs;
use std::io::{self, Read, Seek, SeekFrom};
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};

use k8s_openapi::api::core::v1::Pod;

use super::container::container_id;
use super::context::Context;
use super::observed::ObservedContainer;
use super::pod::container;
use crate::runtime::ContainerState;
use crate::stdio::Exit;

/// The longest termination message, in bytes (Kubernetes' limit).
const MESSAGE_MAX: u64 = 4096;
/// The longest message taken from a log, in bytes and lines (Kubernetes' limits).
const FALLBACK_MAX: u64 = 2048;
const FALLBACK_LINES: usize = 80;

/// The termination message of an ended container; empty when it left none.
pub async fn last_words<R>(context: &Context<R>, pod: &Pod, ended: &ObservedContainer) -> String {
    let dirs = context.dirs(pod.metadata.uid.as_deref().unwrap_or(""));
    let file = dirs.disk.join("containers").join(&ended.name).join(ended.attempt.to_string());
    let policy = container(pod, &ended.name).and_then(|c| c.termination_message_policy.clone());
    let failed = !matches!(ended.state, ContainerState::Exited { exit: Some(Exit::Code(0)), .. });
    let log = (failed && policy.as_deref() == Some("FallbackToLogsOnError"))
        .then(|| context.log_file(pod, &ended.name, ended.attempt));
    let read = move || {
        let words = end_of(&file, MESSAGE_MAX).unwrap_or_default();
        match log {
            Some(log) if words.is_empty() => log_end(&log).unwrap_or_default(),
            _ => words,
        }
    };
    tokio::task::spawn_blocking(read).await.unwrap_or_default()
}

/// The last `most` bytes of a file, from a whole character on.
fn end_of(path: &Path, most: u64) -> io::Result<String> {
    let mut file = fs::File::open(path)?;
    let length = file.metadata()?.len();
    file.seek(SeekFrom::Start(length.saturating_sub(most)))?;
    let mut bytes = Vec::new();
    file.take(most).read_to_end(&mut bytes)?;
    let cut = if length > most { bytes.iter().take_while(|byte| **byte & 0xc0 == 0x80).count() } else { 0 };
    Ok(String::from_utf8_lossy(&bytes[cut..]).into_owned())
}

/// The last lines of a log in CRI form, without times and streams.
fn log_end(path: &Path) -> io::Result<String> {
    let mut file = fs::File::open(path)?;
    let length = file.metadata()?.len();
    // Each line carries some 45 bytes of its own beside what the container wrote.
    file.seek(SeekFrom::Start(length.saturating_sub(FALLBACK_MAX * 4)))?;
    let mut bytes = Vec::new();
    file.read_to_end(&mut bytes)?;
    let text = String::from_utf8_lossy(&bytes);
    let contents: Vec<&str> = text.lines().filter_map(|line| line.splitn(4, ' ').nth(3)).collect();
    let from = contents.len().saturating_sub(FALLBACK_LINES);
    let joined = contents[from..].iter().map(|line| format!("{line}\n")).collect::<String>();
    let mut start = joined.len().saturating_sub(FALLBACK_MAX as usize);
    while !joined.is_char_boundary(start) {
        start += 1;
    }
    Ok(joined[start..].to_owned())
}

/// Removes the log of one attempt with its rotated parts.
pub async fn remove_log<R>(context: &Context<R>, pod: &Pod, container: &str, attempt: u32) {
    let path = context.log_file(pod, container, attempt);
    let removed = tokio::task::spawn_blocking(move || remove_with_rotated(&path)).await;
    if let Ok(Err(error)) = removed {
        tracing::warn!(container, attempt, %error, "log not removed");
    }
}

fn remove_with_rotated(path: &Path) -> io::Result<()> {
    let name = path.file_name().map(|n| n.to_string_lossy().into_owned()).unwrap_or_default();
    for entry in fs::read_dir(path.parent().unwrap_or(Path::new("/")))? {
        let entry = entry?;
        if entry.file_name().to_string_lossy().starts_with(&name) {
            fs::remove_file(entry.path())?;
        }
    }
    Ok(())
}

/// The longest name of a file, in bytes.
const NAME_MAX: usize = 255;

/// The name of a log in `/var/log/containers`, where log shippers look: `POD_NAMESPACE_CONTAINER-ID.log`, cut
/// to what a file name may be.
fn link_name(pod: &Pod, container: &str, id: &str) -> String {
    let part = |text: &Option<String>| text.clone().unwrap_or_default();
    let meta = &pod.metadata;
    let mut name = format!("{}_{}_{container}-{id}", part(&meta.name), part(&meta.namespace));
    name.truncate(name.floor_char_boundary(NAME_MAX - ".log".len()));
    name + ".log"
}

/// Shows the log of an attempt in `/var/log/containers`, in place of the one before it.
pub fn link_log(
    directory: &Path,
    log: &Path,
    pod: &Pod,
    container: &str,
    attempt: u32,
) -> impl FnOnce() + use<> {
    let uid = pod.metadata.uid.clone().unwrap_or_default();
    let (directory, log) = (directory.to_owned(), log.to_owned());
    let name = |attempt| link_name(pod, container, &container_id(&uid, container, attempt));
    let before = attempt.checked_sub(1).map(|before| directory.join(name(before)));
    let link = directory.join(name(attempt));
    // A container must not fail for want of a link that it does not need itself.
    move || {
        for old in before.iter().chain([&link]) {
            let _ = fs::remove_file(old);
        }
        let made = fs::create_dir_all(&directory).and_then(|()| symlink(&log, &link));
        if let Err(error) = made {
            tracing::warn!(link = %link.display(), %error, "log not linked");
        }
    }
}

/// Removes all logs of a pod that is no more.
pub async fn remove_logs<R>(context: &Context<R>, pod: &Pod) {
    let (directory, links) = (context.log_dir(pod), context.config.container_logs.clone());
    let removed = tokio::task::spawn_blocking(move || remove_log_dir(&directory, &links)).await;
    if let Ok(Err(error)) = removed {
        tracing::warn!(%error, "logs not removed");
    }
}

/// The directories of logs by their pods' uids.
pub fn log_dirs(logs: &Path) -> io::Result<HashMap<String, PathBuf>> {
    let of = |entry: io::Result<fs::DirEntry>| {
        let entry = entry?;
        let name = entry.file_name().to_string_lossy().into_owned();
        Ok((name.rsplit('_').next().unwrap_or_default().to_owned(), entry.path()))
    };
    fs::read_dir(logs)?.map(of).collect()
}

/// Removes a directory of logs with the links to them; none there is success.
pub fn remove_log_dir(directory: &Path, links: &Path) -> io::Result<()> {
    for entry in fs::read_dir(links).into_iter().flatten().flatten() {
        if fs::read_link(entry.path()).is_ok_and(|target| target.starts_with(directory)) {
            let _ = fs::remove_file(entry.path());
        }
    }
    match fs::remove_dir_all(directory) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn the_end_of_a_log_is_its_last_lines_bare() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("0.log");
        let lines: String = (0..200).map(|n| format!("2026-11-23T00:00:00.0Z stderr F line {n}\n")).collect();
        fs::write(&path, lines).unwrap();
        let end = log_end(&path).unwrap();
        assert_eq!(end.lines().count(), 80);
        assert!(end.starts_with("line 120\n") && end.ends_with("line 199\n"));
    }

    #[test]
    fn last_words_are_the_last_ones() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("m");
        fs::write(&path, format!("{}the end", "ä".repeat(3000))).unwrap();
        let words = end_of(&path, MESSAGE_MAX).unwrap();
        assert!(
            words.starts_with('ä') && words.ends_with("äthe end") && words.len() <= 4096,
            "{}",
            words.len()
        );
        fs::write(&path, "short").unwrap();
        assert_eq!(end_of(&path, MESSAGE_MAX).unwrap(), "short");
    }

    #[test]
    fn links_have_names_that_a_file_may_have() {
        let long = "p".repeat(253);
        let pod: Pod = serde_json::from_value(json!({"metadata": {"name": long, "namespace": "n"}})).unwrap();
        assert_eq!(link_name(&pod, "c", "0123").len(), 255);
        let pod: Pod = serde_json::from_value(json!({"metadata": {"name": "p", "namespace": "n"}})).unwrap();
        assert_eq!(link_name(&pod, "c", "0123"), "p_n_c-0123.log");
    }

    #[test]
    fn the_link_of_an_attempt_replaces_the_one_before() {
        let dir = tempfile::tempdir().unwrap();
        let pod: Pod =
            serde_json::from_value(json!({"metadata": {"name": "p", "namespace": "n", "uid": "u"}})).unwrap();
        for attempt in [0, 1] {
            link_log(dir.path(), Path::new("/log"), &pod, "c", attempt)();
        }
        let names: Vec<_> = fs::read_dir(dir.path()).unwrap().map(|e| e.unwrap().file_name()).collect();
        assert_eq!(names, [link_name(&pod, "c", &container_id("u", "c", 1)).as_str()]);
        // Where none can be made, nothing else fails.
        link_log(Path::new("/dev/null/x"), Path::new("/log"), &pod, "c", 0)();
    }

    #[test]
    fn logs_and_links_of_one_pod_are_removed_by_its_uid() {
        let dir = tempfile::tempdir().unwrap();
        let (logs, links) = (dir.path().join("pods"), dir.path().join("containers"));
        fs::create_dir(&links).unwrap();
        for uid in ["u1", "u2"] {
            let log = logs.join(format!("d_my_pod_{uid}"));
            fs::create_dir_all(log.join("c")).unwrap();
            symlink(log.join("c/0.log"), links.join(uid)).unwrap();
        }
        remove_log_dir(&log_dirs(&logs).unwrap()["u1"], &links).unwrap();
        assert!(!logs.join("d_my_pod_u1").exists() && logs.join("d_my_pod_u2").exists());
        assert!(fs::read_link(links.join("u1")).is_err() && fs::read_link(links.join("u2")).is_ok());
    }

    #[test]
    fn rotated_parts_go_with_their_log() {
        let dir = tempfile::tempdir().unwrap();
        for name in ["0.log", "0.log.20261123-101010", "1.log"] {
            fs::write(dir.path().join(name), "").unwrap();
        }
        remove_with_rotated(&dir.path().join("0.log")).unwrap();
        assert!(!dir.path().join("0.log.20261123-101010").exists() && dir.path().join("1.log").exists());
    }
}
