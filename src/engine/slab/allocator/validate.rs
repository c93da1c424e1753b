//! Checks of the allocator: bitmaps, counts, bins and the pool against each other.
//!
//! Whatever the words say, each list is followed for as many steps as there are slabs.

use super::{BIN_COUNT, NO_BIN, SlabAllocator};
use crate::engine::findings::Findings;
use crate::engine::ids::{ClassIndex, SlabIndex};
use crate::engine::memory::words::Word32;
use crate::engine::slab::slab_use::SlabUse;

impl SlabAllocator {
    /// Checks bitmaps, counts, bins and the pool against each other.
    pub fn validate(&self, findings: &mut Findings) {
        let count = |wanted: SlabUse| self.area.slabs().filter(|&slab| self.slab_use(slab) == Some(wanted)).count();
        for slab in self.area.slabs().filter(|&slab| self.slab_use(slab).is_none()) {
            findings.add(|| format!("slab {} serves nothing that there is", slab.0));
        }
        let pool = self.listed(&self.state().pool_head, findings);
        for &slab in &pool {
            findings.expect(|| format!("use of slab {} in the pool", slab.0), self.slab_use(slab), Some(SlabUse::Pool));
        }
        findings.expect(|| "slabs in the pool".into(), pool.len() as u32, self.state().pool_count.get());
        findings.expect(|| "slabs that serve nothing".into(), count(SlabUse::Pool), pool.len());
        for (class, _) in self.classes.iter() {
            self.validate_class(class, findings);
        }
    }

    /// The slabs of a list, those whose number makes no sense left out; ends where the list comes back on itself.
    fn listed(&self, head: &Word32, findings: &mut Findings) -> Vec<SlabIndex> {
        let mut slabs = Vec::new();
        let (mut previous, mut node) = (0, head.get());
        while node != 0 && node <= self.area.slab_count() && slabs.len() < self.area.slab_count() as usize {
            let slab = SlabIndex(node - 1);
            slabs.push(slab);
            let descriptor = self.descriptor(slab);
            findings.expect(|| format!("node before slab {} in its list", slab.0), descriptor.previous.get(), previous);
            (previous, node) = (node, descriptor.next.get());
        }
        findings.expect(|| "end of a list of slabs".into(), node, 0);
        slabs
    }

    fn validate_class(&self, class: ClassIndex, findings: &mut Findings) {
        let geometry = self.classes.get(class);
        let state = self.class_state(class);
        let mine: Vec<SlabIndex> =
            self.area.slabs().filter(|&slab| self.slab_use(slab) == Some(SlabUse::Class(class))).collect();
        findings.expect(|| format!("slabs of class {}", class.0), state.slab_count.get(), mine.len() as u32);
        let mut used_total = 0;
        for &slab in &mine {
            let descriptor = self.descriptor(slab);
            let bitmap = self.bitmap(slab, geometry);
            let used = geometry.slots_per_slab - bitmap.count_free();
            used_total += u64::from(used);
            findings.expect(|| format!("used slots of slab {}", slab.0), descriptor.used.get(), used);
            if used == 0 && (class != ClassIndex::DIRECTORY || mine.len() > 1) {
                findings.add(|| format!("slab {} is empty and not in the pool", slab.0));
            }
            findings.expect(
                || format!("first free slot of slab {} by its hint", slab.0),
                bitmap.first_free(descriptor.free_hint.get()),
                bitmap.first_free(0),
            );
            let bin = Self::bin_for(used, geometry.slots_per_slab);
            findings.expect(|| format!("bin of slab {}", slab.0), descriptor.bin.get(), bin);
        }
        findings.expect(|| format!("used slots of class {}", class.0), state.used.get(), used_total);
        findings.expect(
            || format!("bins of class {} that there are not", class.0),
            state.bin_mask.get() >> BIN_COUNT,
            0,
        );
        let mut listed = 0;
        for bin in 0..BIN_COUNT {
            let slabs = self.listed(&state.bins[bin], findings);
            let is_noted = state.bin_mask.get() >> bin & 1 == 1;
            findings.expect(|| format!("bin {bin} of class {} noted as filled", class.0), is_noted, !slabs.is_empty());
            for slab in &slabs {
                findings.expect(
                    || format!("bin of listed slab {}", slab.0),
                    self.descriptor(*slab).bin.get(),
                    bin as u32,
                );
                findings.expect(|| format!("class of listed slab {}", slab.0), mine.contains(slab), true);
            }
            listed += slabs.len();
        }
        let to_list = mine.iter().filter(|&&slab| self.descriptor(slab).bin.get() != NO_BIN).count();
        findings.expect(|| format!("slabs listed in bins of class {}", class.0), listed, to_list);
        let slots = u64::from(geometry.slots_per_slab);
        let compactable = self.state().compactable[class.usize() / 64].get() >> (class.usize() % 64) & 1 == 1;
        let expected = class != ClassIndex::DIRECTORY && self.free_slots(class) >= slots;
        findings.expect(|| format!("class {} noted as compactable", class.0), compactable, expected);
    }
}
