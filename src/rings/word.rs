//! A shared word, as the algorithms of this layer use it.
//!
//! They are written against this trait, so that a test runs the same code over words that it schedules itself, with
//! every order that the language's memory model allows (`src/tests/rings/interleavings.rs`). Over a region a word is a
//! [`Word64`], and nothing of the trait is left in the machine code.

use std::sync::atomic::{self, Ordering};

use crate::engine::memory::words::Word64;

/// So many rounds a publisher spins before it gives up the processor between two looks.
const SPINS: u32 = 64;

/// An atomic word of 64 bits, with the fences that go with it.
pub trait SharedWord {
    /// Loads.
    fn load(&self, order: Ordering) -> u64;

    /// Stores.
    fn store(&self, value: u64, order: Ordering);

    /// Stores, and gives what was there.
    fn swap(&self, value: u64, order: Ordering) -> u64;

    /// Stores `new` if the word is `current`, with this order, and says whether it was.
    fn replace(&self, current: u64, new: u64, order: Ordering) -> bool;

    /// Adds, and wraps.
    fn add(&self, value: u64, order: Ordering);

    /// A fence between accesses to such words.
    fn fence(order: Ordering);

    /// Waits a moment for another process, the longer the more rounds it has been.
    fn pause(round: u32);
}

impl SharedWord for Word64 {
    #[inline(always)]
    fn load(&self, order: Ordering) -> u64 {
        self.atomic().load(order)
    }

    #[inline(always)]
    fn store(&self, value: u64, order: Ordering) {
        self.atomic().store(value, order);
    }

    #[inline(always)]
    fn swap(&self, value: u64, order: Ordering) -> u64 {
        self.atomic().swap(value, order)
    }

    #[inline(always)]
    fn replace(&self, current: u64, new: u64, order: Ordering) -> bool {
        self.atomic().compare_exchange(current, new, order, Ordering::Relaxed).is_ok()
    }

    #[inline(always)]
    fn add(&self, value: u64, order: Ordering) {
        self.atomic().fetch_add(value, order);
    }

    #[inline(always)]
    fn fence(order: Ordering) {
        atomic::fence(order);
    }

    fn pause(round: u32) {
        if round < SPINS {
            std::hint::spin_loop();
        } else {
            // The other one is not running: it may need this processor.
            std::thread::yield_now();
        }
    }
}
