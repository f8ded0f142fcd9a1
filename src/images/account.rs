//! Tells in the log, every few seconds, how far a pull is: an operator who waits for a large image wants to see that it
//! moves, and how fast.

use std::{future::Future, pin::pin, sync::Arc, time::Duration};

use tokio::time::{Instant, MissedTickBehavior, interval_at};

use crate::progress::{LayerProgress, Progress, Stage};

/// How often. A pull that takes less says nothing.
const EVERY: Duration = Duration::from_secs(5);

/// How far a pull is, in sum, of what was not here before.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Account {
    layers: usize,
    layers_done: usize,
    bytes: u64,
    bytes_done: u64,
}

impl Account {
    fn of(layers: &[LayerProgress]) -> Self {
        let missing: Vec<_> = layers.iter().filter(|layer| layer.stage != Stage::WasHere).collect();
        Self {
            layers: missing.len(),
            layers_done: missing.iter().filter(|layer| layer.stage == Stage::Done).count(),
            bytes: missing.iter().map(|layer| layer.bytes).sum(),
            bytes_done: missing.iter().map(|layer| layer.fetched).sum(),
        }
    }
}

/// Does the work, and tells of it meanwhile.
pub(crate) async fn told<T>(image: String, progress: Arc<Progress>, work: impl Future<Output = T>) -> T {
    accounted(&progress, work, |account| {
        let Account { layers, layers_done, bytes, bytes_done } = account;
        tracing::info!(image, layers_done, layers, bytes_done, bytes, "pulling");
    })
    .await
}

async fn accounted<T>(progress: &Progress, work: impl Future<Output = T>, mut tell: impl FnMut(Account)) -> T {
    let mut ticks = interval_at(Instant::now() + EVERY, EVERY);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut work = pin!(work);
    loop {
        tokio::select! {
            biased;
            done = &mut work => return done,
            _ = ticks.tick() => tell(Account::of(&progress.layers())),
        }
    }
}

#[cfg(test)]
mod tests {
    use model::Digest;

    use super::*;
    use crate::manifest::LayerPlan;

    #[tokio::test(start_paused = true)]
    async fn a_pull_is_told_of_every_few_seconds_and_only_what_was_missing() {
        let plan = |n: u8, bytes| LayerPlan {
            blob: Digest::from_sha256([n; 32]),
            bytes,
            media_type: String::new(),
            diff_id: Digest::from_sha256([n; 32]),
            chain_id: Digest::from_sha256([n; 32]),
        };
        let progress = Progress::default();
        let mut told = Vec::new();
        let work = async {
            tokio::time::sleep(EVERY + EVERY / 2).await;
            let meters = progress.plan(&[plan(1, 1000), plan(2, 30), plan(3, 50)]);
            meters[0].enter(Stage::WasHere);
            meters[1].enter(Stage::Done);
            meters[2].begin();
            meters[2].add(20);
            tokio::time::sleep(EVERY).await;
        };
        accounted(&progress, work, |account| told.push(account)).await;
        let nothing = Account { layers: 0, layers_done: 0, bytes: 0, bytes_done: 0 };
        assert_eq!(told, [nothing, Account { layers: 2, layers_done: 1, bytes: 80, bytes_done: 50 }]);
        accounted(&progress, async {}, |account| panic!("{account:?}")).await;
    }
}
