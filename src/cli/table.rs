//! Tables as Docker's users know them: no lines, columns apart by spaces.

use comfy_table::{Table, presets::NOTHING};

/// Columns between two others.
const APART: u16 = 3;

/// A header and its rows, a line each.
pub(crate) fn table(header: Vec<String>, rows: impl IntoIterator<Item = Vec<String>>) -> String {
    let mut table = Table::new();
    table.load_style(NOTHING);
    table.set_header(header);
    for row in rows {
        table.add_row(row);
    }
    for column in table.column_iter_mut() {
        column.set_padding((0, APART));
    }
    table.lines().map(|line| format!("{}\n", line.trim_end())).collect()
}
