//! The time of day. Who writes a time into an object, or compares one with the present, reads it here.
//!
//! Durations (pauses, back-off, deadlines) are tokio's: `tokio::time::sleep` and `tokio::time::Instant`. tokio's clock can be
//! paused, and then leaps to the next timer whenever nothing is left to do; [`simulate`] ties the time of day to that clock,
//! so that hours of a simulated cluster pass in the time that its work takes.

use std::cell::Cell;

use jiff::{SignedDuration, Timestamp};
use tokio::time::Instant;

thread_local! {
    /// A simulation runs on one thread.
    static SIMULATED: Cell<Option<Simulated>> = const { Cell::new(None) };
}

/// A time of day that goes with tokio's clock.
#[derive(Clone, Copy)]
struct Simulated {
    /// The time of day when it began.
    then: Timestamp,
    /// When it began.
    at: Instant,
    /// What was read last.
    last: Timestamp,
}

/// Between two readings of a simulated clock that stands still: as on a real one, the later is later.
const TICK: SignedDuration = SignedDuration::from_micros(1);

impl Simulated {
    fn read(&mut self) -> Timestamp {
        let on = self.then.saturating_add(self.at.elapsed()).unwrap_or(Timestamp::MAX);
        self.last = on.max(self.last.saturating_add(TICK).unwrap_or(Timestamp::MAX));
        self.last
    }
}

/// What the clock on the wall shows.
pub fn now() -> Timestamp {
    let Some(mut simulated) = SIMULATED.get() else { return Timestamp::now() };
    let now = simulated.read();
    SIMULATED.set(Some(simulated));
    now
}

/// Has the time of day on this thread begin at `then`, and go on as tokio's clock does.
pub fn simulate(then: Timestamp) {
    SIMULATED.set(Some(Simulated { then, at: Instant::now(), last: then }));
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn the_time_of_day_goes_with_a_simulated_clock() {
        let real = now();
        assert!(real.duration_since(Timestamp::now()).abs() < SignedDuration::from_mins(1));
        let then: Timestamp = "2028-02-28T23:59:00Z".parse().unwrap();
        simulate(then);
        tokio::time::sleep(Duration::from_secs(120)).await;
        assert!(now() < now());
        assert_eq!(now().strftime("%F %R").to_string(), "2028-02-29 00:01");
        SIMULATED.set(None);
    }
}
