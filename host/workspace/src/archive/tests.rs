//! What is packed comes back as it was.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::os::fd::{AsFd as _, AsRawFd as _};
use std::os::unix::ffi::{OsStrExt as _, OsStringExt as _};
use std::os::unix::fs::{FileExt as _, MetadataExt as _, PermissionsExt as _, symlink};
use std::path::{Path, PathBuf};

use bulkhead_core::ports::import::ImportError;
use rustix::fs::{AtFlags, CWD, FileType, Mode, Timespec, Timestamps};

use super::{pack, unpack};
use crate::import::ImportLimits;

const LIMITS: ImportLimits = ImportLimits { max_bytes: 1 << 30, max_entries: 10_000, max_depth: 128 };

fn set_time(path: &Path, seconds: i64, nanoseconds: i64) {
    let time = Timespec { tv_sec: seconds, tv_nsec: nanoseconds };
    let times = Timestamps { last_access: time, last_modification: time };
    rustix::fs::utimensat(CWD, path, &times, AtFlags::SYMLINK_NOFOLLOW).expect("sets");
}

fn odd(name: &[u8]) -> PathBuf {
    PathBuf::from(std::ffi::OsString::from_vec(name.to_vec()))
}

/// Everything that a workspace can have, and some that none should.
fn workspace() -> tempfile::TempDir {
    let dir = tempfile::tempdir().expect("a directory");
    let root = dir.path();
    fs::create_dir_all(root.join("a/empty")).expect("makes");
    fs::write(root.join("a/program"), b"#!/bin/sh\n").expect("writes");
    fs::set_permissions(root.join("a/program"), fs::Permissions::from_mode(0o751)).expect("sets");
    fs::write(root.join("a/nothing"), b"").expect("writes");
    fs::write(root.join(odd(b"not \xff UTF-8\n%")), vec![7; 100_000]).expect("writes");
    fs::create_dir(root.join(odd(b"\xfe"))).expect("makes");
    fs::hard_link(root.join("a/program"), root.join(odd(b"\xfe")).join("same")).expect("links");
    for (name, target) in [("away", "/etc/passwd"), ("up", "../.."), ("loop", "loop"), ("dangling", "no/such")] {
        symlink(target, root.join(name)).expect("links");
    }
    symlink(odd(b"\xff"), root.join("a/odd")).expect("links");
    let deep = (0..60).fold(root.join("deep"), |path, _| path.join("d".repeat(40)));
    fs::create_dir_all(&deep).expect("makes");
    fs::write(deep.join("f"), b"deep").expect("writes");
    let holes = File::create(root.join("holes")).expect("makes");
    holes.set_len(300 << 20).expect("sets");
    holes.write_all_at(b"middle", 100 << 20).expect("writes");
    holes.write_all_at(b"end", (300 << 20) - 3).expect("writes");
    File::create(root.join("only a hole")).expect("makes").set_len(5 << 20).expect("sets");
    fs::set_permissions(root.join("a/nothing"), fs::Permissions::from_mode(0o000)).expect("sets");
    set_time(&root.join("a/nothing"), -5, 25);
    set_time(&root.join("away"), 1_500_000_000, 123_456_789);
    set_time(&root.join("a/empty"), 1_000_000_000, 1);
    fs::set_permissions(root.join("a/empty"), fs::Permissions::from_mode(0o500)).expect("sets");
    set_time(&root.join("a"), 1_100_000_000, 999_999_999);
    set_time(root, 1_200_000_000, 0);
    dir
}

/// All there is to be seen of a tree, but which inodes and blocks it has.
fn all(root: &Path) -> BTreeMap<PathBuf, (u32, i64, i64, u64, Vec<u8>)> {
    let (mut seen, mut waiting, mut inodes) = (BTreeMap::new(), vec![PathBuf::new()], BTreeMap::new());
    while let Some(path) = waiting.pop() {
        let meta = fs::symlink_metadata(root.join(&path)).expect("is there");
        let content = if meta.is_dir() {
            let below = fs::read_dir(root.join(&path)).expect("reads").flatten();
            waiting.extend(below.map(|entry| path.join(entry.file_name())));
            Vec::new()
        } else if meta.is_symlink() {
            fs::read_link(root.join(&path)).expect("reads").into_os_string().into_vec()
        } else {
            // Which names are one file.
            let first = inodes.entry(meta.ino()).or_insert_with(|| meta.nlink()).to_le_bytes();
            [&first[..], &fs::read(root.join(&path)).expect("reads")].concat()
        };
        let size = if meta.is_dir() { 0 } else { meta.size() };
        let mode = if path.as_os_str().is_empty() { 0 } else { meta.mode() };
        seen.insert(path, (mode, meta.mtime(), meta.mtime_nsec(), size, content));
    }
    seen
}

fn packed(root: &Path) -> Vec<u8> {
    let mut archive = Vec::new();
    let dir = File::open(root).expect("opens");
    pack(dir.as_fd(), &mut archive, LIMITS).expect("packs");
    archive
}

#[test]
fn everything_comes_back_as_it_was() {
    let (from, to) = (workspace(), tempfile::tempdir().expect("a directory"));
    let mut archive = Vec::new();
    let dir = File::open(from.path()).expect("opens");
    let before = all(from.path());
    let packed = pack(dir.as_fd(), &mut archive, LIMITS).expect("packs");
    assert!(archive.len() < 1 << 20, "holes take no room: {}", archive.len());
    let unpacked = unpack(archive.as_slice(), File::open(to.path()).expect("opens").as_fd(), LIMITS).expect("unpacks");
    assert_eq!(unpacked, packed);
    assert_eq!(before, all(from.path()), "packing changes nothing");
    let after = all(to.path());
    for (path, was) in &before {
        assert!(after.get(path) == Some(was), "{}", path.display());
    }
    assert_eq!(before.len(), after.len());
    let holes = fs::metadata(to.path().join("holes")).expect("is there");
    assert!(holes.blocks() * 512 < 1 << 20, "holes are holes again");
    let one = fs::metadata(to.path().join("a/program")).expect("is there");
    let other = fs::metadata(to.path().join(odd(b"\xfe")).join("same")).expect("is there");
    assert_eq!(one.ino(), other.ino());
}

#[test]
fn other_programs_read_it_too() {
    let (from, to) = (workspace(), tempfile::tempdir().expect("a directory"));
    fs::write(to.path().join("x.tar.gz"), packed(from.path())).expect("writes");
    let output = std::process::Command::new("tar").arg("-xzf").arg("x.tar.gz").current_dir(to.path()).output();
    let output = output.expect("tar is there");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let (before, mut after) = (all(from.path()), all(to.path()));
    after.remove(Path::new("x.tar.gz"));
    for (path, was) in &before {
        let is = after.get(path).unwrap_or_else(|| panic!("{}", path.display()));
        assert!((was.0, was.3, &was.4) == (is.0, is.3, &is.4), "{}", path.display());
    }
}

fn refusal<T: std::fmt::Debug>(result: Result<T, ImportError>) -> (&'static str, String) {
    match result {
        Err(ImportError::Refused { code, reason }) => (code, reason),
        other => panic!("{other:?}"),
    }
}

#[test]
fn what_cannot_come_back_is_not_packed() {
    let dir = tempfile::tempdir().expect("a directory");
    let root = File::open(dir.path()).expect("opens");
    let pack_it = |limits| pack(root.as_fd(), std::io::sink(), limits);
    rustix::fs::mknodat(CWD, dir.path().join("pipe"), FileType::Fifo, Mode::RUSR, 0).expect("makes");
    assert_eq!(refusal(pack_it(LIMITS)), ("unfit", "`pipe` is a pipe, a socket or a device".into()));
    fs::remove_file(dir.path().join("pipe")).expect("removes");
    for name in 0..20 {
        fs::write(dir.path().join(name.to_string()), b"12345").expect("writes");
    }
    assert_eq!(refusal(pack_it(ImportLimits { max_entries: 19, ..LIMITS })).0, "limit_entries");
    assert_eq!(refusal(pack_it(ImportLimits { max_bytes: 99, ..LIMITS })).0, "limit_bytes");
    pack_it(ImportLimits { max_entries: 20, max_bytes: 100, ..LIMITS }).expect("just fits");
    // Deeper than a path can say.
    let mut at = root.try_clone().expect("clones");
    for _ in 0..30 {
        let name = "d".repeat(200);
        rustix::fs::mkdirat(&at, &name, Mode::RWXU).expect("makes");
        at = File::open(format!("/proc/self/fd/{}/{name}", at.as_raw_fd())).expect("opens");
    }
    let (code, reason) = refusal(pack_it(LIMITS));
    assert_eq!(code, "unfit");
    assert!(reason.ends_with("is too deep to be packed"), "{reason}");
}

#[test]
fn what_comes_back_is_within_the_limits_and_whole() {
    let from = tempfile::tempdir().expect("a directory");
    fs::write(from.path().join("f"), vec![1; 5_000]).expect("writes");
    fs::hard_link(from.path().join("f"), from.path().join("g")).expect("links");
    let archive = packed(from.path());
    let unpack_it = |archive: &[u8], limits| {
        let to = tempfile::tempdir().expect("a directory");
        unpack(archive, File::open(to.path()).expect("opens").as_fd(), limits)
    };
    assert_eq!(refusal(unpack_it(&archive, ImportLimits { max_bytes: 9_999, ..LIMITS })).0, "limit_bytes");
    assert_eq!(refusal(unpack_it(&archive, ImportLimits { max_entries: 1, ..LIMITS })).0, "limit_entries");
    unpack_it(&archive, ImportLimits { max_bytes: 10_000, max_entries: 2, ..LIMITS }).expect("just fits");
    for at in 0..archive.len() {
        let cut = archive.get(..at).expect("a part");
        assert_eq!(refusal(unpack_it(cut, LIMITS)).0, "not_an_archive", "cut off at {at}");
    }
    // Behind gzip's own header, whose time nobody looks at.
    for (at, bit) in (10..archive.len()).flat_map(|at| (0..8).map(move |bit| (at, bit))) {
        let mut bent = archive.clone();
        bent[at] ^= 1 << bit;
        match unpack_it(&bent, LIMITS) {
            // Bits that fill up the last byte.
            Ok(done) => assert_eq!((done.files, done.bytes), (2, 10_000)),
            bent => assert!(matches!(refusal(bent).0, "not_an_archive" | "limit_bytes"), "bent at {at}"),
        }
    }
}

/// An entry: what it is, its path, where it points, and its content.
type Forged<'a> = (tar::EntryType, &'a [u8], &'a [u8], &'a [u8]);

/// An archive that no packer of ours wrote.
fn forged(entries: &[Forged<'_>]) -> Vec<u8> {
    let mut gzip = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    for (kind, path, link, content) in entries {
        let entry = super::format::Entry {
            kind: *kind,
            path: path.to_vec(),
            link: link.to_vec(),
            mode: 0o777,
            seconds: 0,
            nanoseconds: 0,
            size: content.len() as u64,
            sparse: None,
        };
        entry.write(&mut gzip).expect("writes");
        std::io::Write::write_all(&mut gzip, content).expect("writes");
        super::format::pad(&mut gzip, content.len() as u64).expect("writes");
    }
    super::format::end(&mut gzip).expect("writes");
    gzip.finish().expect("ends")
}

#[test]
fn nothing_leads_out() {
    use tar::EntryType::{Directory, Fifo, Link, Regular, Symlink};
    let outer = tempfile::tempdir().expect("a directory");
    fs::write(outer.path().join("secret"), b"the host's").expect("writes");
    let outside = outer.path().join("secret").as_os_str().as_bytes().to_vec();
    let up: &[u8] = b"../secret";
    let forgeries: [&[Forged<'_>]; 12] = [
        &[(Regular, b"../x", b"", b"x")],
        &[(Regular, b"/x", b"", b"x")],
        &[(Regular, b"a/../../x", b"", b"x")],
        &[(Regular, b"a//x", b"", b"x")],
        &[(Regular, b"", b"", b"x")],
        &[(Symlink, b"l", b"..", b""), (Regular, b"l/x", b"", b"x")],
        &[(Symlink, b"l", &outside, b""), (Regular, b"l", b"", b"x")],
        &[(Symlink, b"l", b"..", b""), (Directory, b"l", b"", b"")],
        &[(Link, b"l", up, b"")],
        &[(Link, b"l", &outside, b"")],
        &[(Symlink, b"s", b"..", b""), (Link, b"l", b"s/secret", b"")],
        &[(Fifo, b"pipe", b"", b"")],
    ];
    for entries in forgeries {
        let root = tempfile::tempdir_in(outer.path()).expect("a directory");
        let result = unpack(forged(entries).as_slice(), File::open(root.path()).expect("opens").as_fd(), LIMITS);
        assert_eq!(refusal(result).0, "not_an_archive", "{entries:?}");
        assert_eq!(fs::read(outer.path().join("secret")).expect("reads"), b"the host's");
        assert!(!outer.path().join("x").exists());
    }
}
