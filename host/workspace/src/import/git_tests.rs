use std::fs;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::PathBuf;

use super::*;
use crate::testing::Tree;

const LIMITS: ImportLimits = ImportLimits { max_bytes: 4 << 20, max_entries: 1000, max_depth: 32 };

/// A repository with one commit of what `make` puts into its work tree.
fn repository(tree: &Tree, make: impl Fn(&Path)) -> PathBuf {
    let at = tree.path("source");
    fs::create_dir(&at).expect("makes");
    git(&at, &["init", "--quiet", "-b", "main"]);
    make(&at);
    commit(&at);
    at
}

fn commit(at: &Path) -> String {
    git(at, &["add", "-A", "-f"]);
    git(at, &["-c", "user.name=t", "-c", "user.email=t@t", "commit", "-q", "--allow-empty", "-m", "m"]);
    git(at, &["rev-parse", "HEAD"])
}

fn git(at: &Path, args: &[&str]) -> String {
    let output = Command::new("git").env("GIT_CONFIG_GLOBAL", "/dev/null").arg("-C").arg(at).args(args).output();
    let output = output.expect("git is there");
    assert!(output.status.success(), "{args:?}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8_lossy(&output.stdout).trim().to_owned()
}

fn clone(path: &Path, reference: Option<&str>, to: &Tree) -> Result<Imported, ImportError> {
    let staging = Tree::new();
    let job = GitJob {
        git: "git".into(),
        remote: Remote::Local { path: path.to_owned() },
        reference: reference.map(str::to_owned),
        staging: staging.path(""),
    };
    clone_into(&job, to.fd(), LIMITS)
}

#[test]
fn a_tree_comes_without_its_repository() {
    let (source, to) = (Tree::new(), Tree::new());
    let at = repository(&source, |at| {
        fs::create_dir_all(at.join("src/deep")).expect("makes");
        fs::write(at.join("src/deep/f"), "first\n").expect("writes");
        fs::write(at.join("run"), "#!/bin/sh\n").expect("writes");
        fs::set_permissions(at.join("run"), fs::Permissions::from_mode(0o755)).expect("chmod");
        // These would leave things out and fill things in.
        fs::write(at.join(".gitattributes"), "hidden export-ignore\nsubst export-subst\n").expect("writes");
        fs::write(at.join("hidden"), "x").expect("writes");
        fs::write(at.join("subst"), "$Format:%H$").expect("writes");
        symlink("src/deep/f", at.join("link")).expect("links");
    });
    let done = clone(&at, None, &to).expect("clones");
    assert_eq!((done.files, done.symlinks, done.skipped), (5, 1, 0));
    assert_eq!(to.listing(), [".gitattributes", "hidden", "link@", "run", "src/", "src/deep/", "src/deep/f", "subst"]);
    assert_eq!(fs::read_to_string(to.path("subst")).expect("reads"), "$Format:%H$");
    assert_eq!(fs::metadata(to.path("run")).expect("stat").permissions().mode() & 0o777, 0o755);
}

#[test]
fn references() {
    let source = Tree::new();
    let at = repository(&source, |at| fs::write(at.join("f"), "1").expect("writes"));
    let first = git(&at, &["rev-parse", "HEAD"]);
    git(&at, &["tag", "v1"]);
    git(&at, &["-c", "user.name=t", "-c", "user.email=t@t", "tag", "-a", "-m", "m", "annotated"]);
    git(&at, &["checkout", "-q", "-b", "feature/two"]);
    fs::write(at.join("f"), "2").expect("writes");
    commit(&at);
    git(&at, &["checkout", "-q", "main"]);
    fs::write(at.join("f"), "3").expect("writes");
    commit(&at);
    for (reference, content) in [
        (None, "3"),
        (Some("main"), "3"),
        (Some("feature/two"), "2"),
        (Some("v1"), "1"),
        (Some("annotated"), "1"),
        (Some(first.as_str()), "1"),
    ] {
        let to = Tree::new();
        clone(&at, reference, &to).expect("clones");
        assert_eq!(fs::read_to_string(to.path("f")).expect("reads"), content, "{reference:?}");
    }
    for wrong in ["none", "0123456789012345678901234567890123456789"] {
        match clone(&at, Some(wrong), &Tree::new()) {
            Err(ImportError::Refused { code: code::CLONE_FAILED, reason }) => {
                assert!(reason.starts_with("fatal:"), "{reason}");
            }
            other => panic!("{other:?}"),
        }
    }
}

#[test]
fn a_hostile_repository_gets_nothing() {
    let (source, to) = (Tree::new(), Tree::new());
    let witness = source.path("witness");
    let at = repository(&source, |at| {
        symlink("/etc/passwd", at.join("absolute")).expect("links");
        symlink("../../secret", at.join("relative")).expect("links");
        fs::create_dir(at.join("module")).expect("makes");
        git(&at.join("module"), &["init", "--quiet"]);
        commit(&at.join("module"));
        let module = "[submodule \"m\"]\n\tpath = module\n\turl = ../elsewhere\n";
        fs::write(at.join(".gitmodules"), module).expect("writes");
        fs::write(at.join(".gitattributes"), "* filter=evil diff=evil\n").expect("writes");
    });
    for hook in ["post-checkout", "post-update", "reference-transaction", "pre-receive", "post-index-change"] {
        let hook = at.join(".git/hooks").join(hook);
        fs::create_dir_all(hook.parent().expect("has one")).expect("makes");
        fs::write(&hook, format!("#!/bin/sh\ntouch {}\n", witness.display())).expect("writes");
        fs::set_permissions(&hook, fs::Permissions::from_mode(0o755)).expect("chmod");
    }
    let evil = format!("touch {}", witness.display());
    for key in ["filter.evil.smudge", "core.fsmonitor", "uploadpack.packObjectsHook", "tar.tar.command", "core.pager"] {
        git(&at, &["config", key, &evil]);
    }
    match clone(&at, None, &to) {
        Ok(done) => {
            assert_eq!((done.symlinks, done.skipped), (0, 2));
            assert_eq!(to.listing(), [".gitattributes", ".gitmodules", "module/"]);
        }
        // A git that checks more may refuse the whole.
        Err(ImportError::Refused { code: code::CLONE_FAILED, .. }) => assert!(to.listing().is_empty()),
        Err(error) => panic!("{error:?}"),
    }
    assert!(!witness.exists(), "code of the repository ran");
}

#[test]
fn what_is_too_large_stops() {
    let source = Tree::new();
    let at = repository(&source, |at| {
        // Bytes that don't compress.
        let mut state = 1u64;
        let noise = std::iter::repeat_with(|| {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
            (state >> 56) as u8
        });
        fs::write(at.join("large"), noise.take(8 << 20).collect::<Vec<u8>>()).expect("writes");
    });
    let to = Tree::new();
    assert!(matches!(clone(&at, None, &to), Err(ImportError::Refused { code: code::LIMIT_BYTES, .. })));
    assert!(to.listing().is_empty());
    // A small pack of a large tree.
    fs::write(at.join("large"), vec![0; 8 << 20]).expect("writes");
    commit(&at);
    assert!(matches!(clone(&at, None, &to), Err(ImportError::Refused { code: code::LIMIT_BYTES, .. })));
}

#[test]
fn what_is_no_repository() {
    let source = Tree::new();
    match clone(&source.path(""), None, &Tree::new()) {
        Err(ImportError::Refused { code: code::CLONE_FAILED, reason }) => assert!(!reason.contains('\n')),
        other => panic!("{other:?}"),
    }
}

#[test]
fn the_last_words_of_git() {
    assert_eq!(last_line("warning: x\nfatal: no\x1b[31m such\r\n\nPlease make sure\n"), "fatal: no [31m such");
    assert_eq!(last_line("hint\n\n"), "hint");
    assert_eq!(last_line(""), "git gave no reason");
    let unreachable = failed("fatal: unable to access 'https://x/': Failed to connect to x port 443");
    assert!(matches!(unreachable, ImportError::Refused { code: code::UNREACHABLE, .. }));
    let addresses = ["1.2.3.4".parse().expect("is one"), "2606::1".parse().expect("is one")];
    assert_eq!(pin("x.org", 443, &addresses), "x.org:443:1.2.3.4,[2606::1]");
}
