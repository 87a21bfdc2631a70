use super::*;
use crate::grants::{Capability, Ceiling, Grants};

fn part(text: &str) -> WorkspacePart {
    text.parse().unwrap_or_else(|why| panic!("{text}: {why}"))
}

#[test]
fn a_part_is_a_directory_and_how_much_of_it() {
    for (text, path, access, again) in [
        ("read", "", WorkspaceAccess::Read, "read"),
        ("read-write:out", "out", WorkspaceAccess::ReadWrite, "read-write:out"),
        ("read:/src//./lib/", "src/lib", WorkspaceAccess::Read, "read:src/lib"),
        ("none:a:b", "a:b", WorkspaceAccess::None, "none:a:b"),
    ] {
        let part = part(text);
        assert_eq!((part.path.as_str(), part.access, part.to_string().as_str()), (path, access, again));
        assert_eq!(part.path.to_path().as_bytes(), path.as_bytes());
    }
    let (long, deep) = (format!("read:{}", "a".repeat(300)), format!("read:{}", "a/".repeat(600)));
    for text in [
        "",
        "write",
        "write:a",
        "read:",
        "read:/",
        "read:.",
        "read:..",
        "read:a/../b",
        "read:a/*",
        "read:a\nb",
        "read:a\0",
        &long,
        &deep,
    ] {
        assert!(text.parse::<WorkspacePart>().is_err(), "{text}");
    }
}

#[test]
fn names_are_compared_whole() {
    let path: SubPath = "a/b".parse().expect("a path");
    for (other, holds) in [("a/b", true), ("a/b/c", true), ("a/bc", false), ("a", false), ("", false), ("b/a/b", false)]
    {
        assert_eq!(path.holds(other), holds, "{other}");
    }
    assert!(SubPath::whole().holds("") && SubPath::whole().holds("x"));
    assert_eq!((path.within("a/b/c/d"), path.within("a/b"), path.within("a")), (Some("c/d"), Some(""), None));
}

#[test]
fn what_two_parts_share_is_in_both() {
    for (one, two, both) in [
        ("read-write", "read:src", Some("read:src")),
        ("read", "read-write:out", Some("read:out")),
        ("read-write:a", "read-write:a/b", Some("read-write:a/b")),
        ("read:a", "read:ab", None),
        ("none", "read:a", None),
    ] {
        let (one, two, both) = (part(one), part(two), both.map(part));
        assert_eq!((one.intersect(&two), two.intersect(&one)), (both.clone(), both));
    }
}

#[test]
fn what_is_contained_is_not_kept_beside_what_contains_it() {
    let mut grants = Grants::default();
    for (text, kept) in [
        ("read:src/lib", "read:src/lib"),
        ("read-write:out", "read-write:out read:src/lib"),
        ("read:src", "read-write:out read:src"),
        ("read:out/x", "read-write:out read:src"),
        ("read", "read-write:out"),
        ("read-write", ""),
    ] {
        assert!(grants.add(&Capability::Workspace(part(text))));
        let parts: Vec<_> = grants.paths.iter().map(ToString::to_string).collect();
        assert_eq!(parts.join(" "), kept, "{text}");
    }
    assert_eq!(grants, Grants::workspace(WorkspaceAccess::ReadWrite));
}

#[test]
fn there_are_few_parts() {
    let many: Vec<_> = (0..=MAX_PARTS).map(|number| Capability::Workspace(part(&format!("read:d{number}")))).collect();
    let error = Ceiling::of(&many).expect_err("too many");
    assert!(error.contains("at most 16 sub-paths"), "{error}");
    let ceiling = Ceiling::of(&many[1..]).expect("as many as may be");
    assert!(ceiling.allows(&many[1]) && !ceiling.allows(&many[0]));
    let mut grants = Grants { paths: ceiling.paths, ..Grants::default() };
    assert!(!grants.add(&many[0]), "one more");
    assert!(grants.add(&WorkspaceAccess::Read.into()), "what holds them all");
    assert!(grants.paths.is_empty());
}

#[test]
fn less_of_any_part_is_less() {
    let grants = |texts: &[&str]| {
        let mut grants = Grants::default();
        texts.iter().for_each(|text| assert!(grants.add(&Capability::Workspace(part(text)))));
        grants
    };
    let mine = grants(&["read", "read-write:out"]);
    for more in [&["read", "read-write:out"][..], &["read-write"], &["read", "read-write:out", "read-write:x"]] {
        assert!(mine.within(&grants(more)), "{more:?}");
    }
    for less in [&["read"][..], &["read-write:out"], &["read", "read-write:out/x"], &[]] {
        assert!(!mine.within(&grants(less)), "{less:?}");
    }
}

#[test]
fn parts_are_written_as_clients_read_them() {
    let capability = Capability::Workspace(part("read-write:out"));
    let json = serde_json::to_string(&capability).expect("JSON");
    assert_eq!(json, r#"{"kind":"workspace","value":"read-write:out"}"#);
    assert_eq!(serde_json::from_str::<Capability>(&json).expect("a capability"), capability);
    let grants = Grants { paths: vec![part("read-write:out")], ..Grants::default() };
    let json = serde_json::to_string(&grants).expect("JSON");
    assert_eq!(json, r#"{"workspace":"none","paths":[{"path":"out","access":"read-write"}]}"#);
    assert_eq!(serde_json::from_str::<Grants>(&json).expect("grants"), grants);
    let out = json.replace("\"out\"", "\"../out\"");
    assert!(serde_json::from_str::<Grants>(&out).is_err());
}
