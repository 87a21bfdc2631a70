//! Fetching a repository. Git runs with no configuration but ours, may speak
//! one protocol to the addresses that were checked, and never has a work tree:
//! one commit is fetched into a bare repository, and its tree comes out as an
//! archive that our own writer unpacks. So checkout, hooks, filters, submodules
//! and `.git` itself, where most of git's holes were, have no part in it.

use std::io::{self, Read};
use std::net::IpAddr;
use std::os::fd::BorrowedFd;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::thread::JoinHandle;
use std::time::Duration;

use bulkhead_core::ports::import::{ImportError, Imported};

use super::protocol::{GitJob, Remote, clean};
use super::{ImportLimits, code, extract_archive, over_bytes, refused};

/// How often the size of what is fetched is looked at.
const WATCH: Duration = Duration::from_millis(50);
/// How much of git's standard error is kept.
const STDERR_TAIL: usize = 8 * 1024;
/// Most files of a repository that holds one commit: packs, a few references.
const MAX_FILES: usize = 100_000;

/// Settings of every run; see git-config(1).
const SETTINGS: &[&str] = &[
    "protocol.allow=never",
    "protocol.version=2",
    "http.followRedirects=false",
    "http.sslVerify=true",
    "http.proxy=",
    "http.lowSpeedLimit=1000",
    "http.lowSpeedTime=30",
    "credential.helper=",
    "core.askPass=",
    "core.hooksPath=/dev/null",
    "core.fsmonitor=false",
    "submodule.recurse=false",
    "fetch.recurseSubmodules=false",
    "transfer.fsckObjects=true",
    "transfer.bundleURI=false",
    // One pack instead of thousands of small files.
    "fetch.unpackLimit=1",
    "gc.auto=0",
    "maintenance.auto=false",
    "pack.threads=1",
    "init.defaultBranch=main",
];

/// Fetches one commit and unpacks its tree into `root`.
pub(super) fn clone_into(job: &GitJob, root: BorrowedFd<'_>, limits: ImportLimits) -> Result<Imported, ImportError> {
    let git = Git { job, repository: job.staging.join("repository"), limits };
    git.prepare()?;
    git.fetch()?;
    git.unpack(root)
}

struct Git<'a> {
    job: &'a GitJob,
    repository: PathBuf,
    limits: ImportLimits,
}

impl Git<'_> {
    fn command(&self) -> Command {
        let mut command = Command::new(&self.job.git);
        command.env_clear();
        for (name, value) in [
            ("HOME", "/nonexistent"),
            ("LC_ALL", "C"),
            ("GIT_CONFIG_NOSYSTEM", "1"),
            ("GIT_TERMINAL_PROMPT", "0"),
            ("GIT_NO_LAZY_FETCH", "1"),
            ("GIT_ATTR_NOSYSTEM", "1"),
        ] {
            command.env(name, value);
        }
        let path = std::env::var_os("PATH").unwrap_or_else(|| "/usr/local/bin:/usr/bin:/bin".into());
        command.env("PATH", path).env("TMPDIR", &self.job.staging);
        command.env("GIT_CONFIG_GLOBAL", self.job.staging.join("config"));
        for setting in SETTINGS {
            command.args(["-c", setting]);
        }
        match &self.job.remote {
            Remote::Https { host, port, addresses, .. } => {
                command.env("GIT_ALLOW_PROTOCOL", "https").args(["-c", "protocol.https.allow=always"]);
                command.arg("-c").arg(format!("http.curloptResolve={}", pin(host, *port, addresses)));
            }
            Remote::Local { .. } => {
                command.env("GIT_ALLOW_PROTOCOL", "file").args(["-c", "protocol.file.allow=always"]);
            }
        }
        command.arg("--git-dir").arg(&self.repository);
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::piped());
        command
    }

    /// An empty repository, and the settings that can't be arguments.
    fn prepare(&self) -> Result<(), ImportError> {
        // The process that serves a local repository is started without our
        // arguments, and refuses repositories of other users unless told here.
        let config = match self.job.remote {
            Remote::Local { .. } => "[safe]\n\tdirectory = *\n",
            Remote::Https { .. } => "",
        };
        std::fs::write(self.job.staging.join("config"), config).map_err(ImportError::Io)?;
        let mut init = self.command();
        init.args(["init", "--quiet", "--bare", "--template="]);
        let mut running = Running::start(init)?;
        let status = running.child.wait().map_err(ImportError::Io)?;
        let said = running.said();
        if !status.success() {
            return Err(ImportError::Io(io::Error::other(format!("git init: {}", last_line(&said)))));
        }
        // These have the last word: the tree is taken as it is, whatever the
        // repository's own attributes say is to be left out or filled in.
        let info = self.repository.join("info");
        std::fs::create_dir_all(&info).map_err(ImportError::Io)?;
        std::fs::write(info.join("attributes"), "* -export-ignore -export-subst\n").map_err(ImportError::Io)
    }

    fn fetch(&self) -> Result<(), ImportError> {
        let mut fetch = self.command();
        fetch.args(["fetch", "--quiet", "--depth=1", "--no-tags", "--no-recurse-submodules", "--end-of-options"]);
        match &self.job.remote {
            Remote::Https { url, .. } => fetch.arg(url),
            Remote::Local { path } => fetch.arg(path),
        };
        fetch.arg(self.job.reference.as_deref().unwrap_or("HEAD"));
        let mut running = Running::start(fetch)?;
        let status = loop {
            if let Some(status) = running.child.try_wait().map_err(ImportError::Io)? {
                break status;
            }
            if self.is_too_large() {
                running.kill();
                return Err(over_bytes(self.limits.max_bytes));
            }
            std::thread::sleep(WATCH);
        };
        let said = running.said();
        if self.is_too_large() {
            return Err(over_bytes(self.limits.max_bytes));
        }
        if status.success() { Ok(()) } else { Err(failed(&said)) }
    }

    fn unpack(&self, root: BorrowedFd<'_>) -> Result<Imported, ImportError> {
        let mut archive = self.command();
        archive.args(["archive", "--format=tar", "FETCH_HEAD"]).stdout(Stdio::piped());
        let mut running = Running::start(archive)?;
        let tree = running.child.stdout.take().ok_or_else(|| ImportError::Io(io::ErrorKind::BrokenPipe.into()))?;
        let unpacked = extract_archive(tree, root, self.limits);
        // After an error git may still be writing; its pipe is closed by now.
        if unpacked.is_err() {
            running.kill();
        }
        let status = running.child.wait().map_err(ImportError::Io)?;
        let said = running.said();
        match unpacked {
            // What git could not write is not what the client sent.
            Err(ImportError::Refused { code: code::NOT_AN_ARCHIVE, .. }) => Err(failed(&said)),
            Ok(_) if !status.success() => Err(failed(&said)),
            result => result,
        }
    }

    fn is_too_large(&self) -> bool {
        size(&self.job.staging).is_none_or(|size| size > self.limits.max_bytes.saturating_add(OVERHEAD))
    }
}

/// What an empty repository and its one commit take besides.
const OVERHEAD: u64 = 1 << 20;

/// Bytes of all files below; none if there are too many.
fn size(dir: &Path) -> Option<u64> {
    let (mut bytes, mut files) = (0, 0);
    let mut waiting = vec![dir.to_owned()];
    while let Some(dir) = waiting.pop() {
        // What went meanwhile takes no room.
        for entry in std::fs::read_dir(dir).into_iter().flatten().flatten() {
            files += 1;
            let Ok(meta) = entry.metadata() else { continue };
            if meta.is_dir() {
                waiting.push(entry.path());
            } else {
                bytes += meta.len();
            }
        }
        if files > MAX_FILES {
            return None;
        }
    }
    Some(bytes)
}

/// As curl wants it: `host:port:address,address`.
fn pin(host: &str, port: u16, addresses: &[IpAddr]) -> String {
    let addresses: Vec<String> = addresses
        .iter()
        .map(|address| match address {
            IpAddr::V4(address) => address.to_string(),
            IpAddr::V6(address) => format!("[{address}]"),
        })
        .collect();
    format!("{host}:{port}:{}", addresses.join(","))
}

/// A git that runs, and what it says.
struct Running {
    child: Child,
    said: Option<JoinHandle<Vec<u8>>>,
}

impl Running {
    fn start(mut command: Command) -> Result<Self, ImportError> {
        let mut child = command.spawn().map_err(ImportError::Io)?;
        let said = child.stderr.take().map(|stderr| std::thread::spawn(move || tail(stderr)));
        Ok(Self { child, said })
    }

    /// The end of its standard error, after it ended.
    fn said(&mut self) -> String {
        let said = self.said.take().and_then(|said| said.join().ok()).unwrap_or_default();
        String::from_utf8_lossy(&said).into_owned()
    }

    /// Ends it. Its helpers end when their pipes do, or with this process: the
    /// host kills the group.
    fn kill(&mut self) -> Option<ExitStatus> {
        let _ = self.child.kill();
        self.child.wait().ok()
    }
}

/// The last bytes of a stream.
fn tail(mut from: impl Read) -> Vec<u8> {
    let (mut end, mut buffer) = (Vec::new(), [0; 4096]);
    while let Ok(read @ 1..) = from.read(&mut buffer) {
        end.extend_from_slice(buffer.get(..read).unwrap_or_default());
        end.drain(..end.len().saturating_sub(STDERR_TAIL));
    }
    end
}

/// The line that says most: the last that git marks as an error, else the last.
fn last_line(said: &str) -> String {
    let lines = || said.lines().rev().map(str::trim).filter(|line| !line.is_empty());
    let marked = lines().find(|line| line.starts_with("fatal:") || line.starts_with("error:"));
    clean(marked.or_else(|| lines().next()).unwrap_or("git gave no reason"))
}

fn failed(said: &str) -> ImportError {
    const UNREACHABLE: [&str; 9] = [
        "Could not resolve host",
        "Failed to connect",
        "Couldn't connect",
        "Connection refused",
        "Connection reset",
        "timed out",
        "too slow",
        "unreachable",
        "Empty reply",
    ];
    let line = last_line(said);
    let code = if UNREACHABLE.iter().any(|sign| line.contains(sign)) { code::UNREACHABLE } else { code::CLONE_FAILED };
    refused(code, line)
}

#[cfg(test)]
#[path = "git_tests.rs"]
mod tests;
