//! A worker has a user of its own where the server is root: what belongs to the server's
//! user is out of reach even if all that knows of names fails, and workspaces are used as
//! ever.

use std::os::unix::fs::{MetadataExt as _, PermissionsExt, chown};
use std::sync::Arc;
use std::time::Duration;

use bulkhead_core::grants::{SubPath, WorkspaceAccess};
use bulkhead_core::ports::sandbox::{Run, RunPart};
use bulkhead_sandbox::{CgroupParent, Isolation, Part};
use bytes::Bytes;
use tokio_util::sync::CancellationToken;

use crate::harness::{Bench, Remember, summary};
use crate::walls::{Laid, Reached, has_namespaces, may_administer, running, status};

/// Whether a worker can have one here: asked without any of the code that is tested.
fn can_be() -> bool {
    const EXT4: i64 = 0xef53;
    const XFS: i64 = 0x5846_5342;
    const BTRFS: i64 = 0x9123_683e;
    let kind = rustix::fs::statfs(std::env::temp_dir()).unwrap().f_type;
    let maps_owners = [EXT4, XFS, BTRFS].contains(&kind);
    let can = may_administer() && has_namespaces(None) && maps_owners;
    if !can {
        println!("only root can give users away, where there are user namespaces, on ext4, XFS or btrfs");
    }
    can
}

fn touch() -> Bytes {
    let touch = std::fs::read(concat!(env!("CARGO_MANIFEST_DIR"), "/../../guest-tools/dist/fixtures/touch.wasm"));
    touch.expect("run tools/build-guests").into()
}

const CREATE: &str = r#"{"create": [{"path": "a", "content": "x"}]}"#;

/// What a worker of the host's reaches that was taken over, without these parts.
async fn reached(own_users: bool, without: &[Part]) -> Reached {
    let home = tempfile::tempdir().unwrap();
    let (own, other) = (home.path().join("tenant_a"), home.path().join("tenant_b"));
    for directory in [&own, &other] {
        std::fs::create_dir(directory).unwrap();
        std::fs::set_permissions(directory, PermissionsExt::from_mode(0o700)).unwrap();
    }
    for name in ["secret", "other"] {
        std::fs::write(other.join(name), name).unwrap();
    }
    let names: Vec<&str> = without.iter().map(|part| part.name()).collect();
    let bench = Bench::with(|config| {
        let (own, secret) = (own.to_str().unwrap().into(), other.join("secret").to_str().unwrap().into());
        config.worker_args = vec!["pwned-worker".into(), own, secret, "1".into(), names.join(",")];
        config.isolation = Isolation::BestEffort;
        config.own_users = own_users;
        config.cgroup = CgroupParent::Off;
        config.domains = Some(Arc::new(Laid(home.path().into())));
    });
    assert_eq!(summary(&bench.outcome(&crate::guests::echo(), "{}").await), "succeeded");
    let text = std::fs::read_to_string(own.join("reached.json")).unwrap();
    Reached(serde_json::from_str(&text).unwrap())
}

/// Everything that goes by names is gone, and the filter of system calls too.
#[tokio::test]
async fn what_is_the_server_s_is_not_a_worker_s() {
    if !can_be() {
        return;
    }
    let without = [Part::Landlock, Part::OwnRoot, Part::Seccomp, Part::NotDumpable];
    let theirs = [
        "file.absolute",
        "file.list",
        "file.climb",
        "file.rename_race",
        "file.create",
        "file.truncate",
        "file.rename_in",
        "process.signal",
        "process.limits",
    ];
    reached(false, &without).await.assert(&theirs);
    let reached = reached(true, &without).await;
    let still: Vec<_> = reached.names().into_iter().filter(|name| theirs.contains(name)).collect();
    assert!(still.is_empty(), "{still:?}");
    assert_eq!(reached.0["walls"]["own_user"], true);
}

/// As many as a worker needs, with no control group.
#[tokio::test]
async fn a_worker_makes_no_threads_without_end() {
    if !can_be() {
        return;
    }
    assert!(!reached(true, &[]).await.names().contains(&"bounds.threads"));
    reached(false, &[]).await.assert(&["bounds.threads"]);
}

/// Two workers are two users; the files that their guests make are the server's.
#[tokio::test]
async fn each_worker_is_another_user_and_files_are_the_server_s() {
    let bench = Bench::with(|config| config.worker_args.push("users-of-their-own".into()));
    let walls = bench.sandbox.check_walls().await.unwrap();
    assert!(walls.own_user || !can_be());
    let prepared = bench.prepare(&touch()).await;
    let outcome = bench.run(bench.call(&prepared, CREATE, WorkspaceAccess::ReadWrite)).await.unwrap();
    assert_eq!(summary(&outcome), "succeeded", "{outcome:?}");
    let made = std::fs::metadata(bench.workspace.path().join("a")).unwrap();
    let own = (rustix::process::geteuid().as_raw(), rustix::process::getegid().as_raw());
    assert_eq!((made.uid(), made.gid()), own);
    if !walls.own_user {
        return;
    }
    let other = Bench::with(|config| config.worker_args.push("users-of-their-own".into()));
    let spin = other.prepare(&crate::guests::spin()).await;
    let cancel = CancellationToken::new();
    let call = other.spawn(other.call(&spin, "{}", WorkspaceAccess::None), Remember::new(), cancel.clone());
    // Those that described tools end meanwhile.
    let users = || running("users-of-their-own").into_iter().map(|pid| status(pid, "Uid:"));
    let mut seen: Vec<String> = Vec::new();
    for _ in 0..200 {
        seen = users().collect();
        if seen.len() == 2 {
            break;
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    let [one, two] = &seen[..] else { panic!("{seen:?}") };
    assert_ne!(one, two);
    for user in [one, two] {
        let ids: Vec<u32> = user.split_whitespace().map(|id| id.parse().unwrap()).collect();
        assert!(ids.iter().all(|id| *id >= 1_879_048_192 && *id == ids[0]), "{user}");
    }
    cancel.cancel();
    call.await.unwrap().unwrap();
}

/// A part of a workspace is seen as the whole is.
#[tokio::test]
async fn a_part_of_a_workspace_is_its_own_too() {
    let bench = Bench::new();
    let part = bench.workspace.path().join("deep/part");
    std::fs::create_dir_all(&part).unwrap();
    std::fs::set_permissions(&part, PermissionsExt::from_mode(0o700)).unwrap();
    let prepared = bench.prepare(&touch()).await;
    let run = bench.call(&prepared, r#"{"create": [{"path": "deep/part/a", "content": "x"}]}"#, WorkspaceAccess::None);
    let directory = Arc::new(std::fs::File::open(&part).unwrap().into());
    let path: SubPath = "deep/part".parse().unwrap();
    let run = Run { parts: vec![RunPart { path, access: WorkspaceAccess::ReadWrite, directory }], ..run };
    let outcome = bench.run(run).await.unwrap();
    assert_eq!(summary(&outcome), "succeeded", "{outcome:?}");
    assert!(part.join("a").exists());
}

/// A worker with a user of its own could write nothing there; others keep theirs.
#[tokio::test]
async fn where_a_workspace_is_of_another_group_its_worker_does_without() {
    if !can_be() {
        return;
    }
    let bench = Bench::new();
    chown(bench.workspace.path(), None, Some(54_321)).unwrap();
    let prepared = bench.prepare(&touch()).await;
    let outcome = bench.run(bench.call(&prepared, CREATE, WorkspaceAccess::ReadWrite)).await.unwrap();
    assert_eq!(summary(&outcome), "succeeded", "{outcome:?}");
    assert!(bench.workspace.path().join("a").exists());
    assert!(bench.sandbox.check_walls().await.unwrap().own_user);
    assert_eq!(bench.sandbox.stats().lost, 0);
}

/// It would have a namespace of the host's as its own.
#[tokio::test]
async fn a_worker_that_only_says_that_it_left_is_not_used() {
    let honest = Bench::new();
    let prepared = honest.prepare(&crate::guests::echo()).await;
    let liar = honest.again(|config| config.worker_args = vec!["false-worker".into(), "says-it-left".into()]);
    let outcome = liar.run(liar.call(&prepared, "{}", WorkspaceAccess::None)).await.unwrap();
    assert_eq!(summary(&outcome), "succeeded");
    assert!(!liar.sandbox.check_walls().await.unwrap().own_user);
    assert_eq!(liar.sandbox.stats().lost, 0);
}
