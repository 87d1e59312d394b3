//! What the vetting has said of the reads of one kind. They may differ: in who asks, by which
//! search_path, with constants of other types. The last verdict on each counts.

use super::{cut, report::Vetting};
use std::sync::{Mutex, PoisonError};

/// Different questions of one kind that are told apart: few apps have as many. Of more, the one that
/// was answered longest ago goes.
const QUESTIONS_MAX: usize = 8;
/// Of a reason: it may name three indexes.
const WHY_BYTES_MAX: usize = 600;

/// The verdicts.
#[derive(Debug, Default)]
pub(super) struct Verdicts(Mutex<Known>);

#[derive(Debug, Default)]
struct Known {
    /// By the hash of the question, the newest last.
    answers: Vec<(u64, Answer)>,
    /// Why the last one stays that does.
    why: Box<str>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Answer {
    Fit,
    Stays,
}

impl Verdicts {
    pub(super) fn add(&self, question: u64, verdict: Result<(), &str>) {
        let mut known = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        known.answers.retain(|(of, _)| *of != question);
        if known.answers.len() >= QUESTIONS_MAX {
            known.answers.remove(0);
        }
        known.answers.push((question, verdict.map_or(Answer::Stays, |()| Answer::Fit)));
        if let Err(why) = verdict {
            known.why = cut(why, WHY_BYTES_MAX).into();
        }
    }

    /// All of them in one word, and why reads stay if some do.
    pub(super) fn sum(&self) -> (Vetting, Option<String>) {
        let known = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let any = |of: Answer| known.answers.iter().any(|(_, answer)| *answer == of);
        match (any(Answer::Fit), any(Answer::Stays)) {
            (false, false) => (Vetting::NotYet, None),
            (true, false) => (Vetting::Fit, None),
            (false, true) => (Vetting::Stays, Some(known.why.to_string())),
            (true, true) => (Vetting::Both, Some(known.why.to_string())),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_verdict_on_each_question_counts_and_so_many_are_kept() {
        let verdicts = Verdicts::default();
        assert_eq!(verdicts.sum(), (Vetting::NotYet, None));
        verdicts.add(1, Err("no index"));
        assert_eq!(verdicts.sum(), (Vetting::Stays, Some("no index".to_owned())));
        verdicts.add(2, Ok(()));
        assert_eq!(verdicts.sum().0, Vetting::Both);
        verdicts.add(1, Ok(()));
        assert_eq!(verdicts.sum(), (Vetting::Fit, None));
        for question in 0..100 {
            verdicts.add(question, Err(&"x".repeat(10_000)));
        }
        assert_eq!(verdicts.sum(), (Vetting::Stays, Some("x".repeat(WHY_BYTES_MAX))));
        assert_eq!(verdicts.0.lock().unwrap().answers.len(), QUESTIONS_MAX);
    }
}
