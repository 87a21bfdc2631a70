//! `tools`: list and register with a running server; list and inspect without.

use std::time::{Duration, Instant};

use serde_json::{Value, json};

use super::args::{Global, Server, Tools};
use super::client::Client;
use super::exit::{Exit, Failure};
use super::output::{Output, one_line, table};
use super::units::show_bytes;
use super::{inspect, sandbox};
use crate::builtin;

/// Between two looks at a tool that is being compiled.
const POLL: Duration = Duration::from_millis(200);
/// Others may be compiled before it.
const PATIENCE: Duration = Duration::from_secs(600);
/// No tenant has more; a server that never ends its list must not be followed for ever.
const MAX_PAGES: usize = 100;

/// Does what was asked.
pub(super) fn tools(global: &Global, command: Tools, output: &Output) -> Result<Exit, Failure> {
    match command {
        Tools::List { builtin: true, .. } => list_builtin(output),
        Tools::List { server, .. } => list(&Client::new(&server)?, output),
        Tools::Inspect { file } => inspect::inspect(&global.load()?, &file, output),
        Tools::Register { server, file, operator } => {
            let config = global.load()?.config;
            register(&server, &sandbox::file(&file, config.tools.max_component_bytes)?, operator, output)
        }
    }
}

fn list_builtin(output: &Output) -> Result<Exit, Failure> {
    let tools: Vec<Value> = builtin::all()
        .iter()
        .map(|tool| json!({"name": tool.name, "size": tool.size, "digest": tool.digest}))
        .collect();
    output.result(&json!({"items": tools}), || {
        let row =
            |tool: &builtin::Builtin| vec![tool.name.to_owned(), show_bytes(tool.size as u64), tool.digest.to_string()];
        table(&["NAME", "SIZE", "DIGEST"], &builtin::all().iter().map(row).collect::<Vec<_>>())
    });
    Ok(Exit::Ok)
}

fn list(client: &Client, output: &Output) -> Result<Exit, Failure> {
    let mut items: Vec<Value> = Vec::new();
    let mut path = "/v1/tools?limit=200".to_owned();
    for _ in 0..MAX_PAGES {
        let page = client.get(&path)?;
        items.extend(page.get("items").and_then(Value::as_array).into_iter().flatten().cloned());
        match page.get("next_before").and_then(Value::as_str) {
            Some(before) => path = format!("/v1/tools?limit=200&before={}", escaped(before)),
            None => break,
        }
    }
    output.result(&json!({"items": items}), || {
        table(&["NAME", "VERSION", "STATE", "OWNER", "ID", "DESCRIPTION"], &items.iter().map(row).collect::<Vec<_>>())
    });
    Ok(Exit::Ok)
}

pub(super) fn escaped(text: &str) -> String {
    percent_encoding::utf8_percent_encode(text, percent_encoding::NON_ALPHANUMERIC).to_string()
}

fn row(tool: &Value) -> Vec<String> {
    let text = |pointer: &str| tool.pointer(pointer).and_then(Value::as_str).unwrap_or("-").to_owned();
    let about = match tool.pointer("/rejection/reason").and_then(Value::as_str) {
        Some(reason) => reason.to_owned(),
        None => text("/manifest/description"),
    };
    let about: String = about.lines().next().unwrap_or_default().chars().take(60).collect();
    vec![text("/manifest/name"), text("/manifest/version"), text("/state"), text("/owner"), text("/id"), about]
}

fn register(server: &Server, component: &[u8], operator: bool, output: &Output) -> Result<Exit, Failure> {
    let client = Client::new(server)?;
    let path = if operator { "/v1/tools?operator=true" } else { "/v1/tools" };
    let (new, mut tool) = client.post(path, "application/wasm", component)?;
    let id = tool.get("id").and_then(Value::as_str).map(escaped);
    let id = id.ok_or_else(|| Failure::new(Exit::Unavailable, "the answer has no `id`: is this a Bulkhead server?"))?;
    let since = Instant::now();
    while state(&tool) == "compiling" {
        if since.elapsed() > PATIENCE {
            return Err(Failure::new(
                Exit::Unavailable,
                format!("{id} is still being compiled; look again by `bulkhead tools list`"),
            ));
        }
        let stage = tool.pointer("/progress/stage").and_then(Value::as_str).unwrap_or("compiling");
        output.status(&format!("{}, {} s", one_line(stage), since.elapsed().as_secs()));
        std::thread::sleep(POLL);
        tool = client.get(&format!("/v1/tools/{id}"))?;
    }
    output.status("");
    output.result(&tool, || registered(&tool, new));
    Ok(if state(&tool) == "ready" { Exit::Ok } else { Exit::Failed })
}

fn state(tool: &Value) -> &str {
    tool.get("state").and_then(Value::as_str).unwrap_or_default()
}

fn registered(tool: &Value, new: bool) -> String {
    let text = |pointer: &str| tool.pointer(pointer).and_then(Value::as_str).unwrap_or("-");
    let id = text("/id");
    match state(tool) {
        "ready" => {
            let known = if new { "" } else { ", known already" };
            format!(
                "{} {} is ready ({id}{known}); tasks made from now on may use it",
                text("/manifest/name"),
                text("/manifest/version")
            )
        }
        other => format!("{id} is {other} ({}): {}", text("/rejection/code"), text("/rejection/reason")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_have_what_there_is() {
        let ready = json!({"id": "tool_1", "owner": "operator", "state": "ready",
            "manifest": {"name": "a", "version": "1.0.0", "description": "First.\nSecond."}});
        assert_eq!(row(&ready), ["a", "1.0.0", "ready", "operator", "tool_1", "First."]);
        let rejected = json!({"id": "tool_2", "owner": "tenant", "state": "rejected", "rejection": {"code": "c", "reason": "why"}});
        assert_eq!(row(&rejected), ["-", "-", "rejected", "tenant", "tool_2", "why"]);
        assert!(registered(&rejected, true).contains("(c): why"));
        assert!(registered(&ready, false).contains("known already"));
    }
}
