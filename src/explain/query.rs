//! Whether the shadow would answer a query, by the levers and by the vetting.

use super::known::Known;
use super::said::{Said, Vetting};
use super::setting::{Filled, Setting};
use crate::manifest::{Percent, Scans};
use crate::proxy::{self, Unfit};
use crate::sql::indirect;
use crate::sql::layout::pretty;
use crate::sql::lex::{Kind, identifier, tokens};
use crate::sql::read::Read;
use crate::sql::statement::{Place, Statement};
use tokio_postgres::Client;

/// Words before a parenthesis that call nothing.
const NO_CALLS: [&str; 38] = [
    "all",
    "and",
    "any",
    "array",
    "as",
    "between",
    "by",
    "case",
    "coalesce",
    "distinct",
    "else",
    "except",
    "exists",
    "extract",
    "filter",
    "from",
    "greatest",
    "having",
    "in",
    "intersect",
    "join",
    "lateral",
    "least",
    "limit",
    "materialized",
    "not",
    "nullif",
    "numeric",
    "on",
    "or",
    "over",
    "select",
    "then",
    "union",
    "using",
    "values",
    "varchar",
    "where",
];
/// Functions that are not immutable and see nothing but their arguments and settings.
const BLIND: [&str; 8] =
    ["now", "to_char", "to_date", "to_timestamp", "date_trunc", "date_part", "age", "concat"];

impl Known {
    pub(super) async fn read(
        &self,
        client: &mut Client,
        (text, statement, place): (&str, &Statement, Place),
        read: &Read,
        said: &mut Said,
    ) {
        let fit = match &read.fit {
            Ok(fit) => fit,
            Err(why) => {
                let why = format!("the shadow cannot answer it: {why}");
                return said.route("read", "source", &why);
            }
        };
        if place == Place::Among {
            said.route("read", "source", indirect::AMONG);
            return said.way_out(indirect::AMONG_WAY_OUT);
        }
        let at = statement.at.clone();
        let Some(form) = fit.on_shadow(text, at.clone(), &self.targets, |_| 0) else {
            return said.route("read", "source", "the shadow has no form of it");
        };
        let targets = fit.targets().filter_map(|t| self.targets.get(t)).cloned().collect();
        let settings: Vec<&Setting> = fit.targets().filter_map(|t| self.settings.get(t)).collect();
        let is_filled = settings.iter().all(|setting| setting.filled == Filled::Yes);
        let may_scan = fit.targets().filter_map(|t| self.may_scan(t)).collect();
        let sql = text.get(at).unwrap_or_default();
        let vetted = match self.calls_unknown(sql) {
            Some(function) => Vetting::NotAsked(function),
            None => match proxy::vet_once(client, sql, form.text(), targets, may_scan).await {
                Ok(_) | Err(Unfit::Dearer(_)) if !is_filled => Vetting::NotFilled,
                Ok(plan) => Vetting::Fit(plan),
                Err(why @ Unfit::Refused(..)) => Vetting::Refused(why.to_string()),
                Err(why @ (Unfit::Fails(_) | Unfit::Quotes(..))) => Vetting::Fails(why.to_string()),
                Err(why) => Vetting::Unfit(why.to_string()),
            },
        };
        let least = settings.iter().min_by_key(|setting| setting.reads);
        let Some(least) = least else { return };
        let levers = format!("{}: reads is {}", least.at(), least.reads);
        match &vetted {
            _ if least.reads == Percent::ZERO => said.route("read", "source", &levers),
            Vetting::Refused(why) | Vetting::Fails(why) => said.route("read", "source", why),
            Vetting::Unfit(why) => {
                said.route("read", "source", &format!("the shadow's form is not as good: {why}"));
            }
            _ if least.reads == Percent::FULL => said.route("read", "shadow", &levers),
            _ => said.route("read", &format!("shadow for {}, else source", least.reads), &levers),
        }
        let runs = vetted.runs();
        said.vetted(vetted);
        if let Err(why) = fit.comparable {
            said.note(format!("never a dark read: {why}"));
        }
        if runs {
            said.sql(pretty(form.text()));
        }
    }

    /// The shadow, if a query may scan it.
    fn may_scan(&self, target: usize) -> Option<u32> {
        let setting = self.settings.get(target).filter(|s| s.scans == Scans::Shadow);
        setting.and_then(|_| Some(self.targets.get(target)?.shadow_oid))
    }

    /// A function that a query calls and that may look at data: the planner works out what hangs on
    /// constants alone, as the control role, and the admin server asks nobody who he is.
    pub(super) fn calls_unknown(&self, sql: &str) -> Option<String> {
        let all = tokens(sql).unwrap_or_default();
        let called = all.windows(2).filter(|pair| {
            matches!(pair, [name, open] if matches!(name.kind, Kind::Word | Kind::Quoted)
                && open.kind == Kind::Open && sql.get(open.at.clone()) == Some("("))
        });
        let mut names = called.filter_map(|pair| identifier(sql, pair.first()?));
        names.find(|name| {
            let harmless = NO_CALLS.contains(&name.as_str()) || BLIND.contains(&name.as_str());
            !harmless && !self.functions.deterministic.contains(name)
        })
    }
}
