//! The figures as JSON, for a dashboard: plain numbers, times as text.

use std::fmt::Write;

use super::Figures;
use super::numbers::time;
use crate::engine::counters::Stats;

/// Writes one value after the other, with commas where they belong.
struct Writer {
    out: String,
    needs_comma: bool,
}

impl Writer {
    fn separate(&mut self) {
        if std::mem::replace(&mut self.needs_comma, true) {
            self.out.push(',');
        }
    }

    fn open(&mut self, bracket: char) {
        self.separate();
        self.out.push(bracket);
        self.needs_comma = false;
    }

    fn close(&mut self, bracket: char) {
        self.out.push(bracket);
        self.needs_comma = true;
    }

    fn name(&mut self, name: &str) {
        self.text(name);
        self.out.push(':');
        self.needs_comma = false;
    }

    fn text(&mut self, text: &str) {
        self.separate();
        self.out.push('"');
        for character in text.chars() {
            match character {
                '"' | '\\' => self.out.extend(['\\', character]),
                '\0'..='\x1f' => _ = write!(self.out, "\\u{:04x}", character as u32),
                _ => self.out.push(character),
            }
        }
        self.out.push('"');
    }

    fn number(&mut self, number: u64) {
        self.separate();
        _ = write!(self.out, "{number}");
    }

    fn boolean(&mut self, value: bool) {
        self.separate();
        _ = write!(self.out, "{value}");
    }

    /// A number or text, or null.
    fn optional<T>(&mut self, value: Option<T>, write: impl FnOnce(&mut Self, T)) {
        match value {
            Some(value) => write(self, value),
            None => {
                self.separate();
                self.out.push_str("null");
            }
        }
    }

    fn time(&mut self, at_us: Option<u64>) {
        self.optional(at_us, |writer, at_us| writer.text(&time(at_us)));
    }

    /// One that is finite.
    fn fraction(&mut self, fraction: Option<f64>) {
        self.optional(fraction, |writer, fraction| {
            writer.separate();
            _ = write!(writer.out, "{fraction:.6}");
        });
    }

    fn numbers<'n>(&mut self, numbers: impl IntoIterator<Item = (&'n str, u64)>) {
        self.open('{');
        for (name, number) in numbers {
            self.name(name);
            self.number(number);
        }
        self.close('}');
    }

    fn list<T>(&mut self, name: &str, values: impl IntoIterator<Item = T>, mut write: impl FnMut(&mut Self, T)) {
        self.name(name);
        self.open('[');
        values.into_iter().for_each(|value| write(self, value));
        self.close(']');
    }
}

/// The JSON.
pub(in crate::pg) fn json(figures: &Figures) -> String {
    let mut json = Writer { out: String::new(), needs_comma: false };
    json.open('{');
    json.name("cache");
    json.text(&figures.name);
    json.name("in_memory");
    json.boolean(true);
    json.name("policy");
    json.text(figures.policy);
    json.name("partitions");
    json.number(figures.partitions.into());
    json.name("max_entries");
    json.optional(figures.max_entries, |json, most| json.number(most.into()));
    let times = [("at", Some(figures.at_us)), ("stats_reset", figures.reset_us), ("resized", figures.resized_us)];
    for (name, at_us) in times.into_iter().chain([("oldest_since", figures.oldest_since_us)]) {
        json.name(name);
        json.time(at_us);
    }
    json.name("oldest_age");
    json.optional(figures.oldest_age, |json, age| json.number(age.into()));
    json.name("hit_ratio");
    json.fraction(figures.stats.hit_ratio());
    json.name("counters");
    let of_engine = Stats::COUNTERS.iter().map(|(name, _)| *name).zip(figures.stats.values());
    let of_sql = [
        ("leases", figures.leases),
        ("lease_waits", figures.lease_waits),
        ("lease_fills", figures.lease_fills),
        ("refused_lease", figures.refused_lease),
        ("refused_present", figures.refused_present),
    ];
    json.numbers(of_engine.chain(of_sql));
    let memory = &figures.memory;
    json.name("memory");
    json.numbers([
        ("region_bytes", memory.region_bytes),
        ("fixed_bytes", memory.fixed_bytes),
        ("directory_bytes", memory.directory_bytes),
        ("data_bytes", memory.data_bytes),
        ("bucket_bytes", memory.bucket_bytes),
        ("free_bytes", memory.free_bytes),
        ("payload_bytes", memory.payload_bytes),
        ("metadata_bytes", memory.metadata_bytes),
        ("slabs_total", memory.slabs_total),
        ("slabs_free", memory.slabs_free),
        ("entries", memory.entries),
    ]);
    json.list("slab_classes", &memory.classes, |json, class| {
        json.numbers([
            ("class", class.class.into()),
            ("slot_bytes", class.slot_bytes),
            ("slabs", class.slabs),
            ("slots", class.slots),
            ("used", class.used),
            ("stored_bytes", class.stored_bytes),
        ]);
    });
    json.list("ages", figures.age_groups(), |json, (first, entries)| {
        json.numbers([("from", first), ("entries", entries)])
    });
    // The first sample says where the reads of the next one begin, and nothing of its own.
    json.list("samples", figures.samples.iter().skip(1).zip(figures.intervals()), |json, (sample, (ratio, reads))| {
        json.open('{');
        json.name("at");
        json.time(Some(sample.at_us));
        json.name("hit_ratio");
        json.fraction(ratio);
        for (name, number) in [("reads", reads), ("entries", sample.entries), ("bytes", sample.bytes)] {
            json.name(name);
            json.number(number);
        }
        json.close('}');
    });
    json.close('}');
    json.out
}

/// The JSON of a cache that is not in memory.
pub(in crate::pg) fn json_of_none(name: &str) -> String {
    let mut json = Writer { out: String::new(), needs_comma: false };
    json.open('{');
    json.name("cache");
    json.text(name);
    json.name("in_memory");
    json.boolean(false);
    json.close('}');
    json.out
}

#[cfg(test)]
mod tests {
    use super::super::tests::{empty, extreme, figures};
    use super::*;

    #[test]
    fn it_is_json_and_has_the_figures() {
        for figures in [figures("c"), empty(), extreme()] {
            let parsed: serde_json::Value = serde_json::from_str(&json(&figures)).unwrap();
            assert_eq!(parsed["cache"], figures.name);
            for ((name, _), value) in Stats::COUNTERS.iter().zip(figures.stats.values()) {
                assert_eq!(parsed["counters"][name], value, "{name}");
            }
            assert_eq!(parsed["ages"].as_array().unwrap().len(), figures.age_groups().count());
            assert_eq!(parsed["samples"].as_array().unwrap().len(), figures.samples.len().saturating_sub(1));
            assert_eq!(parsed["slab_classes"].as_array().unwrap().len(), figures.memory.classes.len());
        }
        let none: serde_json::Value = serde_json::from_str(&json_of_none("\"c\n")).unwrap();
        assert_eq!((&none["cache"], &none["in_memory"]), (&"\"c\n".into(), &false.into()));
        let parsed: serde_json::Value = serde_json::from_str(&json(&figures("c"))).unwrap();
        assert_eq!(parsed["stats_reset"], "2023-11-14T22:16:20Z");
        assert_eq!(parsed["samples"][59]["reads"], 60 * 60 - 59 * 59 + 10);
        assert!(parsed["resized"].is_null());
    }
}
