//! Numbers, bytes and times as people read them, in a known width.

/// A number in 6 characters at most: whole up to 99,999, then with three or four digits and a letter.
pub(super) fn short(number: u64) -> String {
    if number < 100_000 {
        return number.to_string();
    }
    scaled(number, 1000.0, &["k", "M", "G", "T", "P", "E"])
}

/// Bytes in 10 characters at most.
pub(super) fn bytes(number: u64) -> String {
    if number < 1024 {
        return format!("{number} B");
    }
    scaled(number, 1024.0, &[" KiB", " MiB", " GiB", " TiB", " PiB", " EiB"])
}

fn scaled(number: u64, step: f64, units: &[&str]) -> String {
    let mut value = number as f64 / step;
    let mut units = units.iter();
    let mut unit = units.next().unwrap_or(&"");
    // As it will be shown: what is rounded to a step is one of the next unit.
    while value >= step - 0.05 {
        let Some(next) = units.next() else { break };
        value /= step;
        unit = next;
    }
    format!("{value:.1}{unit}")
}

/// A part of a whole in percent, 0 of nothing.
pub(super) fn percent(part: u64, whole: u64) -> f64 {
    if whole == 0 { 0.0 } else { 100.0 * part as f64 / whole as f64 }
}

/// Microseconds since 1970 as date and time, UTC: `2026-02-28T23:59:59Z`.
pub(super) fn time(us: u64) -> String {
    let seconds = us / 1_000_000;
    let (days, second) = (seconds / 86_400, seconds % 86_400);
    // Days since the first of March of the year 0, in eras of 400 years: Howard Hinnant, "chrono-Compatible Low-Level Date
    // Algorithms".
    let shifted = days + 719_468;
    let (era, day_of_era) = (shifted / 146_097, shifted % 146_097);
    let year_of_era = (day_of_era - day_of_era / 1460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let month_from_march = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * month_from_march + 2) / 5 + 1;
    let month = if month_from_march < 10 { month_from_march + 3 } else { month_from_march - 9 };
    let year = era * 400 + year_of_era + u64::from(month <= 2);
    format!("{year:04}-{month:02}-{day:02}T{:02}:{:02}:{:02}Z", second / 3600, second / 60 % 60, second % 60)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_keep_their_width_and_their_size() {
        for (number, shown) in [
            (0, "0"),
            (99_999, "99999"),
            (100_000, "100.0k"),
            (999_949, "999.9k"),
            (999_950, "1.0M"),
            (1_234_567, "1.2M"),
            (u64::MAX, "18.4E"),
        ] {
            assert_eq!(short(number), shown);
            assert!(short(number).len() <= 6);
        }
        for (number, shown) in
            [(0, "0 B"), (1023, "1023 B"), (1024, "1.0 KiB"), (67_108_864, "64.0 MiB"), (u64::MAX, "16.0 EiB")]
        {
            assert_eq!(bytes(number), shown);
            assert!(bytes(number).len() <= 10);
        }
        assert_eq!([percent(1, 4), percent(0, 0)], [25.0, 0.0]);
    }

    #[test]
    fn times_are_those_of_the_calendar() {
        for (seconds, shown) in [
            (0, "1970-01-01T00:00:00Z"),
            (951_782_399, "2000-02-28T23:59:59Z"),
            (951_782_400, "2000-02-29T00:00:00Z"),
            (951_868_800, "2000-03-01T00:00:00Z"),
            (1_735_689_599, "2024-12-31T23:59:59Z"),
            (4_107_542_400, "2100-03-01T00:00:00Z"),
        ] {
            assert_eq!(time(seconds * 1_000_000 + 999_999), shown);
        }
    }
}
