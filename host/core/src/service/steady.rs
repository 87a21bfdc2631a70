//! Whether the clock can be believed. What is kept for thirty days goes by the
//! clock of the machine; one that jumps a year ahead (a broken time source, a
//! restored snapshot, an operator's slip) must not cost everything that is younger.

use std::time::Duration;

use tokio::time::Instant;

use super::Ports;
use crate::clock::Timestamp;

/// The clock and the passing of time may come apart by so much between two looks.
const JUMP: Duration = Duration::from_secs(3_600);
/// For so long nothing is removed by age after a jump: somebody has the time to see to it.
const HOLD: Duration = Duration::from_secs(6 * 3_600);

/// Looks at the clock beside the passing of time.
#[derive(Clone, Copy, Debug)]
pub(super) struct Steady {
    clock: Timestamp,
    at: Instant,
    held_until: Option<Instant>,
    /// Whether the database's was another when it was last asked.
    differs: bool,
}

impl Steady {
    /// Begins to look.
    pub(super) fn new(clock: Timestamp, at: Instant) -> Self {
        Self { clock, at, held_until: None, differs: false }
    }

    /// Whether things may be removed for their age, by this clock. Said in the log if not.
    fn holds(&mut self, clock: Timestamp, at: Instant) -> bool {
        let passed = i64::try_from(at.duration_since(self.at).as_millis()).unwrap_or(i64::MAX);
        let shown = clock.as_millis().saturating_sub(self.clock.as_millis());
        let off_ms = shown.saturating_sub(passed);
        (self.clock, self.at) = (clock, at);
        if u128::from(off_ms.unsigned_abs()) > JUMP.as_millis() {
            // A machine that was suspended looks the same, and loses nothing by waiting.
            tracing::error!(
                off_ms,
                hold_s = HOLD.as_secs(),
                "the clock jumped: nothing is removed by its age for a while; set the clock right"
            );
            self.held_until = Some(at + HOLD);
        }
        self.held_until.is_none_or(|until| at >= until)
    }

    /// Whether things may be removed for their age: the clock has gone evenly, and is that
    /// of the database, if it has one of its own. If it does not answer, not.
    pub(super) async fn believes(&mut self, ports: &Ports) -> bool {
        let holds = self.holds(ports.ids.now(), Instant::now());
        match ports.store.clock().await {
            Ok(Some(database)) => self.agrees(ports.ids.now(), database) && holds,
            Ok(None) => holds,
            Err(_) => false,
        }
    }

    /// Whether the clock is that of the database, which the other hosts have beside
    /// them as well: what they store must not be older here than it is. Said in the log
    /// once if not.
    fn agrees(&mut self, clock: Timestamp, database: Timestamp) -> bool {
        let off_ms = clock.as_millis().saturating_sub(database.as_millis());
        let differs = u128::from(off_ms.unsigned_abs()) > JUMP.as_millis();
        if differs && !std::mem::replace(&mut self.differs, differs) {
            tracing::error!(
                off_ms,
                "this host's clock and the database's differ: nothing is removed by its age here until they agree"
            );
        }
        self.differs = differs;
        !differs
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MINUTE: Duration = Duration::from_secs(60);

    #[test]
    fn a_clock_that_is_not_the_database_s_is_not_believed() {
        let clock = Timestamp::from_millis(1_800_000_000_000);
        let mut steady = Steady::new(clock, Instant::now());
        for (off_ms, agrees) in [(0, true), (59 * 60_000, true), (2 * 3_600_000, false), (-2 * 3_600_000, false)] {
            assert_eq!(steady.agrees(clock.plus_millis(off_ms), clock), agrees, "{off_ms}");
        }
        assert!(steady.agrees(clock, clock), "set right again");
    }

    #[test]
    fn a_clock_that_goes_with_the_time_is_believed_and_one_that_jumps_is_not() {
        let (begun, clock) = (Instant::now(), Timestamp::from_millis(1_800_000_000_000));
        let mut steady = Steady::new(clock, begun);
        let mut at = begun;
        let mut look = |passed: Duration, off_ms: i64| {
            at += passed;
            let passed = i64::try_from(at.duration_since(begun).as_millis()).expect("a short time");
            steady.holds(clock.plus_millis(passed + off_ms), at)
        };
        assert!(look(MINUTE, 0));
        assert!(look(MINUTE, 59 * 60_000), "a clock may be set");
        let year = 365 * 24 * 3_600_000;
        assert!(!look(MINUTE, year));
        assert!(!look(HOLD - MINUTE, year), "it goes on from there, and is not believed yet");
        assert!(look(MINUTE, year), "nobody minded");
        assert!(!look(MINUTE, 0), "back again");
        assert!(look(HOLD, 0));
        assert!(!look(10 * MINUTE, -2 * 3_600_000));
    }
}
