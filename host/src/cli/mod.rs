//! The command line. A command translates: flags to configuration, one use
//! case or port, the answer to text or JSON. Output goes through [`output`],
//! the end of every command through [`exit`].
//!
//! The children (`worker`, `compile`, `import`) are dispatched before anything
//! else: they put up their walls while the process is one thread, and must not
//! read the environment or arguments of a person.

mod args;
mod arguments;
mod audit;
mod client;
mod config;
mod doctor;
mod exit;
mod inspect;
mod keys;
mod output;
mod policy;
mod run;
mod sandbox;
mod serve;
mod tools;
mod trace;
mod units;
mod volumes;

use std::ffi::OsString;
use std::process::ExitCode;

use clap::Parser as _;

use self::args::{Arguments, Command};
use self::exit::{Exit, Failure};
use self::output::Output;

/// Parses the command line and does what it says.
pub fn main() -> ExitCode {
    if let Some(code) = child() {
        return code;
    }
    #[cfg(feature = "probe")]
    steps_as_asked();
    let arguments = match Arguments::try_parse() {
        Ok(arguments) => arguments,
        // Help and version are printed the same way, and are no failure.
        Err(error) => {
            let exit = if error.use_stderr() { Exit::Usage } else { Exit::Ok };
            // If nobody reads it, nobody needs to be told.
            let _ = error.print();
            return exit.into();
        }
    };
    let output = Output::new(arguments.global.json);
    match command(arguments, &output) {
        Ok(exit) => exit.into(),
        Err(failure) => {
            output.failure(&failure);
            failure.exit.into()
        }
    }
}

/// For tests: `END_AT_STEP=call.accepted:2` ends this process as that step
/// ([`bulkhead_core::steps`]) is reached for the third time, and
/// `STAY_AT_STEP=call.accepted:500` makes each who reaches it stay there for so many
/// milliseconds.
#[cfg(feature = "probe")]
fn steps_as_asked() {
    let asked = |name| {
        let asked = std::env::var(name).ok()?;
        let (step, number) = asked.split_once(':').unwrap_or((&asked, "0"));
        Some((step.to_owned(), number.parse::<i64>().unwrap_or(0)))
    };
    let end = asked("END_AT_STEP").map(|(step, passed)| {
        let left = std::sync::atomic::AtomicI64::new(passed);
        fail::cfg_callback(step, move || {
            if left.fetch_sub(1, std::sync::atomic::Ordering::Relaxed) <= 0 {
                // As sudden as `kill -9`: nothing is unwound, flushed or told.
                std::process::abort();
            }
        })
    });
    let stay = asked("STAY_AT_STEP").map(|(step, millis)| fail::cfg(step, &format!("sleep({millis})")));
    for error in [end, stay].into_iter().flatten().filter_map(Result::err) {
        tracing::error!(error, "a step to end or to stay at can't be set");
    }
}

/// Runs this process as one of the server's children, if it was started as one.
fn child() -> Option<ExitCode> {
    let mut args = std::env::args_os().skip(1);
    let rest = match args.next()?.to_str()? {
        "worker" => return Some(sandbox::worker()),
        "compile" => return Some(sandbox::compile(args)),
        "import" => args.collect::<Vec<OsString>>(),
        _ => return None,
    };
    if bulkhead_sandbox::close_inherited().is_err() {
        return Some(ExitCode::FAILURE);
    }
    Some(bulkhead_workspace::import::import_main(rest))
}

fn command(arguments: Arguments, output: &Output) -> Result<Exit, Failure> {
    let Arguments { global, command } = arguments;
    match command {
        Command::Serve => serve::serve(global.load()?),
        Command::Run(run) => run::run(global.load()?, run, output),
        Command::Tools(tools) => tools::tools(&global, tools, output),
        Command::Volumes(volumes) => volumes::volumes(volumes, output),
        Command::Keys(keys) => keys::keys(global.load()?, keys, output),
        Command::Audit(command) => audit::audit(global.load()?, command, output),
        Command::Policy(command) => policy::policy(&global, command, output),
        Command::Config(command) => config::config(&global, command, output),
        Command::Doctor => doctor::doctor(&global, output),
    }
}
