//! Tokens of an issuer against a whole server: an issuer that is really
//! fetched from, what its tokens may do, and what happens while it is away.

use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use super::access::make;
use crate::harness::issuer::{SigningKey, claims, hs256, now, set};
use crate::harness::origin::{Origin, ok};
use crate::harness::provider::{Issuer, RESOURCE, answer};
use crate::harness::{Client, Options, Server};

fn options(issuers: &[Value]) -> Options {
    Options::default()
        .with("BULKHEAD_TOKENS__ISSUERS", json!(issuers))
        .with("BULKHEAD_TOKENS__RESOURCE", RESOURCE)
        .with("BULKHEAD_TOKENS__AGAIN_S", 1)
}

const WORK: &str = "tasks:read tasks:write calls:run files:read files:write grants:write tools:read tools:write";

#[test]
fn a_token_is_a_user_with_what_its_issuer_gives() {
    let keys: Vec<_> = ["RS256", "ES256", "EdDSA"].iter().map(|name| SigningKey::new(name, name)).collect();
    let published = set(&keys.iter().collect::<Vec<_>>());
    let (one, two) = (Issuer::start(Some(published.clone())), Issuer::start(Some(published)));
    let table = json!({"scopes": {"reader": ["tasks:read"]}, "ceiling": ["tasks:read"]});
    let server = Server::start(options(&[one.config(json!({})), two.config(table)]));
    let bearer = |token: &str| server.client().with_key(Some(token));

    let mut users = Vec::new();
    for key in &keys {
        let token = key.sign(&one.claims("alice", &format!("openid admin operator:admin operator:tools {WORK}")));
        users.push(bearer(&token).get("/v1/whoami").expect(200));
    }
    assert!(users.windows(2).all(|pair| pair[0] == pair[1]));
    assert_eq!(users[0]["scopes"].as_array().unwrap().len(), WORK.split(' ').count(), "{}", users[0]);

    // A whole task's life, by a token.
    let mut named = one.claims("alice", WORK);
    named["jti"] = "7f3a:1".into();
    let alice = bearer(&keys[2].sign(&named));
    let things = make(&alice);
    let call = alice.call(&things.task, "echo", json!({"text": "by token"}));
    assert_eq!(Client::text_of(&call), "by token");
    let record = alice.get(&format!("/v1/audit?task={}&kind=call.ended", things.task)).expect(200);
    assert_eq!(record["items"][0]["data"]["credential"], "token:7f3a:1");

    // The same name by another issuer, in another organisation, or locally is somebody else.
    let mut umbrella = one.claims("alice", WORK);
    umbrella["org"] = "umbrella".into();
    let others = [bearer(&keys[0].sign(&one.claims("bob", WORK))), bearer(&keys[0].sign(&umbrella)), server.client()];
    for other in others {
        other.get(&format!("/v1/tasks/{}", things.task)).problem(404, "not_found");
    }
    let foreign = bearer(&keys[0].sign(&two.claims("alice", "reader tasks:write")));
    foreign.get(&format!("/v1/tasks/{}", things.task)).problem(404, "not_found");
    assert_eq!(foreign.get("/v1/whoami").expect(200)["scopes"], json!(["tasks:read"]));
    let refused = foreign.post("/v1/tasks", &json!({}));
    assert!(refused.header("www-authenticate").contains("error=\"insufficient_scope\""), "{refused:?}");
    assert!(refused.header("www-authenticate").contains("scope=\"tasks:write\""), "{refused:?}");
    refused.problem(403, "missing_scope");
    // What a browser needs works with a ticket of a token's holder.
    let ticket = alice.post(&format!("/v1/tasks/{}/tickets", things.task), &json!({})).expect(201);
    let query = format!("?ticket={}", ticket["ticket"].as_str().unwrap());
    assert!(server.client().with_key(None).follow(&things.task, &[], &query).next().is_some());
    // The second token of a user costs no signature.
    let text = String::from_utf8(server.client().get("/metrics").body).unwrap();
    let counted = |name: &str| {
        let line = text.lines().find(|line| line.starts_with(name)).unwrap();
        line.split(' ').next_back().unwrap().parse::<u64>().unwrap()
    };
    assert!(
        counted("bulkhead_tokens_remembered_total") > 5 && counted("bulkhead_tokens_verified_total") == 7,
        "{text}"
    );
}

#[test]
fn a_stream_ends_with_the_token_that_opened_it() {
    let key = SigningKey::new("EdDSA", "k");
    let issuer = Issuer::start(Some(set(&[&key])));
    let server = Server::start(options(&[issuer.config(json!({"leeway_s": 0}))]));
    let mut claims = issuer.claims("alice", WORK);
    let task = server.client().with_key(Some(&key.sign(&claims))).task();
    claims["exp"] = json!(now() + 4);
    let client = server.client().with_key(Some(&key.sign(&claims)));
    let mut stream = client.follow(&task, &[], "");
    while stream.next().is_some() {}
    assert_eq!(stream.ended.unwrap()["reason"], "unauthenticated");
    client.get("/v1/whoami").problem(401, "expired_token");
}

#[test]
fn an_issuer_makes_administrators_only_if_its_ceiling_says_so() {
    const TENANT: &str = "ten_01jd8n2m4v0000000000000000";
    let key = SigningKey::new("EdDSA", "k");
    let (plain, trusted) = (Issuer::start(Some(set(&[&key]))), Issuer::start(Some(set(&[&key]))));
    let tenant = json!({"tenant": TENANT, "tenant_claim": null});
    let mut more = tenant.clone();
    more["ceiling"] = json!(["tasks:read", "admin"]);
    let server = Server::start(options(&[plain.config(tenant), trusted.config(more)]));
    let user = server.client_with(&["--tenant", TENANT, "--user", "usr_01jd8n2m4v0000000000000000"]);
    let path = format!("/v1/tasks/{}", user.task());
    let why = [("bulkhead-reason", "a complaint")];
    let get = |issuer: &Issuer, why: &[(&str, &str)]| {
        let token = key.sign(&issuer.claims("root", "tasks:read admin operator:admin"));
        server.client().with_key(Some(&token)).send("GET", &path, why, b"")
    };
    get(&plain, &why).problem(404, "not_found");
    get(&trusted, &[]).problem(404, "not_found");
    assert_eq!(get(&trusted, &why).status, 200);
    let elsewhere = format!("/v1/tasks/{}", server.client().task());
    let token = key.sign(&trusted.claims("root", "tasks:read admin operator:admin"));
    server.client().with_key(Some(&token)).send("GET", &elsewhere, &why, b"").problem(404, "not_found");
}

#[test]
fn what_is_not_signed_for_this_server_is_refused_and_told_where_to_get_a_token() {
    let key = SigningKey::new("RS256", "k");
    let issuer = Issuer::start(Some(set(&[&key])));
    let server = Server::start(options(&[issuer.config(json!({}))]));
    let claims = || issuer.claims("alice", WORK);
    let with = |name: &str, value: Value| {
        let mut claims = claims();
        claims[name] = value;
        key.sign(&claims)
    };
    let good = key.sign(&claims());
    let mut unsigned = good.rsplit_once('.').unwrap().0.to_owned();
    unsigned.push('.');
    let none = {
        let header = crate::harness::issuer::base64url(r#"{"alg":"none"}"#);
        format!("{header}.{}.", good.split('.').nth(1).unwrap())
    };
    let stranger = SigningKey::new("ES256", "k");
    let bad = [
        with("aud", json!("https://other.example.com")),
        with("iss", json!("https://login.example.com")),
        with("nbf", json!(now() + 3_600)),
        hs256(key.jwk().to_string().as_bytes(), "k", &claims()),
        stranger.sign(&claims()),
        key.sign_with(&json!({"alg": "RS256", "kid": "unknown"}), &claims()),
        with("padding", json!("x".repeat(9_000))),
        unsigned,
        none,
        "a.b.c".into(),
    ];
    let point = format!(", resource_metadata=\"{RESOURCE}/.well-known/oauth-protected-resource\"");
    for token in &bad {
        let answer = server.client().with_key(Some(token)).get("/v1/tasks");
        let challenge = answer.header("www-authenticate").to_owned();
        assert!(challenge.contains("error=\"invalid_token\"") && challenge.ends_with(&point), "{challenge}");
        answer.problem(401, "invalid_token");
    }
    let expired = server.client().with_key(Some(&with("exp", json!(now() - 60)))).get("/v1/tasks");
    assert!(expired.header("www-authenticate").contains("error=\"invalid_token\""));
    expired.problem(401, "expired_token");
    // Who shows nothing did nothing wrong.
    let nobody = server.client().with_key(None).get("/v1/tasks");
    assert_eq!(nobody.header("www-authenticate"), format!("Bearer realm=\"bulkhead\"{point}"));
    nobody.problem(401, "unauthenticated");
    assert_eq!(server.client().with_key(Some(&good)).get("/v1/tasks").status, 200);

    let document = server.client().with_key(None).get("/.well-known/oauth-protected-resource").expect(200);
    assert_eq!((&document["resource"], &document["authorization_servers"]), (&json!(RESOURCE), &json!([issuer.url()])));
    // No token is in the log, whatever became of it.
    let log = server.log();
    assert!(bad.iter().chain([&good]).filter(|token| token.len() > 20).all(|token| !log.contains(&token[..20])));
}

#[test]
fn without_issuers_a_token_is_no_key_and_nothing_points_anywhere() {
    let server = Server::start(Options::default());
    let client = server.client().with_key(Some("eyJhbGciOiJub25lIn0.e30."));
    let answer = client.get("/v1/tasks");
    assert!(!answer.header("www-authenticate").contains("resource_metadata"));
    answer.problem(401, "invalid_key");
    client.get("/.well-known/oauth-protected-resource").problem(404, "no_such_operation");
}

/// Tries until it is so, for ten seconds.
fn eventually(what: &str, mut so: impl FnMut() -> bool) {
    let until = Instant::now() + Duration::from_secs(10);
    while !so() {
        assert!(Instant::now() < until, "{what}");
        std::thread::sleep(Duration::from_millis(100));
    }
}

#[test]
fn an_issuer_may_be_away_and_may_change_its_keys() {
    let (old, new) = (SigningKey::new("ES256", "old"), SigningKey::new("EdDSA", "new"));
    let issuer = Issuer::start(None);
    let server = Server::start(options(&[issuer.config(json!({}))]));
    let status = |key: &SigningKey, number: u32| {
        let mut claims = issuer.claims("alice", WORK);
        claims["jti"] = number.into();
        server.client().with_key(Some(&key.sign(&claims))).get("/v1/tasks")
    };
    // Away at the start: nobody can say that the token is bad.
    let answer = status(&old, 0);
    assert_eq!(answer.header("retry-after"), "5");
    answer.problem(503, "issuer_unavailable");
    assert_eq!(server.client().get("/v1/tasks").status, 200, "keys need no issuer");
    issuer.publish(Some(set(&[&old])));
    eventually("it comes", || status(&old, 1).status == 200);
    // Away later: the keys that are here count.
    issuer.publish(None);
    assert_eq!(status(&old, 2).status, 200);
    assert_eq!(status(&new, 3).status, 401);
    // Back, with other keys: the first token of a new one makes them known, and the old ones go.
    issuer.publish(Some(set(&[&new])));
    eventually("the new key is known", || status(&new, 4).status == 200);
    status(&old, 1).problem(401, "invalid_token");
    // Names of keys that are made up make no traffic.
    let before = issuer.origin.seen().len();
    let begun = Instant::now();
    for number in 0..100 {
        let header = json!({"alg": "ES256", "kid": format!("k{number}")});
        let token = old.sign_with(&header, &issuer.claims("alice", WORK));
        assert_eq!(server.client().with_key(Some(&token)).get("/v1/tasks").status, 401);
    }
    let fetches = (issuer.origin.seen().len() - before) / 2;
    assert!(fetches as u64 <= begun.elapsed().as_secs() + 2, "{fetches} fetches");
}

#[test]
fn an_issuer_that_is_hostile_costs_little_and_gets_nothing() {
    let key = SigningKey::new("EdDSA", "k");
    let (good, mode) = (set(&[&key]), Arc::new(Mutex::new("redirect")));
    let answering = mode.clone();
    let origin = Origin::start(move |seen| {
        let path = seen.line.split(' ').nth(1).unwrap();
        match (path, *answering.lock().unwrap()) {
            ("/keys", "redirect") => b"HTTP/1.1 302 Found\r\nlocation: /true\r\ncontent-length: 0\r\n\r\n".to_vec(),
            ("/keys", "big") => ok(format!("{}{good}", " ".repeat(300 * 1024)).as_bytes()),
            ("/keys", "slow") => {
                std::thread::sleep(Duration::from_secs(3));
                ok(good.as_bytes())
            }
            ("/keys", "cut") => [&ok(good.as_bytes())[..], &[]].concat()[..100].to_vec(),
            _ => ok(good.as_bytes()),
        }
    });
    let url = format!("http://127.0.0.1:{}", origin.port);
    let issuer = json!({
        "issuer": url, "audience": RESOURCE, "algorithms": ["EdDSA"], "tenant_claim": "org",
        "jwks_url": format!("{url}/keys"),
    });
    let server = Server::start(options(&[issuer]).with("BULKHEAD_TOKENS__TIMEOUT_MS", 500));
    let mut claims = claims(&url, "alice", WORK);
    claims["org"] = "acme".into();
    let client = server.client().with_key(Some(&key.sign(&claims)));
    for hostile in ["redirect", "big", "slow", "cut"] {
        *mode.lock().unwrap() = hostile;
        std::thread::sleep(Duration::from_millis(1_200));
        let begun = Instant::now();
        client.get("/v1/tasks").problem(503, "issuer_unavailable");
        assert!(begun.elapsed() < Duration::from_millis(2_500), "{hostile}: {:?}", begun.elapsed());
        assert_eq!(server.client().get("/v1/tasks").status, 200, "{hostile}");
    }
    assert!(origin.seen().iter().all(|seen| seen.line.starts_with("GET /keys ")), "no redirect was followed");
    *mode.lock().unwrap() = "good";
    eventually("a good set is taken", || client.get("/v1/tasks").status == 200);
}

#[test]
fn an_issuer_proves_who_it_is() {
    let key = SigningKey::new("EdDSA", "k");
    let keys = set(&[&key]);
    let (origin, authority) = Origin::secure(move |seen| {
        let url = format!("https://{}", seen.field("host").unwrap());
        answer(&url, seen.line.split(' ').nth(1).unwrap(), &keys)
    });
    let url = format!("https://localhost:{}", origin.port);
    let issuer = json!({
        "issuer": url, "audience": RESOURCE, "algorithms": ["EdDSA"], "tenant": "ten_01jd8n2m4v0000000000000000",
    });
    let token = key.sign(&claims(&url, "alice", WORK));
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("authority.pem");
    std::fs::write(&file, authority).unwrap();
    let trusting = options(std::slice::from_ref(&issuer)).with("BULKHEAD_EGRESS__CA_FILE", file.display());
    let server = Server::start(trusting);
    let me = server.client().with_key(Some(&token)).get("/v1/whoami").expect(200);
    assert_eq!(me["tenant"], "ten_01jd8n2m4v0000000000000000");
    // Whoever answers in its place has no certificate.
    let server = Server::start(options(&[issuer]));
    let asked = origin.seen().len();
    server.client().with_key(Some(&token)).get("/v1/whoami").problem(503, "issuer_unavailable");
    assert_eq!(origin.seen().len(), asked, "nothing was asked before it proved itself");
}

#[test]
fn an_issuer_that_could_let_everybody_in_is_refused_at_the_start() {
    let issuer = |more: Value| {
        let mut issuer = json!({
            "issuer": "https://login.example.com", "audience": RESOURCE, "algorithms": ["RS256"], "tenant_claim": "org",
        });
        issuer.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        json!([issuer]).to_string()
    };
    let show = |variables: &[(&str, &str)]| {
        let mut command = std::process::Command::new(env!("CARGO_BIN_EXE_bulkhead"));
        command.args(["config", "show"]).env_clear().envs(variables.iter().copied());
        let output = command.output().unwrap();
        (output.status.success(), String::from_utf8(output.stderr).unwrap())
    };
    let with_issuer =
        |more: Value| show(&[("BULKHEAD_TOKENS__ISSUERS", &issuer(more)), ("BULKHEAD_TOKENS__RESOURCE", RESOURCE)]);
    assert!(with_issuer(json!({})).0);
    for (more, said) in [
        (json!({"algorithms": ["none"]}), "`none` lets everybody in"),
        (json!({"algorithms": ["RS256", "HS256"]}), "`HS256` is symmetric"),
        (json!({"algorithms": []}), "`algorithms` is empty"),
        (json!({"algorithms": ["ES512"]}), "`ES512` is not known here"),
        (json!({"jwks_url": "http://login.example.com/keys"}), "`jwks_url` is not an https URL"),
        (json!({"issuer": "http://login.example.com"}), "can't be discovered"),
        (json!({"tenant": "ten_01jd8n2m4v0000000000000000"}), "needs one of `tenant` and `tenant_claim`"),
        (json!({"leeway_s": 3_600}), "`leeway_s` is more than 300"),
        (json!({"scopes": {"root": ["admin"]}}), "`admin`, which is not in `ceiling`"),
        (json!({"ceiling": ["everything"]}), "everything"),
        (json!({"jwks": []}), "unknown field `jwks`"),
    ] {
        let (fits, error) = with_issuer(more.clone());
        assert!(!fits && error.contains(said) && error.contains("BULKHEAD_TOKENS__ISSUERS"), "{more}: {error}");
    }
    let (fits, error) = show(&[("BULKHEAD_TOKENS__ISSUERS", &issuer(json!({})))]);
    assert!(!fits && error.contains("`tokens.resource"), "{error}");
    let (fits, error) = show(&[("BULKHEAD_ACCESS__OWNERSHIP", "audit")]);
    assert!(!fits && error.contains("can't be changed") && error.contains("in no mode"), "{error}");
}
