//! The words that a region is made of: atomics whose ordinary accesses are plain loads and stores.
//!
//! A word that only the holder of the partition's exclusive lock writes is read and written relaxed. Where a reader
//! without the lock draws a conclusion from a word, the writer stores it with release ordering and the reader loads it
//! with acquire ordering. Where several processes write at once, they use the atomic itself.

use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};

macro_rules! word {
    ($(#[$doc:meta])* $name:ident, $atomic:ident, $number:ident) => {
        $(#[$doc])*
        #[repr(transparent)]
        #[derive(Default, Debug)]
        pub struct $name($atomic);

        impl $name {
            /// Loads the word, relaxed.
            #[inline(always)]
            pub fn get(&self) -> $number {
                self.0.load(Ordering::Relaxed)
            }

            /// Stores the word, relaxed.
            #[inline(always)]
            pub fn set(&self, value: $number) {
                self.0.store(value, Ordering::Relaxed)
            }

            /// Loads with acquire ordering.
            #[inline(always)]
            pub fn load_acquire(&self) -> $number {
                self.0.load(Ordering::Acquire)
            }

            /// Stores with release ordering: whoever loads this value with `load_acquire` also sees every write made
            /// before it.
            #[inline(always)]
            pub fn store_release(&self, value: $number) {
                self.0.store(value, Ordering::Release)
            }

            /// Adds, for a word that only the holder of the exclusive lock writes. Wraps.
            #[inline]
            pub fn add(&self, value: $number) {
                self.set(self.get().wrapping_add(value))
            }

            /// Subtracts, for a word that only the holder of the exclusive lock writes. Wraps.
            #[inline]
            pub fn sub(&self, value: $number) {
                self.set(self.get().wrapping_sub(value))
            }

            /// The atomic itself, where several processes write at once.
            #[inline]
            pub fn atomic(&self) -> &$atomic {
                &self.0
            }
        }
    };
}

word!(
    /// A 32-bit word of a region.
    Word32, AtomicU32, u32
);
word!(
    /// A 64-bit word of a region.
    Word64, AtomicU64, u64
);
