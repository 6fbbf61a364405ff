//! What may go wrong. Schedules of it are made in [`crate::plan`], and [`crate::trouble`] carries them out.

use std::time::Duration;

use crate::machine::Comeback;

/// Whom a fault hits.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Who {
    Machine(usize),
    /// Whose app runs, else whom the Lease names, else the first.
    Leader,
}

/// How an API server that is away answers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Away {
    Silent,
    Refuses,
    Breaks,
}

/// An edit of the Lease by someone who is no candidate.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Edit {
    Empty,
    Stranger,
    /// Another machine's current identity is written as the holder.
    HandedTo(usize),
    /// `None` removes the field.
    Duration(Option<i32>),
    /// Some time of another day; `None` removes the field.
    RenewTime(Option<i32>),
    AcquireTime(Option<i32>),
    Transitions(i32),
    MostTransitions,
    /// The whole spec is gone.
    NoSpec,
    Label,
    /// A proof of another term than this one.
    OldProof,
    /// A proof of another object.
    ForeignProof,
    /// All annotations are gone.
    NoAnnotations,
    Hold(bool),
    TurningOn(bool),
    /// The holder of the term with so many transitions more than the present one is asked to give leadership away.
    StepDown(i32),
    /// The next release is meant for that machine's current pod; `None` for one that is gone.
    TransferTo(Option<usize>),
}

/// One thing that happens to the world.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Fault {
    Cut {
        who: Who,
        requests: bool,
        replies: bool,
        lasts: Duration,
    },
    Outage {
        how: Away,
        lasts: Duration,
    },
    Slow {
        who: Who,
        by: Duration,
        lasts: Duration,
    },
    LoseReply {
        who: Who,
        writes: u32,
    },
    Noise {
        lasts: Duration,
    },
    Crash {
        who: Who,
        comeback: Comeback,
        back_after: Duration,
        at_once: bool,
    },
    Pause {
        who: Who,
        lasts: Duration,
    },
    Delete,
    /// Another object of the same name takes the Lease's place: a copy of its spec, or an unheld one.
    Replace {
        copy: bool,
    },
    Edit(Edit),
    WatchGap {
        who: Who,
        lasts: Duration,
    },
    Shutdown {
        who: Who,
        patience: Duration,
        comeback: Comeback,
    },
    AppExit {
        who: Who,
    },
    AppFails {
        who: Who,
    },
    WallJump {
        who: Who,
        seconds: i64,
    },
    Late {
        who: Who,
        by: Duration,
    },
    /// The app's readiness probe fails for that long.
    Unready {
        who: Who,
        lasts: Duration,
    },
    /// The container's CPU limit is changed.
    Starved {
        who: Who,
        on: bool,
    },
    SlowWatch {
        who: Who,
        by: Duration,
        lasts: Duration,
    },
    RivalCut {
        lasts: Duration,
    },
    RivalCrash,
    RivalReleases,
    /// Everything heals.
    Calm,
}

/// What the Lease looks like at the start.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Initial {
    Absent,
    Unheld,
    Released,
    Held,
}
