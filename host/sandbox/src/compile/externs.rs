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

/// Interfaces of our own.
const OWN: [&str; 5] = ["types", "output", "progress", "log", "cancellation"];

/// The interface that every tool exports.
pub(crate) const GUEST: &str = "bulkhead:tool/guest@0.1.0";

/// Whether a tool may import `name`.
pub(crate) fn may_import(name: &str) -> bool {
    let Some((path, version)) = name.split_once('@') else { return false };
    let Some((package, interface)) = path.split_once('/') else { return false };
    if package == "bulkhead:tool" {
        return version == "0.1.0" && OWN.contains(&interface);
    }
    let known = WASI.iter().any(|(known, interfaces)| *known == package && interfaces.contains(&interface));
    known
        && version
            .strip_prefix("0.2.")
            .is_some_and(|patch| !patch.is_empty() && patch.bytes().all(|b| b.is_ascii_digit()))
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

/// What to do about what is of 0.3.
pub(super) const BUILD_FOR_02: &str =
    " (this host runs WASI 0.2, without async functions, streams and futures of components; build for wasm32-wasip2)";

/// What to tell an author about imports that can't be met.
pub(super) fn unknown(imports: &[String]) -> String {
    let http = imports.iter().any(|name| name.starts_with("wasi:http/incoming-handler"));
    let later = imports.iter().any(|name| is_wasi_03(name));
    let hint = match (http, later) {
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
            assert!(may_import(good), "{good}");
        }
        for bad in [
            "env",
            "wasi:cli/environment",
            "wasi:http/incoming-handler@0.2.0",
            "wasi:http/types@0.3.0",
            "wasi:io/streams@0.3.0",
            "wasi:io/streams@0.2.",
            "bulkhead:tool/guest@0.1.0",
        ] {
            assert!(!may_import(bad), "{bad}");
        }
    }
}
