//! A walk over everything in a partition that checks each structure against the others.
//!
//! What is checked: every slab is in the pool or in one class, once; bitmaps, counts and bins agree; every used slot of
//! a data class is owned by exactly one record that points back to it; every live record is an entry, a continuation or
//! a zombie; every entry is in its bucket once and in its recency list once; no line of ghosts has a fingerprint twice;
//! counts and byte sums are right. Cost: proportional to the partition. Under the exclusive lock; it changes nothing.

use std::collections::{HashMap, HashSet};

use super::config::Policy;
use super::directory::flag;
use super::ids::{BucketIndex, ClassIndex, EntryIndex, Location, SlabIndex};
use super::layout::SlabDescriptor;
use super::partition::{Key, Partition};
use super::region::Word32;

/// What a validation found wrong; never empty.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{} inconsistencies, the first: {}", .0.len(), .0.first().map_or("", String::as_str))]
pub struct Inconsistencies(pub Vec<String>);

struct Findings(Vec<String>);

impl Findings {
    fn expect<T: PartialEq + std::fmt::Debug>(&mut self, what: impl FnOnce() -> String, found: T, expected: T) {
        if found != expected {
            self.0.push(format!("{}: {found:?}, expected {expected:?}", what()));
        }
    }
}

impl Partition {
    /// Checks every structure of the partition against the others.
    pub fn validate(&self) -> Result<(), Inconsistencies> {
        let mut findings = Findings(Vec::new());
        if self.is_damaged() {
            findings.0.push("a change was begun and not finished".to_owned());
        } else {
            self.check_slabs(&mut findings);
            self.check_records(&mut findings);
            self.check_buckets(&mut findings);
            self.check_recency(&mut findings);
            self.check_ghosts(&mut findings);
            let (loads, writes) = self.claim_counts();
            findings.expect(|| "claims in use".into(), self.write_back().in_use.get(), loads + writes);
        }
        if findings.0.is_empty() { Ok(()) } else { Err(Inconsistencies(findings.0)) }
    }

    fn slabs(&self) -> impl Iterator<Item = SlabIndex> {
        (0..self.layout.slab_count).map(SlabIndex)
    }

    fn check_slabs(&self, findings: &mut Findings) {
        let header = self.header();
        let mut pool = HashSet::new();
        let mut slab = header.pool_head.get();
        while slab != SlabDescriptor::NIL && pool.insert(slab) {
            slab = self.descriptor(SlabIndex(slab)).next.get();
        }
        findings.expect(|| "slabs in the pool".into(), pool.len() as u32, header.pool_count.get());
        let in_pool = |slab: SlabIndex| self.descriptor(slab).class.get() == SlabDescriptor::IN_POOL;
        findings.expect(|| "slabs without class".into(), self.slabs().filter(|&s| in_pool(s)).count(), pool.len());
        for (class, geometry) in self.layout.classes.iter() {
            let state = self.class_state(class);
            let mine: Vec<SlabIndex> = self.slabs().filter(|&s| self.descriptor(s).class.get() == class.0).collect();
            findings.expect(|| format!("slabs of class {}", class.0), mine.len() as u32, state.slab_count.get());
            let mut used_total = 0;
            for &slab in &mine {
                let descriptor = self.descriptor(slab);
                let used = geometry.slots_per_slab - self.bitmap(slab, class).count_free();
                used_total += u64::from(used);
                findings.expect(|| format!("used slots of slab {}", slab.0), descriptor.used.get(), used);
                if used == 0 {
                    findings.0.push(format!("slab {} is empty and not in the pool", slab.0));
                }
                let first_free = self.bitmap(slab, class).first_free(0);
                findings.expect(
                    || format!("first free slot of slab {} by its hint", slab.0),
                    self.bitmap(slab, class).first_free(descriptor.free_hint.get()),
                    first_free,
                );
                let bin = if used == geometry.slots_per_slab {
                    SlabDescriptor::NO_BIN
                } else {
                    used * 16 / geometry.slots_per_slab
                };
                findings.expect(|| format!("bin of slab {}", slab.0), descriptor.bin.get(), bin);
            }
            findings.expect(|| format!("used slots of class {}", class.0), state.used.get(), used_total);
            self.check_bins(class, &mine, findings);
            let compactable = header.compactable[class.usize() / 64].get() >> (class.usize() % 64) & 1 == 1;
            let slots = u64::from(geometry.slots_per_slab);
            let expected = class != ClassIndex::DIRECTORY && self.free_slots(class) >= slots;
            findings.expect(|| format!("class {} noted as compactable", class.0), compactable, expected);
        }
    }

    fn check_bins(&self, class: ClassIndex, mine: &[SlabIndex], findings: &mut Findings) {
        let state = self.class_state(class);
        let mut listed = HashSet::new();
        for bin in (0..state.bins.len()).filter(|bin| state.bin_mask.get() >> bin & 1 == 1) {
            let mut slab = state.bins[bin].get();
            while slab != SlabDescriptor::NIL && listed.insert(slab) {
                findings.expect(
                    || format!("bin of listed slab {slab}"),
                    self.descriptor(SlabIndex(slab)).bin.get(),
                    bin as u32,
                );
                slab = self.descriptor(SlabIndex(slab)).next.get();
            }
        }
        let expected: HashSet<u32> =
            mine.iter().filter(|&&s| self.descriptor(s).bin.get() != SlabDescriptor::NO_BIN).map(|s| s.0).collect();
        findings.expect(|| format!("slabs listed in bins of class {}", class.0), listed, expected);
    }

    fn used_slots(&self, class: ClassIndex) -> impl Iterator<Item = Location> + '_ {
        self.slabs().filter(move |&slab| self.descriptor(slab).class.get() == class.0).flat_map(move |slab| {
            let bitmap = self.bitmap(slab, class);
            let slots: Vec<u32> =
                std::iter::successors(bitmap.next_used(0), |&slot| bitmap.next_used(slot + 1)).collect();
            slots.into_iter().map(move |slot| self.layout.location(slab, class, slot))
        })
    }

    fn live_records(&self) -> Vec<EntryIndex> {
        self.used_slots(ClassIndex::DIRECTORY)
            .map(|location| EntryIndex((location.usize() * Location::UNIT_BYTES / 32) as u32))
            .filter(|&entry| self.record(entry).is_live())
            .collect()
    }

    fn check_records(&self, findings: &mut Findings) {
        let header = self.header();
        let mut stored = HashMap::<ClassIndex, u64>::new();
        let mut owned = 0;
        let (mut heads, mut unlisted_parts) = (Vec::new(), HashSet::new());
        let (mut entries, mut zombies, mut continuations, mut live_bytes) = (0, 0, 0, 0);
        let mut claimed = Vec::new();
        for entry in self.live_records() {
            let record = self.record(entry);
            if record.location() == Location::NONE {
                findings.0.push(format!("record {} has no slot", entry.0));
                continue;
            }
            let (slab, class, slot) = self.slot_of(record.location());
            if self.bitmap(slab, class).is_free(slot) || class == ClassIndex::DIRECTORY {
                findings.0.push(format!("record {} points to a slot that is free or a record", entry.0));
                continue;
            }
            findings.expect(
                || format!("owner of the slot of record {}", entry.0),
                self.owner_of(record.location()),
                entry,
            );
            findings.expect(
                || format!("location of record {}", entry.0),
                record.location(),
                self.layout.location(slab, class, slot),
            );
            if record.has(flag::PROTECTED) {
                findings.0.push(format!("record {} is still protected", entry.0));
            }
            owned += 1;
            if record.has(flag::CHAINED) {
                heads.push(entry);
            }
            *stored.entry(class).or_default() += self.stored_bytes(entry) as u64;
            if record.has(flag::CONTINUATION) {
                continuations += 1;
                unlisted_parts.insert(entry);
            } else if record.has(flag::ZOMBIE) {
                zombies += 1;
            } else {
                entries += 1;
                if record.has(flag::CLAIMED) {
                    claimed.push(entry);
                }
                live_bytes += (record.key_len() + self.value_len(entry)) as u64;
                let mut value = Vec::new();
                self.append_value(entry, &mut value);
                findings.expect(
                    || format!("length of the value of record {}", entry.0),
                    value.len(),
                    self.value_len(entry),
                );
            }
        }
        for head in heads {
            for part in self.continuations(head) {
                findings.expect(|| format!("head of continuation {}", part.0), self.record(part).chain.get(), head.0);
                findings.expect(|| format!("continuation {} listed once", part.0), unlisted_parts.remove(&part), true);
            }
        }
        findings.expect(|| "continuations that no head lists".into(), unlisted_parts.len(), 0);
        findings.expect(|| "entries".into(), header.len.get(), entries);
        findings.expect(|| "zombies".into(), header.zombies.get(), zombies);
        findings.expect(|| "entries in some worker's hands".into(), self.claimed_entries(), claimed);
        findings.expect(|| "continuations".into(), header.continuations.get(), continuations);
        findings.expect(|| "live bytes".into(), header.live_bytes.get(), live_bytes);
        let max_entries = header.max_entries.get();
        if max_entries != 0 && entries > max_entries {
            findings.0.push(format!("{entries} entries exceed the capacity of {max_entries}"));
        }
        let mut used = 0;
        for (class, _) in self.layout.classes.iter().skip(1) {
            used += self.class_state(class).used.get();
            let expected = stored.get(&class).copied().unwrap_or(0);
            findings.expect(
                || format!("stored bytes of class {}", class.0),
                self.class_state(class).stored_bytes.get(),
                expected,
            );
        }
        findings.expect(|| "slots owned by records".into(), owned, used);
    }

    fn check_buckets(&self, findings: &mut Findings) {
        let mut listed = HashSet::new();
        let mut overflowed = 0;
        for index in (0..self.layout.buckets_per_partition).map(BucketIndex) {
            let bucket = self.bucket(index);
            let chained: Vec<EntryIndex> =
                self.overflow_chain(bucket).take(self.header().len.get() as usize + 1).collect();
            overflowed += chained.len() as u32;
            if !chained.is_empty() {
                findings.expect(
                    || format!("cells used by bucket {}, which overflows", index.0),
                    bucket.used_cells(),
                    12,
                );
            }
            for (entry, in_chain) in
                bucket.cells().map(|entry| (entry, false)).chain(chained.into_iter().map(|e| (e, true)))
            {
                if !self.is_record(entry) || !self.record(entry).is_entry() {
                    findings.0.push(format!("bucket {} lists {}, which is no live entry", index.0, entry.0));
                    continue;
                }
                if !listed.insert(entry) {
                    findings.0.push(format!("record {} is listed twice", entry.0));
                }
                findings.expect(
                    || format!("overflow flag of record {}", entry.0),
                    self.record(entry).has(flag::OVERFLOWED),
                    in_chain,
                );
                let bytes = self.key_bytes(entry);
                let key = Key { bytes, hash: self.hash(bytes) };
                findings.expect(|| format!("bucket of record {}", entry.0), index, self.bucket_of(key));
                findings.expect(|| format!("lookup of record {}", entry.0), self.find(key), Some(entry));
            }
        }
        findings.expect(|| "entries in buckets".into(), listed.len() as u32, self.header().len.get());
        findings.expect(|| "overflowed entries".into(), overflowed, self.header().overflowed.get());
    }

    fn check_ghosts(&self, findings: &mut Findings) {
        if self.layout.policy != Policy::S3Fifo {
            return;
        }
        for bucket in (0..self.layout.buckets_per_partition).map(BucketIndex) {
            let ghosts = self.ghosts_of(bucket);
            let distinct: HashSet<u32> = ghosts.iter().copied().collect();
            findings.expect(|| format!("distinct ghosts of bucket {}", bucket.0), distinct.len(), ghosts.len());
        }
    }

    fn check_recency(&self, findings: &mut Findings) {
        let header = self.header();
        let main = self.check_list("recency list", (&header.head, &header.tail), false, findings);
        let small = self.check_list("small queue", (&header.small_head, &header.small_tail), true, findings);
        findings.expect(|| "entries in recency lists".into(), (main.len() + small.len()) as u32, header.len.get());
        findings.expect(|| "entries of the small queue".into(), small.len() as u32, header.small_len.get());
        let bytes = small.iter().map(|&entry| (self.record(entry).key_len() + self.value_len(entry)) as u64).sum();
        findings.expect(|| "bytes of the small queue".into(), header.small_bytes.get(), bytes);
    }

    fn check_list(
        &self,
        name: &str,
        (head, tail): (&Word32, &Word32),
        small: bool,
        findings: &mut Findings,
    ) -> HashSet<EntryIndex> {
        let mut seen = HashSet::new();
        let mut previous = EntryIndex::NONE;
        let mut entry = EntryIndex(head.get());
        while !entry.is_none() && seen.insert(entry) {
            findings.expect(
                || format!("previous of record {} in the {name}", entry.0),
                self.record(entry).previous.get(),
                previous.0,
            );
            findings.expect(|| format!("record {} being small", entry.0), self.is_small(entry), small);
            if !self.record(entry).is_entry() {
                findings.0.push(format!("the {name} has {}, which is no live entry", entry.0));
            }
            previous = entry;
            entry = EntryIndex(self.record(entry).next.get());
        }
        findings.expect(|| format!("end of the {name}"), tail.get(), previous.0);
        seen
    }
}
