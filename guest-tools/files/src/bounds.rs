//! Keeping what is returned within what a result may hold and a model can use.

use std::fmt::Write;

/// The most text a tool returns; the host allows 1 MiB for a whole result.
pub const MAX_TEXT: usize = 256 * 1024;

/// How much of a file is looked at to tell text from other content.
const LOOKED_AT: usize = 8 * 1024;

/// A text that stops growing at its limit, and knows that it did.
pub struct Bounded {
    text: String,
    limit: usize,
    full: bool,
}

impl Bounded {
    /// An empty text of at most `limit` bytes.
    pub fn new(limit: usize) -> Self {
        Bounded { text: String::new(), limit, full: false }
    }

    /// Adds `piece` whole, or nothing from here on.
    pub fn push(&mut self, piece: &str) -> bool {
        self.full |= self.text.len() + piece.len() > self.limit;
        if !self.full {
            self.text.push_str(piece);
        }
        !self.full
    }

    /// How many bytes fit yet.
    pub fn room(&self) -> usize {
        if self.full { 0 } else { self.limit - self.text.len() }
    }

    /// Takes nothing more: what should come next does not fit.
    pub fn close(&mut self) {
        self.full = true;
    }

    /// Whether something did not fit.
    pub fn is_full(&self) -> bool {
        self.full
    }

    /// The text, with a closing remark, for which there is always room.
    pub fn finish(mut self, remark: &str) -> String {
        if !remark.is_empty() {
            if !self.text.is_empty() && !self.text.ends_with('\n') {
                self.text.push('\n');
            }
            let _ = write!(self.text, "[{remark}]");
        }
        self.text
    }
}

/// Whether the beginning of a file looks like something other than text.
pub fn looks_binary(beginning: &[u8]) -> bool {
    beginning[..beginning.len().min(LOOKED_AT)].contains(&0)
}

/// `1 line`, `2 lines`.
pub fn plural(count: usize, what: &str) -> String {
    format!("{count} {what}{}", if count == 1 { "" } else { "s" })
}

/// A number of bytes as people write it, beside the exact one.
pub fn size(bytes: u64) -> String {
    const UNITS: [&str; 4] = ["KiB", "MiB", "GiB", "TiB"];
    let mut value = bytes as f64;
    let mut unit = "";
    for next in UNITS {
        if value < 1024.0 {
            break;
        }
        (value, unit) = (value / 1024.0, next);
    }
    match unit {
        "" => plural(bytes as usize, "byte"),
        unit => format!("{value:.1} {unit}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bounded_says_that_it_is_full() {
        let mut text = Bounded::new(5);
        assert!(text.push("abc"));
        assert!(!text.push("def"));
        assert!(!text.push("g"), "nothing after what was left out");
        assert!(text.is_full());
        assert_eq!(text.finish("cut"), "abc\n[cut]");
    }

    #[test]
    fn sizes() {
        assert_eq!((size(1), size(2048), size(3 << 30)), ("1 byte".into(), "2.0 KiB".into(), "3.0 GiB".into()));
    }
}
