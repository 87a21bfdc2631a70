//! A guest written by hand: the core module's text, laid out as the canonical
//! ABI wants it, and made a component of the world `tool`.

use std::fmt::Write;
use std::path::Path;

use anyhow::Result;
use wit_component::{ComponentEncoder, StringEncoding, embed_component_metadata};
use wit_parser::{Resolve, WorldId};

/// A component whose export has the name of the tool's interface and nothing of it.
pub const WRONG_EXPORT: &str = r#"(component
  (core module $m (func (export "f") (result i32) (i32.const 1)))
  (core instance $i (instantiate $m))
  (func $f (result u32) (canon lift (core func $i "f")))
  (instance $guest (export "describe" (func $f)))
  (export "bulkhead:tool/guest@0.1.0" (instance $guest)))"#;

/// Where the description record, and behind it what it points to, lies.
const DESCRIPTION: usize = 64;
const TEXTS: usize = 256;

/// The world, read from `wit/`.
pub struct Wit {
    resolve: Resolve,
    world: WorldId,
}

impl Wit {
    pub fn read(path: &Path) -> Result<Self> {
        let mut resolve = Resolve::default();
        let (package, _) = resolve.push_path(path)?;
        let world = resolve.select_world(&[package], Some("tool"))?;
        Ok(Wit { resolve, world })
    }

    /// A world of its own, from text.
    pub fn parse(text: &str, world: &str) -> Result<Self> {
        let mut resolve = Resolve::default();
        let package = resolve.push_str("world.wit", text)?;
        let world = resolve.select_world(&[package], Some(world))?;
        Ok(Wit { resolve, world })
    }

    /// Puts the world into a core module.
    pub fn embed(&self, module: &mut Vec<u8>) -> Result<()> {
        embed_component_metadata(module, &self.resolve, self.world, StringEncoding::UTF8)
    }
}

/// What is special about a guest. Without anything it is an honest tool that
/// takes no arguments and returns no parts.
pub struct Guest {
    pub name: &'static str,
    /// What it imports; imports come first.
    pub imports: String,
    /// More fields of the core module.
    pub declarations: String,
    /// What the call does before it returns.
    pub call: String,
    /// The size of its memory.
    pub pages: u32,
    /// What it does before it gives memory to the host.
    pub realloc: String,
    /// Its schema.
    pub schema: String,
    /// How long it says its name is; none: the truth.
    pub name_length: Option<u32>,
}

impl Guest {
    pub fn named(name: &'static str) -> Self {
        Guest {
            name,
            imports: String::new(),
            declarations: String::new(),
            call: String::new(),
            pages: 2,
            realloc: String::new(),
            schema: r#"{"type": "object"}"#.into(),
            name_length: None,
        }
    }

    /// The core module, with its world in a section.
    pub fn core(&self, wit: &Wit) -> Result<Vec<u8>> {
        let mut module = wat::parse_str(self.module())?;
        wit.embed(&mut module)?;
        Ok(module)
    }

    /// The component.
    pub fn encode(&self, wit: &Wit) -> Result<Vec<u8>> {
        let module = self.core(wit)?;
        // Not validated: some are invalid on purpose, in a host's eyes.
        ComponentEncoder::default().validate(false).module(&module)?.encode()
    }

    /// The call's result lies at 0: a byte that says `ok` and, at 4, an empty
    /// list. Memory for what the host passes in is taken from the second page on.
    fn module(&self) -> String {
        let Guest { imports, declarations, call, pages, realloc, .. } = self;
        format!(
            r#"(module
              {imports}
              (memory (export "memory") {pages})
              (global $next (mut i32) (i32.const 65536))
              {data}
              {declarations}
              (func (export "cabi_realloc") (param i32 i32 i32 i32) (result i32)
                (local $given i32)
                {realloc}
                (local.set $given (i32.and (i32.add (global.get $next) (i32.const 15)) (i32.const -16)))
                (global.set $next (i32.add (local.get $given) (local.get 3)))
                (local.get $given))
              (func (export "bulkhead:tool/guest@0.1.0#describe") (result i32) (i32.const {DESCRIPTION}))
              (func (export "bulkhead:tool/guest@0.1.0#call") (param i32 i32) (result i32) {call} (i32.const 0)))"#,
            data = self.data()
        )
    }

    /// The description record: four texts, an optional one, a list, a flag.
    fn data(&self) -> String {
        let texts = [self.name, "0.1.0", "Attacks the host, for its tests. Never offer this to anybody.", &self.schema];
        let mut record = String::new();
        let mut at = TEXTS;
        for text in texts {
            let length = self.name_length.filter(|_| record.is_empty()).unwrap_or(text.len() as u32);
            record += &words(&[at as u32, length]);
            at += text.len();
        }
        record += &words(&[0; 6]);
        let all: String = texts.concat().bytes().map(|byte| format!("\\{byte:02x}")).collect();
        format!("(data (i32.const {DESCRIPTION}) \"{record}\") (data (i32.const {TEXTS}) \"{all}\")")
    }
}

fn words(words: &[u32]) -> String {
    words.iter().flat_map(|word| word.to_le_bytes()).fold(String::new(), |mut text, byte| {
        let _ = write!(text, "\\{byte:02x}");
        text
    })
}
