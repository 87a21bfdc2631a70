//! Landlock: which files.

use std::os::fd::BorrowedFd;

use landlock::{
    ABI, Access, AccessFs, AccessNet, BitFlags, CompatLevel, Compatible, PathBeneath, Ruleset, RulesetAttr,
    RulesetCreatedAttr, RulesetError, RulesetStatus, Scope,
};

use super::Reach;

/// What is wanted of the kernel; it gives what it has.
const WANTED: ABI = ABI::V6;

/// Lets this thread, and those it starts, reach only what is granted. False if
/// the kernel can't.
pub(super) fn restrict<'a>(grants: impl IntoIterator<Item = (BorrowedFd<'a>, Reach)>) -> bool {
    enforce(grants).is_ok_and(|status| status != RulesetStatus::NotEnforced)
}

fn enforce<'a>(grants: impl IntoIterator<Item = (BorrowedFd<'a>, Reach)>) -> Result<RulesetStatus, RulesetError> {
    let mut rules = Ruleset::default()
        // Without it nothing can be moved from one directory to another.
        .set_compatibility(CompatLevel::HardRequirement)
        .handle_access(AccessFs::Refer)?
        .set_compatibility(CompatLevel::BestEffort)
        .handle_access(AccessFs::from_all(WANTED))?
        .handle_access(AccessNet::from_all(WANTED))?
        .scope(Scope::from_all(WANTED))?
        .create()?;
    for (directory, reach) in grants {
        let access = match reach {
            Reach::Workspaces => in_workspaces(),
            Reach::Artifacts => AccessFs::ReadFile.into(),
        };
        rules = rules.add_rule(PathBeneath::new(directory, access))?;
    }
    Ok(rules.restrict_self()?.ruleset)
}

/// What a guest does in a workspace. It runs nothing there, and makes nothing
/// that is neither file, directory nor link.
fn in_workspaces() -> BitFlags<AccessFs> {
    let never = AccessFs::Execute
        | AccessFs::MakeChar
        | AccessFs::MakeBlock
        | AccessFs::MakeSock
        | AccessFs::MakeFifo
        | AccessFs::IoctlDev;
    AccessFs::from_all(WANTED) & !never
}
