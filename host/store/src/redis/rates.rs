//! Rates of all hosts together: GCRA (ITU-T I.371) by one script, on the server's clock.

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use bulkhead_core::ports::rates::{Counted, Counts, Rate, Rates, Standing, Taken};
use bulkhead_core::principal::Owner;
use redis::Script;

use super::Redis;

/// What is counted of whom.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SharedRate {
    /// What.
    pub counted: Counted,
    /// Of whom.
    pub of: Counts,
    /// How often.
    pub rate: Rate,
}

/// Takes one of each rate, or of none: the user's key first, then the tenant's. Answers
/// which refused (0: none), and of that one, or else of the tightest, which it is, how
/// many are left, and in how many microseconds all are allowed again and one is. Numbers
/// of microseconds have sixteen digits, more than Lua writes by itself.
const TAKE: &str = r"
local time = redis.call('TIME')
local now = time[1] * 1000000 + time[2]
local new = {}
local tightest, fewest, full = 1, nil, 0
for i, key in ipairs(KEYS) do
    local each, burst = tonumber(ARGV[2 * i - 1]), tonumber(ARGV[2 * i])
    local arrival = math.max(tonumber(redis.call('GET', key) or '0'), now)
    local wait = arrival + each - each * burst - now
    if wait > 0 then
        return {i, i, 0, math.ceil(arrival - now), math.ceil(wait)}
    end
    new[i] = arrival + each
    local left = math.floor((each * burst - (new[i] - now)) / each + 0.000001)
    if fewest == nil or left < fewest then
        tightest, fewest, full = i, left, new[i] - now
    end
end
for i, key in ipairs(KEYS) do
    redis.call('SET', key, string.format('%.0f', new[i]), 'PX', math.ceil((new[i] - now) / 1000) + 1)
end
return {0, tightest, fewest, math.ceil(full), 0}
";

/// Counts with other hosts; each for itself while they can't be asked.
pub struct RedisRates {
    redis: Arc<Redis>,
    rates: Vec<SharedRate>,
    script: Script,
    alone: Arc<dyn Rates>,
}

impl RedisRates {
    /// Counts by these rates, or by `alone` while the server does not answer.
    pub fn new(redis: Arc<Redis>, rates: Vec<SharedRate>, alone: Arc<dyn Rates>) -> Self {
        Self { redis, rates, script: Script::new(TAKE), alone }
    }

    fn of(&self, counted: Counted, of: Counts) -> Option<SharedRate> {
        self.rates.iter().find(|rate| rate.counted == counted && rate.of == of).copied()
    }
}

#[async_trait]
impl Rates for RedisRates {
    async fn take(&self, counted: Counted, owner: Owner) -> Taken {
        let rates = [Counts::User, Counts::Tenant].into_iter().filter_map(|of| self.of(counted, of));
        let rates: Vec<_> = rates.collect();
        if rates.is_empty() {
            return Taken::Unlimited;
        }
        let mut taking = self.script.prepare_invoke();
        for SharedRate { of, rate, .. } in &rates {
            let name = counted.name();
            let rest = match of {
                Counts::User => format!("rate:{name}:{}", owner.user),
                Counts::Tenant => format!("rate:{name}"),
            };
            taking.key(self.redis.shared.key(owner.tenant, &rest));
            taking.arg(60_000_000 / u64::from(rate.per_minute.max(1))).arg(rate.burst);
        }
        let taken = self
            .redis
            .shared
            .ask(async |mut manager| taking.invoke_async::<(usize, usize, u32, u64, u64)>(&mut manager).await);
        let Some((refused, which, remaining, full_us, wait_us)) = taken.await else {
            return self.alone.take(counted, owner).await;
        };
        let Some(SharedRate { counted, of, rate }) = which.checked_sub(1).and_then(|index| rates.get(index)).copied()
        else {
            return self.alone.take(counted, owner).await;
        };
        let standing = Standing { rate, counted, of, remaining, reset: Duration::from_micros(full_us) };
        match refused {
            0 => Taken::Allowed(standing),
            _ => Taken::Refused { standing, retry_after: Duration::from_micros(wait_us) },
        }
    }

    fn tidy(&self) {
        self.alone.tidy();
    }
}
