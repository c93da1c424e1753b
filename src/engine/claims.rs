//! Claims: which keys some worker is loading from the store behind the cache, or writing back to it.
//!
//! ```text
//! Claim  0       8       12     16      20       24
//!        ┌───────┬───────┬──────┬───────┬────────┐
//!        │ hash  │ owner │ kind │ entry │ serial │      a table of 31 in each partition
//!        └───────┴───────┴──────┴───────┴────────┘
//! ```
//!
//! A claim names the key by its hash: two keys of one hash wait for each other, which costs time and nothing else. Its
//! owner is a process. `entry` is the entry that must stay as long as the claim stands: the one that is written back, or
//! the one that was stored while its key was being loaded. Such an entry carries the flag `CLAIMED` and is not evicted.
//!
//! Invariants:
//! - A key that is written has no other claim. It is loaded by one worker, but that a worker which must not wait may
//!   load beside it: reading twice does no harm. So the store is never written and read for one key at once.
//! - A load is *overtaken* by a value that is stored meanwhile: the store may have got that value and a newer one since,
//!   and what the load brings may be older than both, so it is not cached.
//! - A claim ends by whoever made it, and by nothing else that happens to the entry; only those of processes that died
//!   are ended by others. `serial` tells a claim from the next in its place.
//!
//! Locking: the partition's exclusive lock, but for looking. Costs: a look at 31 claims, where there are any at all.

use super::directory::flag;
use super::ids::EntryIndex;
use super::partition::{Key, Partition};
use super::region::{Word32, Word64};
use super::write_back::Version;

/// The most claims at one time in one partition.
pub const MAX_CLAIMS: usize = 31;

/// A key in some worker's hands, or room for one.
#[repr(C)]
pub struct Claim {
    hash: Word64,
    /// Process id; 0 for none.
    owner: Word32,
    kind: Word32,
    entry: Word32,
    serial: Word32,
}
const _: () = assert!(size_of::<Claim>() == 24);

/// The key is being written. Else it is being loaded.
const WRITE: u32 = 1;
/// The key was stored since its load began.
const OVERTAKEN: u32 = 2;

impl Claim {
    fn is_free(&self) -> bool {
        self.owner.get() == 0
    }

    fn is_write(&self) -> bool {
        self.kind.get() & WRITE != 0
    }
}

/// Names one claim, and no later one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ClaimId {
    index: u32,
    serial: u32,
}

/// What became of the wish to load a key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LoadClaim {
    /// The caller loads it. The version stands for the key's absence.
    Granted(ClaimId, Version),
    /// Another worker has the key in its hands.
    Taken,
    /// The key is in the cache by now.
    Present,
    /// There are as many claims in this partition as there can be.
    TooMany,
}

impl Partition {
    fn claims(&self) -> impl Iterator<Item = &Claim> {
        self.write_back().claims.iter().filter(|claim| !claim.is_free())
    }

    fn claims_on(&self, hash: u64) -> impl Iterator<Item = &Claim> {
        self.claims().filter(move |claim| claim.hash.get() == hash)
    }

    fn claims_of(&self, entry: EntryIndex) -> impl Iterator<Item = &Claim> {
        self.claims().filter(move |claim| claim.entry.get() == entry.0)
    }

    #[inline]
    fn has_claims(&self) -> bool {
        self.write_back().in_use.get() > 0
    }

    fn claim(&self, id: ClaimId) -> Option<&Claim> {
        let claim = &self.write_back().claims[id.index as usize];
        (!claim.is_free() && claim.serial.get() == id.serial).then_some(claim)
    }

    /// Whether some worker is loading or writing a key.
    pub fn is_claimed(&self, key: Key<'_>) -> bool {
        self.has_claims() && self.claims_on(key.hash).next().is_some()
    }

    /// Claims in use: loads, and write-backs.
    pub fn claim_counts(&self) -> (u32, u32) {
        let writes = self.claims().filter(|claim| claim.is_write()).count() as u32;
        (self.claims().count() as u32 - writes, writes)
    }

    /// Claims the load of an absent key for a process; beside another load of it only if that is said to do.
    pub fn claim_load(&mut self, key: Key<'_>, owner: u32, beside_another: bool) -> LoadClaim {
        if self.find(key).is_some() {
            return LoadClaim::Present;
        }
        if self.has_claims() && self.claims_on(key.hash).any(|claim| claim.is_write() || !beside_another) {
            return LoadClaim::Taken;
        }
        let absent = self.version_of_absence(key);
        match self.mutate(|partition| partition.add_claim(key.hash, owner, 0, EntryIndex::NONE)) {
            Some(claim) => LoadClaim::Granted(claim, absent),
            None => LoadClaim::TooMany,
        }
    }

    /// Claims the write of an evictable entry; `None` if there are too many claims, or if its key is still in the hands
    /// of somebody who has seen another entry of it, which was lost. Part of a change.
    pub(super) fn claim_write(&mut self, entry: EntryIndex, owner: u32) -> Option<ClaimId> {
        let hash = self.hash(self.key_bytes(entry));
        let is_claimed = self.claims_on(hash).next().is_some();
        (!is_claimed).then(|| self.add_claim(hash, owner, WRITE, entry)).flatten()
    }

    fn add_claim(&mut self, hash: u64, owner: u32, kind: u32, entry: EntryIndex) -> Option<ClaimId> {
        let state = self.write_back();
        let index = state.claims.iter().position(Claim::is_free)?;
        let claim = &state.claims[index];
        claim.hash.set(hash);
        claim.kind.set(kind);
        claim.entry.set(entry.0);
        claim.serial.set(claim.serial.get().wrapping_add(1));
        claim.owner.set(owner);
        state.in_use.add(1);
        if !entry.is_none() {
            self.record(entry).set_flags(flag::CLAIMED);
        }
        Some(ClaimId { index: index as u32, serial: claim.serial.get() })
    }

    /// Ends a claim; nothing happens if it has ended.
    pub fn end_claim(&mut self, id: ClaimId) {
        if self.claim(id).is_some() {
            self.mutate(|partition| partition.remove_claim(id.index as usize));
        }
    }

    /// Ends a claim in use, and returns its entry. Part of a change.
    fn remove_claim(&mut self, index: usize) -> Option<EntryIndex> {
        let state = self.write_back();
        let claim = &state.claims[index];
        let entry = EntryIndex(claim.entry.get()).some();
        claim.owner.set(0);
        state.in_use.sub(1);
        state.settled.add(1);
        if let Some(entry) = entry.filter(|&entry| self.claims_of(entry).next().is_none()) {
            self.record(entry).clear_flags(flag::CLAIMED);
        }
        entry
    }

    /// Ends a claim to write. Its entry goes if it has this version; `true` then. Else it was changed meanwhile, and
    /// stays, or is not there any more.
    pub fn finish_write(&mut self, id: ClaimId, version: Version) -> bool {
        if self.claim(id).is_none() {
            return false;
        }
        self.mutate(|partition| {
            let entry = partition.remove_claim(id.index as usize);
            let Some(entry) = entry.filter(|&entry| partition.has_version(entry, version)) else { return false };
            partition.let_go(entry);
            true
        })
    }

    /// Entries that must stay because of claims, each once, in the order of the directory.
    pub(super) fn claimed_entries(&self) -> Vec<EntryIndex> {
        let mut entries: Vec<_> = self.claims().filter_map(|claim| EntryIndex(claim.entry.get()).some()).collect();
        entries.sort_unstable();
        entries.dedup();
        entries
    }

    /// The processes that have claims.
    pub fn claim_owners(&self) -> Vec<u32> {
        self.claims().map(|claim| claim.owner.get()).collect()
    }

    /// Ends every claim of a process that is no more.
    pub fn end_claims_of(&mut self, owner: u32) {
        self.mutate(|partition| {
            for index in 0..MAX_CLAIMS {
                if partition.write_back().claims[index].owner.get() == owner {
                    partition.remove_claim(index);
                }
            }
        });
    }

    /// Whether what a load brings is not to be cached: its key was stored meanwhile, or its claim has ended.
    pub(super) fn is_overtaken(&self, id: ClaimId) -> bool {
        self.claim(id).is_none_or(|claim| claim.kind.get() & OVERTAKEN != 0)
    }

    /// Notes that an entry was stored though its key is being loaded. Part of a change.
    pub(super) fn overtake_loads(&mut self, key: Key<'_>, entry: EntryIndex) {
        if !self.has_claims() {
            return;
        }
        for claim in self.claims_on(key.hash).filter(|claim| !claim.is_write()) {
            claim.kind.set(OVERTAKEN);
            claim.entry.set(entry.0);
            self.record(entry).set_flags(flag::CLAIMED);
        }
    }

    /// Hands claims on to the entry that takes another's place, or to none. Part of a change.
    pub(super) fn hand_on_claims(&mut self, from: EntryIndex, to: EntryIndex) {
        if !self.record(from).has(flag::CLAIMED) {
            return;
        }
        self.claims_of(from).for_each(|claim| claim.entry.set(to.0));
        self.record(from).clear_flags(flag::CLAIMED);
        if !to.is_none() {
            self.record(to).set_flags(flag::CLAIMED);
        }
    }

    /// Every entry is lost: claims stand for themselves, and what loads bring may be old. Part of a reset, which may
    /// have found a claim half made.
    pub(super) fn reset_claims(&mut self) {
        for claim in self.claims() {
            claim.entry.set(EntryIndex::NONE.0);
            if !claim.is_write() {
                claim.kind.set(OVERTAKEN);
            }
        }
        let in_use = self.claims().count() as u32;
        self.write_back().in_use.set(in_use);
    }
}
