//! Compiling and running a filter.

use std::ops::ControlFlow;

use bulkhead_tool::ToolError;
use jaq_core::data::JustLut;
use jaq_core::load::{self, Arena, File, Loader};
use jaq_core::{Compiler, Ctx, Vars};
use jaq_json::{Val, write};

pub type Filter = jaq_core::compile::Filter<jaq_core::Native<JustLut<Val>>>;

/// Compiles a filter, with jq's own definitions around it.
pub fn compile(code: &str) -> Result<Filter, ToolError> {
    let definitions = jaq_core::defs().chain(jaq_std::defs()).chain(jaq_json::defs());
    let functions = jaq_core::funs().chain(jaq_std::funs()).chain(jaq_json::funs());
    let arena = Arena::default();
    let modules = Loader::new(definitions).load(&arena, File { code, path: () }).map_err(|errors| {
        let why: Vec<String> = errors.into_iter().flat_map(|(file, error)| syntax(file.code, error)).collect();
        invalid(&why)
    })?;
    Compiler::default().with_funs(functions).compile(modules).map_err(|errors| {
        let found =
            errors.into_iter().flat_map(|(file, errors)| errors.into_iter().map(move |error| (file.code, error)));
        let why: Vec<String> = found
            .map(|(code, (name, undefined))| {
                format!("undefined {} `{name}` at {}", undefined.as_str(), place(code, name))
            })
            .collect();
        invalid(&why)
    })
}

/// Hands every result of one input to `take`, until it breaks.
pub fn run(
    filter: &Filter,
    input: Val,
    mut take: impl FnMut(Val) -> ControlFlow<()>,
) -> Result<ControlFlow<()>, ToolError> {
    let context = Ctx::<JustLut<Val>>::new(&filter.lut, Vars::new([]));
    for value in filter.id.run((context, input)) {
        let value = match value.map_err(|stop| stop.get_halt()) {
            Ok(value) => value,
            Err(Ok(0)) => return Ok(ControlFlow::Break(())),
            Err(Ok(code)) => return Err(failed(&format!("it halted with code {code}"))),
            Err(Err(stop)) => {
                return Err(match stop.get_err() {
                    Ok(error) => failed(&error.to_string()),
                    Err(_) => failed("a `break` without its label"),
                });
            }
        };
        if take(value).is_break() {
            return Ok(ControlFlow::Break(()));
        }
    }
    Ok(ControlFlow::Continue(()))
}

/// `why` may quote the value, which may be the whole input.
fn failed(why: &str) -> ToolError {
    let short: String = why.chars().take(1000).collect();
    let more = if short.len() < why.len() { " ..." } else { "" };
    ToolError::new("filter_failed", format!("The filter failed: {short}{more}."))
}

/// Indented by two spaces.
pub fn pretty(value: &Val) -> String {
    let style = write::Pp { indent: Some("  ".to_string()), sep_space: true, ..Default::default() };
    let mut text = Vec::new();
    match write::write(&mut text, &style, 0, value) {
        Ok(()) => String::from_utf8_lossy(&text).into_owned(),
        // Memory takes everything.
        Err(_) => value.to_string(),
    }
}

fn syntax(code: &str, error: load::Error<&str>) -> Vec<String> {
    let expected = |expected: &str, found: &str| format!("expected {expected} at {}", place(code, found));
    match error {
        load::Error::Io(errors) => errors.into_iter().map(|(path, _)| format!("there is no module `{path}`")).collect(),
        load::Error::Lex(errors) => errors.into_iter().map(|(what, found)| expected(what.as_str(), found)).collect(),
        load::Error::Parse(errors) => errors.into_iter().map(|(what, found)| expected(what.as_str(), found)).collect(),
    }
}

/// Where in the filter `part`, which is a piece of it, is.
fn place(code: &str, part: &str) -> String {
    let at = load::span(code, part).start;
    match code.get(at..).unwrap_or("") {
        "" => "the end".into(),
        rest => {
            format!("character {}: `{}`", code[..at].chars().count() + 1, rest.chars().take(20).collect::<String>())
        }
    }
}

fn invalid(why: &[String]) -> ToolError {
    ToolError::new("invalid_filter", format!("`filter` is no valid jq: {}.", why.join("; ")))
}
