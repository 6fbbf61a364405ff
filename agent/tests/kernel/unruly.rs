//! Apps that make it hard to find and end them, as roles of the test binary.

use std::{
    fs::{self, OpenOptions},
    io::{Read, stdin},
    os::unix::process::ExitStatusExt,
    process::{Command, exit},
    thread,
    time::Duration,
};

use leader_agent::{clock, rogue};
use nix::{
    sys::ptrace::{self, Options},
    unistd::Pid,
};
use rustix::process::{DumpableBehavior, getpid, set_dumpable_behavior};

use crate::beats::{Heart, beat};

/// Between two attempts of each process of a bomb to fork.
const BOMB_PAUSE: Duration = Duration::from_millis(50);
/// Slots for the processes of a bomb, by their ids.
const BOMB_SLOTS: u64 = 8192;
/// A real-time signal: as many of them wait as are sent. dash calls it by its number alone.
const FLOOD_SIGNAL: i32 = 40;
/// A busy process asks so seldom whether it is still wanted.
const BUSY_LOOPS: u64 = 1000;

/// The role `chain SLOT`: a process that forks and ends, and its child the same, without end.
pub(crate) fn chain(words: &[String]) -> ! {
    let slot = words[0].parse().expect("a slot");
    let heart = Heart::new();
    while heart.is_wanted() {
        heart.beat(slot);
        if let Ok(false) = rogue::fork_here() {
            break;
        }
    }
    exit(0)
}

/// The role `bomb`: each process forks again and again, as many as the system lets it.
pub(crate) fn bomb() -> ! {
    let heart = Heart::new();
    while heart.is_wanted() {
        heart.beat(u64::from(getpid().as_raw_nonzero().get().unsigned_abs()) % BOMB_SLOTS);
        let _ = rogue::fork_here();
        thread::sleep(BOMB_PAUSE);
    }
    exit(0)
}

/// The role `busy COUNT`: so many processes, none of which ever rests.
pub(crate) fn busy(words: &[String]) -> ! {
    let count: u64 = words[0].parse().expect("a count");
    let slot = (1..count).find(|_| rogue::fork_here().expect("a process")).unwrap_or_default();
    let heart = Heart::new();
    while heart.is_wanted() {
        for _ in 0..BUSY_LOOPS {
            heart.beat(slot);
        }
    }
    exit(0)
}

/// The role `flood SLOT`: signals the stub without end, as a grandchild of the agent.
pub(crate) fn flood(words: &[String]) -> ! {
    let slot = words[0].parse().expect("a slot");
    let parent = |process: u32| {
        let stat = fs::read_to_string(format!("/proc/{process}/stat")).expect("its state");
        let (_, after_name) = stat.rsplit_once(") ").expect("a name in parentheses");
        after_name.split(' ').nth(1).and_then(|parent| parent.parse::<u32>().ok()).expect("its parent")
    };
    let stub = parent(parent(std::os::unix::process::parent_id()));
    let stub = rustix::process::Pid::from_raw(stub.cast_signed()).expect("a process");
    let heart = Heart::new();
    while heart.is_wanted() {
        heart.beat(slot);
        for _ in 0..BUSY_LOOPS {
            // Refused when too many wait: that is the aim.
            let _ = rogue::send(stub, FLOOD_SIGNAL);
        }
    }
    exit(0)
}

/// The role `headless SLOT`: a process whose first thread has ended, and whose second one lives.
pub(crate) fn headless(words: &[String]) -> ! {
    let words = words.to_owned();
    let has_ended = || fs::read_to_string("/proc/self/stat").expect("its state").contains(") Z ");
    thread::spawn(move || {
        while !has_ended() {
            thread::sleep(Duration::from_millis(1));
        }
        beat(&words)
    });
    rogue::end_this_thread()
}

/// The role `hidden SLOT`: a process that, where /proc hides what may not be looked into, is not there.
pub(crate) fn hidden(words: &[String]) -> ! {
    set_dumpable_behavior(DumpableBehavior::NotDumpable).expect("set");
    beat(words)
}

/// The role `tracer SLOT`: holds a child, which beat in the next slot, with ptrace, and does not wait for it.
pub(crate) fn tracer(words: &[String]) -> ! {
    let slot: u64 = words[0].parse().expect("a slot");
    let me = std::env::current_exe().expect("a path");
    // Never waited for: that is what this role is about.
    let held = [Command::new(me).args(["beat", &(slot + 1).to_string()]).spawn().expect("a child")];
    ptrace::seize(Pid::from_raw(held[0].id().cast_signed()), Options::empty()).expect("traced");
    beat(words)
}

/// The role `eat`: takes memory until it is killed.
pub(crate) fn eat() -> ! {
    const PIECE: usize = 1 << 20;
    let heart = Heart::new();
    let mut taken = Vec::new();
    while heart.is_wanted() {
        taken.push(vec![1_u8; PIECE]);
        thread::sleep(Duration::from_millis(1));
    }
    exit(taken.len().min(1).try_into().unwrap_or_default())
}

/// The role `debug PROCESS stopped|running`: holds a process, stopped or running, and never waits for it.
pub(crate) fn debug(words: &[String]) -> ! {
    let process = Pid::from_raw(words[0].parse().expect("a process id"));
    ptrace::seize(process, Options::empty()).expect("traced");
    if words[1] == "stopped" {
        ptrace::interrupt(process).expect("stopped");
    }
    println!("tracing");
    let _ = stdin().read(&mut [0]);
    exit(0)
}

/// The role `pause MILLISECONDS COMMAND...`: the first process of a namespace that is not the agent's own. It outlives the
/// command by so much.
pub(crate) fn pause(words: &[String]) -> ! {
    let linger = Duration::from_millis(words[0].parse().expect("a number"));
    let status = Command::new(&words[1]).args(&words[2..]).status().expect("started");
    println!("stub-ended {}", clock::boot().as_nanos());
    thread::sleep(linger);
    exit(status.code().unwrap_or_else(|| 128 + status.signal().unwrap_or_default()))
}

/// The role `enter FOLDER COMMAND...`: becomes the command, in a control group.
pub(crate) fn enter(words: &[String]) -> ! {
    use std::{io::Write, os::unix::process::CommandExt};
    let mut file = OpenOptions::new().write(true).open(format!("{}/cgroup.procs", words[0])).expect("a control group");
    file.write_all(b"0").expect("entered");
    panic!("{}", Command::new(&words[1]).args(&words[2..]).exec())
}
