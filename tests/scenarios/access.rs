//! Ownership: every operation of the OpenAPI document stands in this table, or
//! the test fails. Someone else's things are not there.

use std::collections::BTreeSet;

use bulkhead::system::System;
use bulkhead_core::access::Operation as Op;
use bulkhead_core::clock::{Clock as _, Entropy};
use bulkhead_core::key::ApiKey;
use bulkhead_core::principal::{Scope, Scopes};
use serde_json::{Value, json};

use crate::harness::{Answer, Client, Options, Server};

/// How an operation is guarded.
pub(super) enum Guard {
    /// It names an owned thing: a stranger gets 404, a key without the scope 403.
    Owned(Op),
    /// It makes, lists or registers: a key without the scope gets 403.
    Scoped(Op),
    /// Any valid key.
    Key,
    /// Nobody is asked.
    Open,
}

use Guard::{Key, Open, Owned, Scoped};

pub(super) const TABLE: &[(&str, &str, Guard)] = &[
    ("get", "/healthz", Open),
    ("get", "/readyz", Open),
    ("get", "/v1/whoami", Key),
    ("post", "/v1/sessions", Scoped(Op::SessionsCreate)),
    ("get", "/v1/sessions", Scoped(Op::SessionsList)),
    ("get", "/v1/sessions/{session}", Owned(Op::SessionsGet)),
    ("delete", "/v1/sessions/{session}", Owned(Op::SessionsDelete)),
    ("post", "/v1/tasks", Scoped(Op::TasksCreate)),
    ("get", "/v1/tasks", Scoped(Op::TasksList)),
    ("post", "/v1/tasks/archive", Scoped(Op::TasksCreate)),
    ("get", "/v1/tasks/{task}", Owned(Op::TasksGet)),
    ("delete", "/v1/tasks/{task}", Owned(Op::TasksDelete)),
    ("post", "/v1/tasks/{task}/archive", Owned(Op::TasksArchive)),
    ("post", "/v1/tasks/{task}/restore", Owned(Op::TasksRestore)),
    ("get", "/v1/tasks/{task}/tools", Owned(Op::TasksTools)),
    ("get", "/v1/tasks/{task}/events", Owned(Op::EventsFollow)),
    ("get", "/v1/tasks/{task}/events/ws", Owned(Op::EventsFollow)),
    ("post", "/v1/tasks/{task}/tickets", Owned(Op::TicketsCreate)),
    ("post", "/v1/tasks/{task}/calls", Owned(Op::CallsCreate)),
    ("get", "/v1/tasks/{task}/calls", Owned(Op::CallsList)),
    ("get", "/v1/calls/{call}", Owned(Op::CallsGet)),
    ("post", "/v1/calls/{call}/cancel", Owned(Op::CallsCancel)),
    ("post", "/v1/calls/{call}/answers", Owned(Op::GrantsAnswer)),
    ("post", "/v1/tasks/{task}/grants", Owned(Op::GrantsGive)),
    ("get", "/v1/tasks/{task}/grants", Owned(Op::GrantsList)),
    ("delete", "/v1/tasks/{task}/grants/{grant}", Owned(Op::GrantsRevoke)),
    ("get", "/v1/tasks/{task}/policy/{tool}", Owned(Op::PolicyExplain)),
    ("get", "/v1/tasks/{task}/audit", Owned(Op::AuditList)),
    ("get", "/v1/audit", Scoped(Op::AuditListOwn)),
    ("get", "/v1/tasks/{task}/entries", Owned(Op::FilesList)),
    ("get", "/v1/tasks/{task}/entries/{path}", Owned(Op::FilesList)),
    ("post", "/v1/tasks/{task}/directories", Owned(Op::FilesMakeDirectory)),
    ("post", "/v1/tasks/{task}/moves", Owned(Op::FilesMove)),
    ("get", "/v1/tasks/{task}/files/{path}", Owned(Op::FilesRead)),
    ("put", "/v1/tasks/{task}/files/{path}", Owned(Op::FilesWrite)),
    ("delete", "/v1/tasks/{task}/files/{path}", Owned(Op::FilesDelete)),
    ("get", "/v1/tasks/{task}/history", Owned(Op::FilesHistory)),
    ("get", "/v1/tasks/{task}/accesses", Owned(Op::FilesAccesses)),
    ("get", "/v1/tasks/{task}/preview", Owned(Op::FilesPreview)),
    ("get", "/v1/tasks/{task}/deleted", Owned(Op::FilesListDeleted)),
    ("post", "/v1/tasks/{task}/deleted/{deleted}/restore", Owned(Op::FilesRestore)),
    ("delete", "/v1/tasks/{task}/deleted/{deleted}", Owned(Op::FilesPurge)),
    ("delete", "/v1/tasks/{task}/deleted", Owned(Op::FilesPurge)),
    ("post", "/v1/tasks/{task}/transfers", Owned(Op::FilesTransfer)),
    ("post", "/v1/tasks/{task}/contents", Owned(Op::FilesPutContent)),
    ("post", "/v1/tasks/{task}/uploads", Owned(Op::FilesUpload)),
    ("get", "/v1/tasks/{task}/uploads/{upload}", Owned(Op::FilesUpload)),
    ("patch", "/v1/tasks/{task}/uploads/{upload}", Owned(Op::FilesUpload)),
    ("delete", "/v1/tasks/{task}/uploads/{upload}", Owned(Op::FilesUpload)),
    ("post", "/v1/tools", Scoped(Op::ToolsRegister)),
    ("get", "/v1/tools", Scoped(Op::ToolsList)),
    ("get", "/v1/tools/{tool}", Owned(Op::ToolsGet)),
    ("get", "/v1/tools/{tool}/events", Owned(Op::ToolsFollow)),
    ("delete", "/v1/tools/{tool}", Owned(Op::ToolsDelete)),
    ("get", "/v1/volumes", Scoped(Op::VolumesList)),
    ("post", "/v1/volumes/{volume}/retire", Scoped(Op::VolumesRetire)),
];

pub(super) struct Things {
    session: String,
    pub(super) task: String,
    call: String,
    tool: String,
    grant: String,
    deleted: String,
    upload: String,
}

impl Things {
    pub(super) fn path(&self, template: &str) -> String {
        template
            .replace("{session}", &self.session)
            .replace("{task}", &self.task)
            .replace("{call}", &self.call)
            .replace("/policy/{tool}", "/policy/echo")
            .replace("{grant}", &self.grant)
            .replace("{tool}", &self.tool)
            .replace("{path}", "a.txt")
            .replace("{deleted}", &self.deleted)
            .replace("{upload}", &self.upload)
            .replace("{volume}", "vol_of_nobody")
            + if template.ends_with("/preview") { "?path=a.txt" } else { "" }
    }
}

pub(super) fn make(client: &Client) -> Things {
    let id = |value: &Value| value["id"].as_str().unwrap().to_owned();
    let tool = client.register("fixtures/echo");
    let session = client.post("/v1/sessions", &json!({"label": "s"})).expect(201);
    let task = client.task();
    client.put(&format!("/v1/tasks/{task}/files/a.txt"), b"mine").expect(201);
    let call = client.call(&task, "echo", json!({"text": "x"}));
    let given = json!({"capability": {"kind": "workspace", "value": "read"}});
    let grant = client.post(&format!("/v1/tasks/{task}/grants"), &given).expect(201);
    client.put(&format!("/v1/tasks/{task}/files/gone.txt"), b"gone").expect(201);
    let deleted = client.delete(&format!("/v1/tasks/{task}/files/gone.txt"));
    let deleted = deleted.header("location").rsplit('/').next().unwrap().to_owned();
    let upload = client.post(&format!("/v1/tasks/{task}/uploads"), &json!({"path": "u", "length": 9})).expect(201);
    Things {
        deleted,
        upload: id(&upload),
        grant: id(&grant),
        session: id(&session),
        call: id(&call),
        tool: id(&tool),
        task,
    }
}

/// A body that the operation would take, so that only the guard refuses it.
pub(super) fn send(client: &Client, method: &str, path: &str) -> Answer {
    send_because(client, method, path, None)
}

/// The same, as an administrator who says why.
pub(super) fn send_because(client: &Client, method: &str, path: &str, reason: Option<&str>) -> Answer {
    let why: Vec<_> = reason.map(|reason| ("bulkhead-reason", reason)).into_iter().collect();
    let body = match path.rsplit('/').next().unwrap() {
        "calls" => json!({"tool": "echo", "arguments": {"text": "x"}}),
        "grants" => json!({"capability": {"kind": "workspace", "value": "read"}}),
        "answers" => json!({"question": "question_01jd8n2m4v0000000000000000", "allow": true}),
        "moves" => json!({"from": "a.txt", "to": "b.txt"}),
        "transfers" => json!({"from_task": "task_01jd8n2m4v00000000000000zz", "from": "a.txt", "to": "b.txt"}),
        "contents" => json!({"digest": format!("sha256:{}", "0".repeat(64)), "path": "b.txt"}),
        "uploads" => json!({"path": "u", "length": 3}),
        "directories" => json!({"path": "d"}),
        _ => json!({}),
    };
    let json = [&why[..], &[("content-type", "application/json")]].concat();
    match method {
        "post" => client.send("POST", path, &json, body.to_string().as_bytes()),
        "put" => client.send("PUT", path, &why, b"theirs"),
        method => client.send(&method.to_uppercase(), path, &why, b""),
    }
}

#[test]
fn every_operation_is_in_the_table() {
    let server = Server::start(Options::default());
    let document = server.client().with_key(None).get("/v1/openapi.json").expect(200);
    let mut documented = BTreeSet::new();
    for (path, item) in document["paths"].as_object().unwrap() {
        for method in item.as_object().unwrap().keys() {
            documented.insert((method.clone(), path.replace("{*path}", "{path}")));
        }
    }
    let table: BTreeSet<_> = TABLE.iter().map(|(method, path, _)| ((*method).to_owned(), (*path).to_owned())).collect();
    assert_eq!(documented, table, "left: the document, right: the table");
    // And every operation of the door is one of them: joining is a part of making, and reading there
    // of writing here; metrics are no API.
    let asked = |operation: &Op| {
        matches!(operation, Op::SessionsJoin | Op::FilesTransferFrom | Op::MetricsGet)
            || TABLE.iter().any(|(_, _, guard)| matches!(guard, Owned(op) | Scoped(op) if op == operation))
    };
    assert_eq!(Op::ALL.iter().filter(|operation| !asked(operation)).count(), 0);
}

/// Ids of things that nobody has.
pub(super) fn nothing() -> Things {
    let id = |kind: &str| format!("{kind}_01jd8n2m4v00000000000000zz");
    Things {
        session: id("ses"),
        task: id("task"),
        call: id("call"),
        tool: id("tool"),
        grant: id("grant"),
        deleted: id("del"),
        upload: id("upl"),
    }
}

/// A client of this user with these scopes.
fn scoped(server: &Server, scopes: Scopes) -> Client {
    server.client_with(&["--scopes", &scopes.to_string()])
}

#[test]
fn each_operation_demands_its_scope_and_no_other() {
    let server = Server::start(Options::default());
    let things = make(&server.client());
    for scope in Scope::ALL.iter().copied() {
        let rest = scoped(&server, Scope::ALL.iter().copied().filter(|other| *other != scope).collect());
        let alone = scoped(&server, [scope].into_iter().collect());
        for (method, template, guard) in TABLE {
            let (Owned(operation) | Scoped(operation)) = guard else { continue };
            if operation.scope() != scope {
                continue;
            }
            let problem = send(&rest, method, &things.path(template)).problem(403, "missing_scope");
            assert_eq!(problem["scope"], scope.as_str(), "{method} {template}");
            // With that scope alone only the thing is missing.
            let enough = send(&alone, method, &nothing().path(template));
            assert_ne!(enough.status, 403, "{method} {template}");
            if matches!(guard, Owned(_)) {
                enough.problem(404, "not_found");
            }
        }
    }
    let metrics = scoped(&server, Scopes::all().iter().filter(|scope| *scope != Scope::MetricsRead).collect());
    let refused = metrics.get("/metrics");
    assert_eq!(
        refused.header("www-authenticate"),
        "Bearer realm=\"bulkhead\", error=\"insufficient_scope\", \
         error_description=\"The API key or token lacks a scope\", scope=\"metrics:read\""
    );
    refused.problem(403, "missing_scope");
}

#[test]
fn strangers_and_lesser_keys_are_refused_everywhere() {
    let server = Server::start(Options::default());
    let owner = server.client();
    let things = make(&owner);
    let stranger =
        server.client_with(&["--tenant", "ten_01jd8n2m4v0000000000000000", "--user", "usr_01jd8n2m4v0000000000000000"]);
    let me = owner.get("/v1/whoami").expect(200);
    let colleague =
        server.client_with(&["--tenant", me["tenant"].as_str().unwrap(), "--user", "usr_01jd8n2m4v0000000000000001"]);
    let lesser = server.client_with(&["--scopes", "metrics:read"]);
    let nobody = owner.with_key(None);
    for (method, template, guard) in TABLE {
        let path = things.path(template);
        let unauthenticated = send(&nobody, method, &path);
        match guard {
            Open => assert_eq!(unauthenticated.status, 200, "{method} {template}"),
            _ => drop(unauthenticated.problem(401, "unauthenticated")),
        }
        match guard {
            Owned(_) => {
                drop(send(&stranger, method, &path).problem(404, "not_found"));
                // Tools belong to the tenant, all else to the user.
                if !template.starts_with("/v1/tools/") {
                    drop(send(&colleague, method, &path).problem(404, "not_found"));
                }
                drop(send(&lesser, method, &path).problem(403, "missing_scope"));
            }
            Scoped(_) => drop(send(&lesser, method, &path).problem(403, "missing_scope")),
            Key => assert_eq!(send(&lesser, method, &path).status, 200),
            Open => {}
        }
    }
    assert_eq!(
        owner.get(&format!("/v1/tasks/{}/grants", things.task)).expect(200)["items"].as_array().unwrap().len(),
        1
    );
    // And nothing of what the strangers tried has happened.
    assert_eq!(owner.get(&format!("/v1/tasks/{}/files/a.txt", things.task)).body, b"mine");
    assert_eq!(owner.get(&format!("/v1/tasks/{}", things.task)).expect(200)["state"], "ready");
    assert_eq!(stranger.get("/v1/tasks").expect(200)["items"], json!([]));
    let calls = owner.get(&format!("/v1/tasks/{}/calls", things.task)).expect(200);
    assert_eq!(calls["items"].as_array().unwrap().len(), 1);
}

/// The other half of the test before: each of those requests is one that its owner is
/// given. So if the check were missing from any one operation, the stranger would be
/// told what the owner is told here, and not that there is no such thing.
#[test]
fn the_owner_is_given_what_strangers_are_refused() {
    let server = Server::start(Options::default());
    let (owner, stranger) = (server.client(), stranger(&server));
    let owned = TABLE.iter().filter_map(|(method, template, guard)| match guard {
        Owned(operation) => Some((method, template, operation)),
        _ => None,
    });
    let mut asked = BTreeSet::new();
    for (method, template, operation) in owned {
        // New ones each time: some of them end what they are asked about.
        let things = make(&owner);
        if *operation == Op::TasksRestore {
            drop(owner.post(&format!("/v1/tasks/{}/archive", things.task), &json!({})).expect(204));
        }
        let path = things.path(template);
        let refused = send(&stranger, method, &path).problem(404, "not_found")["detail"].clone();
        asked.insert(operation.name());
        if template.ends_with("/events") {
            assert_eq!(owner.status_of(&path), 200, "{template}");
            continue;
        }
        let given = send(&owner, method, &path);
        let told = (given.status >= 400).then(|| given.json()["detail"].clone());
        assert_ne!(told, Some(refused), "{method} {template}: the owner is told what a stranger is told");
        assert!(!matches!(given.status, 401 | 403), "{method} {template}: {given:?}");
        // What these name further is not there.
        let names_more = matches!(operation, Op::GrantsAnswer | Op::FilesTransfer | Op::FilesPutContent);
        assert!(given.status != 404 || names_more, "{method} {template}: {given:?}");
    }
    let of_things = |operation: &&Op| !matches!(operation, Op::SessionsJoin | Op::FilesTransferFrom);
    let rest = Op::ALL.iter().filter(of_things).filter(|operation| !asked.contains(operation.name()));
    // Those have nothing that could be another's: they make, list or register.
    let rest: Vec<_> = rest.map(|operation| operation.name()).collect();
    assert_eq!(
        rest,
        [
            "sessions.create",
            "sessions.list",
            "tasks.create",
            "tasks.list",
            "audit.list_own",
            "tools.register",
            "tools.list",
            "volumes.list",
            "volumes.retire",
            "metrics.get"
        ]
    );
}

#[test]
fn a_session_or_tool_of_somebody_else_can_not_be_used() {
    let server = Server::start(Options::default());
    let owner = server.client();
    let things = make(&owner);
    let stranger =
        server.client_with(&["--tenant", "ten_01jd8n2m4v0000000000000000", "--user", "usr_01jd8n2m4v0000000000000000"]);
    stranger.post("/v1/tasks", &json!({"session": things.session})).problem(404, "not_found");
    let answer = stranger.post("/v1/tasks", &json!({"tools": ["echo"]}));
    answer.problem(400, "invalid_request");
    let theirs = stranger.task();
    let body = json!({"tool": "echo", "arguments": {"text": "x"}});
    stranger.post(&format!("/v1/tasks/{theirs}/calls"), &body).problem(422, "unknown_tool");
}

/// When a key was last used, as its operator is told.
fn last_used(server: &Server, id: &Value) -> Value {
    let listed = server.cli(&["keys", "list", "--json"]);
    let listed: Value = serde_json::from_slice(&listed.stdout).unwrap();
    let keys = listed["items"].as_array().unwrap();
    keys.iter().find(|key| key["id"] == *id).unwrap()["last_used_at"].clone()
}

#[test]
fn the_last_use_of_a_key_is_noted_and_no_use_is_one_that_was_refused() {
    let server = Server::start(Options::default());
    let made = server.cli(&["keys", "create", "--json"]);
    let made: Value = serde_json::from_slice(&made.stdout).unwrap();
    let key = made["key"].as_str().unwrap();
    let forged = ApiKey::generate(&Forger(key.split('_').nth(1).unwrap().to_owned())).reveal();
    server.client().with_key(Some(&forged)).get("/v1/whoami").problem(401, "invalid_key");
    assert_eq!(last_used(&server, &made["id"]), Value::Null, "who only guessed has not used it");

    assert_eq!(server.client().with_key(Some(key)).get("/v1/whoami").status, 200);
    // Times of one form and one clock: they are in order as they are written.
    let used = last_used(&server, &made["id"]);
    let (made_at, now) = (made["created_at"].as_str().unwrap(), System.now().to_string());
    assert!(used.as_str().is_some_and(|used| made_at <= used && *used <= *now), "{made_at} <= {used} <= {now}");
    // A second use within the minute is not written again.
    std::thread::sleep(std::time::Duration::from_millis(20));
    assert_eq!(server.client().with_key(Some(key)).get("/v1/whoami").status, 200);
    assert_eq!(last_used(&server, &made["id"]), used);
}

#[test]
fn keys_expire_and_are_revoked() {
    let server = Server::start(Options::default());
    let short = server.client_with(&["--expires-in", "1s"]);
    assert_eq!(short.get("/v1/whoami").status, 200);
    std::thread::sleep(std::time::Duration::from_millis(1_200));
    short.get("/v1/whoami").problem(401, "expired_key");

    let made = server.cli(&["keys", "create", "--json"]);
    let made: Value = serde_json::from_slice(&made.stdout).unwrap();
    let client = server.client().with_key(made["key"].as_str());
    assert_eq!(client.get("/v1/whoami").status, 200);
    assert!(server.cli(&["keys", "revoke", made["id"].as_str().unwrap()]).status.success());
    // The server trusts a good key for three seconds.
    let refused = (0..50).any(|_| {
        std::thread::sleep(std::time::Duration::from_millis(100));
        client.get("/v1/whoami").status == 401
    });
    assert!(refused);
    client.get("/v1/whoami").problem(401, "revoked_key");
    // Both are known: it is written down whose key that was.
    let refused = server.client().get("/v1/audit?kind=access.refused").expect(200);
    let refused = refused["items"].as_array().unwrap();
    let of =
        |reason: &str| refused.iter().find(|item| item["data"]["reason"] == reason).map(|item| &item["data"]["ids"]);
    assert_eq!(of("revoked_key"), Some(&json!([made["id"]])), "{refused:?}");
    let expired = of("expired_key").and_then(|ids| ids[0].as_str()).expect("it names the key");
    assert!(short.key().contains(expired), "{expired}");

    let key = made["key"].as_str().unwrap();
    let typo = format!("{}{}", &key[..key.len() - 1], if key.ends_with('0') { '1' } else { '0' });
    let problem = client.with_key(Some(&typo)).get("/v1/whoami").problem(401, "invalid_key");
    assert!(problem["detail"].as_str().unwrap().contains("checksum"), "{problem}");
    client.with_key(Some("nonsense")).get("/v1/whoami").problem(401, "invalid_key");
    let database = std::fs::read(server.data().join("bulkhead.sqlite")).unwrap();
    let secret = key.rsplit('_').next().unwrap();
    assert!(!database.windows(20).any(|window| window == &secret.as_bytes()[..20]), "the secret is stored");
}

#[test]
fn another_owners_session_answers_as_one_that_never_was() {
    let server = Server::start(Options::default());
    let owner = server.client();
    let things = make(&owner);
    let stranger = stranger(&server);
    let never = nothing().session;
    let archive = [("content-type", "application/x-tar")];
    let tries: [&dyn Fn(&str) -> Answer; 5] = [
        &|id| stranger.get(&format!("/v1/sessions/{id}")),
        &|id| stranger.delete(&format!("/v1/sessions/{id}")),
        &|id| stranger.post("/v1/tasks", &json!({"session": id})),
        &|id| stranger.send("POST", &format!("/v1/tasks/archive?session={id}"), &archive, b""),
        &|id| stranger.get(&format!("/v1/tasks?session={id}")),
    ];
    for (number, attempt) in tries.iter().enumerate() {
        let [theirs, none] = [&things.session, &never].map(|id| {
            let answer = attempt(id);
            (answer.status, String::from_utf8(answer.body).unwrap().replace(id, "ID"))
        });
        assert_eq!(theirs, none, "attempt {number}");
    }
    // A client can't choose the id of what it makes.
    stranger.post("/v1/sessions", &json!({"id": things.session, "label": "x"})).problem(400, "malformed_json");
    assert_eq!(owner.get(&format!("/v1/sessions/{}", things.session)).status, 200);
    assert_eq!(stranger.get("/v1/tasks").expect(200)["items"], json!([]));
}

fn stranger(server: &Server) -> Client {
    server.client_with(&["--tenant", "ten_01jd8n2m4v0000000000000000", "--user", "usr_01jd8n2m4v0000000000000000"])
}

#[test]
fn keys_are_rotated_with_an_overlap() {
    let server = Server::start(Options::default());
    let made = server.cli(&["keys", "create", "--json", "--scopes", "tasks:read"]);
    let made: Value = serde_json::from_slice(&made.stdout).unwrap();
    let old = server.client().with_key(made["key"].as_str());
    assert_eq!(old.get("/v1/tasks").status, 200);
    let rotated = server.cli(&["keys", "rotate", made["id"].as_str().unwrap(), "--overlap", "4s", "--json"]);
    let rotated: Value = serde_json::from_slice(&rotated.stdout).unwrap();
    assert_eq!((&rotated["scopes"], &rotated["replaces"]["id"]), (&made["scopes"], &made["id"]));
    let new = server.client().with_key(rotated["key"].as_str());
    assert_eq!((old.get("/v1/tasks").status, new.get("/v1/tasks").status), (200, 200));
    assert_eq!(old.get("/v1/whoami").expect(200), new.get("/v1/whoami").expect(200));
    let recorded = &new.get("/v1/audit?kind=key.rotated").expect(200)["items"][0]["data"];
    assert_eq!((&recorded["key"], &recorded["by"]), (&made["id"], &rotated["id"]));
    // The overlap, and the three seconds that a good key is trusted.
    std::thread::sleep(std::time::Duration::from_millis(7_500));
    let refused = old.get("/v1/tasks");
    assert!(refused.header("www-authenticate").contains("error=\"invalid_token\""));
    refused.problem(401, "expired_key");
    assert_eq!(new.get("/v1/tasks").status, 200);
}

/// Makes a key with the public name of another, and a secret that is guessed.
struct Forger(String);

impl Entropy for Forger {
    fn fill(&self, bytes: &mut [u8]) {
        const ALPHABET: &str = "0123456789abcdefghjkmnpqrstvwxyz";
        let name = self.0.chars().map(|letter| u8::try_from(ALPHABET.find(letter).unwrap()).unwrap());
        bytes.iter_mut().zip(name.chain(std::iter::repeat(7))).for_each(|(byte, value)| *byte = value);
    }
}

#[test]
fn a_secret_that_was_guessed_is_refused() {
    let server = Server::start(Options::default());
    let name = server.key().split('_').nth(1).unwrap().to_owned();
    let forged = ApiKey::generate(&Forger(name.clone())).reveal();
    assert!(forged.contains(&name) && forged != server.key());
    let client = server.client();
    client.with_key(Some(&forged)).get("/v1/whoami").problem(401, "invalid_key");
    // Nor while the true one is known and trusted.
    assert_eq!(client.get("/v1/whoami").status, 200);
    client.with_key(Some(&forged)).get("/v1/whoami").problem(401, "invalid_key");
}
