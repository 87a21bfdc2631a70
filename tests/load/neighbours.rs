//! What spinning guests cost others: `/healthz`, and a call of another tenant.

use std::time::Duration;

use super::client::{Figures, load};
use super::host::Host;

const SPINNERS: [usize; 3] = [0, 2, 20];

pub fn report(span: Duration) {
    println!("\n== beside spinning guests of one tenant: one client of `/healthz`, one of `echo` of another tenant");
    // A spinner lasts as long as it is measured.
    let wall_ms = (2.0 * span.as_secs_f64() * 1e3) as u64 + 2_000;
    let mut idle: Option<[Figures; 2]> = None;
    for spinners in SPINNERS {
        let host = Host::start(&[]);
        host.register("hostile/cpu");
        let other = host.other_tenant();
        other.register("fixtures/echo");
        let call = other.call_request(&other.task(), "echo", r#"{"text":"hello"}"#);
        load(&host.address, &call, 1, Duration::from_millis(300), None);
        for _ in 0..spinners {
            let body = format!(
                r#"{{"tool":"hostile_cpu","arguments":{{"attack":"spin"}},"limits":{{"wall_time_ms":{wall_ms}}}}}"#
            );
            let path = format!("/v1/tasks/{}/calls?wait=0", host.task());
            host.json("POST", &path, "application/json", body.as_bytes());
        }
        let health = host.request("GET", "/healthz", "application/json", b"");
        let figures = [load(&host.address, &health, 1, span, None), load(&host.address, &call, 1, span, None)];
        for (what, at) in [("healthz", 0), ("echo", 1)] {
            let times = |part: fn(&Figures) -> Duration| {
                idle.as_ref().map_or(1.0, |idle| part(&figures[at]).as_secs_f64() / part(&idle[at]).as_secs_f64())
            };
            let (p50, p99) = (times(|figures| figures.p50), times(|figures| figures.p99));
            println!("{spinners:>3} spinners, {what:<8} {}; p50 {p50:.1}x, p99 {p99:.1}x idle", figures[at].line());
        }
        idle.get_or_insert(figures);
    }
}
