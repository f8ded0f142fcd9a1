//! A metric and its samples, and their text: Prometheus' exposition format, version 0.0.4.

use std::fmt::Write;

/// A metric. All of ours are gauges: what is true now.
#[derive(Debug, Clone, PartialEq)]
pub struct Family {
    /// Its name, `coracle_<room>_<what>_<unit>`.
    pub name: &'static str,
    /// What it tells, as a sentence.
    pub help: &'static str,
    /// Its values, each with other labels.
    pub samples: Vec<Sample>,
}

/// A value.
#[derive(Debug, Clone, PartialEq)]
pub struct Sample {
    /// Names and values of its labels. Values may be any text.
    pub labels: Vec<(&'static str, String)>,
    /// The value, in the unit of the metric's name.
    pub value: f64,
}

impl Family {
    /// A metric that has one value.
    pub fn of(name: &'static str, help: &'static str, value: f64) -> Self {
        Self { name, help, samples: vec![Sample { labels: Vec::new(), value }] }
    }

    /// A metric that has a value for each value of a label.
    pub fn by(
        name: &'static str,
        help: &'static str,
        label: &'static str,
        values: impl IntoIterator<Item = (String, f64)>,
    ) -> Self {
        let sample = |(of, value)| Sample { labels: vec![(label, of)], value };
        Self { name, help, samples: values.into_iter().map(sample).collect() }
    }
}

/// The page.
pub(crate) fn text(families: &[Family]) -> String {
    let mut text = String::new();
    for family in families {
        // Writing to a string cannot fail.
        let _ = writeln!(text, "# HELP {} {}", family.name, escaped(family.help, false));
        let _ = writeln!(text, "# TYPE {} gauge", family.name);
        for sample in &family.samples {
            text += family.name;
            if !sample.labels.is_empty() {
                let label = |(name, value): &(&str, String)| format!("{name}=\"{}\"", escaped(value, true));
                let labels: Vec<_> = sample.labels.iter().map(label).collect();
                let _ = write!(text, "{{{}}}", labels.join(","));
            }
            let _ = writeln!(text, " {}", number(sample.value));
        }
    }
    text
}

/// As Go's ParseFloat reads it.
fn number(value: f64) -> String {
    match value {
        f64::INFINITY => "+Inf".into(),
        f64::NEG_INFINITY => "-Inf".into(),
        value => value.to_string(),
    }
}

fn escaped(text: &str, in_quotes: bool) -> String {
    let text = text.replace('\\', r"\\").replace('\n', r"\n");
    if in_quotes { text.replace('"', r#"\""#) } else { text }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_text_is_the_exposition_format_and_no_value_breaks_out_of_it() {
        let labels = vec![("state", "a\"b\\c\nd ü".to_owned()), ("x", String::new())];
        let families = [
            Family::of("coracle_x_seconds", "Seconds,\nof \\ \"x\".", 1.5),
            Family { name: "coracle_y", help: "Y.", samples: vec![Sample { labels, value: f64::INFINITY }] },
            Family::by("coracle_z", "Z.", "state", [("one".into(), 1.0), ("two".into(), f64::NAN)]),
            Family { name: "coracle_none", help: "None.", samples: Vec::new() },
        ];
        assert_eq!(
            text(&families),
            "# HELP coracle_x_seconds Seconds,\\nof \\\\ \"x\".\n\
             # TYPE coracle_x_seconds gauge\n\
             coracle_x_seconds 1.5\n\
             # HELP coracle_y Y.\n\
             # TYPE coracle_y gauge\n\
             coracle_y{state=\"a\\\"b\\\\c\\nd ü\",x=\"\"} +Inf\n\
             # HELP coracle_z Z.\n\
             # TYPE coracle_z gauge\n\
             coracle_z{state=\"one\"} 1\n\
             coracle_z{state=\"two\"} NaN\n\
             # HELP coracle_none None.\n\
             # TYPE coracle_none gauge\n"
        );
    }
}
