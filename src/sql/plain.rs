//! A text spelled so that every session reads it alike. How the server reads a text hangs on
//! `standard_conforming_strings`, `backslash_quote` and `client_encoding`; one that was read under some
//! values of them may have to be prepared again under others.
//!
//! So strings with backslashes or Unicode escapes become `E'…'`, and what is not ASCII is escaped.

use super::lex::{Kind, Token, identifier, is_keyword, tokens, unescaped};
use std::fmt::Write as _;
use std::ops::Range;

/// The pieces of a text that are to be spelled in another way, in order. Nothing: it is read alike
/// everywhere, or is no SQL.
pub fn respelled(text: &str) -> Vec<(Range<usize>, String)> {
    let Ok(tokens) = tokens(text) else { return Vec::new() };
    let mut pieces = Vec::new();
    let mut done = 0;
    let mut rest = tokens.as_slice();
    while let Some((token, after)) = rest.split_first() {
        comments(text, done..token.at.start, &mut pieces);
        done = token.at.end;
        rest = after;
        let spelled = text.get(token.at.clone()).unwrap_or_default();
        match token.kind {
            Kind::Text => {
                let end = string(text, spelled, token, after, &mut pieces);
                rest = after.get(end..).unwrap_or_default();
                if let Some(last) = end.checked_sub(1).and_then(|last| after.get(last)) {
                    done = last.at.end;
                }
            }
            Kind::Word | Kind::Quoted | Kind::UnicodeQuoted if !spelled.is_ascii() => {
                let name = identifier(text, token).unwrap_or_default();
                pieces.push((token.at.clone(), escaped_identifier(&name)));
            }
            _ => {}
        }
    }
    comments(text, done..text.len(), &mut pieces);
    pieces
}

/// What stands between tokens is blank, or a comment.
fn comments(text: &str, at: Range<usize>, pieces: &mut Vec<(Range<usize>, String)>) {
    let between = text.get(at.clone()).unwrap_or_default();
    if !between.is_ascii() {
        pieces.push((at, between.chars().map(|c| if c.is_ascii() { c } else { '?' }).collect()));
    }
}

/// A string; returns how many of the tokens behind it belong to it.
fn string(
    text: &str,
    spelled: &str,
    token: &Token,
    after: &[Token],
    pieces: &mut Vec<(Range<usize>, String)>,
) -> usize {
    let quote = spelled.find('\'').unwrap_or(0);
    match spelled.as_bytes().first() {
        Some(b'e' | b'E') => {
            let content = spelled.get(2..spelled.len() - 1).unwrap_or_default();
            if !content.is_ascii() || content.contains("\\'") {
                pieces.push((token.at.clone(), format!("E'{}'", same_escapes(content))));
            }
            0
        }
        Some(b'$') => {
            if !spelled.is_ascii() {
                let tag = spelled.get(1..).and_then(|s| s.find('$')).unwrap_or(0) + 2;
                let content = spelled.get(tag..spelled.len() - tag).unwrap_or_default();
                pieces.push((token.at.clone(), format!("E'{}'", escaped(content))));
            }
            0
        }
        Some(b'b' | b'B' | b'x' | b'X') => 0,
        Some(b'u' | b'U') => {
            let (mut content, parts) = continued(text, spelled, quote, after);
            let mut belongs = parts;
            let mut escape = '\\';
            let mut end = parts.checked_sub(1).and_then(|i| after.get(i)).unwrap_or(token).at.end;
            if let [word, by, ..] = after.get(parts..).unwrap_or_default()
                && is_keyword(text, word, "uescape")
            {
                let by_text = text.get(by.at.clone()).unwrap_or_default().trim_matches('\'');
                escape = by_text.chars().next().unwrap_or('\\');
                (belongs, end) = (parts + 2, by.at.end);
            }
            if let Some(meant) = unescaped(&content, escape) {
                content = meant;
                pieces.push((token.at.start..end, format!("E'{}'", escaped(&content))));
            }
            belongs
        }
        _ => {
            let (content, parts) = continued(text, spelled, quote, after);
            if content.contains('\\') || !content.is_ascii() {
                let end = parts.checked_sub(1).and_then(|i| after.get(i)).unwrap_or(token).at.end;
                let national = if quote > 0 { "NCHAR " } else { "" };
                pieces.push((token.at.start..end, format!("{national}E'{}'", escaped(&content))));
            }
            parts
        }
    }
}

/// What a string is that may go on in further tokens, and in how many.
fn continued(text: &str, spelled: &str, quote: usize, after: &[Token]) -> (String, usize) {
    let inner = |s: &str| s.get(1..s.len().max(2) - 1).unwrap_or_default().replace("''", "'");
    let mut content = inner(spelled.get(quote..).unwrap_or_default());
    let parts = after
        .iter()
        .take_while(|t| t.kind == Kind::Text)
        .map(|t| text.get(t.at.clone()).unwrap_or_default())
        .take_while(|part| part.starts_with('\''));
    let mut count = 0;
    for part in parts {
        content.push_str(&inner(part));
        count += 1;
    }
    (content, count)
}

fn escaped(content: &str) -> String {
    let mut out = String::with_capacity(content.len() + 8);
    for c in content.chars() {
        match c {
            '\'' => out.push_str("''"),
            '\\' => out.push_str("\\\\"),
            c => push_ascii(&mut out, c),
        }
    }
    out
}

/// The content of `E'…'`, with quotes doubled.
fn same_escapes(content: &str) -> String {
    let mut out = String::with_capacity(content.len() + 8);
    let mut chars = content.chars();
    while let Some(c) = chars.next() {
        match (c, (c == '\\').then(|| chars.next()).flatten()) {
            ('\\', Some('\'')) => out.push_str("''"),
            ('\\', Some(next)) if next.is_ascii() => out.extend(['\\', next]),
            ('\\', Some(next)) => push_ascii(&mut out, next),
            (c, _) => push_ascii(&mut out, c),
        }
    }
    out
}

fn push_ascii(out: &mut String, c: char) {
    if c.is_ascii() {
        return out.push(c);
    }
    let code = u32::from(c);
    let _infallible = match code > 0xFFFF {
        true => write!(out, "\\U{code:08X}"),
        false => write!(out, "\\u{code:04X}"),
    };
}

fn escaped_identifier(name: &str) -> String {
    let mut out = String::from("U&\"");
    for c in name.chars() {
        let code = u32::from(c);
        let _infallible = match c {
            '"' => write!(out, "\"\""),
            '\\' => write!(out, "\\\\"),
            c if c.is_ascii() => write!(out, "{c}"),
            _ if code > 0xFFFF => write!(out, "\\+{code:06X}"),
            _ => write!(out, "\\{code:04X}"),
        };
    }
    out.push('"');
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    fn plain(text: &str) -> String {
        let mut out = String::new();
        let mut done = 0;
        for (at, piece) in respelled(text) {
            out.push_str(&text[done..at.start]);
            out.push_str(&piece);
            done = at.end;
        }
        out.push_str(&text[done..]);
        out
    }

    #[test]
    fn what_hangs_on_settings_is_spelled_in_another_way() {
        for (text, expected) in [
            ("select 'a', E'b\\n', $$c\\$$, x'0f', 1", "select 'a', E'b\\n', $$c\\$$, x'0f', 1"),
            ("select 'a\\b''c'", "select E'a\\\\b''c'"),
            ("select 'a' -- x\n 'b\\c', 'd'", "select E'ab\\\\c', 'd'"),
            ("select U&'d\\0061t\\+000061' , 1", "select E'data' , 1"),
            ("select u&'d!0061\\' uescape '!' x", "select E'da\\\\' x"),
            ("select N'a\\b'", "select NCHAR E'a\\\\b'"),
            ("select E'it\\'s \\\\'", "select E'it''s \\\\'"),
            (
                "select 'é', E'\\é', $é$😀'$é$ /* é */",
                "select E'\\u00E9', E'\\u00E9', E'\\U0001F600''' /* ? */",
            ),
            (
                "select É, \"ü\"\"\\\", u&\"\\0061\" from t",
                "select U&\"\\00C9\", U&\"\\00FC\"\"\\\\\", u&\"\\0061\" from t",
            ),
        ] {
            assert_eq!(plain(text), expected, "{text}");
            assert_eq!(respelled(expected), [], "{expected}");
        }
    }
}
