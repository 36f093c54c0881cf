//! Tables and records for people. A value that is not there is `-`.

use super::output::printable;

/// Columns as wide as their widest cell, two blanks apart, left-aligned.
pub(super) fn table(head: &[&str], rows: &[Vec<String>]) -> String {
    let cell = |text: &str| match printable(text).replace('\n', " ") {
        empty if empty.is_empty() => "-".to_owned(),
        text => text,
    };
    let mut lines: Vec<Vec<String>> = vec![head.iter().map(|name| (*name).to_owned()).collect()];
    lines.extend(rows.iter().map(|row| row.iter().map(|text| cell(text)).collect()));
    let widths: Vec<usize> = (0..head.len())
        .map(|column| {
            lines.iter().filter_map(|line| line.get(column)).map(|text| text.chars().count()).max().unwrap_or(0)
        })
        .collect();
    let mut text = String::new();
    for line in &lines {
        let cells = line.iter().zip(&widths).map(|(cell, width)| format!("{cell:<width$}"));
        text.push_str(cells.collect::<Vec<_>>().join("  ").trim_end());
        text.push('\n');
    }
    text
}

/// One `name: value` a line; further lines of a value are indented.
pub(super) fn record(fields: &[(&str, String)]) -> String {
    let mut text = String::new();
    for (name, value) in fields {
        let value = if value.is_empty() { "-".to_owned() } else { printable(value).replace('\n', "\n    ") };
        text.push_str(&format!("{name}: {value}\n"));
    }
    text
}

/// The value, or nothing.
pub(super) fn or_dash<T: std::fmt::Display>(value: Option<T>) -> String {
    value.map_or_else(|| "-".to_owned(), |value| value.to_string())
}

/// `0,1`, or nothing.
pub(super) fn list<T: std::fmt::Display>(values: &[T]) -> String {
    values.iter().map(ToString::to_string).collect::<Vec<_>>().join(",")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_are_aligned() {
        let rows = [vec!["1".into(), String::new(), "ä".into()], vec!["22222".into(), "b\x1b".into(), "cc".into()]];
        assert_eq!(table(&["id", "name", "x"], &rows), "id     name     x\n1      -        ä\n22222  b\\u{1b}  cc\n");
        assert_eq!(table(&["id", "name"], &[]), "id  name\n");
    }

    #[test]
    fn records_keep_one_field_a_line() {
        let fields =
            [("status", "failed".to_owned()), ("name", String::new()), ("error", "a\nstatus: running".to_owned())];
        assert_eq!(record(&fields), "status: failed\nname: -\nerror: a\n    status: running\n");
    }
}
