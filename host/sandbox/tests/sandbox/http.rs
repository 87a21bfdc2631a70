//! Requests of guests, through a real worker, to a sink that answers as it is
//! told. The fixture says what it got.

use std::net::{IpAddr, Ipv4Addr};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering::Relaxed};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use bulkhead_core::grants::WorkspaceAccess;
use bulkhead_core::outcome::{Content, Ending, Outcome};
use bulkhead_core::ports::egress::{Body, EgressError, IncomingResponse, Scheme};
use bulkhead_core::ports::sandbox::{Emission, GuestRequest, Run, Sandbox};
use bytes::Bytes;
use futures::{FutureExt as _, StreamExt as _, stream};
use serde_json::{Value, json};
use tokio::sync::{Barrier, Notify, Semaphore};
use tokio_util::sync::CancellationToken;

use crate::guests;
use crate::harness::{Answer, Bench, Remember, summary};

/// What is on its way to a guest at most, with what one piece may add.
const DOWN: usize = 128 * 1024;
/// What is on its way from a guest at most.
const UP: usize = 128 * 1024;

fn response(status: u16, body: Body) -> Answer {
    let header = vec![("x-kind".to_owned(), Bytes::from_static(b"test"))];
    Ok(IncomingResponse { status, header, address: IpAddr::V4(Ipv4Addr::LOCALHOST), body })
}

fn whole(body: impl Into<Bytes>) -> Body {
    Box::pin(stream::iter([Ok(body.into())]))
}

/// Says when it is dropped.
struct Flag(Arc<AtomicBool>);

impl Drop for Flag {
    fn drop(&mut self) {
        self.0.store(true, Relaxed);
    }
}

/// A body without an end; counts what is taken, and says when it is dropped.
fn endless(piece: usize) -> (Body, Arc<AtomicUsize>, Arc<AtomicBool>) {
    let (taken, gone) = (Arc::<AtomicUsize>::default(), Arc::<AtomicBool>::default());
    let (counter, flag) = (taken.clone(), Flag(gone.clone()));
    let body = stream::repeat_with(move || {
        let _held = &flag;
        counter.fetch_add(piece, Relaxed);
        Ok(Bytes::from(vec![b'y'; piece]))
    });
    (Box::pin(body), taken, gone)
}

async fn until(what: &str, condition: impl Fn() -> bool) {
    for _ in 0..3000 {
        if condition() {
            return;
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    panic!("never: {what}");
}

async fn fixture(bench: &Bench, arguments: &Value) -> Run {
    let prepared = bench.prepare(&guests::built("fixtures/http.wasm")).await;
    bench.call(&prepared, &arguments.to_string(), WorkspaceAccess::None)
}

fn result(outcome: &Outcome) -> Value {
    match &outcome.ending {
        Ending::Succeeded { content: Some(content) } => match content.as_slice() {
            [Content::Json { json }] => serde_json::from_str(json.text()).unwrap(),
            other => panic!("not one value: {other:?}"),
        },
        other => panic!("not a success: {other:?}"),
    }
}

/// Runs the fixture, and sees that nothing of the call is left.
async fn run(bench: &Bench, arguments: &Value, sink: &Arc<Remember>) -> Outcome {
    let run = fixture(bench, arguments).await;
    let outcome = bench.sandbox.run(run, sink.clone(), CancellationToken::new()).await.unwrap();
    assert_eq!(Arc::strong_count(sink), 1, "somebody holds the sink of a call that has ended");
    assert_eq!((bench.sandbox.stats().calls, bench.sandbox.stats().lost), (0, 0));
    outcome
}

async fn responses(bench: &Bench, arguments: &Value, sink: &Arc<Remember>) -> Vec<Value> {
    let mut result = result(&run(bench, arguments, sink).await);
    serde_json::from_value(result["responses"].take()).unwrap()
}

async fn collected(body: Body) -> Result<Vec<u8>, EgressError> {
    let pieces: Vec<_> = body.collect().await;
    let pieces: Result<Vec<Bytes>, _> = pieces.into_iter().collect();
    Ok(pieces?.concat())
}

#[tokio::test]
async fn a_request_reaches_the_sink_and_its_answer_the_guest() {
    let bench = Bench::new();
    let seen = Arc::new(Mutex::new(Vec::new()));
    let note = seen.clone();
    let sink = Remember::answering(0, move |mut request: GuestRequest| {
        let note = note.clone();
        async move {
            let body = match request.body.take() {
                Some(body) => collected(body).await?,
                None => b"(none)".to_vec(),
            };
            note.lock().unwrap().push((request, body.clone()));
            response(201, whole(body))
        }
    });
    let arguments = json!({ "requests": [
        { "url": "https://Example.com:8443/a?b=c", "header": [["X-A", "1"], ["x-a", "2"]] },
        { "method": "PATCH", "url": "http://example.com", "body": "hé", "header": [["content-length", "3"]] },
    ] });
    let got = responses(&bench, &arguments, &sink).await;
    assert_eq!((got[0]["status"].as_u64(), got[0]["text"].as_str()), (Some(201), Some("(none)")));
    assert_eq!(got[0]["header"], json!([["x-kind", "test"]]));
    assert_eq!(got[1]["text"], "hé");
    let seen = seen.lock().unwrap();
    let (get, _) = &seen[0];
    assert_eq!((get.method.as_str(), get.scheme, get.authority.as_str()), ("GET", Scheme::Https, "Example.com:8443"));
    let fields: Vec<_> = get.header.iter().map(|(name, value)| (name.as_str(), &**value)).collect();
    assert_eq!((get.target.as_str(), fields), ("/a?b=c", vec![("x-a", b"1".as_slice()), ("x-a", b"2")]));
    assert_eq!((get.connect_timeout, get.first_byte_timeout, get.between_bytes_timeout), (None, None, None));
    let (patch, body) = &seen[1];
    assert_eq!((patch.method.as_str(), patch.scheme, patch.target.as_str()), ("PATCH", Scheme::Http, "/"));
    assert_eq!((patch.authority.as_str(), body.as_slice()), ("example.com", "hé".as_bytes()));
}

#[tokio::test]
async fn each_error_has_a_code_and_nothing_is_let_out_by_default() {
    let bench = Bench::new();
    let all = [
        (EgressError::Denied, "HttpRequestDenied"),
        (EgressError::Dns, "DnsError"),
        (EgressError::AddressForbidden, "DestinationIpProhibited"),
        (EgressError::ConnectionRefused, "ConnectionRefused"),
        (EgressError::Unreachable, "DestinationIpUnroutable"),
        (EgressError::ConnectionTimeout, "ConnectionTimeout"),
        (EgressError::ConnectionTerminated, "ConnectionTerminated"),
        (EgressError::LimitReached, "ConnectionLimitReached"),
        (EgressError::Certificate, "TlsCertificateError"),
        (EgressError::Tls, "TlsProtocolError"),
        (EgressError::ResponseTimeout, "HttpResponseTimeout"),
        (EgressError::ResponseHeadTooLarge, "HttpResponseHeaderSectionSize"),
        (EgressError::ResponseTooLarge, "HttpResponseBodySize"),
        (EgressError::RequestTooLarge, "HttpRequestBodySize"),
        (EgressError::InvalidRequest, "HttpRequestUriInvalid"),
        (EgressError::Protocol, "HttpProtocolError"),
        (EgressError::SecretInResponse, "InternalError"),
        (EgressError::Internal, "InternalError"),
    ];
    // Each before a head, and each in the middle of a body.
    let requests: Vec<_> = (0..all.len() * 2).map(|at| json!({ "url": format!("https://a/{at}") })).collect();
    let sink = Remember::answering(0, move |request: GuestRequest| async move {
        let at: usize = request.target[1..].parse().unwrap();
        let error = all[at % all.len()].0;
        if at < all.len() {
            return Err(error);
        }
        response(200, Box::pin(stream::iter([Ok(Bytes::from_static(b"half")), Err(error)])))
    });
    let got = responses(&bench, &json!({ "requests": requests }), &sink).await;
    for (at, got) in got.iter().enumerate() {
        let (error, code) = all[at % all.len()];
        assert_eq!(got["error"], code, "{error:?}");
        assert_eq!(got["text"].as_str(), (at >= all.len()).then_some("half"), "{error:?}");
    }
    let got = responses(&bench, &json!({ "requests": [{ "url": "https://a/" }] }), &Remember::new()).await;
    assert_eq!(got[0]["error"], "HttpRequestDenied");
}

#[tokio::test]
async fn a_guest_that_does_not_read_makes_the_server_wait() {
    let bench = Bench::new();
    for piece in [1, 1000, 16 * 1024, 300_000] {
        let length = 1_000_000.min(1000 * piece);
        let (body, taken, gone) = endless(piece);
        let body = Mutex::new(Some(body));
        let sink =
            Remember::answering(0, move |_| std::future::ready(response(200, body.lock().unwrap().take().unwrap())));
        let arguments = json!({ "requests": [{ "url": "https://a/", "read": length }], "sleep_ms": 700 });
        let running = bench.spawn(fixture(&bench, &arguments).await, sink.clone(), CancellationToken::new());
        // Each piece costs 64 bytes more.
        let cost = |taken: usize| taken + taken / piece * 64;
        until("the window is full", || cost(taken.load(Relaxed) + piece) > DOWN).await;
        tokio::time::sleep(Duration::from_millis(200)).await;
        assert!(cost(taken.load(Relaxed)) <= DOWN + piece + 64, "{} of {piece}", taken.load(Relaxed));
        assert!(!running.is_finished());
        let got = result(&running.await.unwrap().unwrap());
        assert_eq!(got["responses"][0]["length"], length);
        assert!(taken.load(Relaxed) <= length + 2 * DOWN + piece, "{}", taken.load(Relaxed));
        assert!(gone.load(Relaxed), "the body outlived its call");
        assert_eq!(Arc::strong_count(&sink), 1);
    }
}

#[tokio::test]
async fn a_server_that_does_not_read_makes_the_guest_wait() {
    let bench = Bench::new();
    let (reading, at_once) = (Arc::new(Notify::new()), Arc::<AtomicUsize>::default());
    let (read, counted) = (reading.clone(), at_once.clone());
    let sink = Remember::answering(1, move |mut request| {
        let (read, counted) = (read.clone(), counted.clone());
        async move {
            read.notified().await;
            let mut body = request.body.take().unwrap();
            let mut total = 0;
            // What is there without waiting: nothing else runs meanwhile.
            while let Some(piece) = body.next().now_or_never() {
                total += piece.unwrap()?.len();
            }
            counted.store(total, Relaxed);
            while let Some(piece) = body.next().await {
                total += piece?.len();
            }
            response(200, whole(total.to_string()))
        }
    });
    let arguments =
        json!({ "requests": [{ "method": "POST", "url": "https://a/", "body_bytes": 3_000_000 }], "show": true });
    let running = bench.spawn(fixture(&bench, &arguments).await, sink.clone(), CancellationToken::new());
    bench.until("it runs", |stats| stats.calls == 1).await;
    tokio::time::sleep(Duration::from_millis(700)).await;
    assert!(!running.is_finished());
    reading.notify_one();
    let got = result(&running.await.unwrap().unwrap());
    assert_eq!(got["responses"][0]["text"], "3000000");
    let at_once = at_once.load(Relaxed);
    assert!((1..=UP).contains(&at_once), "{at_once}");
}

#[tokio::test]
async fn a_body_that_nobody_reads_costs_no_window() {
    // Its pieces are given back, or the guest would wait for ever.
    let bench = Bench::new();
    let sink = Remember::answering(0, |request: GuestRequest| async move {
        // Until something of it is on its way.
        tokio::time::sleep(Duration::from_millis(20)).await;
        drop(request);
        response(200, whole("early"))
    });
    let request = json!({ "method": "POST", "url": "https://a/", "body_bytes": 400_000 });
    let got = responses(&bench, &json!({ "requests": vec![request; 5] }), &sink).await;
    for got in got {
        assert_eq!((got["status"].as_u64(), got["text"].as_str()), (Some(200), Some("early")));
    }
}

#[tokio::test]
async fn a_body_that_is_never_finished_does_not_look_whole() {
    let bench = Bench::new();
    let (ended, end) = tokio::sync::mpsc::unbounded_channel();
    let sink = Remember::answering(0, move |mut request| {
        let ended = ended.clone();
        async move {
            let body = request.body.take().unwrap();
            // As a connection of its own would: beyond the call, too.
            tokio::spawn(async move { ended.send(collected(body).await) });
            response(200, whole("answered"))
        }
    });
    let mut end = end;
    let request = json!({ "method": "POST", "url": "https://a/", "body_bytes": 10, "finish": false });
    let got = responses(&bench, &json!({ "requests": [request] }), &sink).await;
    assert_eq!(got[0]["text"], "answered");
    assert_eq!(end.recv().await, Some(Err(EgressError::InvalidRequest)));
}

#[tokio::test]
async fn exchanges_go_on_beside_each_other_and_few_are_open() {
    let bench = Bench::new();
    let together = Arc::new(Barrier::new(16));
    let sink = Remember::answering(1, move |request: GuestRequest| {
        let together = together.clone();
        async move {
            // Answered only once all sixteen are there.
            together.wait().await;
            response(200, whole(request.target))
        }
    });
    let requests: Vec<_> = (0..40).map(|at| json!({ "url": format!("https://a/{at}") })).collect();
    let got = responses(&bench, &json!({ "requests": requests, "parallel": true }), &sink).await;
    for (at, got) in got.iter().enumerate() {
        if at < 16 {
            assert_eq!(got["text"], format!("/{at}"));
        } else {
            assert_eq!(got["error"], "ConnectionLimitReached");
        }
    }
    assert_eq!(sink.all(), [Emission::Truncated { limit: "http_open_requests", used: Some(16) }]);
    // One after the other there is no such limit.
    let sink = Remember::answering(0, |_| async { response(200, whole("")) });
    let got = responses(&bench, &json!({ "requests": requests }), &sink).await;
    assert!(got.iter().all(|got| got["status"] == 200), "{got:?}");
}

#[tokio::test]
async fn what_a_guest_drops_ends_at_once() {
    let bench = Bench::new();
    let (body, _, body_gone) = endless(1000);
    let (body, waiting_gone) = (Mutex::new(Some(body)), Arc::<AtomicBool>::default());
    let (go, gone) = (Arc::new(Semaphore::new(0)), waiting_gone.clone());
    let gate = go.clone();
    let sink = Remember::answering(0, move |request: GuestRequest| {
        let body = (request.target == "/endless").then(|| body.lock().unwrap().take()).flatten();
        let (gone, gate) = (gone.clone(), gate.clone());
        async move {
            match (request.target.as_str(), body) {
                (_, Some(body)) => response(200, body),
                ("/never", _) => {
                    let _flag = Flag(gone);
                    std::future::pending().await
                }
                _ => {
                    gate.acquire().await.unwrap().forget();
                    response(200, whole("last"))
                }
            }
        }
    });
    let arguments = json!({ "requests": [
        { "url": "https://a/endless", "read": 10 },
        { "url": "https://a/never", "read": "drop" },
        { "url": "https://a/last" },
    ] });
    let running = bench.spawn(fixture(&bench, &arguments).await, sink.clone(), CancellationToken::new());
    until("both are gone", || body_gone.load(Relaxed)).await;
    assert!(!running.is_finished());
    go.add_permits(1);
    let got = result(&running.await.unwrap().unwrap());
    assert_eq!((&got["responses"][0]["length"], &got["responses"][2]["text"]), (&json!(10), &json!("last")));
    // It may have been dropped before the sink ever saw it.
    assert!(waiting_gone.load(Relaxed) || Arc::strong_count(&waiting_gone) == 2);
    assert_eq!(Arc::strong_count(&sink), 1);
}

#[tokio::test]
async fn a_call_that_waits_for_an_answer_can_be_cancelled_and_its_time_runs_out() {
    let mut bench = Bench::new();
    let gone = Arc::<AtomicUsize>::default();
    let count = gone.clone();
    let sink = Remember::answering(0, move |_| {
        let count = count.clone();
        async move {
            struct Count(Arc<AtomicUsize>);
            impl Drop for Count {
                fn drop(&mut self) {
                    self.0.fetch_add(1, Relaxed);
                }
            }
            let _count = Count(count);
            std::future::pending().await
        }
    });
    let requests: Vec<_> = (0..3).map(|at| json!({ "url": format!("https://a/{at}") })).collect();
    let arguments = json!({ "requests": requests, "parallel": true });
    let cancel = CancellationToken::new();
    let running = bench.spawn(fixture(&bench, &arguments).await, sink.clone(), cancel.clone());
    bench.until("it runs", |stats| stats.calls == 1).await;
    tokio::time::sleep(Duration::from_millis(200)).await;
    cancel.cancel();
    assert_eq!(summary(&running.await.unwrap().unwrap()), "cancelled/cancelled");
    assert_eq!(gone.load(Relaxed), 3);
    bench.limits.wall_time_ms = 400;
    let outcome = run(&bench, &arguments, &sink).await;
    assert_eq!(summary(&outcome), "timed_out/limit.wall_time");
    assert_eq!(gone.load(Relaxed), 6);
    // Whoever waited goes away.
    let running = bench.spawn(fixture(&bench, &arguments).await, sink.clone(), CancellationToken::new());
    bench.until("it runs", |stats| stats.calls == 1).await;
    running.abort();
    bench.until("its place is free", |stats| stats.calls == 0).await;
    until("nothing holds the sink", || Arc::strong_count(&sink) == 1).await;
}

#[tokio::test]
async fn a_pause_puts_the_end_off_and_no_longer_than_it_lasts() {
    let mut bench = Bench::with(|config| config.kill_grace = Duration::from_millis(600));
    bench.limits.wall_time_ms = 600;
    for (answers, wanted) in [(true, "succeeded"), (false, "timed_out/limit.wall_time")] {
        let mut call = fixture(&bench, &json!({ "requests": [{ "url": "https://a/" }] })).await;
        let pauses = bulkhead_core::pause::Pauses::default();
        call.pauses = pauses.clone();
        let sink = Remember::answering(0, move |_| {
            let pauses = pauses.clone();
            async move {
                let pause = pauses.begin(Duration::from_secs(60));
                tokio::time::sleep(Duration::from_millis(2000)).await;
                drop(pause);
                if answers {
                    return response(200, whole("allowed"));
                }
                std::future::pending().await
            }
        });
        let begun = Instant::now();
        let outcome = bench.sandbox.run(call, sink.clone(), CancellationToken::new()).await.unwrap();
        assert_eq!(summary(&outcome), wanted, "{:?}", outcome.ending);
        let took = begun.elapsed().as_millis();
        assert!((2000..10_000).contains(&took), "{took}");
        // What was waited for a person is not the call's own time.
        assert!(outcome.usage.wall_us < 1_900_000, "{:?}", outcome.usage);
        assert_eq!((bench.sandbox.stats().lost, Arc::strong_count(&sink)), (0, 1));
    }
}

#[tokio::test]
async fn a_slow_store_does_not_hold_up_exchanges() {
    let bench = Bench::new();
    let done = Arc::<AtomicUsize>::default();
    let count = done.clone();
    // Takes no emission until it is let.
    let sink = Remember::answering(0, move |mut request: GuestRequest| {
        let count = count.clone();
        async move {
            if request.target == "/slow" {
                tokio::time::sleep(Duration::from_millis(500)).await;
            }
            if let Some(body) = request.body.take() {
                count.fetch_add(collected(body).await?.len(), Relaxed);
            }
            response(200, whole("done"))
        }
    });
    let slow = json!({ "method": "POST", "url": "https://a/slow", "body_bytes": 60_000 });
    let arguments = json!({ "requests": [{ "url": "https://a/quick" }, slow], "parallel": true, "show": true });
    let running = bench.spawn(fixture(&bench, &arguments).await, sink.clone(), CancellationToken::new());
    until("the slow one was served", || done.load(Relaxed) == 60_000).await;
    assert!(!running.is_finished() && sink.all().is_empty());
    sink.gate.add_permits(10);
    let got = result(&running.await.unwrap().unwrap());
    assert_eq!((&got["responses"][0]["text"], &got["responses"][1]["text"]), (&json!("done"), &json!("done")));
    assert_eq!(sink.all().len(), 2);
}

#[tokio::test]
async fn heads_are_bounded_on_both_ways() {
    let bench = Bench::new();
    let sink = Remember::answering(2, |request: GuestRequest| async move {
        let fields = |count, size| vec![("x".to_owned(), Bytes::from(vec![b'z'; size])); count];
        let header = match request.target.as_str() {
            "/large" => fields(1, 70_000),
            "/many" => fields(129, 1),
            _ => fields(1, 60_000),
        };
        let address = IpAddr::V4(Ipv4Addr::LOCALHOST);
        Ok(IncomingResponse { status: 200, header, address, body: whole("") })
    });
    let many: Vec<_> = (0..129).map(|at| json!([format!("x-{at}"), "1"])).collect();
    let arguments = json!({ "requests": [
        { "url": "https://a/large" },
        { "url": "https://a/many" },
        { "url": "https://a/fits", "header": [["x", "z".repeat(40_000)]] },
        { "url": "https://a/", "header": many },
        { "url": format!("https://a/{}", "z".repeat(40_000)), "header": [["x", "z".repeat(30_000)]] },
        { "url": "https://a/", "method": "M".repeat(33) },
        { "url": "https://a/", "method": "CONNECT" },
        { "url": format!("https://{}/", "a".repeat(600)) },
        { "url": "https://a/", "header": [["host", "b"]] },
    ] });
    let got = responses(&bench, &arguments, &sink).await;
    let errors: Vec<_> = got.iter().map(|got| got["error"].as_str().unwrap_or("none")).collect();
    let wanted = [
        "HttpResponseHeaderSectionSize",
        "HttpResponseHeaderSectionSize",
        "none",
        "HttpRequestHeaderSectionSize",
        "HttpRequestHeaderSectionSize",
        "HttpRequestMethodInvalid",
        "HttpRequestMethodInvalid",
        "HttpRequestUriInvalid",
        "HeaderError::Forbidden",
    ];
    assert_eq!(errors, wanted);
    let told: Vec<_> = sink
        .all()
        .into_iter()
        .map(|emission| match emission {
            Emission::Truncated { limit, used: Some(used) } => (limit, used),
            other => panic!("{other:?}"),
        })
        .collect();
    let [("http_head_fields", 129), ("http_head_bytes", 70_000..71_000)] = told[..] else { panic!("{told:?}") };
}

#[tokio::test]
async fn the_environment_that_is_granted_reaches_the_guest() {
    let bench = Bench::new();
    let mut call = fixture(&bench, &json!({ "environment": true })).await;
    call.environment = vec![("GREETING".into(), "hé=llo".into()), ("EMPTY".into(), String::new())].into();
    let outcome = bench.run(call.clone()).await.unwrap();
    assert_eq!(result(&outcome)["environment"], json!([["GREETING", "hé=llo"], ["EMPTY", ""]]));
    let outcome = bench.run(fixture(&bench, &json!({ "environment": true })).await).await.unwrap();
    assert_eq!(result(&outcome)["environment"], json!([]));
    call.environment = vec![("A".into(), "x".repeat(64 * 1024))].into();
    assert!(bench.run(call).await.is_err());
}

/// The attacks of the table, here with a sink that lets everything wait.
#[tokio::test]
async fn a_flood_of_requests_costs_no_more_than_a_few() {
    let bench = Bench::new();
    let prepared = bench.prepare(&guests::built("hostile/http.wasm")).await;
    let (now, most) = (Arc::<AtomicUsize>::default(), Arc::<AtomicUsize>::default());
    let (counted, highest) = (now.clone(), most.clone());
    for attack in ["many", "dropped", "upload", "reach"] {
        let (counted, highest) = (counted.clone(), highest.clone());
        let sink = Remember::answering(1, move |_| {
            let (counted, highest) = (counted.clone(), highest.clone());
            async move {
                struct Open(Arc<AtomicUsize>);
                impl Drop for Open {
                    fn drop(&mut self) {
                        self.0.fetch_sub(1, Relaxed);
                    }
                }
                highest.fetch_max(counted.fetch_add(1, Relaxed) + 1, Relaxed);
                let _open = Open(counted);
                tokio::time::sleep(Duration::from_millis(100)).await;
                Err(EgressError::Denied)
            }
        });
        let call = bench.call(&prepared, &json!({ "attack": attack }).to_string(), WorkspaceAccess::None);
        let outcome = bench.sandbox.run(call, sink.clone(), CancellationToken::new()).await.unwrap();
        assert_eq!(result(&outcome)["escaped"], false, "{attack}: {outcome:?}");
        assert_eq!((now.load(Relaxed), Arc::strong_count(&sink)), (0, 1), "{attack}");
    }
    assert!((1..=16).contains(&most.load(Relaxed)), "{} at once", most.load(Relaxed));
    assert_eq!(bench.sandbox.stats().lost, 0);
}
