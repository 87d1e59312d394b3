//! `pgsegue migration status NAME --workload`: what running proxies have seen on the table.

use crate::cli::failure::Failure;
use crate::cli::{admin, output};
use crate::workload::{Class, Line, Part, Report, Vetting};
use serde::Serialize;
use std::net::SocketAddr;

/// Columns of the report.
const WIDTH: usize = 96;
/// Of a statement's text where it only has to be told from others.
const LINES_MAX: usize = 2;

/// The report of one proxy.
#[derive(Debug, Serialize)]
pub(super) struct Seen {
    admin: SocketAddr,
    #[serde(flatten)]
    report: Report,
}

/// Asks each proxy.
pub(super) async fn ask(name: &str, proxies: &[SocketAddr]) -> Result<Vec<Seen>, Failure> {
    let mut all = Vec::with_capacity(proxies.len());
    for proxy in proxies {
        let (status, body) = admin::get(*proxy, &format!("/migrations/{name}/workload")).await?;
        if status != 200 {
            let hint = "it observes what its own config file declares, once the source is there";
            let message = format!("the proxy at {proxy} has no workload of \"{name}\": {body}");
            return Err(Failure::new(message, hint));
        }
        let report = serde_json::from_str(&body).map_err(|error| Failure::from_error(&error))?;
        all.push(Seen { admin: *proxy, report });
    }
    Ok(all)
}

/// Prints one report after the other.
pub(super) fn print(all: &[Seen]) {
    if all.len() > 1 {
        output::line("");
        output::line("each proxy counts for itself: add up what they say");
    }
    for seen in all {
        output::line("");
        print_one(seen);
    }
}

fn print_one(Seen { admin, report }: &Seen) {
    output::line(&format!("workload, as the proxy at {admin} has seen it since it was started"));
    let seen = format!(
        "{}, {} calls, {} statements",
        lasting(report.seconds),
        many(report.calls),
        report.kinds
    );
    item("observed", &seen);
    let coverage = match report.coverage {
        Some(percent) => format!(
            "{percent} % of the calls ({} of {})",
            many(report.calls - report.not_understood.calls),
            many(report.calls)
        ),
        None => "nothing was seen yet: do the apps connect through the proxy?".to_owned(),
    };
    item("understood", &coverage);
    part("writes", report.writes, "mirrored exactly");
    let writes = report.statements.iter().filter(|line| line.class == Class::Write);
    let marked: u64 = writes.map(|line| line.routes.marked).sum();
    if marked > 0 {
        let why = "where the role may not see the rows, or a name may mean another table";
        item("", &format!("but for {} that were marked, {why}", many(marked)));
    }
    part("reads", report.reads, "the shadow can answer them, each once it is vetted");
    vetted(report);
    part("unfit reads", report.unfit_reads, "the source answers them");
    part("other", report.other, "nothing to mirror, nothing to move");
    part("ddl", report.ddl, "refused while the migration runs");
    part("unknown", report.not_understood, "recorded or refused, as `unclassified` says");
    if let Some(why) = &report.no_reads {
        item("no reads", why);
    }
    if report.calls_not_kept > 0 {
        let calls = many(report.calls_not_kept);
        item("not kept", &format!("{calls} calls of further statements: counted, not shown"));
    }
    let with = |class: &[Class]| {
        report.statements.iter().filter(|l| class.contains(&l.class)).cloned().collect::<Vec<_>>()
    };
    list("not understood", &with(&[Class::Unclassified]), usize::MAX);
    let (stay, rest): (Vec<_>, Vec<_>) =
        with(&[Class::Write, Class::Read, Class::Other, Class::Ddl])
            .into_iter()
            .partition(|line| matches!(line.vetting, Some(Vetting::Stays | Vetting::Both)));
    list("reads that were vetted, and stay on the source", &stay, LINES_MAX);
    list("reads that only the source can answer", &with(&[Class::UnfitRead]), LINES_MAX);
    list("understood", &rest, LINES_MAX);
}

fn item(what: &str, value: &str) {
    output::line(&format!("  {what:12}{value}"));
}

fn part(what: &str, part: Part, meaning: &str) {
    if part.calls > 0 {
        item(what, &format!("{} calls, {}: {meaning}", many(part.calls), kinds(part.kinds)));
    }
}

/// What the vetting says of the reads that the shadow can answer.
fn vetted(report: &Report) {
    let (fit, stay) = (report.reads_fit, report.reads_stay);
    match (report.reads.calls, fit.kinds + stay.kinds) {
        (0, _) => {}
        (_, 0) => item(
            "vetted",
            "none yet: that begins when it is ready, and `reads` or `dark_reads` above 0",
        ),
        (_, vetted) => {
            let later = report.reads.kinds.saturating_sub(vetted);
            let said = format!(
                "{} fit, {} on the source, {later} not yet",
                kinds(fit.kinds),
                kinds(stay.kinds)
            );
            item("vetted", &said);
        }
    }
}

fn kinds(kinds: usize) -> String {
    match kinds {
        1 => "1 kind".to_owned(),
        more => format!("{} kinds", many(u64::try_from(more).unwrap_or(u64::MAX))),
    }
}

fn list(title: &str, lines: &[Line], lines_max: usize) {
    if lines.is_empty() {
        return;
    }
    output::line("");
    let [calls, share, p50, p99] = ["CALLS", "ROUTE", "P50", "P99"];
    output::line(&format!("{title}:"));
    output::line(&format!("  {calls:>9}  {p50:>9}  {p99:>9}  {share}"));
    for line in lines {
        output::line(&format!(
            "  {:>9}  {:>9}  {:>9}  {}",
            many(line.calls),
            millis(line.p50_ms),
            millis(line.p99_ms),
            routes(line)
        ));
        for text in wrapped(&output::safe(&line.text), WIDTH - 4, lines_max) {
            output::line(&format!("    {text}"));
        }
        if let Some(why) = &line.why {
            let why = wrapped(&output::safe(why), WIDTH - 15, usize::MAX);
            for (head, why) in std::iter::once("why").chain(std::iter::repeat("")).zip(why) {
                output::line(&format!("      {head:9}{why}"));
            }
        }
        if let Some(way_out) = &line.way_out {
            output::line(&format!("      way out  {way_out}"));
        }
    }
}

/// Where it went; the class where that says more.
fn routes(line: &Line) -> String {
    let class = match line.class {
        Class::Write => "write: ",
        Class::Read | Class::UnfitRead => "read: ",
        Class::Ddl => "ddl: ",
        Class::Other | Class::Unclassified => "",
    };
    let r = line.routes;
    let all = [
        ("source", r.source),
        ("mirrored", r.mirrored),
        ("shadow", r.shadow),
        ("marked", r.marked),
        ("refused", r.refused),
    ];
    let taken: Vec<String> = match all.iter().filter(|(_, calls)| *calls > 0).collect::<Vec<_>>() {
        taken if taken.len() == 1 => taken.iter().map(|(route, _)| (*route).to_owned()).collect(),
        taken => taken.iter().map(|(route, calls)| format!("{route} {}", many(*calls))).collect(),
    };
    let errors = match line.errors {
        0 => String::new(),
        errors => format!(", {} failed", many(errors)),
    };
    let vetting = match line.vetting {
        None => "",
        Some(Vetting::NotYet) => "; not vetted yet",
        Some(Vetting::Fit) => "; vetted: fit",
        Some(Vetting::Stays) => "; vetted: stays",
        Some(Vetting::Both) => "; vetted: stays for some roles, search paths or constants",
    };
    format!("{class}{}{errors}{vetting}", taken.join(", "))
}

/// A text in lines of this width, cut after so many.
fn wrapped(text: &str, width: usize, lines_max: usize) -> Vec<String> {
    let mut lines = vec![String::new()];
    for word in text.split(' ') {
        let is_full = lines.len() >= lines_max;
        let Some(last) = lines.last_mut() else { break };
        if last.is_empty() {
            last.push_str(word);
        } else if last.chars().count() + 1 + word.chars().count() <= width {
            last.push(' ');
            last.push_str(word);
        } else if is_full {
            last.push_str(" …");
            break;
        } else {
            lines.push(word.to_owned());
        }
    }
    lines
}

/// A number for people: 12,345 and 1.2 M.
fn many(n: u64) -> String {
    match n {
        0..=999 => n.to_string(),
        1_000..=999_999 => format!("{},{:03}", n / 1_000, n % 1_000),
        1_000_000..=999_999_999 => format!("{}.{} M", n / 1_000_000, n % 1_000_000 / 100_000),
        _ => format!("{}.{} G", n / 1_000_000_000, n % 1_000_000_000 / 100_000_000),
    }
}

fn millis(ms: Option<f64>) -> String {
    match ms {
        None => "-".to_owned(),
        Some(ms) if ms < 10.0 => format!("{ms:.2} ms"),
        Some(ms) if ms < 1_000.0 => format!("{ms:.0} ms"),
        Some(ms) => format!("{:.1} s", ms / 1_000.0),
    }
}

fn lasting(seconds: u64) -> String {
    let (minutes, hours, days) = (seconds / 60, seconds / 3_600, seconds / 86_400);
    match (days, hours, minutes) {
        (0, 0, 0) => format!("{seconds} s"),
        (0, 0, _) => format!("{minutes} min {} s", seconds % 60),
        (0, ..) => format!("{hours} h {} min", minutes % 60),
        _ => format!("{days} d {} h", hours % 24),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_and_times_are_for_people() {
        assert_eq!([7, 12_045, 1_250_000].map(many), ["7", "12,045", "1.2 M"]);
        assert_eq!(
            [59, 61, 11_520, 90_000].map(lasting),
            ["59 s", "1 min 1 s", "3 h 12 min", "1 d 1 h"]
        );
        assert_eq!(
            [Some(0.25), Some(42.4), Some(2_500.0), None].map(millis),
            ["0.25 ms", "42 ms", "2.5 s", "-"]
        );
    }

    #[test]
    fn long_texts_are_wrapped_and_cut() {
        let text = vec!["word"; 60].join(" ");
        let lines = wrapped(&text, WIDTH - 4, 2);
        assert_eq!(lines.len(), 2);
        assert!(lines.iter().all(|line| line.chars().count() <= WIDTH - 2), "{lines:?}");
        assert!(lines[1].ends_with(" …"));
        assert_eq!(wrapped(&text, WIDTH - 4, usize::MAX).join(" "), text);
    }
}
