//! Tables of text: what a CSV file holds, and what programs print as JSON.
//!
//! A row is an ordered list of named cells. Fields of nested objects and of arrays become columns of their own, named
//! with dots: `phases.0.ns_per_put`. A field that is null is an empty cell.

use std::path::Path;

use anyhow::{Context, Result};
use serde_json::Value;

/// Rows of named cells.
#[derive(Clone, Default)]
pub struct Table {
    columns: Vec<String>,
    rows: Vec<Vec<String>>,
}

/// A row of a table.
#[derive(Clone, Copy)]
pub struct Row<'a> {
    columns: &'a [String],
    cells: &'a [String],
}

impl Table {
    /// Reads a CSV file.
    ///
    /// # Errors
    /// It cannot be read, or is none.
    pub fn read(file: &Path) -> Result<Self> {
        let mut reader = csv::ReaderBuilder::new().flexible(true).from_path(file)?;
        let columns = reader.headers()?.iter().map(str::to_owned).collect();
        let rows = reader.records().map(|record| Ok(record?.iter().map(str::to_owned).collect()));
        Ok(Table { columns, rows: rows.collect::<Result<_>>().with_context(|| file.display().to_string())? })
    }

    /// Writes a CSV file.
    ///
    /// # Errors
    /// It cannot be written.
    pub fn write(&self, file: &Path) -> Result<()> {
        let mut writer = csv::WriterBuilder::new().flexible(true).from_path(file)?;
        writer.write_record(&self.columns)?;
        for row in &self.rows {
            let missing = self.columns.len() - row.len();
            writer.write_record(row.iter().map(String::as_str).chain(std::iter::repeat_n("", missing)))?;
        }
        Ok(writer.flush()?)
    }

    /// Adds what a program printed as one line of JSON, with some cells before it.
    ///
    /// # Errors
    /// It is no object.
    pub fn push_json(&mut self, before: &[(&str, &str)], line: &str) -> Result<()> {
        let object: Value = serde_json::from_str(line).with_context(|| format!("not JSON: {line}"))?;
        let mut row = vec![String::new(); self.columns.len()];
        for (name, text) in before {
            self.set(&mut row, name, (*text).to_owned());
        }
        self.flatten(&mut row, "", &object);
        self.rows.push(row);
        Ok(())
    }

    /// Adds a row of these cells.
    pub fn push(&mut self, cells: &[(&str, String)]) {
        let mut row = vec![String::new(); self.columns.len()];
        for (name, text) in cells {
            self.set(&mut row, name, text.clone());
        }
        self.rows.push(row);
    }

    fn flatten(&mut self, row: &mut Vec<String>, name: &str, value: &Value) {
        let below = |key: &str| if name.is_empty() { key.to_owned() } else { format!("{name}.{key}") };
        match value {
            Value::Object(fields) => fields.iter().for_each(|(key, value)| self.flatten(row, &below(key), value)),
            Value::Array(items) => {
                let items = items.iter().enumerate();
                items.for_each(|(index, value)| self.flatten(row, &below(&index.to_string()), value));
            }
            Value::Null => self.set(row, name, String::new()),
            Value::String(text) => self.set(row, name, text.clone()),
            other => self.set(row, name, other.to_string()),
        }
    }

    fn set(&mut self, row: &mut Vec<String>, column: &str, text: String) {
        let at = self.columns.iter().position(|known| known == column).unwrap_or_else(|| {
            self.columns.push(column.to_owned());
            self.columns.len() - 1
        });
        if row.len() <= at {
            row.resize(at + 1, String::new());
        }
        row[at] = text;
    }

    pub fn is_empty(&self) -> bool {
        self.rows.is_empty()
    }

    pub fn rows(&self) -> impl Iterator<Item = Row<'_>> + Clone {
        self.rows.iter().map(|cells| Row { columns: &self.columns, cells })
    }

    /// The different texts of a column, in the order in which they come.
    pub fn distinct(&self, column: &str) -> Vec<&str> {
        let mut found = Vec::new();
        for row in self.rows() {
            let text = row.text(column);
            if !text.is_empty() && !found.contains(&text) {
                found.push(text);
            }
        }
        found
    }
}

impl<'a> Row<'a> {
    /// A cell's text; nothing where there is no such cell.
    pub fn text(&self, column: &str) -> &'a str {
        let at = self.columns.iter().position(|known| known == column);
        at.and_then(|at| self.cells.get(at)).map_or("", String::as_str)
    }

    /// A cell's number, if it has one.
    pub fn number(&self, column: &str) -> Option<f64> {
        self.text(column).parse().ok()
    }

    /// Whether cells have these texts.
    pub fn is(&self, cells: &[(&str, &str)]) -> bool {
        cells.iter().all(|(column, text)| self.text(column) == *text)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nested_fields_become_columns_and_rows_keep_their_cells() {
        let mut table = Table::default();
        table.push_json(&[("run", "a")], r#"{"x":1,"y":{"z":null},"list":[{"n":2},{"n":3}]}"#).unwrap();
        table.push_json(&[("run", "b")], r#"{"new":"text, with a comma","x":2.5}"#).unwrap();
        let file = std::env::temp_dir().join(format!("report-{}.csv", std::process::id()));
        table.write(&file).unwrap();
        let read = Table::read(&file).unwrap();
        std::fs::remove_file(&file).unwrap();
        let rows: Vec<Row<'_>> = read.rows().collect();
        assert_eq!((rows[0].number("list.1.n"), rows[0].text("y.z"), rows[0].text("new")), (Some(3.0), "", ""));
        assert!(rows[1].is(&[("run", "b"), ("new", "text, with a comma"), ("list.0.n", "")]));
        assert_eq!(read.distinct("run"), ["a", "b"]);
    }

    #[test]
    fn what_is_no_json_is_an_error_that_shows_it() {
        let error = Table::default().push_json(&[], "warning: x").unwrap_err();
        assert!(error.to_string().contains("warning: x"));
    }
}
