//! The host's side, with a shell in the child's place: whatever it does, the
//! host ends it, reads a bounded part of what it says, and believes little.

use std::fs;
use std::path::Path;
use std::time::{Duration, Instant};

use super::*;
use crate::testing::{Tree, body};

struct Host {
    importer: ChildImporter,
    space: Tree,
    staging: Tree,
}

impl Host {
    fn new(script: &str, timeout: Duration) -> Self {
        let (space, staging) = (Tree::new(), Tree::new());
        let mut config = ImportConfig::new("/bin/sh".into(), staging.path("git"));
        config.args_prefix = vec!["-c".into(), script.into()];
        config.timeout = timeout;
        let importer = ChildImporter::new(config).expect("makes");
        Self { importer, space, staging }
    }

    async fn run(&self, content: &[u8]) -> Result<Imported, ImportError> {
        let root = Arc::new(self.space.fd().try_clone_to_owned().expect("a descriptor"));
        self.importer.import(root, Import::Archive(body(content))).await
    }

    /// Whether the process whose number the script left is still there.
    fn lives(&self, name: &str) -> bool {
        let pid = fs::read_to_string(self.space.path(name)).expect("a number");
        let state = fs::read_to_string(Path::new("/proc").join(pid.trim()).join("stat")).unwrap_or_default();
        !state.is_empty() && !state.contains(") Z ")
    }

    /// Killing takes effect a moment later.
    async fn are_gone(&self, names: &[&str]) -> bool {
        for _ in 0..100 {
            if !names.iter().any(|name| self.lives(name)) {
                return true;
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        false
    }
}

const LONG: Duration = Duration::from_secs(60);
const BUSY: &str = "sleep 1000 & echo $! > helper; echo $$ > leader; wait";

fn done(files: u64) -> String {
    format!(
        r#"{{"done":{{"imported":{{"files":{files},"directories":0,"symlinks":0,"skipped":0,"bytes":0}},"confined":true}}}}"#
    )
}

#[tokio::test]
async fn the_child_gets_the_workspace_the_archive_and_nothing_else() {
    let script = format!("cat > stdin; env > env; readlink /proc/self/fd/* > fds; echo '{}'", done(7));
    let host = Host::new(&script, LONG);
    let large = vec![b'x'; 1 << 20];
    assert_eq!(host.run(&large).await.expect("is done").files, 7);
    assert_eq!(fs::read(host.space.path("stdin")).expect("reads"), large);
    let env = fs::read_to_string(host.space.path("env")).expect("reads");
    assert!(
        env.lines().all(|line| ["PWD=", "OLDPWD=", "SHLVL=", "_="].iter().any(|own| line.starts_with(own))),
        "{env}"
    );
    // Whoever started the tests may have left descriptors open; ours are closed.
    let fds = fs::read_to_string(host.space.path("fds")).expect("reads");
    let ours = [host.space.path(""), host.staging.path("")];
    let open: Vec<_> = fds
        .lines()
        .filter(|fd| ours.iter().any(|dir| Path::new(fd).starts_with(dir)) && !fd.ends_with("/fds"))
        .collect();
    assert!(open.is_empty(), "{open:?}");
}

#[tokio::test]
async fn a_child_that_answers_early_is_not_fed_on() {
    let answer = r#"{"refused":{"code":"not_an_archive","reason":"a\u0007b\u202ec","confined":true}}"#;
    let host = Host::new(&format!("echo '{answer}'"), LONG);
    let root = Arc::new(host.space.fd().try_clone_to_owned().expect("a descriptor"));
    // A client that sends nothing more, and keeps its connection open.
    let (_client, slow) = tokio::io::duplex(64);
    match host.importer.import(root, Import::Archive(Box::pin(slow))).await {
        Err(ImportError::Refused { code: code::NOT_AN_ARCHIVE, reason }) => assert_eq!(reason, "a b c"),
        other => panic!("{other:?}"),
    }
}

#[tokio::test]
async fn what_a_child_says_is_not_believed() {
    let unknown = r#"{"refused":{"code":"delete_everything","reason":"","confined":true}}"#;
    for script in [format!("echo '{unknown}'"), "echo nonsense".into(), "exit 3".into(), "kill -9 $$".into()] {
        let result = Host::new(&script, LONG).run(b"").await;
        assert!(matches!(result, Err(ImportError::Io(_))), "{script}: {result:?}");
    }
    let endless = Host::new("yes", Duration::from_millis(500)).run(b"").await;
    assert!(matches!(endless, Err(ImportError::Refused { code: code::LIMIT_TIME, .. })), "{endless:?}");
    let cpu = Host::new("kill -XCPU $$", LONG).run(b"").await;
    assert!(matches!(cpu, Err(ImportError::Refused { code: code::LIMIT_TIME, .. })), "{cpu:?}");
    let size = Host::new("kill -XFSZ $$", LONG).run(b"").await;
    assert!(matches!(size, Err(ImportError::Refused { code: code::LIMIT_BYTES, .. })), "{size:?}");
}

#[tokio::test]
async fn late_children_end_with_all_they_started() {
    let host = Host::new(BUSY, Duration::from_millis(500));
    let result = host.run(b"").await;
    assert!(matches!(result, Err(ImportError::Refused { code: code::LIMIT_TIME, .. })), "{result:?}");
    assert!(!host.lives("leader"), "it was waited for");
    assert!(host.are_gone(&["helper"]).await);
}

#[tokio::test]
async fn helpers_that_outlive_their_leader_end_too() {
    let script = format!("sleep 1000 & echo $! > helper; echo '{}'", done(1));
    let host = Host::new(&script, LONG);
    let start = Instant::now();
    assert_eq!(host.run(b"").await.expect("is done").files, 1);
    assert!(start.elapsed() < LONG / 2, "did not wait for the helper");
    assert!(host.are_gone(&["helper"]).await);
}

#[tokio::test]
async fn an_import_that_nobody_wants_any_more_ends() {
    let host = Host::new(BUSY, LONG);
    let _ = tokio::time::timeout(Duration::from_millis(500), host.run(b"")).await.expect_err("goes on");
    assert!(host.are_gone(&["leader", "helper"]).await);
}

#[tokio::test]
async fn an_upload_that_breaks_off_is_refused() {
    let host = Host::new("cat > /dev/null; echo late", LONG);
    let root = Arc::new(host.space.fd().try_clone_to_owned().expect("a descriptor"));
    let broken = tokio_util::io::StreamReader::new(futures::stream::iter([
        Ok(bytes::Bytes::from_static(b"x")),
        Err(std::io::Error::from(std::io::ErrorKind::ConnectionReset)),
    ]));
    let result = host.importer.import(root, Import::Archive(Box::pin(broken))).await;
    assert!(matches!(result, Err(ImportError::Refused { code: code::NOT_AN_ARCHIVE, .. })), "{result:?}");
}

#[tokio::test]
async fn sources_are_judged_before_anything_runs() {
    let host = Host::new("echo ran > ran", LONG);
    let root = Arc::new(host.space.fd().try_clone_to_owned().expect("a descriptor"));
    for (url, reference, expected) in [
        ("https://127.0.0.1/a", None, code::FORBIDDEN_SOURCE),
        ("https://localhost/a", None, code::FORBIDDEN_SOURCE),
        ("https://name.invalid/a", None, code::UNREACHABLE),
        ("ext::sh", None, code::FORBIDDEN_SOURCE),
        ("https://8.8.8.8/a", Some("--upload-pack=sh"), code::CLONE_FAILED),
    ] {
        let git = Import::Git { url: url.into(), reference: reference.map(str::to_owned) };
        match host.importer.import(Arc::clone(&root), git).await {
            Err(ImportError::Refused { code, .. }) => assert_eq!(code, expected, "{url}"),
            other => panic!("{url}: {other:?}"),
        }
    }
    assert!(host.importer.check_git_url("http://example.com/a").is_err());
    assert!(host.importer.check_git_url("https://example.com/a").is_ok());
    assert_eq!(host.space.listing(), Vec::<String>::new());
}
