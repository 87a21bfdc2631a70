//! The operator's policy: which tools get which capabilities. It narrows what
//! a tool wants and a task allows; it never widens.
//!
//! Rules stand in order, as in a firewall: the first that speaks of the tool,
//! its owner and the capability decides. Where none does, a default does.

mod explain;
mod secret;
pub mod spec;
mod workspace;

use std::borrow::Cow;
use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::sync::{Arc, PoisonError, RwLock};

use ipnet::IpNet;
use secrecy::SecretString;

pub use explain::{Decided, Explained};
pub use secret::{MAX_SECRET, MIN_SECRET, Secret};
pub use workspace::MAX_SUB_PATHS;

use self::spec::{Defaults, PolicySpec, RuleSpec};
use crate::digest::Digest;
use crate::grants::{ANY, Asked, Capability, Ceiling, Grants, HttpGrant, HttpPattern, Mode, valid_name};
use crate::ports::egress::Scheme;
use crate::principal::Owner;

/// Most rules.
pub const MAX_RULES: usize = 1_000;
/// Most entries of one list in a rule.
pub const MAX_ENTRIES: usize = 256;
/// Most entries that a call's grant of HTTP has; more means that a policy and
/// a tool multiply, and nobody could read the record.
pub const MAX_HTTP_GRANTS: usize = 512;

/// What is wrong with a policy, and where.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{place}: {problem}")]
pub struct PolicyFault {
    /// The key, with the rule's name.
    pub place: String,
    /// What is wrong and what is allowed.
    pub problem: String,
}

/// Who asks for what is to be decided.
#[derive(Clone, Copy, Debug)]
pub struct Subject<'a> {
    /// The owner of the task.
    pub owner: Owner,
    /// The tool's name in the task.
    pub tool: &'a str,
    /// The digest of its component.
    pub digest: Digest,
}

/// What was decided about a wanted capability and should be written down.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Finding {
    /// What was wanted.
    pub capability: Capability,
    /// `deny` or `audit`.
    pub mode: Mode,
    /// The rule that decided; none for a default.
    pub rule: Option<Arc<str>>,
}

/// A rule, checked.
#[derive(Debug)]
struct Rule {
    name: Arc<str>,
    spec: RuleSpec,
}

/// A policy, checked and complete.
#[derive(Debug, Default)]
pub struct Policy {
    /// Its content's digest, shortened; none for the policy without rules.
    revision: Option<Arc<str>>,
    defaults: Defaults,
    rules: Vec<Rule>,
    environment: BTreeMap<String, String>,
    secrets: BTreeMap<String, Secret>,
}

/// A decision with its origin.
type Verdict = (Mode, Option<Arc<str>>);

impl Policy {
    /// A policy of what an operator wrote, with the values of its secrets.
    ///
    /// # Errors
    /// Everything that is wrong, each with its place.
    pub fn build(
        spec: PolicySpec,
        values: &BTreeMap<String, SecretString>,
        revision: Digest,
    ) -> Result<Self, Vec<PolicyFault>> {
        let mut faults = check(&spec);
        let mut secrets = BTreeMap::new();
        for (name, spec) in &spec.secrets {
            let value = values.get(name).cloned().ok_or_else(|| "it has no value".to_owned());
            match value.and_then(|value| Secret::new(spec, value)) {
                Ok(secret) => drop(secrets.insert(name.clone(), secret)),
                Err(problem) => faults.push(PolicyFault { place: format!("secrets.{name}"), problem }),
            }
        }
        if !faults.is_empty() {
            return Err(faults);
        }
        let rules = spec.rules.into_iter().map(|spec| Rule { name: spec.name.as_str().into(), spec }).collect();
        let revision = revision.to_string();
        let revision = revision.strip_prefix("sha256:").unwrap_or(&revision);
        Ok(Self {
            revision: Some(revision[..revision.len().min(16)].into()),
            defaults: spec.defaults,
            rules,
            environment: spec.environment,
            secrets,
        })
    }

    /// Names this policy in records; none for the policy without rules.
    pub fn revision(&self) -> Option<&Arc<str>> {
        self.revision.as_ref()
    }

    /// How many rules it has.
    pub fn rules(&self) -> usize {
        self.rules.len()
    }

    /// The secret with this name.
    pub fn secret(&self, name: &str) -> Option<&Secret> {
        self.secrets.get(name)
    }

    /// The value of an environment variable.
    pub fn variable(&self, name: &str) -> Option<&str> {
        self.environment.get(name).map(String::as_str)
    }

    /// What a call of a tool that wants `wanted` gets in a task that allows
    /// `ceiling`, and what of the decision should be written down.
    pub fn grants(&self, subject: &Subject<'_>, wanted: &[Capability], ceiling: &Ceiling) -> (Grants, Vec<Finding>) {
        let mut deciding = Deciding { policy: self, subject, grants: Grants::default(), findings: Vec::new() };
        deciding.grants.policy.clone_from(&self.revision);
        let wanted = &*self.named(subject, wanted);
        deciding.workspace(wanted, ceiling);
        for capability in wanted {
            match capability {
                Capability::Environment(name) if ceiling.allows(capability) => {
                    let known = self.environment.contains_key(name);
                    deciding.named(capability, known, self.environment(subject, name));
                }
                Capability::Secret(name) if ceiling.allows(capability) => {
                    deciding.named(capability, self.secrets.contains_key(name), self.secret_of(subject, name));
                }
                _ => {}
            }
        }
        deciding.http(wanted, ceiling);
        (deciding.grants, deciding.findings)
    }

    /// What is wanted, with each secret by its name that is decided otherwise
    /// than by a refusal: the names of others' secrets are nobody's business.
    fn named<'a>(&self, subject: &Subject<'_>, wanted: &'a [Capability]) -> Cow<'a, [Capability]> {
        let every = |capability: &Capability| matches!(capability, Capability::Secret(name) if name == ANY);
        if !wanted.iter().any(every) {
            return Cow::Borrowed(wanted);
        }
        let mut named: Vec<_> = wanted.iter().filter(|capability| !every(capability)).cloned().collect();
        for name in self.secrets.keys() {
            let secret = Capability::Secret(name.clone());
            if self.secret_of(subject, name).0 != Mode::Deny && !named.contains(&secret) {
                named.push(secret);
            }
        }
        Cow::Owned(named)
    }

    fn first(&self, subject: &Subject<'_>, default: Mode, speaks: impl Fn(&RuleSpec) -> bool) -> Verdict {
        let rule = self.rules.iter().find(|rule| rule.is_about(subject) && speaks(&rule.spec));
        rule.map_or((default, None), |rule| (rule.spec.mode, Some(rule.name.clone())))
    }

    fn environment(&self, subject: &Subject<'_>, name: &str) -> Verdict {
        self.first(subject, self.defaults.environment, |rule| names(&rule.environment, name))
    }

    fn secret_of(&self, subject: &Subject<'_>, name: &str) -> Verdict {
        self.first(subject, self.defaults.secrets, |rule| names(&rule.secrets, name))
    }

    /// Which requests are decided how, in order.
    fn http(&self, subject: &Subject<'_>, within: &[HttpPattern]) -> Vec<HttpGrant> {
        let mut grants: Vec<HttpGrant> = Vec::new();
        // The first decide, so what is cut off is refused: never more.
        let mut add = |pattern: &HttpPattern, mode: Mode, rule: Option<&Arc<str>>, private: &[IpNet]| {
            for wanted in within {
                if grants.len() >= MAX_HTTP_GRANTS {
                    return;
                }
                let Some(pattern) = wanted.intersect(pattern) else { continue };
                if !grants.iter().any(|known| known.pattern == pattern) {
                    grants.push(HttpGrant { pattern, mode, rule: rule.cloned(), private: private.to_vec() });
                }
            }
        };
        for rule in self.rules.iter().filter(|rule| rule.is_about(subject)) {
            for pattern in &rule.spec.http {
                add(pattern, rule.spec.mode, Some(&rule.name), &rule.spec.private);
            }
        }
        if self.defaults.http != Mode::Deny {
            for scheme in [Scheme::Https, Scheme::Http] {
                add(&HttpPattern::any(scheme), self.defaults.http, None, &[]);
            }
        }
        grants
    }
}

fn names(list: &[String], name: &str) -> bool {
    list.iter().any(|known| known == "*" || known == name)
}

/// The requests that both a tool wants and a task allows, so many that nobody
/// who writes them can make the host work for long.
fn wanted_http(wanted: &[Capability], ceiling: &Ceiling) -> Vec<HttpPattern> {
    let mut within: Vec<HttpPattern> = Vec::new();
    let mut add = |pattern: HttpPattern| {
        if within.len() < MAX_ENTRIES && !within.contains(&pattern) {
            within.push(pattern);
        }
    };
    for capability in wanted {
        let Capability::Http(text) = capability else { continue };
        let Ok(pattern) = text.parse::<HttpPattern>() else { continue };
        match &ceiling.http {
            None => add(pattern),
            Some(allowed) => allowed.iter().filter_map(|allowed| pattern.intersect(allowed)).for_each(&mut add),
        }
    }
    within
}

impl Rule {
    fn is_about(&self, subject: &Subject<'_>) -> bool {
        let tool = |pattern: &String| match pattern.strip_suffix('*') {
            Some(prefix) => subject.tool.starts_with(prefix),
            None if pattern.starts_with("sha256:") => *pattern == subject.digest.to_string(),
            None => pattern == subject.tool,
        };
        let spec = &self.spec;
        spec.tools.as_ref().is_none_or(|tools| tools.iter().any(tool))
            && spec.tenants.as_ref().is_none_or(|tenants| tenants.contains(&subject.owner.tenant))
            && spec.users.as_ref().is_none_or(|users| users.contains(&subject.owner.user))
    }
}

/// Grants in the making.
struct Deciding<'a> {
    policy: &'a Policy,
    subject: &'a Subject<'a>,
    grants: Grants,
    findings: Vec<Finding>,
}

impl Deciding<'_> {
    fn find(&mut self, capability: Capability, mode: Mode, rule: &Option<Arc<str>>) {
        if matches!(mode, Mode::Deny | Mode::Audit) {
            self.findings.push(Finding { capability, mode, rule: rule.clone() });
        }
    }

    fn named(&mut self, capability: &Capability, known: bool, (mode, rule): Verdict) {
        // What has no value can't be granted, whatever the rules say.
        let mode = if known { mode } else { Mode::Deny };
        self.find(capability.clone(), mode, &rule);
        match mode {
            Mode::Deny => {}
            Mode::Ask => self.grants.asks.push(Asked { capability: capability.clone(), rule }),
            Mode::Allow | Mode::Audit => {
                self.grants.add(capability);
            }
        }
    }

    fn http(&mut self, wanted: &[Capability], ceiling: &Ceiling) {
        let within = wanted_http(wanted, ceiling);
        if !within.is_empty() {
            self.grants.http = self.policy.http(self.subject, &within);
        }
    }
}

fn check(spec: &PolicySpec) -> Vec<PolicyFault> {
    let mut faults = Vec::new();
    let mut fault = |place: String, problem: String| faults.push(PolicyFault { place, problem });
    if spec.version != spec::VERSION {
        let problem = format!("this host reads version {}, not {}", spec::VERSION, spec.version);
        fault("version".into(), problem);
    }
    if spec.rules.len() > MAX_RULES {
        fault("rule".into(), format!("there are {} rules; at most {MAX_RULES} are allowed", spec.rules.len()));
    }
    let rights = spec.rules.iter().flat_map(|rule| &rule.workspace);
    let sub_paths = rights.filter(|right| !right.path.is_whole()).count();
    if sub_paths > MAX_SUB_PATHS {
        let problem =
            format!("the rules name {sub_paths} sub-paths of workspaces; at most {MAX_SUB_PATHS} are allowed");
        fault("rule".into(), problem);
    }
    let mut seen = BTreeSet::new();
    for (index, rule) in spec.rules.iter().enumerate() {
        let place = |key: &str| format!("rule {} (`{}`){key}", index + 1, rule.name);
        if !valid_name(&rule.name) || !seen.insert(&rule.name) {
            fault(place(".name"), "a rule has a name of its own: 1 to 64 of A-Z, a-z, 0-9, `_`, `-`".into());
        }
        check_rule(rule, spec, &mut |key, problem| fault(place(key), problem));
    }
    for name in spec.environment.keys().chain(spec.secrets.keys()).filter(|name| !valid_name(name)) {
        fault(format!("`{name}`"), "a name is 1 to 64 of A-Z, a-z, 0-9, `_`, `-`".into());
    }
    for (name, value) in &spec.environment {
        if value.len() > 32 * 1024 || value.contains('\0') {
            fault(format!("environment.{name}"), "a value has at most 32 KiB and no NUL".into());
        }
    }
    faults
}

fn check_rule(rule: &RuleSpec, spec: &PolicySpec, fault: &mut dyn FnMut(&str, String)) {
    let lists = [rule.http.len(), rule.private.len(), rule.environment.len(), rule.secrets.len(), rule.workspace.len()];
    let tools = rule.tools.as_ref().map_or(0, Vec::len);
    if lists.iter().chain([&tools]).any(|len| *len > MAX_ENTRIES) {
        fault("", format!("a list has at most {MAX_ENTRIES} entries"));
    }
    if !rule.speaks() {
        fault("", "it speaks of nothing: name `workspace`, `http`, `environment` or `secrets`".into());
    }
    if !rule.private.is_empty() && rule.http.is_empty() {
        fault(".private", "it says where `http` may lead, and there is no `http`".into());
    }
    for tool in rule.tools.iter().flatten() {
        let name = tool.strip_suffix('*').unwrap_or(tool);
        let digest = tool.strip_prefix("sha256:").map(|_| tool.parse::<Digest>().is_ok());
        let plain = name.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'_' || b == b'-');
        if !digest.unwrap_or(plain && !tool.is_empty()) {
            fault(".tools", format!("`{tool}` is no tool's name, no name with `*` at its end, and no digest"));
        }
    }
    for name in rule.environment.iter().filter(|name| *name != "*" && !spec.environment.contains_key(*name)) {
        fault(".environment", format!("`{name}` has no value: add it to [environment]"));
    }
    for name in rule.secrets.iter().filter(|name| *name != "*" && !spec.secrets.contains_key(*name)) {
        fault(".secrets", format!("there is no secret `{name}`: add [secrets.{name}]"));
    }
}

/// The policy in force, at first the one without rules; another may take its
/// place at any time.
#[derive(Default)]
pub struct Policies {
    current: RwLock<Arc<Policy>>,
}

impl fmt::Debug for Policies {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Policies").field("revision", &self.current().revision).finish()
    }
}

impl Policies {
    /// The policy in force.
    pub fn current(&self) -> Arc<Policy> {
        self.current.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Puts another in its place.
    pub(crate) fn replace(&self, policy: Policy) {
        *self.current.write().unwrap_or_else(PoisonError::into_inner) = Arc::new(policy);
    }
}

#[cfg(test)]
mod tests;
