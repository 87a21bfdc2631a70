use std::io::Write;

use bulkhead_files::testing::TempWorkspace;
use bulkhead_tool::serde_json::{Value, from_value};
use bulkhead_tool::{Content, ToolError};

use super::*;

fn run(ws: &Workspace, args: Value) -> Result<String, ToolError> {
    match &archive(ws, &from_value(args).expect("arguments"))?[0] {
        Content::Text(text) => Ok(text.clone()),
        other => panic!("{other:?}"),
    }
}

fn extract(ws: &Workspace, archive: &str) -> Result<String, String> {
    run(ws, json!({ "operation": "extract", "archive": archive, "to": "out" })).map_err(|error| error.code)
}

/// A tar whose headers are written as they are, however wrong.
fn evil_tar(entries: &[(&str, tar::EntryType, &str)]) -> Vec<u8> {
    let mut bytes = Vec::new();
    for (name, kind, text) in entries {
        let mut header = tar::Header::new_gnu();
        header.as_old_mut().name[..name.len()].copy_from_slice(name.as_bytes());
        header.set_entry_type(*kind);
        header.set_mode(0o644);
        let is_file = *kind == Regular;
        if !is_file {
            header.as_old_mut().linkname[..text.len()].copy_from_slice(text.as_bytes());
        }
        header.set_size(if is_file { text.len() as u64 } else { 0 });
        header.set_cksum();
        bytes.extend_from_slice(header.as_bytes());
        if is_file {
            bytes.extend_from_slice(text.as_bytes());
            bytes.resize(bytes.len().next_multiple_of(512), 0);
        }
    }
    bytes.resize(bytes.len() + 1024, 0);
    bytes
}

use tar::EntryType::{Block, Fifo, Link, Regular, Symlink};

#[test]
fn schema_and_arguments_agree() {
    bulkhead_tool::schema::check::<Archive>(json!({ "operation": "list", "archive": "a.tar" }));
}

#[test]
fn every_format_there_and_back() {
    for name in ["x/a.tar", "x/a.tar.gz", "x/a.zip"] {
        let ws = TempWorkspace::with(&[("src/one", "1"), ("src/deep/two", &"2".repeat(100_000)), ("three", "")]);
        std::os::unix::fs::symlink("../one", ws.root().real().join("src/deep/link")).expect("symlink");
        let text =
            run(&ws, json!({ "operation": "create", "archive": name, "paths": ["src", "three"] })).expect("create");
        assert!(text.contains("6 entries, 97.7 KiB unpacked"), "{text}");
        let text = run(&ws, json!({ "operation": "list", "archive": name })).expect("list");
        let listing =
            "src/\nsrc/deep/\nsrc/deep/link -> ../one\nsrc/deep/two  100000\nsrc/one  1\nthree  0\n[6 entries";
        assert!(text.starts_with(listing), "{text}");
        extract(&ws, name).expect("extract");
        assert_eq!((ws.read("out/src/deep/link"), ws.read("out/src/deep/two").len()), ("1".into(), 100_000));
        assert_eq!(extract(&ws, name), Err("already_exists".into()));
        let again = json!({ "operation": "extract", "archive": name, "to": "out", "overwrite": true });
        run(&ws, again).expect("replaced");
        let strip = json!({ "operation": "extract", "archive": name, "to": "flat", "strip_components": 1 });
        run(&ws, strip).expect("stripped");
        assert_eq!(ws.read("flat/one"), "1");
        assert!(!ws.tree().iter().any(|path| path.contains("new-")), "nothing is left over");
    }
}

#[test]
fn the_same_files_give_the_same_archive() {
    let ws = TempWorkspace::with(&[("a/b", "1")]);
    for name in ["x.tar.gz", "y.tar.gz", "x.zip", "y.zip"] {
        run(&ws, json!({ "operation": "create", "archive": name, "paths": ["a"] })).expect("create");
    }
    let bytes = |name: &str| std::fs::read(ws.root().real().join(name)).expect("an archive");
    assert!(bytes("x.tar.gz") == bytes("y.tar.gz") && bytes("x.zip") == bytes("y.zip"));
}

#[test]
fn nothing_gets_out_of_a_tar() {
    let attacks: [&[(&str, tar::EntryType, &str)]; 13] = [
        &[("/abs", Regular, "x")],
        &[("../up", Regular, "x")],
        &[("a/../../up", Regular, "x")],
        &[("a\\..\\up", Regular, "x")],
        &[("link", Symlink, "/etc/passwd")],
        &[("link", Symlink, "../../secret")],
        &[("a/link", Symlink, "../..")],
        &[("a/link", Symlink, "b/../../..")],
        &[("link", Symlink, "."), ("link/file", Regular, "x")],
        &[("hard", Link, "../secret")],
        &[("hard", Link, "before")],
        &[("pipe", Fifo, "")],
        &[("disk", Block, "")],
    ];
    for attack in attacks {
        let ws = TempWorkspace::with(&[]);
        let mut entries = vec![("harmless", Regular, "x")];
        entries.extend(attack);
        ws.write("evil.tar", &evil_tar(&entries));
        assert_eq!(extract(&ws, "evil.tar"), Err("unsafe_archive".into()), "{attack:?}");
        assert_eq!(ws.tree(), ["evil.tar"], "nothing was unpacked");
    }
}

#[test]
fn nothing_gets_out_of_a_zip() {
    for name in ["/abs", "../up", "a/../../up", "..\\up"] {
        let ws = TempWorkspace::with(&[]);
        let mut zip = zip::ZipWriter::new(std::io::Cursor::new(Vec::new()));
        zip.start_file(name, zip::write::SimpleFileOptions::default()).expect("start");
        zip.write_all(b"x").expect("write");
        ws.write("evil.zip", &zip.finish().expect("finish").into_inner());
        assert_eq!(extract(&ws, "evil.zip"), Err("unsafe_archive".into()), "{name}");
        assert_eq!(ws.tree(), ["evil.zip"]);
    }
}

#[test]
fn nothing_goes_through_a_link_that_is_there() {
    let ws = TempWorkspace::with(&[("out/x", "")]);
    std::os::unix::fs::symlink("../..", ws.root().real().join("out/link")).expect("symlink");
    ws.write("evil.tar", &evil_tar(&[("link/stolen", Regular, "x")]));
    assert_eq!(extract(&ws, "evil.tar"), Err("unsafe_archive".into()));
    // A file takes the place of a link, and not of what it leads to.
    std::os::unix::fs::symlink("../../secret", ws.root().real().join("out/file")).expect("symlink");
    ws.write("good.tar", &evil_tar(&[("file", Regular, "x")]));
    run(&ws, json!({ "operation": "extract", "archive": "good.tar", "to": "out", "overwrite": true }))
        .expect("replaced");
    assert_eq!(ws.read("out/file"), "x");
    assert_eq!(ws.read("../secret"), "secret");
}

#[test]
fn hard_links_become_copies() {
    let ws = TempWorkspace::with(&[]);
    ws.write("a.tar", &evil_tar(&[("one", Regular, "1"), ("two", Link, "one")]));
    extract(&ws, "a.tar").expect("extract");
    assert_eq!(ws.read("out/two"), "1");
}

#[test]
fn what_is_no_archive() {
    let ws = TempWorkspace::with(&[
        ("a.tar", "no tar at all, but long enough? ".repeat(40).as_str()),
        ("a.zip", "no zip"),
        ("a.tgz", "no gzip"),
        ("a.xyz", ""),
    ]);
    for name in ["a.tar", "a.zip", "a.tgz"] {
        assert_eq!(extract(&ws, name), Err("invalid_archive".into()), "{name}");
    }
    assert_eq!(extract(&ws, "a.xyz"), Err("invalid_arguments".into()));
    assert_eq!(extract(&ws, "none.zip"), Err("not_found".into()));
    let bomb = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::best());
    let mut bomb = bomb;
    let mut header = tar::Header::new_gnu();
    header.set_path("zeros").expect("a path");
    header.set_size(600 << 20);
    header.set_cksum();
    bomb.write_all(header.as_bytes()).expect("write");
    ws.write("bomb.tgz", &bomb.finish().expect("finish"));
    assert_eq!(extract(&ws, "bomb.tgz"), Err("too_large".into()));
}
