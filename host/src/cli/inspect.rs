//! `tools inspect`: what a component is, and what keeps it from being a tool.
//! The bytes are parsed, compiled and asked in the same confined children as
//! on a server.

use bulkhead_core::digest::Digest;
use bulkhead_core::grants::{Capability, WorkspaceAccess, WorkspacePart};
use bulkhead_core::ports::sandbox::{PrepareError, Sandbox as _};
use bulkhead_core::tool::Manifest;
use bulkhead_sandbox::{Inspection, Problem};
use serde::Serialize;

use super::exit::{Exit, Failure};
use super::output::{Output, one_line};
use super::units::show_bytes;
use super::{run, sandbox, trace};
use crate::config::Loaded;

/// The world that a tool fits into (`wit/tool.wit`).
const WORLD: &str = "bulkhead:tool/tool@0.1.0";
/// That of one whose `call` is asynchronous (`wit/async/tool.wit`), which is told
/// from the other by what it exports.
const ASYNC: [&str; 2] = ["bulkhead:async-tool/tool@0.1.0", "bulkhead:async-tool/guest@0.1.0"];

/// All that can be said about a component.
#[derive(Serialize)]
struct Report {
    digest: String,
    /// The world it fits into; absent if into none.
    world: Option<&'static str>,
    #[serde(flatten)]
    inspection: Inspection,
    /// What it says of itself.
    manifest: Option<Manifest>,
}

/// Inspects the component that was named.
pub(super) fn inspect(loaded: &Loaded, named: &str, output: &Output) -> Result<Exit, Failure> {
    trace::command(loaded);
    let component = sandbox::component(named, &loaded.config)?;
    let digest = Digest::of(&component).to_string();
    let report = sandbox::with(loaded, None, async |sandbox| {
        let mut inspection = sandbox.inspect(component.clone()).await.map_err(run::rejected)?;
        let mut manifest = None;
        if inspection.problem.is_none() {
            match sandbox.prepare(component).await {
                Ok(prepared) => manifest = Some(prepared.manifest),
                Err(PrepareError::Rejected { code, reason }) => {
                    inspection.problem = Some(Problem { code: code.into(), reason })
                }
                Err(PrepareError::Sandbox(error)) => return Err(Failure::host(&error)),
            }
        }
        let world = if inspection.exports.iter().any(|name| name == ASYNC[1]) { ASYNC[0] } else { WORLD };
        let world = inspection.problem.is_none().then_some(world);
        Ok(Report { digest, world, inspection, manifest })
    })?;
    output.result(&report, || text(&report));
    Ok(if report.world.is_some() { Exit::Ok } else { Exit::Failed })
}

fn text(report: &Report) -> String {
    let inspection = &report.inspection;
    let mut lines = Vec::new();
    let mut line = |name: &str, value: String| {
        lines.push(match value.strip_prefix('\n') {
            Some(block) => format!("{name}\n{block}"),
            None => format!("{name:<13} {value}").trim_end().to_owned(),
        })
    };
    line("digest", report.digest.clone());
    line("size", show_bytes(inspection.size));
    if inspection.adapted {
        line("adapted", "a core module; what follows is of the component that the host makes of it".into());
    }
    if inspection.wasi_03 {
        line("wasi", "0.3, which an operator has to switch on (`experimental.wasi_03`)".into());
    }
    line("world", report.world.map_or_else(|| "none: it can't be a tool".into(), str::to_owned));
    if let Some(problem) = &inspection.problem {
        line("problem", format!("{}: {}", problem.code, one_line(&problem.reason)));
    }
    line(
        "contents",
        format!(
            "{} modules, {} instances, {} memories, {} tables, {} functions (largest {})",
            inspection.modules,
            inspection.core_instances,
            inspection.memories,
            inspection.tables,
            inspection.functions,
            show_bytes(u64::from(inspection.largest_function)),
        ),
    );
    for (name, list) in [("exports", &inspection.exports), ("imports", &inspection.imports)] {
        for (index, item) in list.iter().enumerate() {
            line(if index == 0 { name } else { "" }, one_line(item));
        }
    }
    if let Some(manifest) = &report.manifest {
        describe(manifest, &mut line);
    }
    lines.join("\n")
}

fn describe(manifest: &Manifest, line: &mut impl FnMut(&str, String)) {
    line("name", manifest.name.clone());
    line("version", manifest.version.clone());
    line("idempotent", if manifest.idempotent { "yes" } else { "no" }.into());
    if manifest.capabilities.is_empty() {
        line("wants", "nothing".into());
    }
    for (index, capability) in manifest.capabilities.iter().enumerate() {
        line(if index == 0 { "wants" } else { "" }, wanted(capability));
    }
    line("description", block(&manifest.description));
    line("input schema", block(&format!("{:#}", manifest.input_schema)));
    if let Some(schema) = &manifest.output_schema {
        line("output schema", block(&format!("{schema:#}")));
    }
}

/// Text of several lines, below its name.
fn block(text: &str) -> String {
    text.lines().map(|line| format!("\n  {}", one_line(line))).collect()
}

fn wanted(capability: &Capability) -> String {
    match capability {
        Capability::Workspace(WorkspacePart { path, access }) => {
            let what = if path.is_whole() {
                "the workspace".into()
            } else {
                format!("`{}` of the workspace", one_line(path.as_str()))
            };
            match access {
                WorkspaceAccess::None => "no workspace".into(),
                WorkspaceAccess::Read => format!("{what}, to read"),
                WorkspaceAccess::ReadWrite => format!("{what}, to read and write"),
            }
        }
        Capability::Http(host) => format!("HTTP to {} (not granted by this version)", one_line(host)),
        Capability::Environment(name) => {
            format!("environment variable {} (not granted by this version)", one_line(name))
        }
        Capability::Secret(name) => format!("secret {} (not granted by this version)", one_line(name)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_text_says_what_is_missing() {
        let problem = Problem { code: "missing_export".into(), reason: "the component does not export x".into() };
        let inspection = Inspection {
            imports: vec!["a:b/c@1.0.0".into(), "d:e/f@1.0.0".into()],
            problem: Some(problem),
            ..Inspection::default()
        };
        let report = Report { digest: "sha256:00".into(), world: None, inspection, manifest: None };
        let text = text(&report);
        assert!(text.contains("world         none"), "{text}");
        assert!(text.contains("problem       missing_export: the component does not export x"), "{text}");
        assert!(text.contains("imports       a:b/c@1.0.0\n              d:e/f@1.0.0"), "{text}");
    }
}
