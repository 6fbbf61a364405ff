//! What was counted, and what processes used.

use std::{
    cell::{Cell, RefCell},
    fs, io,
    str::FromStr,
    time::Duration,
};

/// Leaders now, and the renewals while they are measured.
#[derive(Debug, Default)]
pub(crate) struct Tally {
    leaders: Cell<usize>,
    terms: Cell<usize>,
    measured: RefCell<Option<Renewals>>,
}

#[derive(Debug, Default)]
struct Renewals {
    micros: Vec<u64>,
    failed: usize,
}

impl Tally {
    pub(crate) fn began(&self) {
        self.leaders.set(self.leaders.get() + 1);
        self.terms.set(self.terms.get() + 1);
    }

    pub(crate) fn ended(&self) {
        self.leaders.set(self.leaders.get().saturating_sub(1));
    }

    pub(crate) fn leaders(&self) -> usize {
        self.leaders.get()
    }

    /// How many terms have begun, lost ones included.
    pub(crate) fn terms(&self) -> usize {
        self.terms.get()
    }

    /// A renewal was answered, or given up, so long after it was sent.
    pub(crate) fn renewed(&self, took: Duration, stored: bool) {
        if let Some(renewals) = &mut *self.measured.borrow_mut() {
            // Microseconds of a request fit.
            renewals.micros.push(u64::try_from(took.as_micros()).unwrap_or(u64::MAX));
            renewals.failed += usize::from(!stored);
        }
    }

    /// From now on renewals are measured.
    pub(crate) fn start(&self) {
        *self.measured.borrow_mut() = Some(Renewals::default());
    }

    /// The renewals since the start.
    pub(crate) fn stop(&self) -> serde_json::Value {
        let Renewals { mut micros, failed } = self.measured.take().unwrap_or_default();
        micros.sort_unstable();
        let quantile = |share: f64| -> Option<u64> {
            #[allow(clippy::cast_precision_loss, clippy::cast_possible_truncation, clippy::cast_sign_loss)]
            let index = (micros.len() as f64 * share) as usize;
            micros.get(index.min(micros.len().saturating_sub(1))).copied()
        };
        serde_json::json!({
            "count": micros.len(), "failed": failed,
            "p50Micros": quantile(0.5), "p99Micros": quantile(0.99), "longestMicros": micros.last(),
        })
    }
}

/// A process of this machine.
#[derive(Clone, Debug)]
pub(crate) struct Process {
    name: String,
    folder: String,
}

impl Process {
    pub(crate) fn own() -> Self {
        Self { name: "own".to_owned(), folder: "/proc/self".to_owned() }
    }

    pub(crate) fn name(&self) -> &str {
        &self.name
    }

    /// The processor time of all its threads so far, those that have ended included.
    pub(crate) fn used(&self) -> io::Result<Duration> {
        let stat = fs::read_to_string(format!("{}/stat", self.folder))?;
        // The program's name, in parentheses, may hold anything: `utime` and `stime` are the 12th and 13th field after it.
        let ticks = stat.rsplit_once(')').map_or("", |(_, rest)| rest).split_whitespace().skip(11).take(2);
        let ticks: u64 = ticks.filter_map(|field| field.parse::<u64>().ok()).sum();
        Ok(Duration::from_millis(ticks * 1000 / rustix::param::clock_ticks_per_second()))
    }
}

impl FromStr for Process {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let (name, pid) = text.split_once('=').ok_or_else(|| format!("`{text}` is not NAME=PID"))?;
        let pid: u32 = pid.parse().map_err(|_| format!("`{pid}` is no process id"))?;
        Ok(Self { name: name.to_owned(), folder: format!("/proc/{pid}") })
    }
}
