//! Reading a unified diff. The counts in a hunk's header decide only what is
//! ambiguous, since models rarely get them right; the lines themselves decide
//! where a hunk ends.

/// What the patch says about one file.
#[derive(Debug, Default)]
pub struct FilePatch {
    /// As written; none for `/dev/null`.
    pub old: Option<String>,
    pub new: Option<String>,
    pub rename: bool,
    pub hunks: Vec<Hunk>,
}

/// One `@@` section.
#[derive(Debug)]
pub struct Hunk {
    /// The header as written, to name it by.
    pub header: String,
    /// The first old line, from 1; none for a bare `@@`.
    pub start: Option<usize>,
    pub lines: Vec<Line>,
    /// Whether the old or the new file ends here without a newline.
    pub old_unended: bool,
    pub new_unended: bool,
}

/// A line without its newline.
#[derive(Debug, PartialEq)]
pub enum Line {
    Context(String),
    Removed(String),
    Added(String),
}

/// What is wrong, and in which line of the patch.
#[derive(Debug)]
pub struct Fault {
    pub line: usize,
    pub why: String,
}

/// The files of a patch, in its order.
pub fn parse(patch: &str) -> Result<Vec<FilePatch>, Fault> {
    let mut reader = Reader { lines: patch.lines().collect(), at: 0 };
    let mut files = Vec::new();
    while let Some(line) = reader.peek() {
        if line.starts_with("diff --git ") {
            files.push(reader.git_file()?);
        } else if reader.at_file_header() {
            files.push(reader.plain_file()?);
        } else if line.starts_with("@@") {
            return Err(reader.fault("a hunk without a file; put `--- a/path` and `+++ b/path` before it"));
        } else if line.starts_with("*** Begin Patch") {
            return Err(reader.fault("not a unified diff; write `--- a/path`, `+++ b/path` and `@@` hunks"));
        } else {
            reader.at += 1;
        }
    }
    match files.is_empty() {
        true => Err(Fault { line: 1, why: "no file in it; put `--- a/path` and `+++ b/path` before the hunks".into() }),
        false => Ok(files),
    }
}

struct Reader<'a> {
    lines: Vec<&'a str>,
    at: usize,
}

impl<'a> Reader<'a> {
    fn peek(&self) -> Option<&'a str> {
        self.lines.get(self.at).copied()
    }

    fn fault(&self, why: impl Into<String>) -> Fault {
        Fault { line: self.at + 1, why: why.into() }
    }

    /// `--- ` and `+++ ` in two lines.
    fn at_file_header(&self) -> bool {
        let next = |n: usize, with: &str| self.lines.get(self.at + n).is_some_and(|line| line.starts_with(with));
        next(0, "--- ") && next(1, "+++ ")
    }

    fn plain_file(&mut self) -> Result<FilePatch, Fault> {
        let mut file = FilePatch {
            old: path(&self.lines[self.at][4..]),
            new: path(&self.lines[self.at + 1][4..]),
            ..Default::default()
        };
        if file.old.is_none() && file.new.is_none() {
            return Err(self.fault("both paths are /dev/null"));
        }
        self.at += 2;
        self.hunks(&mut file)?;
        if file.hunks.is_empty() {
            return Err(self.fault("no hunk follows; each begins with a line `@@ -start,count +start,count @@`"));
        }
        Ok(file)
    }

    /// With git's extra header lines, of which only those are read that are not
    /// said again by `---` and `+++`.
    fn git_file(&mut self) -> Result<FilePatch, Fault> {
        let names = self.lines[self.at].trim_start_matches("diff --git ");
        let (old, new) = git_names(names).ok_or_else(|| self.fault("cannot tell the two paths apart"))?;
        let mut file = FilePatch { old: Some(old), new: Some(new), ..Default::default() };
        self.at += 1;
        while let Some(line) = self.peek() {
            if line.starts_with("diff --git ") {
                break;
            } else if self.at_file_header() {
                let plain = self.plain_file()?;
                file.old = file.old.and(plain.old);
                file.new = file.new.and(plain.new);
                file.hunks = plain.hunks;
                break;
            } else if line.starts_with("new file mode 12")
                || line.starts_with("old mode 12")
                || line.starts_with("new mode 12")
            {
                return Err(self.fault("symbolic links cannot be patched"));
            } else if line.starts_with("new file mode") {
                file.old = None;
            } else if line.starts_with("deleted file mode") {
                file.new = None;
            } else if let Some(from) = line.strip_prefix("rename from ") {
                (file.old, file.rename) = (path(from).map(|path| format!("a/{path}")), true);
            } else if let Some(to) = line.strip_prefix("rename to ") {
                (file.new, file.rename) = (path(to).map(|path| format!("b/{path}")), true);
            } else if line.starts_with("copy from") {
                return Err(self.fault("copies are not supported; give the copy as a new file"));
            } else if line.starts_with("GIT binary patch") || line.starts_with("Binary files ") {
                return Err(self.fault("binary patches are not supported; use write_file with base64"));
            }
            self.at += 1;
        }
        Ok(file)
    }

    fn hunks(&mut self, file: &mut FilePatch) -> Result<(), Fault> {
        while let Some(line) = self.peek() {
            if line.starts_with("@@") {
                file.hunks.push(self.hunk()?);
            } else if line.trim().is_empty() {
                self.at += 1;
            } else {
                break;
            }
        }
        Ok(())
    }

    fn hunk(&mut self) -> Result<Hunk, Fault> {
        let header = self.lines[self.at];
        let range = range(header).map_err(|why| self.fault(why))?;
        let mut hunk = Hunk {
            header: header.into(),
            start: range.map(|range| range.start),
            lines: Vec::new(),
            old_unended: false,
            new_unended: false,
        };
        let (mut old_left, mut new_left) = range.map_or((0, 0), |range| (range.old, range.new));
        self.at += 1;
        while let Some(line) = self.peek() {
            let open = old_left > 0 || new_left > 0;
            let header = line.starts_with("@@") || line.starts_with("diff --git ");
            // Counts that are still open make a removed `-- x` of `--- x`,
            // unless a hunk follows, which says that the counts were wrong.
            let file = self.at_file_header()
                && (!open || self.lines.get(self.at + 2).is_some_and(|line| line.starts_with("@@")));
            if header || file || (!open && (line == "-- " || self.only_blank_until_header())) {
                break;
            }
            match line.as_bytes().first() {
                None | Some(b' ') => {
                    hunk.lines.push(Line::Context(line.get(1..).unwrap_or("").into()));
                    (old_left, new_left) = (old_left.saturating_sub(1), new_left.saturating_sub(1));
                }
                Some(b'-') => {
                    hunk.lines.push(Line::Removed(line[1..].into()));
                    old_left = old_left.saturating_sub(1);
                }
                Some(b'+') => {
                    hunk.lines.push(Line::Added(line[1..].into()));
                    new_left = new_left.saturating_sub(1);
                }
                Some(b'\\') => match hunk.lines.last() {
                    Some(Line::Removed(_)) => hunk.old_unended = true,
                    Some(Line::Added(_)) => hunk.new_unended = true,
                    _ => (hunk.old_unended, hunk.new_unended) = (true, true),
                },
                Some(_) if !open => break,
                Some(_) => return Err(self.fault("a line of a hunk begins with a space, `-` or `+`")),
            }
            self.at += 1;
        }
        match hunk.lines.is_empty() {
            true => Err(self.fault("an empty hunk")),
            false => Ok(hunk),
        }
    }

    /// Blank lines between hunks are no context, unless the counts want them.
    fn only_blank_until_header(&self) -> bool {
        let mut rest = self.lines[self.at..].iter().skip_while(|line| line.is_empty());
        self.lines[self.at].is_empty()
            && rest.next().is_none_or(|line| ["@@", "diff --git ", "--- "].iter().any(|with| line.starts_with(with)))
    }
}

#[derive(Clone, Copy)]
struct Range {
    start: usize,
    old: usize,
    new: usize,
}

/// Of `@@ -1,2 +3,4 @@`; none of a bare `@@`.
fn range(header: &str) -> Result<Option<Range>, String> {
    let inner = header.trim_start_matches('@').trim_start();
    if !inner.starts_with('-') {
        return Ok(None);
    }
    let mut parts = inner.split_whitespace();
    let mut numbers = |sign: char| -> Option<(usize, usize)> {
        let part = parts.next()?.strip_prefix(sign)?;
        let (start, count) = part.split_once(',').unwrap_or((part, "1"));
        Some((start.parse().ok()?, count.parse().ok()?))
    };
    match (numbers('-'), numbers('+')) {
        (Some((start, old)), Some((_, new))) => Ok(Some(Range { start, old, new })),
        _ => Err(format!("`{header}` is no hunk header; write `@@ -start,count +start,count @@`")),
    }
}

/// A path as `---` and `+++` give it: without a time stamp and quotes.
fn path(text: &str) -> Option<String> {
    let text = text.split('\t').next().unwrap_or("").trim_end();
    let text = text.strip_prefix('"').and_then(|text| text.strip_suffix('"')).unwrap_or(text);
    (text != "/dev/null").then(|| text.to_string())
}

/// `a/x b/x`; with spaces in the names, the split that makes them equal.
fn git_names(names: &str) -> Option<(String, String)> {
    let halves = names.match_indices(' ').map(|(at, _)| (&names[..at], &names[at + 1..]));
    let mut halves: Vec<_> = halves.collect();
    if let Some(same) = halves.iter().position(|(old, new)| old.get(2..) == new.get(2..)) {
        halves.swap(0, same);
    }
    halves.first().map(|(old, new)| (old.to_string(), new.to_string()))
}
