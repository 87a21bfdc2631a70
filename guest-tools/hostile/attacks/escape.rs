//! Looks for a way out of the workspace, past the C library and with the host's
//! own interface. Wanted: `succeeded`, with `escaped` false: every attempt
//! refused. The tests lay a file `secret` beside the workspace, and in it links
//! of their own (`planted`), as a careless extraction could.
#![cfg(target_arch = "wasm32")]

use bulkhead_tool::Outcome;
use hostile::Attempts;
use wasip2::filesystem::preopens::get_directories;
use wasip2::filesystem::types::{Descriptor, DescriptorFlags, ErrorCode, NewTimestamp, OpenFlags, PathFlags};

hostile::attacks!("escape", run);

/// Paths that lead outside, from the workspace's root.
const OUTSIDE: [&str; 14] = [
    "..",
    "../",
    "../secret",
    "/",
    "/etc/passwd",
    "//etc/passwd",
    "./../secret",
    "inside/../../secret",
    "inside/../..",
    "../../../../../../etc/passwd",
    "/proc/self/environ",
    "/proc/self/root/etc/passwd",
    "/proc/1/cwd",
    "inside//..//../secret",
];

fn run(attack: &str) -> Outcome {
    let root = get_directories().pop().expect("the workspace").0;
    let mut attempts = Attempts::default();
    let inside = root.create_directory_at("inside");
    attempts.note("make a directory inside", inside);
    attempts.note("make a file inside", open(&root, "own", OpenFlags::CREATE));
    match attack {
        "paths" => paths(&root, &mut attempts),
        "symlinks" => symlinks(&root, &mut attempts),
        "links" => links(&root, &mut attempts),
        "renames" => renames(&root, &mut attempts),
        "hard_links" => hard_links(&root, &mut attempts),
        "planted" => planted(&root, &mut attempts),
        "swapped" => swapped(&root, &mut attempts),
        "odd_names" => odd_names(&root, &mut attempts),
        _ => return hostile::unknown(attack),
    }
    attempts.finish()
}

fn open(at: &Descriptor, path: &str, how: OpenFlags) -> Result<Descriptor, ErrorCode> {
    let create = how.contains(OpenFlags::CREATE);
    let rights = if create { DescriptorFlags::READ | DescriptorFlags::WRITE } else { DescriptorFlags::READ };
    at.open_at(PathFlags::SYMLINK_FOLLOW, path, how, rights)
}

/// For writing, but only what exists.
fn open_to_write(at: &Descriptor, path: &str) -> Result<Descriptor, ErrorCode> {
    let rights = DescriptorFlags::READ | DescriptorFlags::WRITE;
    at.open_at(PathFlags::SYMLINK_FOLLOW, path, OpenFlags::TRUNCATE, rights)
}

fn paths(root: &Descriptor, attempts: &mut Attempts) {
    let none = PathFlags::empty();
    for path in OUTSIDE {
        attempts.must_fail(&format!("open {path}"), open(root, path, OpenFlags::empty()));
        attempts.must_fail(&format!("open directory {path}"), open(root, path, OpenFlags::DIRECTORY));
        attempts.must_fail(&format!("stat {path}"), root.stat_at(none, path));
        attempts.must_fail(&format!("readlink {path}"), root.readlink_at(path));
        attempts.must_fail(&format!("hash {path}"), root.metadata_hash_at(none, path));
        let now = NewTimestamp::Now;
        attempts.must_fail(&format!("set times of {path}"), root.set_times_at(none, path, now, now));
    }
    for path in ["../new", "/tmp/bulkhead-escape", "inside/../../new"] {
        attempts.must_fail(&format!("create {path}"), open(root, path, OpenFlags::CREATE));
        attempts.must_fail(&format!("make directory {path}"), root.create_directory_at(path));
    }
    attempts.must_fail("delete ../secret", root.unlink_file_at("../secret"));
    attempts.must_fail("delete ..", root.remove_directory_at(".."));
    // A directory further in must not lead further out.
    if let Ok(inside) = open(root, "inside", OpenFlags::DIRECTORY) {
        attempts.must_fail("open ../../secret from inside", open(&inside, "../../secret", OpenFlags::empty()));
        attempts.must_fail("open .. from inside", open(&inside, "..", OpenFlags::DIRECTORY));
        attempts.must_fail("open ../own from inside", open(&inside, "../own", OpenFlags::empty()));
    }
}

/// Making such a link may be allowed, as long as it leads nowhere.
fn symlinks(root: &Descriptor, attempts: &mut Attempts) {
    let targets =
        ["../secret", "..", "/etc/passwd", "/", "../../../../etc/passwd", "inside/../../secret", "/proc/self/root"];
    for (n, target) in targets.iter().enumerate() {
        let link = format!("link-{n}");
        let made = root.symlink_at(target, &link);
        let is_made = made.is_ok();
        attempts.note(&format!("link to {target}"), made);
        if is_made {
            through(root, &link, target, attempts);
        }
    }
    // A chain that leaves only at its end, and a loop.
    attempts.note("link to a link", root.symlink_at("link-0", "chain"));
    // Where the first link was refused, the chain dangles inside: harmless.
    if root.readlink_at("link-0").is_ok() {
        through(root, "chain", "a chain", attempts);
    }
    attempts.note("link to itself", root.symlink_at("loop", "loop"));
    attempts.must_fail("open a loop", open(root, "loop", OpenFlags::empty()));
    // A link that is harmless where it is made, and not where it is moved to.
    attempts.note("link one up from inside", root.symlink_at("..", "inside/up"));
    attempts.note("move it to the root", root.rename_at("inside/up", root, "up"));
    attempts.must_fail("open the moved link", open(root, "up", OpenFlags::DIRECTORY));
    attempts.must_fail("open the secret through it", open(root, "up/secret", OpenFlags::empty()));
}

/// Links that are harmless as text, and lead out from where they really lie.
fn links(root: &Descriptor, attempts: &mut Attempts) {
    for directory in ["deep", "deep/er"] {
        attempts.note(&format!("make {directory}"), root.create_directory_at(directory));
    }
    attempts.note("link to the root from below", root.symlink_at("../..", "deep/er/up"));
    attempts.must_fail("link out past that link", root.symlink_at("../../secret", "deep/er/up/planted"));
    attempts.must_fail("link out by a name and back", root.symlink_at("deep/er/up/..", "back"));
    match open(root, "deep/er/up", OpenFlags::DIRECTORY) {
        Ok(up) => attempts.must_fail("link out from a descriptor", up.symlink_at("../secret", "planted-too")),
        Err(error) => attempts.note("open the root by a link", Err::<(), _>(error)),
    }
    attempts.note("link that stays", root.symlink_at("../../own", "deep/er/stays"));
    attempts.must_fail("move it past a link", root.rename_at("deep/er/stays", root, "deep/er/up/stays"));
    let none = PathFlags::empty();
    attempts.must_fail("the same by a hard link", root.link_at(none, "deep/er/stays", root, "deep/er/up/stays-too"));
    attempts.must_fail("move its directory up", root.rename_at("deep/er", root, "er"));
}

fn through(root: &Descriptor, link: &str, target: &str, attempts: &mut Attempts) {
    let follow = PathFlags::SYMLINK_FOLLOW;
    let now = NewTimestamp::Now;
    attempts.must_fail(&format!("read through a link to {target}"), open(root, link, OpenFlags::empty()));
    attempts.must_fail(&format!("write through a link to {target}"), open_to_write(root, link));
    attempts.must_fail(&format!("create through a link to {target}"), open(root, link, OpenFlags::CREATE));
    attempts.must_fail(&format!("list a link to {target}"), open(root, link, OpenFlags::DIRECTORY));
    attempts.must_fail(&format!("open {link}/secret"), open(root, &format!("{link}/secret"), OpenFlags::empty()));
    attempts.must_fail(&format!("stat through a link to {target}"), root.stat_at(follow, link));
    attempts.must_fail(&format!("set times through a link to {target}"), root.set_times_at(follow, link, now, now));
    attempts.must_fail(&format!("make {link}/new"), root.create_directory_at(&format!("{link}/new")));
    attempts.must_fail(&format!("rename to {link}/new"), root.rename_at("own", root, &format!("{link}/new")));
}

fn renames(root: &Descriptor, attempts: &mut Attempts) {
    for (from, to) in [
        ("own", "../stolen"),
        ("own", "/tmp/stolen"),
        ("inside", "../stolen"),
        ("../secret", "stolen"),
        ("..", "stolen"),
        ("/etc/passwd", "stolen"),
        ("own", "inside/../../stolen"),
        ("inside", "inside/itself"),
    ] {
        attempts.must_fail(&format!("rename {from} to {to}"), root.rename_at(from, root, to));
    }
}

fn hard_links(root: &Descriptor, attempts: &mut Attempts) {
    let none = PathFlags::empty();
    for (from, to) in [
        ("../secret", "stolen"),
        ("/etc/passwd", "stolen"),
        ("own", "../stolen"),
        ("inside/../../secret", "stolen"),
        ("inside", "stolen"),
    ] {
        attempts.must_fail(&format!("link {from} as {to}"), root.link_at(none, from, root, to));
    }
    attempts.note("make a link out", root.symlink_at("../secret", "out"));
    let followed = root.link_at(PathFlags::SYMLINK_FOLLOW, "out", root, "stolen");
    attempts.must_fail("hard link what the link leads to", followed);
    attempts.note("hard link the link", root.link_at(none, "out", root, "out-2"));
    attempts.must_fail("open through it", open(root, "out-2", OpenFlags::empty()));
}

/// What the tests have laid: a link out, one to a directory outside, a hard
/// link to a file outside, a FIFO. The last must not hang the host either.
fn planted(root: &Descriptor, attempts: &mut Attempts) {
    for name in ["planted-link", "planted-dir/secret", "planted-absolute", "planted-fifo", "planted-device"] {
        attempts.must_fail(&format!("open {name}"), open(root, name, OpenFlags::empty()));
        attempts.must_fail(&format!("write {name}"), open_to_write(root, name));
    }
}

/// A directory that is open is moved, and a link out laid in its place: what
/// is open still is where it was, and its name leads nowhere.
fn swapped(root: &Descriptor, attempts: &mut Attempts) {
    let _ = root.create_directory_at("inside/deeper");
    let Ok(deeper) = open(root, "inside/deeper", OpenFlags::DIRECTORY) else { return };
    attempts.note("move the open directory", root.rename_at("inside/deeper", root, "moved"));
    attempts.note("lay a link out in its place", root.symlink_at("../../", "inside/deeper"));
    attempts.must_fail("open ../../secret from where it was", open(&deeper, "../../secret", OpenFlags::empty()));
    attempts.must_fail("open .. from where it is", open(&deeper, "..", OpenFlags::DIRECTORY));
    attempts.must_fail("open its name", open(root, "inside/deeper/secret", OpenFlags::empty()));
    attempts.note("delete it while it is open", root.remove_directory_at("moved"));
    attempts.must_fail("make a file in what is deleted", open(&deeper, "ghost", OpenFlags::CREATE));
    for n in 0..200 {
        let name = format!("turn-{n}");
        let _ = root.create_directory_at(&name);
        let _ = root.rename_at(&name, root, "turn");
        let _ = root.symlink_at("..", "turn-link");
        let _ = root.rename_at("turn-link", root, "turn");
        if let Ok(file) = open(root, "turn/secret", OpenFlags::empty()) {
            attempts.must_fail("open the secret through a name that changes", Ok::<_, ()>(file));
        }
        let _ = root.remove_directory_at("turn");
        let _ = root.unlink_file_at("turn");
    }
}

/// Names that some layers read in another way than others.
fn odd_names(root: &Descriptor, attempts: &mut Attempts) {
    for path in ["", "\0", "own\0/../../secret", "../\0secret", "own/", "own/..", "own/../../secret"] {
        attempts.must_fail(&format!("open {path:?}"), open(root, path, OpenFlags::empty()));
    }
    for name in
        ["..\\secret", "%2e%2e%2fsecret", "\u{2025}/secret", "C:\\x", "new\nline", "\u{202e}gpj.exe", "con", "~", "-rf"]
    {
        attempts.note(&format!("create {name:?}, a name like any other"), open(root, name, OpenFlags::CREATE));
    }
    attempts.must_fail("a name of 256 bytes", open(root, &"n".repeat(256), OpenFlags::CREATE));
    attempts.must_fail("a path of 8192 bytes", open(root, &"p/".repeat(4096), OpenFlags::CREATE));
}
