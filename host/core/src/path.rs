//! Paths in a workspace: relative, of plain names, as bytes. Resolution is by
//! descriptor in the file layer; this type only keeps what can't be a path out.

use std::fmt;

use crate::ports::workspace::WorkspaceError;

/// Longest path, in bytes: the kernel's own PATH_MAX, less its final NUL.
pub const MAX_PATH: usize = 4095;
/// Longest name, in bytes: what common filesystems allow.
pub const MAX_NAME: usize = 255;
/// Deepest path, in names: a deeper one costs every walk a descriptor each.
pub const MAX_DEPTH: usize = 128;

/// A path in a workspace, without a leading or trailing `/`. Empty: the root.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Default)]
pub struct WorkspacePath(Vec<u8>);

impl WorkspacePath {
    /// The workspace itself.
    pub fn root() -> Self {
        Self::default()
    }

    /// From bytes, as a client or guest gave them. Leading, trailing and
    /// doubled `/` and `.` are dropped.
    ///
    /// # Errors
    /// If it has `..` or NUL, or is too long or too deep.
    pub fn parse(bytes: &[u8]) -> Result<Self, WorkspaceError> {
        let refuse = |reason| WorkspaceError::BadPath { path: display(bytes), reason };
        let mut path = Vec::with_capacity(bytes.len());
        let mut depth = 0;
        for name in bytes.split(|byte| *byte == b'/').filter(|name| !name.is_empty() && *name != b".") {
            if name == b".." {
                return Err(refuse("`..` is not allowed"));
            }
            if name.contains(&0) {
                return Err(refuse("a NUL byte is not allowed"));
            }
            if name.len() > MAX_NAME {
                return Err(refuse("a name is longer than 255 bytes"));
            }
            if !path.is_empty() {
                path.push(b'/');
            }
            path.extend_from_slice(name);
            depth += 1;
        }
        if path.len() > MAX_PATH {
            return Err(refuse("it is longer than 4095 bytes"));
        }
        if depth > MAX_DEPTH {
            return Err(refuse("it is deeper than 128 names"));
        }
        Ok(Self(path))
    }

    /// The bytes.
    pub fn as_bytes(&self) -> &[u8] {
        &self.0
    }

    /// Whether it is the workspace itself.
    pub fn is_root(&self) -> bool {
        self.0.is_empty()
    }

    /// The last name; empty for the root.
    pub fn name(&self) -> &[u8] {
        self.0.rsplit(|byte| *byte == b'/').next().unwrap_or_default()
    }

    /// The directory it is in; none for the root.
    pub fn parent(&self) -> Option<Self> {
        if self.is_root() {
            return None;
        }
        let end = self.0.len() - self.name().len();
        Some(Self(self.0[..end.saturating_sub(1)].to_vec()))
    }

    /// The entry `name` in this directory.
    ///
    /// # Errors
    /// As [`WorkspacePath::parse`].
    pub fn join(&self, name: &[u8]) -> Result<Self, WorkspaceError> {
        Self::parse(&[self.0.as_slice(), name].join(&b'/'))
    }

    /// From text, as [`WorkspacePath::to_text`] has it.
    ///
    /// # Errors
    /// As [`WorkspacePath::parse`], or if a `%` is not followed by two digits.
    pub fn from_text(text: &str) -> Result<Self, WorkspaceError> {
        let bad = || WorkspaceError::BadPath { path: text.to_owned(), reason: "a `%` stands for itself only as `%25`" };
        let mut bytes = Vec::with_capacity(text.len());
        let mut rest = text.as_bytes();
        while let Some((first, after)) = rest.split_first() {
            rest = after;
            if *first != b'%' {
                bytes.push(*first);
                continue;
            }
            let digits = after.get(..2).ok_or_else(bad)?;
            bytes.extend(hex::decode(digits).map_err(|_| bad())?);
            rest = after.get(2..).unwrap_or_default();
        }
        Self::parse(&bytes)
    }

    /// As text: bytes that are not UTF-8, control characters and `%` are
    /// percent-encoded, so that the text names the file exactly.
    pub fn to_text(&self) -> String {
        display(&self.0)
    }
}

/// Bytes of a path as text, as [`WorkspacePath::to_text`] has them.
pub fn display(bytes: &[u8]) -> String {
    use std::fmt::Write as _;
    let mut text = String::with_capacity(bytes.len());
    for chunk in bytes.utf8_chunks() {
        for c in chunk.valid().chars() {
            if c == '%' || c.is_control() {
                let mut buffer = [0; 4];
                c.encode_utf8(&mut buffer).bytes().for_each(|byte| {
                    // Writing to a String can't fail.
                    let _ = write!(text, "%{byte:02X}");
                });
            } else {
                text.push(c);
            }
        }
        chunk.invalid().iter().for_each(|byte| {
            let _ = write!(text, "%{byte:02X}");
        });
    }
    text
}

impl fmt::Display for WorkspacePath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.to_text())
    }
}

impl fmt::Debug for WorkspacePath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}", self.to_text())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_are_normal_or_refused() {
        let path = WorkspacePath::parse(b"/a//b/./c/").expect("fine");
        assert_eq!(path.as_bytes(), b"a/b/c");
        assert_eq!(path.name(), b"c");
        assert_eq!(path.parent().map(|parent| parent.to_text()), Some("a/b".into()));
        assert!(WorkspacePath::parse(b"/").expect("the root").is_root());
        for bad in [&b"../x"[..], b"a/../../x", b"a\0b", &[b'a'; 256], "a/".repeat(129).as_bytes()] {
            assert!(WorkspacePath::parse(bad).is_err(), "{}", display(bad));
        }
    }

    #[test]
    fn text_is_exact() {
        let path = WorkspacePath::parse(b"caf\xe9/100%\n").expect("fine");
        assert_eq!(path.to_text(), "caf%E9/100%25%0A");
        assert_eq!(WorkspacePath::from_text(&path.to_text()).expect("the same"), path);
        for bad in ["%", "a%2", "%zz", "%00", "a/%2E%2E"] {
            assert!(WorkspacePath::from_text(bad).is_err(), "{bad}");
        }
    }
}
