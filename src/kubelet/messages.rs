//! What containers leave behind: last words and logs.

use std::fs;
use std::io::{self, Read, Seek, SeekFrom};
use std::path::{Path, PathBuf};

use k8s_openapi::api::core::v1::{Container, Pod};

use super::context::Context;
use super::observed::ObservedContainer;
use super::start::container_log_link;
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
    let spec = pod.spec.iter().flat_map(|s| s.containers.iter().chain(s.init_containers.iter().flatten()));
    let policy = spec
        .into_iter()
        .find(|c| c.name == ended.name)
        .and_then(|c: &Container| c.termination_message_policy.clone());
    let failed = !matches!(ended.state, ContainerState::Exited { exit: Some(Exit::Code(0)), .. });
    let log = (failed && policy.as_deref() == Some("FallbackToLogsOnError"))
        .then(|| context.log_file(pod, &ended.name, ended.attempt));
    let read = move || {
        let words = head(&file, MESSAGE_MAX).unwrap_or_default();
        match log {
            Some(log) if words.is_empty() => log_end(&log).unwrap_or_default(),
            _ => words,
        }
    };
    tokio::task::spawn_blocking(read).await.unwrap_or_default()
}

fn head(path: &Path, most: u64) -> io::Result<String> {
    let mut bytes = Vec::new();
    fs::File::open(path)?.take(most).read_to_end(&mut bytes)?;
    Ok(String::from_utf8_lossy(&bytes).into_owned())
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

/// Removes all logs of a pod that is no more.
pub async fn remove_logs<R>(context: &Context<R>, pod: &Pod) {
    let directory = context.log_dir(pod);
    let spec = pod.spec.iter().flat_map(|s| s.containers.iter().chain(s.init_containers.iter().flatten()));
    let links: Vec<PathBuf> = spec.into_iter().map(|c| container_log_link(context, pod, &c.name)).collect();
    let work = move || {
        for link in links {
            let _ = fs::remove_file(link);
        }
        match fs::remove_dir_all(&directory) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
            _ => Ok(()),
        }
    };
    if let Ok(Err(error)) = tokio::task::spawn_blocking(work).await {
        tracing::warn!(%error, "logs not removed");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

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
    fn rotated_parts_go_with_their_log() {
        let dir = tempfile::tempdir().unwrap();
        for name in ["0.log", "0.log.20261123-101010", "1.log"] {
            fs::write(dir.path().join(name), "").unwrap();
        }
        remove_with_rotated(&dir.path().join("0.log")).unwrap();
        assert!(!dir.path().join("0.log.20261123-101010").exists() && dir.path().join("1.log").exists());
    }
}
