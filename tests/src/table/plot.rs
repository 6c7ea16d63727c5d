//! Plots of a report: a file for each condition, a group of bars for each row, a bar for each other system.
//!
//! A bar says how many times better the first system is, to the right of 1 if it is better, to the left if it is
//! worse; the scale is logarithmic. The same report gives the same bytes.

use std::fmt::Write as _;
use std::fs;
use std::path::Path;

use anyhow::{Context, Result};

use super::{Cell, Report};

/// All in pixels.
const LEFT: f64 = 390.0;
const PER_DECADE: f64 = 120.0;
const BAR: f64 = 12.0;
const GAP: f64 = 10.0;
const TOP: f64 = 54.0;
const TEXT_BEHIND: f64 = 80.0;

/// Powers of ten that the axis shows, at most: what lies beyond is drawn at its end, with its number beside it.
const DECADES_MIN: i32 = -2;
const DECADES_MAX: i32 = 3;

/// Systems and their colours (of Okabe and Ito, told apart by all eyes); another one is grey.
const COLOURS: [(&str, &str); 7] = [
    ("nbdfuse", "#0072b2"),
    ("qemu", "#56b4e9"),
    ("sshfs", "#009e73"),
    ("local", "#999999"),
    ("null", "#e69f00"),
    ("handoff", "#d55e00"),
    ("quic", "#cc79a7"),
];

/// Writes the plots of the report in `json` into `folder`.
pub fn write(json: &Path, folder: &Path) -> Result<()> {
    let text = fs::read(json).with_context(|| format!("cannot read {}", json.display()))?;
    let report: Report =
        serde_json::from_slice(&text).with_context(|| format!("{} is no report", json.display()))?;
    let mut conditions: Vec<&str> = report.cells.iter().map(|cell| cell.condition.as_str()).collect();
    conditions.dedup();
    for condition in conditions {
        let cells: Vec<_> = report
            .cells
            .iter()
            .filter(|cell| cell.condition == condition)
            .collect();
        let run = report.facts.get("run").map_or("", String::as_str);
        let path = folder.join(format!("{}.svg", file_name(condition)));
        fs::write(&path, draw(&format!("{condition}: {run}"), &cells)?)
            .with_context(|| format!("cannot write {}", path.display()))?;
        println!("{}", path.display());
    }
    Ok(())
}

/// Letters, digits and hyphens: `rtt=20ms,loss=1%` becomes `rtt-20ms-loss-1`.
fn file_name(condition: &str) -> String {
    let words = condition.split(|character: char| !character.is_ascii_alphanumeric());
    let words: Vec<_> = words.filter(|word| !word.is_empty()).collect();
    words.join("-")
}

fn draw(title: &str, cells: &[&Cell]) -> Result<String> {
    let mut bars = String::new();
    let mut y = TOP;
    let mut row = "";
    let compared = cells.iter().filter(|cell| is_compared(cells, cell));
    for (cell, ratio) in compared.filter_map(|cell| Some((cell, cell.ratio?))) {
        if cell.row != row {
            row = &cell.row;
            y += GAP;
            text(&mut bars, (LEFT - 80.0, y + BAR - 2.0), "end", row)?;
        }
        let (from, to) = (x(1.0).min(x(ratio)), x(1.0).max(x(ratio)));
        writeln!(
            bars,
            r#"<rect x="{from:.1}" y="{y:.1}" width="{:.1}" height="{:.1}" fill="{}"/>"#,
            (to - from).max(1.0),
            BAR - 2.0,
            colour(&cell.system)
        )?;
        text(&mut bars, (LEFT - 8.0, y + BAR - 2.0), "end", &cell.system)?;
        let sign = cell.ratio_is.sign();
        text(
            &mut bars,
            (to + 4.0, y + BAR - 2.0),
            "start",
            &format!("{sign}{ratio:.2}"),
        )?;
        y += BAR;
    }
    let (width, height) = (x(10_f64.powi(DECADES_MAX)) + TEXT_BEHIND, y + GAP);
    let mut svg = format!(
        r#"<svg xmlns="http://www.w3.org/2000/svg" width="{width:.0}" height="{height:.0}" font-family="sans-serif" font-size="10">"#
    );
    svg += "\n<rect width=\"100%\" height=\"100%\" fill=\"#ffffff\"/>\n";
    text(&mut svg, (8.0, 16.0), "start", title)?;
    let meaning = "how many times better lacuna is, by medians; a bar to the left: worse";
    text(&mut svg, (8.0, 30.0), "start", meaning)?;
    for decade in DECADES_MIN..=DECADES_MAX {
        let at = x(10_f64.powi(decade));
        let stroke = if decade == 0 { "#000000" } else { "#dddddd" };
        writeln!(
            svg,
            r#"<line x1="{at:.1}" y1="{:.1}" x2="{at:.1}" y2="{y:.1}" stroke="{stroke}"/>"#,
            TOP - 4.0
        )?;
        text(
            &mut svg,
            (at, TOP - 8.0),
            "middle",
            &format!("{}", 10_f64.powi(decade)),
        )?;
    }
    Ok(svg + &bars + "</svg>\n")
}

/// The first system of a row is what the others are compared with.
fn is_compared(cells: &[&Cell], cell: &Cell) -> bool {
    let first = cells.iter().find(|other| other.row == cell.row);
    first.is_some_and(|first| first.system != cell.system)
}

fn x(ratio: f64) -> f64 {
    let decades = ratio
        .log10()
        .clamp(f64::from(DECADES_MIN), f64::from(DECADES_MAX));
    LEFT + (decades - f64::from(DECADES_MIN)) * PER_DECADE
}

fn colour(system: &str) -> &'static str {
    let found = COLOURS.iter().find(|(name, _)| *name == system);
    found.map_or("#666666", |(_, colour)| colour)
}

fn text(svg: &mut String, (x, y): (f64, f64), anchor: &str, words: &str) -> Result<()> {
    let words = words
        .replace('&', "&amp;")
        .replace('<', "&lt;")
        .replace('>', "&gt;");
    Ok(writeln!(
        svg,
        r#"<text x="{x:.1}" y="{y:.1}" text-anchor="{anchor}">{words}</text>"#
    )?)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::table::RatioIs;

    fn cell(system: &str, ratio: f64) -> Cell {
        Cell {
            condition: "local".to_owned(),
            row: "a < b".to_owned(),
            unit: "s".to_owned(),
            system: system.to_owned(),
            median: Some(1.0),
            low: Some(1.0),
            high: Some(1.0),
            ratio: Some(ratio),
            ratio_is: RatioIs::Exact,
            stopped: None,
        }
    }

    #[test]
    fn each_other_system_has_a_bar_on_its_side_of_one() {
        let cells = [
            cell("lacuna", 1.0),
            cell("qemu", 10.0),
            cell("null", 0.1),
            cell("new", 1e9),
        ];
        let cells: Vec<_> = cells.iter().collect();
        let svg = draw("title", &cells).unwrap();
        assert_eq!(svg, draw("title", &cells).unwrap());
        assert_eq!(svg.matches("<rect x=").count(), 3, "{svg}");
        let (one, tenth) = (x(1.0), x(0.1));
        assert!(
            svg.contains(&format!(r#"<rect x="{one:.1}" y="64.0" width="120.0""#)),
            "{svg}"
        );
        assert!(
            svg.contains(&format!(r#"<rect x="{tenth:.1}" y="76.0" width="120.0""#)),
            "{svg}"
        );
        assert!(svg.contains("a &lt; b"), "{svg}");
        assert!((x(1e9) - x(1e3)).abs() < f64::EPSILON, "the axis ends");
    }

    #[test]
    fn a_condition_makes_the_name_of_a_file() {
        assert_eq!(
            file_name("rtt=20ms,loss=1%,rate=1gbit"),
            "rtt-20ms-loss-1-rate-1gbit"
        );
    }
}
