//! Whether `barriers/barriers.toml` fits the tree. What it says is shown by
//! `barriers/run`, on demand; this sees on every run that it could be.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use serde::Deserialize;

use crate::harness::attacks;

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Table {
    barrier: Vec<Barrier>,
    harmless: Vec<Harmless>,
}

/// What stands between an attack and its harm.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Barrier {
    name: String,
    edit: Vec<Edit>,
    #[serde(default)]
    attacks: Vec<String>,
    #[serde(default)]
    tests: Vec<String>,
    #[serde(rename = "seconds")]
    _seconds: Option<u32>,
}

/// How it is taken away.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Edit {
    #[serde(rename = "crate")]
    package: Option<String>,
    file: String,
    from: String,
    to: String,
}

/// An attack that has nothing to break through.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Harmless {
    attack: String,
    reason: String,
}

fn table() -> Table {
    toml::from_str(include_str!("barriers/barriers.toml")).unwrap()
}

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap().to_path_buf()
}

/// Every package that is built here, of ours and of others, as cargo tells of them.
fn packages() -> Vec<serde_json::Value> {
    let told = std::process::Command::new(env!("CARGO"))
        // Those of other systems are not here on a machine that has only built.
        .args(["metadata", "--locked", "--format-version", "1", "--all-features", "--filter-platform"])
        .arg(format!("{}-unknown-linux-gnu", std::env::consts::ARCH))
        .current_dir(root())
        .output()
        .unwrap();
    assert!(told.status.success(), "{}", String::from_utf8_lossy(&told.stderr));
    let told: serde_json::Value = serde_json::from_slice(&told.stdout).unwrap();
    told["packages"].as_array().unwrap().clone()
}

/// Where a crate of others lies, by its name and the beginning of its version.
fn directory_of(package: &str, packages: &[serde_json::Value]) -> PathBuf {
    let (name, version) = package.split_once(' ').unwrap();
    let version = format!("{version}.");
    let is_it = |one: &&serde_json::Value| {
        one["name"] == name && one["version"].as_str().is_some_and(|is| is.starts_with(&version))
    };
    let found: Vec<_> = packages.iter().filter(is_it).collect();
    assert_eq!(found.len(), 1, "{package}");
    Path::new(found[0]["manifest_path"].as_str().unwrap()).parent().unwrap().to_path_buf()
}

/// The text of every source below a directory.
fn sources(directory: &Path) -> String {
    let mut text = String::new();
    for entry in std::fs::read_dir(directory).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            text += &sources(&path);
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            text += &std::fs::read_to_string(path).unwrap();
        }
    }
    text
}

#[test]
fn each_edit_finds_its_place_once_and_changes_it() {
    let packages = packages();
    for Barrier { name, edit, .. } in table().barrier {
        assert!(!edit.is_empty(), "{name} takes nothing away");
        for Edit { package, file, from, to } in edit {
            let directory = package.map_or_else(root, |package| directory_of(&package, &packages));
            let text = std::fs::read_to_string(directory.join(&file)).unwrap();
            assert_eq!(text.matches(&from).count(), 1, "{name}: `{from}` in {file}");
            assert_ne!(from, to, "{name}: {file}");
        }
    }
}

#[test]
fn every_attack_has_a_barrier_or_does_no_harm() {
    let Table { barrier, harmless } = table();
    let attacks: BTreeSet<_> = attacks::table().into_iter().map(|attack| attack.name).collect();
    let named: BTreeSet<_> = barrier.iter().flat_map(|barrier| barrier.attacks.clone()).collect();
    let held: BTreeSet<_> = harmless.iter().map(|harmless| harmless.attack.clone()).collect();
    assert_eq!(named.intersection(&held).collect::<Vec<_>>(), Vec::<&String>::new(), "harmless, and let through");
    assert_eq!(&named | &held, attacks);
    assert_eq!(held.len(), harmless.len(), "one is there twice");
    for Harmless { attack, reason } in harmless {
        assert!(reason.len() > 20, "{attack} does no harm, why?");
    }
}

#[test]
fn every_barrier_has_a_name_and_something_that_it_stands_against() {
    let mut names = BTreeSet::new();
    let (tests, host) = (sources(&root().join("tests")), sources(&root().join("host")));
    for Barrier { name, attacks, tests: named, .. } in table().barrier {
        assert!(!attacks.is_empty() || !named.is_empty(), "{name} stands against nothing");
        for test in named {
            let (target, path) = test.split_once(' ').unwrap();
            let known = ["all", "sandbox_tests", "import_child", "host", "core", "workspace", "sandbox", "store"];
            assert!(known.contains(&target), "{name}: {test}");
            let function = format!("fn {}()", path.rsplit("::").next().unwrap());
            let text = if target == "all" { &tests } else { &host };
            assert!(text.contains(&function), "{name}: there is no test {test}");
        }
        assert!(names.insert(name.clone()), "{name} is there twice");
    }
}
