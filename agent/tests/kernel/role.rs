//! The role `agent WORD... -- COMMAND...`: sets up the guard, then does what the words say, in their order.
//!
//! What happens is printed as `name` or `name value`; moments are on the boot clock, in nanoseconds.

use std::{
    ffi::OsString,
    fmt::Display,
    fs,
    io::{Write, stdin},
    path::PathBuf,
    thread,
    time::Duration,
};

use leader_agent::{
    app::{App, AppEvent, Exec, ExecEnd, StartError},
    clock,
    guard::{self, Guard, GuardOptions, Signals},
    mutant::{self, Mutant},
};
use rustix::{
    fs::{OFlags, fcntl_setfl},
    pipe::{PipeFlags, pipe_with},
    process::{
        Pid, PidfdFlags, PidfdGetfdFlags, Resource, Rlimit, Signal, getpgrp, getpid, getppid, kill_process,
        pidfd_getfd, pidfd_open, setrlimit,
    },
    time::{Itimerspec, TimerfdTimerFlags, Timespec, timerfd_settime},
};

use crate::beats;

/// What runs beside the app, as a text for a shell.
pub(crate) const BESIDE: &str = "KERNEL_TEST_BESIDE";
/// Names the mistake that the process under test makes.
pub(crate) const MUTANT: &str = "KERNEL_TEST_MUTANT";
/// Names the state folder in the agent's environment; without it there is none.
pub(crate) const STATE: &str = "KERNEL_TEST_STATE";

/// Runs the script.
pub(crate) fn agent(words: &[String]) -> ! {
    let end = words.iter().position(|word| word == "--").unwrap_or(words.len());
    let command = words.iter().skip(end + 1).map(OsString::from).collect();
    if let Ok(name) = std::env::var(MUTANT) {
        let named = |mutant: &&Mutant| format!("{mutant:?}") == name;
        mutant::choose(Some(*Mutant::ALL.iter().find(named).expect("a mutant")));
    }
    let options = GuardOptions { state_dir: std::env::var_os(STATE).map(PathBuf::from), ..GuardOptions::default() };
    let guard = match guard::start(&options, guard::hold_signals().expect("signals are held")) {
        Ok(guard) => guard,
        Err(error) => {
            say("error", error);
            std::process::exit(i32::from(guard::START_FAILED));
        }
    };
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
    runtime.block_on(async {
        let signals = Signals::new(&guard).expect("signals");
        let mut agent = Agent { guard, signals, command, app: None, beside: None, code: None };
        for word in &words[..end] {
            agent.step(word).await;
        }
        agent.guard.end(0)
    })
}

/// Prints a line at once: whoever prints may be killed right after it.
fn say(name: &str, value: impl Display) {
    let mut stdout = std::io::stdout().lock();
    writeln!(stdout, "{name} {value}").and_then(|()| stdout.flush()).expect("the test reads");
}

/// Moves the timer of stub and agent behind the guard's back, so that the agent's own stays where it is.
fn move_shared_timer(moment: Duration) {
    let entries = fs::read_dir("/proc/self/fd").expect("our descriptors").map(|entry| entry.expect("an entry"));
    let is_timer =
        |entry: &fs::DirEntry| fs::read_link(entry.path()).is_ok_and(|link| link.as_os_str() == "anon_inode:[timerfd]");
    let timers: Vec<_> = entries.filter(is_timer).collect();
    let [timer] = &timers[..] else { panic!("{} timers", timers.len()) };
    let number = timer.file_name().to_str().and_then(|name| name.parse().ok()).expect("a number");
    let ourselves = pidfd_open(getpid(), PidfdFlags::empty()).expect("a pidfd");
    let timer = pidfd_getfd(ourselves, number, PidfdGetfdFlags::empty()).expect("a copy");
    let zero = Timespec { tv_sec: 0, tv_nsec: 0 };
    let seconds = i64::try_from(moment.as_secs()).expect("a time");
    let value = Timespec { tv_sec: seconds, tv_nsec: i64::from(moment.subsec_nanos()) };
    let value = Itimerspec { it_interval: zero, it_value: value };
    timerfd_settime(timer, TimerfdTimerFlags::ABSTIME, &value).expect("set");
}

/// Measures how late the agent wakes, every so often, until the deadline ends it.
async fn lateness(period: Duration) {
    say("watching", 0);
    let mut worst = Duration::ZERO;
    loop {
        let due = tokio::time::Instant::now() + period;
        tokio::time::sleep_until(due).await;
        let late = due.elapsed();
        if late > worst {
            worst = late;
            say("late", worst.as_nanos());
        }
    }
}

/// Lets so many signals wait for the agent, so that those do not keep out what waits for the stub: one user has one count.
fn limit_signals(count: u64) {
    setrlimit(Resource::Sigpending, Rlimit { current: Some(count), maximum: Some(count) }).expect("limited");
}

/// Lets the test do something before the script goes on.
fn wait_for_a_line() {
    say("ready", 0);
    stdin().read_line(&mut String::new()).expect("a line");
}

/// Makes stderr a pipe that nobody reads, and that is full.
fn fill_stderr() {
    let (reader, writer) = pipe_with(PipeFlags::NONBLOCK).expect("a pipe");
    while rustix::io::write(&writer, b"full").is_ok() {}
    fcntl_setfl(&writer, OFlags::empty()).expect("blocking");
    rustix::stdio::dup2_stderr(&writer).expect("stderr");
    std::mem::forget(reader);
}

struct Agent {
    guard: Guard,
    signals: Signals,
    command: Vec<OsString>,
    app: Option<App>,
    beside: Option<Exec>,
    /// The code of the app's first process, once it has ended.
    code: Option<u8>,
}

impl Agent {
    fn app(&mut self) -> &mut App {
        self.app.as_mut().expect("the script starts the app first")
    }

    async fn step(&mut self, word: &str) {
        let (name, value) = word.split_once('=').unwrap_or((word, "0"));
        let value: u64 = value.parse().expect("a number");
        match name {
            "facts" => {
                say("pid", getpid().as_raw_nonzero());
                say("parent", Pid::as_raw(getppid()));
                say("own-group", getpgrp() == getpid());
                say("private", self.guard.is_private_namespace());
                say("lock", self.guard.has_lock());
                say("notes", self.guard.notes().len());
            }
            "few-signals" => limit_signals(value),
            "arm" => {
                let deadline = clock::boot() + Duration::from_millis(value);
                // Said first: whoever is held up after this may not get to say anything any more.
                say("deadline", deadline.as_nanos());
                self.guard.arm(deadline).expect("armed");
            }
            "stub-only" => {
                let moment = clock::boot() + Duration::from_millis(value);
                move_shared_timer(moment);
                say("moment", moment.as_nanos());
            }
            "disarm" => self.guard.disarm().expect("disarmed"),
            "past-deadline" => {
                // Nothing is to happen, so there is nothing to wait for but the time.
                thread::sleep(Duration::from_millis(value));
                say("survived", 0);
            }
            "start" => {
                match App::start(&self.guard, &self.command, &[("LEADER_FENCING_TOKEN".into(), "4711".into())]) {
                    Ok(app) => self.app = Some(app),
                    Err(error) => {
                        say("refused", &error);
                        self.guard.die("the script ends here");
                    }
                }
            }
            "beside" => {
                let text = std::env::var_os(BESIDE).expect("a text for the shell");
                let command = ["sh".into(), "-c".into(), text];
                let Self { app, guard, .. } = self;
                match app.as_mut().expect("the script starts the app first").start_beside(guard, &command) {
                    Ok(exec) => self.beside = Some(exec),
                    Err(error) => say("refused", error),
                }
            }
            "beside-ends" => self.wait_beside(Duration::from_millis(value)).await,
            "beats" => {
                let count = usize::try_from(value).expect("a count");
                while beats::read(&beats::file()).len() < count {
                    thread::sleep(Duration::from_millis(1));
                }
            }
            "killed" => {
                say("moment", clock::boot().as_nanos());
                kill_process(getpid(), Signal::KILL).expect("killed");
            }
            "stopped" => {
                say("moment", clock::boot().as_nanos());
                kill_process(getpid(), Signal::STOP).expect("stopped");
            }
            "die" => {
                say("moment", clock::boot().as_nanos());
                self.guard.die("the script says so");
            }
            "kill" => loop {
                if let Err(error) = self.app().kill_all() {
                    say("denied", &error);
                    self.guard.die("the app cannot be killed");
                }
                match tokio::time::timeout(Duration::from_millis(2), self.app().next_event()).await {
                    Ok(Ok(AppEvent::Exited { code })) => self.code = Some(code),
                    Ok(Ok(AppEvent::Gone)) => {
                        say("gone", clock::boot().as_nanos());
                        break;
                    }
                    _ => {}
                }
            },
            "follow" => self.follow(false).await,
            "exited" => self.follow(true).await,
            "go" => wait_for_a_line(),
            "lateness" => lateness(Duration::from_millis(value)).await,
            "full-stderr" => fill_stderr(),
            "listen" => loop {
                let signal = self.signals.next().await.expect("a signal");
                say("signal", signal);
                if signal == Signal::QUIT.as_raw() {
                    break;
                }
            },
            "end" => {
                let code = self.code.expect("the first process has ended");
                std::process::exit(i32::from(code));
            }
            other => panic!("no such word: {other}"),
        }
    }

    /// Waits for the end of what runs beside the app, and for no more than `limit`.
    async fn wait_beside(&mut self, limit: Duration) {
        let exec = self.beside.take().expect("the script starts it first");
        let app = self.app.as_mut().expect("the script starts the app first");
        let reaping = async {
            loop {
                app.next_event().await.expect("an event");
            }
        };
        let ended: Result<Result<ExecEnd, StartError>, _> = tokio::select! {
            ended = tokio::time::timeout(limit, exec.end()) => ended,
            () = reaping => return,
        };
        match ended {
            Ok(Ok(ExecEnd { code, output })) => say("beside-ended", format!("{code} {}", output.replace('\n', " "))),
            Ok(Err(error)) => say("beside-not-started", error),
            Err(_) => say("moment", clock::boot().as_nanos()),
        }
    }

    /// Forwards signals and reports events until nothing of the app lives, or only until its first process ended.
    async fn follow(&mut self, first: bool) {
        let Self { app, signals, code: last, .. } = self;
        let app = app.as_mut().expect("the script starts the app first");
        loop {
            let event = tokio::select! {
                event = app.next_event() => event.expect("an event"),
                signal = signals.next() => {
                    // Ended and not yet reaped is a race that the signal may lose.
                    let _ = app.signal(signal.expect("a signal"));
                    continue;
                }
            };
            match event {
                AppEvent::NotStarted(error) => {
                    *last = Some(error.exit_code());
                    say("not-started", error);
                }
                AppEvent::Exited { code } => {
                    *last = Some(code);
                    say("exited", code);
                    say("exited-at", clock::boot().as_nanos());
                    if first {
                        return;
                    }
                }
                AppEvent::Gone => {
                    say("gone", clock::boot().as_nanos());
                    return;
                }
            }
        }
    }
}
