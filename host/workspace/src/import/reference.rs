//! Names of branches and tags. They become arguments of git, where a leading
//! `-` is an option, `:` a refspec and `+` force; so only plain names pass
//! (git-check-ref-format(1), and a little stricter).

use bulkhead_core::ports::import::ImportError;

use super::{code, refused};

/// Longest name, in bytes: what fits into a file name.
const MAX: usize = 255;

/// Refuses what is no plain name of a branch or tag, nor a full commit id.
///
/// # Errors
/// `clone_failed`, with what is wrong.
pub fn check_reference(reference: &str) -> Result<(), ImportError> {
    let fault = if reference.is_empty() {
        "is empty"
    } else if reference.len() > MAX {
        "is longer than 255 bytes"
    } else if reference.starts_with(['-', '+', '/', '.']) || reference.ends_with(['/', '.']) {
        "begins or ends with a character that is not allowed there"
    } else if reference.contains("..") || reference.contains("//") || reference.contains("@{") || reference == "@" {
        "has `..`, `//` or `@{`"
    } else if reference.split('/').any(|part| part.starts_with('.') || part.ends_with(".lock")) {
        "has a part that begins with `.` or ends with `.lock`"
    } else if reference.chars().any(|c| c.is_control() || c.is_whitespace() || "~^:?*[\\".contains(c)) {
        "has a space, a control character or one of ~^:?*[\\"
    } else {
        return Ok(());
    };
    Err(refused(code::CLONE_FAILED, format!("the reference {fault}")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn plain_names_pass() {
        for good in ["main", "v1.2.3", "feature/a-b", "0123456789012345678901234567890123456789", "caf\u{e9}", "HEAD"] {
            assert!(check_reference(good).is_ok(), "{good}");
        }
        let long = "a".repeat(256);
        for bad in [
            "",
            "-x",
            "--upload-pack=sh",
            "+main",
            "a..b",
            "a b",
            "a\nb",
            "a:b",
            "a^",
            "a~1",
            "a?",
            "a*",
            "a[",
            "a\\b",
            "/a",
            "a/",
            "a//b",
            ".a",
            "a/.b",
            "a.lock",
            "a.lock/b",
            "a.",
            "@",
            "a@{1}",
            "a\0",
            &long,
        ] {
            assert!(check_reference(bad).is_err(), "{bad:?}");
        }
    }
}
