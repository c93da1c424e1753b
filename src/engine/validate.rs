//! A check of a whole partition: each component against itself, and all against each other.
//!
//! What is checked here, beside what each component checks of its own words: every used slot of a data class is owned by
//! exactly one record that points back to it; every live record is an entry, a continuation, a zombie or reserved; every
//! entry is named by one bucket and is in one list of the order of eviction; counts and byte sums are right.
//!
//! Reports and never panics, whatever the bytes are; ends, and needs memory in proportion to the partition. Cost:
//! proportional to the partition. Needs the lock in any mode; changes nothing.

use std::collections::{HashMap, HashSet};

use super::entry::record::Flags;
use super::evict::Eviction;
use super::findings::{Findings, Inconsistencies};
use super::ids::{ClassIndex, EntryIndex, Location};
use super::partition::Partition;
use super::slab::slab_use::SlabUse;

impl Partition {
    /// Checks every structure of the partition against the others.
    ///
    /// # Errors
    ///
    /// What was found wrong.
    pub fn validate(&self) -> Result<(), Inconsistencies> {
        let mut findings = Findings::default();
        if self.is_damaged() {
            findings.add(|| "a change was begun and not finished".to_owned());
            return findings.into_result();
        }
        self.slabs.validate(&mut findings);
        self.directory.validate(&mut findings);
        let sound = self.check_records(&mut findings);
        let bytes_of = |entry: EntryIndex| sound.contains(&entry).then(|| self.payload.entry_bytes(entry));
        let hash_of = |entry: EntryIndex| sound.contains(&entry).then(|| self.hash_of(entry));
        self.table.validate(self.len(), hash_of, &mut findings);
        self.order.validate(self.totals(), &bytes_of, &mut findings);
        self.inflight.validate(&mut findings);
        self.check_segments(&mut findings);
        if findings.is_empty() {
            for &entry in &sound {
                let found = self.table.find(self.hash_of(entry), |other| other == entry);
                findings.expect(|| format!("lookup of record {}", entry.0), found, Some(entry));
            }
        }
        findings.into_result()
    }

    /// Checks all records; returns the entries whose keys and values can be read.
    fn check_records(&self, findings: &mut Findings) -> HashSet<EntryIndex> {
        let state = self.state();
        let is_used =
            |slot: Location| self.slabs.is_used_slot(slot) && self.slabs.class_at(slot) != ClassIndex::DIRECTORY;
        let doomed: HashSet<EntryIndex> = self.doomed_entries().collect();
        let mut sound = HashSet::new();
        let mut stored = HashMap::<ClassIndex, u64>::new();
        let mut leased = Vec::new();
        let (mut owned, mut in_chains) = (0u64, 0u32);
        let mut live_doomed = 0;
        let (mut entries, mut zombies, mut continuations, mut reserved, mut live_bytes) = (0, 0, 0, 0, 0);
        let mut expiring = 0;
        for entry in self.directory.live_records(&self.slabs) {
            let record = self.record(entry);
            // What is reserved or freed in steps has not all of its parts.
            let is_reserved = record.has(Flags::RESERVED) || doomed.contains(&entry);
            let checked = self.payload.check(entry, is_used);
            let is_readable = checked.is_ok();
            if let Err(what) = checked {
                if !is_reserved {
                    findings.add(|| what);
                }
            }
            let slot = record.location();
            if is_used(slot) {
                owned += 1;
                if is_readable || is_reserved {
                    *stored.entry(self.slabs.class_at(slot)).or_default() += self.payload.stored_bytes(entry) as u64;
                }
            }
            if record.has(Flags::CONTINUATION) {
                continuations += 1;
            } else if doomed.contains(&entry) {
                live_doomed += 1;
                findings.expect(
                    || format!("record {} is doomed and removed", entry.0),
                    record.has(Flags::ZOMBIE),
                    true,
                );
            } else if record.has(Flags::ZOMBIE) {
                zombies += 1;
            } else if is_reserved {
                reserved += 1;
            } else {
                entries += 1;
                expiring += u32::from(record.expires());
                if record.expires() && record.has(Flags::DIRTY) {
                    findings.add(|| format!("record {} expires, and its store does not have its value", entry.0));
                }
                if record.has(Flags::LEASED) {
                    leased.push(entry);
                }
                if is_readable {
                    live_bytes += self.payload.entry_bytes(entry);
                    sound.insert(entry);
                }
            }
            if record.has(Flags::CHAINED) && (is_readable || is_reserved) {
                in_chains += self.payload.continuations_unchecked(entry).count() as u32;
            }
        }
        findings.expect(|| "entries".into(), state.len.get(), entries);
        findings.expect(|| "large entries to be freed, in use".into(), live_doomed, doomed.len());
        findings.expect(|| "zombies".into(), state.zombies.get(), zombies);
        findings.expect(|| "records of values that are not complete".into(), state.reserved.get(), reserved);
        findings.expect(|| "continuations".into(), state.continuations.get(), continuations);
        findings.expect(|| "continuations that a head lists".into(), in_chains, continuations);
        findings.expect(|| "live bytes".into(), state.live_bytes.get(), live_bytes);
        findings.expect(|| "entries that expire".into(), state.expiring.get(), expiring);
        findings.expect(|| "leased entries".into(), self.inflight.leased_entries(), leased);
        let max_entries = state.max_entries.get();
        if max_entries != 0 && entries > max_entries {
            findings.add(|| format!("{entries} entries exceed the capacity of {max_entries}"));
        }
        let mut used = 0;
        for (class, _) in self.slabs.classes().iter().skip(1) {
            used += self.slabs.class_counts(class).1;
            let expected = stored.get(&class).copied().unwrap_or(0);
            findings.expect(|| format!("stored bytes of class {}", class.0), self.slabs.stored_bytes(class), expected);
        }
        findings.expect(|| "slots owned by records".into(), owned, used);
        sound
    }

    fn check_segments(&self, findings: &mut Findings) {
        let serves = |wanted: SlabUse| {
            let slabs = self.slabs.area().slabs();
            slabs.filter(move |&slab| self.slabs.slab_use(slab) == Some(wanted)).collect::<HashSet<_>>()
        };
        let named: HashSet<_> = self.table.segment_slabs().collect();
        findings.expect(|| "slabs of buckets".into(), serves(SlabUse::Buckets), named);
        let (values, records) = self.quarantined_slabs();
        let quarantined = self.state().quarantined.get() as usize;
        findings.expect(|| "slabs in quarantine".into(), quarantined, values + records);
    }
}
