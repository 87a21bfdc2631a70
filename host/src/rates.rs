//! Counting for one host, in memory.

use std::num::NonZeroU32;
use std::time::Duration;

use async_trait::async_trait;
use bulkhead_core::id::TenantId;
use bulkhead_core::ports::rates::{Counted, Counts, Rate, Rates, Standing, Taken};
use bulkhead_core::principal::Owner;
use governor::clock::{Clock as _, DefaultClock};
use governor::middleware::StateInformationMiddleware;
use governor::state::keyed::DashMapStateStore;
use governor::{Quota, RateLimiter};

/// The rates of each kind; none: not limited.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct RateConfig {
    /// Requests of one user.
    pub requests_per_user: Option<Rate>,
    /// Requests of a tenant's users together.
    pub requests_per_tenant: Option<Rate>,
    /// Calls of one user.
    pub calls_per_user: Option<Rate>,
    /// Calls of a tenant's users together.
    pub calls_per_tenant: Option<Rate>,
}

type Limiter<K> = RateLimiter<K, DashMapStateStore<K>, DefaultClock, StateInformationMiddleware>;

struct Counter<K: std::hash::Hash + Eq + Clone> {
    rate: Rate,
    counted: Counted,
    of: Counts,
    limiter: Limiter<K>,
}

impl<K: std::hash::Hash + Eq + Clone> Counter<K> {
    fn new(rate: Option<Rate>, counted: Counted, of: Counts) -> Option<Self> {
        let rate = rate?;
        let quota = Quota::per_minute(NonZeroU32::new(rate.per_minute)?).allow_burst(NonZeroU32::new(rate.burst)?);
        let limiter = RateLimiter::dashmap(quota).with_middleware();
        Some(Self { rate, counted, of, limiter })
    }

    fn take(&self, key: &K) -> Taken {
        let standing = |remaining: u32| Standing {
            rate: self.rate,
            counted: self.counted,
            of: self.of,
            remaining,
            reset: full_after(self.rate, remaining),
        };
        match self.limiter.check_key(key) {
            Ok(state) => Taken::Allowed(standing(state.remaining_burst_capacity())),
            Err(refused) => {
                let retry_after = refused.wait_time_from(self.limiter.clock().now());
                Taken::Refused { standing: standing(0), retry_after }
            }
        }
    }

    fn tidy(&self) {
        self.limiter.retain_recent();
        self.limiter.shrink_to_fit();
    }
}

/// When all of a burst is allowed again if so much of it is left.
fn full_after(rate: Rate, remaining: u32) -> Duration {
    let used = rate.burst.saturating_sub(remaining);
    Duration::from_secs(60).saturating_mul(used) / rate.per_minute.max(1)
}

/// Counts in this process's memory.
pub struct LocalRates {
    users: Vec<Counter<Owner>>,
    tenants: Vec<Counter<TenantId>>,
}

impl LocalRates {
    /// Counts by these rates.
    pub fn new(config: RateConfig) -> Self {
        let users =
            [(config.requests_per_user, Counted::Requests), (config.calls_per_user, Counted::Calls)].into_iter();
        let tenants =
            [(config.requests_per_tenant, Counted::Requests), (config.calls_per_tenant, Counted::Calls)].into_iter();
        Self {
            users: users.filter_map(|(rate, counted)| Counter::new(rate, counted, Counts::User)).collect(),
            tenants: tenants.filter_map(|(rate, counted)| Counter::new(rate, counted, Counts::Tenant)).collect(),
        }
    }

    fn count(&self, counted: Counted, owner: Owner) -> Taken {
        // The user's first: one user who is over does not use up the tenant's.
        let user = self.users.iter().find(|counter| counter.counted == counted);
        let user = user.map_or(Taken::Unlimited, |counter| counter.take(&owner));
        if matches!(user, Taken::Refused { .. }) {
            return user;
        }
        let tenant = self.tenants.iter().find(|counter| counter.counted == counted);
        let tenant = tenant.map_or(Taken::Unlimited, |counter| counter.take(&owner.tenant));
        tighter(user, tenant)
    }
}

/// Of two that were asked, the one that refuses or leaves less.
pub fn tighter(one: Taken, two: Taken) -> Taken {
    match (one, two) {
        (Taken::Refused { .. }, _) | (_, Taken::Unlimited) => one,
        (_, Taken::Refused { .. }) | (Taken::Unlimited, _) => two,
        (Taken::Allowed(a), Taken::Allowed(b)) => {
            if a.remaining <= b.remaining {
                one
            } else {
                two
            }
        }
    }
}

#[async_trait]
impl Rates for LocalRates {
    async fn take(&self, counted: Counted, owner: Owner) -> Taken {
        self.count(counted, owner)
    }

    fn tidy(&self) {
        self.users.iter().for_each(Counter::tidy);
        self.tenants.iter().for_each(Counter::tidy);
    }
}

#[cfg(test)]
mod tests {
    use bulkhead_core::id::UserId;

    use super::*;

    fn owner(tenant: u64, user: u64) -> Owner {
        Owner { tenant: TenantId::from_parts(tenant, 0), user: UserId::from_parts(user, 0) }
    }

    const SLOW: Option<Rate> = Some(Rate { per_minute: 1, burst: 2 });

    #[test]
    fn a_burst_then_none_for_a_while_and_each_user_for_itself() {
        let rates = LocalRates::new(RateConfig { calls_per_user: SLOW, ..RateConfig::default() });
        let left = |taken| match taken {
            Taken::Allowed(standing) => standing.remaining,
            other => panic!("{other:?}"),
        };
        assert_eq!(left(rates.count(Counted::Calls, owner(1, 1))), 1);
        assert_eq!(left(rates.count(Counted::Calls, owner(1, 1))), 0);
        let Taken::Refused { standing, retry_after } = rates.count(Counted::Calls, owner(1, 1)) else { panic!() };
        assert_eq!((standing.of, standing.remaining, standing.reset), (Counts::User, 0, Duration::from_secs(120)));
        assert!(retry_after <= Duration::from_secs(60) && retry_after > Duration::from_secs(50), "{retry_after:?}");
        assert_eq!(left(rates.count(Counted::Calls, owner(1, 2))), 1, "another user");
        assert_eq!(rates.count(Counted::Requests, owner(1, 1)), Taken::Unlimited, "of something else");
    }

    #[test]
    fn users_of_a_tenant_share_its_rate_and_one_who_is_over_uses_none_of_it() {
        let config = RateConfig {
            requests_per_user: SLOW,
            requests_per_tenant: Some(Rate { per_minute: 1, burst: 3 }),
            ..RateConfig::default()
        };
        let rates = LocalRates::new(config);
        for _ in 0..4 {
            rates.count(Counted::Requests, owner(1, 1));
        }
        assert!(
            matches!(rates.count(Counted::Requests, owner(1, 2)), Taken::Allowed(left) if left.of == Counts::Tenant)
        );
        let taken = rates.count(Counted::Requests, owner(1, 3));
        assert!(matches!(taken, Taken::Refused { standing, .. } if standing.of == Counts::Tenant), "{taken:?}");
        assert!(matches!(rates.count(Counted::Requests, owner(2, 1)), Taken::Allowed(_)), "another tenant");
    }

    #[test]
    fn those_long_gone_are_forgotten() {
        let rate = Some(Rate { per_minute: 60_000, burst: 1 });
        let rates = LocalRates::new(RateConfig { calls_per_user: rate, ..RateConfig::default() });
        for user in 0..1_000 {
            rates.count(Counted::Calls, owner(1, user));
        }
        std::thread::sleep(Duration::from_millis(20));
        rates.tidy();
        assert_eq!(rates.users[0].limiter.len(), 0);
    }
}
