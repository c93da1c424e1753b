//! One process's part of a build, and the board by which processes divide it among them.
//!
//! As pgvectorscale does: the first worker inserts the first [`FIRST_NODES`] alone, so that the others find a graph;
//! then each takes the next node that nobody has. Workers with private caches write them out after the first nodes,
//! then whenever they have inserted a twentieth of all nodes, and at the end: else no worker would see what another
//! does (one that is alone writes it out at the end only). When all nodes are inserted, the workers divide them again, to
//! prune their lists to the final length; and when that is done those with one cache for all write it out together.

use std::ops::Range;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::time::Duration;

use pg_shared_lru::pg::parallel::ParallelCache;
use pg_shared_lru::{DrainShare, Locks};

use crate::counted_lru::LruCacheWithStats;
use crate::graph::{Builder, Lists};
use crate::pages::Pages;
use crate::private::{self, DropIn, Private};
use crate::records::Records;
use crate::request::{Counters, Mode, Request};
use crate::shared::{Cache, Shared};
use crate::vectors::Vectors;

/// Nodes that the first worker inserts alone.
const FIRST_NODES: u32 = 1024;
/// Of all nodes, what a worker inserts between writing out its cache.
const FLUSHES: u32 = 20;
/// How long a worker sleeps before it looks again whether the first nodes are there.
const PAUSE_MICROSECONDS: i64 = 1000;

/// Which nodes are taken. Lies in shared memory where there are workers.
#[repr(C)]
#[derive(Default)]
pub struct Board {
    next: AtomicU32,
    inserted: AtomicU32,
    first_nodes_done: AtomicBool,
    /// Workers that have inserted all they will, and written out what others must see.
    inserters_done: AtomicU32,
    next_to_finish: AtomicU32,
    /// Workers that change no list any more.
    finishers_done: AtomicU32,
}

impl Board {
    /// Nodes inserted by all.
    pub fn inserted(&self) -> u32 {
        self.inserted.load(Ordering::Relaxed)
    }
}

/// One process's part.
pub struct Part<'a> {
    pub request: &'a Request,
    pub board: &'a Board,
    /// Number of the worker; 0 is the first.
    pub worker: u32,
    /// In mode `shared`, this worker's handle of the cache.
    pub cache: Option<ParallelCache>,
    /// Called after each insert: reports, and acts on what has come in.
    pub tick: &'a mut dyn FnMut(&Board),
}

impl Part<'_> {
    /// Inserts this process's nodes, and writes what its private cache holds. Returns what it has counted.
    pub fn run(mut self) -> Counters {
        let started = processor_time();
        let vectors = crate::open_vectors(self.request);
        let pages = Pages::open(self.request.relation);
        let records = Records::new(&vectors, &pages, self.request.mode == Mode::Private);
        let bytes = self.request.bytes.map(|bytes| bytes / u64::from(self.request.workers.max(1)));
        let counters = match self.request.mode {
            Mode::Lru | Mode::Private => {
                let cache = LruCacheWithStats::new(bytes.unwrap_or(u64::MAX));
                self.run_private(&vectors, Private::new(cache, records))
            }
            Mode::DropIn => {
                let bytes = bytes.expect("the drop-in is given a number of bytes") as usize;
                let cache =
                    DropIn::with_memory(bytes, "Builder neighbor").unwrap_or_else(|error| pgrx::error!("{error}"));
                self.run_private(&vectors, Private::new(cache.warn_with(|_| ()), records))
            }
            Mode::Shared => {
                let cache = self.cache.take().expect("the leader has made a cache for mode shared");
                self.run_shared(&vectors, Shared::new(Cache::over(cache).expect("its own tag"), records))
            }
        };
        let cpu_nanoseconds = processor_time().saturating_sub(started).as_nanos() as u64;
        Counters { distances: vectors.distances.get(), cpu_nanoseconds, ..counters }
    }

    fn run_private<C: private::Cache>(&mut self, vectors: &Vectors, lists: Private<'_, C>) -> Counters {
        let has_others = self.request.workers > 1;
        let flush_after = u64::from((self.request.nodes / FLUSHES).max(1));
        let mut builder = Builder::new(vectors, self.request.nodes, lists);
        self.insert_all(&mut builder, |inserts, lists| {
            if has_others && (inserts == u64::from(FIRST_NODES) || inserts % flush_after == 0) {
                lists.flush();
            }
        });
        builder.lists.measure();
        if self.request.mode == Mode::Private {
            builder.lists.flush();
        }
        self.finish_all(&mut builder);
        builder.lists.store_all()
    }

    fn run_shared<L: Locks>(&mut self, vectors: &Vectors, lists: Shared<'_, L>) -> Counters {
        let mut builder = Builder::new(vectors, self.request.nodes, lists);
        self.insert_all(&mut builder, |_, _| ());
        if self.worker == 0 {
            builder.lists.measure();
        }
        self.finish_all(&mut builder);
        self.wait_for_all(&self.board.finishers_done);
        builder.lists.store_share(DrainShare { worker: self.worker as usize, workers: self.request.workers as usize });
        builder.lists.into_counters()
    }

    /// Inserts nodes until there are no more, and calls `inserted` with the number of this process's after each.
    fn insert_all<L: Lists>(&mut self, builder: &mut Builder<'_, L>, mut inserted: impl FnMut(u64, &mut L)) {
        let first_nodes = FIRST_NODES.min(self.request.nodes);
        let mut insert = |node| {
            builder.insert(node);
            let inserts = builder.lists.counters().inserts;
            inserted(inserts, &mut builder.lists);
            self.board.inserted.fetch_add(1, Ordering::Relaxed);
            (self.tick)(self.board);
        };
        if self.worker == 0 {
            (0..first_nodes).for_each(&mut insert);
            self.board.first_nodes_done.store(true, Ordering::Release);
        }
        wait_until(|| self.board.first_nodes_done.load(Ordering::Acquire));
        taken(&self.board.next, first_nodes..self.request.nodes).for_each(insert);
    }

    /// Prunes lists until all are done, once every worker has inserted its nodes.
    fn finish_all<L: Lists>(&mut self, builder: &mut Builder<'_, L>) {
        self.wait_for_all(&self.board.inserters_done);
        taken(&self.board.next_to_finish, 0..self.request.nodes).for_each(|node| {
            builder.finish(node);
            (self.tick)(self.board);
        });
    }

    /// Counts this worker, and waits until all are counted.
    fn wait_for_all(&self, counted: &AtomicU32) {
        let workers = self.request.workers.max(1);
        counted.fetch_add(1, Ordering::AcqRel);
        wait_until(|| counted.load(Ordering::Acquire) == workers);
    }
}

/// Of the nodes in a range, those that this process takes: each is taken by one.
fn taken(next: &AtomicU32, nodes: Range<u32>) -> impl Iterator<Item = u32> + '_ {
    std::iter::from_fn(move || {
        let node = nodes.start.saturating_add(next.fetch_add(1, Ordering::Relaxed));
        nodes.contains(&node).then_some(node)
    })
}

fn wait_until(done: impl Fn() -> bool) {
    while !done() {
        pgrx::check_for_interrupts!();
        crate::sleep(PAUSE_MICROSECONDS);
    }
}

/// Time that this process has spent on a processor.
#[allow(unsafe_code)]
fn processor_time() -> Duration {
    let mut time = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: writes to `time` only; this clock always exists.
    unsafe { libc::clock_gettime(libc::CLOCK_PROCESS_CPUTIME_ID, &mut time) };
    Duration::new(time.tv_sec as u64, time.tv_nsec as u32)
}
