//! The two kinds of values that a trace is replayed with.
//!
//! Purpose: [`Values`] says how a put makes a value, how a read uses or checks it, and which caches can hold it, so that
//! the replay itself is written once. [`ByteValues`] are byte strings (`testkit::content`) under keys of 8 bytes,
//! [`ListValues`] are neighbour lists (`bench::lists`).
//!
//! Reading uses the whole value: a byte string is copied out, a list is walked.

use std::collections::HashMap;
use std::hint::black_box;

use bench::contender::{ByteStrings, Contender, Kind, NeighbourLists, Refused, Settings};
use bench::contenders::{Name, build, build_lists};
use bench::lists::{HeapList, Lists, encoded_bytes_at_most, key, node};
use pg_shared_lru::adapters::graph::NodePointer;
use testkit::content::Written;
use testkit::heap::lru_node_bytes;

const KEY_BYTES: usize = size_of::<u64>();

/// One kind of values.
pub trait Values {
    type Kind: Kind;

    /// An empty cache for these values.
    ///
    /// # Errors
    /// The settings do not suit the cache; the message says why.
    fn build(&self, name: Name, settings: &Settings) -> Result<Box<dyn Contender<Self::Kind>>, String>;

    /// The most bytes of a key and value that a cache of byte strings needs for a value of this length.
    fn entry_bytes_at_most(&self, len: u32) -> u32;

    /// What the node of an entry takes in the `lru` crate's cache.
    fn lru_node_bytes(&self) -> u64;

    /// Reads a value, if it is there.
    fn read(&mut self, cache: &mut dyn Contender<Self::Kind>, key: u64) -> bool;

    /// Reads a value, if it is there, and compares it with what was last stored.
    ///
    /// # Errors
    /// It is another, or nothing was ever stored under that key.
    fn read_checked(
        &mut self,
        cache: &mut dyn Contender<Self::Kind>,
        key: u64,
        stored: &Stored,
    ) -> Result<bool, String>;

    /// Builds a value and stores it.
    ///
    /// # Errors
    /// The cache does not take it.
    fn write(&mut self, cache: &mut dyn Contender<Self::Kind>, value: Written) -> Result<(), Refused>;

    /// As [`Values::write`]; what is refused is no error. What the cache pushes out, where it can tell, must be what was
    /// last stored.
    ///
    /// # Errors
    /// It is another.
    fn write_checked(
        &mut self,
        cache: &mut dyn Contender<Self::Kind>,
        value: Written,
        stored: &mut Stored,
    ) -> Result<(), String>;
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
#[derive(Default)]
pub struct ByteValues {
    value: Vec<u8>,
    read: Vec<u8>,
}

impl Values for ByteValues {
    type Kind = ByteStrings;

    fn build(&self, name: Name, settings: &Settings) -> Result<Box<dyn Contender>, String> {
        build::<KEY_BYTES>(name, settings)
    }

    fn entry_bytes_at_most(&self, len: u32) -> u32 {
        len.saturating_add(KEY_BYTES as u32)
    }

    fn lru_node_bytes(&self) -> u64 {
        lru_node_bytes::<[u8; KEY_BYTES], Vec<u8>>()
    }

    fn read(&mut self, cache: &mut dyn Contender, key: u64) -> bool {
        cache.get(&key.to_le_bytes(), &mut self.read)
    }

    fn read_checked(&mut self, cache: &mut dyn Contender, key: u64, stored: &Stored) -> Result<bool, String> {
        let found = self.read(cache, key);
        if found {
            stored.of(key)?.check(&self.read).map_err(|mismatch| mismatch.to_string())?;
        }
        Ok(found)
    }

    fn write(&mut self, cache: &mut dyn Contender, value: Written) -> Result<(), Refused> {
        value.build(&mut self.value);
        cache.put(&value.key.to_le_bytes(), &self.value)
    }

    fn write_checked(&mut self, cache: &mut dyn Contender, value: Written, stored: &mut Stored) -> Result<(), String> {
        if self.write(cache, value).is_ok() {
            stored.note(value);
        }
        Ok(())
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
    type Kind = NeighbourLists;

    fn build(&self, name: Name, settings: &Settings) -> Result<Box<dyn Contender<NeighbourLists>>, String> {
        build_lists(name, settings)
    }

    fn entry_bytes_at_most(&self, len: u32) -> u32 {
        encoded_bytes_at_most(len) + NodePointer::BYTES as u32
    }

    fn lru_node_bytes(&self) -> u64 {
        lru_node_bytes::<NodePointer, HeapList>()
    }

    fn read(&mut self, cache: &mut dyn Contender<NeighbourLists>, key: u64) -> bool {
        cache.read(&node(key), &mut |neighbours| _ = black_box(neighbours.walk()))
    }

    fn read_checked(
        &mut self,
        cache: &mut dyn Contender<NeighbourLists>,
        key: u64,
        stored: &Stored,
    ) -> Result<bool, String> {
        let mut right = Ok(());
        let found = cache.read(&node(key), &mut |neighbours| {
            right = stored.of(key).and_then(|expected| self.0.check(expected, neighbours));
        });
        right.map(|()| found)
    }

    fn write(&mut self, cache: &mut dyn Contender<NeighbourLists>, value: Written) -> Result<(), Refused> {
        cache.put_spilling(&node(value.key), self.0.describe(value), &mut |_, neighbours| _ = black_box(neighbours))
    }

    fn write_checked(
        &mut self,
        cache: &mut dyn Contender<NeighbourLists>,
        value: Written,
        stored: &mut Stored,
    ) -> Result<(), String> {
        let lists = &self.0;
        let own = node(value.key);
        let mut right = Ok(());
        let put = cache.put_spilling(&own, lists.describe(value), &mut |node, neighbours| {
            // A value that is too large for the whole cache is pushed out by its own put.
            let expected = if *node == own { Ok(value) } else { stored.of(key(*node)) };
            let found = expected.and_then(|expected| lists.check(expected, neighbours));
            if right.is_ok() {
                right = found.map_err(|error| format!("pushed out: {error}"));
            }
        });
        if put.is_ok() {
            stored.note(value);
        }
        right
    }
}
