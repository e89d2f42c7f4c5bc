//! Results as tables on stdout and as JSON.

use crate::goals::Goal;
use crate::measure::{Figures, median};
use serde_json::{Map, Value, json};
use std::path::Path;

/// Prints rows below their headings, columns as wide as they have to be; the first one to the left, the others to the right.
pub fn table(headings: &[&str], rows: &[Vec<String>]) {
    let width = |column: usize| {
        let cells = rows.iter().filter_map(|row| row.get(column)).map(|cell| cell.chars().count());
        cells.chain([headings[column].chars().count()]).max().unwrap_or_default()
    };
    let widths: Vec<usize> = (0..headings.len()).map(width).collect();
    let line = |cells: &[String]| {
        let padded: Vec<String> = cells
            .iter()
            .zip(&widths)
            .enumerate()
            .map(
                |(i, (cell, width))| {
                    if i == 0 { format!("{cell:<width$}") } else { format!("{cell:>width$}") }
                },
            )
            .collect();
        println!("| {} |", padded.join(" | "));
    };
    line(&headings.iter().map(|heading| (*heading).to_string()).collect::<Vec<_>>());
    let rules: Vec<String> = widths
        .iter()
        .enumerate()
        .map(|(i, width)| if i == 0 { "-".repeat(*width) } else { format!("{}:", "-".repeat(width - 1)) })
        .collect();
    line(&rules);
    rows.iter().for_each(|row| line(row));
}

/// A number with three digits that count.
pub fn digits(number: f64) -> String {
    match number.abs() {
        n if !n.is_finite() => "-".into(),
        n if n >= 100.0 => format!("{number:.0}"),
        n if n >= 10.0 => format!("{number:.1}"),
        n if n >= 0.1 || n == 0.0 => format!("{number:.2}"),
        n if n >= 0.01 => format!("{number:.3}"),
        _ => format!("{number:.4}"),
    }
}

pub fn maybe(number: Option<f64>) -> String {
    number.map_or("-".into(), digits)
}

/// A figure against its limit, if it has one: the same phase of the ideal, the raw figure of the medium.
fn limit_of(name: &str, figures: &Figures) -> Option<String> {
    let (engine, phase) = name.split_once(": ")?;
    if engine == "ideal" || engine == "papaya" {
        return None;
    }
    let raw = "64 B preallocated write + fdatasync";
    let limit = match phase {
        _ if phase.contains("put on a file, sync, ") => "O_DIRECT|O_DSYNC 4 KiB, 16 in flight".into(),
        _ if phase.starts_with("put on a file, sync") || phase.starts_with("put_async on a file") => {
            raw.into()
        }
        _ if phase.contains("on a file, os") && !phase.starts_with("get") => {
            "128 B write into the page cache".into()
        }
        _ if phase.starts_with("put_async, overwrite") => "ideal: write batch of 64, overwrite".into(),
        _ => format!("ideal: {phase}"),
    };
    figures.has(&limit).then_some(limit)
}

/// All figures: median, the range of the rounds, and the ratio to the limit where there is one.
pub fn figures(figures: &Figures) {
    let rows: Vec<Vec<String>> = figures
        .iter()
        .map(|(name, unit, numbers)| {
            let least = numbers.iter().copied().fold(f64::INFINITY, f64::min);
            let most = numbers.iter().copied().fold(f64::NEG_INFINITY, f64::max);
            let limit = limit_of(name, figures);
            let ratio = limit.as_ref().and_then(|limit| figures.ratio(name, limit));
            vec![
                name.to_string(),
                digits(median(numbers)),
                unit.to_string(),
                format!("{} .. {}", digits(least), digits(most)),
                maybe(ratio),
                limit.unwrap_or_default(),
            ]
        })
        .collect();
    table(&["figure", "median", "unit", "rounds", "ratio", "of"], &rows);
}

pub fn goals(goals: &[Goal]) {
    let rows: Vec<Vec<String>> = goals
        .iter()
        .map(|goal| {
            let verdict = goal.verdict().to_string();
            vec![goal.figure.clone(), goal.goal.clone(), maybe(goal.measured), verdict]
        })
        .collect();
    table(&["goal", "to reach", "measured", "verdict"], &rows);
}

pub fn figures_json(figures: &Figures) -> Value {
    let entries = figures.iter().map(|(name, unit, numbers)| {
        let limit = limit_of(name, figures);
        let ratio = limit.as_ref().and_then(|limit| figures.ratio(name, limit));
        let mut entry = json!({ "unit": unit, "median": median(numbers), "rounds": numbers });
        if let Some(ratio) = ratio {
            entry["ratio"] = json!(ratio);
            entry["of"] = json!(limit);
        }
        (name.to_string(), entry)
    });
    Value::Object(entries.collect::<Map<_, _>>())
}

pub fn write_json(path: &Path, value: &Value) {
    if let Some(dir) = path.parent() {
        std::fs::create_dir_all(dir).unwrap_or_else(|error| panic!("create {}: {error}", dir.display()));
    }
    let text = serde_json::to_string_pretty(value).expect("JSON of strings and numbers");
    std::fs::write(path, text + "\n").unwrap_or_else(|error| panic!("write {}: {error}", path.display()));
}
