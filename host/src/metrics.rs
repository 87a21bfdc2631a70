//! Metrics: one registry, made at the start and passed by hand.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, AtomicU64};

use bulkhead_core::limits::Usage;
use bulkhead_core::ports::meter::Meter;
use bulkhead_sandbox::WasmStats;
use bulkhead_store::RedisStats;
use prometheus_client::collector::Collector;
use prometheus_client::encoding::text::encode;
use prometheus_client::encoding::{DescriptorEncoder, EncodeLabelSet, EncodeMetric as _};
use prometheus_client::metrics::counter::{ConstCounter, Counter};
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::{ConstGauge, Gauge};
use prometheus_client::metrics::histogram::{Histogram, exponential_buckets};
use prometheus_client::registry::{Registry, Unit};

use crate::app::StoreReadings;
use crate::tokens::TokenReadings;

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Reason {
    reason: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct State {
    state: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Rule {
    rule: &'static str,
}

/// What is counted.
pub struct Metrics {
    registry: Registry,
    accepted: Counter,
    waited: Counter,
    refused: Counter,
    requeued: Counter,
    ended: Family<State, Counter>,
    wall: Histogram,
    cpu: Counter<f64, AtomicU64>,
    events: Counter,
    streams: Gauge<i64, AtomicI64>,
    streams_ended: Family<Reason, Counter>,
    forwarded: Family<Reason, Counter>,
    running: Gauge,
    queued: Gauge,
    watched: Gauge,
    would_refuse: Family<Rule, Counter>,
    admin_accessed: Counter,
    accesses_lost: Counter,
    remembered: Gauge,
    strays: Gauge,
    swept: Counter,
}

/// What others count, read when somebody asks.
#[derive(Clone, Copy, Debug)]
pub struct Readings {
    /// What the store has done and how it is.
    pub store: StoreReadings,
    /// How Redis is, if there is one.
    pub redis: Option<RedisStats>,
    /// What the pool of workers has done.
    pub workers: WasmStats,
    /// How often a changed policy could not be used.
    pub policy_failures: u64,
    /// Tokens of issuers elsewhere.
    pub tokens: TokenReadings,
}

/// The readings as metrics.
struct Elsewhere<F>(F);

impl<F> fmt::Debug for Elsewhere<F> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Elsewhere")
    }
}

impl<F: Fn() -> Readings + Send + Sync + 'static> Collector for Elsewhere<F> {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> fmt::Result {
        let Readings { store, redis, workers, policy_failures, tokens } = (self.0)();
        let redis = redis.unwrap_or_default();
        let counters = [
            ("store_commits", "Transactions that the store has committed", store.commits),
            ("store_breaker_opened", "How often the database did not answer and was left alone", store.breaker_opened),
            ("redis_lost", "How often Redis stopped answering", redis.lost),
            ("redis_untold", "Publications that other hosts were not told of at once", redis.untold),
            ("policy_failures", "Changed policies that could not be used", policy_failures),
            ("tokens_verified", "Tokens whose signature was checked and found good", tokens.verified),
            ("tokens_remembered", "Tokens that had been found good before", tokens.remembered),
            ("tokens_refused", "Tokens that were refused", tokens.refused),
            ("token_keys_fetched", "Fetches of issuers' keys", tokens.fetches),
            ("token_keys_failed", "Fetches of issuers' keys that failed", tokens.fetches_failed),
            ("workers_started", "Worker processes that were started", workers.started),
            ("workers_lost", "Workers that died or had to be killed", workers.lost),
            ("workers_retired", "Workers that took no further calls because swap appeared", workers.retired),
            ("workers_recycled", "Workers that took no further calls because of their age", workers.recycled),
            ("worker_protocol_errors", "Workers that broke the protocol: a sign of an attack", workers.protocol_errors),
        ];
        for (name, help, value) in counters {
            let counter = ConstCounter::new(value);
            counter.encode(encoder.encode_descriptor(name, help, None, counter.metric_type())?)?;
        }
        let number = |count: usize| i64::try_from(count).unwrap_or(i64::MAX);
        let gauges = [
            ("store_connections", "Connections to a database elsewhere", number(store.connections)),
            (
                "store_breaker_open",
                "1 if the database does not answer and is left alone",
                i64::from(store.breaker_open),
            ),
            ("redis_up", "1 if Redis is used and answers", i64::from(redis.up)),
            ("workers", "Worker processes now", number(workers.workers)),
            ("workers_waiting", "Processes that wait to become workers", number(workers.waiting)),
            ("swap", "1 if this machine swaps: memory of guests is then cleared the slow way", i64::from(workers.swap)),
        ];
        for (name, help, value) in gauges {
            let gauge = ConstGauge::new(value);
            gauge.encode(encoder.encode_descriptor(name, help, None, gauge.metric_type())?)?;
        }
        Ok(())
    }
}

impl Metrics {
    /// Registers everything. `read` tells what others count; it must be quick.
    pub fn new(read: impl Fn() -> Readings + Send + Sync + 'static) -> Arc<Self> {
        let mut registry = Registry::with_prefix("bulkhead");
        let wall = Histogram::new(exponential_buckets(0.000_1, 4.0, 12));
        let metrics = Self {
            accepted: Counter::default(),
            waited: Counter::default(),
            refused: Counter::default(),
            requeued: Counter::default(),
            ended: Family::default(),
            wall,
            cpu: Counter::default(),
            events: Counter::default(),
            streams: Gauge::default(),
            streams_ended: Family::default(),
            forwarded: Family::default(),
            running: Gauge::default(),
            queued: Gauge::default(),
            watched: Gauge::default(),
            would_refuse: Family::default(),
            admin_accessed: Counter::default(),
            accesses_lost: Counter::default(),
            remembered: Gauge::default(),
            strays: Gauge::default(),
            swept: Counter::default(),
            registry: Registry::default(),
        };
        registry.register("calls_accepted", "Calls that were stored", metrics.accepted.clone());
        registry.register("calls_waited", "Accepted calls that had to wait for a slot", metrics.waited.clone());
        registry.register("calls_refused", "Calls that were refused because a queue was full", metrics.refused.clone());
        let help = "Calls that wait for another attempt because their host failed or was stopped";
        registry.register("calls_requeued", help, metrics.requeued.clone());
        registry.register("calls_ended", "Calls that ended, by terminal state", metrics.ended.clone());
        registry.register_with_unit("call_wall", "Wall time of ended calls", Unit::Seconds, metrics.wall.clone());
        registry.register_with_unit("call_cpu", "Processor time of ended calls", Unit::Seconds, metrics.cpu.clone());
        registry.register("events_appended", "Events that were stored", metrics.events.clone());
        registry.register("event_streams", "Event streams that are open", metrics.streams.clone());
        registry.register("event_streams_ended", "Event streams that ended, by why", metrics.streams_ended.clone());
        registry.register("forwarded_requests", "Requests passed on to other hosts", metrics.forwarded.clone());
        registry.register("calls_running", "Calls that run", metrics.running.clone());
        registry.register("calls_queued", "Calls that wait for a slot", metrics.queued.clone());
        registry.register("tasks_watched", "Tasks that somebody follows", metrics.watched.clone());
        let help = "What was let through that a rule of access would refuse, by rule";
        registry.register("access_would_refuse", help, metrics.would_refuse.clone());
        registry.register("admin_accessed", "Others' things given to administrators", metrics.admin_accessed.clone());
        let help = "Entries of access logs that could not be stored";
        registry.register("accesses_lost", help, metrics.accesses_lost.clone());
        registry.register("tasks_remembered", "What is held in memory of tasks", metrics.remembered.clone());
        let help = "Workspaces on the disk that belong to no task";
        registry.register("workspace_strays", help, metrics.strays.clone());
        let help = "Workspaces that belonged to no task and were removed";
        registry.register("workspace_strays_swept", help, metrics.swept.clone());
        registry.register_collector(Box::new(Elsewhere(read)));
        Arc::new(Self { registry, ..metrics })
    }

    /// The text that `/metrics` answers with.
    pub fn render(&self, (running, queued): (usize, usize), watched: usize, remembered: usize) -> String {
        let gauge = |gauge: &Gauge, value: usize| gauge.set(i64::try_from(value).unwrap_or(i64::MAX));
        gauge(&self.running, running);
        gauge(&self.queued, queued);
        gauge(&self.watched, watched);
        gauge(&self.remembered, remembered);
        let mut text = String::new();
        // Writing to a String can't fail.
        let _ = encode(&mut text, &self.registry);
        text
    }

    /// Counts an event stream for as long as the returned value lives.
    pub fn stream_opened(&self) -> StreamGauge {
        self.streams.inc();
        StreamGauge(self.streams.clone())
    }

    /// Counts a request that was passed on to another host.
    pub fn forwarded(&self, reason: &'static str) {
        self.forwarded.get_or_create(&Reason { reason }).inc();
    }

    /// Counts an event stream that ended.
    pub fn stream_ended(&self, reason: &'static str) {
        self.streams_ended.get_or_create(&Reason { reason }).inc();
    }
}

/// An open event stream; counted until dropped.
pub struct StreamGauge(Gauge<i64, AtomicI64>);

impl Drop for StreamGauge {
    fn drop(&mut self) {
        self.0.dec();
    }
}

impl Meter for Metrics {
    fn call_accepted(&self, queued: bool) {
        self.accepted.inc();
        if queued {
            self.waited.inc();
        }
    }

    fn call_ended(&self, state: &'static str, usage: &Usage) {
        self.ended.get_or_create(&State { state }).inc();
        self.wall.observe(usage.wall_us as f64 / 1e6);
        self.cpu.inc_by(usage.cpu_us as f64 / 1e6);
    }

    fn call_requeued(&self) {
        self.requeued.inc();
    }

    fn call_refused(&self) {
        self.refused.inc();
    }

    fn events_appended(&self, count: u64) {
        self.events.inc_by(count);
    }

    fn access_would_refuse(&self, rule: &'static str) {
        self.would_refuse.get_or_create(&Rule { rule }).inc();
    }

    fn accesses_lost(&self, count: u64) {
        self.accesses_lost.inc_by(count);
    }

    fn strays(&self, count: u64) {
        self.strays.set(i64::try_from(count).unwrap_or(i64::MAX));
    }

    fn stray_swept(&self) {
        self.swept.inc();
    }

    fn admin_accessed(&self) {
        self.admin_accessed.inc();
    }
}
