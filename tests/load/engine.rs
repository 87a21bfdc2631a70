//! One cold call inside a worker (context, workspace, store, limits,
//! instantiation, call, drop), beside the same component on bare wasmtime.
//!
//! Bare is what `wasmtime` and `wasmtime-wasi` do alone, twice: as they come,
//! and with the settings of a worker's engine but none of its limits, meters,
//! capped streams or file layer. The second is the floor.

use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use bulkhead_sandbox::ColdCalls;
use wasmtime::component::types::{ComponentFunc, ComponentItem};
use wasmtime::component::{
    Component, ComponentExportIndex, ComponentType, InstancePre, Lift, Linker, ResourceTable, Val,
};
use wasmtime::{Config, Enabled, Engine, InstanceAllocationStrategy, PoolingAllocationConfig, Store, StoreContextMut};
use wasmtime_wasi::{FsPerms, WasiCtx, WasiCtxView, WasiView};

/// Set in a child of this program: which component it calls until killed.
const CHILD: &str = "BENCH_COLD_CALLS";

const GUEST: &str = "bulkhead:tool/guest@0.1.0";

/// Component, arguments.
const TOOLS: [(&str, &str); 2] =
    [("fixtures/echo", r#"{"text":"hello"}"#), ("json_query", r#"{"filter":".a","input":"{\"a\":1}"}"#)];

/// Rounds of a measurement; the median counts, and rounds alternate, so that
/// the machine's moods meet all alike.
const ROUNDS: usize = 15;

/// Does the work of a child, if this process is one.
pub fn child() -> bool {
    let Some(tool) = std::env::var_os(CHILD) else { return false };
    let (name, arguments) = TOOLS.into_iter().find(|(name, _)| tool == *name).unwrap();
    let scratch = tempfile::tempdir().unwrap();
    let calls = ColdCalls::new(&component(name), Some(scratch.path()), scratch.path(), 64).unwrap();
    calls.run(2_000, arguments);
    println!("ready");
    let mut line = String::new();
    std::io::stdin().read_line(&mut line).unwrap();
    let (begun, span, mut count) = (Instant::now(), Duration::from_secs(2), 0_u32);
    while begun.elapsed() < span {
        calls.run(500, arguments);
        count += 500;
    }
    println!("{}", f64::from(count) / begun.elapsed().as_secs_f64());
    true
}

pub fn report() {
    println!("\n== a cold call inside a worker, one thread, µs (median of {ROUNDS} rounds)");
    for (name, arguments) in TOOLS {
        let component = component(name);
        let scratch = tempfile::tempdir().unwrap();
        let ours = ColdCalls::new(&component, Some(scratch.path()), scratch.path(), 64).unwrap();
        let plain = Bare::new(&component, scratch.path(), &Config::new());
        let tuned = Bare::new(&component, scratch.path(), &tuned());
        let mut times = [const { Vec::new() }; 3];
        for _ in 0..=ROUNDS {
            let mut time = |index: usize, calls: &dyn Fn()| {
                let begun = Instant::now();
                calls();
                times[index].push(begun.elapsed().as_secs_f64() * 1e6 / f64::from(PER_ROUND));
            };
            time(0, &|| ours.run(PER_ROUND, arguments));
            time(1, &|| plain.run(PER_ROUND, arguments));
            time(2, &|| tuned.run(PER_ROUND, arguments));
        }
        let [ours, plain, tuned] = times.map(|mut times: Vec<f64>| {
            // The first round warmed up.
            times.remove(0);
            times.sort_by(f64::total_cmp);
            times[times.len() / 2]
        });
        println!(
            "{name:<14} ours {ours:.1}; bare, tuned {tuned:.1}: {:.2}x; bare, as it comes {plain:.1}: {:.2}x",
            ours / tuned,
            ours / plain
        );
    }
    let (name, _) = TOOLS[0];
    let (one, two) = (workers(name, 1), workers(name, 2));
    println!("{name:<14} one worker process {one:.0} calls/s, two {two:.0}: {:.2}x", two / one);
}

const PER_ROUND: u32 = 2_000;

/// Calls a second of so many processes together.
fn workers(name: &str, count: usize) -> f64 {
    use std::io::{BufRead as _, BufReader, Write as _};
    let mut children: Vec<_> = (0..count)
        .map(|_| {
            let mut command = Command::new(std::env::current_exe().unwrap());
            let child = command.env(CHILD, name).stdin(Stdio::piped()).stdout(Stdio::piped()).spawn();
            let mut child = child.unwrap();
            let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
            assert_eq!(lines.next().unwrap().unwrap(), "ready");
            (child, lines)
        })
        .collect();
    for (child, _) in &mut children {
        child.stdin.take().unwrap().write_all(b"go\n").unwrap();
    }
    let rates = children.into_iter().map(|(mut child, mut lines)| {
        let rate: f64 = lines.next().unwrap().unwrap().parse().unwrap();
        assert!(child.wait().unwrap().success());
        rate
    });
    rates.sum()
}

fn component(name: &str) -> Vec<u8> {
    let path = format!("{}/../guest-tools/dist/{name}.wasm", env!("CARGO_MANIFEST_DIR"));
    std::fs::read(&path).unwrap_or_else(|error| panic!("{path}: {error}; run tools/build-guests"))
}

/// The settings of a worker's engine (`host/sandbox/src/engine.rs`).
fn tuned() -> Config {
    let mut pooling = PoolingAllocationConfig::new();
    pooling
        .total_component_instances(64)
        .total_core_instances(64 * 16)
        .total_memories(128)
        .total_tables(128)
        .total_stacks(64)
        .max_unused_warm_slots(1_024)
        .linear_memory_keep_resident(512 * 1024)
        .table_keep_resident(64 * 1024)
        .async_stack_keep_resident(64 * 1024)
        .pagemap_scan(Enabled::Auto);
    let mut config = Config::new();
    config
        .concurrency_support(false)
        .max_wasm_stack(512 * 1024)
        .async_stack_size(1024 * 1024)
        .async_stack_zeroing(true)
        .allocation_strategy(InstanceAllocationStrategy::Pooling(pooling));
    config
}

struct Host {
    wasi: WasiCtx,
    table: ResourceTable,
}

impl WasiView for Host {
    fn ctx(&mut self) -> WasiCtxView<'_> {
        WasiCtxView { ctx: &mut self.wasi, table: &mut self.table }
    }
}

#[derive(ComponentType, Lift)]
#[component(record)]
#[allow(dead_code, reason = "lifted and dropped")]
struct Blob {
    #[component(name = "media-type")]
    media_type: String,
    data: Vec<u8>,
}

#[derive(ComponentType, Lift)]
#[component(variant)]
#[allow(dead_code, reason = "lifted and dropped")]
enum Content {
    #[component(name = "text")]
    Text(String),
    #[component(name = "json")]
    Json(String),
    #[component(name = "blob")]
    Blob(Blob),
}

#[derive(ComponentType, Lift)]
#[component(record)]
#[allow(dead_code, reason = "lifted and dropped")]
struct ToolError {
    code: String,
    message: String,
    retryable: bool,
    details: Option<String>,
}

/// wasmtime with nothing around it.
struct Bare {
    pre: InstancePre<Host>,
    call: ComponentExportIndex,
    workspace: std::path::PathBuf,
    runtime: tokio::runtime::Runtime,
}

impl Bare {
    fn new(component: &[u8], workspace: &std::path::Path, config: &Config) -> Self {
        let engine = Engine::new(config).unwrap();
        let component = Component::new(&engine, component).unwrap();
        let mut linker = Linker::new(&engine);
        wasmtime_wasi::p2::add_to_linker_async(&mut linker).unwrap();
        for (name, item) in component.component_type().imports(&engine) {
            let ComponentItem::ComponentInstance(imported) = item.ty else { continue };
            if name.starts_with("bulkhead:") {
                for (function, item) in imported.exports(&engine) {
                    if let ComponentItem::ComponentFunc(_) = item.ty {
                        let unused = |_: StoreContextMut<'_, Host>, _: ComponentFunc, _: &[Val], _: &mut [Val]| {
                            wasmtime::bail!("these tools say nothing")
                        };
                        linker.instance(name).unwrap().func_new(function, unused).unwrap();
                    }
                }
            }
        }
        let guest = component.get_export_index(None, GUEST).unwrap();
        let call = component.get_export_index(Some(&guest), "call").unwrap();
        let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap();
        Self { pre: linker.instantiate_pre(&component).unwrap(), call, workspace: workspace.into(), runtime }
    }

    fn run(&self, count: u32, arguments: &str) {
        self.runtime.block_on(async {
            for _ in 0..count {
                self.call(arguments).await;
            }
        });
    }

    async fn call(&self, arguments: &str) {
        let mut wasi = WasiCtx::builder();
        wasi.allow_blocking_current_thread(true);
        wasi.preopened_dir(&self.workspace, "/", FsPerms::ReadWrite).unwrap();
        let host = Host { wasi: wasi.build(), table: ResourceTable::new() };
        let mut store = Store::new(self.pre.engine(), host);
        let instance = self.pre.instantiate_async(&mut store).await.unwrap();
        let call =
            instance.get_typed_func::<(&str,), (Result<Vec<Content>, ToolError>,)>(&mut store, self.call).unwrap();
        let (result,) = call.call_async(&mut store, (arguments,)).await.unwrap();
        assert!(result.is_ok());
    }
}
