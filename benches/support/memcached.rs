//! memcached as a cache of a benchmark: one server, one connection, one request at a time.
//!
//! What it says of itself is what its `stats` say. The cost of an item beside key and value is found out by storing one in
//! a server of its own, so that it is right for any version.

use std::cell::RefCell;

use super::caches::{Cache, Figures, Inspect, Outcome, outcome};
use super::servers::{Connection, Server, ServerKind};

/// A memcached of its own, whose `-m` is the bound: slabs alone, without its hash table and all that a process has.
pub struct Memcached {
    connection: RefCell<Connection>,
    region_bytes: u64,
    /// What one item costs beside its key and value.
    item_bytes: u64,
    refused: u64,
    /// Stops with the cache.
    _server: Server,
}

impl Memcached {
    /// An empty one.
    ///
    /// # Errors
    /// It is not installed, or does not start.
    pub fn start(bytes: u64) -> Result<Self, String> {
        let server = Server::start(ServerKind::Memcached, bytes)?.ok_or("memcached: not installed")?;
        let mut connection = server.connect()?;
        let (key, value) = (b"key", b"value");
        connection.put(key, value)?;
        let item_bytes = connection.statistic("bytes")?.unwrap_or(0) - (key.len() + value.len()) as u64;
        drop((connection, server));
        let server = Server::start(ServerKind::Memcached, bytes)?.ok_or("memcached: not installed")?;
        let connection = RefCell::new(server.connect()?);
        Ok(Memcached { connection, region_bytes: bytes, item_bytes, refused: 0, _server: server })
    }

    /// # Panics
    /// The server does not answer.
    fn statistic(&self, name: &str) -> u64 {
        let found = self.connection.borrow_mut().statistic(name);
        found.unwrap_or_else(|error| panic!("{error}")).unwrap_or_else(|| panic!("memcached tells no {name}"))
    }
}

impl Inspect for Memcached {
    fn name(&self) -> &'static str {
        "memcached"
    }

    fn policy(&self) -> &'static str {
        "its own"
    }

    fn figures(&self) -> Figures {
        let entries = self.statistic("curr_items");
        let metadata_bytes = entries * self.item_bytes;
        Figures {
            region_bytes: self.region_bytes,
            payload_bytes: self.statistic("bytes").saturating_sub(metadata_bytes),
            metadata_bytes,
            entries,
            evictions: self.statistic("evictions"),
            refused: self.refused,
            ..Figures::default()
        }
    }

    fn lost(&self) -> u64 {
        self.statistic("evictions")
    }
}

impl Cache for Memcached {
    /// # Panics
    /// The server does not answer.
    fn get(&mut self, key: &[u8], out: &mut Vec<u8>) -> bool {
        self.connection.get_mut().get(key, out).unwrap_or_else(|error| panic!("{error}"))
    }

    /// # Panics
    /// The server does not answer.
    fn put(&mut self, key: &[u8], value: &[u8]) -> Outcome {
        let stored = self.connection.get_mut().put(key, value).unwrap_or_else(|error| panic!("{error}"));
        outcome(stored.then_some(()).ok_or(()), &mut self.refused)
    }
}
