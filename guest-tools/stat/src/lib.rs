//! The tool `stat`: what is at a path.

use std::fs::{self, Metadata};
use std::time::UNIX_EPOCH;

use bulkhead_files::{Place, Workspace, io_fault, size};
use bulkhead_tool::serde_json::json;
use bulkhead_tool::{Description, Outcome, Tool, text_and_json};

/// See `schema.json`.
#[derive(serde::Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Args {
    path: String,
}

/// The tool.
pub struct Stat;

impl Tool for Stat {
    type Args = Args;

    fn describe() -> Description {
        let (about, schema) = (include_str!("about.md"), include_str!("schema.json"));
        Description::of("stat", env!("CARGO_PKG_VERSION"), about, schema)
            .output(include_str!("output.json"))
            .reads_workspace()
            .idempotent()
    }

    fn run(args: Args) -> Outcome {
        stat(&Workspace::of_call(), &args)
    }
}

bulkhead_tool::export!(Stat);

fn stat(workspace: &Workspace, args: &Args) -> Outcome {
    let place = workspace.place("path", &args.path)?;
    let found = fs::symlink_metadata(place.real()).map_err(|error| io_fault(workspace, &place, error))?;
    let mut facts = json!({ "path": place.shown() });
    let what = if found.is_dir() {
        facts["type"] = "directory".into();
        let entries = fs::read_dir(place.real()).map(Iterator::count).ok();
        facts["entries"] = entries.into();
        entries.map_or("a directory".into(), |n| {
            format!("a directory of {n} {}", if n == 1 { "entry" } else { "entries" })
        })
    } else if found.is_symlink() {
        let target = fs::read_link(place.real()).map_err(|error| io_fault(workspace, &place, error))?;
        facts["type"] = "symlink".into();
        facts["target"] = target.to_string_lossy().into();
        format!("a symbolic link to `{}`, {}", target.display(), led_to(&place))
    } else {
        facts["type"] = if found.is_file() { "file" } else { "other" }.into();
        facts["size"] = found.len().into();
        let exact = if found.len() < 1024 { String::new() } else { format!(" ({} bytes)", found.len()) };
        format!("a file of {}{exact}", size(found.len()))
    };
    let mut text = format!("`{place}` is {what}.");
    if let Some(seconds) = modified(&found) {
        facts["modified"] = seconds.into();
        text.push_str(&format!(" Last changed {}.", date(seconds)));
    }
    Ok(text_and_json(text, &facts))
}

fn led_to(place: &Place) -> &'static str {
    match fs::metadata(place.real()) {
        Ok(found) if found.is_dir() => "a directory",
        Ok(_) => "a file",
        Err(_) => "which cannot be followed",
    }
}

fn modified(found: &Metadata) -> Option<u64> {
    Some(found.modified().ok()?.duration_since(UNIX_EPOCH).ok()?.as_secs())
}

/// The date and time in UTC. Days to civil date after Howard Hinnant.
fn date(seconds: u64) -> String {
    let (days, second) = (seconds / 86_400, seconds % 86_400);
    let shifted = days + 719_468;
    let era = shifted / 146_097;
    let day_of_era = shifted % 146_097;
    let year_of_era = (day_of_era - day_of_era / 1460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let month_from_march = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * month_from_march + 2) / 5 + 1;
    let month = if month_from_march < 10 { month_from_march + 3 } else { month_from_march - 9 };
    let year = era * 400 + year_of_era + u64::from(month <= 2);
    let (hour, minute, second) = (second / 3600, second / 60 % 60, second % 60);
    format!("{year:04}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}Z")
}

#[cfg(test)]
mod tests {
    use bulkhead_files::testing::TempWorkspace;
    use bulkhead_tool::Content;
    use bulkhead_tool::serde_json::{Value, from_str};

    use super::*;

    fn run(ws: &Workspace, path: &str) -> Result<Value, String> {
        match &stat(ws, &Args { path: path.into() }).map_err(|error| error.code)?[1] {
            Content::Json(facts) => Ok(from_str(facts).expect("JSON")),
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn schema_and_arguments_agree() {
        bulkhead_tool::schema::check::<Stat>(json!({ "path": "a" }));
    }

    #[test]
    fn every_kind() {
        let ws = TempWorkspace::with(&[("d/a", "123")]);
        std::os::unix::fs::symlink("nowhere", ws.root().real().join("link")).expect("symlink");
        let file = run(&ws, "d/a").expect("a file");
        assert_eq!((&file["type"], &file["size"]), (&json!("file"), &json!(3)));
        assert!(file["modified"].as_u64().expect("a time") > 1_700_000_000);
        assert_eq!(run(&ws, "d").expect("a directory")["entries"], json!(1));
        assert_eq!(run(&ws, "link").expect("a link")["target"], json!("nowhere"));
        assert_eq!(run(&ws, "none"), Err("not_found".into()));
    }

    #[test]
    fn dates() {
        assert_eq!(date(0), "1970-01-01T00:00:00Z");
        assert_eq!(date(951_827_696), "2000-02-29T12:34:56Z");
        assert_eq!(date(4_102_444_799), "2099-12-31T23:59:59Z");
    }
}
