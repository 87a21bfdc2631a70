//! A server process of its own, in a directory of its own.
//!
//! Compiled artefacts are shared between servers through a folder of the
//! target directory: compiling the built-in tools takes longer than all else.

use std::io::{BufRead as _, BufReader, Read as _};
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::{Receiver, channel};
use std::time::{Duration, Instant};

use tempfile::TempDir;

use super::Client;

/// How long a server may take to say where it listens, on a loaded machine.
const START: Duration = Duration::from_secs(60);
/// How long the built-in tools may take to be compiled in a debug build.
const BUILTINS: Duration = Duration::from_secs(600);

/// How a server is started.
#[derive(Default)]
pub struct Options {
    /// Further variables.
    pub env: Vec<(&'static str, String)>,
    /// Whether the built-in tools are wanted.
    pub builtins: bool,
    /// Where its log goes, if not beside its data.
    pub log: Option<PathBuf>,
    /// The user and group that it runs as, if not those of the tests, and an executable
    /// that this user reaches.
    pub user: Option<(u32, PathBuf)>,
}

impl Options {
    pub fn with(mut self, name: &'static str, value: impl ToString) -> Self {
        self.env.push((name, value.to_string()));
        self
    }

    pub fn builtins(mut self) -> Self {
        self.builtins = true;
        self
    }
}

/// A running server; killed and cleaned up when dropped.
pub struct Server {
    child: Child,
    directory: Option<TempDir>,
    lines: Receiver<String>,
    url: String,
    key: Option<String>,
    options: Options,
}

impl Server {
    /// Starts a server in an empty directory.
    pub fn start(options: Options) -> Self {
        let directory = tempfile::Builder::new().prefix("bulkhead-test-").tempdir().unwrap();
        Self::start_in(directory, options, None)
    }

    /// Starts a server in a new directory below this one, with no artefact of others.
    pub fn start_below(parent: &Path, options: Options) -> Self {
        let directory = tempfile::Builder::new().prefix("bulkhead-test-").tempdir_in(parent).unwrap();
        Self::start_with(directory, options, None)
    }

    /// Starts another host on the database of `first`.
    pub fn beside(first: &Server, options: Options) -> Self {
        let directory = tempfile::Builder::new().prefix("bulkhead-test-").tempdir().unwrap();
        Self::start_in(directory, options, first.key.clone())
    }

    fn start_in(directory: TempDir, options: Options, key: Option<String>) -> Self {
        copy_artifacts(&shared_artifacts(), &directory.path().join("data/artifacts"));
        Self::start_with(directory, options, key)
    }

    fn start_with(directory: TempDir, options: Options, key: Option<String>) -> Self {
        let data = directory.path().join("data");
        if let Some((user, _)) = options.user {
            std::os::unix::fs::chown(directory.path(), Some(user), Some(user)).unwrap();
        }
        let mut child = command(&data, &options).spawn().unwrap();
        let lines = lines_of(&mut child);
        let mut server = Self { child, directory: Some(directory), lines, url: String::new(), key, options };
        let listens = server.line_with("listens on ", START);
        server.url = word_after(&listens, "listens on ");
        let without_keys = server.options.env.iter().any(|(name, value)| *name == "BULKHEAD_AUTH" && value == "off");
        if server.key.is_none() && !without_keys {
            let line = server.line_with("API key", START);
            server.key = line.rsplit(' ').next().map(str::to_owned);
        }
        if server.options.builtins {
            server.line_with("Built-in tools:", BUILTINS);
            copy_artifacts(&data.join("artifacts"), &shared_artifacts());
        }
        server
    }

    /// The line of standard output that contains `text`.
    pub fn line_with(&self, text: &str, within: Duration) -> String {
        let until = Instant::now() + within;
        loop {
            let left = until.saturating_duration_since(Instant::now());
            match self.lines.recv_timeout(left) {
                Ok(line) if line.contains(text) => return line,
                Ok(_) => {}
                Err(error) => panic!("the server did not say `{text}`: {error}"),
            }
        }
    }

    pub fn client(&self) -> Client {
        Client::new(&self.url, self.key.as_deref())
    }

    pub fn url(&self) -> &str {
        &self.url
    }

    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    pub fn data(&self) -> PathBuf {
        self.directory.as_ref().unwrap().path().join("data")
    }

    /// A client with a new key: of the same user with fewer scopes, or of
    /// another tenant.
    pub fn client_with(&self, arguments: &[&str]) -> Client {
        let output = self.cli(&[&["keys", "create", "--json"], arguments].concat());
        let made: serde_json::Value = serde_json::from_slice(&output.stdout)
            .unwrap_or_else(|error| panic!("keys create: {error}: {}", String::from_utf8_lossy(&output.stderr)));
        Client::new(&self.url, made["key"].as_str())
    }

    /// What the server has logged so far.
    pub fn log(&self) -> String {
        let path = self.directory.as_ref().unwrap().path().join("log");
        String::from_utf8_lossy(&std::fs::read(path).unwrap()).into_owned()
    }

    /// Its API key.
    pub fn key(&self) -> &str {
        self.key.as_deref().unwrap()
    }

    /// Runs the command line on this server's data directory.
    pub fn cli(&self, arguments: &[&str]) -> std::process::Output {
        self.cli_as(self.key.as_deref(), arguments)
    }

    /// The same with a key of somebody else.
    pub fn cli_with(&self, key: &str, arguments: &[&str]) -> std::process::Output {
        self.cli_as(Some(key), arguments)
    }

    fn cli_as(&self, key: Option<&str>, arguments: &[&str]) -> std::process::Output {
        let mut command = Command::new(env!("CARGO_BIN_EXE_bulkhead"));
        command.env_clear().env("PATH", std::env::var_os("PATH").unwrap_or_default());
        command.env("BULKHEAD_DATA", self.data()).env("BULKHEAD_URL", &self.url);
        if let Some(key) = key {
            command.env("BULKHEAD_KEY", key);
        }
        // It is the same store that the command line works on.
        command.envs(
            self.options.env.iter().filter(|(name, _)| *name == "DATABASE_URL").map(|(name, value)| (name, value)),
        );
        command.args(arguments).output().unwrap()
    }

    /// `kill -9`, and the same directory again.
    pub fn kill_and_restart(mut self) -> Self {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
        self.restart()
    }

    /// SIGTERM, and the same directory again; what was logged on the way down is lost.
    pub fn stop_and_restart(mut self) -> Self {
        self.terminate();
        assert!(self.child.wait().unwrap().success(), "a server that is asked to stop ends well");
        self.restart()
    }

    /// The same with one variable more, or another value of it.
    pub fn stop_and_restart_with(mut self, name: &'static str, value: impl ToString) -> Self {
        self.options.env.push((name, value.to_string()));
        self.stop_and_restart()
    }

    pub fn terminate(&self) {
        self.signal(rustix::process::Signal::TERM);
    }

    pub fn signal(&self, signal: rustix::process::Signal) {
        let pid = rustix::process::Pid::from_child(&self.child);
        rustix::process::kill_process(pid, signal).unwrap();
    }

    /// `kill -9`; the directory stays for [`Server::start_again`].
    pub fn kill(&mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }

    /// Whether it ends by itself in so long; the directory stays as with [`Server::kill`].
    pub fn ends_within(&mut self, within: Duration) -> bool {
        let until = Instant::now() + within;
        while self.child.try_wait().unwrap().is_none() {
            if Instant::now() > until {
                return false;
            }
            std::thread::sleep(Duration::from_millis(10));
        }
        true
    }

    /// The same directory again, after [`Server::kill`].
    pub fn start_again(self) -> Self {
        self.restart()
    }

    /// The same with another value of a variable, or without it.
    pub fn start_again_with(mut self, name: &'static str, value: Option<String>) -> Self {
        self.options.env.retain(|(known, _)| *known != name);
        self.options.env.extend(value.map(|value| (name, value)));
        self.restart()
    }

    fn restart(mut self) -> Self {
        let directory = self.directory.take().unwrap();
        let options = std::mem::take(&mut self.options);
        let key = self.key.take();
        drop(self);
        Self::start_with(directory, options, key)
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        // It may have ended already; either way it is gone afterwards.
        let _ = self.child.kill();
        let _ = self.child.wait();
        if std::thread::panicking()
            && let Some(directory) = &self.directory
        {
            let mut log = String::new();
            let opened = std::fs::File::open(directory.path().join("log"));
            let _ = opened.and_then(|mut file| file.read_to_string(&mut log));
            let from = log.len().saturating_sub(6_000);
            eprintln!("---- the server's log ----\n{}", String::from_utf8_lossy(&log.as_bytes()[from..]));
        }
    }
}

fn command(data: &Path, options: &Options) -> Command {
    let log = options.log.clone().unwrap_or_else(|| data.parent().unwrap().join("log"));
    let log = std::fs::File::options().create(true).append(true).open(log).unwrap();
    let own = options.user.as_ref().map(|(_, exe)| exe.as_path());
    let mut command = Command::new(own.unwrap_or(Path::new(env!("CARGO_BIN_EXE_bulkhead"))));
    if let Some((user, _)) = options.user {
        // Which takes its groups and capabilities, too.
        command.uid(user).gid(user);
    }
    command
        .arg("serve")
        .env_clear()
        .env("PATH", std::env::var_os("PATH").unwrap_or_default())
        .env("BULKHEAD_DATA", data)
        .env("BULKHEAD_LISTEN", "127.0.0.1:0")
        .env("BULKHEAD_LOG", "info")
        .env("BULKHEAD_TOOLS__BUILTIN", options.builtins.to_string())
        .envs(options.env.iter().map(|(name, value)| (name, value)))
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(log)
        .process_group(0);
    command
}

fn lines_of(child: &mut Child) -> Receiver<String> {
    let output = child.stdout.take().unwrap();
    let (send, receive) = channel();
    // Ends with the process, whose output it reads.
    std::thread::spawn(move || {
        for line in BufReader::new(output).lines().map_while(Result::ok) {
            if send.send(line).is_err() {
                return;
            }
        }
    });
    receive
}

fn word_after(line: &str, text: &str) -> String {
    line.split(text).nth(1).and_then(|rest| rest.split_whitespace().next()).unwrap().to_owned()
}

fn shared_artifacts() -> PathBuf {
    PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join("artifacts")
}

/// Whole files only: each is copied beside its place and moved in.
fn copy_artifacts(from: &Path, to: &Path) {
    std::fs::create_dir_all(to).unwrap();
    let Ok(entries) = std::fs::read_dir(from) else { return };
    for entry in entries.map_while(Result::ok).filter(|entry| entry.path().is_file()) {
        let target = to.join(entry.file_name());
        if target.exists() {
            continue;
        }
        let temporary = to.join(format!(".{}-{}", std::process::id(), entry.file_name().display()));
        // An artefact that vanishes meanwhile is compiled again.
        if std::fs::copy(entry.path(), &temporary).is_ok() {
            let _ = std::fs::rename(&temporary, &target);
        }
    }
}
