//! Whether `hostile/attacks.toml` is true. Tested here, because that crate can
//! have no dev-dependencies.

use std::collections::BTreeSet;
use std::path::Path;

/// Every attack of the table is in its component's source, every component has
/// an attack, and no outcome is misspelt.
#[test]
fn every_attack_is_in_the_table() {
    let hostile = Path::new(env!("CARGO_MANIFEST_DIR")).join("../hostile");
    let read = |path: &str| std::fs::read_to_string(hostile.join(path)).expect(path);
    let manifests = ["Cargo.toml", "../async/hostile/Cargo.toml"];
    let manifests = manifests.map(|path| read(path).parse::<toml::Table>().expect("TOML"));
    let table: toml::Table = read("attacks.toml").parse().expect("TOML");

    let mut names = BTreeSet::new();
    let mut tabled = BTreeSet::new();
    for attack in table["attack"].as_array().expect("attacks") {
        let text = |key: &str| attack[key].as_str().expect("a text");
        assert!(names.insert(text("name")), "{attack} is there twice");
        assert!(["register", "call"].contains(&text("phase")), "{attack}");
        assert!(["refused", "registered", "succeeded", "failed", "timed_out"].contains(&text("state")), "{attack}");
        let component = text("component");
        tabled.insert(component.to_string());
        let source = match component {
            raw if raw.starts_with("raw_") => {
                ["main", "abi", "core", "schemas"].map(|file| read(&format!("../raw/src/{file}.rs"))).concat()
            }
            theme if theme.starts_with("async_") => read(&format!("../async/hostile/attacks/{theme}.rs")),
            liar if liar.starts_with("liar_") => read(&format!("liars/{liar}.rs")),
            theme => read(&format!("attacks/{theme}.rs")),
        };
        if component.starts_with("raw_") {
            assert!(source.contains(&format!("\"{component}\"")) || source.contains("bombs::"), "{component}");
        } else if let Some(arguments) = attack.get("arguments") {
            let arguments = arguments.as_str().expect("a text");
            let arguments: serde_json::Value = serde_json::from_str(arguments).expect("JSON");
            // What follows its name is told by the tests.
            let name = arguments["attack"].as_str().and_then(|attack| attack.split(' ').next()).expect("an attack");
            assert!(source.contains(&format!("\"{name}\" =>")), "{component} has no attack {name}");
        }
    }
    for example in manifests.iter().flat_map(|manifest| manifest["example"].as_array().expect("examples")) {
        let name = example["name"].as_str().expect("a name");
        assert!(tabled.contains(name), "{name} is not in attacks.toml");
    }
    assert_all_attacks_are_tabled(&hostile, &names);
}

/// The arms of each component's match, read off its source.
fn assert_all_attacks_are_tabled(hostile: &Path, names: &BTreeSet<&str>) {
    let folders = ["attacks", "../async/hostile/attacks"];
    for file in folders.iter().flat_map(|folder| std::fs::read_dir(hostile.join(folder)).expect("attacks")) {
        let path = file.expect("an entry").path();
        let component = path.file_stem().expect("a name").to_string_lossy().into_owned();
        let source = std::fs::read_to_string(&path).expect("a source");
        let arms = source
            .lines()
            .filter(|line| line.starts_with("        \""))
            .filter_map(|line| line.trim().split_once("\" =>"));
        for (arm, _) in arms {
            let name = format!("{component}.{}", &arm[1..]);
            assert!(names.contains(name.as_str()), "{name} is not in attacks.toml");
        }
    }
}
