//! Says which rule decides what, for whoever wonders why.

use std::sync::Arc;

use serde::Serialize;

use super::{Policy, Subject, Verdict, wanted_http};
use crate::grants::{Capability, Ceiling, Mode};

/// One decision.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Decided {
    /// What it is about, as a capability in words: `http GET https://a/*`.
    pub what: String,
    /// What becomes of it.
    pub mode: Mode,
    /// The rule that says so; none for a default or a ceiling.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub rule: Option<Arc<str>>,
    /// Why, in a sentence.
    pub because: String,
}

/// What becomes of one capability that a tool wants.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Explained {
    /// What the tool wants.
    pub wanted: String,
    /// The decisions about it, in order: the first that fits decides.
    pub decisions: Vec<Decided>,
}

pub(super) fn decided(what: impl ToString, (mode, rule): Verdict, default: &str) -> Decided {
    let because = match &rule {
        Some(rule) => format!("rule `{rule}` is the first that speaks of it"),
        None => format!("no rule speaks of it, and `defaults.{default}` is `{}`", mode.as_str()),
    };
    Decided { what: what.to_string(), mode, rule, because }
}

pub(super) fn outside(what: impl ToString) -> Decided {
    let because = "the task was made without it".to_owned();
    Decided { what: what.to_string(), mode: Mode::Deny, rule: None, because }
}

impl Policy {
    /// Which rule decides what of a tool's wishes in a task.
    pub fn explain(&self, subject: &Subject<'_>, wanted: &[Capability], ceiling: &Ceiling) -> Vec<Explained> {
        let wanted = self.named(subject, wanted);
        let explained = wanted.iter().map(|capability| {
            let decisions = match capability {
                Capability::Workspace(part) => self.explain_workspace(subject, part, ceiling),
                Capability::Http(_) => self.explain_http(subject, capability, ceiling),
                Capability::Environment(_) | Capability::Secret(_) if !ceiling.allows(capability) => {
                    vec![outside(capability)]
                }
                Capability::Environment(name) if self.variable(name).is_none() => vec![unknown(capability)],
                Capability::Secret(name) if self.secret(name).is_none() => vec![unknown(capability)],
                Capability::Environment(name) => {
                    vec![decided(capability, self.environment(subject, name), "environment")]
                }
                Capability::Secret(name) => vec![decided(capability, self.secret_of(subject, name), "secrets")],
            };
            Explained { wanted: capability.to_string(), decisions }
        });
        explained.collect()
    }

    fn explain_http(&self, subject: &Subject<'_>, capability: &Capability, ceiling: &Ceiling) -> Vec<Decided> {
        let within = wanted_http(std::slice::from_ref(capability), ceiling);
        if within.is_empty() {
            return vec![outside(capability)];
        }
        let mut decisions: Vec<_> = self
            .http(subject, &within)
            .into_iter()
            .map(|grant| decided(format!("http {}", grant.pattern), (grant.mode, grant.rule), "http"))
            .collect();
        decisions.push(Decided {
            what: format!("every other of {capability}"),
            mode: Mode::Deny,
            rule: None,
            because: "no rule that the tool's and the task's ceilings leave room for speaks of it".into(),
        });
        decisions
    }
}

fn unknown(capability: &Capability) -> Decided {
    let because = "the policy has no value for it".to_owned();
    Decided { what: capability.to_string(), mode: Mode::Deny, rule: None, because }
}
