//! Bars and lines made of characters, of a width that is given.
//!
//! Where the database's encoding may lack block characters, ASCII takes their place, with less between two steps.

/// What plots are made of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::pg) enum Glyphs {
    /// Block characters, which have eighths.
    Blocks,
    Ascii,
}

impl Glyphs {
    /// From the least to the most, beside each other.
    fn levels(self) -> &'static [char] {
        match self {
            Glyphs::Blocks => &['▁', '▂', '▃', '▄', '▅', '▆', '▇', '█'],
            Glyphs::Ascii => &['_', '.', '-', '=', '+', '*', '#', '@'],
        }
    }

    /// Parts of the last character of a bar, from the least to the whole.
    fn parts(self) -> &'static [char] {
        match self {
            Glyphs::Blocks => &['▏', '▎', '▍', '▌', '▋', '▊', '▉', '█'],
            Glyphs::Ascii => &['#'],
        }
    }

    pub(super) fn rule(self) -> char {
        match self {
            Glyphs::Blocks => '─',
            Glyphs::Ascii => '-',
        }
    }

    /// A bar from the left, filled up to `width` characters. What is more than nothing shows.
    pub(super) fn bar(self, fraction: f64, width: usize) -> String {
        let parts = self.parts();
        let most = width * parts.len();
        let steps = (fraction.clamp(0.0, 1.0) * most as f64).round() as usize;
        let steps = if fraction > 0.0 { steps.max(1).min(most) } else { 0 };
        let whole = parts[parts.len() - 1];
        let mut bar: String = std::iter::repeat_n(whole, steps / parts.len()).collect();
        bar.extend((steps % parts.len()).checked_sub(1).map(|part| parts[part]));
        let rest = width - bar.chars().count();
        bar.extend(std::iter::repeat_n(' ', rest));
        bar
    }

    /// One character for each value from 0 to 1; a blank where there is none.
    pub(super) fn line(self, values: impl Iterator<Item = Option<f64>>) -> String {
        let levels = self.levels();
        let level = |value: f64| levels[((value.clamp(0.0, 1.0) * levels.len() as f64) as usize).min(levels.len() - 1)];
        values.map(|value| value.map_or(' ', level)).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bar_is_as_long_as_its_part_of_the_width() {
        let bar = |fraction| Glyphs::Blocks.bar(fraction, 4);
        assert_eq!([bar(0.0), bar(0.001), bar(0.5), bar(0.53), bar(1.0)], ["    ", "▏   ", "██  ", "██▏ ", "████"]);
        assert_eq!([bar(-1.0), bar(7.0), bar(f64::NAN)], ["    ", "████", "    "]);
        assert_eq!([0.0, 0.01, 0.6].map(|fraction| Glyphs::Ascii.bar(fraction, 5)), ["     ", "#    ", "###  "]);
        assert_eq!(Glyphs::Blocks.bar(1.0, 0), "");
    }

    #[test]
    fn a_line_rises_with_its_values_and_shows_where_there_are_none() {
        let values = [Some(0.0), Some(0.49), None, Some(0.5), Some(0.99), Some(1.0), Some(2.0)];
        assert_eq!(Glyphs::Blocks.line(values.into_iter()), "▁▄ ▅███");
        assert_eq!(Glyphs::Ascii.line(values.into_iter()), "_= +@@@");
    }
}
