//! The campaign of a program, on its own thread: drives it, arms the timer, and tells the program what to do with its future.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use tokio::{
    sync::{mpsc, watch},
    time::{Instant, sleep_until},
};
use tracing::{info, warn};

use super::{
    ElectionError,
    leadership::{Held, Term},
    timer::ProcessTimer,
};
use crate::{
    campaign::{Campaign, Demand},
    clock,
    elector::{Event, Loss, Settings, StopReason},
    lease::client::LeaseClient,
    sys::scheduler,
    timing::GONE_AFTER_KILL,
};

/// What the election's thread tells the program.
pub(super) enum News {
    /// Somebody holds the Lease.
    Leader(String),
    /// This program does: the future shall run.
    Leading(Held),
    /// The election is over, and no future is left.
    Ended(Result<(), ElectionError>),
}

/// One candidate and what it has in hand.
pub(super) struct Candidate {
    campaign: Campaign,
    identity: String,
    wind_down: Duration,
    timer: Option<ProcessTimer>,
    /// The deadline, while something may have to be dead by it.
    deadline: Option<Duration>,
    term: Option<Term>,
    /// When the work is dropped.
    drop_at: Option<Instant>,
    /// The holder that was told last.
    told: Option<String>,
    /// The Lease was seen: for those who ask for health.
    seen: Arc<AtomicBool>,
    news: mpsc::UnboundedSender<News>,
}

impl Candidate {
    pub(super) fn new(
        client: LeaseClient,
        settings: Settings,
        wind_down: Duration,
        timer: Option<ProcessTimer>,
        seen: Arc<AtomicBool>,
        news: mpsc::UnboundedSender<News>,
    ) -> Self {
        let identity = settings.identity.clone();
        let mut campaign = Campaign::new(client, settings, None);
        campaign.without_labels();
        Self { campaign, identity, wind_down, timer, deadline: None, term: None, drop_at: None, told: None, seen, news }
    }

    /// Campaigns until the end, in whose result no work is left.
    pub(super) async fn run(mut self, mut stop: watch::Receiver<bool>) -> Result<(), ElectionError> {
        // Older kernels do not know it.
        let _ = scheduler::set_slice(scheduler::SHORTEST_SLICE);
        let mut asked_to_stop = false;
        loop {
            self.tell();
            match self.carry_out() {
                Ok(false) => {}
                Ok(true) => return Ok(()),
                Err(error) => return Err(self.lose(error).await),
            }
            let wake = self.campaign.wake();
            tokio::select! {
                biased;
                () = gone(self.term.as_mut()) => self.work_is_gone(),
                _ = stop.wait_for(|stop| *stop), if !asked_to_stop => {
                    asked_to_stop = true;
                    self.campaign.handle(Event::Shutdown);
                }
                () = sleep_until(self.drop_at.unwrap_or(wake)), if self.drop_at.is_some() => self.drop_work(),
                () = self.campaign.turn(wake) => {}
            }
            self.campaign.time_passed(wake);
        }
    }

    /// Tells the program who leads, before it is told to lead itself.
    fn tell(&mut self) {
        let elector = self.campaign.elector();
        if elector.has_seen_lease() {
            self.seen.store(true, Ordering::Relaxed);
        }
        if let Some(holder) = elector.holder()
            && self.told.as_deref() != Some(holder)
        {
            let holder = holder.to_owned();
            let _ = self.news.send(News::Leader(holder.clone()));
            self.told = Some(holder);
        }
    }

    /// What the election asks for; whether it is over.
    fn carry_out(&mut self) -> Result<bool, ElectionError> {
        while let Some(demand) = self.campaign.poll() {
            match demand {
                Demand::Arm(deadline) => self.arm(deadline)?,
                Demand::Start { token } => self.start(token),
                // Asked for only by who has something to prepare.
                Demand::Prepare(_) => self.campaign.handle(Event::Prepared),
                Demand::Stop(reason) => self.stop(reason),
                Demand::Kill => self.drop_work(),
                Demand::Disarm => self.disarm()?,
                Demand::Die(loss) => return Err(ElectionError::Lost(loss)),
                Demand::End => return Ok(true),
            }
        }
        Ok(false)
    }

    fn arm(&mut self, deadline: Duration) -> Result<(), ElectionError> {
        if let Some(timer) = &mut self.timer {
            timer.arm(deadline).map_err(ElectionError::Timer)?;
        }
        self.deadline = Some(deadline);
        if let Some(term) = &self.term {
            term.believe_until(deadline);
        }
        Ok(())
    }

    fn disarm(&mut self) -> Result<(), ElectionError> {
        self.deadline = None;
        self.timer.as_mut().map_or(Ok(()), ProcessTimer::disarm).map_err(ElectionError::Timer)
    }

    fn start(&mut self, token: u64) {
        info!(token, "leading");
        let (term, held) = Term::new(token, &self.identity, self.deadline.unwrap_or_default());
        self.term = Some(term);
        // When nobody listens, what was to be led is gone at once.
        let _ = self.news.send(News::Leading(held));
    }

    fn stop(&mut self, reason: StopReason) {
        if reason != StopReason::Shutdown {
            warn!(%reason, "leadership ends");
        }
        if let Some(term) = &self.term {
            term.stop();
        }
        self.drop_at = Some(Instant::now() + self.wind_down);
    }

    fn drop_work(&mut self) {
        self.drop_at = None;
        if let Some(term) = &self.term {
            term.drop_work();
        }
    }

    fn work_is_gone(&mut self) {
        self.term = None;
        self.drop_at = None;
        self.campaign.handle(Event::AppExited);
        self.campaign.handle(Event::AppGone);
    }

    /// Leadership is lost by force: returns when the work is gone, which the timer makes sure of.
    async fn lose(mut self, error: ElectionError) -> ElectionError {
        warn!(%error, "the leader's work is dropped at once");
        self.drop_work();
        if self.term.is_some() {
            let soon = match &error {
                // It was asked to be gone before, or must be.
                ElectionError::Lost(Loss::Deadline | Loss::NotGone) => clock::boot(),
                _ => clock::boot() + GONE_AFTER_KILL,
            };
            let soon = self.deadline.map_or(soon, |deadline| deadline.min(soon));
            // One that cannot be moved stays where it was: nothing runs longer than before.
            let _ = self.arm(soon);
            gone(self.term.as_mut()).await;
        }
        let _ = self.disarm();
        error
    }
}

/// Waits for the end of a term's work; for ever, where there is none.
async fn gone(term: Option<&mut Term>) {
    match term {
        Some(term) => term.gone().await,
        None => std::future::pending().await,
    }
}
