//! An image is what was written, or is refused.

use std::collections::BTreeMap;
use std::io::{self, Write};
use std::ops::ControlFlow;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use proptest::collection::vec;
use proptest::prelude::*;
use xxhash_rust::xxh3::xxh3_64_with_seed;

use super::header::{Header, Seal};
use super::read::{ImageReader, Restored};
use super::write::Written;
use super::{BLOCK_HEAD_BYTES, BlockHead, BlockKind, ImageError, MAX_BLOCK_BYTES, block_seed};
use crate::engine::config::Config;
use crate::engine::policy::Policy;
use crate::shared::cache::SharedCache;
use crate::shared::expiry::Expiry;
use crate::shared::wall_clock::WallClock;

const NUMBER: u64 = 0x1234_5678_9abc_def0;

fn header() -> Header {
    let written_ms = WallClock::SYSTEM.unix_ms();
    Header { number: NUMBER, cluster: 1, owner: [2, 3], written_ms, seal: Seal([4, 5]) }
}

fn cache(config: &Config) -> SharedCache {
    SharedCache::private(config).expect("a right configuration")
}

fn image_of(cache: &SharedCache) -> Vec<u8> {
    let mut image = Vec::new();
    cache.write_image(&header(), &mut image, |_| true, || ControlFlow::Continue(())).expect("a vector takes all");
    image
}

fn restore(image: &[u8], cache: &SharedCache) -> Result<Restored, ImageError> {
    cache.read_image(ImageReader::open(image)?, || ControlFlow::Continue(()))
}

fn contents(cache: &SharedCache) -> BTreeMap<Vec<u8>, (Vec<u8>, Option<u64>)> {
    let tenths =
        |expires: std::time::SystemTime| expires.duration_since(std::time::UNIX_EPOCH).unwrap().as_millis() / 100;
    let entries = cache.iter_with_values();
    entries
        .map(|entry| (entry.key, (entry.value.expect("asked for"), entry.expires.map(|at| tenths(at) as u64))))
        .collect()
}

fn in_order(cache: &SharedCache) -> Vec<Vec<u8>> {
    let mut keys = Vec::new();
    cache.drain(|key, _| keys.push(key.to_vec()));
    keys
}

/// Some bytes of this length.
fn bytes(seed: u32, len: usize) -> Vec<u8> {
    (0..len as u32).map(|at| (seed.wrapping_mul(31).wrapping_add(at * 7) >> 3) as u8).collect()
}

fn sizes() -> impl Strategy<Value = usize> {
    prop_oneof![4 => 0..200usize, 2 => 200..5000usize, 1 => 100_000..600_000usize]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(60))]

    #[test]
    fn what_is_read_is_what_was_written(
        puts in vec((0..300u32, sizes(), prop_oneof![Just(None), (5..100_000u64).prop_map(Some)]), 0..60),
        policy in 0..3usize,
        partitions in 0..3u32,
        other in 0..3usize,
    ) {
        let config = Config::bytes(64 << 20).policy(Policy::ALL[policy]).partitions(1 << partitions);
        let cache = cache(&config);
        for (key, size, ttl) in puts {
            let expiry = ttl.map_or(Expiry::Never, |seconds| Expiry::After(Duration::from_secs(seconds)));
            cache.put_with(&bytes(key, key as usize), &bytes(key ^ 77, size), expiry).unwrap();
        }
        let before = contents(&cache);
        let image = image_of(&cache);
        ImageReader::open(&image[..]).unwrap().verify(|| ControlFlow::Continue(())).unwrap();
        let copy = self::cache(&Config::bytes(64 << 20).policy(Policy::ALL[other]));
        let restored = restore(&image, &copy).unwrap();
        prop_assert_eq!(restored, Restored { entries: before.len() as u64, left_out: 0 });
        copy.validate().unwrap();
        let after = contents(&copy);
        prop_assert!(before.keys().eq(after.keys()));
        for (key, (value, expires)) in &before {
            let (other_value, other_expires) = &after[key];
            prop_assert_eq!(value, other_value);
            // Never later, and up to a tenth of a second before.
            let is_as_long = match (expires, other_expires) {
                (Some(expires), Some(other)) => other <= expires && *other + 2 > *expires,
                (expires, other) => expires == other,
            };
            prop_assert!(is_as_long);
        }
        if config == Config::bytes(64 << 20).policy(Policy::Lru).partitions(1) && Policy::ALL[other] == Policy::Lru {
            prop_assert_eq!(in_order(&cache), in_order(&copy));
        }
    }

    #[test]
    fn garbage_is_refused(garbage in vec(any::<u8>(), 0..400), after_header in any::<bool>()) {
        let mut image = if after_header { header().encode().to_vec() } else { Vec::new() };
        image.extend(garbage);
        let cache = cache(&Config::bytes(1 << 20));
        prop_assert!(restore(&image, &cache).is_err());
        prop_assert!(cache.is_empty());
    }

    #[test]
    fn right_checksums_over_wrong_contents_are_refused_too(
        blocks in vec((vec(any::<u8>(), 0..100), 0..5u32, 0..4u32, prop_oneof![Just(None), any::<u64>().prop_map(Some)]), 1..4),
    ) {
        let mut image = header().encode().to_vec();
        for (place, (payload, entries, kind, promised)) in blocks.iter().enumerate() {
            let seed = block_seed(NUMBER, place as u64);
            let bytes = promised.unwrap_or(payload.len() as u64);
            let head = BlockHead { bytes, entries: *entries, kind: *kind, checksum: xxh3_64_with_seed(payload, seed) };
            image.extend(head.encode(seed));
            image.extend(payload);
        }
        // Nobody writes such things; nothing but an error, and memory for what is there, comes of it.
        let cache = cache(&Config::bytes(1 << 20));
        prop_assert!(restore(&image, &cache).is_err());
        prop_assert!(cache.is_empty());
    }
}

/// A cache whose image is small.
fn small() -> (SharedCache, Vec<u8>) {
    let cache = cache(&Config::bytes(8 << 20).policy(Policy::Lru).partitions(1));
    cache.put_with(b"expires", b"later", Expiry::After(Duration::from_secs(3600))).unwrap();
    cache.put(b"", b"").unwrap();
    cache.put(b"key", &bytes(1, 300)).unwrap();
    let image = image_of(&cache);
    (cache, image)
}

/// Reading gives an error and nothing, or what was written.
fn is_refused_or_right(image: &[u8], original: &SharedCache) -> bool {
    let copy = cache(&Config::bytes(1 << 20));
    let is_right = match restore(image, &copy) {
        Ok(_) => contents(&copy) == contents(original),
        Err(_) => copy.is_empty(),
    };
    let verified = ImageReader::open(image).is_ok_and(|image| image.verify(|| ControlFlow::Continue(())).is_ok());
    is_right && verified != copy.is_empty()
}

#[test]
fn every_flipped_byte_is_found() {
    let (cache, image) = small();
    assert!(restore(&image, &self::cache(&Config::bytes(1 << 20))).is_ok());
    for at in 0..image.len() {
        for flip in [0x01, 0x80, 0xff] {
            let mut damaged = image.clone();
            damaged[at] ^= flip;
            assert!(is_refused_or_right(&damaged, &cache), "byte {at}");
            let is_refused = restore(&damaged, &self::cache(&Config::bytes(1 << 20))).is_err();
            assert!(is_refused, "byte {at} of {} has no checksum", image.len());
        }
    }
}

#[test]
fn every_truncation_and_every_addition_is_found() {
    let (cache, image) = small();
    for len in 0..image.len() {
        assert!(is_refused_or_right(&image[..len], &cache), "{len} bytes");
        assert!(restore(&image[..len], &self::cache(&Config::bytes(1 << 20))).is_err(), "{len} bytes");
    }
    for more in [&b"\0"[..], &image, &image[Header::BYTES..]] {
        assert!(restore(&[&image, more].concat(), &self::cache(&Config::bytes(1 << 20))).is_err());
    }
}

/// Header, blocks and end of an image.
fn pieces(image: &[u8]) -> Vec<&[u8]> {
    let (header, mut rest) = image.split_at(Header::BYTES);
    let mut pieces = vec![header];
    while !rest.is_empty() {
        let bytes = u64::from_le_bytes(rest[..8].try_into().unwrap()) as usize;
        let (block, more) = rest.split_at(BLOCK_HEAD_BYTES + bytes);
        pieces.push(block);
        rest = more;
    }
    pieces
}

#[test]
fn blocks_have_one_place_in_one_image() {
    let cache = cache(&Config::bytes(16 << 20).policy(Policy::Lru).partitions(1));
    (0..4u32).for_each(|key| _ = cache.put(&key.to_be_bytes(), &bytes(key, 300_000)).unwrap());
    let image = image_of(&cache);
    let pieces = pieces(&image);
    assert_eq!(pieces.len(), 6);
    let refused = |pieces: &[&[u8]]| restore(&pieces.concat(), &self::cache(&Config::bytes(16 << 20))).is_err();
    assert!(!refused(&pieces));
    for place in 1..5 {
        let mut swapped = pieces.clone();
        swapped.swap(place, place % 4 + 1);
        assert!(refused(&swapped), "blocks may be exchanged");
        let mut left_out = pieces.clone();
        left_out.remove(place);
        assert!(refused(&left_out), "a block may be left out");
        let mut twice = pieces.clone();
        twice.insert(place, pieces[place]);
        assert!(refused(&twice), "a block may be there twice");
    }
    let mut other = Vec::new();
    cache.write_image(&Header { number: 7, ..header() }, &mut other, |_| true, || ControlFlow::Continue(())).unwrap();
    let other = self::pieces(&other);
    for place in 0..6 {
        let mut mixed = pieces.clone();
        mixed[place] = other[place];
        assert!(refused(&mixed), "a piece of another image passes");
    }
}

#[test]
fn memory_grows_with_what_is_there_and_not_with_what_is_promised() {
    let seed = block_seed(NUMBER, 0);
    let head = BlockHead { bytes: MAX_BLOCK_BYTES, entries: 1, kind: BlockKind::Entries as u32, checksum: 0 };
    let image = [&header().encode()[..], &head.encode(seed), &[0; 100]].concat();
    let mut reader = ImageReader::open(&image[..]).unwrap();
    assert!(matches!(reader.next_block().map(|_| ()), Err(ImageError::Damaged { .. })));
    assert!(reader.block.capacity() < 1 << 16, "{}", reader.block.capacity());
    let head = BlockHead { bytes: MAX_BLOCK_BYTES + 1, ..head };
    let image = [&header().encode()[..], &head.encode(seed)].concat();
    let error = ImageReader::open(&image[..]).unwrap().next_block().map(|_| ()).unwrap_err();
    assert!(error.to_string().contains("impossible length"), "{error}");
}

#[test]
fn another_format_is_said_to_be_one() {
    let (_, mut image) = small();
    image[8] = 9;
    let error = ImageReader::open(&image[..]).unwrap_err();
    assert_eq!(error.to_string(), "the image has format 9, this release knows format 1");
    assert!(matches!(ImageReader::open(&b"no image"[..]), Err(ImageError::NoImage)));
    assert!(matches!(ImageReader::open(&b""[..]), Err(ImageError::NoImage)));
}

#[test]
fn where_not_all_fits_what_was_used_last_is_there() {
    let config = |bytes| Config::bytes(bytes).policy(Policy::Lru).partitions(1);
    let cache = cache(&config(8 << 20));
    (0..2000u32).for_each(|key| _ = cache.put(&key.to_be_bytes(), &bytes(key, 1000)).unwrap());
    assert!(cache.get(&0u32.to_be_bytes(), &mut Vec::new()));
    let smaller = self::cache(&config(1 << 20));
    assert_eq!(restore(&image_of(&cache), &smaller).unwrap().entries, 2000);
    smaller.validate().unwrap();
    let kept = smaller.len() as u32;
    assert!((500..1500).contains(&kept), "{kept}");
    let last = (2001 - kept..2000).chain([0]);
    assert!(last.eq(in_order(&smaller).iter().map(|key| u32::from_be_bytes(key[..].try_into().unwrap()))));
}

#[test]
fn time_goes_on_while_nobody_looks_and_not_backwards() {
    let unix_ms: &'static AtomicU64 = Box::leak(Box::new(AtomicU64::new(WallClock::SYSTEM.unix_ms())));
    let cache = || cache(&Config::bytes(1 << 20)).with_wall_clock(WallClock::set_by(unix_ms));
    let original = cache();
    original.put_with(b"gone", b"", Expiry::After(Duration::ZERO)).unwrap();
    for (key, seconds) in [(b"a", 1), (b"b", 10), (b"c", 100)] {
        original.put_with(key, b"", Expiry::After(Duration::from_secs(seconds))).unwrap();
    }
    original.put(b"d", b"").unwrap();
    let start_ms = unix_ms.load(Ordering::SeqCst);
    let mut image = Vec::new();
    let header = Header { written_ms: start_ms, ..header() };
    let written = original.write_image(&header, &mut image, |_| true, || ControlFlow::Continue(())).unwrap();
    assert_eq!(written.entries, 4, "what has expired is not written");
    for (passed_ms, keys) in [(0, &b"abcd"[..]), (1000, b"bcd"), (10_000, b"cd"), (100_000, b"d")] {
        unix_ms.store(start_ms + passed_ms, Ordering::SeqCst);
        let copy = cache();
        let restored = restore(&image, &copy).unwrap();
        assert_eq!((restored.entries, restored.left_out), (keys.len() as u64, 4 - keys.len() as u64));
        assert!(contents(&copy).into_keys().flatten().eq(keys.iter().copied()));
        copy.validate().unwrap();
    }
    // Set back by an hour: nothing lives longer for it than it had when the image was written.
    unix_ms.store(start_ms - 3_600_000, Ordering::SeqCst);
    let copy = cache();
    restore(&image, &copy).unwrap();
    unix_ms.fetch_add(100_000, Ordering::SeqCst);
    assert!(contents(&copy).into_keys().eq([b"d".to_vec()]));
}

#[test]
fn every_change_counts_and_no_look_does() {
    let cache = cache(&Config::bytes(1 << 20).partitions(1));
    let mut before = cache.change_count();
    let mut changed = |what: &str, expected: bool| {
        let now = cache.change_count();
        assert_eq!(now != before, expected, "{what}");
        before = now;
    };
    let mut out = Vec::new();
    cache.put(b"a", b"1").unwrap();
    changed("an insert", true);
    cache.put(b"a", b"2").unwrap();
    changed("an update", true);
    cache.get(b"a", &mut out);
    cache.get(b"none", &mut out);
    cache.contains(b"a");
    cache.iter_with_values().for_each(drop);
    image_of(&cache);
    cache.compact(crate::CompactBudget::bytes(1 << 20));
    cache.remove(b"none");
    changed("looks", false);
    cache.put_if_absent(b"b", b"", Expiry::Never, || true).unwrap();
    changed("put_if_absent", true);
    cache.put_if_absent(b"b", b"", Expiry::Never, || true).unwrap();
    changed("put_if_absent of what is there", false);
    cache.discard(b"b");
    changed("a removal", true);
    cache.put_with(b"a", b"3", Expiry::After(Duration::ZERO)).unwrap();
    changed("an update", true);
    cache.sweep(u64::MAX);
    changed("a sweep", true);
    (0..100u32).for_each(|key| _ = cache.put(&key.to_be_bytes(), &[1; 50_000]).unwrap());
    changed("puts that evict", true);
    cache.clear();
    changed("clear", true);
    for size in [10, 100_000] {
        for (what, remove) in [
            ("remove", &(|| drop(cache.remove(b"k"))) as &dyn Fn()),
            ("discard", &|| _ = cache.discard(b"k")),
            ("pop_lru", &|| drop(cache.pop_lru())),
            ("drain", &|| _ = cache.drain(|_, _| ())),
            ("clear", &|| _ = cache.clear()),
        ] {
            cache.put(b"k", &vec![1; size]).unwrap();
            changed("a put", true);
            cache.put(b"k", &vec![2; size]).unwrap();
            changed("an update", true);
            remove();
            changed(what, true);
        }
    }
    cache.put(b"a", b"1").unwrap();
    changed("an insert", true);
    cache.unlocked(0).mark_damaged();
    assert_eq!(cache.len(), 0);
    changed("a reset", true);
}

#[test]
fn a_writer_that_fails_is_an_error_and_the_cache_is_as_it_was() {
    struct Full(usize);
    impl Write for Full {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            match bytes.len() {
                len if len > self.0 => Err(io::Error::from(io::ErrorKind::StorageFull)),
                len => {
                    self.0 -= len;
                    Ok(len)
                }
            }
        }
        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }
    let (cache, image) = small();
    let before = contents(&cache);
    for room in 0..image.len() {
        let error = cache.write_image(&header(), Full(room), |_| true, || ControlFlow::Continue(())).unwrap_err();
        assert!(matches!(error, ImageError::Io(_)), "{error}");
    }
    let written = cache.write_image(&header(), Full(image.len()), |_| true, || ControlFlow::Continue(())).unwrap();
    assert_eq!(written, Written { entries: 3, changes: cache.change_count() });
    assert_eq!(contents(&cache), before);
}

#[test]
fn who_is_asked_to_stop_leaves_nothing() {
    let (_, image) = small();
    let copy = cache(&Config::bytes(1 << 20));
    let stopped = copy.read_image(ImageReader::open(&image[..]).unwrap(), || ControlFlow::Break(()));
    assert!(matches!(stopped, Err(ImageError::Interrupted)) && copy.is_empty());
    let stopped = ImageReader::open(&image[..]).unwrap().verify(|| ControlFlow::Break(()));
    assert!(matches!(stopped, Err(ImageError::Interrupted)));
    let large = cache(&Config::bytes(8 << 20));
    large.put(b"key", &bytes(1, 300_000)).unwrap();
    let stopped = large.write_image(&header(), io::sink(), |_| true, || ControlFlow::Break(()));
    assert!(matches!(stopped, Err(ImageError::Interrupted)));
}
