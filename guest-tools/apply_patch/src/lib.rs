//! The tool `apply_patch`: a unified diff of many files, all or nothing.
//!
//! The work has three parts: [`parse`] reads the diff, forgiving what models
//! get wrong (counts, line numbers, stripped blank lines); [`plan`] works out
//! in memory what every file becomes; [`commit`] writes it, or takes it back.

mod commit;
mod hunk;
mod parse;
mod plan;

use bulkhead_files::{Workspace, plural};
use bulkhead_tool::serde_json::json;
use bulkhead_tool::{Description, Outcome, Tool, ToolError, text_and_json};

/// See `schema.json`.
#[derive(serde::Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Args {
    patch: String,
    fuzz: Option<usize>,
    strip: Option<usize>,
    #[serde(default)]
    dry_run: bool,
}

/// The tool.
pub struct ApplyPatch;

impl Tool for ApplyPatch {
    type Args = Args;

    /// Not idempotent: a second run does not find what the first has changed.
    fn describe() -> Description {
        let (about, schema) = (include_str!("about.md"), include_str!("schema.json"));
        Description::of("apply_patch", env!("CARGO_PKG_VERSION"), about, schema)
            .output(include_str!("output.json"))
            .writes_workspace()
    }

    fn run(args: Args) -> Outcome {
        apply(&Workspace::of_call(), &args)
    }
}

bulkhead_tool::export!(ApplyPatch);

fn apply(workspace: &Workspace, args: &Args) -> Outcome {
    let files = parse::parse(&args.patch).map_err(|fault| {
        ToolError::new("invalid_patch", format!("Line {} of the patch: {}.", fault.line, fault.why))
    })?;
    let plan = plan::plan(workspace, &files, args.fuzz.unwrap_or(1), args.strip)?;
    if !args.dry_run {
        commit::commit(workspace, &plan)?;
    }
    let mut text = match args.dry_run {
        true => format!("The patch fits; nothing was changed ({}):\n", plural(plan.reports.len(), "file")),
        false => format!("{} patched:\n", plural(plan.reports.len(), "file")),
    };
    for report in &plan.reports {
        text.push_str(&report.line());
    }
    let reports: Vec<_> = plan.reports.iter().map(plan::Report::facts).collect();
    Ok(text_and_json(text, &json!({ "applied": !args.dry_run, "files": reports })))
}

#[cfg(test)]
mod tests;
