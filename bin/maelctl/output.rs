//! What people read: tables, ages, amounts.
//!
//! Knows nothing of what is shown.

use maelstrom::admin::client::sanitized;

mod sheet;

pub(crate) use sheet::Sheet;

/// Between two columns.
const GAP: &str = "  ";

/// A table without borders, its columns aligned.
#[derive(Debug)]
pub(crate) struct Table {
    columns: &'static [Column],
    rows: Vec<Vec<String>>,
}

/// A column: its title, and whether only a wide table has it.
pub(crate) type Column = (&'static str, bool);

impl Table {
    pub(crate) fn new(columns: &'static [Column]) -> Self {
        Self { columns, rows: Vec::new() }
    }

    /// Adds a row of as many cells as there are columns.
    pub(crate) fn row<const N: usize>(&mut self, cells: [String; N]) {
        debug_assert_eq!(N, self.columns.len(), "a cell for each column");
        self.rows.push(
            cells.map(|cell| if cell.is_empty() { "-".to_owned() } else { sanitized(&cell).into_owned() }).into(),
        );
    }

    /// The table as text.
    pub(crate) fn render(&self, wide: bool, headers: bool, colour: bool) -> String {
        let shown: Vec<usize> =
            self.columns.iter().enumerate().filter(|(_, (_, extra))| wide || !extra).map(|(index, _)| index).collect();
        let titles: Vec<String> = self.columns.iter().map(|(title, _)| (*title).to_owned()).collect();
        let lines: Vec<&Vec<String>> = headers.then_some(&titles).into_iter().chain(&self.rows).collect();
        let width = |column: usize| lines.iter().map(|line| line[column].chars().count()).max().unwrap_or(0);
        let widths: Vec<usize> = shown.iter().map(|&column| width(column)).collect();
        let mut text = String::new();
        for line in lines {
            let mut cells = Vec::new();
            for (&column, &width) in shown.iter().zip(&widths) {
                let cell = &line[column];
                let padding = " ".repeat(width - cell.chars().count());
                let is_state = colour && self.columns[column].0 == "STATE";
                cells.push(if is_state { format!("{}{padding}", painted(cell)) } else { format!("{cell}{padding}") });
            }
            text.push_str(cells.join(GAP).trim_end());
            text.push('\n');
        }
        text
    }
}

/// A state in its colour.
fn painted(state: &str) -> String {
    let code = match state {
        "ready" | "alive" | "enabled" => 32,
        "failing" | "conflict" | "down" | "suspect" | "orphaned" => 31,
        "pulling" | "starting" | "draining" | "stopping" => 33,
        _ => return state.to_owned(),
    };
    format!("\u{1b}[{code}m{state}\u{1b}[0m")
}

/// A span of milliseconds by its two largest units: `45s`, `3m12s`, `5h2m`, `12d3h`.
pub(crate) fn age(ms: u64) -> String {
    let seconds = ms / 1000;
    let (days, hours, minutes) = (seconds / 86_400, seconds / 3600 % 24, seconds / 60 % 60);
    let two = |large: u64, a: &str, small: u64, b: &str| match small {
        0 => format!("{large}{a}"),
        _ => format!("{large}{a}{small}{b}"),
    };
    match (days, hours, minutes) {
        (0, 0, 0) => format!("{seconds}s"),
        (0, 0, _) => two(minutes, "m", seconds % 60, "s"),
        (0, _, _) => two(hours, "h", minutes, "m"),
        _ => two(days, "d", hours, "h"),
    }
}

/// Bytes with one digit after the point: `1.5GiB`.
pub(crate) fn bytes(count: u64) -> String {
    const UNITS: [&str; 5] = ["KiB", "MiB", "GiB", "TiB", "PiB"];
    if count < 1024 {
        return format!("{count}B");
    }
    // Tenths of the unit, so that no float rounds them up.
    let mut tenths = u128::from(count) * 10 / 1024;
    let mut unit = 0;
    while tenths >= 10 * 1024 && unit + 1 < UNITS.len() {
        tenths /= 1024;
        unit += 1;
    }
    match tenths % 10 {
        0 => format!("{}{}", tenths / 10, UNITS[unit]),
        rest => format!("{}.{rest}{}", tenths / 10, UNITS[unit]),
    }
}

/// A text of at most `max` characters; a longer one loses its end.
pub(crate) fn cut(text: &str, max: usize) -> String {
    match text.char_indices().nth(max) {
        None => text.to_owned(),
        Some(_) => text.chars().take(max.saturating_sub(1)).chain(['…']).collect(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_table_is_aligned_and_shows_wide_columns_only_if_asked() {
        let mut table = Table::new(&[("NAME", false), ("ID", true), ("STATE", false)]);
        table.row(["a".into(), "1".into(), "ready".into()]);
        table.row(["long".into(), "2".into(), String::new()]);
        assert_eq!(table.render(false, true, false), "NAME  STATE\na     ready\nlong  -\n");
        assert_eq!(
            table.render(true, false, false),
            "a     1   ready\nlong  2   -\n".replace("1   ", "1  ").replace("2   ", "2  ")
        );
        assert!(table.render(false, false, true).contains("\u{1b}[32mready\u{1b}[0m"));
    }

    #[test]
    fn a_cell_cannot_move_the_cursor() {
        let mut table = Table::new(&[("NAME", false)]);
        table.row(["a\u{1b}[2J".into()]);
        assert!(!table.render(false, false, false).contains('\u{1b}'));
    }

    #[test]
    fn ages_and_amounts_are_short() {
        for (ms, text) in [
            (0, "0s"),
            (45_999, "45s"),
            (192_000, "3m12s"),
            (180_000, "3m"),
            (18_120_000, "5h2m"),
            (1_047_600_000, "12d3h"),
        ] {
            assert_eq!(age(ms), text);
        }
        for (count, text) in [(0, "0B"), (1023, "1023B"), (1536, "1.5KiB"), (1 << 30, "1GiB"), (u64::MAX, "16383.9PiB")]
        {
            assert_eq!(bytes(count), text);
        }
        assert_eq!(cut("abcdef", 4), "abc…");
        assert_eq!(cut("abcd", 4), "abcd");
    }
}
