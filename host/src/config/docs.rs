//! The reference of the configuration, made from the table of keys.

use std::fmt::Write as _;

use serde_json::Value;

use bulkhead_core::limits::{LimitSpec, Limits};
use bulkhead_core::reached::{FIXED, SERVER, STACK, ServerLimit, words};

use super::Config;
use super::keys::{Key, Kind};

const HEAD: &str = "\
# Configuration

<!-- Made by `bulkhead config docs`; a test keeps it so. Edit host/src/config/. -->

Every key may be set in four places. In rising order:

1. its default;
2. the file: `--config FILE`, else the one that `BULKHEAD_CONFIG` names, else `bulkhead.toml` in the working directory, if it is there;
3. its environment variable: `BULKHEAD_` and the key in capitals, `__` between section and key; lists are separated by commas;
4. a flag: `--data`, `--listen`, `--log`, or `--set KEY=VALUE` for any key.

What names no key is an error, in the file and in the environment. `bulkhead config show` prints every value with where it comes from.
There are no secrets in the keys. The configuration is read once, at the start.

`DATABASE_URL`, a variable alone because it may have a password in it, says where the store is: `postgres://USER:PASSWORD@HOST:5432/DATABASE?sslmode=verify-full` for PostgreSQL (see [OPERATIONS.md](OPERATIONS.md)); without it, or with `sqlite:`, it is the file `bulkhead.sqlite` in `data`. It is shown without the password.

Other variables that are not keys: `BULKHEAD_CONFIG` (the file), `BULKHEAD_LOG` (sets `log.level`, as `--log` does), `BULKHEAD_URL` and `BULKHEAD_KEY` (server and API key of the client commands), `BULKHEAD_WITHOUT_GUESTS` (when building). Those that Kubernetes sets for a service called `bulkhead` are ignored.
";

/// What stands below the heading of a section.
fn about(section: &str) -> &'static str {
    match section {
        "" => "Keys at the top of the file.",
        "http" => "The HTTP server.",
        "limits" => {
            "What one call may use: the ceiling of every task, which a task and a call may narrow, never widen."
        }
        "dispatch" => "How many calls run and wait, and how their output is stored.",
        "workers" => "The worker processes, which run the guests. A worker belongs to one tenant.",
        "tools" => "What may be registered, and what compiling it may cost.",
        "import" => "Filling new workspaces from git and archives.",
        "quota" => {
            "What one user may hold, and one tenant. Reached, clients get 507 `workspace_full` or 422 `over_limit`, and tools an error; \
             see the table of `[limits]`."
        }
        "rate" => {
            "How often principals may do what, evenly over a minute (GCRA). Refused is 429 `rate_limited`; `RateLimit` and \
             `RateLimit-Policy` say where a client stands. Cancelling and health are never counted."
        }
        "policy" => "What tools may use beyond computing; see [POLICY.md](POLICY.md).",
        "egress" => "The network, for tools that are granted HTTP. What they may do with it is the policy's.",
        "store" => "The database: SQLite, or PostgreSQL if `DATABASE_URL` says so.",
        "cluster" => {
            "Several hosts on one PostgreSQL database; see [OPERATIONS.md](OPERATIONS.md). Of no use with SQLite."
        }
        "redis" => {
            "Redis between several hosts, if `REDIS_URL` names one: an accelerator, see [OPERATIONS.md](OPERATIONS.md)."
        }
        "keep" => "How long things are kept.",
        "access" => {
            "What the door in front of owned things does, rule by rule: `enforce`, or for a migration `audit`: then what \
             the rule would refuse is let through, written to the audit log (`access.would_refuse`, at most once a minute for \
             a principal and operation), counted (`bulkhead_access_would_refuse`) and warned of at the start."
        }
        "tokens" => {
            "Tokens of issuers elsewhere (OAuth 2.0, OpenID Connect), beside API keys: whoever shows `Authorization: Bearer \
             <JWT>` is a user whose ids are derived from what the issuer says."
        }
        "audit" => {
            "The audit log: its heads, signed and exported, and refusals. `keep.audit_hours` says for how long it is kept."
        }
        "log" => "The log, on standard error.",
        "experimental" => {
            "What is not safe to have on unless it is wanted: off by default, and it may change with any release."
        }
        _ => "",
    }
}

/// The whole reference, as Markdown.
pub fn render() -> String {
    let mut text = String::from(HEAD);
    let mut section = None;
    for (key, default) in Config::default().values() {
        if section != Some(key.section) {
            section = Some(key.section);
            let title = if key.section.is_empty() { "Top".into() } else { format!("`[{}]`", key.section) };
            // Writing to a String can't fail, here and below.
            let _ = write!(text, "\n## {title}\n\n{}\n", about(key.section));
            if key.section == "limits" {
                text.push_str(&limits());
            }
        }
        let _ = write!(text, "\n### `{}`\n\n{}\n\n{}\n", key.name(), key.doc.trim(), facts(&key, &default));
        if key.kind == Kind::Issuers {
            text.push_str(ISSUERS);
        }
    }
    text
}

/// What stands in a table of `tokens.issuers`.
const ISSUERS: &str = "
```toml
[[tokens.issuers]]
issuer = \"https://login.example.com\"   # `iss`, letter by letter
audience = \"https://tools.example.com\" # what `aud` must hold
algorithms = [\"RS256\"]                # pinned
tenant_claim = \"org_id\"               # or tenant = \"ten_…\" for all its users
scopes = { \"tools.use\" = [\"tasks:read\", \"tasks:write\", \"calls:run\"] }
ceiling = [\"tasks:read\", \"tasks:write\", \"calls:run\"]
```

| field | for | default |
|---|---|---|
| `issuer` | `iss` of its tokens, letter by letter | |
| `audience` | what `aud` of tokens for this server holds | |
| `algorithms` | those it signs with, of RS256, RS384, RS512, PS256, PS384, PS512, ES256, ES384, EdDSA; `none` and HS* are refused | |
| `jwks_url` | where its keys are; https, or http on a loopback address | `jwks_uri` of `<issuer>/.well-known/openid-configuration` |
| `jwks_file` | a file with its keys, instead | |
| `leeway_s` | how far clocks may differ, up to 300 s | `30` |
| `tenant` | the tenant of all its users | one of the two is needed |
| `tenant_claim` | the claim that names a user's tenant; each name of each issuer is a tenant of its own | |
| `scope_claim` | the claim with scopes: a text with spaces, or a list | `scope`, else `scp` |
| `scopes` | what the issuer's scopes mean here | what they are called |
| `ceiling` | what its tokens may do at most; `admin` and `operator:…` only if they stand here | all but those |
";

fn facts(key: &Key, default: &Value) -> String {
    let takes = match key.kind {
        Kind::OptionalPath => "a path, relative to the working directory, or nothing".into(),
        Kind::Path => "a path, relative to the working directory".into(),
        Kind::Address => "an IP address with a port".into(),
        Kind::Choice(words) => words.iter().map(|word| format!("`{word}`")).collect::<Vec<_>>().join(" or "),
        Kind::Number { unit, min, max } => format!("{unit}, {min} to {max}"),
        Kind::Switch => "`true` or `false`".into(),
        Kind::List(item) => format!("a list of texts, each an {item}"),
        Kind::OptionalOrigin => "`http://<host>:<port>`, or nothing".into(),
        Kind::Name => "a name of letters, digits, `-` and `_`".into(),
        Kind::Filter => "a filter of log lines".into(),
        Kind::Always(word, _) => format!("`{word}` alone"),
        Kind::OptionalUrl => "an `https` URL, or nothing".into(),
        Kind::Issuers => "tables `[[tokens.issuers]]`; in its variable a list as JSON".into(),
    };
    format!("Takes {takes}. Default `{default}`. Variable `{}`.", key.variable())
}

/// The limits of a call, and those of the server that calls and their owners meet, in
/// one table.
fn limits() -> String {
    let mut text = String::from(
        "\n| limit | unit | default | most | when it is reached | what is said then (N: what was used or wanted) |\n\
         |---|---|---|---|---|---|\n",
    );
    let mut row = |name: &str, unit: &str, (default, most): (&Value, u64), outcome: &str, told: &str| {
        let told = if told.is_empty() { "nothing".into() } else { told.replace("{used}", "N") };
        // Writing to a String can't fail.
        let _ = writeln!(text, "| `{name}` | {unit} | {default} | {most} | {outcome} | {told} |");
    };
    for LimitSpec { name, unit, default, max, outcome, told, .. } in
        Limits::SPECS.iter().chain(FIXED.iter().map(|limit| &limit.spec))
    {
        row(name, unit, (&(*default).into(), *max), outcome, told);
    }
    let keys = Config::default().values();
    for ServerLimit { name, unit, outcome, told, .. } in SERVER {
        let key = keys.iter().find(|(key, _)| key.name() == *name);
        // A test looks that each is a number with a key.
        if let Some((Key { kind: Kind::Number { max, .. }, .. }, default)) = key {
            row(name, unit, (default, *max), outcome, told);
        }
    }
    text.push_str(&after_limits());
    text
}

/// What stands below the table of limits.
fn after_limits() -> String {
    let tasks = Config::default().quota.tasks_per_user;
    format!(
        "\nWhat is said names the limit with its value, too, and how to raise it:\n\n> {}\n>\n> {}\n>\n> {}\n\n\
         Every outcome that a limit caused has it in `fault.limit` as well (name, value, unit), every event in `limit`, \
         `value`, `used` and `message`, and problems in fields: 507 `workspace_full`, which says in words what is used of \
         which limit, in `limit`, `value`, `unit` and `used`, 422 `over_limit` of a key in `name`, `limit`, `unit` and \
         `used`. What was used or wanted of `path_bytes`, `path_depth` and `file_bytes` is the first that was refused. \
         Without `used`, `file_changes` is not reached: a path was changed that can't be said. How much of \
         `workers.memory_per_worker_bytes` the other calls held is not known, so what is said has its value alone.\n",
        words("handles", Limits::default().handles, "N"),
        words(STACK.spec.name, STACK.spec.default, STACK.spec.default),
        words("quota.tasks_per_user", tasks, tasks),
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_limit_of_the_table_is_a_key_with_its_unit() {
        for ServerLimit { name, unit, .. } in SERVER {
            let key = super::super::keys::find(name).unwrap_or_else(|| panic!("`{name}` is no key"));
            let Kind::Number { unit: counts, .. } = key.kind else { panic!("`{name}` is no number") };
            assert_eq!(counts, *unit, "{name}");
            assert!(limits().contains(&format!("| `{name}` |")), "{name}");
        }
    }
}
