//! A workspace in a temporary directory, for the tools' native tests.

use std::fs;
use std::ops::Deref;
use std::path::PathBuf;
use std::sync::atomic::{AtomicU32, Ordering};

use crate::Workspace;

static NEXT: AtomicU32 = AtomicU32::new(0);

/// Removed when dropped.
pub struct TempWorkspace {
    workspace: Workspace,
    outer: PathBuf,
}

impl TempWorkspace {
    /// A workspace of these files. Beside it, outside, lies a file `secret`.
    pub fn with(files: &[(&str, &str)]) -> Self {
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        let outer = std::env::temp_dir().join(format!("bulkhead-{}-{number}", std::process::id()));
        let root = outer.join("workspace");
        fs::create_dir_all(&root).expect("a temporary directory");
        fs::write(outer.join("secret"), "secret").expect("the file outside");
        let temp = TempWorkspace { workspace: Workspace::at(root), outer };
        for (path, content) in files {
            temp.write(path, content.as_bytes());
        }
        temp
    }

    /// Writes a file, with its directories.
    pub fn write(&self, path: &str, content: &[u8]) {
        let real = self.root().real().join(path);
        fs::create_dir_all(real.parent().expect("a parent")).expect("directories");
        fs::write(real, content).expect("a file");
    }

    /// A file's text.
    pub fn read(&self, path: &str) -> String {
        fs::read_to_string(self.root().real().join(path)).expect("a text file")
    }

    /// The paths of all that is no directory, sorted.
    pub fn tree(&self) -> Vec<String> {
        let mut found = Vec::new();
        let mut open = vec![self.root().real().to_path_buf()];
        while let Some(directory) = open.pop() {
            for entry in fs::read_dir(directory).expect("a directory") {
                let entry = entry.expect("an entry");
                match entry.file_type().expect("a type").is_dir() {
                    true => open.push(entry.path()),
                    false => found.push(self.of_real(&entry.path()).shown().to_string()),
                }
            }
        }
        found.sort();
        found
    }
}

impl Deref for TempWorkspace {
    type Target = Workspace;
    fn deref(&self) -> &Workspace {
        &self.workspace
    }
}

impl Drop for TempWorkspace {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.outer);
    }
}
