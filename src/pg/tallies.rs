//! What is counted of each query whose result is kept, beside the result: hits, fills, and what made it outdated last.
//!
//! ```text
//!               eight places
//!             ┌────┬────┬────┬────┬────┬────┬────┬────┐
//! names       │ 9c │ 41 │ 0  │ …                      │   one cache line: of the cache and the key; 0: nobody's
//!             ├────┼────┼────┼────┼────┼────┼────┼────┤
//! hits        │ 7  │ 0  │    │                        │   raised by whoever is served
//!             ├────┼────┼────┼────┼────┼────┼────┼────┤
//! fills, ends, causes, caches, ages                   │   written by who makes a result, or finds one outdated
//!             └────┴────┴────┴────┴────┴────┴────┴────┘
//! ```
//!
//! A query has its place in the set that its name says, so a hit looks at one line and adds to one word of another. A result
//! that is made anew, moved or evicted keeps its query's place. The number of places is fixed: if all of a set are taken, the
//! query with the fewest hits gives its place up; with each such change the others' hits count half as much for this. So what
//! nobody asks for any more goes in the end, however often it was asked for.
//!
//! Locking: none. Places are taken with a compare-and-swap, all else is stored relaxed. These are statistics: who adds a hit
//! while the place changes hands adds it to the next query's.
//!
//! Not here: what a result is and how it is found (`queries`).
#![allow(unsafe_code)]

#[cfg(any(test, feature = "extension"))]
use std::sync::atomic::Ordering;

#[cfg(feature = "extension")]
use super::ledger::now_us;
use crate::engine::memory::region::RegionType;
use crate::engine::memory::words::Word64;

const PLACES: usize = 8;

/// Sets of an area: 16,384 queries, 0.9 MB.
pub(super) const SETS: usize = 2048;

/// Places, one beside the other.
#[repr(C, align(64))]
#[derive(Debug, Default)]
pub(super) struct TallySet {
    names: [Word64; PLACES],
    hits: [Word64; PLACES],
    /// Results that were made.
    fills: [Word64; PLACES],
    /// When a result was found outdated last, in microseconds since 1970; 0: never.
    ends: [Word64; PLACES],
    /// By what.
    causes: [Word64; PLACES],
    /// Number of the cache.
    caches: [Word64; PLACES],
    /// Hits that do not count for the place.
    ages: [Word64; PLACES],
}
// SAFETY: repr(C), words only, no padding.
unsafe impl RegionType for TallySet {}
const _: () = assert!(size_of::<TallySet>() == 7 * 64);

/// What made a result outdated.
#[cfg(any(test, feature = "extension"))]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Cause {
    /// Rows of this relation were written.
    Rows(u32),
    /// This relation was redefined.
    Definition(u32),
    /// Functions, operators, casts or the like of the database.
    Code,
    Roles,
    /// A type, or a table or type that the query might mean now.
    Names,
    /// The query cache was switched off meanwhile.
    Switch,
}

#[cfg(any(test, feature = "extension"))]
impl Cause {
    /// Not 0.
    fn to_u64(self) -> u64 {
        match self {
            Cause::Rows(oid) => 1 << 32 | u64::from(oid),
            Cause::Definition(oid) => 2 << 32 | u64::from(oid),
            Cause::Code => 3 << 32,
            Cause::Roles => 4 << 32,
            Cause::Names => 5 << 32,
            Cause::Switch => 6 << 32,
        }
    }

    fn from_u64(word: u64) -> Option<Cause> {
        let oid = word as u32;
        match word >> 32 {
            1 => Some(Cause::Rows(oid)),
            2 => Some(Cause::Definition(oid)),
            3 => Some(Cause::Code),
            4 => Some(Cause::Roles),
            5 => Some(Cause::Names),
            6 => Some(Cause::Switch),
            _ => None,
        }
    }
}

/// A query of a cache.
#[cfg(any(test, feature = "extension"))]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct QueryName {
    cache: u64,
    /// Not 0.
    name: u64,
    set: usize,
}

#[cfg(any(test, feature = "extension"))]
impl QueryName {
    /// The query whose key has this hash, in the cache of this number.
    pub(super) fn new(cache: u64, key_hash: u128) -> QueryName {
        // An odd number, so that caches differ in all bits.
        let of_cache = cache.wrapping_mul(0x9e37_79b9_7f4a_7c15);
        let name = (key_hash as u64 ^ of_cache).max(1);
        QueryName { cache, name, set: ((key_hash >> 64) as u64 ^ of_cache >> 32) as usize % SETS }
    }
}

/// What is counted of a query.
#[cfg(any(test, feature = "extension"))]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Tally {
    pub(super) hits: u64,
    pub(super) fills: u64,
    /// When a result was found outdated last, in microseconds since 1970, and by what.
    pub(super) outdated: Option<(u64, Cause)>,
}

/// The tallies of an area.
#[cfg(any(test, feature = "extension"))]
#[derive(Clone, Copy, Debug)]
pub(super) struct Tallies<'a>(&'a [TallySet]);

#[cfg(any(test, feature = "extension"))]
impl<'a> Tallies<'a> {
    /// # Panics
    ///
    /// If there are not as many sets as there have to be.
    pub(super) fn new(sets: &'a [TallySet]) -> Tallies<'a> {
        assert_eq!(sets.len(), SETS);
        Tallies(sets)
    }

    fn find(self, query: QueryName) -> Option<(&'a TallySet, usize)> {
        let set = &self.0[query.set];
        set.names.iter().position(|name| name.get() == query.name).map(|place| (set, place))
    }

    /// The place of a query; taken now, if it has none.
    fn take(self, query: QueryName) -> (&'a TallySet, usize) {
        if let Some(found) = self.find(query) {
            return found;
        }
        let set = &self.0[query.set];
        let score = |place: usize| set.hits[place].get().saturating_sub(set.ages[place].get());
        // One that is nobody's before all others.
        let rank = |place: &usize| (set.names[*place].get() != 0, score(*place));
        // Of equal ones any, and not the same each time.
        let places = (0..PLACES).map(|place| (query.name as usize).wrapping_add(place) % PLACES);
        let place = places.min_by_key(rank).expect("a set has places");
        let before = set.names[place].get();
        if before != 0 {
            let others = (0..PLACES).filter(|&other| other != place);
            others.for_each(|other| set.ages[other].set(set.ages[other].get() + score(other).div_ceil(2)));
        }
        // If somebody else takes it in this moment, it is either's; what is counted then is of no matter.
        let name = set.names[place].atomic();
        if name.compare_exchange(before, query.name, Ordering::Relaxed, Ordering::Relaxed).is_ok() {
            [&set.hits, &set.fills, &set.ends, &set.causes, &set.ages].iter().for_each(|words| words[place].set(0));
            set.caches[place].set(query.cache);
        }
        (set, place)
    }

    /// Counts a hit, if the query has a place.
    #[inline]
    pub(super) fn count_hit(self, query: QueryName) {
        if let Some((set, place)) = self.find(query) {
            set.hits[place].atomic().fetch_add(1, Ordering::Relaxed);
        }
    }

    /// Counts a result that was made and stored.
    pub(super) fn count_fill(self, query: QueryName) {
        let (set, place) = self.take(query);
        set.fills[place].atomic().fetch_add(1, Ordering::Relaxed);
    }

    /// Notes that the query's result was found outdated at this time.
    pub(super) fn note_outdated_at(self, query: QueryName, at_us: u64, cause: Cause) {
        let (set, place) = self.take(query);
        set.causes[place].set(cause.to_u64());
        set.ends[place].set(at_us);
    }

    #[cfg(feature = "extension")]
    pub(super) fn note_outdated(self, query: QueryName, cause: Cause) {
        self.note_outdated_at(query, now_us(), cause);
    }

    /// What is counted of a query; `None` if it has no place.
    pub(super) fn get(self, query: QueryName) -> Option<Tally> {
        let (set, place) = self.find(query)?;
        let cause = Cause::from_u64(set.causes[place].get());
        Some(Tally {
            hits: set.hits[place].get(),
            fills: set.fills[place].get(),
            outdated: cause.map(|cause| (set.ends[place].get(), cause)),
        })
    }

    /// Begins to count the queries of a cache anew.
    pub(super) fn reset(self, cache: u64) {
        for set in self.0 {
            for place in (0..PLACES).filter(|&place| set.names[place].get() != 0 && set.caches[place].get() == cache) {
                [&set.hits, &set.fills, &set.ends, &set.causes, &set.ages].iter().for_each(|words| words[place].set(0));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sets() -> Vec<TallySet> {
        (0..SETS).map(|_| TallySet::default()).collect()
    }

    /// One of the queries of cache `cache` that share a set.
    fn query(cache: u64, number: u64) -> QueryName {
        QueryName::new(cache, u128::from(number))
    }

    #[test]
    fn what_is_counted_is_of_one_query_of_one_cache() {
        let sets = sets();
        let tallies = Tallies::new(&sets);
        tallies.count_hit(query(1, 5));
        assert_eq!(tallies.get(query(1, 5)), None, "a hit alone takes no place");
        tallies.count_fill(query(1, 5));
        tallies.count_fill(query(2, 5));
        tallies.count_hit(query(1, 5));
        tallies.note_outdated_at(query(1, 5), 77, Cause::Rows(9));
        tallies.count_fill(query(1, 5));
        let first = Tally { hits: 1, fills: 2, outdated: Some((77, Cause::Rows(9))) };
        let second = Tally { hits: 0, fills: 1, outdated: None };
        assert_eq!((tallies.get(query(1, 5)), tallies.get(query(2, 5))), (Some(first), Some(second)));
        assert_eq!(tallies.get(query(1, 6)), None);
        tallies.reset(1);
        let none = Tally { hits: 0, fills: 0, outdated: None };
        assert_eq!((tallies.get(query(1, 5)), tallies.get(query(2, 5))), (Some(none), Some(second)));
    }

    #[test]
    fn where_there_is_no_place_the_query_with_the_fewest_hits_goes() {
        let sets = sets();
        let tallies = Tallies::new(&sets);
        for number in 1..=PLACES as u64 {
            tallies.count_fill(query(1, number));
            (0..number).for_each(|_| tallies.count_hit(query(1, number)));
        }
        tallies.count_fill(query(1, 100));
        let kept: Vec<u64> = (1..=PLACES as u64).filter(|&number| tallies.get(query(1, number)).is_some()).collect();
        assert_eq!(kept, (2..=PLACES as u64).collect::<Vec<_>>());
        assert_eq!(tallies.get(query(1, 8)).map(|tally| tally.hits), Some(8), "what is shown does not age");
        // In the end those go that nobody asks for any more.
        for number in 101..150 {
            tallies.count_fill(query(1, number));
            tallies.count_hit(query(1, number));
        }
        assert!((1..=PLACES as u64).all(|number| tallies.get(query(1, number)).is_none()));
    }

    #[test]
    fn causes_come_back_from_words() {
        let causes = [Cause::Code, Cause::Roles, Cause::Names, Cause::Switch, Cause::Rows(0), Cause::Definition(7)];
        assert!(causes.iter().all(|cause| Cause::from_u64(cause.to_u64()) == Some(*cause)));
        assert_eq!(Cause::from_u64(0), None);
    }
}
