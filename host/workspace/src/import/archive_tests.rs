use std::fs;
use std::io::Write as _;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::{PermissionsExt, symlink};

use ::tar::{Builder, EntryType, Header};
use flate2::Compression;
use flate2::write::GzEncoder;

use super::*;
use crate::testing::Tree;

const LIMITS: ImportLimits = ImportLimits { max_bytes: 1 << 20, max_entries: 1000, max_depth: 32 };

/// An archive of entries that no well-behaved writer would make.
struct Made(Vec<u8>);

impl Made {
    fn new() -> Self {
        Self(Vec::new())
    }

    fn raw(mut self, kind: EntryType, name: &[u8], link: &[u8], size: u64, content: &[u8]) -> Self {
        let mut header = Header::new_gnu();
        let gnu = header.as_gnu_mut().expect("is gnu");
        gnu.name[..name.len()].copy_from_slice(name);
        gnu.linkname[..link.len()].copy_from_slice(link);
        header.set_entry_type(kind);
        header.set_mode(0o4755);
        header.set_size(size);
        header.set_cksum();
        self.0.extend_from_slice(header.as_bytes());
        self.0.extend_from_slice(content);
        self.0.resize(self.0.len().next_multiple_of(512), 0);
        self
    }

    fn file(self, name: &str, content: &[u8]) -> Self {
        self.raw(EntryType::Regular, name.as_bytes(), b"", content.len() as u64, content)
    }

    fn link(self, kind: EntryType, name: &str, target: &str) -> Self {
        self.raw(kind, name.as_bytes(), target.as_bytes(), 0, b"")
    }

    fn end(mut self) -> Vec<u8> {
        self.0.extend_from_slice(&[0; 1024]);
        self.0
    }
}

fn gzip(bytes: &[u8]) -> Vec<u8> {
    let mut encoder = GzEncoder::new(Vec::new(), Compression::fast());
    encoder.write_all(bytes).expect("compresses");
    encoder.finish().expect("compresses")
}

fn unpack(archive: &[u8], tree: &Tree) -> Result<Imported, ImportError> {
    extract_archive(archive, tree.fd(), LIMITS)
}

fn code(result: Result<Imported, ImportError>) -> &'static str {
    match result {
        Err(ImportError::Refused { code, .. }) => code,
        other => panic!("{other:?}"),
    }
}

#[test]
fn plain_and_compressed() {
    let mut builder = Builder::new(Vec::new());
    let long = format!("d/{}/{}", "n".repeat(150), "m".repeat(200));
    for (name, mode) in [("d/run", 0o755), ("d/data", 0o4600), (long.as_str(), 0o644)] {
        let mut header = Header::new_gnu();
        header.set_size(3);
        header.set_mode(mode);
        builder.append_data(&mut header, name, &b"abc"[..]).expect("appends");
    }
    let mut header = Header::new_gnu();
    header.set_entry_type(EntryType::Symlink);
    header.set_size(0);
    builder.append_link(&mut header, "l", "d/data").expect("appends");
    let archive = builder.into_inner().expect("ends");
    for archive in [archive.clone(), gzip(&archive), [gzip(&archive[..700]), gzip(&archive[700..])].concat()] {
        let tree = Tree::new();
        let done = unpack(&archive, &tree).expect("unpacks");
        assert_eq!(done, Imported { files: 3, directories: 2, symlinks: 1, skipped: 0, bytes: 9 });
        let mode = |name| fs::metadata(tree.path(name)).expect("is there").permissions().mode() & 0o7777;
        assert_eq!((mode("d/run"), mode("d/data")), (0o755, 0o644));
        assert_eq!(fs::read(tree.path(&long)).expect("reads"), b"abc");
    }
}

#[test]
fn nothing_leads_out() {
    let outside = Tree::new();
    let out = outside.path("").to_string_lossy().into_owned();
    let archive = Made::new()
        .file("../up", b"x")
        .file("a/../../up", b"x")
        .file("/abs", b"x")
        .link(EntryType::Symlink, "abs", &out)
        .link(EntryType::Symlink, "up", "../..")
        .link(EntryType::Symlink, "dir", "real")
        .raw(EntryType::Directory, b"real", b"", 0, b"")
        .file("dir/through-a-link", b"x")
        .file("abs/through", b"x")
        .link(EntryType::Link, "hard", "/etc/passwd")
        .link(EntryType::Link, "hard2", "../../../etc/passwd")
        .link(EntryType::Link, "hard3", "dir/none")
        .raw(EntryType::Regular, b"nul\0inside", b"", 1, b"x")
        .end();
    let tree = Tree::new();
    let done = unpack(&archive, &tree).expect("unpacks");
    // `nul` ends at the NUL, as all readers of tar have it; `abs/through` makes
    // a directory, because the link of that name was left out.
    assert_eq!(tree.listing(), ["abs/", "abs/through", "dir@", "nul", "real/"]);
    assert_eq!(done, Imported { files: 2, directories: 2, symlinks: 1, skipped: 9, bytes: 2 });
    assert_eq!(outside.listing(), Vec::<String>::new());
}

#[test]
fn links_of_links_stay_inside() {
    // Each target alone looks harmless; together they would lead out.
    let archive = Made::new()
        .link(EntryType::Symlink, "a/b/l", "../..")
        .link(EntryType::Symlink, "m", "a/b/l/..")
        .link(EntryType::Symlink, "n", "a/b/l")
        .file("m/x", b"x")
        .file("n/x", b"x")
        .end();
    let tree = Tree::new();
    let done = unpack(&archive, &tree).expect("unpacks");
    assert_eq!((done.symlinks, done.skipped), (2, 2));
    assert_eq!(tree.listing(), ["a/", "a/b/", "a/b/l@", "m/", "m/x", "n@"]);
}

#[test]
fn what_is_there_is_replaced_and_never_followed() {
    let (tree, outside) = (Tree::new(), Tree::new());
    fs::write(outside.path("kept"), "kept").expect("writes");
    symlink(outside.path("kept"), tree.path("l")).expect("links");
    fs::hard_link(outside.path("kept"), tree.path("h")).expect("links");
    fs::create_dir(tree.path("d")).expect("makes");
    let archive = Made::new().file("l", b"1").file("h", b"2").file("d", b"3").file("l", b"44").end();
    let done = unpack(&archive, &tree).expect("unpacks");
    assert_eq!(done.skipped, 1, "a directory is not replaced");
    assert_eq!(fs::read(tree.path("l")).expect("reads"), b"44");
    assert_eq!(fs::read(outside.path("kept")).expect("reads"), b"kept");
}

#[test]
fn an_entry_that_comes_again_counts_once() {
    let archive =
        Made::new().file("f", b"1").link(EntryType::Symlink, "l", "f").file("l", b"22").file("f", b"333").end();
    let tree = Tree::new();
    let done = unpack(&archive, &tree).expect("unpacks");
    assert_eq!(done, Imported { files: 2, directories: 0, symlinks: 0, skipped: 0, bytes: 5 });
    assert_eq!(fs::read(tree.path("f")).expect("reads"), b"333");
}

#[test]
fn hard_links_become_copies_and_special_files_are_left_out() {
    let archive = Made::new()
        .file("f", b"content")
        .link(EntryType::Link, "d/copy", "./f")
        .link(EntryType::Link, "f", "f")
        .link(EntryType::Fifo, "pipe", "")
        .link(EntryType::Char, "null", "")
        .link(EntryType::Block, "disk", "")
        .raw(EntryType::new(b'Z'), b"unknown", b"", 3, b"abc")
        .file("last", b"x")
        .end();
    let tree = Tree::new();
    let done = unpack(&archive, &tree).expect("unpacks");
    assert_eq!(tree.listing(), ["d/", "d/copy", "f", "last"]);
    assert_eq!(done, Imported { files: 3, directories: 1, symlinks: 0, skipped: 5, bytes: 15 });
    fs::write(tree.path("f"), "changed").expect("writes");
    assert_eq!(fs::read(tree.path("d/copy")).expect("reads"), b"content");
}

#[test]
fn sparse_files_are_passed_over() {
    let mut sparse = Made::new().raw(EntryType::GNUSparse, b"sparse", b"", 512, b"");
    // Its map goes on in a block of its own, before the content.
    sparse.0[482] = 1;
    let mut header = Header::new_gnu();
    header.as_mut_bytes().copy_from_slice(&sparse.0[..512]);
    header.set_cksum();
    sparse.0[..512].copy_from_slice(header.as_bytes());
    sparse.0.extend_from_slice(&[7; 504]);
    sparse.0.extend_from_slice(&[0; 8]);
    sparse.0.extend_from_slice(&[9; 512]);
    let pax = b"22 GNU.sparse.major=1\n";
    let archive = sparse.raw(EntryType::XHeader, b"x", b"", 22, pax).file("new-sparse", b"x").file("f", b"x").end();
    let tree = Tree::new();
    let done = unpack(&archive, &tree).expect("unpacks");
    assert_eq!(tree.listing(), ["f"]);
    assert_eq!(done.skipped, 2);
}

#[test]
fn long_names_are_taken_and_endless_ones_are_not() {
    let deep = "d/".repeat(40);
    let nul = b"17 path=a\0b/c/d\n\n";
    let archive = Made::new()
        .raw(EntryType::XHeader, b"x", b"", 29, b"14 path=p/\xff/q\n15 ignored=abc\n")
        .file("short", b"x")
        .raw(EntryType::XHeader, b"x", b"", nul.len() as u64, nul)
        .file("nul", b"x")
        .raw(EntryType::GNULongName, b"x", b"", 70_000, &vec![b'a'; 70_000])
        .file("too-long", b"x")
        .file(&format!("{deep}f"), b"x")
        .file("f", b"x")
        .end();
    let tree = Tree::new();
    let done = unpack(&archive, &tree).expect("unpacks");
    assert_eq!((done.files, done.skipped), (2, 3));
    let root: OwnedFd = fs::File::open(tree.path("")).expect("opens").into();
    assert!(crate::beneath::open_file(root.as_fd(), b"p/\xff/q").is_ok());
    let endless = Made::new().raw(EntryType::GNULongName, b"x", b"", 8 << 30, b"").end();
    assert_eq!(code(unpack(&endless, &tree)), "not_an_archive");
    let bad = Made::new().raw(EntryType::XHeader, b"x", b"", 9, b"99 path=a").file("f", b"").end();
    assert_eq!(code(unpack(&bad, &tree)), "not_an_archive");
}

#[test]
fn limits() {
    let tree = Tree::new();
    let large = Made::new().file("a", &vec![1; 700_000]).file("b", &vec![1; 700_000]).end();
    assert_eq!(code(unpack(&large, &tree)), "limit_bytes");
    let claims = Made::new().raw(EntryType::Regular, b"f", b"", u64::MAX >> 1, b"").end();
    assert_eq!(code(unpack(&claims, &tree)), "limit_bytes");
    let mut copies = Made::new().file("a", &vec![1; 400_000]);
    for n in 0..3 {
        copies = copies.link(EntryType::Link, &format!("c{n}"), "a");
    }
    assert_eq!(code(unpack(&copies.end(), &tree)), "limit_bytes");

    let flood = (0..1001).fold(Made::new(), |made, n| made.file(&format!("f{n}"), b"")).end();
    assert_eq!(code(unpack(&flood, &tree)), "limit_entries");
    let deep = (0..100).fold(Made::new(), |made, n| made.file(&format!("{n}/{}f", "d/".repeat(20)), b"")).end();
    assert_eq!(code(unpack(&deep, &tree)), "limit_entries");
    let headers = (0..5000).fold(Made::new(), |made, _| made.raw(EntryType::XHeader, b"x", b"", 0, b"")).end();
    assert_eq!(code(unpack(&headers, &tree)), "limit_entries");
    let skipped = (0..1001).fold(Made::new(), |made, _| made.file("../f", b"")).end();
    assert_eq!(code(unpack(&skipped, &tree)), "limit_entries");
}

#[test]
fn bombs() {
    let tree = Tree::new();
    // A gigabyte that is left out costs no disk, but time: the limit stops it.
    let bomb = Made::new().raw(EntryType::Char, b"c", b"", 0, b"").raw(EntryType::new(b'Z'), b"z", b"", 1 << 30, b"").0;
    let mut encoder = GzEncoder::new(Vec::new(), Compression::fast());
    encoder.write_all(&bomb).expect("compresses");
    for _ in 0..64 {
        encoder.write_all(&vec![0; 1 << 20]).expect("compresses");
    }
    assert_eq!(code(unpack(&encoder.finish().expect("compresses"), &tree)), "limit_bytes");
    // Members that hold nothing.
    let empty = gzip(b"");
    let stream = io::repeat(0).take(0);
    let endless = Endless { member: empty, at: 0 }.chain(stream);
    assert_eq!(code(extract_archive(endless, tree.fd(), LIMITS)), "limit_bytes");
    assert_eq!(tree.listing(), Vec::<String>::new());
}

/// The same bytes for ever.
struct Endless {
    member: Vec<u8>,
    at: usize,
}

impl Read for Endless {
    fn read(&mut self, to: &mut [u8]) -> io::Result<usize> {
        for byte in to.iter_mut() {
            *byte = self.member[self.at % self.member.len()];
            self.at += 1;
        }
        Ok(to.len())
    }
}

#[test]
fn what_is_no_archive() {
    let tree = Tree::new();
    let whole = Made::new().file("f", &[1; 2000]).end();
    for (cut, bytes) in [("middle of a file", &whole[..1000]), ("middle of a header", &whole[..300])] {
        assert_eq!(code(unpack(bytes, &tree)), "not_an_archive", "{cut}");
        assert_eq!(code(unpack(&gzip(bytes), &tree)), "not_an_archive", "{cut}");
    }
    let zipped = gzip(&whole);
    assert_eq!(code(unpack(&zipped[..zipped.len() - 4], &tree)), "not_an_archive", "no checksum");
    let mut damaged = zipped.clone();
    let last = damaged.len() - 6;
    damaged[last] ^= 1;
    assert_eq!(code(unpack(&damaged, &tree)), "not_an_archive", "wrong checksum");
    for bytes in [&b""[..], b"x", b"PK\x03\x04 is a zip", &[7; 4096], &[0x1f, 0x8b], &[0x1f, 0x8b, 9, 9, 9]] {
        assert_eq!(code(unpack(bytes, &tree)), "not_an_archive", "{}", bytes.escape_ascii());
    }
    assert_eq!(unpack(&[0; 1024], &tree).expect("an empty archive is one"), Imported::default());
    assert!(unpack(&whole[..whole.len() - 1024], &tree).is_ok(), "an end mark is not needed");
}
