//! What the guests of one user cost others that spin, allocate all they may, sync,
//! flood the log, or are short and never fewer: `/healthz`, a call of another tenant, one
//! of another user of the same tenant, and one of the same user. `BENCH_GUESTS` names
//! the guests, with commas, if not all are wanted.
//! Rounds take turns, because a machine's speed changes.

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use super::client::{Connection, Figures, load};
use super::host::Host;

/// The guests: what they do, their component, its attack. Some last as long as it
/// is measured; the others are called again as soon as they end.
#[derive(Clone, Copy)]
struct Guests {
    what: &'static str,
    component: &'static str,
    attack: &'static str,
    lasting: bool,
    cpu_ms: u64,
    many: [usize; 2],
}

const LONG: u64 = 600_000;

const GUESTS: [Guests; 5] = [
    Guests { what: "spinning", component: "cpu", attack: "spin", lasting: true, cpu_ms: LONG, many: [2, 20] },
    Guests { what: "allocating", component: "memory", attack: "fill", lasting: false, cpu_ms: LONG, many: [2, 20] },
    Guests { what: "flooding", component: "flood", attack: "emit_small", lasting: false, cpu_ms: LONG, many: [2, 20] },
    Guests { what: "syncing", component: "disk", attack: "sync", lasting: true, cpu_ms: LONG, many: [2, 20] },
    Guests { what: "short", component: "cpu", attack: "spin", lasting: false, cpu_ms: 1, many: [20, 60] },
];
const ROUNDS: usize = 3;
const WHAT: [&str; 4] = ["healthz", "echo, another tenant", "echo, another user", "echo, same user"];

/// None, or so many of these.
type Beside = Option<(usize, Guests)>;

pub fn report(span: Duration) {
    println!("\n== beside hostile guests of one user, one client; medians of {ROUNDS} rounds in turns");
    let only = std::env::var("BENCH_GUESTS").ok();
    let wanted = |guests: &Guests| only.as_ref().is_none_or(|only| only.split(',').any(|what| what == guests.what));
    let hostile = GUESTS.into_iter().filter(wanted).flat_map(|guests| guests.many.map(|many| Some((many, guests))));
    let all: Vec<Beside> = std::iter::once(None).chain(hostile).collect();
    let mut rounds: Vec<Vec<[Figures; 4]>> = Vec::new();
    for _ in 0..ROUNDS {
        rounds.push(all.iter().map(|guests| beside(*guests, span)).collect());
    }
    for (at, guests) in all.iter().enumerate() {
        let guests = guests.map_or("none".into(), |(many, Guests { what, .. })| format!("{many} {what}"));
        for (what, name) in WHAT.into_iter().enumerate() {
            let of = |part: fn(&Figures) -> f64| {
                let [idle, beside] = [0, at].map(|at| median(rounds.iter().map(|round| part(&round[at][what]))));
                (beside, beside / idle)
            };
            let ((p50, p50_times), (p99, p99_times)) =
                (of(|figures| figures.p50.as_secs_f64() * 1e3), of(|figures| figures.p99.as_secs_f64() * 1e3));
            println!(
                "{guests:<14} {name:<20} p50 {p50:>7.3} ms ({p50_times:.1}x idle), p99 {p99:>7.3} ms ({p99_times:.1}x idle)"
            );
        }
    }
}

fn beside(guests: Beside, span: Duration) -> [Figures; 4] {
    let host = Host::start(&[("BULKHEAD_LIMITS__CPU_TIME_MS", "600000")]);
    host.register("fixtures/echo");
    let other = host.other_tenant();
    other.register("fixtures/echo");
    let echo = |host: &Host| host.call_request(&host.task(), "echo", r#"{"text":"hello"}"#);
    let calls = [echo(&other), echo(&host.other_user()), echo(&host)];
    for call in &calls {
        load(&host.address, call, 1, Duration::from_millis(300), None);
    }
    let health = host.request("GET", "/healthz", "application/json", b"");
    let over = AtomicBool::new(false);
    std::thread::scope(|scope| {
        if let Some((many, guests)) = guests {
            host.register(&format!("hostile/{}", guests.component));
            for _ in 0..many {
                let request = request(&host, guests, span);
                let (host, over) = (&host, &over);
                scope.spawn(move || {
                    let mut connection = Connection::open(&host.address);
                    connection.send(&request);
                    while !guests.lasting && !over.load(Ordering::Relaxed) {
                        connection.send(&request);
                    }
                });
            }
            // Until they are at it.
            std::thread::sleep(Duration::from_millis(500));
        }
        let measured = |request: &[u8]| load(&host.address, request, 1, span, None);
        let figures = [measured(&health), measured(&calls[0]), measured(&calls[1]), measured(&calls[2])];
        over.store(true, Ordering::Relaxed);
        figures
    })
}

/// A call in a task of its own. Of one that lasts the answer does not wait for its end.
fn request(host: &Host, Guests { component, attack, lasting, cpu_ms, .. }: Guests, span: Duration) -> Vec<u8> {
    let lasts = if lasting { 4.0 * span.as_secs_f64() + 2.0 } else { 60.0 };
    let limits = format!(r#"{{"wall_time_ms":{},"cpu_time_ms":{cpu_ms}}}"#, (lasts * 1e3) as u64);
    let body = format!(r#"{{"tool":"hostile_{component}","arguments":{{"attack":"{attack}"}},"limits":{limits}}}"#);
    let wait = if lasting { 0 } else { 60 };
    let path = format!("/v1/tasks/{}/calls?wait={wait}", host.task());
    host.request("POST", &path, "application/json", body.as_bytes())
}

fn median(values: impl Iterator<Item = f64>) -> f64 {
    let mut values: Vec<f64> = values.collect();
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}
