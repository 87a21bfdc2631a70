//! Imports through the real child process: confined, and still able to do its
//! work.

use std::fs;
use std::io::Write as _;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::time::Duration;

use bulkhead_core::id::{TaskId, TenantId};
use bulkhead_core::ports::archive::{ArchiveError, Archives as _, Place};
use bulkhead_core::ports::import::{Import, ImportError, Imported, Importer};
use bulkhead_core::ports::workspace::Workspaces as _;
use bulkhead_core::quota::Extent;
use bulkhead_workspace::import::{ChildImporter, ImportConfig};
use bulkhead_workspace::{KernelQuota, LocalWorkspaces};
use tempfile::TempDir;
use tokio_util::sync::CancellationToken;

/// Cargo builds the examples of a package with its tests.
fn child() -> PathBuf {
    let own = std::env::current_exe().expect("this test has a path");
    let target = own.ancestors().nth(2).expect("it lies in target/<profile>/deps");
    let child = target.join("examples/import_child");
    assert!(child.exists(), "run `cargo test -p bulkhead-workspace`, which builds {}", child.display());
    child
}

struct Host {
    dir: TempDir,
    importer: ChildImporter,
    root: Arc<OwnedFd>,
}

impl Host {
    fn new(change: impl Fn(&mut ImportConfig)) -> Self {
        let dir = TempDir::new().expect("a temporary directory");
        for name in ["space", "git-root"] {
            fs::create_dir(dir.path().join(name)).expect("makes");
        }
        let mut config = ImportConfig::new(child(), dir.path().join("staging"));
        config.args_prefix = Vec::new();
        config.local_git_roots = vec![dir.path().join("git-root")];
        config.limits.max_bytes = 1 << 20;
        change(&mut config);
        let importer = ChildImporter::new(config).expect("makes");
        let root = Arc::new(fs::File::open(dir.path().join("space")).expect("opens").into());
        Self { dir, importer, root }
    }

    fn path(&self, path: &str) -> PathBuf {
        self.dir.path().join(path)
    }

    async fn archive(&self, content: Vec<u8>) -> Result<Imported, ImportError> {
        let body = Box::pin(std::io::Cursor::new(content));
        self.importer.import(Arc::clone(&self.root), Import::Archive(body)).await
    }

    async fn git(&self, path: &Path) -> Result<Imported, ImportError> {
        let url = path.to_str().expect("is UTF-8").to_owned();
        self.importer.import(Arc::clone(&self.root), Import::Git { url, reference: None }).await
    }

    /// Waits until the staging directory is empty again.
    async fn is_clean(&self) -> bool {
        for _ in 0..100 {
            let own = fs::read_dir(self.path("staging")).expect("reads").flatten();
            if own.flat_map(|own| fs::read_dir(own.path()).expect("reads")).count() == 0 {
                return true;
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        false
    }
}

fn tar(files: &[(&str, &[u8])]) -> Vec<u8> {
    let mut builder = tar::Builder::new(Vec::new());
    for (name, content) in files {
        let mut header = tar::Header::new_gnu();
        header.set_size(content.len() as u64);
        header.set_mode(0o644);
        builder.append_data(&mut header, name, *content).expect("appends");
    }
    builder.into_inner().expect("ends")
}

fn git(at: &Path, args: &[&str]) {
    let mut command = Command::new("git");
    command.env("GIT_CONFIG_GLOBAL", "/dev/null").arg("-C").arg(at);
    command.args(["-c", "user.name=t", "-c", "user.email=t@t", "-c", "init.defaultBranch=main"]).args(args);
    let output = command.output().expect("git is there");
    assert!(output.status.success(), "{args:?}: {}", String::from_utf8_lossy(&output.stderr));
}

fn repository(at: &Path) {
    fs::create_dir_all(at).expect("makes");
    git(at, &["init", "--quiet"]);
    fs::create_dir(at.join("d")).expect("makes");
    fs::write(at.join("d/f"), "content").expect("writes");
    git(at, &["add", "-A"]);
    git(at, &["commit", "-q", "-m", "m"]);
}

fn refusal(result: Result<Imported, ImportError>) -> (&'static str, String) {
    match result {
        Err(ImportError::Refused { code, reason }) => (code, reason),
        other => panic!("{other:?}"),
    }
}

#[tokio::test]
async fn archives() {
    let host = Host::new(|_| ());
    let done = host.archive(tar(&[("a/f", b"one"), ("a/f", b"two"), ("g", b"three")])).await.expect("unpacks");
    assert_eq!((done.files, done.bytes), (2, 8));
    assert_eq!(fs::read(host.path("space/a/f")).expect("reads"), b"two");
    assert_eq!(refusal(host.archive(b"no archive".to_vec()).await).0, "not_an_archive");
    assert_eq!(refusal(host.archive(tar(&[("f", &vec![0; 2 << 20])])).await).0, "limit_bytes");
}

#[tokio::test]
async fn git_repositories() {
    let host = Host::new(|_| ());
    let source = host.path("git-root/repo");
    repository(&source);
    let done = host.git(&source).await.expect("clones");
    assert_eq!((done.files, done.directories, done.bytes), (1, 1, 7));
    assert_eq!(fs::read(host.path("space/d/f")).expect("reads"), b"content");
    assert!(host.is_clean().await);
    // Objects that lie elsewhere are beyond the wall, though git would follow.
    repository(&host.path("elsewhere"));
    git(&host.path(""), &["clone", "-q", "--shared", "elsewhere", "git-root/shared"]);
    if confined(&host) {
        assert_eq!(refusal(host.git(&host.path("git-root/shared")).await).0, "clone_failed");
    }
    assert_eq!(refusal(host.git(&host.path("elsewhere")).await).0, "forbidden_source");
    assert!(host.is_clean().await);
}

/// Runs the child by hand. Whether it said that it is confined.
fn confined(host: &Host) -> bool {
    let mut child = Command::new(child())
        .current_dir(host.path("space"))
        .args(["archive", r#"{"limits":{"max_bytes":1,"max_entries":1,"max_depth":1},"seconds":9,"git":null}"#])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .expect("starts");
    let mut stdin = child.stdin.take().expect("has one");
    // It waits for the archive, and would be ended before the server if memory ran out.
    let goes_first = || {
        std::thread::sleep(Duration::from_millis(10));
        fs::read_to_string(format!("/proc/{}/oom_score_adj", child.id())).is_ok_and(|score| score.trim() == "1000")
    };
    assert!((0..500).any(|_| goes_first()));
    // The server comes before it: field 19 of `stat` (proc_pid_stat(5)).
    let niceness = |process: u32| -> i32 {
        let stat = fs::read_to_string(format!("/proc/{process}/stat")).expect("is there");
        stat.rsplit_once(')')
            .and_then(|(_, rest)| rest.split_whitespace().nth(16)?.parse().ok())
            .expect("has 52 fields")
    };
    let wanted = (niceness(std::process::id()) + 10).min(19);
    assert!((0..500).any(|_| {
        std::thread::sleep(Duration::from_millis(10));
        niceness(child.id()) == wanted
    }));
    stdin.write_all(&[0; 1024]).expect("writes");
    drop(stdin);
    let output = child.wait_with_output().expect("ends");
    let said = String::from_utf8(output.stdout).expect("is UTF-8");
    assert!(output.status.success() && said.ends_with("}\n") && said.contains("\"done\""), "{said}");
    said.contains("\"confined\":true")
}

#[tokio::test]
async fn the_child_says_whether_it_is_confined() {
    let landlock = fs::read_to_string("/sys/kernel/security/lsm").is_ok_and(|all| all.contains("landlock"));
    assert!(confined(&Host::new(|_| ())) || !landlock);
}

/// The name is nobody's and the address was given: so it was not looked up, and
/// the walls of the child leave git its one way out.
#[tokio::test]
async fn git_connects_only_to_the_address_that_was_checked() {
    let host = Host::new(|_| ());
    let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("binds");
    let port = listener.local_addr().expect("has one").port();
    let staging = host.path("by-hand");
    fs::create_dir(&staging).expect("makes");
    let request = format!(
        r#"{{"limits":{{"max_bytes":1000,"max_entries":9,"max_depth":9}},"seconds":9,"git":{{"git":"git","reference":null,
        "staging":"{}","remote":{{"Https":{{"url":"https://name.invalid:{port}/a","host":"name.invalid","port":{port},
        "addresses":["127.0.0.1"]}}}}}}}}"#,
        staging.display()
    );
    let mut command = Command::new(child());
    command.current_dir(host.path("space")).args(["git", &request]).stdin(Stdio::piped()).stdout(Stdio::piped());
    let mut running = command.spawn().expect("starts");
    let alive = running.stdin.take();
    // Accepts, and hangs up before the first word of TLS.
    let server = std::thread::spawn(move || listener.accept().map(drop));
    let output = running.wait_with_output().expect("ends");
    drop(alive);
    let said = String::from_utf8(output.stdout).expect("is UTF-8");
    assert!(said.contains(r#""refused":{"code":"#) && !said.contains("resolve"), "{said}");
    server.join().expect("ends").expect("git came");
}

#[tokio::test]
async fn the_child_answers_nonsense_with_an_error() {
    for args in [&[][..], &["archive"], &["archive", "{}"], &["git", "nonsense"], &["other", "{}"]] {
        let output = Command::new(child()).args(args).output().expect("runs");
        let said = String::from_utf8(output.stdout).expect("is UTF-8");
        assert!(said.starts_with(r#"{"failed":"#), "{args:?}: {said}");
    }
}

#[tokio::test]
async fn time_is_limited() {
    let host = Host::new(|config| config.timeout = Duration::from_millis(300));
    let (_client, slow) = tokio::io::duplex(64);
    let result = host.importer.import(Arc::clone(&host.root), Import::Archive(Box::pin(slow))).await;
    assert_eq!(refusal(result).0, "limit_time");
}

#[tokio::test]
async fn workspaces_are_packed_and_unpacked_by_a_confined_child() {
    let dir = TempDir::new().expect("a temporary directory");
    let workspaces = LocalWorkspaces::new(dir.path(), KernelQuota::Off).expect("opens");
    let mut config = ImportConfig::new(child(), PathBuf::new());
    config.args_prefix = Vec::new();
    let archives = workspaces.archiver(config);
    let (tenant, task, stop) = (TenantId::from_parts(1, 1), TaskId::from_parts(1, 2), CancellationToken::new());
    let most = |bytes| Extent { bytes, entries: 4 };
    workspaces.create(tenant, task, most(1_000)).await.expect("makes");
    let root = dir.path().join(format!("workspaces/{tenant}/{task}"));
    fs::create_dir_all(root.join("a/b")).expect("makes");
    fs::write(root.join("a/f"), "content").expect("writes");
    fs::hard_link(root.join("a/f"), root.join("a/b/g")).expect("links");
    let packed = archives.pack(tenant, task, &stop).await.expect("packs");
    assert_eq!((packed.content.files, packed.content.directories, packed.content.bytes), (2, 2, 14));
    assert!(!root.exists());
    assert_eq!(archives.place(tenant, task).await.expect("looks"), Place::Archive { bytes: packed.bytes });
    assert_eq!(archives.found(None).await.expect("looks"), Some((tenant, vec![task])));
    assert_eq!(archives.found(Some(tenant)).await.expect("looks"), None);
    assert!(matches!(
        archives.unpack(tenant, task, most(13), most(1_000)).await,
        Err(ArchiveError::NoRoom { entries: false, .. })
    ));
    assert!(!root.exists());
    // The name in another directory needs a right of its own behind the wall.
    assert_eq!(archives.unpack(tenant, task, most(14), most(1_000)).await.expect("unpacks"), packed.content);
    assert_eq!(archives.place(tenant, task).await.expect("looks"), Place::Directory, "the directory counts");
    let inode = |name: &str| std::os::unix::fs::MetadataExt::ino(&fs::metadata(root.join(name)).expect("is there"));
    assert_eq!(inode("a/f"), inode("a/b/g"));
    stop.cancel();
    assert!(matches!(archives.pack(tenant, task, &stop).await, Err(ArchiveError::Stopped)));
    assert!(root.exists());
    workspaces.remove(tenant, task).await.expect("removes");
    assert_eq!(archives.place(tenant, task).await.expect("looks"), Place::Nowhere);

    // By hand: it says whether it is confined.
    let limits = r#"{"limits":{"max_bytes":1000,"max_entries":10,"max_depth":9},"seconds":9,"git":null}"#;
    let file = fs::File::create(dir.path().join("x")).expect("makes");
    let mut command = Command::new(child());
    let output = command.args(["pack", limits]).stdin(file).current_dir(dir.path()).output().expect("runs");
    let said = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(said.contains("\"done\"") || said.contains("\"refused\""), "{said}");
    assert_eq!(said.contains("\"confined\":true"), confined(&Host::new(|_| ())), "{said}");
}
