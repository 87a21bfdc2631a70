//! Hostile guests: every entry of the table of attacks, against a whole server
//! with small limits. Each ends in bounded time, in the way the table wants,
//! and the server works as before.

use std::os::unix::fs::symlink;
use std::time::{Duration, Instant};

use serde::Deserialize;
use serde_json::{Value, json};

use crate::harness::{Client, Options, Server, guests};

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Table {
    attack: Vec<Attack>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Attack {
    name: String,
    component: String,
    phase: String,
    arguments: Option<String>,
    state: String,
    code: Option<String>,
    #[serde(default)]
    or: Vec<String>,
    check: Option<String>,
}

impl Attack {
    fn wanted(&self, state: &str, code: &str) -> bool {
        let is = |wanted: &str| match wanted.split_once('/') {
            Some((wanted, wanted_code)) => wanted == state && wanted_code == code,
            None => wanted == state,
        };
        let first = self.state == state && self.code.as_deref().is_none_or(|wanted| wanted == code);
        first || self.or.iter().any(|wanted| is(wanted))
    }
}

/// No attack may take longer, on a loaded machine with a debug build.
const BOUND: Duration = Duration::from_secs(60);

#[test]
fn every_attack_ends_as_the_table_wants() {
    let table = include_str!("../../guest-tools/hostile/attacks.toml");
    let table: Table = toml::from_str(table).unwrap();
    assert!(table.attack.len() >= 40);
    let server = Server::start(Options::default().with("BULKHEAD_KEEP__EVENTS_BYTES_PER_TASK", 64 << 20));
    let client = server.client();
    client.register("fixtures/echo");
    let mut failures = Vec::new();
    for attack in &table.attack {
        let begun = Instant::now();
        let fault = match attack.phase.as_str() {
            "register" => registration(&client, attack),
            _ => call(&server, &client, attack),
        };
        let took = begun.elapsed();
        eprintln!("{:<28} {:>6} ms  {}", attack.name, took.as_millis(), fault.as_deref().unwrap_or("as wanted"));
        failures.extend(fault.map(|fault| format!("{}: {fault}", attack.name)));
        if took > BOUND {
            failures.push(format!("{}: took {took:?}", attack.name));
        }
    }
    let task = client.task();
    assert_eq!(client.call(&task, "echo", json!({"text": "alive"}))["state"], "succeeded");
    // A worker may die of an attack; none may ever make it say what it must not.
    let metrics = String::from_utf8(client.get("/metrics").body).unwrap();
    assert!(metrics.contains("bulkhead_worker_protocol_errors_total 0\n"), "{metrics}");
    assert!(failures.is_empty(), "{} of {}:\n{}", failures.len(), table.attack.len(), failures.join("\n"));
}

fn registration(client: &Client, attack: &Attack) -> Option<String> {
    let tool = client.register_bytes(&guests::wasm(&format!("hostile/{}", attack.component)));
    let state = if tool["state"] == "ready" { "registered" } else { "refused" };
    let code = tool["rejection"]["code"].as_str().unwrap_or_default();
    (!attack.wanted(state, code)).then(|| format!("{state}/{code} {}", tool["rejection"]["reason"]))
}

fn call(server: &Server, client: &Client, attack: &Attack) -> Option<String> {
    let tool = client.register(&format!("hostile/{}", attack.component));
    let name = tool["manifest"]["name"].as_str().unwrap();
    let task = client.task();
    if attack.name == "escape.planted" {
        plant(server, &task);
    }
    let arguments: Value = serde_json::from_str(attack.arguments.as_deref().unwrap_or("{}")).unwrap();
    // Waiting is ended by the wall clock, all else by what it uses.
    let wall = if attack.component == "wait" { 2_000 } else { 40_000 };
    let limits = json!({"wall_time_ms": wall, "cpu_time_ms": 1_500, "stdout_bytes": 65_536,
        "stderr_bytes": 65_536, "emit_bytes": 262_144, "log_bytes": 65_536, "log_lines": 200});
    let body = json!({"tool": name, "arguments": arguments, "limits": limits});
    let started = client.post(&format!("/v1/tasks/{task}/calls?wait=0"), &body);
    if started.status == 422 {
        return Some(format!("{:?}", started.json()));
    }
    let id = started.json()["id"].as_str().unwrap().to_owned();
    let neighbour = (attack.check.as_deref() == Some("neighbours")).then(|| neighbour(client));
    let ended = client.get(&format!("/v1/calls/{id}?wait=60")).expect(200);
    let state = ended["state"].as_str().unwrap();
    let code = ended["outcome"]["fault"]["code"].as_str().unwrap_or_default();
    if !attack.wanted(state, code) {
        return Some(format!("{state}/{code} {}", ended["outcome"]["fault"]["message"]));
    }
    if state != "succeeded" {
        return neighbour.flatten();
    }
    let json_part = || {
        let parts = ended["outcome"]["content"].as_array().cloned().unwrap_or_default();
        parts.into_iter().find_map(|part| part.get("json").cloned()).unwrap_or_default()
    };
    match attack.check.as_deref() {
        Some("escaped_false") if json_part()["escaped"] != false => Some(format!("escaped: {}", json_part())),
        Some("refused") if json_part()["refused"] != true => Some(format!("not refused: {}", json_part())),
        Some("truncated") if !truncated(client, &task) => Some("nothing says that output was left out".into()),
        Some("neighbours") => neighbour.flatten(),
        _ => None,
    }
}

/// What an archive or an earlier break-in could have left behind.
fn plant(server: &Server, task: &str) {
    let tenants = std::fs::read_dir(server.data().join("workspaces")).unwrap();
    let root = tenants.map(|tenant| tenant.unwrap().path().join(task)).find(|path| path.exists()).unwrap();
    let secret = server.data().join("secret");
    std::fs::create_dir_all(&secret).unwrap();
    std::fs::write(secret.join("secret"), "the host's").unwrap();
    symlink(secret.join("secret"), root.join("planted-link")).unwrap();
    symlink(&secret, root.join("planted-dir")).unwrap();
    symlink("/etc/passwd", root.join("planted-absolute")).unwrap();
    rustix::fs::mknodat(rustix::fs::CWD, root.join("planted-fifo"), rustix::fs::FileType::Fifo, 0o644.into(), 0)
        .unwrap();
}

fn truncated(client: &Client, task: &str) -> bool {
    client.events_until(task, "call.ended").iter().any(|event| event["type"] == "call.truncated")
}

/// A harmless call beside the attack is answered while the attack goes on.
fn neighbour(client: &Client) -> Option<String> {
    let task = client.task();
    let begun = Instant::now();
    let call = client.call(&task, "echo", json!({"text": "beside"}));
    let took = begun.elapsed();
    let fine = call["state"] == "succeeded" && took < Duration::from_millis(1_400);
    (!fine).then(|| format!("a neighbour took {took:?}: {call}"))
}
