//! Two hosts of which now one and now the other is gone, as clients see them.

use std::sync::RwLock;
use std::time::{Duration, Instant};

use serde_json::Value;

use super::{Answer, Client};

/// After so long there must be an answer.
const PATIENCE: Duration = Duration::from_secs(90);

/// Their addresses, and the key of who asks.
pub struct Pair {
    /// Changed when one comes back with another port.
    pub urls: RwLock<[String; 2]>,
    pub key: String,
}

impl Pair {
    pub fn new(first: &str, second: &str, key: &str) -> Self {
        Self { urls: RwLock::new([first.to_owned(), second.to_owned()]), key: key.to_owned() }
    }

    /// A client of one of them.
    pub fn at(&self, host: usize) -> Client {
        Client::new(&self.urls.read().unwrap()[host % 2], Some(&self.key))
    }

    /// Asks the hosts in turn until one gives an answer that is final.
    pub fn ask(&self, ask: impl Fn(&Client) -> Option<Answer>) -> Answer {
        let until = Instant::now() + PATIENCE;
        for turn in 0.. {
            match ask(&self.at(turn)) {
                Some(answer) if answer.status < 500 && answer.status != 429 => return answer,
                answer => assert!(Instant::now() < until, "{:?}", answer.map(|answer| answer.json())),
            }
            std::thread::sleep(Duration::from_millis(50));
        }
        unreachable!("hosts are asked for ever")
    }

    /// The whole log of a task as it is now.
    pub fn log(&self, task: &str) -> Vec<Value> {
        let last = self.ask(|client| client.try_get(&format!("/v1/tasks/{task}"))).json()["last_event"].clone();
        self.at(0).follow(task, &[], "").until(|event| event["seq"] == last)
    }
}

/// That numbers have no gaps, and each of these calls was started once at most, and once
/// more each time that it was queued again, and ended once.
pub fn assert_whole<'a>(log: &[Value], accepted: impl IntoIterator<Item = &'a str>) {
    for (event, seq) in log.iter().zip(1..) {
        assert_eq!(event["seq"], seq);
    }
    for id in accepted {
        let count = |kind: &str| log.iter().filter(|event| event["type"] == kind && event["call"] == id).count();
        let (started, ended) = (count("call.started"), count("call.ended"));
        let again = count("call.requeued");
        assert!(started <= 1 + again && again <= 1 && ended == 1, "{id}: {started} starts, {ended} ends");
    }
}
