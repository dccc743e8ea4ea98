//! The structure of the crate, checked: who may import whom, and a few rules that hold for every file.
#![allow(clippy::unwrap_used, clippy::disallowed_methods)]

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

/// Each module with the modules of the crate that it may use: arrows point to lower layers only.
const LAYERS: &[(&str, &[&str])] = &[
    ("sys", &["stdio"]),
    ("stdio", &[]),
    ("clock", &[]),
    ("store", &[]),
    // A request's answer carries entries of the store as they are, so that they are encoded once for everybody.
    ("api", &["stdio", "store"]),
    ("image", &["sys"]),
    ("network", &["sys"]),
    ("runtime", &["clock", "stdio", "sys"]),
    ("apiserver", &["api", "clock", "stdio", "store", "sys"]),
    ("client", &["api", "clock", "store"]),
    ("controllers", &["api", "client", "clock"]),
    ("scheduler", &["api", "client", "clock"]),
    ("kubelet", &["api", "client", "clock", "image", "network", "runtime", "stdio", "sys"]),
    ("proxy", &["api", "client", "network", "sys"]),
    ("dns", &["api", "client"]),
    ("ingress", &["api", "client", "sys"]),
    (
        "daemon",
        &[
            "api",
            "apiserver",
            "client",
            "controllers",
            "dns",
            "image",
            "ingress",
            "kubelet",
            "network",
            "proxy",
            "runtime",
            "scheduler",
            "store",
            "sys",
        ],
    ),
    ("cli", &["api", "daemon", "image", "ingress", "network", "proxy", "runtime", "sys"]),
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
    text.split("#[cfg(test)]\nmod tests {").next().unwrap_or(text)
}

/// The modules of the crate's root that a file uses, by `crate::` or by climbing to the root with `super::`.
fn used_modules(text: &str, depth: usize) -> BTreeSet<String> {
    let mut used = BTreeSet::new();
    let climb = "super::".repeat(depth);
    for root in ["crate::", climb.as_str()] {
        for part in text.split(root).skip(1) {
            // One name, or the first names of a list.
            let names = part.strip_prefix('{').map_or(part, |list| list.split("};").next().unwrap_or(""));
            let is_list = names.len() < part.len();
            for name in names.split(',').take(if is_list { usize::MAX } else { 1 }) {
                let name = name.trim_start().split(|c: char| !c.is_alphanumeric() && c != '_').next();
                used.extend(name.filter(|name| !name.is_empty()).map(str::to_owned));
            }
        }
    }
    used
}

/// Whether a file holds nothing but tests, or what they need.
fn is_for_tests(file: &Path) -> bool {
    let inside = file.strip_prefix(root()).unwrap();
    file.ends_with("testing.rs")
        || file.ends_with("tests.rs")
        || inside.parent().is_some_and(|folder| folder.ends_with("tests"))
}

/// How many names lead from the crate's root to the module in this file.
fn depth_of(file: &Path) -> usize {
    let inside = file.strip_prefix(root().join("src")).unwrap();
    inside.components().count() - usize::from(inside.ends_with("mod.rs"))
}

#[test]
fn imports_point_down_the_layers() {
    let mut wrong = Vec::new();
    for (module, allowed) in LAYERS {
        let folder = root().join("src").join(module);
        let files = if folder.is_dir() { sources(&folder) } else { vec![folder.with_extension("rs")] };
        for file in files.iter().filter(|file| !is_for_tests(file)) {
            let text = fs::read_to_string(file).unwrap();
            for other in used_modules(without_tests(&text), depth_of(file)) {
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
fn the_layer_table_knows_every_module_and_has_no_way_back() {
    let text = fs::read_to_string(root().join("src/lib.rs")).unwrap();
    let modules = text.lines().filter_map(|line| line.strip_prefix("pub mod ")?.strip_suffix(';'));
    let table: BTreeSet<&str> = LAYERS.iter().map(|(name, _)| *name).collect();
    assert_eq!(modules.collect::<BTreeSet<_>>(), table);
    // Modules whose arrows all lead to modules that were taken away before; what a circle holds stays.
    let mut left: Vec<_> = LAYERS.to_vec();
    while let Some(lowest) =
        left.iter().position(|(_, uses)| !uses.iter().any(|used| left.iter().any(|(name, _)| name == used)))
    {
        left.swap_remove(lowest);
    }
    assert!(left.is_empty(), "the layer table has a circle among {left:?}");
}

#[test]
fn imports_are_seen_in_every_form() {
    let text = "use crate::store::Key;\nuse crate::{api, client::Client};\nuse super::super::image::Images;";
    let names = |depth| used_modules(text, depth).into_iter().collect::<Vec<_>>();
    assert_eq!(names(2), ["api", "client", "image", "store"]);
    assert_eq!(names(3), ["api", "client", "store"]);
}

#[test]
fn components_read_the_clock_that_a_simulation_moves() {
    let mut wrong = Vec::new();
    for component in ["apiserver", "client", "controllers", "kubelet", "scheduler"] {
        for file in sources(&root().join("src").join(component)).iter().filter(|file| !is_for_tests(file)) {
            let text = fs::read_to_string(file).unwrap();
            let text = without_tests(&text);
            let imports = text.split("use std::time::").skip(1).map(|rest| rest.split(';').next().unwrap());
            let other = imports.into_iter().any(|names| names.contains("Instant"));
            if other || ["Timestamp::now(", "SystemTime::now("].iter().any(|read| text.contains(read)) {
                wrong.push(file.display().to_string());
            }
        }
    }
    assert!(wrong.is_empty(), "not by clock::now and tokio::time::Instant:\n{}", wrong.join("\n"));
}

#[test]
fn every_file_says_what_it_is_for_and_nothing_is_left_undone() {
    let unfinished = ["todo", "unimplemented", "dbg"].map(|name| format!("{name}!("));
    let mut wrong = Vec::new();
    let folders = ["src", "tests", "benches", "examples"];
    let files = folders.iter().flat_map(|d| sources(&root().join(d))).chain([root().join("build.rs")]);
    for file in files {
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
