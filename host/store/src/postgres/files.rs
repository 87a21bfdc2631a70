//! What is known of files: histories, deleted entries, uploads, access logs. The
//! entries of histories are made by the statements that append events.

use async_trait::async_trait;
use bulkhead_core::clock::Timestamp;
use bulkhead_core::digest::Digest;
use bulkhead_core::event::NewEvent;
use bulkhead_core::files::{Access, DeletedFile, DeletedState, HistoryEntry, Upload};
use bulkhead_core::id::{AccessId, DeletedId, TaskId, UploadId};
use bulkhead_core::ports::files::{ContentPlace, FileRecords, FileRetention, FileStep, FilesRetained, HistoryPage};
use bulkhead_core::ports::store::{Appended, Page, StoreError};
use bulkhead_core::principal::Owner;
use bulkhead_core::quota::Extent;
use sqlx::Row as _;

use super::PostgresStore;
use super::events::{Texts, append_sql, appending};
use super::statement::{Statement, Work, unreadable};
use crate::rows::{AccessRow, ContentRow, DeletedRow, HistoryRow, UploadRow, number};

/// Most rows that one statement of retention removes.
const CHUNK: i64 = 500;

/// Most statements of one run of it.
const RUN: usize = 32;

/// Sorts after every id.
const LAST: &str = "~";

const ALONE: Texts = append_sql!(
    "",
    ", used_bytes = coalesce($9, used_bytes), used_entries = coalesce($10, used_entries)",
    "",
    "SELECT last_seq FROM log"
);
const KEPT: Texts = append_sql!(
    "moved AS (
         UPDATE deleted_files SET state = 'kept', bytes = $12, entries = $13
         WHERE id = $11 AND task_id = $1 AND state = 'leaving' AND EXISTS (SELECT 1 FROM mine) RETURNING 1
     ), ",
    ", used_bytes = coalesce($9, used_bytes), used_entries = coalesce($10, used_entries)",
    " AND EXISTS (SELECT 1 FROM moved)",
    "SELECT last_seq FROM log"
);
const GONE: Texts = append_sql!(
    "moved AS (
         DELETE FROM deleted_files WHERE id = $11 AND task_id = $1 AND EXISTS (SELECT 1 FROM mine) RETURNING 1
     ), ",
    ", used_bytes = coalesce($9, used_bytes), used_entries = coalesce($10, used_entries)",
    " AND EXISTS (SELECT 1 FROM moved)",
    "SELECT last_seq FROM log"
);
const COMPLETED: Texts = append_sql!(
    "moved AS (
         UPDATE uploads SET completed_at = $12
         WHERE id = $11 AND task_id = $1 AND completed_at IS NULL AND EXISTS (SELECT 1 FROM mine) RETURNING 1
     ), ",
    ", used_bytes = coalesce($9, used_bytes), used_entries = coalesce($10, used_entries)",
    " AND EXISTS (SELECT 1 FROM moved)",
    "SELECT last_seq FROM log"
);

#[async_trait]
impl FileRecords for PostgresStore {
    async fn change_files(
        &self,
        task: TaskId,
        step: FileStep,
        extent: Option<Extent>,
        events: Vec<NewEvent>,
    ) -> Result<Option<Appended>, StoreError> {
        let texts = match step {
            FileStep::Alone => ALONE,
            FileStep::Kept(..) => KEPT,
            FileStep::Gone(_) => GONE,
            FileStep::Completed(..) => COMPLETED,
        };
        let (append, statement) = appending(self, texts, task, &events);
        let statement =
            statement.bind(extent.map(|extent| number(extent.bytes))).bind(extent.map(|extent| number(extent.entries)));
        let statement = match step {
            FileStep::Alone => statement,
            FileStep::Kept(id, extent) => statement.bind_id(id).bind(number(extent.bytes)).bind(number(extent.entries)),
            FileStep::Gone(id) => statement.bind_id(id),
            FileStep::Completed(id, at) => statement.bind_id(id).bind(at.as_millis()),
        };
        append.run(self, Work::write("file", statement)).await
    }

    async fn file_history(&self, task: TaskId, page: HistoryPage) -> Result<Vec<HistoryEntry>, StoreError> {
        let text = match &page.path {
            Some(_) => {
                "SELECT task_id, seq, number, at, actor, by_user, call_id, path, change, size, digest, media_type, etag
                 FROM file_changes WHERE task_id = $1 AND (seq, number) < ($2, $3) AND md5(path) = md5($5) AND path = $5
                 ORDER BY seq DESC, number DESC LIMIT $4"
            }
            None => {
                "SELECT task_id, seq, number, at, actor, by_user, call_id, path, change, size, digest, media_type, etag
                 FROM file_changes WHERE task_id = $1 AND (seq, number) < ($2, $3)
                 ORDER BY seq DESC, number DESC LIMIT $4"
            }
        };
        let (seq, nth) = page.before.map_or((i64::MAX, i64::MAX), |at| (number(at.seq), i64::from(at.number)));
        let mut select = Statement::new(text).bind_id(task).bind(seq).bind(nth).bind(i64::from(page.limit));
        if let Some(path) = page.path {
            select = select.bind_text(&path);
        }
        self.read(select).await?.all::<HistoryRow, _>()
    }

    async fn contents(&self, owner: Owner, digest: Digest, limit: u32) -> Result<Vec<ContentPlace>, StoreError> {
        let select = Statement::new(
            "SELECT task_id, path, size, digest, media_type, etag FROM file_changes
             WHERE tenant_id = $1 AND user_id = $2 AND digest = $3 ORDER BY at DESC LIMIT $4",
        );
        let select = select.bind_id(owner.tenant).bind_id(owner.user).bind_id(digest).bind(i64::from(limit));
        self.read(select).await?.all::<ContentRow, _>()
    }

    async fn retain_files(&self, retention: FileRetention) -> Result<FilesRetained, StoreError> {
        let mut removed = FilesRetained::default();
        let (before, most) = (retention.history_before.as_millis(), number(retention.history_per_task));
        let select = Statement::new(
            "SELECT id FROM tasks WHERE history_entries > $1
             UNION (SELECT DISTINCT task_id FROM (
                 SELECT task_id FROM file_changes WHERE at < $2 ORDER BY at LIMIT $3) old) LIMIT $4",
        );
        let select = select.bind(most).bind(before).bind(CHUNK).bind(RUN as i64);
        let answer = self.read(select).await?;
        for row in &answer.rows {
            let task: String = row.try_get("id").map_err(unreadable)?;
            // One whose answer was lost is not sent again: the next run finds what it left.
            let shorten = Statement::new(SHORTEN).bind(task).bind(most).bind(before).bind(CHUNK);
            let answer = self.write(Work::once("file", shorten)).await?;
            removed.history += answer.get::<i64>("removed")?.unwrap_or(0).unsigned_abs();
        }
        for _ in 0..RUN {
            let delete = Statement::new(
                "DELETE FROM file_accesses WHERE ctid = ANY(ARRAY(
                     SELECT ctid FROM file_accesses WHERE at < $1 ORDER BY at LIMIT $2))",
            );
            let delete = delete.bind(retention.accesses_before.as_millis()).bind(CHUNK);
            let gone = self.write(Work::once("access", delete)).await?.affected;
            removed.accesses += gone;
            if gone < CHUNK.unsigned_abs() {
                break;
            }
        }
        Ok(removed)
    }

    async fn put_deleted(&self, file: &DeletedFile) -> Result<bool, StoreError> {
        let insert = Statement::new(
            "INSERT INTO deleted_files (id, task_id, tenant_id, user_id, state, path, target, kind, bytes, entries, at)
             SELECT $3, id, tenant_id, user_id, $4, $5, $6, $7, $8, $9, $10 FROM tasks
             WHERE id = $1 AND (holder IS NULL OR holder = $2)
             ON CONFLICT (id) DO UPDATE SET state = excluded.state RETURNING id",
        );
        let insert = insert
            .bind_id(file.task)
            .bind(self.token())
            .bind_id(file.id)
            .bind(file.state.as_str())
            .bind_text(&file.path)
            .bind(file.target.clone())
            .bind(file.kind.as_str())
            .bind(number(file.extent.bytes))
            .bind(number(file.extent.entries))
            .bind(file.at.as_millis());
        Ok(!self.write_in_turn(file.task, Work::write("deleted file", insert)).await?.rows.is_empty())
    }

    async fn move_deleted(
        &self,
        task: TaskId,
        id: DeletedId,
        from: DeletedState,
        to: DeletedState,
        target: Option<&str>,
    ) -> Result<bool, StoreError> {
        const TEXT: &str = "
            UPDATE deleted_files SET state = $5, target = $6 WHERE id = $3 AND task_id = $1 AND state = $4
                AND EXISTS (SELECT 1 FROM tasks WHERE id = $1 AND (holder IS NULL OR holder = $2)) RETURNING id";
        let update = Statement::new(TEXT)
            .bind_id(task)
            .bind(self.token())
            .bind_id(id)
            .bind(from.as_str())
            .bind(to.as_str())
            .bind(target.map(str::to_owned));
        let answer = self.write_in_turn(task, Work::write("deleted file", update)).await?;
        if answer.rows.is_empty() && answer.maybe_second {
            // An earlier try, whose answer was lost, may have been the one.
            let now = self.deleted(task, id).await?;
            return Ok(now.is_some_and(|file| file.state == to && file.target.as_deref() == target));
        }
        Ok(!answer.rows.is_empty())
    }

    async fn deleted(&self, task: TaskId, id: DeletedId) -> Result<Option<DeletedFile>, StoreError> {
        let select = Statement::new("SELECT * FROM deleted_files WHERE id = $1 AND task_id = $2");
        self.read(select.bind_id(id).bind_id(task)).await?.maybe::<DeletedRow, _>()
    }

    async fn list_deleted(&self, task: TaskId, page: Page<DeletedId>) -> Result<Vec<DeletedFile>, StoreError> {
        let before = page.before.map_or_else(|| LAST.to_owned(), |id| id.to_string());
        let select = Statement::new(
            "SELECT * FROM deleted_files WHERE task_id = $1 AND id < $2 AND state = 'kept' ORDER BY id DESC LIMIT $3",
        );
        self.read(select.bind_id(task).bind(before).bind(i64::from(page.limit))).await?.all::<DeletedRow, _>()
    }

    async fn deleted_to_tend(
        &self,
        before: Timestamp,
        after: Option<DeletedId>,
        limit: u32,
    ) -> Result<Vec<DeletedFile>, StoreError> {
        // Ids sort by time: what is to go comes first, and what is on its way is little.
        let oldest_kept = DeletedId::from_parts(before.as_millis().unsigned_abs(), 0);
        let select = Statement::new(
            "(SELECT * FROM deleted_files WHERE id > $1 AND id < $2 ORDER BY id LIMIT $3)
             UNION
             (SELECT * FROM deleted_files WHERE id > $1 AND state <> 'kept' ORDER BY id LIMIT $3)
             ORDER BY id LIMIT $3",
        );
        let select =
            select.bind(after.map(|id| id.to_string()).unwrap_or_default()).bind_id(oldest_kept).bind(i64::from(limit));
        self.read(select).await?.all::<DeletedRow, _>()
    }

    async fn put_upload(&self, upload: &Upload, most: u32) -> Result<bool, StoreError> {
        let insert = Statement::new(
            "INSERT INTO uploads (id, task_id, tenant_id, user_id, path, length, replace, executable, media_type,
                                  digest, created_at, expires_at)
             SELECT $3, id, tenant_id, user_id, $4, $5, $6, $7, $8, $9, $10, $11 FROM tasks
             WHERE id = $1 AND (holder IS NULL OR holder = $2)
                 AND (SELECT count(*) FROM uploads WHERE task_id = $1 AND completed_at IS NULL AND id <> $3) < $12
             ON CONFLICT (id) DO UPDATE SET path = excluded.path RETURNING id",
        );
        let insert = insert
            .bind_id(upload.task)
            .bind(self.token())
            .bind_id(upload.id)
            .bind_text(&upload.path)
            .bind(number(upload.length))
            .bind(upload.replace)
            .bind(upload.executable)
            .bind_text(&upload.media_type)
            .bind(upload.digest.map(|digest| digest.to_string()))
            .bind(upload.created_at.as_millis())
            .bind(upload.expires_at.as_millis())
            .bind(i64::from(most));
        Ok(!self.write_in_turn(upload.task, Work::write("upload", insert)).await?.rows.is_empty())
    }

    async fn upload(&self, task: TaskId, id: UploadId) -> Result<Option<Upload>, StoreError> {
        let select = Statement::new("SELECT * FROM uploads WHERE id = $1 AND task_id = $2");
        self.read(select.bind_id(id).bind_id(task)).await?.maybe::<UploadRow, _>()
    }

    async fn remove_upload(&self, task: TaskId, id: UploadId) -> Result<bool, StoreError> {
        let delete = Statement::new("DELETE FROM uploads WHERE id = $1 AND task_id = $2").bind_id(id).bind_id(task);
        let answer = self.write(Work::write("upload", delete)).await?;
        Ok(answer.affected > 0 || answer.maybe_second)
    }

    async fn expired_uploads(
        &self,
        before: Timestamp,
        after: Option<UploadId>,
        limit: u32,
    ) -> Result<Vec<Upload>, StoreError> {
        let select = Statement::new("SELECT * FROM uploads WHERE expires_at < $1 AND id > $2 ORDER BY id LIMIT $3");
        let after = after.map(|id| id.to_string()).unwrap_or_default();
        self.read(select.bind(before.as_millis()).bind(after).bind(i64::from(limit))).await?.all::<UploadRow, _>()
    }

    async fn append_accesses(&self, entries: &[Access]) -> Result<(), StoreError> {
        let texts = |text: fn(&Access) -> String| entries.iter().map(text).collect::<Vec<_>>();
        let insert = Statement::new(
            "INSERT INTO file_accesses (id, task_id, tenant_id, user_id, by_tenant, by_user, kind, path, status, edge, at,
                                        bytes)
             SELECT * FROM unnest($1::text[], $2::text[], $3::text[], $4::text[], $5::text[], $6::text[], $7::text[],
                                  $8::text[], $9::text[], $10::text[], $11::bigint[], $12::bigint[])
             ON CONFLICT DO NOTHING",
        );
        let insert = insert
            .bind(texts(|entry| entry.id.to_string()))
            .bind(texts(|entry| entry.task.to_string()))
            .bind(texts(|entry| entry.owner.tenant.to_string()))
            .bind(texts(|entry| entry.owner.user.to_string()))
            .bind(texts(|entry| entry.by.tenant.to_string()))
            .bind(texts(|entry| entry.by.user.to_string()))
            .bind(texts(|entry| entry.kind.as_str().to_owned()))
            .bind(texts(|entry| entry.path.clone()))
            .bind(texts(|entry| entry.status.clone()))
            .bind(texts(|entry| entry.edge.clone()))
            .bind(entries.iter().map(|entry| entry.at.as_millis()).collect::<Vec<_>>())
            .bind(entries.iter().map(|entry| number(entry.bytes)).collect::<Vec<_>>());
        self.write(Work::write("access", insert)).await?;
        Ok(())
    }

    async fn list_accesses(
        &self,
        task: TaskId,
        path: Option<&str>,
        page: Page<AccessId>,
    ) -> Result<Vec<Access>, StoreError> {
        let before = page.before.map_or_else(|| LAST.to_owned(), |id| id.to_string());
        let select = Statement::new(
            "SELECT * FROM file_accesses WHERE task_id = $1 AND id < $2 AND ($3::text IS NULL OR path = $3)
             ORDER BY id DESC LIMIT $4",
        );
        let path = path.map(|path| path.replace('\0', "\u{fffd}"));
        let select = select.bind_id(task).bind(before).bind(path).bind(i64::from(page.limit));
        self.read(select).await?.all::<AccessRow, _>()
    }
}

/// Removes the oldest entries of a history that are too old or too many, at most a chunk.
const SHORTEN: &str = "
    WITH oldest AS (
        SELECT seq, number, at, row_number() OVER (ORDER BY seq, number) AS place
        FROM (SELECT seq, number, at FROM file_changes WHERE task_id = $1 ORDER BY seq, number LIMIT $4) o
    ), gone AS (
        DELETE FROM file_changes f USING oldest o, tasks t
        WHERE f.task_id = $1 AND f.seq = o.seq AND f.number = o.number AND t.id = $1
            AND (o.place <= t.history_entries - $2 OR o.at < $3)
        RETURNING f.seq
    ), counted AS (
        UPDATE tasks SET history_entries = greatest(history_entries - (SELECT count(*) FROM gone), 0) WHERE id = $1
    )
    SELECT count(*) AS removed FROM gone";
