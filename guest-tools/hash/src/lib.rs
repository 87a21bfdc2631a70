//! The tool `hash`: checksums of files, read in pieces.

use std::fmt::Write;
use std::fs::File;
use std::io::Read;

use bulkhead_files::{Place, Workspace, io_fault};
use bulkhead_tool::serde_json::json;
use bulkhead_tool::{Description, Outcome, Tool, ToolError, host, text_and_json};
use sha2::Digest;

/// As much as the host gives in one read.
const PIECE: usize = 64 * 1024;

/// How often the caller hears of a large file.
const REPORT_EVERY: u64 = 16 << 20;

/// See `schema.json`.
#[derive(serde::Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Args {
    paths: Vec<String>,
    #[serde(default)]
    algorithm: Algorithm,
}

#[derive(Clone, Copy, Default, serde::Deserialize, serde::Serialize)]
#[serde(rename_all = "lowercase")]
enum Algorithm {
    #[default]
    Sha256,
    Sha512,
    Sha1,
    Blake3,
}

/// The tool.
pub struct Hash;

impl Tool for Hash {
    type Args = Args;

    fn describe() -> Description {
        let (about, schema) = (include_str!("about.md"), include_str!("schema.json"));
        Description::of("hash", env!("CARGO_PKG_VERSION"), about, schema)
            .output(include_str!("output.json"))
            .reads_workspace()
            .idempotent()
    }

    fn run(args: Args) -> Outcome {
        hash(&Workspace::of_call(), &args)
    }
}

bulkhead_tool::export!(Hash);

fn hash(workspace: &Workspace, args: &Args) -> Outcome {
    let places: Vec<Place> = args.paths.iter().map(|path| workspace.place("paths", path)).collect::<Result<_, _>>()?;
    let total = places.iter().try_fold(0, |sum, place| Ok::<_, ToolError>(sum + workspace.file(place)?.len()))?;
    let mut reading = Reading { workspace, done: 0, total };
    let (mut text, mut files) = (String::new(), Vec::new());
    for place in &places {
        let before = reading.done;
        let hash = match args.algorithm {
            Algorithm::Sha256 => hex(&reading.digest(place, sha2::Sha256::new())?),
            Algorithm::Sha512 => hex(&reading.digest(place, sha2::Sha512::new())?),
            Algorithm::Sha1 => hex(&reading.digest(place, sha1::Sha1::new())?),
            Algorithm::Blake3 => reading.blake3(place)?,
        };
        let _ = writeln!(text, "{hash}  {place}");
        files.push(json!({ "path": place.shown(), "hash": hash, "size": reading.done - before }));
    }
    Ok(text_and_json(text, &json!({ "algorithm": args.algorithm, "files": files })))
}

struct Reading<'a> {
    workspace: &'a Workspace,
    done: u64,
    total: u64,
}

impl Reading<'_> {
    fn digest<D: Digest>(&mut self, place: &Place, mut digest: D) -> Result<Vec<u8>, ToolError> {
        self.pieces(place, |piece| digest.update(piece))?;
        Ok(digest.finalize().to_vec())
    }

    fn blake3(&mut self, place: &Place) -> Result<String, ToolError> {
        let mut hasher = blake3::Hasher::new();
        self.pieces(place, |piece| {
            hasher.update(piece);
        })?;
        Ok(hasher.finalize().to_hex().to_string())
    }

    fn pieces(&mut self, place: &Place, mut take: impl FnMut(&[u8])) -> Result<(), ToolError> {
        let fault = |error| io_fault(self.workspace, place, error);
        let mut file = File::open(place.real()).map_err(fault)?;
        let mut piece = vec![0; PIECE];
        loop {
            let length = file.read(&mut piece).map_err(fault)?;
            if length == 0 {
                return Ok(());
            }
            take(&piece[..length]);
            let before = self.done;
            self.done += length as u64;
            if before / REPORT_EVERY != self.done / REPORT_EVERY {
                host::progress(self.done.min(self.total), Some(self.total), Some(place.shown()));
                if host::is_cancelled() {
                    return Err(host::cancelled());
                }
            }
        }
    }
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().fold(String::new(), |mut text, byte| {
        let _ = write!(text, "{byte:02x}");
        text
    })
}

#[cfg(test)]
mod tests {
    use bulkhead_files::testing::TempWorkspace;
    use bulkhead_tool::Content;
    use bulkhead_tool::serde_json::from_value;

    use super::*;

    #[test]
    fn schema_and_arguments_agree() {
        bulkhead_tool::schema::check::<Hash>(json!({ "paths": ["a"] }));
    }

    #[test]
    fn known_answers() {
        let ws = TempWorkspace::with(&[("a", "abc")]);
        for (algorithm, begins) in [
            ("sha256", "ba7816bf8f01cfea"),
            ("sha512", "ddaf35a193617aba"),
            ("sha1", "a9993e364706816a"),
            ("blake3", "6437b3ac38465133"),
        ] {
            let args = from_value(json!({ "paths": ["a"], "algorithm": algorithm })).expect("arguments");
            let parts = hash(&ws, &args).expect("success");
            let Content::Text(text) = &parts[0] else { panic!("{parts:?}") };
            assert!(text.starts_with(begins) && text.ends_with("  a\n"), "{algorithm}: {text}");
        }
    }

    #[test]
    fn what_is_no_file() {
        let ws = TempWorkspace::with(&[("d/a", "")]);
        let code = |path: &str| {
            hash(&ws, &Args { paths: vec![path.into()], algorithm: Algorithm::Sha256 }).expect_err("none").code
        };
        assert_eq!((code("d").as_str(), code("b").as_str()), ("is_a_directory", "not_found"));
    }
}
