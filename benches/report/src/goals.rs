//! What the figures should be, and by how much they miss it.
//!
//! A goal is met or missed by what was measured, not by what was hoped: where nothing was measured, the page says so.

use crate::figures::Figures;

/// A figure that has a goal.
pub struct Goal {
    pub what: String,
    /// Whether the goal is an upper bound; else a lower one.
    pub at_most: bool,
    pub goal: f64,
    pub measured: Option<f64>,
}

impl Goal {
    pub fn is_met(&self) -> Option<bool> {
        self.measured.map(|measured| if self.at_most { measured <= self.goal } else { measured >= self.goal })
    }

    /// How far beyond the goal the figure is, in per cent of the goal; 0 if it is met.
    pub fn missed_by_percent(&self) -> Option<f64> {
        let beyond = |measured: f64| if self.at_most { measured - self.goal } else { self.goal - measured };
        self.measured.map(|measured| (100.0 * beyond(measured) / self.goal).max(0.0))
    }
}

/// All goals, with what was measured last.
pub fn goals(figures: &Figures) -> Vec<Goal> {
    let mut goals = Vec::new();
    let mut add = |what: String, at_most, goal, measured| goals.push(Goal { what, at_most, goal, measured });
    let spills = figures.spills.rows().find(|row| row.is(&[("percent", "10"), ("cache", "drop-in")]));
    let spills = spills.and_then(|row| row.number("spills_to_lru"));
    add("spills of the drop-in over those of `lru`, memory of 10 % of the entries".into(), true, 0.2, spills);
    for summary in figures.churn.rows().filter(|row| row.is(&[("phase", "summary"), ("cache", "slab")])) {
        let pair = format!("{} → {}", summary.text("sizes"), summary.text("then"));
        add(format!("least utilisation, {pair}"), false, 0.9, summary.number("min_utilisation"));
        add(format!("least payload, {pair}"), false, 0.8, summary.number("min_payload"));
    }
    for row in figures.memory.rows().filter(|row| row.text("refusal").is_empty()) {
        let (mib, partitions) = (row.text("mib"), row.text("partitions"));
        let is_large = partitions == "1" && row.number("mib").is_some_and(|mib| mib >= 64.0);
        let goal = if is_large { 0.9 } else { 0.8 };
        let what = format!("least utilisation, {mib} MiB, {partitions} partitions, {} bytes", row.text("values"));
        add(what, false, goal, row.number("min_utilisation"));
    }
    for policy in figures.stall.distinct("policy") {
        let limited =
            figures.stall.rows().filter(|row| row.text("policy") == policy && !row.text("limit_us").is_empty());
        let longest = limited.clone().filter_map(|row| row.number("longest_us")).reduce(f64::max);
        let limit = limited.filter_map(|row| row.number("limit_us")).next().unwrap_or(1000.0);
        add(format!("longest hold of an exclusive lock, any operation, {policy}, µs"), true, limit, longest);
    }
    let exact = figures.hit_ratio.rows().filter(|row| row.is(&[("cache", "slab"), ("policy", "lru")]));
    let differences = exact.map(|row| {
        let same = [("name", row.text("name")), ("capacity", row.text("capacity")), ("cache", "lru")];
        let other = figures.hit_ratio.rows().find(|other| other.is(&same))?;
        Some((row.number("hits")? - other.number("hits")?).abs())
    });
    let differences: Vec<f64> = differences.flatten().collect();
    let most = differences.iter().copied().reduce(f64::max);
    // A bound of 0 has no per cent to miss it by, so that half a hit stands for none.
    add("hits of exact LRU that differ from the `lru` crate's, on any trace".into(), true, 0.5, most);
    add_hit_goals(figures, &mut add);
    add_postgres_goals(figures, &mut add);
    add_query_goals(figures, &mut add);
    add_build_goals(figures, &mut add);
    goals
}

/// Takes what the figure is, whether the goal is an upper bound, the goal, and what was measured.
type Add<'a> = dyn FnMut(String, bool, f64, Option<f64>) + 'a;

fn add_hit_goals(figures: &Figures, add: &mut Add<'_>) {
    let ratio = |cells: &[(&str, &str)]| {
        let row = figures.hit.rows().find(|row| row.is(cells));
        row.and_then(|row| row.number("ratio.median"))
    };
    let subjects = [
        ("near", "near get over `lru`'s", 1.3),
        ("shared clock", "get without a lock over `lru`'s with a copy", 1.3),
        ("shared put", "replacing put, shared, over `lru`'s", 1.0),
    ];
    for (subject, what, goal) in subjects {
        for value in ["100", "800", "mixed"] {
            let found = ratio(&[
                ("subject", subject),
                ("entries", "100000"),
                ("value_bytes", value),
                ("keys", "uniform"),
                ("partitions", "1"),
            ]);
            let bytes = if value == "mixed" { "16 to 2,000".to_owned() } else { value.to_owned() };
            add(format!("{what}, {bytes} bytes, 100,000 entries"), true, goal, found);
        }
    }
    let two = ratio(&[("what", "two processes"), ("hit_percent", "100")]);
    add("gets of two processes over those of one".into(), false, 1.8, two);
    let beside = ratio(&[("what", "beside a writer"), ("hit_percent", "95")]);
    add("gets beside a writer of the same partition over those without, 95 % hits".into(), false, 0.75, beside);
}

fn add_postgres_goals(figures: &Figures, add: &mut Add<'_>) {
    for clients in figures.postgres.distinct("clients") {
        let number = |contender: &str, keys: &str, column: &str| {
            let cells = [("contender", contender), ("keys_per_statement", keys), ("clients", clients)];
            figures.postgres.rows().find(|row| row.is(&cells)).and_then(|row| row.number(column))
        };
        let of = format!("PostgreSQL, {clients} client{}", if clients == "1" { "" } else { "s" });
        for (contender, what) in [("shared_lru", ""), ("tagged", ", with a tag and a time to live")] {
            let ratio = number(contender, "1", "processor_to_statement");
            add(format!("{of}: processor time of one key{what} over an empty statement's"), true, 1.1, ratio);
        }
        for (contender, table, what) in [
            ("shared_lru", "logged", "100 keys as rows"),
            ("tagged", "logged", "100 keys as rows, with a tag and a time to live"),
            ("array", "aggregated", "100 keys as an array"),
        ] {
            let [table, own] = [table, contender].map(|name| number(name, "100", "processor_us"));
            let ratio = table.zip(own).map(|(table, own)| table / own);
            add(format!("{of}: processor time of a logged table over the cache's, {what}"), false, 4.0, ratio);
        }
    }
}

fn add_query_goals(figures: &Figures, add: &mut Add<'_>) {
    let hit = figures.query.rows().find(|row| row.text("hit") == "bigint");
    let beyond = hit.and_then(|row| row.number("beyond_ns"));
    add("a hit of `fetch` beyond a function that does nothing, ns of processor time".into(), true, 1000.0, beyond);
}

fn add_build_goals(figures: &Figures, add: &mut Add<'_>) {
    let number = |mode: &str, workers: &str, percent: &str, column: &str| {
        let cells = [("mode", mode), ("workers", workers), ("memory_percent", percent)];
        figures.build.rows().find(|row| row.is(&cells)).and_then(|row| row.number(column))
    };
    let over = |a: Option<f64>, b: Option<f64>| Some(a? / b?);
    for (percent, goal) in [("100", 1.1), ("25", 1.0), ("10", 1.0)] {
        let [drop_in, lru] = ["drop-in", "lru"].map(|mode| number(mode, "1", percent, "seconds"));
        add(
            format!("graph build: time of the drop-in over `lru`'s, {percent} % of the memory"),
            true,
            goal,
            over(drop_in, lru),
        );
    }
    for percent in ["10", "25", "50", "100"] {
        let recall = |workers| number("shared", workers, percent, "recall_at_10_list_10");
        let loss = recall("1").zip(recall("4")).map(|(serial, shared)| serial - shared);
        add(format!("graph build: recall that four workers lose, shared cache, {percent} %"), true, 0.005, loss);
        // Per insert or in all is the same, for all builds insert the same nodes. A reload in a hundred inserts is none.
        let reloads = |workers| number("shared", workers, percent, "reloads").map(|reloads| reloads.max(200.0));
        let more = over(reloads("4"), reloads("1"));
        add(
            format!("graph build: reloads of four workers over those of one, shared cache, {percent} %"),
            true,
            1.0,
            more,
        );
        let lost = number("shared", "4", percent, "lost_edges");
        add(format!("graph build: edges that four workers lose, shared cache, {percent} %"), true, 0.5, lost);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_goal_is_missed_by_its_share_beyond_the_bound() {
        let goal = |at_most, measured| Goal { what: String::new(), at_most, goal: 0.8, measured };
        assert_eq!((goal(false, Some(0.6)).is_met(), goal(true, Some(0.6)).is_met()), (Some(false), Some(true)));
        assert!((goal(false, Some(0.6)).missed_by_percent().unwrap() - 25.0).abs() < 1e-9);
        assert_eq!(goal(true, Some(0.6)).missed_by_percent(), Some(0.0));
        assert_eq!((goal(true, None).is_met(), goal(true, None).missed_by_percent()), (None, None));
    }
}
