//! What is wrong with a config file, with the place in it.

use std::fmt;
use std::ops::Range;
use std::path::{Path, PathBuf};

/// Why a config file is not taken.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// There is no such file.
    #[error(
        "there is no config file {}\nhint: config/pgsegue.toml in the source tree explains every \
         key; name your file with --config",
        .path.display()
    )]
    Missing {
        /// Where it was looked for.
        path: PathBuf,
    },
    /// The file is there and cannot be read.
    #[error("cannot read the config file {}", .path.display())]
    Unreadable {
        /// The file.
        path: PathBuf,
        /// Why.
        #[source]
        source: std::io::Error,
    },
    /// The file cannot be watched for changes.
    #[error("cannot watch the config file {}", .path.display())]
    Unwatchable {
        /// The file.
        path: PathBuf,
        /// Why.
        #[source]
        source: notify::Error,
    },
    /// The process cannot be told to read the file again.
    #[error("cannot listen for SIGHUP")]
    Signal(#[source] std::io::Error),
    /// The file is read and not valid: every problem found, in the file's order.
    #[error("{}", .0.iter().map(ToString::to_string).collect::<Vec<_>>().join("\n"))]
    Invalid(Vec<Problem>),
}

/// One thing that is wrong at one place of a file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Problem {
    /// The file.
    pub path: PathBuf,
    /// Counted from 1.
    pub line: usize,
    /// Counted from 1, in characters.
    pub column: usize,
    /// What is wrong.
    pub message: String,
    /// What to do about it; empty when the message says it.
    pub hint: String,
    /// The line with carets under the place; none when the line may hold a password.
    excerpt: Option<String>,
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { path, line, column, message, hint, excerpt } = self;
        write!(f, "{}:{line}:{column}: {message}", path.display())?;
        if let Some(excerpt) = excerpt {
            write!(f, "\n{excerpt}")?;
        }
        if !hint.is_empty() {
            write!(f, "\nhint: {hint}")?;
        }
        Ok(())
    }
}

/// The text that places refer to.
pub(super) struct Source<'a> {
    pub(super) path: &'a Path,
    pub(super) text: &'a str,
}

impl Source<'_> {
    /// A problem at a byte range of the text.
    pub(super) fn problem(&self, span: &Range<usize>, message: &str, hint: &str) -> Problem {
        let before = self.text.get(..span.start).unwrap_or(self.text);
        let number = before.matches('\n').count() + 1;
        let column = before.chars().rev().take_while(|c| *c != '\n').count();
        let line = self.text.lines().nth(number - 1).unwrap_or("");
        let marked = self.text.get(span.clone()).and_then(|text| text.lines().next());
        let width = marked.map_or(1, |text| text.chars().count().max(1));
        let margin = " ".repeat(number.to_string().len());
        let excerpt = (!line.is_empty() && !may_hold_password(line)).then(|| {
            let indent = " ".repeat(column);
            let carets = "^".repeat(width);
            format!("{margin} |\n{number} | {line}\n{margin} | {indent}{carets}")
        });
        Problem {
            path: self.path.to_owned(),
            line: number,
            column: column + 1,
            message: message.trim().to_owned(),
            hint: hint.to_owned(),
            excerpt,
        }
    }
}

fn may_hold_password(line: &str) -> bool {
    let line = line.to_lowercase();
    line.contains("password") || line.contains("://") || line.trim_start().starts_with("url")
}
