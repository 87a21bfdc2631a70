//! Streams that a user has open, on all hosts together.
//!
//! A record is refreshed while its stream is open, and counts for a while after that:
//! those of a host that died are not counted for long, and gone after half an hour.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use async_trait::async_trait;
use bulkhead_core::ports::live::{Connection, Connections, Opened};
use bulkhead_core::principal::Owner;
use redis::Script;

use super::{Redis, Shared, lock};

/// Between two refreshes.
const REFRESH_EVERY: Duration = Duration::from_secs(30);

/// For so long a record counts after its last refresh.
const COUNTS: Duration = Duration::from_secs(90);

/// A user's records are gone after so long.
const TTL: Duration = Duration::from_secs(30 * 60);

/// Adds a record unless there are `ARGV[2]` that count.
const OPEN: &str = r"
local now = tonumber(redis.call('TIME')[1])
redis.call('ZREMRANGEBYSCORE', KEYS[1], '-inf', now - tonumber(ARGV[4]))
if redis.call('ZCOUNT', KEYS[1], now - tonumber(ARGV[3]), '+inf') >= tonumber(ARGV[2]) then
    return 0
end
redis.call('ZADD', KEYS[1], now, ARGV[1])
redis.call('EXPIRE', KEYS[1], ARGV[4])
return 1
";

/// Says that records are alive.
const REFRESH: &str = r"
local now = tonumber(redis.call('TIME')[1])
for i = 2, #ARGV do
    redis.call('ZADD', KEYS[1], now, ARGV[i])
end
redis.call('EXPIRE', KEYS[1], ARGV[1])
return 1
";

#[async_trait]
impl Connections for Redis {
    async fn open(&self, owner: Owner, most: u64) -> Opened {
        let shared = &self.shared;
        let number = shared.next.fetch_add(1, Ordering::Relaxed);
        let script = Script::new(OPEN);
        let mut opening = script.key(shared.streams(owner));
        opening.arg(shared.record(number)).arg(most).arg(COUNTS.as_secs()).arg(TTL.as_secs());
        match shared.ask(async |mut manager| opening.invoke_async::<u32>(&mut manager).await).await {
            Some(0) => Opened::Full,
            Some(_) => {
                lock(&shared.open).entry(owner).or_default().push(number);
                Opened::Counted(Connection { owner, number })
            }
            None => Opened::Unknown,
        }
    }

    fn close(&self, Connection { owner, number }: Connection) {
        let shared = self.shared.clone();
        {
            let mut open = lock(&shared.open);
            let Some(numbers) = open.get_mut(&owner) else { return };
            numbers.retain(|other| *other != number);
            if numbers.is_empty() {
                open.remove(&owner);
            }
        }
        // If it can't be said, it counts for a while longer.
        self.tracker.spawn(async move {
            let (key, record) = (shared.streams(owner), shared.record(number));
            shared
                .ask(async |mut manager| redis::cmd("ZREM").arg(key).arg(record).query_async::<u32>(&mut manager).await)
                .await
        });
    }
}

impl Shared {
    fn streams(&self, owner: Owner) -> String {
        self.key(owner.tenant, &format!("streams:{}", owner.user))
    }

    fn record(&self, number: u64) -> String {
        format!("{}/{number}", self.name)
    }
}

pub(super) async fn refresh(shared: Arc<Shared>) {
    let script = Script::new(REFRESH);
    loop {
        tokio::time::sleep(REFRESH_EVERY).await;
        let open: Vec<_> = lock(&shared.open).iter().map(|(owner, numbers)| (*owner, numbers.clone())).collect();
        for (owner, numbers) in open {
            let mut refreshing = script.key(shared.streams(owner));
            refreshing.arg(TTL.as_secs());
            for number in numbers {
                refreshing.arg(shared.record(number));
            }
            shared.ask(async |mut manager| refreshing.invoke_async::<u32>(&mut manager).await).await;
        }
    }
}
