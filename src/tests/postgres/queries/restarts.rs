//! Restarts of the server in the middle of a random check. Whoever works loses its connection, and begins anew.
//!
//! One is a clean shutdown, which writes an image of the cache if it persists, and one is a crash, after which the commit
//! rings are empty and no image may be believed; in any order.

use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;
use std::time::Duration;

use rand::prelude::*;
use rand::rngs::SmallRng;

use crate::cluster::StopMode;
use crate::world::{World, wait_until};

/// So many seeds has a run for each life of the server.
const SEEDS: u64 = 1_000_000;

/// How often the server was restarted.
pub struct Restarts {
    seed: u64,
    count: AtomicU64,
    /// Held while the server is down.
    is_down: Mutex<()>,
}

impl Restarts {
    pub fn new(seed: u64) -> Restarts {
        Restarts { seed, count: AtomicU64::new(0), is_down: Mutex::new(()) }
    }

    /// Works with a server that may be restarted meanwhile: then from the start, with another seed.
    pub fn survived<R>(&self, work: impl Fn(u64) -> R) -> R {
        loop {
            let life = {
                let _up = self.is_down.lock().expect("it starts");
                self.count.load(Ordering::Relaxed)
            };
            match catch_unwind(AssertUnwindSafe(|| work(self.seed + life * SEEDS))) {
                Ok(result) => return result,
                Err(panic) if self.count.load(Ordering::Relaxed) == life => resume_unwind(panic),
                Err(_) => {}
            }
        }
    }
}

/// Restarts the server twice, unless it is done before. How many results were compared before the last time.
pub fn restart(
    world: &World,
    seed: u64,
    restarts: &Restarts,
    reads: u64,
    compared: &AtomicU64,
    done: &AtomicBool,
) -> u64 {
    let mut rng = SmallRng::seed_from_u64(seed * 100 + 54);
    let mut modes = [StopMode::Fast, StopMode::Immediate];
    modes.shuffle(&mut rng);
    let mut before = 0;
    for (at, mode) in (1..).zip(modes) {
        while compared.load(Ordering::Relaxed) < reads * at / 4 {
            if done.load(Ordering::Relaxed) {
                return before;
            }
            thread::sleep(Duration::from_millis(10));
        }
        let persists = rng.random_range(0..3) > 0;
        world.backend().run(&format!("SELECT shared_lru.alter_cache('c', persist => {persists})"));
        println!("{mode:?} stop of a server whose cache persists: {persists}");
        let down = restarts.is_down.lock().expect("it has started before");
        restarts.count.fetch_add(1, Ordering::Relaxed);
        world.cluster.restart(mode).expect("the server restarts");
        let mut backend = world.backend();
        drop(down);
        wait_until("the query cache is on", || {
            let plan: Vec<String> =
                backend.all("/* shared_lru: c */ EXPLAIN (ANALYZE, COSTS OFF) SELECT n FROM steady");
            !plan.iter().any(|line| line.ends_with("the query cache is off"))
        });
        before = compared.load(Ordering::Relaxed);
    }
    before
}
