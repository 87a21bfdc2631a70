//! A PostgreSQL server of the tests' own: Debian's programs, a directory that goes
//! away, a socket in it, and a free port of the loopback with a password.
//!
//! It ends with the process of the tests, whatever ends that: a shell between them
//! waits for the end of a pipe that only the tests hold.

use std::io::{BufRead as _, BufReader, Write as _};
use std::net::TcpListener;
use std::os::unix::fs::{PermissionsExt as _, chown};
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

/// The password of the role `postgres`: odd enough to be found where it must not be.
pub const PASSWORD: &str = "s3cret-of-the-tests";

/// How long a server may take to come up or to stop, on a loaded machine.
const PATIENCE: Duration = Duration::from_secs(60);

/// A running server.
pub struct Postgres {
    directory: PathBuf,
    port: u16,
    next: AtomicU32,
    /// The shell between; its input is the pipe.
    _shell: Child,
}

/// The one server of this process, started when it is first needed.
pub fn postgres() -> &'static Postgres {
    static SERVER: OnceLock<Postgres> = OnceLock::new();
    // It is thrown away: nothing need reach the disk.
    SERVER.get_or_init(|| Postgres::start(false))
}

impl Postgres {
    /// Starts one whose commits reach the disk, or do not.
    pub fn start(durable: bool) -> Self {
        let programs = programs();
        // Not below TMPDIR: the name of a socket is short.
        let directory = tempfile::Builder::new().prefix("bh-pg-").tempdir_in("/tmp").unwrap().keep();
        let ids = user();
        if let Some((user, group)) = ids {
            chown(&directory, Some(user), Some(group)).unwrap();
        }
        std::fs::write(directory.join("password"), PASSWORD).unwrap();
        std::fs::set_permissions(directory.join("password"), std::fs::Permissions::from_mode(0o644)).unwrap();
        // It is its own authority.
        let certified = rcgen::generate_simple_self_signed(["localhost".to_owned()]).unwrap();
        for (name, text) in
            [("server.crt", certified.cert.pem()), ("server.key", certified.signing_key.serialize_pem())]
        {
            let path = directory.join(name);
            std::fs::write(&path, text).unwrap();
            std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o600)).unwrap();
            if let Some((user, group)) = ids {
                chown(&path, Some(user), Some(group)).unwrap();
            }
        }
        let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
        // The tests' end is the end of `cat`.
        let script = r#"
            set -e
            "$1/initdb" -D "$2/data" -U postgres -E UTF8 --locale=C.UTF-8 --no-sync --auth-local=trust \
                --auth-host=scram-sha-256 --pwfile="$2/password" >"$2/log" 2>&1
            "$1/postgres" -D "$2/data" -k "$2" -p "$3" -h 127.0.0.1 -c fsync="$4" -c full_page_writes="$4" \
                -c ssl=on -c ssl_cert_file="$2/server.crt" -c ssl_key_file="$2/server.key" \
                -c max_connections=300 -c shared_buffers=64MB -c autovacuum_naptime=5s -c log_min_messages=warning >>"$2/log" 2>&1 &
            cat >/dev/null
            # It may be another than was started: see `crash`.
            "$1/pg_ctl" -D "$2/data" -m immediate stop >/dev/null 2>&1 || true
            rm -rf "$2"
        "#;
        let mut command = Command::new("sh");
        command.args(["-c", script, "sh"]).arg(programs).arg(&directory).arg(port.to_string());
        command.arg(if durable { "on" } else { "off" });
        command.current_dir("/").stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::null()).process_group(0);
        if let Some((user, group)) = ids {
            command.uid(user).gid(group);
        }
        let shell = command.spawn().unwrap();
        let server = Self { directory, port, next: AtomicU32::new(0), _shell: shell };
        server.wait();
        server
    }

    /// Ends it without a shutdown, and starts it again with what it recovers.
    pub fn crash(&self) {
        let mut command = Command::new(programs().join("pg_ctl"));
        command.arg("-D").arg(self.directory.join("data")).args(["-m", "immediate", "-w", "-l"]);
        command.arg(self.directory.join("log")).arg("restart").current_dir("/");
        // It would keep the tests' own streams open.
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).process_group(0);
        if let Some((user, group)) = user() {
            command.uid(user).gid(group);
        }
        assert!(command.status().unwrap().success(), "PostgreSQL was not started again");
        self.wait();
    }

    /// Waits until it answers.
    fn wait(&self) {
        let until = Instant::now() + PATIENCE;
        while self.psql("postgres", "SELECT 1").is_err() {
            let log = std::fs::read_to_string(self.directory.join("log")).unwrap_or_default();
            assert!(Instant::now() < until, "PostgreSQL does not come up:\n{log}");
            std::thread::sleep(Duration::from_millis(50));
        }
    }

    /// The port of the loopback.
    pub fn port(&self) -> u16 {
        self.port
    }

    /// The address of a database by the socket, which asks for no password.
    pub fn socket_url(&self, database: &str) -> String {
        let directory = self.directory.to_str().unwrap().replace('/', "%2F");
        format!("postgres://postgres@{directory}:{}/{database}", self.port)
    }

    /// The address of a database by a port: the server's, or a proxy's before it. In
    /// plain text: a proxy should meet the protocol, not TLS.
    pub fn url(&self, port: u16, database: &str) -> String {
        format!("postgres://postgres:{PASSWORD}@127.0.0.1:{port}/{database}?sslmode=disable")
    }

    /// The same with TLS and a server that proves that it is `host`, by this authority.
    pub fn verified_url(&self, host: &str, authority: &Path, database: &str) -> String {
        let (port, authority) = (self.port, authority.display());
        format!("postgres://postgres:{PASSWORD}@{host}:{port}/{database}?sslmode=verify-full&sslrootcert={authority}")
    }

    /// The file of the authority that the server's certificate is of.
    pub fn authority(&self) -> PathBuf {
        self.directory.join("server.crt")
    }

    /// A new database, empty, or as `template` is.
    pub fn database(&self, template: Option<&str>) -> String {
        let name = format!("test_{}", self.next.fetch_add(1, Ordering::Relaxed));
        let template = template.map(|template| format!(" TEMPLATE {template}")).unwrap_or_default();
        self.psql("postgres", &format!("CREATE DATABASE {name}{template}")).unwrap();
        name
    }

    /// What `psql` prints, without ornament; its complaint if it fails.
    pub fn psql(&self, database: &str, sql: &str) -> Result<String, String> {
        let output = self.command(database).args(["-c", sql]).output().unwrap();
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).trim_end().to_owned();
        if output.status.success() { Ok(text(&output.stdout)) } else { Err(text(&output.stderr)) }
    }

    /// Holds a table for itself until what is returned is dropped.
    pub fn locked(&self, database: &str, table: &str) -> Locked {
        let mut psql = self.command(database).stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
        let statements = format!("BEGIN; LOCK TABLE {table};\n\\echo locked\n");
        psql.stdin.as_mut().unwrap().write_all(statements.as_bytes()).unwrap();
        let mut said = String::new();
        BufReader::new(psql.stdout.as_mut().unwrap()).read_line(&mut said).unwrap();
        assert_eq!(said, "locked\n");
        Locked(psql)
    }

    fn command(&self, database: &str) -> Command {
        let mut command = Command::new(programs().join("psql"));
        command
            .args(["-XAtq", "-v", "ON_ERROR_STOP=1", "-U", "postgres", "-d", database, "-h"])
            .arg(&self.directory)
            .args(["-p", &self.port.to_string()])
            .env("PGOPTIONS", "-c client_min_messages=warning");
        command
    }
}

/// A table that is held by a session of its own.
pub struct Locked(Child);

impl Drop for Locked {
    fn drop(&mut self) {
        // The end of its input ends the session.
        drop(self.0.stdin.take());
        let _ = self.0.wait();
    }
}

/// Where the server's programs are: Debian keeps them by version, out of the path.
fn programs() -> PathBuf {
    let mut versions: Vec<PathBuf> = std::fs::read_dir("/usr/lib/postgresql")
        .into_iter()
        .flatten()
        .filter_map(|entry| Some(entry.ok()?.path().join("bin")))
        .filter(|path| path.join("initdb").exists())
        .collect();
    versions.sort_by_key(|path| version(path));
    if let Some(newest) = versions.pop() {
        return newest;
    }
    let found = std::env::var_os("PATH").into_iter().flat_map(|path| std::env::split_paths(&path).collect::<Vec<_>>());
    let found = found.into_iter().find(|path| path.join("initdb").exists());
    found.unwrap_or_else(|| panic!("these tests need PostgreSQL's server: apt-get install postgresql"))
}

fn version(path: &Path) -> u32 {
    path.parent().and_then(|path| path.file_name()?.to_str()?.parse().ok()).unwrap_or(0)
}

/// Whom to run it as: it refuses root.
fn user() -> Option<(u32, u32)> {
    let id = |arguments: &[&str]| {
        let output = Command::new("id").args(arguments).output().unwrap();
        String::from_utf8_lossy(&output.stdout).trim().parse::<u32>().ok()
    };
    if id(&["-u"]) != Some(0) {
        return None;
    }
    ["postgres", "nobody"].iter().find_map(|name| Some((id(&["-u", name])?, id(&["-g", name])?)))
}
