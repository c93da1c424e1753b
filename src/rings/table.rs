//! All lines in one region.
//!
//! ```text
//! byte 0          64        128      256
//!      ┌──────────┬─────────┬────────┬────────┬─ … ─┬────────┐
//!      │ header   │ switches│ line 0 │ line 1 │     │        │
//!      └──────────┴─────────┴────────┴────────┴─ … ─┴────────┘
//! ```
//!
//! The region holds no pointer, so processes may map it at different addresses. The switches have a cache line of their
//! own: all read it, and it is hardly ever written. In memory aligned to 128 bytes, as PostgreSQL's is, no two lines share a
//! cache line of any processor.
//!
//! Invariant: the number of lines is a power of two and does not change. An index is reduced to it, so that no index is
//! out of range.
//!
//! # Order of calls
//!
//! There are two switches over the same lines, for two kinds of keys: tags, and all that PostgreSQL itself changes. To
//! turn one on renews the definitions of all lines, also those that only keys of the other kind use: that costs answers.
//!
//! A writer: [`Rings::must_publish`]; [`Rings::publish`]; its commit record; it leaves the array of running
//! transactions; [`Rings::mark_ended`]. After a line's publication nothing has to follow: a publication that nobody
//! marks costs answers once it leaves the ring.
//!
//! A reader: its snapshot; of each line [`Rings::definitions`], before it plans; then [`Rings::ver`].

use super::definitions::{self, Definitions};
use super::key::DependencyHash;
use super::line::{self, Line, Publications};
use super::reader;
use super::switch::{self, State};
use super::xid::{FullXid, Snapshot};
use crate::engine::memory::region::{Region, region_struct};
use crate::engine::memory::words::Word64;

const MAGIC: u64 = u64::from_le_bytes(*b"PGRINGS\x01");
const MAX_LINES: u32 = 1 << 24;

region_struct! {
    /// The header and the switch.
    struct RingsHeader: 128 bytes, align 64 {
        /// Also the version of the layout; stored last.
        magic: Word64,
        line_count: Word64,
        reserved: [Word64; 6],
        /// Of tags, which whoever needs them turns on.
        tags: Word64,
        /// Of relations and definitions, which are published only where the administrator says so.
        relations: Word64,
        beside_switches: [Word64; 6],
    }
}

/// A number of lines: a power of two.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct LineCount(u32);

impl LineCount {
    /// # Errors
    ///
    /// If it is no power of two from 1 to 2^24.
    pub const fn new(count: u32) -> Result<LineCount, LineCountError> {
        if count.is_power_of_two() && count <= MAX_LINES { Ok(LineCount(count)) } else { Err(LineCountError(count)) }
    }

    /// The number.
    pub const fn get(self) -> u32 {
        self.0
    }
}

/// A number of lines that cannot be.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0} lines: must be a power of two from 1 to {MAX_LINES}")]
pub struct LineCountError(pub u32);

/// Why a region cannot be opened.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum OpenError {
    /// Nothing was formatted there, or by another version of this library.
    #[error("the region holds no lines: its magic number is {0:#018x}, expected {MAGIC:#018x}")]
    Magic(u64),
    /// The header is damaged.
    #[error("the region's header says {0} lines: must be a power of two from 1 to {MAX_LINES}; format it anew")]
    LineCount(u64),
    /// The mapping is not the one that was formatted.
    #[error("the region has {found} bytes, its lines take {expected}: map all of it")]
    Bytes {
        /// Bytes of the region.
        found: usize,
        /// Bytes that the lines take.
        expected: usize,
    },
}

/// One of the lines.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct LineIndex(u32);

impl LineIndex {
    /// The number.
    pub const fn get(self) -> u32 {
        self.0
    }

    /// One of this number, reduced to those that there are when it is used.
    pub const fn new(index: u32) -> LineIndex {
        LineIndex(index)
    }

    /// A hash that names this line and stands for no key: of publications whose keys nobody has noted.
    pub fn hash(self) -> DependencyHash {
        DependencyHash(u64::from(self.0))
    }
}

/// How often the definitions of each line had changed when it was looked at. For who learns only later which of them matter.
#[derive(Clone, Debug)]
pub struct CopiedDefinitions(Vec<Option<Definitions>>);

impl CopiedDefinitions {
    /// Those of a line; `None` if a change was pending.
    pub fn of(&self, index: LineIndex) -> Option<Definitions> {
        self.0[index.0 as usize & (self.0.len() - 1)]
    }
}

/// The lines of a region. Copies are the same lines.
#[derive(Clone, Copy, Debug)]
pub struct Rings {
    region: Region,
    lines: LineCount,
}

impl Rings {
    /// Bytes of a region for so many lines: 128 for each, and 128.
    pub const fn region_bytes(lines: LineCount) -> usize {
        size_of::<RingsHeader>() + lines.0 as usize * size_of::<Line>()
    }

    /// Makes lines in a region, without publications and turned off. Nobody else may use the region yet.
    ///
    /// # Panics
    ///
    /// If the region is shorter than [`Rings::region_bytes`].
    pub fn format(region: Region, lines: LineCount) -> Rings {
        let bytes = Rings::region_bytes(lines);
        assert!(bytes <= region.len_bytes(), "{} lines take {bytes} bytes: {region:?}", lines.0);
        region.zero(0, bytes);
        let header: &RingsHeader = region.at(0);
        header.line_count.set(u64::from(lines.0));
        // Release: who finds the magic number finds the rest.
        header.magic.store_release(MAGIC);
        Rings { region, lines }
    }

    /// Opens what another process has formatted. Writes nothing.
    ///
    /// # Errors
    ///
    /// If nothing was formatted there, or the region is too short for it.
    pub fn open(region: Region) -> Result<Rings, OpenError> {
        let found = region.len_bytes();
        if found < size_of::<RingsHeader>() {
            return Err(OpenError::Bytes { found, expected: size_of::<RingsHeader>() });
        }
        let header: &RingsHeader = region.at(0);
        let magic = header.magic.load_acquire();
        if magic != MAGIC {
            return Err(OpenError::Magic(magic));
        }
        let count = header.line_count.get();
        let lines = u32::try_from(count).ok().and_then(|count| LineCount::new(count).ok());
        let lines = lines.ok_or(OpenError::LineCount(count))?;
        let expected = Rings::region_bytes(lines);
        if found < expected { Err(OpenError::Bytes { found, expected }) } else { Ok(Rings { region, lines }) }
    }

    /// How many lines there are.
    pub fn line_count(&self) -> LineCount {
        self.lines
    }

    /// The line of a key.
    #[inline]
    pub fn line_of(&self, key: DependencyHash) -> LineIndex {
        LineIndex(key.get() as u32 & (self.lines.0 - 1))
    }

    #[inline]
    fn line(&self, index: LineIndex) -> &Line {
        let index = (index.0 & (self.lines.0 - 1)) as usize;
        self.region.at(size_of::<RingsHeader>() + index * size_of::<Line>())
    }

    #[inline]
    fn tags(&self) -> &Word64 {
        &self.region.at::<RingsHeader>(0).tags
    }

    #[inline]
    fn relations(&self) -> &Word64 {
        &self.region.at::<RingsHeader>(0).relations
    }

    fn renew_all(&self) {
        (0..self.lines.0).for_each(|index| definitions::renew(self.line(LineIndex(index))));
    }

    /// Whether who changes a tag has to publish: see [`switch::must_publish`].
    pub fn must_publish(&self) -> bool {
        switch::must_publish(self.tags())
    }

    /// Whether who writes relations or changes definitions has to publish: see [`switch::must_publish`].
    pub fn must_publish_relations(&self) -> bool {
        switch::must_publish(self.relations())
    }

    /// Whether publications of relations are made, and told.
    pub fn relations_state(&self) -> State {
        switch::state(self.relations())
    }

    /// Begins to turn relations on: see [`switch::begin_opening`].
    pub fn begin_opening_relations(&self, next_xid: impl FnOnce() -> FullXid) -> Option<FullXid> {
        switch::begin_opening(self.relations(), next_xid)
    }

    /// Turns relations on, when all transactions below the floor have ended and sent their messages: see
    /// [`switch::finish_opening`]. Touches every line.
    pub fn finish_opening_relations(&self, floor: FullXid) -> bool {
        switch::finish_opening(self.relations(), floor, || self.renew_all())
    }

    /// As [`Rings::ver`], of what relations and definitions publish.
    #[inline]
    pub fn ver_of_relation(
        &self,
        snapshot: &impl Snapshot,
        index: LineIndex,
        planned_with: Definitions,
    ) -> Option<Publications> {
        reader::ver(self.relations(), self.line(index), snapshot, planned_with)
    }

    /// Turns relations off: see [`switch::turn_off`].
    pub fn turn_off_relations(&self) {
        switch::turn_off(self.relations());
    }

    /// Publishes that a transaction has written what a key stands for, and says in which line: see [`line::publish`].
    pub fn publish(&self, key: DependencyHash, xid: FullXid) -> LineIndex {
        let index = self.line_of(key);
        line::publish(self.line(index), key, xid);
        index
    }

    /// Marks a transaction's publications in a line as ended, once it has left the array of running transactions.
    pub fn mark_ended(&self, index: LineIndex, xid: FullXid) {
        self.mark_ended_if(index, |published| published == xid);
    }

    /// Marks the publications in a line as ended whose transactions are over: see [`line::mark_ended`]. For those that
    /// ended without anybody to mark them, such as prepared transactions.
    pub fn mark_ended_if(&self, index: LineIndex, is_over: impl FnMut(FullXid) -> bool) {
        line::mark_ended(self.line(index), is_over);
    }

    /// How many publications a line has, whoever sees them.
    #[inline]
    pub fn publications(&self, index: LineIndex) -> Publications {
        line::publications(self.line(index))
    }

    /// How many of a line's publications a snapshot sees. `None` if the line does not tell, if the snapshot is not
    /// [usable](Rings::is_usable), or if the definitions are not those that the result was planned with: see
    /// [`reader::ver`].
    #[inline]
    pub fn ver(&self, snapshot: &impl Snapshot, index: LineIndex, planned_with: Definitions) -> Option<Publications> {
        reader::ver(self.tags(), self.line(index), snapshot, planned_with)
    }

    /// The key whose publication was the last in a line; `None` before the first. For people who look: the number may
    /// be of a publication that is just being made.
    pub fn last_key(&self, index: LineIndex) -> Option<DependencyHash> {
        line::last_key(self.line(index))
    }

    /// How often a line's definitions have changed, for people who look: see [`definitions::changes`].
    pub fn changes(&self, index: LineIndex) -> u64 {
        definitions::changes(self.line(index))
    }

    /// Begins a change of definitions: see [`definitions::begin_change`].
    pub fn begin_change(&self, index: LineIndex) {
        definitions::begin_change(self.line(index));
    }

    /// Ends a change of definitions: see [`definitions::end_change`].
    pub fn end_change(&self, index: LineIndex) {
        definitions::end_change(self.line(index));
    }

    /// How often a line's definitions have changed; `None` while a change is pending: see [`definitions::definitions`].
    #[inline]
    pub fn definitions(&self, index: LineIndex) -> Option<Definitions> {
        definitions::definitions(self.line(index))
    }

    /// [`Rings::definitions`] of all lines, one after the other. `None` if there is no memory for it: 16 bytes a line.
    pub fn copy_definitions(&self) -> Option<CopiedDefinitions> {
        let mut copied = Vec::new();
        copied.try_reserve_exact(self.lines.0 as usize).ok()?;
        copied.extend((0..self.lines.0).map(|index| self.definitions(LineIndex(index))));
        Some(CopiedDefinitions(copied))
    }

    /// Turns tags on, unless they are on: see [`switch::turn_on`]. Touches every line.
    pub fn turn_on(&self, next_xid: impl FnOnce() -> FullXid) {
        switch::turn_on(self.tags(), || self.renew_all(), next_xid);
    }

    /// Turns tags off: see [`switch::turn_off`].
    pub fn turn_off(&self) {
        switch::turn_off(self.tags());
    }

    /// Whether the lines tell all that a snapshot sees: see [`switch::is_usable`].
    #[inline]
    pub fn is_usable(&self, snapshot: &impl Snapshot) -> bool {
        switch::is_usable(self.tags(), snapshot)
    }
}

#[cfg(test)]
mod tests {
    use super::super::key::DependencyKey;
    use super::*;

    struct Seen(u64);

    impl Snapshot for Seen {
        fn xmin(&self) -> FullXid {
            xid(self.0)
        }

        fn sees(&self, xid: FullXid) -> bool {
            xid < self.xmin()
        }
    }

    fn xid(value: u64) -> FullXid {
        FullXid::new(value).expect("an id")
    }

    fn lines(count: u32) -> LineCount {
        LineCount::new(count).expect("a power of two")
    }

    fn relation(relation: u32) -> DependencyHash {
        DependencyKey::Relation { database: 5, relation }.hash()
    }

    fn ver(rings: &Rings, xmin: u64, index: LineIndex) -> Option<u64> {
        rings.ver(&Seen(xmin), index, rings.definitions(index)?).map(Publications::get)
    }

    #[test]
    fn lines_are_the_same_wherever_their_region_is_mapped() {
        let region = Region::leaked(Rings::region_bytes(lines(64)));
        let rings = Rings::format(region, lines(64));
        rings.turn_on(|| xid(100));
        let keys: Vec<DependencyHash> = (0..200).map(relation).collect();
        for (key, id) in keys.iter().zip(100..) {
            assert_eq!(rings.publish(*key, xid(id)), rings.line_of(*key));
            rings.mark_ended(rings.line_of(*key), xid(id));
            rings.begin_change(rings.line_of(*key));
            rings.end_change(rings.line_of(*key));
        }
        let elsewhere = Region::leaked(region.len_bytes());
        elsewhere.write_bytes(0, region.bytes(0, region.len_bytes()));
        let copy = Rings::open(elsewhere).expect("lines");
        let indexes = (0..64).map(LineIndex);
        let total: u64 = indexes.clone().map(|index| ver(&copy, 300, index).expect("all have ended")).sum();
        assert_eq!(total, 200);
        for index in indexes {
            assert_eq!(ver(&copy, 250, index), ver(&rings, 250, index));
            assert_eq!(copy.definitions(index), rings.definitions(index));
            assert_eq!(copy.last_key(index), rings.last_key(index));
            assert!(copy.last_key(index).is_none_or(|key| keys.contains(&key)));
        }
    }

    #[test]
    fn only_regions_that_hold_lines_are_opened() {
        let region = Region::leaked(Rings::region_bytes(lines(4)));
        assert_eq!(Rings::open(region).err(), Some(OpenError::Magic(0)));
        Rings::format(region, lines(4));
        assert_eq!(Rings::open(region).expect("lines").line_count(), lines(4));
        let short = OpenError::Bytes { found: 576, expected: 640 };
        assert_eq!(Rings::open(region.part(0, 576)).err(), Some(short));
        let none = OpenError::Bytes { found: 64, expected: 128 };
        assert_eq!(Rings::open(region.part(0, 64)).err(), Some(none));
        region.at::<RingsHeader>(0).line_count.set(3);
        assert_eq!(Rings::open(region).err(), Some(OpenError::LineCount(3)));
        for count in [0, 3, MAX_LINES * 2] {
            assert_eq!(LineCount::new(count), Err(LineCountError(count)));
        }
    }

    #[test]
    fn an_index_of_more_lines_is_reduced_to_those_there_are() {
        let rings = Rings::format(Region::leaked(Rings::region_bytes(lines(2))), lines(2));
        rings.begin_change(LineIndex(7));
        assert_eq!(rings.definitions(LineIndex(1)), None);
        assert!(rings.definitions(LineIndex(0)).is_some());
    }

    #[test]
    fn a_copy_of_all_definitions_says_what_each_line_said() {
        let rings = Rings::format(Region::leaked(Rings::region_bytes(lines(8))), lines(8));
        let (changed, pending) = (LineIndex(3), LineIndex(5));
        rings.begin_change(changed);
        rings.end_change(changed);
        rings.begin_change(pending);
        let copied = rings.copy_definitions().expect("there is memory");
        assert!((0..16).map(LineIndex).all(|index| copied.of(index) == rings.definitions(index)));
        assert!(copied.of(pending).is_none() && copied.of(changed) != copied.of(LineIndex(4)));
        rings.begin_change(changed);
        rings.end_change(changed);
        assert_ne!(copied.of(changed), rings.definitions(changed), "it stays what it was");
    }

    #[test]
    fn what_was_learned_before_it_was_off_is_not_current_afterwards() {
        let rings = Rings::format(Region::leaked(Rings::region_bytes(lines(2))), lines(2));
        let index = rings.line_of(relation(1));
        assert!(!rings.must_publish());
        assert_eq!(ver(&rings, 1000, index), None);
        rings.turn_on(|| xid(100));
        assert!(rings.must_publish());
        assert_eq!((ver(&rings, 99, index), ver(&rings, 100, index)), (None, Some(0)));
        let learned = rings.definitions(index).expect("nothing is pending");
        rings.turn_on(|| panic!("it is on"));
        assert_eq!(rings.definitions(index), Some(learned));
        rings.turn_off();
        assert_eq!(ver(&rings, 1000, index), None);
        rings.turn_on(|| xid(200));
        assert_eq!((ver(&rings, 199, index), ver(&rings, 200, index)), (None, Some(0)));
        assert_eq!(rings.ver(&Seen(1000), index, learned), None);
    }

    #[test]
    fn relations_and_tags_are_turned_on_alone() {
        let rings = Rings::format(Region::leaked(Rings::region_bytes(lines(2))), lines(2));
        rings.turn_on(|| xid(100));
        assert!(rings.must_publish() && !rings.must_publish_relations());
        let learned = rings.definitions(LineIndex(1));
        let floor = rings.begin_opening_relations(|| xid(200)).expect("they were off");
        let told = |xmin| rings.ver_of_relation(&Seen(xmin), LineIndex(1), rings.definitions(LineIndex(1))?);
        assert!(rings.must_publish_relations());
        assert_eq!(told(1000), None);
        assert_eq!(rings.definitions(LineIndex(1)), learned, "renewed only once all who found them off are over");
        assert!(rings.finish_opening_relations(floor));
        assert_ne!(rings.definitions(LineIndex(1)), learned);
        assert_eq!((told(199), told(200).map(Publications::get)), (None, Some(0)));
        rings.turn_off();
        assert_eq!((rings.must_publish(), rings.relations_state()), (false, State::On));
        rings.turn_off_relations();
        assert!(!rings.must_publish_relations());
    }

    #[test]
    fn a_lines_own_hash_names_it() {
        let rings = Rings::format(Region::leaked(Rings::region_bytes(lines(8))), lines(8));
        for index in (0..8).map(LineIndex) {
            assert_eq!(rings.line_of(index.hash()), index);
        }
    }

    #[test]
    fn publishers_of_one_line_wait_for_each_other_and_none_is_lost() {
        const EACH: u64 = 2_000;
        let rings = Rings::format(Region::leaked(Rings::region_bytes(lines(1))), lines(1));
        rings.turn_on(|| xid(1));
        std::thread::scope(|scope| {
            for publisher in 0..3 {
                scope.spawn(move || {
                    (1..=EACH).for_each(|number| _ = rings.publish(relation(publisher), xid(number)));
                });
            }
            let mut before = 0;
            while before < 3 * EACH {
                let now = ver(&rings, EACH + 1, LineIndex(0)).expect("all are below its xmin");
                assert!(now >= before, "a count never falls");
                before = now;
            }
        });
        assert_eq!(ver(&rings, EACH + 1, LineIndex(0)), Some(3 * EACH));
    }

    #[test]
    fn definitions_have_no_number_while_any_change_is_pending() {
        let rings = Rings::format(Region::leaked(Rings::region_bytes(lines(1))), lines(1));
        let index = LineIndex(0);
        rings.turn_on(|| xid(1));
        let learned = rings.definitions(index).expect("nothing is pending");
        rings.begin_change(index);
        rings.begin_change(index);
        rings.end_change(index);
        assert_eq!(rings.definitions(index), None);
        assert_eq!(rings.ver(&Seen(1000), index, learned), None);
        rings.end_change(index);
        assert!(rings.definitions(index).is_some_and(|now| now != learned));
        assert_eq!(rings.ver(&Seen(1000), index, learned), None);
        assert_eq!(ver(&rings, 1000, index), Some(0));
    }
}
