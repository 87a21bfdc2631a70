//! How long after its deadline a guest still does something. The last thing
//! that a guest does is the last time that its workspace changes; guests that
//! spin keep every worker busy meanwhile.

use std::path::PathBuf;
use std::time::{Duration, SystemTime};

use bulkhead::system::System;
use bulkhead_core::clock::Clock as _;
use serde_json::Value;

use super::host::Host;

const WALL_MS: u64 = 300;
const ROUNDS: usize = 20;

pub fn report() {
    println!("\n== after the deadline (wall_time_ms {WALL_MS}), spinning guests on every worker; {ROUNDS} rounds");
    let host = Host::start(&[]);
    host.register("hostile/disk");
    host.register("hostile/cpu");
    let (mut acted, mut ended) = (Vec::new(), Vec::new());
    for _ in 0..ROUNDS {
        let spinners: Vec<String> = (0..2).map(|_| start(&host, &host.task(), "hostile_cpu", "spin")).collect();
        let task = host.task();
        let call = start(&host, &task, "hostile_disk", "churn");
        let call = host.json("GET", &format!("/v1/calls/{call}?wait=10"), "application/json", b"");
        assert_eq!(call["state"], "timed_out", "{call}");
        let deadline = millis(&call["started_at"]) + WALL_MS as f64;
        acted.push(millis_of(last_change(&host, &task)) - deadline);
        ended.push(millis(&call["ended_at"]) - deadline);
        for call in spinners {
            let call = host.json("GET", &format!("/v1/calls/{call}?wait=10"), "application/json", b"");
            ended.push(millis(&call["ended_at"]) - millis(&call["started_at"]) - WALL_MS as f64);
        }
    }
    told("last act of the guest", acted);
    told("end stored", ended);
    cancelled();
}

/// The same for calls that are cancelled: spinners which do not look for it, from when
/// the client asks, since the server does not note when it was asked.
fn cancelled() {
    println!("\n== after a cancel, two spinning guests on every worker; {ROUNDS} rounds");
    let host = Host::start(&[]);
    host.register("hostile/cpu");
    let mut ended = Vec::new();
    for _ in 0..ROUNDS {
        let calls: Vec<String> = (0..4)
            .map(|_| {
                let body = r#"{"tool":"hostile_cpu","arguments":{"attack":"spin"},"limits":{"wall_time_ms":30000,"cpu_time_ms":10000}}"#;
                let path = format!("/v1/tasks/{}/calls?wait=0", host.task());
                host.json("POST", &path, "application/json", body.as_bytes())["id"].as_str().unwrap().to_owned()
            })
            .collect();
        std::thread::sleep(Duration::from_millis(200));
        for call in calls {
            let asked = System.now().as_millis() as f64;
            host.json("POST", &format!("/v1/calls/{call}/cancel"), "application/json", b"{}");
            let call = host.json("GET", &format!("/v1/calls/{call}?wait=10"), "application/json", b"");
            assert_eq!(call["state"], "cancelled", "{call}");
            ended.push(millis(&call["ended_at"]) - asked);
        }
    }
    told("end stored", ended);
}

fn told(what: &str, mut times: Vec<f64>) {
    times.sort_by(f64::total_cmp);
    println!("{what:<22} median {:>6.1} ms, worst {:>6.1} ms", times[times.len() / 2], times[times.len() - 1]);
}

fn start(host: &Host, task: &str, tool: &str, attack: &str) -> String {
    let body = format!(
        r#"{{"tool":"{tool}","arguments":{{"attack":"{attack}"}},"limits":{{"wall_time_ms":{WALL_MS},"cpu_time_ms":10000}}}}"#
    );
    let path = format!("/v1/tasks/{task}/calls?wait=0");
    host.json("POST", &path, "application/json", body.as_bytes())["id"].as_str().unwrap().to_owned()
}

/// The newest change in the task's workspace.
fn last_change(host: &Host, task: &str) -> SystemTime {
    let tenants = std::fs::read_dir(host.data().join("workspaces")).unwrap();
    let root: PathBuf = tenants.map(|tenant| tenant.unwrap().path().join(task)).find(|path| path.exists()).unwrap();
    let files = std::fs::read_dir(&root).unwrap().filter_map(|entry| entry.ok()?.metadata().ok()?.modified().ok());
    files.chain(std::fs::metadata(&root).unwrap().modified()).max().unwrap()
}

fn millis_of(time: SystemTime) -> f64 {
    time.duration_since(SystemTime::UNIX_EPOCH).unwrap_or(Duration::ZERO).as_secs_f64() * 1e3
}

fn millis(time: &Value) -> f64 {
    let time: bulkhead_core::clock::Timestamp = serde_json::from_value(time.clone()).unwrap();
    time.as_millis() as f64
}
