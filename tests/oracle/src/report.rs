//! The figures.

use std::collections::BTreeMap;

/// What became of one statement.
#[derive(Clone)]
pub enum Verdict {
    /// As what.
    Understood(String),
    NotUnderstood(String),
    Wrong(String),
}

#[derive(Default)]
pub struct Report {
    outcomes: BTreeMap<(String, Rank, String), Vec<String>>,
    kinds: BTreeMap<String, [usize; 3]>,
}

#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Rank {
    Understood,
    NotUnderstood,
    Wrong,
}

impl Report {
    pub fn add(&mut self, kind: &str, file: &str, sql: &str, verdict: Verdict) {
        let (rank, what) = match verdict {
            Verdict::Understood(what) => (Rank::Understood, what),
            Verdict::NotUnderstood(what) => (Rank::NotUnderstood, what),
            Verdict::Wrong(what) => (Rank::Wrong, what),
        };
        self.kinds.entry(kind.to_owned()).or_default()[rank as usize] += 1;
        let line = format!("{file}: {}", sql.split_whitespace().collect::<Vec<_>>().join(" "));
        self.outcomes.entry((kind.to_owned(), rank, what)).or_default().push(line);
    }

    pub fn print(&self, list: Option<&str>) {
        println!("| statement | all | understood | % | not understood | wrong |");
        println!("|---|---|---|---|---|---|");
        for (kind, counts) in &self.kinds {
            print_row(kind, counts);
        }
        print_row("all", &self.sums());
        for (title, rank) in [
            ("understood", Rank::Understood),
            ("not understood", Rank::NotUnderstood),
            ("WRONG", Rank::Wrong),
        ] {
            println!("\n{title}:");
            let mut rows: Vec<_> =
                self.outcomes.iter().filter(|((_, r, _), _)| *r == rank).collect();
            rows.sort_by_key(|(_, lines)| std::cmp::Reverse(lines.len()));
            for ((kind, _, what), lines) in rows {
                println!("{:6} {kind}: {what}", lines.len());
                let all = list.is_some_and(|l| format!("{kind}: {what}").contains(l));
                let shown = if all || rank == Rank::Wrong { lines.len() } else { 0 };
                for line in lines.iter().take(shown) {
                    println!("           {}", line.chars().take(600).collect::<String>());
                }
            }
        }
    }

    /// Whether none is wrong, and as many are understood as were.
    pub fn passes(&self, understood_percent_min: f64) -> bool {
        let [understood, not_understood, wrong] = self.sums();
        let percent = percent(understood, understood + not_understood + wrong);
        if wrong > 0 {
            println!("\nFAILED: {wrong} statements are wrong");
        }
        if percent < understood_percent_min {
            println!("\nFAILED: {percent:.2} % are understood; {understood_percent_min} % were");
        }
        wrong == 0 && percent >= understood_percent_min
    }

    fn sums(&self) -> [usize; 3] {
        let add = |sums: [usize; 3], counts: &[usize; 3]| [0, 1, 2].map(|i| sums[i] + counts[i]);
        self.kinds.values().fold([0; 3], add)
    }
}

fn print_row(kind: &str, [understood, not_understood, wrong]: &[usize; 3]) {
    let all = understood + not_understood + wrong;
    let percent = percent(*understood, all);
    println!("| {kind} | {all} | {understood} | {percent:.2} | {not_understood} | {wrong} |");
}

#[allow(clippy::cast_precision_loss, reason = "some thousands")]
fn percent(part: usize, all: usize) -> f64 {
    100.0 * part as f64 / all as f64
}
