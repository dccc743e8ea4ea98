//! Many calls of the same kind: at the same time, but carefully at first.

use crate::api::status::Status;

/// What came of the calls.
#[derive(Debug)]
pub struct Outcome<T> {
    /// What those answered that went well.
    pub done: Vec<T>,
    /// Why the first of the others did not.
    pub error: Option<Status>,
}

/// Makes `count` calls, one at first, then twice as many at a time as before. After calls that failed none is begun:
/// what one cannot do, a hundred cannot.
pub async fn slow_start<T, F>(count: usize, call: impl Fn(usize) -> F) -> Outcome<T>
where
    F: Future<Output = Result<T, Status>>,
{
    let mut outcome = Outcome { done: Vec::with_capacity(count), error: None };
    let (mut begun, mut size) = (0, 1);
    while begun < count && outcome.error.is_none() {
        let end = count.min(begun + size);
        for answer in futures::future::join_all((begun..end).map(&call)).await {
            match answer {
                Ok(done) => outcome.done.push(done),
                Err(status) => outcome.error = outcome.error.or(Some(status)),
            }
        }
        begun = end;
        size *= 2;
    }
    outcome
}

/// Makes all the calls at the same time.
pub async fn all<T>(calls: impl IntoIterator<Item = impl Future<Output = Result<T, Status>>>) -> Outcome<T> {
    let mut outcome = Outcome { done: Vec::new(), error: None };
    for answer in futures::future::join_all(calls).await {
        match answer {
            Ok(done) => outcome.done.push(done),
            Err(status) => outcome.error = outcome.error.or(Some(status)),
        }
    }
    outcome
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;

    use super::*;

    #[tokio::test]
    async fn batches_grow_until_something_fails() {
        for (count, fails_at, calls, done) in
            [(0, 99, 0, 0), (1, 99, 1, 1), (100, 99, 100, 99), (10, 0, 1, 0), (10, 2, 3, 2), (10, 4, 7, 6)]
        {
            let begun = Cell::new(0);
            let outcome = slow_start(count, |n| {
                begun.set(begun.get() + 1);
                async move { if n == fails_at { Err(Status::internal("no")) } else { Ok(n) } }
            })
            .await;
            assert_eq!((begun.get(), outcome.done.len()), (calls, done), "{count} of which {fails_at} fails");
            assert_eq!(outcome.error.is_some(), done < calls);
        }
    }
}
