//! A Redis server of the tests' own: Debian's program, a directory that goes away, a
//! free port of the loopback with a password. It can be stopped, killed and started again.
//!
//! It ends with the process of the tests, whatever ends that: a shell between them
//! waits for the end of a pipe that only the tests hold.

use std::net::{TcpListener, TcpStream};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

/// Its password: odd enough to be found where it must not be.
pub const REDIS_PASSWORD: &str = "r3dis-s3cret-of-the-tests";

/// How long a server may take to come up, on a loaded machine.
const PATIENCE: Duration = Duration::from_secs(30);

/// A running server.
pub struct RedisServer {
    port: u16,
    shell: Option<Child>,
}

impl RedisServer {
    /// Starts one on a free port.
    pub fn start() -> Self {
        let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
        let mut server = Self { port, shell: None };
        server.start_again();
        server
    }

    /// Starts it on the same port, empty, after [`RedisServer::kill`].
    pub fn start_again(&mut self) {
        assert!(self.shell.is_none(), "it runs");
        // The tests' end is the end of `cat`.
        let script = r#"
            directory=$(mktemp -d)
            redis-server --port "$1" --bind 127.0.0.1 --requirepass "$2" --dir "$directory" --save "" \
                --appendonly no --logfile "$directory/log" >/dev/null 2>&1 &
            server=$!
            cat >/dev/null
            kill -CONT $server
            kill -KILL $server
            wait $server
            rm -rf "$directory"
        "#;
        let mut command = Command::new("sh");
        command.args(["-c", script, "sh", &self.port.to_string(), REDIS_PASSWORD]);
        command.stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::null());
        self.shell = Some(command.spawn().unwrap());
        let until = Instant::now() + PATIENCE;
        while self.try_cli(&["PING"]).as_deref() != Some("PONG") {
            assert!(Instant::now() < until, "Redis does not come up: apt-get install redis-server");
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    /// Kills it: what it had is gone.
    pub fn kill(&mut self) {
        if let Some(mut shell) = self.shell.take() {
            drop(shell.stdin.take());
            shell.wait().unwrap();
        }
        assert!(TcpStream::connect(("127.0.0.1", self.port)).is_err(), "it is gone");
    }

    /// Its address, by its own port or that of a proxy.
    pub fn url(&self, port: u16) -> String {
        format!("redis://:{REDIS_PASSWORD}@127.0.0.1:{port}/0")
    }

    pub fn port(&self) -> u16 {
        self.port
    }

    /// What `redis-cli` prints.
    pub fn cli(&self, arguments: &[&str]) -> String {
        self.try_cli(arguments).unwrap_or_else(|| panic!("{arguments:?} was not answered"))
    }

    fn try_cli(&self, arguments: &[&str]) -> Option<String> {
        let output = Command::new("redis-cli")
            .args(["-h", "127.0.0.1", "-p", &self.port.to_string()])
            .args(arguments)
            .env("REDISCLI_AUTH", REDIS_PASSWORD)
            .output()
            .ok()?;
        output.status.success().then(|| String::from_utf8_lossy(&output.stdout).trim_end().to_owned())
    }
}

impl Drop for RedisServer {
    fn drop(&mut self) {
        if let Some(mut shell) = self.shell.take() {
            drop(shell.stdin.take());
            // It ends soon, and takes the server with it.
            let _ = shell.wait();
        }
    }
}
