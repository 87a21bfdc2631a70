//! Swap, watched while the server runs. Workers that find what a guest used by
//! a scan of the page map miss a page that was swapped out, and would show it
//! to the next guest. So none of them runs another one once there is swap.

use std::io::{self, Read};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};

use super::pool::Pool;

/// As much of the list of swap areas as tells whether there is one.
const MAX_READ: u64 = 4096;

/// Whether this machine swaps, as of the last look.
pub(super) struct Swap {
    list: PathBuf,
    is_on: AtomicBool,
}

impl Swap {
    /// Looks for the first time.
    pub(super) fn look(list: PathBuf) -> Self {
        let is_on = AtomicBool::new(is_listed(&list));
        Self { list, is_on }
    }

    pub(super) fn is_on(&self) -> bool {
        self.is_on.load(Relaxed)
    }

    /// Looks again; tells what has become of it if it has changed.
    fn look_again(&self) -> Option<bool> {
        let now = is_listed(&self.list);
        (self.is_on.swap(now, Relaxed) != now).then_some(now)
    }
}

/// Whether the kernel lists swap: a heading, then a line for each area. What
/// can't be read may be anything.
fn is_listed(list: &Path) -> bool {
    let read = || -> io::Result<Vec<u8>> {
        let mut text = Vec::new();
        std::fs::File::open(list)?.take(MAX_READ).read_to_end(&mut text)?;
        Ok(text)
    };
    read().map_or(true, |text| text.split(|byte| *byte == b'\n').filter(|line| !line.is_empty()).count() > 1)
}

impl Pool {
    /// Looks for swap until the pool stops. A look reads one line or two of the
    /// kernel's own, so it is done in place.
    pub(super) async fn watch_swap(pool: Arc<Self>) {
        loop {
            tokio::select! {
                () = tokio::time::sleep(pool.swap_interval()) => {}
                () = pool.stopped() => return,
            }
            match pool.swap().look_again() {
                Some(true) => {
                    let retired = pool.retire_scanning();
                    tracing::warn!(
                        retired,
                        "swap appeared: workers that rely on there being none take no further calls; new ones clear memory the slow way"
                    );
                }
                Some(false) => tracing::info!("swap is gone: new workers clear memory the fast way again"),
                None => {}
            }
            pool.end_retired();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_heading_alone_is_no_swap() {
        let file = tempfile::NamedTempFile::new().expect("a file");
        let listed = |text: &str| {
            std::fs::write(file.path(), text).expect("written");
            is_listed(file.path())
        };
        let heading = "Filename\t\t\t\tType\t\tSize\t\tUsed\t\tPriority\n";
        assert!(!listed(heading));
        assert!(listed(&format!("{heading}/dev/zram0 partition\t1024\t0\t-2\n")));
        assert!(listed(&format!("{heading}{}", "/swap file 1 0 -2\n".repeat(1_000))));
        assert!(is_listed(Path::new("/nonexistent/swaps")), "what can't be seen may be there");
    }
}
