//! Unpacking a checked archive: directories and files first, links last.

use std::fs::{self, File};
use std::io::{self, Read};

use bulkhead_files::{Place, Workspace, create_beside, io_fault};
use bulkhead_tool::{ToolError, host};

use crate::check::{Checked, Target, What};
use crate::{Format, broken, link, read};

/// Unpacks it. What was unpacked before a failure stays, and the error says so.
pub fn extract(workspace: &Workspace, place: &Place, format: Format, checked: &Checked) -> Result<(), ToolError> {
    make_directory(workspace, &checked.to)?;
    let total = checked.count() as u64;
    let (mut number, mut done) = (0, 0);
    read::each(workspace, place, format, &mut |_, content| {
        if let Some(target) = checked.targets.get(&number) {
            unpack(workspace, place, target, content).map_err(|error| partly(error, done))?;
            done += 1;
            host::progress(done, Some(total), Some(target.place.name()));
            if host::is_cancelled() {
                return Err(partly(host::cancelled(), done));
            }
        }
        number += 1;
        Ok(())
    })?;
    for Target { place, what } in checked.targets.values() {
        let What::Symlink(target) = what else { continue };
        if fs::symlink_metadata(place.real()).is_ok() {
            fs::remove_file(place.real()).map_err(|error| io_fault(workspace, place, error))?;
        }
        link::symlink(target, place).map_err(|error| partly(io_fault(workspace, place, error), done))?;
    }
    Ok(())
}

fn unpack(workspace: &Workspace, archive: &Place, target: &Target, content: &mut dyn Read) -> Result<(), ToolError> {
    let place = &target.place;
    if matches!(target.what, What::Directory) {
        return make_directory(workspace, place);
    }
    workspace.make_parents(place)?;
    match &target.what {
        What::File => write(workspace, archive, place, content),
        What::Copy(of) => {
            let mut content = File::open(of.real()).map_err(|error| io_fault(workspace, of, error))?;
            write(workspace, archive, place, &mut content)
        }
        What::Directory | What::Symlink(_) => Ok(()),
    }
}

fn make_directory(workspace: &Workspace, place: &Place) -> Result<(), ToolError> {
    fs::create_dir_all(place.real()).map_err(|error| io_fault(workspace, place, error))
}

/// Beside its place first, so that a file that is replaced is whole.
fn write(workspace: &Workspace, archive: &Place, place: &Place, content: &mut dyn Read) -> Result<(), ToolError> {
    let (new, mut file) = create_beside(workspace, place)?;
    let discard = |error| {
        let _ = fs::remove_file(new.real());
        error
    };
    copy(content, &mut file, workspace, archive, place).map_err(discard)?;
    drop(file);
    fs::rename(new.real(), place.real()).map_err(|error| discard(io_fault(workspace, place, error)))
}

/// Reading may fail because the archive is broken, writing because the disk is
/// full: two different things to the caller.
fn copy(
    from: &mut dyn Read,
    to: &mut File,
    workspace: &Workspace,
    archive: &Place,
    place: &Place,
) -> Result<(), ToolError> {
    let mut piece = vec![0; 64 * 1024];
    loop {
        let length = from.read(&mut piece).map_err(|error| broken(workspace, archive, error))?;
        if length == 0 {
            return Ok(());
        }
        io::Write::write_all(to, &piece[..length]).map_err(|error| io_fault(workspace, place, error))?;
    }
}

fn partly(mut error: ToolError, done: u64) -> ToolError {
    error.message.push_str(&format!(" {done} entries had been unpacked; they were left there."));
    error
}
