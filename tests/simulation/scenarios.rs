//! Tables whose every case is a test of its own, on a cluster of its own: cases run side by side, and one that fails says
//! its name.

/// `scenarios!(run; name: case, …)` is a test of each name, which awaits `run(case)`.
macro_rules! scenarios {
    ($run:ident; $($name:ident: $case:expr),+ $(,)?) => {
        $(
            #[tokio::test]
            async fn $name() {
                $run($case).await;
            }
        )+
    };
}

pub(crate) use scenarios;
