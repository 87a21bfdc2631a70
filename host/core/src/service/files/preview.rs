//! Previews: the beginning of a file as text, if it is text, else as bytes. Nothing is
//! parsed but characters.

use tokio::io::AsyncReadExt as _;

use super::Files;
use crate::access::OwnedTask;
use crate::error::Error;
use crate::files::{FileFacts, media_type};
use crate::path::WorkspacePath;
use crate::ports::workspace::{ByteRange, Entry, EntryKind};

/// Bytes that are shown of what is no text.
const BINARY: usize = 512;

/// The beginning of a file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Preview {
    /// The entry.
    pub entry: Entry,
    /// What is known of its content.
    pub facts: Option<FileFacts>,
    /// Its media type: as a client said, else guessed by its name.
    pub media_type: String,
    /// What is shown.
    pub shown: Shown,
    /// Whether there is more.
    pub truncated: bool,
}

/// What is shown of a file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Shown {
    /// Text.
    Text {
        /// It.
        text: String,
        /// How its bytes were read.
        encoding: &'static str,
        /// Whether its bytes can be had back from it: nothing was replaced.
        lossless: bool,
    },
    /// Bytes that are no text.
    Bytes(Vec<u8>),
    /// Nothing: it is no file.
    Nothing,
}

impl Files {
    /// Shows the beginning of a file: so many bytes and lines of a text.
    ///
    /// # Errors
    /// If the task is not ready, or nothing is there.
    pub async fn preview(
        &self,
        task: &OwnedTask,
        path: &WorkspacePath,
        (bytes, lines): (u32, u32),
    ) -> Result<Preview, Error> {
        let entry = self.stat(task, path).await?;
        let facts = self.facts(task, &entry).await?;
        let kind = facts.as_ref().map(|facts| facts.media_type.clone());
        let kind = kind.unwrap_or_else(|| media_type(None, path.name()));
        if entry.kind != EntryKind::File || entry.size == 0 {
            let shown = match entry.kind {
                EntryKind::File => Shown::Text { text: String::new(), encoding: "utf-8", lossless: true },
                _ => Shown::Nothing,
            };
            return Ok(Preview { entry, facts, media_type: kind, shown, truncated: false });
        }
        let range = ByteRange::From(0, Some(u64::from(bytes).saturating_sub(1)));
        let file = self.read(task, path, Some(range)).await?;
        let mut content = Vec::new();
        let most = u64::from(bytes);
        // A guest may cut it short meanwhile: what there is then.
        let _ = file.stream.take(most).read_to_end(&mut content).await;
        let (shown, cut) = show(content, file.entry.size, lines);
        let truncated = cut || file.entry.size > most;
        Ok(Preview { entry: file.entry, facts, media_type: kind, shown, truncated })
    }
}

/// Shows the first bytes of a file of `size` bytes, at most so many lines; whether
/// something of them is not shown.
fn show(mut content: Vec<u8>, size: u64, lines: u32) -> (Shown, bool) {
    let is_part = size > content.len() as u64;
    let Some((text, encoding, lossless)) = decode(&content, is_part) else {
        let cut = content.len() > BINARY;
        content.truncate(BINARY);
        return (Shown::Bytes(content), cut);
    };
    let end = text.match_indices('\n').nth(lines.saturating_sub(1) as usize).map(|(at, _)| at + 1);
    let cut = end.is_some_and(|end| end < text.len());
    let text = match end {
        Some(end) => text.get(..end).unwrap_or_default().to_owned(),
        None => text,
    };
    (Shown::Text { text, encoding, lossless }, cut)
}

/// Bytes as text, if they are text: UTF-8, or UTF-16 with a mark of its order. A few
/// bytes that fit neither are replaced, and said to be; many, or a NUL, are no text.
fn decode(content: &[u8], is_part: bool) -> Option<(String, &'static str, bool)> {
    if let Some(rest) = content.strip_prefix(b"\xff\xfe") {
        return decode_16(rest, u16::from_le_bytes).map(|(text, lossless)| (text, "utf-16le", lossless));
    }
    if let Some(rest) = content.strip_prefix(b"\xfe\xff") {
        return decode_16(rest, u16::from_be_bytes).map(|(text, lossless)| (text, "utf-16be", lossless));
    }
    if content.contains(&0) {
        return None;
    }
    // The last character may be cut by where the part ends.
    let content = match str::from_utf8(content) {
        Err(error) if is_part && error.error_len().is_none() => content.get(..error.valid_up_to())?,
        _ => content,
    };
    let bad: usize = content.utf8_chunks().map(|chunk| chunk.invalid().len()).sum();
    if bad.saturating_mul(10) > content.len() {
        return None;
    }
    Some((String::from_utf8_lossy(content).into_owned(), "utf-8", bad == 0))
}

fn decode_16(content: &[u8], word: fn([u8; 2]) -> u16) -> Option<(String, bool)> {
    let words = content.chunks_exact(2).filter_map(|pair| pair.try_into().ok().map(word));
    let mut bad = 0_usize;
    let text: String = char::decode_utf16(words)
        .map(|c| {
            c.unwrap_or_else(|_| {
                bad += 1;
                char::REPLACEMENT_CHARACTER
            })
        })
        .collect();
    (bad.saturating_mul(10) <= text.len() && !text.contains('\0')).then_some((text, bad == 0))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn text(content: &[u8], size: u64, lines: u32) -> Option<(String, &'static str, bool, bool)> {
        match show(content.to_vec(), size, lines) {
            (Shown::Text { text, encoding, lossless }, cut) => Some((text, encoding, lossless, cut)),
            _ => None,
        }
    }

    #[test]
    fn text_is_shown_as_text_and_said_to_be_exact_or_not() {
        let whole = |content: &[u8]| text(content, content.len() as u64, 10);
        assert_eq!(whole("é\n".as_bytes()), Some(("é\n".into(), "utf-8", true, false)));
        assert_eq!(whole(b"0123456789\xff"), Some(("0123456789\u{fffd}".into(), "utf-8", false, false)));
        assert_eq!(whole(b"\xff\xfeh\0i\0"), Some(("hi".into(), "utf-16le", true, false)));
        assert_eq!(
            whole(b"\xfe\xff\0h\xd8\0\0i\0i\0i\0i\0i\0i\0i\0i"),
            Some(("h\u{fffd}iiiiiiii".into(), "utf-16be", false, false))
        );
        for bytes in [&b"a\0b"[..], b"\xff\xff\xff", b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR"] {
            assert_eq!(whole(bytes), None, "{bytes:?}");
        }
    }

    #[test]
    fn a_part_ends_with_a_whole_character_and_line() {
        assert_eq!(text(b"ab\xc3", 9, 10), Some(("ab".into(), "utf-8", true, false)));
        assert_eq!(text(b"ab\xc3", 3, 10), None, "a third of it is no text");
        assert_eq!(text(b"1\n2\n3\n", 6, 2), Some(("1\n2\n".into(), "utf-8", true, true)));
        assert_eq!(text(b"1\n2\n", 4, 2), Some(("1\n2\n".into(), "utf-8", true, false)));
        let (shown, cut) = show(vec![0; 600], 600, 1);
        assert_eq!((shown, cut), (Shown::Bytes(vec![0; BINARY]), true));
    }
}
