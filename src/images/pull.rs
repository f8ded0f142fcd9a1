//! PullImage: is the caller let in, is the image here, and if not, get it.

use std::{sync::Arc, time::Instant};

use model::{Class, Digest, ImageRef};

use crate::{
    Error, Result, account,
    assemble::{Root, assemble},
    early::Writing,
    fetch::Source,
    flight::{Flights, Part, Route},
    left_over,
    policy::Policy,
    progress::{Progress, Watch},
    registry::{Caller, Registry, Resolved, tokens::Tokens},
    shelf::{Names, Shelf},
};

/// What came of a pull.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Pulled {
    /// Id of the image.
    pub id: Digest,
    /// What the registry has under the reference: a manifest, or an index of several.
    pub root: Digest,
    /// The image was here, and nothing had to be fetched.
    pub was_here: bool,
}

/// See [`crate::Images::pull_watched`].
pub(crate) async fn pull(shelf: &Arc<Shelf>, flights: &Arc<Flights>, caller: Caller, watch: &Watch) -> Result<Pulled> {
    let (reference, credentials) = (&caller.reference.clone(), caller.credentials.clone());
    let source = Arc::new(Source::Registry(open(shelf, caller, shelf.tokens.clone()).await?));
    let Resolved { digest, media_type, bytes } = match &*source {
        Source::Registry(registry) => registry.resolve().await?,
        Source::Archive(_) => return Err(Error::NotFound { what: reference.to_string() }),
    };
    let names = Arc::new(names(reference, &digest));
    if let Some(id) = present(shelf, &names, &digest).await? {
        return Ok(Pulled { id, root: digest, was_here: true });
    }
    let root = Root { digest: digest.clone(), media_type, bytes };
    let begun = Instant::now();
    let work = |progress: Arc<Progress>| {
        let (shelf, source, root, seen) = (shelf.clone(), source.clone(), root.clone(), progress.clone());
        let made = async move {
            let writing = Arc::new(shelf.blocking(|shelf| Writing::begin(shelf)).await?);
            assemble(shelf, source, root, seen, writing).await
        };
        account::told(reference.to_string(), progress, made)
    };
    let route = Route { root: digest.clone(), name: reference.name().to_string(), credentials };
    let landed = match flights.join(&route, watch, work).await {
        // Somebody else's attempt ended, begun before ours.
        (Part::Joined, Err(error)) if error.is_of_registry() || error.class() == Class::Cancelled => {
            flights.join(&route, watch, work).await.1
        }
        (_, landed) => landed,
    };
    // What this one has left is for the next attempt; what others had left before it takes room on a disk that is
    // short.
    left_over::told(shelf.blocking(move |shelf| shelf.tidy(begun.elapsed())).await);
    let made = landed?;
    let image = shelf.blocking(move |shelf| shelf.commit(&made, &names)).await?;
    Ok(Pulled { id: image.id.clone(), root: digest, was_here: false })
}

/// Makes ready to ask the registry, if the node's policy has nothing against it.
pub(crate) async fn open(shelf: &Arc<Shelf>, caller: Caller, tokens: Arc<Tokens>) -> Result<Registry> {
    let open = move |shelf: &Arc<Shelf>| {
        if let Some(policy) = Policy::read(&shelf.config.policy)? {
            policy.check(&caller.reference)?;
        }
        Registry::open(&shelf.config, &caller, &tokens)
    };
    shelf.blocking(open).await
}

/// If what the reference leads to is here, gives it the name and answers its id: one round trip in all.
async fn present(shelf: &Arc<Shelf>, names: &Arc<Names>, root: &Digest) -> Result<Option<Digest>> {
    let Some(image) = shelf.index().by_root(root) else { return Ok(None) };
    let names = names.clone();
    let named = shelf.blocking(move |shelf| shelf.rename(&image.id, &names)).await?;
    Ok(named.map(|image| image.id.clone()))
}

fn names(reference: &ImageRef, digest: &Digest) -> Names {
    Names {
        tags: reference.tag().map(|_| reference.clone()).into_iter().collect(),
        digests: vec![reference.with_digest(digest.clone())],
        root: Some(digest.clone()),
    }
}
