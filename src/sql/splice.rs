//! A rewritten statement: pieces of the client's own text and pieces of ours, and the way back
//! from a position in it to the client's.

use std::ops::Range;

/// A rewritten text under construction.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Spliced {
    text: String,
    // (start in `text`, start in the client's text) of every client piece, in order.
    pieces: Vec<(Range<usize>, usize)>,
}

impl Spliced {
    /// Appends a piece of the client's text.
    pub fn client(&mut self, original: &str, at: Range<usize>) -> &mut Self {
        if let Some(piece) = original.get(at.clone()).filter(|p| !p.is_empty()) {
            let start = self.text.len();
            self.text.push_str(piece);
            self.pieces.push((start..self.text.len(), at.start));
        }
        self
    }

    /// Appends a piece of our own.
    pub fn ours(&mut self, sql: &str) -> &mut Self {
        self.text.push_str(sql);
        self
    }

    /// Appends a rewritten part of the same client text.
    pub fn append(&mut self, part: &Self) -> &mut Self {
        let shift = self.text.len();
        self.text.push_str(&part.text);
        let moved = part.pieces.iter().map(|(r, start)| (r.start + shift..r.end + shift, *start));
        self.pieces.extend(moved);
        self
    }

    /// The same with pieces of it, in order, spelled in another way.
    #[must_use]
    pub fn respelled(&self, pieces: &[(Range<usize>, String)]) -> Self {
        let mut out = Self::default();
        let mut done = 0;
        for (at, spelled) in pieces {
            out.copy(self, done..at.start);
            let begins = self.pieces.iter().find(|(ours, _)| ours.contains(&at.start));
            if let Some((ours, client)) = begins {
                out.pieces
                    .push((out.text.len()..out.text.len() + 1, client + at.start - ours.start));
            }
            out.ours(spelled);
            done = at.end;
        }
        out.copy(self, done..self.text.len());
        out
    }

    /// Appends a part of another rewritten text of the same client text.
    fn copy(&mut self, other: &Self, at: Range<usize>) -> &mut Self {
        let shift = self.text.len();
        self.text.push_str(other.text.get(at.clone()).unwrap_or_default());
        for (ours, client) in &other.pieces {
            let within = ours.start.max(at.start)..ours.end.min(at.end);
            if !within.is_empty() {
                let moved = within.start - at.start + shift..within.end - at.start + shift;
                self.pieces.push((moved, client + within.start - ours.start));
            }
        }
        self
    }

    /// The whole rewritten text.
    pub fn text(&self) -> &str {
        &self.text
    }

    /// The client's position (1-based, in characters, as in ErrorResponse field `P`) for a position
    /// in the rewritten text. Inside a piece of ours: where the client's text goes on after it.
    pub fn original_position(&self, original: &str, position: usize) -> Option<usize> {
        let byte = byte_of(&self.text, position)?;
        let in_client = self
            .pieces
            .iter()
            .find(|(ours, _)| byte < ours.end)
            .map(|(ours, start)| start + byte.saturating_sub(ours.start))
            .or_else(|| self.pieces.last().map(|(ours, start)| start + ours.len()))?;
        Some(original.get(..in_client)?.chars().count() + 1)
    }
}

fn byte_of(text: &str, position: usize) -> Option<usize> {
    let index = position.checked_sub(1)?;
    text.char_indices().map(|(i, _)| i).chain([text.len()]).nth(index)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn positions_go_back_to_the_clients_text() {
        let original = "é UPDATE t SET x";
        let mut spliced = Spliced::default();
        spliced
            .ours("WITH w AS (")
            .client(original, 3..11)
            .ours(" /*…*/ ")
            .client(original, 11..17);
        assert_eq!(spliced.text(), "WITH w AS (UPDATE t /*…*/  SET x");
        assert_eq!(spliced.original_position(original, 12), Some(3), "U of UPDATE");
        assert_eq!(spliced.original_position(original, 32), Some(16), "x");
        assert_eq!(
            spliced.original_position(original, 1),
            Some(3),
            "ours: where the client goes on"
        );
        assert_eq!(spliced.original_position(original, 0), None);
    }
}
