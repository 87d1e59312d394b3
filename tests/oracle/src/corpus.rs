//! The SQL of Postgres's regression suite, split into statements as psql does it.

use std::path::Path;

/// One file of the suite.
pub struct File {
    pub name: String,
    pub statements: Vec<String>,
}

/// All files of a folder, by name.
pub fn read(folder: &Path) -> std::io::Result<Vec<File>> {
    let mut paths =
        std::fs::read_dir(folder)?.map(|e| e.map(|e| e.path())).collect::<Result<Vec<_>, _>>()?;
    paths.retain(|p| p.extension().is_some_and(|e| e == "sql"));
    paths.sort();
    let file = |path: &std::path::PathBuf| {
        let text = String::from_utf8_lossy(&std::fs::read(path)?).into_owned();
        let name = path.file_stem().unwrap_or_default().to_string_lossy().into_owned();
        Ok(File { name, statements: Splitter::new(&text).split() })
    };
    paths.iter().map(file).collect()
}

/// What psql sends; its own commands are left out, with the data of COPY.
struct Splitter<'a> {
    text: &'a str,
    at: usize,
    statement: String,
    statements: Vec<String>,
    depth: u32,
    /// BEGIN and CASE that are open within CREATE FUNCTION: semicolons end nothing there.
    blocks: u32,
    words: Vec<String>,
}

impl<'a> Splitter<'a> {
    fn new(text: &'a str) -> Self {
        Self {
            text,
            at: 0,
            statement: String::new(),
            statements: Vec::new(),
            depth: 0,
            blocks: 0,
            words: Vec::new(),
        }
    }

    fn split(mut self) -> Vec<String> {
        while let Some(c) = self.rest().chars().next() {
            match c {
                '\'' => self.quoted('\''),
                '"' => self.quoted('"'),
                '$' => self.dollar(),
                '\\' => self.command(),
                ';' if self.depth == 0 && self.blocks == 0 => {
                    self.at += 1;
                    self.end();
                }
                '-' if self.rest().starts_with("--") => {
                    let end = self.rest().find('\n').unwrap_or(self.rest().len());
                    self.take(end);
                }
                '/' if self.rest().starts_with("/*") => self.comment(),
                c if c.is_alphabetic() || c == '_' => self.word(),
                c => {
                    match c {
                        '(' => self.depth += 1,
                        ')' => self.depth = self.depth.saturating_sub(1),
                        _ => {}
                    }
                    self.take(c.len_utf8());
                }
            }
        }
        self.end();
        self.statements
    }

    fn rest(&self) -> &'a str {
        &self.text[self.at..]
    }

    fn take(&mut self, bytes: usize) {
        self.statement.push_str(&self.rest()[..bytes]);
        self.at += bytes;
    }

    fn end(&mut self) {
        let statement = std::mem::take(&mut self.statement).trim().to_owned();
        let data = self.words.first().is_some_and(|w| w == "copy")
            && self.words.windows(2).any(|w| w[0] == "from" && w[1] == "stdin");
        if data {
            let line = self.rest().find('\n').map_or(self.rest().len(), |n| n + 1);
            let end = self.rest()[line..].find("\\.\n").map_or(0, |n| n + 3);
            self.at += line + end;
        }
        if !self.words.is_empty() || !statement.is_empty() {
            self.statements.push(statement);
        }
        (self.depth, self.blocks) = (0, 0);
        self.words.clear();
    }

    fn quoted(&mut self, quote: char) {
        let escapes = quote == '\''
            && self.statement.ends_with(['e', 'E'])
            && !self.statement[..self.statement.len() - 1]
                .ends_with(|c: char| c.is_alphanumeric() || c == '_');
        let mut chars = self.rest().char_indices().skip(1).peekable();
        let mut end = self.rest().len();
        while let Some((i, c)) = chars.next() {
            if c == '\\' && escapes {
                chars.next();
            } else if c == quote {
                if chars.peek().is_some_and(|(_, c)| *c == quote) {
                    chars.next();
                } else {
                    end = i + 1;
                    break;
                }
            }
        }
        self.take(end);
    }

    fn dollar(&mut self) {
        let tag = self.rest()[1..].find('$').map(|n| &self.rest()[..n + 2]).filter(|tag| {
            let inner = &tag[1..tag.len() - 1];
            inner.chars().all(|c| c.is_alphanumeric() || c == '_')
                && !inner.starts_with(|c: char| c.is_ascii_digit())
        });
        let after_word = self.statement.ends_with(|c: char| c.is_alphanumeric() || c == '_');
        let body = tag
            .filter(|_| !after_word)
            .and_then(|tag| self.rest()[tag.len()..].find(tag).map(|n| n + 2 * tag.len()));
        self.take(body.unwrap_or(1));
    }

    fn comment(&mut self) {
        let (mut open, mut end) = (0, 0);
        let bytes = self.rest().as_bytes();
        while end < bytes.len() {
            match &bytes[end..] {
                [b'/', b'*', ..] => (open, end) = (open + 1, end + 2),
                [b'*', b'/', ..] => (open, end) = (open - 1, end + 2),
                _ => end += 1,
            }
            if open == 0 {
                break;
            }
        }
        self.take(end);
    }

    fn word(&mut self) {
        let rest = self.rest();
        let end = rest.find(|c: char| !(c.is_alphanumeric() || c == '_')).unwrap_or(rest.len());
        let word = rest[..end].to_lowercase();
        self.take(end);
        self.words.push(word);
        let routine = self.words.first().is_some_and(|w| w == "create")
            && self.words.iter().take(4).any(|w| w == "function" || w == "procedure");
        if !routine {
            return;
        }
        let last = self.words.len() - 1;
        match self.words[last].as_str() {
            "begin" => self.blocks += 1,
            "case" if self.blocks > 0 => self.blocks += 1,
            "end" => self.blocks = self.blocks.saturating_sub(1),
            _ => {}
        }
    }

    /// A command of psql's own; some of them send what stands before them.
    fn command(&mut self) {
        let line = self.rest().find('\n').unwrap_or(self.rest().len());
        let text = &self.rest()[..line];
        if text.starts_with("\\;") {
            self.at += 2;
            return self.end();
        }
        let next = text[1..].find('\\').map_or(line, |n| n + 1);
        let name = text[1..].split(|c: char| !c.is_alphanumeric() && c != '_').next();
        let name = name.unwrap_or_default();
        self.at += if matches!(name, "gset" | "bind" | "gdesc" | "parse") { next } else { line };
        let sends = ["g", "gx", "gset", "gexec", "gdesc", "crosstabview", "watch"];
        if sends.contains(&name) {
            self.end();
        } else if matches!(name, "r" | "reset") {
            self.statement.clear();
            self.words.clear();
            (self.depth, self.blocks) = (0, 0);
        }
    }
}
