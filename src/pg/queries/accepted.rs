//! What a result may depend on only where its cache's owner accepts that: the clock, settings, and what functions of users give and
//! read.
//!
//! A function is named by its text, with its schema and arguments, as the owner has named it: whoever replaces it is trusted as
//! well. One that is IMMUTABLE need be trusted only where functions run queries (`watch`): then nobody else says of what runs
//! there that the queries are all that it depends on.
//!
//! A query is looked at without a cache. What is found is a condition, with the reason for which the result is not kept where
//! the condition is not met. So a plan is as good for every cache, and after every change of its options.

use super::refusal::Refusal;
use super::statement::{from_hex, to_hex};
use super::wishes::Wishes;
use crate::pg::definitions::options::ResultOptions;

/// What a result is kept for only by those who accept it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Accepted {
    /// The time at which the result is made.
    Clock,
    /// The setting of this name, in small letters. Where it is accepted it is in the key (`named`).
    Setting(String),
    /// What a function of users gives that is STABLE.
    Stable(String),
    /// What one reads by queries that is IMMUTABLE; asked only where functions run queries.
    Queries(String),
}

impl Accepted {
    const CLOCK: &str = "clock";
    const SETTING: &str = "setting:";
    const STABLE: &str = "stable:";
    const QUERIES: &str = "queries:";

    fn function(&self) -> Option<&str> {
        match self {
            Accepted::Clock | Accepted::Setting(_) => None,
            Accepted::Stable(function) | Accepted::Queries(function) => Some(function),
        }
    }

    /// As a word without spaces, which the name of a function may have.
    fn to_plan(&self) -> String {
        match self {
            Accepted::Clock => Accepted::CLOCK.to_owned(),
            Accepted::Setting(name) => format!("{}{name}", Accepted::SETTING),
            Accepted::Stable(function) => format!("{}{}", Accepted::STABLE, to_hex(function.as_bytes())),
            Accepted::Queries(function) => format!("{}{}", Accepted::QUERIES, to_hex(function.as_bytes())),
        }
    }

    /// What [`Accepted::to_plan`] made; `None` if nothing did.
    fn from_plan(plan: &str) -> Option<Accepted> {
        let named = |hex| String::from_utf8(from_hex(hex)?).ok();
        if plan == Accepted::CLOCK {
            Some(Accepted::Clock)
        } else if let Some(name) = plan.strip_prefix(Accepted::SETTING) {
            Some(Accepted::Setting(name.to_owned()))
        } else if let Some(function) = plan.strip_prefix(Accepted::STABLE) {
            named(function).map(Accepted::Stable)
        } else {
            plan.strip_prefix(Accepted::QUERIES).and_then(named).map(Accepted::Queries)
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
            (Acceptance::OfCache(options, _), Accepted::Stable(function) | Accepted::Queries(function)) => {
                options.trusted_functions.binary_search(function).is_ok()
            }
        }
    }

    /// Why a result with these conditions is not kept, if so, whatever functions do while it is made.
    pub(super) fn refusal(self, conditions: &[Condition]) -> Option<&Refusal> {
        let mut needed = conditions.iter().filter(|condition| !matches!(condition.needs, Accepted::Queries(_)));
        needed.find(|condition| !self.covers(&condition.needs)).map(|condition| &condition.refusal)
    }

    /// Whether functions may run queries while a result with these conditions is made: there are functions, and all are
    /// trusted.
    pub(super) fn lets_run(self, conditions: &[Condition]) -> bool {
        let has_functions = conditions.iter().any(|condition| condition.needs.function().is_some());
        has_functions && self.untrusted(conditions).is_none()
    }

    /// The first function that is not trusted.
    pub(super) fn untrusted(self, conditions: &[Condition]) -> Option<&str> {
        let mut untrusted = conditions.iter().filter(|condition| !self.covers(&condition.needs));
        untrusted.find_map(|condition| condition.needs.function())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pg::refusals::Reason;

    #[test]
    fn a_condition_comes_back_from_a_plan() {
        let refusal = Refusal::of_function(Reason::Clock, 7.into(), "function now is STABLE");
        let name = || "public.\"a b\nc\"(integer,text)".to_owned();
        let setting = Accepted::Setting("app.tenant".to_owned());
        for needs in [Accepted::Clock, setting, Accepted::Stable(name()), Accepted::Queries(name())] {
            let condition = Condition { needs, refusal: refusal.clone() };
            assert!(!condition.to_plan().contains('\n'));
            assert_eq!(Condition::from_plan(&condition.to_plan()), Some(condition));
        }
        for nonsense in ["nonsense clock 0 text", "stable:zz clock 0 text", "clock:00 clock 0 text"] {
            assert_eq!(Condition::from_plan(nonsense), None);
        }
    }

    #[test]
    fn functions_may_run_queries_where_all_are_trusted() {
        let trusted_functions = ["public.f()", "public.g()"].map(str::to_owned).to_vec();
        let (options, wishes) = (ResultOptions { trusted_functions, ..ResultOptions::default() }, Wishes::default());
        let accepts = Acceptance::OfCache(&options, &wishes);
        let stable = |name: &str| Accepted::Stable(name.to_owned());
        let queries = |name: &str| Accepted::Queries(name.to_owned());
        for (needs, is_kept, lets_run) in [
            (vec![], true, false),
            (vec![Accepted::Clock], false, false),
            (vec![stable("public.f()"), queries("public.g()")], true, true),
            (vec![queries("public.f()")], true, true),
            (vec![queries("public.h()"), stable("public.f()")], true, false),
            (vec![stable("public.h()"), stable("public.f()")], false, false),
        ] {
            let refusal = || Refusal::new(Reason::Stable, "it is one");
            let conditions: Vec<Condition> =
                needs.into_iter().map(|needs| Condition { needs, refusal: refusal() }).collect();
            assert_eq!(accepts.refusal(&conditions).is_none(), is_kept, "{conditions:?}");
            assert_eq!(accepts.lets_run(&conditions), lets_run, "{conditions:?}");
            assert!(!Acceptance::Nothing.lets_run(&conditions));
        }
    }
}
