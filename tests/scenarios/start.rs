//! Starting: what is refused, and how it is said.

use std::process::{Command, Output};

use crate::harness::{Options, Server};

fn serve(data: &std::path::Path, env: &[(&str, &str)]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_bulkhead"));
    command.arg("serve").env_clear().env("BULKHEAD_DATA", data).env("BULKHEAD_LISTEN", "127.0.0.1:0");
    command.env("BULKHEAD_TOOLS__BUILTIN", "false").envs(env.iter().copied()).output().unwrap()
}

fn said(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

#[test]
fn a_public_address_without_keys_is_refused() {
    let directory = tempfile::tempdir().unwrap();
    let output = serve(directory.path(), &[("BULKHEAD_LISTEN", "0.0.0.0:0"), ("BULKHEAD_AUTH", "off")]);
    assert_eq!(output.status.code(), Some(78), "{}", said(&output));
    assert!(said(&output).contains("auth") && said(&output).contains("loopback"), "{}", said(&output));
}

#[test]
fn a_misspelt_key_is_refused_with_the_right_one() {
    let directory = tempfile::tempdir().unwrap();
    let output = serve(directory.path(), &[("BULKHEAD_LIMITS__WALL_TIME", "5")]);
    assert_eq!(output.status.code(), Some(78), "{}", said(&output));
    assert!(said(&output).contains("WALL_TIME_MS"), "{}", said(&output));
}

#[test]
fn one_directory_has_one_server_and_a_damaged_database_stops_the_start() {
    let server = Server::start(Options::default());
    let output = serve(&server.data(), &[]);
    assert!(!output.status.success());
    assert!(said(&output).contains("in use by another server"), "{}", said(&output));

    let directory = tempfile::tempdir().unwrap();
    std::fs::write(directory.path().join("bulkhead.sqlite"), vec![7; 8192]).unwrap();
    let output = serve(directory.path(), &[]);
    assert!(!output.status.success());
    assert!(said(&output).contains("bulkhead.sqlite"), "{}", said(&output));
}

#[test]
fn without_authentication_no_key_is_needed_but_no_page_of_another_origin_may_call() {
    let server = Server::start(Options::default().with("BULKHEAD_AUTH", "off"));
    let client = server.client();
    assert_eq!(client.get("/v1/tasks").status, 200);
    let send = |name: &str, value: &str| client.send("POST", "/v1/tasks/archive", &[(name, value)], b"");
    send("origin", "https://evil.example").problem(403, "forbidden_origin");
    send("origin", "null").problem(403, "forbidden_origin");
    send("host", "evil.example").problem(403, "forbidden_origin");
    assert_eq!(client.send("GET", "/v1/tasks", &[("origin", server.url())], b"").status, 200);
}

#[test]
fn with_authentication_everything_of_somebody_needs_a_key() {
    let server = Server::start(Options::default());
    assert_eq!(server.client().with_key(None).get("/v1/tasks").status, 401);
    assert_eq!(server.client().with_key(None).get("/metrics").status, 401);
    let text = String::from_utf8(server.client().get("/metrics").body).unwrap();
    assert!(text.contains("bulkhead_calls_running 0"), "{text}");
}

#[test]
fn doctor_and_config_answer_in_json() {
    let server = Server::start(Options::default());
    for arguments in [
        &["doctor", "--json"][..],
        &["config", "show", "--json"],
        &["keys", "list", "--json"],
        &["tools", "list", "--json"],
    ] {
        let output = server.cli(arguments);
        let json = serde_json::from_slice::<serde_json::Value>(&output.stdout);
        assert!(json.is_ok(), "{arguments:?}: {}", said(&output));
        assert!(!String::from_utf8_lossy(&output.stdout).contains("bh_"), "{arguments:?} shows a key");
    }
}

#[test]
fn tools_are_registered_and_listed_from_the_command_line() {
    let server = Server::start(Options::default());
    let echo = concat!(env!("CARGO_MANIFEST_DIR"), "/../guest-tools/dist/fixtures/echo.wasm");
    for known in [false, true] {
        let output = server.cli(&["tools", "register", echo]);
        assert!(output.status.success(), "{}", said(&output));
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        assert!(text.contains("is ready") && text.contains("known already") == known, "{text}");
    }
    let listed = server.cli(&["tools", "list", "--json"]);
    let listed: serde_json::Value = serde_json::from_slice(&listed.stdout).unwrap();
    let tool = listed["items"][0].clone();
    assert_eq!((&tool["manifest"]["name"], &tool["state"]), (&"echo".into(), &"ready".into()), "{listed}");
    let encoded = tool["id"].as_str().unwrap().replace('_', "%5F");
    assert_eq!(server.client().get(&format!("/v1/tools/{encoded}")).expect(200)["id"], tool["id"]);
    let garbage = server.data().join("garbage.wasm");
    std::fs::write(&garbage, "not wasm").unwrap();
    let output = server.cli(&["tools", "register", garbage.to_str().unwrap()]);
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(!output.status.success() && text.contains("not_wasm"), "{text}");
}

#[test]
fn one_call_runs_without_a_server() {
    let workspace = tempfile::tempdir().unwrap();
    std::fs::write(workspace.path().join("a.txt"), "one\n").unwrap();
    let echo = concat!(env!("CARGO_MANIFEST_DIR"), "/../guest-tools/dist/fixtures/echo.wasm");
    let cache = tempfile::tempdir().unwrap();
    let run = |arguments: &[&str]| {
        let mut command = Command::new(env!("CARGO_BIN_EXE_bulkhead"));
        command
            .env_clear()
            .env("BULKHEAD_DATA", cache.path())
            .env("XDG_CACHE_HOME", cache.path())
            .arg("run")
            .args(arguments)
            .output()
            .unwrap()
    };
    let output = run(&[echo, "--arg", "text=hello"]);
    assert_eq!(
        (output.status.code(), String::from_utf8_lossy(&output.stdout).trim()),
        (Some(0), "hello"),
        "{}",
        said(&output)
    );
    let failing = concat!(env!("CARGO_MANIFEST_DIR"), "/../guest-tools/dist/fixtures/failing.wasm");
    let output = run(&[failing, "--arg", "code=nope", "--arg", "message=not today"]);
    assert_eq!(output.status.code(), Some(1), "{}", said(&output));
    assert!(said(&output).contains("not today"), "{}", said(&output));
    let output = run(&[echo, "--arg", "txt=hello"]);
    assert!(!output.status.success() && said(&output).contains("txt"), "{}", said(&output));
    let output = run(&["/nowhere.wasm"]);
    assert!(!output.status.success() && said(&output).contains("nowhere"), "{}", said(&output));
}
