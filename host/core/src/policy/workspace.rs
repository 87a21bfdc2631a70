//! What of its workspace a call gets. Rules speak of directories, each with all
//! that it holds, and a guest holds what it gets by descriptor, so nothing can
//! be kept out of a directory that is granted. Hence a directory is decided as
//! strictly as the strictest that a rule names in it: never is more granted of
//! any path than the first rule that speaks of that path says.

use std::collections::BTreeSet;
use std::sync::Arc;

use super::explain::{decided, outside};
use super::spec::{Right, WorkspaceRight};
use super::{Decided, Deciding, Finding, Policy, Subject, Verdict};
use crate::grants::{Asked, Capability, Ceiling, MAX_PARTS, Mode, Reach, SubPath, WorkspaceAccess, WorkspacePart};

/// Most entries with a sub-path in all rules of a policy together: each is
/// compared with each other for every call.
pub const MAX_SUB_PATHS: usize = 256;

/// The accesses in their order, each with the right that it takes beyond the one before.
const STEPS: [(WorkspaceAccess, Right); 2] =
    [(WorkspaceAccess::Read, Right::Read), (WorkspaceAccess::ReadWrite, Right::Write)];

/// What a tool wants of the workspace.
fn wanted(capabilities: &[Capability]) -> Vec<WorkspacePart> {
    let parts = capabilities.iter().filter_map(|capability| match capability {
        Capability::Workspace(part) if part.access != WorkspaceAccess::None => Some(part.clone()),
        _ => None,
    });
    parts.take(MAX_PARTS).collect()
}

fn strictness(mode: Mode) -> u8 {
    match mode {
        Mode::Allow => 0,
        Mode::Audit => 1,
        Mode::Ask => 2,
        Mode::Deny => 3,
    }
}

/// Directories that are decided apart, those that hold others before them.
struct Places<'a> {
    policy: &'a Policy,
    subject: &'a Subject<'a>,
    all: BTreeSet<SubPath>,
}

impl<'a> Places<'a> {
    fn new(policy: &'a Policy, subject: &'a Subject<'a>, wanted: &[WorkspacePart], ceiling: &Ceiling) -> Self {
        let mut all = BTreeSet::from([SubPath::whole()]);
        all.extend(wanted.iter().chain(&ceiling.paths).map(|part| part.path.clone()));
        let rules = policy.rules.iter().filter(|rule| rule.is_about(subject));
        all.extend(rules.flat_map(|rule| &rule.spec.workspace).map(|right| right.path.clone()));
        Self { policy, subject, all }
    }

    /// What becomes of a right to a directory with all that it holds, and the
    /// place in it that decides.
    fn verdict<'b>(&'b self, right: Right, path: &'b SubPath) -> (Verdict, &'b SubPath) {
        let first = |place: &SubPath| {
            let default = self.policy.defaults.workspace;
            let speaks = |entries: &[WorkspaceRight]| entries.iter().any(|entry| entry.speaks_of(right, place));
            self.policy.first(self.subject, default, |rule| speaks(&rule.workspace))
        };
        let mut within = self.all.iter().filter(|place| path.contains(place));
        // A place is the first within itself.
        let own = within.next().unwrap_or(path);
        within.fold((first(own), own), |strictest, place| {
            let verdict = first(place);
            if strictness(verdict.0) > strictness(strictest.0.0) { (verdict, place) } else { strictest }
        })
    }
}

impl Policy {
    /// Which rule decides what of the workspace, the directories that lie in
    /// others before those.
    pub(super) fn explain_workspace(
        &self,
        subject: &Subject<'_>,
        wanted: &WorkspacePart,
        ceiling: &Ceiling,
    ) -> Vec<Decided> {
        let places = Places::new(self, subject, std::slice::from_ref(wanted), ceiling);
        let mut decisions = Vec::new();
        for path in places.all.iter().rev().filter(|path| wanted.path.contains(path)) {
            for (access, right) in STEPS.into_iter().filter(|(access, _)| *access <= wanted.access) {
                let what = match path.is_whole() {
                    true => format!("workspace {}", right.as_str()),
                    false => format!("workspace {}:{path}", right.as_str()),
                };
                if access > ceiling.reach().at(path) {
                    decisions.push(outside(what));
                    continue;
                }
                let (verdict, place) = places.verdict(right, path);
                let mut told = decided(what, verdict, "workspace");
                if place != path {
                    told.because.push_str(&format!(", for `{place}`, which lies in it"));
                }
                decisions.push(told);
            }
        }
        decisions
    }
}

impl Deciding<'_> {
    pub(super) fn workspace(&mut self, capabilities: &[Capability], ceiling: &Ceiling) {
        let wanted = wanted(capabilities);
        if wanted.is_empty() {
            return;
        }
        let places = Places::new(self.policy, self.subject, &wanted, ceiling);
        let wanted = Reach { whole: WorkspaceAccess::None, parts: &wanted };
        for path in &places.all {
            let most = wanted.at(path).min(ceiling.reach().at(path));
            self.place(&places, path, most);
        }
    }

    fn place(&mut self, places: &Places<'_>, path: &SubPath, most: WorkspaceAccess) {
        let part = |access| Capability::Workspace(WorkspacePart { path: path.clone(), access });
        let (mut given, mut asked) = (WorkspaceAccess::None, None);
        for (access, right) in STEPS.into_iter().filter(|(access, _)| *access <= most) {
            let ((mode, rule), _) = places.verdict(right, path);
            self.find_part(part(access), mode, &rule);
            match mode {
                // Without the lesser right the greater is worth nothing.
                Mode::Deny => break,
                Mode::Ask => asked = Some((access, rule)),
                Mode::Allow | Mode::Audit => match &mut asked {
                    None => given = access,
                    Some((asked, _)) => *asked = access,
                },
            }
        }
        if !self.grants.add(&part(given)) {
            self.find(part(given), Mode::Deny, &None);
        }
        if let Some((access, rule)) = asked {
            self.ask_for_part(part(access), rule);
        }
    }

    /// Asks, unless it has it or a question about more is asked already.
    fn ask_for_part(&mut self, capability: Capability, rule: Option<Arc<str>>) {
        let asks = &self.grants.asks;
        if self.grants.has(&capability) || asks.iter().any(|asked| asked.capability.covers(&capability)) {
            return;
        }
        if asks.len() >= MAX_PARTS {
            return self.find(capability, Mode::Deny, &None);
        }
        self.grants.asks.push(Asked { capability, rule });
    }

    /// Notes what was decided, unless the same was said of more.
    fn find_part(&mut self, capability: Capability, mode: Mode, rule: &Option<Arc<str>>) {
        let said =
            |known: &Finding| known.mode == mode && known.rule == *rule && same_access(&known.capability, &capability);
        if !self.findings.iter().any(said) {
            self.find(capability, mode, rule);
        }
    }
}

fn same_access(known: &Capability, new: &Capability) -> bool {
    match (known, new) {
        (Capability::Workspace(known), Capability::Workspace(new)) => {
            known.access == new.access && known.path.contains(&new.path)
        }
        _ => false,
    }
}

#[cfg(test)]
#[path = "workspace_tests.rs"]
mod tests;
