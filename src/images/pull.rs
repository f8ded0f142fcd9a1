//! PullImage: is the caller let in, is the image here, and if not, get it.

use std::sync::Arc;

use model::{Class, Digest, ImageRef};

use crate::{
    Error, Result,
    assemble::{Root, Source, assemble},
    flight::{Flights, Part},
    registry::{Caller, Registry, Resolved},
    shelf::{Names, Shelf},
};

/// See [`crate::Images::pull`].
pub(crate) async fn pull(shelf: &Arc<Shelf>, flights: &Arc<Flights>, caller: Caller) -> Result<Digest> {
    let reference = &caller.reference.clone();
    let source = Arc::new(Source::Registry(open(shelf, caller).await?));
    let Resolved { digest, media_type, bytes } = match &*source {
        Source::Registry(registry) => registry.resolve().await?,
        Source::Archive => return Err(Error::NotFound { what: reference.to_string() }),
    };
    let names = Arc::new(names(reference, &digest));
    if let Some(id) = present(shelf, &names, &digest).await? {
        return Ok(id);
    }
    let root = Root { digest: digest.clone(), media_type, bytes };
    let work = || assemble(shelf.clone(), source.clone(), root.clone());
    let made = match flights.join(&digest, work).await {
        // Somebody else's permission or connection ended; ours may be better.
        (Part::Joined, Err(error))
            if matches!(error.class(), Class::Denied | Class::Unavailable | Class::NotFound | Class::Cancelled) =>
        {
            flights.join(&digest, work).await.1?
        }
        (_, made) => made?,
    };
    let image = shelf.blocking(move |shelf| shelf.commit(&made, &names)).await?;
    Ok(image.id.clone())
}

pub(crate) async fn open(shelf: &Arc<Shelf>, caller: Caller) -> Result<Registry> {
    shelf.blocking(move |shelf| Registry::open(&shelf.config, &caller)).await
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
