//! The rules of the house that a compiler does not know.

use std::path::{Path, PathBuf};
use std::process::Command;

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap().to_path_buf()
}

fn files(extension: &str) -> Vec<(String, String)> {
    let listed =
        Command::new("git").args(["ls-files", "-co", "--exclude-standard"]).current_dir(root()).output().unwrap();
    let listed = String::from_utf8(listed.stdout).unwrap();
    let wanted = listed.lines().filter(|path| path.ends_with(extension));
    wanted.filter_map(|path| Some((path.to_owned(), std::fs::read_to_string(root().join(path)).ok()?))).collect()
}

fn is_test(path: &str) -> bool {
    path.contains("tests") || path.contains("contract") || path.contains("/hostile/")
}

#[test]
fn files_hold_one_idea_each() {
    for (path, text) in files(".rs") {
        let lines = text.lines().count();
        assert!(lines <= 600, "{path} has {lines} lines; split it by idea");
        let is_guest = path.starts_with("guest-tools/");
        assert!(
            is_guest || text.starts_with("//!") || text.starts_with("#!") || is_test(&path),
            "{path} must say in its first line what it is for"
        );
    }
}

#[test]
fn functions_are_short() {
    for (path, text) in files(".rs").into_iter().filter(|(path, _)| path.starts_with("host/") && !is_test(path)) {
        let mut begun: Option<(usize, usize, &str)> = None;
        for (number, line) in text.lines().enumerate() {
            let indent = line.len() - line.trim_start().len();
            let is_fn = [
                "fn ",
                "pub fn ",
                "async fn ",
                "pub async fn ",
                "pub(super) fn ",
                "pub(crate) fn ",
                "pub(super) async fn ",
            ]
            .iter()
            .any(|start| line.trim_start().starts_with(start));
            if is_fn && line.ends_with('{') {
                begun = Some((number, indent, line));
            }
            if let Some((start, depth, name)) = begun
                && line.trim_end() == format!("{}}}", " ".repeat(depth))
            {
                assert!(number - start <= 75, "{path}:{} has {} lines: {}", start + 1, number - start, name.trim());
                begun = None;
            }
        }
    }
}

#[test]
fn nothing_unfinished_is_shipped() {
    let marks = [concat!("todo", "!("), concat!("unimplemented", "!("), concat!("FIX", "ME"), concat!("#[ign", "ore")];
    for (path, text) in files(".rs") {
        for mark in marks {
            assert!(!text.contains(mark), "{path} has `{mark}`");
        }
    }
}

#[test]
fn core_does_no_io_and_the_arrows_hold() {
    for (path, text) in files(".rs").into_iter().filter(|(path, _)| path.starts_with("host/core/src")) {
        for banned in [
            "std::fs",
            "tokio::fs",
            "std::net",
            "tokio::net",
            "SystemTime",
            "std::time::Instant",
            "std::process",
            "rand::",
            "getrandom",
        ] {
            assert!(!text.contains(banned), "{path} uses {banned}: that is a port's business");
        }
    }
    let manifest = |name: &str| std::fs::read_to_string(root().join("host").join(name).join("Cargo.toml")).unwrap();
    let arrows = [
        ("core", &["bulkhead-store", "bulkhead-sandbox", "bulkhead-workspace", "sqlx", "axum", "wasmtime"][..]),
        ("store", &["bulkhead-sandbox", "bulkhead-workspace", "axum", "wasmtime"]),
        ("workspace", &["bulkhead-store", "bulkhead-sandbox", "axum", "wasmtime", "sqlx"]),
        ("sandbox", &["bulkhead-store", "axum", "sqlx"]),
    ];
    for (package, forbidden) in arrows {
        for name in forbidden {
            assert!(!manifest(package).contains(&format!("\n{name}")), "{package} must not know {name}");
        }
    }
}

#[test]
fn state_is_never_global() {
    for (path, text) in files(".rs").into_iter().filter(|(path, _)| path.starts_with("host/") && !is_test(path)) {
        for line in text.lines().map(str::trim_start) {
            let item =
                line.strip_prefix("pub ").or_else(|| line.split_once(") ").map(|(_, rest)| rest)).unwrap_or(line);
            let global = (line.starts_with("static ") || (line.starts_with("pub") && item.starts_with("static ")))
                && ["OnceLock", "LazyLock", "OnceCell", "Mutex", "RwLock", "Atomic", "static mut "]
                    .iter()
                    .any(|what| line.contains(what));
            assert!(!global && !line.contains("lazy_static!"), "{path} has global state: {line}");
        }
    }
}

#[test]
fn every_limit_is_in_a_reference() {
    let text = std::fs::read_to_string(root().join("docs/CONFIGURATION.md")).unwrap();
    for spec in bulkhead_core::limits::Limits::SPECS {
        assert!(text.contains(&format!("limits.{}", spec.name)), "{} is not in docs/CONFIGURATION.md", spec.name);
    }
}

#[test]
fn the_documents_are_there_and_short() {
    for (name, most) in
        [("README.md", 400), ("docs/ARCHITECTURE.md", 300), ("docs/THREAT-MODEL.md", 400), ("CHANGELOG.md", 400)]
    {
        let lines = std::fs::read_to_string(root().join(name)).unwrap().lines().count();
        assert!((5..=most).contains(&lines), "{name} has {lines} lines");
    }
}
