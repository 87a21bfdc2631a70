//! A host that is lost for good, with the workspaces that only it reached.

use bulkhead_core::principal::Scope;
use serde_json::{Value, json};

use super::hosts::{options, until};
use crate::harness::postgres::postgres;
use crate::harness::{Client, Options, Server};

const WHY: &[(&str, &str)] = &[("bulkhead-reason", "the machine burned")];

/// The volume on which so many tasks lie.
fn with_tasks(operator: &Client, tasks: u64) -> Value {
    let listed = operator.get("/v1/volumes").expect(200);
    let found = listed["items"].as_array().unwrap().iter().find(|volume| volume["tasks"] == tasks);
    found.unwrap_or_else(|| panic!("{listed}")).clone()
}

fn state(client: &Client, task: &str) -> Value {
    client.get(&format!("/v1/tasks/{task}")).expect(200)["state"].clone()
}

#[test]
fn what_is_lost_with_its_host_is_given_up_and_can_be_deleted() {
    let database = postgres().database(None);
    let mut a = Server::start(options(&database, postgres().port()));
    // One task more than there are, which count until they are deleted for good.
    let b = Server::beside(&a, options(&database, postgres().port()).with("BULKHEAD_QUOTA__TASKS_PER_USER", 4));
    let (near, far) = (a.client(), b.client());
    let operator = far.with_key(Some(a.client_with(&["--scopes", Scope::OperatorAdmin.as_str()]).key()));
    near.register("fixtures/echo");
    let [ready, archived, kept] = std::array::from_fn(|_| near.task());
    near.put(&format!("/v1/tasks/{ready}/files/x"), b"lost").expect(201);
    near.post(&format!("/v1/tasks/{archived}/archive"), &json!({})).expect(204);
    near.delete(&format!("/v1/tasks/{kept}")).expect(204);
    let here = far.task();

    // Nothing of a volume that a host reaches is given up, nor without a reason.
    let volume = with_tasks(&operator, 3);
    assert_eq!((&volume["in_use"], &volume["hosts"].as_array().unwrap().len()), (&json!(true), &1), "{volume}");
    let id = volume["id"].as_str().unwrap();
    let retire = format!("/v1/volumes/{id}/retire");
    operator.post(&retire, &json!({})).problem(400, "invalid_request");
    let refused = operator.post_with(&retire, &json!({}), WHY).problem(409, "wrong_state");
    assert!(refused["detail"].as_str().unwrap().contains("reaches it; stop that first"), "{refused}");
    operator.post_with("/v1/volumes/vol_of_nobody/retire", &json!({}), WHY).problem(404, "not_found");
    let lesser = far.with_key(Some(a.client_with(&["--scopes", "admin tasks:write"]).key()));
    lesser.post_with(&retire, &json!({}), WHY).problem(403, "missing_scope");

    a.kill();
    until("its host has ended", || with_tasks(&operator, 3)["in_use"] == false);
    far.delete(&format!("/v1/tasks/{ready}")).problem(503, "host_unreachable");
    assert_eq!(operator.post_with(&retire, &json!({}), WHY).expect(200), json!({"given_up": 3, "left": 0}));
    assert!(!operator.get("/v1/volumes").expect(200)["items"].to_string().contains("\"tasks\":3"));
    with_tasks(&operator, 4);

    for task in [&ready, &archived] {
        assert_eq!(state(&far, task), "archived");
        let restored = far.post(&format!("/v1/tasks/{task}/restore"), &json!({})).problem(409, "wrong_state");
        assert!(restored["detail"].as_str().unwrap().contains("its workspace is gone"), "{restored}");
        assert_eq!(far.events_until(task, "task.workspace_lost").last().unwrap()["data"], json!({}));
    }
    let audited = far.get(&format!("/v1/tasks/{ready}/audit")).expect(200);
    let kinds: Vec<_> = audited["items"].as_array().unwrap().iter().map(|record| &record["kind"]).collect();
    assert!(kinds.contains(&&json!("task.workspace_lost")), "{kinds:?}");
    for task in [&ready, &archived, &kept] {
        far.delete(&format!("/v1/tasks/{task}?purge=true")).expect(204);
        assert_eq!(state(&far, task), "deleted");
    }
    // They count no more.
    std::array::from_fn::<_, 3, _>(|_| far.task());
    assert_eq!(state(&far, &here), "ready");

    // Should its host come back, it has nothing of what was given up.
    let a = a.start_again();
    assert_eq!(state(&a.client(), &ready), "deleted");
    let body = json!({"tool": "echo", "arguments": {"text": "x"}});
    a.client().post(&format!("/v1/tasks/{ready}/calls"), &body).problem(404, "not_found");
    assert_eq!(Client::text_of(&a.client().call(&a.client().task(), "echo", json!({"text": "goes on"}))), "goes on");
}

/// By the command line, and what it says where there is one host alone.
#[test]
fn volumes_are_listed_and_retired_from_the_command_line() {
    let alone = Server::start(Options::default());
    let operator = alone.client_with(&["--scopes", "operator:admin"]);
    assert_eq!(operator.get("/v1/volumes").expect(200), json!({"items": []}));

    let database = postgres().database(None);
    let mut a = Server::start(options(&database, postgres().port()));
    let b = Server::beside(&a, options(&database, postgres().port()));
    let operator = a.client_with(&["--scopes", "operator:admin"]);
    let operator = b.client().with_key(Some(operator.key()));
    a.client().task();
    a.kill();
    until("its host has ended", || with_tasks(&operator, 1)["in_use"] == false);
    let volume = with_tasks(&operator, 1)["id"].as_str().unwrap().to_owned();
    let text = |output: &std::process::Output| String::from_utf8_lossy(&output.stdout).into_owned();
    let listed = b.cli_with(operator.key(), &["volumes", "list"]);
    assert!(text(&listed).lines().any(|line| line.starts_with(&volume) && line.contains(" no ")), "{listed:?}");
    let lesser = b.client_with(&["--scopes", "admin"]);
    let refused = b.cli_with(lesser.key(), &["volumes", "list"]);
    assert!(
        !refused.status.success() && String::from_utf8_lossy(&refused.stderr).contains("operator:admin"),
        "{refused:?}"
    );
    let retired = b.cli_with(operator.key(), &["volumes", "retire", &volume, "--reason", "the machine burned"]);
    assert!(retired.status.success() && text(&retired).contains("1 tasks of"), "{retired:?}");
}
