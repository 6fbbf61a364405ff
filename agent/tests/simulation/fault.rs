//! What may go wrong, and schedules of it made from a seed.

use std::time::Duration;

use fastrand::Rng;
use leader_agent::timing::Timing;

use crate::machine::{Clocks, Comeback, TRUE_RATE, Temper};

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
    Duration(i32),
    RenewTime,
    AcquireTime,
    Transitions(i32),
    Label,
    Hold(bool),
    TurningOn(bool),
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

/// A whole schedule.
#[derive(Debug)]
pub(crate) struct Plan {
    pub timings: Vec<Timing>,
    pub clocks: Vec<Clocks>,
    pub tempers: Vec<Temper>,
    pub initial: Initial,
    pub faults: Vec<(Duration, Fault)>,
    pub calm: Duration,
    /// The longest that anybody waits for a Lease that is not renewed.
    pub longest_wait: Duration,
    /// A clock that the check cannot accept: its machine steps down again and again.
    pub hopeless_clock: bool,
    /// Timer and kill chain take as long as the margin allows for.
    pub slow_kills: bool,
    /// Messages and kill chains take their usual time and their worst: for stories told by hand.
    pub steady: bool,
}

const SECOND: Duration = Duration::from_secs(1);

/// The schedule of `seed`.
pub(crate) fn plan(seed: u64) -> Plan {
    let mut rng = Rng::with_seed(seed);
    let rng = &mut rng;
    let lease = SECOND * *pick(rng, &[5, 5, 10, 15]);
    let mixed = rng.u8(..8) == 0;
    let timings: Vec<Timing> = (0..3)
        .map(|_| Timing::new(if mixed { SECOND * *pick(rng, &[5, 10, 15]) } else { lease }, None, false).expect("fits"))
        .collect();
    let longest = timings.iter().map(Timing::lease).max().expect("three");
    let mut clocks: Vec<Clocks> = (0..3).map(|_| clocks_of(rng)).collect();
    let mut hopeless_clock = false;
    if rng.u8(..4) == 0 {
        // One of the two clocks of one machine is off; nothing says which.
        let odd = &mut clocks[rng.usize(..3)];
        hopeless_clock = rng.u8(..5) == 0;
        let off = if hopeless_clock { rng.u64(56_000..70_000) } else { rng.u64(30_000..38_000) };
        let rate = if rng.bool() { TRUE_RATE - off } else { TRUE_RATE + off };
        // A slow boot clock beyond the check is a stated limit until the check has seen it.
        if rng.bool() && !(hopeless_clock && rate < TRUE_RATE) {
            odd.boot_rate = rate;
        } else {
            odd.raw_rate = rate;
        }
    }
    let tempers = (0..3).map(|_| temper(rng, longest)).collect();
    let initial = *pick(rng, &[Initial::Absent, Initial::Unheld, Initial::Released, Initial::Released, Initial::Held]);
    let mut faults = Vec::new();
    let mut at = if initial == Initial::Released { Duration::ZERO } else { longest };
    let mut longest_wait = longest;
    for _ in 0..rng.usize(1..5) {
        at += part(rng, longest * 2);
        // Faults come together: that is where mistakes hide.
        for _ in 0..rng.usize(1..5) {
            let near = if rng.bool() { Duration::from_micros(rng.u64(..20_000)) } else { part(rng, longest) };
            let fault = fault(rng, longest, mixed);
            if let Fault::Edit(Edit::Duration(seconds)) = fault {
                longest_wait = longest_wait.max(SECOND * u32::try_from(seconds).unwrap_or(0));
            }
            faults.push((at + near, fault));
        }
    }
    let calm = at + longest * 2;
    Plan {
        timings,
        clocks,
        tempers,
        initial,
        faults,
        calm,
        longest_wait,
        hopeless_clock,
        slow_kills: rng.bool(),
        steady: false,
    }
}

fn clocks_of(rng: &mut Rng) -> Clocks {
    let rate = |rng: &mut Rng| match rng.u8(..3) {
        0 => TRUE_RATE - 5000,
        1 => TRUE_RATE + 5000,
        _ => TRUE_RATE - 5000 + rng.u64(..10_000),
    };
    Clocks {
        boot_start: SECOND * rng.u32(1..100_000),
        raw_start: SECOND * rng.u32(1..100_000),
        boot_rate: rate(rng),
        raw_rate: rate(rng),
        wall_offset: if rng.bool() { 0 } else { rng.i64(-4000..4000) },
    }
}

fn temper(rng: &mut Rng, lease: Duration) -> Temper {
    Temper {
        stops_in: match rng.u8(..6) {
            0 => None,
            1 => Some(part(rng, lease)),
            _ => Some(Duration::from_millis(rng.u64(..800))),
        },
        leaves_orphans: rng.u8(..4) == 0,
        killed_in: Duration::from_millis(if rng.u8(..8) == 0 { rng.u64(900..1250) } else { rng.u64(..300) }),
        preparation: if rng.bool() { Duration::ZERO } else { part(rng, lease / 2) },
        prepared_in: if rng.u8(..4) == 0 { None } else { Some(part(rng, lease / 3)) },
    }
}

fn fault(rng: &mut Rng, lease: Duration, mixed: bool) -> Fault {
    let who = if rng.u8(..5) < 3 { Who::Leader } else { Who::Machine(rng.usize(..3)) };
    let lasts = if rng.bool() { part(rng, lease / 2) } else { part(rng, lease * 2) };
    let comeback = *pick(rng, &[Comeback::SameDisk, Comeback::SameDisk, Comeback::LostDisk, Comeback::NewPod]);
    let back_after = Duration::from_millis(if rng.bool() { rng.u64(..300) } else { rng.u64(..5000) });
    match rng.u8(..27) {
        0..3 => {
            let (requests, replies) = *pick(rng, &[(true, true), (true, false), (false, true), (false, true)]);
            Fault::Cut { who, requests, replies, lasts }
        }
        3..5 => Fault::Outage { how: *pick(rng, &[Away::Silent, Away::Refuses, Away::Breaks]), lasts },
        5 => Fault::Slow { who, by: part(rng, lease / 2), lasts },
        6..8 => Fault::LoseReply { who, writes: rng.u32(1..4) },
        8 => Fault::Noise { lasts },
        9..12 => Fault::Crash { who, comeback, back_after, at_once: rng.bool() },
        12..14 => Fault::Pause { who, lasts },
        // With different durations a lost record is a stated limit: the longest may be forgotten with it.
        14..17 if !mixed => Fault::Delete,
        17..21 => Fault::Edit(edit(rng, lease, mixed)),
        21 => Fault::WatchGap { who, lasts },
        22 => Fault::Shutdown { who, patience: if rng.bool() { lease * 4 } else { part(rng, lease) }, comeback },
        23 => Fault::AppExit { who },
        24 => Fault::WallJump { who, seconds: rng.i64(-90_000..90_000) },
        25 => Fault::AppFails { who },
        26 => Fault::Late { who, by: part(rng, lease / 4) },
        _ => Fault::Edit(Edit::Label),
    }
}

fn edit(rng: &mut Rng, lease: Duration, mixed: bool) -> Edit {
    match rng.u8(..12) {
        0..3 => Edit::Empty,
        3 => Edit::Stranger,
        4 if !mixed => Edit::Duration(i32::try_from(lease.as_secs()).expect("short") * rng.i32(0..=8) / 4),
        5 => Edit::RenewTime,
        6 => Edit::AcquireTime,
        7 => Edit::Transitions(rng.i32(-3..4)),
        8 => Edit::Hold(true),
        9 => Edit::Hold(false),
        10 => Edit::TurningOn(rng.bool()),
        _ => Edit::Label,
    }
}

/// A part of `whole`.
pub(crate) fn part(rng: &mut Rng, whole: Duration) -> Duration {
    Duration::from_micros(rng.u64(..=u64::try_from(whole.as_micros()).expect("short")))
}

fn pick<'a, T>(rng: &mut Rng, of: &'a [T]) -> &'a T {
    &of[rng.usize(..of.len())]
}
