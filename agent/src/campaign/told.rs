//! What the log said last about the election, so that it says things once.

use tracing::{info, warn};

use crate::elector::{Elector, Obstacle, Role};

#[derive(Default)]
pub(super) struct Told {
    holder: Option<String>,
    obstacle: Option<Obstacle>,
    complaint: Option<String>,
}

impl Told {
    /// Logs what a person who waits would want to know.
    pub(super) fn state(&mut self, elector: &Elector) {
        let holder = elector.holder();
        if holder != self.holder.as_deref() {
            if let (Some(holder), Role::Standby) = (holder, elector.role()) {
                info!(holder, "another candidate leads");
            }
            self.holder = holder.map(str::to_owned);
        }
        let obstacle = elector.obstacle();
        if obstacle != self.obstacle {
            if let Some(obstacle) = obstacle {
                warn!("not acquiring: {obstacle}");
            }
            self.obstacle = obstacle;
        }
    }

    /// Logs what is wrong with the API server's answers, and that it is over.
    pub(super) fn complaint(&mut self, complaint: Option<String>) {
        if complaint != self.complaint {
            if let Some(complaint) = &complaint {
                warn!("{complaint}");
            } else {
                info!("the API server answers again");
            }
            self.complaint = complaint;
        }
    }
}
