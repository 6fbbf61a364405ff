//! Mistakes made on purpose, so that tests can show that they would find them.
//!
//! Each [`Mutant`] breaks one rule in one place of this crate. Without the cargo feature `mutants`, which only this crate's own
//! tests ask for, [`is`] is constantly false and the compiler leaves nothing of any of them. With it a thread chooses one mistake
//! for all that it does from then on; a process that forks takes the choice of its forking thread along.

/// Declares the mutants: what the mistake is, its name, and the rule that it breaks.
macro_rules! mutants {
    ($($(#[doc = $mistake:literal])+ $name:ident: $rule:literal,)+) => {
        /// One mistake.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
        pub enum Mutant {
            $($(#[doc = $mistake])+ $name,)+
        }

        impl Mutant {
            /// All of them.
            pub const ALL: &[Self] = &[$(Self::$name),+];

            /// The rule of docs/safety.md that it breaks. Those that begin with `kernel` need a real kernel to be found.
            pub const fn rule(self) -> &'static str {
                match self {
                    $(Self::$name => $rule,)+
                }
            }

            /// What the mistake is, in a sentence.
            pub const fn mistake(self) -> &'static str {
                match self {
                    $(Self::$name => concat!($($mistake),+),)+
                }
            }
        }
    };
}

mutants! {
    /// An update without the uid: it creates the Lease anew where that was deleted.
    UpdateWithoutUid: "electing 1",
    /// An update without the resourceVersion: it overwrites whatever is there.
    BlindWrite: "electing 1",
    /// Whoever sees an empty holder takes the Lease.
    EmptyIsFree: "electing 2",
    /// A release proof counts whatever term it names.
    ProofNotCompared: "electing 2",
    /// A Lease made anew does not begin the wait anew.
    NewObjectContinuesWait: "electing 2",
    /// A standby that sees no Lease creates it with itself as the holder.
    StandbyCreatesHeld: "electing 3",
    /// Whoever sees its own name as the holder leads.
    LeadsOnOwnName: "electing 4",
    /// An acquisition without an answer counts as made.
    LeadsOnUnknown: "electing 4",
    /// A term is taken up again by its file alone, whatever the record says by now.
    ReclaimNotCompared: "electing 4",
    /// A leader that sees another holder takes the Lease back.
    ForeignOverwritten: "electing 5",
    /// A leader that sees another holder asks its app to stop, instead of killing it.
    ForeignStopsGently: "electing 5",
    /// A release is written over the record of another holder.
    ForeignReleased: "electing 5",
    /// The leader counts from the reply to its write.
    DeadlineFromReply: "electing 6",
    /// The leader's deadline is kept by the wall clock.
    DeadlineByWallClock: "electing 6",
    /// A candidate counts from the sending of the request that showed the change.
    WaitsFromSending: "electing 6",
    /// A candidate counts by the wall clock from the record's renewTime.
    TrustsRenewTime: "electing 6",
    /// Any change of the object begins the wait anew.
    MetadataFeeds: "electing 6",
    /// The swap uses the resourceVersion with which the wait began.
    SwapsFirstVersion: "electing 6",
    /// A renewal without an answer moves the deadline.
    UnknownMovesDeadline: "electing 7",
    /// A conflict is taken for the own write that arrived before.
    ConflictIsSuccess: "electing 7",
    /// A write is recognised by its term, not by its renewTime.
    RenewTimeNotCompared: "electing 7",
    /// The reply to a write of a term that is over makes a leader.
    LateReplyRevives: "electing 7",
    /// After a conflict the same intent is sent with a new resourceVersion.
    ResendsAfterConflict: "electing 7",
    /// A candidate waits by its own duration alone.
    WaitsOwnDuration: "electing 8",
    /// A candidate waits by the record's duration alone.
    WaitsRecordDuration: "electing 8",
    /// A candidate forgets a longer duration that it saw earlier in the term.
    WaitsNewestDuration: "electing 8",
    /// A release proof is believed although the server's memory went back in time.
    RestoredIsFree: "electing 9",
    /// What is older than the newest state is taken for news.
    StaleIsNews: "electing 9",
    /// A candidate waits on the boot clock alone.
    WaitsOnOneClock: "electing 10",
    /// A leader does not shorten its lease by the ratio of its clocks.
    ClocksNotCompared: "electing 10",
    /// A leader whose clocks disagree by more than 5% goes on.
    SkewTolerated: "electing 10",
    /// No renewals after a stop has begun.
    StopEndsRenewals: "electing 11",
    /// A renewal that succeeds after the stop signal takes the stop back.
    SuccessTakesStopBack: "electing 11",
    /// The Lease is released when the app is asked to stop.
    ReleasesAtStop: "electing 12",
    /// The Lease is released when the app's first process has ended.
    ReleasesAtExit: "electing 12",
    /// A term that is taken up again only to be given back is released at once, whatever still runs beside the app.
    ReclaimReleasedUnasked: "electing 12",
    /// Everything is dead at the end of the lease, without a margin.
    NoMargin: "killing: margin",
    /// The margin does not grow with the lateness of timers.
    LatenessIgnored: "killing: margin",
    /// The margin does not grow where the processor is limited.
    StarvationIgnored: "killing: margin",
    /// The app gets no signal before it is killed at the deadline.
    NoStopSignal: "killing: stop before the deadline",
    /// A stop that somebody asked for leaves the app no more time than a lease that is being lost.
    PlannedStopHurried: "killing: stop before the deadline",
    /// A lease that is being lost leaves the app as much time as a stop that somebody asked for.
    LostLeaseLeisurely: "killing: stop before the deadline",
    /// The app is started, and then the deadline set.
    StartsUnarmed: "killing: armed before the start",
    /// The deadline is taken away when the app's first process has ended.
    DisarmsAtExit: "killing: disarmed after the last process",
    /// After a forced loss this process is a candidate again.
    ForcedLossCampaigns: "killing: a forced loss ends everything",
    /// Processes that outlive KILL are waited for.
    OutlivingTolerated: "killing: gone 1 s after KILL",
    /// What the first process leaves behind lives on.
    OrphansLive: "killing: the whole tree",
    /// A leader that sees the hold goes on.
    HoldIgnored: "hold",
    /// A Lease that was lost comes back without its hold.
    HoldForgotten: "hold",
    /// A leader that is asked to give leadership away goes on.
    StepDownIgnored: "step-down",
    /// A request is followed whatever term it is about.
    AnyTermIsMeant: "step-down",
    /// Leadership is given away while election is being turned on and nobody may take it.
    GivenAwayToNobody: "step-down",
    /// Who gave leadership away takes it again at once.
    TakesBackAtOnce: "step-down",
    /// A standby takes at once what is released for another one.
    TransferIgnored: "transfer",
    /// The one that a Lease is meant for takes it without a release proof.
    TransferWithoutProof: "transfer",
    /// What is released for one that is gone is left to it for a whole lease.
    TransferHasNoEnd: "transfer",
    /// A candidate in another place than the preferred one takes a released Lease at once.
    PreferenceIgnored: "preference",
    /// A candidate that lets nobody go first waits for less than the lease.
    PreferenceShortensWait: "preference",
    /// A leader that is not ready gives leadership away although nobody would take it.
    UnreadyWithoutSuccessor: "unready",
    /// A leader asks for a successor as soon as it is not ready.
    UnreadyAtOnce: "unready",
    /// A leader that is not ready does not wait after the last time that one gave leadership away for that.
    UnreadyAgainAndAgain: "unready",
    /// A standby acquires while election is being turned on.
    TurningOnIgnored: "turning on",
    /// The app is started without a look at the timers.
    TimersNotLookedAt: "kernel: armed before the start",
    /// The app is gone when its first process is.
    FirstIsAll: "kernel: gone means ECHILD",
    /// The app is gone when a walk through /proc finds nothing of it.
    EmptyWalkIsGone: "kernel: gone means ECHILD",
    /// What the app leaves behind is not adopted by the agent.
    AgentAdoptsNobody: "kernel: gone means ECHILD",
    /// A process whose first thread has ended counts as ended.
    FirstThreadIsProcess: "kernel: the kill loop",
    /// The stub learns of the agent's end by `wait()` alone.
    WaitTrusted: "kernel: the stub does not depend on wait()",
    /// At the deadline the stub kills the agent, and waits for its end.
    AgentWaitedFor: "kernel: the stub does not depend on wait()",
    /// The stub does not look at the deadline.
    StubWithoutDeadline: "kernel: two timers",
    /// The agent has no timer of its own.
    AgentWithoutTimer: "kernel: two timers",
    /// A stub that is not PID 1 ends and leaves the killing to the kernel.
    StubKillsNobody: "kernel: the kill loop",
    /// A stub that is not PID 1 does not adopt what the agent leaves behind.
    StubAdoptsNobody: "kernel: the kill loop",
    /// A process that may not be killed is passed over.
    DeniedPassedOver: "kernel: EPERM ends the agent",
    /// A forced loss first says why, however long that takes.
    LastWordsFirst: "kernel: a forced loss asks nobody",
    /// The stub hands on every signal that is pending before it looks at its timer.
    SignalsBeforeClock: "kernel: what the app does without end does not keep the stub from its clock",
    /// The lock is held by the agent alone.
    LockOfAgentAlone: "kernel: the lock is held by stub and agent",
}

#[cfg(feature = "mutants")]
std::thread_local! {
    static CHOSEN: std::cell::Cell<Option<Mutant>> = const { std::cell::Cell::new(None) };
}

/// The mistake that this thread makes from now on.
#[cfg(feature = "mutants")]
pub fn choose(mutant: Option<Mutant>) {
    CHOSEN.set(mutant);
}

/// The mistake that this thread makes.
#[cfg(feature = "mutants")]
pub fn chosen() -> Option<Mutant> {
    CHOSEN.get()
}

/// Whether this thread makes that mistake.
#[cfg(feature = "mutants")]
pub fn is(mutant: Mutant) -> bool {
    CHOSEN.get() == Some(mutant)
}

/// Whether this thread makes that mistake: never.
#[cfg(not(feature = "mutants"))]
pub const fn is(_mutant: Mutant) -> bool {
    false
}
