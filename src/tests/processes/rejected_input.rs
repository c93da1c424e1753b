//! What is refused, and what the refusal says.

use std::sync::atomic::Ordering;

use pg_shared_lru::engine::limits::MAX_REGION_BYTES;
use pg_shared_lru::{AttachError, Classes, Config, ConfigError, CreateError, NoLocks, Policy, SharedCache, TypedCache};

use crate::support::content::{Random, check, key, value};
use crate::support::fork::catch_quietly;
use crate::support::memory::Arena;

crate::scenarios![rejected_input:
    memory_without_a_cache_cannot_be_attached,
    a_cache_that_is_not_finished_cannot_be_attached,
    another_layout_version_size_or_type_cannot_be_attached,
    typed_caches_attach_to_their_own_types_only,
    a_damaged_header_is_refused_or_harmless,
    too_little_memory_is_refused_with_what_is_missing,
    wrong_values_are_refused_with_value_and_range,
    the_memory_that_a_refusal_asks_for_is_enough,
    a_partition_that_is_too_large_is_refused_for_what_it_is,
    the_smallest_slots_are_refused_or_work,
    region_bytes_is_what_private_allocates,
];

// Where the header's words lie: see `engine::header`.
const MAGIC: usize = 0;
const VERSION: usize = 8;
const HEADER_BYTES: usize = 1120;

fn config() -> Config {
    Config::bytes(1 << 20).partitions(2).slab_bytes(16 << 10)
}

fn assert_says(error: impl std::fmt::Display, parts: &[&str]) {
    let text = error.to_string();
    parts.iter().for_each(|part| assert!(text.contains(part), "\"{text}\" does not say \"{part}\""));
}

fn memory_without_a_cache_cannot_be_attached() {
    for byte in [0x00, 0xff] {
        let arena = Arena::new(1 << 20);
        arena.fill(byte);
        let error = arena.attach().expect_err("no cache");
        assert_eq!(error, AttachError::Magic(u64::from_ne_bytes([byte; 8])));
        assert_says(error, &["no cache", &format!("{byte:02x}{byte:02x}{byte:02x}{byte:02x}"), "expected 0x"]);
        assert!(arena.attach_bytes(64, NoLocks::default()).is_err(), "smaller than a header");
    }
}

fn a_cache_that_is_not_finished_cannot_be_attached() {
    let arena = Arena::for_config(&config());
    let cache = arena.create(&config()).unwrap();
    cache.put(b"key", b"value").unwrap();
    let magic = arena.word64(MAGIC).swap(0, Ordering::SeqCst);
    assert_eq!(arena.attach().err(), Some(AttachError::Magic(0)));
    arena.word64(MAGIC).store(magic, Ordering::SeqCst);
    assert!(arena.attach().unwrap().contains(b"key"), "attaching changes nothing");
    // A wrong configuration does not touch the live cache.
    assert!(arena.create(&Config::bytes(2 << 20)).is_err());
    assert!(arena.create(&config().partitions(3)).is_err());
    assert!(arena.attach().unwrap().contains(b"key"));
}

fn another_layout_version_size_or_type_cannot_be_attached() {
    let arena = Arena::for_config(&config());
    arena.create(&config()).unwrap();
    let version = arena.word32(VERSION).fetch_add(41, Ordering::SeqCst);
    let error = arena.attach().expect_err("another version");
    assert_eq!(error, AttachError::Version(version + 41));
    assert_says(error, &[&(version + 41).to_string(), &format!("version {version}:")]);
    arena.word32(VERSION).store(version, Ordering::SeqCst);

    for mapped in [(1 << 20) - 64, 1 << 19, 4096] {
        let error = arena.attach_bytes(mapped, arena.locks()).expect_err("another size");
        assert_eq!(error, AttachError::Size { created: 1 << 20, mapped });
        assert_says(error, &["1048576", &mapped.to_string()]);
    }
    let error = arena.attach_typed::<Vec<u8>, Vec<u8>>().expect_err("another type");
    let AttachError::TypeTag { found, expected } = error.clone() else { panic!("{error}") };
    assert!(found == 0 && expected != 0);
    assert_says(error, &["another type", &format!("{expected:#018x}")]);
    arena.attach().unwrap().validate().unwrap();
}

fn typed_caches_attach_to_their_own_types_only() {
    let arena = Arena::for_config(&config());
    let cache: TypedCache<u64, String> = arena.create_typed(&config()).unwrap();
    cache.put(&1, &"one".to_owned()).unwrap();
    assert!(matches!(arena.attach_typed::<i64, String>(), Err(AttachError::TypeTag { .. })));
    assert!(matches!(arena.attach_typed::<u64, Vec<u8>>(), Err(AttachError::TypeTag { .. })));
    assert!(matches!(arena.attach_typed::<String, u64>(), Err(AttachError::TypeTag { .. })));
    assert!(matches!(arena.attach(), Err(AttachError::TypeTag { expected: 0, .. })));
    let again = arena.attach_typed::<u64, String>().unwrap();
    assert_eq!(again.get(&1).unwrap().as_deref(), Some("one"));
}

fn a_damaged_header_is_refused_or_harmless() {
    let arena = Arena::for_config(&config());
    let created = arena.create(&config()).unwrap();
    created.put(b"key", b"value").unwrap();
    let mut wrong = Vec::new();
    for offset in (0..HEADER_BYTES).step_by(4) {
        let word = arena.word32(offset);
        let original = word.load(Ordering::SeqCst);
        let (less, more) = (original.wrapping_sub(1), original.wrapping_add(1));
        for damaged in [0, 1, 3, 7, 64, 0x100, 0xffff, 0x7fff_ffff, 0x8000_0000, u32::MAX, less, more, original ^ 16] {
            word.store(damaged, Ordering::SeqCst);
            let what = match catch_quietly(|| arena.attach().map(|_| ())) {
                Err(_) => "panics",
                Ok(Ok(())) if damaged != original => "is accepted",
                _ => continue,
            };
            wrong.push(format!("header byte {offset}: {original:#x} damaged to {damaged:#x} {what}"));
        }
        word.store(original, Ordering::SeqCst);
    }
    arena.attach().unwrap().validate().unwrap();
    assert!(wrong.is_empty(), "{} cases: {:#?}", wrong.len(), wrong.iter().step_by(5).take(30).collect::<Vec<_>>());
}

fn too_little_memory_is_refused_with_what_is_missing() {
    let needed = config().region_bytes().unwrap();
    for missing in [1, 64, needed / 2, needed] {
        let given = needed - missing;
        let arena = Arena::new(given.max(1));
        let error = arena.create(&config()).expect_err("too small");
        let given = given.max(1);
        assert!(matches!(error, CreateError::RegionTooSmall { given: g, needed: n } if g == given && n == needed));
        assert_says(
            error,
            &[&needed.to_string(), &given.to_string(), &format!("{} bytes are missing", needed - given)],
        );
    }
    let entries = Config::entries(1000, 500).partitions(4);
    let needed = entries.region_bytes().unwrap();
    assert!(Arena::new(needed).create(&entries).is_ok());
    assert!(matches!(Arena::new(needed - 1).create(&entries), Err(CreateError::RegionTooSmall { .. })));
    // What a configuration does not need is left alone.
    assert_eq!(Arena::new(needed + 5000).create(&entries).unwrap().memory_report().region_bytes, needed as u64);
}

fn wrong_values_are_refused_with_value_and_range() {
    let bytes = || Config::bytes(1 << 20);
    let explicit = |sizes: &[u32]| bytes().slab_bytes(16 << 10).classes(Classes::Explicit(sizes.to_vec()));
    let cases: Vec<(Config, &[&str])> = vec![
        (bytes().slab_bytes(0), &["slab size of 0 bytes", "power of two", "2048", "4194304"]),
        (bytes().slab_bytes(3000), &["3000", "power of two", "2048", "4194304"]),
        (bytes().slab_bytes(12_345), &["12345", "2048", "4194304"]),
        (bytes().slab_bytes(1 << 10), &["1024", "2048", "4194304"]),
        (bytes().slab_bytes(8 << 20), &["8388608", "2048", "4194304"]),
        (bytes().slab_bytes(u32::MAX), &["4294967295", "4194304"]),
        (bytes().partitions(0), &["0 partitions", "power of two", "1 to 64"]),
        (bytes().partitions(3), &["3 partitions", "power of two", "1 to 64"]),
        (bytes().partitions(128), &["128 partitions", "1 to 64"]),
        (bytes().partitions(u32::MAX), &["4294967295", "1 to 64"]),
        (bytes().buckets(0), &["0 buckets", "1 to 1073741824"]),
        (bytes().buckets((1 << 30) + 1), &["1073741825 buckets", "1 to 1073741824"]),
        (bytes().buckets(u64::MAX), &["18446744073709551615", "1073741824"]),
        (bytes().classes(Classes::Geometric(0)), &["one part in 0", "4, 8 or 16"]),
        (bytes().classes(Classes::Geometric(12)), &["one part in 12", "4, 8 or 16"]),
        (explicit(&[]), &["0 slot sizes", "1 to 255"]),
        (explicit(&(1..=256).map(|index| 24 + 8 * index).collect::<Vec<_>>()), &["256 slot sizes", "1 to 255"]),
        (explicit(&[0]), &["slot size of 0", "multiple of 8", "24", "2048"]),
        (explicit(&[16]), &["slot size of 16", "24", "2048"]),
        (explicit(&[64, 32]), &["slot size of 32", "larger than the one before"]),
        (explicit(&[64, 64]), &["slot size of 64", "larger than the one before"]),
        (explicit(&[64, 100]), &["slot size of 100", "multiple of 8"]),
        (explicit(&[64, 2056]), &["slot size of 2056", "24 to 2048"]),
        (explicit(&[u32::MAX - 7]), &["4294967288", "2048"]),
        (Config::entries(0, 100), &["capacity of 0 entries", "1 to 2147483648"]),
        (Config::entries(u32::MAX, 100), &["4294967295", "2147483648"]),
        (Config::entries(7, 100).partitions(8), &["7 entries", "at least the number of partitions"]),
        (Config::entries(10, 0), &["up to 0 bytes", "1 to 1073741824"]),
        (Config::entries(10, u32::MAX), &["4294967295", "1073741824"]),
        (Config::bytes(0), &["0 bytes", "too few", "at least"]),
        (Config::bytes(100_000).partitions(1).slab_bytes(16 << 10), &["100000 bytes", "too few", "16384"]),
        (Config::bytes(10 << 20).slab_bytes(4 << 20), &["10485760 bytes", "too few", "4194304"]),
        (Config::bytes(1 << 20).partitions(64), &["1048576 bytes", "too few", "64 partition", "fewer partitions"]),
        (Config::bytes(1 << 20).partitions(4), &["1048576 bytes", "too few", "4 partition", "fewer partitions"]),
        (Config::bytes(MAX_REGION_BYTES + 1).partitions(64), &["137438953473", "at most 137438953472"]),
        (Config::bytes(usize::MAX), &["18446744073709551615", "at most 137438953472"]),
    ];
    for (config, parts) in cases {
        let error = config.region_bytes().err().unwrap_or_else(|| panic!("{config:?} is accepted"));
        assert_says(&error, parts);
        assert!(matches!(SharedCache::private(&config), Err(CreateError::Config(same)) if same == error));
        assert!(matches!(SharedCache::shared_mapping(&config), Err(CreateError::Config(same)) if same == error));
    }
    assert_says("fifo".parse::<Policy>().unwrap_err(), &["\"fifo\"", "\"lru\"", "\"clock\"", "\"s3-fifo\""]);
}

fn the_memory_that_a_refusal_asks_for_is_enough() {
    let configs: [fn(usize) -> Config; 8] = [
        Config::bytes,
        |bytes| Config::bytes(bytes).slab_bytes(16 << 10),
        |bytes| Config::bytes(bytes).partitions(2),
        |bytes| Config::bytes(bytes).partitions(1).buckets(100),
        |bytes| Config::bytes(bytes).partitions(8),
        |bytes| Config::bytes(bytes).partitions(64).slab_bytes(64 << 10),
        |bytes| Config::bytes(bytes).slab_bytes(1 << 20),
        |bytes| Config::bytes(bytes).policy(Policy::S3Fifo),
    ];
    for config in configs {
        for given in [0, 1000, 20_000] {
            let Err(ConfigError::TooSmall { needed, .. }) = config(given).region_bytes() else {
                panic!("{given} is enough")
            };
            assert_eq!(config(needed).region_bytes(), Ok(needed), "{:?} was said to be enough", config(needed));
            let cache = SharedCache::private(&config(needed)).unwrap();
            cache.put(b"key", b"value").unwrap();
            cache.validate().unwrap();
        }
    }
}

fn a_partition_that_is_too_large_is_refused_for_what_it_is() {
    // Within the limit for a region, but too much for one partition: the message must not say "at most 137438953472".
    for config in [Config::bytes(64 << 30).partitions(1), Config::entries(1 << 20, 50_000).partitions(1)] {
        let error = config.region_bytes().unwrap_err().to_string();
        let given: u64 = error.split(' ').next().unwrap().parse().unwrap_or(u64::MAX);
        assert!(given > MAX_REGION_BYTES as u64 || error.contains("partition"), "\"{error}\" contradicts itself");
    }
    let error = Config::entries(1 << 31, 1 << 30).region_bytes().unwrap_err().to_string();
    assert!(!error.contains("18446744073709551615"), "\"{error}\" names a number that nobody gave");
}

fn the_smallest_slots_are_refused_or_work() {
    for slots in [vec![24], vec![32], vec![64], vec![24, 128], vec![256], vec![24, 256], vec![24, 2048], vec![2048]] {
        for base in [Config::bytes(1 << 20), Config::entries(50, 200)] {
            let config = base.partitions(1).slab_bytes(16 << 10).classes(Classes::Explicit(slots.clone()));
            let checked = catch_quietly(|| config.region_bytes()).unwrap_or_else(|_| panic!("{config:?}: panics"));
            if checked.is_err() {
                continue;
            }
            let cache = SharedCache::private(&config).unwrap();
            let (max_key, max_entry) = (cache.resolved().max_key_bytes, cache.resolved().max_entry_bytes);
            for key_len in (0..30).chain((30..max_key).step_by(61)).chain([max_key]).filter(|&len| len <= max_entry) {
                for value_len in [0, 1, 7, 8, 15, 16, 17, 40, 100, 199] {
                    let (key, value) = (vec![b'k'; key_len], vec![b'v'; value_len]);
                    if key_len + value_len <= max_entry {
                        cache.put(&key, &value).unwrap_or_else(|error| panic!("{slots:?}: {error}"));
                        assert_eq!(cache.with(&key, <[u8]>::to_vec), Some(value));
                    }
                }
            }
            cache.validate().unwrap();
        }
    }
}

fn region_bytes_is_what_private_allocates() {
    let mut configs = Vec::new();
    for partitions in [1, 2, 8] {
        for bytes in [4_000_000, 4_000_001, 6 << 20, (8 << 20) - 63] {
            configs.push(Config::bytes(bytes).partitions(partitions));
        }
        for (count, max_entry_bytes) in [(8, 1), (100, 24), (1000, 2000), (20, 50_000)] {
            configs.push(Config::entries(count, max_entry_bytes).partitions(partitions));
        }
    }
    let mut random = Random(3);
    for config in configs {
        let cache = SharedCache::private(&config).unwrap();
        let report = cache.memory_report();
        assert_eq!(report.region_bytes, config.region_bytes().unwrap() as u64);
        let parts = report.fixed_bytes + report.directory_bytes + report.data_bytes + report.free_bytes;
        assert_eq!(parts, report.region_bytes);
        for number in 0..50 {
            let room = cache.resolved().max_entry_bytes.saturating_sub(key(number).len());
            let len = random.value_len().min(room);
            if key(number).len() + len <= cache.resolved().max_entry_bytes {
                cache.put(&key(number), &value(number, 1, len)).unwrap();
            }
        }
        cache.iter_with_values().for_each(|entry| check(&entry.key, &entry.value.expect("asked for")));
        cache.validate().unwrap();
    }
}
