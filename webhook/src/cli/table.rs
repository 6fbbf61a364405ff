//! Tables and times as kubectl prints them.

use std::fmt::Write;

use jiff::SignedDuration;

use crate::review::printable;

/// Between two columns.
const GAP: &str = "   ";

/// Lines of columns. Each column is as wide as its widest cell so far, so that rows that come later stand below the others.
#[derive(Debug, Default)]
pub(super) struct Table {
    widths: Vec<usize>,
}

impl Table {
    /// These rows as text, each on one line, whatever its cells quote. The last column is not filled up.
    pub(super) fn print(&mut self, rows: &[Vec<String>]) -> String {
        let rows: Vec<Vec<String>> = rows.iter().map(|row| row.iter().map(|cell| printable(cell)).collect()).collect();
        for row in &rows {
            self.widths.resize(self.widths.len().max(row.len()), 0);
            for (width, cell) in self.widths.iter_mut().zip(row) {
                *width = (*width).max(cell.chars().count());
            }
        }
        let mut text = String::new();
        for row in &rows {
            let mut line = String::new();
            for (&width, cell) in self.widths.iter().zip(row) {
                // Writing to a text cannot fail.
                let _ = write!(line, "{cell:width$}{GAP}");
            }
            text += line.trim_end();
            text.push('\n');
        }
        text
    }
}

/// How long, as kubectl says it (`HumanDuration` in k8s.io/apimachinery, pkg/util/duration): two units while the first alone would
/// be coarse. What lies in the future by the difference of two clocks is now.
pub(super) fn age(since: SignedDuration) -> String {
    let seconds = since.as_secs().max(0);
    let (minutes, hours, days) = (seconds / 60, seconds / 3600, seconds / 86400);
    let years = days / 365;
    let two = |first: i64, unit: &str, rest: i64, smaller: &str| match rest {
        0 => format!("{first}{unit}"),
        rest => format!("{first}{unit}{rest}{smaller}"),
    };
    match seconds {
        0..120 => format!("{seconds}s"),
        120..600 => two(minutes, "m", seconds % 60, "s"),
        600..10_800 => format!("{minutes}m"),
        10_800..28_800 => two(hours, "h", minutes % 60, "m"),
        28_800..172_800 => format!("{hours}h"),
        172_800..691_200 => two(days, "d", hours % 24, "h"),
        _ if years < 2 => format!("{days}d"),
        _ if years < 8 => two(years, "y", days % 365, "d"),
        _ => format!("{years}y"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_stay_where_they_are() {
        let row = |cells: [&str; 3]| cells.map(str::to_owned).to_vec();
        let mut table = Table::default();
        let first = table.print(&[row(["ID", "LEADER", "TROUBLE"]), row(["billing", "a", "-"])]);
        assert_eq!(first, "ID        LEADER   TROUBLE\nbilling   a        -\n");
        assert_eq!(table.print(&[row(["x", "b", "on hold"])]), "x         b        on hold\n");
    }

    #[test]
    fn a_cell_neither_steers_the_terminal_nor_makes_a_row() {
        let row = vec!["a\u{1b}[2J\nb".to_owned(), "\u{202e}c\u{9b}".to_owned()];
        assert_eq!(Table::default().print(&[row]), "a\\u{1b}[2J\\nb   \\u{202e}c\\u{9b}\n");
    }

    #[test]
    fn as_kubectl_says_it() {
        for (seconds, said) in [
            (-5, "0s"),
            (0, "0s"),
            (119, "119s"),
            (120, "2m"),
            (185, "3m5s"),
            (600, "10m"),
            (10_799, "179m"),
            (10_800, "3h"),
            (27_900, "7h45m"),
            (28_800, "8h"),
            (172_799, "47h"),
            (176_400, "2d1h"),
            (691_200, "8d"),
            (63_072_000, "2y"),
            (63_158_400, "2y1d"),
            (252_288_000, "8y"),
        ] {
            assert_eq!(age(SignedDuration::from_secs(seconds)), said, "{seconds}");
        }
    }
}
