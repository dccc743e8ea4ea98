//! Figures in Prometheus' text form (pure).

use std::fmt::{Display, Write};

use super::histogram::Histogram;

/// The media type of the form.
pub const MEDIA_TYPE: &str = "text/plain; version=0.0.4; charset=utf-8";

/// Somebody with figures of its own, which others show with theirs.
pub trait Source: Send + Sync {
    /// Writes them.
    fn write(&self, page: &mut Exposition);
}

/// What a family of figures is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Type {
    /// Only grows.
    Counter,
    /// Goes up and down.
    Gauge,
    /// Counts by upper bounds, with a sum.
    Histogram,
}

/// A page of figures, written family by family.
#[derive(Debug, Default)]
pub struct Exposition(String);

impl Exposition {
    /// Begins a family; its figures follow.
    pub fn family(&mut self, name: &str, kind: Type, help: &str) -> &mut Exposition {
        let kind = match kind {
            Type::Counter => "counter",
            Type::Gauge => "gauge",
            Type::Histogram => "histogram",
        };
        // Writing to a string does not fail.
        let _ = writeln!(self.0, "# HELP {name} {help}\n# TYPE {name} {kind}");
        self
    }

    /// One figure.
    pub fn sample(&mut self, name: &str, labels: &[(&str, &str)], value: impl Display) -> &mut Exposition {
        self.head(name, labels);
        let _ = writeln!(self.0, " {value}");
        self
    }

    /// One figure with the time at which it was read, in milliseconds since 1970.
    pub fn sample_at(
        &mut self,
        name: &str,
        labels: &[(&str, &str)],
        value: impl Display,
        millis: i64,
    ) -> &mut Exposition {
        self.head(name, labels);
        let _ = writeln!(self.0, " {value} {millis}");
        self
    }

    /// A family of a single figure without labels.
    pub fn single(&mut self, name: &str, kind: Type, help: &str, value: impl Display) -> &mut Exposition {
        self.family(name, kind, help).sample(name, &[], value)
    }

    /// The figures of a histogram with these labels.
    pub fn histogram(
        &mut self,
        name: &str,
        labels: &[(&str, &str)],
        histogram: &Histogram,
    ) -> &mut Exposition {
        let bucket = format!("{name}_bucket");
        let mut total = 0;
        for (bound, count) in histogram.buckets() {
            let all: Vec<_> = labels.iter().copied().chain([("le", &*bound)]).collect();
            self.sample(&bucket, &all, count);
            total = count;
        }
        self.sample(&format!("{name}_sum"), labels, histogram.sum());
        self.sample(&format!("{name}_count"), labels, total)
    }

    fn head(&mut self, name: &str, labels: &[(&str, &str)]) {
        self.0.push_str(name);
        for (at, (label, value)) in labels.iter().enumerate() {
            self.0.push(if at == 0 { '{' } else { ',' });
            let escaped = value.replace('\\', "\\\\").replace('"', "\\\"").replace('\n', "\\n");
            let _ = write!(self.0, "{label}=\"{escaped}\"");
        }
        if !labels.is_empty() {
            self.0.push('}');
        }
    }

    /// The page.
    pub fn into_text(self) -> String {
        self.0
    }
}

/// Nanoseconds as the seconds that figures are in.
pub fn seconds(nanos: u64) -> f64 {
    // What is lost beyond 2^53 nanoseconds (104 days) is less than a microsecond.
    #[allow(clippy::cast_precision_loss)]
    let nanos = nanos as f64;
    nanos / 1e9
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn figures_are_written_as_prometheus_reads_them() {
        let mut page = Exposition::default();
        page.single("a", Type::Gauge, "One.", 1.5);
        page.family("b_total", Type::Counter, "Some.")
            .sample("b_total", &[("x", "q\"\\\n"), ("y", "")], 7)
            .sample_at("b_total", &[], seconds(2_500_000_000), 1_700_000_000_000);
        assert_eq!(
            page.into_text(),
            "# HELP a One.\n# TYPE a gauge\na 1.5\n# HELP b_total Some.\n# TYPE b_total counter\n\
             b_total{x=\"q\\\"\\\\\\n\",y=\"\"} 7\nb_total 2.5 1700000000000\n"
        );
    }
}
