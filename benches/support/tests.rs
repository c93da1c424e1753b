//! Tests of what the benchmark programs share. They live here because programs without a test harness run none.
//!
//! Properties, file by file:
//! - traces: each format yields exactly its records; each ending decompresses; a damaged or cut-off file is an error
//!   that names the record.
//! - sizes: sizes drawn stay in their ranges, both readings of a cachebench file are told apart, nonsense is refused.
//! - content: a value checks against itself and against no other write, key or length.
//! - lists: a neighbour list is the same whatever type keeps it, and no other push's; every cache gives it back; what
//!   a cache pushes out is told, once each.
//! - workers: the shares asked for are kept, wrong bytes end a run.
//! - opt: as many hits as the best of all choices.
//! - measured: median, ends and ratios are what they say.
//! - bump: it answers as a plain map does that is emptied when the region is used up.
//! - reference: LRU, CLOCK and S3-FIFO evict in the order of their definitions; byte bounds hold; the engine's S3-FIFO
//!   hits as often as the reference.

#[path = "mod.rs"]
#[allow(dead_code, reason = "what only the programs use is not tested here")]
mod support;

use std::collections::{BTreeSet, HashMap};
use std::io::Write;
use std::num::NonZeroUsize;
use std::path::PathBuf;

use rand::rngs::SmallRng;
use rand::{RngExt, SeedableRng};
use tempfile::TempDir;

use pg_shared_lru::adapters::graph::NodePointer;
use pg_shared_lru::{Config, SharedCache};

use support::belady::hits_and_misses;
use support::bump::{Bump, BumpError, HEADER_BYTES, TooLarge};
use support::caches::{Bound, CacheArgs, Kind, Outcome, PolicyName, Settings, build};
use support::content::{Content, Written};
use support::list_caches::build_lists;
use support::lists::{HeapList, Lists, Neighbours, encode, encoded_bytes_at_most, key, node, plain};
use support::measured::Measured;
use support::reference::{
    ClockReference, LruBound, LruReference, OnHeap, S3FifoBound, S3FifoReference, lru_entry_bytes, lru_table_bytes,
};
use support::sizes::Sizes;
use support::skew::Skew;
use support::traces::{Access, Format, Op, TraceReader};
use support::workers::{Load, LoadArgs, Role, Target, Worker};

mod traces {
    use super::*;

    fn file(folder: &TempDir, name: &str, bytes: &[u8]) -> PathBuf {
        let path = folder.path().join(name);
        std::fs::write(&path, bytes).unwrap();
        path
    }

    /// All accesses of `bytes` read as `format`, or the error's text.
    fn read(format: Format, bytes: &[u8]) -> Result<Vec<Access>, String> {
        let folder = TempDir::new().unwrap();
        let path = file(&folder, "trace", bytes);
        let reader = TraceReader::open(&path, format, None).unwrap();
        reader.map(|access| access.map_err(|error| error.to_string())).collect()
    }

    fn keys(format: Format, bytes: &[u8]) -> Vec<u64> {
        let accesses = read(format, bytes).unwrap();
        accesses.into_iter().map(|access| access.key).collect()
    }

    #[test]
    fn diskann_tells_gets_from_pushes() {
        let accesses = read(Format::Diskann, b"p\x01\x02\0\0\x05g\xff\xff\xff\xff\0").unwrap();
        let expected = [
            Access { op: Op::Push { neighbours: 5 }, key: 0x201, size_bytes: None },
            Access { op: Op::Get, key: 0xffff_ffff, size_bytes: None },
        ];
        assert_eq!(accesses, expected);
    }

    #[test]
    fn an_unknown_diskann_operation_is_an_error_with_its_record() {
        let error = read(Format::Diskann, b"g\0\0\0\0\0x\0\0\0\0\0").unwrap_err();
        assert!(error.contains("record 2"), "{error}");
        assert!(error.contains("0x78"), "{error}");
    }

    #[test]
    fn arc_yields_every_block_of_a_range() {
        assert_eq!(keys(Format::Arc, b"7 3 0 0\n1 1 0 9\n"), [7, 8, 9, 1]);
    }

    #[test]
    fn an_arc_range_beyond_bounds_is_an_error() {
        for line in ["1 9999999999 0 0", "18446744073709551615 2 0 0", "5"] {
            let error = read(Format::Arc, line.as_bytes()).unwrap_err();
            assert!(error.contains("record 1"), "{error}");
        }
    }

    #[test]
    fn big_endian_keys_keep_their_bits() {
        assert_eq!(keys(Format::Be32, &[0, 0, 1, 2, 0xff, 0xff, 0xff, 0xfe]), [0x102, 0xffff_fffe]);
        assert_eq!(keys(Format::Be64, &[0x80, 0, 0, 0, 0, 0, 0, 1]), [0x8000_0000_0000_0001]);
    }

    #[test]
    fn lirs_skips_marks_and_empty_lines() {
        assert_eq!(keys(Format::Lirs, b"3\n*\n\n4\r\n5"), [3, 4, 5]);
    }

    #[test]
    fn oracle_and_sized_carry_sizes() {
        let mut record = Vec::new();
        record.extend(9u32.to_le_bytes());
        record.extend(77u64.to_le_bytes());
        record.extend(4096u32.to_le_bytes());
        record.extend((-1i64).to_le_bytes());
        let sized = |key, size_bytes| Access { op: Op::Get, key, size_bytes: Some(size_bytes) };
        assert_eq!(read(Format::Oracle, &record).unwrap(), [sized(77, 4096)]);
        assert_eq!(read(Format::Sized, b"1 2 30\n2 4 50\n").unwrap(), [sized(2, 30), sized(4, 50)]);
    }

    #[test]
    fn a_record_cut_short_is_an_error() {
        for (format, whole_bytes) in [(Format::Diskann, 6), (Format::Be32, 4), (Format::Be64, 8), (Format::Oracle, 24)]
        {
            let mut bytes = vec![b'g'; whole_bytes * 2];
            assert_eq!(read(format, &bytes).unwrap().len(), 2);
            bytes.pop();
            let error = read(format, &bytes).unwrap_err();
            assert!(error.contains("record 2"), "{error}");
            assert!(error.contains("ends inside"), "{error}");
        }
    }

    #[test]
    fn a_line_that_is_no_record_is_an_error() {
        for (format, line) in [
            (Format::Lirs, "1\nfour\n"),
            (Format::Lirs, "1\n2 3\n"),
            (Format::Sized, "1 2 3\n1 2 3 4\n"),
            (Format::Sized, "1 2 3\n1 2\n"),
            (Format::Arc, "1 1 0 0\n1 -1 0 0\n"),
        ] {
            let error = read(format, line.as_bytes()).unwrap_err();
            assert!(error.contains("record 2"), "{error}");
        }
        let endless = read(Format::Lirs, &[b'1'; 10_000]).unwrap_err();
        assert!(endless.contains("no line end"), "{endless}");
    }

    #[test]
    fn the_ending_chooses_the_compression() {
        let plain = b"1\n2\n3\n".repeat(1000);
        let folder = TempDir::new().unwrap();
        let mut gz = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
        gz.write_all(&plain).unwrap();
        let mut xz = liblzma::write::XzEncoder::new(Vec::new(), 1);
        xz.write_all(&plain).unwrap();
        let zst = zstd::stream::encode_all(&plain[..], 1).unwrap();
        let packed = [("t.gz", gz.finish().unwrap()), ("t.xz", xz.finish().unwrap()), ("t.zst", zst)];
        for (name, bytes) in packed {
            let path = file(&folder, name, &bytes);
            let reader = TraceReader::open(&path, Format::Lirs, None).unwrap();
            assert_eq!(reader.map(Result::unwrap).count(), 3000, "{name}");

            let path = file(&folder, name, &bytes[..bytes.len() - 9]);
            let mut reader = TraceReader::open(&path, Format::Lirs, None).unwrap();
            let error = reader.find_map(Result::err).map(|error| error.to_string());
            assert!(error.is_some_and(|text| text.contains(name)), "{name}");
            assert!(reader.next().is_none(), "{name} goes on after its error");
        }
    }

    #[test]
    fn a_limit_counts_records_not_accesses() {
        let folder = TempDir::new().unwrap();
        let path = file(&folder, "trace", b"10 2 0 0\n20 2 0 0\n30 2 0 0\n");
        let mut reader = TraceReader::open(&path, Format::Arc, Some(2)).unwrap();
        let keys: Vec<u64> = reader.by_ref().map(|access| access.unwrap().key).collect();
        assert_eq!((keys, reader.records()), (vec![10, 11, 20, 21], 2));

        let mut reader = TraceReader::open(&path, Format::Arc, Some(9)).unwrap();
        assert_eq!((reader.by_ref().count(), reader.records()), (6, 3));
    }

    #[test]
    fn a_missing_file_is_named() {
        let missing = PathBuf::from("/nowhere/trace.xz");
        let error = TraceReader::open(&missing, Format::Lirs, None).map(drop).unwrap_err();
        assert!(error.to_string().contains("/nowhere/trace.xz"));
    }
}

mod sizes {
    use super::*;

    fn drawn(spec: &str) -> BTreeSet<usize> {
        let sizes = Sizes::parse(spec).unwrap();
        let mut rng = SmallRng::seed_from_u64(7);
        (0..10_000).map(|_| sizes.sample(&mut rng)).collect()
    }

    fn json(folder: &TempDir, bounds: &str, weights: &str) -> String {
        let path = folder.path().join("sizes.json");
        let text = format!(r#"{{"valSizeRange": {bounds}, "valSizeRangeProbability": {weights}, "numOps": 5}}"#);
        std::fs::write(&path, text).unwrap();
        path.display().to_string()
    }

    fn error(spec: &str) -> String {
        Sizes::parse(spec).map(drop).unwrap_err().to_string()
    }

    #[test]
    fn uniform_draws_both_its_ends() {
        assert_eq!(drawn("uniform:3-6"), BTreeSet::from([3, 4, 5, 6]));
        assert_eq!(drawn("uniform:9-9"), BTreeSet::from([9]));
    }

    #[test]
    fn as_many_bounds_as_weights_are_sizes() {
        let folder = TempDir::new().unwrap();
        let spec = json(&folder, "[31, 63, 95]", "[1, 0, 2.5]");
        assert_eq!(drawn(&spec), BTreeSet::from([31, 95]));
        assert_eq!(Sizes::parse(&spec).unwrap().max(), 95);
    }

    #[test]
    fn one_bound_more_than_weights_makes_ranges() {
        let folder = TempDir::new().unwrap();
        let spec = json(&folder, "[1.0, 4, 10, 12]", "[1, 0, 1]");
        assert_eq!(drawn(&spec), BTreeSet::from([1, 2, 3, 10, 11]));
    }

    #[test]
    fn spread_fills_the_bins_between_sizes() {
        let folder = TempDir::new().unwrap();
        let spec = json(&folder, "[2, 5, 9]", "[1, 1, 0]");
        assert_eq!(drawn(&format!("spread:{spec}")), BTreeSet::from([1, 2, 3, 4, 5]));
    }

    #[test]
    fn weights_are_kept() {
        let folder = TempDir::new().unwrap();
        let sizes = Sizes::parse(&json(&folder, "[1, 2]", "[900, 100]")).unwrap();
        let mut rng = SmallRng::seed_from_u64(1);
        let twos = (0..100_000).filter(|_| sizes.sample(&mut rng) == 2).count();
        assert!((9_500..10_500).contains(&twos), "{twos}");
    }

    #[test]
    fn nonsense_is_refused() {
        for spec in ["uniform:9-3", "uniform:-3", "uniform:1-99999999999", "uniform:a-b", "normal:3", ""] {
            assert!(error(spec).contains("expected uniform:LO-HI"), "{spec}");
        }
        let folder = TempDir::new().unwrap();
        for (bounds, weights, what) in [
            ("[1, 2]", "[1, 2, 3]", "as many bounds as weights"),
            ("[3, 2, 4]", "[1, 2]", "rise"),
            ("[1, -2]", "[1, 2]", "bound -2"),
            ("[1, 2]", "[0, 0]", "above zero"),
            ("[1, 2]", "[1, -1]", "weights"),
            ("[]", "[]", "above zero"),
            ("7", "[1]", "invalid type"),
        ] {
            let text = error(&json(&folder, bounds, weights));
            assert!(text.contains(what), "{text}");
        }
        assert!(error("/nowhere/sizes.json").contains("/nowhere/sizes.json"));
    }
}

mod content {
    use super::*;

    #[test]
    fn a_value_checks_against_itself_only() {
        let content = Content::new(700);
        let mut value = Vec::new();
        for len in [0, 1, 7, 8, 9, 700] {
            let written = Written { key: 5, write: 2, len };
            content.build(written, &mut value);
            assert_eq!(value.len(), len as usize);
            assert_eq!(content.check(written, &value), Ok(()));
            if len > 0 {
                let others = [Written { key: 6, ..written }, Written { write: 3, ..written }];
                for other in others {
                    assert!(content.check(other, &value).is_err(), "{other:?}");
                }
                let last = value.len() - 1;
                value[last] ^= 1;
                let text = content.check(written, &value).unwrap_err().to_string();
                assert!(text.contains(&format!("byte {last} ")), "{text}");
                value.pop();
                assert!(content.check(written, &value).is_err());
            }
        }
    }
}

mod lists {
    use super::*;

    #[test]
    fn a_list_checks_against_itself_only() {
        let lists = Lists::new();
        for len in [1, 2, 50, 255] {
            let written = Written { key: 5, write: 2, len };
            let heap = HeapList::new(lists.edges(written));
            let plain = plain(lists.edges(written));
            for neighbours in [heap.neighbours(), Neighbours::Plain(&plain.neighbors)] {
                assert_eq!(lists.check(written, neighbours), Ok(()));
                for other in [Written { key: 6, ..written }, Written { write: 3, ..written }] {
                    assert!(lists.check(other, neighbours).is_err(), "{other:?}");
                }
                assert!(lists.check(Written { len: len - 1, ..written }, neighbours).is_err());
            }
            assert_eq!(heap.neighbours().walk(), Neighbours::Plain(&plain.neighbors).walk());
            let mut changed = plain.clone();
            changed.neighbors[len as usize - 1].distance.distance += 1.0;
            assert!(lists.check(written, Neighbours::Plain(&changed.neighbors)).is_err());
        }
    }

    #[test]
    fn an_encoded_list_takes_at_most_what_is_said() {
        let lists = Lists::new();
        for len in 0..=255 {
            let mut bytes = Vec::new();
            encode(node(7), lists.edges(Written { key: 7, write: 1, len }), &mut bytes);
            assert!(bytes.len() <= encoded_bytes_at_most(len) as usize, "{len}: {}", bytes.len());
        }
    }

    #[test]
    fn a_heap_list_counts_its_vector_and_no_slack() {
        let lists = Lists::new();
        let list = HeapList::new(lists.edges(Written { key: 7, write: 1, len: 50 }));
        // malloc: 8 bytes of its own, rounded up to 16. Node: pointer 8, labels 24, vector 24, links 16.
        assert_eq!(list.heap_bytes(), (50 * 72 + 8u64).next_multiple_of(16));
        assert_eq!(lru_entry_bytes::<NodePointer, _>(&list), list.heap_bytes() + 80);
    }

    #[test]
    fn every_cache_gives_back_what_was_put_last_and_tells_each_spill() {
        let lists = Lists::new();
        let caches = CacheArgs {
            cache: Vec::new(),
            policy: PolicyName::Lru,
            partitions: None,
            slab_bytes: None,
            bump_buckets: 64,
        };
        for (kind, bound) in [
            (Kind::Lru, Bound::Bytes(300_000)),
            (Kind::DropIn, Bound::Bytes(300_000)),
            (Kind::DropIn, Bound::Entries { count: 90, entry_bytes: 3000 }),
            (Kind::Slab, Bound::Bytes(300_000)),
            (Kind::Bump, Bound::Bytes(300_000)),
        ] {
            let mut cache = build_lists(kind, &caches.settings(bound)).unwrap();
            let mut random = SmallRng::seed_from_u64(1);
            let mut last: HashMap<u64, Written> = HashMap::new();
            let (mut told, mut found) = (0, 0);
            for write in 0..5000 {
                let written = Written { key: random.random_range(..1000), write, len: random.random_range(..70) };
                let mut spilled = |node, neighbours: Neighbours<'_>| {
                    told += 1;
                    lists.check(last[&key(node)], neighbours)
                };
                assert_eq!(cache.put(written, &lists, &mut spilled), Ok(Outcome::Stored));
                last.insert(written.key, written);
                let read = random.random_range(..1000);
                if let Some(neighbours) = cache.get(node(read)) {
                    lists.check(last[&read], neighbours).unwrap();
                    found += 1;
                }
            }
            cache.validate().unwrap();
            let spills = cache.figures().evictions;
            assert!(spills > 100 && found > 100, "{kind:?}: {spills} spills, {found} found");
            if matches!(kind, Kind::Lru | Kind::DropIn) {
                assert_eq!(told, spills, "{kind:?}");
            }
        }
    }
}

mod workers {
    use super::*;

    #[test]
    fn skews_are_told_apart_and_nonsense_is_refused() {
        assert_eq!("uniform".parse(), Ok(Skew::Uniform));
        assert_eq!("zipf:0.9".parse(), Ok(Skew::Zipf(0.9)));
        for text in ["", "zipf", "zipf:0", "zipf:-1", "zipf:x", "zipf:inf", "normal"] {
            assert!(text.parse::<Skew>().unwrap_err().contains("zipf:S"), "{text}");
        }
    }

    /// A worker that reads must notice a value that nobody stored.
    #[test]
    fn a_wrong_value_is_found_out() {
        let args = LoadArgs { skew: Skew::Uniform, sizes: "uniform:20-90".into(), keys: 50, seed: 3 };
        let load = Load::new(&args).unwrap();
        for in_place in [false, true] {
            let cache = SharedCache::shared_mapping(&Config::bytes(1 << 20)).unwrap();
            let target = Target::Slab { cache, in_place };
            load.fill(&target).unwrap();
            let mut worker = Worker::new(&load, &target, Role::Mixed { reads: 90 }, 1).unwrap();
            (0..300).for_each(|_| worker.step().unwrap());
            let done = worker.done();
            assert_eq!((done.operations, done.hits), (9600, done.reads));
            let share = done.reads as f64 / done.operations as f64;
            assert!((0.88..0.92).contains(&share), "{share}");

            let other = Load::new(&LoadArgs { seed: 4, ..args.clone() }).unwrap();
            other.fill(&target).unwrap();
            let mut worker = Worker::new(&load, &target, Role::Mixed { reads: 100 }, 1).unwrap();
            assert!((0..300).any(|_| worker.step().is_err()));
        }
    }
}

mod opt {
    use super::*;

    /// The most hits that any choice of what to keep gives, tried one by one.
    fn best(accesses: &[(u64, bool)], kept: &BTreeSet<u64>, entries: usize) -> u64 {
        let Some((&(key, is_read), rest)) = accesses.split_first() else { return 0 };
        let hit = u64::from(is_read && kept.contains(&key));
        let mut with_it = kept.clone();
        with_it.insert(key);
        let choices: Vec<BTreeSet<u64>> = if with_it.len() <= entries {
            vec![with_it]
        } else {
            let without = |gone: &u64| with_it.iter().filter(|kept| *kept != gone).copied().collect();
            with_it.iter().map(without).collect()
        };
        hit + choices.iter().map(|kept| best(rest, kept, entries)).max().unwrap_or(0)
    }

    #[test]
    fn no_choice_gives_more_hits() {
        let mut random = SmallRng::seed_from_u64(2);
        for _ in 0..60 {
            let access = |_| (random.random_range(..5), random.random_bool(0.8));
            let accesses: Vec<(u64, bool)> = (0..11).map(access).collect();
            for entries in 1..4 {
                let (hits, misses) = hits_and_misses(&accesses, entries);
                assert_eq!(hits, best(&accesses, &BTreeSet::new(), entries), "{accesses:?} with {entries}");
                assert_eq!(hits + misses, accesses.iter().filter(|access| access.1).count() as u64);
            }
        }
    }
}

mod measured {
    use super::*;

    fn measured(values: &[f64]) -> Measured {
        let mut measured = Measured::default();
        values.iter().for_each(|value| measured.push(*value));
        measured
    }

    #[test]
    fn the_median_is_in_the_middle() {
        let three = measured(&[9.0, 1.0, 2.0]);
        assert_eq!((three.median(), three.min(), three.max()), (2.0, 1.0, 9.0));
        assert_eq!(measured(&[4.0, 1.0, 2.0, 9.0]).median(), 3.0);
        assert_eq!(Measured::default().median(), 0.0);
    }

    #[test]
    fn ratios_are_taken_turn_by_turn() {
        let ratios = measured(&[2.0, 30.0, 4.0]).over(&measured(&[1.0, 10.0, 4.0]));
        assert_eq!((ratios.median(), ratios.min(), ratios.max()), (2.0, 1.0, 3.0));
    }
}

mod bump {
    use super::*;

    /// The model of what a bump cache holds, and of how much of the region is used.
    #[test]
    fn it_answers_like_a_map_that_is_wiped_when_full() {
        const REGION_BYTES: usize = 4096;
        const BUCKETS: usize = 8;
        let mut cache = Bump::new(REGION_BYTES, BUCKETS, Some(40)).unwrap();
        let mut model: HashMap<[u8; 2], (Vec<u8>, usize)> = HashMap::new();
        let mut used_bytes = BUCKETS * 8;
        let (mut wipes, mut lost) = (0, 0);
        let mut rng = SmallRng::seed_from_u64(3);
        for step in 0..20_000 {
            let key = [rng.random_range(..60u8), 1];
            if rng.random_bool(0.5) {
                let expected = model.get(&key).map(|(value, _)| value.as_slice());
                assert_eq!(cache.get(&key), expected, "step {step}");
                continue;
            }
            let value = vec![step as u8; rng.random_range(..120)];
            cache.put(&key, &value).unwrap();
            let room_bytes = (2 + value.len()).next_multiple_of(8);
            match model.get_mut(&key) {
                Some((old, room)) if room_bytes <= *room => *old = value,
                _ => {
                    model.remove(&key);
                    if model.len() == 40 || used_bytes + HEADER_BYTES + room_bytes > REGION_BYTES {
                        lost += model.len() as u64;
                        wipes += 1;
                        model.clear();
                        used_bytes = BUCKETS * 8;
                    }
                    used_bytes += HEADER_BYTES + room_bytes;
                    model.insert(key, (value, room_bytes));
                }
            }
            cache.validate().unwrap();
            assert_eq!(cache.entries(), model.len() as u64);
            assert_eq!((cache.evictions(), cache.wipes()), (lost, wipes));
            let payload: usize = model.values().map(|(value, _)| value.len() + 2).sum();
            assert_eq!(cache.payload_bytes(), payload as u64);
        }
        assert!(wipes > 10, "{wipes}");
    }

    #[test]
    fn an_entry_fills_the_region_to_its_end_and_no_further() {
        let mut cache = Bump::new(64 + HEADER_BYTES + 80, 8, None).unwrap();
        assert_eq!(cache.put(b"key", &[1; 78]), Err(TooLarge));
        assert_eq!(cache.put(b"key", &[1; 77]), Ok(()));
        assert_eq!(cache.put(b"key", &[2; 77]), Ok(()));
        assert_eq!(cache.wipes(), 0);
        assert_eq!(cache.put(b"yek", b""), Ok(()));
        assert_eq!((cache.wipes(), cache.evictions()), (1, 1));
        assert_eq!((cache.get(b"key"), cache.get(b"yek")), (None, Some(&[][..])));
        cache.validate().unwrap();
    }

    #[test]
    fn a_refused_entry_changes_nothing() {
        let mut cache = Bump::new(1024, 8, None).unwrap();
        cache.put(b"a", b"one").unwrap();
        assert_eq!(cache.put(b"a", &[0; 5000]), Err(TooLarge));
        assert_eq!(cache.get(b"a"), Some(&b"one"[..]));
    }

    #[test]
    fn a_region_for_entries_holds_that_many() {
        let region_bytes = Bump::region_bytes_for(100, 21, 8).unwrap();
        let mut cache = Bump::new(region_bytes, 8, Some(100)).unwrap();
        for key in 0..100u8 {
            cache.put(&[key], &[key; 20]).unwrap();
        }
        assert_eq!((cache.entries(), cache.wipes()), (100, 0));
        cache.put(&[100], b"").unwrap();
        assert_eq!((cache.entries(), cache.evictions()), (1, 100));
    }

    #[test]
    fn buckets_must_fit_the_region() {
        for (region_bytes, bucket_count) in [(63, 8), (100, 0), (100, usize::MAX)] {
            let error = Bump::new(region_bytes, bucket_count, None).map(drop);
            let expected = BumpError::Buckets { bucket_count, region_bytes };
            assert_eq!(error, Err(expected));
        }
    }
}

mod reference {
    use super::*;

    #[test]
    fn lru_evicts_the_least_recently_used() {
        let mut cache = LruReference::<[u8; 1], Vec<u8>>::new(LruBound::Entries(NonZeroUsize::new(2).unwrap()));
        let mut evicted = Vec::new();
        let mut put = |cache: &mut LruReference<_, _>, key: &[u8; 1], value: &[u8]| {
            cache.put(*key, value.to_vec(), |key, value| evicted.push((key, value))).unwrap();
        };
        put(&mut cache, b"a", b"1");
        put(&mut cache, b"b", b"2");
        assert_eq!(cache.get(b"a").unwrap(), b"1");
        put(&mut cache, b"c", b"33");
        assert_eq!(cache.get(b"b"), None);
        assert_eq!(cache.evictions(), 1);
        put(&mut cache, b"c", b"4");
        assert_eq!((cache.entries(), cache.evictions()), (2, 1));
        assert_eq!(cache.payload_bytes(), 4);
        assert_eq!(evicted, [(*b"b", b"2".to_vec())], "what is replaced is not handed out");
    }

    #[test]
    fn lru_stays_within_its_bytes() {
        for bound in [LruBound::CostBytes(20_000), LruBound::ValueBytes(20_000)] {
            let mut cache = LruReference::<u64, Vec<u8>>::new(bound);
            let mut rng = SmallRng::seed_from_u64(5);
            let mut evicted = 0;
            for _ in 0..20_000 {
                let key = rng.random_range(..500u64);
                let value = vec![0; rng.random_range(..400)];
                cache.put(key, value, |_, _| evicted += 1).unwrap();
                assert!(cache.get(&key).is_some());
                let value_bytes = cache.payload_bytes() - 8 * cache.entries();
                let used_bytes = match bound {
                    LruBound::CostBytes(_) => cache.cost_bytes(),
                    _ => value_bytes,
                };
                assert!(used_bytes <= 20_000, "{used_bytes}");
            }
            assert!(cache.evictions() > 1000);
            assert_eq!(cache.evictions(), evicted);
            assert!(cache.put(0, vec![0; 20_001], |_, _| ()).is_err());
        }
    }

    #[test]
    fn an_emptied_lru_costs_nothing_but_its_table() {
        let entry_bytes = |value_bytes| lru_entry_bytes::<u64, _>(&vec![0; value_bytes]);
        let mut cache = LruReference::<u64, Vec<u8>>::new(LruBound::CostBytes(1000));
        for key in 0..4 {
            cache.put(key, vec![0; 40], |_, _| ()).unwrap();
        }
        assert_eq!(cache.cost_bytes(), 4 * entry_bytes(40) + lru_table_bytes(4));
        let large = 1000 - lru_table_bytes(4) - entry_bytes(0) - 24;
        cache.put(9, vec![0; large as usize], |_, _| ()).unwrap();
        assert_eq!((cache.entries(), cache.evictions()), (1, 4));
    }

    #[test]
    fn clock_gives_a_second_chance_once() {
        let mut cache = ClockReference::new(NonZeroUsize::new(3).unwrap());
        for key in [b"a", b"b", b"c"] {
            cache.put(key, b"1");
        }
        assert!(cache.get(b"a").is_some());
        cache.put(b"d", b"1");
        assert!(cache.get(b"b").is_none(), "the first without its bit goes");
        cache.put(b"e", b"1");
        cache.put(b"f", b"1");
        assert!(cache.get(b"a").is_none(), "the bit saved it only once");
        assert_eq!((cache.entries(), cache.evictions()), (3, 3));
        assert_eq!(cache.payload_bytes(), 6);
    }
    #[test]
    fn s3_fifo_keeps_what_is_used_twice_and_remembers_what_it_let_go() {
        let mut cache = S3FifoReference::new(S3FifoBound::Entries(NonZeroUsize::new(10).unwrap()));
        let put = |cache: &mut S3FifoReference, keys: std::ops::Range<u8>| {
            keys.for_each(|key| cache.put(&[key], b"1").unwrap());
        };
        let has = |cache: &S3FifoReference, key: u8| cache.has(&[key]);
        put(&mut cache, 0..10);
        for _ in 0..2 {
            assert!(cache.get(&[0]).is_some());
        }
        assert!(cache.get(&[1]).is_some());
        // 1 was used only once; 0 goes to main.
        put(&mut cache, 10..11);
        assert!(has(&cache, 0) && !has(&cache, 1));
        // As a ghost 1 goes to main at once, and stays there while what is new comes and goes.
        put(&mut cache, 1..2);
        put(&mut cache, 20..60);
        assert!(has(&cache, 0) && has(&cache, 1));
        assert_eq!((cache.entries(), cache.evictions(), cache.payload_bytes()), (10, 42, 20));
    }

    #[test]
    fn s3_fifo_stays_within_its_bytes_and_adds_up() {
        let mut cache = S3FifoReference::new(S3FifoBound::ValueBytes(20_000));
        let mut rng = SmallRng::seed_from_u64(5);
        for _ in 0..20_000 {
            let key = rng.random_range(..500u64).to_le_bytes();
            if cache.get(&key).is_none() || rng.random_bool(0.1) {
                cache.put(&key, &vec![0; rng.random_range(..400)]).unwrap();
            }
            let value_bytes = cache.payload_bytes() - 8 * cache.entries();
            assert!(value_bytes <= 20_000, "{value_bytes}");
        }
        assert!(cache.evictions() > 1000);
        assert!(cache.put(&[0; 8], &[0; 20_001]).is_err());
    }

    /// Accesses such as S3-FIFO is for: some keys far more often than others, beside many that come once.
    fn skewed(rng: &mut SmallRng, step: u64) -> u64 {
        match rng.random_range(..3u32) {
            0 => 1_000_000 + step,
            _ => (20_000.0_f64).powf(rng.random_range(0.0..1.0)) as u64,
        }
    }

    #[test]
    fn the_engine_s_s3_fifo_hits_as_often_as_the_reference() {
        for bound in [Bound::Entries { count: 300, entry_bytes: 108 }, Bound::Entries { count: 3000, entry_bytes: 108 }]
        {
            let settings =
                Settings { policy: PolicyName::S3Fifo, bound, partitions: Some(1), slab_bytes: None, bump_buckets: 1 };
            let hit_ratio = |kind: Kind| {
                let mut cache = build::<8>(kind, &settings).unwrap();
                let (mut rng, mut out, mut hits) = (SmallRng::seed_from_u64(9), Vec::new(), 0);
                for step in 0..100_000 {
                    let key = skewed(&mut rng, step).to_le_bytes();
                    if cache.get(&key, &mut out) {
                        hits += 1;
                    } else {
                        cache.put(&key, &[1; 100]);
                    }
                }
                cache.validate().unwrap();
                f64::from(hits) / 100_000.0
            };
            let (engine, reference, lru) = (hit_ratio(Kind::Slab), hit_ratio(Kind::S3Fifo), hit_ratio(Kind::Lru));
            assert!((engine - reference).abs() < 0.005, "{bound:?}: {engine}, reference {reference}");
            assert!(reference > lru + 0.01, "the accesses tell the policies apart: {reference}, LRU {lru}");
        }
    }
}
