//! What a caller sees whose text is not in the file: the place most like it.

/// How much of the nearest place is shown.
const MAX_SHOWN: usize = 12;

/// Lines at least this alike are worth showing.
const ALIKE: f64 = 0.5;

/// How many places are compared in full.
const MAX_CANDIDATES: usize = 8;

/// A sentence or two, with the nearest place if there is one.
pub fn hint(content: &str, wanted: &str) -> String {
    let lines: Vec<&str> = content.lines().collect();
    let wanted: Vec<&str> = wanted.trim_matches('\n').lines().collect();
    let Some((start, score)) = nearest(&lines, &wanted) else {
        return "Nothing in it is similar; read the file again.".into();
    };
    let end = (start + wanted.len()).min(lines.len());
    let shown: String = (start..end.min(start + MAX_SHOWN)).map(|n| format!("{:>6}\t{}\n", n + 1, lines[n])).collect();
    let more = if end - start > MAX_SHOWN { "   ...\n" } else { "" };
    let why = match score >= wanted.len() as f64 {
        true => "It differs only in white space: copy the indentation exactly.",
        false => "Copy the text exactly, without the line numbers.",
    };
    format!("The most similar place is at line {}:\n{shown}{more}{why}", start + 1)
}

/// Where `wanted` fits best, and the sum of its lines' likeness there.
fn nearest(lines: &[&str], wanted: &[&str]) -> Option<(usize, f64)> {
    // The longest line says most about where the text belongs.
    let anchor = (0..wanted.len()).max_by_key(|n| wanted[*n].trim().len())?;
    let pairs = pairs(wanted[anchor]);
    let mut candidates: Vec<(f64, usize)> = lines
        .iter()
        .enumerate()
        .map(|(n, line)| (likeness(line, wanted[anchor], &pairs), n))
        .filter(|(score, _)| *score >= ALIKE)
        .collect();
    candidates.sort_by(|a, b| b.0.total_cmp(&a.0));
    candidates.truncate(MAX_CANDIDATES);
    candidates
        .into_iter()
        .map(|(_, n)| {
            let start = n.saturating_sub(anchor);
            let score = wanted.iter().zip(&lines[start..]).map(|(a, b)| likeness(b, a, &self::pairs(a))).sum();
            (start, score)
        })
        .reduce(|best, next| if next.1 > best.1 { next } else { best })
}

/// From 0 to 1; 1 if they differ in white space only.
fn likeness(line: &str, wanted: &str, wanted_pairs: &[(u8, u8)]) -> f64 {
    if line.split_whitespace().eq(wanted.split_whitespace()) {
        return 1.0;
    }
    let pairs = pairs(line);
    let all = pairs.len() + wanted_pairs.len();
    if all == 0 {
        return 0.0;
    }
    // Both are sorted: count what they share.
    let (mut a, mut b, mut shared) = (0, 0, 0);
    while a < pairs.len() && b < wanted_pairs.len() {
        match pairs[a].cmp(&wanted_pairs[b]) {
            std::cmp::Ordering::Less => a += 1,
            std::cmp::Ordering::Greater => b += 1,
            std::cmp::Ordering::Equal => (a, b, shared) = (a + 1, b + 1, shared + 1),
        }
    }
    (2 * shared) as f64 / all as f64 * 0.99
}

/// The pairs of neighbouring bytes, sorted; of a long line the first 400.
fn pairs(line: &str) -> Vec<(u8, u8)> {
    let bytes: Vec<u8> = line.bytes().filter(|byte| !byte.is_ascii_whitespace()).take(400).collect();
    let mut pairs: Vec<(u8, u8)> = bytes.windows(2).map(|pair| (pair[0], pair[1])).collect();
    pairs.sort_unstable();
    pairs
}
