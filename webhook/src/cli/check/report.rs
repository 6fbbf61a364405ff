//! What was found, and how it is printed: as a table for people, or as JSON for programs.

use std::fmt::Write;

use serde::Serialize;

use crate::{
    cli::{Error, json},
    review::printable,
};

/// How bad something is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
pub(super) enum Level {
    /// As it should be.
    Ok,
    /// It could not be looked at.
    Unknown,
    /// It works, and somebody should look.
    Warning,
    /// Something does not work, or will not when it is needed.
    Problem,
}

impl Level {
    fn name(self) -> &'static str {
        match self {
            Self::Ok => "ok",
            Self::Unknown => "unknown",
            Self::Warning => "warning",
            Self::Problem => "problem",
        }
    }
}

/// One thing that was found.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub(super) struct Finding {
    pub(super) level: Level,
    /// What it is about, as `Deployment shop/billing`; empty for the cluster as a whole.
    pub(super) object: String,
    /// What is so.
    pub(super) message: String,
    /// What to do about it; empty where nothing is wrong.
    pub(super) mend: String,
}

impl Finding {
    pub(super) fn problem(object: impl Into<String>, message: impl Into<String>, mend: impl Into<String>) -> Self {
        Self { level: Level::Problem, object: object.into(), message: message.into(), mend: mend.into() }
    }

    pub(super) fn warning(object: impl Into<String>, message: impl Into<String>, mend: impl Into<String>) -> Self {
        Self { level: Level::Warning, ..Self::problem(object, message, mend) }
    }

    /// What could not be read, and why.
    pub(super) fn unknown(reason: &str) -> Self {
        let mend = "run this as someone who may read it, or look yourself";
        Self { level: Level::Unknown, ..Self::problem("", format!("not checked: {reason}"), mend) }
    }
}

/// All that was found about one part of the installation.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub(super) struct Check {
    /// One word for it.
    pub(super) name: &'static str,
    /// What is right, in one line.
    pub(super) good: String,
    pub(super) findings: Vec<Finding>,
}

impl Check {
    pub(super) fn new(name: &'static str, good: impl Into<String>, findings: Vec<Finding>) -> Self {
        Self { name, good: good.into(), findings }
    }

    fn level(&self) -> Level {
        self.findings.iter().map(|finding| finding.level).max().unwrap_or(Level::Ok)
    }
}

/// The whole report.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Report {
    pub(super) checks: Vec<Check>,
}

impl Report {
    fn count(&self, level: Level) -> usize {
        self.checks.iter().flat_map(|check| &check.findings).filter(|finding| finding.level == level).count()
    }

    /// Whether something does not work.
    pub(super) fn has_problems(&self) -> bool {
        self.count(Level::Problem) > 0
    }

    /// As JSON: `result` is that of the worst finding.
    pub(super) fn json(&self) -> Result<String, Error> {
        #[derive(Serialize)]
        struct Written<'a> {
            result: Level,
            #[serde(flatten)]
            check: &'a Check,
        }
        let checks: Vec<_> = self.checks.iter().map(|check| Written { result: check.level(), check }).collect();
        let report = serde_json::json!({
            "problems": self.count(Level::Problem),
            "warnings": self.count(Level::Warning),
            "unknown": self.count(Level::Unknown),
            "checks": checks,
        });
        json::text(&report, false)
    }

    /// As a table, with what to do below each line that needs it.
    pub(super) fn table(&self) -> String {
        let mut rows = vec![["RESULT", "CHECK", "OBJECT", "FOUND"].map(str::to_owned).to_vec()];
        for check in &self.checks {
            if check.findings.is_empty() {
                rows.push(vec![Level::Ok.name().to_owned(), check.name.to_owned(), "-".to_owned(), check.good.clone()]);
            }
            for Finding { level, object, message, mend } in &check.findings {
                let object = if object.is_empty() { "-" } else { object };
                let mut row = vec![level.name().to_owned(), check.name.to_owned(), object.to_owned(), message.clone()];
                if !mend.is_empty() {
                    row.push(mend.clone());
                }
                rows.push(row);
            }
        }
        // What is quoted from objects makes no line of its own.
        let rows: Vec<Vec<String>> = rows.iter().map(|row| row.iter().map(|cell| printable(cell)).collect()).collect();
        let width = |column: usize| rows.iter().map(|row| row[column].chars().count()).max().unwrap_or_default();
        let widths = [width(0), width(1), width(2)];
        let mut text = String::new();
        for row in &rows {
            // Writing to a `String` cannot fail.
            let _ = writeln!(
                text,
                "{:3$}   {:4$}   {:5$}   {6}",
                row[0], row[1], row[2], widths[0], widths[1], widths[2], row[3]
            );
            if let Some(mend) = row.get(4) {
                let _ = writeln!(text, "{:1$}   to mend: {mend}", "", widths[0]);
            }
        }
        let counted = |level, one: &str, many: &str| {
            let count = self.count(level);
            format!("{count} {}", if count == 1 { one } else { many })
        };
        let _ = writeln!(
            text,
            "\n{}, {}, {} could not be checked",
            counted(Level::Problem, "problem", "problems"),
            counted(Level::Warning, "warning", "warnings"),
            self.count(Level::Unknown),
        );
        text
    }
}

#[cfg(test)]
mod tests {
    use serde_json::Value;

    use super::*;

    fn report() -> Report {
        let broken = Finding::problem("Deployment shop/billing", "it is not injected", "apply it again");
        Report {
            checks: vec![
                Check::new("kubernetes", "1.36", vec![]),
                Check::new("workloads", "all are injected", vec![broken, Finding::unknown("no")]),
            ],
        }
    }

    #[test]
    fn a_table_with_what_to_do_below() {
        insta::assert_snapshot!(report().table(), @r"
        RESULT    CHECK        OBJECT                    FOUND
        ok        kubernetes   -                         1.36
        problem   workloads    Deployment shop/billing   it is not injected
                  to mend: apply it again
        unknown   workloads    -                         not checked: no
                  to mend: run this as someone who may read it, or look yourself

        1 problem, 0 warnings, 1 could not be checked
        ");
    }

    #[test]
    fn json_names_the_worst_of_each() {
        let json: Value = serde_json::from_str(&report().json().unwrap()).unwrap();
        assert_eq!((&json["problems"], &json["unknown"]), (&1.into(), &1.into()));
        assert_eq!(json["checks"][0]["result"], "ok");
        assert_eq!(json["checks"][1]["result"], "problem");
        assert_eq!(json["checks"][1]["findings"][0]["mend"], "apply it again");
    }

    /// Programs read it: fields are added, and none is taken away or renamed.
    #[test]
    fn the_form_of_json() {
        insta::assert_snapshot!(report().json().unwrap(), @r#"
        {
          "problems": 1,
          "warnings": 0,
          "unknown": 1,
          "checks": [
            {
              "result": "ok",
              "name": "kubernetes",
              "good": "1.36",
              "findings": []
            },
            {
              "result": "problem",
              "name": "workloads",
              "good": "all are injected",
              "findings": [
                {
                  "level": "problem",
                  "object": "Deployment shop/billing",
                  "message": "it is not injected",
                  "mend": "apply it again"
                },
                {
                  "level": "unknown",
                  "object": "",
                  "message": "not checked: no",
                  "mend": "run this as someone who may read it, or look yourself"
                }
              ]
            }
          ]
        }
        "#);
    }

    #[test]
    fn only_a_problem_is_one() {
        assert!(report().has_problems());
        let warning = Finding::warning("", "old", "restart it");
        assert!(!Report { checks: vec![Check::new("a", "", vec![warning])] }.has_problems());
    }
}
