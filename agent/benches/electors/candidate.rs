//! One candidate: the elector with the agent's own requests and watch, and nothing to run.

use std::{future::Future, pin::Pin, pin::pin, rc::Rc, time::Duration};

use futures::{StreamExt, stream::FuturesUnordered};
use kube::Config;
use leader_agent::{
    clock::{self, Now},
    elector::{Action, Elector, Event, Role, Settings, Source},
    id::LeaderId,
    lease::{client::LeaseClient, watch::watch},
};
use serde_json::Value;
use tokio::{
    sync::mpsc,
    time::{Instant, sleep, sleep_until},
};

use super::tally::Tally;

/// Observations that wait to be handled; more make the watch wait. As many as in the agent.
const OBSERVATIONS: usize = 16;
/// From a loss to the next process.
const RESTART: Duration = Duration::from_secs(1);
/// A wait without an end.
const IDLE: Duration = Duration::from_hours(1);

type Request = Pin<Box<dyn Future<Output = Vec<Event>>>>;

/// Campaigns as long as the process lives. After a loss it begins again, as a container that the kubelet restarts.
pub(crate) async fn candidate(config: Config, settings: Settings, id: LeaderId, tally: Rc<Tally>) {
    loop {
        campaign(config.clone(), settings.clone(), &id, &tally).await;
        sleep(RESTART).await;
    }
}

/// Campaigns until everything has to end.
async fn campaign(config: Config, settings: Settings, id: &LeaderId, tally: &Rc<Tally>) {
    let timing = settings.timing;
    let client = Rc::new(LeaseClient::new(config, &settings.namespace, id, timing.request_timeout()));
    let (sender, mut observations) = mpsc::channel(OBSERVATIONS);
    let watched = Rc::clone(&client);
    let mut watching = pin!(watch(&watched, timing.lease(), sender));
    let mut requests = FuturesUnordered::<Request>::new();
    let mut elector = Elector::new(settings);
    loop {
        while let Some(action) = elector.poll() {
            match action {
                Action::Read => requests.push(Box::pin(read(Rc::clone(&client)))),
                Action::Write { attempt, body } => {
                    let renews = (elector.role() == Role::Leader).then(|| Rc::clone(tally));
                    requests.push(Box::pin(write(Rc::clone(&client), attempt, body, renews)));
                }
                Action::Start { .. } => tally.began(),
                Action::Stop(_) => {
                    tally.ended();
                    elector.handle(Event::AppExited, Now::read());
                    elector.handle(Event::AppGone, Now::read());
                }
                Action::Die(_) => {
                    tally.ended();
                    return;
                }
                Action::End => return,
                // They are about an app's processes and files.
                Action::Arm(_)
                | Action::Disarm
                | Action::Kill
                | Action::Prepare(_)
                | Action::StoreTerm(_)
                | Action::ForgetTerm => {}
            }
        }
        let now = Now::read();
        let wait = elector.next_timeout(now).map_or(IDLE, |due| due.saturating_sub(now.boot));
        tokio::select! {
            Some(events) = requests.next() => {
                for event in events {
                    elector.handle(event, Now::read());
                }
            }
            Some(event) = observations.recv() => elector.handle(event, Now::read()),
            () = &mut watching => {}
            () = sleep_until(Instant::now() + wait) => elector.handle_timeout(Now::read()),
        }
    }
}

async fn read(client: Rc<LeaseClient>) -> Vec<Event> {
    let source = Source::Read { sent: clock::boot() };
    let seen = match client.read().await {
        Ok(Some(record)) => Event::Seen(record, source),
        Ok(None) => Event::Absent { version: None, source },
        Err(_) => return vec![Event::ReadEnded { answered: false }],
    };
    vec![seen, Event::ReadEnded { answered: true }]
}

/// A write; a renewal's time is told to `renews`.
async fn write(client: Rc<LeaseClient>, attempt: u64, body: Value, renews: Option<Rc<Tally>>) -> Vec<Event> {
    let sent = Instant::now();
    let (reply, error) = client.write(&body).await;
    if let Some(tally) = renews {
        tally.renewed(sent.elapsed(), error.is_none());
    }
    vec![Event::Replied { attempt, reply }]
}
