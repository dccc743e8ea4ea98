//! How much each client asks of an ingress: requests in a time, and at a time.
//!
//! Rates are nginx' leaky buckets: a client's requests run out at the rate that it may have, and one that would let more
//! than the burst stand is refused.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::time::Instant;

use super::annotations::Limits;

/// How many clients' buckets are kept. Empty ones are not missed; when all are full, all begin anew.
const BUCKETS: usize = 65_536;
/// A request, in the unit in which buckets are filled.
const REQUEST: u64 = 1_000;

/// An ingress and a client.
type Key = (String, IpAddr);

/// What stands in a bucket.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Bucket {
    excess: u64,
    at: Instant,
}

impl Bucket {
    /// The bucket with one more request at a rate of so many in a minute; none when it would hold more than the burst.
    fn with_one(known: Option<Bucket>, per_minute: u64, burst: u64, now: Instant) -> Option<Bucket> {
        let excess = match known {
            // The first one leaves no trace.
            None => 0,
            Some(bucket) => {
                let run_out =
                    now.duration_since(bucket.at).as_millis().saturating_mul(per_minute.into()) / 60;
                (bucket.excess + REQUEST).saturating_sub(u64::try_from(run_out).unwrap_or(u64::MAX))
            }
        };
        (excess <= burst * REQUEST).then_some(Bucket { excess, at: now })
    }
}

#[derive(Debug, Default)]
struct State {
    /// Of each client by ingress and rate (in a minute).
    buckets: HashMap<(Key, u64), Bucket>,
    /// How many requests are under way.
    seats: HashMap<Key, u32>,
}

/// What the clients have asked so far.
#[derive(Debug, Clone, Default)]
pub struct Limiter(Arc<Mutex<State>>);

/// A request among those that its client has under way.
#[derive(Debug)]
pub struct Seat {
    limiter: Limiter,
    key: Key,
}

/// The client has asked too much.
#[derive(Debug, PartialEq, Eq)]
pub struct Refused;

impl Limiter {
    fn state(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Counts a request for an ingress; the seat is to be kept as long as it is under way.
    ///
    /// # Errors
    /// When it is one too many, which then is not counted.
    pub fn admit(
        &self,
        ingress: &str,
        limits: &Limits,
        client: IpAddr,
        now: Instant,
    ) -> Result<Option<Seat>, Refused> {
        let rates = [limits.per_second.map(|rate| (rate, 60)), limits.per_minute.map(|rate| (rate, 1))];
        let rates = rates.into_iter().flatten();
        let is_free = limits.exempt.iter().any(|range| range.contains(client));
        if is_free || (limits.connections.is_none() && rates.clone().next().is_none()) {
            return Ok(None);
        }
        let key = (ingress.to_owned(), client);
        let mut state = self.state();
        let taken = state.seats.get(&key).copied().unwrap_or_default();
        if limits.connections.is_some_and(|most| taken >= most) {
            return Err(Refused);
        }
        let mut filled = Vec::new();
        for (rate, minutes) in rates {
            let (per_minute, burst) = (u64::from(rate) * minutes, u64::from(rate) * u64::from(limits.burst));
            let place = (key.clone(), per_minute);
            let known = state.buckets.get(&place).copied();
            let bucket = Bucket::with_one(known, per_minute, burst, now).ok_or(Refused)?;
            filled.push((place, bucket));
        }
        state.keep_small(now);
        state.buckets.extend(filled);
        if limits.connections.is_none() {
            return Ok(None);
        }
        state.seats.insert(key.clone(), taken + 1);
        Ok(Some(Seat { limiter: self.clone(), key }))
    }
}

impl State {
    fn keep_small(&mut self, now: Instant) {
        if self.buckets.len() < BUCKETS {
            return;
        }
        // What would be empty with one request less has run out.
        self.buckets.retain(|(_, per_minute), bucket| {
            Bucket::with_one(Some(*bucket), *per_minute, u64::MAX / REQUEST, now)
                .is_some_and(|bucket| bucket.excess > REQUEST)
        });
        if self.buckets.len() >= BUCKETS {
            self.buckets.clear();
        }
    }
}

impl Drop for Seat {
    fn drop(&mut self) {
        let mut state = self.limiter.state();
        if let Some(taken) = state.seats.get_mut(&self.key) {
            *taken -= 1;
            if *taken == 0 {
                state.seats.remove(&self.key);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    const CLIENT: IpAddr = IpAddr::V4(std::net::Ipv4Addr::new(192, 0, 2, 1));

    #[test]
    fn a_burst_passes_and_then_the_rate() {
        let limits = Limits { per_second: Some(2), burst: 3, ..Limits::default() };
        let (limiter, begin) = (Limiter::default(), Instant::now());
        let passed = |at: u64| {
            let now = begin + Duration::from_millis(at);
            (0..20).filter(|_| limiter.admit("d/web", &limits, CLIENT, now).is_ok()).count()
        };
        // One, and the burst of six.
        assert_eq!(passed(0), 7);
        assert_eq!(passed(499), 0);
        assert_eq!(passed(1_000), 2);
        assert_eq!(passed(60_000), 7, "all has run out long ago");
        assert!(limiter.admit("d/other", &limits, CLIENT, begin).is_ok(), "each ingress counts by itself");
        let other = "192.0.2.2".parse().unwrap();
        assert!(limiter.admit("d/web", &limits, other, begin).is_ok(), "and so does each client");
    }

    #[test]
    fn the_strictest_limit_holds_and_what_is_refused_does_not_count() {
        let limits = Limits { per_second: Some(5), per_minute: Some(2), burst: 1, ..Limits::default() };
        let (limiter, now) = (Limiter::default(), Instant::now());
        let passed = (0..20).filter(|_| limiter.admit("d/web", &limits, CLIENT, now).is_ok()).count();
        assert_eq!(passed, 3);
        let later = now + Duration::from_secs(30);
        assert!(limiter.admit("d/web", &limits, CLIENT, later).is_ok());
        let exempt = vec![super::super::annotations::Range::parse("192.0.2.0/24").unwrap()];
        let limits = Limits { exempt, ..limits };
        assert!((0..20).all(|_| limiter.admit("d/web", &limits, CLIENT, now).is_ok()));
    }

    #[test]
    fn requests_at_a_time_are_counted_until_they_end() {
        let limits = Limits { connections: Some(2), ..Limits::default() };
        let (limiter, now) = (Limiter::default(), Instant::now());
        let take = || limiter.admit("d/web", &limits, CLIENT, now);
        let (first, _second) = (take().unwrap().unwrap(), take().unwrap().unwrap());
        assert_eq!(take().unwrap_err(), Refused);
        drop(first);
        assert!(take().is_ok());
        assert_eq!(limiter.state().seats.len(), 1);
    }

    #[test]
    fn buckets_do_not_grow_without_end() {
        let limits = Limits { per_second: Some(1), burst: 1, ..Limits::default() };
        let (limiter, now) = (Limiter::default(), Instant::now());
        for n in 0..BUCKETS as u32 + 10 {
            assert!(limiter.admit("d/web", &limits, IpAddr::from(n.to_be_bytes()), now).is_ok());
        }
        assert!(limiter.state().buckets.len() <= BUCKETS);
    }
}
