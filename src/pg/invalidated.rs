//! What one transaction has invalidated, by savepoints.
//!
//! Items are in the order in which they came, so the depth of savepoints never falls from one to the next: who ends a savepoint
//! touches what was invalidated in it, and nothing else. Names are found by their hash. So neither a million tags in one
//! transaction nor a savepoint for each of them takes longer than that many of the first.
//!
//! What fails for want of memory fails before anything is changed.
//!
//! Not here: what becomes of them at the commit (`invalidations`).

use hashbrown::{HashMap, HashTable};
use xxhash_rust::xxh3::xxh3_64_with_seed;

use super::error::CacheError;
use super::invalidations::Target;
use crate::engine::limits::MAX_KEY_BYTES;
use crate::rings::table::LineIndex;

/// More keys of one cache in a transaction stand for all.
const MAX_KEYS: usize = 10_000;

/// Something that a transaction invalidates, and the depth of savepoints in which it did.
#[derive(Clone)]
pub(super) struct Item {
    /// The number of the definition.
    pub(super) cache: u64,
    kind: u8,
    name: Vec<u8>,
    /// Of a tag.
    line: Option<LineIndex>,
    level: i32,
}

impl Item {
    pub(super) fn target(&self) -> Target<'_> {
        Target::of_parts(self.kind, &self.name)
    }

    fn is(&self, cache: u64, target: Target<'_>) -> bool {
        self.cache == cache && self.target() == target
    }

    fn is_of_keys(&self) -> bool {
        matches!(self.target(), Target::Key(_) | Target::Prefix(_))
    }

    fn hash(&self) -> u64 {
        hash(self.cache, self.target())
    }
}

fn hash(cache: u64, target: Target<'_>) -> u64 {
    let (kind, name) = target.parts();
    xxh3_64_with_seed(name, cache ^ u64::from(kind) << 56)
}

/// All of them.
#[derive(Default)]
pub(super) struct Invalidated {
    items: Vec<Item>,
    /// Places in `items`.
    index: HashTable<usize>,
    /// How many keys and prefixes there are of a cache, how many prefixes in all, and how many tags of a line.
    keys: HashMap<u64, usize>,
    prefixes: usize,
    lines: HashMap<LineIndex, usize>,
}

impl Invalidated {
    pub(super) fn is_empty(&self) -> bool {
        self.items.is_empty()
    }

    pub(super) fn items(&self) -> &[Item] {
        &self.items
    }

    /// Adds something at this depth of savepoints, which no item has a greater one than. `line` is that of a tag.
    pub(super) fn add(
        &mut self,
        cache: u64,
        target: Target<'_>,
        line: Option<LineIndex>,
        level: i32,
    ) -> Result<(), CacheError> {
        let is_of_keys = matches!(target, Target::Key(_) | Target::Prefix(_));
        // No key is so long.
        let is_of_none = is_of_keys && target.parts().1.len() > MAX_KEY_BYTES;
        if is_of_none || self.has(cache, target) || is_of_keys && self.has(cache, Target::All) {
            return Ok(());
        }
        let stands_for_all = is_of_keys && self.keys.get(&cache).is_some_and(|count| *count >= MAX_KEYS);
        let (kind, name) = if stands_for_all { Target::All } else { target }.parts();
        let no_memory = || CacheError::OutOfMemory(name.len());
        let mut copy = Vec::new();
        copy.try_reserve_exact(name.len()).map_err(|_| no_memory())?;
        copy.extend_from_slice(name);
        self.items.try_reserve(1).map_err(|_| no_memory())?;
        let items = &self.items;
        self.index.try_reserve(1, |&place| items[place].hash()).map_err(|_| no_memory())?;
        self.keys.try_reserve(1).map_err(|_| no_memory())?;
        self.lines.try_reserve(1).map_err(|_| no_memory())?;
        let item = Item { cache, kind, name: copy, line, level };
        let (place, hash) = (self.items.len(), item.hash());
        if item.is_of_keys() {
            *self.keys.entry(cache).or_default() += 1;
        }
        self.prefixes += usize::from(matches!(item.target(), Target::Prefix(_)));
        if let Some(line) = line {
            *self.lines.entry(line).or_default() += 1;
        }
        self.items.push(item);
        let items = &self.items;
        self.index.insert_unique(hash, place, |&place| items[place].hash());
        Ok(())
    }

    fn has(&self, cache: u64, target: Target<'_>) -> bool {
        self.index.find(hash(cache, target), |&place| self.items[place].is(cache, target)).is_some()
    }

    /// Whether this key is invalidated.
    pub(super) fn has_key(&self, cache: u64, key: &[u8]) -> bool {
        let has_prefix = || {
            let mut prefixes = self.items.iter().filter(|item| matches!(item.target(), Target::Prefix(_)));
            prefixes.any(|item| item.cache == cache && item.target().has(key))
        };
        self.has(cache, Target::Key(key)) || self.has(cache, Target::All) || self.prefixes > 0 && has_prefix()
    }

    /// Whether a tag of this line is.
    pub(super) fn has_line(&self, line: LineIndex) -> bool {
        self.lines.contains_key(&line)
    }

    /// A savepoint of this depth is released: what it has is the outer one's.
    pub(super) fn release(&mut self, level: i32) {
        let inner = self.items.iter_mut().rev().take_while(|item| item.level >= level);
        inner.for_each(|item| item.level = level - 1);
    }

    /// A savepoint of this depth is rolled back.
    pub(super) fn roll_back(&mut self, level: i32) {
        while self.items.last().is_some_and(|item| item.level >= level) {
            let Some(item) = self.items.pop() else { return };
            let place = self.items.len();
            if let Ok(entry) = self.index.find_entry(item.hash(), |&other| other == place) {
                entry.remove();
            }
            if item.is_of_keys() {
                take_one(&mut self.keys, item.cache);
            }
            self.prefixes -= usize::from(matches!(item.target(), Target::Prefix(_)));
            if let Some(line) = item.line {
                take_one(&mut self.lines, line);
            }
        }
    }
}

fn take_one<K: std::hash::Hash + Eq>(counts: &mut HashMap<K, usize>, key: K) {
    if let Some(count) = counts.get_mut(&key) {
        *count -= 1;
        if *count == 0 {
            counts.remove(&key);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn line_of(tag: &[u8]) -> LineIndex {
        LineIndex::new(tag.len() as u32)
    }

    fn add(invalidated: &mut Invalidated, target: Target<'_>, level: i32) {
        let line = if let Target::Tag(tag) = target { Some(line_of(tag)) } else { None };
        invalidated.add(1, target, line, level).expect("there is memory");
    }

    #[test]
    fn what_a_savepoint_has_goes_with_it_and_stays_when_it_is_released() {
        let mut all = Invalidated::default();
        add(&mut all, Target::Key(b"a"), 1);
        add(&mut all, Target::Tag(b"t"), 2);
        add(&mut all, Target::Key(b"b"), 2);
        add(&mut all, Target::Prefix(b"p"), 3);
        add(&mut all, Target::Tag(b"u"), 3);
        assert!(all.has_key(1, b"pq") && all.has_line(line_of(b"t")) && !all.has_key(2, b"a"));
        all.roll_back(3);
        assert!(!all.has_key(1, b"pq") && all.has_key(1, b"b"));
        assert!(all.has_line(line_of(b"u")), "the other tag of this line is still there");
        all.release(2);
        all.roll_back(2);
        assert!(all.has_key(1, b"b") && all.has_line(line_of(b"t")));
        all.roll_back(1);
        assert!(all.is_empty() && !all.has_key(1, b"a") && !all.has_line(line_of(b"t")));
    }

    #[test]
    fn too_many_keys_stand_for_all_and_tags_do_not() {
        let mut all = Invalidated::default();
        (0..=MAX_KEYS as u32).for_each(|tag| add(&mut all, Target::Tag(&tag.to_le_bytes()), 1));
        (0..MAX_KEYS as u32).for_each(|key| add(&mut all, Target::Key(&key.to_le_bytes()), 1));
        assert!(!all.has_key(1, b"other"));
        add(&mut all, Target::Key(b"one more"), 2);
        assert!(all.has_key(1, b"other") && !all.has_key(2, b"other"));
        let count = all.items().len();
        add(&mut all, Target::Key(b"and another"), 2);
        assert_eq!(all.items().len(), count);
        all.roll_back(2);
        assert!(!all.has_key(1, b"other"));
    }

    #[test]
    fn what_no_key_can_be_is_not_kept() {
        let mut all = Invalidated::default();
        add(&mut all, Target::Key(&[0; MAX_KEY_BYTES + 1]), 1);
        assert!(all.is_empty());
        add(&mut all, Target::Key(&[0; MAX_KEY_BYTES]), 1);
        assert!(all.has_key(1, &[0; MAX_KEY_BYTES]));
    }
}
