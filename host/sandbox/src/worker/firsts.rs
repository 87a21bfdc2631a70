//! The first turns of calls, in which most of them end. Users take turns at them, so
//! that whoever has a hundred short calls delays another's by one.

use std::collections::{HashMap, VecDeque};

/// What waits, by user: as many as there are slots.
#[derive(Debug)]
pub(super) struct Firsts<T> {
    /// Whose turn it is, of those who have something that waits.
    users: VecDeque<u32>,
    waiting: HashMap<u32, VecDeque<T>>,
}

impl<T> Default for Firsts<T> {
    fn default() -> Self {
        Self { users: VecDeque::new(), waiting: HashMap::new() }
    }
}

impl<T> Firsts<T> {
    pub(super) fn push(&mut self, user: u32, first: T) {
        let waiting = self.waiting.entry(user).or_default();
        if waiting.is_empty() {
            self.users.push_back(user);
        }
        waiting.push_back(first);
    }

    pub(super) fn next(&mut self) -> Option<T> {
        let user = self.users.pop_front()?;
        let waiting = self.waiting.get_mut(&user)?;
        let next = waiting.pop_front();
        if waiting.is_empty() {
            self.waiting.remove(&user);
        } else {
            self.users.push_back(user);
        }
        next
    }

    pub(super) fn is_empty(&self) -> bool {
        self.users.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn users_take_turns() {
        let mut firsts = Firsts::default();
        (0..4).for_each(|nth| firsts.push(1, (1, nth)));
        assert_eq!(firsts.next(), Some((1, 0)));
        firsts.push(2, (2, 0));
        firsts.push(3, (3, 0));
        firsts.push(2, (2, 1));
        let order: Vec<_> = std::iter::from_fn(|| firsts.next()).collect();
        assert_eq!(order, [(1, 1), (2, 0), (3, 0), (1, 2), (2, 1), (1, 3)]);
        assert!(firsts.is_empty() && firsts.waiting.is_empty());
    }
}
