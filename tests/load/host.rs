//! A server process to be measured.

use std::io::{BufRead as _, BufReader};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use bulkhead_core::id::{TenantId, UserId};
use serde_json::Value;
use tempfile::TempDir;

use super::client::Connection;

pub struct Host {
    /// None of another tenant's view: the server is not its own.
    child: Option<Child>,
    directory: Option<TempDir>,
    pub address: String,
    key: String,
}

impl Host {
    pub fn start(env: &[(&str, &str)]) -> Self {
        let directory = tempfile::Builder::new().prefix("bulkhead-bench-").tempdir().unwrap();
        Self::start_in(directory, env, None)
    }

    fn start_in(directory: TempDir, env: &[(&str, &str)], key: Option<String>) -> Self {
        let mut child = Command::new(env!("CARGO_BIN_EXE_bulkhead"))
            .arg("serve")
            .env("BULKHEAD_DATA", directory.path().join("data"))
            .env("BULKHEAD_LISTEN", "127.0.0.1:0")
            .env("BULKHEAD_TOOLS__BUILTIN", "false")
            .env("BULKHEAD_LOG", "warn")
            .envs(env.iter().copied())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut lines = BufReader::new(child.stdout.take().unwrap()).lines().map_while(Result::ok);
        let listens = lines.find(|line| line.contains("listens on")).unwrap();
        let address = listens.split("http://").nth(1).and_then(|rest| rest.split(' ').next()).unwrap().to_owned();
        let key = key.unwrap_or_else(|| {
            let line = lines.find(|line| line.contains("API key")).unwrap();
            line.rsplit(' ').next().unwrap().to_owned()
        });
        Self { child: Some(child), directory: Some(directory), address, key }
    }

    /// The same directory in a new process.
    pub fn restart(mut self) -> Self {
        let mut child = self.child.take().unwrap();
        child.kill().unwrap();
        child.wait().unwrap();
        let directory = self.directory.take().unwrap();
        Self::start_in(directory, &[], Some(self.key.clone()))
    }

    /// The same server, as another tenant sees it.
    pub fn other_tenant(&self) -> Self {
        self.tenant(2)
    }

    /// The same server, as this tenant sees it.
    pub fn tenant(&self, number: u64) -> Self {
        self.user(TenantId::from_parts(number, 2), UserId::from_parts(number, 2))
    }

    /// The same server, as another user of the same tenant sees it.
    pub fn other_user(&self) -> Self {
        let mut connection = Connection::open(&self.address);
        let who: Value =
            serde_json::from_slice(connection.send(&self.request("GET", "/v1/whoami", "text/plain", b""))).unwrap();
        self.user(who["tenant"].as_str().unwrap().parse().unwrap(), UserId::from_parts(2, 2))
    }

    fn user(&self, tenant: TenantId, user: UserId) -> Self {
        let output = Command::new(env!("CARGO_BIN_EXE_bulkhead"))
            .args(["keys", "create", "--json", "--tenant"])
            .arg(tenant.to_string())
            .arg("--user")
            .arg(user.to_string())
            .env("BULKHEAD_DATA", self.data())
            .output()
            .unwrap();
        let made: Value = serde_json::from_slice(&output.stdout).unwrap();
        Self {
            child: None,
            directory: None,
            address: self.address.clone(),
            key: made["key"].as_str().unwrap().to_owned(),
        }
    }

    pub fn data(&self) -> std::path::PathBuf {
        self.directory.as_ref().unwrap().path().join("data")
    }

    pub fn request(&self, method: &str, path: &str, kind: &str, body: &[u8]) -> Vec<u8> {
        self.request_as(&self.key, method, path, kind, body)
    }

    /// A request with this key or token.
    pub fn request_as(&self, bearer: &str, method: &str, path: &str, kind: &str, body: &[u8]) -> Vec<u8> {
        let head = format!(
            "{method} {path} HTTP/1.1\r\nhost: {}\r\nauthorization: Bearer {}\r\ncontent-type: {kind}\r\ncontent-length: {}\r\n\r\n",
            self.address,
            bearer,
            body.len()
        );
        [head.as_bytes(), body].concat()
    }

    pub fn json(&self, method: &str, path: &str, kind: &str, body: &[u8]) -> Value {
        let mut connection = Connection::open(&self.address);
        serde_json::from_slice(connection.send(&self.request(method, path, kind, body))).unwrap()
    }

    pub fn register(&self, guest: &str) {
        let path = format!("{}/../guest-tools/dist/{guest}.wasm", env!("CARGO_MANIFEST_DIR"));
        self.register_bytes(&std::fs::read(path).unwrap());
    }

    /// Registers a component; returns the tool's name.
    pub fn register_bytes(&self, wasm: &[u8]) -> String {
        let mut tool = self.json("POST", "/v1/tools", "application/wasm", wasm);
        let path = format!("/v1/tools/{}", tool["id"].as_str().unwrap());
        while tool["state"] == "compiling" {
            std::thread::sleep(Duration::from_millis(2));
            tool = self.json("GET", &path, "application/json", b"");
        }
        assert_eq!(tool["state"], "ready", "{tool}");
        tool["manifest"]["name"].as_str().unwrap().to_owned()
    }

    pub fn task(&self) -> String {
        self.json("POST", "/v1/tasks", "application/json", b"{}")["id"].as_str().unwrap().to_owned()
    }

    pub fn call_request(&self, task: &str, tool: &str, arguments: &str) -> Vec<u8> {
        let body = format!(r#"{{"tool":"{tool}","arguments":{arguments}}}"#);
        self.request("POST", &format!("/v1/tasks/{task}/calls"), "application/json", body.as_bytes())
    }

    /// Transactions that the store has committed.
    pub fn commits(&self) -> u64 {
        self.metric("bulkhead_store_commits_total")
    }

    /// The value of a metric; one of a family is not there before it has counted.
    pub fn metric(&self, name: &str) -> u64 {
        let mut connection = Connection::open(&self.address);
        let text =
            String::from_utf8(connection.send(&self.request("GET", "/metrics", "text/plain", b"")).to_vec()).unwrap();
        let value = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' '));
        value.map_or(0, |value| value.parse().unwrap())
    }

    pub fn processes(&self) -> Vec<u32> {
        let pid = self.child.as_ref().unwrap().id();
        let tasks = std::fs::read_dir(format!("/proc/{pid}/task")).unwrap();
        let lists = tasks.filter_map(|task| std::fs::read_to_string(task.ok()?.path().join("children")).ok());
        let children =
            lists.flat_map(|list| list.split_whitespace().filter_map(|pid| pid.parse().ok()).collect::<Vec<u32>>());
        std::iter::once(pid).chain(children).collect()
    }

    /// Processor time of the server and its workers.
    pub fn cpu(&self) -> Duration {
        let ticks: u64 = self
            .processes()
            .iter()
            .filter_map(|pid| std::fs::read_to_string(format!("/proc/{pid}/stat")).ok())
            .map(|stat| {
                let fields: Vec<&str> = stat.rsplit(')').next().unwrap().split_whitespace().collect();
                fields[11].parse::<u64>().unwrap() + fields[12].parse::<u64>().unwrap()
            })
            .sum();
        Duration::from_millis(ticks * 1_000 / rustix::param::clock_ticks_per_second())
    }

    /// Proportional resident memory of the server and its workers, in bytes.
    pub fn memory(&self) -> u64 {
        let of = |pid: &u32| {
            let text = std::fs::read_to_string(format!("/proc/{pid}/smaps_rollup")).ok()?;
            let line =
                text.lines().find(|line| line.starts_with("Pss:"))?.split_whitespace().nth(1)?.parse::<u64>().ok()?;
            Some(line * 1024)
        };
        self.processes().iter().filter_map(of).sum()
    }
}

impl Drop for Host {
    fn drop(&mut self) {
        if let Some(child) = &mut self.child {
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}
