//! The wall clock as one process sees it, stepped while the process runs.
//!
//! The node's clock is the whole machine's, and a time namespace shifts the other clocks only. Programs read the wall clock
//! through the vDSO, code that the kernel maps into every process and of which a process gets a copy of its own when it is
//! written to: there `clock_gettime` is replaced by one that adds to what the kernel says of `CLOCK_REALTIME`.

use super::PodProcess;
use crate::wait;
use anyhow::{Context, Result, bail, ensure};
use rustix::process::{Pid, Signal, kill_process};
use std::fs::{self, File, OpenOptions};
use std::ops::Range;
use std::os::unix::fs::FileExt;
use std::time::Duration;

/// The function in the vDSO that the C library calls.
const FUNCTION: &str = "__vdso_clock_gettime";
/// How long a process may take to stop, outside the code that is replaced, on a busy machine.
const PATIENCE: Duration = Duration::from_secs(30);

impl PodProcess {
    /// From now on this process sees the wall clock as many seconds later (earlier, when negative) than the machine's; zero puts
    /// it right again. Its other clocks, other processes and programs that it starts see the machine's. It is stopped for a moment.
    ///
    /// # Errors
    /// On a machine that is not an x86-64 one, and when the process ends meanwhile or cannot be written to.
    pub fn step_wall_clock(&self, seconds: i32) -> Result<()> {
        step(self.pid, seconds)
            .with_context(|| format!("cannot step the wall clock of process {} ({:?})", self.pid, self.command))
    }
}

fn step(process: Pid, seconds: i32) -> Result<()> {
    ensure!(cfg!(target_arch = "x86_64"), "the replacement is written for x86-64 only");
    let range = vdso(process)?;
    let path = format!("/proc/{process}/mem");
    let memory =
        OpenOptions::new().read(true).write(true).open(&path).with_context(|| format!("cannot open {path}"))?;
    let function = function(&memory, &range)?;
    let code = replacement(seconds);
    ensure!(
        function.end - function.start >= code.len() as u64,
        "{FUNCTION} has {:?}, too short for a replacement of {} bytes",
        function,
        code.len()
    );
    wait::until("the process to stop outside the vDSO", PATIENCE, || {
        let _stopped = Stopped::new(process)?;
        for place in places(process)? {
            ensure!(!range.contains(&place), "it is at {place:#x}, in the vDSO at {range:#x?}");
        }
        memory.write_all_at(&code, function.start).context("cannot write into the vDSO")
    })
}

/// What replaces the function: the system call of the same name, and a sum.
fn replacement(seconds: i32) -> Vec<u8> {
    let mut code = vec![
        0xb8, 0xe4, 0, 0, 0, // mov eax, 228 (clock_gettime)
        0x0f, 0x05, // syscall
        0x85, 0xc0, // test eax, eax
        0x75, 0x0b, // jne to the end: it failed
        0x85, 0xff, // test edi, edi
        0x75, 0x07, // jne to the end: another clock than CLOCK_REALTIME (0)
        0x48, 0x81, 0x06, // add qword ptr [rsi], the seconds
    ];
    code.extend(seconds.to_le_bytes());
    code.push(0xc3); // ret
    code
}

/// Where the process has its vDSO.
fn vdso(process: Pid) -> Result<Range<u64>> {
    let maps = fs::read_to_string(format!("/proc/{process}/maps")).context("cannot read its memory's map")?;
    let line = maps.lines().find(|line| line.ends_with("[vdso]")).context("it has no vDSO")?;
    let (start, end) = line.split_once(' ').and_then(|(range, _)| range.split_once('-')).context("an odd map")?;
    Ok(u64::from_str_radix(start, 16)?..u64::from_str_radix(end, 16)?)
}

/// Where [`FUNCTION`] is, by the symbol table of the vDSO's image (a 64-bit ELF file, see elf(5)).
fn function(memory: &File, vdso: &Range<u64>) -> Result<Range<u64>> {
    const SYMBOLS: u64 = 11;
    const SYMBOL_SIZE: usize = 24;
    let image = Image { memory, vdso };
    let (sections, size) = (image.number(0x28, 8)?, image.number(0x3a, 2)?);
    let section = |index: u64| sections + index * size;
    for index in 0..image.number(0x3c, 2)? {
        if image.number(section(index) + 4, 4)? != SYMBOLS {
            continue;
        }
        let names = image.number(section(image.number(section(index) + 0x28, 4)?) + 0x18, 8)?;
        let (table, length) = (image.number(section(index) + 0x18, 8)?, image.number(section(index) + 0x20, 8)?);
        for symbol in (table..table + length).step_by(SYMBOL_SIZE) {
            if image.has_text(names + image.number(symbol, 4)?, FUNCTION)? {
                let start = vdso.start + image.number(symbol + 8, 8)?;
                return Ok(start..start + image.number(symbol + 16, 8)?);
            }
        }
    }
    bail!("the vDSO has no {FUNCTION}")
}

struct Image<'a> {
    memory: &'a File,
    vdso: &'a Range<u64>,
}

impl Image<'_> {
    /// A number of that many bytes, at most 8.
    fn number(&self, offset: u64, bytes: usize) -> Result<u64> {
        let mut number = [0; 8];
        self.read(&mut number[..bytes], offset)?;
        Ok(u64::from_le_bytes(number))
    }

    fn has_text(&self, offset: u64, text: &str) -> Result<bool> {
        let mut found = vec![0; text.len() + 1];
        self.read(&mut found, offset)?;
        Ok(found.strip_suffix(&[0]) == Some(text.as_bytes()))
    }

    fn read(&self, bytes: &mut [u8], offset: u64) -> Result<()> {
        let length = self.vdso.end - self.vdso.start;
        ensure!(offset + bytes.len() as u64 <= length, "the vDSO's image ends before {offset:#x}");
        self.memory.read_exact_at(bytes, self.vdso.start + offset).context("cannot read the vDSO")
    }
}

/// A process that is stopped until this is dropped.
struct Stopped(Pid);

impl Stopped {
    fn new(process: Pid) -> Result<Self> {
        kill_process(process, Signal::STOP).context("cannot stop it")?;
        let stopped = Self(process);
        wait::until("every thread to stop", PATIENCE, || {
            for task in tasks(process)? {
                let status = fs::read_to_string(format!("{task}/status"))?;
                let state = status.lines().find_map(|line| line.strip_prefix("State:")).context("no state")?;
                ensure!(state.trim_start().starts_with('T'), "a thread is {state}");
            }
            Ok(())
        })?;
        Ok(stopped)
    }
}

impl Drop for Stopped {
    fn drop(&mut self) {
        // It may have been killed meanwhile.
        let _ = kill_process(self.0, Signal::CONT);
    }
}

fn tasks(process: Pid) -> Result<Vec<String>> {
    let folder = format!("/proc/{process}/task");
    let entries = fs::read_dir(&folder).with_context(|| format!("cannot read {folder}"))?;
    entries.map(|entry| Ok(entry?.path().display().to_string())).collect()
}

/// Where each thread of a stopped process will go on: the last word of its file `syscall`, see proc(5).
fn places(process: Pid) -> Result<Vec<u64>> {
    let place = |task: String| -> Result<u64> {
        let text = fs::read_to_string(format!("{task}/syscall"))?;
        let word = text.split_whitespace().next_back().and_then(|word| word.strip_prefix("0x"));
        u64::from_str_radix(word.with_context(|| format!("a thread is {text:?}"))?, 16).context("no address")
    };
    tasks(process)?.into_iter().map(place).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::progress::say;
    use std::io::{BufRead, BufReader, Write};
    use std::process::{Command, Stdio};
    use std::time::{SystemTime, UNIX_EPOCH};

    /// Far more than the test takes, and far less than the steps.
    const TOLERANCE: i64 = 600;

    #[test]
    fn one_process_sees_its_wall_clock_step_and_the_machine_does_not() -> Result<()> {
        if !rustix::process::geteuid().is_root() || !cfg!(target_arch = "x86_64") {
            say("left out: stepping the wall clock of a process needs root and an x86-64 machine");
            return Ok(());
        }
        // Says what time it is for every line that it reads.
        let mut date = Command::new("stdbuf")
            .args(["-oL", "date", "--file=-", "+%s"])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()?;
        let (mut questions, answers) =
            (date.stdin.take().context("no stdin")?, date.stdout.take().context("no stdout")?);
        let mut answers = BufReader::new(answers);
        let mut ahead = || -> Result<i64> {
            let mut answer = String::new();
            writeln!(questions, "now")?;
            answers.read_line(&mut answer)?;
            let machine = i64::try_from(SystemTime::now().duration_since(UNIX_EPOCH)?.as_secs())?;
            Ok(answer.trim().parse::<i64>()? - machine)
        };
        let result = (|| {
            ensure!(ahead()?.abs() < TOLERANCE, "date is off before its clock was stepped");
            for seconds in [3600, -3600, 0] {
                step(Pid::from_child(&date), seconds)?;
                let found = ahead()?;
                ensure!((found - i64::from(seconds)).abs() < TOLERANCE, "{found} s ahead after a step to {seconds} s");
            }
            Ok(())
        })();
        drop(questions);
        date.kill()?;
        date.wait()?;
        result
    }

    #[test]
    fn the_jumps_in_the_replacement_lead_to_its_end() {
        let code = replacement(-1);
        for jump in [9, 13] {
            assert_eq!(code[jump], 0x75);
            assert_eq!(code.get(jump + 2 + usize::from(code[jump + 1])), Some(&0xc3));
        }
        assert_eq!(code.last(), Some(&0xc3));
    }
}
