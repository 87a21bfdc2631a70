//! What a component may import and must export, by name.

/// Interfaces of WASI 0.2 that are linked. Sockets are linked and always
/// refused; requests of `wasi:http` are decided about one by one.
const WASI: [(&str, &[&str]); 7] = [
    (
        "wasi:cli",
        &[
            "environment",
            "exit",
            "stdin",
            "stdout",
            "stderr",
            "terminal-input",
            "terminal-output",
            "terminal-stdin",
            "terminal-stdout",
            "terminal-stderr",
        ],
    ),
    ("wasi:io", &["error", "poll", "streams"]),
    ("wasi:clocks", &["monotonic-clock", "wall-clock"]),
    ("wasi:random", &["random", "insecure", "insecure-seed"]),
    ("wasi:filesystem", &["types", "preopens"]),
    ("wasi:http", &["types", "outgoing-handler"]),
    (
        "wasi:sockets",
        &["network", "instance-network", "tcp", "tcp-create-socket", "udp", "udp-create-socket", "ip-name-lookup"],
    ),
];

/// Those of WASI 0.3, where it is switched on. Sockets and HTTP stay with 0.2,
/// whose requests the same component may make.
const WASI_03: [(&str, &[&str]); 4] = [
    (
        "wasi:cli",
        &[
            "types",
            "environment",
            "exit",
            "stdin",
            "stdout",
            "stderr",
            "terminal-input",
            "terminal-output",
            "terminal-stdin",
            "terminal-stdout",
            "terminal-stderr",
        ],
    ),
    ("wasi:clocks", &["types", "monotonic-clock", "system-clock"]),
    ("wasi:random", &["random", "insecure", "insecure-seed"]),
    ("wasi:filesystem", &["types", "preopens"]),
];

/// Interfaces of our own.
const OWN: [&str; 5] = ["types", "output", "progress", "log", "cancellation"];

/// The interface that every tool exports.
pub(crate) const GUEST: &str = "bulkhead:tool/guest@0.1.0";

/// The same for one whose `call` is asynchronous (`wit/async/tool.wit`).
pub(crate) const ASYNC_GUEST: &str = "bulkhead:async-tool/guest@0.1.0";

/// Whether a tool may import `name`, `wasi_03` being whether WASI 0.3 is switched on.
pub(crate) fn may_import(name: &str, wasi_03: bool) -> bool {
    let Some((path, version)) = name.split_once('@') else { return false };
    let Some((package, interface)) = path.split_once('/') else { return false };
    if package == "bulkhead:tool" {
        return version == "0.1.0" && OWN.contains(&interface);
    }
    let known = |table: &[(&str, &[&str])], line: &str| {
        let patch = version.strip_prefix(line).unwrap_or_default();
        let released = !patch.is_empty() && patch.bytes().all(|b| b.is_ascii_digit());
        released && table.iter().any(|(known, interfaces)| *known == package && interfaces.contains(&interface))
    };
    known(&WASI, "0.2.") || (wasi_03 && known(&WASI_03, "0.3."))
}

/// What to tell an author whose component exports something else.
pub(super) fn missing(exports: &[String]) -> String {
    let exported = match exports {
        [] => "nothing".to_owned(),
        exports => listed(exports),
    };
    let command = exports.iter().any(|name| name.starts_with("wasi:cli/run@"));
    let hint = if command {
        ". It is a command: nothing in it says what it is called, does and takes, so it can't be called as a tool. Make it a \
         library that exports that interface, and do in `call` what `main` does"
    } else {
        "; a tool exports that interface (wit/tool.wit)"
    };
    format!("the component exports {exported} and not `{GUEST}`{hint}")
}

/// Most names that are listed; an author who has more needs another hint than their names.
const LISTED: usize = 10;

/// Whether it is an interface of WASI 0.3 or one of its candidates.
pub(super) fn is_wasi_03(name: &str) -> bool {
    name.starts_with("wasi:") && name.split_once('@').is_some_and(|(_, version)| version.starts_with("0.3."))
}

/// What to do about what is of 0.3 where it is switched off.
pub(super) const BUILD_FOR_02: &str = " (this host runs WASI 0.2, without async functions, streams and futures of \
    components; build for wasm32-wasip2, or have its operator switch `experimental.wasi_03` on)";

/// The same where it is switched on.
const OF_03: &str = " (of WASI 0.3 this host has, as released, cli, clocks, random and filesystem; requests go by \
    wasi:http/outgoing-handler of 0.2)";

/// What to tell an author about imports that can't be met.
pub(super) fn unknown(imports: &[String], wasi_03: bool) -> String {
    let http = imports.iter().any(|name| name.starts_with("wasi:http/incoming-handler"));
    let later = imports.iter().any(|name| is_wasi_03(name));
    let hint = match (http, later) {
        (_, true) if wasi_03 => OF_03,
        (_, true) => BUILD_FOR_02,
        (true, _) => " (tools send requests and get none)",
        _ => "",
    };
    format!(
        "the component imports what the host does not have: {}{hint}. A tool may import wasi:cli, io, clocks, random, \
         filesystem, sockets and http (types and outgoing-handler) of version 0.2, and bulkhead:tool/output, progress, log and cancellation@0.1.0",
        listed(imports)
    )
}

pub(super) fn listed(imports: &[String]) -> String {
    let names: Vec<String> = imports.iter().take(LISTED).map(|name| format!("`{name}`")).collect();
    let more = imports.len() - names.len();
    names.join(", ") + &if more > 0 { format!(" and {more} more") } else { String::new() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn imports_are_known_by_name_and_version() {
        for good in [
            "wasi:cli/environment@0.2.0",
            "wasi:io/streams@0.2.12",
            "wasi:http/types@0.2.0",
            "wasi:http/outgoing-handler@0.2.12",
            "bulkhead:tool/log@0.1.0",
        ] {
            assert!(may_import(good, false) && may_import(good, true), "{good}");
        }
        for later in ["wasi:cli/types@0.3.0", "wasi:clocks/system-clock@0.3.1", "wasi:filesystem/types@0.3.0"] {
            assert!(may_import(later, true) && !may_import(later, false), "{later}");
        }
        for bad in [
            "env",
            "wasi:cli/environment",
            "wasi:http/incoming-handler@0.2.0",
            "wasi:http/types@0.3.0",
            "wasi:io/streams@0.3.0",
            "wasi:io/streams@0.2.",
            "wasi:sockets/types@0.3.0",
            "wasi:http/client@0.3.0",
            "wasi:cli/types@0.2.0",
            "wasi:cli/stdout@0.3.0-rc-2026-03-15",
            "wasi:cli/stdout@0.4.0",
            "bulkhead:tool/guest@0.1.0",
            "bulkhead:async-tool/guest@0.1.0",
        ] {
            assert!(!may_import(bad, false) && !may_import(bad, true), "{bad}");
        }
    }
}
