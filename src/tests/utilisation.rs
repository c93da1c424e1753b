//! A full cache uses its memory, whatever the sizes of its values: at least four fifths of all bytes are keys, values and
//! what they cost, at every moment once it is full. A number of partitions that cannot do that is refused. And the memory
//! that is said to do for a table does.
//!
//! The rule is in `engine/slab/sizing.rs`, the figures for larger caches in docs/memory.md. With optimisation (`cargo test
//! --release`) 64 MiB are measured, too.

use std::convert::Infallible;

use pg_shared_lru::adapters::{builder, memory_for};
use pg_shared_lru::{
    BuilderCache, Config, ConfigError, LruCacheWithStats, MemoryReport, NoLocks, Policy, RobustLocks, SharedCache,
    SpillStore,
};
use testkit::content::Random;

const LEAST: f64 = 0.80;
const KIB: usize = 1 << 10;
const MIB: usize = 1 << 20;
const KEY_BYTES: usize = 16;
/// Without optimisation some of it would take minutes.
const IS_SLOW: bool = cfg!(debug_assertions);
/// The smallest value of those that the rule is for.
const MIN_VALUE_BYTES: usize = 32;

/// How value sizes are drawn, for partitions of some size.
#[derive(Clone, Copy, Debug)]
enum Mix {
    /// All alike.
    Same(usize),
    /// Every size alike.
    Uniform(usize, usize),
    /// Every doubling alike, up to an eighth of a partition.
    Doublings,
    /// 32 bytes, or this share of them an eighth of a partition.
    SmallAndLarge(f64),
    /// Sizes that rise from 32 bytes to a thirtieth of a partition, and fall again.
    Drifting,
}

impl Mix {
    /// A size; `progress` goes from 0 to 1.
    fn draw(self, random: &mut Random, most: usize, progress: f64) -> usize {
        let unit = random.below(1 << 30) as f64 / f64::from(1 << 30);
        let at_doubling = |share: f64, most: f64| MIN_VALUE_BYTES as f64 * (most / MIN_VALUE_BYTES as f64).powf(share);
        match self {
            Mix::Same(bytes) => bytes,
            Mix::Uniform(from, to) => from + (unit * (to + 1 - from) as f64) as usize,
            Mix::Doublings => at_doubling(unit, most as f64) as usize,
            Mix::SmallAndLarge(share) => {
                if unit < share {
                    most
                } else {
                    MIN_VALUE_BYTES
                }
            }
            Mix::Drifting => {
                let share = 1.0 - (2.0 * progress - 1.0).abs();
                (at_doubling(share, most as f64 / 4.0) * (0.7 + 0.6 * unit)) as usize
            }
        }
    }
}

/// The lowest utilisation of a cache that is given six times its memory, from the third time on.
fn lowest_utilisation(cache: &SharedCache<NoLocks>, mix: Mix) -> f64 {
    const TIMES: usize = 6;
    const FULL_AFTER: usize = 3;
    let resolved = cache.resolved();
    let most = resolved.region_bytes / resolved.partitions as usize / 8;
    let content = vec![7; most.max(4 * KIB)];
    let mut random = Random(1);
    let (mut put_bytes, mut lowest, mut number) = (0, 1.0f64, 0u64);
    let looks_every = (resolved.region_bytes / (160 * KIB)).max(1) as u64;
    while put_bytes < TIMES * resolved.region_bytes {
        let progress = put_bytes as f64 / (TIMES * resolved.region_bytes) as f64;
        let len = mix.draw(&mut random, most, progress);
        let mut key = [0; KEY_BYTES];
        key[..8].copy_from_slice(&number.to_le_bytes());
        cache.put(&key, &content[..len]).unwrap();
        put_bytes += KEY_BYTES + len;
        number += 1;
        if put_bytes > FULL_AFTER * resolved.region_bytes && number % looks_every == 0 {
            lowest = lowest.min(cache.memory_report().utilisation());
        }
    }
    cache.validate().unwrap();
    lowest
}

fn assert_used(bytes: usize, partitions: u32, policy: Policy, mix: Mix) -> f64 {
    let cache = SharedCache::private(&Config::bytes(bytes).partitions(partitions).policy(policy)).unwrap();
    let lowest = lowest_utilisation(&cache, mix);
    let report: MemoryReport = cache.memory_report();
    assert!(
        lowest >= LEAST,
        "{bytes} bytes, {partitions} partitions, {policy}, {mix:?}: {lowest:.3}, at the end {report:?}"
    );
    lowest
}

/// One size after the other, each just above a slot of some class.
fn unlucky_sizes(bytes: usize) -> Vec<usize> {
    let cache = SharedCache::private(&Config::bytes(bytes).partitions(1)).unwrap();
    let slot_of = |value: usize| {
        cache.clear();
        cache.put(&[0; KEY_BYTES], &vec![0; value]).unwrap();
        cache.memory_report().classes.iter().map(|class| class.slot_bytes * class.used).sum::<u64>()
    };
    let sizes = (MIN_VALUE_BYTES..2 * KIB).step_by(8).map(|size| size + 1);
    sizes.filter(|&size| slot_of(size) > slot_of(size - 1) + 8).collect()
}

#[test]
fn a_cache_of_one_partition_uses_its_memory_with_any_sizes() {
    for policy in Policy::ALL {
        let most = MIB / 8;
        let mixes = [Mix::Uniform(0, 2999), Mix::Uniform(MIN_VALUE_BYTES, 200), Mix::Uniform(MIN_VALUE_BYTES, most)];
        let more = [Mix::Doublings, Mix::SmallAndLarge(0.1), Mix::SmallAndLarge(0.01), Mix::Drifting];
        for mix in mixes.into_iter().chain(more) {
            assert_used(MIB, 1, policy, mix);
        }
    }
}

#[test]
fn values_of_one_size_use_the_memory_whatever_the_size() {
    let sizes = unlucky_sizes(MIB);
    assert!(sizes.len() > 5, "{sizes:?}");
    for size in
        sizes.into_iter().step_by(if IS_SLOW { 3 } else { 1 }).chain([16, 14, 12, 10, 9, 8].map(|share| MIB / share))
    {
        assert_used(MIB, 1, Policy::Lru, Mix::Same(size));
    }
}

#[test]
fn any_number_of_partitions_uses_the_memory_or_is_refused() {
    for bytes in [1_000_000, 3 * MIB, 8 * MIB] {
        for partitions in [1, 2, 8, 16, 64] {
            match Config::bytes(bytes).partitions(partitions).region_bytes() {
                Ok(_) => {
                    let used = assert_used(bytes, partitions, Policy::Clock, Mix::Uniform(0, 2999));
                    assert!(used > 0.87, "{bytes} bytes in {partitions} partitions: {used:.3}");
                    if bytes < 8 * MIB || !IS_SLOW {
                        assert_used(bytes, partitions, Policy::Clock, Mix::Drifting);
                    }
                }
                Err(error) => {
                    let ConfigError::TooSmall { needed, .. } = error else { panic!("{error}") };
                    assert!(error.to_string().contains("take more memory or fewer partitions"), "{error}");
                    assert!(needed < partitions as usize * MIB, "{error}");
                    assert!(bytes / (partitions as usize) < 512 * KIB, "{error}");
                }
            }
        }
    }
}

#[test]
fn large_caches_use_more() {
    if IS_SLOW {
        return;
    }
    for (partitions, least) in [(1, 0.95), (8, 0.90), (64, 0.90)] {
        let used = assert_used(64 * MIB, partitions, Policy::Lru, Mix::Uniform(0, 2999));
        assert!(used >= least, "64 MiB in {partitions} partitions: {used:.3}");
    }
}

/// Has nothing, and counts what it is given.
#[derive(Default)]
struct Nowhere {
    spills: u64,
}

impl SpillStore<u32, Vec<u8>> for Nowhere {
    type Error = Infallible;

    fn load(&mut self, _: &u32) -> Result<Option<Vec<u8>>, Infallible> {
        Ok(None)
    }

    fn spill(&mut self, _: &u32, _: Vec<u8>) -> Result<(), Infallible> {
        self.spills += 1;
        Ok(())
    }
}

/// Spills of a build: lists of all rows grow, then change between half of `mean` bytes and half as much again; each worker
/// changes its rows, reads others', and reads some in place.
fn spills_of_build(bytes: usize, rows: u32, mean: usize, workers: usize, policy: Policy) -> u64 {
    type Builder = BuilderCache<u32, Vec<u8>, RobustLocks>;
    let memory = SharedCache::shared_mapping(&Config::bytes(bytes).policy(policy)).unwrap();
    let handles: Vec<Builder> = (0..workers).map(|_| Builder::over(memory.attach_again().unwrap()).unwrap()).collect();
    let spills = std::thread::scope(|scope| {
        let work = |(worker, cache): (usize, Builder)| {
            let mut store = Nowhere::default();
            let mut random = Random(worker as u64 + 1);
            for pass in 1..=8 {
                for row in (worker as u32..rows).step_by(workers) {
                    let len = if pass < 4 { mean * pass / 4 } else { mean / 2 + random.below(mean + 1) };
                    cache.push(&row, &vec![pass as u8; len], &mut store).unwrap();
                    let other = random.below(rows as usize) as u32;
                    cache.with(&other, |_| cache.push(&row, &vec![pass as u8; len], &mut store).unwrap()).unwrap();
                }
            }
            store.spills
        };
        let workers: Vec<_> = handles.into_iter().enumerate().map(|part| scope.spawn(move || work(part))).collect();
        workers.into_iter().map(|worker| worker.join().unwrap()).sum()
    });
    memory.validate().unwrap();
    assert!(spills > 0 || memory.len() == u64::from(rows));
    spills
}

#[test]
fn a_build_of_so_many_rows_fits_the_memory_that_is_said() {
    let sizes: &[(u32, usize)] = if IS_SLOW {
        &[(300, 40), (1500, 660), (6000, 330)]
    } else {
        &[(300, 40), (1500, 660), (6000, 330), (40_000, 660), (20_000, 20), (2000, 3000)]
    };
    for &(rows, mean) in sizes {
        for workers in [1, 4, 16] {
            for policy in [Policy::Lru, Policy::Clock] {
                let bytes = builder::memory_for(rows.into(), size_of::<u32>() + mean, workers);
                let spills = spills_of_build(bytes, rows, mean, workers, policy);
                assert_eq!(spills, 0, "{rows} rows of {mean} bytes, {workers} workers, {policy}, {bytes} bytes");
            }
        }
    }
    // And it says no more than is needed: with three fifths of it there are spills.
    let bytes = builder::memory_for(6000, size_of::<u32>() + 330, 1);
    assert!(spills_of_build(bytes / 5 * 3, 6000, 330, 1, Policy::Clock) > 0);
}

#[test]
fn a_table_of_so_many_rows_fits_the_memory_that_is_said() {
    for (rows, mean) in [(10, 10), (300, 40), (1500, 660), (6000, 330)] {
        let bytes = memory_for(rows, size_of::<u64>() + mean);
        let mut cache = LruCacheWithStats::<u64, Vec<u8>>::with_memory(bytes, "Rows").unwrap().warn_with(|_| ());
        let mut random = Random(1);
        for pass in 1..=8 {
            for row in 0..rows {
                let len = if pass < 4 { mean * pass / 4 } else { mean / 2 + random.below(mean + 1) };
                assert!(cache.push(row, vec![0; len]).is_none(), "{rows} rows of {mean} bytes");
            }
        }
        assert_eq!(cache.len() as u64, rows);
    }
}
