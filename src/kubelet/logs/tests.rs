//! Logs as the runtime writes them, read while they are rotated.

use std::fs;
use std::io::Write;
use std::path::Path;
use std::time::Duration;

use tokio::io::{AsyncBufReadExt, AsyncReadExt, BufReader};
use tokio::sync::oneshot;

use super::*;

const TIME: &str = "2026-01-01T00:00:01.000000000Z";

/// A log that rotates every so many lines and keeps every file.
struct Written {
    path: PathBuf,
    file: fs::File,
    lines: u32,
}

impl Written {
    fn new(directory: &Path) -> Written {
        let path = directory.join("0.log");
        let file = fs::File::create(&path).unwrap();
        Written { path, file, lines: 0 }
    }

    fn line(&mut self) {
        writeln!(self.file, "{TIME} stdout F {}", self.lines).unwrap();
        self.lines += 1;
    }

    fn rotate(&mut self) {
        fs::rename(&self.path, format!("{}.20260101-000000.{:09}", self.path.display(), self.lines)).unwrap();
        self.file = fs::File::create(&self.path).unwrap();
    }
}

async fn text(path: &Path, options: &LogOptions) -> String {
    let mut reader = open(path.to_owned(), options, async {}).await.unwrap();
    let mut text = String::new();
    reader.read_to_string(&mut text).await.unwrap();
    text
}

fn numbers(range: std::ops::Range<u32>) -> String {
    range.map(|number| format!("{number}\n")).collect()
}

#[tokio::test]
async fn the_whole_log_and_its_tail_across_files() {
    let dir = tempfile::tempdir().unwrap();
    let mut log = Written::new(dir.path());
    for number in 0..100 {
        if number % 7 == 0 {
            log.rotate();
        }
        log.line();
    }
    assert_eq!(text(&log.path, &LogOptions::default()).await, numbers(0..100));
    for tail in [0, 1, 2, 3, 50, 100, 1000] {
        let options = LogOptions { tail_lines: Some(tail), ..LogOptions::default() };
        assert_eq!(text(&log.path, &options).await, numbers(100 - (tail as u32).min(100)..100), "{tail}");
    }
    let limited = LogOptions { limit_bytes: Some(5), ..LogOptions::default() };
    assert_eq!(text(&log.path, &limited).await, "0\n1\n2");
    let missing = open(dir.path().join("9.log"), &LogOptions::default(), async {}).await;
    assert_eq!(missing.err().unwrap().kind(), io::ErrorKind::NotFound);
}

#[tokio::test]
async fn a_reader_that_does_not_follow_ends_where_the_log_ended() {
    let dir = tempfile::tempdir().unwrap();
    let mut log = Written::new(dir.path());
    (0..10).for_each(|_| log.line());
    let mut reader = open(log.path.clone(), &LogOptions::default(), async {}).await.unwrap();
    log.rotate();
    (0..10).for_each(|_| log.line());
    let mut text = String::new();
    reader.read_to_string(&mut text).await.unwrap();
    assert_eq!(text, numbers(0..10));
}

/// Four readers follow a log while it is rotated every few lines; each gets every line once.
#[tokio::test(flavor = "multi_thread")]
async fn no_line_is_lost_or_doubled_across_rotations_under_load() {
    const LINES: u32 = 20_000;
    let dir = tempfile::tempdir().unwrap();
    let mut log = Written::new(dir.path());
    let options = LogOptions { follow: true, ..LogOptions::default() };
    let mut readers = Vec::new();
    for _ in 0..4 {
        let (end, ended) = oneshot::channel::<()>();
        let mut reader = open(log.path.clone(), &options, async { drop(ended.await) }).await.unwrap();
        let task = tokio::spawn(async move {
            let mut text = String::new();
            reader.read_to_string(&mut text).await.map(|_| text)
        });
        readers.push((end, task));
    }
    let writer = tokio::task::spawn_blocking(move || {
        for number in 0..LINES {
            log.line();
            if number % 97 == 0 {
                log.rotate();
            }
        }
    });
    writer.await.unwrap();
    for (end, task) in readers {
        end.send(()).unwrap();
        let text = tokio::time::timeout(Duration::from_secs(60), task).await.unwrap().unwrap().unwrap();
        assert_eq!(text.lines().count(), LINES as usize);
        assert_eq!(text, numbers(0..LINES));
    }
}

#[tokio::test]
async fn a_follower_gets_each_line_when_it_is_complete() {
    let dir = tempfile::tempdir().unwrap();
    let mut log = Written::new(dir.path());
    log.line();
    let options = LogOptions { follow: true, tail_lines: Some(0), ..LogOptions::default() };
    let reader = open(log.path.clone(), &options, std::future::pending()).await.unwrap();
    let mut lines = BufReader::new(reader).lines();
    write!(log.file, "{TIME} stdout F be").unwrap();
    log.file.flush().unwrap();
    writeln!(log.file, "gun").unwrap();
    assert_eq!(lines.next_line().await.unwrap().unwrap(), "begun");
    log.rotate();
    log.line();
    assert_eq!(lines.next_line().await.unwrap().unwrap(), "1");
}
