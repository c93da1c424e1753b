//! A line of any words and any length of ring.

use std::array;

use pg_shared_lru::rings::line::LineWords;
use pg_shared_lru::rings::word::SharedWord;

pub struct TestLine<W, const SLOTS: usize> {
    progress: W,
    greatest: W,
    evicted: W,
    overrun: W,
    definitions: W,
    last_key: W,
    ring: [W; SLOTS],
}

impl<W: Default, const SLOTS: usize> Default for TestLine<W, SLOTS> {
    fn default() -> Self {
        TestLine {
            progress: W::default(),
            greatest: W::default(),
            evicted: W::default(),
            overrun: W::default(),
            definitions: W::default(),
            last_key: W::default(),
            ring: array::from_fn(|_| W::default()),
        }
    }
}

impl<W: SharedWord, const SLOTS: usize> LineWords<SLOTS> for TestLine<W, SLOTS> {
    type Word = W;

    fn progress(&self) -> &W {
        &self.progress
    }

    fn greatest(&self) -> &W {
        &self.greatest
    }

    fn evicted(&self) -> &W {
        &self.evicted
    }

    fn overrun(&self) -> &W {
        &self.overrun
    }

    fn definitions(&self) -> &W {
        &self.definitions
    }

    fn last_key(&self) -> &W {
        &self.last_key
    }

    fn ring(&self) -> &[W; SLOTS] {
        &self.ring
    }
}
