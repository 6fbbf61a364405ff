//! The follower's side: runs its command while the leader's agent says so, and is dead by the last deadline that it heard.
//!
//! It never decides by itself that anything may run, only that it must end sooner ([`OwnMargin`]). What ends everything is what ends the app of a leader: the stub, at the deadline, or
//! because the agent is gone ([`crate::guard`]); and the end of the connection, because then the leader's agent is gone, and its app with it.

use std::{ffi::OsString, io, os::unix::fs::PermissionsExt, path::Path, time::Duration};

use tokio::{
    io::AsyncWriteExt,
    net::{UnixStream, unix::OwnedWriteHalf},
    time::{Instant, sleep, sleep_until, timeout},
};
use tracing::{error, info, warn};

use super::{
    leader::Words,
    margin::OwnMargin,
    settings::FollowSettings,
    wire::{self, Order, Report, What},
};
use crate::{
    app::{App, AppEvent, SignalError},
    clock, cpu,
    guard::{Guard, Signals},
    names::env,
    run::RunError,
};

/// The pause between two attempts to reach the leader's agent, which may not have started yet.
const RETRY: Duration = Duration::from_millis(100);
/// The pause between two walks that kill, while something is left.
const KILL_PAUSE: Duration = Duration::from_millis(2);
/// A follower looks at its own timer, and at its CPU limit, this often.
const TICK: Duration = Duration::from_secs(1);
/// A report that is not taken within this will not be.
const REPORT: Duration = Duration::from_secs(1);
/// The exit code when nothing was run, and the end was asked for.
const ORDERLY: u8 = 0;

/// Makes the folder of this container's lock.
///
/// # Errors
/// When there can be none: then nobody is told that what ran before has ended.
pub fn make_folder(folder: &Path) -> io::Result<()> {
    match std::fs::create_dir(folder) {
        Err(error) if error.kind() != io::ErrorKind::AlreadyExists => Err(error),
        Err(_) => Ok(()),
        // The next one in this container may be of another user.
        Ok(()) => std::fs::set_permissions(folder, std::fs::Permissions::from_mode(0o777)),
    }
}

/// Follows until a signal or the command's own end. Returns the code to end with.
///
/// # Errors
/// Only before anything was run: the caller ends with code 2.
pub async fn follow(settings: FollowSettings, guard: Guard) -> Result<(Guard, u8), RunError> {
    let mut signals = Signals::new(&guard).map_err(RunError::Signals)?;
    for note in guard.notes() {
        warn!("{note}");
    }
    info!(id = %settings.id, container = settings.container, "following: waiting for the leader's agent of this pod");
    let mut follower = Follower {
        margin: OwnMargin::new(settings.timing),
        settings,
        guard,
        app: None,
        link: None,
        over: None,
        stopping: false,
        next_kill: None,
        ends: None,
    };
    let mut retry = Instant::now();
    let mut tick = retry + TICK;
    loop {
        if let Some(code) = follower.ends.filter(|_| follower.app.is_none()) {
            return Ok((follower.guard, code));
        }
        tokio::select! {
            biased;
            signal = signals.next() => follower.signalled(signal),
            event = next_app_event(&mut follower.app) => follower.app_event(event).await,
            () = until(follower.next_kill), if follower.next_kill.is_some() => follower.kill(),
            () = sleep_until(tick) => {
                let now = Instant::now();
                follower.look(now - tick);
                tick = now + TICK;
            }
            order = next_order(&mut follower.link) => if let Some(order) = order {
                follower.obey(order);
            } else {
                follower.lost();
                retry = Instant::now() + RETRY;
            },
            () = sleep_until(retry), if follower.link.is_none() => {
                follower.connect().await;
                retry = Instant::now() + RETRY;
            }
        }
    }
}

/// The connection to the leader's agent.
struct Link {
    words: Words,
    writes: OwnedWriteHalf,
}

struct Follower {
    settings: FollowSettings,
    guard: Guard,
    margin: OwnMargin,
    /// What runs, in the term with this fencing token.
    app: Option<(u64, App)>,
    link: Option<Link>,
    /// The last term of which nothing is left here: an order of it comes too late.
    over: Option<u64>,
    /// The command was asked to stop.
    stopping: bool,
    /// While everything is being killed in place: when what is left is killed again.
    next_kill: Option<Instant>,
    /// The container ends, with this code, as soon as nothing runs.
    ends: Option<u8>,
}

impl Follower {
    async fn connect(&mut self) {
        let Ok(stream) = UnixStream::connect(wire::socket(&self.settings.shared)).await else { return };
        let (reads, writes) = stream.into_split();
        let mut link = Link { words: Words::new(reads), writes };
        // A first process of a namespace of its own proves by its existence that those before it are gone. What this process ran
        // itself is gone as well: else it would not connect.
        let clean = self.over.is_some() || self.guard.has_lock() && self.guard.is_private_namespace();
        if report(&mut link, &Report::Hello { name: self.settings.container.clone(), clean }).await {
            self.link = Some(link);
        }
    }

    /// The leader's agent is gone, and its app is or soon will be.
    fn lost(&mut self) {
        self.link = None;
        if self.app.is_some() {
            self.guard.die("the leader's agent of this pod is gone");
        }
    }

    fn obey(&mut self, order: Order) {
        if self.over.is_some_and(|token| token == order.token) {
            return;
        }
        match &self.app {
            Some((token, _)) if *token != order.token => {
                self.guard.die("the leader's agent begins another term beside this one")
            }
            None if order.what != What::Run || self.ends.is_some() => return,
            _ => {}
        }
        let deadline = self.margin.hear(order, clock::boot());
        self.arm(deadline);
        match order.what {
            What::Run if self.app.is_none() => self.start(order.token),
            What::Run => {}
            What::Stop => self.stop(),
            What::Kill => self.kill(),
        }
    }

    fn start(&mut self, token: u64) {
        let pair = |name: &str, value: &str| (OsString::from(name), OsString::from(value));
        let environment = [
            pair(env::FENCING_TOKEN, &token.to_string()),
            pair(env::ID, self.settings.id.as_str()),
            pair(env::IDENTITY, &self.settings.identity),
        ];
        info!(token, "the leader's app runs: starting the command");
        match App::start(&self.guard, &self.settings.command, &environment) {
            Ok(app) => (self.app, self.stopping) = (Some((token, app)), false),
            Err(error) => {
                error!(%error, "cannot start the command");
                (self.over, self.ends) = (Some(token), Some(error.exit_code()));
                self.disarm();
            }
        }
    }

    /// Its own timer came `late`.
    fn look(&mut self, late: Duration) {
        if let Some(deadline) = self.margin.look(cpu::is_starved(), late, clock::boot()) {
            self.arm(deadline);
        }
    }

    fn arm(&mut self, deadline: Duration) {
        if let Err(error) = self.guard.arm(deadline) {
            self.guard.die(&error.to_string());
        }
    }

    fn disarm(&mut self) {
        self.margin.end();
        if let Err(error) = self.guard.disarm() {
            self.guard.die(&error.to_string());
        }
    }

    fn stop(&mut self) {
        if !std::mem::replace(&mut self.stopping, true) {
            info!("the leader's app stops: stopping the command");
            self.signal_app(self.settings.stop_signal.number());
        }
    }

    fn kill(&mut self) {
        let Some((_, app)) = &mut self.app else { return };
        if let Err(error) = app.kill_all() {
            self.guard.die(&error.to_string());
        }
        self.next_kill = Some(Instant::now() + KILL_PAUSE);
    }

    fn signal_app(&mut self, signal: i32) {
        match self.app.as_ref().map(|(_, app)| app.signal(signal)) {
            // Whom the agent may not signal it may not kill either.
            Some(Err(error @ SignalError::Refused { .. })) => self.guard.die(&error.to_string()),
            Some(Ok(()) | Err(SignalError::Ended { .. })) | None => {}
        }
    }

    fn signalled(&mut self, signal: io::Result<i32>) {
        let signal = match signal {
            Ok(signal) => signal,
            Err(error) => self.guard.die(&format!("cannot receive signals: {error}")),
        };
        self.signal_app(signal);
        if self.settings.stop_signal.is_meant_by(signal) {
            info!(signal, "asked to end");
            self.stopping = true;
            self.ends = Some(ORDERLY);
        }
    }

    async fn app_event(&mut self, event: io::Result<AppEvent>) {
        match event {
            Ok(AppEvent::NotStarted(error)) => {
                error!(%error, "cannot start the command");
                self.ended(error.exit_code());
            }
            Ok(AppEvent::Exited { code }) => {
                info!(code, "the command ended");
                self.ended(code);
            }
            Ok(AppEvent::Gone) => self.gone().await,
            Err(error) => self.guard.die(&format!("cannot wait for the command's processes: {error}")),
        }
    }

    /// The command's first process has ended, and what it leaves behind dies. Unless it was asked to, the container ends with it.
    fn ended(&mut self, code: u8) {
        if !self.stopping || self.ends.is_some() {
            self.ends = Some(code);
        }
        self.kill();
    }

    /// Nothing of it is left: the deadline is taken away, and the leader's agent told.
    async fn gone(&mut self) {
        let Some((token, _)) = self.app.take() else { return };
        self.next_kill = None;
        self.over = Some(token);
        self.disarm();
        if let Some(link) = &mut self.link
            && !report(link, &Report::Gone { token }).await
        {
            self.link = None;
        }
    }
}

/// Says something to the leader's agent; whether it could be said.
async fn report(link: &mut Link, word: &Report) -> bool {
    matches!(timeout(REPORT, link.writes.write_all(&wire::line(word))).await, Ok(Ok(())))
}

/// The leader's next word; `None` when its agent is gone; never, where there is no connection.
async fn next_order(link: &mut Option<Link>) -> Option<Order> {
    match link {
        Some(link) => link.words.next().await,
        None => std::future::pending().await,
    }
}

/// Comes back at that moment; at once, where none is given.
async fn until(moment: Option<Instant>) {
    match moment {
        Some(moment) => sleep_until(moment).await,
        None => sleep(Duration::ZERO).await,
    }
}

/// The command's next event; never, while nothing runs.
async fn next_app_event(app: &mut Option<(u64, App)>) -> io::Result<AppEvent> {
    match app {
        Some((_, app)) => app.next_event().await,
        None => std::future::pending().await,
    }
}
