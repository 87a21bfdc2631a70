//! Searching one file after the other, until there is enough.

use std::fs::File;
use std::io;

use bulkhead_files::{Bounded, Place};
use bulkhead_tool::serde_json::{Value, json};
use grep_regex::RegexMatcher;
use grep_searcher::{BinaryDetection, Searcher, SearcherBuilder, Sink, SinkContext, SinkFinish, SinkMatch};

use crate::{Args, Mode};

/// How much of a line is shown, in characters.
const MAX_LINE: usize = 400;

/// The most memory for one file; a search over lines holds all of it.
const MAX_HEAP: usize = 32 << 20;

/// What has been found so far.
pub struct Search<'a> {
    matcher: &'a RegexMatcher,
    searcher: Searcher,
    mode: Mode,
    most: usize,
    pub text: Bounded,
    pub files: Vec<Value>,
    /// Matching lines in all files.
    pub matched: usize,
    pub searched: usize,
    /// Files that are no text, or could not be read.
    pub skipped: usize,
}

impl<'a> Search<'a> {
    pub fn new(args: &Args, matcher: &'a RegexMatcher, max_text: usize) -> Self {
        let context = |own: Option<usize>| if args.mode == Mode::Lines { own.unwrap_or(args.context) } else { 0 };
        let searcher = SearcherBuilder::new()
            .line_number(true)
            .multi_line(args.multiline)
            .before_context(context(args.context_before))
            .after_context(context(args.context_after))
            .binary_detection(BinaryDetection::quit(0))
            .heap_limit(Some(MAX_HEAP))
            .build();
        let most = args.max_matches.unwrap_or(200);
        let (text, files) = (Bounded::new(max_text), Vec::new());
        Search { matcher, searcher, mode: args.mode, most, text, files, matched: 0, searched: 0, skipped: 0 }
    }

    /// Whether a limit is reached, so that there may be more.
    pub fn is_full(&self) -> bool {
        let done = if self.mode == Mode::Lines { self.matched } else { self.files.len() };
        done >= self.most || self.text.is_full()
    }

    /// Searches one file. One that cannot be read is counted, no more: the
    /// caller did not ask for it by name.
    pub fn file(&mut self, place: &Place) {
        self.searched += 1;
        let left = if self.mode == Mode::Lines { self.most - self.matched } else { usize::MAX };
        let room = self.text.room().saturating_sub(place.shown().len() + 2);
        let mut found = Matches { mode: self.mode, left, room, ..Default::default() };
        let result =
            File::open(place.real()).and_then(|file| self.searcher.search_file(self.matcher, &file, &mut found));
        if result.is_err() || found.binary {
            self.skipped += 1;
            return;
        }
        if found.count == 0 {
            if found.cut {
                self.text.close();
            }
            return;
        }
        let entry = match self.mode {
            Mode::Lines => format!("{}{place}\n{}", if self.files.is_empty() { "" } else { "\n" }, found.text),
            Mode::Files => format!("{place}\n"),
            Mode::Count => format!("{place}:{}\n", found.count),
        };
        if !self.text.push(&entry) {
            return;
        }
        if found.cut {
            self.text.close();
        }
        self.matched += found.count;
        let mut facts = json!({ "path": place.shown(), "count": found.count });
        if self.mode == Mode::Lines {
            facts["lines"] = found.numbers.into();
        }
        self.files.push(facts);
    }
}

/// The matches of one file.
#[derive(Default)]
struct Matches {
    mode: Mode,
    /// How many more are wanted.
    left: usize,
    /// How much text more is wanted.
    room: usize,
    /// Whether there was more than that.
    cut: bool,
    count: usize,
    numbers: Vec<u64>,
    text: String,
    binary: bool,
}

impl Matches {
    /// Whether they fitted.
    fn lines(&mut self, number: Option<u64>, mark: char, bytes: &[u8]) -> bool {
        let first = number.unwrap_or(0);
        for (n, line) in String::from_utf8_lossy(bytes).lines().enumerate() {
            let number = first + n as u64;
            let mut shown: String = line.chars().take(MAX_LINE).collect();
            if shown.len() < line.len() {
                shown.push_str(" [cut]");
            }
            let shown = format!("{number}{mark}{shown}\n");
            self.cut |= self.text.len() + shown.len() > self.room;
            if self.cut {
                return false;
            }
            self.text.push_str(&shown);
        }
        true
    }
}

impl Sink for Matches {
    type Error = io::Error;

    fn matched(&mut self, _: &Searcher, found: &SinkMatch<'_>) -> io::Result<bool> {
        if self.mode == Mode::Lines {
            if !self.lines(found.line_number(), ':', found.bytes()) {
                return Ok(false);
            }
            self.numbers.extend(found.line_number());
        }
        self.count += 1;
        Ok(self.mode != Mode::Files && self.count < self.left)
    }

    fn context(&mut self, _: &Searcher, context: &SinkContext<'_>) -> io::Result<bool> {
        Ok(self.lines(context.line_number(), '-', context.bytes()))
    }

    fn context_break(&mut self, _: &Searcher) -> io::Result<bool> {
        self.text.push_str("--\n");
        Ok(true)
    }

    fn finish(&mut self, _: &Searcher, finish: &SinkFinish) -> io::Result<()> {
        self.binary = finish.binary_byte_offset().is_some();
        Ok(())
    }
}
