//! The audit log of a whole server: what is in it, that it is whole after `kill -9`,
//! and what shows that it is not.

use std::collections::BTreeMap;
use std::path::Path;
use std::process::Output;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use serde_json::{Value, json};

use crate::harness::attacks::OTHER_TENANT;
use crate::harness::postgres::postgres;
use crate::harness::{Client, Options, Server};

/// All records of the client, oldest first.
fn records(client: &Client, filter: &str) -> Vec<Value> {
    let (mut records, mut after): (Vec<Value>, _) = (Vec::new(), 0);
    loop {
        let page = client.get(&format!("/v1/audit?limit=200&after={after}{filter}")).expect(200);
        records.extend(page["items"].as_array().unwrap().iter().cloned());
        match page["next_after"].as_u64() {
            Some(next) => after = next,
            None => return records,
        }
    }
}

fn kinds(records: &[Value]) -> Vec<&str> {
    records.iter().map(|record| record["kind"].as_str().unwrap()).collect()
}

/// `audit verify`, and whether it found the log whole.
fn verify(server: &Server, arguments: &[&str]) -> (bool, Value) {
    let output = server.cli(&[&["--json", "audit", "verify"], arguments].concat());
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let report: Value = serde_json::from_str(&text).unwrap_or_else(|error| panic!("{error}: {output:?}"));
    assert_eq!(report["whole"] == true, output.status.code() == Some(0), "{report}");
    assert!(matches!(output.status.code(), Some(0 | 1)), "{report}");
    (report["whole"] == true, report)
}

fn reason(report: &Value) -> String {
    let broken = report["chains"].as_array().unwrap().iter().find(|chain| chain["whole"] == false);
    broken.unwrap()["reason"].as_str().unwrap().to_owned()
}

#[test]
fn what_was_done_is_recorded_and_an_owner_reads_its_own() {
    let server = Server::start(Options::default());
    let client = server.client();
    let tool = client.register("fixtures/echo");
    let task = client.task();
    let call = client.call(&task, "echo", json!({"text": "x"}));
    client.post(&format!("/v1/tasks/{task}/tickets"), &json!({})).expect(201);
    let given = json!({"capability": {"kind": "workspace", "value": "read"}});
    let grant = client.post(&format!("/v1/tasks/{task}/grants"), &given).expect(201);
    client.delete(&format!("/v1/tasks/{task}/grants/{}", grant["id"].as_str().unwrap())).expect(200);
    client.post(&format!("/v1/tasks/{task}/archive"), &json!({})).expect(204);
    client.post(&format!("/v1/tasks/{task}/restore"), &json!({})).expect(204);
    client.delete(&format!("/v1/tasks/{task}")).expect(204);
    let all = records(&client, "");
    let expected = [
        "key.created",
        "tool.registered",
        "task.created",
        "call.ended",
        "ticket.given",
        "grant.given",
        "grant.revoked",
        "task.archived",
        "task.restored",
        "task.deleting",
        "task.deleted",
    ];
    assert_eq!(kinds(&all), expected);
    // Whoever has the database can make a key: nobody says who. The rest is by that key.
    assert_eq!(all[0]["data"].get("credential"), None);
    let key = format!("key:{}", all[0]["data"]["key"].as_str().unwrap());
    for record in &all[1..] {
        assert_eq!(record["data"]["credential"], key, "{record}");
    }
    let ended = &all[3];
    assert_eq!((&ended["task"], &ended["call"]), (&json!(task), &call["id"]));
    let data = &ended["data"];
    assert_eq!((&data["tool"], &data["digest"]), (&json!("echo"), &tool["digest"]));
    assert_eq!((&data["state"], &data["code"], &data["limits"]), (&json!("succeeded"), &json!(null), &json!(null)));
    assert_eq!(data["grants"], call["grants"]);
    assert!(data["used"]["wall_us"].is_u64(), "{data}");
    assert_eq!(all[2]["data"]["limits"], all[10]["data"]["limits"]);
    // Filters, also of a task that is gone.
    assert_eq!(kinds(&records(&client, &format!("&task={task}"))), expected[2..]);
    assert_eq!(kinds(&records(&client, "&kind=call.ended")), ["call.ended"]);
    let since = all[9]["at"].as_str().unwrap();
    assert!(kinds(&records(&client, &format!("&since={since}"))).ends_with(&["task.deleting", "task.deleted"]));
    assert!(records(&client, "&until=2020-01-01T00:00:00Z").is_empty());
    for wrong in ["task=x", "since=yesterday", "limit=0", "colour=red"] {
        client.get(&format!("/v1/audit?{wrong}")).problem(400, "invalid_request");
    }
    // Another's are not seen, nor is what a colleague did.
    let me = client.get("/v1/whoami").expect(200);
    let colleague =
        server.client_with(&["--tenant", me["tenant"].as_str().unwrap(), "--user", "usr_01jd8n2m4v0000000000000001"]);
    assert_eq!(kinds(&records(&colleague, "")), ["key.created"]);
    assert!(verify(&server, &[]).0);
}

/// Two keys of one user are told apart, and neither says who is asked for what by the other.
#[test]
fn a_record_names_the_key_that_was_used() {
    let server = Server::start(Options::default());
    let client = server.client();
    client.register("fixtures/echo");
    let task = client.task();
    let me = client.get("/v1/whoami").expect(200);
    let other =
        server.client_with(&["--tenant", me["tenant"].as_str().unwrap(), "--user", me["user"].as_str().unwrap()]);
    client.call(&task, "echo", json!({"text": "x"}));
    other.call(&task, "echo", json!({"text": "x"}));
    other.post(&format!("/v1/tasks/{task}/archive"), &json!({})).expect(204);
    let made = records(&client, "&kind=key.created");
    let key = |index: usize| json!(format!("key:{}", made[index]["data"]["key"].as_str().unwrap()));
    let credentials = |kind: &str| -> Vec<Value> {
        let records = records(&client, &format!("&task={task}&kind={kind}"));
        records.into_iter().map(|mut record| record["data"]["credential"].take()).collect()
    };
    assert_ne!(key(0), key(1));
    assert_eq!(credentials("task.created"), [key(0)]);
    assert_eq!(credentials("call.ended"), [key(0), key(1)]);
    assert_eq!(credentials("task.archived"), [key(1)]);
}

/// Who began a call and who ended it are two things.
#[test]
fn the_end_of_a_call_names_who_asked_for_it() {
    let server = Server::start(Options::default());
    let operator = server.client();
    operator.register("fixtures/sleeper");
    let tenant = operator.get("/v1/whoami").expect(200)["tenant"].as_str().unwrap().to_owned();
    let user = "usr_01jd8n2m4v0000000000000001";
    let [client, other] = [(); 2].map(|()| server.client_with(&["--tenant", &tenant, "--user", user]));
    let task = client.task();
    let path = format!("/v1/tasks/{task}/calls?wait=0");
    let begin = |ms: u64| {
        let call = client.post(&path, &json!({"tool": "sleeper", "arguments": {"ms": ms}})).expect(202);
        call["id"].as_str().unwrap().to_owned()
    };
    let ended = |call: &str, state: &str| {
        assert_eq!(client.get(&format!("/v1/calls/{call}?wait=30")).expect(200)["state"], state);
    };
    let [by_other, by_operator, by_nobody, too_late] = [60_000, 60_000, 60_000, 1].map(begin);
    ended(&too_late, "succeeded");
    for call in [&by_other, &too_late] {
        other.send("POST", &format!("/v1/calls/{call}/cancel"), &[], b"");
    }
    ended(&by_other, "cancelled");
    let reason = [("bulkhead-reason", "it is in the way")];
    operator.send("POST", &format!("/v1/calls/{by_operator}/cancel"), &reason, b"");
    ended(&by_operator, "cancelled");
    // Whoever deletes a task ends what goes on in it: `task.deleting` names them.
    client.delete(&format!("/v1/tasks/{task}")).expect(204);

    let ends = records(&client, &format!("&task={task}&kind=call.ended"));
    let end = |call: &str| ends.iter().find(|record| record["call"] == call).expect("it ended")["data"].clone();
    // Each sees what was done to its own user, in order.
    let key = |client: &Client, index: usize| {
        let made = records(client, "&kind=key.created");
        format!("key:{}", made[index]["data"]["key"].as_str().unwrap())
    };
    for call in [&by_other, &by_operator, &by_nobody, &too_late] {
        assert_eq!(end(call)["credential"], key(&client, 0));
    }
    assert_eq!(end(&by_other)["cancelled_by"], json!({"user": user, "credential": key(&client, 1)}));
    let me = &operator.get("/v1/whoami").expect(200)["user"];
    assert_eq!(end(&by_operator)["cancelled_by"], json!({"user": me, "credential": key(&operator, 0)}));
    assert_eq!((&end(&by_nobody)["state"], end(&by_nobody).get("cancelled_by")), (&json!("cancelled"), None));
    assert_eq!((&end(&too_late)["state"], end(&too_late).get("cancelled_by")), (&json!("succeeded"), None));
}

/// What was refused to a client, oldest first.
fn refused(client: &Client) -> Vec<Value> {
    let data = |record: Value| {
        let [what, ids, count] = ["what", "ids", "count"].map(|of| record["data"][of].clone());
        json!([what, ids, count])
    };
    records(client, "&kind=access.refused").into_iter().map(data).collect()
}

/// The same client, of a server that was started again.
fn again(server: &Server, client: &Client) -> Client {
    Client::new(server.url(), Some(client.key()))
}

#[test]
fn what_is_refused_to_a_user_is_recorded_before_it_is_answered_and_then_counted() {
    // No count is written but at a stop.
    let server = Server::start(Options::default().with("BULKHEAD_AUDIT__REFUSALS_EVERY_S", 3_600));
    let client = server.client();
    let task = client.task();
    let me = client.get("/v1/whoami").expect(200);
    let colleague =
        server.client_with(&["--tenant", me["tenant"].as_str().unwrap(), "--user", "usr_01jd8n2m4v0000000000000001"]);
    colleague.get(&format!("/v1/tasks/{task}")).problem(404, "not_found");
    server.client_with(&["--scopes", "metrics:read"]).get("/v1/tasks").problem(403, "missing_scope");
    let first = [json!(["task", [task], 1])];
    assert_eq!((refused(&colleague), refused(&client)), (first.to_vec(), vec![json!(["tasks:read", null, 1])]));
    for _ in 0..20 {
        colleague.get(&format!("/v1/tasks/{task}/calls")).problem(404, "not_found");
    }
    assert_eq!(refused(&colleague), first, "the like is counted");
    // One that crashes loses no more than the count.
    let server = server.kill_and_restart();
    let colleague = again(&server, &colleague);
    assert_eq!(refused(&colleague), first);
    for _ in 0..3 {
        colleague.delete(&format!("/v1/tasks/{task}")).problem(404, "not_found");
    }
    assert_eq!(refused(&colleague).len(), 2);
    let server = server.stop_and_restart();
    let all = [first[0].clone(), first[0].clone(), json!(["task", [task], 2])];
    assert_eq!(refused(&again(&server, &colleague)), all);
    assert!(verify(&server, &[]).0);
}

#[test]
fn what_is_refused_to_a_user_is_not_answered_while_it_can_not_be_recorded() {
    let database = postgres().database(None);
    let options = Options::default().with("BULKHEAD_AUDIT__REFUSALS_EVERY_S", 3_600);
    let server = Server::start(options.with("DATABASE_URL", postgres().url(postgres().port(), &database)));
    let client = server.client();
    let task = client.task();
    let stranger = server.client_with(&OTHER_TENANT);
    let trigger = "CREATE FUNCTION bulkhead.full() RETURNS trigger LANGUAGE plpgsql AS
            $$ BEGIN RAISE EXCEPTION 'no space' USING ERRCODE = 'disk_full'; END $$;
        CREATE TRIGGER full_disk BEFORE INSERT ON bulkhead.audit FOR EACH ROW
            WHEN (NEW.kind = 'access.refused') EXECUTE FUNCTION bulkhead.full()";
    postgres().psql(&database, trigger).unwrap();
    for asked in [&task, "task_01jd8n2m4v0000000000000000", &task] {
        stranger.get(&format!("/v1/tasks/{asked}")).problem(507, "disk_full");
    }
    // Nobody else is concerned: not even who has no key.
    client.get(&format!("/v1/tasks/{task}")).expect(200);
    client.with_key(None).get(&format!("/v1/tasks/{task}")).problem(401, "unauthenticated");
    postgres().psql(&database, "DROP TRIGGER full_disk ON bulkhead.audit").unwrap();
    stranger.get(&format!("/v1/tasks/{task}")).problem(404, "not_found");
    assert_eq!(refused(&stranger), [json!(["task", [task], 1])]);
    let server = server.stop_and_restart();
    let unanswered = json!(["task", [task, "task_01jd8n2m4v0000000000000000"], 3]);
    assert_eq!(refused(&again(&server, &stranger))[1..], [unanswered], "those that were not answered are counted");
    assert!(verify(&server, &[]).0);
}

/// What comes within some seconds.
fn until<T>(look: impl Fn() -> Option<T>) -> T {
    let found = (0..200).find_map(|_| {
        std::thread::sleep(Duration::from_millis(50));
        look()
    });
    found.expect("it comes")
}

#[test]
fn the_log_is_whole_after_kill_9_and_every_end_is_in_it_once() {
    let mut server = Server::start(Options::default());
    server.client().register("fixtures/echo");
    let task = server.client().task();
    for round in 0..3 {
        let client = server.client();
        let stop = AtomicBool::new(false);
        std::thread::scope(|scope| {
            for _ in 0..6 {
                scope.spawn(|| {
                    let body = json!({"tool": "echo", "arguments": {"text": "x"}});
                    while !stop.load(Ordering::Relaxed) {
                        // The server may vanish at any moment.
                        if client.try_post(&format!("/v1/tasks/{task}/calls"), &body).is_none() {
                            return;
                        }
                    }
                });
            }
            std::thread::sleep(Duration::from_millis(400 + 90 * round));
            let pid = rustix::process::Pid::from_raw(server.pid().cast_signed()).unwrap();
            rustix::process::kill_process(pid, rustix::process::Signal::KILL).unwrap();
            stop.store(true, Ordering::Relaxed);
        });
        // As it was left, before anything is repaired by a start.
        let (whole, report) = verify(&server, &[]);
        assert!(whole, "{report}");
        server = server.kill_and_restart();
    }
    let client = server.client();
    let mut calls = BTreeMap::<String, u32>::new();
    let mut before = String::new();
    loop {
        let page = client.get(&format!("/v1/tasks/{task}/calls?limit=200{before}")).expect(200);
        for call in page["items"].as_array().unwrap() {
            let id = call["id"].as_str().unwrap();
            client.get(&format!("/v1/calls/{id}?wait=30")).expect(200);
            calls.insert(id.to_owned(), 1);
        }
        let Some(next) = page["next_before"].as_str() else { break };
        before = format!("&before={next}");
    }
    // Only now has each call ended, also those that the last start found open.
    let mut ends = BTreeMap::<String, u32>::new();
    for record in records(&client, "&kind=call.ended") {
        *ends.entry(record["call"].as_str().unwrap().to_owned()).or_default() += 1;
    }
    assert!(calls.len() > 20, "only {} calls", calls.len());
    assert_eq!(ends, calls, "each call that ended has its record, once");
    // It names the key, whoever ended it.
    let key = records(&client, "&kind=key.created").swap_remove(0)["data"]["key"].as_str().unwrap().to_owned();
    let named = |record: &Value| record["data"]["credential"] == format!("key:{key}");
    assert!(records(&client, "&kind=call.ended").iter().all(named));
    assert!(verify(&server, &[]).0);
}

/// Changes one bit of the first place where `text` stands in the file.
fn flip(path: &Path, text: &[u8]) {
    let mut bytes = std::fs::read(path).unwrap();
    let at = bytes.windows(text.len()).position(|window| window == text).expect("it stands there");
    bytes[at + text.len() / 2] ^= 1;
    std::fs::write(path, bytes).unwrap();
}

#[test]
fn a_changed_byte_and_an_older_database_are_found() {
    let server = Server::start(Options::default());
    let client = server.client();
    let task = client.task();
    client.post(&format!("/v1/tasks/{task}/archive"), &json!({})).expect(204);
    // A stop empties the log file, and exports the heads.
    let server = server.stop_and_restart();
    let database = server.data().join("bulkhead.sqlite");
    server.terminate();
    until(|| (!database.with_extension("sqlite-wal").exists()).then_some(()));
    let old = std::fs::read(&database).unwrap();

    let server = server.kill_and_restart();
    server.client().post(&format!("/v1/tasks/{task}/restore"), &json!({})).expect(204);
    let server = server.stop_and_restart();
    server.terminate();
    until(|| (!database.with_extension("sqlite-wal").exists()).then_some(()));
    let (whole, report) = verify(&server, &[]);
    assert!(whole, "{report}");
    let new = std::fs::read(&database).unwrap();

    // One bit, in the middle of a record.
    flip(&database, b"task.restored");
    let (whole, report) = verify(&server, &[]);
    assert!(!whole && reason(&report).contains("was changed"), "{report}");
    let human = server.cli(&["audit", "verify"]);
    let text = String::from_utf8_lossy(&human.stdout).into_owned();
    assert!(human.status.code() == Some(1) && text.contains("BROKEN") && text.contains("NOT whole"), "{text}");

    // The whole file of before: its chains are whole, but end too soon.
    std::fs::write(&database, old).unwrap();
    let (whole, report) = verify(&server, &[]);
    assert!(!whole && reason(&report).contains("cut off"), "{report}");
    std::fs::write(&database, new).unwrap();
    assert!(verify(&server, &[]).0);
}

fn failed(output: &Output, code: i32, words: &[&str]) {
    let text = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.code(), Some(code), "{text}");
    for word in words {
        assert!(text.contains(word), "`{word}` is not in: {text}");
    }
}

#[test]
fn heads_are_signed_and_only_good_ones_are_trusted() {
    let server = Server::start(Options::default());
    server.client().task();
    let exported = server.cli(&["audit", "export"]);
    assert!(exported.status.success(), "{exported:?}");
    let line: Value = serde_json::from_slice(&exported.stdout).unwrap();
    let public = line["key"].as_str().unwrap();
    let elsewhere = tempfile::tempdir().unwrap();
    let file = elsewhere.path().join("heads.jsonl");
    std::fs::write(&file, &exported.stdout).unwrap();
    let named = file.to_str().unwrap();
    let (whole, report) = verify(&server, &["--head", named, "--key", public]);
    assert!(whole, "{report}");
    let of_tenant = report["chains"].as_array().unwrap().iter().find(|chain| chain["chain"] != "operator").unwrap();
    assert_eq!(of_tenant["newest_signed"], of_tenant["records"], "{report}");
    assert!(verify(&server, &["--head", elsewhere.path().to_str().unwrap()]).0);

    let other = "0".repeat(64);
    failed(&server.cli(&["audit", "verify", "--head", named, "--key", &other]), 66, &[named, "line 1", "--key"]);
    failed(&server.cli(&["audit", "verify", "--head", "no-such-file"]), 66, &["no-such-file", "--head"]);
    failed(&server.cli(&["audit", "verify", "--key", "x"]), 2, &["64 hexadecimal digits"]);
    let forged = String::from_utf8(exported.stdout).unwrap().replacen("\"number\":", "\"number\":1", 1);
    std::fs::write(&file, forged).unwrap();
    failed(&server.cli(&["audit", "verify", "--head", named]), 66, &[named, "line 1", "signature"]);
    let mode = std::os::unix::fs::PermissionsExt::mode(
        &std::fs::metadata(server.data().join("audit.key")).unwrap().permissions(),
    );
    assert_eq!(mode & 0o777, 0o600);
    // The server has exported by itself, too.
    let files: Vec<_> = std::fs::read_dir(server.data().join("audit-heads")).unwrap().collect();
    assert_eq!(files.len(), 1);
}

#[test]
fn strangers_can_not_fill_the_log() {
    let server = Server::start(Options::default().with("BULKHEAD_AUDIT__REFUSALS_EVERY_S", 1));
    let client = server.client();
    let (nobody, guesser) = (client.with_key(None), client.with_key(Some("bh_000000000000_wrong")));
    std::thread::scope(|scope| {
        for stranger in [&nobody, &guesser, &nobody, &guesser] {
            scope.spawn(move || {
                for _ in 0..400 {
                    stranger
                        .get("/v1/whoami")
                        .problem(401, if stranger.key().is_empty() { "unauthenticated" } else { "invalid_key" });
                }
            });
        }
    });
    client.get("/v1/whoami").expect(200);
    let operator = |report: &Value| {
        let chain = report["chains"].as_array().unwrap().iter().find(|chain| chain["chain"] == "operator").cloned();
        chain.map_or(0, |chain| chain["records"].as_u64().unwrap())
    };
    until(|| (operator(&verify(&server, &[]).1) > 0).then_some(()));
    std::thread::sleep(Duration::from_millis(1_500));
    let (whole, report) = verify(&server, &[]);
    assert!(whole && operator(&report) < 60, "1,600 refusals made few records: {report}");
}

#[test]
fn chains_in_postgresql_are_verified_and_heads_exported_now_and_then() {
    let database = postgres().database(None);
    let options = Options::default()
        .with("DATABASE_URL", postgres().url(postgres().port(), &database))
        .with("BULKHEAD_AUDIT__EXPORT_EVERY_S", 1);
    let server = Server::start(options);
    let client = server.client();
    client.register("fixtures/echo");
    let task = client.task();
    for _ in 0..5 {
        client.call(&task, "echo", json!({"text": "x"}));
    }
    // Signed while it runs, with no other doing.
    until(|| {
        let (whole, report) = verify(&server, &[]);
        assert!(whole, "{report}");
        let chains = report["chains"].as_array().unwrap();
        let chain = chains.iter().find(|chain| chain["chain"] != "operator").unwrap();
        (chain["newest_signed"] == chain["records"] && chain["records"].as_u64() > Some(5)).then_some(())
    });
    begin_cut_off(&server, &database, &client, &task);
    let change = "ALTER TABLE bulkhead.audit DISABLE TRIGGER USER;
        UPDATE bulkhead.audit SET data = replace(data, 'succeeded', 'failed') WHERE kind = 'call.ended'";
    postgres().psql(&database, change).unwrap();
    let (whole, report) = verify(&server, &["--kept-hours", "0"]);
    assert!(!whole && reason(&report).contains("was changed"), "{report}");
}

/// Who can write to the database can say that retention has removed what is younger.
fn begin_cut_off(server: &Server, database: &str, client: &Client, task: &str) {
    for _ in 0..3 {
        client.call(task, "echo", json!({"text": "after what was signed"}));
    }
    let cut = "SET search_path TO bulkhead;
        UPDATE bulkhead.audit_heads h SET kept_after = a.number, kept_hash = a.hash FROM bulkhead.audit a
        WHERE a.tenant_id = h.tenant_id AND a.number = h.number - 1;
        DELETE FROM bulkhead.audit a USING bulkhead.audit_heads h
        WHERE a.tenant_id = h.tenant_id AND a.number <= h.kept_after";
    postgres().psql(database, cut).unwrap();
    let (whole, report) = verify(server, &[]);
    assert!(!whole && reason(&report).contains("--kept-hours"), "{report}");
    // As it may be where records were kept for no time at all.
    let (whole, report) = verify(server, &["--kept-hours", "0"]);
    assert!(whole, "{report}");
    failed(&server.cli(&["audit", "verify", "--kept-hours", "x"]), 2, &["--kept-hours"]);
}
