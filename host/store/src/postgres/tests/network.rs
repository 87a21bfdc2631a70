//! A network and a server that fail: nothing is done twice, nothing that was
//! acknowledged is lost, and nobody waits for long.

use std::sync::Arc;
use std::time::{Duration, Instant};

use bulkhead_core::audit::{AuditBody, AuditFilter, NewAudit};
use bulkhead_core::call::{Call, CallState};
use bulkhead_core::event::NewEvent;
use bulkhead_core::files::DeletedState;
use bulkhead_core::grants::{Capability, Grant};
use bulkhead_core::id::GrantId;
use bulkhead_core::ports::files::{FileRecords as _, FileStep, HistoryPage};
use bulkhead_core::ports::store::{AcceptCall, Accepted, Store, StoreError};
use bulkhead_core::quota::Extent;
use bulkhead_core::task::{Task, TaskState};
use bulkhead_core::tool::{ToolOwner, ToolSet, ToolState};
use futures::future::join_all;

use super::server::postgres;
use super::{PostgresConfig, PostgresStore, config, database};
use crate::contract::files::{deleted, sent, upload};
use crate::contract::world::{
    NOW, World, accept, at, audit, end, ended, event, grants, idempotency, log, owner, ready,
};
use crate::postgres::{BreakerState, Statement};
use crate::proxy::{Proxy, Weather};

const SHORT: Duration = Duration::from_millis(400);

/// A store behind a proxy, with one connection and little patience.
struct Far {
    proxy: Proxy,
    database: String,
    store: Arc<PostgresStore>,
    world: World,
}

impl Far {
    async fn new(change: impl FnOnce(PostgresConfig) -> PostgresConfig) -> Self {
        let (database, proxy) = (database(), Proxy::before(postgres().port()));
        let config = config(&postgres().url(proxy.port(), &database));
        // The breaker has tests of its own.
        let config = PostgresConfig { connections: 1, breaker_failures: 1_000, ..config };
        let store = Arc::new(PostgresStore::open(change(config)).await.unwrap());
        let world = World::new(store.clone());
        Self { proxy, database, store, world }
    }

    async fn task(&self) -> Task {
        self.world.ready_task(owner(1)).await
    }

    /// Does something whose answer is lost once it was done. The connection has prepared
    /// its statement `before`: else the answer to that would be the one that is lost.
    async fn losing<A, T>(
        &self,
        before: impl Future<Output = Result<A, StoreError>>,
        doing: impl Future<Output = Result<T, StoreError>>,
    ) -> Result<T, StoreError> {
        before.await.unwrap();
        self.proxy.set(Weather::AnswerLost);
        let done = doing.await;
        assert_eq!(self.store.stats().breaker, BreakerState::Closed);
        self.proxy.set(Weather::Fair);
        done
    }
}

/// Like a host that stores an end as often as it takes.
async fn surely<T, F: Future<Output = Result<T, StoreError>>>(attempt: impl Fn() -> F) -> T {
    loop {
        match attempt().await {
            Ok(done) => return done,
            Err(StoreError::Unavailable(_) | StoreError::Unsure(_)) => {
                tokio::time::sleep(Duration::from_millis(50)).await
            }
            Err(error) => panic!("{error}"),
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_hot_operations_take_one_round_trip_each() {
    let far = Far::new(|config| config).await;
    let task = far.task().await;
    let mut counted = Vec::new();
    // The first round prepares the statements.
    for round in 0..2 {
        let mut trips = far.proxy.round_trips();
        let mut count = |name| {
            let now = far.proxy.round_trips();
            if round > 0 {
                counted.push((name, now - trips));
            }
            trips = now;
        };
        let (plain, keyed, queued) =
            (far.world.running_call(&task), far.world.running_call(&task), far.world.call(&task));
        far.world.accept(&plain).await;
        count("accept");
        let idempotency = Some(idempotency(&format!("key {round}"), "body"));
        far.store.accept_call(AcceptCall { idempotency, ..accept(&keyed) }).await.unwrap();
        count("accept with a key");
        far.store.append_events(task.id, (0..100).map(event).collect()).await.unwrap();
        count("append 100 events");
        far.store.end_call(end(&plain, &"long ".repeat(2_000))).await.unwrap().unwrap();
        count("end");
        far.store.accept_call(accept(&queued)).await.unwrap();
        count("queue");
        far.store.start_call(task.id, queued.id, at(1), &grants(), vec![event(1)]).await.unwrap().unwrap();
        count("start");
        far.store.events_after(task.id, 0, 1_000, u64::MAX).await.unwrap();
        count("read");
    }
    assert_eq!(counted.len(), 7);
    assert!(counted.iter().all(|(_, trips)| *trips == 1), "{counted:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_lost_answer_to_a_call_is_found_again() {
    let far = Far::new(|config| config).await;
    let (task, nowhere) = (far.task().await, far.world.task(owner(1), TaskState::Ready));
    let (plain, keyed, none) = (far.world.running_call(&task), far.world.call(&task), far.world.running_call(&nowhere));
    let store = &far.store;
    let accepted = far.losing(store.accept_call(accept(&none)), store.accept_call(accept(&plain))).await.unwrap();
    assert!(matches!(accepted, Accepted::New(numbers) if (numbers.first, numbers.last) == (1, 1)), "{accepted:?}");
    let with_key = |call: &Call| AcceptCall { idempotency: Some(idempotency("k", "body")), ..accept(call) };
    let accepted = far.losing(store.accept_call(with_key(&none)), store.accept_call(with_key(&keyed))).await.unwrap();
    assert!(matches!(accepted, Accepted::New(numbers) if (numbers.first, numbers.last) == (2, 2)), "{accepted:?}");

    let given = grants();
    let start = |task: &Task| store.start_call(task.id, keyed.id, at(5), &given, vec![event(3)]);
    assert_eq!(far.losing(start(&nowhere), start(&task)).await.unwrap().unwrap().last, 3);
    let output: Vec<_> = (0..3).map(event).collect();
    let append = |task: &Task| store.append_events(task.id, output.clone());
    assert_eq!(far.losing(append(&nowhere), append(&task)).await.unwrap().unwrap().last, 6);
    for (call, last) in [(&plain, 7), (&keyed, 8)] {
        let numbers = far.losing(store.end_call(end(&none, "none")), store.end_call(end(call, "done"))).await.unwrap();
        assert_eq!(numbers.unwrap().last, last, "who ended it is told so");
        assert_eq!(store.end_call(end(call, "again")).await.unwrap(), None);
    }
    assert_eq!(store.call(owner(1), keyed.id).await.unwrap().unwrap().attempts, 1);
    let expected = [vec![event(1), event(1), event(3)], output, vec![ended(plain.id), ended(keyed.id)]].concat();
    assert_eq!(log(&**store, task.id).await, expected);
    // Another's call of the same id is still another's.
    assert!(matches!(store.accept_call(accept(&plain)).await, Err(StoreError::Exists("call"))));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_lost_answer_to_other_writes_is_found_again() {
    let far = Far::new(|config| config).await;
    let store = &far.store;
    let (other, task) =
        (far.world.task(owner(1), TaskState::Initializing), far.world.task(owner(1), TaskState::Initializing));
    let set = ToolSet::new([]);
    let create = |task| store.create_task(task, &set, vec![event(1), event(2)], audit());
    let made = far.losing(create(&other), create(&task)).await.unwrap();
    assert_eq!((made.first, made.last), (1, 2));
    let ready_to = |task: &Task| store.move_task(task.id, TaskState::Ready, None, at(1), vec![event(3)], None);
    assert_eq!(far.losing(ready_to(&other), ready_to(&task)).await.unwrap().unwrap().last, 3);
    let tools = ["a", "b"].map(|content| far.world.tool(ToolOwner::Operator, content, ToolState::Compiling));
    assert_eq!(
        far.losing(store.create_tool(&tools[0], audit()), store.create_tool(&tools[1], audit())).await.unwrap(),
        None
    );
    let (as_a, as_b) = (ready("a", "does"), ready("b", "does"));
    let finish = |tool: usize, state| store.finish_tool(tools[tool].id, state);
    assert!(far.losing(finish(0, &as_a), finish(1, &as_a)).await.unwrap());
    assert!(!finish(1, &as_b).await.unwrap());
    let (first, session) = (far.world.session(owner(1)), far.world.session(owner(1)));
    far.losing(store.create_session(&first), store.create_session(&session)).await.unwrap();
    assert!(matches!(store.create_session(&session).await, Err(StoreError::Exists("session"))));
    assert_eq!(log(&**store, task.id).await, [event(1), event(2), event(3)]);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_can_not_be_done_twice_is_not_sent_twice() {
    let far = Far::new(|config| config).await;
    let (store, task) = (&far.store, far.task().await);
    let grant = Grant {
        id: GrantId::from_parts(NOW as u64, 0),
        task: task.id,
        owner: task.owner,
        capability: Capability::Http("GET https://a/x".into()),
        expires_at: None,
        uses_left: Some(5),
        created_at: at(0),
        revoked_at: None,
    };
    let body = AuditBody::CallRevoked { reason: "x".into() };
    let record = NewAudit::new(at(0), task.owner, task.id, None, &body);
    assert!(store.create_grant(&grant, 9, record.clone()).await.unwrap());
    let used = far.losing(store.use_grant(grant.id, at(1)), store.use_grant(grant.id, at(1))).await;
    assert!(matches!(used, Err(StoreError::Unsure(_))), "{used:?}");
    assert_eq!(store.list_grants(task.id, 9).await.unwrap()[0].uses_left, Some(3), "each was done once");
    let append = || store.append_audit(vec![record.clone()]);
    let appended = far.losing(append(), append()).await;
    assert!(matches!(appended, Err(StoreError::Unsure(_))), "{appended:?}");
    assert_eq!(store.list_audit(owner(1), &AuditFilter::default(), 0, 9).await.unwrap().len(), 3);
    // A read is asked again.
    let read = || store.task(owner(1), task.id);
    assert!(far.losing(read(), read()).await.unwrap().is_some());
}

#[tokio::test(flavor = "multi_thread")]
async fn calls_end_once_though_the_network_fails_again_and_again() {
    let far = Far::new(|config| PostgresConfig {
        connections: 8,
        connect_timeout: SHORT,
        timeout: SHORT,
        breaker_failures: 5,
        breaker_open: SHORT / 4,
        ..config
    })
    .await;
    let task = far.task().await;
    let calls: Vec<Call> = (0..60).map(|_| far.world.running_call(&task)).collect();
    let ends = calls.iter().enumerate().map(|(number, call)| {
        let (store, call) = (far.store.clone(), call.clone());
        tokio::spawn(async move {
            tokio::time::sleep(Duration::from_millis(number as u64 * 40)).await;
            // A client would come back with its key; the id does the same here.
            let accepted = surely(|| async {
                match store.accept_call(accept(&call)).await {
                    Err(StoreError::Exists(_)) => Ok(()),
                    done => done.map(drop),
                }
            });
            accepted.await;
            // Completion and a cancellation race, each as often as it takes.
            let [one, two] = [end(&call, "one"), end(&call, "two")];
            let ended = tokio::join!(surely(|| store.end_call(one.clone())), surely(|| store.end_call(two.clone())));
            (call, ended.0.is_some(), ended.1.is_some())
        })
    });
    let ends: Vec<_> = ends.collect();
    for weather in
        [Weather::Gone, Weather::Hanging, Weather::AnswerLost, Weather::Hanging, Weather::AnswerLost, Weather::Gone]
    {
        tokio::time::sleep(SHORT / 2).await;
        far.proxy.set(weather);
        tokio::time::sleep(SHORT).await;
        far.proxy.cut();
        far.proxy.set(Weather::Fair);
    }
    let events = |log: &[NewEvent], call: &Call| log.iter().filter(|event| **event == ended(call.id)).count();
    let ends = join_all(ends).await;
    let log = log(&*far.store, task.id).await;
    for done in ends {
        let (call, one, two) = done.unwrap();
        // One that answered `Unsure` and is asked anew is another write: then nobody is told that it won.
        assert!(!(one && two), "two ends of one call");
        assert_eq!(events(&log, &call), 1, "{}", call.id);
        let stored = far.store.call(owner(1), call.id).await.unwrap().unwrap();
        assert!(matches!(stored.state, CallState::Ended { .. }));
    }
    assert_eq!(log.len(), 120, "each call has one event of its beginning and one of its end");
    assert_eq!(far.store.open_calls().await.unwrap(), []);
}

/// What was under way when the network broke is done once, though the server is not
/// there again for longer than five tries take.
#[tokio::test(flavor = "multi_thread")]
async fn a_fate_that_is_not_known_is_asked_for_until_the_server_is_there() {
    let far = Far::new(|config| config).await;
    let (store, task) = (far.store.clone(), far.task().await);
    store.append_events(task.id, vec![event(1)]).await.unwrap();
    for (number, weather) in [(2, Weather::AnswerLost), (3, Weather::Hanging)] {
        far.proxy.set(weather);
        let (store, id) = (store.clone(), task.id);
        let appending = tokio::spawn(async move { store.append_events(id, vec![event(number)]).await });
        // It is under way, and then nothing can be reached.
        tokio::time::sleep(SHORT / 2).await;
        far.proxy.set(Weather::Gone);
        far.proxy.cut();
        tokio::time::sleep(SHORT * 3).await;
        far.proxy.set(Weather::Fair);
        assert_eq!(appending.await.unwrap().unwrap().unwrap().last, number);
    }
    assert_eq!(log(&*store, task.id).await, [event(1), event(2), event(3)]);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_breaker_opens_answers_at_once_and_closes() {
    let open = Duration::from_millis(700);
    let far = Far::new(|config| PostgresConfig { breaker_failures: 3, breaker_open: open, ..config }).await;
    let task = far.task().await;
    far.proxy.set(Weather::Gone);
    for _ in 0..20 {
        assert!(far.store.append_events(task.id, vec![event(1)]).await.is_err());
    }
    assert_eq!(far.store.stats().breaker, BreakerState::Open);
    let opened = far.store.stats().breaker_opened;
    far.proxy.set(Weather::Fair);
    let started = Instant::now();
    let refused = far.store.append_events(task.id, vec![event(1)]).await;
    assert!(matches!(refused, Err(StoreError::Unavailable(_))), "{refused:?}");
    assert!(far.store.ping().await.is_err(), "and it is not ready");
    assert!(started.elapsed() < open / 2, "nobody waits for what is not there");
    tokio::time::sleep(open).await;
    // One looks, and the others come after it.
    assert_eq!(far.store.append_events(task.id, vec![event(1)]).await.unwrap().unwrap().last, 1);
    assert_eq!((far.store.stats().breaker, far.store.stats().breaker_opened), (BreakerState::Closed, opened));
    far.store.ping().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_hangs_is_not_waited_for() {
    let far =
        Far::new(|config| PostgresConfig { timeout: SHORT, connect_timeout: SHORT, breaker_failures: 2, ..config })
            .await;
    let task = far.task().await;
    far.proxy.set(Weather::Hanging);
    let started = Instant::now();
    let error = far.store.append_events(task.id, vec![event(1)]).await.unwrap_err();
    // Sent and not answered: it may have been done, for all that is known here.
    assert!(matches!(error, StoreError::Unsure(_)), "{error}");
    assert!(started.elapsed() < SHORT * 9, "{:?}", started.elapsed());
    assert_eq!(far.store.stats().breaker, BreakerState::Open);
    far.proxy.cut();
    far.proxy.set(Weather::Fair);
    assert_eq!(surely(|| far.store.append_events(task.id, vec![event(1)])).await.unwrap().last, 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_statement_that_takes_too_long_is_ended_by_the_server() {
    let far = Far::new(|config| PostgresConfig { connections: 2, timeout: SHORT, ..config }).await;
    let task = far.task().await;
    let slow = far.store.read(Statement::new("SELECT pg_sleep(60)")).await;
    assert!(matches!(slow, Err(StoreError::Unavailable(_))), "{slow:?}");
    let sleeping = "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND query LIKE 'SELECT pg_sleep%' AND state = 'active'";
    let gone = (0..40).any(|_| {
        std::thread::sleep(Duration::from_millis(25));
        postgres().psql(&far.database, sleeping).unwrap() == "0"
    });
    assert!(gone, "it goes on in the server");

    // Somebody holds the task's row.
    let (database, sql) =
        (far.database.clone(), "BEGIN; SELECT 1 FROM bulkhead.tasks FOR UPDATE; SELECT pg_sleep(2); COMMIT");
    let holding = std::thread::spawn(move || postgres().psql(&database, sql).unwrap());
    let held = "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND query LIKE 'BEGIN; SELECT 1%' AND wait_event = 'PgSleep'";
    while postgres().psql(&far.database, held).unwrap() != "1" {}
    let refused = far.store.append_events(task.id, vec![event(1)]).await;
    assert!(matches!(refused, Err(StoreError::Unavailable(_))), "its fate is known: {refused:?}");
    holding.join().unwrap();
    assert_eq!(far.store.append_events(task.id, vec![event(1)]).await.unwrap().unwrap().last, 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn connections_that_the_server_ended_are_made_anew() {
    let far = Far::new(|config| PostgresConfig { connections: 3, ..config }).await;
    let task = far.task().await;
    for _ in 0..3 {
        join_all((0..9).map(|_| far.store.task(owner(1), task.id)))
            .await
            .into_iter()
            .for_each(|done| drop(done.unwrap()));
        let end = "SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity WHERE datname = current_database() AND pid <> pg_backend_pid()";
        postgres().psql(&far.database, end).unwrap();
        far.store.append_events(task.id, vec![event(1)]).await.unwrap().unwrap();
    }
    assert_eq!(log(&*far.store, task.id).await.len(), 3);
}

#[tokio::test(flavor = "multi_thread")]
async fn there_are_never_more_connections_than_allowed() {
    let far = Far::new(|config| PostgresConfig { connections: 2, acquire_timeout: SHORT, ..config }).await;
    let nap = || far.store.read(Statement::new("SELECT pg_sleep(0.05)"));
    let most = async {
        let mut most = 0;
        for _ in 0..20 {
            tokio::time::sleep(Duration::from_millis(5)).await;
            most = most.max(far.store.stats().connections);
        }
        most
    };
    let (naps, most) = tokio::join!(join_all((0..8).map(|_| nap())), most);
    assert!(naps.iter().all(Result::is_ok) && most == 2, "{most}");
    // More than can be done while one waits: those are refused, and the breaker has no part in it.
    let naps = join_all((0..40).map(|_| nap())).await;
    let refused = naps.iter().filter(|nap| nap.is_err()).count();
    assert!((1..40).contains(&refused), "{refused}");
    let error = naps.into_iter().find_map(Result::err).unwrap().to_string();
    assert!(error.contains("connections are busy"), "{error}");
    assert_eq!(far.store.stats().breaker, BreakerState::Closed);
}

#[tokio::test(flavor = "multi_thread")]
async fn more_writes_than_may_wait_are_refused() {
    let far = Far::new(|config| PostgresConfig { queue: 2, ..config }).await;
    let task = far.task().await;
    far.proxy.delay(Duration::from_millis(900));
    let writes = join_all((0..6).map(|number| far.store.append_events(task.id, vec![event(number)]))).await;
    let refused = writes.iter().filter(|write| write.is_err()).count();
    assert!((1..6).contains(&refused), "{writes:?}");
    assert!(writes.iter().filter_map(|write| write.as_ref().err()).all(|error| error.to_string().contains("full")));
    assert_eq!(log(&*far.store, task.id).await.len(), 6 - refused);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_row_that_can_not_be_is_named_and_the_audit_log_only_grows() {
    let far = Far::new(|config| config).await;
    let task = far.task().await;
    postgres().psql(&far.database, "UPDATE bulkhead.tasks SET limits = '{\"no_such\": 1}'").unwrap();
    let error = far.store.task(owner(1), task.id).await.unwrap_err();
    let StoreError::Corrupt { table: "tasks", row, reason } = error else { panic!("{error}") };
    assert_eq!(row, task.id.to_string());
    assert!(reason.contains("limits"), "{reason}");
    let refused = postgres().psql(&far.database, "UPDATE bulkhead.audit SET data = ''").unwrap_err();
    assert!(refused.contains("append-only"), "{refused}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_lost_answer_about_files_is_found_again() {
    use DeletedState::{Kept, Returning};
    let far = Far::new(|config| config).await;
    let (task, store, world) = (far.task().await, &far.store, &far.world);
    let (first, second) = (deleted(world, &task, "a"), deleted(world, &task, "b"));
    assert!(far.losing(store.put_deleted(&first), store.put_deleted(&second)).await.unwrap());
    let told = |millis| vec![sent(&task, millis, &["a"], b"x")];
    let keep = |id| store.change_files(task.id, FileStep::Kept(id, Extent::default()), None, told(1));
    assert_eq!(far.losing(keep(first.id), keep(second.id)).await.unwrap().unwrap().last, 2);
    let back = |id| store.move_deleted(task.id, id, Kept, Returning, Some("t"));
    assert!(far.losing(back(first.id), back(second.id)).await.unwrap());
    let gone = |id| store.change_files(task.id, FileStep::Gone(id), None, told(2));
    assert_eq!(far.losing(gone(first.id), gone(second.id)).await.unwrap().unwrap().last, 4);
    let (one, two) = (upload(world, &task), upload(world, &task));
    assert!(far.losing(store.put_upload(&one, 2), store.put_upload(&two, 2)).await.unwrap());
    let complete = |id| store.change_files(task.id, FileStep::Completed(id, at(3)), None, told(3));
    assert_eq!(far.losing(complete(one.id), complete(two.id)).await.unwrap().unwrap().last, 6);
    let history = store.file_history(task.id, HistoryPage { path: None, before: None, limit: 99 }).await.unwrap();
    let places: Vec<_> = history.iter().map(|entry| entry.place.seq).collect();
    assert_eq!(places, [6, 5, 4, 3, 2, 1], "an entry for each event, and no more");
}
