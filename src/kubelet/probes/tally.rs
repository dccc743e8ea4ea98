//! When answers in a row become a verdict (pure).

use k8s_openapi::api::core::v1::Probe;

use super::{Kind, Verdict};

/// Counts the answers of one probe.
#[derive(Debug, Clone, Copy)]
pub struct Tally {
    kind: Kind,
    successes: u32,
    failures: u32,
    /// The newest answer, and how often it came in a row.
    run: Option<(bool, u32)>,
    verdict: Verdict,
}

impl Tally {
    /// None counted yet; the verdict so far is an earlier one.
    pub fn new(kind: Kind, probe: &Probe, verdict: Verdict) -> Tally {
        let threshold = |asked: Option<i32>, usual: u32| {
            asked.and_then(|n| u32::try_from(n).ok()).unwrap_or(usual).max(1)
        };
        Tally {
            kind,
            successes: threshold(probe.success_threshold, 1),
            failures: threshold(probe.failure_threshold, 3),
            run: None,
            verdict,
        }
    }

    /// Counts an answer; below its threshold it changes nothing.
    pub fn count(&mut self, success: bool) -> Verdict {
        let length = match self.run {
            Some((before, length)) if before == success => length.saturating_add(1),
            _ => 1,
        };
        self.run = Some((success, length));
        match success {
            true if length >= self.successes => self.verdict = Verdict::Good,
            false if length >= self.failures => self.verdict = Verdict::Bad,
            _ => {}
        }
        self.verdict
    }

    /// Whether there is nothing more to find out of this run of the container.
    pub fn over(&self) -> bool {
        match self.kind {
            Kind::Startup => self.verdict != Verdict::Open,
            Kind::Liveness => self.verdict == Verdict::Bad,
            Kind::Readiness => false,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn answers_in_a_row_make_verdicts() {
        let (o, g, b) = (Verdict::Open, Verdict::Good, Verdict::Bad);
        for (kind, successes, failures, answers, expected, over) in [
            (Kind::Readiness, 1, 3, "+---+", vec![g, g, g, b, g], false),
            (Kind::Readiness, 2, 1, "+-++-", vec![o, b, b, g, b], false),
            (Kind::Liveness, 1, 2, "-+--", vec![o, g, g, b], true),
            (Kind::Liveness, 1, 1, "+", vec![g], false),
            (Kind::Startup, 1, 3, "--+", vec![o, o, g], true),
            (Kind::Startup, 1, 2, "--", vec![o, b], true),
        ] {
            let probe: Probe =
                serde_json::from_value(json!({"successThreshold": successes, "failureThreshold": failures}))
                    .unwrap();
            let mut tally = Tally::new(kind, &probe, Verdict::Open);
            let found: Vec<Verdict> = answers.chars().map(|answer| tally.count(answer == '+')).collect();
            assert_eq!((found, tally.over()), (expected, over), "{kind:?} {answers}");
        }
        // Without a word, three failures in a row count.
        let mut tally = Tally::new(Kind::Readiness, &Probe::default(), Verdict::Good);
        assert_eq!([false, false, false].map(|answer| tally.count(answer)), [g, g, b]);
    }
}
