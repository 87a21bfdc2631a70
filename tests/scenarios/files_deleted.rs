//! What clients delete is kept for a while, comes back, and goes; also through the
//! death of the server at each step.

use serde_json::{Value, json};

use super::files_known::{items, servers, until, workspace};
use crate::harness::postgres::postgres;
use crate::harness::{Client, Options, Server};

/// Deletes an entry; where it can be had back.
fn delete(client: &Client, task: &str, path: &str) -> String {
    let answer = client.delete(&format!("/v1/tasks/{task}/files/{path}?recursive=true"));
    assert_eq!(answer.status, 204, "{answer:?}");
    answer.header("location").to_owned()
}

fn restore(client: &Client, kept: &str, body: Value) -> crate::harness::client::Answer {
    client.post(&format!("{kept}/restore"), &body)
}

#[test]
fn what_was_deleted_comes_back() {
    for server in servers(Options::default) {
        let client = server.client();
        let task = client.task();
        let file = |path: &str| format!("/v1/tasks/{task}/files/{path}");
        for path in ["d/a", "d/e/b", "f"] {
            client.put(&file(path), path.as_bytes()).expect(201);
        }
        std::os::unix::fs::symlink("/etc", workspace(&server, &task).join("d/link")).unwrap();
        let (d, f) = (delete(&client, &task, "d"), delete(&client, &task, "f"));
        client.get(&file("d/a")).problem(404, "not_found");
        let kept = format!("/v1/tasks/{task}/deleted");
        let list = items(&client, &kept);
        let rows: Vec<_> = list
            .iter()
            .map(|row| (row["path"].clone(), row["kind"].clone(), row["bytes"].clone(), row["entries"].clone()))
            .collect();
        assert_eq!(
            rows,
            [(json!("f"), json!("file"), json!(1), json!(1)), (json!("d"), json!("directory"), json!(8), json!(5)),]
        );
        assert_eq!(format!("{kept}/{}", list[1]["id"].as_str().unwrap()), d);
        // Another task of the same user has none of it.
        let other = client.task();
        assert_eq!(items(&client, &format!("/v1/tasks/{other}/deleted")), Vec::<Value>::new());
        let elsewhere = d.replace(&task, &other);
        restore(&client, &elsewhere, json!({})).problem(404, "not_found");
        client.delete(&elsewhere).problem(404, "not_found");

        client.put(&file("f"), b"another").expect(201);
        restore(&client, &f, json!({})).problem(409, "file_exists");
        assert_eq!(client.get(&file("f")).body, b"another");
        restore(&client, &f, json!({"replace": true})).expect(200);
        assert_eq!(client.get(&file("f")).body, b"f");
        restore(&client, &f, json!({})).problem(404, "not_found");
        // A directory is put elsewhere, with all it had.
        client.put(&file("d/new"), b"").expect(201);
        restore(&client, &d, json!({"replace": true})).problem(409, "file_exists");
        restore(&client, &d, json!({"path": "x/../y"})).problem(422, "invalid_path");
        let entry = restore(&client, &d, json!({"path": "old/d"})).expect(200);
        assert_eq!((&entry["path"], &entry["kind"]), (&json!("old/d"), &json!("directory")));
        assert_eq!(client.get(&file("old/d/e/b")).body, b"d/e/b");
        let link = client.get(&format!("/v1/tasks/{task}/entries/old/d/link")).expect(200);
        assert_eq!(link["entry"]["target"], "/etc");
        let history = items(&client, &format!("/v1/tasks/{task}/history?path=old%2fd"));
        assert_eq!((history.len(), &history[0]["change"]), (1, &json!("created")));

        // Purged, one and all; and at once, if that is said.
        let gone = delete(&client, &task, "f");
        client.delete(&gone).expect(204);
        client.delete(&gone).problem(404, "not_found");
        delete(&client, &task, "old/d/a");
        delete(&client, &task, "old");
        assert_eq!(client.delete(&kept).expect(200)["purged"], 2);
        assert_eq!(client.delete(&format!("{}?purge=true&recursive=true", file("d"))).header("location"), "");
        assert_eq!(items(&client, &kept), Vec::<Value>::new());
        let beside = server.data().join("deleted");
        let left: Vec<_> =
            std::fs::read_dir(beside).unwrap().map(|tenant| tenant.unwrap().path().join(&task)).collect();
        assert!(left.iter().all(|task| std::fs::read_dir(task).unwrap().next().is_none()));
    }
}

#[test]
fn what_was_kept_for_long_enough_goes_by_itself() {
    let options = Options::default().with("BULKHEAD_FILES__KEEP_DELETED_MS", 1).with("BULKHEAD_KEEP__EVERY_S", 1);
    let server = Server::start(options);
    let client = server.client();
    let task = client.task();
    client.put(&format!("/v1/tasks/{task}/files/f"), b"x").expect(201);
    let kept = delete(&client, &task, "f");
    assert!(kept.contains("/deleted/del_"));
    until("it is purged", || items(&client, &format!("/v1/tasks/{task}/deleted")).is_empty().then_some(()));
    restore(&client, &kept, json!({})).problem(404, "not_found");
    // With nothing kept at all there is no place to have it back from.
    let server = server.stop_and_restart_with("BULKHEAD_FILES__KEEP_DELETED_MS", 0);
    let client = server.client();
    client.put(&format!("/v1/tasks/{task}/files/f"), b"x").expect(201);
    assert_eq!(delete(&client, &task, "f"), "");
}

/// The server dies between a row and what it is about: each state of the row is what
/// it left, and the next start finishes it by what is on the disk.
#[test]
fn a_death_in_the_middle_is_finished_by_the_next_start() {
    let database = postgres().database(None);
    let options = Options::default().with("DATABASE_URL", postgres().url(postgres().port(), &database));
    let mut server = Server::start(options);
    let client = server.client();
    let task = client.task();
    let names = ["left", "stayed", "came", "kept", "purged"];
    let kept: Vec<String> = names
        .iter()
        .map(|name| {
            client.put(&format!("/v1/tasks/{task}/files/{name}"), name.as_bytes()).expect(201);
            delete(&client, &task, name).rsplit('/').next().unwrap().to_owned()
        })
        .collect();
    let inside = workspace(&server, &task);
    let beside = server.data().join("deleted").join(inside.parent().unwrap().file_name().unwrap()).join(&task);
    server.kill();
    let state = |id: &str, state: &str| {
        let target = if state == "returning" { "'back'" } else { "NULL" };
        let update =
            format!("UPDATE bulkhead.deleted_files SET state = '{state}', target = {target} WHERE id = '{id}'");
        postgres().psql(&database, &update).unwrap();
    };
    // Before the second commit of a deletion; before its rename; after and before the
    // rename of a restoration; in a purge.
    state(&kept[0], "leaving");
    state(&kept[1], "leaving");
    std::fs::rename(beside.join(&kept[1]), inside.join("stayed")).unwrap();
    state(&kept[2], "returning");
    std::fs::rename(beside.join(&kept[2]), inside.join("back")).unwrap();
    state(&kept[3], "returning");
    state(&kept[4], "purging");
    let server = server.start_again();
    let client = server.client();
    let list = items(&client, &format!("/v1/tasks/{task}/deleted"));
    let left: Vec<_> = list.iter().map(|row| row["path"].as_str().unwrap()).collect();
    assert_eq!(left, ["kept", "left"]);
    let file = |path: &str| client.get(&format!("/v1/tasks/{task}/files/{path}")).body;
    assert_eq!((file("stayed"), file("back")), (b"stayed".to_vec(), b"came".to_vec()));
    let history = items(&client, &format!("/v1/tasks/{task}/history?path=back"));
    assert_eq!(history[0]["change"], "created", "what came back is told");
    for (name, id) in [("left", &kept[0]), ("kept", &kept[3])] {
        restore(&client, &format!("/v1/tasks/{task}/deleted/{id}"), json!({})).expect(200);
        assert_eq!(file(name), name.as_bytes());
    }
    assert_eq!(std::fs::read_dir(beside).unwrap().count(), 0);
}
