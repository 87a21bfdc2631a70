//! What a process has open because whoever started the server had it open.

use std::io;

/// Closes all but the standard streams: neither walls nor limits keep a process from a
/// file or socket that it has open already. Called while the process is one thread, by
/// the server at its start and by each of its children.
///
/// # Errors
/// If `/proc` can't be read.
pub fn close_inherited() -> io::Result<()> {
    let listing = std::fs::read_dir("/proc/self/fd")?;
    let open: Vec<i32> = listing.filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok()).collect();
    // The listing's own descriptor is among them and closed by now.
    for descriptor in open.into_iter().filter(|descriptor| *descriptor > 2) {
        let _ = nix::unistd::close(descriptor);
    }
    Ok(())
}
