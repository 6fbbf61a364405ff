//! How many requests a server answers, and how long each takes.

use std::{
    sync::Arc,
    thread,
    time::{Duration, Instant},
};

use hdrhistogram::Histogram;
use hyper::body::Bytes;
use tokio::{
    sync::{Mutex, mpsc},
    task::JoinSet,
};

use super::{
    client::{CONNECTIONS, Connection},
    server::Server,
};

/// How long a server runs before it is measured.
const WARM_UP: Duration = Duration::from_millis(500);

/// What a server did while as many requests as it took were sent.
pub(crate) struct Round {
    /// Answers per second.
    pub(crate) rate: f64,
    /// The server's own processor time for one.
    pub(crate) processor_micros: f64,
    /// The size of an answer.
    pub(crate) answer_bytes: usize,
}

/// How long answers took, from the moment in which each request was due.
pub(crate) struct Latency {
    /// Requests per second.
    pub(crate) rate: f64,
    pub(crate) sent: u64,
    /// In microseconds.
    pub(crate) p50: u64,
    /// In microseconds.
    pub(crate) p99: u64,
}

async fn connections(server: &Server) -> anyhow::Result<Vec<Connection>> {
    let mut open = Vec::new();
    for _ in 0..CONNECTIONS {
        open.push(server.connect().await?);
    }
    Ok(open)
}

/// Sends the body again as soon as it was answered.
pub(crate) async fn peak(server: &Server, body: String, length: Duration) -> anyhow::Result<Round> {
    let body = Bytes::from(body);
    let (open, ..) = busy(connections(server).await?, &body, WARM_UP).await?;
    let (started, used) = (Instant::now(), server.processor_time()?);
    let (_, count, answer_bytes) = busy(open, &body, length).await?;
    let (took, used) = (started.elapsed(), server.processor_time()?.saturating_sub(used));
    #[allow(clippy::cast_precision_loss)] // It stays far below 2^52.
    let count = count as f64;
    Ok(Round { rate: count / took.as_secs_f64(), processor_micros: used.as_secs_f64() * 1e6 / count, answer_bytes })
}

/// Gives the connections back, how many answers there were, and how long one is.
async fn busy(open: Vec<Connection>, body: &Bytes, length: Duration) -> anyhow::Result<(Vec<Connection>, u64, usize)> {
    let until = Instant::now() + length;
    let mut running = JoinSet::new();
    for mut connection in open {
        let body = body.clone();
        running.spawn(async move {
            let (mut count, mut size) = (0, 0);
            while Instant::now() < until {
                size = connection.post(body.clone()).await?;
                count += 1;
            }
            anyhow::Ok((connection, count, size))
        });
    }
    let (mut open, mut count, mut size) = (Vec::new(), 0, 0);
    while let Some(ended) = running.join_next().await {
        let (connection, more, bytes) = ended??;
        open.push(connection);
        (count, size) = (count + more, bytes);
    }
    Ok((open, count, size))
}

/// Sends so many bodies per second, whether or not those before were answered: a request that finds no idle connection waits for
/// one, and that time is its own.
pub(crate) async fn at_rate(server: &Server, body: String, rate: f64, length: Duration) -> anyhow::Result<Latency> {
    let body = Bytes::from(body);
    let (open, ..) = busy(connections(server).await?, &body, WARM_UP).await?;
    let (results, mut took) = mpsc::unbounded_channel();
    let (due, waiting) = mpsc::unbounded_channel::<Instant>();
    let waiting = Arc::new(Mutex::new(waiting));
    for mut connection in open {
        let (waiting, body, results) = (Arc::clone(&waiting), body.clone(), results.clone());
        tokio::spawn(async move {
            loop {
                // Bound first: the lock must not be held while the request is under way.
                let next = waiting.lock().await.recv().await;
                let Some(due) = next else { break };
                let answer = connection.post(body.clone()).await;
                // Nobody listens any more after a request that failed.
                let _ = results.send(answer.map(|_| due.elapsed()));
            }
        });
    }
    drop((results, waiting));
    // A thread of its own: the runtime's timer counts milliseconds.
    let pace = thread::spawn(move || {
        let started = Instant::now();
        for number in 0_u32.. {
            let at = started + Duration::from_secs_f64(f64::from(number) / rate);
            if at > started + length || due.is_closed() {
                break;
            }
            thread::sleep(at.saturating_duration_since(Instant::now()));
            // Closed when all connections have failed.
            let _ = due.send(at);
        }
    });
    let mut histogram = Histogram::<u64>::new(3)?;
    while let Some(latency) = took.recv().await {
        histogram.record(u64::try_from(latency?.as_micros())?)?;
    }
    pace.join().map_err(|_| anyhow::anyhow!("the pacing thread panicked"))?;
    let (p50, p99) = (histogram.value_at_quantile(0.5), histogram.value_at_quantile(0.99));
    Ok(Latency { rate, sent: histogram.len(), p50, p99 })
}

/// The value in the middle.
pub(crate) fn median(values: impl Iterator<Item = f64>) -> f64 {
    let mut values: Vec<f64> = values.collect();
    values.sort_by(f64::total_cmp);
    values.get(values.len() / 2).copied().unwrap_or(f64::NAN)
}
