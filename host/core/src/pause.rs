//! Pauses: time that does not count as a call's own, because the call waits
//! for a person.

use std::time::Duration;

use tokio::sync::watch;

/// By how much a call's wall time is put off, for whoever watches its clock.
#[derive(Clone, Debug, Default)]
pub struct Pauses(watch::Sender<Duration>);

/// A pause; it ends when it is dropped.
#[derive(Debug)]
pub struct Pause<'a> {
    pauses: &'a Pauses,
    most: Duration,
    since: tokio::time::Instant,
}

impl Pauses {
    /// Begins a pause of at most `most`.
    pub fn begin(&self, most: Duration) -> Pause<'_> {
        self.0.send_modify(|put_off| *put_off += most);
        Pause { pauses: self, most, since: tokio::time::Instant::now() }
    }

    /// Follows by how much the end is put off.
    pub fn watch(&self) -> watch::Receiver<Duration> {
        self.0.subscribe()
    }
}

impl Drop for Pause<'_> {
    fn drop(&mut self) {
        let unused = self.most.saturating_sub(self.since.elapsed());
        self.pauses.0.send_modify(|put_off| *put_off = put_off.saturating_sub(unused));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn only_what_was_waited_is_put_off() {
        let pauses = Pauses::default();
        let watch = pauses.watch();
        let pause = pauses.begin(Duration::from_secs(60));
        assert_eq!(*watch.borrow(), Duration::from_secs(60));
        tokio::time::advance(Duration::from_secs(5)).await;
        drop(pause);
        assert_eq!(*watch.borrow(), Duration::from_secs(5));
    }
}
