//! The only place that prints.

use super::failure::Failure;
use serde::Serialize;
use std::io::Write;

/// One line of a command's answer. A reader that has gone (`| head`) is not an error.
pub(super) fn line(text: &str) {
    writeln!(std::io::stdout().lock(), "{text}").ok();
}

/// A command's answer for programs.
pub(super) fn json(answer: &impl Serialize) -> Result<(), Failure> {
    let text = serde_json::to_string_pretty(answer).map_err(|e| Failure::from_error(&e))?;
    line(&text);
    Ok(())
}

/// A remark beside the answer.
pub(super) fn remark(text: &str) {
    writeln!(std::io::stderr().lock(), "{text}").ok();
}

/// Why there is no answer.
pub(super) fn error(message: &str, hint: &str) {
    remark(&format!("error: {message}"));
    if !hint.is_empty() {
        remark(&format!("hint: {hint}"));
    }
}

/// Rows in columns as wide as they need to be.
pub(super) fn table<const N: usize>(head: [&str; N], rows: &[[String; N]]) {
    let mut widths = head.map(|title| title.chars().count());
    for row in rows {
        for (width, cell) in widths.iter_mut().zip(row) {
            *width = cell.chars().count().max(*width);
        }
    }
    let print = |cells: &mut dyn Iterator<Item = &str>| {
        let cells: Vec<String> =
            cells.zip(widths).map(|(cell, width)| format!("{cell:width$}")).collect();
        line(cells.join("  ").trim_end());
    };
    print(&mut head.into_iter());
    for row in rows {
        print(&mut row.iter().map(String::as_str));
    }
}
