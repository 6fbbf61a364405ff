//! Waiting on conditions, with a deadline and a message that tells what was seen last.

use anyhow::{Context, Result};
use std::thread;
use std::time::{Duration, Instant};

/// Waits until `probe` succeeds; its error says what was seen instead.
///
/// # Errors
/// When it takes longer than `patience`: what was waited for, and the last error of `probe`.
pub fn until<T>(what: &str, patience: Duration, probe: impl FnMut() -> Result<T>) -> Result<T> {
    until_while(what, patience, || Ok(()), probe)
}

/// As [`until`], but gives up at once when `still_possible` fails, with that error.
///
/// # Errors
/// Those of `still_possible` and [`until`].
pub fn until_while<T>(
    what: &str,
    patience: Duration,
    mut still_possible: impl FnMut() -> Result<()>,
    mut probe: impl FnMut() -> Result<T>,
) -> Result<T> {
    /// Most probes start a program, which itself takes as long.
    const PAUSE: Duration = Duration::from_millis(100);
    let started = Instant::now();
    loop {
        still_possible()?;
        // Judged before the probe, so that one that began in time counts.
        let last = started.elapsed() > patience;
        match probe() {
            Err(seen) if last => {
                return Err(seen)
                    .with_context(|| format!("gave up after {:.1} s waiting for {what}", patience.as_secs_f32()));
            }
            Err(_) => thread::sleep(PAUSE),
            success => return success,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use anyhow::bail;

    #[test]
    fn success_is_returned_when_it_comes() {
        let mut looks = 0;
        let answer = until("the third look", Duration::from_mins(1), || {
            looks += 1;
            if looks == 3 { Ok("there") } else { bail!("look {looks}") }
        });
        assert_eq!(answer.unwrap(), "there");
        assert_eq!(looks, 3);
    }

    #[test]
    fn giving_up_tells_what_was_seen_last() {
        let mut looks = 0;
        let error = until("a miracle", Duration::from_millis(250), || -> Result<()> {
            looks += 1;
            bail!("nothing at look {looks}")
        });
        let message = format!("{:#}", error.unwrap_err());
        assert!(looks > 1);
        assert_eq!(message, format!("gave up after 0.2 s waiting for a miracle: nothing at look {looks}"));
    }

    #[test]
    fn what_has_become_impossible_is_not_waited_for() {
        let never = || -> Result<()> { bail!("not yet") };
        let error = until_while("it", Duration::from_mins(1), || bail!("it ended"), never).unwrap_err();
        assert_eq!(error.to_string(), "it ended");
    }
}
