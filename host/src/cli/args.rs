//! What may be written on the command line.

use std::path::PathBuf;

use bulkhead_core::id::{TenantId, UserId};
use bulkhead_core::key::KeyId;
use bulkhead_core::principal::Scopes;
use clap::{Args, Parser, Subcommand};

use super::exit::{CODES, Exit, Failure};
use super::units;
use crate::audit::PublicKey;
use crate::config::{Flag, Loaded, Sources, load};

/// Runs tools in a WebAssembly sandbox.
#[derive(Debug, Parser)]
#[command(name = "bulkhead", version, about, after_help = CODES, max_term_width = 100)]
pub(super) struct Arguments {
    #[command(flatten)]
    pub(super) global: Global,
    #[command(subcommand)]
    pub(super) command: Command,
}

/// What every command takes.
#[derive(Debug, Args)]
pub(super) struct Global {
    /// Print one JSON document instead of text
    #[arg(long, global = true)]
    pub(super) json: bool,
    /// The configuration's file [default: bulkhead.toml, if it is there]
    #[arg(long, global = true, env = "BULKHEAD_CONFIG", value_name = "FILE", help_heading = "Configuration")]
    config: Option<PathBuf>,
    /// Directory of everything that lasts
    #[arg(long, global = true, value_name = "DIR", help_heading = "Configuration")]
    data: Option<String>,
    /// Address and port of the server
    #[arg(long, global = true, value_name = "ADDRESS", help_heading = "Configuration")]
    listen: Option<String>,
    /// Which log lines are written: a level, or `info,bulkhead=debug`
    #[arg(long, global = true, value_name = "FILTER", help_heading = "Configuration")]
    log: Option<String>,
    /// Any key of the configuration: `--set limits.wall_time_ms=5000`
    #[arg(long, global = true, value_name = "KEY=VALUE", value_parser = pair, help_heading = "Configuration")]
    set: Vec<(String, String)>,
}

impl Global {
    /// The configuration.
    pub(super) fn load(&self) -> Result<Loaded, Failure> {
        let mut flags: Vec<Flag> = self
            .set
            .iter()
            .map(|(key, value)| Flag { flag: "--set", key: key.clone(), value: value.clone() })
            .collect();
        for (flag, key, value) in
            [("--data", "data", &self.data), ("--listen", "listen", &self.listen), ("--log", "log.level", &self.log)]
        {
            flags.extend(value.iter().map(|value| Flag { flag, key: key.into(), value: value.clone() }));
        }
        let sources = Sources { file: self.config.clone(), variables: std::env::vars_os().collect(), flags };
        load(&sources).map_err(|error| Failure::new(Exit::Config, error))
    }
}

/// What to do.
#[derive(Debug, Subcommand)]
pub(super) enum Command {
    /// Run the server
    Serve,
    /// Run one call of a tool here, without a server
    Run(Run),
    /// List, inspect and register tools
    #[command(subcommand)]
    Tools(Tools),
    /// List where workspaces of several hosts lie, and give up what is lost for good
    #[command(subcommand)]
    Volumes(Volumes),
    /// Make, list, rotate and revoke API keys, in the data directory of this machine
    #[command(subcommand)]
    Keys(Keys),
    /// Check the audit log, and sign where it ends
    #[command(subcommand)]
    Audit(Audit),
    /// Check and convert policies, and say why a tool gets what it gets
    #[command(subcommand)]
    Policy(Policy),
    /// Show the configuration
    #[command(subcommand)]
    Config(Config),
    /// Say what this machine offers, and what is missing
    Doctor,
}

/// `run`.
#[derive(Debug, Args)]
pub(super) struct Run {
    /// A component's file, or the name of a built-in tool
    pub(super) tool: String,
    /// The directory that the tool sees as `/`; without it, it sees none
    #[arg(long, short, value_name = "DIR")]
    pub(super) workspace: Option<PathBuf>,
    /// The tool may not change the workspace
    #[arg(long, requires = "workspace")]
    pub(super) read_only: bool,
    /// An argument, read as the tool's schema says: text as it is, all else as JSON
    #[arg(long = "arg", short, value_name = "NAME=VALUE", value_parser = pair)]
    pub(super) arguments: Vec<(String, String)>,
    /// All arguments as one JSON object, `-` to read it from standard input; --arg adds to it
    #[arg(long, value_name = "JSON")]
    pub(super) args_json: Option<String>,
    /// Wall time: 500ms, 30s, 5m [default: limits.wall_time_ms]
    #[arg(long, value_parser = units::duration, value_name = "TIME")]
    pub(super) timeout: Option<std::time::Duration>,
    /// Memory: 64MiB [default: limits.memory_bytes]
    #[arg(long, value_parser = units::bytes, value_name = "SIZE")]
    pub(super) memory: Option<u64>,
}

/// `tools`.
#[derive(Debug, Subcommand)]
pub(super) enum Tools {
    /// List the tools of a running server
    List {
        #[command(flatten)]
        server: Server,
        /// List the built-in tools instead, without a server
        #[arg(long)]
        builtin: bool,
    },
    /// Say what a component is, and what is missing if it can't be a tool
    Inspect {
        /// The component's file, or the name of a built-in tool
        file: String,
    },
    /// Register a component with a running server, and wait until it is ready
    Register {
        #[command(flatten)]
        server: Server,
        /// The component's file
        file: PathBuf,
        /// Register it for every tenant; needs the scope operator:tools
        #[arg(long)]
        operator: bool,
    },
}

/// `volumes`. The key needs the scope operator:admin.
#[derive(Debug, Subcommand)]
pub(super) enum Volumes {
    /// List the volumes, the hosts that reach them, and how many tasks lie there
    List {
        #[command(flatten)]
        server: Server,
    },
    /// Give up a volume whose hosts never come back: its tasks can be deleted then
    Retire {
        #[command(flatten)]
        server: Server,
        /// The volume, as `volumes list` shows it
        volume: String,
        /// Why: it is on record
        #[arg(long)]
        reason: String,
    },
}

/// The server of the client commands.
#[derive(Args)]
pub(super) struct Server {
    /// The server
    #[arg(long, env = "BULKHEAD_URL", default_value = "http://127.0.0.1:7300")]
    pub(super) url: String,
    /// Taken from the environment only: what is on a command line, every process may read.
    #[arg(skip = std::env::var("BULKHEAD_KEY").ok())]
    pub(super) key: Option<String>,
}

impl std::fmt::Debug for Server {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Server").field("url", &self.url).finish_non_exhaustive()
    }
}

/// `keys`.
#[derive(Debug, Subcommand)]
pub(super) enum Keys {
    /// Make a key and print it, once
    Create {
        /// A name for people
        #[arg(long, default_value = "")]
        label: String,
        /// What it may do, separated by spaces [default: all but admin, operator:admin and operator:tools]
        #[arg(long, value_parser = scopes)]
        scopes: Option<Scopes>,
        /// After how long it is refused: 30d [default: never]
        #[arg(long, value_parser = units::duration, value_name = "TIME")]
        expires_in: Option<std::time::Duration>,
        /// Whose it is [default: the first tenant, made if there is none]
        #[arg(long, requires = "user")]
        tenant: Option<TenantId>,
        /// The tenant's user
        #[arg(long, requires = "tenant")]
        user: Option<UserId>,
    },
    /// List all keys
    List,
    /// Make a key in the place of another, which works a while longer
    Rotate {
        /// The id of the old key, as `keys list` shows it
        #[arg(value_parser = key_id)]
        id: KeyId,
        /// How long the old key works besides: 24h
        #[arg(long, value_parser = units::duration, value_name = "TIME")]
        overlap: Option<std::time::Duration>,
        /// After how long the new one is refused [default: as long as the old one was made for]
        #[arg(long, value_parser = units::duration, value_name = "TIME")]
        expires_in: Option<std::time::Duration>,
    },
    /// Revoke a key; a running server refuses it within seconds
    Revoke {
        /// The id, as `keys list` shows it: the part between the two `_` of the key
        #[arg(value_parser = key_id)]
        id: KeyId,
    },
}

/// `audit`.
#[derive(Debug, Subcommand)]
pub(super) enum Audit {
    /// Say whether the audit log is whole: no record changed, removed, added or cut off
    Verify {
        /// Signed heads that it is compared with: a file, or a directory of them [default: audit.export_dir]
        #[arg(long = "head", value_name = "FILE")]
        heads: Vec<PathBuf>,
        /// Whose signatures are trusted [default: the key of audit.key_file]
        #[arg(long = "key", value_name = "PUBLIC")]
        keys: Vec<PublicKey>,
        /// How long records were kept at least, if that was less than it is now [default: keep.audit_hours]
        #[arg(long, value_name = "HOURS", value_parser = clap::value_parser!(u64).range(0..=87_600))]
        kept_hours: Option<u64>,
    },
    /// Print the heads of all chains now, signed, as one line
    Export,
}

/// `policy`.
#[derive(Debug, Subcommand)]
pub(super) enum Policy {
    /// Say whether a policy can be used, and what is wrong if it can't
    Check {
        /// The policy's file
        file: PathBuf,
    },
    /// Say which rule decides what of a tool's wishes in a task
    Explain {
        #[command(flatten)]
        server: Server,
        /// The tool's name in the task
        tool: String,
        /// The task
        task: String,
    },
    /// Print the smallest policy that allows what a task's tools were refused, or what was only written down
    Propose {
        #[command(flatten)]
        server: Server,
        /// The task
        task: String,
    },
    /// Print a policy that was in force once, from the data directory of this machine
    Show {
        /// The revision, as calls and audit records name it
        revision: String,
    },
    /// Print a policy file of Wassette (policy.yaml) as a policy of this host
    Convert {
        /// The file
        file: PathBuf,
        /// A tool that it is for
        #[arg(long = "tool", required = true, value_name = "NAME")]
        tools: Vec<String>,
    },
}

/// `config`.
#[derive(Clone, Copy, Debug, Subcommand)]
pub(super) enum Config {
    /// Print every value and where it comes from
    Show,
    /// Print the reference of all keys, as Markdown
    Docs,
}

/// `name=value`.
fn pair(text: &str) -> Result<(String, String), String> {
    let (name, value) = text.split_once('=').ok_or("write NAME=VALUE")?;
    if name.is_empty() { Err("the name is empty".into()) } else { Ok((name.into(), value.into())) }
}

fn key_id(text: &str) -> Result<KeyId, &'static str> {
    KeyId::parse(text).map_err(|_| "expected the 12 characters after `bh_`")
}

/// Scopes, separated by spaces or commas.
fn scopes(text: &str) -> Result<Scopes, String> {
    let scopes: Scopes =
        text.replace(',', " ").parse().map_err(|error: bulkhead_core::principal::UnknownScope| error.to_string())?;
    if scopes == Scopes::default() { Err(format!("name at least one of: {}", Scopes::all())) } else { Ok(scopes) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use bulkhead_core::principal::Scope;
    use clap::CommandFactory as _;

    #[test]
    fn the_command_line_is_consistent() {
        Arguments::command().debug_assert();
    }

    #[test]
    fn flags_stand_anywhere_and_pairs_are_split_once() {
        let line = [
            "bulkhead",
            "--data",
            "/srv/b",
            "run",
            "t",
            "--arg",
            "a=b=c",
            "--json",
            "--timeout",
            "5s",
            "--set",
            "tools.builtin=false",
        ];
        let Arguments { global, command } = Arguments::try_parse_from(line).expect("fits");
        assert!(global.json);
        assert_eq!(global.data.as_deref(), Some("/srv/b"));
        assert_eq!(global.set, [("tools.builtin".to_owned(), "false".to_owned())]);
        let Command::Run(run) = command else { panic!("not run") };
        assert_eq!(run.arguments, [("a".to_owned(), "b=c".to_owned())]);
        assert_eq!(run.timeout, Some(std::time::Duration::from_secs(5)));
        for wrong in
            [&["bulkhead", "run"][..], &["bulkhead", "run", "t", "--arg", "x"], &["bulkhead", "keys", "revoke", "x"]]
        {
            let error = Arguments::try_parse_from(wrong).expect_err("is wrong");
            assert!(error.use_stderr(), "{wrong:?}");
        }
    }

    #[test]
    fn scopes_are_checked() {
        assert!(scopes("tasks:read, calls:run").expect("known").contains(Scope::CallsRun));
        assert!(scopes("").is_err());
        assert!(scopes("root").expect_err("unknown").contains("tasks:read"));
    }
}
