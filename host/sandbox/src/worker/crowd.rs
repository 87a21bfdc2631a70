//! Whose calls a worker runs: one who has many of them at once gives way to others of
//! its tenant sooner. Each of its guests may be short, and all of them together are not.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use super::background::LONG;

/// Calls of a user that are many, where there are others.
const MANY: usize = 8;

/// When a guest takes long that is one of many: before its first turn is over, which a
/// tick ends, so that it has no second one before others.
const LONG_OF_MANY: Duration = Duration::from_micros(500);

/// The calls that run, by user.
#[derive(Debug, Default)]
pub(super) struct Crowd(Mutex<HashMap<u32, usize>>);

/// That a call of a user runs, until dropped.
#[derive(Debug)]
pub(super) struct OneOf {
    crowd: Arc<Crowd>,
    user: u32,
}

impl Crowd {
    pub(super) fn enter(self: &Arc<Self>, user: u32) -> OneOf {
        *self.users().entry(user).or_default() += 1;
        OneOf { crowd: self.clone(), user }
    }

    fn users(&self) -> MutexGuard<'_, HashMap<u32, usize>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl OneOf {
    /// After how much processor time this one takes long.
    pub(super) fn is_long_after(&self) -> Duration {
        let users = self.crowd.users();
        let is_many = users.get(&self.user).is_some_and(|calls| *calls > MANY);
        if is_many && users.len() > 1 { LONG_OF_MANY } else { LONG }
    }
}

impl Drop for OneOf {
    fn drop(&mut self) {
        let mut users = self.crowd.users();
        if let Some(calls) = users.get_mut(&self.user) {
            *calls -= 1;
            if *calls == 0 {
                users.remove(&self.user);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_of_many_gives_way_where_there_are_others() {
        let crowd = Arc::<Crowd>::default();
        let mut many: Vec<_> = (0..=MANY).map(|_| crowd.enter(1)).collect();
        assert_eq!(many[0].is_long_after(), LONG, "it is alone");
        let other = crowd.enter(2);
        assert_eq!((many[0].is_long_after(), other.is_long_after()), (LONG_OF_MANY, LONG));
        many.pop();
        assert_eq!(many[0].is_long_after(), LONG);
        drop((many, other));
        assert!(crowd.users().is_empty());
    }
}
