//! The bytes of components, as files named by their digest.

use std::io::{Error, ErrorKind, Write as _};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use async_trait::async_trait;
use bulkhead_core::digest::Digest;
use bulkhead_core::ports::components::Components;
use bytes::Bytes;

/// Components in a directory that only the service writes.
pub struct ComponentFiles {
    directory: PathBuf,
    /// Where they lie for all hosts; this directory is a copy then.
    behind: Option<Arc<dyn Components>>,
}

impl ComponentFiles {
    /// Components in `directory`, which must exist; a copy of what lies in `behind`, if
    /// that is given.
    pub fn new(directory: impl Into<PathBuf>, behind: Option<Arc<dyn Components>>) -> Self {
        Self { directory: directory.into(), behind }
    }

    fn path(&self, digest: Digest) -> PathBuf {
        self.directory.join(format!("{}.wasm", digest.hex()))
    }
}

#[async_trait]
impl Components for ComponentFiles {
    async fn has(&self, digest: Digest) -> Result<bool, Error> {
        if let Some(behind) = &self.behind {
            return behind.has(digest).await;
        }
        let path = self.path(digest);
        blocking(move || path.try_exists()).await
    }

    async fn put(&self, digest: Digest, bytes: Bytes) -> Result<(), Error> {
        if let Some(behind) = &self.behind {
            behind.put(digest, bytes.clone()).await?;
        }
        self.write(digest, bytes).await
    }

    async fn found(&self) -> Result<Vec<Digest>, Error> {
        let directory = self.directory.clone();
        blocking(move || {
            let mut found = Vec::new();
            for entry in std::fs::read_dir(&directory)? {
                let name = entry?.file_name();
                // What has another name was not put here.
                let hex = name.to_str().and_then(|name| name.strip_suffix(".wasm"));
                found.extend(hex.and_then(|hex| format!("sha256:{hex}").parse::<Digest>().ok()));
            }
            Ok(found)
        })
        .await
    }

    async fn remove(&self, digest: Digest) -> Result<(), Error> {
        let (directory, path) = (self.directory.clone(), self.path(digest));
        blocking(move || match std::fs::remove_file(&path) {
            Err(error) if error.kind() != ErrorKind::NotFound => Err(error),
            _ => sync_directory(&directory),
        })
        .await
    }

    async fn get(&self, digest: Digest) -> Result<Bytes, Error> {
        match (self.read(digest).await, &self.behind) {
            (Err(error), Some(behind)) if error.kind() == ErrorKind::NotFound => {
                let bytes = behind.get(digest).await?;
                self.write(digest, bytes.clone()).await?;
                Ok(bytes)
            }
            (read, _) => read,
        }
    }
}

impl ComponentFiles {
    async fn write(&self, digest: Digest, bytes: Bytes) -> Result<(), Error> {
        let (directory, path) = (self.directory.clone(), self.path(digest));
        blocking(move || {
            if path.exists() {
                return Ok(());
            }
            // A half written file must never have the name of a whole one.
            let mut file = tempfile::NamedTempFile::new_in(&directory)?;
            file.write_all(&bytes)?;
            file.as_file().sync_all()?;
            file.persist(&path).map_err(|error| error.error)?;
            sync_directory(&directory)
        })
        .await
    }

    async fn read(&self, digest: Digest) -> Result<Bytes, Error> {
        let path = self.path(digest);
        blocking(move || {
            let bytes = std::fs::read(&path)?;
            if Digest::of(&bytes) != digest {
                return Err(Error::new(ErrorKind::InvalidData, format!("{} does not have its digest", path.display())));
            }
            Ok(bytes.into())
        })
        .await
    }
}

fn sync_directory(path: &Path) -> Result<(), Error> {
    std::fs::File::open(path)?.sync_all()
}

async fn blocking<T: Send + 'static>(work: impl FnOnce() -> Result<T, Error> + Send + 'static) -> Result<T, Error> {
    tokio::task::spawn_blocking(work).await.map_err(Error::other)?
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn what_was_put_is_got_and_a_changed_file_is_refused() {
        let directory = tempfile::tempdir().expect("a directory");
        let files = ComponentFiles::new(directory.path(), None);
        let digest = Digest::of(b"abc");
        assert!(!files.has(digest).await.expect("read"));
        files.put(digest, Bytes::from_static(b"abc")).await.expect("stored");
        files.put(digest, Bytes::from_static(b"abc")).await.expect("stored twice");
        assert!(files.has(digest).await.expect("read"));
        assert_eq!(files.get(digest).await.expect("read"), "abc");
        std::fs::write(directory.path().join(format!("{}.wasm", digest.hex())), "abd").expect("changed");
        assert_eq!(files.get(digest).await.expect_err("refused").kind(), ErrorKind::InvalidData);
        assert!(files.get(Digest::of(b"other")).await.is_err());
        std::fs::write(directory.path().join("other.wasm"), "x").expect("written");
        assert_eq!(files.found().await.expect("read"), [digest]);
        files.remove(digest).await.expect("removed");
        files.remove(digest).await.expect("gone");
        assert_eq!(files.found().await.expect("read"), []);
    }
}
