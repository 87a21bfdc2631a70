//! Owners and API keys.

use std::sync::Arc;

use bulkhead_core::clock::Entropy;
use bulkhead_core::key::{ApiKey, KeyRecord};
use bulkhead_core::ports::store::{Store, StoreError};
use bulkhead_core::principal::Scopes;

use super::world::{at, audit, owner};

struct Fixed(u8);

impl Entropy for Fixed {
    fn fill(&self, bytes: &mut [u8]) {
        bytes.fill(self.0);
    }
}

pub(super) fn record(number: u8) -> KeyRecord {
    let key = ApiKey::generate(&Fixed(number));
    KeyRecord {
        id: key.id().clone(),
        hash: key.hash(),
        owner: owner(1),
        scopes: "calls:run files:read".parse::<Scopes>().unwrap(),
        label: format!("key {number}"),
        created_at: at(i64::from(number)),
        expires_at: (number == 2).then(|| at(99)),
        revoked_at: None,
        last_used_at: None,
    }
}

pub(super) async fn the_first_owner_is_the_first_stored(store: Arc<dyn Store>) {
    assert_eq!(store.first_owner().await.unwrap(), None);
    store.ensure_owner(owner(2), at(2)).await.unwrap();
    store.ensure_owner(owner(1), at(1)).await.unwrap();
    store.ensure_owner(owner(2), at(3)).await.unwrap();
    assert_eq!(store.first_owner().await.unwrap(), Some(owner(2)));
}

pub(super) async fn keys_are_kept_revoked_once_and_touched(store: Arc<dyn Store>) {
    let (mut one, two) = (record(1), record(2));
    store.create_key(&one, audit()).await.unwrap();
    store.create_key(&two, audit()).await.unwrap();
    assert!(matches!(store.create_key(&one, audit()).await, Err(StoreError::Exists("key"))));
    assert_eq!(store.key(&one.id).await.unwrap(), Some(one.clone()));
    assert_eq!(store.list_keys().await.unwrap(), [two.clone(), one.clone()]);

    assert!(store.revoke_key(&one.id, at(5), audit()).await.unwrap());
    assert!(!store.revoke_key(&one.id, at(6), audit()).await.unwrap());
    store.touch_key(&one.id, at(8)).await.unwrap();
    store.touch_key(&one.id, at(7)).await.unwrap();
    (one.revoked_at, one.last_used_at) = (Some(at(5)), Some(at(8)));
    assert_eq!(store.key(&one.id).await.unwrap(), Some(one));

    let unknown = record(3).id;
    assert_eq!(store.key(&unknown).await.unwrap(), None);
    assert!(!store.revoke_key(&unknown, at(5), audit()).await.unwrap());
    store.touch_key(&unknown, at(5)).await.unwrap();
    assert_eq!(store.key(&two.id).await.unwrap(), Some(two));
}

pub(super) async fn a_key_ends_at_the_soonest_time_that_was_said(store: Arc<dyn Store>) {
    let (one, two, three) = (record(1), record(2), record(3));
    for key in [&one, &two, &three] {
        store.create_key(key, audit()).await.unwrap();
    }
    let ends = async |id| store.key(id).await.unwrap().unwrap().expires_at;
    for (asked, expected) in [(50, 50), (70, 50), (40, 40)] {
        assert!(store.expire_key(&one.id, at(asked), audit()).await.unwrap());
        assert_eq!(ends(&one.id).await, Some(at(expected)));
    }
    assert!(store.expire_key(&two.id, at(100), audit()).await.unwrap());
    assert_eq!(ends(&two.id).await, Some(at(99)), "it ended sooner already");
    store.revoke_key(&three.id, at(5), audit()).await.unwrap();
    assert!(!store.expire_key(&three.id, at(6), audit()).await.unwrap());
    assert_eq!(ends(&three.id).await, None);
    assert!(!store.expire_key(&record(4).id, at(6), audit()).await.unwrap());
    let recorded = store.audit_chains().await.unwrap()[0].head.number;
    assert_eq!(recorded, 3 + 4 + 1, "each that was made, ends or was revoked, and nothing else");
}
