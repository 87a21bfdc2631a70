//! The sandbox as the command line uses it: built for one command, with the
//! cache of compiled components of this user.

use std::ffi::OsString;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;

use bulkhead_core::ports::sandbox::Sandbox as _;
use bulkhead_core::ports::workspace::{Domains, OneDomain};
use bulkhead_sandbox::{WasmConfig, WasmSandbox};
use bytes::Bytes;

use super::exit::{Exit, Failure};
use crate::app::StartError;
use crate::builtin;
use crate::config::{Config, Loaded, Origin};

/// This process is a worker.
pub(super) fn worker() -> ExitCode {
    bulkhead_sandbox::worker_main()
}

/// This process is a compiler.
pub(super) fn compile(args: impl Iterator<Item = OsString>) -> ExitCode {
    let args: Vec<String> = args.map(|arg| arg.to_string_lossy().into_owned()).collect();
    bulkhead_sandbox::compile_main(&args)
}

/// Does `work` with a sandbox whose workers reach `domain`, and takes the sandbox down afterwards.
pub(super) fn with<T>(
    loaded: &Loaded,
    domain: Option<Arc<OwnedFd>>,
    work: impl AsyncFnOnce(&WasmSandbox) -> Result<T, Failure>,
) -> Result<T, Failure> {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build();
    let runtime = runtime.map_err(|error| Failure::host(&error))?;
    runtime.block_on(async {
        let exe = std::env::current_exe().map_err(|error| Failure::host(&error))?;
        let cache = cache(loaded);
        // One call at once, so one small worker.
        let config = WasmConfig {
            workers_per_tenant: 1,
            calls_per_worker: 1,
            waiting_workers: 0,
            domains: domain.map(|domain| Arc::new(OneDomain(domain)) as Arc<dyn Domains>),
            ..loaded.config.wasm(exe, cache.clone())
        };
        let sandbox = WasmSandbox::new(config).map_err(|error| {
            Failure::new(Exit::Host, format!("the cache {} can't be used: {error}", cache.display()))
        })?;
        sandbox.check_walls().await.map_err(|error| Failure::host(&StartError::Walls(error)))?;
        let done = work(&sandbox).await;
        sandbox.shutdown().await;
        done
    })
}

/// Where compiled components are kept: with the data, if somebody said where
/// that is; else in this user's cache, since nobody wants a data directory
/// wherever a tool is tried.
fn cache(loaded: &Loaded) -> PathBuf {
    let config: &Config = &loaded.config;
    if *loaded.origin("data") != Origin::Default {
        return config.artifacts();
    }
    let absolute = |name: &str| std::env::var_os(name).map(PathBuf::from).filter(|path| path.is_absolute());
    let user = absolute("XDG_CACHE_HOME").or_else(|| absolute("HOME").map(|home| home.join(".cache")));
    user.map_or_else(|| config.artifacts(), |cache| cache.join("bulkhead/artifacts"))
}

/// The component that a person named: a file, or a built-in tool.
pub(super) fn component(named: &str, config: &Config) -> Result<Bytes, Failure> {
    if !named.contains('/') && !named.ends_with(".wasm") {
        return match builtin::find(named) {
            Some(builtin) => builtin.component().map_err(|error| Failure::new(Exit::Host, error.to_string())),
            None => Err(unknown(named)),
        };
    }
    file(Path::new(named), config.tools.max_component_bytes)
}

/// A component's file.
pub(super) fn file(path: &Path, max: u64) -> Result<Bytes, Failure> {
    use std::io::Read as _;
    let mut bytes = Vec::new();
    let read = std::fs::File::open(path).and_then(|file| file.take(max + 1).read_to_end(&mut bytes));
    read.map_err(|error| Failure::new(Exit::NoInput, format!("{} can't be read: {error}", path.display())))?;
    if bytes.len() as u64 > max {
        let text = format!("{} is larger than {max} bytes (`tools.max_component_bytes`)", path.display());
        return Err(Failure::new(Exit::NoInput, text));
    }
    Ok(bytes.into())
}

fn unknown(named: &str) -> Failure {
    let names: Vec<&str> = builtin::all().iter().map(|builtin| builtin.name).collect();
    let near = names.iter().min_by_key(|name| crate::config::keys::distance(named, name));
    let hint = near.filter(|name| crate::config::keys::distance(named, name) <= 1 + named.len() / 4);
    let hint = hint.map(|name| format!("; did you mean `{name}`?")).unwrap_or_default();
    Failure::usage(format!(
        "there is no built-in tool `{named}`{hint}\nbuilt in are: {}\na component is named by its path: ./{named}.wasm",
        names.join(", ")
    ))
}
