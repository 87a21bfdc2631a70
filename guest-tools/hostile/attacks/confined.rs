//! Looks for a way out of the parts of a workspace that it was given: `/src` to
//! read, `/out` and `/deploy` to write in, and beside them `secret`, which it
//! was not given. Wanted: `succeeded`, with `escaped` false. The tests lay a
//! file in `src`, one in `secret`, and in `src` and `out` links to `secret` and
//! in `out` one to `src`.
#![cfg(target_arch = "wasm32")]

use bulkhead_tool::Outcome;
use hostile::Attempts;
use wasip2::filesystem::preopens::get_directories;
use wasip2::filesystem::types::{Descriptor, DescriptorFlags, ErrorCode, NewTimestamp, OpenFlags, PathFlags};

hostile::attacks!("confined", run);

struct Parts {
    src: Descriptor,
    out: Descriptor,
    deploy: Descriptor,
}

fn run(attack: &str) -> Outcome {
    let mut attempts = Attempts::default();
    let (mut src, mut out, mut deploy) = (None, None, None);
    for (directory, name) in get_directories() {
        match name.as_str() {
            "/src" => src = Some(directory),
            "/out" => out = Some(directory),
            "/deploy" => deploy = Some(directory),
            other => attempts.must_fail(&format!("be given {other}"), Ok::<_, ErrorCode>(directory)),
        }
    }
    let parts = Parts { src: src.expect("/src"), out: out.expect("/out"), deploy: deploy.expect("/deploy") };
    attempts.note("make a file in what may be written", open(&parts.out, "own", OpenFlags::CREATE));
    match attack {
        "paths" => paths(&parts, &mut attempts),
        "reading" => reading(&parts, &mut attempts),
        "symlinks" => symlinks(&parts, &mut attempts),
        "hard_links" => hard_links(&parts, &mut attempts),
        "renames" => renames(&parts, &mut attempts),
        _ => return hostile::unknown(attack),
    }
    attempts.finish()
}

fn open(at: &Descriptor, path: &str, how: OpenFlags) -> Result<Descriptor, ErrorCode> {
    let change = how.contains(OpenFlags::CREATE) || how.contains(OpenFlags::TRUNCATE);
    let rights = if change { DescriptorFlags::READ | DescriptorFlags::WRITE } else { DescriptorFlags::READ };
    at.open_at(PathFlags::SYMLINK_FOLLOW, path, how, rights)
}

fn each(parts: &Parts) -> [(&'static str, &Descriptor); 3] {
    [("src", &parts.src), ("out", &parts.out), ("deploy", &parts.deploy)]
}

/// From a part by its parent, by the whole name, and through what was laid.
fn paths(parts: &Parts, attempts: &mut Attempts) {
    for (name, part) in each(parts) {
        for path in [
            "..",
            "../secret/key",
            "../src/file",
            "../out/own",
            "/secret/key",
            "/src/file",
            "x/../../secret/key",
            "./../secret/key",
            "to-secret",
            "to-secret/key",
            "to-src/file",
        ] {
            let what = |how: &str| format!("{how} {path} from {name}");
            attempts.must_fail(&what("open"), open(part, path, OpenFlags::empty()));
            attempts.must_fail(&what("list"), open(part, path, OpenFlags::DIRECTORY));
            attempts.must_fail(&what("stat"), part.stat_at(PathFlags::SYMLINK_FOLLOW, path));
        }
        for path in ["../new", "../secret/new", "/secret/new", "to-secret/new", "to-src/new"] {
            let what = |how: &str| format!("{how} {path} from {name}");
            attempts.must_fail(&what("create"), open(part, path, OpenFlags::CREATE));
            attempts.must_fail(&what("make"), part.create_directory_at(path));
        }
    }
}

/// All that changes what may only be read.
fn reading(parts: &Parts, attempts: &mut Attempts) {
    let (src, none, now) = (&parts.src, PathFlags::empty(), NewTimestamp::Now);
    attempts.must_fail("truncate a file", open(src, "file", OpenFlags::TRUNCATE));
    attempts.must_fail("create a file", open(src, "new", OpenFlags::CREATE));
    attempts.must_fail("make a directory", src.create_directory_at("new"));
    attempts.must_fail("link", src.symlink_at("file", "new"));
    attempts.must_fail("unlink", src.unlink_file_at("file"));
    attempts.must_fail("remove a directory", src.remove_directory_at("dir"));
    attempts.must_fail("set times by path", src.set_times_at(none, "file", now, now));
    let rights = DescriptorFlags::READ | DescriptorFlags::WRITE;
    attempts.must_fail("open to write", src.open_at(none, "file", OpenFlags::empty(), rights));
    if let Ok(file) = open(src, "file", OpenFlags::empty()) {
        attempts.must_fail("write", file.write(b"changed", 0));
        attempts.must_fail("write a stream", file.write_via_stream(0));
        attempts.must_fail("append a stream", file.append_via_stream());
        attempts.must_fail("set the size", file.set_size(0));
        attempts.must_fail("set times", file.set_times(now, now));
    }
    let rights = DescriptorFlags::READ | DescriptorFlags::MUTATE_DIRECTORY;
    let inner = src.open_at(none, "dir", OpenFlags::DIRECTORY, rights);
    let inner = inner.or_else(|_| open(src, "dir", OpenFlags::DIRECTORY));
    if let Ok(dir) = inner {
        attempts.must_fail("create in a directory within", open(&dir, "new", OpenFlags::CREATE));
        attempts.must_fail("make one in a directory within", dir.create_directory_at("new"));
    }
}

/// Links that lead from one part to another, or to what is none.
fn symlinks(parts: &Parts, attempts: &mut Attempts) {
    let out = &parts.out;
    for target in ["../secret", "../src/file", "../deploy/x", "..", "deep/../../secret", "/out/own", "/secret"] {
        attempts.must_fail(&format!("link to {target}"), out.symlink_at(target, "link"));
    }
    attempts.note("make a directory", out.create_directory_at("deep"));
    // Harmless where it is made, and not where it is moved or linked to.
    attempts.note("link one up", out.symlink_at("../secret", "deep/up"));
    attempts.must_fail("move it up", out.rename_at("deep/up", out, "up"));
    attempts.must_fail("link it up", out.link_at(PathFlags::empty(), "deep/up", out, "up"));
    attempts.must_fail("move it to another part", out.rename_at("deep/up", &parts.deploy, "up"));
    // One that was laid is not opened, nor moved on.
    attempts.must_fail("write through one that was laid", open(out, "to-src/file", OpenFlags::TRUNCATE));
    attempts.must_fail("move one that was laid", out.rename_at("to-src", &parts.deploy, "to-src"));
}

/// What may only be read gets no second name where writing is allowed.
fn hard_links(parts: &Parts, attempts: &mut Attempts) {
    let Parts { src, out, deploy } = parts;
    for flags in [PathFlags::empty(), PathFlags::SYMLINK_FOLLOW] {
        attempts.must_fail("link a file to write in", src.link_at(flags, "file", out, "stolen"));
        attempts.must_fail("link one within", src.link_at(flags, "file", src, "again"));
        attempts.must_fail("link into what is read", out.link_at(flags, "own", src, "planted"));
        attempts.must_fail("link by a parent", out.link_at(flags, "../src/file", out, "stolen"));
        attempts.must_fail("link through a link", out.link_at(flags, "to-src/file", out, "stolen"));
    }
    attempts.must_fail("open what was linked", open(out, "stolen", OpenFlags::TRUNCATE));
    if let Ok(dir) = open(src, "dir", OpenFlags::DIRECTORY) {
        let linked = dir.link_at(PathFlags::empty(), "inner", deploy, "stolen");
        attempts.must_fail("link from a directory within", linked);
    }
}

/// What may only be read is neither taken away nor replaced, and what is open
/// leads nowhere else when it is moved.
fn renames(parts: &Parts, attempts: &mut Attempts) {
    let Parts { src, out, deploy } = parts;
    attempts.must_fail("take a file", src.rename_at("file", out, "stolen"));
    attempts.must_fail("take a directory", src.rename_at("dir", out, "stolen"));
    attempts.must_fail("rename within", src.rename_at("file", src, "other"));
    attempts.must_fail("replace a file", out.rename_at("own", src, "file"));
    attempts.must_fail("take by a parent", out.rename_at("../src/file", out, "stolen"));
    attempts.must_fail("move out", out.rename_at("own", out, "../secret/key"));
    attempts.must_fail("take through a link", out.rename_at("to-src/file", out, "stolen"));
    attempts.note("make a directory", out.create_directory_at("moving"));
    let Ok(moving) = open(out, "moving", OpenFlags::DIRECTORY) else { return };
    attempts.note("move it to another part", out.rename_at("moving", deploy, "moved"));
    for path in ["..", "../..", "../own", "../../secret/key", "../../src/file"] {
        attempts.must_fail(&format!("open {path} from what was moved"), open(&moving, path, OpenFlags::empty()));
    }
}
