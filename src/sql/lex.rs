//! Postgres's lexical structure, as far as positions need it: every token with its byte range.
//! <https://www.postgresql.org/docs/15/sql-syntax-lexical.html>, `standard_conforming_strings` on.
//!
//! Own code because rewriting splices the client's text at these offsets, and because a token that
//! the server reads differently would be a hole: `sqlparser`'s tokenizer is the oracle in tests.

use std::ops::Range;

/// What a token is; its text is the statement at its range.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// An unquoted identifier or keyword.
    Word,
    /// `"…"`.
    Quoted,
    /// `U&"…"`, with its `UESCAPE '…'`: an identifier whose name is not its spelling.
    UnicodeQuoted,
    /// Any string constant: `'…'`, `E'…'`, `B'…'`, `X'…'`, `N'…'`, `U&'…'`, `$tag$…$tag$`.
    Text,
    /// A numeric constant.
    Number,
    /// `$1`.
    Param,
    /// `(` or `[`.
    Open,
    /// `)` or `]`.
    Close,
    /// `,`
    Comma,
    /// `;`
    Semicolon,
    /// `.`
    Dot,
    /// An operator, or `:`, `::`, `:=`.
    Operator,
}

/// One token; white space and comments are none.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Token {
    /// What it is.
    pub kind: Kind,
    /// Where it is, in bytes.
    pub at: Range<usize>,
    /// How many brackets are open around it; a bracket itself counts as outside.
    pub depth: u32,
}

/// Text that is not a sequence of tokens: something does not close, or a stray character.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("not SQL from byte {0} on")]
pub struct LexError(pub usize);

/// All tokens of a text.
///
/// # Errors
/// When a string, identifier, comment or bracket does not close, or a character belongs nowhere.
pub fn tokens(text: &str) -> Result<Vec<Token>, LexError> {
    let mut lexer = Lexer { bytes: text.as_bytes(), at: 0 };
    let mut out = Vec::with_capacity(text.len() / 5 + 4);
    let mut depth = 0u32;
    while let Some((kind, at)) = lexer.next()? {
        if kind == Kind::Close {
            depth = depth.checked_sub(1).ok_or(LexError(at.start))?;
        }
        out.push(Token { kind, at, depth });
        if kind == Kind::Open {
            depth += 1;
        }
    }
    if depth > 0 {
        return Err(LexError(text.len()));
    }
    Ok(out)
}

/// Whether a text has this word somewhere, be it a part of another. Words of the grammar are the same bytes in
/// every encoding.
pub fn spells(text: &[u8], word: &str) -> bool {
    text.windows(word.len().max(1)).any(|w| w.eq_ignore_ascii_case(word.as_bytes()))
}

/// The first keyword of a text, lower-cased into `buffer`: white space, comments, semicolons and opening
/// parentheses before it are skipped. `None` when there is none, or it is longer than any keyword.
pub fn first_word<'b>(text: &[u8], buffer: &'b mut [u8; 16]) -> Option<&'b str> {
    let mut lexer = Lexer { bytes: text, at: 0 };
    loop {
        lexer.skip_blank().ok()?;
        if !matches!(lexer.peek(0), Some(b'(' | b';')) {
            break;
        }
        lexer.at += 1;
    }
    let start = lexer.at;
    let word = text.get(start..lexer.end_of_word(start))?;
    let out = buffer.get_mut(..word.len())?;
    out.copy_from_slice(word);
    out.make_ascii_lowercase();
    std::str::from_utf8(out).ok().filter(|w| !w.is_empty())
}

struct Lexer<'a> {
    bytes: &'a [u8],
    at: usize,
}

fn is_ident_start(b: u8) -> bool {
    b.is_ascii_alphabetic() || b == b'_' || b >= 0x80
}

fn is_ident(b: u8) -> bool {
    is_ident_start(b) || b.is_ascii_digit() || b == b'$'
}

fn is_operator(b: u8) -> bool {
    b"~!@#^&|`?+-*/%<>=".contains(&b)
}

impl Lexer<'_> {
    fn peek(&self, ahead: usize) -> Option<u8> {
        self.bytes.get(self.at + ahead).copied()
    }

    fn next(&mut self) -> Result<Option<(Kind, Range<usize>)>, LexError> {
        self.skip_blank()?;
        let start = self.at;
        let Some(first) = self.peek(0) else { return Ok(None) };
        let kind = match first {
            b'(' | b'[' => self.one(Kind::Open),
            b')' | b']' => self.one(Kind::Close),
            b',' => self.one(Kind::Comma),
            b';' => self.one(Kind::Semicolon),
            b'\'' => self.quoted_by(b'\'', 0, Kind::Text)?,
            b'"' => self.quoted_by(b'"', 0, Kind::Quoted)?,
            b'$' => self.dollar()?,
            b'.' if self.peek(1).is_some_and(|b| b.is_ascii_digit()) => self.number(),
            b'.' => self.one(Kind::Dot),
            b':' => self.colon(),
            b if b.is_ascii_digit() => self.number(),
            b if is_ident_start(b) => self.word_or_prefixed()?,
            b if is_operator(b) => self.operator(),
            _ => return Err(LexError(start)),
        };
        Ok(Some((kind, start..self.at)))
    }

    fn one(&mut self, kind: Kind) -> Kind {
        self.at += 1;
        kind
    }

    fn skip_blank(&mut self) -> Result<(), LexError> {
        loop {
            match (self.peek(0), self.peek(1)) {
                (Some(b' ' | b'\t' | b'\n' | b'\r' | 0x0b | 0x0c), _) => self.at += 1,
                (Some(b'-'), Some(b'-')) => self.skip_line(),
                (Some(b'/'), Some(b'*')) => self.skip_block()?,
                _ => return Ok(()),
            }
        }
    }

    fn skip_line(&mut self) {
        while self.peek(0).is_some_and(|b| b != b'\n' && b != b'\r') {
            self.at += 1;
        }
    }

    fn skip_block(&mut self) -> Result<(), LexError> {
        let start = self.at;
        let mut open = 0u32;
        loop {
            match (self.peek(0), self.peek(1)) {
                (Some(b'/'), Some(b'*')) => {
                    open += 1;
                    self.at += 2;
                }
                (Some(b'*'), Some(b'/')) => {
                    open -= 1;
                    self.at += 2;
                    if open == 0 {
                        return Ok(());
                    }
                }
                (Some(_), _) => self.at += 1,
                (None, _) => return Err(LexError(start)),
            }
        }
    }

    /// A token closed by `quote`, doubled inside; `prefix` bytes come before the opening quote.
    fn quoted_by(&mut self, quote: u8, prefix: usize, kind: Kind) -> Result<Kind, LexError> {
        let start = self.at;
        self.at += prefix + 1;
        loop {
            match (self.peek(0), self.peek(1)) {
                (Some(b), Some(next)) if b == quote && next == quote => self.at += 2,
                (Some(b), _) if b == quote => return Ok(self.one(kind)),
                (Some(_), _) => self.at += 1,
                (None, _) => return Err(LexError(start)),
            }
        }
    }

    /// `E'…'`: backslash escapes the next byte.
    fn escaped(&mut self) -> Result<Kind, LexError> {
        let start = self.at;
        self.at += 2;
        loop {
            match (self.peek(0), self.peek(1)) {
                (Some(b'\\'), Some(_)) | (Some(b'\''), Some(b'\'')) => self.at += 2,
                (Some(b'\''), _) => {
                    self.at += 1;
                    return if self.is_continued() { Err(LexError(start)) } else { Ok(Kind::Text) };
                }
                (Some(_), _) => self.at += 1,
                (None, _) => return Err(LexError(start)),
            }
        }
    }

    /// Whether a quote follows on another line: the string goes on there, escapes included.
    fn is_continued(&self) -> bool {
        let mut ahead = Lexer { bytes: self.bytes, at: self.at };
        if ahead.skip_blank().is_err() {
            return true;
        }
        let blank = self.bytes.get(self.at..ahead.at).unwrap_or_default();
        ahead.peek(0) == Some(b'\'') && blank.iter().any(|b| matches!(b, b'\n' | b'\r'))
    }

    fn word_or_prefixed(&mut self) -> Result<Kind, LexError> {
        match (self.peek(0), self.peek(1), self.peek(2)) {
            (Some(b'e' | b'E'), Some(b'\''), _) => self.escaped(),
            (Some(b'b' | b'B' | b'x' | b'X' | b'n' | b'N'), Some(b'\''), _) => {
                self.quoted_by(b'\'', 1, Kind::Text)
            }
            (Some(b'u' | b'U'), Some(b'&'), Some(b'\'')) => self.quoted_by(b'\'', 2, Kind::Text),
            (Some(b'u' | b'U'), Some(b'&'), Some(b'"')) => {
                self.quoted_by(b'"', 2, Kind::UnicodeQuoted)?;
                self.uescape();
                Ok(Kind::UnicodeQuoted)
            }
            _ => {
                self.at = self.end_of_word(self.at);
                Ok(Kind::Word)
            }
        }
    }

    /// Steps over `UESCAPE 'c'`, if that is next.
    fn uescape(&mut self) {
        const WORD: &[u8] = b"uescape";
        let mut ahead = Lexer { bytes: self.bytes, at: self.at };
        let word = |l: &mut Lexer<'_>| {
            l.skip_blank().ok()?;
            let end = l.end_of_word(l.at);
            let found = l.bytes.get(l.at..end)?.eq_ignore_ascii_case(WORD);
            l.at = end;
            found.then_some(())
        };
        if word(&mut ahead).is_some()
            && ahead.skip_blank().is_ok()
            && (ahead.peek(0), ahead.peek(2)) == (Some(b'\''), Some(b'\''))
            && ahead.peek(3) != Some(b'\'')
        {
            self.at = ahead.at + 3;
        }
    }

    fn end_of_word(&self, start: usize) -> usize {
        let rest = self.bytes.get(start..).unwrap_or_default();
        if !rest.first().copied().is_some_and(is_ident_start) {
            return start;
        }
        start + rest.iter().take_while(|b| is_ident(**b)).count()
    }

    fn dollar(&mut self) -> Result<Kind, LexError> {
        let start = self.at;
        if self.peek(1).is_some_and(|b| b.is_ascii_digit()) {
            self.at += 1;
            while self.peek(0).is_some_and(|b| b.is_ascii_digit()) {
                self.at += 1;
            }
            return Ok(Kind::Param);
        }
        let tag_end = start + 1 + {
            let rest = self.bytes.get(start + 1..).unwrap_or_default();
            let tag = rest.iter().take_while(|b| is_ident(**b) && **b != b'$').count();
            if rest.first().is_some_and(u8::is_ascii_digit) { 0 } else { tag }
        };
        if self.bytes.get(tag_end) != Some(&b'$') {
            return Err(LexError(start));
        }
        let tag = self.bytes.get(start..=tag_end).unwrap_or_default();
        let body = self.bytes.get(tag_end + 1..).unwrap_or_default();
        let len = memchr_find(body, tag).ok_or(LexError(start))?;
        self.at = tag_end + 1 + len + tag.len();
        Ok(Kind::Text)
    }

    /// Digits with everything that may belong to them: fraction, exponent, 0x…, 1_000.
    fn number(&mut self) -> Kind {
        while let Some(b) = self.peek(0) {
            let previous = self.at.checked_sub(1).and_then(|i| self.bytes.get(i)).copied();
            let sign = matches!(b, b'+' | b'-')
                && matches!(previous, Some(b'e' | b'E'))
                && self.peek(1).is_some_and(|d| d.is_ascii_digit());
            let fraction = b == b'.' && self.peek(1) != Some(b'.');
            if !(b.is_ascii_alphanumeric() || b == b'_' || sign || fraction) {
                break;
            }
            self.at += 1;
        }
        Kind::Number
    }

    fn colon(&mut self) -> Kind {
        self.at += if matches!(self.peek(1), Some(b':' | b'=')) { 2 } else { 1 };
        Kind::Operator
    }

    /// As in the server, a name of several characters ends with `+` or `-` only if it has one of those
    /// that no operator of the standard has: `a=-1` compares with a number.
    fn operator(&mut self) -> Kind {
        let start = self.at;
        while let Some(b) = self.peek(0) {
            let comment = matches!((b, self.peek(1)), (b'-', Some(b'-')) | (b'/', Some(b'*')));
            if !is_operator(b) || comment {
                break;
            }
            self.at += 1;
        }
        let name = self.bytes.get(start..self.at).unwrap_or_default();
        if !name.iter().any(|b| b"~!@#%^&|`?".contains(b)) {
            let signs = name.iter().skip(1).rev().take_while(|b| matches!(b, b'+' | b'-'));
            self.at -= signs.count();
        }
        Kind::Operator
    }
}

fn memchr_find(haystack: &[u8], needle: &[u8]) -> Option<usize> {
    haystack.windows(needle.len()).position(|w| w == needle)
}

/// Whether a token is this keyword (given in lower case).
pub fn is_keyword(text: &str, token: &Token, keyword: &str) -> bool {
    token.kind == Kind::Word
        && text.get(token.at.clone()).is_some_and(|t| t.eq_ignore_ascii_case(keyword))
}

/// The identifier that a token spells, folded and cut as the server does; `None` for no identifier,
/// or one whose Unicode escapes are none.
pub fn identifier(text: &str, token: &Token) -> Option<String> {
    const NAMEDATALEN: usize = 64;
    let raw = text.get(token.at.clone())?;
    let mut name = match token.kind {
        Kind::Word => raw.to_ascii_lowercase(),
        Kind::Quoted => raw.strip_prefix('"')?.strip_suffix('"')?.replace("\"\"", "\""),
        Kind::UnicodeQuoted => unicode_quoted(raw)?,
        _ => return None,
    };
    while name.len() >= NAMEDATALEN {
        name.pop();
    }
    Some(name)
}

/// What `U&"…" [UESCAPE 'c']` means.
fn unicode_quoted(raw: &str) -> Option<String> {
    let quoted = raw.get(3..)?;
    let (content, escape) = match quoted.strip_suffix('"') {
        Some(content) => (content, '\\'),
        None => {
            let mut behind = quoted.strip_suffix('\'')?.chars();
            let escape = behind.next_back()?;
            // The identifier ends at the first quote that is not doubled.
            let mut ends = quoted.match_indices('"').map(|(at, _)| at);
            let end = loop {
                let end = ends.next()?;
                if quoted.get(end + 1..end + 2) != Some("\"") {
                    break end;
                }
                ends.next();
            };
            (quoted.get(..end)?, escape)
        }
    };
    if escape.is_ascii_hexdigit() || escape.is_ascii_whitespace() || "+'\"".contains(escape) {
        return None;
    }
    unescaped(&content.replace("\"\"", "\""), escape)
}

/// What a text with Unicode escapes means, or `None` where the server refuses it.
pub(super) fn unescaped(text: &str, escape: char) -> Option<String> {
    fn code(chars: &mut std::str::Chars<'_>) -> Option<u32> {
        let rest = chars.as_str();
        let (from, to) = if rest.starts_with('+') { (1, 7) } else { (0, 4) };
        let digits = rest.get(from..to).filter(|d| d.bytes().all(|b| b.is_ascii_hexdigit()))?;
        *chars = rest.get(to..)?.chars();
        u32::from_str_radix(digits, 16).ok()
    }
    let mut out = String::with_capacity(text.len());
    let mut chars = text.chars();
    while let Some(c) = chars.next() {
        if c != escape {
            out.push(c);
        } else if chars.as_str().starts_with(escape) {
            chars.next();
            out.push(escape);
        } else {
            let mut meant = code(&mut chars)?;
            if (0xD800..0xDC00).contains(&meant) {
                chars.next().filter(|c| *c == escape)?;
                let low = code(&mut chars)?.checked_sub(0xDC00).filter(|low| *low < 0x400)?;
                meant = 0x10000 + ((meant - 0xD800) << 10) + low;
            }
            out.push(char::from_u32(meant).filter(|c| *c != '\0')?);
        }
    }
    Some(out)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn spelled(text: &str) -> Vec<(Kind, &str)> {
        tokens(text).unwrap().into_iter().map(|t| (t.kind, &text[t.at])).collect()
    }

    #[test]
    fn strings_and_comments_hide_what_is_in_them() {
        use Kind::{Operator, Param, Text, UnicodeQuoted, Word};
        assert_eq!(
            spelled(
                "a 'it''s' E'x\\'y' $t$ $x$ ' $t$ U&'\\0061' /* /* b */ c */ $1 -- d\n u&\"x\""
            ),
            [
                (Word, "a"),
                (Text, "'it''s'"),
                (Text, "E'x\\'y'"),
                (Text, "$t$ $x$ ' $t$"),
                (Text, "U&'\\0061'"),
                (Param, "$1"),
                (UnicodeQuoted, "u&\"x\""),
            ]
        );
        assert_eq!(spelled("1--2"), [(Kind::Number, "1")]);
        assert_eq!(spelled("a->b")[1], (Operator, "->"));
    }

    #[test]
    fn numbers_take_all_that_belongs_to_them() {
        for n in ["1", "1.5", ".5", "1e-5", "1.e+7", "0xFF", "1_000"] {
            assert_eq!(spelled(n), [(Kind::Number, n)]);
        }
        assert_eq!(spelled("1-2").len(), 3);
        assert_eq!(spelled("a[1:2]").len(), 6);
    }

    #[test]
    fn a_sign_behind_an_operator_is_one_of_its_own() {
        let operators = |text| {
            let all = spelled(text).into_iter();
            all.filter(|(kind, _)| *kind == Kind::Operator).map(|(_, o)| o).collect::<Vec<_>>()
        };
        for (text, one) in [
            ("a=-1", ["=", "-"].as_slice()),
            ("a<+-1", &["<", "+", "-"]),
            ("a@-1", &["@-"]),
            ("a <->b #>> -c", &["<->", "#>>", "-"]),
            ("a - -1", &["-", "-"]),
        ] {
            assert_eq!(operators(text), one, "{text}");
        }
    }

    #[test]
    fn refuses_what_does_not_close() {
        assert!(tokens("select e'a'\n'\\' '").is_err(), "an escape string that goes on");
        for bad in ["'a", "\"a", "/* /* */", "$t$ x $u$", "(", ")", "E'a\\'", "\0"] {
            assert!(tokens(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn the_first_word_is_found_behind_comments_and_parentheses() {
        let mut buffer = [0; 16];
        for (text, word) in [
            ("select 1", Some("select")),
            (" /* x */ -- y\n (( SeLeCT 1", Some("select")),
            ("", None),
            ("'x'", None),
            ("averyveryverylongword", None),
        ] {
            assert_eq!(first_word(text.as_bytes(), &mut buffer), word, "{text}");
        }
    }

    #[test]
    fn identifiers_fold_and_are_cut_like_the_server_does() {
        let long = "x".repeat(70);
        let token = |t: &str| tokens(t).unwrap().remove(0);
        assert_eq!(identifier("OrDers", &token("OrDers")).unwrap(), "orders");
        assert_eq!(identifier("\"Or\"\"d\"", &token("\"Or\"\"d\"")).unwrap(), "Or\"d");
        assert_eq!(identifier(&long, &token(&long)).unwrap().len(), 63);
        assert_eq!(identifier("1", &token("1")), None);
    }

    #[test]
    fn identifiers_with_unicode_escapes_are_those_that_they_mean() {
        for (text, meant) in [
            (r#"U&"\006frders""#, Some("orders")),
            (r#"u&"Or""ders""#, Some("Or\"ders")),
            (r#"U&"!006frders!!" UESCAPE '!'"#, Some("orders!")),
            ("u&\"\\006f\" /* x */ uEscape -- y\n '!'", Some("\\006f")),
            (r#"U&"\+01F600\D83D\DE00""#, Some("😀😀")),
            (r#"U&"a\\b""#, Some("a\\b")),
            (r#"U&"\00""#, None),
            (r#"U&"\0000""#, None),
            (r#"U&"\D83Dx""#, None),
            (r#"U&"x" UESCAPE '+'"#, None),
        ] {
            let all = tokens(text).unwrap();
            assert_eq!(all.len(), 1, "{text}");
            assert_eq!(identifier(text, &all[0]).as_deref(), meant, "{text}");
        }
        let text = "U&\"x\" uescape";
        assert_eq!(spelled(text), [(Kind::UnicodeQuoted, "U&\"x\""), (Kind::Word, "uescape")]);
    }

    #[test]
    fn word_tokens_agree_with_sqlparser() {
        use sqlparser::{dialect::PostgreSqlDialect, tokenizer};
        let text = "WITH a AS (SELECT \"B\"::int8 FROM s.t WHERE x @> '{}' AND y = $1) \
                    UPDATE t SET a = E'\\n' || $$z$$, b[1] = 2.5e3 WHERE CURRENT OF c -- x";
        let dialect = PostgreSqlDialect {};
        let theirs = tokenizer::Tokenizer::new(&dialect, text)
            .with_unescape(false)
            .tokenize_with_location()
            .unwrap();
        let theirs: Vec<_> = theirs
            .iter()
            .filter(|t| matches!(t.token, tokenizer::Token::Word(_)))
            .map(|t| usize::try_from(t.span.start.column).unwrap() - 1)
            .collect();
        let ours: Vec<_> = tokens(text)
            .unwrap()
            .into_iter()
            .filter(|t| matches!(t.kind, Kind::Word | Kind::Quoted))
            .map(|t| t.at.start)
            .collect();
        assert_eq!(ours, theirs);
    }
}
