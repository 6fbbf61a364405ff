//! What is told about an election, and in which words. Who asks, and how, is left to [`super::routes`].

use std::time::Duration;

use serde::Serialize;

use crate::elector::Elector;

/// Which candidate of which election this is: the same for as long as the process lives.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Candidate {
    /// The id: the Lease's name.
    pub id: String,
    /// The Lease's namespace.
    pub namespace: String,
    /// What this candidate writes as the holder.
    pub identity: String,
}

/// Where its election stands.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Status {
    /// Leadership, while there is some.
    pub leading: Option<Leading>,
    /// When everything is dead unless a renewal succeeds, on the boot clock; also while the app is being stopped.
    pub deadline: Option<Duration>,
    /// The holder last seen.
    pub holder: Option<String>,
    /// The transitions of the Lease last seen.
    pub transitions: Option<i32>,
    /// Whether this candidate has seen its Lease.
    pub has_seen_lease: bool,
    /// The safety margin at present.
    pub margin: Duration,
}

/// Leadership, from the start of the app until that is asked to stop or has ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Leading {
    /// The fencing token.
    pub token: u64,
    /// Until when, without asking again, this holds unless the Lease is handed over, on the boot clock: the deadline by which the app
    /// would be dead.
    pub believe_until: Duration,
}

impl Status {
    /// Where `elector` stands, whose app was started with `token` and has not been asked to stop.
    pub fn of(elector: &Elector, token: Option<u64>) -> Self {
        let deadline = elector.deadline();
        Self {
            leading: token.zip(deadline).map(|(token, believe_until)| Leading { token, believe_until }),
            deadline,
            holder: elector.holder().map(str::to_owned),
            transitions: elector.transitions(),
            has_seen_lease: elector.has_seen_lease(),
            margin: elector.margin(),
        }
    }

    /// One line of JSON.
    pub fn line(&self, candidate: &Candidate) -> String {
        let answer = Answer {
            id: &candidate.id,
            namespace: &candidate.namespace,
            identity: &candidate.identity,
            leading: self.leading.is_some(),
            holder: self.holder.as_deref(),
            token: self.leading.map(|leading| leading.token),
            believe_until: self.leading.map(|leading| Seconds::of(leading.believe_until)),
        };
        // Texts, numbers and nulls always make JSON.
        let mut line = serde_json::to_string(&answer).unwrap_or_default();
        line.push('\n');
        line
    }
}

/// The answer's fields, in their order.
#[derive(Serialize)]
struct Answer<'a> {
    id: &'a str,
    namespace: &'a str,
    identity: &'a str,
    leading: bool,
    holder: Option<&'a str>,
    token: Option<u64>,
    believe_until: Option<Seconds>,
}

/// A moment on the boot clock as `/proc/uptime` counts it: seconds with three digits after the point, and never later than it is.
#[derive(Clone, Copy, Debug, PartialEq, PartialOrd, Serialize)]
pub struct Seconds(f64);

impl Seconds {
    /// `moment` in these units.
    pub fn of(moment: Duration) -> Self {
        let whole = Duration::new(moment.as_secs(), moment.subsec_millis() * 1_000_000);
        Self(whole.as_secs_f64())
    }
}

impl std::fmt::Display for Seconds {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(formatter, "{:.3}", self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn candidate() -> Candidate {
        Candidate { id: "billing".into(), namespace: "shop".into(), identity: "ann_1_app".into() }
    }

    #[test]
    fn a_standby_says_who_leads_and_promises_nothing() {
        let status = Status { holder: Some("ben".into()), ..Status::default() };
        assert_eq!(
            status.line(&candidate()),
            r#"{"id":"billing","namespace":"shop","identity":"ann_1_app","leading":false,"holder":"ben","token":null,"believe_until":null}"#
                .to_owned()
                + "\n"
        );
    }

    #[test]
    fn a_leader_says_until_when_it_can_be_believed_and_never_too_late() {
        let believe_until = Duration::new(123_456, 789_999_999);
        let leading = Some(Leading { token: 4711, believe_until });
        let line = Status { leading, ..Status::default() }.line(&candidate());
        assert!(
            line.ends_with("\"leading\":true,\"holder\":null,\"token\":4711,\"believe_until\":123456.789}\n"),
            "{line}"
        );
        assert_eq!(Seconds::of(believe_until).to_string(), "123456.789");
        assert_eq!(Seconds::of(Duration::from_millis(1500)).to_string(), "1.500");
    }

    #[test]
    fn a_millisecond_survives_its_way_through_json() {
        for millis in (0..2000).chain(9_000_000_000..9_000_002_000) {
            let json = serde_json::to_string(&Seconds::of(Duration::from_millis(millis))).unwrap();
            let read: f64 = json.parse().unwrap();
            // To a hundredth of a millisecond.
            let off = Duration::from_secs_f64(read).abs_diff(Duration::from_millis(millis));
            assert!(off < Duration::from_micros(10), "{millis}: {json}");
        }
    }
}
