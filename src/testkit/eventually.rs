//! Waiting for something to become true, with a deadline and a name for what never did.

use std::{
    env,
    fmt::Debug,
    future::Future,
    sync::LazyLock,
    time::{Duration, Instant},
};

/// Between two looks. Short: a test's time is mostly such waits.
const PAUSE: Duration = Duration::from_millis(5);

/// By how much deadlines are stretched: a machine under emulation is that many times slower. From
/// `CORACLE_TEST_PATIENCE`.
static PATIENCE: LazyLock<u32> = LazyLock::new(|| match env::var("CORACLE_TEST_PATIENCE") {
    Ok(text) => text.parse().expect("CORACLE_TEST_PATIENCE is a whole number"),
    Err(_) => 1,
});

/// A deadline as it holds on this machine: stretched like those of [`eventually`].
pub fn patience(deadline: Duration) -> Duration {
    deadline * *PATIENCE
}

/// Looks again and again until `look` returns `Ok`, and returns what it holds. After `deadline` it panics with `what`
/// and the last reason. The one place in the tests where a thread waits for time to pass.
#[track_caller]
pub fn eventually<T, E: Debug>(deadline: Duration, what: &str, mut look: impl FnMut() -> Result<T, E>) -> T {
    let deadline = patience(deadline);
    let end = Instant::now() + deadline;
    loop {
        match look() {
            Ok(value) => return value,
            Err(why) if Instant::now() >= end => panic!("after {deadline:?}, still not: {what}: {why:?}"),
            Err(_) => std::thread::park_timeout(PAUSE),
        }
    }
}

/// As [`eventually`], for a look that awaits.
pub async fn eventually_async<T, E: Debug, F: Future<Output = Result<T, E>>>(
    deadline: Duration,
    what: &str,
    mut look: impl FnMut() -> F,
) -> T {
    let deadline = patience(deadline);
    let end = Instant::now() + deadline;
    loop {
        match look().await {
            Ok(value) => return value,
            Err(why) if Instant::now() >= end => panic!("after {deadline:?}, still not: {what}: {why:?}"),
            Err(_) => tokio::time::sleep(PAUSE).await,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_comes_true_is_returned() {
        let mut looks = 0;
        let found = eventually(Duration::from_secs(5), "third look", || {
            looks += 1;
            if looks == 3 { Ok(looks) } else { Err(looks) }
        });
        assert_eq!(found, 3);
    }

    #[test]
    #[should_panic(expected = "still not: pigs fly")]
    fn what_never_comes_true_is_named() {
        eventually(Duration::from_millis(20), "pigs fly", || Err::<(), _>("gravity"));
    }
}
