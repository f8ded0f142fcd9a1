//! The results as Markdown and JSON.

use std::time::Duration;

use serde_json::json;

/// One measured thing.
pub(super) struct Row {
    what: String,
    unit: &'static str,
    ours: Spread,
    theirs: Spread,
}

/// Median and ninetieth percentile.
#[derive(Clone, Copy)]
struct Spread {
    median: f64,
    p90: f64,
}

impl Row {
    /// From the times of a call, in milliseconds.
    pub(super) fn of_times((what, (ours, theirs)): (&&str, (Vec<Duration>, Vec<Duration>))) -> Row {
        let millis = |times: Vec<Duration>| Spread::of(times.iter().map(|time| time.as_secs_f64() * 1e3).collect());
        Row { what: (*what).to_owned(), unit: "ms", ours: millis(ours), theirs: millis(theirs) }
    }

    /// From several measurements of one quantity.
    pub(super) fn of(what: &str, unit: &'static str, ours: Vec<f64>, theirs: Vec<f64>) -> Row {
        Row { what: what.to_owned(), unit, ours: Spread::of(ours), theirs: Spread::of(theirs) }
    }

    fn ratio(&self) -> f64 {
        self.theirs.median / self.ours.median
    }
}

impl Spread {
    fn of(mut values: Vec<f64>) -> Spread {
        values.sort_by(f64::total_cmp);
        let at = |share: f64| values[((values.len() - 1) as f64 * share).round() as usize];
        Spread { median: at(0.5), p90: at(0.9) }
    }
}

/// A table for people.
pub(super) fn markdown(rows: &[Row]) -> String {
    let mut text = String::from(
        "| | unit | Coracle median | p90 | containerd median | p90 | ratio |\n|---|---|---|---|---|---|---|\n",
    );
    for row in rows {
        text.push_str(&format!(
            "| {} | {} | {:.2} | {:.2} | {:.2} | {:.2} | 1/{:.1} |\n",
            row.what,
            row.unit,
            row.ours.median,
            row.ours.p90,
            row.theirs.median,
            row.theirs.p90,
            row.ratio()
        ));
    }
    text
}

/// The same for programs.
pub(super) fn json(rows: &[Row]) -> String {
    let one = |row: &Row| {
        json!({
            "what": row.what, "unit": row.unit, "ratio": row.ratio(),
            "coracle": { "median": row.ours.median, "p90": row.ours.p90 },
            "containerd": { "median": row.theirs.median, "p90": row.theirs.p90 },
        })
    };
    serde_json::to_string_pretty(&rows.iter().map(one).collect::<Vec<_>>()).unwrap()
}
