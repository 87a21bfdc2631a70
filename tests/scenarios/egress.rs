//! HTTP of tools, through a whole server and a real web server: what is
//! allowed goes out, all else does not, everything is written down, secrets
//! stay where they belong.

use serde_json::{Value, json};

use super::hosts::until as eventually;
use super::policy::{Governed, begin, until};
use crate::harness::origin::{Origin, Seen, ok};
use crate::harness::{Client, Options};

/// Sends requests by the tool `http`; what it says of each.
fn send(client: &Client, task: &str, requests: &Value) -> Vec<Value> {
    let call = client.call(task, "http", json!({"requests": requests}));
    assert_eq!(call["state"], "succeeded", "{call}");
    responses(&call)
}

fn responses(call: &Value) -> Vec<Value> {
    call["outcome"]["content"][0]["json"]["responses"].as_array().unwrap_or_else(|| panic!("{call}")).clone()
}

fn errors(responses: &[Value]) -> Vec<String> {
    responses.iter().map(|response| response["error"].as_str().unwrap_or("none").to_owned()).collect()
}

fn records(client: &Client, task: &str) -> Vec<Value> {
    client.get(&format!("/v1/tasks/{task}/audit?limit=200")).expect(200)["items"].as_array().unwrap().clone()
}

/// A server that says what it was asked, with a rule that allows some of it.
fn governed(rule: &str, answer: impl Fn(&Seen) -> Vec<u8> + Send + Sync + 'static) -> (Governed, Client, Origin) {
    governed_with(rule, Options::default(), answer)
}

fn governed_with(
    rule: &str,
    options: Options,
    answer: impl Fn(&Seen) -> Vec<u8> + Send + Sync + 'static,
) -> (Governed, Client, Origin) {
    let origin = Origin::start(answer);
    let policy = format!("version = 1\n{}", rule.replace("PORT", &origin.port.to_string()));
    let governed = Governed::start(&policy, options);
    let client = governed.server.client();
    client.register("fixtures/http");
    (governed, client, origin)
}

const LOOPBACK: &str = "private = [\"127.0.0.0/8\", \"::1/128\"]\n";

#[test]
fn a_tool_reaches_what_the_policy_allows_and_nothing_else() {
    let rule = format!(
        "[[rule]]\nname = \"open\"\nmode = \"allow\"\nhttp = [\"GET http://localhost:PORT/open/*\"]\n{LOOPBACK}\
         [[rule]]\nname = \"no-networks\"\nmode = \"allow\"\nhttp = [\"http://127.0.0.1:PORT\", \"http://169.254.169.254\"]\n"
    );
    let (_governed, client, origin) = governed(&rule, |seen| ok(seen.line.as_bytes()));
    let task = client.task();
    let base = format!("http://localhost:{}", origin.port);
    let requests = json!([
        {"url": format!("{base}/open/a?q=1")},
        {"url": format!("{base}/closed")},
        {"url": format!("{base}/open/../closed")},
        {"url": format!("{base}/open/%2e%2e/closed")},
        {"url": format!("{base}/open/a"), "method": "POST", "body": "x"},
        {"url": format!("http://127.0.0.1:{}/open/a", origin.port)},
        {"url": "http://169.254.169.254/latest/meta-data"},
        {"url": "https://example.com/"},
    ]);
    let responses = send(&client, &task, &requests);
    assert_eq!((&responses[0]["status"], &responses[0]["text"]), (&json!(200), &json!("GET /open/a?q=1 HTTP/1.1")));
    let denied = "HttpRequestDenied";
    let forbidden = "DestinationIpProhibited";
    assert_eq!(errors(&responses), ["none", denied, denied, denied, denied, forbidden, forbidden, denied]);
    assert_eq!(origin.seen().len(), 1, "nothing else went out");
    // A task may be made with less.
    let ceiling =
        json!({"capabilities": [{"kind": "http", "value": format!("http://localhost:{}/open/b", origin.port)}]});
    let narrow = client.post("/v1/tasks", &ceiling).expect(201)["id"].as_str().unwrap().to_owned();
    let both = json!([{"url": format!("{base}/open/a")}, {"url": format!("{base}/open/b")}]);
    assert_eq!(errors(&send(&client, &narrow, &both)), [denied, "none"]);
}

#[test]
fn every_request_is_written_down_and_told() {
    let rule = format!("[[rule]]\nname = \"web\"\nmode = \"audit\"\nhttp = [\"http://localhost:PORT\"]\n{LOOPBACK}");
    let (governed, client, origin) = governed(&rule, |_| ok(b"hello"));
    let task = client.task();
    let url = format!("http://localhost:{}/a?token=private", origin.port);
    send(&client, &task, &json!([{"url": url}, {"url": "https://example.com/b?token=private"}]));
    let records = records(&client, &task);
    let shown: Vec<_> = records
        .iter()
        .map(|record| {
            let data = &record["data"];
            (
                record["kind"].clone(),
                data["url"].clone(),
                data["decision"]["allowed"].clone(),
                data["decision"]["mode"].clone(),
            )
        })
        .filter(|(kind, ..)| kind == "http.decided")
        .collect();
    let plain = format!("http://localhost:{}/a", origin.port);
    let wanted = [
        (json!("http.decided"), json!(plain), json!(true), json!("audit")),
        (json!("http.decided"), json!("https://example.com/b"), json!(false), json!("deny")),
    ];
    assert_eq!(shown, wanted);
    // For whom: the key that asked for the call.
    let named = |record: &&Value| record["data"]["credential"].as_str().is_some_and(|by| by.starts_with("key:"));
    assert_eq!(records.iter().filter(named).count(), records.len(), "{records:?}");
    let told: Vec<_> =
        client.events_until(&task, "call.ended").into_iter().filter(|event| event["type"] == "call.http").collect();
    assert_eq!(told.len(), 2);
    let (first, second) = (&told[0]["data"], &told[1]["data"]);
    let first = (&first["status"], &first["received_bytes"], &first["rule"], &first["url"]);
    assert_eq!(first, (&json!(200), &json!(5), &json!("web"), &json!(plain)));
    assert_eq!((&second["allowed"], &second["error"]), (&json!(false), &json!("denied")));
    assert!(!format!("{told:?}{records:?}").contains("token="), "a query is nobody's business");
    // And what was only written down can become a rule.
    let proposed = governed.server.cli(&["policy", "propose", &task]);
    let text = String::from_utf8(proposed.stdout).unwrap();
    assert!(text.contains(&format!("GET {plain}")) && text.contains("GET https://example.com/b"), "{text}");
    // By which what was let through still is, also for where it leads.
    assert!(text.contains("`GREETING` in [environment]"), "{text}");
    governed.change(&format!("{text}[environment]\nGREETING = \"hello\"\n"));
    let task = client.task();
    let explained = || client.get(&format!("/v1/tasks/{task}/policy/http")).expect(200).to_string();
    eventually("the proposal is in force", || explained().contains("proposed-1"));
    let responses = send(&client, &task, &json!([{"url": plain}]));
    assert_eq!(errors(&responses), ["none"], "{responses:?}");
}

#[test]
fn a_secret_goes_where_it_may_and_never_comes_back() {
    const SECRET: &str = "sk-live-0123456789abcdef";
    let rule = format!(
        "[secrets.key]\nfile = \"key\"\nto = \"http://localhost:PORT/api/*\"\nheader = \"authorization: Bearer {{}}\"\n\
         [[rule]]\nname = \"web\"\nmode = \"allow\"\nhttp = [\"http://localhost:PORT\"]\nsecrets = [\"key\"]\n{LOOPBACK}"
    );
    let directory = tempfile::TempDir::new().unwrap();
    let file = directory.path().join("key");
    std::fs::write(&file, format!("{SECRET}\n")).unwrap();
    let rule = rule.replace("file = \"key\"", &format!("file = \"{}\"", file.display()));
    let (governed, client, origin) = governed(&rule, |seen| {
        let secret = seen.field("authorization").unwrap_or_default().to_owned();
        if seen.line.contains("/api/header") {
            return format!("HTTP/1.1 200 OK\r\nx-echo: {secret}\r\ncontent-length: 0\r\n\r\n").into_bytes();
        }
        if seen.line.contains("/api/pieces") {
            // In two pieces, cut within the secret, with something before it.
            let body = format!("{:>9000}{secret}", "");
            let (one, two) = body.split_at(9000 + 12);
            return format!(
                "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n{:x}\r\n{one}\r\n{:x}\r\n{two}\r\n0\r\n\r\n",
                one.len(),
                two.len()
            )
            .into_bytes();
        }
        // The beginning of it, with which a reader who knows the rest has all.
        if seen.line.contains("/api/cut") {
            return ok(&secret.as_bytes()[..7 + 15]);
        }
        // It knows it from before, and was not sent it now.
        if seen.line.contains("/kept") {
            return ok(SECRET.as_bytes());
        }
        if seen.line.contains("/api/echo") { ok(secret.as_bytes()) } else { ok(b"fine") }
    });
    let task = client.task();
    let base = format!("http://localhost:{}", origin.port);
    let requests = json!([
        {"url": format!("{base}/api/x"), "header": [["authorization", "Bearer mine"]]},
        {"url": format!("{base}/elsewhere"), "header": [["Range", "bytes=0-15"], ["if-range", "\"a\""]]},
        {"url": format!("{base}/api/echo")},
        {"url": format!("{base}/api/header")},
        {"url": format!("{base}/api/pieces")},
        {"url": format!("{base}/kept")},
        {"url": format!("{base}/api/cut")},
    ]);
    let call = client.call(&task, "http", json!({"requests": requests}));
    let responses = responses(&call);
    assert_eq!((&responses[0]["text"], &responses[1]["text"]), (&json!("fine"), &json!("fine")));
    for withheld in &responses[2..] {
        assert!(withheld["error"].as_str().is_some_and(|code| code.contains("InternalError")), "{withheld}");
    }
    assert_eq!(responses[4]["length"], 9000 + 7, "all up to where the secret begins: `Bearer ` and what is before it");
    assert_eq!(responses[6]["length"], 7);
    let seen = origin.seen();
    assert!(seen.iter().all(|seen| seen.field("range").or(seen.field("if-range")).is_none()), "parts were asked for");
    let sent: Vec<_> = seen.iter().map(|seen| seen.field("authorization").unwrap_or("none")).collect();
    let bearer = format!("Bearer {SECRET}");
    assert_eq!(sent, [&*bearer, "none", &*bearer, &*bearer, &*bearer, "none", &*bearer]);
    // Nowhere that a client, a guest or a reader of logs looks.
    let events = client.events_until(&task, "call.ended");
    let everything = format!("{call}{events:?}{:?}{}", records(&client, &task), governed.server.log());
    assert!(!everything.contains(SECRET) && !everything.contains("live-0123"));
    let withheld = events.iter().filter(|event| event["data"]["error"] == "secret_in_response").count();
    assert_eq!(withheld, 5);
    let told: Vec<_> = records(&client, &task).iter().map(|record| record["data"]["secrets"].clone()).collect();
    assert_eq!(told.iter().filter(|secrets| **secrets == json!(["key"])).count(), 5);
    let data = std::fs::read(governed.server.data().join("bulkhead.sqlite-wal")).unwrap_or_default();
    assert!(!data.windows(SECRET.len()).any(|window| window == SECRET.as_bytes()), "it is in the database");
}

#[test]
fn each_hop_of_a_tool_is_decided_anew_also_by_tls() {
    let inner = Origin::start(|_| ok(b"never"));
    let port = inner.port;
    let (origin, authority) = Origin::secure(move |seen| {
        let to = match seen.line.split(' ').nth(1).unwrap().split('?').next().unwrap() {
            "/start" => "/next".to_owned(),
            "/inner" => format!("http://localhost:{port}/"),
            "/metadata" => "http://169.254.169.254/latest/meta-data".to_owned(),
            _ => return ok(b"there"),
        };
        format!("HTTP/1.1 302 Found\r\nlocation: {to}\r\ncontent-length: 0\r\n\r\n").into_bytes()
    });
    let directory = tempfile::TempDir::new().unwrap();
    let (file, key) = (directory.path().join("authority.pem"), directory.path().join("key"));
    std::fs::write(&file, authority).unwrap();
    std::fs::write(&key, "sk-0123456789\n").unwrap();
    // The address of the metadata is allowed by its name and still no public one.
    let policy = format!(
        "version = 1\n[secrets.key]\nfile = \"{}\"\nto = \"https://localhost:{1}/next\"\nquery = \"token\"\n\
         [[rule]]\nname = \"web\"\nmode = \"allow\"\nhttp = [\"https://localhost:{1}\", \"http://169.254.169.254\"]\nsecrets = [\"key\"]\n{LOOPBACK}",
        key.display(),
        origin.port
    );
    let options = || Options::default().builtins();
    let governed = Governed::start(&policy, options().with("BULKHEAD_EGRESS__CA_FILE", file.display()));
    let client = governed.server.client();
    let task = client.task();
    let get = |client: &Client, task: &str, path: &str| {
        let url = format!("https://localhost:{}{path}", origin.port);
        client.call(task, "http_request", json!({"url": url, "follow": 3}))
    };
    let call = get(&client, &task, "/start");
    assert_eq!(call["state"], "succeeded", "{call}");
    let lines: Vec<_> = origin.seen().into_iter().map(|seen| seen.line).collect();
    assert_eq!(lines, ["GET /start HTTP/1.1", "GET /next?token=sk-0123456789 HTTP/1.1"]);
    assert!(call.to_string().contains("there") && !call.to_string().contains("sk-0123456789"), "{call}");
    for path in ["/inner", "/metadata"] {
        let call = get(&client, &task, path);
        assert_eq!(call["outcome"]["fault"]["code"], "tool.http_denied", "{path}: {call}");
    }
    assert_eq!(inner.seen().len(), 0);
    // Without the authority nobody is believed to be that host.
    let distrusting = Governed::start(&policy, options());
    let (client, asked) = (distrusting.server.client(), origin.seen().len());
    let call = get(&client, &client.task(), "/next");
    assert_eq!(call["outcome"]["fault"]["code"], "tool.http_tls", "{call}");
    assert_eq!(origin.seen().len(), asked);
}

#[test]
fn a_request_that_is_asked_for_waits_and_a_grant_answers_beforehand() {
    let rule = format!("[[rule]]\nname = \"web\"\nmode = \"ask\"\nhttp = [\"http://localhost:PORT\"]\n{LOOPBACK}");
    let options = Options::default().with("BULKHEAD_LIMITS__WALL_TIME_MS", 1_500);
    let (_governed, client, origin) = governed_with(&rule, options, |_| ok(b"hello"));
    let task = client.task();
    let url = format!("http://localhost:{}/a", origin.port);
    let call = begin(&client, &task, "http", json!({"requests": [{"url": url}, {"url": url}]}));
    let question = until(&client, &call, "waiting")["question"].clone();
    assert_eq!(question["capability"], json!({"kind": "http", "value": format!("GET {url}")}));
    // Longer than its wall time, which stands still.
    std::thread::sleep(std::time::Duration::from_millis(2_000));
    let answer = json!({"question": question["id"], "allow": true});
    assert_eq!(client.post(&format!("/v1/calls/{call}/answers"), &answer).status, 204);
    let ended = client.get(&format!("/v1/calls/{call}?wait=60")).expect(200);
    // Asked once; the same again is known.
    assert_eq!(errors(&responses(&ended)), ["none", "none"], "{ended}");
    let grant = json!({"capability": {"kind": "http", "value": url}, "uses": 2});
    let grant = client.post(&format!("/v1/tasks/{task}/grants"), &grant).expect(201);
    let done = send(&client, &task, &json!([{"url": url}, {"url": url}]));
    assert_eq!(errors(&done), ["none", "none"]);
    let used = records(&client, &task).into_iter().filter(|record| record["data"]["decision"]["grant"] == grant["id"]);
    assert_eq!(used.count(), 2);
    // No is no, for the rest of the call too.
    let call = begin(&client, &task, "http", json!({"requests": [{"url": url}, {"url": url}]}));
    let question = until(&client, &call, "waiting")["question"]["id"].clone();
    client.post(&format!("/v1/calls/{call}/answers"), &json!({"question": question, "allow": false}));
    let ended = client.get(&format!("/v1/calls/{call}?wait=60")).expect(200);
    assert_eq!(errors(&responses(&ended)), ["HttpRequestDenied", "HttpRequestDenied"]);
    assert_eq!(origin.seen().len(), 4);
}

/// In the middle of an exchange, too.
#[test]
fn a_grant_that_is_taken_back_ends_the_call_that_waits_for_its_server() {
    let rule = format!("[[rule]]\nname = \"web\"\nmode = \"ask\"\nhttp = [\"http://localhost:PORT\"]\n{LOOPBACK}");
    let ((over, wait), (arrives, arrived)) = (std::sync::mpsc::channel::<()>(), std::sync::mpsc::channel());
    let held = std::sync::Mutex::new((wait, arrives));
    let (_governed, client, origin) = governed(&rule, move |_| {
        let held = held.lock().unwrap();
        held.1.send(()).unwrap();
        // Until the test lets go of the other end.
        let _ = held.0.recv();
        ok(b"late")
    });
    let task = client.task();
    let url = format!("http://localhost:{}/a", origin.port);
    let grant = json!({"capability": {"kind": "http", "value": url}});
    let grant = client.post(&format!("/v1/tasks/{task}/grants"), &grant).expect(201)["id"].clone();
    let call = begin(&client, &task, "http", json!({"requests": [{"url": url}, {"url": url}]}));
    arrived.recv_timeout(std::time::Duration::from_secs(30)).expect("it is sent");
    let revoked = client.delete(&format!("/v1/tasks/{task}/grants/{}", grant.as_str().unwrap())).expect(200);
    assert_eq!(revoked["ended_calls"], 1);
    let ended = client.get(&format!("/v1/calls/{call}?wait=60")).expect(200);
    assert_eq!((&ended["state"], &ended["outcome"]["fault"]["code"]), (&json!("cancelled"), &json!("grant_revoked")));
    drop(over);
    assert!(arrived.recv_timeout(std::time::Duration::from_millis(300)).is_err(), "the second was never sent");
    drop(origin);
}

#[test]
fn limits_of_requests_are_told_and_hold() {
    let rule = format!("[[rule]]\nname = \"web\"\nmode = \"allow\"\nhttp = [\"http://localhost:PORT\"]\n{LOOPBACK}");
    let options = Options::default()
        .with("BULKHEAD_LIMITS__HTTP_REQUESTS", 3)
        .with("BULKHEAD_LIMITS__HTTP_REQUEST_BYTES", 1_000)
        .with("BULKHEAD_LIMITS__HTTP_RESPONSE_BYTES", 10_000);
    let (_governed, client, origin) = governed_with(&rule, options, |seen| match &seen.line {
        line if line.contains("large") => ok(&vec![b'x'; 50_000]),
        line if line.contains("head") => {
            format!("HTTP/1.1 200 OK\r\nx: {}\r\ncontent-length: 0\r\n\r\n", "y".repeat(100_000)).into_bytes()
        }
        _ => ok(b"xxxxxxxxxx"),
    });
    let task = client.task();
    let base = format!("http://localhost:{}", origin.port);
    let small = json!({"url": format!("{base}/small")});
    let many = send(&client, &task, &json!([small, small, small, small, small]));
    let limit = "ConnectionLimitReached";
    assert_eq!(errors(&many), ["none", "none", "none", limit, limit]);
    let told = client.events_until(&task, "call.ended");
    let told: Vec<_> = told.iter().filter(|event| event["data"]["limit"] == "http_requests").collect();
    assert_eq!(told.len(), 1, "said once");
    let refused: Vec<_> =
        records(&client, &task).into_iter().filter(|record| record["kind"] == "http.refused").collect();
    let [refused] = &refused[..] else { panic!("written down once: {refused:?}") };
    assert_eq!(refused["data"]["url"], format!("{base}/small"));
    assert!(refused["data"]["reason"].as_str().unwrap().contains("`http_requests`"), "{refused}");
    let said = |data: &Value, used: &str, name: &str, value: u64| {
        assert_eq!((&data["limit"], &data["value"]), (&json!(name), &json!(value)), "{data}");
        let message = data["message"].as_str().unwrap();
        for words in [used, &format!("the limit `{name}` of this call is {value}"), "raise it: `limits.http_"] {
            assert!(message.contains(words), "{message}");
        }
        assert!(message.contains(&data["used"].to_string()), "{data}");
    };
    said(&told[0]["data"], "the tool had sent 3 requests", "http_requests", 3);
    let task = client.task();
    let large = json!([{"url": format!("{base}/large")}, {"url": format!("{base}/small"), "method": "POST", "body_bytes": 2_000}]);
    let done = send(&client, &task, &large);
    assert!(done[0]["error"].as_str().unwrap().contains("HttpResponseBodySize"), "{done:?}");
    assert!(done[0]["length"].as_u64().unwrap() <= 10_000);
    assert!(done[1]["error"].as_str().unwrap().contains("HttpRequestBodySize"), "{done:?}");
    let told = client.events_until(&task, "call.ended");
    let told: Vec<_> = told.iter().filter(|event| event["type"] == "call.http").map(|event| &event["data"]).collect();
    let sent = told.iter().position(|data| data["error"] == "request_too_large").unwrap();
    said(told[sent], "the tool wanted to send bodies of", "http_request_bytes", 1_000);
    said(told[1 - sent], "were sent to the tool", "http_response_bytes", 10_000);
    // So is what is the same for every call.
    let task = client.task();
    let done = send(&client, &task, &json!([{"url": format!("{base}/head")}]));
    assert!(done[0]["error"].as_str().unwrap().contains("HttpResponseHeaderSectionSize"), "{done:?}");
    let told = client.events_until(&task, "call.ended");
    let told = told.iter().find(|event| event["type"] == "call.http").map(|event| &event["data"]).unwrap();
    assert_eq!((&told["limit"], &told["value"]), (&json!("http_response_head_bytes"), &json!(65_536)), "{told}");
    for words in ["more than 65536 bytes or 128 fields", "It can't be raised: ask for"] {
        assert!(told["message"].as_str().unwrap().contains(words), "{told}");
    }
}

#[test]
fn variables_are_granted_by_name_and_no_other_is_there() {
    let rule = "[environment]\nGREETING = \"hello\"\nOTHER = \"not wanted\"\n[[rule]]\nname = \"e\"\nmode = \"allow\"\nenvironment = [\"*\"]\n";
    let (_governed, client, _origin) = governed(rule, |_| ok(b""));
    let call = client.call(&client.task(), "http", json!({"environment": true}));
    let shown = &call["outcome"]["content"][0]["json"]["environment"];
    assert_eq!(shown, &json!([["GREETING", "hello"]]), "{call}");
}
