//! Work with a cluster while somebody listens: what it says is written as it comes, where the caller wants it.
//!
//! The work has a thread and a runtime of its own, because who calls the command line as a library may be in a runtime already.

use std::{
    io::{ErrorKind, Write},
    sync::mpsc::{self, Sender},
    thread,
};

use tokio::runtime;

use super::Error;
use crate::review::printable;

enum Said {
    Out(String),
    Err(String),
}

/// Says something to the person at the command line.
#[derive(Clone)]
pub(super) struct Voice(Sender<Said>);

impl Voice {
    /// Prints what was asked for. An error when nobody reads it any more.
    pub(super) fn out(&self, text: impl Into<String>) -> Result<(), Error> {
        self.say(Said::Out(text.into()))
    }

    /// Prints what is told in words, a line of it, with whatever it quotes.
    pub(super) fn line(&self, line: &str) -> Result<(), Error> {
        self.out(printable(line) + "\n")
    }

    /// Prints a line beside it, on standard error.
    pub(super) fn aside(&self, line: &str) -> Result<(), Error> {
        self.say(Said::Err(printable(line) + "\n"))
    }

    fn say(&self, said: Said) -> Result<(), Error> {
        self.0.send(said).map_err(|_| Error::Write(ErrorKind::BrokenPipe.into()))
    }
}

/// Does the work, and writes what it says.
pub(super) fn run<T: Send>(
    stdout: &mut impl Write,
    stderr: &mut impl Write,
    work: impl AsyncFnOnce(Voice) -> Result<T, Error> + Send,
) -> Result<T, Error> {
    let (sender, said) = mpsc::channel();
    thread::scope(|scope| {
        let worker = scope.spawn(move || {
            let runtime = runtime::Builder::new_current_thread().enable_all().build();
            let runtime = runtime.map_err(|error| Error::Cluster { reason: error.to_string() })?;
            runtime.block_on(work(Voice(sender)))
        });
        let written = said.iter().try_for_each(|said| match said {
            Said::Out(text) => stdout.write_all(text.as_bytes()).and_then(|()| stdout.flush()),
            Said::Err(text) => stderr.write_all(text.as_bytes()),
        });
        // The worker hears at its next word that nobody listens.
        drop(said);
        let ended = || Err(Error::Cluster { reason: "the work ended early; please report this".to_owned() });
        let result = worker.join().unwrap_or_else(|_| ended());
        written.map_err(Error::Write).and(result)
    })
}

#[cfg(test)]
mod tests {
    use std::io;

    use super::*;

    #[test]
    fn what_is_said_is_written_in_its_order() {
        let (mut out, mut err) = (Vec::new(), Vec::new());
        let result = run(&mut out, &mut err, async |voice| {
            voice.out("one\n")?;
            voice.aside("beside")?;
            voice.line("two")?;
            Ok(7)
        });
        assert_eq!((result.unwrap(), out, err), (7, b"one\ntwo\n".to_vec(), b"beside\n".to_vec()));
    }

    #[test]
    fn what_is_quoted_stays_in_its_line() {
        let (mut out, mut err) = (Vec::new(), Vec::new());
        let quoted = "on hold: \u{1b}]0;x\u{7}\nerror";
        run(&mut out, &mut err, async |voice| voice.line(quoted).and_then(|()| voice.aside(quoted))).unwrap();
        assert_eq!(String::from_utf8(out.clone()).unwrap(), "on hold: \\u{1b}]0;x\\u{7}\\nerror\n");
        assert_eq!(out, err);
    }

    struct Closed;

    impl Write for Closed {
        fn write(&mut self, _: &[u8]) -> io::Result<usize> {
            Err(ErrorKind::BrokenPipe.into())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    /// Work that never ends by itself ends when its reader is gone, as behind `| head`.
    #[test]
    fn nobody_is_talked_to_who_does_not_listen() {
        let result: Result<(), _> = run(&mut Closed, &mut Vec::new(), async |voice| {
            loop {
                voice.out("again\n")?;
                tokio::task::yield_now().await;
            }
        });
        assert!(matches!(result, Err(Error::Write(error)) if error.kind() == ErrorKind::BrokenPipe));
    }
}
