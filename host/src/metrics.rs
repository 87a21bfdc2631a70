//! Metrics: one registry, made at the start and passed by hand.

use std::sync::atomic::{AtomicI64, AtomicU64};
use std::sync::{Arc, Mutex, PoisonError};

use bulkhead_core::limits::Usage;
use bulkhead_core::ports::meter::Meter;
use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::encoding::text::encode;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::{Histogram, exponential_buckets};
use prometheus_client::registry::{Registry, Unit};

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct State {
    state: &'static str,
}

/// What is counted.
pub struct Metrics {
    registry: Registry,
    accepted: Counter,
    waited: Counter,
    refused: Counter,
    ended: Family<State, Counter>,
    wall: Histogram,
    cpu: Counter<f64, AtomicU64>,
    events: Counter,
    streams: Gauge<i64, AtomicI64>,
    running: Gauge,
    queued: Gauge,
    watched: Gauge,
    commits: Gauge,
    read_commits: Mutex<Option<Box<dyn Fn() -> u64 + Send + Sync>>>,
}

impl Metrics {
    /// Registers everything.
    pub fn new() -> Arc<Self> {
        let mut registry = Registry::with_prefix("bulkhead");
        let wall = Histogram::new(exponential_buckets(0.000_1, 4.0, 12));
        let metrics = Self {
            accepted: Counter::default(),
            waited: Counter::default(),
            refused: Counter::default(),
            ended: Family::default(),
            wall,
            cpu: Counter::default(),
            events: Counter::default(),
            streams: Gauge::default(),
            running: Gauge::default(),
            queued: Gauge::default(),
            watched: Gauge::default(),
            commits: Gauge::default(),
            read_commits: Mutex::default(),
            registry: Registry::default(),
        };
        registry.register("calls_accepted", "Calls that were stored", metrics.accepted.clone());
        registry.register("calls_waited", "Accepted calls that had to wait for a slot", metrics.waited.clone());
        registry.register("calls_refused", "Calls that were refused because a queue was full", metrics.refused.clone());
        registry.register("calls_ended", "Calls that ended, by terminal state", metrics.ended.clone());
        registry.register_with_unit("call_wall", "Wall time of ended calls", Unit::Seconds, metrics.wall.clone());
        registry.register_with_unit("call_cpu", "Processor time of ended calls", Unit::Seconds, metrics.cpu.clone());
        registry.register("events_appended", "Events that were stored", metrics.events.clone());
        registry.register("event_streams", "Event streams that are open", metrics.streams.clone());
        registry.register("calls_running", "Calls that run", metrics.running.clone());
        registry.register("calls_queued", "Calls that wait for a slot", metrics.queued.clone());
        registry.register("tasks_watched", "Tasks that somebody follows", metrics.watched.clone());
        let about = "Transactions that the store has committed since the start";
        registry.register("store_commits", about, metrics.commits.clone());
        Arc::new(Self { registry, ..metrics })
    }

    /// Where to read how many transactions the store has committed.
    pub fn count_commits(&self, read: impl Fn() -> u64 + Send + Sync + 'static) {
        *self.read_commits.lock().unwrap_or_else(PoisonError::into_inner) = Some(Box::new(read));
    }

    /// The text that `/metrics` answers with.
    pub fn render(&self, running: usize, queued: usize, watched: usize) -> String {
        let gauge = |gauge: &Gauge, value: usize| gauge.set(i64::try_from(value).unwrap_or(i64::MAX));
        gauge(&self.running, running);
        gauge(&self.queued, queued);
        gauge(&self.watched, watched);
        if let Some(read) = &*self.read_commits.lock().unwrap_or_else(PoisonError::into_inner) {
            self.commits.set(i64::try_from(read()).unwrap_or(i64::MAX));
        }
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

    fn call_refused(&self) {
        self.refused.inc();
    }

    fn events_appended(&self, count: u64) {
        self.events.inc_by(count);
    }
}
