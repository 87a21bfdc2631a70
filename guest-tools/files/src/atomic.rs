//! Replacing a file so that nobody ever sees half of it.

use std::fs::{self, File, OpenOptions};
use std::io::{ErrorKind, Write};

use bulkhead_tool::ToolError;

use crate::fault::io_fault;
use crate::path::{Place, Workspace};

/// How many left-over names are tried. One mutating call at a time runs in a
/// task, so a taken name is what a call that was stopped has left.
const MAX_LEFT_OVER: usize = 20;

/// How many characters of the name go into the new file's name, which must
/// stay below 255 bytes.
const MAX_STEM: usize = 50;

/// Writes `content` to a new file beside `place` and renames it to `place`.
/// The directory must exist; a symbolic link is written through.
pub fn write_atomically(workspace: &Workspace, place: &Place, content: &[u8]) -> Result<(), ToolError> {
    let place = &workspace.follow(place)?;
    let new = write_beside(workspace, place, content)?;
    fs::rename(new.real(), place.real()).map_err(|error| {
        let _ = fs::remove_file(new.real());
        io_fault(workspace, place, error)
    })
}

/// The first half of [`write_atomically`]: the new file, not yet in its place.
pub fn write_beside(workspace: &Workspace, place: &Place, content: &[u8]) -> Result<Place, ToolError> {
    let (new, mut file) = create_beside(workspace, place)?;
    let written = file.write_all(content);
    drop(file);
    if let Err(error) = written {
        let _ = fs::remove_file(new.real());
        return Err(io_fault(workspace, place, error));
    }
    Ok(new)
}

/// The very first step, for content that is written piece by piece: an empty
/// file beside `place`. Whoever fails later must remove it.
pub fn create_beside(workspace: &Workspace, place: &Place) -> Result<(Place, File), ToolError> {
    let stem: String = place.name().chars().take(MAX_STEM).collect();
    for number in 0..MAX_LEFT_OVER {
        let name = format!("{}/.{stem}.new-{number}~", place.parent_shown());
        let new = workspace.of_shown(&name);
        match OpenOptions::new().write(true).create_new(true).open(new.real()) {
            Ok(file) => return Ok((new, file)),
            Err(error) if error.kind() == ErrorKind::AlreadyExists => {}
            Err(error) => return Err(io_fault(workspace, place, error)),
        }
    }
    let message = format!(
        "Beside `{place}` lie {MAX_LEFT_OVER} files named `.{stem}.new-*~`, left by calls that were stopped. Delete them."
    );
    Err(ToolError::new("io_error", message))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::TempWorkspace;

    #[test]
    fn writes_through_links_and_leaves_nothing_else() {
        let ws = TempWorkspace::with(&[("real/a", "old"), ("real/.a.new-0~", "left")]);
        std::os::unix::fs::symlink("real/a", ws.root().real().join("link")).expect("symlink");
        write_atomically(&ws, &ws.of_shown("link"), b"new").expect("write");
        assert_eq!(ws.read("real/a"), "new");
        assert!(fs::symlink_metadata(ws.root().real().join("link")).expect("link").is_symlink());
        assert_eq!(ws.tree(), ["link", "real/.a.new-0~", "real/a"]);
    }

    #[test]
    fn a_link_that_leads_out_is_refused() {
        let ws = TempWorkspace::with(&[("a/b", "")]);
        std::os::unix::fs::symlink("../../secret", ws.root().real().join("a/out")).expect("symlink");
        let error = write_atomically(&ws, &ws.of_shown("a/out"), b"x").expect_err("outside");
        assert_eq!(error.code, "path_outside_workspace");
    }
}
