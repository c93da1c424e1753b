//! The two kinds of values that a trace is replayed with.
//!
//! Purpose: [`Values`] says how a put makes a value, how a read uses or checks it, and which caches can hold it, so that
//! the replay itself is written once. [`ByteValues`] are byte strings (`content.rs`) under keys of 8 bytes, for the
//! caches of `caches.rs`; [`ListValues`] are neighbour lists (`lists.rs`), for those of `list_caches.rs`.
//!
//! Reading uses the whole value: a byte string is copied out, a list is walked.

use std::collections::HashMap;
use std::hint::black_box;

use pg_shared_lru::adapters::graph::NodePointer;

use super::caches::{Cache, Inspect, Kind, Outcome, Settings, build};
use super::content::{Content, Written};
use super::list_caches::{ListCache, build_lists};
use super::lists::{HeapList, Lists, encoded_bytes_at_most, key, node};
use super::reference::lru_node_bytes;

const KEY_BYTES: usize = size_of::<u64>();

/// One kind of values.
pub trait Values {
    type Cache: Inspect + ?Sized;

    /// An empty cache for these values.
    ///
    /// # Errors
    /// The settings do not suit the kind; the message says why.
    fn build(&self, kind: Kind, settings: &Settings) -> Result<Box<Self::Cache>, String>;

    /// The most bytes of a key and value that a cache of byte strings needs for a value of this length.
    fn entry_bytes_at_most(&self, len: u32) -> u32;

    /// What the node of an entry takes in the `lru` crate's cache.
    fn lru_node_bytes(&self) -> u64;

    /// Reads a value, if it is there.
    fn read(&mut self, cache: &mut Self::Cache, key: u64) -> bool;

    /// Reads a value, if it is there, and compares it with what was last stored.
    ///
    /// # Errors
    /// It is another, or nothing was ever stored under that key.
    fn read_checked(&mut self, cache: &mut Self::Cache, key: u64, stored: &Stored) -> Result<bool, String>;

    /// Builds a value and stores it.
    fn write(&mut self, cache: &mut Self::Cache, value: Written) -> Outcome;

    /// As [`Values::write`]; what the cache pushes out, where it can tell, must be what was last stored.
    ///
    /// # Errors
    /// It is another.
    fn write_checked(
        &mut self,
        cache: &mut Self::Cache,
        value: Written,
        stored: &mut Stored,
    ) -> Result<Outcome, String>;
}

/// What was last stored under each key.
#[derive(Default)]
pub struct Stored(HashMap<u64, Written>);

impl Stored {
    fn of(&self, key: u64) -> Result<Written, String> {
        self.0.get(&key).copied().ok_or_else(|| format!("key {key} was never stored"))
    }

    fn note(&mut self, value: Written) {
        self.0.insert(value.key, value);
    }
}

/// Byte strings.
pub struct ByteValues {
    content: Content,
    value: Vec<u8>,
    read: Vec<u8>,
}

impl ByteValues {
    /// For values of up to so many bytes.
    pub fn new(max_bytes: u32) -> Self {
        ByteValues { content: Content::new(max_bytes as usize), value: Vec::new(), read: Vec::new() }
    }
}

impl Values for ByteValues {
    type Cache = dyn Cache;

    fn build(&self, kind: Kind, settings: &Settings) -> Result<Box<dyn Cache>, String> {
        build::<KEY_BYTES>(kind, settings)
    }

    fn entry_bytes_at_most(&self, len: u32) -> u32 {
        len.saturating_add(KEY_BYTES as u32)
    }

    fn lru_node_bytes(&self) -> u64 {
        lru_node_bytes::<[u8; KEY_BYTES], Vec<u8>>()
    }

    fn read(&mut self, cache: &mut Self::Cache, key: u64) -> bool {
        cache.get(&key.to_le_bytes(), &mut self.read)
    }

    fn read_checked(&mut self, cache: &mut Self::Cache, key: u64, stored: &Stored) -> Result<bool, String> {
        let found = self.read(cache, key);
        if found {
            self.content.check(stored.of(key)?, &self.read).map_err(|mismatch| mismatch.to_string())?;
        }
        Ok(found)
    }

    fn write(&mut self, cache: &mut Self::Cache, value: Written) -> Outcome {
        self.content.build(value, &mut self.value);
        cache.put(&value.key.to_le_bytes(), &self.value)
    }

    fn write_checked(
        &mut self,
        cache: &mut Self::Cache,
        value: Written,
        stored: &mut Stored,
    ) -> Result<Outcome, String> {
        let outcome = self.write(cache, value);
        if outcome == Outcome::Stored {
            stored.note(value);
        }
        Ok(outcome)
    }
}

/// Neighbour lists; a length is a number of neighbours.
pub struct ListValues(Lists);

impl ListValues {
    pub fn new() -> Self {
        ListValues(Lists::new())
    }
}

impl Values for ListValues {
    type Cache = dyn ListCache;

    fn build(&self, kind: Kind, settings: &Settings) -> Result<Box<dyn ListCache>, String> {
        build_lists(kind, settings)
    }

    fn entry_bytes_at_most(&self, len: u32) -> u32 {
        encoded_bytes_at_most(len) + NodePointer::BYTES as u32
    }

    fn lru_node_bytes(&self) -> u64 {
        lru_node_bytes::<NodePointer, HeapList>()
    }

    fn read(&mut self, cache: &mut Self::Cache, key: u64) -> bool {
        let found = cache.get(node(key));
        found.map(|neighbours| black_box(neighbours.walk())).is_some()
    }

    fn read_checked(&mut self, cache: &mut Self::Cache, key: u64, stored: &Stored) -> Result<bool, String> {
        match cache.get(node(key)) {
            Some(neighbours) => self.0.check(stored.of(key)?, neighbours).map(|()| true),
            None => Ok(false),
        }
    }

    fn write(&mut self, cache: &mut Self::Cache, value: Written) -> Outcome {
        let put = cache.put(value, &self.0, &mut |_, neighbours| {
            black_box(neighbours);
            Ok(())
        });
        put.unwrap_or(Outcome::Refused)
    }

    fn write_checked(
        &mut self,
        cache: &mut Self::Cache,
        value: Written,
        stored: &mut Stored,
    ) -> Result<Outcome, String> {
        let lists = &self.0;
        let own = node(value.key);
        let outcome = cache.put(value, lists, &mut |node, neighbours| {
            // A value that is too large for the whole cache is pushed out by its own put.
            let expected = if node == own { value } else { stored.of(key(node))? };
            lists.check(expected, neighbours).map_err(|error| format!("pushed out: {error}"))
        })?;
        if outcome == Outcome::Stored {
            stored.note(value);
        }
        Ok(outcome)
    }
}
