//! How much there is of everything in a component or core module, before a
//! compiler is asked to make something of it.

use wasmparser::{ComponentExternalKind, Encoding, FunctionBody, Instance, Operator, Parser, Payload};

use super::Problem;
use super::inspect::{Inspection, invalid};
use crate::bounds;

impl Inspection {
    pub(super) fn count(&mut self, bytes: &[u8]) -> Result<(), Problem> {
        // Depth of what is being read: 1 is the component itself.
        let mut depth = 0;
        for payload in Parser::new(0).parse_all(bytes) {
            let payload = payload.map_err(|error| invalid(&error))?;
            match &payload {
                Payload::Version { .. } => depth += 1,
                Payload::End(_) => depth -= 1,
                _ => {}
            }
            if depth > bounds::MAX_NESTING {
                return Err(too_complex("it is nested more deeply", "levels", depth, bounds::MAX_NESTING));
            }
            self.count_payload(payload, depth).map_err(|error| invalid(&error))?;
            // Before the whole is read: a list of a million costs nothing to write.
            self.check_counts()?;
        }
        Ok(())
    }

    fn count_payload(&mut self, payload: Payload<'_>, depth: u32) -> wasmparser::Result<()> {
        match payload {
            Payload::Version { encoding: Encoding::Module, .. } => self.modules += 1,
            Payload::FunctionSection(section) => self.functions = self.functions.saturating_add(section.count()),
            Payload::MemorySection(section) => self.memories = self.memories.saturating_add(section.count()),
            Payload::TableSection(section) => self.tables = self.tables.saturating_add(section.count()),
            Payload::CodeSectionEntry(body) => {
                let size = u32::try_from(body.range().len()).unwrap_or(u32::MAX);
                self.largest_function = self.largest_function.max(size);
                if size <= bounds::MAX_FUNCTION_BODY {
                    let (blocks, loops) = depths(&body)?;
                    self.deepest_blocks = self.deepest_blocks.max(blocks);
                    self.deepest_loops = self.deepest_loops.max(loops);
                }
            }
            Payload::InstanceSection(section) => {
                for instance in section {
                    if let Instance::Instantiate { .. } = instance? {
                        self.core_instances = self.core_instances.saturating_add(1);
                        self.inner_core_instances += u32::from(depth > 1);
                    }
                }
            }
            Payload::ComponentImportSection(section) if depth == 1 => {
                for import in section.into_iter().take(bounds::MAX_EXTERNS as usize + 1) {
                    self.imports.push(kept(import?.name.name));
                }
            }
            Payload::ComponentExportSection(section) if depth == 1 => {
                for export in section.into_iter().take(bounds::MAX_EXTERNS as usize + 1) {
                    let export = export?;
                    if export.kind == ComponentExternalKind::Instance {
                        self.exports.push(kept(export.name.name));
                    }
                }
            }
            _ => {}
        }
        Ok(())
    }

    pub(super) fn check_counts(&self) -> Result<(), Problem> {
        let long = |name: &&String| name.len() > bounds::MAX_EXTERN_NAME;
        if let Some(name) = self.imports.iter().chain(&self.exports).find(long) {
            let number = |size: usize| u32::try_from(size).unwrap_or(u32::MAX);
            let (size, most) = (number(name.len()), number(bounds::MAX_EXTERN_NAME));
            return Err(too_complex("one of its imports or exports has a longer name", "bytes", size, most));
        }
        let externs = |names: &[String]| u32::try_from(names.len()).unwrap_or(u32::MAX);
        let counts = [
            ("it has more functions", "functions", self.functions, bounds::MAX_FUNCTIONS),
            ("one of its functions is larger", "bytes", self.largest_function, bounds::MAX_FUNCTION_BODY),
            ("blocks of one function lie deeper in each other", "blocks", self.deepest_blocks, bounds::MAX_BLOCKS),
            ("loops of one function lie deeper in each other", "loops", self.deepest_loops, bounds::MAX_LOOPS),
            ("it makes more core instances", "core instances", self.core_instances, bounds::MAX_CORE_INSTANCES),
            ("it has more memories", "memories", self.memories, bounds::MAX_MEMORIES),
            ("it has more tables", "tables", self.tables, bounds::MAX_TABLES),
            ("it has more imports", "imports", externs(&self.imports), bounds::MAX_EXTERNS),
            ("it has more exports", "exports", externs(&self.exports), bounds::MAX_EXTERNS),
        ];
        match counts.into_iter().find(|(_, _, count, max)| count > max) {
            Some((what, unit, count, max)) => Err(too_complex(what, unit, count, max)),
            None => Ok(()),
        }
    }
}

/// How deep blocks lie within each other, and loops among them. Not read further
/// than shows that it is too deep.
fn depths(body: &FunctionBody<'_>) -> wasmparser::Result<(u32, u32)> {
    let mut operators = body.get_operators_reader()?;
    // What is open, and whether it is a loop.
    let mut open = Vec::new();
    let (mut loops, mut most_blocks, mut most_loops) = (0_u32, 0_u32, 0);
    while !operators.eof() && most_blocks <= bounds::MAX_BLOCKS && most_loops <= bounds::MAX_LOOPS {
        let is_loop = match operators.read()? {
            Operator::Loop { .. } => true,
            // What is switched off and opens one is refused by the validator.
            Operator::Block { .. } | Operator::If { .. } => false,
            Operator::End => {
                loops -= u32::from(open.pop() == Some(true));
                continue;
            }
            _ => continue,
        };
        open.push(is_loop);
        loops += u32::from(is_loop);
        most_loops = most_loops.max(loops);
        most_blocks = most_blocks.max(u32::try_from(open.len()).unwrap_or(u32::MAX));
    }
    Ok((most_blocks, most_loops))
}

/// A name, or as much of it as shows that it is too long.
pub(super) fn kept(name: &str) -> String {
    name[..name.ceil_char_boundary(bounds::MAX_EXTERN_NAME + 1)].to_owned()
}

/// Names the limit, what there is as far as it was counted, and what to do.
pub(super) fn too_complex(what: &str, unit: &str, count: u32, max: u32) -> Problem {
    let text = format!(
        "the component is too complex: {what} than the {max} {unit} allowed (at least {count}); build it for size, or split \
         it: functions into smaller ones, the tool into several"
    );
    Problem::new("too_complex", text)
}
