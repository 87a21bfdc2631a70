//! Administrators: what they reach, with what, and what is on record then; and
//! rules that a migration only watches.

use bulkhead_core::access::{Operation, Reach};
use serde_json::{Value, json};

use super::access::{Guard, TABLE, Things, make, nothing, send, send_because};
use crate::harness::{Client, Options, Server};

const OTHER_TENANT: &str = "ten_01jd8n2m4v0000000000000000";
const OTHER_USER: &str = "usr_01jd8n2m4v0000000000000001";

/// Every scope but those of administrators.
const ALL: &str = "tasks:read tasks:write calls:run grants:write files:read files:write tools:read tools:write";

/// A client of another user, of this tenant or another one, with further scopes.
fn other(server: &Server, tenant: &str, more: &str) -> Client {
    server.client_with(&["--tenant", tenant, "--user", OTHER_USER, "--scopes", &format!("{ALL} {more}")])
}

fn tenant_of(client: &Client) -> String {
    client.get("/v1/whoami").expect(200)["tenant"].as_str().unwrap().to_owned()
}

/// The records of administrators about a task.
fn accesses(owner: &Client, task: &str) -> Vec<Value> {
    let records = owner.get(&format!("/v1/tasks/{task}/audit?limit=200")).expect(200);
    let all = records["items"].as_array().unwrap();
    all.iter().filter(|record| record["kind"] == "admin.accessed").cloned().collect()
}

fn ends(operation: Operation) -> bool {
    matches!(operation, Operation::SessionsDelete | Operation::TasksDelete | Operation::TasksArchive)
}

/// Everything of the table that names an owned thing, with its operation.
fn owned() -> impl Iterator<Item = (&'static str, &'static str, Operation)> {
    let owned = TABLE.iter().filter_map(|(method, template, guard)| match guard {
        Guard::Owned(operation) if !template.starts_with("/v1/tools") => Some((*method, *template, *operation)),
        _ => None,
    });
    owned.collect::<Vec<_>>().into_iter()
}

/// Whether the operation was done; a stream is begun and left.
fn reaches(client: &Client, method: &str, path: &str) -> bool {
    if path.ends_with("/events") {
        return client.follow(path.split('/').nth(3).unwrap(), &[("bulkhead-reason", "on call")], "").next().is_some();
    }
    let answer = send_because(client, method, path, Some("on call"));
    // That a WebSocket or a directory was expected says that the thing was there.
    assert!(answer.status < 300 || matches!(answer.status, 409 | 426), "{method} {path}: {answer:?}");
    true
}

#[test]
fn an_administrator_reads_and_ends_with_a_reason_and_does_nothing_else() {
    let server = Server::start(Options::default());
    let owner = server.client();
    let mut things = make(&owner);
    let tenant = tenant_of(&owner);
    let admin = other(&server, &tenant, "admin");
    let operator = other(&server, OTHER_TENANT, "operator:admin");
    let refused = [
        ("a colleague", other(&server, &tenant, "")),
        (
            "an administrator of another tenant",
            server.client_with(&[
                "--tenant",
                OTHER_TENANT,
                "--user",
                "usr_01jd8n2m4v0000000000000002",
                "--scopes",
                &format!("{ALL} admin"),
            ]),
        ),
    ];
    for (method, template, operation) in owned() {
        let path = things.path(template);
        for client in [&admin, &operator] {
            send(client, method, &path).problem(404, "not_found");
        }
        for (who, client) in &refused {
            let answer = send_because(client, method, &path, Some("curious"));
            assert_eq!(answer.status, 404, "{who}: {method} {template}");
        }
        if operation.reach() == Reach::Own {
            for client in [&admin, &operator] {
                send_because(client, method, &path, Some("on call")).problem(404, "not_found");
            }
            continue;
        }
        for client in [&admin, &operator] {
            let path = things.path(template);
            let before = accesses(&owner, &things.task).len();
            assert!(reaches(client, method, &path));
            if operation != Operation::SessionsGet && operation != Operation::SessionsDelete {
                let records = accesses(&owner, &things.task);
                assert_eq!(records.len(), before + 1, "{method} {template}");
                let data = &records.last().unwrap()["data"];
                assert_eq!((&data["operation"], &data["reason"]), (&json!(operation.name()), &json!("on call")));
                assert_eq!(data["by_user"], OTHER_USER);
                assert!(data["credential"].as_str().unwrap().starts_with("key:"), "{data}");
            }
            if ends(operation) {
                things = make(&owner);
            }
        }
    }
    assert_eq!(owner.get(&format!("/v1/tasks/{}/files/a.txt", things.task)).body, b"mine");
}

#[test]
fn a_reason_is_needed_and_tells_nobody_else_anything() {
    let server = Server::start(Options::default());
    let owner = server.client();
    let Things { task, .. } = make(&owner);
    let admin = other(&server, &tenant_of(&owner), "admin");
    let colleague = other(&server, &tenant_of(&owner), "");
    let get = |client: &Client, task: &str, reason: &str| {
        client.send("GET", &format!("/v1/tasks/{task}"), &[("bulkhead-reason", reason)], b"")
    };
    let long = "x".repeat(513);
    for bad in ["", "   ", &long] {
        get(&admin, &task, bad).problem(400, "invalid_request");
        get(&colleague, &task, bad).problem(404, "not_found");
    }
    // What was never there looks the same, reason or not.
    let never = nothing().task;
    for client in [&admin, &colleague] {
        get(client, &never, "looking around").problem(404, "not_found");
    }
    assert!(accesses(&owner, &task).is_empty());
    // One's own things need none, and make no record.
    assert_eq!(get(&owner, &task, "mine").status, 200);
    assert!(accesses(&owner, &task).is_empty());
    // A scope for others' things is none for an operation.
    let lesser =
        server.client_with(&["--tenant", &tenant_of(&owner), "--user", OTHER_USER, "--scopes", "admin operator:admin"]);
    get(&lesser, &task, "on call").problem(403, "missing_scope");
}

#[test]
fn an_administrator_is_not_made_by_the_usual_scopes() {
    let server = Server::start(Options::default());
    let scopes = server.client_with(&[]).get("/v1/whoami").expect(200)["scopes"].to_string();
    assert!(!scopes.contains("admin") && !scopes.contains("operator"), "{scopes}");
}

fn metric(client: &Client, name: &str) -> String {
    let text = String::from_utf8(client.get("/metrics").body).unwrap();
    text.lines().find(|line| line.starts_with(name)).unwrap_or_default().to_owned()
}

#[test]
fn rules_that_are_only_watched_let_through_and_say_so() {
    let options = Options::default()
        .with("BULKHEAD_ACCESS__SCOPES", "audit")
        .with("BULKHEAD_ACCESS__EXPIRED_KEYS", "audit")
        .with("BULKHEAD_ACCESS__ADMIN_REASON", "audit");
    let server = Server::start(options);
    let owner = server.client();
    let things = make(&owner);
    let tenant = tenant_of(&owner);
    for rule in ["scopes", "expired_keys", "admin_reason"] {
        assert!(server.log().contains(&format!("rule=\"{rule}\"")), "{}", server.log());
    }

    let lesser = server.client_with(&["--scopes", "tasks:read"]);
    for _ in 0..3 {
        assert_eq!(lesser.get(&format!("/v1/tasks/{}/files/a.txt", things.task)).body, b"mine");
    }
    assert_eq!(metric(&owner, "bulkhead_access_would_refuse_total{rule=\"scopes\"}").split(' ').next_back(), Some("3"));
    // What reaches past one's own things is demanded all the same.
    let body = json!({"capability": {"kind": "workspace", "value": "read"}});
    lesser.post(&format!("/v1/tasks/{}/grants", things.task), &body).problem(403, "missing_scope");
    lesser.get("/metrics").problem(403, "missing_scope");

    let short = server.client_with(&["--expires-in", "1s"]);
    std::thread::sleep(std::time::Duration::from_millis(1_200));
    assert_eq!(short.get("/v1/whoami").status, 200);
    let made = server.cli(&["keys", "create", "--json"]);
    let made: Value = serde_json::from_slice(&made.stdout).unwrap();
    server.cli(&["keys", "revoke", made["id"].as_str().unwrap()]);
    owner.with_key(made["key"].as_str()).get("/v1/whoami").problem(401, "revoked_key");

    let admin = other(&server, &tenant, "admin");
    assert_eq!(send(&admin, "get", &format!("/v1/tasks/{}", things.task)).status, 200);
    let records = accesses(&owner, &things.task);
    assert!(records.len() == 1 && records[0]["data"]["reason"].is_null(), "{records:?}");

    // Whose a thing is is no rule: colleagues and strangers get nothing.
    for tenant in [tenant.as_str(), OTHER_TENANT] {
        let client = server.client_with(&["--tenant", tenant, "--user", "usr_01jd8n2m4v0000000000000003"]);
        for (method, template, _) in owned() {
            send(&client, method, &things.path(template)).problem(404, "not_found");
        }
    }
    let foreign = server.client_with(&[
        "--tenant",
        OTHER_TENANT,
        "--user",
        "usr_01jd8n2m4v0000000000000004",
        "--scopes",
        &format!("{ALL} admin"),
    ]);
    send_because(&foreign, "get", &format!("/v1/tasks/{}", things.task), Some("x")).problem(404, "not_found");
}
