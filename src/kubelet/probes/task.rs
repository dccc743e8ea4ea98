//! One probe of one run of a container, as long as that runs.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{Notify, watch};
use tokio::time::{Instant, MissedTickBehavior};

use super::{Run, Verdict};
use crate::client::events::EventType;
use crate::kubelet::context::Context;
use crate::kubelet::handlers::{self, Answer, Target};
use crate::runtime::Runtime;

/// While a container is younger than this, failures do not count and the probe is soon repeated: kubelet itself takes
/// about so long to notice a new container and to ask it for the first time.
const YOUTH: Duration = Duration::from_secs(1);
/// The first pause before such a repetition; each is twice as long as the one before.
const SOON: Duration = Duration::from_millis(50);
/// How often a probe that could not be made is tried (kubelet's `maxProbeRetries`).
const TRIES: u32 = 3;

fn seconds(asked: Option<i32>, usual: u64) -> Duration {
    Duration::from_secs(asked.and_then(|n| u64::try_from(n).ok()).unwrap_or(usual))
}

impl Run {
    /// Asks again and again, and tells new verdicts; the container is `age` old.
    pub(super) async fn on<R: Runtime>(
        mut self,
        context: Arc<Context<R>>,
        age: Duration,
        verdict: watch::Sender<Verdict>,
        wake: Arc<Notify>,
    ) {
        let grown = Instant::now() + YOUTH.saturating_sub(age);
        tokio::time::sleep(seconds(self.probe.initial_delay_seconds, 0).saturating_sub(age)).await;
        let mut ticks =
            tokio::time::interval(seconds(self.probe.period_seconds, 10).max(Duration::from_secs(1)));
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut pause = SOON;
        loop {
            ticks.tick().await;
            let mut answer = self.ask(&context).await;
            while Instant::now() < grown && matches!(answer, Answer::Failure(_) | Answer::Unknown(_)) {
                tokio::time::sleep(pause).await;
                pause *= 2;
                answer = self.ask(&context).await;
            }
            self.tell(&context, &answer);
            let found = match answer {
                Answer::Success | Answer::Warning(_) => self.tally.count(true),
                Answer::Failure(_) => self.tally.count(false),
                Answer::Unknown(_) => continue,
                Answer::Gone => return,
            };
            if *verdict.borrow() != found {
                verdict.send_replace(found);
                wake.notify_one();
            }
            if self.tally.over() {
                return;
            }
        }
    }

    async fn ask<R: Runtime>(&self, context: &Context<R>) -> Answer {
        let Run { pod, container, id, address, probe, .. } = self;
        let target = Target { pod, container, id, address };
        let mut answer = handlers::probe(context, &target, probe).await;
        for _ in 1..TRIES {
            if !matches!(answer, Answer::Unknown(_)) {
                break;
            }
            answer = handlers::probe(context, &target, probe).await;
        }
        answer
    }

    fn tell<R>(&self, context: &Context<R>, answer: &Answer) {
        let kind = self.kind.name();
        let (reason, message) = match answer {
            Answer::Success | Answer::Gone => return,
            Answer::Warning(text) => ("ProbeWarning", format!("{kind} probe warning: {text}")),
            Answer::Failure(text) => ("Unhealthy", format!("{kind} probe failed: {text}")),
            Answer::Unknown(text) => {
                ("Unhealthy", format!("{kind} probe errored and resulted in unknown state: {text}"))
            }
        };
        context.event(&self.pod, Some(&self.container.name), EventType::Warning, reason, &message);
    }
}
