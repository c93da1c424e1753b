//! One backend's share of the replay, and the board on which all note what they last wrote.

use std::sync::atomic::{AtomicBool, AtomicU32, AtomicUsize, Ordering};
use std::sync::{Mutex, PoisonError};

use anyhow::{Context, Result, bail, ensure};
use postgres::Client;
use testkit::content;
use testkit::traces::{Access, Op};

/// What a neighbour list takes: a head, and so much for each neighbour.
const VALUE_HEAD_BYTES: usize = 9;
const NEIGHBOUR_BYTES: usize = 12;

/// The cache's name.
pub const CACHE: &str = "neighbours";

/// What a backend did and saw.
#[derive(Clone, Copy, Debug, Default)]
pub struct Account {
    pub hits: i64,
    pub misses: i64,
    pub puts: i64,
}

impl Account {
    pub fn add(&mut self, other: Account) {
        self.hits += other.hits;
        self.misses += other.misses;
        self.puts += other.puts;
    }
}

/// Number of the last write of a key, and its neighbours.
#[derive(Clone, Copy, Default)]
struct LastWrite {
    write: u32,
    neighbours: u8,
}

/// What was last written, by key. The lock of a key is held over one access to it, so that a reader knows exactly what
/// it must see; accesses to different keys run side by side.
pub struct Board {
    last: Vec<Mutex<LastWrite>>,
    writes: AtomicU32,
    stopped: AtomicBool,
}

impl Board {
    pub fn new(trace: &[Access]) -> Self {
        let keys = trace.iter().map(|access| access.key as usize + 1).max().unwrap_or(0);
        let last = (0..keys).map(|_| Mutex::default()).collect();
        Board { last, writes: AtomicU32::new(0), stopped: AtomicBool::new(false) }
    }

    /// Makes the other backends give up: one has failed.
    pub fn stop(&self) {
        self.stopped.store(true, Ordering::Relaxed);
    }

    /// Checks that a value is what was last written to its key.
    pub fn check_last(&self, key: &[u8], value: &[u8]) -> Result<()> {
        let key = u32::from_be_bytes(key.try_into().context("a key of four bytes")?);
        let last = *self.last[key as usize].lock().unwrap_or_else(PoisonError::into_inner);
        let write = content::check_value(key, value)?;
        ensure!(write == last.write, "key {key}: read write {write}, the last one was {}", last.write);
        Ok(())
    }
}

/// Replays some accesses on a connection of its own.
pub fn run<'a>(
    mut client: Client,
    accesses: impl Iterator<Item = (usize, &'a Access)>,
    board: &Board,
    done: &AtomicUsize,
) -> Result<Account> {
    let get = client.prepare("SELECT shared_lru.get($1, $2)")?;
    let put = client.prepare("SELECT shared_lru.put($1, $2, $3)")?;
    let mut account = Account::default();
    for (_, access) in accesses {
        if board.stopped.load(Ordering::Relaxed) {
            bail!("another backend has failed");
        }
        let key = access.key as u32;
        let key_bytes = key.to_be_bytes();
        let mut last = board.last[key as usize].lock().unwrap_or_else(PoisonError::into_inner);
        let read: Option<Vec<u8>> = match access.op {
            Op::Get => client.query_one(&get, &[&CACHE, &&key_bytes[..]])?.get(0),
            Op::Push { neighbours } => {
                last.neighbours = neighbours;
                None
            }
        };
        match read {
            Some(value) => {
                let write = content::check_value(key, &value)?;
                ensure!(write == last.write, "key {key}: read write {write}, the last one was {}", last.write);
                account.hits += 1;
            }
            None => {
                // A push, or the fill after a miss.
                account.misses += i64::from(matches!(access.op, Op::Get));
                last.write = board.writes.fetch_add(1, Ordering::Relaxed) + 1;
                let value =
                    content::value(key, last.write, VALUE_HEAD_BYTES + usize::from(last.neighbours) * NEIGHBOUR_BYTES);
                client.query_one(&put, &[&CACHE, &&key_bytes[..], &value])?;
                account.puts += 1;
            }
        }
        drop(last);
        done.fetch_add(1, Ordering::Relaxed);
    }
    Ok(account)
}
