//! A directory of a task whose host is taken over, or failing: whatever it answers,
//! nothing comes but what may, and nothing of it half.

use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::time::Duration;

use serde_json::{Value, json};

use super::files_known::until;
use crate::harness::client::Answer;
use crate::harness::origin::{Origin, Seen};
use crate::harness::postgres::postgres;
use crate::harness::{Client, Options, Server};

fn response(status: u16, fields: &str, body: &Value) -> Vec<u8> {
    let body = body.to_string();
    format!("HTTP/1.1 {status} X\r\n{fields}content-length: {}\r\n\r\n{body}", body.len()).into_bytes()
}

fn told(status: u16, code: &str) -> Vec<u8> {
    response(status, "content-type: application/problem+json\r\n", &json!({"code": code, "detail": code}))
}

fn entry(path: &str, kind: &str) -> Value {
    json!({"path": path, "kind": kind, "executable": false})
}

fn page(of: &str, entries: &[Value], further: Value) -> Vec<u8> {
    let mut page = json!({"entry": entry(of, "directory"), "entries": entries});
    page.as_object_mut().unwrap().extend(further.as_object().unwrap().clone());
    response(200, "", &page)
}

/// How often something was asked that is refused first.
static ASKED: AtomicUsize = AtomicUsize::new(0);

/// What the host answers: the name of the directory says how it fails.
fn answer(seen: &Seen) -> Vec<u8> {
    let mut words = seen.line.split(' ');
    let (method, path) = (words.next().unwrap(), words.next().unwrap());
    let (place, query) = path.split_once('?').unwrap_or((path, ""));
    let mut place = place.split('/').skip(4);
    let (what, how, file) = (place.next().unwrap(), place.next().unwrap(), place.next());
    if method == "DELETE" {
        return if how == "removed" { Vec::new() } else { told(409, "wrong_state") };
    }
    let again = ASKED.fetch_add(1, Relaxed) > 0;
    let describes = query == "limit=1";
    match (how, what) {
        ("gone" | "archived", "entries") if describes && again => {
            if how == "gone" {
                told(404, "not_found")
            } else {
                told(409, "wrong_state")
            }
        }
        ("removed", "entries") if again && ASKED.load(Relaxed) > 4 => told(404, "not_found"),
        (_, "entries") if describes => page(how, &[], json!({})),
        ("endless", "entries") => {
            let at: u64 = query.rsplit("after=").next().and_then(|after| after.parse().ok()).unwrap_or(10_000_000);
            let entries: Vec<_> = (at + 1..=at + 200).map(|at| entry(&format!("endless/{at}"), "other")).collect();
            page(how, &entries, json!({"next_after": (at + 200).to_string()}))
        }
        ("longwinded", "entries") => {
            page(how, &[entry("longwinded/a", "directory")], json!({"next_after": "b".repeat(300)}))
        }
        ("back", "entries") => page(how, &[entry("back/b", "directory")], json!({"next_after": "a"})),
        ("twice", "entries") => page(how, &[entry("twice/b", "file"), entry("twice/b", "file")], json!({})),
        ("many", "entries") => {
            let entries: Vec<_> = (1_000..1_201).map(|at| entry(&format!("many/{at}"), "directory")).collect();
            page(how, &entries, json!({}))
        }
        ("out", "entries") => page(how, &[entry("out/../../x", "directory")], json!({})),
        ("itself", "entries") => page(how, &[entry("", "directory")], json!({})),
        ("hidden", "entries") => page(how, &[], json!({"unnamed": 3})),
        ("slow", "files") => {
            std::thread::sleep(Duration::from_secs(2));
            response(200, "", &json!(file))
        }
        ("nonsense", "entries") => response(200, "", &json!("what?")),
        ("paged", "entries") if !query.contains("after") => page(how, &[], json!({"next_after": "a"})),
        ("paged", "entries") => page(how, &[entry("paged/b", "file"), entry("paged/c", "symlink")], json!({})),
        ("archived", "files") => told(409, "wrong_state"),
        ("gone", "files") => told(404, "not_found"),
        ("paged", "files") if ASKED.load(Relaxed) < 6 => {
            response(429, "retry-after: 1\r\n", &json!({"code": "rate_limited"}))
        }
        ("shrunk", "files") if file == Some("b") => told(404, "not_found"),
        ("shrunk", "entries") => page(how, &[entry("shrunk/a", "file"), entry("shrunk/b", "file")], json!({})),
        ("large", "files") => response(200, "", &json!("x".repeat(2_000))),
        ("broken", "files") => b"HTTP/1.1 200 X\r\nconnection: close\r\ncontent-length: 100\r\n\r\nhalf".to_vec(),
        (_, "files") => response(200, "", &json!(file)),
        _ => page(how, &[entry(&format!("{how}/a"), "file")], json!({})),
    }
}

#[test]
fn whatever_another_host_answers_nothing_comes_half() {
    let database = postgres().database(None);
    let options = || Options::default().with("DATABASE_URL", postgres().url(postgres().port(), &database));
    let a = Server::start(options());
    let origin = Origin::start(answer);
    let address = format!("http://127.0.0.1:{}", origin.port);
    let b = Server::beside(&a, options().with("BULKHEAD_CLUSTER__ADVERTISE", address));
    let (near, there) = (a.client(), b.client().task());
    let limits = json!({"limits": {"workspace_entries": 100, "workspace_bytes": 1_000}});
    let here = near.post("/v1/tasks", &limits).expect(201)["id"].as_str().unwrap().to_owned();
    let ask = |how: &str, remove: bool| -> Answer {
        ASKED.store(0, Relaxed);
        let body = json!({"from_task": there, "from": how, "to": how, "remove": remove});
        near.post(&format!("/v1/tasks/{here}/transfers"), &body)
    };
    for (how, status, code) in [
        ("endless", 422, "over_limit"),
        ("back", 503, "host_unreachable"),
        ("longwinded", 503, "host_unreachable"),
        ("twice", 503, "host_unreachable"),
        ("many", 503, "host_unreachable"),
        ("out", 503, "host_unreachable"),
        ("itself", 503, "host_unreachable"),
        ("nonsense", 503, "host_unreachable"),
        ("hidden", 422, "invalid_path"),
        ("archived", 409, "wrong_state"),
        ("gone", 404, "not_found"),
        ("large", 507, "workspace_full"),
        ("broken", 400, "upload_broken"),
    ] {
        let answer = ask(how, true);
        let told = (answer.status, answer.json()["code"].as_str().map(str::to_owned));
        assert_eq!(told, (status, Some(code.to_owned())), "{how}: {answer:?}");
        assert_eq!(listing(&near, &here), json!([]), "{how}");
    }
    until("nothing is left", || {
        let staging = std::fs::read_dir(a.data().join("staging")).unwrap().map(|own| own.unwrap().path());
        (staging.map(|own| std::fs::read_dir(own).unwrap().count()).sum::<usize>() == 0).then_some(())
    });
    assert!(!origin.seen().iter().any(|seen| seen.line.starts_with("DELETE")), "nothing was moved");
    // A page may be empty, and what is refused for now is asked for again.
    let came = ask("paged", false).expect(201);
    assert_eq!((&came["entries"], &came["left_out"]), (&json!(2), &json!(0)), "{came}");
    assert_eq!(near.get(&format!("/v1/tasks/{here}/files/paged/b")).body, b"\"b\"");
    // What was copied, and not removed or perhaps: the client is told which.
    let problem = ask("kept", true).problem(409, "held_elsewhere");
    assert!(problem["detail"].as_str().unwrap().contains("in both tasks"), "{problem}");
    ask("removed", true).expect(201);
    // Of what was there and is not any more somebody may know more: it is not removed.
    let moved = || origin.seen().iter().filter(|seen| seen.line.starts_with("DELETE")).count();
    let before = moved();
    let problem = ask("shrunk", true).problem(409, "held_elsewhere");
    assert!(problem["detail"].as_str().unwrap().contains("changed meanwhile"), "{problem}");
    assert_eq!(moved(), before);
    // What is on its way counts in no quota yet: one at a time.
    std::thread::scope(|scope| {
        let first = scope.spawn(|| ask("slow", false));
        std::thread::sleep(Duration::from_millis(700));
        assert_ne!(ask("paged/again", false).problem(429, "busy")["detail"], json!(null));
        first.join().unwrap().expect(201);
    });
    // The workspace itself has no name that it could have here.
    let body = json!({"from_task": there, "from": "", "to": "x"});
    near.post(&format!("/v1/tasks/{here}/transfers"), &body).problem(422, "invalid_path");
}

fn listing(client: &Client, task: &str) -> Value {
    client.get(&format!("/v1/tasks/{task}/entries")).expect(200)["entries"].clone()
}
