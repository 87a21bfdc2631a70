//! What spinning guests cost others: `/healthz`, a call of another tenant, and
//! one of the same user. Rounds take turns, because a machine's speed changes.

use std::time::Duration;

use super::client::{Figures, load};
use super::host::Host;

const SPINNERS: [usize; 3] = [0, 2, 20];
const ROUNDS: usize = 3;
const WHAT: [&str; 3] = ["healthz", "echo, another tenant", "echo, same user"];

pub fn report(span: Duration) {
    println!("\n== beside spinning guests of one user, one client; medians of {ROUNDS} rounds in turns");
    let mut rounds: Vec<[[Figures; 3]; 3]> = Vec::new();
    for _ in 0..ROUNDS {
        rounds.push(SPINNERS.map(|spinners| beside(spinners, span)));
    }
    for (at, spinners) in SPINNERS.into_iter().enumerate() {
        for (what, name) in WHAT.into_iter().enumerate() {
            let of = |part: fn(&Figures) -> f64| {
                let [idle, beside] = [0, at].map(|at| median(rounds.iter().map(|round| part(&round[at][what]))));
                (beside, beside / idle)
            };
            let ((p50, p50_times), (p99, p99_times)) =
                (of(|figures| figures.p50.as_secs_f64() * 1e3), of(|figures| figures.p99.as_secs_f64() * 1e3));
            println!(
                "{spinners:>3} spinners, {name:<20} p50 {p50:.3} ms ({p50_times:.1}x idle), p99 {p99:.3} ms ({p99_times:.1}x idle)"
            );
        }
    }
}

fn beside(spinners: usize, span: Duration) -> [Figures; 3] {
    // A spinner lasts as long as it is measured.
    let wall_ms = (3.0 * span.as_secs_f64() * 1e3) as u64 + 2_000;
    let host = Host::start(&[("BULKHEAD_LIMITS__CPU_TIME_MS", "600000")]);
    host.register("hostile/cpu");
    host.register("fixtures/echo");
    let other = host.other_tenant();
    other.register("fixtures/echo");
    let echo = |host: &Host| host.call_request(&host.task(), "echo", r#"{"text":"hello"}"#);
    let calls = [echo(&other), echo(&host)];
    for call in &calls {
        load(&host.address, call, 1, Duration::from_millis(300), None);
    }
    for _ in 0..spinners {
        let body = format!(
            r#"{{"tool":"hostile_cpu","arguments":{{"attack":"spin"}},"limits":{{"wall_time_ms":{wall_ms}}}}}"#
        );
        let path = format!("/v1/tasks/{}/calls?wait=0", host.task());
        host.json("POST", &path, "application/json", body.as_bytes());
    }
    let health = host.request("GET", "/healthz", "application/json", b"");
    let measured = |request: &[u8]| load(&host.address, request, 1, span, None);
    [measured(&health), measured(&calls[0]), measured(&calls[1])]
}

fn median(values: impl Iterator<Item = f64>) -> f64 {
    let mut values: Vec<f64> = values.collect();
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}
