//! What every store promises, as tests. Each takes a store of its own, empty
//! at first. [`run`] runs them all and says which failed:
//!
//! ```text
//! contract::run(|| async { Arc::new(MemoryStore::new()) as Arc<dyn Store> }).await;
//! ```

#![allow(clippy::unwrap_used, reason = "these are tests: a panic is the report")]
#![allow(missing_docs, reason = "the names of the tests say what they test")]

pub(crate) mod audit;
mod batches;
mod calls;
mod events;
pub(crate) mod files;
pub(crate) mod grants;
mod idempotency;
mod keys;
mod life;
#[cfg(test)]
pub(crate) mod older;
mod retention;
mod sessions;
mod tasks;
mod tickets;
mod tools;
pub mod world;

use std::panic::AssertUnwindSafe;
use std::sync::Arc;

use bulkhead_core::ports::store::Store;
use futures::FutureExt as _;
use futures::future::BoxFuture;

/// One test.
pub type Test = fn(Arc<dyn Store>) -> BoxFuture<'static, ()>;

macro_rules! suite {
    ($($module:ident::$test:ident,)*) => {
        /// Every test, with its name.
        pub const ALL: &[(&str, Test)] = &[$(
            (concat!(stringify!($module), "::", stringify!($test)), |store| Box::pin($module::$test(store))),
        )*];
    };
}

suite! {
    keys::the_first_owner_is_the_first_stored,
    keys::keys_are_kept_revoked_once_and_touched,
    keys::a_key_ends_at_the_soonest_time_that_was_said,
    sessions::belong_to_their_owner_and_are_paged,
    sessions::a_deleted_one_leaves_its_tasks,
    sessions::things_know_whose_they_are,
    tools::the_same_component_is_stored_once,
    tools::a_rejected_one_is_replaced,
    tools::are_seen_by_those_who_may,
    tools::the_newest_of_each_name_can_be_pinned,
    tools::a_large_manifest_is_kept,
    tools::a_pinned_one_is_not_deleted,
    tools::compiling_ones_are_found_and_finished_once,
    tasks::belong_to_their_owner,
    tasks::are_paged_newest_first,
    tasks::move_along_the_table_only,
    tasks::moves_race_and_one_wins,
    tasks::are_found_by_state_for_recovery,
    tasks::of_one_id_are_stored_once,
    tasks::know_what_their_workspaces_take,
    life::are_counted_for_their_tenant_until_they_are_deleted,
    life::deleted_ones_are_kept_brought_back_and_purged,
    life::what_is_kept_counts_and_pins_its_tools,
    life::their_time_is_over_when_nobody_uses_them,
    life::their_own_times_are_narrower,
    events::are_numbered_without_gaps,
    events::are_numbered_without_gaps_under_concurrency,
    events::are_read_in_pages,
    events::come_back_as_they_were,
    files::each_change_is_in_the_history,
    files::a_content_is_found_by_its_owner_alone,
    files::a_history_outlives_events_and_is_bounded,
    files::a_deleted_entry_goes_its_way,
    files::uploads_are_few_and_complete_once,
    files::accesses_are_listed_and_go,
    calls::live_from_queued_to_ended,
    calls::accepted_as_running_have_one_attempt,
    calls::wait_again_in_the_attempt_that_is_over_alone,
    calls::have_limits_of_their_own_or_those_of_their_task,
    calls::belong_to_their_owner,
    calls::need_a_ready_task_of_the_same_owner,
    calls::end_once_however_many_try,
    calls::start_once_however_many_try,
    calls::a_step_names_the_right_task,
    calls::large_texts_come_back,
    calls::lists_leave_out_what_is_long,
    calls::are_paged_newest_first,
    calls::open_ones_are_found_for_recovery,
    idempotency::a_key_is_replayed_while_the_call_runs_and_after,
    idempotency::a_key_with_another_body_is_refused,
    idempotency::a_key_is_of_one_owner_and_operation,
    idempotency::a_key_is_forgotten_after_its_time,
    idempotency::a_refused_call_leaves_its_key_free,
    idempotency::one_of_many_with_the_same_key_is_stored,
    grants::are_live_until_used_up_expired_or_revoked,
    grants::are_at_most_so_many_in_a_task,
    grants::policies_are_kept_by_their_revision,
    grants::calls_wait_and_go_on,
    audit::records_are_kept_in_order_by_owner,
    audit::each_tenant_has_a_chain_without_gaps,
    audit::links_are_those_of_core,
    audit::what_is_not_done_is_not_recorded,
    audit::retention_takes_the_beginning_and_leaves_its_link,
    audit::retention_of_a_long_chain_goes_on,
    batches::one_that_fails_does_not_take_the_others_with_it,
    batches::all_kinds_at_once,
    batches::a_dropped_wait_does_not_undo,
    tickets::are_taken_once_in_time_for_their_task,
    tickets::are_so_many_of_an_owner,
    retention::old_events_go_and_numbers_stay,
    retention::long_logs_keep_the_newest,
    retention::idempotency_keys_expire,
    retention::deleted_tasks_go_with_all_they_had,
}

/// Runs every test, each with a store that `fresh` makes.
///
/// # Panics
/// If one fails: names all that did.
pub async fn run<F: Future<Output = Arc<dyn Store>>>(fresh: impl Fn() -> F) {
    let mut failed = Vec::new();
    for (name, test) in ALL {
        let store = fresh().await;
        if AssertUnwindSafe(test(store.clone())).catch_unwind().await.is_err() {
            failed.push(*name);
        }
        store.close().await;
    }
    assert!(failed.is_empty(), "promises broken: {failed:#?}");
}
