//! How many requests a server answers, and how long each takes.

use std::{
    thread,
    time::{Duration, Instant},
};

use hdrhistogram::Histogram;
use hyper::body::Bytes;
use tokio::{runtime::Handle, sync::mpsc, task::JoinSet};

use super::{
    client::{CONNECTIONS, Connection},
    server::Server,
};

/// How many requests are under way on each connection: enough for both servers to be busy all the time.
pub(crate) const IN_FLIGHT: usize = 16;
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
    let open = connections(server).await?;
    busy(&open, &body, WARM_UP).await?;
    let (started, used) = (Instant::now(), server.processor_time()?);
    let (count, answer_bytes) = busy(&open, &body, length).await?;
    let (took, used) = (started.elapsed(), server.processor_time()?.saturating_sub(used));
    #[allow(clippy::cast_precision_loss)] // It stays far below 2^52.
    let count = count as f64;
    Ok(Round { rate: count / took.as_secs_f64(), processor_micros: used.as_secs_f64() * 1e6 / count, answer_bytes })
}

async fn busy(open: &[Connection], body: &Bytes, length: Duration) -> anyhow::Result<(u64, usize)> {
    let until = Instant::now() + length;
    let mut running = JoinSet::new();
    for connection in open.iter().flat_map(|connection| vec![connection; IN_FLIGHT]) {
        let (mut connection, body) = (connection.clone(), body.clone());
        running.spawn(async move {
            let (mut count, mut size) = (0, 0);
            while Instant::now() < until {
                size = connection.post(body.clone()).await?;
                count += 1;
            }
            anyhow::Ok((count, size))
        });
    }
    let (mut count, mut size) = (0, 0);
    while let Some(ended) = running.join_next().await {
        let (more, bytes) = ended??;
        (count, size) = (count + more, bytes);
    }
    Ok((count, size))
}

/// Sends so many bodies per second, whether or not those before were answered.
pub(crate) async fn at_rate(server: &Server, body: String, rate: f64, length: Duration) -> anyhow::Result<Latency> {
    let body = Bytes::from(body);
    let open = connections(server).await?;
    busy(&open, &body, WARM_UP).await?;
    let (results, mut took) = mpsc::unbounded_channel();
    let runtime = Handle::current();
    // A thread of its own: the runtime's timer counts milliseconds.
    let pace = thread::spawn(move || {
        let started = Instant::now();
        for (number, connection) in open.iter().cycle().enumerate() {
            #[allow(clippy::cast_precision_loss)] // It stays far below 2^52.
            let due = started + Duration::from_secs_f64(number as f64 / rate);
            if due > started + length {
                break;
            }
            thread::sleep(due.saturating_duration_since(Instant::now()));
            let (mut connection, body, results) = (connection.clone(), body.clone(), results.clone());
            runtime.spawn(async move {
                let answer = connection.post(body).await;
                // Nobody listens any more after a request that failed.
                let _ = results.send(answer.map(|_| due.elapsed()));
            });
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
