//! A server as a cache: one connection, one request at a time.
//!
//! What memcached says of itself is what its `stats` say. The cost of an item beside key and value is found out by storing
//! one in a server of its own, so that it is right for any version. Redis is not asked.

use std::cell::RefCell;

use crate::contender::{Contender, Figures, Refused};
use crate::servers::{Connection, Server, ServerKind};

/// A connection to a server.
pub struct Remote {
    kind: ServerKind,
    connection: RefCell<Connection>,
    refused: u64,
    /// Of a memcached that was started for this cache; it stops with it.
    own: Option<Own>,
}

struct Own {
    _server: Server,
    /// Its `-m`: slabs alone, without its hash table and all that a process has.
    region_bytes: u64,
    /// What one item costs beside its key and value.
    item_bytes: u64,
}

impl Remote {
    /// A memcached of its own, empty, whose `-m` is the bound.
    ///
    /// # Errors
    /// It is not installed, or does not start.
    pub fn memcached(bytes: u64) -> Result<Self, String> {
        let kind = ServerKind::Memcached;
        let start = || Server::start(kind, bytes)?.ok_or("memcached: not installed".to_owned());
        let server = start()?;
        let mut connection = server.connect()?;
        let (key, value) = (b"key", b"value");
        connection.put(key, value)?;
        let stored_bytes = connection.statistic("bytes")?.ok_or("memcached tells no bytes")?;
        let item_bytes = stored_bytes - (key.len() + value.len()) as u64;
        drop((connection, server));
        let server = start()?;
        let connection = RefCell::new(server.connect()?);
        Ok(Remote { kind, connection, refused: 0, own: Some(Own { _server: server, region_bytes: bytes, item_bytes }) })
    }

    /// A connection to a server that others use as well.
    ///
    /// # Errors
    /// Nobody listens.
    pub fn connect(server: &Server) -> Result<Self, String> {
        let connection = RefCell::new(server.connect()?);
        Ok(Remote { kind: server.kind(), connection, refused: 0, own: None })
    }

    /// # Panics
    /// The server does not answer.
    fn statistic(&self, name: &str) -> u64 {
        let found = self.connection.borrow_mut().statistic(name);
        found.unwrap_or_else(|error| panic!("{error}")).unwrap_or_else(|| panic!("memcached tells no {name}"))
    }
}

impl Contender for Remote {
    fn name(&self) -> &'static str {
        self.kind.name()
    }

    fn policy(&self) -> &'static str {
        "its own"
    }

    /// # Panics
    /// The server does not answer.
    fn read(&mut self, key: &[u8], see: &mut dyn FnMut(&[u8])) -> bool {
        let found = self.connection.get_mut().get(key).unwrap_or_else(|error| panic!("{error}"));
        found.map(see).is_some()
    }

    /// # Panics
    /// The server does not answer.
    fn put(&mut self, key: &[u8], value: &[u8]) -> Result<(), Refused> {
        let stored = self.connection.get_mut().put(key, value).unwrap_or_else(|error| panic!("{error}"));
        self.refused += u64::from(!stored);
        stored.then_some(()).ok_or(Refused::Server(value.len()))
    }

    fn figures(&self) -> Option<Figures> {
        let own = self.own.as_ref()?;
        let entries = self.statistic("curr_items");
        let metadata_bytes = entries * own.item_bytes;
        Some(Figures {
            region_bytes: Some(own.region_bytes),
            payload_bytes: self.statistic("bytes").saturating_sub(metadata_bytes),
            metadata_bytes,
            entries,
            evictions: self.statistic("evictions"),
            refused: self.refused,
            ..Figures::default()
        })
    }

    fn lost(&self) -> u64 {
        self.statistic("evictions")
    }
}
