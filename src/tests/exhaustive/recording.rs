//! What a process does to a world, instruction by instruction; and every state in which it may be killed, recovered.
//!
//! A child is stepped through a body. After each instruction that changed what is watched, the change is noted: the start
//! and the changes are all states that there were.

use std::panic::{AssertUnwindSafe, catch_unwind};

use super::runner::{Findings, Tally, panic_text};
use super::stepper::{Halt, Place, Stepped};
use super::world::{Change, World};
use crate::support::content::Random;

/// What the counters of a part count that recovers states.
pub const COUNTERS: [&str; 4] = ["instructions", "different states", "of them recovered", "of those marked as damaged"];

/// What a child did to the memory, instruction by instruction.
pub struct Recording {
    start: Vec<u8>,
    changes: Vec<(u64, Change)>,
    /// Instructions of the whole operation.
    instructions: u64,
}

impl Recording {
    /// Steps a child through `body`. The child ends; the memory is as it left it.
    pub fn make(world: &World, body: impl FnOnce()) -> Result<Recording, Halt> {
        let start = world.image();
        let mut now = start.clone();
        let mut changes = Vec::new();
        let mut instructions = 0;
        let mut child = Stepped::spawn(body)?;
        loop {
            let place = child.step()?;
            instructions += 1;
            changes.extend(world.change_since(&mut now).map(|change| (instructions, change)));
            if place == Place::Done {
                return Ok(Recording { start, changes, instructions });
            }
        }
    }

    /// Has `recover` put at most `limit` of the states back, one after the other, and hold each to what must be so; what is
    /// not, or a panic, is a failure. Counts by [`COUNTERS`].
    ///
    /// # Panics
    ///
    /// With all failures, if there are any.
    pub fn recover_each(&self, limit: usize, tally: &Tally, mut recover: impl FnMut(&[u8]) -> Result<(), String>) {
        let mut findings = Findings::default();
        let (mut recovered, mut marked) = (0, 0);
        self.visit(limit, |instruction, image| {
            let is_marked = World::is_marked_damaged(image);
            recovered += 1;
            marked += u64::from(is_marked);
            let checked = catch_unwind(AssertUnwindSafe(|| recover(image)));
            if let Err(what) = checked.unwrap_or_else(|payload| Err(panic_text(&*payload))) {
                let mark = if is_marked { "marked" } else { "not marked" };
                findings.note(format!("[{mark}] {what}"), || format!("after instruction {instruction}"));
            }
        });
        for (counter, count) in
            [self.instructions, self.changes.len() as u64, recovered, marked].into_iter().enumerate()
        {
            tally.add(counter, count);
        }
        findings.report();
    }

    /// Shows at most `limit` of the states, chosen by a fixed seed, each with the number of the instruction before it.
    fn visit(&self, limit: usize, mut visit: impl FnMut(u64, &[u8])) {
        let mut image = self.start.clone();
        let mut random = Random(1);
        let (mut wanted, mut left) = (limit.min(self.changes.len()), self.changes.len());
        for (instruction, change) in &self.changes {
            change.apply(&mut image);
            if random.below(left) < wanted {
                wanted -= 1;
                visit(*instruction, &image);
            }
            left -= 1;
        }
    }
}
