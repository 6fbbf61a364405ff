//! Figures as Prometheus reads them: sums of counters, and what a histogram says of times.

use anyhow::{Context, Result};

/// What a program serves under `/metrics`.
#[derive(Debug)]
pub(super) struct Figures(String);

impl Figures {
    pub(super) fn new(text: String) -> Self {
        Self(text)
    }

    /// The labels and values of a name's samples that have all of `labels`, each as `name="value"`.
    fn samples<'a>(&'a self, name: &'a str, labels: &'a [&str]) -> impl Iterator<Item = (&'a str, f64)> {
        self.0.lines().filter_map(move |line| {
            let rest = line.strip_prefix(name)?;
            let (of, value) = match rest.strip_prefix('{') {
                Some(rest) => rest.rsplit_once('}')?,
                None => ("", rest.strip_prefix(' ')?),
            };
            let has = |label: &&str| of.split(',').any(|one| one == *label);
            // A time stamp or an example may follow the value.
            let value = value.split_whitespace().next()?.parse().ok()?;
            labels.iter().all(has).then_some((of, value))
        })
    }

    /// The sum of a name's samples; 0 where it says nothing.
    pub(super) fn sum(&self, name: &str, labels: &[&str]) -> f64 {
        self.samples(name, labels).map(|(_, value)| value).fold(0.0, |sum, value| sum + value)
    }

    /// All histograms of a name that have these labels, as one.
    pub(super) fn histogram(&self, name: &str, labels: &[&str]) -> Histogram {
        let name = format!("{name}_bucket");
        let mut all = Histogram::default();
        for (of, count) in self.samples(&name, labels) {
            let bound = of.split(',').find_map(|label| label.strip_prefix("le=\"")?.strip_suffix('"')?.parse().ok());
            if let Some(bound) = bound {
                all.add(bound, count);
            }
        }
        all
    }
}

/// How many times were at most so long.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct Histogram {
    /// Bounds in seconds, the last one infinite, and how many are not above them.
    buckets: Vec<(f64, f64)>,
}

impl Histogram {
    fn add(&mut self, bound: f64, count: f64) {
        let place = self.buckets.partition_point(|(other, _)| *other < bound);
        match self.buckets.get_mut(place) {
            Some((other, sum)) if other.total_cmp(&bound).is_eq() => *sum += count,
            _ => self.buckets.insert(place, (bound, count)),
        }
    }

    /// Those of both.
    pub(super) fn and(mut self, other: &Self) -> Self {
        other.buckets.iter().for_each(|(bound, count)| self.add(*bound, *count));
        self
    }

    /// What came after `before` was read.
    pub(super) fn since(mut self, before: &Self) -> Self {
        before.buckets.iter().for_each(|(bound, count)| self.add(*bound, -count));
        self
    }

    /// How many there are.
    pub(super) fn count(&self) -> f64 {
        self.buckets.last().map_or(0.0, |(_, count)| *count)
    }

    /// The time below which a share of them is, in seconds: between the bounds of its bucket in proportion, as Prometheus guesses it,
    /// and the highest bound for what is above it.
    ///
    /// # Errors
    /// When there is none.
    pub(super) fn quantile(&self, share: f64) -> Result<f64> {
        let rank = share * self.count();
        let place = self.buckets.iter().position(|(_, count)| *count >= rank && *count > 0.0);
        let place = place.context("nothing was counted")?;
        let (low, before) = place.checked_sub(1).map_or((0.0, 0.0), |before| self.buckets[before]);
        let (high, until) = self.buckets[place];
        if high.is_infinite() {
            return Ok(low);
        }
        Ok(low + (high - low) * ((rank - before) / (until - before)).clamp(0.0, 1.0))
    }

    /// The share of them that took at most so long, which has to be one of the bounds.
    ///
    /// # Errors
    /// When it is none of the bounds, or there is nothing.
    pub(super) fn within(&self, seconds: f64) -> Result<f64> {
        let bucket = self.buckets.iter().find(|(bound, _)| (bound - seconds).abs() < 1e-9);
        let (_, count) = bucket.with_context(|| format!("{seconds} s is no bound of {:?}", self.buckets))?;
        anyhow::ensure!(self.count() > 0.0, "nothing was counted");
        Ok(count / self.count())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TEXT: &str = "\
# TYPE reviews counter
reviews_total{result=\"kept\"} 7
reviews_total{result=\"failed\"} 2
leading 1
took_seconds_bucket{le=\"0.1\",name=\"a\"} 90
took_seconds_bucket{le=\"0.025\",name=\"a\"} 50
took_seconds_bucket{le=\"+Inf\",name=\"a\"} 100
took_seconds_bucket{le=\"0.025\",name=\"b\"} 1
";

    #[test]
    fn counters_are_summed_by_their_labels() {
        let figures = Figures::new(TEXT.to_owned());
        let sums = [
            figures.sum("reviews_total", &[]),
            figures.sum("reviews_total", &["result=\"kept\""]),
            figures.sum("leading", &[]),
            figures.sum("reviews", &[]),
        ];
        assert_eq!(sums.map(|sum| format!("{sum}")), ["9", "7", "1", "0"]);
    }

    #[test]
    fn a_histogram_says_which_share_took_how_long() {
        let histogram = Figures::new(TEXT.to_owned()).histogram("took_seconds", &["name=\"a\""]);
        assert_eq!(histogram.buckets, [(0.025, 50.0), (0.1, 90.0), (f64::INFINITY, 100.0)]);
        let close = |value: f64, expected: f64| assert!((value - expected).abs() < 1e-9, "{value}");
        close(histogram.quantile(0.5).unwrap(), 0.025);
        close(histogram.quantile(0.7).unwrap(), 0.0625);
        close(histogram.quantile(0.99).unwrap(), 0.1);
        close(histogram.within(0.1).unwrap(), 0.9);
        assert!(histogram.within(0.2).is_err());
        let twice = histogram.clone().and(&histogram);
        close(twice.count(), 200.0);
        assert_eq!(twice.since(&histogram), histogram);
        assert!(Histogram::default().quantile(0.5).is_err());
    }
}
