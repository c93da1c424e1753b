//! What a result may depend on only where its cache's owner accepts that: the clock, settings.
//!
//! A query is looked at without a cache. What is found is a condition, with the reason for which the result is not kept where
//! the condition is not met. So a plan is as good for every cache, and after every change of its options.

use super::refusal::Refusal;
use super::wishes::Wishes;
use crate::pg::definitions::options::ResultOptions;

/// What a result is kept for only by those who accept it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Accepted {
    /// The time at which the result is made.
    Clock,
    /// The setting of this name, in small letters. Where it is accepted it is in the key (`named`).
    Setting(String),
}

impl Accepted {
    const CLOCK: &str = "clock";
    const SETTING: &str = "setting:";

    /// As a word without spaces.
    fn to_plan(&self) -> String {
        match self {
            Accepted::Clock => Accepted::CLOCK.to_owned(),
            Accepted::Setting(name) => format!("{}{name}", Accepted::SETTING),
        }
    }

    /// What [`Accepted::to_plan`] made; `None` if nothing did.
    fn from_plan(plan: &str) -> Option<Accepted> {
        match plan {
            Accepted::CLOCK => Some(Accepted::Clock),
            _ => plan.strip_prefix(Accepted::SETTING).map(|name| Accepted::Setting(name.to_owned())),
        }
    }
}

/// What a result depends on, and why it is not kept where that is not accepted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Condition {
    pub(super) needs: Accepted,
    pub(super) refusal: Refusal,
}

impl Condition {
    /// As a text of one line, for a plan.
    pub(super) fn to_plan(&self) -> String {
        format!("{} {}", self.needs.to_plan(), self.refusal.to_plan())
    }

    /// What [`Condition::to_plan`] made; `None` if nothing did.
    pub(super) fn from_plan(plan: &str) -> Option<Condition> {
        let (needs, refusal) = plan.split_once(' ')?;
        Some(Condition { needs: Accepted::from_plan(needs)?, refusal: Refusal::from_plan(refusal)? })
    }
}

/// Adds conditions, of each need the first.
pub(super) fn add_all<'a>(conditions: &mut Vec<Condition>, more: impl IntoIterator<Item = &'a Condition>) {
    for condition in more {
        if conditions.iter().all(|known| known.needs != condition.needs) {
            conditions.push(condition.clone());
        }
    }
}

/// What a call accepts, or a statement.
#[derive(Clone, Copy, Debug)]
pub(super) enum Acceptance<'a> {
    /// Nothing: there is no cache.
    Nothing,
    /// What the options of a cache say, for a result of which this was said.
    OfCache(&'a ResultOptions, &'a Wishes),
    /// That is asked later.
    Everything,
}

impl Acceptance<'_> {
    fn covers(self, needs: &Accepted) -> bool {
        match (self, needs) {
            (Acceptance::Nothing, _) => false,
            (Acceptance::Everything, _) => true,
            // Where a result does not live for ever.
            (Acceptance::OfCache(options, wishes), Accepted::Clock) => {
                options.accept_clock && wishes.ttl_in(options).is_some()
            }
            (Acceptance::OfCache(options, _), Accepted::Setting(name)) => options.settings.contains(name),
        }
    }

    /// Why a result with these conditions is not kept, if so.
    pub(super) fn refusal(self, conditions: &[Condition]) -> Option<&Refusal> {
        conditions.iter().find(|condition| !self.covers(&condition.needs)).map(|condition| &condition.refusal)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pg::refusals::Reason;

    #[test]
    fn a_condition_comes_back_from_a_plan() {
        let refusal = Refusal::of_function(Reason::Clock, 7.into(), "function now is STABLE");
        for needs in [Accepted::Clock, Accepted::Setting("app.tenant".to_owned())] {
            let condition = Condition { needs, refusal: refusal.clone() };
            assert_eq!(Condition::from_plan(&condition.to_plan()), Some(condition));
        }
        assert_eq!(Condition::from_plan("nonsense clock 0 text"), None);
    }
}
