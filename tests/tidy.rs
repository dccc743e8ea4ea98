//! The structure of the crate, checked: who may import whom, and a few rules that hold for every file.
#![allow(clippy::unwrap_used, clippy::disallowed_methods)]

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

/// Each module with the modules of the crate that it may use: arrows point to lower layers only.
const LAYERS: &[(&str, &[&str])] = &[
    ("sys", &["stdio"]),
    ("stdio", &[]),
    ("store", &[]),
    // A request's answer carries entries of the store as they are, so that they are encoded once for everybody.
    ("api", &["stdio", "store"]),
    ("image", &["sys"]),
    ("network", &["sys"]),
    ("runtime", &["stdio", "sys"]),
    ("apiserver", &["api", "stdio", "store"]),
    ("client", &["api", "store"]),
    ("controllers", &["api", "client"]),
    ("scheduler", &["api", "client"]),
    ("kubelet", &["api", "client", "image", "network", "runtime", "stdio", "sys"]),
    ("proxy", &["api", "client", "network", "sys"]),
    ("dns", &["api", "client"]),
    (
        "daemon",
        &[
            "api",
            "apiserver",
            "client",
            "controllers",
            "dns",
            "image",
            "kubelet",
            "network",
            "proxy",
            "runtime",
            "scheduler",
            "store",
            "sys",
        ],
    ),
    ("cli", &["api", "daemon", "image", "kubelet", "network", "proxy", "runtime", "sys"]),
];

fn sources(directory: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in fs::read_dir(directory).unwrap().flatten() {
        let path = entry.path();
        if path.is_dir() {
            found.extend(sources(&path));
        } else if path.extension().is_some_and(|e| e == "rs") {
            found.push(path);
        }
    }
    found.sort();
    found
}

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).to_owned()
}

/// The text without its tests, which may use what they like.
fn without_tests(text: &str) -> &str {
    text.split("#[cfg(test)]\nmod tests").next().unwrap_or(text)
}

#[test]
fn imports_point_down_the_layers() {
    let mut wrong = Vec::new();
    for (module, allowed) in LAYERS {
        let folder = root().join("src").join(module);
        let files = if folder.is_dir() { sources(&folder) } else { vec![folder.with_extension("rs")] };
        for file in files.iter().filter(|f| !f.ends_with("tests.rs") && !f.ends_with("testing.rs")) {
            let text = fs::read_to_string(file).unwrap();
            let mut used = BTreeSet::new();
            for part in without_tests(&text).split("crate::").skip(1) {
                used.insert(
                    part.split(|c: char| !c.is_alphanumeric() && c != '_').next().unwrap_or("").to_owned(),
                );
            }
            for other in used {
                let known = LAYERS.iter().any(|(name, _)| *name == other);
                if known && other != *module && !allowed.contains(&other.as_str()) {
                    wrong.push(format!("{} uses {other}", file.display()));
                }
            }
        }
    }
    assert!(wrong.is_empty(), "arrows that the layer table does not have:\n{}", wrong.join("\n"));
}

#[test]
fn every_file_says_what_it_is_for_and_nothing_is_left_undone() {
    let unfinished = ["todo", "unimplemented", "dbg"].map(|name| format!("{name}!("));
    let mut wrong = Vec::new();
    for file in ["src", "tests", "benches"].iter().flat_map(|d| sources(&root().join(d))) {
        let text = fs::read_to_string(&file).unwrap();
        if !text.starts_with("//!") {
            wrong.push(format!("{} does not begin with //!", file.display()));
        }
        if text.contains("#[ignore") && !file.ends_with("tidy.rs") {
            wrong.push(format!("{} ignores a test", file.display()));
        }
        for mark in &unfinished {
            if text.contains(mark.as_str()) {
                wrong.push(format!("{} has {mark}", file.display()));
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn unsafe_code_is_in_sys_alone() {
    for file in sources(&root().join("src")) {
        let text = fs::read_to_string(&file).unwrap();
        let inside = file.starts_with(root().join("src/sys"));
        assert!(inside || !text.contains("unsafe {"), "{} has unsafe code", file.display());
        assert!(
            !text.contains("allow(unsafe_code") || file.ends_with("sys/mod.rs"),
            "{} allows unsafe code",
            file.display()
        );
    }
}
