//! Where evicted entries go: kept for the caller, or dropped.
//!
//! Entries are copied out under the lock into one growing buffer, and looked at after it is released. Large ones are
//! copied without the lock.

use std::collections::TryReserveError;

/// Evicted keys and values, in the order of eviction. Reusable: `clear` keeps the memory.
///
/// # Examples
///
/// ```
/// use pg_shared_lru::{Config, Evicted, SharedCache};
/// let cache = SharedCache::private(&Config::entries(1, 64)).unwrap();
/// let mut evicted = Evicted::default();
/// cache.push(b"a", b"1", &mut evicted).unwrap();
/// cache.push(b"b", b"2", &mut evicted).unwrap();
/// assert_eq!(evicted.iter().collect::<Vec<_>>(), [(&b"a"[..], &b"1"[..])]);
/// ```
#[derive(Default, Debug, Clone)]
pub struct Evicted {
    bytes: Vec<u8>,
    /// Ends of the key and of the value of each entry.
    ends: Vec<(usize, usize)>,
}

impl Evicted {
    /// Makes room for `entries` entries of `bytes` bytes of keys and values together, behind what is there.
    ///
    /// # Errors
    ///
    /// The system has no memory; what is there stays.
    pub fn try_reserve(&mut self, entries: usize, bytes: usize) -> Result<(), TryReserveError> {
        self.bytes.try_reserve_exact(bytes)?;
        self.ends.try_reserve_exact(entries)
    }

    /// Whether one more entry with so many bytes of key and value needs no more memory.
    pub(crate) fn has_room(&self, bytes: usize) -> bool {
        self.bytes.capacity() - self.bytes.len() >= bytes && self.ends.len() < self.ends.capacity()
    }

    /// Number of entries.
    pub fn len(&self) -> usize {
        self.ends.len()
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.ends.is_empty()
    }

    /// Forgets the entries and keeps the memory.
    pub fn clear(&mut self) {
        self.bytes.clear();
        self.ends.clear();
    }

    /// Bytes of keys and values.
    pub fn bytes(&self) -> usize {
        self.bytes.len()
    }

    /// Key and value number `index`, counted from the first evicted.
    ///
    /// # Panics
    ///
    /// If there are not that many.
    pub fn get(&self, index: usize) -> (&[u8], &[u8]) {
        let start = if index == 0 { 0 } else { self.ends[index - 1].1 };
        let (key_end, value_end) = self.ends[index];
        (&self.bytes[start..key_end], &self.bytes[key_end..value_end])
    }

    /// Keys and values, first evicted first.
    pub fn iter(&self) -> impl ExactSizeIterator<Item = (&[u8], &[u8])> + '_ {
        (0..self.len()).map(|index| self.get(index))
    }

    /// Appends an entry; `append_value` writes the value, of `value_len` bytes, behind the key.
    ///
    /// # Errors
    ///
    /// No memory; then nothing is appended.
    pub(crate) fn try_push(
        &mut self,
        key: &[u8],
        value_len: usize,
        append_value: impl FnOnce(&mut Vec<u8>),
    ) -> Result<(), TryReserveError> {
        self.ends.try_reserve(1)?;
        self.bytes.try_reserve(key.len() + value_len)?;
        self.bytes.extend_from_slice(key);
        let key_end = self.bytes.len();
        append_value(&mut self.bytes);
        self.ends.push((key_end, self.bytes.len()));
        Ok(())
    }
}

/// What becomes of evicted entries.
#[derive(Debug)]
pub enum OnEvict<'a> {
    /// They are dropped.
    Discard,
    /// They are appended.
    Collect(&'a mut Evicted),
    /// Nothing is evicted: what does not fit is refused.
    Forbid,
    /// Clean entries are dropped, and counted; a dirty one is not, and what does not fit without it is refused.
    DiscardClean(&'a mut u32),
}

impl OnEvict<'_> {
    /// The same for the next of several steps.
    #[inline]
    pub fn reborrow(&mut self) -> OnEvict<'_> {
        match self {
            OnEvict::Discard => OnEvict::Discard,
            OnEvict::Collect(evicted) => OnEvict::Collect(evicted),
            OnEvict::Forbid => OnEvict::Forbid,
            OnEvict::DiscardClean(dropped) => OnEvict::DiscardClean(dropped),
        }
    }
}
