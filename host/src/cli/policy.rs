//! `policy`: check, convert and propose policies; say why a tool gets what it
//! gets.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use bulkhead_core::grants::{Capability, HttpPattern, Mode, WorkspaceAccess};
use bulkhead_core::policy::spec::{PolicySpec, Right, RuleSpec, VERSION, WorkspaceRight};
use bulkhead_core::ports::store::Store;
use ipnet::IpNet;
use percent_encoding::{NON_ALPHANUMERIC, utf8_percent_encode};
use serde_json::{Value, json};

use super::args::{Global, Policy};
use super::client::Client;
use super::exit::{Exit, Failure};
use super::keys;
use super::output::{Output, one_line, table};
use super::trace;
use crate::policy::{PolicyError, convert, load};

/// Audit records on one page.
const PAGE: usize = 200;
/// No task has more that is worth a proposal.
const MAX_PAGES: usize = 500;

/// Does what was asked.
pub(super) fn policy(global: &Global, command: Policy, output: &Output) -> Result<Exit, Failure> {
    match command {
        Policy::Check { file } => check(&file, output),
        Policy::Convert { file, tools } => from_wassette(&file, &tools, output),
        Policy::Explain { server, tool, task } => explain(&Client::new(&server)?, &tool, &task, output),
        Policy::Show { revision } => show(global, &revision, output),
        Policy::Propose { server, task } => propose(&Client::new(&server)?, &task, output),
    }
}

fn unusable(error: PolicyError) -> Failure {
    let exit = if matches!(error, PolicyError::Unreadable { .. }) { Exit::NoInput } else { Exit::Config };
    Failure::new(exit, error)
}

fn check(file: &Path, output: &Output) -> Result<Exit, Failure> {
    let loaded = load(file, &|name| std::env::var(name).ok()).map_err(unusable)?;
    let (rules, revision) = (loaded.policy.rules(), loaded.policy.revision().map(ToString::to_string));
    let document = json!({"revision": revision, "rules": rules, "warnings": loaded.warnings});
    output.result(&document, || {
        let warnings = loaded.warnings.iter().map(|warning| format!("warning: {warning}\n"));
        format!(
            "{}valid: {rules} rules, revision {}",
            warnings.collect::<String>(),
            revision.clone().unwrap_or_default()
        )
    });
    Ok(Exit::Ok)
}

fn show(global: &Global, revision: &str, output: &Output) -> Result<Exit, Failure> {
    let loaded = global.load()?;
    trace::command(&loaded);
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let text = runtime.map_err(|error| Failure::host(&error))?.block_on(async {
        let store = keys::open(&loaded.config, false).await?;
        let text = store.policy(revision).await.map_err(|error| Failure::host(&error));
        Store::close(&*store).await;
        text
    })?;
    let text = text.ok_or_else(|| Failure::new(Exit::Failed, format!("there was no policy `{revision}` here")))?;
    output.result(&json!({"revision": revision, "policy": text}), || text.clone());
    Ok(Exit::Ok)
}

fn from_wassette(file: &Path, tools: &[String], output: &Output) -> Result<Exit, Failure> {
    let text = std::fs::read_to_string(file)
        .map_err(|error| Failure::new(Exit::NoInput, format!("{} can't be read: {error}", file.display())))?;
    let (policy, warnings) = convert(file, &text, tools).map_err(unusable)?;
    for warning in &warnings {
        output.note(&format!("warning: {warning}"));
    }
    output.result(&json!({"policy": policy, "warnings": warnings}), || policy.clone());
    Ok(Exit::Ok)
}

fn escaped(text: &str) -> String {
    utf8_percent_encode(text, NON_ALPHANUMERIC).to_string()
}

fn text<'a>(value: &'a Value, field: &str) -> &'a str {
    value.get(field).and_then(Value::as_str).unwrap_or_default()
}

fn explain(client: &Client, tool: &str, task: &str, output: &Output) -> Result<Exit, Failure> {
    let answer = client.get(&format!("/v1/tasks/{}/policy/{}", escaped(task), escaped(tool)))?;
    output.result(&answer, || {
        let list = |value: &Value, field: &str| value.get(field).and_then(Value::as_array).cloned().unwrap_or_default();
        let mut rows = Vec::new();
        for capability in list(&answer, "capabilities") {
            for decision in list(&capability, "decisions") {
                let row = [text(&decision, "what"), text(&decision, "mode"), text(&decision, "because")];
                rows.push(row.map(one_line).to_vec());
            }
        }
        if rows.is_empty() {
            return format!("`{}` wants nothing beyond computing", one_line(tool));
        }
        let policy = match text(&answer, "policy") {
            "" => "no policy is configured".to_owned(),
            revision => format!("policy {}", one_line(revision)),
        };
        format!("{policy}\n{}", table(&["WHAT", "MODE", "BECAUSE"], &rows))
    });
    Ok(Exit::Ok)
}

/// What a task's tools did, or wanted to do, that the policy does not allow outright.
#[derive(Default)]
struct Wanted {
    http: BTreeSet<HttpPattern>,
    private: BTreeSet<IpNet>,
    workspace: BTreeSet<WorkspaceRight>,
    environment: BTreeSet<String>,
    secrets: BTreeSet<String>,
}

fn propose(client: &Client, task: &str, output: &Output) -> Result<Exit, Failure> {
    let mut wanted: BTreeMap<String, Wanted> = BTreeMap::new();
    let mut after = 0;
    for _ in 0..MAX_PAGES {
        let page = client.get(&format!("/v1/tasks/{}/audit?limit={PAGE}&after={after}", escaped(task)))?;
        let items = page.get("items").and_then(Value::as_array).cloned().unwrap_or_default();
        for item in &items {
            after = item.get("number").and_then(Value::as_u64).unwrap_or(after);
            note(&mut wanted, item);
        }
        if items.len() < PAGE {
            break;
        }
    }
    let rules: Vec<_> =
        wanted.into_iter().enumerate().map(|(index, (tool, wanted))| wanted.rule(index, tool)).collect();
    let spec = PolicySpec { version: VERSION, rules, ..PolicySpec::default() };
    let proposal = toml::to_string(&spec).map_err(|error| Failure::host(&error))?;
    output.result(&json!({"policy": proposal, "rules": spec.rules.len()}), || match spec.rules.len() {
        0 => "# Nothing was refused, nor only written down: no rule is missing.".to_owned(),
        _ => format!(
            "# Allows exactly what was refused or only written down. Put it before the rules that did.\n{}{proposal}",
            needed(&spec)
        ),
    });
    Ok(Exit::Ok)
}

/// What a policy must say beside these rules to be valid with them: values that no record has.
fn needed(spec: &PolicySpec) -> String {
    let names = |of: fn(&RuleSpec) -> &Vec<String>, table: &str| {
        let names: BTreeSet<&String> = spec.rules.iter().flat_map(of).collect();
        names.into_iter().map(|name| format!("# The policy must have `{name}` in {table}.\n")).collect::<String>()
    };
    names(|rule| &rule.environment, "[environment]") + &names(|rule| &rule.secrets, "[secrets]")
}

/// Takes a record into account, if it says that something was not allowed outright.
fn note(wanted: &mut BTreeMap<String, Wanted>, record: &Value) {
    let Some(data) = record.get("data") else { return };
    let mode = data.pointer("/decision/mode").and_then(Value::as_str);
    if !matches!(mode, Some("audit" | "deny")) {
        return;
    }
    let of_tool = wanted.entry(text(data, "tool").to_owned()).or_default();
    match text(record, "kind") {
        "http.decided" => {
            let pattern = format!("{} {}", text(data, "method"), text(data, "url"));
            of_tool.http.extend(pattern.parse::<HttpPattern>());
            // Without them what was let through so far would be refused for its address.
            let private = data.get("private").cloned().map(serde_json::from_value::<Vec<IpNet>>);
            of_tool.private.extend(private.and_then(Result::ok).unwrap_or_default());
        }
        "capability.decided" => {
            let capability = data.get("capability").cloned().map(serde_json::from_value::<Capability>);
            match capability {
                Some(Ok(Capability::Workspace(part))) => {
                    let write = part.access == WorkspaceAccess::ReadWrite;
                    let right = if write { Right::Write } else { Right::Read };
                    of_tool.workspace.insert(WorkspaceRight { right, path: part.path });
                }
                Some(Ok(Capability::Environment(name))) => drop(of_tool.environment.insert(name)),
                Some(Ok(Capability::Secret(name))) => drop(of_tool.secrets.insert(name)),
                _ => {}
            }
        }
        _ => {}
    }
}

impl Wanted {
    fn rule(self, index: usize, tool: String) -> RuleSpec {
        RuleSpec {
            name: format!("proposed-{}", index + 1),
            mode: Mode::Allow,
            tools: Some(vec![tool]),
            tenants: None,
            users: None,
            workspace: self.workspace.into_iter().collect(),
            http: self.http.into_iter().collect(),
            private: self.private.into_iter().collect(),
            environment: self.environment.into_iter().collect(),
            secrets: self.secrets.into_iter().collect(),
        }
    }
}
