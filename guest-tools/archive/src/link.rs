//! Making a symbolic link, for which WASI 0.2 has no stable function in `std`.

use std::io;

use bulkhead_files::Place;

/// Makes `place` a link to `target`, which is checked already.
#[cfg(not(target_arch = "wasm32"))]
pub fn symlink(target: &str, place: &Place) -> io::Result<()> {
    std::os::unix::fs::symlink(target, place.real())
}

/// Makes `place` a link to `target`, which is checked already.
#[cfg(target_arch = "wasm32")]
pub fn symlink(target: &str, place: &Place) -> io::Result<()> {
    use wasip2::filesystem::preopens::get_directories;
    use wasip2::filesystem::types::ErrorCode;
    let (root, _) = get_directories().pop().ok_or(io::ErrorKind::NotFound)?;
    root.symlink_at(target, place.shown()).map_err(|code| match code {
        ErrorCode::Exist => io::ErrorKind::AlreadyExists.into(),
        ErrorCode::NoEntry => io::ErrorKind::NotFound.into(),
        ErrorCode::Quota | ErrorCode::InsufficientSpace => io::ErrorKind::StorageFull.into(),
        ErrorCode::NotPermitted | ErrorCode::Access | ErrorCode::ReadOnly => io::ErrorKind::PermissionDenied.into(),
        other => io::Error::other(other.name()),
    })
}
