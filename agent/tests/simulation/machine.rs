//! One machine of the simulation: its clocks, its process with the elector, its app and its disk.

use std::{collections::VecDeque, time::Duration};

use jiff::Timestamp;
use leader_agent::{
    clock::Now,
    elector::{Elector, Event},
    lease::record::Term,
    timing::Timing,
};

use crate::freeing::Ended;

/// A rate of exactly 1.
pub(crate) const TRUE_RATE: u64 = 1_000_000;

/// The clocks, as functions of the true time.
#[derive(Clone, Debug)]
pub(crate) struct Clocks {
    pub boot_start: Duration,
    pub raw_start: Duration,
    /// Millionths of the true rate.
    pub boot_rate: u64,
    pub raw_rate: u64,
    /// How far the wall clock is off, in seconds.
    pub wall_offset: i64,
}

impl Clocks {
    pub(crate) fn exact() -> Self {
        let start = Duration::from_secs(1000);
        Self { boot_start: start, raw_start: start, boot_rate: TRUE_RATE, raw_rate: TRUE_RATE, wall_offset: 0 }
    }

    pub(crate) fn boot(&self, at: Duration) -> Duration {
        self.boot_start + scale(at, self.boot_rate, TRUE_RATE)
    }

    /// The first true time at which the boot clock shows `boot`.
    pub(crate) fn when(&self, boot: Duration) -> Duration {
        scale(boot.saturating_sub(self.boot_start), TRUE_RATE, self.boot_rate) + Duration::from_nanos(1)
    }

    /// One reading; `between` passes from the first clock to the second.
    pub(crate) fn read(&self, at: Duration, between: Duration) -> Now {
        let micros = i64::try_from(at.as_micros()).expect("a short simulation");
        let wall = 1_795_000_000_000_000 + micros + self.wall_offset * 1_000_000;
        Now {
            boot: self.boot(at),
            raw: self.raw_start + scale(at + between, self.raw_rate, TRUE_RATE),
            wall: Timestamp::from_microsecond(wall).expect("a time of this century"),
        }
    }
}

fn scale(time: Duration, by: u64, of: u64) -> Duration {
    let nanos = time.as_nanos() * u128::from(by) / u128::from(of);
    Duration::from_nanos(u64::try_from(nanos).expect("a short simulation"))
}

/// How this machine's app behaves.
#[derive(Clone, Debug)]
pub(crate) struct Temper {
    /// From the stop signal to the end of its first process; `None` ignores the signal.
    pub stops_in: Option<Duration>,
    /// Whether it leaves processes behind when the first one ends.
    pub leaves_orphans: bool,
    /// From KILL to the last process gone.
    pub killed_in: Duration,
    /// How long the elector lets it be prepared for a stop; zero: not at all.
    pub preparation: Duration,
    /// How long a stop that is not urgent may take, preparation included; never less than the stop grace after it.
    pub stop_time: Duration,
    /// How long the preparation takes; `None` never ends.
    pub prepared_in: Option<Duration>,
}

/// An app with at least one process alive.
#[derive(Debug)]
pub(crate) struct App {
    pub number: u64,
    pub prepared: bool,
    pub asked_to_stop: bool,
    pub first_process: bool,
    /// When a stop began that is not urgent, if nothing urgent has come since, on the boot clock.
    pub planned_since: Option<Duration>,
}

/// What becomes of the disk, and of the identity, when the process starts again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Comeback {
    /// A container restart: same identity, same emptyDir.
    SameDisk,
    /// Same identity without a term file.
    LostDisk,
    /// Another pod in its place.
    NewPod,
}

/// What a process was shown of the Lease.
#[derive(Default)]
#[expect(clippy::struct_excessive_bools, reason = "independent facts")]
pub(crate) struct Seen {
    /// The newest resource version.
    pub newest: u64,
    /// The last record has the hold annotation.
    pub hold: bool,
    /// Another one holds the Lease, shown while this one led or released.
    pub ousted: bool,
    /// In the last record election is being turned on.
    pub turning_on: bool,
    /// The last record asks the holder of this very term to give leadership away, to somebody who may take it.
    pub asked: bool,
    /// In the last record a standby answers the holder of this very term that it would take over.
    pub succeeded: bool,
}

/// The stub and the agent of one life.
#[expect(clippy::struct_excessive_bools, reason = "independent facts")]
pub(crate) struct Process {
    pub elector: Elector,
    pub paused: bool,
    pub inbox: VecDeque<Event>,
    pub armed: Option<Duration>,
    pub guard: u64,
    pub wake: u64,
    /// When the elector wanted to be called, on the boot clock.
    pub due: Option<Duration>,
    pub reading: Option<u64>,
    pub writing: Vec<u64>,
    /// The agent does nothing any more: it ended, died, or was killed.
    pub over: bool,
    pub asked_to_end: Option<Duration>,
    /// When it last sent KILL.
    pub killed: Option<Duration>,
    /// When each write was sent, on the boot clock.
    pub sent: Vec<Duration>,
    /// When the newest of those that are stored was sent.
    pub stored: Option<Duration>,
    pub seen: Seen,
    /// How many timeouts came in the second that began then.
    pub timeouts: (Duration, u32),
    /// When it was last held up, or told that its margin grows.
    pub disturbed: Duration,
    /// How late its timers are, until when: what it was told, and what its margin allows for from then on.
    pub late: (Duration, Duration),
    /// Whether it was told that its processor is limited.
    pub starved: bool,
    /// Since when its app is not ready, on the boot clock.
    pub unready_since: Option<Duration>,
    /// It stopped its last app so that another one leads.
    pub gives_away: bool,
    /// When the release that followed was stored.
    pub gave_away: Option<Duration>,
}

/// An established watch.
pub(crate) struct Stream {
    pub number: u64,
    pub last_delivery: Duration,
}

/// The way between a machine and the API server.
#[derive(Default)]
pub(crate) struct Link {
    pub no_requests_until: Duration,
    pub no_replies_until: Duration,
    pub no_watch_until: Duration,
    pub slow_until: Duration,
    pub slow_by: Duration,
    pub slow_watch_until: Duration,
    pub slow_watch_by: Duration,
    /// Replies of the next writes that get lost.
    pub lose_replies: u32,
}

/// A machine.
pub(crate) struct Machine {
    pub clocks: Clocks,
    pub timing: Timing,
    /// The durations of the pods that come after the first.
    pub later_timing: Timing,
    /// Another place than this one is preferred.
    pub yields: bool,
    /// What the API server says of its container's end.
    pub reported: Option<Ended>,
    /// When the kubelet's last report arrives there.
    pub report_at: Duration,
    /// When its process was started, and how far the wall clock was off then.
    pub started: Duration,
    pub started_offset: i64,
    pub temper: Temper,
    pub index: usize,
    pub pod: u32,
    /// The identity of its current pod.
    pub identity: String,
    pub life: u32,
    pub process: Option<Process>,
    pub app: Option<App>,
    pub disk: Option<Term>,
    pub comeback: Comeback,
    pub back_after: Duration,
    pub link: Link,
    pub stream: Option<Stream>,
    pub gone_since: Duration,
    /// Until when something runs that an earlier process told to run beside its app.
    pub beside_until: Duration,
    /// The fencing token of the last app that it started.
    pub token: u64,
}

impl Machine {
    pub(crate) fn new(index: usize, clocks: Clocks, timings: (Timing, Timing), temper: Temper) -> Self {
        Self {
            clocks,
            timing: timings.0,
            later_timing: timings.1,
            yields: false,
            reported: None,
            report_at: Duration::ZERO,
            started: Duration::ZERO,
            started_offset: 0,
            temper,
            index,
            pod: 0,
            identity: identity(index, 0),
            life: 0,
            process: None,
            app: None,
            disk: None,
            comeback: Comeback::SameDisk,
            back_after: Duration::from_millis(300),
            link: Link::default(),
            stream: None,
            gone_since: Duration::ZERO,
            beside_until: Duration::ZERO,
            token: 0,
        }
    }

    /// Another pod takes this one's place.
    pub(crate) fn replace_pod(&mut self) {
        self.disk = None;
        self.pod += 1;
        self.identity = identity(self.index, self.pod);
        self.timing = self.later_timing;
    }

    /// Its name in a story.
    pub(crate) fn name(&self) -> &str {
        self.identity.split('_').next().unwrap_or_default()
    }

    /// The process, while it is able to do anything.
    pub(crate) fn acting(&mut self) -> Option<&mut Process> {
        self.process.as_mut().filter(|process| !process.over)
    }
}

/// As many machines as a world may have.
pub(crate) const NAMES: [&str; 7] = ["ann", "ben", "cid", "dan", "eve", "fay", "gus"];

/// The identity of a machine's pod.
fn identity(machine: usize, pod: u32) -> String {
    let name = NAMES[machine];
    if pod == 0 { format!("{name}_{name}-uid_app") } else { format!("{name}{pod}_{name}{pod}-uid_app") }
}
