//! What an elector and its caller say to each other: settings, events in, actions out. Decides nothing.

use std::time::Duration;

use serde_json::Value;

use crate::{
    lease::record::{Record, Term},
    names,
    timing::Timing,
};

/// Who takes part, and how.
#[derive(Clone, Debug)]
pub struct Settings {
    /// The Lease's name: the id.
    pub name: String,
    /// Its namespace.
    pub namespace: String,
    /// What this candidate writes as the holder: unique to its process, but for a container that starts again.
    pub identity: String,
    /// The durations.
    pub timing: Timing,
    /// Where the jitter of retries comes from, so that a run can be repeated.
    pub seed: u64,
    /// How long the caller may take to prepare the app for a stop that is not urgent: [`Action::Prepare`]. Zero: it is not asked to.
    pub preparation: Duration,
    /// How long the app may take for a stop that is not urgent, its preparation included, while the lease is renewed. The stop grace is
    /// left to it after a preparation in any case.
    pub stop_time: Duration,
    /// The term that a former process of this container held, where it is proved that all its processes are gone.
    pub reclaim: Option<Term>,
    /// Election was being turned on when this candidate was made: a Lease that is not there is one that was lost, and with it who is
    /// waited for.
    pub born_under_turning_on: bool,
    /// Another place than this one is preferred for the leader: after a release this candidate lets others go first.
    pub yields: bool,
    /// For how long the app may be unready ([`Event::Ready`]) before its leadership is given away; `None`: for ever.
    pub unhealthy_step_down: Option<Duration>,
}

/// Where an observation comes from: this decides whether it can be older than what is known.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Source {
    /// An event of the watch.
    Watch,
    /// A read that the server answered from its newest state.
    Read {
        /// When it was sent, on the boot clock.
        sent: Duration,
    },
}

/// What became of a write.
#[derive(Clone, Debug)]
pub enum Reply {
    /// Stored; the object as it stands now.
    Written(Record),
    /// Refused because the object is another one, in another state, or not there: proves nothing about earlier attempts.
    Conflict,
    /// Refused for another reason, and surely not stored.
    Refused,
    /// No answer, or one that does not tell: it may be stored.
    Unknown,
}

/// What happened.
#[derive(Clone, Debug)]
pub enum Event {
    /// The Lease was seen.
    Seen(Record, Source),
    /// The Lease was seen not to exist.
    Absent {
        /// The resourceVersion of the deletion, where a watch told it.
        version: Option<u64>,
        /// Who saw it.
        source: Source,
    },
    /// An [`Action::Read`] ended; with its result as an event before this one, if it had any.
    ReadEnded {
        /// Whether it had a result.
        answered: bool,
    },
    /// An [`Action::Write`] ended.
    Replied {
        /// Its number.
        attempt: u64,
        /// The outcome.
        reply: Reply,
    },
    /// The app's first process ended by itself, or could not be started; the rest of its tree may live.
    AppExited,
    /// The app runs and will not become what it should be: its postStart hook or its startup probe has failed for good.
    AppFailed,
    /// The app's readiness probe passes, or fails, from now on; before the first of these the app counts as ready.
    Ready(bool),
    /// What [`Action::Prepare`] asked for is done.
    Prepared,
    /// `wait()` answered ECHILD: no process of the app is left.
    AppGone,
    /// The kubelet, or a person, wants this process to end. The caller has passed the signal on to the app.
    Shutdown,
    /// The caller's own timer came this late.
    Late(Duration),
    /// The container's CPU limit was looked at again: whether it is below one core, or unreadable.
    Starved(bool),
}

/// Why the app is stopped.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum StopReason {
    /// The kubelet or a person asked.
    #[error("asked to end")]
    Shutdown,
    /// The app's first process ended.
    #[error("the application ended")]
    AppExited,
    /// The app did not start as it should; a pod where it might shall lead.
    #[error("the application failed to start")]
    AppFailed,
    /// No renewal succeeded for so long that the app must stop now to be dead in time.
    #[error("the lease is running out: no renewal succeeded in time")]
    RunningOut,
    /// A person put the hold annotation on the Lease.
    #[error("the Lease is on hold")]
    Hold,
    /// A person asked the holder of this term to give leadership away.
    #[error("asked to give leadership to another one")]
    StepDown,
    /// The app was not ready for too long, and a standby would take over.
    #[error("the application was not ready for too long, and another candidate takes over")]
    Unready,
    /// The margin has grown so much that two renewals do not fit any more.
    #[error("this machine's timers are too late: two renewals no longer fit into the lease")]
    NoRoom,
    /// Two clocks of this machine disagree by more than the margin allows.
    #[error("this machine's clocks disagree by more than 5%")]
    ClockSkew,
}

impl StopReason {
    /// Whether the app may be prepared for this stop, and has the pod's time for it: the lease is not in danger, and nobody has asked
    /// the app itself to stop.
    pub(crate) fn is_planned(self) -> bool {
        matches!(self, Self::Hold | Self::AppFailed) || self.gives_away()
    }

    /// Whether this stop is for another candidate to lead, though this one could.
    pub(super) fn gives_away(self) -> bool {
        matches!(self, Self::StepDown | Self::Unready)
    }
}

/// Why everything must die at once.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Loss {
    /// The deadline passed.
    #[error("the lease was not renewed before its deadline")]
    Deadline,
    /// Somebody else holds the Lease, or edited it so that somebody else may take it.
    #[error("the Lease is held by another")]
    Foreign,
    /// Processes of the app were left some time after KILL.
    #[error("processes of the application outlived KILL")]
    NotGone,
}

/// What the caller shall do.
#[derive(Clone, Debug)]
pub enum Action {
    /// Read the Lease from the server's newest state.
    Read,
    /// Send one PUT.
    Write {
        /// Its number, for the reply.
        attempt: u64,
        /// The object. With a resourceVersion it updates that state only; without one it creates, and never overwrites.
        body: Value,
    },
    /// Set the deadline, on the boot clock, at which everything dies.
    Arm(Duration),
    /// Start the app. The fencing token is the resourceVersion of the acquiring write.
    Start {
        /// The fencing token.
        token: u64,
    },
    /// Prepare the app, which still runs, for a stop: its preStop hook. An [`Event::Prepared`] follows, or an [`Action::Stop`]
    /// because there is no more time.
    Prepare(StopReason),
    /// Ask the app to stop. For [`StopReason::Shutdown`] it has been asked already. Where none was started, in a term that an earlier
    /// process held, an [`Event::AppGone`] says that nothing is left of what that one started.
    Stop(StopReason),
    /// Kill the app's whole tree, again and again until it is gone.
    Kill,
    /// Take the deadline away: nothing is left that it guards against.
    Disarm,
    /// Remember this term on disk for a reclaim.
    StoreTerm(Term),
    /// Forget the term on disk.
    ForgetTerm,
    /// End PID 1, and with it everything.
    Die(Loss),
    /// Nothing is held any more: end.
    End,
}

/// Why a standby does not acquire the Lease even where it could.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Obstacle {
    /// A person put the hold annotation on the Lease.
    #[error("the Lease is on hold: nobody leads until its annotation {} is removed", names::HOLD)]
    Hold,
    /// Pods without the agent may still run the app.
    #[error(
        "election is being turned on: nobody acquires while pods without the agent may run the application (annotation {})",
        names::TURNING_ON
    )]
    TurningOn,
    /// The margin has grown so much that two renewals do not fit.
    #[error("this machine's timers are too late for the lease's duration: two renewals do not fit into it")]
    NoRoom,
}

/// Where an election stands, for logs and people.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    /// Waiting for the Lease.
    Standby,
    /// Holding it, with the app running or stopping.
    Leader,
    /// Giving it back.
    Releasing,
    /// Done.
    Ended,
}
