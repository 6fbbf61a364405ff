//! Schedules: who takes part with which clocks, durations and apps, and what goes wrong when. Made from a seed.

use std::time::Duration;

use fastrand::Rng;
use leader_agent::timing::Timing;

use crate::{
    fault::{Away, Edit, Fault, Initial, Who},
    freeing::Rules,
    machine::{Clocks, Comeback, TRUE_RATE, Temper},
};

/// A whole schedule.
#[derive(Debug)]
pub(crate) struct Plan {
    pub timings: Vec<Timing>,
    /// Those of the pods that take the place of the first ones.
    pub later_timings: Vec<Timing>,
    pub clocks: Vec<Clocks>,
    pub tempers: Vec<Temper>,
    pub initial: Initial,
    /// A candidate of another program, and the duration of its lease.
    pub rival: Option<Duration>,
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
    /// The machines for which another place is preferred.
    pub yields: Vec<bool>,
    /// After how long of not being ready leadership is given away.
    pub patience: Option<Duration>,
    /// A controller frees the Lease of a holder whose container has ended, by these rules.
    pub frees: Option<Rules>,
}

const SECOND: Duration = Duration::from_secs(1);

/// The schedule of `seed`.
pub(crate) fn plan(seed: u64) -> Plan {
    let mut rng = Rng::with_seed(seed);
    let rng = &mut rng;
    let count = *pick(rng, &[3, 3, 3, 3, 4, 5, 6, 7]);
    let lease = SECOND * *pick(rng, &[5, 5, 10, 15]);
    // Durations that differ, between the pods or between one version and the next.
    let mixed = rng.u8(..8) == 0;
    let timing = |rng: &mut Rng| {
        let lease = if mixed { SECOND * *pick(rng, &[5, 10, 15]) } else { lease };
        Timing::new(lease, None, false).expect("fits")
    };
    let timings: Vec<Timing> = (0..count).map(|_| timing(rng)).collect();
    let later_timings: Vec<Timing> = (0..count).map(|n| if mixed { timing(rng) } else { timings[n] }).collect();
    let longest = timings.iter().chain(&later_timings).map(Timing::lease).max().expect("three");
    let mut clocks: Vec<Clocks> = (0..count).map(|_| clocks_of(rng)).collect();
    let hopeless_clock = rng.u8(..4) == 0 && make_odd(rng, &mut clocks);
    let tempers = (0..count).map(|_| temper(rng, longest)).collect();
    let initial = *pick(rng, &[Initial::Absent, Initial::Unheld, Initial::Released, Initial::Released, Initial::Held]);
    // Its record in between makes others forget a longer duration: with different ones a stated limit.
    let rival = (!mixed && rng.u8(..8) == 0).then_some(lease);
    let mut faults = Vec::new();
    let mut at = if initial == Initial::Released { Duration::ZERO } else { longest };
    let mut longest_wait = longest;
    for _ in 0..rng.usize(1..5) {
        at += part(rng, longest * 2);
        // Faults come together: that is where mistakes hide.
        for _ in 0..rng.usize(1..5) {
            let near = if rng.bool() { Duration::from_micros(rng.u64(..20_000)) } else { part(rng, longest) };
            let fault = if rival.is_some() && rng.u8(..5) == 0 {
                rival_fault(rng, longest)
            } else {
                fault(rng, count, longest, mixed)
            };
            if let Fault::Edit(Edit::Duration(Some(seconds))) = fault {
                longest_wait = longest_wait.max(SECOND * u32::try_from(seconds).unwrap_or(0));
            }
            faults.push((at + near, fault));
        }
    }
    let calm = at + longest * 2;
    let mut plan = Plan {
        timings,
        later_timings,
        clocks,
        tempers,
        initial,
        rival,
        faults,
        calm,
        longest_wait,
        hopeless_clock,
        slow_kills: rng.bool(),
        steady: false,
        yields: Vec::new(),
        patience: None,
        frees: None,
    };
    if rng.bool() {
        steer(rng, &mut plan);
    }
    if plan.rival.is_none() && rng.u8(..4) == 0 {
        plan.frees = Some(Rules::All);
        // A node's clock that goes back between the end of a container and the start of the next one is a stated limit.
        plan.faults.retain(|(_, fault)| !matches!(fault, Fault::WallJump { .. }));
    }
    plan
}

/// What people and the app's readiness add to a schedule: last, so that the rest of it stays as it is without.
fn steer(rng: &mut Rng, plan: &mut Plan) {
    let count = plan.timings.len();
    if rng.u8(..3) == 0 {
        plan.yields = (0..count).map(|_| rng.bool()).collect();
    }
    if rng.bool() {
        plan.patience = Some(SECOND * rng.u32(1..6));
    }
    for _ in 0..rng.usize(1..6) {
        let at = part(rng, plan.calm);
        let mut add = |at: Duration, fault: Fault| plan.faults.push((at, fault));
        let to = |rng: &mut Rng| Edit::TransferTo(Some(rng.usize(..count)).filter(|_| rng.u8(..4) > 0));
        match rng.u8(..6) {
            0 => add(at, Fault::Edit(Edit::StepDown(0))),
            1 => add(at, Fault::Edit(Edit::StepDown(-1))),
            2 => add(at, Fault::Edit(to(rng))),
            3 => {
                add(at, Fault::Edit(to(rng)));
                add(at, Fault::Edit(Edit::StepDown(0)));
            }
            _ => add(at, Fault::Unready { who: Who::Leader, lasts: SECOND + part(rng, SECOND * 15) }),
        }
    }
}

/// Makes one of the two clocks of one machine run wrong; nothing says which. Whether it is beyond what the check accepts.
fn make_odd(rng: &mut Rng, clocks: &mut [Clocks]) -> bool {
    let odd = rng.usize(..clocks.len());
    let odd = &mut clocks[odd];
    let hopeless = rng.u8(..5) == 0;
    let off = if hopeless { rng.u64(56_000..70_000) } else { rng.u64(30_000..38_000) };
    let rate = if rng.bool() { TRUE_RATE - off } else { TRUE_RATE + off };
    // A slow boot clock beyond the check is a stated limit until the check has seen it.
    if rng.bool() && !(hopeless && rate < TRUE_RATE) {
        odd.boot_rate = rate;
    } else {
        odd.raw_rate = rate;
    }
    hopeless
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
        killed_in: match rng.u8(..16) {
            // It may not be killed by its agent: only the end of PID 1 ends it.
            0 => Duration::from_mins(10),
            1 | 2 => Duration::from_millis(rng.u64(900..1250)),
            _ => Duration::from_millis(rng.u64(..300)),
        },
        preparation: if rng.bool() { Duration::ZERO } else { part(rng, lease / 2) },
        stop_time: if rng.bool() { Duration::ZERO } else { part(rng, lease * 2) },
        prepared_in: if rng.u8(..4) == 0 { None } else { Some(part(rng, lease / 3)) },
    }
}

fn fault(rng: &mut Rng, count: usize, lease: Duration, mixed: bool) -> Fault {
    let who = if rng.u8(..5) < 3 { Who::Leader } else { Who::Machine(rng.usize(..count)) };
    let lasts = if rng.bool() { part(rng, lease / 2) } else { part(rng, lease * 2) };
    let comeback = *pick(rng, &[Comeback::SameDisk, Comeback::SameDisk, Comeback::LostDisk, Comeback::NewPod]);
    let back_after = Duration::from_millis(if rng.bool() { rng.u64(..300) } else { rng.u64(..5000) });
    match rng.u8(..32) {
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
        17..21 => Fault::Edit(edit(rng, count, lease, mixed)),
        21 => Fault::WatchGap { who, lasts },
        22 => Fault::Shutdown { who, patience: if rng.bool() { lease * 4 } else { part(rng, lease) }, comeback },
        23 => Fault::AppExit { who },
        24 => Fault::WallJump { who, seconds: rng.i64(-90_000..90_000) },
        25 => Fault::AppFails { who },
        26 => Fault::Late { who, by: part(rng, lease / 4) },
        27 => Fault::Starved { who, on: rng.u8(..3) > 0 },
        28 => Fault::SlowWatch { who, by: part(rng, lease), lasts },
        29 if !mixed => Fault::Replace { copy: rng.bool() },
        30 => Fault::Edit(Edit::Empty),
        _ => Fault::Edit(Edit::Label),
    }
}

fn rival_fault(rng: &mut Rng, lease: Duration) -> Fault {
    match rng.u8(..3) {
        0 => Fault::RivalCut { lasts: part(rng, lease * 2) },
        1 => Fault::RivalCrash,
        _ => Fault::RivalReleases,
    }
}

fn edit(rng: &mut Rng, count: usize, lease: Duration, mixed: bool) -> Edit {
    let day = if rng.u8(..4) == 0 { None } else { Some(rng.i32(-3..4)) };
    match rng.u8(..18) {
        0..3 => Edit::Empty,
        3 => Edit::Stranger,
        4 if !mixed && rng.u8(..6) == 0 => Edit::Duration(None),
        4 if !mixed => Edit::Duration(Some(i32::try_from(lease.as_secs()).expect("short") * rng.i32(0..=8) / 4)),
        5 => Edit::RenewTime(day),
        6 => Edit::AcquireTime(day),
        7 if rng.u8(..6) == 0 => Edit::MostTransitions,
        7 => Edit::Transitions(rng.i32(-3..4)),
        8 => Edit::Hold(true),
        9 => Edit::Hold(false),
        10 => Edit::TurningOn(rng.bool()),
        11 | 12 => Edit::HandedTo(rng.usize(..count)),
        13 if !mixed => Edit::NoSpec,
        14 => Edit::OldProof,
        15 => Edit::ForeignProof,
        16 => Edit::NoAnnotations,
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
