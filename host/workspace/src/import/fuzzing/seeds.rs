//! What fuzzing begins with here.

use std::io::Write as _;

use bulkhead_core::ports::import::Imported;

use super::super::protocol::Report;

/// One entry of an archive: type, name, target of a link, content.
type Made<'a> = (u8, &'a [u8], &'a [u8], &'a [u8]);

fn tar(entries: &[Made<'_>]) -> Vec<u8> {
    let mut bytes = Vec::new();
    for (kind, name, link, content) in entries {
        let mut header = ::tar::Header::new_ustar();
        let raw = header.as_mut_bytes();
        raw[..name.len().min(100)].copy_from_slice(&name[..name.len().min(100)]);
        raw[157..157 + link.len()].copy_from_slice(link);
        raw[156] = *kind;
        header.set_mode(0o4755);
        header.set_size(content.len() as u64);
        header.set_cksum();
        bytes.extend_from_slice(header.as_bytes());
        bytes.extend_from_slice(content);
        bytes.resize(bytes.len().next_multiple_of(512), 0);
    }
    bytes
}

fn gzip(bytes: &[u8]) -> Vec<u8> {
    let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::default());
    // Into memory: it can't fail.
    let _ = encoder.write_all(bytes);
    encoder.finish().unwrap_or_default()
}

fn pax(records: &[(&str, &str)]) -> Vec<u8> {
    let record = |(key, value): &(&str, &str)| {
        let rest = format!(" {key}={value}\n");
        // The length counts its own digits.
        let length = rest.len() + (rest.len() + 2).to_string().len();
        format!("{length}{rest}")
    };
    records.iter().map(record).collect::<String>().into_bytes()
}

/// Real ones, and each trick that unpackers have fallen for. Compressed where
/// blocks of zeros would make them large.
pub(super) fn archive_seeds() -> Vec<(&'static str, Vec<u8>)> {
    let file = |name: &'static str| -> Made<'static> { (b'0', name.as_bytes(), b"", b"content") };
    let dir = |name: &'static str| -> Made<'static> { (b'5', name.as_bytes(), b"", b"") };
    let link = |name: &'static str, to: &'static str| -> Made<'static> { (b'2', name.as_bytes(), to.as_bytes(), b"") };
    let hard = |name: &'static str, to: &'static str| -> Made<'static> { (b'1', name.as_bytes(), to.as_bytes(), b"") };
    let long = [&b"d/".repeat(100)[..], b"x"].concat();
    let extended = |records: &[(&str, &str)], entry: Made<'_>| {
        let records = pax(records);
        gzip(&tar(&[(b'x', b"pax", b"", &records), entry]))
    };
    let mut sparse = tar(&[(b'S', b"sparse", b"", b"content")]);
    sparse[482] = 1;
    vec![
        ("plain", tar(&[dir("d"), file("d/f"), link("l", "d/f")])),
        ("gzip", gzip(&tar(&[file("a"), file("b/c/d")]))),
        ("two-members", [gzip(&tar(&[file("a")])), gzip(&tar(&[file("b")]))].concat()),
        ("empty", vec![0; 1024]),
        ("nothing", vec![]),
        ("up", tar(&[file("../secret")])),
        ("up-inside", tar(&[file("d/../../secret")])),
        ("absolute", tar(&[file("/tmp/bulkhead-fuzz")])),
        ("link-out", tar(&[link("l", "../secret"), file("l")])),
        ("link-to-root", tar(&[link("l", "/"), file("l/tmp/bulkhead-fuzz")])),
        ("through-a-link", gzip(&tar(&[dir("d"), link("l", "d"), file("l/f")]))),
        ("link-chain", gzip(&tar(&[dir("a/b"), link("a/b/l", "../.."), link("m", "a/b/l/.."), file("m/secret")]))),
        ("link-swapped", gzip(&tar(&[dir("d"), file("d/f"), link("d", ".."), file("d/secret")]))),
        ("link-circle", gzip(&tar(&[link("a", "b"), link("b", "a"), file("a/f")]))),
        ("hard-link", gzip(&tar(&[file("f"), hard("h", "f"), hard("f", "f")]))),
        ("hard-link-out", gzip(&tar(&[hard("h", "../secret"), link("l", "x"), hard("i", "l")]))),
        ("replaced", gzip(&tar(&[file("f"), link("f", "d"), file("f"), dir("f"), file("f/g")]))),
        ("directory-replaced", gzip(&tar(&[dir("d"), file("d"), link("d", "x"), dir("d")]))),
        ("devices", gzip(&tar(&[(b'3', b"c", b"", b""), (b'4', b"b", b"", b""), (b'6', b"p", b"", b"")]))),
        ("old-directory", tar(&[(0, b"d/", b"", b"")])),
        (
            "names",
            gzip(&tar(&[file("."), file(""), dir("./"), file("a//b/."), file("n\0x"), (b'0', b"\xff\n", b"", b"")])),
        ),
        ("deep", gzip(&tar(&[(b'L', b"././@LongLink", b"", &long), file("x")]))),
        ("long-link", gzip(&tar(&[(b'K', b"././@LongLink", b"", &long), link("l", "x")]))),
        ("pax-path", extended(&[("path", "../secret"), ("linkpath", "/etc/passwd")], file("x"))),
        ("pax-size", extended(&[("size", "1")], file("x"))),
        ("pax-huge-size", extended(&[("size", "18446744073709551615")], file("x"))),
        ("pax-sparse", extended(&[("GNU.sparse.major", "1"), ("GNU.sparse.realsize", "1099511627776")], file("x"))),
        ("pax-damaged", gzip(&tar(&[(b'x', b"pax", b"", b"99999999999999999999 path=x\n"), file("x")]))),
        ("sparse", sparse),
        ("many", gzip(&tar(&vec![file("f"); 30]))),
        (
            "many-directories",
            gzip(&tar(&[
                file("1/2/3/4/5/6/7/f"),
                file("a/b/c/d/e/f/g/h"),
                file("i/j/k/l/m/n/o/p"),
                file("q/r/s/t/u/v/w/x"),
            ])),
        ),
        ("bomb", gzip(&tar(&[(b'0', b"zeros", b"", &[0; 40_000])]))),
        ("left-out-bomb", gzip(&tar(&[(b'7', b"../x", b"", &[0; 200_000])]))),
        ("cut-off", tar(&[file("a")])[..700].to_vec()),
        ("gzip-cut-off", gzip(&tar(&[file("a")]))[..60].to_vec()),
        ("not-an-archive", b"PK\x03\x04 this is something else".to_vec()),
    ]
}

pub(super) fn import_report_seeds() -> Vec<(&'static str, Vec<u8>)> {
    let told =
        |report: Report| [b"\0".to_vec(), serde_json::to_vec(&report).unwrap_or_default(), b"\n".to_vec()].concat();
    let refused =
        |code: &str, reason: &str| told(Report::Refused { code: code.into(), reason: reason.into(), confined: true });
    vec![
        ("done", told(Report::Done { imported: Imported { files: u64::MAX, ..Imported::default() }, confined: true })),
        ("refused", refused("limit_bytes", "too large")),
        ("unknown-code", refused("ok", "x")),
        ("lines", refused("clone_failed", "one\r\ntwo\u{1b}[2J\u{202e}\u{200b}\u{85}")),
        ("long", refused("clone_failed", &"é".repeat(1_500))),
        ("failed", told(Report::Failed { message: "no space\n".into(), confined: false })),
        ("two-lines", b"\0{\"done\":{\"imported\":{},\"confined\":true}}\n{\"x\":1}".to_vec()),
        ("killed", b"\x09\0killed: \x1b[31m\xff".to_vec()),
        ("too-long", b"\x18".to_vec()),
        ("too-large", b"\x19".to_vec()),
        ("silent", b"\0\0".to_vec()),
        ("deep", [&b"\0"[..], &b"[".repeat(2_000)].concat()),
        ("names", b"\0{\"refused\":{\"code\":3}}".to_vec()),
    ]
}
