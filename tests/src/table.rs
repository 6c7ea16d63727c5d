//! Results of a benchmark: a file of lines `ROW UNIT SYSTEM VALUE` becomes a table of medians and JSON.
//!
//! Units are `s` and `MB` (less is better) or rates (more is better); a ratio says how many times better the first
//! system is.

use std::fmt::Write as _;
use std::fs;
use std::path::Path;

use anyhow::{Context, Result};
use serde::Serialize;

/// All rounds of one row on one system.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Cell {
    pub row: String,
    pub unit: String,
    pub system: String,
    pub median: Option<f64>,
    pub low: Option<f64>,
    pub high: Option<f64>,
    /// How many times better the first system of the row is.
    pub ratio: Option<f64>,
    pub rounds: Vec<f64>,
}

/// Reads `raw`, prints the table and writes the cells to `json`.
pub fn print(raw: &Path, json: &Path) -> Result<()> {
    let text = fs::read_to_string(raw).with_context(|| format!("cannot read {}", raw.display()))?;
    let cells = cells(&text)?;
    print!("{}", render(&cells)?);
    fs::write(json, serde_json::to_vec_pretty(&cells)?)
        .with_context(|| format!("cannot write {}", json.display()))
}

/// One cell for each row and system, in the order in which they first appear. The value `-` says that the
/// system cannot do this.
fn cells(raw: &str) -> Result<Vec<Cell>> {
    let mut cells: Vec<Cell> = Vec::new();
    for line in raw.lines() {
        let words: Vec<_> = line.split('\t').collect();
        let [row, unit, system, value] = words[..] else {
            anyhow::bail!("not a result: {line}")
        };
        let index = cells
            .iter()
            .position(|cell| cell.row == row && cell.system == system)
            .unwrap_or_else(|| {
                let (row, unit, system) = (row.to_owned(), unit.to_owned(), system.to_owned());
                cells.push(Cell {
                    row,
                    unit,
                    system,
                    median: None,
                    low: None,
                    high: None,
                    ratio: None,
                    rounds: vec![],
                });
                cells.len() - 1
            });
        if value != "-" {
            cells[index]
                .rounds
                .push(value.parse().with_context(|| format!("not a number: {line}"))?);
        }
    }
    for cell in &mut cells {
        let mut sorted = cell.rounds.clone();
        sorted.sort_by(f64::total_cmp);
        cell.median = median(&sorted);
        (cell.low, cell.high) = (sorted.first().copied(), sorted.last().copied());
    }
    for index in 0..cells.len() {
        let first = cells
            .iter()
            .find(|cell| cell.row == cells[index].row)
            .and_then(|cell| cell.median);
        cells[index].ratio = match (first, cells[index].median) {
            (Some(ours), Some(theirs)) if matches!(cells[index].unit.as_str(), "s" | "MB") => {
                Some(theirs / ours)
            }
            (Some(ours), Some(theirs)) => Some(ours / theirs),
            _ => None,
        };
    }
    Ok(cells)
}

fn median(sorted: &[f64]) -> Option<f64> {
    let middle = sorted.len() / 2;
    if sorted.len().is_multiple_of(2) {
        Some(f64::midpoint(
            *sorted.get(middle.checked_sub(1)?)?,
            sorted[middle],
        ))
    } else {
        sorted.get(middle).copied()
    }
}

fn render(cells: &[Cell]) -> Result<String> {
    let mut text = String::new();
    let mut row = "";
    for cell in cells {
        if cell.row != row {
            row = &cell.row;
            writeln!(text, "\n{row}")?;
        }
        let Cell {
            median: Some(median),
            low: Some(low),
            high: Some(high),
            ratio,
            unit,
            system,
            ..
        } = cell
        else {
            writeln!(text, "  {:<10} {:>12}", cell.system, "not possible")?;
            continue;
        };
        let digits = if *median < 10.0 { 3 } else { 0 };
        write!(
            text,
            "  {system:<10} {median:>12.digits$} {unit:<6} ({low:.digits$} to {high:.digits$})"
        )?;
        writeln!(
            text,
            "{}",
            ratio.map(|ratio| format!("  x {ratio:.2}")).unwrap_or_default()
        )?;
    }
    Ok(text)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn medians_and_ratios() {
        let raw = "cp\ts\tlacuna\t2\ncp\ts\tother\t30\ncp\ts\tlacuna\t1\ncp\ts\tlacuna\t9\nread\tMiB/s\tlacuna\t100\n\
                   read\tMiB/s\tother\t50\nread\tMiB/s\tnone\t-\n";
        let cells = cells(raw).unwrap();
        assert_eq!(cells[0].median, Some(2.0));
        assert_eq!((cells[0].low, cells[0].high), (Some(1.0), Some(9.0)));
        assert_eq!(cells[1].ratio, Some(15.0));
        assert_eq!(cells[3].ratio, Some(2.0));
        assert_eq!(cells[4].median, None);
        assert!(render(&cells).unwrap().contains("not possible"));
    }
}
