//! What is known of files: histories, deleted entries, uploads, access logs.

use async_trait::async_trait;
use bulkhead_core::clock::Timestamp;
use bulkhead_core::digest::Digest;
use bulkhead_core::event::NewEvent;
use bulkhead_core::files::{Access, CHANGED, DeletedFile, DeletedState, HistoryEntry, Upload, entries_of};
use bulkhead_core::id::{AccessId, DeletedId, TaskId, UploadId};
use bulkhead_core::ports::files::{ContentPlace, FileRecords, FileRetention, FileStep, FilesRetained, HistoryPage};
use bulkhead_core::ports::store::{Appended, Page, StoreError};
use bulkhead_core::principal::Owner;
use bulkhead_core::quota::Extent;
use rusqlite::{Connection, params};
use sqlx::{query_as, query_scalar};

use super::write::Transaction;
use super::{SqliteStore, log, read_failed, tasks};
use crate::rows::{AccessRow, ContentRow, DeletedRow, HistoryRow, UploadRow, all, maybe, number, word};

/// Most rows that one transaction of retention removes.
const CHUNK: i64 = 500;

/// Most transactions of one run of it.
const RUN: usize = 32;

/// Sorts after every id.
const LAST: &str = "~";

/// Stores the entries that an event of a task makes, within the write that appends it.
pub(super) fn keep_history(
    db: &Connection,
    (task, tenant, user): (&str, &str, &str),
    event: &NewEvent,
    seq: i64,
) -> rusqlite::Result<()> {
    if event.kind != CHANGED {
        return Ok(());
    }
    let entries = entries_of(event, seq.unsigned_abs());
    let mut insert = db.prepare_cached(
        "INSERT INTO file_changes (task_id, seq, number, tenant_id, user_id, at, actor, by_user, call_id, path, change,
                                   size, digest, media_type, etag)
         VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
    )?;
    for entry in &entries {
        let facts = entry.facts.as_ref();
        insert.execute(params![
            task,
            seq,
            entry.place.number,
            tenant,
            user,
            entry.at.as_millis(),
            word(&entry.by),
            entry.user.map(|user| user.to_string()),
            entry.call.map(|call| call.to_string()),
            entry.path,
            word(&entry.change),
            facts.map(|facts| number(facts.size)),
            facts.map(|facts| facts.digest.to_string()),
            facts.map(|facts| &facts.media_type),
            facts.map(|facts| &facts.etag),
        ])?;
    }
    db.prepare_cached("UPDATE tasks SET history_entries = history_entries + ? WHERE id = ?")?
        .execute(params![number(entries.len() as u64), task])
        .map(drop)
}

/// Does what a change is beside its events. False if what it names is not there.
fn take_step(db: &Connection, task: &str, step: FileStep) -> rusqlite::Result<bool> {
    let done = match step {
        FileStep::Alone => return Ok(true),
        FileStep::Kept(id, extent) => db
            .prepare_cached(
                "UPDATE deleted_files SET state = 'kept', bytes = ?, entries = ?
                 WHERE id = ? AND task_id = ? AND state = 'leaving'",
            )?
            .execute(params![number(extent.bytes), number(extent.entries), id.to_string(), task])?,
        FileStep::Gone(id) => db
            .prepare_cached("DELETE FROM deleted_files WHERE id = ? AND task_id = ?")?
            .execute(params![id.to_string(), task])?,
        FileStep::Completed(id, at) => db
            .prepare_cached(
                "UPDATE uploads SET completed_at = ? WHERE id = ? AND task_id = ? AND completed_at IS NULL",
            )?
            .execute(params![at.as_millis(), id.to_string(), task])?,
    };
    Ok(done > 0)
}

#[async_trait]
impl FileRecords for SqliteStore {
    async fn change_files(
        &self,
        task: TaskId,
        step: FileStep,
        extent: Option<Extent>,
        events: Vec<NewEvent>,
    ) -> Result<Option<Appended>, StoreError> {
        let (task, rows) = (task.to_string(), log::rows_of(&events));
        let change = move |db: &Transaction<'_>| {
            if !take_step(db, &task, step)? {
                return Ok(None);
            }
            if let Some(extent) = extent {
                tasks::set_extent(db, &task, extent)?;
            }
            log::append(db, &task, &events)
        };
        self.write_rows("file", rows, change).await
    }

    async fn file_history(&self, task: TaskId, page: HistoryPage) -> Result<Vec<HistoryEntry>, StoreError> {
        let text = match &page.path {
            Some(_) => {
                "SELECT task_id, seq, number, at, actor, by_user, call_id, path, change, size, digest, media_type, etag
                 FROM file_changes WHERE task_id = ?1 AND (seq, number) < (?2, ?3) AND path = ?5
                 ORDER BY seq DESC, number DESC LIMIT ?4"
            }
            None => {
                "SELECT task_id, seq, number, at, actor, by_user, call_id, path, change, size, digest, media_type, etag
                 FROM file_changes WHERE task_id = ?1 AND (seq, number) < (?2, ?3)
                 ORDER BY seq DESC, number DESC LIMIT ?4"
            }
        };
        let (seq, nth) = page.before.map_or((i64::MAX, i64::MAX), |at| (number(at.seq), i64::from(at.number)));
        let mut query = query_as(text).bind(task.to_string()).bind(seq).bind(nth).bind(page.limit);
        if let Some(path) = page.path {
            query = query.bind(path);
        }
        let rows: Vec<HistoryRow> = query.fetch_all(&self.readers).await.map_err(read_failed)?;
        all(rows)
    }

    async fn contents(&self, owner: Owner, digest: Digest, limit: u32) -> Result<Vec<ContentPlace>, StoreError> {
        let rows: Vec<ContentRow> = query_as(
            "SELECT task_id, path, size, digest, media_type, etag FROM file_changes
             WHERE tenant_id = ? AND user_id = ? AND digest = ? ORDER BY at DESC LIMIT ?",
        )
        .bind(owner.tenant.to_string())
        .bind(owner.user.to_string())
        .bind(digest.to_string())
        .bind(limit)
        .fetch_all(&self.readers)
        .await
        .map_err(read_failed)?;
        all(rows)
    }

    async fn retain_files(&self, retention: FileRetention) -> Result<FilesRetained, StoreError> {
        let mut removed = FilesRetained::default();
        let (before, most) = (retention.history_before.as_millis(), number(retention.history_per_task));
        let tasks: Vec<String> = query_scalar(
            "SELECT id FROM tasks WHERE history_entries > ?1
             UNION SELECT task_id FROM (SELECT task_id FROM file_changes WHERE at < ?2 ORDER BY at LIMIT ?3) LIMIT ?4",
        )
        .bind(most)
        .bind(before)
        .bind(CHUNK)
        .bind(RUN as i64)
        .fetch_all(&self.readers)
        .await
        .map_err(read_failed)?;
        for task in tasks {
            removed.history += self.write_alone("file", move |db| shorten_history(db, &task, most, before)).await?;
        }
        let before = retention.accesses_before.as_millis();
        for _ in 0..RUN {
            let gone = self.write_alone("access", move |db| {
                db.prepare_cached(
                    "DELETE FROM file_accesses WHERE rowid IN
                        (SELECT rowid FROM file_accesses WHERE at < ? ORDER BY at LIMIT ?)",
                )?
                .execute(params![before, CHUNK])
            });
            let gone = gone.await? as u64;
            removed.accesses += gone;
            if gone < CHUNK.unsigned_abs() {
                break;
            }
        }
        Ok(removed)
    }

    async fn put_deleted(&self, file: &DeletedFile) -> Result<bool, StoreError> {
        let file = file.clone();
        let put = move |db: &Transaction<'_>| {
            db.prepare_cached(
                "INSERT INTO deleted_files (id, task_id, tenant_id, user_id, state, path, target, kind, bytes, entries, at)
                 SELECT ?1, id, tenant_id, user_id, ?3, ?4, ?5, ?6, ?7, ?8, ?9 FROM tasks WHERE id = ?2",
            )?
            .execute(params![
                file.id.to_string(),
                file.task.to_string(),
                file.state.as_str(),
                file.path,
                file.target,
                file.kind.as_str(),
                number(file.extent.bytes),
                number(file.extent.entries),
                file.at.as_millis(),
            ])
        };
        Ok(self.write("deleted file", put).await? > 0)
    }

    async fn move_deleted(
        &self,
        task: TaskId,
        id: DeletedId,
        from: DeletedState,
        to: DeletedState,
        target: Option<&str>,
    ) -> Result<bool, StoreError> {
        let (task, id, target) = (task.to_string(), id.to_string(), target.map(str::to_owned));
        let step = move |db: &Transaction<'_>| {
            db.prepare_cached(
                "UPDATE deleted_files SET state = ?, target = ? WHERE id = ? AND task_id = ? AND state = ?",
            )?
            .execute(params![to.as_str(), target, id, task, from.as_str()])
        };
        Ok(self.write("deleted file", step).await? > 0)
    }

    async fn deleted(&self, task: TaskId, id: DeletedId) -> Result<Option<DeletedFile>, StoreError> {
        let row: Option<DeletedRow> = query_as("SELECT * FROM deleted_files WHERE id = ? AND task_id = ?")
            .bind(id.to_string())
            .bind(task.to_string())
            .fetch_optional(&self.readers)
            .await
            .map_err(read_failed)?;
        maybe(row)
    }

    async fn list_deleted(&self, task: TaskId, page: Page<DeletedId>) -> Result<Vec<DeletedFile>, StoreError> {
        let before = page.before.map_or_else(|| LAST.to_owned(), |id| id.to_string());
        let rows: Vec<DeletedRow> = query_as(
            "SELECT * FROM deleted_files WHERE task_id = ? AND id < ? AND state = 'kept' ORDER BY id DESC LIMIT ?",
        )
        .bind(task.to_string())
        .bind(before)
        .bind(page.limit)
        .fetch_all(&self.readers)
        .await
        .map_err(read_failed)?;
        all(rows)
    }

    async fn deleted_to_tend(
        &self,
        before: Timestamp,
        after: Option<DeletedId>,
        limit: u32,
    ) -> Result<Vec<DeletedFile>, StoreError> {
        // Ids sort by time: what is to go comes first, and what is on its way is little.
        let oldest_kept = DeletedId::from_parts(before.as_millis().unsigned_abs(), 0);
        let rows: Vec<DeletedRow> = query_as(
            "SELECT * FROM (
                 SELECT * FROM (SELECT * FROM deleted_files WHERE id > ?1 AND id < ?2 ORDER BY id LIMIT ?3)
                 UNION
                 SELECT * FROM (SELECT * FROM deleted_files WHERE id > ?1 AND state <> 'kept' ORDER BY id LIMIT ?3)
             ) ORDER BY id LIMIT ?3",
        )
        .bind(after.map(|id| id.to_string()).unwrap_or_default())
        .bind(oldest_kept.to_string())
        .bind(limit)
        .fetch_all(&self.readers)
        .await
        .map_err(read_failed)?;
        all(rows)
    }

    async fn put_upload(&self, upload: &Upload, most: u32) -> Result<bool, StoreError> {
        let upload = upload.clone();
        let put = move |db: &Transaction<'_>| {
            db.prepare_cached(
                "INSERT INTO uploads (id, task_id, tenant_id, user_id, path, length, replace, executable, media_type,
                                      digest, created_at, expires_at)
                 SELECT ?1, id, tenant_id, user_id, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10 FROM tasks
                 WHERE id = ?2 AND (SELECT count(*) FROM uploads WHERE task_id = ?2 AND completed_at IS NULL) < ?11",
            )?
            .execute(params![
                upload.id.to_string(),
                upload.task.to_string(),
                upload.path,
                number(upload.length),
                upload.replace,
                upload.executable,
                upload.media_type,
                upload.digest.map(|digest| digest.to_string()),
                upload.created_at.as_millis(),
                upload.expires_at.as_millis(),
                most,
            ])
        };
        Ok(self.write("upload", put).await? > 0)
    }

    async fn upload(&self, task: TaskId, id: UploadId) -> Result<Option<Upload>, StoreError> {
        let row: Option<UploadRow> = query_as("SELECT * FROM uploads WHERE id = ? AND task_id = ?")
            .bind(id.to_string())
            .bind(task.to_string())
            .fetch_optional(&self.readers)
            .await
            .map_err(read_failed)?;
        maybe(row)
    }

    async fn remove_upload(&self, task: TaskId, id: UploadId) -> Result<bool, StoreError> {
        let (task, id) = (task.to_string(), id.to_string());
        let remove = move |db: &Transaction<'_>| {
            db.prepare_cached("DELETE FROM uploads WHERE id = ? AND task_id = ?")?.execute(params![id, task])
        };
        Ok(self.write("upload", remove).await? > 0)
    }

    async fn expired_uploads(
        &self,
        before: Timestamp,
        after: Option<UploadId>,
        limit: u32,
    ) -> Result<Vec<Upload>, StoreError> {
        let rows: Vec<UploadRow> =
            query_as("SELECT * FROM uploads WHERE expires_at < ? AND id > ? ORDER BY id LIMIT ?")
                .bind(before.as_millis())
                .bind(after.map(|id| id.to_string()).unwrap_or_default())
                .bind(limit)
                .fetch_all(&self.readers)
                .await
                .map_err(read_failed)?;
        all(rows)
    }

    async fn append_accesses(&self, entries: &[Access]) -> Result<(), StoreError> {
        let (rows, entries) = (entries.len(), entries.to_vec());
        let append = move |db: &Transaction<'_>| {
            let mut insert = db.prepare_cached(
                "INSERT OR IGNORE INTO file_accesses (id, task_id, tenant_id, user_id, by_tenant, by_user, at, kind, path,
                                                      bytes, status, edge)
                 VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
            )?;
            for entry in &entries {
                insert.execute(params![
                    entry.id.to_string(),
                    entry.task.to_string(),
                    entry.owner.tenant.to_string(),
                    entry.owner.user.to_string(),
                    entry.by.tenant.to_string(),
                    entry.by.user.to_string(),
                    entry.at.as_millis(),
                    entry.kind.as_str(),
                    entry.path,
                    number(entry.bytes),
                    entry.status,
                    entry.edge,
                ])?;
            }
            Ok(())
        };
        self.write_rows("access", rows, append).await
    }

    async fn list_accesses(
        &self,
        task: TaskId,
        path: Option<&str>,
        page: Page<AccessId>,
    ) -> Result<Vec<Access>, StoreError> {
        let before = page.before.map_or_else(|| LAST.to_owned(), |id| id.to_string());
        let rows: Vec<AccessRow> = query_as(
            "SELECT * FROM file_accesses WHERE task_id = ?1 AND id < ?2 AND (?3 IS NULL OR path = ?3)
             ORDER BY id DESC LIMIT ?4",
        )
        .bind(task.to_string())
        .bind(before)
        .bind(path)
        .bind(page.limit)
        .fetch_all(&self.readers)
        .await
        .map_err(read_failed)?;
        all(rows)
    }
}

/// Removes the oldest entries of a history that are too old or too many, at most a
/// chunk. How many.
fn shorten_history(db: &Connection, task: &str, most: i64, before: i64) -> rusqlite::Result<u64> {
    let over: i64 = db
        .prepare_cached("SELECT max(history_entries - ?, 0) FROM tasks WHERE id = ?")?
        .query_row(params![most, task], |row| row.get(0))?;
    let removed = db
        .prepare_cached(
            "DELETE FROM file_changes WHERE rowid IN (
                 SELECT rowid FROM (
                     SELECT rowid, at, row_number() OVER (ORDER BY seq, number) AS place FROM (
                         SELECT rowid, at, seq, number FROM file_changes WHERE task_id = ?1
                         ORDER BY seq, number LIMIT ?4))
                 WHERE place <= ?2 OR at < ?3)",
        )?
        .execute(params![task, over, before, CHUNK])?;
    db.prepare_cached("UPDATE tasks SET history_entries = max(history_entries - ?, 0) WHERE id = ?")?
        .execute(params![number(removed as u64), task])?;
    Ok(removed as u64)
}
