//! What a fault leaves behind: how it is mended.

use anyhow::Result;
use leader_tests::progress::say;

type Mend = Box<dyn FnOnce() -> Result<()> + Send>;

/// What has been broken; mended by [`Broken::mend`] or when this is dropped.
#[derive(Default)]
#[must_use = "it is mended when this is dropped"]
pub(crate) struct Broken(Vec<Mend>);

impl Broken {
    /// A fault that is over, or that nothing mends.
    pub(crate) fn nothing() -> Self {
        Self::default()
    }

    /// A fault that this mends.
    pub(crate) fn mended_by(mend: impl FnOnce() -> Result<()> + Send + 'static) -> Self {
        Self(vec![Box::new(mend)])
    }

    /// Both faults; the later one is mended first.
    pub(crate) fn and(mut self, mut later: Self) -> Self {
        self.0.append(&mut later.0);
        self
    }

    /// Mends everything.
    ///
    /// # Errors
    /// The first thing that could not be mended; the others are mended all the same.
    pub(crate) fn mend(mut self) -> Result<()> {
        self.all()
    }

    fn all(&mut self) -> Result<()> {
        let mut result = Ok(());
        while let Some(mend) = self.0.pop() {
            result = result.and(mend());
        }
        result
    }
}

impl Drop for Broken {
    fn drop(&mut self) {
        if let Err(error) = self.all() {
            say(format!("a fault could not be mended: {error:#}"));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use anyhow::bail;
    use std::sync::{Arc, Mutex};

    #[test]
    fn everything_is_mended_once_the_latest_first_also_after_a_failure() {
        let mended = Arc::new(Mutex::new(Vec::new()));
        let part = |number: u32, good: bool| {
            let mended = Arc::clone(&mended);
            Broken::mended_by(move || {
                mended.lock().unwrap().push(number);
                if good { Ok(()) } else { bail!("{number} stays as it is") }
            })
        };
        let error = part(1, true).and(part(2, false)).and(part(3, true)).mend().unwrap_err();
        assert_eq!(error.to_string(), "2 stays as it is");
        drop(part(4, true));
        assert_eq!(*mended.lock().unwrap(), [3, 2, 1, 4]);
    }
}
