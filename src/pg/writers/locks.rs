//! The relations on which this process holds a lock that a writer holds.
//!
//! ```text
//! mode  1 AccessShare  2 RowShare   3 RowExclusive  4 ShareUpdateExclusive  5 Share  6 ShareRowExclusive  7 Exclusive  8 AccessExclusive
//! rows  read           locked       written         vacuumed, analysed      indexed  written              written      written
//! ```
//!
//! PostgreSQL keeps them in two places, and both are looked at:
//!
//! - *The fast path*, in the process's own `PGPROC`: weak locks (1 to 3) on relations of the own database, sixteen in all
//!   before version 18, and from then on sixteen for each of some groups. Another process that wants a strong lock moves
//!   them to the main table.
//! - *The main table*, in shared memory, whose entries of one process are in sixteen lists.
//!
//! The fast path comes first. A lock that leaves it is put into its list before that, under the lock of the fast path:
//! so it is found there, or afterwards in the list. A list that looks empty then, without its lock, is empty, or somebody is
//! just moving a lock into it that was found on the fast path.
//!
//! There is a third place, the process's own table of locks (`LOCALLOCK`), which would be the natural one: it takes no
//! lock. It is no library's business: `GetLockMethodLocalHash` is compiled only into servers with assertions.
//!
//! Locking: `fpInfoLock` of this process, then one partition of PostgreSQL's lock table after the other, each shared and
//! for the walk of one list. The caller holds no LWLock.
#![allow(unsafe_code)]

use std::mem::offset_of;

use pgrx::pg_sys;

use crate::pg::lwlock::LwLockGuard;
use crate::pg::versions::{self, ListNode};
use crate::shared::lock::LockMode;

const ROW_EXCLUSIVE: u32 = 3;

/// Modes that go with written rows, as bits: 3, 6, 7 and 8. A mode includes what weaker ones may do, but whoever has 4 or 5
/// and writes takes 3 as well.
const WRITERS: i32 = 1 << ROW_EXCLUSIVE | 1 << 6 | 1 << 7 | 1 << 8;

/// Bits of a lock on the fast path, of modes 1 to 3.
const FAST_PATH_BITS: u32 = 3;
/// Locks in one word of the fast path.
const FAST_PATH_SLOTS: u32 = 16;

/// Whether the locks of PostgreSQL's lock table are where this library was built to find them: their places in the array
/// follow from how many locks of other kinds a version has.
pub(super) fn are_in_place() -> bool {
    (0..pg_sys::NUM_LOCK_PARTITIONS as usize).all(|partition| {
        // SAFETY: the array has been made with shared memory, and has these locks and more.
        let tranche = unsafe { (*partition_lock(partition)).tranche };
        u32::from(tranche) == pg_sys::BuiltinTrancheIds::LWTRANCHE_LOCK_MANAGER
    })
}

/// # Safety
///
/// - Shared memory has been made.
/// - `partition` is below `NUM_LOCK_PARTITIONS`.
unsafe fn partition_lock(partition: usize) -> *mut pg_sys::LWLock {
    // SAFETY: as the caller says.
    unsafe { &raw mut (*pg_sys::MainLWLockArray.add(pg_sys::LOCK_MANAGER_LWLOCK_OFFSET as usize + partition)).lock }
}

/// Calls `found` with each relation of the current database, some of them twice. It runs under an LWLock: it raises no
/// error, allocates nothing and is short. Relations that all databases share are none of these: only catalogs are shared.
pub(super) fn walk(mut found: impl FnMut(u32)) {
    // SAFETY: a process inside of a transaction has a `PGPROC`, which stays where it is.
    unsafe {
        let process = pg_sys::MyProc;
        walk_fast_path(process, &mut found);
        for partition in 0..pg_sys::NUM_LOCK_PARTITIONS as usize {
            walk_partition(process, partition, &mut found);
        }
    }
}

/// # Safety
///
/// - `process` is this process's own.
unsafe fn walk_fast_path(process: *mut pg_sys::PGPROC, found: &mut impl FnMut(u32)) {
    // SAFETY: the arrays belong to the process (caller), and are as long as PostgreSQL made them. Only this process adds to
    // them; who else changes them holds the lock exclusively.
    unsafe {
        let _held = LwLockGuard::acquire(&raw mut (*process).fpInfoLock, LockMode::Shared);
        let (bits, relations, groups) = versions::fast_path(process);
        for group in 0..groups {
            let bits = bits.add(group).read();
            if bits == 0 {
                continue;
            }
            for slot in 0..FAST_PATH_SLOTS {
                if bits >> (slot * FAST_PATH_BITS) & 1 << (ROW_EXCLUSIVE - 1) != 0 {
                    found(relations.add(group * FAST_PATH_SLOTS as usize + slot as usize).read().to_u32());
                }
            }
        }
    }
}

/// # Safety
///
/// - `process` is this process's own.
/// - `partition` is below `NUM_LOCK_PARTITIONS`.
unsafe fn walk_partition(process: *mut pg_sys::PGPROC, partition: usize, found: &mut impl FnMut(u32)) {
    // SAFETY: the list's head belongs to the process (caller), the LWLock is that of this partition (caller), under which
    // the list and all that it links is whole.
    unsafe {
        let head: *mut ListNode = versions::lock_list(process, partition);
        // Volatile: another process may be writing it.
        let first = (&raw const (*head).next).read_volatile();
        if first.is_null() || first == head {
            return;
        }
        let _held = LwLockGuard::acquire(partition_lock(partition), LockMode::Shared);
        let mut node = (*head).next;
        while !node.is_null() && node != head {
            let entry: *mut pg_sys::PROCLOCK = node.byte_sub(offset_of!(pg_sys::PROCLOCK, procLink)).cast();
            let tag = &(*(*entry).tag.myLock).tag;
            if (*entry).holdMask & WRITERS != 0
                && u32::from(tag.locktag_type) == pg_sys::LockTagType::LOCKTAG_RELATION
                && tag.locktag_field1 == pg_sys::MyDatabaseId.to_u32()
            {
                found(tag.locktag_field2);
            }
            node = (*node).next;
        }
    }
}
