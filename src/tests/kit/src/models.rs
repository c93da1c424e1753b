//! The reference model of each eviction policy: a few lines that are plainly right, to hold the engine against.
//!
//! An [`Order`] says who goes next and knows no values; one model a policy:
//!
//! | model | policy |
//! |---|---|
//! | [`Lru`] | exact LRU: a queue, to whose end a use moves a key |
//! | [`Clock`] | CLOCK (Corbató 1968): a queue and a bit for each key, which a use sets; the oldest key whose bit is clear goes, those before it go round with their bits cleared |
//! | [`S3Fifo`] | S3-FIFO (Yang et al., SOSP 2023): a small queue of a tenth, a main queue, and [`Ghosts`] |
//!
//! A [`Model`] is a map of values with such an order and a [`Bound`]: a whole cache.
//!
//! Invariants: an order and its model hold the same keys. Nothing here depends on a hash.
//!
//! Cost: evictions and uses of [`Clock`] and [`S3Fifo`] take constant time, so that a long trace can be replayed;
//! removals, and every use of [`Lru`], search a queue.
//!
//! No type of the library is named here, so that the library's unit tests can use the models.

use std::collections::{HashMap, VecDeque};
use std::hash::Hash;

/// Whether a key may be evicted: not what is pinned, nor what is just being replaced.
pub type MayEvict<'a, K> = dyn Fn(&K) -> bool + 'a;

/// Who is evicted next.
pub trait Order<K> {
    /// Adds a key that is not there. `weight` is what it counts: 1 where entries are counted, else bytes.
    fn insert(&mut self, key: K, weight: u64);

    /// Counts a use: a hit, or a value that is replaced.
    ///
    /// # Panics
    /// The key is not there.
    fn touch(&mut self, key: &K);

    /// Changes what a key weighs, which is no use of it.
    ///
    /// # Panics
    /// The key is not there.
    fn resize(&mut self, key: &K, weight: u64);

    /// Takes out a key that is removed; false if it is not there.
    fn remove(&mut self, key: &K) -> bool;

    /// Takes out the key that makes room for another; `None`, and nothing changes, if none may be evicted.
    fn evict(&mut self, may_evict: &MayEvict<'_, K>) -> Option<K>;

    /// Takes out the next key for whoever asks for it, which makes room for no other: the oldest, if none may be evicted.
    fn pop(&mut self, may_evict: &MayEvict<'_, K>) -> Option<K>;

    fn len(&self) -> usize;

    fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

fn take<K: Eq>(queue: &mut VecDeque<K>, key: &K) -> bool {
    let place = queue.iter().position(|other| other == key);
    place.map(|place| queue.remove(place)).is_some()
}

/// Exact LRU.
#[derive(Debug)]
pub struct Lru<K> {
    /// The least recently used in front.
    queue: VecDeque<K>,
}

impl<K> Default for Lru<K> {
    fn default() -> Self {
        Lru { queue: VecDeque::new() }
    }
}

impl<K: Eq> Order<K> for Lru<K> {
    fn insert(&mut self, key: K, _weight: u64) {
        self.queue.push_back(key);
    }

    fn touch(&mut self, key: &K) {
        let place = self.queue.iter().position(|other| other == key).expect("a key that is there");
        let key = self.queue.remove(place).expect("found there");
        self.queue.push_back(key);
    }

    fn resize(&mut self, _key: &K, _weight: u64) {}

    fn remove(&mut self, key: &K) -> bool {
        take(&mut self.queue, key)
    }

    fn evict(&mut self, may_evict: &MayEvict<'_, K>) -> Option<K> {
        let place = self.queue.iter().position(may_evict)?;
        self.queue.remove(place)
    }

    fn pop(&mut self, may_evict: &MayEvict<'_, K>) -> Option<K> {
        self.evict(may_evict).or_else(|| self.queue.pop_front())
    }

    fn len(&self) -> usize {
        self.queue.len()
    }
}

/// CLOCK.
#[derive(Debug)]
pub struct Clock<K> {
    /// What the hand meets next in front.
    queue: VecDeque<K>,
    referenced: HashMap<K, bool>,
}

impl<K> Default for Clock<K> {
    fn default() -> Self {
        Clock { queue: VecDeque::new(), referenced: HashMap::new() }
    }
}

impl<K: Eq + Hash + Clone> Order<K> for Clock<K> {
    /// A new key comes with its bit clear.
    fn insert(&mut self, key: K, _weight: u64) {
        self.referenced.insert(key.clone(), false);
        self.queue.push_back(key);
    }

    fn touch(&mut self, key: &K) {
        *self.referenced.get_mut(key).expect("a key that is there") = true;
    }

    fn resize(&mut self, _key: &K, _weight: u64) {}

    fn remove(&mut self, key: &K) -> bool {
        self.referenced.remove(key).is_some() && take(&mut self.queue, key)
    }

    /// The hand meets each key at most twice: once with its bit set, once without.
    fn evict(&mut self, may_evict: &MayEvict<'_, K>) -> Option<K> {
        if !self.queue.iter().any(may_evict) {
            return None;
        }
        loop {
            let key = self.queue.pop_front()?;
            let referenced = std::mem::take(self.referenced.get_mut(&key)?);
            if !referenced && may_evict(&key) {
                self.referenced.remove(&key);
                return Some(key);
            }
            self.queue.push_back(key);
        }
    }

    fn pop(&mut self, may_evict: &MayEvict<'_, K>) -> Option<K> {
        self.evict(may_evict).or_else(|| {
            let key = self.queue.pop_front()?;
            self.referenced.remove(&key);
            Some(key)
        })
    }

    fn len(&self) -> usize {
        self.queue.len()
    }
}

/// How an [`S3Fifo`] remembers keys that left its small queue without a second use.
#[derive(Debug)]
pub struct Ghosts<K>(Memory<K>);

#[derive(Debug)]
enum Memory<K> {
    /// As in the paper: a queue of its own, of so much weight. A key whose number in the map is another than in the queue
    /// is a ghost no longer.
    Queue { numbers: HashMap<K, (u64, u64)>, order: VecDeque<(u64, K)>, weight: u64, limit: u64, count: u64 },
    /// As the library does it: an age for each ghost, counted in ghosts that came after it less those that were
    /// recalled meanwhile; one older than nine tenths of the entries is forgotten.
    Aged { times: HashMap<K, u64>, time: u64, recalled: u64 },
}

impl<K: Eq + Hash + Clone> Ghosts<K> {
    /// The paper's queue, for a cache of so much weight: it holds nine tenths of that.
    pub fn queue(cache_weight: u64) -> Self {
        let limit = cache_weight - cache_weight / 10;
        Ghosts(Memory::Queue { numbers: HashMap::new(), order: VecDeque::new(), weight: 0, limit, count: 0 })
    }

    /// The library's ages.
    pub fn aged() -> Self {
        Ghosts(Memory::Aged { times: HashMap::new(), time: 0, recalled: 0 })
    }

    fn remember(&mut self, key: K, its_weight: u64) {
        match &mut self.0 {
            Memory::Queue { numbers, order, weight, limit, count } => {
                *count += 1;
                if let Some((_, before)) = numbers.insert(key.clone(), (*count, its_weight)) {
                    *weight -= before;
                }
                order.push_back((*count, key));
                *weight += its_weight;
                while weight > limit {
                    let Some((number, key)) = order.pop_front() else { return };
                    if numbers.get(&key).is_some_and(|&(latest, _)| latest == number) {
                        let (_, its_weight) = numbers.remove(&key).expect("found there");
                        *weight -= its_weight;
                    }
                }
            }
            Memory::Aged { times, time, recalled } => {
                match *recalled {
                    0 => *time += 1,
                    _ => *recalled -= 1,
                }
                times.insert(key, *time);
            }
        }
    }

    /// Whether the key is remembered, by a cache of so many entries; then it is a ghost no longer.
    fn recall(&mut self, key: &K, entries: usize) -> bool {
        match &mut self.0 {
            Memory::Queue { numbers, weight, .. } => {
                let found = numbers.remove(key);
                found.into_iter().for_each(|(_, its_weight)| *weight -= its_weight);
                found.is_some()
            }
            Memory::Aged { times, time, recalled } => {
                let remembered = (entries - entries / 10) as u64;
                let is_ghost = times.remove(key).is_some_and(|its_time| *time - its_time < remembered);
                *recalled += u64::from(is_ghost);
                is_ghost
            }
        }
    }
}

#[derive(Debug)]
struct S3FifoEntry {
    weight: u64,
    uses: u8,
    is_small: bool,
}

/// S3-FIFO. Victims come from the small queue while that has a tenth of the weight or more, else from the main one.
#[derive(Debug)]
pub struct S3Fifo<K> {
    entries: HashMap<K, S3FifoEntry>,
    /// The oldest in front.
    small: VecDeque<K>,
    main: VecDeque<K>,
    small_weight: u64,
    weight: u64,
    ghosts: Ghosts<K>,
}

impl<K: Eq + Hash + Clone> S3Fifo<K> {
    /// An empty one that remembers in this way.
    pub fn new(ghosts: Ghosts<K>) -> Self {
        let (small, main) = (VecDeque::new(), VecDeque::new());
        S3Fifo { entries: HashMap::new(), small, main, small_weight: 0, weight: 0, ghosts }
    }

    /// Keys in the small queue.
    pub fn small_len(&self) -> usize {
        self.small.len()
    }

    fn small_is_next(&self) -> bool {
        !self.small.is_empty() && self.small_weight >= self.weight / 10
    }

    /// Takes out the next to go. One that may not be evicted goes to the end of its queue, with its uses; one of the small
    /// queue that was used twice goes on to main; one of main that was used goes round with a use less.
    fn take_victim(&mut self, may_evict: &MayEvict<'_, K>) -> Option<(K, S3FifoEntry)> {
        if !self.entries.keys().any(may_evict) {
            return None;
        }
        // Each key is met once in small; in main as often as it may have uses, and once more.
        let (mut small_left, mut main_left) = (self.small.len(), 4 * self.entries.len());
        while small_left + main_left > 0 {
            let from_small = small_left > 0 && (main_left == 0 || self.small_is_next());
            let (queue, left) = match from_small {
                true => (&mut self.small, &mut small_left),
                false => (&mut self.main, &mut main_left),
            };
            *left -= 1;
            let Some(key) = queue.pop_front() else { continue };
            let passed_over = !may_evict(&key);
            let entry = self.entries.get_mut(&key).expect("what is queued is there");
            match (from_small, entry.uses) {
                (true, _) if passed_over => self.small.push_back(key),
                (true, 2..) => {
                    (entry.uses, entry.is_small) = (0, false);
                    self.small_weight -= entry.weight;
                    self.main.push_back(key);
                }
                (false, 0) if passed_over => self.main.push_back(key),
                (false, 1..) => {
                    entry.uses -= 1;
                    self.main.push_back(key);
                }
                _ => {
                    let entry = self.forget(&key).expect("what is queued is there");
                    return Some((key, entry));
                }
            }
        }
        None
    }

    /// Takes a key out of all but its queue.
    fn forget(&mut self, key: &K) -> Option<S3FifoEntry> {
        let entry = self.entries.remove(key)?;
        self.weight -= entry.weight;
        self.small_weight -= if entry.is_small { entry.weight } else { 0 };
        Some(entry)
    }
}

impl<K: Eq + Hash + Clone> Order<K> for S3Fifo<K> {
    /// A new key goes to the small queue, one that is remembered to main.
    fn insert(&mut self, key: K, weight: u64) {
        let is_small = !self.ghosts.recall(&key, self.entries.len());
        self.weight += weight;
        self.small_weight += if is_small { weight } else { 0 };
        self.entries.insert(key.clone(), S3FifoEntry { weight, uses: 0, is_small });
        if is_small { &mut self.small } else { &mut self.main }.push_back(key);
    }

    fn touch(&mut self, key: &K) {
        let entry = self.entries.get_mut(key).expect("a key that is there");
        entry.uses = 3.min(entry.uses + 1);
    }

    fn resize(&mut self, key: &K, weight: u64) {
        let entry = self.entries.get_mut(key).expect("a key that is there");
        let before = std::mem::replace(&mut entry.weight, weight);
        self.weight = self.weight - before + weight;
        if entry.is_small {
            self.small_weight = self.small_weight - before + weight;
        }
    }

    fn remove(&mut self, key: &K) -> bool {
        let Some(entry) = self.forget(key) else { return false };
        take(if entry.is_small { &mut self.small } else { &mut self.main }, key)
    }

    fn evict(&mut self, may_evict: &MayEvict<'_, K>) -> Option<K> {
        let (key, entry) = self.take_victim(may_evict)?;
        if entry.is_small {
            self.ghosts.remember(key.clone(), entry.weight);
        }
        Some(key)
    }

    /// What is popped is no ghost.
    fn pop(&mut self, may_evict: &MayEvict<'_, K>) -> Option<K> {
        let oldest = if self.small_is_next() { self.small.front() } else { self.main.front() }.cloned()?;
        let victim = self.take_victim(may_evict);
        Some(victim.map(|(key, _)| key).unwrap_or_else(|| {
            self.remove(&oldest);
            oldest
        }))
    }

    fn len(&self) -> usize {
        self.entries.len()
    }
}

/// When a [`Model`] is full.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Bound {
    /// Never by itself: somebody else says what goes.
    None,
    /// At this many entries.
    Entries(usize),
    /// At this many bytes of values alone, as trace simulators count.
    ValueBytes(u64),
}

/// An entry that could not fit even an empty cache. The cache is as it was before.
#[derive(Debug, PartialEq, Eq)]
pub struct TooLarge;

/// Key and value.
pub type Pair = (Vec<u8>, Vec<u8>);

/// A cache as one would write it in a few lines: a map, and an order of eviction.
pub struct Model {
    values: HashMap<Vec<u8>, Vec<u8>>,
    order: Box<dyn Order<Vec<u8>>>,
    bound: Bound,
    value_bytes: u64,
    key_bytes: u64,
    evictions: u64,
}

impl Model {
    pub fn new(order: Box<dyn Order<Vec<u8>>>, bound: Bound) -> Self {
        Model { values: HashMap::new(), order, bound, value_bytes: 0, key_bytes: 0, evictions: 0 }
    }

    fn weight(&self, value: &[u8]) -> u64 {
        match self.bound {
            Bound::None | Bound::Entries(_) => 1,
            Bound::ValueBytes(_) => value.len() as u64,
        }
    }

    /// Whether there is too much, were there so many entries and bytes of values more.
    fn is_over(&self, entries: usize, value_bytes: u64) -> bool {
        match self.bound {
            Bound::None => false,
            Bound::Entries(limit) => self.values.len() + entries > limit,
            Bound::ValueBytes(limit) => self.value_bytes + value_bytes > limit,
        }
    }

    /// The value of `key`, of which a use is counted.
    pub fn get(&mut self, key: &[u8]) -> Option<&[u8]> {
        let (key, value) = self.values.get_key_value(key)?;
        self.order.touch(key);
        Some(value)
    }

    /// The value of `key`; no use.
    pub fn peek(&self, key: &[u8]) -> Option<&[u8]> {
        self.values.get(key).map(Vec::as_slice)
    }

    pub fn contains(&self, key: &[u8]) -> bool {
        self.values.contains_key(key)
    }

    /// Stores `value` and evicts until the bound holds, before a new entry and after a replaced one, which counts as a
    /// use. Returns what was evicted, in that order.
    ///
    /// # Errors
    /// The entry alone exceeds the bound.
    pub fn put(&mut self, key: &[u8], value: &[u8]) -> Result<Vec<Pair>, TooLarge> {
        let (weight, bytes) = (self.weight(value), value.len() as u64);
        match self.bound {
            Bound::Entries(0) => return Err(TooLarge),
            Bound::ValueBytes(limit) if bytes > limit => return Err(TooLarge),
            _ => {}
        }
        let mut evicted = Vec::new();
        if let Some(old) = self.values.get_mut(key) {
            let before = std::mem::replace(old, value.to_vec()).len() as u64;
            self.value_bytes = self.value_bytes - before + bytes;
            let key = key.to_vec();
            self.order.touch(&key);
            self.order.resize(&key, weight);
            while self.is_over(0, 0) {
                evicted.extend(self.evict(&|_| true));
            }
            return Ok(evicted);
        }
        while self.is_over(1, bytes) {
            evicted.extend(self.evict(&|_| true));
        }
        self.order.insert(key.to_vec(), weight);
        self.values.insert(key.to_vec(), value.to_vec());
        self.key_bytes += key.len() as u64;
        self.value_bytes += bytes;
        Ok(evicted)
    }

    /// Evicts the next entry of those that may go.
    pub fn evict(&mut self, may_evict: &MayEvict<'_, Vec<u8>>) -> Option<Pair> {
        let key = self.order.evict(may_evict)?;
        self.evictions += 1;
        Some(self.take(key))
    }

    /// Takes out the next entry.
    pub fn pop(&mut self) -> Option<Pair> {
        let key = self.order.pop(&|_| true)?;
        Some(self.take(key))
    }

    fn take(&mut self, key: Vec<u8>) -> Pair {
        let value = self.values.remove(&key).expect("what is ordered is there");
        self.key_bytes -= key.len() as u64;
        self.value_bytes -= value.len() as u64;
        (key, value)
    }

    /// Takes out one entry.
    pub fn remove(&mut self, key: &[u8]) -> Option<Vec<u8>> {
        let key = key.to_vec();
        self.order.remove(&key).then(|| self.take(key).1)
    }

    pub fn iter(&self) -> impl Iterator<Item = (&[u8], &[u8])> {
        self.values.iter().map(|(key, value)| (key.as_slice(), value.as_slice()))
    }

    pub fn len(&self) -> usize {
        self.values.len()
    }

    pub fn is_empty(&self) -> bool {
        self.values.is_empty()
    }

    /// Keys and values.
    pub fn bytes(&self) -> u64 {
        self.key_bytes + self.value_bytes
    }

    pub fn evictions(&self) -> u64 {
        self.evictions
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::content::Random;

    fn evicted_in_order(order: &mut dyn Order<u32>) -> Vec<u32> {
        std::iter::from_fn(|| order.evict(&|_| true)).collect()
    }

    #[test]
    fn lru_evicts_the_least_recently_used() {
        let mut order = Lru::default();
        (0..5).for_each(|key| order.insert(key, 1));
        [1, 0].iter().for_each(|key| order.touch(key));
        assert!(order.remove(&3) && !order.remove(&3));
        assert_eq!(order.evict(&|&key| key != 2), Some(4), "what may not go is passed over, where it is");
        assert_eq!(order.pop(&|_| false), Some(2), "if none may be evicted, the oldest is popped");
        assert_eq!(evicted_in_order(&mut order), [1, 0]);
    }

    #[test]
    fn clock_gives_a_second_chance_once() {
        let mut order = Clock::default();
        (0..4).for_each(|key| order.insert(key, 1));
        order.touch(&0);
        assert_eq!(order.evict(&|_| true), Some(1), "the first without its bit goes");
        assert_eq!(order.evict(&|&key| key != 2), Some(3));
        assert_eq!(order.evict(&|_| false), None);
        assert_eq!(evicted_in_order(&mut order), [0, 2], "the bit saved it only once");
    }

    fn has(model: &Model, keys: &[u8]) -> bool {
        keys.iter().all(|key| model.contains(&[*key]))
    }

    #[test]
    fn s3_fifo_keeps_what_is_used_twice_and_remembers_what_it_let_go() {
        for ghosts in [Ghosts::queue(10), Ghosts::aged()] {
            let mut model = Model::new(Box::new(S3Fifo::new(ghosts)), Bound::Entries(10));
            let put = |model: &mut Model, keys: std::ops::Range<u8>| {
                keys.for_each(|key| drop(model.put(&[key], b"1").unwrap()));
            };
            put(&mut model, 0..10);
            (0..2).for_each(|_| assert!(model.get(&[0]).is_some()));
            assert!(model.get(&[1]).is_some());
            // 1 was used only once; 0 goes to main.
            put(&mut model, 10..11);
            assert!(has(&model, &[0]) && !has(&model, &[1]));
            // As a ghost 1 goes to main at once, and stays there while what is new comes and goes.
            put(&mut model, 1..2);
            put(&mut model, 20..60);
            assert!(has(&model, &[0, 1]));
            assert_eq!((model.len(), model.evictions(), model.bytes()), (10, 42, 20));
        }
    }

    #[test]
    fn s3_fifo_forgets_ghosts_beyond_nine_tenths() {
        for ghosts in [Ghosts::queue(10), Ghosts::aged()] {
            let mut order = S3Fifo::new(ghosts);
            let mut evicted = Vec::new();
            for key in 0..30 {
                evicted.extend((order.len() == 10).then(|| order.evict(&|_| true).unwrap()));
                order.insert(key, 1);
            }
            assert_eq!(evicted, (0..20).collect::<Vec<u32>>());
            let before = order.small_len();
            order.insert(10, 1);
            assert_eq!(order.small_len(), before + 1, "nine keys have gone since");
            order.insert(19, 1);
            assert_eq!(order.small_len(), before + 1);
        }
    }

    #[test]
    fn a_model_stays_within_its_bytes_and_adds_up() {
        let mut model = Model::new(Box::new(S3Fifo::new(Ghosts::queue(20_000))), Bound::ValueBytes(20_000));
        let mut random = Random(5);
        let mut evicted = 0;
        for _ in 0..20_000 {
            let key = (random.below(500) as u64).to_le_bytes();
            if model.get(&key).is_none() || random.below(10) == 0 {
                evicted += model.put(&key, &vec![0; random.below(400)]).unwrap().len() as u64;
            }
            let value_bytes: usize = model.iter().map(|(_, value)| value.len()).sum();
            assert!(value_bytes <= 20_000, "{value_bytes}");
            assert_eq!(model.bytes(), (value_bytes + 8 * model.len()) as u64);
        }
        assert!(evicted > 1000 && model.evictions() == evicted);
        assert_eq!(model.put(&[0; 8], &[0; 20_001]), Err(TooLarge));
    }

    #[test]
    fn what_is_removed_is_gone_from_the_order() {
        let orders: [Box<dyn Order<Vec<u8>>>; 3] =
            [Box::new(Lru::default()), Box::new(Clock::default()), Box::new(S3Fifo::new(Ghosts::aged()))];
        for order in orders {
            let mut model = Model::new(order, Bound::Entries(3));
            (0..3).for_each(|key| drop(model.put(&[key], &[key; 4]).unwrap()));
            assert_eq!((model.remove(&[1]), model.remove(&[1])), (Some(vec![1; 4]), None));
            model.put(&[3], b"").unwrap();
            assert_eq!(model.put(&[4], b"").unwrap(), [(vec![0], vec![0; 4])]);
            assert_eq!(std::iter::from_fn(|| model.pop()).map(|(key, _)| key[0]).collect::<Vec<_>>(), [2, 3, 4]);
            assert_eq!((model.len(), model.bytes()), (0, 0));
        }
    }
}
