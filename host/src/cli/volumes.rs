//! `volumes`: where workspaces lie, and giving up what is lost for good.

use serde_json::{Value, json};

use super::args::Volumes;
use super::client::Client;
use super::exit::{Exit, Failure};
use super::output::{Output, table};
use super::tools::escaped;

/// Requests for one volume: each gives up some hundreds of tasks.
const MOST: usize = 100_000;

/// Does what was asked.
pub(super) fn volumes(command: Volumes, output: &Output) -> Result<Exit, Failure> {
    match command {
        Volumes::List { server } => list(&Client::new(&server)?, output),
        Volumes::Retire { server, volume, reason } => retire(&Client::new(&server)?, &volume, &reason, output),
    }
}

fn list(client: &Client, output: &Output) -> Result<Exit, Failure> {
    let listed = client.get("/v1/volumes")?;
    let items = listed.get("items").and_then(Value::as_array).cloned().unwrap_or_default();
    output.result(&json!({"items": items}), || {
        table(
            &["VOLUME", "IN USE", "TASKS", "HOST", "ADDRESS", "ENDED"],
            &items.iter().flat_map(rows).collect::<Vec<_>>(),
        )
    });
    Ok(Exit::Ok)
}

/// A row for each host of a volume; one without, if none has lived of late.
fn rows(volume: &Value) -> Vec<Vec<String>> {
    let text = |of: &Value, name| of.get(name).and_then(Value::as_str).unwrap_or("-").to_owned();
    let in_use = volume.get("in_use").and_then(Value::as_bool).unwrap_or_default();
    let begins = [
        text(volume, "id"),
        if in_use { "yes" } else { "no" }.to_owned(),
        volume.get("tasks").and_then(Value::as_u64).unwrap_or_default().to_string(),
    ];
    let none = [json!({})];
    let hosts = volume.get("hosts").and_then(Value::as_array).filter(|hosts| !hosts.is_empty());
    let hosts = hosts.map_or(&none[..], Vec::as_slice);
    let ends = |host| [text(host, "id"), text(host, "address"), text(host, "ended_at")];
    hosts.iter().map(|host| [&begins[..], &ends(host)].concat()).collect()
}

fn retire(client: &Client, volume: &str, reason: &str, output: &Output) -> Result<Exit, Failure> {
    let path = format!("/v1/volumes/{}/retire", escaped(volume));
    let number = |answer: &Value, name| answer.get(name).and_then(Value::as_u64).unwrap_or_default();
    let (mut given_up, mut left) = (0, 0);
    for _ in 0..MOST {
        let answer = client.act(&path, reason)?;
        let some = number(&answer, "given_up");
        (given_up, left) = (given_up + some, number(&answer, "left"));
        if some == 0 || left == 0 {
            break;
        }
        output.status(&format!("{given_up} tasks given up, {left} left"));
    }
    output.status("");
    output.result(&json!({"given_up": given_up, "left": left}), || match left {
        0 => format!("{given_up} tasks of {volume} are given up; their owners can delete them"),
        _ => format!(
            "{given_up} tasks of {volume} are given up; in {left} calls are open: say it again once those have ended"
        ),
    });
    Ok(if left == 0 { Exit::Ok } else { Exit::Failed })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_volume_has_a_row_for_each_host() {
        let host = json!({"id": "host_1", "address": "http://10.0.0.5:7300"});
        let volume =
            json!({"id": "vol_1", "in_use": true, "tasks": 3, "hosts": [host, {"id": "host_2", "ended_at": "x"}]});
        let wanted =
            [["vol_1", "yes", "3", "host_1", "http://10.0.0.5:7300", "-"], ["vol_1", "yes", "3", "host_2", "-", "x"]];
        assert_eq!(rows(&volume), wanted);
        assert_eq!(rows(&json!({"id": "host_3", "hosts": []})), [["host_3", "no", "0", "-", "-", "-"]]);
    }
}
