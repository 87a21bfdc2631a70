//! `doctor`: what this machine offers. Each check says what it found and, if
//! that is not enough, what to do; what is required and missing makes the
//! command fail.

mod database;
mod probes;

use serde::Serialize;
use serde_json::json;

use super::args::Global;
use super::exit::{Exit, Failure};
use super::output::Output;

/// How much a check matters.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub(super) enum Need {
    /// Nothing works without it.
    Required,
    /// A feature, a wall or speed is lost without it.
    Recommended,
    /// Good to know; nothing is lost today.
    Optional,
}

/// One check.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub(super) struct Check {
    pub(super) name: &'static str,
    pub(super) need: Need,
    pub(super) ok: bool,
    /// What was found.
    pub(super) found: String,
    /// What to do; only if it is not `ok`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) remedy: Option<String>,
}

impl Check {
    fn new(name: &'static str, need: Need, ok: bool, found: impl Into<String>, remedy: &str) -> Self {
        Self { name, need, ok, found: found.into(), remedy: (!ok).then(|| remedy.to_owned()) }
    }
}

/// Checks this machine.
pub(super) fn doctor(global: &Global, output: &Output) -> Result<Exit, Failure> {
    let loaded = global.load()?;
    let checks = probes::all(&loaded.config);
    let fit = checks.iter().all(|check| check.ok || check.need != Need::Required);
    output.result(&json!({"fit": fit, "checks": checks}), || text(&checks, fit));
    Ok(if fit { Exit::Ok } else { Exit::Failed })
}

fn text(checks: &[Check], fit: bool) -> String {
    let mut lines: Vec<String> = checks.iter().flat_map(line).collect();
    lines.push(String::new());
    lines.push(if fit { "This machine can run Bulkhead." } else { "Something required is missing (✗)." }.into());
    lines.join("\n")
}

fn line(check: &Check) -> Vec<String> {
    let mark = match (check.ok, check.need) {
        (true, _) => '✓',
        (false, Need::Required) => '✗',
        (false, Need::Recommended) => '!',
        (false, Need::Optional) => '·',
    };
    let mut lines = vec![format!("{mark} {:<16} {}", check.name, super::output::one_line(&check.found))];
    lines.extend(check.remedy.iter().map(|remedy| format!("  {:<16} → {remedy}", "")));
    lines
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_missing_comes_with_its_remedy() {
        let checks = [
            Check::new("a", Need::Required, true, "there", "never said"),
            Check::new("b", Need::Recommended, false, "absent", "install it"),
        ];
        let text = text(&checks, true);
        assert!(text.contains("✓ a") && text.contains("! b") && text.contains("→ install it"), "{text}");
        assert!(!text.contains("never said"));
    }

    #[test]
    fn every_probe_answers() {
        let config = crate::config::Config { data: std::env::temp_dir(), ..Default::default() };
        let checks = probes::all(&config);
        assert!(checks.len() >= 10);
        for check in checks {
            assert!(!check.found.is_empty(), "{}", check.name);
            assert_eq!(check.ok, check.remedy.is_none(), "{}", check.name);
        }
    }
}
