//! What makes a token one, each by its absence.

use super::issuer::{base64url, hs256};
use super::*;

#[tokio::test(start_paused = true)]
async fn each_algorithm_is_checked_by_its_key() {
    let keys: Vec<_> = ["RS256", "ES256", "EdDSA"].iter().map(|name| SigningKey::new(name, name)).collect();
    let setting = Setting::with(&keys.iter().collect::<Vec<_>>());
    let mut holders = Vec::new();
    for key in &keys {
        let token = key.sign(&alice());
        let holder = setting.verify(&token).await.unwrap_or_else(|error| panic!("{}: {error}", key.kid));
        assert_eq!(holder.scopes, "tasks:read calls:run".parse().unwrap());
        holders.push(holder);
        // One bit of anything signed or of the signature makes it another.
        for place in [token.len() - 20, token.find('.').unwrap() + 10, 3] {
            let mut bytes = token.clone().into_bytes();
            bytes[place] = if bytes[place] == b'A' { b'B' } else { b'A' };
            let changed = String::from_utf8(bytes).unwrap();
            assert!(setting.verify(&changed).await.is_err(), "{} at {place}", key.kid);
        }
    }
    assert!(holders.windows(2).all(|pair| pair[0] == pair[1]), "one user, however signed");
    let key = SigningKey::new("ES384", "k");
    let setting = Setting::of(vec![configured(json!({"algorithms": ["ES384"]}))], Answer::Ok(set(&[&key])));
    assert_eq!(setting.verify(&key.sign(&alice())).await, Ok(holders[0].clone()));
}

#[tokio::test(start_paused = true)]
async fn the_configuration_says_how_a_token_is_checked_and_not_the_token() {
    let (rsa, ec) = (SigningKey::new("RS256", "rsa"), SigningKey::new("ES256", "ec"));
    let setting = Setting::with(&[&rsa, &ec]);
    let unsigned = |alg: &str| {
        let header = json!({"alg": alg, "kid": "rsa"}).to_string();
        format!("{}.{}.", base64url(header), base64url(alice().to_string()))
    };
    for alg in ["none", "None", "NONE", "", "HS256", "RS256"] {
        assert!(setting.verify(&unsigned(alg)).await.is_err(), "{alg}");
    }
    // The public key as a shared secret, in the forms in which it is found.
    let jwk = rsa.jwk();
    for secret in [jwk.to_string(), jwk["n"].as_str().unwrap().to_owned(), set(&[&rsa])] {
        let refusal = setting.refusal(&hs256(secret.as_bytes(), "rsa", &alice())).await;
        assert!(refusal.contains("algorithm"), "{refusal}");
    }
    // Known and asymmetric, but not pinned for this issuer.
    for alg in ["PS256", "RS512", "ES384"] {
        let token = rsa.sign_with(&json!({"alg": alg, "kid": "rsa"}), &alice());
        assert!(setting.refusal(&token).await.contains("algorithm"), "{alg}");
    }
    // Pinned, but not the key's: its kind, and its own word.
    for (key, alg, kid) in [(&rsa, "ES256", "rsa"), (&ec, "RS256", "ec"), (&rsa, "RS256", "ec"), (&ec, "EdDSA", "ec")] {
        let token = key.sign_with(&json!({"alg": alg, "kid": kid}), &alice());
        assert!(setting.verify(&token).await.is_err(), "{alg} {kid}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_key_that_says_what_it_is_for_is_for_nothing_else() {
    let rsa = SigningKey::new("RS256", "k");
    let issuer = || configured(json!({"algorithms": ["RS256", "PS256"]}));
    let pss = rsa.sign_with(&json!({"alg": "PS256", "kid": "k"}), &alice());
    let mut silent = rsa.jwk();
    silent.as_object_mut().unwrap().remove("alg");
    let open = Setting::of(vec![issuer()], Answer::Ok(json!({"keys": [silent]}).to_string()));
    assert!(open.verify(&pss).await.is_ok());
    let closed = Setting::of(vec![issuer()], Answer::Ok(set(&[&rsa])));
    assert!(closed.verify(&pss).await.is_err());
    assert!(closed.verify(&rsa.sign(&alice())).await.is_ok());
}

#[tokio::test(start_paused = true)]
async fn keys_are_found_by_name_or_because_there_is_only_one() {
    let (one, two, ed) =
        (SigningKey::new("ES256", "one"), SigningKey::new("ES256", "two"), SigningKey::new("EdDSA", "ed"));
    let setting = Setting::with(&[&one, &two, &ed]);
    let nameless = |key: &SigningKey| key.sign_with(&json!({"alg": key.algorithm()}), &alice());
    assert!(setting.verify(&nameless(&ed)).await.is_ok());
    assert!(setting.refusal(&nameless(&one)).await.contains("key"));
    let token = two.sign_with(&json!({"alg": "ES256", "kid": "one"}), &alice());
    assert!(setting.refusal(&token).await.contains("signature"));
}

#[tokio::test(start_paused = true)]
async fn every_claim_counts() {
    let key = SigningKey::new("EdDSA", "k");
    let setting = Setting::with(&[&key]);
    let at = |seconds: i64| json!(now() + seconds);
    let wrong = [
        without(alice(), "iss"),
        with(alice(), "iss", json!("https://login.example.com/")),
        with(alice(), "iss", json!("https://evil.example.com")),
        without(alice(), "aud"),
        with(alice(), "aud", json!("https://other.example.com")),
        with(alice(), "aud", json!(["https://other.example.com"])),
        with(alice(), "aud", json!({"https://tools.example.com": 1})),
        without(alice(), "exp"),
        with(alice(), "exp", at(-31)),
        with(alice(), "exp", json!("tomorrow")),
        with(alice(), "exp", json!(1e300)),
        with(alice(), "exp", json!(-1)),
        with(alice(), "nbf", at(45)),
        with(alice(), "nbf", json!("now")),
        with(alice(), "iat", at(45)),
        without(alice(), "sub"),
        with(alice(), "sub", json!("")),
        with(alice(), "sub", json!(7)),
        with(alice(), "sub", json!("x".repeat(256))),
        without(alice(), "org"),
        with(alice(), "org", json!(["acme"])),
        with(alice(), "cnf", json!({"jkt": "x"})),
    ];
    for claims in wrong {
        assert!(setting.verify(&key.sign(&claims)).await.is_err(), "{claims}");
    }
    let right = [
        alice(),
        with(alice(), "aud", json!(["x", "https://tools.example.com"])),
        // Within the leeway of half a minute.
        with(alice(), "exp", at(-20)),
        with(alice(), "nbf", at(20)),
        with(alice(), "exp", json!(now() as f64 + 60.5)),
    ];
    for claims in right {
        assert!(setting.verify(&key.sign(&claims)).await.is_ok(), "{claims}");
    }
    let twice = alice().to_string().replacen('{', r#"{"aud":"https://other.example.com","#, 1);
    let header = json!({"alg": "EdDSA", "kid": "k"}).to_string();
    assert!(setting.verify(&key.sign_text(&header, &twice)).await.is_err(), "a claim that stands there twice");
}

#[tokio::test(start_paused = true)]
async fn what_is_no_access_token_is_none_here() {
    let key = SigningKey::new("EdDSA", "k");
    let setting = Setting::with(&[&key]);
    let typed = |typ: Value| key.sign_with(&with(json!({"alg": "EdDSA", "kid": "k"}), "typ", typ), &alice());
    for typ in ["at+jwt", "AT+JWT", "application/at+jwt", "JWT"] {
        assert!(setting.verify(&typed(json!(typ))).await.is_ok(), "{typ}");
    }
    for typ in ["logout+jwt", "secevent+jwt", "dpop+jwt", "token-introspection+jwt", ""] {
        assert!(setting.verify(&typed(json!(typ))).await.is_err(), "{typ}");
    }
    let demanding = json!({"alg": "EdDSA", "kid": "k", "crit": ["exp"]});
    assert!(setting.refusal(&key.sign_with(&demanding, &alice())).await.contains("crit"));
    // A key that comes with the token is not looked at.
    let own = SigningKey::new("EdDSA", "own");
    let brought = json!({"alg": "EdDSA", "kid": "own", "jwk": own.jwk(), "jku": "https://evil.example.com/keys"});
    assert!(setting.verify(&own.sign_with(&brought, &alice())).await.is_err());
    assert!(setting.web.seen.lock().unwrap().iter().all(|(url, _)| !url.contains("evil")));
}

#[tokio::test(start_paused = true)]
async fn what_is_no_token_is_refused_without_a_fetch() {
    let key = SigningKey::new("EdDSA", "k");
    let setting = Setting::with(&[&key]);
    let good = key.sign(&alice());
    assert!(setting.verify(&good).await.is_ok());
    let fetched = setting.web.fetches();
    let huge = key.sign(&with(alice(), "padding", json!("x".repeat(9_000))));
    let long = format!("{good}{}", "A".repeat(9_000));
    let deep = format!("{}.{}.AAAA", base64url(r#"{"alg":"EdDSA"}"#), base64url("[".repeat(2_000)));
    let cases = ["", ".", "..", "...", "a.b.c", "eyJ.eyJ.x", &good[..good.len() - 1], &good[1..], &huge, &long, &deep];
    for token in cases {
        assert!(setting.verify(token).await.is_err(), "{token:.40}");
    }
    for changed in [format!("{good}="), format!("{good}."), format!(" {good}"), good.replace('.', "..")] {
        assert!(setting.verify(&changed).await.is_err(), "{changed:.40}");
    }
    assert_eq!(setting.web.fetches(), fetched);
    let readings = setting.tokens.readings();
    assert_eq!((readings.verified, readings.refused), (1, 15));
}

#[tokio::test(start_paused = true)]
async fn a_good_token_is_remembered_until_it_expires_and_no_bad_one_is() {
    let key = SigningKey::new("EdDSA", "k");
    let setting = Setting::with(&[&key]);
    let token = key.sign(&with(alice(), "exp", json!(now() + 60)));
    for _ in 0..5 {
        assert!(setting.verify(&token).await.is_ok());
    }
    let readings = setting.tokens.readings();
    assert_eq!((readings.verified, readings.remembered), (1, 4));
    for number in 0..200 {
        let token = key.sign_with(&json!({"alg": "EdDSA", "kid": "k"}), &with(alice(), "aud", json!(number)));
        assert!(setting.verify(&token).await.is_err());
    }
    setting.tokens.good.run_pending_tasks();
    assert_eq!(setting.tokens.good.entry_count(), 1);
    setting.clock.0.fetch_add(91_000, Ordering::SeqCst);
    assert!(matches!(setting.verify(&token).await, Err(TokenRefused::Expired(_))));
}

/// Two thousand tokens that differ from a good one in a few signs, and as many
/// sets of keys: none is taken, none makes anything panic.
#[tokio::test(start_paused = true)]
async fn nothing_near_a_token_is_one() {
    let key = SigningKey::new("EdDSA", "k");
    let setting = Setting::with(&[&key]);
    let (good, published) = (key.sign(&alice()), set(&[&key]));
    assert!(setting.verify(&good).await.is_ok());
    let mut seed = 0x2545_f491_4f6c_dd1d_u64;
    let mut random = move |below: usize| {
        seed ^= seed << 13;
        seed ^= seed >> 7;
        seed ^= seed << 17;
        seed as usize % below
    };
    let signs = br#"ABCxyz019-_.=+/ {}[]":,"#;
    let mut near = |text: &str| {
        let mut bytes = text.as_bytes().to_vec();
        for _ in 0..=random(3) {
            let (place, sign) = (random(bytes.len()), signs[random(signs.len())]);
            match random(3) {
                0 => bytes[place] = sign,
                1 => bytes.insert(place, sign),
                _ => drop(bytes.remove(place)),
            }
        }
        String::from_utf8(bytes).unwrap()
    };
    for _ in 0..2_000 {
        let token = near(&good);
        assert!(token == good || setting.verify(&token).await.is_err(), "{token}");
        // Whatever becomes of it, it is no other key by this name.
        let keys = super::super::jwks::Keys::parse(near(&published).as_bytes());
        let found = keys.ok().and_then(|keys| keys.find(Some("k"), super::super::Algorithm::EdDsa).cloned());
        assert!(found.is_none_or(|key| !key.verifies(super::super::Algorithm::EdDsa, b"x", &[0; 64])));
    }
}
