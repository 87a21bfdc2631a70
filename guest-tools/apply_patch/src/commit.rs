//! Writing a plan, all or nothing: first every new content beside its file,
//! which is where space runs out; then the renames; the deletions last. What
//! fails is taken back.

use std::fs;

use bulkhead_files::{Place, Workspace, io_fault, write_atomically, write_beside};
use bulkhead_tool::ToolError;

use crate::plan::Plan;

/// Writes the plan.
pub fn commit(workspace: &Workspace, plan: &Plan) -> Result<(), ToolError> {
    let mut ready = Vec::new();
    for (place, content) in &plan.after {
        let Some(content) = content else { continue };
        let staged = workspace
            .make_parents(place)
            .and_then(|()| workspace.follow(place))
            .and_then(|target| Ok((write_beside(workspace, &target, content.as_bytes())?, target)));
        match staged {
            Ok(pair) => ready.push(pair),
            Err(error) => {
                discard(&ready);
                return Err(error);
            }
        }
    }
    for (n, (new, target)) in ready.iter().enumerate() {
        if let Err(error) = fs::rename(new.real(), target.real()) {
            discard(&ready[n..]);
            return Err(take_back(workspace, plan, io_fault(workspace, target, error)));
        }
    }
    for (place, content) in &plan.after {
        // What the patch creates and deletes again was never there.
        if content.is_none()
            && matches!(plan.before.get(place), Some(Some(_)))
            && let Err(error) = fs::remove_file(place.real())
        {
            return Err(take_back(workspace, plan, io_fault(workspace, place, error)));
        }
    }
    Ok(())
}

fn discard(ready: &[(Place, Place)]) {
    for (new, _) in ready {
        let _ = fs::remove_file(new.real());
    }
}

/// Makes every file again what it was, as far as that is possible, and says so.
fn take_back(workspace: &Workspace, plan: &Plan, mut error: ToolError) -> ToolError {
    let mut lost = Vec::new();
    for (place, content) in &plan.before {
        let undone = match content {
            Some(content) => write_atomically(workspace, place, content.as_bytes()).is_ok(),
            None => fs::remove_file(place.real()).is_ok() || !place.real().exists(),
        };
        if !undone {
            lost.push(place.shown());
        }
    }
    match lost.is_empty() {
        true => error.message.push_str(" Everything was taken back; nothing was changed."),
        false => error.message.push_str(&format!(" These could not be taken back: `{}`.", lost.join("`, `"))),
    }
    error
}
