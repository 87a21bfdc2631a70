//! What is known of files: histories, deleted entries, uploads, access logs.

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

use super::MemoryStore;
use super::state::{State, page as page_of};

/// Does what a change is beside its events. False if what it names is not there.
fn take_step(state: &mut State, task: TaskId, step: FileStep) -> bool {
    match step {
        FileStep::Alone => true,
        FileStep::Kept(id, extent) => {
            let leaving = |file: &&mut DeletedFile| file.task == task && file.state == DeletedState::Leaving;
            let file = state.deleted.get_mut(&id).filter(leaving);
            file.map(|file| (file.state, file.extent) = (DeletedState::Kept, extent)).is_some()
        }
        FileStep::Gone(id) => {
            let ours = state.deleted.get(&id).is_some_and(|file| file.task == task);
            ours && state.deleted.remove(&id).is_some()
        }
        FileStep::Completed(id, at) => {
            let open = |upload: &&mut Upload| upload.task == task && upload.completed_at.is_none();
            state.uploads.get_mut(&id).filter(open).map(|upload| upload.completed_at = Some(at)).is_some()
        }
    }
}

#[async_trait]
impl FileRecords for MemoryStore {
    async fn change_files(
        &self,
        task: TaskId,
        step: FileStep,
        extent: Option<Extent>,
        events: Vec<NewEvent>,
    ) -> Result<Option<Appended>, StoreError> {
        let mut state = self.state();
        if !state.tasks.contains_key(&task) || !take_step(&mut state, task, step) {
            return Ok(None);
        }
        if let Some(extent) = extent {
            state.note_extent(task, extent);
        }
        Ok(state.append_events(task, events))
    }

    async fn file_history(&self, task: TaskId, page: HistoryPage) -> Result<Vec<HistoryEntry>, StoreError> {
        let state = self.state();
        let history = state.tasks.get(&task).into_iter().flat_map(|entry| entry.history.iter().rev());
        let wanted = |entry: &&HistoryEntry| {
            page.before.is_none_or(|before| entry.place < before)
                && page.path.as_ref().is_none_or(|path| entry.path == *path)
        };
        Ok(history.filter(wanted).take(page.limit as usize).cloned().collect())
    }

    async fn contents(&self, owner: Owner, digest: Digest, limit: u32) -> Result<Vec<ContentPlace>, StoreError> {
        let state = self.state();
        let of_owner = state.tasks.values().filter(|entry| entry.task.owner == owner);
        let places = of_owner.flat_map(|entry| entry.history.iter().map(|change| (entry.task.id, change)));
        let place = |(task, change): (TaskId, &HistoryEntry)| {
            let facts = change.facts.clone().filter(|facts| facts.digest == digest)?;
            Some((change.at, ContentPlace { task, path: change.path.clone(), facts }))
        };
        let mut found: Vec<_> = places.filter_map(place).collect();
        found.sort_by_key(|(at, _)| std::cmp::Reverse(*at));
        Ok(found.into_iter().map(|(_, place)| place).take(limit as usize).collect())
    }

    async fn retain_files(&self, retention: FileRetention) -> Result<FilesRetained, StoreError> {
        let mut state = self.state();
        let mut removed = FilesRetained::default();
        let most = usize::try_from(retention.history_per_task).unwrap_or(usize::MAX);
        for entry in state.tasks.values_mut() {
            let before = entry.history.len();
            entry.history.drain(..before.saturating_sub(most));
            entry.history.retain(|change| change.at >= retention.history_before);
            removed.history += (before - entry.history.len()) as u64;
        }
        let before = state.accesses.len();
        state.accesses.retain(|_, access| access.at >= retention.accesses_before);
        removed.accesses = (before - state.accesses.len()) as u64;
        Ok(removed)
    }

    async fn put_deleted(&self, file: &DeletedFile) -> Result<bool, StoreError> {
        let mut state = self.state();
        let there = state.tasks.contains_key(&file.task);
        if there {
            state.deleted.insert(file.id, file.clone());
        }
        Ok(there)
    }

    async fn move_deleted(
        &self,
        task: TaskId,
        id: DeletedId,
        from: DeletedState,
        to: DeletedState,
        target: Option<&str>,
    ) -> Result<bool, StoreError> {
        let mut state = self.state();
        let file = state.deleted.get_mut(&id).filter(|file| file.task == task && file.state == from);
        Ok(file.map(|file| (file.state, file.target) = (to, target.map(str::to_owned))).is_some())
    }

    async fn deleted(&self, task: TaskId, id: DeletedId) -> Result<Option<DeletedFile>, StoreError> {
        Ok(self.state().deleted.get(&id).filter(|file| file.task == task).cloned())
    }

    async fn list_deleted(&self, task: TaskId, page: Page<DeletedId>) -> Result<Vec<DeletedFile>, StoreError> {
        let wanted = |file: &DeletedFile| file.task == task && file.state == DeletedState::Kept;
        Ok(page_of(self.state().deleted.iter(), &page, wanted))
    }

    async fn deleted_to_tend(
        &self,
        before: Timestamp,
        after: Option<DeletedId>,
        limit: u32,
    ) -> Result<Vec<DeletedFile>, StoreError> {
        let state = self.state();
        let later = state.deleted.iter().filter(|(id, _)| after.is_none_or(|after| **id > after)).map(|(_, file)| file);
        let wanted = |file: &&DeletedFile| file.at < before || file.state != DeletedState::Kept;
        Ok(later.filter(wanted).take(limit as usize).cloned().collect())
    }

    async fn put_upload(&self, upload: &Upload, most: u32) -> Result<bool, StoreError> {
        let mut state = self.state();
        let open = |known: &&Upload| known.task == upload.task && known.completed_at.is_none();
        let room = state.uploads.values().filter(open).count() < most as usize;
        let put = room && state.tasks.contains_key(&upload.task);
        if put {
            state.uploads.insert(upload.id, upload.clone());
        }
        Ok(put)
    }

    async fn upload(&self, task: TaskId, id: UploadId) -> Result<Option<Upload>, StoreError> {
        Ok(self.state().uploads.get(&id).filter(|upload| upload.task == task).cloned())
    }

    async fn remove_upload(&self, task: TaskId, id: UploadId) -> Result<bool, StoreError> {
        let mut state = self.state();
        let ours = state.uploads.get(&id).is_some_and(|upload| upload.task == task);
        Ok(ours && state.uploads.remove(&id).is_some())
    }

    async fn expired_uploads(
        &self,
        before: Timestamp,
        after: Option<UploadId>,
        limit: u32,
    ) -> Result<Vec<Upload>, StoreError> {
        let state = self.state();
        let later = state.uploads.values().filter(|upload| after.is_none_or(|after| upload.id > after));
        Ok(later.filter(|upload| upload.expires_at < before).take(limit as usize).cloned().collect())
    }

    async fn append_accesses(&self, entries: &[Access]) -> Result<(), StoreError> {
        self.state().accesses.extend(entries.iter().map(|entry| (entry.id, entry.clone())));
        Ok(())
    }

    async fn list_accesses(
        &self,
        task: TaskId,
        path: Option<&str>,
        page: Page<AccessId>,
    ) -> Result<Vec<Access>, StoreError> {
        let wanted = |access: &Access| access.task == task && path.is_none_or(|path| access.path == path);
        Ok(page_of(self.state().accesses.iter(), &page, wanted))
    }
}
