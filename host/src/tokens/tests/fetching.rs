//! Keys come and go: rotation, issuers that are away, hostile ones, and
//! whoever wants to make this server fetch.

use super::*;

/// Lets the task of the keys do what is due.
async fn settle() {
    for _ in 0..20 {
        tokio::task::yield_now().await;
    }
}

#[tokio::test(start_paused = true)]
async fn new_keys_are_found_by_the_first_token_that_names_them_and_old_ones_go() {
    let (old, new) = (SigningKey::new("ES256", "old"), SigningKey::new("ES256", "new"));
    let setting = Setting::with(&[&old]);
    let (first, second) = (old.sign(&alice()), new.sign(&alice()));
    assert!(setting.verify(&first).await.is_ok());
    setting.web.publish(Answer::Ok(set(&[&new])));
    // Not so soon after the last fetch.
    assert!(setting.verify(&second).await.is_err());
    tokio::time::advance(Duration::from_secs(31)).await;
    assert!(setting.verify(&second).await.is_ok());
    // A token that was remembered goes with its key.
    assert!(setting.verify(&first).await.is_err());
    assert_eq!(setting.web.fetches(), 2);
}

#[tokio::test(start_paused = true)]
async fn made_up_names_of_keys_make_one_fetch_in_a_while() {
    let key = SigningKey::new("EdDSA", "k");
    let setting = Arc::new(Setting::with(&[&key]));
    assert!(setting.verify(&key.sign(&alice())).await.is_ok());
    let token = |number: usize| key.sign_with(&json!({"alg": "EdDSA", "kid": format!("k{number}")}), &alice());
    for number in 0..500 {
        assert!(setting.verify(&token(number)).await.is_err());
    }
    assert_eq!(setting.web.fetches(), 1);
    tokio::time::advance(Duration::from_secs(31)).await;
    // All at once: one fetches, the others wait for it or are answered at once.
    let all = (500..1_000).map(|number| {
        let (setting, token) = (setting.clone(), token(number));
        tokio::spawn(async move { setting.verify(&token).await.is_err() })
    });
    for refused in futures::future::join_all(all.collect::<Vec<_>>()).await {
        assert!(refused.unwrap());
    }
    assert_eq!(setting.web.fetches(), 2);
}

#[tokio::test(start_paused = true)]
async fn keys_are_fetched_again_by_age_and_kept_while_the_issuer_is_away() {
    let key = SigningKey::new("EdDSA", "k");
    let setting = Setting::with(&[&key]);
    let token = |number: u32| key.sign(&with(alice(), "jti", json!(number)));
    assert!(setting.verify(&token(1)).await.is_ok());
    tokio::time::sleep(Duration::from_secs(601)).await;
    assert_eq!(setting.web.fetches(), 2);
    setting.web.publish(Answer::Fails);
    tokio::time::sleep(Duration::from_secs(1_800)).await;
    assert!(setting.verify(&token(2)).await.is_ok(), "away for half an hour");
    tokio::time::sleep(Duration::from_secs(1_900)).await;
    for number in [2, 3] {
        assert_eq!(setting.verify(&token(number)).await, Err(TokenRefused::Unavailable), "away for an hour");
    }
    let tried = setting.web.fetches();
    assert!((30..100).contains(&tried), "tried {tried} times in an hour");
    setting.web.publish(Answer::Ok(set(&[&key])));
    tokio::time::sleep(Duration::from_secs(61)).await;
    assert!(setting.verify(&token(3)).await.is_ok(), "it is back");
}

#[tokio::test(start_paused = true)]
async fn without_keys_a_token_can_not_be_checked_and_the_answer_is_not_no() {
    let key = SigningKey::new("EdDSA", "k");
    let setting = Setting::of(vec![configured(json!({}))], Answer::Fails);
    settle().await;
    assert_eq!(setting.verify(&key.sign(&alice())).await, Err(TokenRefused::Unavailable));
    // What is no token of the issuer's is one without keys too.
    assert!(matches!(setting.verify("a.b.c").await, Err(TokenRefused::Invalid(_))));
    setting.web.publish(Answer::Ok(set(&[&key])));
    tokio::time::sleep(Duration::from_secs(5)).await;
    assert!(setting.verify(&key.sign(&alice())).await.is_ok());
}

#[tokio::test(start_paused = true)]
async fn hostile_sets_change_nothing() {
    let (key, own) = (SigningKey::new("EdDSA", "k"), SigningKey::new("EdDSA", "own"));
    let many: Vec<_> = (0..65).map(|_| own.jwk()).collect();
    let secret = json!({"keys": [{"kty": "oct", "kid": "own", "k": "c2VjcmV0"}]});
    let mut encrypting = own.jwk();
    encrypting["use"] = "enc".into();
    let answers = [
        Answer::Status(302),
        Answer::Status(500),
        Answer::Never,
        Answer::Endless,
        Answer::Fails,
        Answer::Ok(String::new()),
        Answer::Ok("[".repeat(1_000)),
        Answer::Ok(json!({"keys": []}).to_string()),
        Answer::Ok(json!({"keys": many}).to_string()),
        Answer::Ok(secret.to_string()),
        Answer::Ok(json!({"keys": [encrypting]}).to_string()),
    ];
    let setting = Setting::with(&[&key]);
    let good = key.sign(&alice());
    assert!(setting.verify(&good).await.is_ok());
    for (number, answer) in answers.into_iter().enumerate() {
        setting.web.publish(answer);
        tokio::time::advance(Duration::from_secs(31)).await;
        assert!(setting.verify(&own.sign(&alice())).await.is_err(), "answer {number}");
        assert!(setting.verify(&good).await.is_ok(), "answer {number}");
    }
    let readings = setting.tokens.readings();
    assert_eq!(readings.fetches_failed + 1, readings.fetches);
    setting.tokens.close().await;
}

#[tokio::test(start_paused = true)]
async fn an_issuers_document_is_its_own_and_leads_to_public_places() {
    let key = SigningKey::new("EdDSA", "k");
    for (document, taken) in [
        (json!({"issuer": ISSUER, "jwks_uri": "https://login.example.com/keys"}), true),
        (json!({"issuer": ISSUER, "jwks_uri": "https://keys.example.net/keys"}), true),
        (json!({"issuer": "https://evil.example.com", "jwks_uri": "https://login.example.com/keys"}), false),
        (json!({"issuer": ISSUER, "jwks_uri": "http://login.example.com/keys"}), false),
        (json!({"issuer": ISSUER, "jwks_uri": "http://127.0.0.1/keys"}), false),
        (json!({"issuer": ISSUER, "jwks_uri": "file:///etc/passwd"}), false),
        (json!({"issuer": ISSUER}), false),
    ] {
        let setting = Setting::of(vec![configured(json!({}))], Answer::Fails);
        *setting.web.document.lock().unwrap() = Answer::Ok(document.to_string());
        setting.web.publish(Answer::Ok(set(&[&key])));
        let verified = setting.verify(&key.sign(&alice())).await;
        assert_eq!(verified.is_ok(), taken, "{document}: {verified:?}");
        let seen = setting.web.seen.lock().unwrap();
        assert_eq!(seen[0], (format!("{ISSUER}/.well-known/openid-configuration"), true));
        // The host that the configuration names may be an inner one, another may not.
        assert!(seen.iter().all(|(url, private)| *private == url.starts_with(ISSUER)), "{seen:?}");
    }
}

#[tokio::test]
async fn keys_may_come_from_a_file() {
    let (one, two) = (SigningKey::new("EdDSA", "one"), SigningKey::new("EdDSA", "two"));
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("keys.json");
    std::fs::write(&path, set(&[&one])).unwrap();
    let setting = Setting::of(vec![configured(json!({"jwks_file": path}))], Answer::Fails);
    assert!(setting.verify(&one.sign(&alice())).await.is_ok());
    assert!(setting.verify(&two.sign(&alice())).await.is_err());
    assert_eq!(setting.web.seen.lock().unwrap().len(), 0);
    setting.tokens.close().await;
}
