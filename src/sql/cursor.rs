//! Reading tokens from left to right, for the shape readers.

use super::lex::{Kind, Token, identifier, is_keyword};

/// A position among the tokens of one statement, or of what stands between two brackets of it.
#[derive(Clone, Copy)]
pub(super) struct Cursor<'a> {
    text: &'a str,
    tokens: &'a [Token],
    /// The depth of the tokens that are in no bracket opened here.
    top: u32,
    /// Index of the next token.
    pub(super) at: usize,
}

impl<'a> Cursor<'a> {
    pub(super) fn new(text: &'a str, tokens: &'a [Token]) -> Self {
        Self { text, tokens, top: tokens.first().map_or(0, |t| t.depth), at: 0 }
    }

    pub(super) fn text(&self) -> &'a str {
        self.text
    }

    pub(super) fn peek(&self) -> Option<&'a Token> {
        self.tokens.get(self.at)
    }

    /// Index behind the last token.
    pub(super) fn len(&self) -> usize {
        self.tokens.len()
    }

    pub(super) fn is(&self, keyword: &str) -> bool {
        self.peek().is_some_and(|t| is_keyword(self.text, t, keyword))
    }

    pub(super) fn is_kind(&self, kind: Kind) -> bool {
        self.peek().is_some_and(|t| t.kind == kind)
    }

    /// Whether the token after the next is this keyword.
    pub(super) fn then_is(&self, keyword: &str) -> bool {
        self.tokens.get(self.at + 1).is_some_and(|t| is_keyword(self.text, t, keyword))
    }

    pub(super) fn skip(&mut self) {
        self.at += 1;
    }

    /// Steps over the keyword if it is next.
    pub(super) fn eat(&mut self, keyword: &str) -> bool {
        let found = self.is(keyword);
        self.at += usize::from(found);
        found
    }

    pub(super) fn eat_kind(&mut self, kind: Kind) -> bool {
        let found = self.is_kind(kind);
        self.at += usize::from(found);
        found
    }

    /// Steps over an identifier and returns it folded.
    pub(super) fn name(&mut self) -> Option<String> {
        let name = identifier(self.text, self.peek()?)?;
        self.at += 1;
        Some(name)
    }

    /// Steps over `a`, `a.b`, …; returns the last part and the index of its token.
    pub(super) fn qualified_name(&mut self) -> Option<(String, usize)> {
        let mut last = (self.name()?, self.at - 1);
        while self.eat_kind(Kind::Dot) {
            last = (self.name()?, self.at - 1);
        }
        Some(last)
    }

    /// Steps over a bracketed group if one is next.
    pub(super) fn eat_group(&mut self) -> bool {
        let Some(open) = self.peek().filter(|t| t.kind == Kind::Open) else { return false };
        let depth = open.depth;
        self.at += 1;
        while let Some(token) = self.peek() {
            self.at += 1;
            if token.kind == Kind::Close && token.depth == depth {
                return true;
            }
        }
        false
    }

    /// What is within the brackets that are next, if they end where `end` says.
    pub(super) fn within(&self, end: usize) -> Option<Self> {
        let mut after = *self;
        let close = (after.eat_group() && after.at == end).then(|| end.checked_sub(1))??;
        let at = self.at + 1;
        let top = self.tokens.get(at)?.depth;
        Some(Self { tokens: self.tokens.get(..close)?, top, at, ..*self })
    }

    /// Whether the next token is spelled like this.
    pub(super) fn is_text(&self, spelling: &str) -> bool {
        self.peek().is_some_and(|t| self.text.get(t.at.clone()) == Some(spelling))
    }

    /// Whether a token is in no bracket opened here.
    pub(super) fn is_top(&self, token: &Token) -> bool {
        token.depth == self.top
    }

    /// Index of the first token in no bracket, from here on, that is this keyword.
    pub(super) fn find_top(&self, keyword: &str) -> Option<usize> {
        (self.at..self.tokens.len()).find(|i| {
            self.tokens.get(*i).is_some_and(|t| self.is_top(t) && is_keyword(self.text, t, keyword))
        })
    }
}
