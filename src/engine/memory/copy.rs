//! Words of a region copied and compared, beside others who may be writing or reading them.
//!
//! What others may look at meanwhile is read and written in whole words; what they may write meanwhile is read so. A
//! reader finds out afterwards whether the words belong together (`optimistic`).
//!
//! Not here: which words (`region` checks the range, its callers know what is there).
#![allow(unsafe_code)]

use std::collections::TryReserveError;
use std::mem::MaybeUninit;
#[cfg(not(all(target_arch = "x86_64", not(miri))))]
use std::sync::atomic::{AtomicU64, Ordering};

use super::words::Word64;

/// Copies words between a region and memory of the process, or within a region: as if each word of the region were
/// loaded or stored on its own, relaxed, in any order.
///
/// An ordinary copy would be a data race where a reader looks at the region beside a writer, and single words are half
/// as fast. So the loop is written for the processor, whose vector moves have no such notion; for a reader it makes no
/// difference how a value is torn, if it is, for it throws that away.
///
/// # Safety
///
/// - From both pointers on `count` words are mapped, in the region or for the caller alone, and they do not overlap.
#[inline(always)]
pub(super) unsafe fn copy_words(from: *const u8, to: *mut u8, count: usize) {
    #[cfg(all(target_arch = "x86_64", not(miri)))]
    // SAFETY: reads and writes just the words that the caller vouches for: 16 of them at a time where the processor has
    // registers of 32 bytes (the upper halves of all are cleared behind, which old processors want), then 8 at a time,
    // then 4, 2 and 1.
    unsafe {
        let (mut from, mut to, mut count) = (from, to, count);
        if count >= 2 * 16 && std::is_x86_feature_detected!("avx") {
            std::arch::asm!(
                "2:",
                "vmovups ymm0, [{from}]",
                "vmovups ymm1, [{from} + 32]",
                "vmovups ymm2, [{from} + 64]",
                "vmovups ymm3, [{from} + 96]",
                "vmovups [{to}], ymm0",
                "vmovups [{to} + 32], ymm1",
                "vmovups [{to} + 64], ymm2",
                "vmovups [{to} + 96], ymm3",
                "sub {from}, -128",
                "sub {to}, -128",
                "sub {left}, 16",
                "cmp {left}, 16",
                "jae 2b",
                "vzeroupper",
                from = inout(reg) from,
                to = inout(reg) to,
                left = inout(reg) count,
                out("xmm0") _,
                out("xmm1") _,
                out("xmm2") _,
                out("xmm3") _,
                out("xmm4") _,
                out("xmm5") _,
                out("xmm6") _,
                out("xmm7") _,
                out("xmm8") _,
                out("xmm9") _,
                out("xmm10") _,
                out("xmm11") _,
                out("xmm12") _,
                out("xmm13") _,
                out("xmm14") _,
                out("xmm15") _,
                options(nostack),
            );
        }
        std::arch::asm!(
            "sub {left}, 8",
            "jb 3f",
            "2:",
            "movups {a}, [{from}]",
            "movups {b}, [{from} + 16]",
            "movups {c}, [{from} + 32]",
            "movups {d}, [{from} + 48]",
            "movups [{to}], {a}",
            "movups [{to} + 16], {b}",
            "movups [{to} + 32], {c}",
            "movups [{to} + 48], {d}",
            "add {from}, 64",
            "add {to}, 64",
            "sub {left}, 8",
            "jae 2b",
            "3:",
            // The lowest three bits are those of the count: four words, two and one.
            "test {left:l}, 4",
            "jz 4f",
            "movups {a}, [{from}]",
            "movups {b}, [{from} + 16]",
            "movups [{to}], {a}",
            "movups [{to} + 16], {b}",
            "add {from}, 32",
            "add {to}, 32",
            "4:",
            "test {left:l}, 2",
            "jz 5f",
            "movups {a}, [{from}]",
            "movups [{to}], {a}",
            "add {from}, 16",
            "add {to}, 16",
            "5:",
            "test {left:l}, 1",
            "jz 6f",
            "mov {word}, [{from}]",
            "mov [{to}], {word}",
            "6:",
            from = inout(reg) from => _,
            to = inout(reg) to => _,
            left = inout(reg) count => _,
            word = out(reg) _,
            a = out(xmm_reg) _,
            b = out(xmm_reg) _,
            c = out(xmm_reg) _,
            d = out(xmm_reg) _,
            options(nostack),
        );
    }
    #[cfg(not(all(target_arch = "x86_64", not(miri))))]
    for index in 0..count {
        // SAFETY: as the caller vouches. A word of the region is aligned; one of the caller's may not be.
        unsafe {
            let (from, to) = (from.cast::<AtomicU64>().add(index), to.cast::<AtomicU64>().add(index));
            let word =
                if from.is_aligned() { (*from).load(Ordering::Relaxed) } else { from.cast::<u64>().read_unaligned() };
            if to.is_aligned() { (*to).store(word, Ordering::Relaxed) } else { to.cast::<u64>().write_unaligned(word) }
        }
    }
}

/// Up to eight bytes as the word that has them in this order in memory, zeros behind them.
#[inline(always)]
pub(super) fn word_of(bytes: &[u8]) -> u64 {
    match bytes.try_into() {
        Ok(bytes) => u64::from_ne_bytes(bytes),
        Err(_) => {
            let mut padded = [0; 8];
            padded[..bytes.len()].copy_from_slice(bytes);
            u64::from_ne_bytes(padded)
        }
    }
}

/// Whether the words hold exactly these bytes, zeros behind them.
#[inline(always)]
pub fn words_equal(words: &[Word64], bytes: &[u8]) -> bool {
    words.len() == bytes.len().div_ceil(8)
        && words.iter().zip(bytes.chunks(8)).all(|(word, bytes)| word.get() == word_of(bytes))
}

/// Writes the words to the start of `room`, whose rest stays as it is; `false`, and nothing is written, if `room` is
/// shorter than the words.
#[inline(always)]
pub fn write_words(words: &[Word64], room: &mut [MaybeUninit<u8>]) -> bool {
    let fits = 8 * words.len() <= room.len();
    if fits {
        // SAFETY: `room` is the caller's own and at least as long as the words (checked).
        unsafe { copy_words(words.as_ptr().cast(), room.as_mut_ptr().cast(), words.len()) };
    }
    fits
}

/// Appends the first `len_bytes` bytes of the words to `out`.
///
/// # Errors
///
/// There is no memory for them; `out` stays as it is.
///
/// # Panics
///
/// If the words have fewer bytes.
#[inline(always)]
pub fn append_words(words: &[Word64], len_bytes: usize, out: &mut Vec<u8>) -> Result<(), TryReserveError> {
    let words = &words[..len_bytes.div_ceil(8)];
    out.try_reserve(8 * words.len())?;
    let filled = out.len();
    // SAFETY: `try_reserve` made room for all words behind what is filled, which is the vector's own; they are written there
    // whole, so the first `len_bytes` of that room are initialised.
    unsafe {
        copy_words(words.as_ptr().cast(), out.as_mut_ptr().add(filled), words.len());
        out.set_len(filled + len_bytes);
    }
    Ok(())
}
