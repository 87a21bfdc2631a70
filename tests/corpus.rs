//! What `tests/fuzz` fuzzes, on the inputs that it began with and those that it
//! found: `fuzz/corpus/<target>/`. With BULKHEAD_CORPUS=write the inputs that
//! the targets begin with are written there.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use bulkhead_core::fuzzing::Target;

/// What is larger is no input that anybody reads.
const MAX_INPUT: usize = 4 * 1024;

fn targets() -> Vec<Target> {
    let all = [
        &bulkhead_core::fuzzing::TARGETS[..],
        &bulkhead_sandbox::fuzzing::TARGETS,
        &bulkhead_workspace::import::fuzzing::TARGETS,
        &bulkhead::policy::fuzzing::TARGETS,
    ];
    all.concat()
}

fn fuzz() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/fuzz")
}

#[test]
fn nothing_in_the_corpus_breaks_what_must_hold() {
    if std::env::var("BULKHEAD_CORPUS").as_deref() == Ok("write") {
        targets().iter().for_each(write);
    }
    for target in targets() {
        let folder = fuzz().join("corpus").join(target.name);
        for (name, seed) in (target.seeds)() {
            let path = folder.join(name);
            let kept = std::fs::read(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
            assert!(kept == seed, "{} is not what is begun with; see BULKHEAD_CORPUS", path.display());
        }
        let mut inputs: Vec<_> = std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()).collect();
        inputs.sort();
        for path in inputs {
            let input = std::fs::read(&path).unwrap();
            assert!(input.len() <= MAX_INPUT, "{} has {} bytes", path.display(), input.len());
            // The name stands above the panic of an input that breaks something.
            eprintln!("{}", path.display());
            (target.run)(&input);
        }
    }
}

fn write(target: &Target) {
    let folder = fuzz().join("corpus").join(target.name);
    std::fs::create_dir_all(&folder).unwrap();
    for (name, seed) in (target.seeds)() {
        std::fs::write(folder.join(name), seed).unwrap();
    }
}

#[test]
fn every_target_is_fuzzed() {
    let named = |names: &mut dyn Iterator<Item = String>| names.collect::<BTreeSet<_>>();
    let files = |folder: &str| std::fs::read_dir(fuzz().join(folder)).unwrap().map(|entry| entry.unwrap().path());
    let stem = |path: PathBuf| path.file_stem().unwrap().to_str().unwrap().to_owned();
    let all = named(&mut targets().iter().map(|target| target.name.to_owned()));
    assert_eq!(named(&mut files("corpus").map(stem)), all);
    assert_eq!(named(&mut files("targets").map(stem)), all);
    let manifest: toml::Table = std::fs::read_to_string(fuzz().join("Cargo.toml")).unwrap().parse().unwrap();
    let bins = manifest["bin"].as_array().unwrap();
    assert_eq!(named(&mut bins.iter().map(|bin| bin["name"].as_str().unwrap().to_owned())), all);
}
