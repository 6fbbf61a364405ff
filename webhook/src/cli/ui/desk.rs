//! What stands between the page and the cluster: it reads no more often than the cluster bears, and remembers who led.

use std::{collections::HashMap, future::Future, sync::Arc, time::Duration};

use leader_agent::id::LeaderId;
use serde::Deserialize;
use tokio::{sync::Mutex, time::Instant};

use super::{
    line::Line,
    view::{Election, Happening, Seen, Shown, Term, View},
};
use crate::cli::dns::PodName;

/// Two looks are at least so far apart, however many pages ask.
const PAUSE: Duration = Duration::from_millis(900);
/// And so many times as far as one takes: a large cluster is read less often.
const REST: u32 = 4;

/// An election's place.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Place {
    pub(super) namespace: String,
    pub(super) id: LeaderId,
}

/// What a person wants of an election.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(tag = "wish", rename_all = "kebab-case", deny_unknown_fields)]
pub(super) enum Wish {
    /// That the leader gives leadership away.
    StepDown,
    /// That this pod leads.
    Transfer { to: PodName },
    /// That nobody leads, and why.
    Hold { reason: Option<String> },
    /// That somebody may lead again.
    Resume,
}

/// The elections of a cluster, with the rights of the person who asks.
pub(super) trait Elections: Send + Sync + 'static {
    /// All that this person may see, in order.
    fn look(&self) -> impl Future<Output = Result<Seen, String>> + Send;
    /// Who led before, by what Events tell; nothing for who may not read them.
    fn terms(&self) -> impl Future<Output = Result<Vec<Term>, String>> + Send;
    /// What Events tell of one election, the oldest first.
    fn happened(&self, of: &Place) -> impl Future<Output = Result<Vec<Happening>, String>> + Send;
    /// Does it, waits for the outcome, and says it.
    fn ask(&self, of: &Place, wish: &Wish) -> impl Future<Output = Result<String, String>> + Send;
}

/// See the module.
pub(super) struct Desk<E> {
    elections: E,
    book: Mutex<Book>,
}

#[derive(Default)]
struct Book {
    lines: HashMap<(String, String), Line>,
    /// Whether Events were asked what happened before.
    is_told: bool,
    last: Option<Look>,
}

/// One look at the cluster.
struct Look {
    /// Until when it is not looked again.
    until: Instant,
    result: Result<Arc<View>, String>,
}

impl<E: Elections> Desk<E> {
    pub(super) fn new(elections: E) -> Self {
        Self { elections, book: Mutex::default() }
    }

    /// What is shown. Who asks while somebody looks already is given the same.
    pub(super) async fn look(&self) -> Result<Arc<View>, String> {
        let mut book = self.book.lock().await;
        if let Some(last) = book.last.as_ref().filter(|last| Instant::now() < last.until) {
            return last.result.clone();
        }
        let begun = Instant::now();
        let result = self.elections.look().await;
        // What failed may not fail the next time.
        if result.is_ok()
            && !book.is_told
            && let Ok(terms) = self.elections.terms().await
        {
            book.tell(terms);
        }
        let result = result.map(|seen| Arc::new(book.view(seen)));
        let took = begun.elapsed();
        book.last = Some(Look { until: begun + took + PAUSE.max(took * REST), result: result.clone() });
        result
    }

    /// What happened in an election, the newest first.
    pub(super) async fn history(&self, of: &Place) -> Result<Vec<Happening>, String> {
        let mut happenings = self.elections.happened(of).await?;
        happenings.reverse();
        Ok(happenings)
    }

    /// Does what is wished, and says what came of it.
    pub(super) async fn ask(&self, of: &Place, wish: &Wish) -> Result<String, String> {
        let said = self.elections.ask(of, wish).await;
        // Whoever wished for something looks at once.
        self.book.lock().await.last = None;
        said
    }
}

impl Book {
    fn tell(&mut self, terms: Vec<Term>) {
        let mut of: HashMap<(String, String), Vec<Term>> = HashMap::new();
        for term in terms {
            of.entry((term.namespace.clone(), term.id.clone())).or_default().push(term);
        }
        self.lines = of.into_iter().map(|(key, terms)| (key, Line::told(terms))).collect();
        self.is_told = true;
    }

    fn view(&mut self, Seen { elections, now }: Seen) -> View {
        let mut old = std::mem::take(&mut self.lines);
        let show = |election: Election| {
            let key = (election.namespace.clone(), election.id.clone());
            // What is not there any more is forgotten.
            let mut line = old.remove(&key).unwrap_or_default();
            line.see(&election, now);
            let shown = Shown { overdue: election.has_run_out(now), election, line: line.spans().to_vec() };
            self.lines.insert(key, line);
            shown
        };
        View { now, elections: elections.into_iter().map(show).collect() }
    }
}
