//! The tool `archive`: packs, unpacks and lists tar, tar.gz and zip.
//!
//! An archive is hostile input. [`read`] turns each format into one kind of
//! entry, [`check`] judges all of them before [`extract`] writes the first.

mod check;
mod create;
mod extract;
mod link;
mod read;

use bulkhead_files::{Bounded, Place, Workspace, io_fault, plural, size};
use bulkhead_tool::serde_json::json;
use bulkhead_tool::{Description, Outcome, Tool, ToolError, text_and_json};

/// How much of a listing is returned.
const MAX_LISTING: usize = 128 * 1024;

/// See `schema.json`.
#[derive(serde::Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Args {
    operation: Operation,
    archive: String,
    format: Option<Format>,
    paths: Option<Vec<String>>,
    to: Option<String>,
    #[serde(default)]
    overwrite: bool,
    #[serde(default)]
    strip_components: usize,
}

#[derive(Clone, Copy, serde::Deserialize)]
#[serde(rename_all = "lowercase")]
enum Operation {
    Create,
    Extract,
    List,
}

#[derive(Clone, Copy, Debug, serde::Deserialize, PartialEq)]
enum Format {
    #[serde(rename = "tar")]
    Tar,
    #[serde(rename = "tar.gz")]
    TarGz,
    #[serde(rename = "zip")]
    Zip,
}

/// The tool.
pub struct Archive;

impl Tool for Archive {
    type Args = Args;

    /// Not idempotent: a second `extract` finds the files that the first made.
    fn describe() -> Description {
        let (about, schema) = (include_str!("about.md"), include_str!("schema.json"));
        Description::of("archive", env!("CARGO_PKG_VERSION"), about, schema)
            .output(include_str!("output.json"))
            .writes_workspace()
    }

    fn run(args: Args) -> Outcome {
        archive(&Workspace::of_call(), &args)
    }
}

bulkhead_tool::export!(Archive);

fn archive(workspace: &Workspace, args: &Args) -> Outcome {
    let place = workspace.place_below("archive", &args.archive)?;
    let format = format(&place, args.format)?;
    match args.operation {
        Operation::Create => {
            let paths = args.paths.as_deref().unwrap_or_default();
            if paths.is_empty() {
                return Err(ToolError::invalid("paths", "say what to pack"));
            }
            let packed = create::create(workspace, &place, format, paths)?;
            let archive_size = workspace.metadata(&place)?.len();
            let text = format!(
                "`{place}`, {}: {}, {} unpacked.",
                size(archive_size),
                entries(packed.entries),
                size(packed.size)
            );
            let facts = json!({ "archive": place.shown(), "entries": packed.entries, "size": packed.size, "archive_size": archive_size });
            Ok(text_and_json(text, &facts))
        }
        Operation::Extract => {
            let to = workspace.place("to", args.to.as_deref().unwrap_or("."))?;
            let checked = check::check(workspace, &place, format, &to, args)?;
            extract::extract(workspace, &place, format, &checked)?;
            let text =
                format!("{} of `{place}` unpacked into `{to}`, {}.", entries(checked.count()), size(checked.size));
            Ok(text_and_json(
                text,
                &json!({ "archive": place.shown(), "entries": checked.count(), "size": checked.size }),
            ))
        }
        Operation::List => list(workspace, &place, format),
    }
}

fn list(workspace: &Workspace, place: &Place, format: Format) -> Outcome {
    let archive_size = workspace.file(place)?.len();
    let mut text = Bounded::new(MAX_LISTING);
    let (mut count, mut total) = (0, 0_u64);
    read::each(workspace, place, format, &mut |entry, _| {
        count += 1;
        total = total.saturating_add(entry.size);
        text.push(&match &entry.kind {
            read::Kind::Directory => format!("{}/\n", entry.name.trim_end_matches('/')),
            read::Kind::File => format!("{}  {}\n", entry.name, entry.size),
            read::Kind::Symlink(target) => format!("{} -> {target}\n", entry.name),
            read::Kind::HardLink(target) => format!("{} = {target}\n", entry.name),
            read::Kind::Special => format!("{}  (special)\n", entry.name),
        });
        Ok(())
    })?;
    let cut = if text.is_full() { "; not all are shown" } else { "" };
    let remark = format!("{}, {} unpacked{cut}", entries(count), size(total));
    let facts = json!({ "archive": place.shown(), "entries": count, "size": total, "archive_size": archive_size });
    Ok(text_and_json(text.finish(&remark), &facts))
}

fn format(place: &Place, given: Option<Format>) -> Result<Format, ToolError> {
    let name = place.name().to_ascii_lowercase();
    let ends = |ends: &[&str]| ends.iter().any(|end| name.ends_with(end));
    match given {
        Some(format) => Ok(format),
        None if ends(&[".tar.gz", ".tgz"]) => Ok(Format::TarGz),
        None if ends(&[".tar"]) => Ok(Format::Tar),
        None if ends(&[".zip", ".jar", ".whl"]) => Ok(Format::Zip),
        None => Err(ToolError::invalid(
            "format",
            format!("`{place}` does not end in .tar, .tar.gz, .tgz or .zip; say what it is"),
        )),
    }
}

fn entries(count: usize) -> String {
    if count == 1 { "1 entry".into() } else { plural(count, "entrie") }
}

fn broken(workspace: &Workspace, place: &Place, error: std::io::Error) -> ToolError {
    match error.kind() {
        std::io::ErrorKind::InvalidData
        | std::io::ErrorKind::InvalidInput
        | std::io::ErrorKind::UnexpectedEof
        | std::io::ErrorKind::Other => {
            ToolError::new("invalid_archive", format!("`{place}` is broken or of another format: {error}."))
        }
        _ => io_fault(workspace, place, error),
    }
}

#[cfg(test)]
mod tests;
