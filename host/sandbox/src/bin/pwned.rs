//! A worker that was taken over: behind the second wall, by itself without the
//! parts it is told, or as the host has it, it tries everything that code of an
//! attacker in that process would try, and says what it reached.

use std::io::{self, Read as _};
use std::net::TcpStream;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};

use bulkhead_sandbox::{Part, Walls, put_up, taken_over_worker_main};
use nix::libc;
use rustix::fs::{AtFlags, CWD, Mode, OFlags};
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

/// `<directory of the own workspaces> <secret of somebody else> <port of a listener> [part,…]`:
/// puts the wall up itself, without these parts.
pub(crate) fn main(args: &[String]) -> io::Result<()> {
    let without = without(args);
    let directory: OwnedFd = std::fs::File::open(args.first().ok_or(io::ErrorKind::InvalidInput)?)?.into();
    let prey = Prey::new(directory, args, parent())?;
    // As a service may be started.
    let open = getrlimit(Resource::Nofile);
    setrlimit(Resource::Nofile, Rlimit { current: open.maximum, ..open })?;
    let walls = put_up(prey.root.as_fd(), &without);
    rustix::io::write(io::stdout(), prey.attack(&walls)?.to_string().as_bytes())?;
    Ok(())
}

/// The parts named by the fourth argument.
fn without(args: &[String]) -> Vec<Part> {
    let named = args.get(3).map_or("", String::as_str);
    Part::ALL.into_iter().filter(|part| named.split(',').any(|name| name == part.name())).collect()
}

/// A worker that the host started, bound, and believes in; it writes down what it
/// reached where it may write, then serves. Arguments as of [`main`].
pub(crate) fn worker(args: &[String]) -> ExitCode {
    // Asked for now, because behind the wall nobody may.
    let parent = parent();
    taken_over_worker_main(&without(args), |directory, walls| {
        // One of nobody's describes the tool, and has nowhere to write.
        let Some(directory) = directory else { return };
        let report =
            directory.try_clone_to_owned().and_then(|directory| Prey::new(directory, args, parent)?.attack(walls));
        let text = report.unwrap_or_else(|error| serde_json::json!({ "error": error.to_string() })).to_string();
        let flags = OFlags::CREATE | OFlags::WRONLY | OFlags::CLOEXEC;
        let file = rustix::fs::openat(directory, REPORT, flags, Mode::RUSR | Mode::WUSR);
        // The test looks for it.
        let _ = file.and_then(|file| rustix::io::write(file, text.as_bytes()));
    })
}

/// Where a worker that was taken over says what it reached.
const REPORT: &str = "reached.json";

fn parent() -> i64 {
    i64::from(rustix::process::getppid().map_or(0, |pid| pid.as_raw_nonzero().get()))
}

struct Prey {
    root: OwnedFd,
    secret: PathBuf,
    climbing: PathBuf,
    port: u16,
    parent: i64,
}

impl Prey {
    fn new(root: OwnedFd, args: &[String], parent: i64) -> io::Result<Self> {
        let [own, secret, port, ..] = args else { return Err(io::ErrorKind::InvalidInput.into()) };
        let home = Path::new(own).parent().unwrap_or(Path::new("/"));
        Ok(Self {
            root,
            secret: secret.into(),
            // From the own directory to the neighbour's file.
            climbing: Path::new("..").join(Path::new(secret).strip_prefix(home).unwrap_or(Path::new(secret))),
            port: port.parse().map_err(io::Error::other)?,
            parent,
        })
    }

    /// Tries everything; says what it reached.
    fn attack(&self, walls: &Walls) -> io::Result<serde_json::Value> {
        let (mut reached, mut refused) = (Vec::new(), serde_json::Map::new());
        for (name, attempt) in ATTEMPTS {
            match attempt(self) {
                Ok(()) => reached.push(*name),
                Err(error) => drop(refused.insert((*name).into(), error.raw_os_error().into())),
            }
        }
        Ok(serde_json::json!({
            "walls": walls,
            "missing": walls.missing().iter().map(|part| part.name()).collect::<Vec<_>>(),
            "without": walls.without(),
            "reached": reached,
            "refused": refused,
        }))
    }
}

/// More memory than any worker may have, and what it would be for.
const HUGE: i64 = 64 << 30;
const READ_WRITE: i64 = (libc::PROT_READ | libc::PROT_WRITE) as i64;

/// A group that a test gives to the process.
const GROUP: u32 = 54_321;

type Attempt = fn(&Prey) -> io::Result<()>;

const ATTEMPTS: &[(&str, Attempt)] = &[
    // Files of others.
    ("file.absolute", |prey| read(&prey.secret)),
    ("file.system", |_| read("/etc/passwd")),
    ("file.list", |prey| std::fs::read_dir(prey.secret.parent().unwrap_or(Path::new("/"))).map(drop)),
    ("file.climb", |prey| read_at(prey, &prey.climbing)),
    ("file.climb_trailing_slash", |prey| {
        open_at(prey, &slashed(prey.climbing.parent()), OFlags::DIRECTORY | OFlags::RDONLY).map(drop)
    }),
    ("file.symlink", |prey| through_link(prey, "link", &prey.secret, "link")),
    ("file.symlink_trailing_slash", |prey| {
        let directory = prey.secret.parent().unwrap_or(Path::new("/"));
        let name = prey.secret.file_name().unwrap_or_default().to_string_lossy().into_owned();
        through_link(prey, "links", directory, &format!("links/{name}"))
    }),
    ("file.rename_race", race),
    ("file.hard_link", |prey| {
        rustix::fs::linkat(CWD, &prey.secret, &prey.root, "hard", AtFlags::empty())?;
        read_at(prey, Path::new("hard"))
    }),
    ("file.create", |prey| {
        open_at(prey, &prey.climbing.with_file_name("planted"), OFlags::CREATE | OFlags::WRONLY).map(drop)
    }),
    ("file.rename_out", |prey| {
        drop(open_at(prey, Path::new("own"), OFlags::CREATE | OFlags::WRONLY)?);
        Ok(rustix::fs::renameat(&prey.root, "own", &prey.root, prey.climbing.with_file_name("moved"))?)
    }),
    ("file.truncate", |prey| {
        open_at(prey, &prey.climbing.with_file_name("other"), OFlags::WRONLY | OFlags::TRUNC).map(drop)
    }),
    ("file.rename_in", |prey| {
        Ok(rustix::fs::renameat(&prey.root, prey.climbing.with_file_name("other"), &prey.root, "taken")?)
    }),
    ("file.through_proc", |prey| read(format!("/proc/self/fd/{}/{}", prey.root.as_raw_fd(), prey.climbing.display()))),
    ("file.times", |prey| {
        // Null: to now. Landlock has no rule for it.
        let path = std::ffi::CString::new(prey.climbing.as_os_str().as_encoded_bytes())?;
        raw(libc::SYS_utimensat, [i64::from(prey.root.as_raw_fd()), path.as_ptr() as i64, 0, 0])
    }),
    ("file.own_memory", |_| read("/proc/self/mem").or_else(|_| read("/proc/self/environ"))),
    ("file.executable", |_| read("/proc/self/exe")),
    // To outlive the server when memory runs out.
    ("file.oom_score", |_| std::fs::write("/proc/self/oom_score_adj", "900")),
    ("file.parents_environment", |prey| read(format!("/proc/{}/environ", prey.parent))),
    ("file.fifo", |prey| {
        raw(
            libc::SYS_mknodat,
            [i64::from(prey.root.as_raw_fd()), pointer(c"fifo"), i64::from(libc::S_IFIFO | 0o600), 0],
        )
    }),
    ("file.device", |prey| {
        let kind = i64::from(libc::S_IFCHR | 0o600);
        raw(libc::SYS_mknodat, [i64::from(prey.root.as_raw_fd()), pointer(c"zero"), kind, 0x105])
    }),
    // Landlock does not hide names: only a root of its own does.
    ("name.absolute", |prey| std::fs::symlink_metadata(&prey.secret).map(drop)),
    ("name.system", |_| std::fs::symlink_metadata("/etc/passwd").map(drop)),
    ("name.climb", |prey| look(prey, &prey.climbing)),
    ("name.climb_far", |prey| look(prey, &Path::new(&"../".repeat(40)).join("etc/passwd"))),
    ("name.relative", |_| std::fs::symlink_metadata("../../../../etc/passwd").map(drop)),
    ("name.symlink", |prey| {
        rustix::fs::symlinkat("/etc/passwd", &prey.root, "look")?;
        Ok(rustix::fs::statat(&prey.root, "look", AtFlags::empty()).map(drop)?)
    }),
    ("name.link", |_| Ok(rustix::fs::readlinkat(CWD, "/proc/self/exe", Vec::new()).map(drop)?)),
    ("name.process", |prey| std::fs::symlink_metadata(format!("/proc/{}", prey.parent)).map(drop)),
    ("name.path", |_| {
        Ok(rustix::fs::openat(CWD, "/etc/passwd", OFlags::PATH | OFlags::CLOEXEC, Mode::empty()).map(drop)?)
    }),
    // The network.
    ("net.connect", |prey| TcpStream::connect(("127.0.0.1", prey.port)).map(drop)),
    ("net.inet", |_| socket(libc::AF_INET, libc::SOCK_STREAM)),
    ("net.udp", |_| socket(libc::AF_INET, libc::SOCK_DGRAM)),
    ("net.unix", |_| socket(libc::AF_UNIX, libc::SOCK_STREAM)),
    ("net.netlink", |_| socket(libc::AF_NETLINK, libc::SOCK_RAW)),
    ("net.vsock", |_| socket(libc::AF_VSOCK, libc::SOCK_STREAM)),
    ("net.pair", |_| std::os::unix::net::UnixStream::pair().map(drop)),
    // Other processes.
    ("process.run", |_| std::process::Command::new("/bin/true").status().map(drop)),
    ("process.signal", |prey| raw(libc::SYS_kill, [prey.parent, 0, 0, 0])),
    ("process.trace", |prey| raw(libc::SYS_ptrace, [i64::from(libc::PTRACE_SEIZE), prey.parent, 0, 0])),
    ("process.descriptor", |prey| raw(libc::SYS_pidfd_open, [prey.parent, 0, 0, 0])),
    ("process.limits", |prey| raw(libc::SYS_prlimit64, [prey.parent, i64::from(libc::RLIMIT_NOFILE), 0, 0])),
    // Code that nobody compiled.
    ("memory.executable", |_| map(i64::from(libc::PROT_READ | libc::PROT_WRITE | libc::PROT_EXEC)).map(drop)),
    // Open by nature: a process that loads code can make code.
    ("memory.two_steps", |_| {
        let page = map(READ_WRITE)?;
        raw(libc::SYS_mprotect, [page, 4096, i64::from(libc::PROT_READ | libc::PROT_EXEC), 0])
    }),
    ("memory.file", |_| raw(libc::SYS_memfd_create, [pointer(c"x"), 0, 0, 0])),
    // The kernel's larger doors. Arguments are wrong on purpose: what counts is
    // that the call is refused before they are looked at.
    ("kernel.namespace", |_| raw(libc::SYS_unshare, [i64::from(libc::CLONE_NEWUTS), 0, 0, 0])),
    ("kernel.io_uring", |_| refused(libc::SYS_io_uring_setup)),
    ("kernel.bpf", |_| refused(libc::SYS_bpf)),
    ("kernel.perf", |_| refused(libc::SYS_perf_event_open)),
    ("kernel.keys", |_| refused(libc::SYS_keyctl)),
    ("kernel.userfaultfd", |_| refused(libc::SYS_userfaultfd)),
    ("kernel.mount", |_| refused(libc::SYS_mount)),
    ("kernel.handle", |_| refused(libc::SYS_open_by_handle_at)),
    ("kernel.mode", |prey| {
        drop(open_at(prey, Path::new("mode"), OFlags::CREATE | OFlags::WRONLY)?);
        raw(libc::SYS_fchmodat, [i64::from(prey.root.as_raw_fd()), pointer(c"mode"), 0o4777, 0])
    }),
    // What others may do to this process.
    ("others.trace", |_| match rustix::process::dumpable_behavior()? {
        rustix::process::DumpableBehavior::NotDumpable => Err(io::ErrorKind::PermissionDenied.into()),
        _ => Ok(()),
    }),
    ("others.groups", |_| match rustix::process::getgroups()?.contains(&rustix::process::Gid::from_raw(GROUP)) {
        true => Ok(()),
        false => Err(io::ErrorKind::PermissionDenied.into()),
    }),
    // More than a worker needs.
    ("bounds.descriptors", |prey| {
        let held: Result<Vec<OwnedFd>, _> = (0..17_000).map(|_| rustix::io::dup(&prey.root)).collect();
        Ok(held.map(drop)?)
    }),
    ("bounds.memory", |_| map_bytes(HUGE, READ_WRITE).map(drop)),
    // What `RLIMIT_DATA` does not count. (The kernel has no `MAP_SHARED_VALIDATE` without a file.)
    ("bounds.shared_memory", |_| map_as(libc::MAP_SHARED, HUGE, READ_WRITE).map(drop)),
    ("bounds.shared_file", |prey| {
        let file = open_at(prey, Path::new("shared"), OFlags::CREATE | OFlags::RDWR)?;
        rustix::fs::ftruncate(&file, 4096)?;
        let flags = i64::from(libc::MAP_SHARED_VALIDATE);
        raw_six(libc::SYS_mmap, [0, 4096, READ_WRITE, flags, i64::from(file.as_raw_fd()), 0]).map(drop)
    }),
    ("bounds.stack", |_| map_as(libc::MAP_PRIVATE | libc::MAP_GROWSDOWN, HUGE, READ_WRITE).map(drop)),
    ("bounds.file_size", |prey| {
        let file = open_at(prey, Path::new("huge"), OFlags::CREATE | OFlags::WRONLY)?;
        Ok(rustix::fs::ftruncate(&file, 2 << 30)?)
    }),
    ("bounds.sparse_write", |prey| {
        let file = open_at(prey, Path::new("sparse"), OFlags::CREATE | OFlags::WRONLY)?;
        Ok(rustix::io::pwrite(&file, b"x", 2 << 30).map(drop)?)
    }),
    ("bounds.threads", |_| {
        let ending = AtomicBool::new(false);
        std::thread::scope(|scope| {
            let wait = || {
                while !ending.load(Relaxed) {
                    std::thread::sleep(std::time::Duration::from_millis(1));
                }
            };
            let started = (0..100)
                .try_for_each(|_| std::thread::Builder::new().stack_size(64 << 10).spawn_scoped(scope, wait).map(drop));
            ending.store(true, Relaxed);
            started
        })
    }),
    // What only root may: a file that nobody may read, its owner neither.
    ("root.unreadable", |prey| read_at(prey, Path::new("unreadable"))),
];

fn read(path: impl AsRef<Path>) -> io::Result<()> {
    std::fs::File::open(path)?.read(&mut [0; 16]).map(drop)
}

fn open_at(prey: &Prey, path: &Path, flags: OFlags) -> io::Result<OwnedFd> {
    Ok(rustix::fs::openat(&prey.root, path, flags | OFlags::CLOEXEC, Mode::RUSR | Mode::WUSR)?)
}

fn read_at(prey: &Prey, path: &Path) -> io::Result<()> {
    Ok(rustix::io::read(open_at(prey, path, OFlags::RDONLY)?, &mut [0; 16]).map(drop)?)
}

/// Whether a file exists, below the own directory.
fn look(prey: &Prey, path: &Path) -> io::Result<()> {
    Ok(rustix::fs::statat(&prey.root, path, AtFlags::SYMLINK_NOFOLLOW).map(drop)?)
}

fn through_link(prey: &Prey, link: &str, target: &Path, path: &str) -> io::Result<()> {
    rustix::fs::symlinkat(target, &prey.root, link)?;
    read_at(prey, Path::new(path))
}

/// A name that is a directory when it is looked at, and a link out of it when it is
/// opened: one thread moves them, another opens.
fn race(prey: &Prey) -> io::Result<()> {
    const TRIES: usize = 20_000;
    let name = prey.secret.file_name().unwrap_or_default();
    rustix::fs::mkdirat(&prey.root, "turn", Mode::RWXU)?;
    rustix::fs::symlinkat(prey.climbing.parent().unwrap_or(Path::new("..")), &prey.root, "turned")?;
    let own = open_at(prey, &Path::new("turn").join(name), OFlags::CREATE | OFlags::WRONLY)?;
    rustix::io::write(own, b"own")?;
    let over = AtomicBool::new(false);
    let rename = |from: &str, to: &str| rustix::fs::renameat(&prey.root, from, &prey.root, to);
    std::thread::scope(|scope| {
        let turning = std::thread::Builder::new().spawn_scoped(scope, || {
            while !over.load(Relaxed) {
                let _ = rename("turn", "away").and_then(|()| rename("turned", "turn"));
                let _ = rename("turn", "turned").and_then(|()| rename("away", "turn"));
            }
        })?;
        let got_out = (0..TRIES).any(|_| {
            let mut text = [0; 6];
            let opened = open_at(prey, &Path::new("turn").join(name), OFlags::RDONLY);
            opened.is_ok_and(|file| rustix::io::read(file, &mut text).is_ok() && text == *b"secret")
        });
        over.store(true, Relaxed);
        let _ = turning.join();
        if got_out { Ok(()) } else { Err(io::ErrorKind::PermissionDenied.into()) }
    })
}

fn slashed(path: Option<&Path>) -> PathBuf {
    PathBuf::from(format!("{}/", path.unwrap_or(Path::new("..")).display()))
}

fn socket(family: i32, kind: i32) -> io::Result<()> {
    raw(libc::SYS_socket, [i64::from(family), i64::from(kind), 0, 0])
}

fn pointer(text: &'static std::ffi::CStr) -> i64 {
    text.as_ptr() as i64
}

/// Reached if the kernel looked at the arguments.
fn refused(call: i64) -> io::Result<()> {
    match raw(call, [0; 4]) {
        Err(error) if error.raw_os_error() == Some(libc::EPERM) => Err(error),
        _ => Ok(()),
    }
}

/// A page of one's own.
fn map(protection: i64) -> io::Result<i64> {
    map_bytes(4096, protection)
}

fn map_bytes(bytes: i64, protection: i64) -> io::Result<i64> {
    map_as(libc::MAP_PRIVATE, bytes, protection)
}

fn map_as(kind: i32, bytes: i64, protection: i64) -> io::Result<i64> {
    let flags = kind | libc::MAP_ANONYMOUS | libc::MAP_NORESERVE;
    raw_six(libc::SYS_mmap, [0, bytes, protection, i64::from(flags), -1, 0])
}

fn raw(call: i64, [a, b, c, d]: [i64; 4]) -> io::Result<()> {
    raw_six(call, [a, b, c, d, 0, 0]).map(drop)
}

#[expect(unsafe_code, reason = "an attacker in this process is not held to safe wrappers")]
fn raw_six(call: i64, arguments: [i64; 6]) -> io::Result<i64> {
    let [a, b, c, d, e, f] = arguments;
    // SAFETY: arguments are numbers, null, or pointers to strings that live; none
    // of the calls writes to memory of this process that Rust knows of.
    let result = unsafe { libc::syscall(call, a, b, c, d, e, f) };
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(result) }
}
