//! Whether pods are attached as they were made, for people who ask: CHECK of every plugin of every network.

use std::{fs::File, sync::Arc, time::Duration};

use model::{PodId, with_causes};
use tokio::{sync::Semaphore, task::JoinSet, time::timeout};

use crate::{Error, Joined, Living, Network, Result, attachment::Chosen, chain::Job, network::Inner, thread};

/// Pods at a time.
const AT_ONCE: usize = 8;
/// How long one pod's plugins may take before that is the answer. People wait for it.
const WITHIN: Duration = Duration::from_secs(5);
/// Pods of which is told: more than that have one cause.
const TOLD_MAX: usize = 100;

/// A pod that is not attached as it was made.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Unlike {
    /// The pod.
    pub pod: PodId,
    /// The network.
    pub network: String,
    /// What is not as it was.
    pub why: String,
}

impl Network {
    /// Looks at every network of these pods; gives what is not as it was made, by pods, of at most a hundred.
    pub async fn check(&self, pods: Vec<Living>) -> Vec<Unlike> {
        let turns = Arc::new(Semaphore::new(AT_ONCE));
        let mut looks = JoinSet::new();
        for living in pods {
            let (inner, turns) = (self.inner.clone(), turns.clone());
            looks.spawn(async move {
                let _turn = turns.acquire_owned().await.expect("the semaphore is never closed");
                check_pod(&inner, &living).await
            });
        }
        let mut all: Vec<Unlike> = Vec::new();
        while let Some(looked) = looks.join_next().await {
            // A look that panicked has told the log.
            all.extend(looked.unwrap_or_default());
        }
        all.sort_by(|one, other| (&one.pod, &one.network).cmp(&(&other.pod, &other.network)));
        let more = all.len().saturating_sub(TOLD_MAX);
        all.truncate(TOLD_MAX);
        if let Some(last) = all.last_mut().filter(|_| more > 0) {
            last.why += &format!("; and {more} more pods are not attached as they were made");
        }
        all
    }
}

async fn check_pod(inner: &Arc<Inner>, living: &Living) -> Vec<Unlike> {
    let Some(attachment) = &living.attachment else { return Vec::new() };
    let mut unlike = Vec::new();
    for joined in &attachment.networks {
        let chosen = living.choice.networks.iter().find(|chosen| chosen.interface == joined.interface);
        let Some(chosen) = chosen else { continue };
        let why = match timeout(WITHIN, check_network(inner, living, chosen, joined)).await {
            Ok(Ok(())) => continue,
            Ok(Err(error)) => with_causes(&error),
            Err(_) => Error::Late { within: WITHIN }.to_string(),
        };
        unlike.push(Unlike { pod: living.pod.clone(), network: joined.network.clone(), why });
    }
    unlike
}

async fn check_network(inner: &Arc<Inner>, living: &Living, chosen: &Chosen, joined: &Joined) -> Result<()> {
    let path = inner.netns.path(&living.pod);
    let opening = path.clone();
    let opened = move || {
        let failed = |source| Error::Netns { act: "open", path: opening.clone(), source };
        Ok(Arc::new(File::open(&opening).map_err(failed)?.into()))
    };
    let netns = thread::lent("open netns", opened).await?;
    let runtime = inner.runtime(&living.pod, &living.request, Some(&path), &chosen.interface)?;
    let job = Job::new(inner.chain_of(chosen)?, chosen, runtime, Some(netns), inner.tools.clone());
    job.check(&joined.result).await?;
    if chosen.maps_ports {
        let made = joined.result.clone();
        thread::lent("check host ports", move || job.check_ports(&made)).await?;
    }
    Ok(())
}
