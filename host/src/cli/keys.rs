//! `keys`: made, listed, rotated and revoked in the database of this machine, by the
//! same use cases as on the server, whether or not that is running. Who may
//! write to the data directory, or has the address of the database, is the operator.

use std::os::unix::fs::DirBuilderExt as _;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use bulkhead_core::clock::{Clock as _, Timestamp};
use bulkhead_core::key::{KeyId, KeyRecord};
use bulkhead_core::ports::store::Store;
use bulkhead_core::principal::{Owner, Scope, Scopes};
use bulkhead_core::service::keys::{Keys as UseCases, NewKey};
use serde_json::{Value, json};

use super::args::Keys;
use super::exit::{Exit, Failure};
use super::output::{Output, one_line, table};
use super::trace;
use crate::app::OpenStore;
use crate::config::{Config, Loaded};
use crate::system::System;

/// Does what was asked.
pub(super) fn keys(loaded: Loaded, command: Keys, output: &Output) -> Result<Exit, Failure> {
    trace::command(&loaded);
    let creates = matches!(command, Keys::Create { .. });
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let runtime = runtime.map_err(|error| Failure::host(&error))?;
    runtime.block_on(async {
        let store = open(&loaded.config, creates).await?;
        let use_cases = UseCases::new(store.clone(), Arc::new(System));
        let done = act(&use_cases, command).await;
        Store::close(&*store).await;
        let Done { document, text, note } = done?;
        if let Some(note) = note.filter(|_| !output.is_json()) {
            output.note(&note);
        }
        output.result(&document, || text);
        Ok(Exit::Ok)
    })
}

/// What is to be printed.
#[derive(Debug)]
struct Done {
    document: Value,
    text: String,
    /// Said beside the result, so that the result alone can be piped.
    note: Option<String>,
}

pub(super) async fn open(config: &Config, create: bool) -> Result<Arc<dyn Store>, Failure> {
    if config.database_url.is_some() {
        // It is there, or its absence is said with its name.
    } else if create {
        make_private(&config.data)?;
    } else if !config.database().exists() {
        let text = format!("there is no database {}; name the data directory by --data", config.database().display());
        return Err(Failure::new(Exit::NoInput, text));
    }
    let store = OpenStore::open(config).await.map_err(|error| Failure::host(&error))?;
    Ok(store.port())
}

fn make_private(path: &Path) -> Result<(), Failure> {
    let made = std::fs::DirBuilder::new().recursive(true).mode(0o700).create(path);
    made.map_err(|error| {
        Failure::new(Exit::Host, format!("the data directory {} can't be made: {error}", path.display()))
    })
}

async fn act(keys: &UseCases, command: Keys) -> Result<Done, Failure> {
    let failed = |error: bulkhead_core::Error| match error {
        bulkhead_core::Error::Invalid { .. } => Failure::usage(error),
        bulkhead_core::Error::NotFound { .. } => Failure::new(Exit::Failed, error),
        error => Failure::host(&error),
    };
    match command {
        Keys::Create { label, scopes, expires_in, tenant, user } => {
            let owner = match (tenant, user) {
                (Some(tenant), Some(user)) => Owner { tenant, user },
                _ => keys.first_owner().await.map_err(failed)?.0,
            };
            let expires_at = expires_in.map(|after| System.now().plus_millis(millis(after)));
            let new = NewKey { owner, scopes: scopes.unwrap_or_else(Scopes::usual), label, expires_at };
            let (key, record) = keys.create(new).await.map_err(failed)?;
            Ok(created(key.reveal(), &record))
        }
        Keys::Rotate { id, overlap, expires_in } => {
            let expires_at = expires_in.map(|after| System.now().plus_millis(millis(after)));
            let overlap = overlap.map_or(0, millis);
            let (key, record, until) = keys.rotate(&id, overlap, expires_at).await.map_err(failed)?;
            Ok(rotated(&id, until, created(key.reveal(), &record)))
        }
        Keys::List => Ok(list(&keys.list().await.map_err(failed)?)),
        Keys::Revoke { id } => {
            keys.revoke(&id).await.map_err(failed)?;
            let document = json!({"id": id.as_str(), "revoked": true});
            Ok(Done { document, text: format!("{id} is revoked"), note: None })
        }
    }
}

fn millis(duration: Duration) -> i64 {
    i64::try_from(duration.as_millis()).unwrap_or(i64::MAX)
}

/// A new key, and what becomes of the one that it replaces.
fn rotated(old: &KeyId, until: Timestamp, mut done: Done) -> Done {
    done.document["replaces"] = json!({"id": old.as_str(), "expires_at": until});
    done.note = done.note.map(|note| format!("Key {old} works until {until}.\n{note}"));
    done
}

/// The key alone is the result, so that a script can take it.
fn created(key: String, record: &KeyRecord) -> Done {
    let mut document = described(record);
    document["key"] = key.as_str().into();
    let expires = record.expires_at.map_or_else(|| "never expires".into(), |at| format!("expires at {at}"));
    let note = format!(
        "Key {} of {} may {}; it {expires}.\nIt is shown this once and can't be shown again:",
        record.id, record.owner.user, record.scopes
    );
    Done { document, text: key, note: Some(note) }
}

fn described(record: &KeyRecord) -> Value {
    json!({
        "id": record.id.as_str(),
        "label": record.label,
        "tenant": record.owner.tenant,
        "user": record.owner.user,
        "scopes": record.scopes.iter().map(Scope::as_str).collect::<Vec<_>>(),
        "created_at": record.created_at,
        "expires_at": record.expires_at,
        "revoked_at": record.revoked_at,
        "last_used_at": record.last_used_at,
    })
}

fn list(records: &[KeyRecord]) -> Done {
    let items: Vec<Value> = records.iter().map(described).collect();
    let now = System.now();
    let rows: Vec<_> = records.iter().map(|record| row(record, now)).collect();
    let text = table(&["ID", "STATE", "LABEL", "TENANT", "USER", "LAST USED", "SCOPES"], &rows);
    Done { document: json!({"items": items}), text, note: None }
}

fn row(record: &KeyRecord, now: Timestamp) -> Vec<String> {
    let state = match (record.revoked_at, record.expires_at) {
        (Some(_), _) => "revoked".into(),
        (None, Some(at)) if at <= now => "expired".into(),
        (None, Some(at)) => format!("until {at}"),
        (None, None) => "valid".into(),
    };
    let used = record.last_used_at.map_or_else(|| "never".into(), |at| at.to_string());
    vec![
        record.id.to_string(),
        state,
        one_line(&record.label),
        record.owner.tenant.to_string(),
        record.owner.user.to_string(),
        used,
        record.scopes.to_string(),
    ]
}

#[cfg(test)]
mod tests {
    use super::*;
    use bulkhead_store::MemoryStore;

    fn create(label: &str) -> Keys {
        Keys::Create { label: label.into(), scopes: None, expires_in: None, tenant: None, user: None }
    }

    #[tokio::test]
    async fn a_key_is_made_listed_and_revoked() {
        let keys = UseCases::new(Arc::new(MemoryStore::new()), Arc::new(System));
        for label in ["one", "two"] {
            let made = act(&keys, create(label)).await.expect("is made");
            assert_eq!(made.document["key"], made.text.as_str());
            assert!(made.text.starts_with("bh_") && !made.note.expect("says so").contains(&made.text));
        }
        let records = keys.list().await.expect("listed");
        assert_eq!(records.len(), 2);
        assert_eq!(records[0].owner, records[1].owner);
        assert!(!records[0].scopes.contains(Scope::OperatorTools) && records[0].scopes.contains(Scope::CallsRun));
        let listed = act(&keys, Keys::List).await.expect("listed");
        assert!(!listed.document.to_string().contains("bh_"), "a key is shown once");
        let id = records[0].id.clone();
        assert!(act(&keys, Keys::Revoke { id: id.clone() }).await.is_ok());
        let again = act(&keys, Keys::Revoke { id }).await.expect_err("is revoked");
        assert_eq!(again.exit, Exit::Failed);
        let long = act(&keys, create(&"x".repeat(1_000))).await.expect_err("is too long");
        assert_eq!(long.exit, Exit::Usage);
    }

    #[tokio::test]
    async fn a_rotated_key_works_a_while_longer_and_no_longer_than_it_would() {
        let keys = UseCases::new(Arc::new(MemoryStore::new()), Arc::new(System));
        let day = Some(Duration::from_secs(86_400));
        let Keys::Create { label, scopes, tenant, user, .. } = create("ci") else { panic!("not create") };
        let made = act(&keys, Keys::Create { label, scopes, expires_in: day, tenant, user }).await.expect("is made");
        let old = keys.list().await.expect("listed").remove(0);
        let hour = Some(Duration::from_secs(3_600));
        let rotate = |overlap| Keys::Rotate { id: old.id.clone(), overlap, expires_in: None };
        let done = act(&keys, rotate(hour)).await.expect("rotated");
        assert_ne!(done.text, made.text);
        let records = keys.list().await.expect("listed");
        let find = |id: &KeyId| records.iter().find(|key| key.id == *id).expect("is there");
        let new = records.iter().find(|key| key.id != old.id).expect("a second");
        assert_eq!((new.owner, new.scopes, &new.label), (old.owner, old.scopes, &old.label));
        // Its end is counted from a moment before or after the one at which it was made.
        let lives = new.expires_at.expect("ends").millis_since(new.created_at);
        assert!((86_399_000..=86_401_000).contains(&lives), "{lives}");
        let left = find(&old.id).expires_at.expect("ends").millis_since(System.now());
        assert!((3_590_000..=3_600_000).contains(&left), "{left}");
        for key in [&made.text, &done.text] {
            assert!(keys.authenticate(key).await.is_ok());
        }
        // Without an overlap the old one is over.
        act(&keys, rotate(None)).await.expect("rotated");
        assert!(keys.authenticate(&made.text).await.is_err());
        assert_eq!(act(&keys, rotate(hour)).await.expect_err("has ended").exit, Exit::Failed);
    }

    #[test]
    fn states_of_keys() {
        let at = Timestamp::from_millis(1_000);
        let record = KeyRecord {
            id: KeyId::parse("0123456789ab").expect("an id"),
            hash: bulkhead_core::digest::Digest::of(b""),
            owner: Owner {
                tenant: bulkhead_core::id::TenantId::from_parts(0, 0),
                user: bulkhead_core::id::UserId::from_parts(0, 0),
            },
            scopes: Scopes::usual(),
            label: String::new(),
            created_at: at,
            expires_at: Some(at),
            revoked_at: None,
            last_used_at: None,
        };
        assert_eq!(row(&record, at)[1], "expired");
        assert!(row(&record, Timestamp::from_millis(999))[1].starts_with("until 1970"));
        assert_eq!(row(&KeyRecord { revoked_at: Some(at), ..record }, at)[1], "revoked");
    }
}
