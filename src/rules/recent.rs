//! What is known of the few that are in use? A map of bounded size: when it is full, the entry that was longest out of use
//! makes room.
//!
//! Finding that entry looks at all of them, which for the few dozen that are kept here is cheaper than a list threaded
//! through the map, and happens only when a new one comes.

use std::collections::HashMap;
use std::hash::Hash;
use std::num::NonZeroUsize;

/// At most so many values by key.
#[derive(Debug)]
pub struct Recent<K, V> {
    limit: NonZeroUsize,
    uses: u64,
    entries: HashMap<K, Entry<V>>,
}

#[derive(Debug)]
struct Entry<V> {
    used: u64,
    value: V,
}

impl<K: Clone + Eq + Hash, V: Default> Recent<K, V> {
    /// Nothing yet; at most `limit` at any time.
    pub fn new(limit: NonZeroUsize) -> Self {
        Self { limit, uses: 0, entries: HashMap::new() }
    }

    /// What is known of this key. To look is no use.
    pub fn get(&self, key: &K) -> Option<&V> {
        self.entries.get(key).map(|entry| &entry.value)
    }

    /// What is known of this key, from now on the one used last; made if nothing was known.
    pub fn of(&mut self, key: &K) -> &mut V {
        self.uses += 1;
        if !self.entries.contains_key(key) && self.entries.len() >= self.limit.get() {
            self.drop_oldest();
        }
        let entry = self.entries.entry(key.clone()).or_insert_with(|| Entry { used: 0, value: V::default() });
        entry.used = self.uses;
        &mut entry.value
    }

    /// How many there are.
    pub fn len(&self) -> usize {
        self.entries.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    fn drop_oldest(&mut self) {
        let oldest = self.entries.iter().min_by_key(|(_, entry)| entry.used).map(|(key, _)| key.clone());
        if let Some(key) = oldest {
            self.entries.remove(&key);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_one_longest_out_of_use_makes_room() {
        let mut recent = Recent::<u32, u32>::new(NonZeroUsize::new(3).unwrap_or(NonZeroUsize::MIN));
        for key in [1, 2, 3] {
            *recent.of(&key) = key * 10;
        }
        assert_eq!(*recent.of(&1), 10, "used again");
        assert_eq!(recent.get(&2), Some(&20), "to look is no use");
        recent.of(&4);
        assert_eq!(recent.len(), 3);
        assert_eq!(recent.get(&2), None);
        assert_eq!((recent.get(&1), recent.get(&3), recent.get(&4)), (Some(&10), Some(&30), Some(&0)));
    }
}
