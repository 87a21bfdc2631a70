//! One attack of `guest-tools/hostile/attacks.toml`, run against a server: what
//! was wanted, what came of it, and how long it took. For the scenario that
//! checks them all and the benchmark that measures them.

use std::collections::BTreeMap;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use serde::Deserialize;
use serde_json::{Value, json};

use super::origin::{self, Origin};
use super::{Client, Options, Server, guests};

/// Wall time of a call that only waits; all else is ended by what it uses.
const WAITING: Duration = Duration::from_secs(2);
const WALL: Duration = Duration::from_secs(40);
/// Whose name, if it is set, has another number of milliseconds for that.
const WALL_VARIABLE: &str = "BULKHEAD_ATTACKS_WALL_MS";
const CPU: Duration = Duration::from_millis(1_500);
/// Events of a task whose guest floods it within its limits.
const FEW_EVENTS: usize = 1_000;
/// What a neighbour's call may take at any time.
const NEIGHBOUR: Duration = Duration::from_millis(1_400);
/// The arguments that make a key of another tenant.
pub const OTHER_TENANT: [&str; 4] =
    ["--tenant", "ten_01jd8n2m4v0000000000000000", "--user", "usr_01jd8n2m4v0000000000000000"];
/// How long what a task left may lie in the trash, on a loaded machine.
const REMOVAL: Duration = Duration::from_secs(20);

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Table {
    attack: Vec<Attack>,
}

/// A line of the table.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Attack {
    pub name: String,
    component: String,
    pub phase: String,
    arguments: Option<String>,
    state: String,
    code: Option<String>,
    #[serde(default)]
    or: Vec<String>,
    check: Option<String>,
    json: Option<String>,
    #[serde(default)]
    most: BTreeMap<String, u64>,
    limits: Option<String>,
    #[serde(default)]
    brought: BTreeMap<String, u64>,
}

/// How an attack ended.
pub struct Ended {
    pub wanted: String,
    pub got: String,
    /// From its start to its end, as a client sees it.
    pub took: Duration,
    /// How far past its limit of time it was stopped, if that is what ended it.
    pub past_limit: Option<Duration>,
    /// What is not as the table wants it.
    pub fault: Option<String>,
}

/// All of them.
pub fn table() -> Vec<Attack> {
    let table: Table = toml::from_str(include_str!("../../guest-tools/hostile/attacks.toml")).unwrap();
    table.attack
}

/// A server for them: task's events are kept until they were looked at.
pub fn server() -> Server {
    Server::start(options())
}

/// The options of such a server.
pub fn options() -> Options {
    let options = Options::default().with("BULKHEAD_KEEP__EVENTS_BYTES_PER_TASK", 64 << 20);
    options.with("BULKHEAD_EXPERIMENTAL__WASI_03", true)
}

/// The first columns of the table that is printed.
pub fn heading() -> String {
    format!("{:<24} {:<28} {:<28} {:>8}", "attack", "wanted", "got", "ms")
}

impl Ended {
    /// Its line in the table that is printed.
    pub fn line(&self, name: &str) -> String {
        self.line_with(name, "")
    }

    /// The same, with further columns.
    pub fn line_with(&self, name: &str, columns: &str) -> String {
        let fault = self.fault.as_deref().map(|fault| format!("  NOT AS WANTED: {fault}")).unwrap_or_default();
        format!("{name:<24} {:<28} {:<28} {:>8}{columns}{fault}", self.wanted, self.got, self.took.as_millis())
    }
}

impl Attack {
    /// Runs it.
    pub fn run(&self, server: &Server, client: &Client) -> Ended {
        match self.phase.as_str() {
            "register" => self.registration(server, client),
            _ => self.call(server, client),
        }
    }

    fn wanted(&self) -> String {
        let more = if self.or.is_empty() { "" } else { " …" };
        named(&self.state, self.code.as_deref().unwrap_or_default()) + more
    }

    fn wants(&self, state: &str, code: &str) -> bool {
        let is = |wanted: &str| match wanted.split_once('/') {
            Some((wanted, wanted_code)) => wanted == state && wanted_code == code,
            None => wanted == state,
        };
        let first = self.state == state && self.code.as_deref().is_none_or(|wanted| wanted == code);
        first || self.or.iter().any(|wanted| is(wanted))
    }

    fn ended(&self, state: &str, code: &str, reason: &Value, took: Duration) -> Ended {
        let fault = (!self.wants(state, code)).then(|| reason.to_string());
        Ended { wanted: self.wanted(), got: named(state, code), took, past_limit: None, fault }
    }

    fn registration(&self, server: &Server, client: &Client) -> Ended {
        let begun = Instant::now();
        let tool = client.register_bytes(&guests::wasm(&format!("hostile/{}", self.component)));
        let took = begun.elapsed();
        let state = if tool["state"] == "ready" { "registered" } else { "refused" };
        let code = tool["rejection"]["code"].as_str().unwrap_or_default();
        let mut ended = self.ended(state, code, &tool["rejection"]["reason"], took);
        let reason = tool["rejection"]["reason"].as_str().unwrap_or_default();
        if reason.len() > 4_096 {
            ended.fault.get_or_insert(format!("a reason of {} bytes", reason.len()));
        }
        if self.check.as_deref() == Some("frozen") {
            let bytes = guests::wasm(&format!("hostile/{}", self.component));
            for whose in [client, &server.client_with(&OTHER_TENANT)] {
                let again = whose.register_bytes(&bytes)["manifest"].clone();
                let same = again == tool["manifest"] && !again.is_null();
                ended.fault = ended.fault.or((!same).then(|| format!("it became {again}")));
            }
        }
        ended
    }

    fn call(&self, server: &Server, client: &Client) -> Ended {
        let tool = client.register(&format!("hostile/{}", self.component));
        let name = tool["manifest"]["name"].as_str().unwrap();
        let task = if self.component == "confined" { confined(server, client) } else { client.task() };
        if self.name == "escape.planted" {
            plant(server, &task);
        }
        for (file, bytes) in &self.brought {
            std::fs::File::create(workspace(server, &task).join(file)).unwrap().set_len(*bytes).unwrap();
        }
        let (arguments, _origin) = self.arguments();
        let wall = if self.component.ends_with("wait") { WAITING } else { most_wall() };
        let limits = self.limits(wall);
        let body = json!({"tool": name, "arguments": arguments, "limits": limits});
        let begun = Instant::now();
        let started = client.post(&format!("/v1/tasks/{task}/calls?wait=0"), &body);
        if started.status >= 400 {
            let problem = started.json();
            return self.ended("refused", problem["code"].as_str().unwrap(), &problem["detail"], begun.elapsed());
        }
        let id = started.json()["id"].as_str().unwrap().to_owned();
        let neighbour = if self.check.as_deref() == Some("neighbours") { neighbour(client, &id) } else { None };
        // Longer than any may run.
        let patience = (most_wall() + WALL / 2).as_secs();
        let call = client.get(&format!("/v1/calls/{id}?wait={patience}")).expect(200);
        let took = begun.elapsed();
        let state = call["state"].as_str().unwrap();
        let code = call["outcome"]["fault"]["code"].as_str().unwrap_or_default();
        let mut ended = self.ended(state, code, &call["outcome"]["fault"]["message"], took);
        ended.past_limit = past_limit(&call, code, wall);
        ended.fault = ended.fault.or(neighbour).or_else(|| self.check(server, client, &task, &call));
        if self.component == "confined" {
            ended.fault = ended.fault.or_else(|| untouched(server, &task));
        }
        ended
    }

    /// Its arguments, and the server that they tell it of.
    fn arguments(&self) -> (Value, Option<Origin>) {
        let text = self.arguments.as_deref().unwrap_or("{}");
        let origin = text.contains("ORIGIN").then(|| Origin::start(|_| origin::ok(b"reached")));
        let port = origin.as_ref().map_or(0, |origin| origin.port);
        (serde_json::from_str(&text.replace("ORIGIN", &port.to_string())).unwrap(), origin)
    }

    fn limits(&self, wall: Duration) -> Value {
        // One that is to come to its end must not be stopped for the time that a slow disk takes.
        let cpu = if self.state == "succeeded" && self.or.is_empty() { 4 * CPU } else { CPU };
        let mut limits = json!({"wall_time_ms": wall.as_millis() as u64, "cpu_time_ms": cpu.as_millis() as u64,
            "stdout_bytes": 65_536, "stderr_bytes": 65_536, "emit_bytes": 262_144, "log_bytes": 65_536, "log_lines": 200});
        let mut narrow = |further: &str| {
            let further: serde_json::Map<_, _> = serde_json::from_str(further).unwrap();
            limits.as_object_mut().unwrap().extend(further);
        };
        if self.component == "bounds" {
            // So small that only they can be what stops it.
            narrow(r#"{"path_bytes": 1024, "path_depth": 32, "listing_entries": 600}"#);
        }
        narrow(self.limits.as_deref().unwrap_or("{}"));
        limits
    }

    /// What else must hold.
    fn check(&self, server: &Server, client: &Client, task: &str, call: &Value) -> Option<String> {
        let part = json_part(call).filter(|_| call["state"] == "succeeded");
        let events = || client.events_until(task, "call.ended");
        let fault = match (self.check.as_deref(), &part) {
            (Some("escaped_false"), Some(part)) if part["escaped"] != false => Some(format!("escaped: {part}")),
            (Some("refused"), Some(part)) if part["refused"] != true => Some(format!("not refused: {part}")),
            // However it ended: it had said enough by then.
            (Some("truncated"), _) if !events().iter().any(|event| event["type"] == "call.truncated") => {
                Some("nothing says that output was left out".into())
            }
            (Some("few_events"), _) => {
                let events = events().len();
                (events > FEW_EVENTS).then(|| format!("{events} events"))
            }
            (Some("shown"), _) => shown(&events()),
            (Some("verbatim"), _) => {
                let told = events().pop().map(|ended| ended["data"]["content"].clone());
                (told.as_ref() != Some(&call["outcome"]["content"])).then(|| format!("told as {told:?}"))
            }
            // Beside what the first left in what both used.
            (Some("again"), _) => {
                let again = json!({"tool": call["tool"], "arguments": self.arguments().0});
                let again = client.post(&format!("/v1/tasks/{task}/calls?wait=30"), &again).json();
                json_part(&again).map_or(Some(format!("and then: {again}")), |part| self.differs(&part))
            }
            (Some("listed"), _) => listed(client, task),
            (Some("deleted"), _) => listed(client, task).or_else(|| deleted(server, client, task)),
            _ => None,
        };
        fault.or_else(|| self.differs(&part?))
    }

    /// What of a result is not as the table says.
    fn differs(&self, part: &Value) -> Option<String> {
        let wanted: serde_json::Map<_, _> = serde_json::from_str(self.json.as_deref().unwrap_or("{}")).unwrap();
        let other = wanted.iter().find(|(name, value)| part[name.as_str()] != **value);
        let more = self.most.iter().find(|(name, most)| part[name.as_str()].as_u64().is_none_or(|is| is > **most));
        other
            .map(|(name, value)| format!("`{name}` is {}, not {value}", part[name.as_str()]))
            .or_else(|| more.map(|(name, most)| format!("`{name}` is {}, more than {most}", part[name.as_str()])))
    }
}

/// The `json` part of a call's result.
fn json_part(call: &Value) -> Option<Value> {
    call["outcome"]["content"].as_array()?.iter().find_map(|part| part.get("json").cloned())
}

/// What `crash.after_output` said, by whatever channel, and the log has not.
fn shown(events: &[Value]) -> Option<String> {
    let log = Value::from(events).to_string();
    let missing = ["part 1", "part 3", "one without an end"].into_iter().find(|said| !log.contains(said));
    missing.map(|said| format!("`{said}` is not in the log"))
}

fn most_wall() -> Duration {
    let asked = std::env::var(WALL_VARIABLE).ok().and_then(|text| text.parse().ok());
    asked.map_or(WALL, Duration::from_millis)
}

fn named(state: &str, code: &str) -> String {
    if code.is_empty() { state.to_owned() } else { format!("{state}/{code}") }
}

/// The limit is one of the call's own measures, so that is what is compared.
fn past_limit(call: &Value, code: &str, wall: Duration) -> Option<Duration> {
    let used = |what: &str| call["outcome"]["usage"][what].as_u64().map(Duration::from_micros);
    match code {
        "limit.wall_time" => Some(used("wall_us")?.saturating_sub(wall)),
        "limit.cpu_time" => {
            let limit = call["outcome"]["fault"]["limit"]["value"].as_u64()?;
            Some(used("cpu_us")?.saturating_sub(Duration::from_millis(limit)))
        }
        _ => None,
    }
}

/// The directory of a task.
pub fn workspace(server: &Server, task: &str) -> PathBuf {
    let tenants = std::fs::read_dir(server.data().join("workspaces")).unwrap();
    tenants.map(|tenant| tenant.unwrap().path().join(task)).find(|path| path.exists()).unwrap()
}

/// A task of which only parts may be used, with a secret beside them.
fn confined(server: &Server, client: &Client) -> String {
    let parts = ["read:src", "read-write:out", "read-write:deploy"];
    let parts = parts.map(|part| json!({"kind": "workspace", "value": part}));
    let task = client.post("/v1/tasks", &json!({"capabilities": parts})).expect(201);
    let task = task["id"].as_str().unwrap().to_owned();
    let root = workspace(server, &task);
    for directory in ["src/dir", "out", "secret"] {
        std::fs::create_dir_all(root.join(directory)).unwrap();
    }
    for file in ["src/file", "src/dir/inner", "secret/key"] {
        std::fs::write(root.join(file), "kept").unwrap();
    }
    for (target, link) in [("../secret", "src/to-secret"), ("../secret", "out/to-secret"), ("../src", "out/to-src")] {
        symlink(target, root.join(link)).unwrap();
    }
    task
}

/// What is not as it was beside what a confined guest may change.
fn untouched(server: &Server, task: &str) -> Option<String> {
    let root = workspace(server, task);
    let list = |directory: &str| {
        let entries = std::fs::read_dir(root.join(directory)).unwrap();
        let mut names: Vec<_> = entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
        names.sort();
        names.join(" ")
    };
    let names = [("", "deploy out secret src"), ("secret", "key"), ("src", "dir file to-secret"), ("src/dir", "inner")];
    let differs = names.iter().find(|(directory, names)| list(directory) != *names);
    let changed = |file: &&str| std::fs::read(root.join(file)).unwrap() != b"kept";
    let changed = ["src/file", "src/dir/inner", "secret/key"].into_iter().find(changed);
    differs
        .map(|(directory, _)| format!("`{directory}` holds {}", list(directory)))
        .or_else(|| changed.map(|file| format!("`{file}` was changed")))
}

/// What an archive or an earlier break-in could have left behind.
fn plant(server: &Server, task: &str) {
    let root = workspace(server, task);
    let secret = server.data().join("secret");
    std::fs::create_dir_all(&secret).unwrap();
    std::fs::write(secret.join("secret"), "the host's").unwrap();
    symlink(secret.join("secret"), root.join("planted-link")).unwrap();
    symlink(&secret, root.join("planted-dir")).unwrap();
    symlink("/etc/passwd", root.join("planted-absolute")).unwrap();
    rustix::fs::mknodat(rustix::fs::CWD, root.join("planted-fifo"), rustix::fs::FileType::Fifo, 0o644.into(), 0)
        .unwrap();
}

/// A harmless call beside the attack `id` is answered while the attack goes on. One that
/// had to wait until a long attack ended was held up by it; after a short one it is
/// asked again, since the machine may be as slow as that for a moment.
fn neighbour(client: &Client, id: &str) -> Option<String> {
    let task = client.task();
    let echo = || {
        let begun = Instant::now();
        (client.call(&task, "echo", json!({"text": "beside"})), begun.elapsed())
    };
    let (call, took) = echo();
    if call["state"] != "succeeded" {
        return Some(format!("a neighbour's call ended so: {call}"));
    }
    if took < NEIGHBOUR {
        return None;
    }
    let attack = client.get(&format!("/v1/calls/{id}")).expect(200);
    if attack["state"] == "running" {
        return None;
    }
    let lasted = attack["outcome"]["usage"]["wall_us"].as_u64().map(Duration::from_micros);
    let held_up = lasted.is_none_or(|lasted| lasted > NEIGHBOUR) || echo().1 > NEIGHBOUR;
    held_up.then(|| format!("a neighbour took {took:?}, the attack {lasted:?}"))
}

/// What the guest left can be listed by the host.
fn listed(client: &Client, task: &str) -> Option<String> {
    let listing = client.get(&format!("/v1/tasks/{task}/entries"));
    (listing.status != 200).then(|| format!("its files can't be listed: {}", String::from_utf8_lossy(&listing.body)))
}

/// What the guest left can be removed, and nothing of it stays on the disk.
fn deleted(server: &Server, client: &Client, task: &str) -> Option<String> {
    let path = format!("/v1/tasks/{task}");
    // At once, and not after the time that it could be restored.
    let answer = client.delete(&format!("{path}?purge=true"));
    if answer.status >= 300 {
        return Some(format!("its task can't be deleted: {}", String::from_utf8_lossy(&answer.body)));
    }
    let gone = client.get(&path);
    if gone.status != 404 && gone.json()["state"] != "deleted" {
        return Some(format!("its task is there: {gone:?}"));
    }
    let until = Instant::now() + REMOVAL;
    while has_workspace(server, task) || !is_empty(&server.data().join("trash")) {
        if Instant::now() > until {
            return Some("what it left is still there, or in the trash".into());
        }
        std::thread::sleep(Duration::from_millis(50));
    }
    None
}

fn has_workspace(server: &Server, task: &str) -> bool {
    let tenants = std::fs::read_dir(server.data().join("workspaces")).into_iter().flatten().map_while(Result::ok);
    tenants.map(|tenant| tenant.path().join(task)).any(|workspace| workspace.exists())
}

/// Whether there is nothing in the folders of a directory.
fn is_empty(directory: &Path) -> bool {
    let folders = std::fs::read_dir(directory).into_iter().flatten().map_while(Result::ok);
    folders
        .map(|folder| std::fs::read_dir(folder.path()))
        .all(|inside| inside.is_ok_and(|mut inside| inside.next().is_none()))
}
