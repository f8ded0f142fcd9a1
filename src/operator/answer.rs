//! From nouns to messages, and the telling of progress.

use std::{future::Future, time::Duration};

use api::coracle::v1;
use images::{Image, LayerProgress, Stage, Watch};
use tokio::time::{MissedTickBehavior, interval};

use crate::{door::Teller, error::Error};

/// How often progress is looked at: often enough for an eye.
const LOOK: Duration = Duration::from_millis(100);

/// Waits for an act that is watched, and mentions its progress whenever there is some.
pub(crate) async fn watched<T, N>(
    act: impl Future<Output = T>,
    watch: &Watch,
    teller: &Teller<N>,
    message: impl Fn(v1::PullProgress) -> N,
) -> T {
    let mut looks = interval(LOOK);
    looks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut told = Vec::new();
    let mut look = || {
        let layers = watch.layers();
        if layers != told {
            teller.mention(message(progress(&layers)));
            told = layers;
        }
    };
    tokio::pin!(act);
    loop {
        tokio::select! {
            biased;
            done = &mut act => {
                look();
                return done;
            }
            _ = looks.tick() => look(),
        }
    }
}

/// An image as a message; `names` decides which of its names are told.
pub(crate) fn image(image: &Image, names: impl Fn(&str) -> bool) -> v1::Image {
    let told = |all: &[String]| all.iter().filter(|name| names(name)).cloned().collect();
    v1::Image {
        id: image.id.to_string(),
        tags: told(&image.tags),
        digests: told(&image.digests),
        size_bytes: image.size,
        created: image.config.created().clone().unwrap_or_default(),
        pinned: image.pinned,
    }
}

fn progress(layers: &[LayerProgress]) -> v1::PullProgress {
    let layer = |layer: &LayerProgress| {
        let stage = match layer.stage {
            Stage::Waiting => v1::LayerStage::Waiting,
            Stage::Fetching => v1::LayerStage::Fetching,
            Stage::Fetched => v1::LayerStage::Fetched,
            Stage::Unpacking => v1::LayerStage::Unpacking,
            Stage::Done => v1::LayerStage::Done,
            Stage::WasHere => v1::LayerStage::WasHere,
        };
        v1::LayerProgress {
            digest: layer.blob.to_string(),
            total_bytes: layer.bytes,
            done_bytes: layer.fetched,
            stage: stage.into(),
        }
    };
    v1::PullProgress { layers: layers.iter().map(layer).collect() }
}

/// A field that has to be there.
pub(crate) fn given(field: &'static str, value: String) -> Result<String, Error> {
    if value.is_empty() {
        return Err(Error::Invalid { field, want: "an image: a name, an id or the beginning of one" });
    }
    Ok(value)
}
