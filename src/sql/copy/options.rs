//! The text of a COPY … FROM STDIN: its columns and options, in both syntaxes. What is not surely
//! understood is an error: the statement then is not.

use super::{Columns, CopyFrom, Format, Header, Lines, OnError, Quotes};
use crate::sql::cursor::Cursor;
use crate::sql::lex::{Kind, Token};
use crate::sql::reason::Reason;

const OPTION: Reason = Reason::CopyOption;

/// Reads one statement, which begins with COPY.
///
/// # Errors
/// Says what is not understood.
pub(crate) fn read(text: &str, tokens: &[Token]) -> Result<CopyFrom, Reason> {
    let mut reader = Reader { text, c: Cursor::new(text, tokens), said: Said::default() };
    reader.c.skip();
    if reader.c.eat("binary") {
        reader.said.format = Some("binary".to_owned());
    }
    reader.c.qualified_name().ok_or(Reason::CopyUnclear)?;
    let columns = match reader.c.is_kind(Kind::Open) {
        true => Some(reader.names()?),
        false => None,
    };
    if !reader.c.eat("from") {
        return Err(Reason::CopyUnclear);
    }
    // STDOUT means the same here.
    if !reader.c.eat("stdin") && !reader.c.eat("stdout") {
        return Err(Reason::CopyFile);
    }
    reader.options()?;
    if !reader.c.eat("where") && reader.c.peek().is_some() {
        return Err(OPTION);
    }
    let (format, on_error, encoding) = reader.said.meant()?;
    Ok(CopyFrom { columns, format, on_error, encoding })
}

/// The options as they are spelled.
#[derive(Default)]
struct Said {
    format: Option<String>,
    delimiter: Option<String>,
    null: Option<String>,
    default: Option<String>,
    quote: Option<String>,
    escape: Option<String>,
    encoding: Option<String>,
    header: Header,
    force_null: Columns,
    force_not_null: Columns,
    on_error: OnError,
}

/// What stands behind the name of an option.
enum Value {
    Nothing,
    Text(String),
    Names(Vec<String>),
    Star,
}

impl Value {
    fn text(self) -> Result<String, Reason> {
        match self {
            Self::Text(text) => Ok(text),
            _ => Err(OPTION),
        }
    }

    fn columns(self) -> Result<Columns, Reason> {
        match self {
            Self::Names(names) => Ok(Columns::These(names)),
            Self::Star => Ok(Columns::All),
            _ => Err(OPTION),
        }
    }

    fn header(self) -> Result<Header, Reason> {
        let Self::Text(text) = self else {
            return match self {
                Self::Nothing => Ok(Header::Line),
                _ => Err(OPTION),
            };
        };
        match text.to_ascii_lowercase().as_str() {
            "true" | "on" | "1" | "match" => Ok(Header::Line),
            "false" | "off" | "0" => Ok(Header::None),
            _ => Err(OPTION),
        }
    }
}

struct Reader<'a> {
    text: &'a str,
    c: Cursor<'a>,
    said: Said,
}

impl Reader<'_> {
    fn options(&mut self) -> Result<(), Reason> {
        self.c.eat("using");
        if self.c.eat("delimiters") {
            self.said.delimiter = Some(self.constant()?);
        }
        self.c.eat("with");
        if self.c.eat_kind(Kind::Open) {
            loop {
                let name = self.c.name().ok_or(OPTION)?;
                let value = self.value()?;
                self.option(&name, value)?;
                if !self.c.eat_kind(Kind::Comma) {
                    break;
                }
            }
            return self.c.eat_kind(Kind::Close).then_some(()).ok_or(OPTION);
        }
        while self.c.peek().is_some() && !self.c.is("where") {
            self.old_option()?;
        }
        Ok(())
    }

    /// One of the syntax before 9.0.
    fn old_option(&mut self) -> Result<(), Reason> {
        let name = self.c.name().ok_or(OPTION)?;
        match name.as_str() {
            "binary" | "csv" => {
                self.said.format = Some(name);
                Ok(())
            }
            "freeze" | "header" => self.option(&name, Value::Nothing),
            "delimiter" | "null" | "quote" | "escape" => {
                self.c.eat("as");
                let value = Value::Text(self.constant()?);
                self.option(&name, value)
            }
            "encoding" => {
                let value = Value::Text(self.constant()?);
                self.option(&name, value)
            }
            "force" => {
                let not = self.c.eat("not");
                if !self.c.eat("null") {
                    return Err(OPTION);
                }
                let name = if not { "force_not_null" } else { "force_null" };
                let value = self.old_columns()?;
                self.option(name, value)
            }
            _ => Err(OPTION),
        }
    }

    fn old_columns(&mut self) -> Result<Value, Reason> {
        if self.c.is_text("*") {
            self.c.skip();
            return Ok(Value::Star);
        }
        let mut names = vec![self.c.name().ok_or(OPTION)?];
        while self.c.eat_kind(Kind::Comma) {
            names.push(self.c.name().ok_or(OPTION)?);
        }
        Ok(Value::Names(names))
    }

    fn option(&mut self, name: &str, value: Value) -> Result<(), Reason> {
        let said = &mut self.said;
        match name {
            "format" => said.format = Some(value.text()?),
            "delimiter" => said.delimiter = Some(value.text()?),
            "null" => said.null = Some(value.text()?),
            "default" => said.default = Some(value.text()?),
            "quote" => said.quote = Some(value.text()?),
            "escape" => said.escape = Some(value.text()?),
            "encoding" => said.encoding = Some(value.text()?),
            "header" => said.header = value.header()?,
            "force_null" => said.force_null = value.columns()?,
            "force_not_null" => said.force_not_null = value.columns()?,
            "on_error" => {
                said.on_error = match value.text()?.to_ascii_lowercase().as_str() {
                    "stop" => OnError::Stop,
                    "ignore" => OnError::Ignore,
                    _ => return Err(OPTION),
                }
            }
            // They change nothing of what a key is.
            "freeze" | "reject_limit" | "log_verbosity" => {}
            _ => return Err(OPTION),
        }
        Ok(())
    }

    fn value(&mut self) -> Result<Value, Reason> {
        let Some(next) = self.c.peek() else { return Err(OPTION) };
        match next.kind {
            Kind::Comma | Kind::Close => Ok(Value::Nothing),
            Kind::Open => self.names().map(Value::Names),
            Kind::Text => self.constant().map(Value::Text),
            Kind::Word | Kind::Quoted => self.c.name().map(Value::Text).ok_or(OPTION),
            Kind::Number => {
                let number = self.text.get(next.at.clone()).unwrap_or_default().to_owned();
                self.c.skip();
                Ok(Value::Text(number))
            }
            _ if self.c.is_text("*") => {
                self.c.skip();
                Ok(Value::Star)
            }
            _ => Err(OPTION),
        }
    }

    /// `(a, b)`
    fn names(&mut self) -> Result<Vec<String>, Reason> {
        self.c.skip();
        let mut names = vec![self.c.name().ok_or(OPTION)?];
        while self.c.eat_kind(Kind::Comma) {
            names.push(self.c.name().ok_or(OPTION)?);
        }
        self.c.eat_kind(Kind::Close).then_some(names).ok_or(OPTION)
    }

    fn constant(&mut self) -> Result<String, Reason> {
        let token = self.c.peek().filter(|t| t.kind == Kind::Text).ok_or(OPTION)?;
        self.c.skip();
        constant(self.text.get(token.at.clone()).unwrap_or_default()).ok_or(OPTION)
    }
}

/// What a string constant stands for, `standard_conforming_strings` being on.
fn constant(spelled: &str) -> Option<String> {
    if let Some(plain) = spelled.strip_prefix('\'') {
        return Some(plain.strip_suffix('\'')?.replace("''", "'"));
    }
    let mut left = spelled.strip_prefix(['e', 'E'])?.strip_prefix('\'')?.strip_suffix('\'')?;
    let mut meant = String::new();
    while let Some(first) = left.chars().next() {
        left = left.get(first.len_utf8()..)?;
        if first == '\'' {
            left = left.strip_prefix('\'')?;
        }
        if first != '\\' {
            meant.push(first);
            continue;
        }
        let escaped = left.chars().next()?;
        let (byte, digits) = match escaped {
            'b' => (8, 0),
            'f' => (12, 0),
            'n' => (b'\n', 0),
            'r' => (b'\r', 0),
            't' => (b'\t', 0),
            'x' => number(left.get(1..)?, 16, 2)?,
            '0'..='7' => number(left, 8, 3)?,
            'u' | 'U' => return None,
            other => {
                meant.push(other);
                left = left.get(other.len_utf8()..)?;
                continue;
            }
        };
        meant.push(char::from(byte));
        left = left.get(if escaped == 'x' { 1 + digits } else { digits.max(1) }..)?;
    }
    Some(meant)
}

/// An ASCII character by its number, and of how many digits that is.
fn number(text: &str, radix: u32, digits_max: usize) -> Option<(u8, usize)> {
    let digits = text.chars().take(digits_max).take_while(|c| c.is_digit(radix)).count();
    let byte = u8::from_str_radix(text.get(..digits)?, radix).ok()?;
    (byte.is_ascii() && byte > 0).then_some((byte, digits))
}

impl Said {
    fn meant(self) -> Result<(Format, OnError, Option<String>), Reason> {
        let format = self.format.as_deref().unwrap_or("text");
        if format == "binary" {
            return Ok((Format::Binary, self.on_error, self.encoding));
        }
        let (delimiter, null) = match format {
            "text" => ("\t", "\\N"),
            "csv" => (",", ""),
            _ => return Err(OPTION),
        };
        let lines = Lines {
            delimiter: byte(self.delimiter.as_deref().unwrap_or(delimiter))?,
            null: self.null.unwrap_or_else(|| null.to_owned()).into_bytes(),
            default: self.default.map(String::into_bytes),
            header: self.header,
        };
        if format == "text" {
            if lines.delimiter == b'\\' {
                return Err(OPTION);
            }
            return Ok((Format::Text(lines), self.on_error, self.encoding));
        }
        let quote = byte(self.quote.as_deref().unwrap_or("\""))?;
        let escape = self.escape.as_deref().map_or(Ok(quote), byte)?;
        if quote == b'\\' || quote == lines.delimiter || escape == lines.delimiter {
            return Err(OPTION);
        }
        let (null, not_null) = (self.force_null, self.force_not_null);
        let quotes = Quotes { quote, escape, force_null: null, force_not_null: not_null };
        Ok((Format::Csv(lines, quotes), self.on_error, self.encoding))
    }
}

/// A delimiter or quote: one character of ASCII that ends no line.
fn byte(text: &str) -> Result<u8, Reason> {
    match text.as_bytes() {
        [byte] if byte.is_ascii() && !matches!(byte, 0 | b'\n' | b'\r') => Ok(*byte),
        _ => Err(OPTION),
    }
}
