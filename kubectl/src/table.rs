//! Aligns columns. Pure.

/// Where a column's text stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Side {
    Left,
    Right,
}

/// Renders rows with columns as wide as their widest cell, three spaces between them, nothing behind the last.
pub(crate) fn table(indent: &str, sides: &[Side], rows: &[Vec<String>]) -> String {
    let width = |column: usize| {
        rows.iter()
            .filter_map(|row| row.get(column))
            .map(|cell| cell.chars().count())
            .max()
            .unwrap_or(0)
    };
    let widths: Vec<usize> = (0..sides.len()).map(width).collect();
    let mut text = String::new();
    for row in rows {
        let cells: Vec<String> = row
            .iter()
            .zip(&widths)
            .zip(sides)
            .map(|((cell, &width), side)| match side {
                Side::Left => format!("{cell:<width$}"),
                Side::Right => format!("{cell:>width$}"),
            })
            .collect();
        text += format!("{indent}{}", cells.join("   ")).trim_end();
        text.push('\n');
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_are_as_wide_as_their_widest_cell() {
        let rows = [["NAME", "N"], ["a", "1,000"], ["größer", "1"]].map(|row| row.map(str::to_owned).to_vec());
        assert_eq!(
            table("  ", &[Side::Left, Side::Right], &rows),
            "  NAME         N\n  a        1,000\n  größer       1\n"
        );
    }

    #[test]
    fn nothing_stands_behind_the_last_column() {
        let rows = [["a", ""], ["bbb", "x"]].map(|row| row.map(str::to_owned).to_vec());
        assert_eq!(table("", &[Side::Left, Side::Left], &rows), "a\nbbb   x\n");
    }
}
