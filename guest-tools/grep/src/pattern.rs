//! From the arguments to a matcher.

use bulkhead_tool::ToolError;
use grep_regex::{RegexMatcher, RegexMatcherBuilder};

use crate::{Args, Case};

/// The most memory a compiled pattern may take: `(a{1000}){1000}` is short too.
const MAX_COMPILED: usize = 8 << 20;

pub fn matcher(args: &Args) -> Result<RegexMatcher, ToolError> {
    let mut builder = RegexMatcherBuilder::new();
    builder
        .fixed_strings(args.literal)
        .word(args.word)
        .case_insensitive(matches!(args.case, Case::Insensitive))
        .case_smart(matches!(args.case, Case::Smart))
        .multi_line(true)
        .size_limit(MAX_COMPILED)
        .dfa_size_limit(MAX_COMPILED);
    if !args.multiline {
        // Also what finds a newline in the pattern, which could never match.
        builder.line_terminator(Some(b'\n'));
    }
    builder.build(&args.pattern).map_err(|fault| {
        let hint = match args.literal {
            true => "",
            false => ". To search for it as plain text, set `literal`; to match over lines, set `multiline`",
        };
        ToolError::invalid("pattern", format!("{fault}{hint}"))
    })
}
