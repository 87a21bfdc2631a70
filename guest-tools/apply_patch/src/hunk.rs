//! Where a hunk fits in a text, and the text after it.

use crate::parse::{Hunk, Line};

/// How many lines an error shows of each side.
const MAX_SHOWN: usize = 20;

/// A text after its hunks.
pub struct Applied {
    pub content: String,
    /// How many hunks fitted elsewhere than they say, or with fuzz.
    pub moved: usize,
}

/// Why a hunk does not fit, in words.
#[derive(Debug)]
pub struct Misfit {
    pub hunk: usize,
    pub code: &'static str,
    pub why: String,
}

/// Where a hunk fits: the first line, and how much context was left out.
struct Fit {
    at: usize,
    fuzz: (usize, usize),
}

/// Applies the hunks in their order; each begins after the one before.
pub fn apply(content: &str, hunks: &[Hunk], max_fuzz: usize) -> Result<Applied, Misfit> {
    let windows = content.contains("\r\n");
    let mut lines: Vec<&str> = content.split('\n').map(|line| line.strip_suffix('\r').unwrap_or(line)).collect();
    let mut ended = lines.last() == Some(&"");
    if ended {
        lines.pop();
    }
    let mut result: Vec<&str> = Vec::new();
    let (mut done, mut shift, mut moved) = (0, 0_isize, 0);
    for (n, hunk) in hunks.iter().enumerate() {
        let old: Vec<&str> = hunk.lines.iter().filter_map(Line::in_old).collect();
        let expected = hunk.start.map(|start| {
            // A hunk without old lines stands after the line it names.
            let start = if old.is_empty() { start } else { start.saturating_sub(1) };
            start.saturating_add_signed(shift).clamp(done, lines.len().max(done))
        });
        let fit = find(&lines, hunk, &old, expected, done, max_fuzz)
            .map_err(|matches| misfit(n, hunk, &lines, &old, expected, matches))?;
        if let Some(expected) = expected {
            moved += usize::from(fit.at != expected + fit.fuzz.0 || fit.fuzz != (0, 0));
            shift += (fit.at as isize - fit.fuzz.0 as isize) - expected as isize;
        }
        let kept = &hunk.lines[fit.fuzz.0..hunk.lines.len() - fit.fuzz.1];
        result.extend(&lines[done..fit.at]);
        result.extend(kept.iter().filter_map(Line::in_new));
        done = fit.at + old.len() - fit.fuzz.0 - fit.fuzz.1;
        let says_how_it_ends = hunk.new_unended || hunk.old_unended || lines.is_empty();
        if done == lines.len() && says_how_it_ends {
            ended = !hunk.new_unended;
        }
    }
    result.extend(&lines[done..]);
    let end = if windows { "\r\n" } else { "\n" };
    let mut content = result.join(end);
    if ended && !result.is_empty() {
        content.push_str(end);
    }
    Ok(Applied { content, moved })
}

/// The fit nearest to where it should be, with as little fuzz as possible. Of a
/// hunk that does not say where it should be, the only fit; else how many there
/// are is the error.
fn find(
    lines: &[&str],
    hunk: &Hunk,
    old: &[&str],
    expected: Option<usize>,
    from: usize,
    max_fuzz: usize,
) -> Result<Fit, usize> {
    if old.is_empty() {
        return match expected {
            Some(at) => Ok(Fit { at, fuzz: (0, 0) }),
            None if lines.is_empty() => Ok(Fit { at: 0, fuzz: (0, 0) }),
            None => Err(0),
        };
    }
    let (before, after) = context_at_ends(hunk);
    for fuzz in 0..=max_fuzz {
        let fuzz = (fuzz.min(before), fuzz.min(after));
        if fuzz.0 + fuzz.1 >= old.len() {
            break;
        }
        let wanted = &old[fuzz.0..old.len() - fuzz.1];
        let mut fits: Vec<usize> = (from..(lines.len() + 1).saturating_sub(wanted.len()))
            .filter(|at| lines[*at..].starts_with(wanted))
            .collect();
        match expected {
            Some(expected) => fits.sort_by_key(|at| at.abs_diff(expected + fuzz.0)),
            None if fits.len() > 1 => return Err(fits.len()),
            None => {}
        }
        if let Some(at) = fits.first() {
            return Ok(Fit { at: *at, fuzz });
        }
    }
    Err(0)
}

/// How many lines of context a hunk begins and ends with.
fn context_at_ends(hunk: &Hunk) -> (usize, usize) {
    let context = |line: &&Line| matches!(line, Line::Context(_));
    (hunk.lines.iter().take_while(context).count(), hunk.lines.iter().rev().take_while(context).count())
}

fn misfit(n: usize, hunk: &Hunk, lines: &[&str], old: &[&str], expected: Option<usize>, matches: usize) -> Misfit {
    if matches > 1 {
        let why = format!(
            "it fits in {matches} places. Give its line numbers (`@@ -start,count +start,count @@`) or more context."
        );
        return Misfit { hunk: n, code: "not_unique", why };
    }
    if old.is_empty() {
        let why = "it only adds lines and does not say where. Give its line numbers, or lines of context.".into();
        return Misfit { hunk: n, code: "no_match", why };
    }
    let at = best_guess(lines, old, expected.unwrap_or(0));
    let found = numbered(lines, at, old.len());
    let wanted: String = old.iter().take(MAX_SHOWN).map(|line| format!("       \t{line}\n")).collect();
    let more = if old.len() > MAX_SHOWN { "       \t...\n" } else { "" };
    let header = &hunk.header;
    let why = match lines.is_empty() {
        true => format!("the file is empty, but `{header}` expects lines in it."),
        false => format!(
            "its lines are not in the file. `{header}` expects\n{wanted}{more}but the nearest place has\n{found}"
        ),
    };
    Misfit { hunk: n, code: "no_match", why }
}

/// Where most of the lines are.
fn best_guess(lines: &[&str], old: &[&str], expected: usize) -> usize {
    let score =
        |at: usize| old.iter().zip(&lines[at..]).filter(|(a, b)| a.trim() == b.trim() && !a.trim().is_empty()).count();
    (0..lines.len()).max_by_key(|at| (score(*at), usize::MAX - at.abs_diff(expected))).unwrap_or(0)
}

fn numbered(lines: &[&str], at: usize, count: usize) -> String {
    let end = lines.len().min(at + count.min(MAX_SHOWN));
    (at..end).map(|n| format!("{:>6}\t{}\n", n + 1, lines[n])).collect()
}

impl Line {
    /// The line, if the old file has it.
    fn in_old(&self) -> Option<&str> {
        match self {
            Line::Context(line) | Line::Removed(line) => Some(line.strip_suffix('\r').unwrap_or(line)),
            Line::Added(_) => None,
        }
    }

    /// The line, if the new file has it.
    fn in_new(&self) -> Option<&str> {
        match self {
            Line::Context(line) | Line::Added(line) => Some(line.strip_suffix('\r').unwrap_or(line)),
            Line::Removed(_) => None,
        }
    }
}
