//! Killing all descendants of a process, found by a walk through /proc.
//!
//! A walk can miss a process that is born while it runs, so an empty walk proves nothing: who calls this repeats it until
//! `wait()` answers ECHILD.

use std::{
    io::{self, Write},
    mem::MaybeUninit,
    os::fd::{AsFd, OwnedFd},
};

use rustix::{
    fs::{CWD, Mode, OFlags, RawDir, SeekFrom, openat, seek},
    io::Errno,
    process::{
        Pid, PidfdFlags, Signal, getpid, getppid, kill_process, kill_process_group, pidfd_open, pidfd_send_signal,
    },
};

use crate::mutant::{self, Mutant};

/// Process ids are below this (`PID_MAX_LIMIT` of a 64-bit kernel).
const PID_LIMIT: usize = 4 * 1024 * 1024;
/// Bits in a word of the marks.
const WORD: usize = u64::BITS as usize;
/// Passes through /proc in one walk. Each finds one more generation in the worst case; the caller repeats the walk.
const PASSES: usize = 16;
/// Generations that are looked up from a process on, until one is known. In a chain of processes that fork and end, a few lie
/// between the youngest one and the one that was listed last.
const GENERATIONS: usize = 16;
/// Room for less than a dozen entries of /proc: a process that forks and ends must be looked at soon after it was listed, and its
/// child, whose id is the next one, is in the next piece of the list.
const ENTRIES: usize = 256;
/// Room for the fields of `/proc/PID/stat` up to the number of threads: a name of at most 64 bytes, a letter, numbers of at
/// most 20 digits.
const STAT: usize = 512;
/// Fields between the process group and the number of threads (`proc_pid_stat(5)`).
const BETWEEN: usize = 14;

/// What a walk did.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Walk {
    /// Living descendants that were found.
    pub(crate) found: usize,
    /// One that may not be killed: EPERM.
    pub(crate) denied: Option<Pid>,
}

/// Walks through /proc without allocating: all its memory is taken when it is made.
#[derive(Debug)]
pub(crate) struct Walker {
    /// /proc as it was at the start, whatever is mounted there later.
    proc: OwnedFd,
    /// A bit for each process id that belongs to the tree. Pages that are never set cost no memory.
    marks: Box<[u64]>,
    /// The same for those that were found not to belong to it, in this walk.
    strangers: Box<[u64]>,
    /// Process groups that are not the tree's: this process's own, and its parent's.
    others: [usize; 2],
    entries: Box<[MaybeUninit<u8>]>,
}

/// What matters here of `/proc/PID/stat`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Stat {
    ended: bool,
    parent: usize,
    group: usize,
}

/// What a process is to the tree.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    /// It lives, and one of its ancestors is marked.
    Descendant,
    /// It lives, and none is.
    Stranger,
    /// It ended, or its ancestors did while they were looked up.
    Unknown,
}

impl Walker {
    /// Opens /proc and takes the memory.
    pub(crate) fn new() -> io::Result<Self> {
        let proc = openat(CWD, c"/proc", OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())?;
        let bits = || vec![0; PID_LIMIT / WORD].into_boxed_slice();
        // 0 stands for a group whose leader is outside the PID namespace.
        let group =
            |process: Option<Pid>| process.and_then(|pid| stat(&proc, number(pid))).map_or(0, |stat| stat.group);
        let others = [group(Some(getpid())), group(getppid())];
        Ok(Self { proc, marks: bits(), strangers: bits(), others, entries: Box::new_uninit_slice(ENTRIES) })
    }

    /// Counts the living descendants of this process, and leaves them alone.
    pub(crate) fn count(&mut self) -> io::Result<usize> {
        Ok(self.walk(None)?.found)
    }

    /// Sends SIGKILL to every living descendant of this process that it finds.
    pub(crate) fn kill(&mut self) -> io::Result<Walk> {
        self.walk(Some(Signal::KILL))
    }

    fn walk(&mut self, signal: Option<Signal>) -> io::Result<Walk> {
        let Self { proc, marks, strangers, others, entries } = self;
        for word in marks.iter_mut().chain(strangers.iter_mut()).filter(|word| **word != 0) {
            *word = 0;
        }
        mark(marks, number(getpid()));
        let mut walk = Walk::default();
        for _ in 0..PASSES {
            let before = walk.found;
            seek(&*proc, SeekFrom::Start(0))?;
            let mut folder = RawDir::new(proc.as_fd(), entries);
            while let Some(entry) = folder.next() {
                let Some(process) = digits(entry?.file_name().to_bytes()) else { continue };
                if is_marked(marks, process) || is_marked(strangers, process) {
                    continue;
                }
                match kind(proc, marks, strangers, process) {
                    Kind::Descendant => mark(marks, process),
                    Kind::Stranger => {
                        mark(strangers, process);
                        continue;
                    }
                    Kind::Unknown => continue,
                }
                walk.found += 1;
                let Some(signal) = signal else { continue };
                let Some(pid) = pid(process) else { continue };
                if send(proc, marks, strangers, pid, signal) == Err(Errno::PERM) {
                    walk.denied = Some(pid);
                }
                if let Some(group) = stat(proc, process).map(|stat| stat.group)
                    && !others.contains(&group)
                    && is_ours(proc, marks, strangers, group)
                    && let Some(group) = self::pid(group)
                {
                    let _ = kill_process_group(group, signal);
                }
            }
            if walk.found == before {
                break;
            }
        }
        Ok(walk)
    }
}

/// Sends `signal` to a process that was seen as a descendant of a marked one, and never to a stranger who has got its id since:
/// what the descriptor holds is looked at again before it is used.
fn send(proc: &OwnedFd, marks: &[u64], strangers: &[u64], pid: Pid, signal: Signal) -> Result<(), Errno> {
    match pidfd_open(pid, PidfdFlags::empty()) {
        Ok(descriptor) if kind(proc, marks, strangers, number(pid)) == Kind::Descendant => {
            pidfd_send_signal(descriptor, signal)
        }
        Ok(_) | Err(Errno::SRCH) => Ok(()),
        // Out of descriptors or memory: the id's being given away in between is less likely than the app's living on.
        Err(_) => kill_process(pid, signal),
    }
}

/// Looks up the ancestors of `process` until one is known: the nearest ones may be too young to have been listed.
fn kind(proc: &OwnedFd, marks: &[u64], strangers: &[u64], process: usize) -> Kind {
    let mut current = process;
    for _ in 0..GENERATIONS {
        current = match stat(proc, current) {
            Some(stat) if current == process && stat.ended => return Kind::Unknown,
            Some(stat) if is_marked(marks, stat.parent) => return Kind::Descendant,
            Some(stat) if stat.parent == 0 || is_marked(strangers, stat.parent) => return Kind::Stranger,
            Some(stat) => stat.parent,
            None if current == process => return Kind::Unknown,
            // It ended, and `process` has another parent by now.
            None => process,
        };
    }
    Kind::Unknown
}

/// Whether a process group in which a descendant was found is the tree's own: whoever made it belongs to the tree, or is gone.
///
/// A signal to a group reaches all of it at one moment, those being forked too, which no walk can.
fn is_ours(proc: &OwnedFd, marks: &[u64], strangers: &[u64], group: usize) -> bool {
    is_marked(marks, group) || stat(proc, group).is_none() || kind(proc, marks, strangers, group) == Kind::Descendant
}

/// Reads `/proc/PID/stat`; `None` when the process is gone.
fn stat(proc: &OwnedFd, process: usize) -> Option<Stat> {
    let mut path = [0; 32];
    let mut rest = &mut path[..];
    write!(rest, "{process}/stat").ok()?;
    let unused = rest.len();
    let path = &path[..path.len() - unused];
    let file = openat(proc, path, OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty()).ok()?;
    let mut text = [0; STAT];
    let length = rustix::io::read(file, &mut text[..]).ok()?;
    parse(text.get(..length)?)
}

/// Takes a `stat` text apart. The name stands in parentheses and may hold anything, parentheses too.
///
/// The state is that of the first thread: a zombie with more threads than that one is a process that lives.
fn parse(text: &[u8]) -> Option<Stat> {
    let name_end = text.iter().rposition(|&byte| byte == b')')?;
    let mut fields = text.get(name_end + 1..)?.split(|&byte| byte == b' ').skip(1);
    let state = fields.next()?;
    let parent = digits(fields.next()?)?;
    let group = digits(fields.next()?)?;
    let alone = fields.nth(BETWEEN).and_then(digits).is_none_or(|threads| threads <= 1);
    let ended = matches!(state, b"Z" | b"X") && (alone || mutant::is(Mutant::FirstThreadIsProcess));
    Some(Stat { ended, parent, group })
}

/// A decimal number, or `None`.
fn digits(text: &[u8]) -> Option<usize> {
    if text.is_empty() {
        return None;
    }
    text.iter().try_fold(0_usize, |sum, byte| {
        let digit = byte.checked_sub(b'0').filter(|digit| *digit <= 9)?;
        sum.checked_mul(10)?.checked_add(usize::from(digit))
    })
}

/// An index as a process id.
fn pid(process: usize) -> Option<Pid> {
    i32::try_from(process).ok().and_then(Pid::from_raw)
}

/// A process id as an index.
fn number(pid: Pid) -> usize {
    usize::try_from(pid.as_raw_nonzero().get()).unwrap_or_default()
}

fn mark(marks: &mut [u64], process: usize) {
    if let Some(word) = marks.get_mut(process / WORD) {
        *word |= 1 << (process % WORD);
    }
}

fn is_marked(marks: &[u64], process: usize) -> bool {
    marks.get(process / WORD).is_some_and(|word| word >> (process % WORD) & 1 == 1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_with_parentheses_and_spaces_does_not_confuse() {
        let stat = parse(b"42 (a) Z 7 (b) S 17 42 42 0 -1").unwrap();
        assert_eq!(stat, Stat { ended: false, parent: 17, group: 42 });
        assert_eq!(parse(b"42 (x) Z 1 0 0").unwrap(), Stat { ended: true, parent: 1, group: 0 });
        assert_eq!(parse(b"42 (x"), None);
        let rest = b"17 42 42 0 -1 4227084 9 8 7 6 5 4 3 2 20 0";
        for (state, threads, ended) in [("Z", "1", true), ("Z", "2", false), ("S", "1", false)] {
            let text = [b"42 (x) ", state.as_bytes(), b" ", rest, b" ", threads.as_bytes(), b" 0 77"].concat();
            assert_eq!(parse(&text).unwrap(), Stat { ended, parent: 17, group: 42 }, "{state} {threads}");
        }
        assert_eq!(parse(b"42 (x) S -1 0"), None);
    }

    #[test]
    fn marks_end_where_process_ids_end() {
        let mut marks = vec![0; PID_LIMIT / WORD];
        mark(&mut marks, PID_LIMIT - 1);
        mark(&mut marks, PID_LIMIT);
        assert!(is_marked(&marks, PID_LIMIT - 1));
        assert!(!is_marked(&marks, PID_LIMIT));
        assert!(!is_marked(&marks, PID_LIMIT - 2));
    }
}
