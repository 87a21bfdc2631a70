//! Every attack of `guest-tools/hostile/attacks.toml`: whether it ends as it
//! must, how soon, and what another tenant's calls feel of it meanwhile.

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use bulkhead_core::id::{TenantId, UserId};

use super::client::{Connection, Figures, load};
use super::harness::attacks::{self, Ended};
use super::harness::{Client, Server};

/// Least calls of the neighbour beside an attack; the last of them may come
/// when a short one is over.
const LEAST: usize = 30;

pub fn report(span: Duration) {
    println!("\n== attacks on one tenant's tools, beside one client of `echo` of another tenant");
    let server = attacks::server();
    let (client, neighbour) = (server.client(), neighbour(&server));
    client.register("fixtures/echo");
    let call = echo(&server, &neighbour);
    let address = server.url().trim_start_matches("http://").to_owned();
    load(&address, &call, 1, Duration::from_millis(300), None);
    let idle = load(&address, &call, 1, span, None);
    println!("idle: {}", idle.line());
    println!("{} {:>8} {:>12} {:>6}", attacks::heading(), "calls", "p99 ms", "ratio");
    let mut all = Vec::new();
    for attack in attacks::table() {
        let (ended, figures) = beside(&address, &call, || attack.run(&server, &client));
        let ratio = figures.p99.as_secs_f64() / idle.p99.as_secs_f64();
        let columns = format!(" {:>8} {:>12.3} {ratio:>5.1}x", figures.count, figures.p99.as_secs_f64() * 1e3);
        println!("{}", ended.line_with(&attack.name, &columns));
        all.push((attack.name, ended, ratio));
    }
    summary(&all);
}

fn summary(all: &[(String, Ended, f64)]) {
    let contained = all.iter().filter(|(_, ended, _)| ended.fault.is_none()).count();
    print!("{} attacks, {contained} contained", all.len());
    let past = |ended: &Ended| ended.past_limit.unwrap_or_default();
    if let Some((name, ended, _)) = all.iter().max_by_key(|(_, ended, _)| past(ended)) {
        print!("; stopped at most {:.1} ms past a limit of time ({name})", past(ended).as_secs_f64() * 1e3);
    }
    if let Some((name, ended, _)) = all.iter().max_by_key(|(_, ended, _)| ended.took) {
        print!("; the longest took {:.1} s ({name})", ended.took.as_secs_f64());
    }
    if let Some((name, _, ratio)) = all.iter().max_by(|(_, _, one), (_, _, other)| one.total_cmp(other)) {
        print!("; a neighbour's p99 is at most {ratio:.1}x idle ({name})");
    }
    println!();
}

/// Calls again and again while the attack runs.
fn beside(address: &str, call: &[u8], attack: impl FnOnce() -> Ended) -> (Ended, Figures) {
    let over = AtomicBool::new(false);
    let begun = Instant::now();
    std::thread::scope(|scope| {
        let calling = scope.spawn(|| {
            let mut connection = Connection::open(address);
            let mut times = Vec::new();
            while times.len() < LEAST || !over.load(Ordering::Relaxed) {
                let sent = Instant::now();
                connection.send(call);
                times.push(sent.elapsed());
            }
            times
        });
        let ended = attack();
        over.store(true, Ordering::Relaxed);
        (ended, Figures::of(calling.join().unwrap(), begun.elapsed()))
    })
}

fn neighbour(server: &Server) -> Client {
    let (tenant, user) = (TenantId::from_parts(2, 2).to_string(), UserId::from_parts(2, 2).to_string());
    let client = server.client_with(&["--tenant", &tenant, "--user", &user]);
    client.register("fixtures/echo");
    client
}

fn echo(server: &Server, client: &Client) -> Vec<u8> {
    let body = r#"{"tool":"echo","arguments":{"text":"hello"}}"#;
    let head = format!(
        "POST /v1/tasks/{}/calls HTTP/1.1\r\nhost: {}\r\nauthorization: Bearer {}\r\ncontent-type: application/json\r\ncontent-length: {}\r\n\r\n",
        client.task(),
        server.url().trim_start_matches("http://"),
        client.key(),
        body.len()
    );
    [head.as_bytes(), body.as_bytes()].concat()
}
