use serde_json::{Value, json};

use super::super::PolicyFault;
use super::super::spec::{PolicySpec, WorkspaceRight};
use super::*;
use crate::digest::Digest;
use crate::grants::Grants;
use crate::id::{TenantId, UserId};
use crate::principal::Owner;

fn build(spec: Value) -> Result<Policy, Vec<PolicyFault>> {
    let spec: PolicySpec = serde_json::from_value(spec).expect("a policy");
    Policy::build(spec, &std::collections::BTreeMap::new(), Digest::of(b"policy"))
}

fn policy(default: &str, rules: &[(&str, &[&str])]) -> Policy {
    let rules = rules.iter().enumerate();
    let rules: Vec<_> = rules
        .map(|(number, (mode, rights))| json!({"name": format!("r{number}"), "mode": mode, "workspace": rights}))
        .collect();
    build(json!({"version": 1, "defaults": {"workspace": default}, "rule": rules})).expect("valid")
}

fn subject() -> Subject<'static> {
    let owner = Owner { tenant: TenantId::from_parts(1, 1), user: UserId::from_parts(1, 2) };
    Subject { owner, tool: "t", digest: Digest::of(b"component") }
}

fn granted(policy: &Policy, ceiling: &Ceiling) -> Grants {
    policy.grants(&subject(), &[WorkspaceAccess::ReadWrite.into()], ceiling).0
}

/// The grants as text: the whole, parts, and behind `?` what is asked.
fn shown(grants: &Grants) -> String {
    let mut all = vec![grants.workspace.as_str().to_owned()];
    all.extend(grants.paths.iter().map(ToString::to_string));
    all.extend(grants.asks.iter().map(|asked| format!("?{}", asked.capability)));
    all.join(" ")
}

#[test]
fn parts_are_decided_by_the_first_rule_that_speaks_of_them() {
    for (default, rules, wanted) in [
        ("deny", &[("allow", &["read:src", "read-write:out"][..])][..], "none read-write:out read:src"),
        ("allow", &[("allow", &["read", "write:out"]), ("deny", &["write"])], "read read-write:out"),
        // Writing without reading is nothing.
        ("deny", &[("allow", &["write:out"])], "none"),
        // The first decides, also of what lies in it.
        ("deny", &[("deny", &["read:a"]), ("allow", &["read:a/b", "read:c"])], "none read:c"),
        ("deny", &[("allow", &["read:a/b"]), ("deny", &["read:a"]), ("allow", &["read"])], "none read:a/b"),
        ("deny", &[("allow", &["read:a"]), ("ask", &["write:a"])], "none read:a ?workspace read-write:a"),
        ("ask", &[("allow", &["read-write:a"])], "none read-write:a ?workspace read-write"),
        // What lies in a granted directory is granted too.
        ("deny", &[("audit", &["read"]), ("allow", &["read:a"])], "read"),
    ] {
        assert_eq!(shown(&granted(&policy(default, rules), &Ceiling::OPEN)), wanted, "{rules:?}");
    }
}

#[test]
fn a_refusal_within_a_directory_is_one_of_the_directory() {
    let policy =
        policy("allow", &[("deny", &["read:a/secret"]), ("allow", &["read", "write:out"]), ("deny", &["write"])]);
    assert_eq!(shown(&granted(&policy, &Ceiling::OPEN)), "none read-write:out");
    let wanted = [WorkspaceAccess::ReadWrite.into()];
    let (_, findings) = policy.grants(&subject(), &wanted, &Ceiling::OPEN);
    let found: Vec<_> =
        findings.iter().map(|found| format!("{} {:?}", found.capability, found.rule.as_deref())).collect();
    assert_eq!(found, [r#"workspace read Some("r0")"#]);
    let told = policy.explain(&subject(), &wanted, &Ceiling::OPEN);
    let told: Vec<_> =
        told[0].decisions.iter().map(|told| format!("{} {} {}", told.what, told.mode.as_str(), told.because)).collect();
    assert_eq!(told[0], "workspace read:out allow rule `r1` is the first that speaks of it");
    let last = "workspace read deny rule `r0` is the first that speaks of it, for `a/secret`, which lies in it";
    assert!(told.contains(&last.to_owned()), "{told:#?}");
    // A question is as strict for what holds what it is about.
    let policy = self::policy("allow", &[("ask", &["write:deploy"])]);
    assert_eq!(shown(&granted(&policy, &Ceiling::OPEN)), "read ?workspace read-write");
}

#[test]
fn a_task_narrows_to_parts_too() {
    let of = |texts: &[&str]| {
        let parts = texts.iter().map(|text| Capability::Workspace(text.parse().expect("a part")));
        Ceiling::of(&parts.collect::<Vec<_>>()).expect("valid")
    };
    let open = Policy::default();
    assert_eq!(shown(&granted(&open, &of(&["read:src", "read-write:out"]))), "none read-write:out read:src");
    let policy = policy("allow", &[("deny", &["write:out/keep"]), ("deny", &["read:secret"])]);
    assert_eq!(shown(&granted(&policy, &of(&["read-write:out", "read:secret/x"]))), "none read:out");
    assert_eq!(shown(&granted(&policy, &of(&["read-write:out/b"]))), "none read-write:out/b");
    let asks = self::policy("ask", &[]);
    assert_eq!(
        shown(&granted(&asks, &of(&["read:a", "read-write:b"]))),
        "none ?workspace read:a ?workspace read-write:b"
    );
}

#[test]
fn what_is_wrong_with_a_right_is_said() {
    for (entry, why) in [
        ("execute", "`execute` is not `read`, `write` or `read-write`"),
        ("read:out/*", "a sub-path is a directory with all that it holds"),
        ("read:../x", "`..` is not allowed"),
        ("write:", "stands a directory"),
    ] {
        let rule = json!({"version": 1, "rule": [{"name": "r", "mode": "allow", "workspace": [entry]}]});
        let error = serde_json::from_value::<PolicySpec>(rule).expect_err("refused").to_string();
        assert!(error.contains(why), "{entry}: {error}");
    }
    for text in ["read", "write:out", "read-write:a/b"] {
        assert_eq!(text.parse::<WorkspaceRight>().expect("a right").to_string(), text);
    }
    let rights: Vec<_> = (0..MAX_SUB_PATHS / 2 + 1).map(|number| format!("read:d{number}")).collect();
    let rule = |name: &str| json!({"name": name, "mode": "allow", "workspace": rights});
    let faults = build(json!({"version": 1, "rule": [rule("a"), rule("b")]})).expect_err("too many");
    assert!(faults[0].to_string().contains("name 258 sub-paths of workspaces; at most 256"), "{faults:?}");
}

#[test]
fn too_many_parts_are_refused_and_written_down() {
    let rights: Vec<_> = (10..10 + MAX_PARTS + 4).map(|number| format!("read:d{number}")).collect();
    let rights: Vec<_> = rights.iter().map(String::as_str).collect();
    let (grants, findings) =
        policy("deny", &[("allow", &rights)]).grants(&subject(), &[WorkspaceAccess::Read.into()], &Ceiling::OPEN);
    assert_eq!((grants.paths.len(), findings.len()), (MAX_PARTS, 5), "the whole, and each that is too much");
    assert!(findings.iter().any(|found| found.capability.to_string() == "workspace read:d29"), "{findings:?}");
}

/// Numbers that are the same in each run.
struct Numbers(u64);

impl Numbers {
    fn below(&mut self, most: usize) -> usize {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        usize::try_from(self.0 >> 33).expect("31 bits") % most
    }

    fn of<'a>(&mut self, all: &[&'a str]) -> &'a str {
        all[self.below(all.len())]
    }

    fn text(&mut self, rights: &[&str], paths: &[&str]) -> String {
        let (right, path) = (self.of(rights).to_owned(), self.of(paths));
        if path.is_empty() { right } else { format!("{right}:{path}") }
    }
}

const PATHS: [&str; 7] = ["", "a", "a/b", "a/b/c", "ab", "d", "d/e"];
const MODES: [&str; 4] = ["allow", "deny", "ask", "audit"];

/// A path in each region that [`PATHS`] can make, and what lies in which.
const PLACES: [&str; 8] = ["z", "a/z", "a/b/z", "a/b/c/z", "ab/z", "d/z", "d/e/z", "abc"];

/// What the first rules say of one path: read naively, entry by entry.
fn naive(default: &str, rules: &[(String, Vec<String>)], path: &str, asked: bool) -> WorkspaceAccess {
    let yes = |right: &str| {
        let speaks = |entry: &String| {
            let (rights, place) = entry.split_once(':').unwrap_or((entry, ""));
            let lies = place.is_empty() || path == place || path.starts_with(&format!("{place}/"));
            lies && (rights == right || rights == "read-write")
        };
        let rule = rules.iter().find(|(_, entries)| entries.iter().any(speaks));
        let mode = rule.map_or(default, |(mode, _)| mode);
        mode == "allow" || mode == "audit" || (asked && mode == "ask")
    };
    match (yes("read"), yes("write")) {
        (false, _) => WorkspaceAccess::None,
        (true, false) => WorkspaceAccess::Read,
        (true, true) => WorkspaceAccess::ReadWrite,
    }
}

/// Whatever the three sides say: a call is granted of no path more than each
/// of them, and of each directory that they name all that they give throughout it.
#[test]
fn never_more_than_each_side_and_never_less_than_all_of_them() {
    let mut numbers = Numbers(7);
    for round in 0..20_000 {
        let default = numbers.of(&MODES);
        let rules: Vec<(String, Vec<String>)> = (0..numbers.below(4))
            .map(|_| {
                let entries = (0..=numbers.below(3)).map(|_| numbers.text(&["read", "write", "read-write"], &PATHS));
                let entries = entries.collect();
                (numbers.of(&MODES).to_owned(), entries)
            })
            .collect();
        let parts = |numbers: &mut Numbers| -> Vec<WorkspacePart> {
            let most = 1 + numbers.below(3);
            let texts = (0..most).map(|_| numbers.text(&["none", "read", "read-write"], &PATHS));
            texts.map(|text| text.parse().expect("a part")).collect()
        };
        let (wanted, allowed) = (parts(&mut numbers), parts(&mut numbers));
        let written: Vec<(&str, Vec<&str>)> =
            rules.iter().map(|(mode, rights)| (mode.as_str(), rights.iter().map(String::as_str).collect())).collect();
        let written: Vec<_> = written.iter().map(|(mode, rights)| (*mode, rights.as_slice())).collect();
        let capabilities =
            |parts: &[WorkspacePart]| -> Vec<_> { parts.iter().cloned().map(Capability::Workspace).collect() };
        let ceiling = Ceiling::of(&capabilities(&allowed)).expect("valid");
        let (grants, _) = policy(default, &written).grants(&subject(), &capabilities(&wanted), &ceiling);
        let mut with_all = Grants { asks: Vec::new(), ..grants.clone() };
        grants.asks.iter().for_each(|asked| assert!(with_all.add(&asked.capability)));
        let why =
            format!("round {round}: {default} {rules:?}\nwants {wanted:?}\nceiling {allowed:?}\n{}", shown(&grants));
        for (grants, asked) in [(&grants, false), (&with_all, true)] {
            let most = |path: &str| {
                let of = |parts: &[WorkspacePart]| {
                    let holds = parts.iter().filter(|part| part.path.holds(path)).map(|part| part.access);
                    holds.max().unwrap_or_default()
                };
                of(&wanted).min(of(&allowed)).min(naive(default, &rules, path, asked))
            };
            for path in PLACES {
                let given = grants.reach().at(&path.parse().expect("a path"));
                assert!(given <= most(path), "{path} is granted {given:?} (asked: {asked})\n{why}");
            }
            // Who wants nothing of a directory names none, nor does a task that allows all of what holds it.
            let some = |part: &&WorkspacePart| part.access != WorkspaceAccess::None;
            let sides = wanted.iter().chain(&ceiling.paths).filter(some).map(|part| part.path.as_str());
            let entries = rules.iter().flat_map(|(_, entries)| entries);
            let named = entries.map(|entry| entry.split_once(':').map_or("", |(_, path)| path));
            for place in sides.chain(named) {
                let place: SubPath = place.parse().expect("a path");
                let throughout = PLACES.iter().filter(|path| place.holds(path)).map(|path| most(path)).min();
                let given = grants.reach().at(&place);
                assert!(Some(given) >= throughout, "{place} is granted only {given:?} (asked: {asked})\n{why}");
            }
        }
        assert!(grants.within(&grants) && grants.within(&with_all), "{why}");
    }
}
