//! Who led when: of one election, by what Events told before the page was opened and by what the Lease said since then. Pure.
//!
//! As far as a Lease shows it, and so for people: whether two ever ran at once is the agents' own matter, which goes by other clocks.

use serde::Serialize;

use super::view::{Election, Term};

/// The most spans that are kept of an election; the oldest go first.
const SPANS: usize = 400;
/// How far the clocks of a node and of the controller may be apart, in milliseconds, for an Event to be taken for the term in the Lease.
const CLOCKS: i64 = 5_000;

/// One pod's time as the leader.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub(super) struct Span {
    pub(super) pod: String,
    pub(super) from: i64,
    /// Nothing while it lasts.
    pub(super) until: Option<i64>,
}

/// The past of an election.
#[derive(Clone, Debug, Default)]
pub(super) struct Line {
    spans: Vec<Span>,
    /// The last renewal that was seen in the last span's term, and how long it was good for.
    renewed: Option<(i64, i64)>,
    /// Whether the last span's beginning is the word of an Event, which comes a moment late.
    is_told: bool,
}

impl Line {
    /// What Events tell, in any order.
    pub(super) fn told(mut terms: Vec<Term>) -> Self {
        terms.sort_by_key(|term| term.at);
        let mut line = Self::default();
        for Term { at, leader, .. } in terms {
            line.end(at);
            if let Some(pod) = leader {
                line.begin(&pod, at);
                line.is_told = true;
            }
        }
        line
    }

    /// What the Lease says now.
    pub(super) fn see(&mut self, election: &Election, now: i64) {
        let renewed = election.renewed.unwrap_or(now);
        let lasts = election.lasts.unwrap_or(i64::MAX);
        let Some(leader) = &election.leader else {
            // A release is a renewal that names nobody.
            return self.end(renewed.min(now));
        };
        let since = election.since.unwrap_or(renewed);
        if !self.is_at(&leader.name, since) {
            let end = match self.renewed {
                // It had run out: when the application ended is known to nobody here, only that it still led then.
                Some((renewed, lasts)) if since.saturating_sub(renewed) >= lasts => renewed,
                _ => since,
            };
            self.end(end);
            self.begin(&leader.name, since);
        }
        self.renewed = Some((renewed, lasts));
        self.is_told = false;
        if let Some(last) = self.spans.last_mut() {
            last.from = since;
            // A leader that comes back before anybody else took over goes on in its term.
            last.until = election.has_run_out(now).then_some(renewed.max(since));
        }
    }

    /// In order, the last one being the present one if there is one.
    pub(super) fn spans(&self) -> &[Span] {
        &self.spans
    }

    /// Whether the last span is the term of this pod that began then.
    fn is_at(&self, pod: &str, since: i64) -> bool {
        let Some(last) = self.spans.last().filter(|last| last.pod == pod) else { return false };
        let is_late = self.is_told && last.until.is_none() && since < last.from.saturating_add(CLOCKS);
        last.from == since || is_late
    }

    fn begin(&mut self, pod: &str, from: i64) {
        if self.spans.len() == SPANS {
            self.spans.remove(0);
        }
        self.spans.push(Span { pod: pod.to_owned(), from, until: None });
        self.renewed = None;
    }

    fn end(&mut self, at: i64) {
        if let Some(last) = self.spans.last_mut().filter(|last| last.until.is_none()) {
            last.until = Some(at.max(last.from));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::ui::view::Pod;

    fn led(pod: &str, since: i64, renewed: i64) -> Election {
        let leader = Pod { name: pod.to_owned(), ..Pod::default() };
        Election {
            leader: Some(leader),
            since: Some(since),
            renewed: Some(renewed),
            lasts: Some(15_000),
            ..Election::default()
        }
    }

    fn free(released: i64) -> Election {
        Election { leader: None, since: Some(0), renewed: Some(released), lasts: Some(1_000), ..Election::default() }
    }

    fn told(at: i64, leader: Option<&str>) -> Term {
        let leader = leader.map(str::to_owned);
        Term { namespace: "shop".to_owned(), id: "billing".to_owned(), at, leader }
    }

    fn spans(line: &Line) -> Vec<(&str, i64, Option<i64>)> {
        line.spans().iter().map(|span| (span.pod.as_str(), span.from, span.until)).collect()
    }

    fn seen(looks: &[(i64, Election)]) -> Line {
        let mut line = Line::default();
        for (now, election) in looks {
            line.see(election, *now);
        }
        line
    }

    #[test]
    fn a_planned_hand_over_leaves_no_gap_that_was_not_seen() {
        let line = seen(&[(10_000, led("a", 1_000, 9_000)), (12_000, led("b", 11_500, 11_500))]);
        assert_eq!(spans(&line), [("a", 1_000, Some(11_500)), ("b", 11_500, None)]);
    }

    #[test]
    fn a_release_ends_a_term_when_it_was_written() {
        let line =
            seen(&[(10_000, led("a", 1_000, 9_000)), (12_000, free(10_500)), (20_000, led("a", 19_000, 19_000))]);
        assert_eq!(spans(&line), [("a", 1_000, Some(10_500)), ("a", 19_000, None)]);
    }

    #[test]
    fn after_a_crash_nobody_is_said_to_have_led() {
        let mut line = seen(&[(10_000, led("a", 1_000, 9_000)), (34_000, led("a", 1_000, 9_000))]);
        assert_eq!(spans(&line), [("a", 1_000, None)], "as long as clocks may be apart");
        line.see(&led("a", 1_000, 9_000), 34_001);
        assert_eq!(spans(&line), [("a", 1_000, Some(9_000))]);
        let mut back = line.clone();
        back.see(&led("a", 1_000, 34_500), 35_000);
        assert_eq!(spans(&back), [("a", 1_000, None)]);
        line.see(&led("b", 24_100, 35_000), 35_500);
        assert_eq!(spans(&line), [("a", 1_000, Some(9_000)), ("b", 24_100, None)]);
    }

    #[test]
    fn what_events_told_is_taken_up_by_the_lease() {
        let terms = [told(9_000, Some("b")), told(2_000, Some("a")), told(8_000, None), told(1_000, None)];
        let mut line = Line::told(terms.to_vec());
        assert_eq!(spans(&line), [("a", 2_000, Some(8_000)), ("b", 9_000, None)]);
        line.see(&led("b", 8_900, 20_000), 20_500);
        assert_eq!(spans(&line), [("a", 2_000, Some(8_000)), ("b", 8_900, None)]);
        // The Events of some terms were dropped: the pod leads again, in a later one.
        let mut other = Line::told(terms.to_vec());
        other.see(&led("b", 60_000, 61_000), 61_000);
        assert_eq!(spans(&other), [("a", 2_000, Some(8_000)), ("b", 9_000, Some(60_000)), ("b", 60_000, None)]);
    }

    #[test]
    fn a_line_does_not_grow_without_end() {
        let mut line = Line::default();
        for term in 0..2 * i64::try_from(SPANS).unwrap() {
            line.see(&led("a", term * 10, term * 10), term * 10);
        }
        assert_eq!(line.spans().len(), SPANS);
    }
}
