//! Loads in flight: who is fetching an absent key from the store behind the cache.
//!
//! A claim names the key by its hash and its owner by process id. While it stands, others that want the key wait instead
//! of loading it too. Two keys of one hash wait for each other, which costs time and nothing else.
//!
//! A value that is stored meanwhile *overtakes* the load: the store may have got that value and a newer one since, and what
//! the load brings may be older than both, so it is not cached and has to be fetched again.
//!
//! Invariants: `loading` counts the claims in use; a claim without owner is free. Claims of a process that died are found
//! by who waits for them (`shared::write_back`) and given up here.
//!
//! Locking: the partition's exclusive lock, but for looking. Costs: a look at 31 claims.

use super::ids::EntryIndex;
use super::partition::{Key, Partition};
use super::region::Word64;

/// The most loads at one time in one partition.
pub const MAX_LOADS: usize = 31;

/// One load in flight, or room for one.
#[repr(C)]
pub struct LoadClaim {
    hash: Word64,
    /// The owner's process id, and the mark that the load was overtaken; 0 for none.
    owner: Word64,
}

const OVERTAKEN: u64 = 1 << 32;

/// What became of the wish to load a key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Claim {
    /// The claim of this number is the caller's.
    Granted(usize),
    /// Another worker is loading the key.
    Taken,
    /// The key is in the cache by now.
    Present,
    /// There are as many loads in this partition as there can be.
    TooMany,
}

impl LoadClaim {
    fn is_free(&self) -> bool {
        self.owner.get() == 0
    }

    fn owner(&self) -> u32 {
        self.owner.get() as u32
    }
}

impl Partition {
    fn claims(&self) -> &[LoadClaim] {
        &self.write_back().claims
    }

    fn claims_on(&self, hash: u64) -> impl Iterator<Item = &LoadClaim> {
        self.claims().iter().filter(move |claim| !claim.is_free() && claim.hash.get() == hash)
    }

    /// Claims the load of an absent key for a process.
    pub fn claim_load(&mut self, key: Key<'_>, owner: u32) -> Claim {
        if self.find(key).is_some() {
            return Claim::Present;
        }
        if self.is_loading(key) {
            return Claim::Taken;
        }
        let Some(free) = self.claims().iter().position(LoadClaim::is_free) else { return Claim::TooMany };
        self.mutate(|partition| {
            let claim = &partition.claims()[free];
            claim.hash.set(key.hash);
            claim.owner.set(u64::from(owner));
            partition.write_back().loading.add(1);
        });
        Claim::Granted(free)
    }

    /// Gives a claim up, if it is still that of this process.
    pub fn release_load(&mut self, claim: usize, owner: u32) {
        if self.claims()[claim].owner() == owner {
            self.mutate(|partition| partition.free_claim(claim));
        }
    }

    fn free_claim(&mut self, claim: usize) {
        self.claims()[claim].owner.set(0);
        self.write_back().loading.sub(1);
        self.write_back().settled.add(1);
    }

    /// Whether somebody is loading a key.
    pub fn is_loading(&self, key: Key<'_>) -> bool {
        self.write_back().loading.get() > 0 && self.claims_on(key.hash).next().is_some()
    }

    /// Whether somebody is loading an entry's key, which was stored since.
    pub(super) fn is_entry_loading(&self, entry: EntryIndex) -> bool {
        self.write_back().loading.get() > 0 && self.claims_on(self.hash(self.key_bytes(entry))).next().is_some()
    }

    /// Loads in flight.
    pub fn loading(&self) -> u32 {
        self.write_back().loading.get()
    }

    /// The processes that are loading something.
    pub fn load_owners(&self) -> Vec<u32> {
        self.claims().iter().filter(|claim| !claim.is_free()).map(LoadClaim::owner).collect()
    }

    /// Gives up every claim of a process that is no more.
    pub fn forget_loads_of(&mut self, owner: u32) {
        self.mutate(|partition| {
            for claim in 0..MAX_LOADS {
                if partition.claims()[claim].owner() == owner {
                    partition.free_claim(claim);
                }
            }
        });
    }

    pub(super) fn is_overtaken(&self, claim: usize) -> bool {
        self.claims()[claim].owner.get() & OVERTAKEN != 0
    }

    /// Marks the load of a key that is being stored.
    pub(super) fn overtake_loads(&mut self, key: Key<'_>) {
        if self.write_back().loading.get() > 0 {
            for claim in self.claims_on(key.hash) {
                claim.owner.set(claim.owner.get() | OVERTAKEN);
            }
        }
    }

    pub(super) fn overtake_all_loads(&mut self) {
        for claim in self.claims().iter().filter(|claim| !claim.is_free()) {
            claim.owner.set(claim.owner.get() | OVERTAKEN);
        }
        // A claim may have been made or given up half-way.
        let used = self.claims().iter().filter(|claim| !claim.is_free()).count();
        self.write_back().loading.set(used as u32);
    }
}
