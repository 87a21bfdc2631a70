//! Which repositories may be named. HTTPS only, and only in a form that every
//! parser reads alike: the URL that git gets is the one that was checked,
//! written anew, never the client's text. Local repositories lie below roots
//! that the operator chose.

use std::io;
use std::path::{Path, PathBuf};

use ::url::{Host, Url};
use bulkhead_core::address::is_public;
use bulkhead_core::ports::import::ImportError;

use super::{code, refused};

/// Longest URL, in bytes.
const MAX: usize = 2048;

/// What the operator allows.
#[derive(Debug)]
pub(super) struct Policy {
    roots: Vec<PathBuf>,
    ports: Vec<u16>,
}

/// A repository that may be fetched.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Source {
    Https { url: String, host: String, port: u16 },
    Local(PathBuf),
}

fn forbidden(reason: &'static str) -> ImportError {
    refused(code::FORBIDDEN_SOURCE, reason)
}

impl Policy {
    pub(super) fn new(roots: &[PathBuf], ports: &[u16]) -> io::Result<Self> {
        let roots = roots.iter().map(std::fs::canonicalize).collect::<io::Result<_>>()?;
        Ok(Self { roots, ports: ports.to_vec() })
    }

    /// Refuses what is not allowed. Names are not resolved yet.
    pub(super) fn check(&self, text: &str) -> Result<Source, ImportError> {
        if text.len() > MAX {
            return Err(forbidden("the URL is longer than 2,048 bytes"));
        }
        // Spaces, control characters and backslashes are read differently by
        // different parsers; what is not ASCII is written in punycode or %xx.
        if !text.bytes().all(|byte| byte.is_ascii_graphic() && byte != b'\\') {
            return Err(forbidden("the URL has a space, a control character, a backslash or a letter beyond ASCII"));
        }
        if text.starts_with('/') {
            return self.local(Path::new(text));
        }
        if let Some(path) = text.strip_prefix("file://") {
            return self.file(path);
        }
        self.https(text)
    }

    fn https(&self, text: &str) -> Result<Source, ImportError> {
        // Without this, `https:x`, `https:///x` and `HTTPS:\\x` would be mended.
        if !text.starts_with("https://") || text.starts_with("https:///") {
            return Err(forbidden("only `https://` URLs are allowed"));
        }
        let url = Url::parse(text).map_err(|_| forbidden("it is not a valid URL"))?;
        if !url.username().is_empty() || url.password().is_some() || url.authority().contains('@') {
            return Err(forbidden("a URL must not hold a user name or password"));
        }
        if text.contains('@') && text.split('/').nth(2).is_some_and(|authority| authority.contains('@')) {
            return Err(forbidden("a URL must not hold a user name or password"));
        }
        if url.query().is_some() || url.fragment().is_some() {
            return Err(forbidden("a repository's URL must not hold `?` or `#`"));
        }
        let port = url.port_or_known_default().unwrap_or(443);
        if !self.ports.contains(&port) {
            return Err(forbidden("the port is not allowed"));
        }
        let host = match url.host() {
            Some(Host::Domain(name)) if is_name(name) => name.to_owned(),
            Some(Host::Ipv4(ip)) if is_public(ip.into()) => ip.to_string(),
            Some(Host::Ipv6(ip)) if is_public(ip.into()) => format!("[{ip}]"),
            Some(Host::Domain(_)) | None => return Err(forbidden("it is not a valid host name")),
            Some(_) => return Err(forbidden("the address is not public")),
        };
        Ok(Source::Https { url: url.to_string(), host, port })
    }

    fn file(&self, path: &str) -> Result<Source, ImportError> {
        if !path.starts_with('/') {
            return Err(forbidden("a `file://` URL must not name a host"));
        }
        if path.contains('%') {
            return Err(forbidden("a `file://` URL must not hold `%`; give the path itself"));
        }
        self.local(Path::new(path))
    }

    fn local(&self, path: &Path) -> Result<Source, ImportError> {
        // One answer for what isn't there and what isn't allowed: no probing.
        let outside = || forbidden("the path is not a directory below a local root that the operator configured");
        if self.roots.is_empty() {
            return Err(outside());
        }
        let path = std::fs::canonicalize(path).map_err(|_| outside())?;
        if self.roots.iter().any(|root| path.starts_with(root)) && path.is_dir() {
            Ok(Source::Local(path))
        } else {
            Err(outside())
        }
    }
}

/// A plain host name, without the final dot that would make it another name for
/// caches and pins.
fn is_name(name: &str) -> bool {
    !name.ends_with('.') && name.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-' || b == b'.')
}

#[cfg(test)]
mod tests {
    use super::*;

    fn policy(roots: &[PathBuf]) -> Policy {
        Policy::new(roots, &[443]).expect("roots are there")
    }

    #[test]
    fn https_only_and_plain() {
        let good = Source::Https { url: "https://example.com/a/b.git".into(), host: "example.com".into(), port: 443 };
        assert_eq!(policy(&[]).check("https://EXAMPLE.com:443/a/./b.git").expect("is fine"), good);
        for bad in [
            "",
            "http://example.com/a",
            "git://example.com/a",
            "ssh://example.com/a",
            "git@example.com:a/b",
            "ext::sh -c id",
            "ext::sh",
            "fd::3",
            "https:example.com/a",
            "https:///example.com/a",
            "HTTPS://example.com/a",
            "--upload-pack=sh",
            "-c",
            "example.com/a",
            "https://user@example.com/a",
            "https://u:p@example.com/a",
            "https://@example.com/a",
            "https://:@example.com/a",
            "https://example.com\\@evil.example/a",
            "https://example.com:8443/a",
            "https://example.com:22/a",
            "https://example.com/a?b",
            "https://example.com/a#b",
            "https://example.com./a",
            "https://exa mple.com/a",
            "https://example.com/a\nb",
            "https://ex_ample.com/a",
            "https://127.0.0.1/a",
            "https://2130706433/a",
            "https://0x7f.1/a",
            "https://127.1/a",
            "https://10.0.0.1/a",
            "https://169.254.169.254/latest",
            "https://[::1]/a",
            "https://[::ffff:127.0.0.1]/a",
            "https://[fd00::1]/a",
            "https://0/a",
            "https://caf\u{e9}.example/a",
            "https://",
            "https://%31%32%37.0.0.1/",
            "file://etc/passwd",
            "/etc",
            "file:///etc",
            "./a",
            "../a",
        ] {
            let error = policy(&[]).check(bad).expect_err(bad);
            assert!(matches!(error, ImportError::Refused { code: code::FORBIDDEN_SOURCE, .. }), "{bad}");
        }
        assert!(policy(&[]).check(&format!("https://example.com/{}", "a".repeat(2048))).is_err());
        assert!(policy(&[]).check("https://8.8.8.8/a").is_ok());
        assert!(Policy::new(&[], &[443, 8443]).expect("fine").check("https://example.com:8443/a").is_ok());
    }

    #[test]
    fn local_repositories_lie_below_a_root() {
        let dir = tempfile::TempDir::new().expect("a directory");
        let root = dir.path().join("root");
        std::fs::create_dir_all(root.join("repo")).expect("makes");
        std::fs::create_dir_all(dir.path().join("root-beside")).expect("makes");
        std::os::unix::fs::symlink("/etc", root.join("link")).expect("links");
        let policy = policy(std::slice::from_ref(&root));
        let canonical = std::fs::canonicalize(root.join("repo")).expect("is there");
        let at = |path: &str| format!("{}{path}", root.display());
        for good in [at("/repo"), format!("file://{}", at("/repo")), at("/./repo/../repo/")] {
            assert_eq!(policy.check(&good).expect("is below"), Source::Local(canonical.clone()), "{good}");
        }
        for bad in [at("-beside"), at("/link"), at("/.."), at("/none"), "/etc".into(), "file://localhost/etc".into()] {
            assert!(policy.check(&bad).is_err(), "{bad}");
        }
    }
}
