//! What is fuzzed here (feature `fuzz`): archives, through the writer that
//! unpacks them, archives of workspaces, and what an import child answers. See `bulkhead_core::fuzzing`.

mod seeds;

use std::fs::File;
use std::os::fd::AsFd;
use std::os::unix::fs::MetadataExt as _;
use std::os::unix::process::ExitStatusExt as _;
use std::path::{Component, Path, PathBuf};
use std::process::ExitStatus;

pub use bulkhead_core::fuzzing::Target;
use bulkhead_core::ports::import::{ImportError, Imported};

use super::process::{Ended, judge};
use super::{ImportConfig, ImportLimits, code, extract_archive};
use crate::{archive as packing, beneath};

/// The targets of this package.
pub const TARGETS: [Target; 3] = [
    Target { name: "archive", run: archive, seeds: seeds::archive_seeds },
    Target { name: "packed", run: packed, seeds: packing::seeds::seeds },
    Target { name: "import_report", run: import_report, seeds: seeds::import_report_seeds },
];

const LIMITS: ImportLimits = ImportLimits { max_bytes: 16 * 1024, max_entries: 24, max_depth: 8 };

/// An archive, unpacked a few directories below the one that is looked at
/// afterwards: nothing is outside of its root, what is inside is within the
/// limits, and the count that is reported is the true one.
pub fn archive(bytes: &[u8]) {
    let outer = tempfile::tempdir().expect("a temporary directory");
    let root = outer.path().join("a/b/root");
    std::fs::create_dir_all(&root).expect("makes");
    std::fs::write(outer.path().join("a/b/secret"), "the host's").expect("writes");
    let dir = File::open(&root).expect("opens");
    let result = extract_archive(bytes, dir.as_fd(), LIMITS);
    if let Err(ImportError::Io(error)) = &result {
        panic!("the archive made the host fail: {error}");
    }
    let around: Vec<PathBuf> = paths(outer.path()).into_iter().filter(|path| !path.starts_with(&root)).collect();
    let expected = ["a", "a/b", "a/b/secret"].map(|path| outer.path().join(path));
    assert_eq!(around, expected, "something is outside of the root");
    assert_eq!(std::fs::read(outer.path().join("a/b/secret")).expect("reads"), b"the host's");
    let found = count(&root);
    assert!(found.bytes <= LIMITS.max_bytes, "{found:?}");
    assert!(found.files + found.directories + found.symlinks <= LIMITS.max_entries, "{found:?}");
    if let Ok(reported) = result {
        assert_eq!(Imported { skipped: 0, ..reported }, found);
        assert!(reported.skipped <= LIMITS.max_entries);
    }
}

/// An archive of a workspace, not compressed, unpacked: nothing is outside of its
/// root, and what is inside is within the limits.
pub fn packed(bytes: &[u8]) {
    let outer = tempfile::tempdir().expect("a temporary directory");
    let root = outer.path().join("a/root");
    std::fs::create_dir_all(&root).expect("makes");
    std::fs::write(outer.path().join("a/secret"), "the host's").expect("writes");
    let mut gzip = flate2::read::GzEncoder::new(bytes, flate2::Compression::fast());
    let mut compressed = Vec::new();
    std::io::Read::read_to_end(&mut gzip, &mut compressed).expect("compresses");
    let result = packing::unpack(compressed.as_slice(), File::open(&root).expect("opens").as_fd(), LIMITS);
    if let Err(ImportError::Io(error)) = &result {
        panic!("the archive made the host fail: {error}");
    }
    let (inside, around): (Vec<PathBuf>, _) = paths(outer.path()).into_iter().partition(|path| path.starts_with(&root));
    assert_eq!(around, ["a", "a/secret"].map(|path| outer.path().join(path)), "something is outside of the root");
    assert_eq!(std::fs::read(outer.path().join("a/secret")).expect("reads"), b"the host's");
    let metas = inside.iter().map(|path| path.symlink_metadata().expect("is there"));
    let bytes: u64 = metas.filter(|meta| meta.is_file()).map(|meta| meta.len()).sum();
    assert!(bytes <= LIMITS.max_bytes && inside.len() as u64 <= LIMITS.max_entries + 1, "{bytes} {inside:?}");
    if let Ok(Imported { files, directories, symlinks, .. }) = result {
        // Itself is among what lies inside.
        assert_eq!(files + directories + symlinks + 1, inside.len() as u64);
    }
}

/// Everything below a directory, through no link, sorted.
fn paths(dir: &Path) -> Vec<PathBuf> {
    let mut all = Vec::new();
    let mut todo = vec![dir.to_path_buf()];
    while let Some(dir) = todo.pop() {
        // One that may not be read was made so, and whatever is in it is below.
        for entry in std::fs::read_dir(&dir).into_iter().flatten() {
            let path = entry.expect("an entry").path();
            if path.symlink_metadata().expect("is there").is_dir() {
                todo.push(path.clone());
            }
            all.push(path);
        }
    }
    all.sort();
    all
}

/// What is there; each thing is one that a workspace may have.
fn count(root: &Path) -> Imported {
    let mut found = Imported::default();
    for path in paths(root) {
        let meta = path.symlink_metadata().expect("is there");
        let depth = path.strip_prefix(root).expect("below").components().count();
        assert!(depth <= LIMITS.max_depth as usize, "{} is deep", path.display());
        if meta.is_symlink() {
            found.symlinks += 1;
            stays_inside(root, &path);
        } else if meta.is_dir() {
            found.directories += 1;
        } else {
            assert!(meta.is_file(), "{} is neither file, directory nor link", path.display());
            assert_eq!(meta.nlink(), 1, "{} has another name", path.display());
            let modes = [beneath::FILE_MODE, beneath::EXECUTABLE_MODE].map(|mode| mode.as_raw_mode());
            assert!(modes.contains(&(meta.mode() & 0o7777)), "{} has mode {:o}", path.display(), meta.mode());
            found.files += 1;
            found.bytes += meta.len();
        }
    }
    found
}

/// Follows a link as a kernel would, by hand, so that one that leads to nothing
/// is followed as well.
fn stays_inside(root: &Path, link: &Path) {
    let mut at = link.parent().expect("below the root").to_path_buf();
    let target = std::fs::read_link(link).expect("a link");
    let mut todo: Vec<_> = target.components().map(|part| part.as_os_str().to_owned()).rev().collect();
    for _ in 0..1_000 {
        let Some(part) = todo.pop() else { return };
        match Path::new(&part).components().next() {
            Some(Component::RootDir | Component::Prefix(_)) => panic!("{} leads to a root", link.display()),
            Some(Component::ParentDir) => assert!(at.pop() && at.starts_with(root), "{} leads out", link.display()),
            Some(Component::Normal(name)) => {
                let next = at.join(name);
                match std::fs::read_link(&next) {
                    Ok(target) => todo.extend(target.components().rev().map(|part| part.as_os_str().to_owned())),
                    Err(_) => at = next,
                }
            }
            _ => {}
        }
    }
    // A circle of links, which no kernel follows.
}

/// How an import child ended (one byte), what it answered and, behind a NUL,
/// what it said: all of it that gets on is a known code and one clean line.
pub fn import_report(bytes: &[u8]) {
    let Some((status, rest)) = bytes.split_first() else { return };
    let mut parts = rest.splitn(2, |byte| *byte == 0);
    let mut part = || parts.next().unwrap_or_default().to_vec();
    let ended = Ended { answer: part(), said: part(), status: ExitStatus::from_raw(i32::from(*status)) };
    let text = match judge(&ImportConfig::new("bulkhead".into(), "staging".into()), ended) {
        Ok(_) => return,
        Err(ImportError::Refused { code, reason }) => {
            assert!(code::ALL.contains(&code), "{code}");
            reason
        }
        Err(ImportError::Io(error)) => error.to_string(),
    };
    assert!(text.chars().count() <= 600, "a long reason");
    assert!(!text.chars().any(|c| c.is_control() || ('\u{202a}'..='\u{202e}').contains(&c)), "{text:?}");
}
