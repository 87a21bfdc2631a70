//! The load benchmark: `cargo bench --bench load`. Prints figures with their
//! baselines, taken in the same run on the same machine; `crowd` asserts its bound of memory.
//! `cargo bench --bench load -- calls` prints one section (`engine`, `calls`,
//! `first`, `idle`, `deadline`, `neighbours`, `abuse`, `residue`, `tenants`, `density`, `readers`, `tokens`, `crowd`, `users`, `files`, `live`); BENCH_SECONDS is the length of a measurement.
//!
//! - `POST …/calls` of a trivial tool over loopback, durable, at 1, 16 and 64
//!   clients, beside a bare axum handler, the same call in process, and its two commits alone;
//! - the same with `synchronous = off`;
//! - a cold call inside a worker, beside bare wasmtime; two workers beside one;
//! - cold (never seen), cached on disk and warm first call;
//! - how long after its deadline a guest still acts;
//! - what guests that spin, allocate and flood cost another tenant; every hostile guest: how soon it is stopped, what others feel; what ten thousand calls leave behind;
//! - 200 tenants in turn on cold workers; an idle host and worker, sleeping guests, a large interpreter;
//! - a request with a token of an issuer beside one with a key;
//! - ten thousand idle tasks and a thousand open streams, and a client beside them; a hundred that read nothing of 8 MiB, until they are shed;
//! - 500 users at work for ten minutes, each with a stream, on one host and on two;
//! - memory per idle session and task; events per second to 1, 100 and 1,000 readers;
//! - small uploads a second, beside what the disk alone does;
//! - how soon an event of one host is seen at another, with Redis and without.

#![allow(
    clippy::unwrap_used,
    clippy::print_stdout,
    clippy::print_stderr,
    missing_docs,
    unreachable_pub,
    reason = "a benchmark prints, and stops where it fails"
)]

mod abuse;
mod baseline;
mod client;
mod crowd;
mod deadline;
mod density;
mod engine;
mod files;
#[path = "../harness/mod.rs"]
#[allow(dead_code, unused_imports, reason = "the tests use all of it")]
mod harness;
mod host;
mod in_process;
mod live;
mod neighbours;
mod readers;
mod residue;
mod tenants;
mod tokens;
mod users;

use std::time::{Duration, Instant};

use client::{Connection, Figures, load};
use host::Host;

const CLIENTS: [usize; 3] = [1, 16, 64];

fn main() {
    if engine::child() {
        return;
    }
    let seconds = std::env::var("BENCH_SECONDS").ok().and_then(|text| text.parse().ok()).unwrap_or(4.0);
    let span = Duration::from_secs_f64(seconds);
    let wanted: Vec<String> = std::env::args().skip(1).filter(|word| !word.starts_with("--")).collect();
    let wants = |section: &str| wanted.is_empty() || wanted.iter().any(|word| word == section);
    if wants("engine") {
        engine::report();
    }
    if wants("calls") {
        println!("\n== bare axum handler (same request, same response size)");
        let bare = baseline::bare_handler();
        let bare: Vec<Figures> =
            CLIENTS.iter().map(|clients| load(&bare.address, &bare.request, *clients, span, None)).collect();
        for (clients, figures) in CLIENTS.iter().zip(&bare) {
            println!("{clients:>3} clients: {}", figures.line());
        }
        for synchronous in ["full", "off"] {
            durable_calls(synchronous, span, &bare);
        }
    }
    if wants("first") {
        first_calls();
    }
    if wants("idle") {
        idle_tasks();
    }
    if wants("deadline") {
        deadline::report();
    }
    if wants("neighbours") {
        neighbours::report(span);
    }
    if wants("abuse") {
        abuse::report(span);
    }
    if wants("residue") {
        residue::report();
    }
    if wants("tenants") {
        tenants::report();
    }
    if wants("density") {
        density::report();
    }
    if wants("readers") {
        readers::report();
    }
    if wants("tokens") {
        tokens::report(span);
    }
    if wants("crowd") {
        crowd::report(span);
    }
    if wants("users") {
        users::report();
    }
    if wants("files") {
        files::report(span);
    }
    if wants("live") {
        live::report();
    }
}

fn durable_calls(synchronous: &str, span: Duration, bare: &[Figures]) {
    println!("\n== POST /v1/tasks/…/calls of `echo`, synchronous = {synchronous}");
    let commits = baseline::commits(synchronous == "full", 300);
    println!("    accept + end alone, 1 client: p50 {:.3} ms", commits.as_secs_f64() * 1e3);
    let inside = in_process::calls(synchronous == "full", &CLIENTS, span);
    for (clients, figures) in CLIENTS.iter().zip(&inside) {
        println!("{clients:>3} in process, without HTTP: {}", figures.line());
    }
    let host = Host::start(&[("BULKHEAD_STORE__SYNCHRONOUS", synchronous)]);
    host.register("fixtures/echo");
    let task = host.task();
    let request = host.call_request(&task, "echo", r#"{"text":"hello"}"#);
    load(&host.address, &request, 2, Duration::from_millis(500), None);
    let whoami = host.request("GET", "/v1/whoami", "application/json", b"");
    let cpu_before = host.cpu();
    let figures = load(&host.address, &whoami, 64, span, None);
    let cpu_each = (host.cpu() - cpu_before).as_secs_f64() * 1e3 / figures.count as f64;
    println!(" 64 clients: {}; {cpu_each:.3} ms CPU a request: GET /v1/whoami, for comparison", figures.line());
    for ((clients, bare), inside) in CLIENTS.iter().zip(bare).zip(&inside) {
        let (commits_before, cpu_before) = (host.commits(), host.cpu());
        let figures = load(&host.address, &request, *clients, span, None);
        let per_call = |value: f64| value / figures.count as f64;
        let commits_each = per_call((host.commits() - commits_before) as f64);
        let cpu_each = per_call((host.cpu() - cpu_before).as_secs_f64() * 1e3);
        println!(
            "{clients:>3} clients: {}; {commits_each:.2} commits and {cpu_each:.3} ms CPU a call; p50 is {:.1}x the bare handler's, {:.2}x the call's in process",
            figures.line(),
            figures.p50.as_secs_f64() / bare.p50.as_secs_f64(),
            figures.p50.as_secs_f64() / inside.p50.as_secs_f64(),
        );
        if *clients == 1 {
            let over = figures.p50.as_secs_f64() - commits.as_secs_f64();
            println!("     1 client: p50 is its commits plus {:.3} ms", over * 1e3);
        }
    }
}

fn first_calls() {
    println!("\n== first call of a tool");
    let host = Host::start(&[]);
    let begun = Instant::now();
    host.register("fixtures/echo");
    let task = host.task();
    let request = host.call_request(&task, "echo", r#"{"text":"hello"}"#);
    let mut connection = Connection::open(&host.address);
    connection.send(&request);
    let cold = begun.elapsed();
    let host = host.restart();
    let mut connection = Connection::open(&host.address);
    let time = |connection: &mut Connection| {
        let begun = Instant::now();
        connection.send(&request);
        begun.elapsed()
    };
    let cached = time(&mut connection);
    let warm = (0..20).map(|_| time(&mut connection)).min().unwrap();
    println!("never seen, registration included: {:.1} ms", cold.as_secs_f64() * 1e3);
    println!("cached on disk, new process:       {:.1} ms", cached.as_secs_f64() * 1e3);
    println!("warm:                              {:.3} ms", warm.as_secs_f64() * 1e3);
}

fn idle_tasks() {
    const COUNT: u64 = 1_000;
    println!("\n== memory of {COUNT} idle sessions, then of as many idle tasks, each called once");
    let host = Host::start(&[]);
    host.register("fixtures/echo");
    let report = |what: &str, before: u64| {
        let after = host.memory();
        let each = after.saturating_sub(before) / COUNT;
        println!("{what}: {:.1} MiB in all processes, {each} bytes each", after as f64 / f64::from(1 << 20));
        after
    };
    let begun = host.memory();
    for _ in 0..COUNT {
        host.json("POST", "/v1/sessions", "application/json", b"{}");
    }
    let with_sessions = report("sessions", begun);
    for _ in 0..COUNT {
        let request = host.call_request(&host.task(), "echo", r#"{"text":"hello"}"#);
        Connection::open(&host.address).send(&request);
    }
    report("tasks   ", with_sessions);
}
