use std::path::Path;

use super::sources::toml_settings;
use super::*;

fn variables(list: &[(&str, &str)]) -> Vec<(OsString, OsString)> {
    list.iter().map(|(name, value)| (name.into(), value.into())).collect()
}

/// A directory with a `bulkhead.toml` in it, and the sources that name it.
fn with_file(text: &str) -> (tempfile::TempDir, Sources) {
    let dir = tempfile::TempDir::new().expect("a directory");
    let path = dir.path().join("bulkhead.toml");
    std::fs::write(&path, text).expect("writes");
    let sources = Sources { file: Some(path), ..Sources::default() };
    (dir, sources)
}

fn faults(sources: &Sources) -> Vec<Fault> {
    load(sources).expect_err("is wrong").0
}

fn flag(flag: &'static str, key: &str, value: &str) -> Flag {
    Flag { flag, key: key.into(), value: value.into() }
}

#[test]
fn a_list_is_given_between_commas_or_as_the_file_has_it() {
    for text in ["https://a.example, http://127.0.0.1:8080", r#"["https://a.example", "http://127.0.0.1:8080"]"#] {
        let flags = vec![flag("--set", "http.cors_origins", text)];
        let loaded = load(&Sources { flags, ..Sources::default() }).expect("fits");
        assert_eq!(loaded.config.http.cors_origins, ["https://a.example", "http://127.0.0.1:8080"]);
    }
}

#[test]
fn later_sources_win_and_are_named() {
    let (_dir, mut sources) =
        with_file("data = \"/srv/a\"\nlisten = \"127.0.0.1:1\"\n\n[limits]\nwall_time_ms = 5_000\n");
    sources.variables = variables(&[
        ("BULKHEAD_LISTEN", "127.0.0.1:2"),
        ("BULKHEAD_LIMITS__CPU_TIME_MS", "7_000"),
        ("BULKHEAD_IMPORT__GIT_LOCAL_ROOTS", "/srv/one, /srv/two"),
        ("BULKHEAD_URL", "http://127.0.0.1:7300"),
        ("BULKHEAD_PORT", "tcp://10.0.0.1:7300"),
        ("PATH", "/bin"),
    ]);
    sources.flags = vec![flag("--listen", "listen", "[::1]:3"), flag("--set", "tools.builtin", "off")];
    let loaded = load(&sources).expect("fits");
    let config = &loaded.config;
    assert_eq!(config.data, Path::new("/srv/a"));
    assert_eq!(config.listen.to_string(), "[::1]:3");
    assert_eq!((config.limits.wall_time_ms, config.limits.cpu_time_ms), (5_000, 7_000));
    assert_eq!(config.import.git_local_roots, [Path::new("/srv/one"), Path::new("/srv/two")]);
    assert!(!config.tools.builtin);
    assert_eq!(*loaded.origin("listen"), Origin::Flag("--listen"));
    assert!(
        matches!(loaded.origin("limits.wall_time_ms"), Origin::File(_, 5)),
        "{}",
        loaded.origin("limits.wall_time_ms")
    );
    assert_eq!(loaded.origin("limits.cpu_time_ms").to_string(), "variable BULKHEAD_LIMITS__CPU_TIME_MS");
    assert_eq!(*loaded.origin("auth"), Origin::Default);
}

#[test]
fn what_names_no_key_is_refused_with_the_nearest() {
    let (_dir, mut sources) = with_file("lisen = \"127.0.0.1:1\"\n[limits]\nwall_time = 5\n[nothing]\nx = 1\n");
    sources.variables = variables(&[("BULKHEAD_LIMITS_WALL_TIME_MS", "5"), ("BULKHEAD_limits__wall_time_ms", "5")]);
    let faults = faults(&sources);
    let texts: Vec<String> = faults.iter().map(Fault::to_string).collect();
    assert_eq!(faults.len(), 5, "{texts:#?}");
    assert!(texts[0].contains("bulkhead.toml:1: `lisen` is not a key"), "{}", texts[0]);
    assert!(texts[0].contains("did you mean `listen`"), "{}", texts[0]);
    assert!(texts[1].contains("bulkhead.toml:3") && texts[1].contains("`limits.wall_time_ms`"), "{}", texts[1]);
    assert!(texts[2].contains("`nothing.x`") && texts[2].contains("config show"), "{}", texts[2]);
    assert!(
        texts[3].contains("BULKHEAD_LIMITS_WALL_TIME_MS") && texts[3].contains("`BULKHEAD_LIMITS__WALL_TIME_MS`"),
        "{}",
        texts[3]
    );
    assert!(texts[4].contains("BULKHEAD_limits__wall_time_ms"), "{}", texts[4]);
}

#[test]
fn values_that_do_not_fit_are_refused_with_a_remedy() {
    let cases = [
        ("limits.memory_bytes", "256MiB", "without quotes"),
        ("limits.memory_bytes", "99999999999999", "4294967296"),
        ("limits.wall_time_ms", "0", "from 1 to"),
        ("listen", "localhost:7300", "127.0.0.1:7300"),
        ("auth", "none", "required, off"),
        ("tools.builtin", "maybe", "true or false"),
        ("import.git_local_roots", "repositories", "/srv/repositories"),
        ("http.cors_origins", "https://a.example/", "without a path"),
        ("log.level", "bulkhead=loud", "info,bulkhead=debug"),
        ("data", "", "write a path"),
    ];
    for (key, value, remedy) in cases {
        let sources = Sources { flags: vec![flag("--set", key, value)], ..Sources::default() };
        let found = faults(&sources);
        let text = found[0].to_string();
        assert!(text.starts_with(&format!("flag --set: `{key} = {value}`")), "{text}");
        assert!(text.contains(remedy), "{text}");
    }
}

#[test]
fn types_of_the_file_are_kept_apart() {
    for wrong in [
        "[limits]\nmemory_bytes = \"5\"",
        "[limits]\nmemory_bytes = 1e9",
        "limits = 3",
        "data = 5",
        "listen = [1]",
        "data = { a = 1 }",
    ] {
        let (_dir, sources) = with_file(wrong);
        assert_eq!(faults(&sources).len(), 1, "{wrong}");
    }
    let (_dir, sources) = with_file("listen = \"127.0.0.1:1\"\nlisten = \"127.0.0.1:2\"\n");
    let text = faults(&sources)[0].to_string();
    assert!(text.contains("bulkhead.toml:2") && text.contains("not valid TOML"), "{text}");
    assert!(toml_settings(Path::new("x"), "limits.cpu_time_ms = 5").is_ok());
}

#[test]
fn a_public_address_needs_keys() {
    let public = |auth: &str| Sources {
        flags: vec![flag("--listen", "listen", "0.0.0.0:7300"), flag("--set", "auth", auth)],
        ..Sources::default()
    };
    assert!(load(&public("required")).is_ok());
    let text = faults(&public("off"))[0].to_string();
    assert!(text.contains("`auth = off`") && text.contains("keys create"), "{text}");
    let local = Sources { flags: vec![flag("--set", "auth", "off")], ..Sources::default() };
    assert_eq!(load(&local).expect("loopback").config.auth, Auth::Off);
}

#[test]
fn a_named_file_must_be_there() {
    let sources = Sources { file: Some("/nowhere/bulkhead.toml".into()), ..Sources::default() };
    let text = faults(&sources)[0].to_string();
    assert!(text.contains("/nowhere/bulkhead.toml") && text.contains("--config"), "{text}");
}

#[test]
fn the_defaults_fit_their_own_keys() {
    for (key, value) in Config::default().values() {
        let text = match &value {
            Value::String(text) => text.clone(),
            Value::Array(items) => {
                assert!(items.is_empty());
                continue;
            }
            other => other.to_string(),
        };
        let sources = Sources { flags: vec![flag("--set", &key.name(), &text)], ..Sources::default() };
        let loaded = load(&sources).unwrap_or_else(|error| panic!("{}: {error}", key.name()));
        assert_eq!(loaded.config, Config::default(), "{}", key.name());
    }
}

#[test]
fn tests_write_the_struct() {
    let config: Config = serde_json::from_str(r#"{"limits": {"wall_time_ms": 5}}"#).expect("fits");
    assert_eq!(config.limits.wall_time_ms, 5);
    assert!(serde_json::from_str::<Config>(r#"{"limit": {}}"#).is_err());
    assert!(config.workers_per_tenant() >= 1);
    assert_eq!(config.service().dispatch.drain, std::time::Duration::from_secs(10));
}

#[test]
fn issuers_are_tables_in_the_file_and_json_elsewhere() {
    let text = r#"
[tokens]
resource = "https://tools.example.com"

[[tokens.issuers]]
issuer = "https://login.example.com"
audience = "https://tools.example.com"
algorithms = ["RS256", "Ed25519"]
tenant_claim = "org_id"
scopes = { "tools.use" = ["tasks:read", "calls:run"] }

[[tokens.issuers]]
issuer = "https://other.example.com"
audience = "tools"
algorithms = ["ES256"]
tenant = "ten_01jd8n2m4v0000000000000000"
ceiling = ["tasks:read", "admin"]
"#;
    let (_dir, sources) = with_file(text);
    let loaded = load(&sources).expect("fits");
    let issuers = &loaded.config.tokens.issuers;
    assert_eq!((issuers.len(), issuers[0].leeway_s, issuers[0].scopes.len()), (2, 30, 1));
    assert!(!issuers[0].ceiling.contains(&bulkhead_core::principal::Scope::Admin));
    // What is shown can be given again.
    let values = loaded.config.values();
    let shown = values.iter().find(|(key, _)| key.name() == "tokens.issuers").expect("is a key").1.to_string();
    let again = vec![flag("--set", "tokens.issuers", &shown), flag("--set", "tokens.resource", "https://a.example")];
    let again = load(&Sources { flags: again, ..Sources::default() }).expect("fits");
    assert_eq!(again.config.tokens.issuers, *issuers);
    assert_eq!(loaded.config.tokens().expect("there are issuers").issuers.len(), 2);
    assert!(Config::default().tokens().is_none());
    for wrong in ["[]x", "{}", "[1]", r#"[{"issuer": "https://a.example"}]"#] {
        assert_eq!(
            faults(&Sources { flags: vec![flag("--set", "tokens.issuers", wrong)], ..Sources::default() }).len(),
            1
        );
    }
}

#[test]
fn whose_a_thing_is_can_not_be_switched_off() {
    let set = |key: &str, value: &str| Sources { flags: vec![flag("--set", key, value)], ..Sources::default() };
    for word in ["audit", "off", ""] {
        let fault = faults(&set("access.ownership", word)).remove(0).to_string();
        assert!(fault.contains("can't be changed") && fault.contains("not there, in no mode"), "{fault}");
    }
    assert!(load(&set("access.ownership", "enforce")).is_ok());
    assert_eq!(Config::default().service().rules.softened().count(), 0);
    let rules = load(&set("access.scopes", "audit")).expect("fits").config.service().rules;
    assert_eq!(rules.softened().map(bulkhead_core::access::rules::Rule::name).collect::<Vec<_>>(), ["scopes"]);
}

/// The reference in docs/ says what the code does. `UPDATE_DOCS=1` writes it anew.
#[test]
fn every_key_is_documented() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/CONFIGURATION.md");
    let made = docs::render();
    for key in keys::all() {
        assert!(made.contains(&format!("### `{}`", key.name())) && made.contains(&key.variable()), "{}", key.name());
    }
    if std::env::var_os("UPDATE_DOCS").is_some() {
        std::fs::write(&path, &made).expect("writes");
    }
    let written = std::fs::read_to_string(&path).unwrap_or_default();
    assert!(written == made, "docs/CONFIGURATION.md is not what the code says; run this test with UPDATE_DOCS=1");
}

#[test]
fn database_url_decides_the_store_and_is_never_repeated() {
    let with = |value: &str| Sources { variables: variables(&[("DATABASE_URL", value)]), ..Sources::default() };
    for sqlite in ["", "sqlite:", "sqlite://", " "] {
        assert_eq!(load(&with(sqlite)).expect("fits").config.database_url, None);
    }
    let loaded = load(&with("postgres://me:s3cret@db.example.org/tools?sslmode=verify-full")).expect("fits");
    let url = loaded.config.database_url.as_ref().expect("is PostgreSQL");
    assert_eq!(url.to_string(), "postgres://me@db.example.org:5432/tools");
    assert!(!format!("{loaded:?}").contains("s3cret"));
    let values = loaded.config.values();
    assert!(values.iter().all(|(key, value)| key.field != "database_url" && !value.to_string().contains("s3cret")));
    for wrong in ["mysql://me:s3cret@db/x", "sqlite:s3cret.db", "postgres://me:s3cret@db:port/x", "s3cret"] {
        let faults = faults(&with(wrong));
        assert_eq!((faults.len(), faults[0].key.as_str()), (1, "DATABASE_URL"));
        assert!(!faults[0].to_string().contains("s3cret"), "{}", faults[0]);
    }
    // It is no key: a file or flag can't have it.
    let flags = vec![flag("--set", "database_url", "postgres://me:s3cret@db/x")];
    assert!(load(&Sources { flags, ..Sources::default() }).is_err());
}
