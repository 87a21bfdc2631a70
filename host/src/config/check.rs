//! What no key can check alone.

use super::error::{ConfigError, Fault};
use super::{Auth, Config, Loaded};

/// Refuses a configuration whose values don't go together.
pub(super) fn check(loaded: &Loaded) -> Result<(), ConfigError> {
    let Config { listen, auth, http, limits, workers, tokens, .. } = &loaded.config;
    let mut faults = Vec::new();
    let mut fault = |key: &str, value: String, problem: &str, remedy: &str| {
        faults.push(Fault {
            origin: loaded.origin(key).clone(),
            key: key.into(),
            value: Some(value),
            problem: problem.into(),
            remedy: remedy.into(),
        });
    };
    if *auth == Auth::Off && !listen.ip().is_loopback() {
        fault(
            "auth",
            "off".into(),
            &format!("would give everybody who reaches {listen} the rights of the first user"),
            "listen on a loopback address, 127.0.0.1, or leave `auth = \"required\"` and make a key by `bulkhead keys create`",
        );
    }
    if http.wait_default_ms > http.wait_max_ms {
        let problem = format!("is more than `http.wait_max_ms = {}`", http.wait_max_ms);
        let value = http.wait_default_ms.to_string();
        fault("http.wait_default_ms", value, &problem, "lower this one or raise the other");
    }
    if limits.memory_bytes > workers.memory_per_worker_bytes {
        let problem = format!(
            "is more than `workers.memory_per_worker_bytes = {}`, so no worker could grant it",
            workers.memory_per_worker_bytes
        );
        fault("limits.memory_bytes", limits.memory_bytes.to_string(), &problem, "lower this one or raise the other");
    }
    if workers.memory_bytes > 0 && workers.memory_bytes < workers.memory_per_worker_bytes {
        let problem = format!(
            "is less than `workers.memory_per_worker_bytes = {}`, so one worker could have the others ended",
            workers.memory_per_worker_bytes
        );
        fault("workers.memory_bytes", workers.memory_bytes.to_string(), &problem, "raise this one or lower the other");
    }
    if !tokens.issuers.is_empty() && tokens.resource.is_empty() {
        let problem = "is missing, and there are issuers";
        fault("tokens.resource", "\"\"".into(), problem, "write the URL that clients know this server by");
    }
    if tokens.keep_s < tokens.refresh_s {
        let problem = format!("is less than `tokens.refresh_s = {}`, so keys would be missing", tokens.refresh_s);
        fault("tokens.keep_s", tokens.keep_s.to_string(), &problem, "raise this one or lower the other");
    }
    if let Err(error) = limits.clone().checked() {
        let key = format!("limits.{}", error.name);
        fault(&key, error.asked.to_string(), "is over its ceiling", &format!("write at most {}", error.ceiling));
    }
    if faults.is_empty() { Ok(()) } else { Err(ConfigError(faults)) }
}
