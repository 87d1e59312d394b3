//! The only place that prints.
//!
//! Invariant: a line is one line, and nothing in it moves a cursor, whatever names and statements
//! hold. Answers for programs are as JSON has them.

use super::failure::Failure;
use serde::Serialize;
use std::borrow::Cow;
use std::io::Write;

/// One line of a command's answer. A reader that has gone (`| head`) is not an error.
pub(super) fn line(text: &str) {
    writeln!(std::io::stdout().lock(), "{}", safe(text)).ok();
}

/// Lines of ours, or SQL, which has them where it likes.
pub(super) fn lines(text: &str) {
    for line in text.split('\n') {
        let line: Vec<_> = line.split('\t').map(safe).collect();
        writeln!(std::io::stdout().lock(), "{}", line.join("\t")).ok();
    }
}

/// A command's answer for programs.
pub(super) fn json(answer: &impl Serialize) -> Result<(), Failure> {
    let text = serde_json::to_string_pretty(answer).map_err(|e| Failure::from_error(&e))?;
    writeln!(std::io::stdout().lock(), "{text}").ok();
    Ok(())
}

/// A remark beside the answer.
pub(super) fn remark(text: &str) {
    writeln!(std::io::stderr().lock(), "{}", safe(text)).ok();
}

/// Why there is no answer: the message in its lines.
pub(super) fn error(message: &str, hint: &str) {
    format!("error: {message}").split('\n').for_each(remark);
    if !hint.is_empty() {
        remark(&format!("hint: {hint}"));
    }
}

/// Rows in columns as wide as they need to be.
pub(super) fn table<const N: usize>(head: [&str; N], rows: &[[String; N]]) {
    let shown = |row: &[String; N]| row.each_ref().map(|cell| safe(cell).into_owned());
    let rows: Vec<[String; N]> = rows.iter().map(shown).collect();
    let mut widths = head.map(|title| title.chars().count());
    for row in &rows {
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
    for row in &rows {
        print(&mut row.iter().map(String::as_str));
    }
}

/// A text in which what a terminal obeys, or hides, is spelled out.
pub(super) fn safe(text: &str) -> Cow<'_, str> {
    if !text.chars().any(is_obeyed) {
        return Cow::Borrowed(text);
    }
    let mut shown = String::with_capacity(text.len() + 16);
    for c in text.chars() {
        match is_obeyed(c) {
            true => shown.extend(c.escape_default()),
            false => shown.push(c),
        }
    }
    Cow::Owned(shown)
}

/// Control characters, line ends, marks that turn the direction of writing, what has no width.
fn is_obeyed(c: char) -> bool {
    c.is_control()
        || matches!(c,
            '\u{ad}' | '\u{61c}' | '\u{180e}' | '\u{200b}' | '\u{200e}' | '\u{200f}'
            | '\u{2028}'..='\u{202e}' | '\u{2060}'..='\u{206f}' | '\u{feff}'
            | '\u{fff9}'..='\u{fffb}' | '\u{e0000}'..='\u{e007f}')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_moves_the_cursor_or_turns_the_line() {
        for (text, shown) in [
            ("a\u{1b}[2Jü\n", "a\\u{1b}[2Jü\\n"),
            ("\u{7}\r\t\u{9b}", "\\u{7}\\r\\t\\u{9b}"),
            ("\u{202e}\u{2028}\u{2066}\u{200f}", "\\u{202e}\\u{2028}\\u{2066}\\u{200f}"),
            ("größe日本 \\n 👍🏽", "größe日本 \\n 👍🏽"),
        ] {
            assert_eq!(safe(text), shown);
        }
    }
}
