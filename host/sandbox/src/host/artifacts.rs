//! The directory of compiled components. What lies there runs as native code,
//! so every file is compared with the digest that was recorded when it was
//! made before a worker sees it.

use std::collections::HashMap;
use std::io::{self, Read, Seek};
use std::os::fd::OwnedFd;
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use bulkhead_core::digest::Digest;
use bulkhead_core::ports::sandbox::SandboxError;
use bulkhead_core::tool::{Artifact, Manifest};
use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};

use crate::bounds::MAX_ARTIFACT;

/// Checked files that are remembered.
const MAX_REMEMBERED: usize = 4096;

/// Largest record beside an artefact: two schemas of 64 KiB and a description.
const MAX_RECORD: u64 = 1 << 20;

/// A draft of this age belongs to nobody any more.
const OLD: std::time::Duration = std::time::Duration::from_secs(3600);

/// The cache.
pub(super) struct Artifacts {
    directory: PathBuf,
    checked: Mutex<HashMap<Digest, (Identity, Digest)>>,
}

/// Tells one state of one file from every other.
#[derive(Clone, Copy, PartialEq, Eq)]
struct Identity {
    device: u64,
    inode: u64,
    size: u64,
    modified: (i64, i64),
    changed: (i64, i64),
}

impl Identity {
    fn of(file: &std::fs::File) -> io::Result<Self> {
        let data = file.metadata()?;
        if !data.is_file() {
            return Err(io::Error::other("it is not a regular file"));
        }
        Ok(Self {
            device: data.dev(),
            inode: data.ino(),
            size: data.size(),
            modified: (data.mtime(), data.mtime_nsec()),
            changed: (data.ctime(), data.ctime_nsec()),
        })
    }
}

/// What is kept beside an artefact, so that a component is prepared once.
#[derive(Serialize, Deserialize)]
pub(super) struct Record {
    pub(super) component: Digest,
    pub(super) artifact: Artifact,
    pub(super) manifest: Manifest,
}

/// A file that a compiler writes to; removed unless it is kept.
pub(super) struct Draft {
    path: PathBuf,
    file: std::fs::File,
}

impl Drop for Draft {
    fn drop(&mut self) {
        // Kept ones were renamed: then there is nothing to remove.
        let _ = std::fs::remove_file(&self.path);
    }
}

impl Draft {
    /// The file, for the compiler.
    pub(super) fn file(&self) -> io::Result<std::fs::File> {
        self.file.try_clone()
    }
}

fn digest(file: &mut std::fs::File) -> io::Result<Digest> {
    file.rewind()?;
    let mut hash = Sha256::new();
    let mut buffer = vec![0; 256 * 1024];
    loop {
        match file.read(&mut buffer)? {
            0 => return Ok(Digest::from_bytes(hash.finalize().into())),
            read => hash.update(&buffer[..read]),
        }
    }
}

impl Artifacts {
    /// Opens the cache; makes its directory.
    pub(super) fn open_at(directory: &Path) -> io::Result<Self> {
        std::fs::DirBuilder::new().recursive(true).mode(0o700).create(directory)?;
        let mode = std::fs::metadata(directory)?.permissions().mode();
        if mode & 0o022 != 0 {
            let text = format!(
                "{} can be written by others than its owner (mode {mode:o}); what lies there runs as native code",
                directory.display()
            );
            return Err(io::Error::new(io::ErrorKind::PermissionDenied, text));
        }
        let cache = Self { directory: directory.to_owned(), checked: Mutex::default() };
        cache.remove_old_drafts()?;
        Ok(cache)
    }

    /// Removes what a host that died while it compiled has left.
    fn remove_old_drafts(&self) -> io::Result<()> {
        for entry in std::fs::read_dir(&self.directory)? {
            let entry = entry?;
            let old = || {
                entry
                    .metadata()
                    .and_then(|data| data.modified())
                    .is_ok_and(|at| at.elapsed().is_ok_and(|age| age > OLD))
            };
            if entry.path().extension().is_some_and(|extension| extension == "draft") && old() {
                std::fs::remove_file(entry.path())?;
            }
        }
        Ok(())
    }

    /// The directory, to be named to the kernel.
    pub(super) fn directory(&self) -> io::Result<Arc<OwnedFd>> {
        let flags = rustix::fs::OFlags::PATH | rustix::fs::OFlags::DIRECTORY | rustix::fs::OFlags::CLOEXEC;
        Ok(Arc::new(rustix::fs::open(&self.directory, flags, rustix::fs::Mode::empty())?))
    }

    fn path(&self, key: Digest, extension: &str) -> PathBuf {
        self.directory.join(format!("{}.{extension}", key.hex()))
    }

    /// Opens an artefact for a worker, if it is what was recorded. Blocks.
    pub(super) fn open(&self, artifact: &Artifact) -> Result<Arc<OwnedFd>, SandboxError> {
        let path = self.path(artifact.key, "cwasm");
        let failed = |error: io::Error| match error.kind() {
            io::ErrorKind::NotFound => {
                SandboxError::because("the compiled component is not in the cache any more; it must be prepared again")
            }
            _ => SandboxError::new("the compiled component can't be opened", error),
        };
        let nofollow = i32::try_from(rustix::fs::OFlags::NOFOLLOW.bits()).unwrap_or_default();
        let mut file = std::fs::File::options().read(true).custom_flags(nofollow).open(path).map_err(failed)?;
        let identity = Identity::of(&file).map_err(failed)?;
        if self.digest_of(artifact.key, identity, &mut file).map_err(failed)? != artifact.digest {
            tracing::error!(key = %artifact.key, "a compiled component is not what was recorded when it was made; it is not loaded");
            return Err(SandboxError::because(
                "the compiled component is not what was recorded when it was made; it was not loaded and must be prepared again",
            ));
        }
        Ok(Arc::new(file.into()))
    }

    fn digest_of(&self, key: Digest, identity: Identity, file: &mut std::fs::File) -> io::Result<Digest> {
        let checked = || self.checked.lock().unwrap_or_else(PoisonError::into_inner);
        match checked().get(&key) {
            Some((known, digest)) if *known == identity => return Ok(*digest),
            _ => {}
        }
        let digest = digest(file)?;
        let mut checked = checked();
        if checked.len() >= MAX_REMEMBERED {
            checked.clear();
        }
        checked.insert(key, (identity, digest));
        Ok(digest)
    }

    /// What is recorded for a key, if its artefact is there and is what it was.
    pub(super) fn recorded(&self, key: Digest, component: Digest) -> Option<Record> {
        let file = std::fs::File::open(self.path(key, "json")).ok()?;
        let mut text = String::new();
        file.take(MAX_RECORD).read_to_string(&mut text).ok()?;
        let record: Record = serde_json::from_str(&text).ok()?;
        let fits = record.component == component && record.artifact.key == key && self.open(&record.artifact).is_ok();
        fits.then_some(record)
    }

    /// A file to compile into.
    pub(super) fn draft(&self, key: Digest) -> io::Result<Draft> {
        for number in 0..u32::MAX {
            let path = self.path(key, &format!("{}-{number}.draft", std::process::id()));
            match std::fs::File::options().read(true).write(true).create_new(true).mode(0o600).open(&path) {
                Ok(file) => return Ok(Draft { path, file }),
                Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
                Err(error) => return Err(error),
            }
        }
        Err(io::ErrorKind::AlreadyExists.into())
    }

    /// Keeps a draft as the artefact of `key`. Blocks.
    pub(super) fn keep(&self, key: Digest, mut draft: Draft) -> io::Result<Artifact> {
        let size = draft.file.metadata()?.len();
        if size == 0 || size > MAX_ARTIFACT {
            return Err(io::Error::other(format!("the compiler wrote {size} bytes")));
        }
        let digest = digest(&mut draft.file)?;
        draft.file.set_permissions(PermissionsExt::from_mode(0o400))?;
        draft.file.sync_all()?;
        std::fs::rename(&draft.path, self.path(key, "cwasm"))?;
        self.sync()?;
        Ok(Artifact { key, digest, size })
    }

    /// Records what an artefact is. Blocks.
    pub(super) fn record(&self, record: &Record) -> io::Result<()> {
        let text = serde_json::to_vec(record).map_err(io::Error::other)?;
        let mut draft = self.draft(record.artifact.key)?;
        io::Write::write_all(&mut draft.file, &text)?;
        draft.file.sync_all()?;
        std::fs::rename(&draft.path, self.path(record.artifact.key, "json"))?;
        self.sync()
    }

    fn sync(&self) -> io::Result<()> {
        std::fs::File::open(&self.directory)?.sync_all()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_was_recorded_is_opened() {
        let directory = tempfile::tempdir().expect("a directory");
        let cache = Artifacts::open_at(&directory.path().join("cache")).expect("a cache");
        let key = Digest::of(b"key");
        let draft = cache.draft(key).expect("a draft");
        io::Write::write_all(&mut draft.file().expect("the file"), b"code").expect("written");
        let artifact = cache.keep(key, draft).expect("kept");
        assert_eq!(artifact.digest, Digest::of(b"code"));
        assert!(cache.open(&artifact).is_ok());

        let path = cache.path(key, "cwasm");
        std::fs::remove_file(&path).expect("removed");
        assert!(cache.open(&artifact).expect_err("gone").to_string().contains("prepared again"));
        std::fs::write(&path, b"evil").expect("written");
        assert!(cache.open(&artifact).expect_err("forged").to_string().contains("not what was recorded"));
        std::fs::rename(&path, path.with_extension("real")).expect("moved");
        std::os::unix::fs::symlink(path.with_extension("real"), &path).expect("linked");
        assert!(cache.open(&artifact).is_err());
    }

    #[test]
    fn a_directory_that_others_can_write_is_refused() {
        let directory = tempfile::tempdir().expect("a directory");
        std::fs::set_permissions(directory.path(), PermissionsExt::from_mode(0o777)).expect("opened up");
        assert!(Artifacts::open_at(directory.path()).is_err());
    }
}
