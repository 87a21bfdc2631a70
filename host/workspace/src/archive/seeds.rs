//! What fuzzing of archives of workspaces begins with.

use tar::EntryType;

use super::format::{self, Entry};

/// One entry: what it is, its path, where it points, its content.
type Made<'a> = (EntryType, &'a str, &'a str, &'a [u8]);

fn tar(entries: &[Made<'_>], sparse: Option<u64>) -> Vec<u8> {
    let mut bytes = Vec::new();
    for (kind, path, link, content) in entries {
        let entry = Entry {
            kind: *kind,
            path: path.as_bytes().to_vec(),
            link: link.as_bytes().to_vec(),
            mode: 0o755,
            seconds: 1_700_000_000,
            nanoseconds: 1,
            size: content.len() as u64,
            sparse,
        };
        // Into memory: none of it can fail.
        let _ = entry.write(&mut bytes);
        bytes.extend_from_slice(content);
        let _ = format::pad(&mut bytes, content.len() as u64);
    }
    // One block of zeros is an end too, and inputs are small.
    bytes.resize(bytes.len() + format::BLOCK, 0);
    bytes
}

/// Real ones, and each trick that unpackers have fallen for; not compressed.
pub(crate) fn seeds() -> Vec<(&'static str, Vec<u8>)> {
    use EntryType::{Directory, Fifo, Link, Regular, Symlink};
    let file = |path: &'static str| -> Made<'static> { (Regular, path, "", b"content") };
    let dir: Made<'static> = (Directory, "d", "", b"");
    let mut map = b"2\n4096\n7\n9000\n0\n".to_vec();
    map.resize(512, 0);
    map.extend_from_slice(b"content");
    vec![
        ("empty", tar(&[], None)),
        ("file", tar(&[file("f")], None)),
        ("directory_twice", tar(&[dir, dir], None)),
        ("below", tar(&[dir, file("d/f")], None)),
        ("link", tar(&[(Symlink, "l", "../..", b""), file("l/f")], None)),
        ("hard_link", tar(&[file("f"), (Link, "g", "f", b"")], None)),
        ("hard_link_out", tar(&[(Link, "g", "../secret", b"")], None)),
        ("holes", tar(&[(Regular, "h", "", &map)], Some(9_000))),
        ("endless_hole", tar(&[(Regular, "h", "", &map)], Some(1 << 60))),
        ("up", tar(&[file("../f")], None)),
        ("absolute", tar(&[file("/f")], None)),
        ("pipe", tar(&[(Fifo, "p", "", b"")], None)),
        ("itself", tar(&[(Directory, "", "", b"")], None)),
        ("cut", tar(&[file("f")], None).get(..1_700).map(<[u8]>::to_vec).unwrap_or_default()),
    ]
}
