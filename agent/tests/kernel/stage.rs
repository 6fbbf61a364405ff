//! Starts the process under test, in a PID namespace or beside us, and watches it from outside.

use std::{
    cell::Cell,
    env, fs,
    io::{self, Read, Write},
    os::unix::{fs::PermissionsExt, process::ExitStatusExt},
    path::{Path, PathBuf},
    process::{Child, ChildStdin, Command, Stdio},
    sync::{Arc, Mutex, OnceLock},
    thread,
    time::{Duration, Instant},
};

use leader_agent::mutant::Mutant;
use rustix::process::{Pid, Signal, kill_process};
use tempfile::TempDir;

use crate::{beats, role};

/// Nothing here takes longer on a machine that works, however busy it is.
const LIMIT: Duration = Duration::from_secs(30);
/// What does not happen because of a mistake is not waited for as long.
const MUTANT_LIMIT: Duration = Duration::from_secs(10);

/// So long a shared namespace outlives the stub: time for whoever lives to show it.
const LINGER: Duration = Duration::from_millis(300);

/// Where the process under test runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Place {
    /// As PID 1 of a PID namespace.
    Namespace,
    /// As an ordinary process, which is also how it is with `hostPID`.
    Beside,
    /// In a PID namespace whose first process is another one, as with `shareProcessNamespace`.
    Shared,
}

/// How a PID namespace is made on this machine; `None` when it cannot be. Without root a user namespace may do.
pub(crate) fn unshare() -> Option<&'static [&'static str]> {
    const AS_ROOT: &[&str] = &["unshare", "--pid", "--fork", "--mount-proc", "--kill-child"];
    const AS_USER: &[&str] =
        &["unshare", "--user", "--map-root-user", "--pid", "--fork", "--mount-proc", "--kill-child"];
    static FOUND: OnceLock<Option<&[&str]>> = OnceLock::new();
    *FOUND.get_or_init(|| {
        [AS_ROOT, AS_USER].into_iter().find(|words| {
            let tried = Command::new(words[0]).args(&words[1..]).arg("true").stderr(Stdio::null()).status();
            tried.is_ok_and(|status| status.success())
        })
    })
}

/// Runs a command with no signal ignored: a shell lets what it starts in the background ignore INT and QUIT, and a child of the
/// tests would inherit that.
pub(crate) const DEFAULT_SIGNALS: [&str; 2] = ["env", "--default-signal"];

/// The path of this binary.
pub(crate) fn me() -> &'static str {
    static PATH: OnceLock<String> = OnceLock::new();
    PATH.get_or_init(|| env::current_exe().expect("a path").into_os_string().into_string().expect("a text"))
}

thread_local! {
    /// The mistake that all processes under test make which this thread starts.
    static MUTANT: Cell<Option<Mutant>> = const { Cell::new(None) };
}

/// Lets the processes under test that this thread starts make a mistake, or no more.
pub(crate) fn set_mutant(mutant: Option<Mutant>) {
    MUTANT.set(mutant);
}

/// A play to be staged.
pub(crate) struct Stage {
    place: Place,
    wrapper: Vec<String>,
    folder: TempDir,
    state: Option<PathBuf>,
    beside: String,
    linger: Duration,
}

impl Stage {
    pub(crate) fn new(place: Place) -> Self {
        let folder = tempfile::tempdir().expect("a folder");
        let beats = folder.path().join("beats");
        fs::write(&beats, []).expect("a file");
        // Apps of other users beat as well.
        for (path, mode) in [(folder.path(), 0o755), (&beats, 0o666)] {
            fs::set_permissions(path, fs::Permissions::from_mode(mode)).expect("permissions");
        }
        Self { place, wrapper: Vec::new(), folder, state: None, beside: String::new(), linger: LINGER }
    }

    /// Starts the process under test through this command, which must exec it.
    pub(crate) fn through(mut self, words: &[&str]) -> Self {
        self.wrapper = words.iter().map(ToString::to_string).collect();
        self
    }

    /// Gives it a state folder.
    pub(crate) fn with_state(mut self, folder: &Path) -> Self {
        self.state = Some(folder.to_owned());
        self
    }

    /// Gives it a text for a shell to run beside the app.
    pub(crate) fn with_beside(mut self, text: &str) -> Self {
        text.clone_into(&mut self.beside);
        self
    }

    /// Lets a shared namespace outlive the stub by this.
    pub(crate) fn lingering(mut self, linger: Duration) -> Self {
        self.linger = linger;
        self
    }

    /// Starts the agent with this script and command.
    pub(crate) fn play(self, script: &str, command: &[&str]) -> Play {
        let mut words: Vec<String> = DEFAULT_SIGNALS.map(str::to_owned).into();
        if self.place != Place::Beside {
            words.extend(unshare().expect("a namespace").iter().map(ToString::to_string));
        }
        if self.place == Place::Shared {
            words.extend([me(), "pause", &self.linger.as_millis().to_string()].map(str::to_owned));
        }
        words.extend(self.wrapper);
        words.extend([me(), "agent"].map(str::to_owned));
        words.extend(script.split_whitespace().map(str::to_owned));
        words.push("--".to_owned());
        words.extend(command.iter().map(ToString::to_string));
        let beats = self.folder.path().join("beats");
        let mut process = Command::new(&words[0]);
        process.args(&words[1..]).env(beats::FILE, &beats).env("LEADER_ID", "billing").env_remove(role::STATE);
        process.env(role::BESIDE, &self.beside);
        let mutant = MUTANT.get();
        if let Some(mutant) = mutant {
            process.env(role::MUTANT, format!("{mutant:?}"));
        }
        if let Some(state) = &self.state {
            process.env(role::STATE, state);
        }
        let mut child = process.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().expect("started");
        let stdin = child.stdin.take();
        let seen = Arc::new(Mutex::new(Seen::default()));
        let mut stdout = child.stdout.take().expect("a pipe");
        let reader = Arc::clone(&seen);
        thread::spawn(move || {
            let mut piece = [0; 4096];
            loop {
                match stdout.read(&mut piece) {
                    Ok(0) => break,
                    Ok(length) => {
                        reader.lock().expect("a lock").text += &String::from_utf8_lossy(&piece[..length]);
                    }
                    Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                    Err(_) => break,
                }
            }
            reader.lock().expect("a lock").all_dead = true;
        });
        let limit = if mutant.is_some() { MUTANT_LIMIT } else { LIMIT };
        Play { place: self.place, limit, child, stdin, seen, beats, _folder: self.folder }
    }
}

#[derive(Default)]
struct Seen {
    text: String,
    /// The last process that held the pipe is gone.
    all_dead: bool,
}

/// A play that runs.
pub(crate) struct Play {
    place: Place,
    limit: Duration,
    child: Child,
    stdin: Option<ChildStdin>,
    seen: Arc<Mutex<Seen>>,
    beats: PathBuf,
    _folder: TempDir,
}

impl Play {
    /// All that was printed so far.
    pub(crate) fn text(&self) -> String {
        self.seen.lock().expect("a lock").text.clone()
    }

    /// Waits for a condition.
    pub(crate) fn wait<T>(&self, what: &str, condition: impl Fn() -> Option<T>) -> T {
        let limit = self.limit;
        let end = Instant::now() + limit;
        loop {
            if let Some(found) = condition() {
                return found;
            }
            assert!(Instant::now() < end, "not within {limit:?}: {what}. It printed:\n{}", self.text());
            thread::sleep(Duration::from_millis(1));
        }
    }

    /// Waits for a line `name value`, and returns the value.
    pub(crate) fn word(&self, name: &str) -> String {
        self.wait(&format!("the line `{name}`"), || {
            let text = self.text();
            let end = text.rfind('\n').map_or(0, |end| end + 1);
            let line = text[..end].lines().rev().find(|line| line.split(' ').next() == Some(name))?;
            Some(line.split_once(' ').map_or("", |(_, value)| value).to_owned())
        })
    }

    /// Waits for a line whose value is a moment.
    pub(crate) fn moment(&self, name: &str) -> Duration {
        Duration::from_nanos(self.word(name).parse().expect("nanoseconds"))
    }

    /// Waits for the second deadline of a script that set a far one first, so that the app has all the time to start.
    pub(crate) fn deadline(&self) -> Duration {
        self.wait("the second deadline", || (self.text().matches("deadline ").count() > 1).then_some(()));
        self.moment("deadline")
    }

    /// Waits until the last process is gone, and returns when one last ran, in the order of the slots.
    ///
    /// Where the end of the stub is not everyone's, nobody ran after it.
    pub(crate) fn all_dead(&self) -> Vec<Duration> {
        self.wait("the death of the last process", || self.is_over().then_some(()));
        let last = self.beats();
        if self.place == Place::Shared {
            let (stub, last) = (self.moment("stub-ended"), last.iter().max());
            assert!(last.is_none_or(|last| *last <= stub), "one ran at {last:?}, the stub ended at {stub:?}");
        }
        last
    }

    /// Whether the last process is gone.
    pub(crate) fn is_over(&self) -> bool {
        self.seen.lock().expect("a lock").all_dead
    }

    /// When each process last ran, so far.
    pub(crate) fn beats(&self) -> Vec<Duration> {
        beats::read(&self.beats)
    }

    /// Waits for the end of the process under test: its exit code, or 128 and the signal that ended it.
    pub(crate) fn code(&mut self) -> i32 {
        let end = Instant::now() + self.limit;
        loop {
            if let Some(status) = self.child.try_wait().expect("a status") {
                return status.code().unwrap_or_else(|| 128 + status.signal().unwrap_or_default());
            }
            assert!(Instant::now() < end, "it does not end. It printed:\n{}", self.text());
            thread::sleep(Duration::from_millis(1));
        }
    }

    /// The stub's process id, seen from here.
    pub(crate) fn stub(&self) -> Pid {
        match self.place {
            Place::Beside => self.id(),
            Place::Namespace => self.wait("the stub", || children(self.id()).first().copied()),
            Place::Shared => {
                let first = self.wait("the first process", || children(self.id()).first().copied());
                self.wait("the stub", || children(first).first().copied())
            }
        }
    }

    /// The agent's process id, seen from here.
    pub(crate) fn agent(&self) -> Pid {
        let stub = self.stub();
        self.wait("the agent", || children(stub).first().copied())
    }

    fn id(&self) -> Pid {
        Pid::from_raw(i32::try_from(self.child.id()).expect("an id")).expect("an id")
    }

    /// Writes to its stdin.
    pub(crate) fn write(&mut self, text: &str) {
        let stdin = self.stdin.as_mut().expect("open");
        stdin.write_all(text.as_bytes()).and_then(|()| stdin.flush()).expect("written");
    }

    /// Ends its stdin.
    pub(crate) fn close_stdin(&mut self) {
        self.stdin = None;
    }
}

impl Drop for Play {
    fn drop(&mut self) {
        // A failed trial leaves nothing behind: beside us, the stub's death takes agent and first process along.
        if matches!(self.child.try_wait(), Ok(None)) {
            let _ = kill_process(self.id(), Signal::KILL);
            let _ = self.child.wait();
        }
    }
}

/// The letter of a process's state (`proc_pid_stat(5)`); none when it is gone.
pub(crate) fn state(process: Pid) -> Option<char> {
    let stat = fs::read_to_string(format!("/proc/{}/stat", process.as_raw_nonzero())).ok()?;
    stat.rsplit_once(')')?.1.trim_start().chars().next()
}

/// All living descendants of a process, parents first.
pub(crate) fn descendants(parent: Pid) -> Vec<Pid> {
    children(parent).into_iter().flat_map(|child| [vec![child], descendants(child)].concat()).collect()
}

/// The living children of a process.
pub(crate) fn children(parent: Pid) -> Vec<Pid> {
    let folder = fs::read_dir("/proc").expect("/proc");
    let ids = folder.filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok().and_then(Pid::from_raw));
    let mut children: Vec<Pid> = ids
        .filter(|id: &Pid| {
            let stat = fs::read_to_string(format!("/proc/{}/stat", id.as_raw_nonzero())).unwrap_or_default();
            let mut fields = stat.rsplit_once(')').map_or("", |(_, rest)| rest).split_whitespace();
            let ended = matches!(fields.next(), Some("Z" | "X"));
            !ended && fields.next() == Some(parent.as_raw_nonzero().to_string().as_str())
        })
        .collect();
    children.sort_by_key(|id| id.as_raw_nonzero());
    children
}
