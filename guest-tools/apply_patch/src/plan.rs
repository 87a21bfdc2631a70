//! What every file of the patch becomes, worked out before anything is written.

use std::collections::BTreeMap;
use std::fs;

use bulkhead_files::{Place, Workspace, io_fault, looks_binary, plural};
use bulkhead_tool::ToolError;
use bulkhead_tool::serde_json::{Value, json};

use crate::hunk;
use crate::parse::FilePatch;

/// The largest file that is patched.
const MAX_SIZE: u64 = 8 << 20;

/// The outcome, file by file.
#[derive(Default)]
pub struct Plan {
    /// What each file is to be; none if it is to be no more.
    pub after: BTreeMap<Place, Option<String>>,
    /// What each of them was, to take everything back.
    pub before: BTreeMap<Place, Option<String>>,
    pub reports: Vec<Report>,
}

/// What was done to one file.
pub struct Report {
    path: Place,
    from: Option<Place>,
    action: &'static str,
    hunks: usize,
    moved: usize,
}

/// Works the patch out.
pub fn plan(workspace: &Workspace, files: &[FilePatch], fuzz: usize, strip: Option<usize>) -> Result<Plan, ToolError> {
    let mut plan = Plan::default();
    for file in files {
        let old = file.old.as_deref().map(|path| place(workspace, path, 'a', strip)).transpose()?;
        let new = file.new.as_deref().map(|path| place(workspace, path, 'b', strip)).transpose()?;
        let report = match (old, new) {
            (None, Some(new)) => plan.create(workspace, new, file, fuzz)?,
            (Some(old), None) => plan.delete(workspace, old, file, fuzz)?,
            (Some(old), Some(new)) if old != new => plan.rename(workspace, old, new, file, fuzz)?,
            (Some(old), Some(_)) => plan.change(workspace, old, file, fuzz)?,
            (None, None) => continue,
        };
        plan.reports.push(report);
    }
    Ok(plan)
}

/// The place of a path as the patch writes it. Git's prefix is taken off,
/// unless such a directory exists and the path without it does not.
fn place(workspace: &Workspace, path: &str, prefix: char, strip: Option<usize>) -> Result<Place, ToolError> {
    if let Some(strip) = strip {
        let path = path.splitn(strip + 1, '/').last().unwrap_or(path);
        return workspace.place_below("patch", path);
    }
    let whole = workspace.place_below("patch", path)?;
    let Some(rest) = path.strip_prefix(prefix).and_then(|rest| rest.strip_prefix('/')) else { return Ok(whole) };
    let short = workspace.place_below("patch", rest)?;
    match !workspace.exists(&short)? && workspace.exists(&whole)? {
        true => Ok(whole),
        false => Ok(short),
    }
}

impl Plan {
    fn create(
        &mut self,
        workspace: &Workspace,
        new: Place,
        file: &FilePatch,
        fuzz: usize,
    ) -> Result<Report, ToolError> {
        self.check_free(workspace, &new)?;
        let applied = hunk::apply("", &file.hunks, fuzz).map_err(|misfit| misfit_error(&new, file, misfit))?;
        self.after.insert(new.clone(), Some(applied.content));
        Ok(Report { path: new, from: None, action: "created", hunks: file.hunks.len(), moved: 0 })
    }

    fn delete(
        &mut self,
        workspace: &Workspace,
        old: Place,
        file: &FilePatch,
        fuzz: usize,
    ) -> Result<Report, ToolError> {
        let content = self.content(workspace, &old)?;
        let applied = hunk::apply(&content, &file.hunks, fuzz).map_err(|misfit| misfit_error(&old, file, misfit))?;
        if !file.hunks.is_empty() && !applied.content.is_empty() {
            let left = plural(applied.content.lines().count(), "line");
            let message = format!(
                "The patch deletes `{old}`, but it has {left} that the patch does not remove. Nothing was changed."
            );
            return Err(ToolError::new("no_match", message));
        }
        self.after.insert(old.clone(), None);
        Ok(Report { path: old, from: None, action: "deleted", hunks: file.hunks.len(), moved: applied.moved })
    }

    fn change(
        &mut self,
        workspace: &Workspace,
        old: Place,
        file: &FilePatch,
        fuzz: usize,
    ) -> Result<Report, ToolError> {
        let content = self.content(workspace, &old)?;
        let applied = hunk::apply(&content, &file.hunks, fuzz).map_err(|misfit| misfit_error(&old, file, misfit))?;
        self.after.insert(old.clone(), Some(applied.content));
        Ok(Report { path: old, from: None, action: "changed", hunks: file.hunks.len(), moved: applied.moved })
    }

    /// Two paths without `rename from`: some programs write the old one with
    /// another name, such as `main.rs.orig`, and mean the new one.
    fn rename(
        &mut self,
        workspace: &Workspace,
        old: Place,
        new: Place,
        file: &FilePatch,
        fuzz: usize,
    ) -> Result<Report, ToolError> {
        if !file.rename && self.exists(workspace, &new)? {
            return self.change(workspace, new, file, fuzz);
        }
        let content = self.content(workspace, &old)?;
        self.check_free(workspace, &new)?;
        let applied = hunk::apply(&content, &file.hunks, fuzz).map_err(|misfit| misfit_error(&old, file, misfit))?;
        self.after.insert(old.clone(), None);
        self.after.insert(new.clone(), Some(applied.content));
        Ok(Report { path: new, from: Some(old), action: "renamed", hunks: file.hunks.len(), moved: applied.moved })
    }

    /// A file as the patch has left it so far.
    fn content(&mut self, workspace: &Workspace, place: &Place) -> Result<String, ToolError> {
        match self.after.get(place) {
            Some(Some(content)) => return Ok(content.clone()),
            Some(None) => {
                let message =
                    format!("The patch changes `{place}` after deleting or renaming it. Nothing was changed.");
                return Err(ToolError::new("invalid_patch", message));
            }
            None => {}
        }
        let content = read(workspace, place)?;
        self.before.insert(place.clone(), Some(content.clone()));
        Ok(content)
    }

    fn exists(&self, workspace: &Workspace, place: &Place) -> Result<bool, ToolError> {
        match self.after.get(place) {
            Some(content) => Ok(content.is_some()),
            None => workspace.exists(place),
        }
    }

    fn check_free(&mut self, workspace: &Workspace, place: &Place) -> Result<(), ToolError> {
        if self.exists(workspace, place)? {
            let message = format!(
                "The patch creates `{place}`, which exists already. Give the change as one of a file that exists. Nothing was changed."
            );
            return Err(ToolError::new("already_exists", message));
        }
        self.before.entry(place.clone()).or_insert(None);
        Ok(())
    }
}

fn read(workspace: &Workspace, place: &Place) -> Result<String, ToolError> {
    let size = workspace.file(place)?.len();
    if size > MAX_SIZE {
        let message = format!("`{place}` has {}; files of at most 8 MiB can be patched.", bulkhead_files::size(size));
        return Err(ToolError::new("too_large", message));
    }
    let bytes = fs::read(place.real()).map_err(|error| io_fault(workspace, place, error))?;
    let binary = looks_binary(&bytes);
    String::from_utf8(bytes).ok().filter(|_| !binary).ok_or_else(|| {
        ToolError::new(
            "binary_file",
            format!("`{place}` is not UTF-8 text, so it cannot be patched. Nothing was changed."),
        )
    })
}

fn misfit_error(place: &Place, file: &FilePatch, misfit: hunk::Misfit) -> ToolError {
    let (n, of) = (misfit.hunk + 1, file.hunks.len());
    let message = format!("`{place}`, hunk {n} of {of}: {} Nothing was changed in any file.", misfit.why.trim_end());
    ToolError::new(misfit.code, message).details(&json!({ "path": place.shown(), "hunk": n, "hunks": of }))
}

impl Report {
    /// For the text of the answer.
    pub fn line(&self) -> String {
        let Report { path, from, action, hunks, moved } = self;
        let from = from.as_ref().map_or(String::new(), |from| format!(" from {from}"));
        let hunks = if *hunks > 0 { format!(", {}", plural(*hunks, "hunk")) } else { String::new() };
        let moved = if *moved > 0 { format!(", {moved} of them not where the patch says") } else { String::new() };
        format!("{action} {path}{from}{hunks}{moved}\n")
    }

    /// For the JSON of the answer.
    pub fn facts(&self) -> Value {
        let mut facts =
            json!({ "path": self.path.shown(), "action": self.action, "hunks": self.hunks, "moved_hunks": self.moved });
        if let Some(from) = &self.from {
            facts["from"] = from.shown().into();
        }
        facts
    }
}
