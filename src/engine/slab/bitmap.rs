//! The free bitmap of a slab: bit `n` is set while slot `n` is free.
//!
//! A view (`bitvec`) over words of the region; it owns nothing and keeps no count, the slab descriptor does.
//! The words are atomics because everything in a region is; only the holder of the partition's exclusive lock
//! changes them.

use std::sync::atomic::{AtomicU64, Ordering};

use bitvec::prelude::{BitSlice, Lsb0};

/// Words that a bitmap of `slot_count` slots takes.
pub const fn word_count(slot_count: u32) -> usize {
    (slot_count as usize).div_ceil(64)
}

/// A view of one slab's free bitmap.
#[derive(Debug)]
pub struct FreeBitmap<'a> {
    words: &'a [AtomicU64],
    slot_count: u32,
}

impl<'a> FreeBitmap<'a> {
    /// The bitmap of `slot_count` slots over its words.
    pub fn new(words: &'a [AtomicU64], slot_count: u32) -> Self {
        debug_assert_eq!(words.len(), word_count(slot_count));
        FreeBitmap { words, slot_count }
    }

    fn bits(&self) -> &'a BitSlice<AtomicU64, Lsb0> {
        &BitSlice::from_slice(self.words)[..self.slot_count as usize]
    }

    /// Marks every slot free.
    pub fn set_all_free(&self) {
        for (index, word) in self.words.iter().enumerate() {
            let slots_left = self.slot_count as usize - index * 64;
            let free = if slots_left >= 64 { u64::MAX } else { (1 << slots_left) - 1 };
            word.store(free, Ordering::Relaxed);
        }
    }

    /// The first free slot at or after word `hint` (no free slot lies before it).
    #[inline]
    pub fn first_free(&self, hint: u32) -> Option<u32> {
        let skipped = hint as usize * 64;
        self.bits().get(skipped..)?.first_one().map(|slot| (skipped + slot) as u32)
    }

    /// Whether a slot is free.
    #[inline]
    pub fn is_free(&self, slot: u32) -> bool {
        self.bits()[slot as usize]
    }

    /// Marks one slot free or used.
    #[inline]
    pub fn set(&self, slot: u32, free: bool) {
        self.bits().set_aliased(slot as usize, free);
    }

    /// Counts the free slots.
    pub fn count_free(&self) -> u32 {
        self.bits().count_ones() as u32
    }

    /// The first used slot at or after `from`.
    pub fn next_used(&self, from: u32) -> Option<u32> {
        let rest = self.bits().get(from as usize..)?;
        rest.first_zero().map(|slot| from + slot as u32)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn words(count: usize) -> Vec<AtomicU64> {
        (0..count).map(|_| AtomicU64::new(0)).collect()
    }

    #[test]
    fn only_real_slots_are_free_when_the_last_word_is_partial() {
        for slots in [1, 63, 64, 65, 127, 128, 2046] {
            let words = words(word_count(slots));
            let bitmap = FreeBitmap::new(&words, slots);
            bitmap.set_all_free();
            assert_eq!(bitmap.count_free(), slots);
            let total: u32 = words.iter().map(|w| w.load(Ordering::Relaxed).count_ones()).sum();
            assert_eq!(total, slots, "no bit is set beyond the last slot");
        }
    }

    #[test]
    fn search_finds_exactly_the_free_and_the_used() {
        let words = words(word_count(130));
        let bitmap = FreeBitmap::new(&words, 130);
        assert_eq!(bitmap.first_free(0), None);
        bitmap.set(129, true);
        assert_eq!((bitmap.first_free(0), bitmap.first_free(2)), (Some(129), Some(129)));
        assert!(bitmap.is_free(129) && !bitmap.is_free(128));
        assert_eq!((bitmap.next_used(0), bitmap.next_used(129)), (Some(0), None));
        bitmap.set_all_free();
        assert_eq!(bitmap.next_used(0), None);
        bitmap.set(64, false);
        assert_eq!((bitmap.next_used(3), bitmap.next_used(65)), (Some(64), None));
    }
}
