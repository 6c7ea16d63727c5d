//! Results of a benchmark: lines of measurements become a table of medians, JSON with every one of them, and plots.
//!
//! A line has nine fields, separated by tabs: `CONDITION ROW UNIT SYSTEM ROUND VALUE STOPPED CLIENT_CPU SERVER_CPU`. The
//! value is `-` where the system cannot do this. What was stopped says how far it got: a time then is a lower bound, a rate
//! is that of the part which was done. Less is better of `s`, `us`, `s/GiB`, `MB` and `MiB`, more of all other units.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::fs;
use std::path::Path;

use anyhow::{Context, Result};
use serde::{Deserialize, Serialize};

use crate::link::Conditions;

mod plot;

pub use plot::write as plot;

/// One round of one row on one system.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Measurement {
    /// `local`, or the words of the link.
    pub condition: String,
    pub row: String,
    pub unit: String,
    pub system: String,
    pub round: u32,
    pub value: Option<f64>,
    /// How far it got, if its time was up.
    pub stopped: Option<String>,
    /// Seconds that the daemons of the system used meanwhile.
    pub client_cpu_s: Option<f64>,
    pub server_cpu_s: Option<f64>,
}

/// What a ratio is when the time of one of the two was up.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum RatioIs {
    #[default]
    Exact,
    /// The other one would have taken longer.
    AtLeast,
    /// The first one would have taken longer.
    AtMost,
}

impl RatioIs {
    fn sign(self) -> &'static str {
        match self {
            Self::Exact => "",
            Self::AtLeast => ">",
            Self::AtMost => "<",
        }
    }
}

/// All rounds of one row on one system.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Cell {
    pub condition: String,
    pub row: String,
    pub unit: String,
    pub system: String,
    pub median: Option<f64>,
    pub low: Option<f64>,
    pub high: Option<f64>,
    /// How many times better the first system of the row is.
    pub ratio: Option<f64>,
    pub ratio_is: RatioIs,
    /// How far a round got whose time was up.
    pub stopped: Option<String>,
}

/// What `--json` writes.
#[derive(Debug, Serialize, Deserialize)]
pub struct Report {
    /// The machine, its tools, and how this was run.
    pub facts: BTreeMap<String, String>,
    pub measurements: Vec<Measurement>,
    pub cells: Vec<Cell>,
}

/// Reads the lines of `raw` and of `facts` (name, tab, value), prints the table and writes the report to `json`.
pub fn print(raw: &Path, facts: &Path, json: &Path) -> Result<()> {
    let read =
        |path: &Path| fs::read_to_string(path).with_context(|| format!("cannot read {}", path.display()));
    let measurements = measurements(&read(raw)?)?;
    let facts = read(facts)?;
    let facts = facts.lines().filter_map(|line| line.split_once('\t'));
    let report = Report {
        facts: facts
            .map(|(name, value)| (name.to_owned(), value.to_owned()))
            .collect(),
        cells: cells(&measurements),
        measurements,
    };
    print!("{}", render(&report.cells)?);
    fs::write(json, serde_json::to_vec_pretty(&report)?)
        .with_context(|| format!("cannot write {}", json.display()))
}

fn measurements(raw: &str) -> Result<Vec<Measurement>> {
    raw.lines()
        .map(|line| measurement(line).with_context(|| format!("not a result: {line}")))
        .collect()
}

fn measurement(line: &str) -> Result<Measurement> {
    let words: Vec<_> = line.split('\t').collect();
    let [
        condition,
        row,
        unit,
        system,
        round,
        value,
        stopped,
        client_cpu_s,
        server_cpu_s,
    ] = words[..]
    else {
        anyhow::bail!("{} fields", words.len())
    };
    let number = |word: &str| match word {
        "-" | "" => Ok(None),
        word => word.parse().map(Some),
    };
    Ok(Measurement {
        condition: condition.to_owned(),
        row: row.to_owned(),
        unit: unit.to_owned(),
        system: system.to_owned(),
        round: round.parse()?,
        value: number(value)?,
        stopped: Some(stopped.to_owned()).filter(|text| !text.is_empty()),
        client_cpu_s: number(client_cpu_s)?,
        server_cpu_s: number(server_cpu_s)?,
    })
}

/// True if a smaller number of this unit is the better one.
fn is_less_better(unit: &str) -> bool {
    matches!(unit, "s" | "us" | "s/GiB" | "MB" | "MiB")
}

/// One cell for each condition, row and system, in the order in which they first appear.
fn cells(measurements: &[Measurement]) -> Vec<Cell> {
    let mut cells: Vec<(Cell, Vec<f64>)> = Vec::new();
    for one in measurements {
        let is_its = |(cell, _): &(Cell, _)| {
            cell.condition == one.condition && cell.row == one.row && cell.system == one.system
        };
        let index = cells.iter().position(is_its).unwrap_or_else(|| {
            // Behind the last one of its row, so that a row stays together.
            let is_of_row = |(cell, _): &(Cell, _)| cell.condition == one.condition && cell.row == one.row;
            let place = cells
                .iter()
                .rposition(is_of_row)
                .map_or(cells.len(), |last| last + 1);
            cells.insert(place, (empty(one), Vec::new()));
            place
        });
        let (cell, values) = &mut cells[index];
        values.extend(one.value);
        if one.stopped.is_some() {
            cell.stopped.clone_from(&one.stopped);
        }
    }
    let mut cells: Vec<_> = cells
        .into_iter()
        .map(|(mut cell, mut values)| {
            values.sort_by(f64::total_cmp);
            cell.median = median(&values);
            (cell.low, cell.high) = (values.first().copied(), values.last().copied());
            cell
        })
        .collect();
    for index in 0..cells.len() {
        if let Some((ratio, is)) = ratio(&cells, &cells[index]) {
            (cells[index].ratio, cells[index].ratio_is) = (Some(ratio), is);
        }
    }
    cells
}

fn empty(one: &Measurement) -> Cell {
    Cell {
        condition: one.condition.clone(),
        row: one.row.clone(),
        unit: one.unit.clone(),
        system: one.system.clone(),
        median: None,
        low: None,
        high: None,
        ratio: None,
        ratio_is: RatioIs::Exact,
        stopped: None,
    }
}

fn ratio(cells: &[Cell], cell: &Cell) -> Option<(f64, RatioIs)> {
    let first = cells
        .iter()
        .find(|other| other.condition == cell.condition && other.row == cell.row)?;
    let (ours, theirs) = (first.median?, cell.median?);
    let is_time = is_less_better(&cell.unit);
    let is = match (
        is_time && first.stopped.is_some(),
        is_time && cell.stopped.is_some(),
    ) {
        (false, false) => RatioIs::Exact,
        (false, true) => RatioIs::AtLeast,
        (true, false) => RatioIs::AtMost,
        // Neither came to its end: nothing is known.
        (true, true) => return None,
    };
    let (better, worse) = if is_time { (theirs, ours) } else { (ours, theirs) };
    // Nothing was measured that can be compared: less than a tick of the clock, or no byte in time.
    (worse > 0.0).then_some((better / worse, is))
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
    let (mut condition, mut row) = ("", "");
    for cell in cells {
        if cell.condition != condition {
            condition = &cell.condition;
            row = "";
            writeln!(text, "\n==== {condition}")?;
        }
        if cell.row != row {
            row = &cell.row;
            writeln!(text, "\n{row}")?;
        }
        writeln!(text, "  {:<10} {}", cell.system, described(cell))?;
    }
    Ok(text)
}

fn described(cell: &Cell) -> String {
    let (Some(median), Some(low), Some(high)) = (cell.median, cell.low, cell.high) else {
        return format!("{:>12}", cell.stopped.as_deref().unwrap_or("not possible"));
    };
    let digits = if median < 10.0 { 3 } else { 0 };
    let is_time = is_less_better(&cell.unit);
    // A time that was up is less than it would have taken.
    let sign = if cell.stopped.is_some() && is_time {
        ">"
    } else {
        ""
    };
    let number = format!("{sign}{median:.digits$}");
    let mut text = format!(
        "{number:>12} {:<6} ({low:.digits$} to {high:.digits$})",
        cell.unit
    );
    if let Some(ratio) = cell.ratio {
        text += &format!("  x {}{ratio:.2}", cell.ratio_is.sign());
    }
    if let Some(share) = share_of_link(cell, median) {
        text += &format!("  {share:.0} % of the link");
    }
    if let Some(stopped) = &cell.stopped {
        text += &format!("  stopped {stopped}");
    }
    text
}

/// How many percent of the rate of its link a transfer had.
fn share_of_link(cell: &Cell, mib_per_s: f64) -> Option<f64> {
    const BITS_OF_MIB: f64 = 8.0 * 1_048_576.0;
    if cell.unit != "MiB/s" {
        return None;
    }
    let words = cell.condition.split(',');
    let conditions = words
        .into_iter()
        .try_fold(Conditions::default(), Conditions::with)
        .ok()?;
    let rate_kbits = u32::try_from(conditions.rate_bits? / 1000).ok()?;
    Some(100.0 * mib_per_s * BITS_OF_MIB / (f64::from(rate_kbits) * 1000.0))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lines(lines: &[&str]) -> Vec<Measurement> {
        measurements(&lines.join("\n").replace(' ', "\t")).unwrap()
    }

    #[test]
    fn medians_and_ratios() {
        let cells = cells(&lines(&[
            "local cp s lacuna 1 2  0.1 0.2",
            "local cp s other 1 30  - -",
            "local cp s lacuna 2 1  - -",
            "local cp s lacuna 3 9  - -",
            "local read MiB/s lacuna 1 100  - -",
            "local read MiB/s other 1 50  - -",
            "local read MiB/s none 1 -  - -",
            "local read MiB/s idle 1 0  - -",
        ]));
        assert_eq!(cells[0].median, Some(2.0));
        assert_eq!((cells[0].low, cells[0].high), (Some(1.0), Some(9.0)));
        assert_eq!(cells[1].ratio, Some(15.0));
        assert_eq!(cells[3].ratio, Some(2.0));
        assert_eq!((cells[4].median, cells[5].ratio), (None, None));
        assert!(render(&cells).unwrap().contains("not possible"));
    }

    #[test]
    fn what_was_stopped_says_so_and_each_link_is_compared_with_itself() {
        let cells = cells(&lines(&[
            "local cp s lacuna 1 1  - -",
            "rtt=20ms,rate=1gbit cp s lacuna 1 2  - -",
            "rtt=20ms,rate=1gbit cp s other 1 120 at_3_MiB - -",
            "rtt=20ms,rate=1gbit read MiB/s lacuna 1 119.2  - -",
        ]));
        assert_eq!(
            (cells[2].ratio, cells[2].ratio_is),
            (Some(60.0), RatioIs::AtLeast)
        );
        let text = render(&cells).unwrap();
        assert!(text.contains(">120 s"), "{text}");
        assert!(text.contains("x >60.00"), "{text}");
        assert!(text.contains("stopped at_3_MiB"), "{text}");
        assert!(text.contains("100 % of the link"), "{text}");
    }

    #[test]
    fn nothing_is_said_of_two_that_were_stopped() {
        let cells = cells(&lines(&[
            "local cp s lacuna 1 5 at_1_MiB - -",
            "local cp s slow 1 5 at_2_MiB - -",
            "local cp s fast 1 1  - -",
            "local read MiB/s lacuna 1 5 at_1_MiB - -",
            "local read MiB/s slow 1 1 at_2_MiB - -",
        ]));
        assert_eq!(cells[1].ratio, None);
        assert_eq!((cells[2].ratio, cells[2].ratio_is), (Some(0.2), RatioIs::AtMost));
        assert_eq!((cells[4].ratio, cells[4].ratio_is), (Some(5.0), RatioIs::Exact));
    }

    #[test]
    fn a_row_stays_together() {
        let cells = cells(&lines(&[
            "local cp s lacuna 1 1  - -",
            "local cpu s lacuna 1 1  - -",
            "local cp s other 1 1  - -",
        ]));
        let places: Vec<_> = cells.iter().map(|cell| (&*cell.row, &*cell.system)).collect();
        assert_eq!(places, [("cp", "lacuna"), ("cp", "other"), ("cpu", "lacuna")]);
    }

    #[test]
    fn a_line_that_is_none_is_an_error() {
        measurements("local\tcp\ts\tlacuna\t1\t2").unwrap_err();
        measurements("local\tcp\ts\tlacuna\t1\tfast\t\t-\t-").unwrap_err();
    }
}
